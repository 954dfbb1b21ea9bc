//! Waits, holds and hand-overs that once went wrong: nobody waits for ever, nobody inherits another's state.
//!
//! Most of these need two clients and an upstream that stops in the middle, which no ordinary use brings about
//! often enough to be noticed.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use common::resp::encode;
use common::{Client, Redis, Relay, eventually, proxy};

/// Long enough for what was sent to be read and dispatched.
const MOMENT: Duration = Duration::from_millis(150);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn what_was_left_of_a_lost_transaction_is_not_executed() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let proxy = proxy().upstream_addr(relay.addr()).set("server.max_pipeline", "3").start();
    proxy.wait_live();
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["MULTI"]);
    relay.others().hold_up(true);
    let queue: Vec<u8> = (0..8).flat_map(|n| encode(&["SET", &format!("left{n}"), "x"])).collect();
    client.send_raw(&queue);
    sleep(MOMENT);
    let list = redis.client().text(&["CLIENT", "LIST"]);
    let line =
        list.lines().find(|line| line.contains("name=nearhit-transaction")).expect("it has a connection");
    let id = line.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).expect("it has a number");
    redis.client().expect(b":1\r\n", &["CLIENT", "KILL", "ID", id]);
    sleep(MOMENT);
    relay.others().hold_up(false);
    client.recv_to_end();
    redis.client().expect(b"*0\r\n", &["KEYS", "left*"]);
}

#[test]
fn a_write_behind_a_refused_multi_drops_its_key_like_any_other() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let proxy = proxy().upstream_addr(relay.addr()).set("cache.max_staleness", "10s").start();
    proxy.wait_live();
    let (mut writer, mut reader) = (proxy.client(), proxy.client());
    reader.expect(b"+OK\r\n", &["SET", "key", "old"]);
    proxy.settle();
    reader.expect(b"$3\r\nold\r\n", &["GET", "key"]);
    relay.link().hold_down(true);
    assert!(writer.cmd(&["MULTI", "surplus"]).starts_with(b"-ERR"));
    writer.expect(b"+OK\r\n", &["SET", "key", "new"]);
    reader.expect(b"$3\r\nnew\r\n", &["GET", "key"]);
}

#[test]
fn nobody_is_given_a_connection_that_is_still_in_a_strangers_transaction() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.max_connections", "1").start();
    let mut first = proxy.client();
    first.expect(b"+OK\r\n", &["MULTI"]);
    assert!(first.cmd(&["DISCARD", "surplus"]).starts_with(b"-ERR"));
    drop(first);
    let mut second = proxy.client();
    second.expect(b"+OK\r\n", &["WATCH", "key"]);
    assert!(second.cmd(&["UNWATCH", "surplus"]).starts_with(b"-ERR"));
    drop(second);
    let mut third = proxy.client();
    third.expect(b"+OK\r\n", &["MULTI"]);
    redis.client().cmd(&["SET", "key", "changed"]);
    third.expect(b"+QUEUED\r\n", &["GET", "key"]);
    third.expect(b"*1\r\n$7\r\nchanged\r\n", &["EXEC"]);
}

/// A GET that joins an MGET of a hash has to ask for itself, behind whatever `tail` makes of the rest.
fn joins_in_vain(tail: &[u8]) -> Vec<u8> {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("cache.max_staleness", "1m").start();
    proxy.wait_live();
    redis.client().cmd(&["HSET", "hash", "field", "value"]);
    redis.client().cmd(&["SET", "big", &"x".repeat(200_000)]);
    let (mut owner, mut joiner) = (proxy.client(), proxy.client());
    proxy.settle();
    joiner.cmd(&["GET", "big"]);
    owner.cmd(&["GET", "other"]);
    redis.stop();
    owner.send(&["MGET", "hash", "another"]);
    sleep(MOMENT);
    joiner.send_raw(&[&encode(&["GET", "hash"]), tail].concat());
    sleep(MOMENT);
    redis.cont();
    assert_eq!(proxy.stat("joins"), 1, "the test is of a joined read");
    joiner.recv()
}

#[test]
fn a_read_is_asked_again_whatever_is_finished_behind_it() {
    let hits = encode(&["GET", "big"]).repeat(2);
    assert!(joins_in_vain(&hits).starts_with(b"-WRONGTYPE"));
}

