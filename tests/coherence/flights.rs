//! Reads in flight that others have joined: whoever asked first, everybody gets an answer that is right for when
//! they asked, whatever becomes of the read.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::resp::{encode, shown};
use crate::common::{Client, eventually};
use crate::{Ask, House, LONG_LEASE, bulk, is_own_error, kill_named, words};

const TTL: Duration = Duration::from_millis(150);

/// A read of `k` whose reply is held back by the relay, and readers that have joined it.
struct Flight<'a> {
    house: &'a House,
    first: Client,
    joiners: Vec<Client>,
}

impl House {
    /// Clients whose lanes, and whether they are let in, are settled, so that only `k` is under way after this.
    #[track_caller]
    fn flight(&self) -> Flight<'_> {
        let client = |_| {
            let mut client = self.client();
            client.ask("GET other");
            client
        };
        Flight { house: self, first: client(0), joiners: (0..4).map(client).collect() }
    }
}

impl Flight<'_> {
    /// Asks Redis, and returns once the reply lies in the relay.
    #[track_caller]
    fn take_off(&mut self) {
        let pttls = self.house.redis.calls("pttl");
        self.house.relay.others().hold_down(true);
        self.first.send(&["GET", "k"]);
        eventually("Redis has answered", || self.house.redis.calls("pttl") > pttls);
    }

    /// Asks, and returns once the request lies in the relay, on its way to Redis.
    #[track_caller]
    fn stall(&mut self) {
        let misses = self.house.proxy.stat("misses");
        self.house.relay.others().hold_up(true);
        self.first.send(&["GET", "k"]);
        eventually("it is on its way", || self.house.proxy.stat("misses") > misses);
    }

    #[track_caller]
    fn join(&mut self) {
        let joins = self.house.proxy.stat("joins");
        for (number, joiner) in (1..).zip(&mut self.joiners) {
            joiner.send(&["GET", "k"]);
            eventually("the reader has joined", || self.house.proxy.stat("joins") == joins + number);
        }
    }

    fn land(&self) {
        self.house.relay.others().hold_down(false);
    }
}

#[test]
fn readers_that_joined_are_answered() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    flight.joiners[3].hello(3);
    for value in [Some("value"), None] {
        outside.must(&value.map_or("DEL k".into(), |value| format!("SET k {value}")));
        house.proxy.settle();
        flight.take_off();
        flight.join();
        flight.land();
        let gets = house.redis.calls("get");
        let reply = value.map_or(b"$-1\r\n".to_vec(), bulk);
        assert_eq!(shown(&flight.first.recv()), shown(&reply));
        for joiner in &mut flight.joiners[..3] {
            assert_eq!(shown(&joiner.recv()), shown(&reply));
        }
        let reply = value.map_or(b"_\r\n".to_vec(), bulk);
        assert_eq!(shown(&flight.joiners[3].recv()), shown(&reply), "in RESP3");
        assert_eq!(house.redis.calls("get"), gets, "nobody had to ask Redis again");
    }
}

/// Expiry is silent, so nothing keeps a reader from joining a read whose value has gone meanwhile.
#[test]
fn readers_that_joined_after_the_expiry_ask_for_themselves() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    outside.must("DEBUG SET-ACTIVE-EXPIRE 0");
    for _ in 0..3 {
        outside.must("SET k value");
        house.proxy.settle();
        outside.must(&format!("PEXPIRE k {}", TTL.as_millis()));
        let due = Instant::now() + TTL;
        house.proxy.settle();
        flight.take_off();
        assert!(Instant::now() < due, "the machine is too slow for this test");
        thread::sleep((due + Duration::from_millis(20)).saturating_duration_since(Instant::now()));
        flight.join();
        flight.land();
        assert_eq!(shown(&flight.first.recv()), shown(&bulk("value")), "it was asked in time");
        for joiner in &mut flight.joiners {
            assert_eq!(shown(&joiner.recv()), r"$-1\r\n", "it was asked too late");
        }
        outside.must("DEL k");
        house.proxy.settle();
    }
}

/// Detached by a write: what they get was true when they asked, and it is not stored.
#[test]
fn a_write_detaches_a_read_in_flight() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    for round in 0..5 {
        outside.must("SET k old");
        house.proxy.settle();
        flight.take_off();
        flight.join();
        // Its invalidation comes before the reply that it makes old.
        let invalidations = house.proxy.stat("invalidations");
        outside.must("SET k new");
        eventually("the invalidation has come", || house.proxy.stat("invalidations") > invalidations);
        // Who asks now may not be given that reply.
        let mut late = house.client();
        let misses = house.proxy.stat("misses");
        late.send(&["GET", "k"]);
        eventually("it asks for itself", || house.proxy.stat("misses") > misses);
        flight.land();
        assert_eq!(shown(&late.recv()), shown(&bulk("new")), "round {round}");
        for client in [&mut flight.first].into_iter().chain(&mut flight.joiners) {
            let reply = client.recv();
            assert!(reply == bulk("old") || reply == bulk("new"), "{}", shown(&reply));
            client.expect(&bulk("new"), &["GET", "k"]);
        }
    }
}

