//! In steady state nearly everything is a hit, whatever shapes the reads of a key have.
//!
//! Each test warms the cache with the first half of its reads and measures the second, by the proxy's own counters:
//! hits / (hits + misses + joins). Nothing is written meanwhile and nothing expires, so whatever stays below the
//! mark is the cache standing in its own way, as two variants of one key do when each read drops the other.

mod common;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use common::resp::shown;
use common::{Client, Proxy, Redis, proxy};

/// The mark of `docs/ARCHITECTURE.md` for two variants of a key and for the fields of one hash.
const RATIO_MIN: f64 = 0.99;

#[track_caller]
fn start(redis: &Redis) -> Proxy {
    // A stalled heartbeat would count as misses, and a busy test machine stalls.
    let proxy = proxy().upstream(redis).set("cache.max_staleness", "10s").start();
    proxy.wait_live();
    proxy
}

/// The counters of one moment.
struct Counts {
    hits: u64,
    lookups: u64,
}

impl Counts {
    #[track_caller]
    fn of(proxy: &Proxy) -> Self {
        let [hits, misses, joins] = ["hits", "misses", "joins"].map(|name| proxy.stat(name));
        Self { hits, lookups: hits + misses + joins }
    }
}

/// Runs `reads` of them twice, and holds the hit ratio of the second time to the mark.
#[track_caller]
fn holds_ratio(proxy: &Proxy, reads: u64, mut read: impl FnMut()) {
    (0..reads).for_each(|_| read());
    let before = Counts::of(proxy);
    (0..reads).for_each(|_| read());
    let after = Counts::of(proxy);
    holds_mark(&before, &after, reads);
}

#[track_caller]
fn holds_mark(before: &Counts, after: &Counts, reads: u64) {
    let (hits, lookups) = (after.hits - before.hits, after.lookups - before.lookups);
    assert_eq!(lookups, reads, "every read is counted once, as a hit, a miss or a join");
    let ratio = hits as f64 / lookups as f64;
    assert!(ratio >= RATIO_MIN, "{hits} hits of {lookups} reads: {ratio:.4}");
}

#[test]
fn one_command_on_one_key() {
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    holds_ratio(&proxy, 1_000, || client.expect(b"$5\r\nvalue\r\n", &["GET", "key"]));
}

#[test]
fn a_missing_key() {
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    holds_ratio(&proxy, 1_000, || client.expect(b"$-1\r\n", &["GET", "missing"]));
}

#[test]
fn two_commands_on_one_key() {
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    client.expect(b"+OK\r\n", &["SET", "key", "value"]);
    let mut random = fastrand::Rng::with_seed(2);
    holds_ratio(&proxy, 2_000, || {
        if random.bool() {
            client.expect(b"$5\r\nvalue\r\n", &["GET", "key"]);
        } else {
            client.expect(b":5\r\n", &["STRLEN", "key"]);
        }
    });
}

#[test]
fn clients_of_both_protocols_on_one_key() {
    let redis = Redis::start();
    let proxy = start(&redis);
    let (mut two, mut three) = (proxy.client(), proxy.client());
    three.hello(3);
    two.expect(b":1\r\n", &["HSET", "hash", "field", "value"]);
    two.expect(b"+OK\r\n", &["SET", "key", "value"]);
    let mut random = fastrand::Rng::with_seed(3);
    holds_ratio(&proxy, 2_000, || match random.u32(0..4) {
        0 => two.expect(b"*2\r\n$5\r\nfield\r\n$5\r\nvalue\r\n", &["HGETALL", "hash"]),
        1 => three.expect(b"%1\r\n$5\r\nfield\r\n$5\r\nvalue\r\n", &["HGETALL", "hash"]),
        2 => two.expect(b"$5\r\nvalue\r\n", &["GET", "key"]),
        _ => three.expect(b"$5\r\nvalue\r\n", &["GET", "key"]),
    });
}

#[test]
fn a_thousand_fields_of_one_hash() {
    const FIELDS: u32 = 1_000;
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    for field in 0..FIELDS {
        client.expect(b":1\r\n", &["HSET", "hash", &format!("f{field}"), &format!("{field:04}")]);
    }
    let mut random = fastrand::Rng::with_seed(4);
    holds_ratio(&proxy, 20_000, || {
        let field = random.u32(0..FIELDS);
        client.expect(format!("$4\r\n{field:04}\r\n").as_bytes(), &["HGET", "hash", &format!("f{field}")]);
    });
}