#[test]
fn a_read_is_asked_again_though_its_client_quits() {
    assert!(joins_in_vain(&encode(&["QUIT"])).starts_with(b"-WRONGTYPE"));
}

#[test]
fn who_joins_a_read_after_its_deadline_asks_again() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let proxy = proxy().upstream_addr(relay.addr()).set("cache.max_staleness", "10s").start();
    proxy.wait_live();
    let (mut owner, mut joiner) = (proxy.client(), proxy.client());
    owner.cmd(&["GET", "other"]);
    joiner.cmd(&["GET", "other"]);
    relay.link().hold_down(true);
    redis.client().cmd(&["SET", "key", "value", "PX", "80"]);
    relay.others().hold_down(true);
    owner.send(&["GET", "key"]);
    sleep(MOMENT);
    joiner.send(&["GET", "key"]);
    sleep(MOMENT);
    relay.others().hold_down(false);
    assert_eq!(owner.recv(), b"$5\r\nvalue\r\n");
    assert_eq!(joiner.recv(), b"$-1\r\n");
    assert_eq!(proxy.stat("joins"), 1, "the test is of a joined read");
}

#[test]
fn who_joins_an_mget_is_answered_when_its_time_is_up() {
    let redis = Redis::start();
    let proxy = proxy()
        .upstream(&redis)
        .set("cache.max_staleness", "1m")
        .set("upstream.command_timeout", "500ms")
        .start();
    proxy.wait_live();
    let (mut owner, mut joiner) = (proxy.client(), proxy.client());
    owner.cmd(&["GET", "other"]);
    joiner.cmd(&["GET", "other"]);
    redis.stop();
    owner.send(&["MGET", "one", "two"]);
    sleep(MOMENT);
    joiner.send(&["GET", "one"]);
    assert!(owner.recv().starts_with(b"-ERR nearhit: upstream"));
    assert!(joiner.recv().starts_with(b"-ERR nearhit: upstream"));
    redis.cont();
}

#[test]
fn commands_time_out_on_a_lane_of_ones_own() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.command_timeout", "300ms").start();
    let mut client = proxy.client();
    client.expect(b":0\r\n", &["WAIT", "0", "0"]);
    redis.stop();
    client.send(&["SET", "key", "value"]);
    assert!(client.recv().starts_with(b"-ERR nearhit: upstream"));
    redis.cont();
}

#[test]
fn a_fence_ends_though_the_link_may_no_longer_ask() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "control", "on", ">secret", "~*", "&*", "+@all"]);
    let proxy = proxy()
        .set("upstream.url", &format!("redis://control:secret@{}", redis.addr()))
        .set("coherence.fence_timeout", "500ms")
        .start();
    proxy.wait_live();
    redis.client().expect(b"+OK\r\n", &["ACL", "SETUSER", "control", "-echo"]);
    proxy.client().expect(b":1\r\n", &["EVAL", "return 1", "0"]);
}

#[test]
fn a_blocked_client_that_goes_frees_its_connection_whatever_it_sent_behind() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let clients = || proxy.stat("connected_clients");
    let before = clients();
    for tail in [encode(&["QUIT"]), encode(&["RESET"]), b"*x\r\n".to_vec()] {
        for head in [Vec::new(), encode(&["WATCH", "key"])] {
            let mut client = proxy.client();
            client.send_raw(&[head, encode(&["BLPOP", "list", "0"]), tail.clone()].concat());
            sleep(MOMENT);
            client.reset();
        }
    }
    eventually("the clients are gone", || clients() == before);
    eventually("their connections are free", || {
        proxy.stat("blocking_in_use") == 0 && proxy.stat("pool_in_use") == 0
    });
}