#[test]
fn readers_are_answered_when_the_lane_of_their_read_dies() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    for round in 0..5 {
        outside.must(&format!("SET k {round}"));
        house.proxy.settle();
        flight.stall();
        flight.join();
        assert!(kill_named(&mut outside, "nearhit-lane") > 0);
        house.relay.others().hold_up(false);
        for client in [&mut flight.first].into_iter().chain(&mut flight.joiners) {
            assert_eq!(shown(&client.recv()), shown(&bulk(&round.to_string())), "round {round}");
        }
    }
    assert!(house.proxy.stat("retried_reads") >= 5);
}

/// A read is sent again, but what follows it on the same connection must not be overtaken by that.
#[test]
fn a_read_is_not_sent_again_behind_a_write_that_followed_it() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    outside.must("SET k old");
    house.proxy.settle();
    flight.take_off();
    flight.first.send(&["SET", "k", "new"]);
    eventually("Redis has run both", || outside.ask("GET k") == bulk("new"));
    house.relay.others().cut();
    flight.land();
    for what in ["the read", "the write"] {
        let reply = flight.first.recv();
        assert!(is_own_error(&reply), "{what} was answered {}", shown(&reply));
    }
    eventually("the write has been made", || flight.first.ask("GET k") == bulk("new"));
    assert_eq!(house.redis.calls("set"), 2, "a write is never sent twice");
}

#[test]
fn readers_are_answered_when_the_upstream_is_lost() {
    let house = House::start();
    house.proxy.wait_live();
    let mut flight = house.flight();
    flight.take_off();
    flight.join();
    house.relay.refuse(true);
    house.relay.all().cut();
    flight.land();
    for client in [&mut flight.first].into_iter().chain(&mut flight.joiners) {
        let reply = client.recv();
        assert!(is_own_error(&reply), "{}", shown(&reply));
    }
    house.relay.refuse(false);
    eventually("it is back", || flight.first.ask("GET k") == b"$-1\r\n");
}

/// An MGET that has its parts waits for its turn. What comes first has to be asked again, on another lane: the client's own
/// has died as well.
#[test]
fn a_reader_whose_mget_waits_gets_another_lane() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.command_timeout", "1h")
    });
    house.proxy.wait_live();
    let mut first = house.client();
    first.ask("GET other");
    while house.relay.lose_a_lane() {}
    // Who speaks another protocol gets a new lane.
    let mut client = house.client();
    client.hello(3);
    house.heat(&mut client, "GET warm");
    // Else it would count as missing: a script waits until all is certified.
    client.expect(b":1\r\n", &["EVAL", "return 1", "0"]);

    let stat = |name: &str| house.proxy.stat(name);
    let (misses, joins) = (stat("misses"), stat("joins"));
    first.send(&["GET", "k"]);
    eventually("it is on its way", || stat("misses") > misses);
    let fills = stat("fills");
    client.send(&["GET", "k"]);
    client.send(&["MGET", "warm", "cold"]);
    eventually("the one is joined", || stat("joins") > joins);
    eventually("the other is answered", || stat("fills") > fills);
    house.relay.others().cut();
    assert_eq!(shown(&client.recv()), r"_\r\n");
    assert_eq!(shown(&client.recv()), r"*2\r\n_\r\n_\r\n");
    assert_eq!(shown(&first.recv()), r"$-1\r\n");
}

/// What its client put in front of a read may take for ever: a WAIT, or a large reply that nobody reads.
#[test]
fn readers_do_not_wait_for_what_another_client_waits_for() {
    const HUGE_BYTES: usize = 40_000_000;
    let house = House::start();
    house.proxy.wait_live();
    let (mut flight, mut outside) = (house.flight(), house.outside());
    outside.must(&format!("SETRANGE huge {} x", HUGE_BYTES - 1));
    for (round, ahead) in ["GET huge", "WAIT 1 0"].into_iter().enumerate() {
        outside.must(&format!("SET k {round}"));
        house.proxy.settle();
        let misses = house.proxy.stat("misses");
        let reads = 1 + u64::from(ahead == "GET huge");
        flight.first.send_raw(&[encode(&words(ahead)), encode(&["GET", "k"])].concat());
        eventually("it is on its way", || house.proxy.stat("misses") == misses + reads);
        flight.join();
        for client in &mut flight.joiners {
            assert_eq!(shown(&client.recv()), shown(&bulk(&round.to_string())), "behind {ahead}");
        }
        if ahead == "GET huge" {
            assert_eq!(flight.first.recv().len(), HUGE_BYTES + b"$40000000\r\n\r\n".len());
            assert_eq!(shown(&flight.first.recv()), shown(&bulk("0")), "it has lost nothing by it");
        }
    }
}
