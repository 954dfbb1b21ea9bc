//! The lease: when the proxy cannot know that what it holds is true, it stops answering from memory. The bound is
//! `max_staleness`, whoever stood still: Redis, the network, the proxy itself.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::resp::shown;
use crate::common::{Client, eventually, ms};
use crate::{Ask, House, bulk, is_own_error};

const MAX_STALENESS: Duration = Duration::from_millis(200);

impl House {
    #[track_caller]
    fn leased() -> Self {
        let house = Self::start_with(&[], |proxy| {
            proxy.set("cache.max_staleness", &ms(MAX_STALENESS)).set("upstream.command_timeout", "500ms")
        });
        house.proxy.wait_live();
        house
    }
}

#[test]
fn a_frozen_upstream_ends_the_lease_and_comes_back_with_every_reply_in_its_place() {
    let house = House::leased();
    let mut outside = house.outside();
    let mut clients: Vec<Client> = (0..12).map(|_| house.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        outside.must(&format!("SET k{number} {number}"));
        client.must(&format!("GET k{number}"));
    }
    house.proxy.settle();
    for (number, client) in clients.iter_mut().enumerate() {
        house.heat(client, &format!("GET k{number}"));
    }

    house.redis.stop();
    house.proxy.wait_link("suspect");
    let hits = house.proxy.stat("hits");
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&["GET", &format!("k{number}")]);
    }
    for client in &mut clients {
        let reply = client.recv();
        assert!(is_own_error(&reply), "{}", shown(&reply));
    }
    assert_eq!(house.proxy.stat("hits"), hits, "no hit past the lease");
    assert_eq!(house.proxy.stat("timeouts"), 12, "each waited for upstream.command_timeout");
    // These are in flight, or not yet sent, when it comes back.
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&["APPEND", &format!("k{number}"), "x"]);
    }

    house.redis.cont();
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.recv();
        let length = number.to_string().len() + 1;
        let done = format!(":{length}\r\n").into_bytes();
        assert!(reply == done || is_own_error(&reply), "k{number}: {}", shown(&reply));
    }
    house.proxy.wait_live();
    for (number, client) in clients.iter_mut().enumerate() {
        let value = bulk(&format!("{number}x"));
        eventually("it is well again", || client.ask(&format!("GET k{number}")) == value);
        assert_eq!(shown(&house.heat(client, &format!("GET k{number}"))), shown(&value));
    }
}

#[test]
fn a_frozen_proxy_shows_nothing_from_before() {
    let house = House::leased();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..8 {
        house.heat(&mut reader, "GET k");
        // Half of the time not even the invalidation is there when it wakes up.
        let is_unheard = round % 2 == 0;
        house.relay.link().hold_down(is_unheard);
        house.proxy.stop();
        outside.must(&format!("SET k {round}"));
        thread::sleep(MAX_STALENESS + Duration::from_millis(20));
        reader.send(&["GET", "k"]);
        house.proxy.cont();
        assert_eq!(shown(&reader.recv()), shown(&bulk(&round.to_string())), "round {round}");
        house.relay.link().hold_down(false);
        house.proxy.wait_live();
    }
}

/// Nothing is lost but the link's bytes, and nothing tells so but the time that passes.
#[test]
fn a_silent_link_ends_the_lease() {
    let house = House::leased();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..5 {
        house.heat(&mut reader, "GET k");
        house.relay.link().hold_down(true);
        outside.must(&format!("SET k {round}"));
        let written = Instant::now();
        read_until_the_bound(&mut reader, written, &bulk(&round.to_string()));
        house.relay.link().hold_down(false);
        house.proxy.wait_live();
    }
}

#[test]
fn a_link_into_a_black_hole_is_given_up_and_made_anew() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", &ms(MAX_STALENESS)).set("coherence.fence_timeout", "300ms")
    });
    house.proxy.wait_live();
    let (mut reader, mut writer, mut outside) = (house.client(), house.client(), house.outside());
    house.heat(&mut reader, "GET k");
    house.relay.link().black_hole(true);
    outside.must("SET k new");
    read_until_the_bound(&mut reader, Instant::now(), &bulk("new"));
    // A fence cannot be passed any more, and ends with the link.
    writer.expect(&bulk("new"), &["EVAL", "return redis.call('GET', 'k')", "0"]);
    house.relay.link().black_hole(false);
    house.proxy.wait_live();
    assert!(house.proxy.stat("link_losses") > 0);
    assert_eq!(shown(&house.heat(&mut reader, "GET k")), shown(&bulk("new")));
}

/// Reads on and on; what is asked later than the bound after `written` must be answered with `new`.
#[track_caller]
fn read_until_the_bound(reader: &mut Client, written: Instant, new: &[u8]) {
    let bound = written + MAX_STALENESS;
    let mut judged = 0;
    while judged < 20 {
        let asked = Instant::now();
        let reply = reader.ask("GET k");
        if asked >= bound {
            assert_eq!(shown(&reply), shown(new), "{:?} after the write", written.elapsed());
            judged += 1;
        }
    }
}

/// While a script runs on and on, Redis answers the link (-BUSY), but tells it of nothing: a write that another
/// client made just before, in the same cycle of the server, is announced when the script ends.
#[test]
fn a_busy_script_ends_the_lease() {
    const BUSY_MS: u32 = 1_500;
    let house = House::leased();
    let (mut outside, mut watch) = (house.outside(), house.outside());
    outside.must("CONFIG SET busy-reply-threshold 50");
    let busy = format!(
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
         local start = now() while now() - start < {BUSY_MS} do end"
    );
    for round in 0..2 {
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        outside.must(&format!("SET k {old}"));
        house.proxy.settle();
        let mut reader = house.client();
        house.heat(&mut reader, "GET k");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (house, old, done) = (&house, bulk(&old), &done);
            let reader = scope.spawn(move || {
                let mut replies = Vec::new();
                let mut client = house.client();
                while !done.load(SeqCst) {
                    let asked = Instant::now();
                    replies.push((asked, client.ask("GET k")));
                    thread::sleep(Duration::from_millis(1));
                }
                replies
            });
            outside.send_raw(
                &[
                    crate::common::resp::encode(&["SET", "k", &new]),
                    crate::common::resp::encode(&["EVAL", &busy, "0"]),
                ]
                .concat(),
            );
            eventually("the script is running", || watch.ask("GET k").starts_with(b"-BUSY"));
            // The write was made before that.
            let bound = Instant::now() + MAX_STALENESS;
            assert_eq!(shown(&outside.recv()), r"+OK\r\n");
            assert_eq!(shown(&outside.recv()), r"$-1\r\n");
            done.store(true, SeqCst);
            let replies = reader.join().expect("the reader only reads");
            let judged: Vec<_> = replies.into_iter().filter(|(asked, _)| *asked >= bound).collect();
            assert!(judged.len() > 5, "the script was too short to tell");
            for (asked, reply) in judged {
                let late = asked.duration_since(bound);
                assert_ne!(shown(&reply), shown(&old), "{late:?} past the bound");
            }
        });
        eventually("all is well again", || reader.ask("GET k") == bulk(&new));
        house.proxy.wait_live();
    }
}