#[test]
fn a_killed_client_sees_its_end_while_the_upstream_hangs() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let (mut victim, mut killer) = (proxy.client(), proxy.client());
    let id = victim.text(&["CLIENT", "ID"]);
    victim.cmd(&["GET", "key"]);
    killer.cmd(&["GET", "key"]);
    redis.stop();
    victim.send(&["SET", "key", "value"]);
    sleep(MOMENT);
    killer.expect(b":1\r\n", &["CLIENT", "KILL", "ID", &id]);
    victim.set_timeout(Duration::from_secs(2));
    let end = victim.try_recv().expect_err("no reply, but the end");
    assert!(!matches!(end.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{end}");
    redis.cont();
}

#[test]
fn a_hit_does_not_wait_for_ever_for_the_rest_of_its_batch() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("cache.max_staleness", "30s").start();
    let mut client = proxy.client();
    proxy.until_hit("the key is in memory", || drop(client.cmd(&["GET", "hot"])));
    // The server answers at once, and then not at all.
    client.cmd(&["GET", "other"]);
    redis.stop();
    client.send_raw(&[encode(&["GET", "hot"]), encode(&["GET", "cold"])].concat());
    client.set_timeout(Duration::from_secs(2));
    assert_eq!(client.try_recv().expect("the hit comes first"), b"$-1\r\n");
    redis.cont();
    assert_eq!(client.recv(), b"$-1\r\n");
}

#[test]
fn reset_opens_nothing_to_who_has_not_authenticated() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let proxy = proxy().set("upstream.url", &format!("redis://:secret@{}", redis.addr())).start();
    let replies = proxy.client().pipeline(&[&["RESET"][..], &["CLIENT", "LIST"]]);
    assert_eq!(replies[0], b"+RESET\r\n");
    assert!(replies[1].starts_with(b"-NOAUTH"));
}

#[test]
fn a_denied_command_uses_up_a_skip() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("server.deny_commands", r#"["flushall"]"#).start();
    let mut client = proxy.client();
    client
        .send_raw(&[encode(&["CLIENT", "REPLY", "SKIP"]), encode(&["FLUSHALL"]), encode(&["PING"])].concat());
    assert_eq!(client.recv(), b"+PONG\r\n");
}

#[test]
fn a_drain_ends_with_the_last_reply() {
    let redis = Redis::start();
    let mut proxy = proxy().upstream(&redis).set("server.drain_timeout", "1m").start();
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    redis.stop();
    client.send(&["SET", "key", "other"]);
    sleep(MOMENT);
    proxy.process().signal(rustix::process::Signal::TERM);
    sleep(MOMENT);
    redis.cont();
    assert_eq!(client.recv(), b"+OK\r\n");
    client.set_timeout(Duration::from_secs(5));
    client.recv_to_end();
    proxy.terminate();
}

#[test]
fn clients_that_block_behind_a_transaction_leave_its_connections_to_others() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.max_connections", "2").start();
    let blocked: Vec<_> = (0..4)
        .map(|_| {
            let mut client = proxy.client();
            let sent = [encode(&["MULTI"]), encode(&["EXEC"]), encode(&["BLPOP", "list", "0"])];
            client.send_raw(&sent.concat());
            client
        })
        .collect();
    eventually("all are blocked", || proxy.stat("blocking_in_use") == blocked.len() as u64);
    proxy.client().expect(b"+OK\r\n", &["MULTI"]);
}

#[test]
fn what_waits_for_a_connection_of_ones_own_is_bounded() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["WATCH", "key"]);
    let before = proxy.process().rss_mib();
    redis.stop();
    client.set_timeout(millis(700));
    let set = encode(&["SET", "key", &"x".repeat(1_000_000)]);
    let taken = (0..300).take_while(|_| client.try_send_raw(&set).is_ok()).count();
    assert!(taken < 200, "the client is not read from for ever");
    assert!(proxy.process().rss_mib() < before + 64);
    redis.cont();
}

#[test]
fn a_server_that_turns_out_to_have_no_tracking_is_cached() {
    let redis = Redis::start_with(&["--rename-command", "CLIENT", ""]);
    let proxy = proxy().upstream(&redis).start();
    proxy.wait_link("off");
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    eventually("there are hits", || {
        client.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
        proxy.stat("hits") > 0
    });
}

