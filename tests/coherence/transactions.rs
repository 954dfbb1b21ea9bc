//! Transactions and blocked clients: they see Redis itself, they lose nothing, and the connections of their own that
//! they need are given back clean, are not kept from each other, and run out with a clear word.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::common::resp::{children, integer, shown};
use crate::common::{Client, eventually};
use crate::{Ask, House, LONG_LEASE, bulk};

impl House {
    /// Every connection for a transaction is back in the pool.
    #[track_caller]
    fn gives_back(&self) {
        eventually("the pool has everything back", || self.proxy.stat("pool_in_use") == 0);
    }
}

/// Optimistic increments by clients of the proxy and, so that the cache is wrong for a while each time, by clients
/// of Redis itself; everybody reads the counter all the time, so that it is hot whenever it can be.
#[test]
fn watch_loses_no_update() {
    const INCREMENTS: u32 = 60;
    let house = House::start();
    house.proxy.wait_live();
    house.relay.link().delay(0, 10);
    house.outside().must("SET counter 0");
    let (done, retries) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let (house, done, retries) = (&house, &done, &retries);
        let workers: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    let is_outside = number % 4 == 0;
                    let mut client = if is_outside { house.outside() } else { house.client() };
                    for round in 0..INCREMENTS {
                        while !increment(&mut client, round % 2 == 0) {
                            retries.fetch_add(1, SeqCst);
                        }
                        // Time for the counter to become hot.
                        thread::sleep(Duration::from_millis(fastrand::u64(..8)));
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(move || {
                let mut client = house.client();
                while !done.load(SeqCst) {
                    client.must("GET counter");
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, SeqCst);
        assert!(results.iter().all(Result::is_ok), "see above");
    });
    house.outside().expect(&bulk(&(8 * INCREMENTS).to_string()), &["GET", "counter"]);
    assert!(retries.into_inner() > 0, "nobody was ever in another's way");
    assert!(house.proxy.stat("hits") > 100, "the counter was never hot");
    house.gives_back();
}

/// WATCH, GET, MULTI, SET, EXEC, one by one or as pipelines; whether it came through.
#[track_caller]
fn increment(client: &mut Client, pipelined: bool) -> bool {
    let value = if pipelined {
        client.ask_all(&["WATCH counter", "GET counter"]).remove(1)
    } else {
        client.must("WATCH counter");
        client.must("GET counter")
    };
    let text = String::from_utf8_lossy(crate::common::resp::payload(&value)).into_owned();
    let next = text.parse::<i64>().expect("a counter") + 1;
    let set = format!("SET counter {next}");
    let exec = if pipelined {
        client.ask_all(&["MULTI", &set, "EXEC"]).remove(2)
    } else {
        client.must("MULTI");
        client.must(&set);
        client.must("EXEC")
    };
    assert!(matches!(&exec[..], b"*1\r\n+OK\r\n" | b"*-1\r\n"), "{}", shown(&exec));
    exec == b"*1\r\n+OK\r\n"
}

#[test]
fn transactions_that_come_to_nothing_leave_nothing() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.max_connections", "2")
    });
    house.proxy.wait_live();
    let (mut client, mut reader) = (house.client(), house.client());
    client.must("SET k value");
    client.must("SET list value");
    for round in 0..10 {
        for (lines, last) in [
            (&["MULTI", "SET k never", "DISCARD"][..], r"+OK\r\n"),
            (&["WATCH k", "GET k", "UNWATCH"], r"+OK\r\n"),
            (&["WATCH k", "MULTI", "SET k never", "DISCARD"], r"+OK\r\n"),
            (
                &["MULTI", "SET k never", "NOSUCH", "EXEC"],
                r"-EXECABORT Transaction discarded because of previous errors.\r\n",
            ),
            (
                &["MULTI", "LPUSH list x", "EXEC"],
                r"*1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            ),
            (&["WATCH w", "SET w now", "MULTI", "SET k never", "EXEC"], r"*-1\r\n"),
            (&["EXEC"], r"-ERR EXEC without MULTI\r\n"),
            (&["DISCARD"], r"-ERR DISCARD without MULTI\r\n"),
            (&["MULTI", "MULTI", "DISCARD"], r"+OK\r\n"),
            (&["WATCH k", "MULTI", "RESET"], r"+RESET\r\n"),
        ] {
            let replies = if round % 2 == 0 {
                client.ask_all(lines)
            } else {
                lines.iter().map(|line| client.ask(line)).collect()
            };
            let replies: Vec<String> = replies.iter().map(|reply| shown(reply)).collect();
            assert_eq!(replies.last().map(String::as_str), Some(last), "{lines:?}: {replies:?}");
            assert_eq!(shown(&house.heat(&mut reader, "GET k")), shown(&bulk("value")), "after {lines:?}");
            assert_eq!(shown(&house.heat(&mut client, "GET k")), shown(&bulk("value")), "hits again");
            house.gives_back();
        }
    }
    // The pool has two, each of which was in all of those states.
    let mut others = [house.client(), house.client()];
    for other in &mut others {
        other.must("MULTI");
        other.must("GET k");
    }
    for other in &mut others {
        assert_eq!(shown(&other.must("EXEC")), r"*1\r\n$5\r\nvalue\r\n");
    }
}

