//! Real client libraries run a workload unchanged, whether they are connected to Redis or to the proxy.
//!
//! Clients do more than send commands: they greet with HELLO, AUTH, SELECT and CLIENT SETINFO, keep pools, load
//! scripts when EVALSHA says NOSCRIPT, take pushes apart from replies, reconnect, and make error classes of an
//! error's first words. Here they do what programs do with them. What each saw of Redis is compared with what it saw
//! through the proxy, run twice on the same servers, so that the second time meets what the first left in the cache.
//!
//! redis-py and redis-rs run whenever tests do. The rest is ignored unless `scripts/test-clients` asks for it, since it
//! installs a good deal first.

mod common;
#[path = "clients/ecosystem.rs"]
mod ecosystem;
#[path = "clients/fred.rs"]
mod fred;
#[path = "clients/go.rs"]
mod go;
#[path = "clients/node.rs"]
mod node;
#[path = "clients/pair.rs"]
mod pair;
#[path = "clients/perl.rs"]
mod perl;
#[path = "clients/php.rs"]
mod php;
#[path = "clients/python.rs"]
mod python;
#[path = "clients/redis_py.rs"]
mod redis_py;
#[path = "clients/redis_rs.rs"]
mod redis_rs;
#[path = "clients/redis_rs_blocking.rs"]
mod redis_rs_blocking;
#[path = "clients/redis_rs_tokio.rs"]
mod redis_rs_tokio;
#[path = "clients/ruby.rs"]
mod ruby;
#[path = "clients/transcript.rs"]
mod transcript;

use common::resp::{integer, shown};
use common::{Redis, proxy};
use pair::{Login, compare};

/// With fewer hits than this, the workload of redis-rs has not met the cache. The blocking one makes about 2,300, the
/// others 5,400.
const REDIS_RS_HITS_MIN: u64 = 1_500;

#[test]
fn redis_rs_blocking_in_resp2() {
    compare(Login::Nobody, REDIS_RS_HITS_MIN, |place| redis_rs_blocking::run(place, "resp2"));
}

#[test]
fn redis_rs_blocking_in_resp3_with_a_password() {
    compare(Login::User, REDIS_RS_HITS_MIN, |place| redis_rs_blocking::run(place, "resp3"));
}

#[test]
fn redis_rs_multiplexed_in_resp2_with_a_password() {
    compare(Login::User, REDIS_RS_HITS_MIN, |place| redis_rs_tokio::run_multiplexed(place, "resp2"));
}

#[test]
fn redis_rs_multiplexed_in_resp3() {
    compare(Login::Nobody, REDIS_RS_HITS_MIN, |place| redis_rs_tokio::run_multiplexed(place, "resp3"));
}

#[test]
fn redis_rs_manager_in_resp2() {
    compare(Login::Nobody, REDIS_RS_HITS_MIN, |place| redis_rs_tokio::run_manager(place, "resp2"));
}

#[test]
fn redis_rs_manager_in_resp3_with_a_password() {
    compare(Login::User, REDIS_RS_HITS_MIN, |place| redis_rs_tokio::run_manager(place, "resp3"));
}

/// Its worker gets to it later, which nobody may see: a second CLIENT KILL would count it again.
#[test]
fn a_killed_client_is_gone_at_once() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut killer = proxy.client();
    for filter in ["ID", "ADDR"] {
        let mut victim = proxy.client();
        let id = integer(&victim.cmd(&["CLIENT", "ID"])).to_string();
        let listed = killer.text(&["CLIENT", "LIST", "ID", &id]);
        let address = listed.split(' ').find_map(|field| field.strip_prefix("addr=")).expect("an address");
        let named = if filter == "ID" { id.as_str() } else { address };
        let replies = killer.pipeline(&[
            &["CLIENT", "KILL", filter, named],
            &["CLIENT", "KILL", filter, named],
            &["CLIENT", "LIST", "ID", &id],
            &["CLIENT", "KILL", address],
        ]);
        let replies: Vec<String> = replies.iter().map(|reply| shown(reply)).collect();
        let none = r"$0\r\n\r\n";
        assert_eq!(replies, [r":1\r\n", r":0\r\n", none, r"-ERR No such client\r\n"], "{filter}");
        assert_eq!(victim.recv_to_end(), b"");
    }
}

/// Pools look at a connection before they hand it out, and dial another in place of one that was closed: with Redis, a
/// killed one is by then. The victims are spread over the workers, and some wait or listen.
#[test]
fn whoever_is_told_of_a_kill_finds_the_connection_closed() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("server.workers", "2").start();
    let mut killer = proxy.client();
    for round in 0..100 {
        let mut victims = [proxy.client(), proxy.client(), proxy.client()];
        let ids = victims.each_mut().map(|victim| integer(&victim.cmd(&["CLIENT", "ID"])).to_string());
        victims[1].cmd(&["SUBSCRIBE", "news"]);
        victims[2].send(&["BLPOP", "nothing", "0"]);
        for (victim, id) in victims.iter().zip(&ids) {
            killer.expect(b":1\r\n", &["CLIENT", "KILL", "ID", id]);
            assert!(victim.is_closed(), "round {round}");
        }
    }
}

#[test]
fn client_list_shows_who_is_not_evicted() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    for mut client in [redis.client(), proxy.client()] {
        for (value, flags) in [("ON", " flags=e "), ("OFF", " flags=N ")] {
            client.expect(b"+OK\r\n", &["CLIENT", "NO-EVICT", value]);
            for request in [&["CLIENT", "INFO"][..], &["CLIENT", "LIST", "TYPE", "normal"]] {
                let listed = client.text(request);
                assert!(listed.contains(flags), "{value}: {listed}");
            }
        }
    }
}