/// Small segments and a small window, so that the socket takes the reply in many small parts.
#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let size = 500_000;
    redis.client().cmd(&["SET", "key", &"x".repeat(size)]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small window");
    socket.set_tcp_mss(536).expect("small segments");
    socket.connect(&proxy.addr().into()).expect("the proxy listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    stream.write_all(&encode(&["GET", "key"])).expect("it is sent");
    sleep(MOMENT);
    let (mut got, mut chunk) = (0, [0; 8192]);
    while got < size {
        got += stream.read(&mut chunk).unwrap_or_else(|error| panic!("{error} after {got} bytes"));
        sleep(Duration::from_micros(300));
    }
}

#[test]
fn what_waits_behind_a_blocked_command_has_all_the_time_it_needs() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.command_timeout", "300ms").start();
    let blocks: [(&[&str], &[u8]); 2] =
        [(&["BLPOP", "list", "1"], b"*-1\r\n"), (&["WAIT", "1", "1000"], b":0\r\n")];
    for (command, reply) in blocks {
        let replies = proxy.client().pipeline(&[command, &["SET", "key", "value"], &["GET", "key"]]);
        assert_eq!(replies, [reply, b"+OK\r\n", b"$5\r\nvalue\r\n"]);
    }
    assert_eq!(proxy.stat("timeouts"), 0);
}

#[test]
fn nobody_waits_behind_the_wait_of_another() {
    let redis = Redis::start();
    let proxy =
        proxy().upstream(&redis).set("server.workers", "1").set("upstream.command_timeout", "1s").start();
    let (mut waiting, mut other) = (proxy.client(), proxy.client());
    waiting.expect(b"+OK\r\n", &["SET", "one", "1"]);
    other.expect(b"+OK\r\n", &["SET", "two", "1"]);
    // Not for so long that the lane counts as stalled.
    redis.client().send(&["DEBUG", "SLEEP", "0.04"]);
    sleep(millis(5));
    other.send(&["SET", "two", "2"]);
    sleep(millis(10));
    waiting.send(&["WAIT", "1", "2000"]);
    sleep(millis(10));
    other.send(&["SET", "two", "3"]);
    assert_eq!((other.recv(), other.recv()), (b"+OK\r\n".to_vec(), b"+OK\r\n".to_vec()));
    assert_eq!(waiting.recv(), b":0\r\n");
}

#[test]
fn what_is_behind_a_multi_that_timed_out_is_not_executed_one_by_one() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.command_timeout", "300ms").start();
    let mut client = proxy.client();
    client.pipeline(&[&["MULTI"][..], &["EXEC"]]);
    eventually("its connection is back in the pool", || proxy.stat("pool_in_use") == 0);
    redis.stop();
    let commands: [&[&str]; 4] = [&["MULTI"], &["SET", "one", "1"], &["SET", "two", "2"], &["EXEC"]];
    client.send_raw(&commands.iter().flat_map(|args| encode(args)).collect::<Vec<_>>());
    assert_eq!(client.recv(), b"+OK\r\n", "a doomed transaction, as with a server that takes no commands");
    for _ in 0..2 {
        assert!(client.recv().starts_with(b"-ERR nearhit: upstream"));
    }
    assert!(client.recv().starts_with(b"-EXECABORT"));
    redis.cont();
    client.expect(b"*0\r\n", &["KEYS", "*"]);
    let replies = client.pipeline(&[&["MULTI"][..], &["SET", "one", "1"], &["EXEC"]]);
    assert_eq!(replies, [&b"+OK\r\n"[..], b"+QUEUED\r\n", b"*1\r\n+OK\r\n"]);
}

#[test]
fn a_denied_command_aborts_its_transaction() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("server.deny_commands", r#"["keys"]"#).start();
    let commands: [&[&str]; 4] = [&["MULTI"], &["SET", "one", "1"], &["KEYS", "*"], &["EXEC"]];
    let replies = proxy.client().pipeline(&commands);
    assert_eq!(replies[1], b"+QUEUED\r\n");
    assert!(replies[2].starts_with(b"-NOPERM this proxy does not allow 'KEYS'"));
    assert!(replies[3].starts_with(b"-EXECABORT"));
    proxy.client().expect(b"$-1\r\n", &["GET", "one"]);
}

