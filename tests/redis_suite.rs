//! What Redis's own test suite found when it was run through the proxy: each is a test of that suite in short.
//!
//! They are about what an administrator does to the server, and what that does to everybody else on shared connections.

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::resp::shown;
use common::{Client, Redis, eventually, proxy};

/// Long enough for what was sent to be on its way.
const MOMENT: Duration = Duration::from_millis(100);

/// Commands that the server holds up.
fn blocked(redis: &Redis) -> String {
    let text = redis.client().text(&["INFO", "clients"]);
    text.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap_or_default().to_owned()
}

#[track_caller]
fn eventually_blocked(redis: &Redis, count: &str) {
    eventually("they are held up", || blocked(redis) == count);
}

/// Everybody is on one lane.
fn one_lane(redis: &Redis) -> common::Proxy {
    proxy().upstream(redis).set("server.workers", "1").set("upstream.lanes", "1").start()
}

#[test]
fn paused_writers_hold_up_themselves_alone() {
    let redis = Redis::start();
    let proxy = one_lane(&redis);
    let (mut admin, mut publisher) = (proxy.client(), proxy.client());
    let mut writers: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    admin.expect(b"+OK\r\n", &["CLIENT", "PAUSE", "60000", "WRITE"]);
    writers[0].send(&["SET", "key", "value"]);
    admin.expect(b"$-1\r\n", &["GET", "key"]);
    writers[1].send(&["PFCOUNT", "counted"]);
    writers[2].send(&["EVAL", "return redis.call('set', KEYS[1], '1')", "1", "scripted"]);
    publisher.send(&["PUBLISH", "channel", "message"]);
    eventually_blocked(&redis, "4");
    // At once, whatever is held up: it has to be asked for behind none of them.
    assert!(admin.text(&["INFO", "server"]).contains("redis_version"));
    admin.expect(b"$-1\r\n", &["GET", "another"]);
    admin.expect(b"$-1\r\n", &["GET", "key"]);
    admin.expect(b"+OK\r\n", &["CLIENT", "UNPAUSE"]);
    let replies: Vec<String> = writers.iter_mut().map(|writer| shown(&writer.recv())).collect();
    assert_eq!(replies, [b"+OK\r\n", &b":0\r\n"[..], b"+OK\r\n"].map(shown));
    assert_eq!(publisher.recv(), b":0\r\n");
    admin.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
    assert_eq!(blocked(&redis), "0");
}

#[test]
fn a_pause_begun_in_a_transaction_singles_writers_out_as_any_other() {
    let redis = Redis::start();
    let proxy = one_lane(&redis);
    let (mut admin, mut writer) = (proxy.client(), proxy.client());
    admin.expect(b"+OK\r\n", &["MULTI"]);
    admin.expect(b"+QUEUED\r\n", &["CLIENT", "PAUSE", "60000", "WRITE"]);
    admin.expect(b"+QUEUED\r\n", &["SET", "key", "in the transaction"]);
    admin.expect(b"*2\r\n+OK\r\n+OK\r\n", &["EXEC"]);
    writer.send(&["SET", "key", "later"]);
    eventually_blocked(&redis, "1");
    admin.expect(b"$18\r\nin the transaction\r\n", &["GET", "key"]);
    admin.expect(b"+OK\r\n", &["MULTI"]);
    admin.expect(b"+QUEUED\r\n", &["CLIENT", "UNPAUSE"]);
    admin.expect(b"*1\r\n+OK\r\n", &["EXEC"]);
    assert_eq!(writer.recv(), b"+OK\r\n");
    admin.expect(b"$5\r\nlater\r\n", &["GET", "key"]);
}

#[test]
fn a_pause_is_waited_for_longer_than_a_command_may_take() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.command_timeout", "200ms").start();
    let (mut admin, mut writer) = (proxy.client(), proxy.client());
    for mode in ["WRITE", "ALL"] {
        admin.expect(b"+OK\r\n", &["CLIENT", "PAUSE", "1000", mode]);
        writer.expect(b"+OK\r\n", &["SET", "key", mode]);
    }
}