/// The fields come in batches, so that one batch's first reads meet misses of the same hash in flight.
#[test]
fn a_thousand_fields_of_one_hash_in_pipelines() {
    const FIELDS: u32 = 1_000;
    const DEPTH: usize = 20;
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    for field in 0..FIELDS {
        client.expect(b":1\r\n", &["HSET", "hash", &format!("f{field}"), &format!("{field:04}")]);
    }
    let mut random = fastrand::Rng::with_seed(5);
    let mut batch = || {
        let fields: Vec<u32> = (0..DEPTH).map(|_| random.u32(0..FIELDS)).collect();
        let names: Vec<String> = fields.iter().map(|field| format!("f{field}")).collect();
        let commands: Vec<[&str; 3]> = names.iter().map(|name| ["HGET", "hash", name]).collect();
        let commands: Vec<&[&str]> = commands.iter().map(<[&str; 3]>::as_slice).collect();
        for (reply, field) in client.pipeline(&commands).iter().zip(fields) {
            assert_eq!(shown(reply), shown(format!("$4\r\n{field:04}\r\n").as_bytes()));
        }
    };
    (0..1_000).for_each(|_| batch());
    let before = Counts::of(&proxy);
    (0..1_000).for_each(|_| batch());
    holds_mark(&before, &Counts::of(&proxy), 1_000 * DEPTH as u64);
}

#[test]
fn fifty_connections_on_a_thousand_keys() {
    const CONNECTIONS: u64 = 50;
    const KEYS: u32 = 1_000;
    const READS: u64 = 400;
    let redis = Redis::start();
    let proxy = start(&redis);
    let mut client = proxy.client();
    for key in 0..KEYS {
        client.expect(b"+OK\r\n", &["SET", &format!("key:{key}"), &format!("{key:08}")]);
    }
    let round = |seed: u64| {
        let address = proxy.addr();
        let readers = (0..CONNECTIONS)
            .map(|reader| thread::spawn(move || read_keys(address, seed + reader, KEYS, READS)));
        let readers: Vec<_> = readers.collect();
        for reader in readers {
            reader.join().expect("every reply was right");
        }
    };
    round(1_000);
    let before = Counts::of(&proxy);
    round(2_000);
    holds_mark(&before, &Counts::of(&proxy), CONNECTIONS * READS);
}

fn read_keys(address: SocketAddr, seed: u64, keys: u32, reads: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client::connect(address);
    client.hello(if seed.is_multiple_of(2) { 2 } else { 3 });
    for _ in 0..reads {
        let key = random.u32(0..keys);
        client.expect(format!("$8\r\n{key:08}\r\n").as_bytes(), &["GET", &format!("key:{key}")]);
    }
}

#[test]
fn simultaneous_readers_of_a_cold_key_ask_once() {
    const READERS: u64 = 40;
    let redis = Redis::start();
    let proxy = start(&redis);
    redis.client().expect(b"+OK\r\n", &["SET", "cold", "value"]);
    let mut readers: Vec<Client> = (0..READERS).map(|_| proxy.client()).collect();
    for (reader, protocol) in readers.iter_mut().zip([2, 3].into_iter().cycle()) {
        reader.hello(protocol);
        // Every worker's upstream connection stands before the server falls silent.
        reader.expect(if protocol == 2 { b"$-1\r\n" } else { b"_\r\n" }, &["GET", "another"]);
    }
    proxy.settle();
    let (calls, before) = (redis.calls("get"), Counts::of(&proxy));
    let joins = proxy.stat("joins");

    redis.stop();
    for reader in &mut readers {
        reader.send(&["GET", "cold"]);
    }
    // Whoever is late finds the value in memory: that would be a weaker test, and never a failure.
    thread::sleep(Duration::from_millis(300));
    redis.cont();
    for reader in &mut readers {
        assert_eq!(shown(&reader.recv()), "$5\\r\\nvalue\\r\\n");
    }

    assert_eq!(redis.calls("get") - calls, 1, "one of {READERS} readers asks Redis");
    let after = Counts::of(&proxy);
    assert_eq!(after.lookups - before.lookups, READERS);
    let (hits, joins) = (after.hits - before.hits, proxy.stat("joins") - joins);
    assert_eq!(hits + joins, READERS - 1, "{hits} hits and {joins} joins");
    assert!(joins > 0, "nobody joined the read in flight");
}