#[test]
fn a_health_check_in_a_long_script_leaves_the_cache_alone() {
    let redis = Redis::start_with(&["--busy-reply-threshold", "50"]);
    let proxy = proxy().upstream(&redis).set("upstream.health_check_interval", "200ms").start();
    proxy.wait_live();
    let mut reader = proxy.client();
    reader.expect(b"+OK\r\n", &["SET", "key", "value"]);
    proxy.settle();
    reader.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
    let script = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 1";
    redis.client().expect(b":1\r\n", &["EVAL", script, "0"]);
    proxy.wait_live();
    let misses = proxy.stat("misses");
    reader.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
    assert_eq!(proxy.stat("misses"), misses);
    assert_eq!(proxy.stat("link_losses"), 0);
    assert!(!proxy.log().contains("may not ask INFO"));
}

#[test]
fn an_upstream_that_refuses_every_write_is_not_probed_for_each() {
    let master = Redis::start();
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    let proxy = proxy().upstream(&replica).start();
    let mut client = proxy.client();
    let before = replica.calls("info");
    for _ in 0..2_000 {
        let reply = client.cmd(&["SET", "key", "value"]);
        assert!(reply.starts_with(b"-READONLY") || reply.starts_with(b"-MASTERDOWN"));
    }
    assert!(replica.calls("info") < before + 200);
}

#[test]
fn the_log_says_what_the_control_user_lacks() {
    for lacking in ["-echo", "-client|tracking"] {
        let redis = Redis::start();
        redis.client().cmd(&["ACL", "SETUSER", "control", "on", ">secret", "~*", "&*", "+@all", lacking]);
        let proxy = proxy()
            .set("upstream.url", &format!("redis://control:secret@{}", redis.addr()))
            .set("upstream.backoff_min", "20ms")
            .set("upstream.backoff_max", "100ms")
            .start();
        eventually("the log says so", || {
            proxy.log().contains("the control user may not do what the link needs")
        });
        sleep(millis(500));
        assert_eq!(proxy.log().matches("may not do what").count(), 1, "it says so once");
        let denied = redis.client().text(&["INFO", "commandstats"]);
        let denied: u64 = denied
            .lines()
            .filter(|line| line.starts_with("cmdstat_echo") || line.starts_with("cmdstat_client|tracking"))
            .filter_map(|line| line.split_once("rejected_calls=")?.1.split(',').next()?.parse::<u64>().ok())
            .sum();
        assert!((1..30).contains(&denied), "{denied} in half a second");
    }
}

#[test]
fn all_connections_follow_an_upstream_that_has_moved_while_the_old_one_lives_on() {
    for mode in ["on", "off"] {
        let (old, new) = (Redis::start(), Redis::start());
        let relay = Relay::to(old.addr());
        let proxy = proxy()
            .upstream_addr(relay.addr())
            .set("cache.mode", mode)
            .set("upstream.health_check_interval", "100ms")
            .start();
        let mut client = proxy.client();
        client.pipeline(&[&["MULTI"][..], &["SET", "key", "1"], &["EXEC"]]);
        relay.move_to(new.addr());
        eventually("its commands go to the new one", || client.cmd(&["GET", "key"]) == b"$-1\r\n");
        client.pipeline(&[&["MULTI"][..], &["SET", "key", "2"], &["EXEC"]]);
        client.expect(b"$1\r\n2\r\n", &["GET", "key"]);
        old.client().expect(b"$1\r\n1\r\n", &["GET", "key"]);
        new.client().expect(b"$1\r\n2\r\n", &["GET", "key"]);
    }
}

#[test]
fn clients_that_have_had_a_long_pipeline_hold_no_memory() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("cache.mode", "off").start();
    let mut clients: Vec<_> = (0..60).map(|_| proxy.client()).collect();
    let request: Vec<u8> = (0..9_000).flat_map(|n| encode(&["GET", &format!("key:{n}")])).collect();
    let mut run = |client: &mut common::Client| {
        client.send_raw(&request);
        client.recv_bytes(9_000 * b"$-1\r\n".len());
    };
    run(&mut clients[0]);
    let before = proxy.process().rss_mib();
    clients.iter_mut().for_each(&mut run);
    let held = proxy.process().rss_mib() - before;
    assert!(held < 24, "{held} MiB");
}

