//! The fixtures do what the tests believe they do.
//!
//! A relay that lost bytes, or a client that cut a frame short, would look like a fault of the proxy, and one that
//! did nothing would let a fault pass. None of this needs the proxy, but for its start and its end.

mod common;

use std::time::{Duration, Instant};

use common::resp::{encode, frame_length, shown};
use common::{Client, Intercept, Redis, Relay, eventually, proxy};

#[test]
fn frames_end_where_they_end() {
    for frame in [
        "+OK\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$4\r\na\r\nb\r\n",
        "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
        "%1\r\n+a\r\n~2\r\n#t\r\n_\r\n",
        "|1\r\n+k\r\n:9\r\n*1\r\n,1.5\r\n",
        "=6\r\ntxt:hi\r\n",
        "*-1\r\n",
    ] {
        let bytes = [frame, "+NEXT\r\n"].concat().into_bytes();
        assert_eq!(frame_length(&bytes), Some(frame.len()), "{frame:?}");
        for cut in 0..frame.len() {
            assert_eq!(frame_length(&bytes[..cut]), None, "{frame:?} cut at {cut}");
        }
    }
}

#[test]
fn a_server_dies_freezes_and_comes_back_empty() {
    let redis = Redis::start();
    let mut client = redis.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    assert_eq!(redis.calls("set"), 1);

    redis.stop();
    client.set_timeout(Duration::from_millis(100));
    client.send(&["GET", "key"]);
    assert!(client.try_recv().is_err(), "a frozen server answers");
    redis.cont();
    client.set_timeout(Duration::from_secs(10));
    assert_eq!(shown(&client.recv()), "$5\\r\\nvalue\\r\\n");

    redis.kill9();
    assert!(client.recv_to_end().is_empty());
    assert!(Client::try_connect(redis.addr()).is_err(), "a dead server is connected to");
    redis.restart_empty();
    redis.client().expect(b"$-1\r\n", &["GET", "key"]);
}

/// A client that has told the relay it is an invalidation link, and one that has not.
fn link_and_other(relay: &Relay) -> [Client; 2] {
    let [mut link, other] = [Client::connect(relay.addr()), Client::connect(relay.addr())];
    link.hello(3);
    link.expect(b"+OK\r\n", &["CLIENT", "TRACKING", "ON", "BCAST"]);
    [link, other]
}

#[test]
fn a_relay_passes_everything_on_unchanged() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let [_link, mut other] = link_and_other(&relay);
    let value: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
    other.expect(b"+OK\r\n", &[b"SET".as_slice(), b"key", &value]);
    let framed = [b"$3000000\r\n".as_slice(), &value, b"\r\n"].concat();
    assert!(other.cmd(&["GET", "key"]) == framed);
    assert_eq!((relay.all().count(), relay.link().count(), relay.others().count()), (2, 1, 1));
}

#[test]
fn a_relay_delays_at_least_as_long_as_it_is_told() {
    const DELAY_MS: u64 = 60;
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let [mut link, mut other] = link_and_other(&relay);
    for (up_ms, down_ms) in [(DELAY_MS, 0), (0, DELAY_MS)] {
        relay.others().delay(up_ms, down_ms);
        let began = Instant::now();
        let replies = other.pipeline(&[&["SET", "n", "1"], &["INCR", "n"], &["INCR", "n"]]);
        assert!(began.elapsed() >= Duration::from_millis(DELAY_MS));
        assert_eq!(replies.concat(), b"+OK\r\n:2\r\n:3\r\n");
    }
    // The link is another scope; the push that the writes caused waits on it.
    assert_eq!(link.recv()[0], b'>');
}

#[test]
fn a_relay_holds_back_the_link_alone() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let [mut link, mut other] = link_and_other(&relay);
    relay.link().hold_down(true);
    other.expect(b"+OK\r\n", &["SET", "key", "value"]);
    link.set_timeout(Duration::from_millis(100));
    assert!(link.try_recv().is_err(), "the push came through");
    relay.link().hold_down(false);
    link.set_timeout(Duration::from_secs(10));
    assert_eq!(link.recv(), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n");

    relay.others().hold_up(true);
    other.send(&["SET", "key", "held"]);
    redis.client().expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
    relay.others().hold_up(false);
    assert_eq!(other.recv(), b"+OK\r\n");
}

#[test]
fn a_relay_cuts_and_refuses() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let [mut link, mut other] = link_and_other(&relay);
    relay.link().cut();
    assert!(link.recv_to_end().is_empty());
    other.expect(b"+PONG\r\n", &["PING"]);
    relay.refuse(true);
    assert!(Client::connect(relay.addr()).recv_to_end().is_empty());
    other.expect(b"+PONG\r\n", &["PING"]);
    relay.refuse(false);
    Client::connect(relay.addr()).expect(b"+PONG\r\n", &["PING"]);
    relay.all().cut();
    assert!(other.recv_to_end().is_empty());
    eventually("the relay has forgotten them", || relay.all().count() == 0);
    // What was cut at one side is cut at the other: the server has its asker left, and nobody else.
    eventually("the server has lost them", || redis.client().text(&["CLIENT", "LIST"]).lines().count() == 1);
}

#[test]
fn a_black_hole_swallows_what_is_in_it_for_good() {
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let [_link, mut other] = link_and_other(&relay);
    relay.all().black_hole(true);
    other.set_timeout(Duration::from_millis(100));
    other.send(&["SET", "key", "swallowed"]);
    assert!(other.try_recv().is_err());
    let mut new = Client::connect(relay.addr());
    new.set_timeout(Duration::from_millis(100));
    new.send(&["PING"]);
    assert!(new.try_recv().is_err(), "a connection made in the black hole is in it");
    relay.all().black_hole(false);
    other.send(&["SET", "key", "still swallowed"]);
    let silence = other.try_recv().expect_err("nothing comes back");
    assert_ne!(silence.kind(), std::io::ErrorKind::UnexpectedEof, "it closed, which a black hole does not");
    Client::connect(relay.addr()).expect(b"$-1\r\n", &["GET", "key"]);
}

#[test]
fn an_intercepted_reply_takes_its_place_in_the_pipeline() {
    let redis = Redis::start();
    let scripted = Intercept::get(redis.addr(), "odd", b"*1\r\n*1\r\n+scripted\r\n".to_vec());
    let mut client = Client::connect(scripted.addr());
    let pipeline = [encode(&["PING"]), encode(&["get", "odd"]), encode(&["GET", "even"])].concat();
    client.send_raw(&pipeline);
    let expected = "+PONG\r\n*1\r\n*1\r\n+scripted\r\n$-1\r\n";
    assert_eq!(client.recv_bytes(expected.len()), expected.as_bytes());
    assert_eq!(scripted.given(), 1);
}

#[test]
fn a_proxy_starts_forwards_and_drains() {
    let redis = Redis::start();
    let mut proxy = proxy().upstream(&redis).start();
    proxy.wait_live();
    proxy.client().expect(b"+OK\r\n", &["SET", "key", "value"]);
    redis.client().expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
    proxy.settle();
    proxy.stop();
    let mut client = Client::connect(proxy.addr());
    client.set_timeout(Duration::from_millis(100));
    client.send(&["PING"]);
    assert!(client.try_recv().is_err(), "a frozen proxy answers");
    proxy.cont();
    client.set_timeout(Duration::from_secs(10));
    assert_eq!(shown(&client.recv()), "+PONG\\r\\n");
    drop(client);
    assert!(proxy.log().contains("listening"));
    assert!(proxy.terminate().success());
    assert!(Client::try_connect(proxy.addr()).is_err(), "a proxy that has ended still listens");
}