#[test]
fn blocked_clients_do_not_starve_a_transaction() {
    const BLOCKED: usize = 50;
    let house = House::start_with(&[], |proxy| {
        proxy
            .set("cache.max_staleness", LONG_LEASE)
            .set("upstream.max_connections", "2")
            .set("upstream.max_blocking", &BLOCKED.to_string())
            .set("upstream.connect_timeout", "300ms")
    });
    house.proxy.wait_live();
    let mut blocked: Vec<Client> = (0..BLOCKED).map(|_| house.client()).collect();
    for client in &mut blocked {
        client.send(&["BLPOP", "jobs", "0"]);
    }
    eventually("all are blocked", || {
        house.redis.client().text(&["INFO", "clients"]).contains("blocked_clients:50")
    });

    // Beside them, transactions go on, one of which feeds them all.
    let mut client = house.client();
    for round in 1..=20 {
        let replies = client.ask_all(&["MULTI", "INCR counter", "EXEC"]);
        assert_eq!(shown(&replies[2]), format!(r"*1\r\n:{round}\r\n"));
    }
    for line in ["BLPOP more 0", "XREAD BLOCK 0 STREAMS more $"] {
        let reply = client.ask(line);
        let text = shown(&reply);
        assert!(crate::is_own_error(&reply) && text.contains("upstream.max_blocking"), "{line}: {text}");
    }
    client.must("MULTI");
    for number in 0..BLOCKED {
        client.must(&format!("RPUSH jobs {number}"));
    }
    client.must("EXEC");
    let mut jobs: Vec<String> = blocked.iter_mut().map(|client| shown(children(&client.recv())[1])).collect();
    jobs.sort();
    jobs.dedup();
    assert_eq!(jobs.len(), BLOCKED, "each job was done once");
    eventually("they have been given back", || house.proxy.stat("blocking_in_use") == 0);
    client.must("RPUSH more job");
    assert_eq!(shown(&client.must("BLPOP more 0")), r"*2\r\n$4\r\nmore\r\n$3\r\njob\r\n");
}

#[test]
fn one_transaction_too_many_is_told_so() {
    let house = House::start_with(&[], |proxy| {
        proxy
            .set("cache.max_staleness", LONG_LEASE)
            .set("upstream.max_connections", "2")
            .set("upstream.connect_timeout", "300ms")
    });
    house.proxy.wait_live();
    let mut holders = [house.client(), house.client()];
    holders.iter_mut().for_each(|holder| drop(holder.must("WATCH k")));
    let mut client = house.client();
    let reply = client.ask("WATCH k");
    let text = shown(&reply);
    assert!(crate::is_own_error(&reply) && text.contains("upstream.max_connections"), "{text}");
    crate::is_doomed(&mut client, "upstream.max_connections");
    // It is not in a transaction now, and whoever waits gets the next one that comes free.
    client.expect(b"+OK\r\n", &["SET", "k", "value"]);
    client.send(&["MULTI"]);
    holders[0].must("UNWATCH");
    assert_eq!(shown(&client.recv()), r"+OK\r\n");
    client.must("DISCARD");
    holders[1].must("UNWATCH");
    house.gives_back();
}

/// A blocked client's pop is a write like any other, whoever fed it; also where news need not wait for its key.
#[test]
fn what_a_blocked_client_took_is_gone_for_everybody() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("coherence.order_messages", "false")
    });
    house.proxy.wait_live();
    let (mut popper, mut reader, mut outside) = (house.client(), house.client(), house.outside());
    for round in 0..30 {
        house.relay.link().delay(0, 0);
        house.proxy.settle();
        house.heat(&mut reader, "LLEN done");
        house.delay_pushes();
        popper.send(&["BLMOVE", "jobs", "done", "LEFT", "RIGHT", "0"]);
        if round % 2 == 0 { &mut outside } else { &mut reader }.must(&format!("RPUSH jobs {round}"));
        assert_eq!(shown(&popper.recv()), shown(&bulk(&round.to_string())));
        assert_eq!(integer(&reader.must("LLEN done")), round + 1);
        reader.expect(b":0\r\n", &["LLEN", "jobs"]);
    }
}