#[test]
fn a_refused_watch_keeps_no_connection() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let proxy = proxy().set("upstream.url", &format!("redis://:secret@{}", redis.addr())).start();
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut clients {
        let replies = client.pipeline(&[&["WATCH", "key"][..], &["WATCH", "key"]]);
        assert!(replies.iter().all(|reply| reply.starts_with(b"-NOAUTH")));
    }
    let mut stats = proxy.client();
    stats.expect(b"+OK\r\n", &["AUTH", "secret"]);
    eventually("the connections are free", || {
        stats.text(&["INFO", "nearhit"]).contains("nearhit_pool_in_use:0\r\n")
    });
}

/// What a RESP2 client sends behind UNSUBSCRIBE is refused or obeyed, as the server comes to it.
#[test]
fn nobody_is_given_a_connection_in_a_strangers_database_or_name() {
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "admin", "on", ">secret", "~*", "&*", "+@all"]);
    redis.client().pipeline(&[&["SELECT", "5"][..], &["RPUSH", "list", "wrong"]]);
    for behind in [&["SELECT", "5"][..], &["AUTH", "admin", "secret"], &["MULTI"], &["HELLO", "3"]] {
        let proxy = proxy()
            .upstream(&redis)
            .set("upstream.max_blocking", "1")
            .set("upstream.max_subscribed", "1")
            .start();
        let mut first = proxy.client();
        first.cmd(&["SUBSCRIBE", "channel"]);
        let replies = first.pipeline(&[&["UNSUBSCRIBE", "channel"][..], behind]);
        assert_ne!(replies[1][0], b'-');
        sleep(MOMENT);
        drop(first);
        eventually("its connection is free", || proxy.stat("subscribed_in_use") == 0);
        let mut second = proxy.client();
        let replies = second.pipeline(&[&["BLPOP", "list", "0.1"][..], &["ACL", "WHOAMI"]]);
        assert_eq!(replies, [&b"*-1\r\n"[..], b"$7\r\ndefault\r\n"]);
        second.cmd(&["SUBSCRIBE", "channel"]);
        let replies = second.pipeline(&[&["UNSUBSCRIBE", "channel"][..], &["ACL", "WHOAMI"]]);
        assert_eq!(replies[1], b"$7\r\ndefault\r\n");
    }
}

#[test]
fn a_write_behind_an_unsubscription_drops_its_key_like_any_other() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let proxy = proxy().upstream_addr(relay.addr()).set("cache.max_staleness", "10s").start();
    proxy.wait_live();
    let (mut writer, mut reader) = (proxy.client(), proxy.client());
    writer.cmd(&["SUBSCRIBE", "channel"]);
    reader.expect(b"+OK\r\n", &["SET", "key", "old"]);
    proxy.settle();
    reader.expect(b"$3\r\nold\r\n", &["GET", "key"]);
    relay.link().hold_down(true);
    let replies = writer.pipeline(&[&["UNSUBSCRIBE", "channel"][..], &["SET", "key", "new"]]);
    assert_eq!(replies[1], b"+OK\r\n");
    reader.expect(b"$3\r\nnew\r\n", &["GET", "key"]);
}

#[test]
fn a_message_waits_for_no_reply() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut client = proxy.client();
    client.hello(3);
    client.cmd(&["SUBSCRIBE", "channel"]);
    client.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || redis.client().text(&["INFO", "clients"]).contains("blocked_clients:1"));
    redis.client().expect(b":1\r\n", &["PUBLISH", "channel", "hello"]);
    assert!(client.recv().starts_with(b">3\r\n$7\r\nmessage\r\n"));
    redis.client().cmd(&["RPUSH", "list", "value"]);
    assert!(client.recv().starts_with(b"*2\r\n$4\r\nlist\r\n"));
    let replies = client.pipeline(&[&["PUBLISH", "channel", "hello"][..], &["UNSUBSCRIBE"], &["GET", "key"]]);
    assert!(replies[0].starts_with(b">3\r\n$7\r\nmessage\r\n"), "before it is unsubscribed");
}

#[test]
fn who_is_cut_off_while_it_waits_for_a_connection_is_gone_at_once() {
    let redis = Redis::start();
    let mut proxy = proxy().upstream(&redis).set("upstream.connect_timeout", "8s").start();
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    redis.stop();
    client.send(&["MULTI"]);
    sleep(MOMENT);
    proxy.process().signal(rustix::process::Signal::TERM);
    sleep(MOMENT);
    let asked = std::time::Instant::now();
    proxy.terminate();
    assert!(asked.elapsed() < Duration::from_secs(3), "a second SIGTERM stops");
    redis.cont();
}