#[test]
fn a_busy_server_is_no_less_busy_without_a_cache() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("cache.mode", "off").start();
    let (mut runner, mut other) = (proxy.client(), proxy.client());
    other.expect(b"+OK\r\n", &["CONFIG", "SET", "busy-reply-threshold", "10"]);
    runner.send(&["EVAL", "while true do end", "0"]);
    sleep(MOMENT);
    eventually("PING says so", || other.cmd(&["PING"]).starts_with(b"-BUSY"));
    other.expect(b"+OK\r\n", &["SCRIPT", "KILL"]);
    assert!(shown(&runner.recv()).contains("killed by user"));
    eventually("it has ended", || other.cmd(&["PING"]) == b"+PONG\r\n");
}

#[test]
fn client_list_shows_the_request_that_asks_for_it() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut client = proxy.client();
    assert!(client.text(&["CLIENT", "INFO"]).contains(" qbuf=26 "));
    assert!(client.text(&["CLIENT", "LIST"]).contains(" qbuf=26 "));
}

#[test]
fn killing_the_connections_of_a_user_that_does_not_exist_is_an_error() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let (mut killer, mut victim) = (proxy.client(), proxy.client());
    killer.expect(b"-ERR No such user 'nobody'\r\n", &["CLIENT", "KILL", "USER", "nobody"]);
    killer.expect(b"-ERR syntax error\r\n", &["CLIENT", "KILL", "USER", "default", "SKIPME", "perhaps"]);
    victim.expect(b"+PONG\r\n", &["PING"]);
    killer.expect(b"+OK\r\n", &["ACL", "SETUSER", "somebody", "on", "nopass", "+@all"]);
    killer.expect(b":0\r\n", &["CLIENT", "KILL", "USER", "somebody"]);
    victim.expect(b"+OK\r\n", &["AUTH", "somebody", "any"]);
    killer.expect(b":1\r\n", &["CLIENT", "KILL", "TYPE", "normal", "USER", "somebody"]);
    assert!(victim.recv_to_end().is_empty());
}

#[test]
fn invalidations_are_redirected_to_a_client_that_has_not_subscribed_yet() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    for protocol in [3, 2] {
        let (mut tracker, mut target) = (proxy.client(), proxy.client());
        target.hello(protocol);
        let id = target.text(&["CLIENT", "ID"]);
        tracker.expect(b"+OK\r\n", &["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
        // It goes on as before.
        target.expect(b"+OK\r\n", &["SET", "key", "value"]);
        tracker.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
        let push: &[u8] = if protocol == 3 {
            target.send(&["CLIENT", "REPLY", "OFF"]);
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"
        } else {
            assert!(target.cmd(&["SUBSCRIBE", "__redis__:invalidate"]).ends_with(b":1\r\n"));
            b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$3\r\nkey\r\n"
        };
        proxy.client().expect(b"+OK\r\n", &["SET", "key", "changed"]);
        assert_eq!(shown(&target.recv()), shown(push));
    }
    let mut tracker = proxy.client();
    assert!(
        tracker.cmd(&["CLIENT", "TRACKING", "ON", "REDIRECT", "999999"]).starts_with(b"-ERR The client ID")
    );
}

#[test]
fn client_list_tells_who_is_blocked_and_who_is_in_a_transaction() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let (mut asker, mut popper, mut queuer) = (proxy.client(), proxy.client(), proxy.client());
    let [popping, queueing] = [&mut popper, &mut queuer]
        .map(|client| client.text(&["CLIENT", "ID"]).trim_start_matches(':').to_owned());
    let mut is_shown = |id: &str, what: &str| {
        eventually(what, || asker.text(&["CLIENT", "LIST", "ID", id]).contains(what));
    };
    is_shown(&popping, " flags=N ");
    popper.send(&["BLPOP", "list", "0"]);
    is_shown(&popping, " flags=b ");
    queuer.expect(b"+OK\r\n", &["MULTI"]);
    queuer.expect(b"+QUEUED\r\n", &["RPUSH", "list", "element"]);
    is_shown(&queueing, " flags=x ");
    is_shown(&queueing, " multi=1 ");
    queuer.expect(b"*1\r\n:1\r\n", &["EXEC"]);
    popper.recv();
    assert!(queuer.cmd(&["MULTI", "surplus"]).starts_with(b"-ERR"));
    is_shown(&popping, " flags=N ");
    is_shown(&queueing, " flags=N ");
    is_shown(&queueing, " multi=-1 ");
}