#[test]
fn a_line_of_monitor_is_no_news() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    proxy.wait_live();
    let mut monitor = proxy.client();
    monitor.expect(b"+OK\r\n", &["MONITOR"]);
    redis.client().expect(b"+OK\r\n", &["SET", "key", "value"]);
    while !String::from_utf8_lossy(&monitor.recv()).contains(r#""SET" "key""#) {}
    // A fence for a line makes the link ask, the next line tells of that, and so on for ever.
    assert_eq!(proxy.stat("fences"), 0);
}

#[test]
fn the_shortest_keepalive_is_taken() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.keepalive", "1s").start();
    proxy.client().expect(b"+OK\r\n", &["SET", "key", "value"]);
}

#[test]
fn what_a_renamed_command_does_to_a_connection_is_nobody_elses_affair() {
    let renamed =
        ["SELECT", "MULTI", "AUTH"].map(|name| ["--rename-command".into(), name.into(), format!("X{name}")]);
    let renamed: Vec<&str> = renamed.iter().flatten().map(String::as_str).collect();
    let redis = Redis::start_with(&renamed);
    let proxy = proxy().upstream(&redis).set("upstream.lanes", "1").set("server.workers", "1").start();
    proxy.wait_live();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    other.expect(b"+OK\r\n", &["SET", "key", "old"]);
    client.expect(b"+OK\r\n", &["XSELECT", "3"]);
    client.expect(b"$-1\r\n", &["GET", "key"]);
    other.expect(b"$3\r\nold\r\n", &["GET", "key"]);
    client.expect(b"+OK\r\n", &["XSELECT", "0"]);

    client.expect(b"+OK\r\n", &["XMULTI"]);
    client.expect(b"+QUEUED\r\n", &["SET", "key", "new"]);
    other.expect(b"$3\r\nold\r\n", &["GET", "key"]);
    client.expect(b"*1\r\n+OK\r\n", &["EXEC"]);
    other.expect(b"$3\r\nnew\r\n", &["GET", "key"]);
    let in_use = proxy.stat("blocking_in_use");
    assert_eq!(in_use, 1, "it keeps its connection");
    assert!(other.cmd(&["NOBODY-KNOWS-THIS"]).starts_with(b"-ERR unknown command"));
    eventually("what is refused keeps none", || proxy.stat("blocking_in_use") == in_use);
}

/// Whoever collects the log may end, or be restarted, before the proxy does.
#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let redis = Redis::start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], common::free_port()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nearhit"));
    command.env("NEARHIT_UPSTREAM__URL", redis.url());
    command.env("NEARHIT_SERVER__LISTEN", format!(r#"["{address}"]"#));
    command.current_dir(std::env::temp_dir()).stderr(std::process::Stdio::piped());
    let mut process = common::Process::spawn(&mut command);
    drop(process.child().stderr.take());
    eventually("it answers", || {
        Client::try_connect(address).is_ok_and(|mut client| client.cmd(&["GET", "k"]) == b"$-1\r\n")
    });
    process.signal(rustix::process::Signal::TERM);
    assert!(process.wait().success());
}

#[test]
fn what_a_client_sends_right_before_its_end_is_executed_though_it_listens_to_others() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let listens: [&[&str]; 2] = [&["CLIENT", "TRACKING", "ON"], &["SUBSCRIBE", "channel"]];
    let tails = [Vec::new(), encode(&["QUIT"])];
    for (n, (listen, tail)) in
        (0..).zip(listens.iter().flat_map(|one| tails.iter().map(move |tail| (one, tail))))
    {
        for m in 0..20 {
            let mut client = proxy.client();
            client.hello(3);
            client.cmd(listen);
            let key = format!("last:{n}:{m}");
            let writes = [&["SET", &key, "1"][..], &["MULTI"], &["INCR", &key], &["EXEC"]];
            let writes: Vec<u8> = writes.iter().flat_map(|args| encode(args)).collect();
            client.send_raw(&[&writes[..], tail].concat());
        }
        eventually("all are executed", || {
            let script = "local n = 0 for _, key in ipairs(redis.call('KEYS', ARGV[1])) do \
                          n = n + redis.call('GET', key) end return n";
            redis.client().cmd(&["EVAL", script, "0", &format!("last:{n}:*")]) == b":40\r\n"
        });
    }
    eventually("and the clients are gone", || proxy.stat("subscribed_in_use") == 0);
}

#[test]
fn a_wait_that_is_abandoned_keeps_nothing() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.max_blocking", "1").start();
    let clients = proxy.stat("connected_clients");
    for tail in [Vec::new(), encode(&["QUIT"])] {
        let mut client = proxy.client();
        client.expect(b"+OK\r\n", &["SET", "key", "value"]);
        client.send_raw(&[encode(&["WAIT", "1", "0"]), tail].concat());
        sleep(MOMENT);
        client.reset();
        eventually("the client is gone", || proxy.stat("connected_clients") == clients);
        eventually("its connection is gone", || {
            !redis.client().text(&["CLIENT", "LIST"]).contains("cmd=wait")
        });
    }
    proxy.client().expect(b":0\r\n", &["WAIT", "0", "0"]);
}

#[test]
fn wait_counts_what_a_transaction_has_written() {
    let master = Redis::start();
    let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    let proxy = proxy().upstream(&master).start();
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    eventually("the replica has it", || client.cmd(&["WAIT", "1", "1"]) == b":1\r\n");
    let mut fresh = proxy.client();
    fresh.expect(b"$5\r\nvalue\r\n", &["GETEX", "key"]);
    // It has read all that there is to read, and reads no more.
    eventually("the replica has it", || client.cmd(&["WAIT", "1", "1"]) == b":1\r\n");
    replica.stop();
    fresh.pipeline(&[&["MULTI"][..], &["SET", "key", "other"], &["EXEC"]]);
    fresh.expect(b":0\r\n", &["WAIT", "1", "100"]);
    replica.cont();
}

#[test]
fn a_wait_is_unblocked_like_any_other_command() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    let id = client.text(&["CLIENT", "ID"]);
    for _ in 0..2 {
        client.send(&["WAIT", "1", "0"]);
        eventually("it is unblocked", || other.cmd(&["CLIENT", "UNBLOCK", &id]) == b":1\r\n");
        assert_eq!(client.recv(), b":0\r\n");
        client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    }
}

#[test]
fn nothing_is_executed_behind_ones_own_end() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut client = proxy.client();
    let id = client.text(&["CLIENT", "ID"]);
    client.send_raw(
        &[encode(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]), encode(&["SET", "key", "value"])].concat(),
    );
    assert_eq!(client.recv_to_end(), b":1\r\n");
    redis.client().expect(b"$-1\r\n", &["GET", "key"]);
}

#[test]
fn a_killed_client_takes_nothing_from_a_list() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    let mut killer = proxy.client();
    for round in 0..200 {
        let mut blocked = proxy.client();
        let id = blocked.text(&["CLIENT", "ID"]);
        blocked.send(&["BLPOP", "list", "0"]);
        eventually("it is blocked", || killer.text(&["CLIENT", "LIST", "ID", &id]).contains("flags=b"));
        let replies = killer.pipeline(&[
            &["CLIENT", "KILL", "ID", &id][..],
            &["RPUSH", "list", "x"],
            &["LPOP", "list"],
        ]);
        assert_eq!(replies[2], b"$1\r\nx\r\n", "round {round}");
    }
}

#[test]
fn a_command_that_is_unheard_of_can_be_denied() {
    let redis = Redis::start_with(&["--rename-command", "FLUSHALL", "XFLUSHALL"]);
    let proxy = proxy().upstream(&redis).set("server.deny_commands", r#"["XFLUSHALL", "CONFIG"]"#).start();
    let mut client = proxy.client();
    for (name, denied) in [("XFlushAll", &["XFlushAll"][..]), ("CONFIG", &["CONFIG", "GET", "*"])] {
        let text = format!("-NOPERM this proxy does not allow '{name}' (server.deny_commands)\r\n");
        client.expect(text.as_bytes(), denied);
    }
}
