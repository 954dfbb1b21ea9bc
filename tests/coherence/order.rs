//! Through one proxy, time runs one way: no read shows less than a read that was over before it began, and an MGET
//! shows one moment. The writer is elsewhere and its invalidations are late, so that the cache and Redis differ
//! for most of the time, and all readers see both.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::common::Client;
use crate::common::resp::{children, encode, integer, payload, shown};
use crate::{Ask, House, LONG_LEASE};

const READERS: u64 = 8;

/// Until the writer has finished.
fn while_someone_writes(
    house: &House,
    write: impl FnOnce(&mut Client, &mut Rng),
    read: impl Fn(&Reader<'_>) + Sync,
) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..READERS {
            let (read, done) = (&read, &done);
            scope.spawn(move || read(&Reader { house, number, done }));
        }
        write(&mut house.outside(), &mut Rng::with_seed(1));
        done.store(true, SeqCst);
    });
}

struct Reader<'a> {
    house: &'a House,
    number: u64,
    done: &'a AtomicBool,
}

impl Reader<'_> {
    fn client(&self) -> Client {
        let mut client = self.house.client();
        if self.number % 2 == 1 {
            client.hello(3);
        }
        client
    }

    fn goes_on(&self) -> bool {
        !self.done.load(SeqCst)
    }
}

/// Often at once, sometimes after such a while that everything is certified and quiet.
fn pause(random: &mut Rng) {
    let long = random.u8(..) < 40;
    thread::sleep(Duration::from_micros(random.u64(if long { 150_000..300_000 } else { 0..6_000 })));
}

#[test]
fn no_read_goes_back() {
    let house = House::start();
    house.proxy.wait_live();
    house.delay_pushes();
    // The key only grows, and every read tells its length.
    let floor = AtomicUsize::new(0);
    let bursts = AtomicUsize::new(0);
    let look = |(name, look): Way, client: &mut Client, number: u64| {
        let begun = floor.load(SeqCst);
        let lengths = look(client, number);
        assert!(lengths.is_sorted(), "{name} showed {lengths:?}, in this order");
        let (first, last) = (lengths[0], lengths[lengths.len() - 1]);
        assert!(first >= begun, "{name} showed {lengths:?} after {begun} had been shown");
        floor.fetch_max(last, SeqCst);
    };
    while_someone_writes(
        &house,
        |outside, random| {
            for _ in 0..40 {
                // Until all is certified, and answered from memory.
                thread::sleep(Duration::from_millis(random.u64(120..250)));
                bursts.fetch_add(1, SeqCst);
                for _ in 0..random.u64(1..5) {
                    outside.must("APPEND k x");
                    thread::sleep(Duration::from_micros(random.u64(..6_000)));
                }
            }
        },
        |reader| {
            let (mut client, mut random) = (reader.client(), Rng::with_seed(reader.number));
            let mut seen = 0;
            while reader.goes_on() {
                if reader.number >= 3 {
                    look(CACHED[random.usize(..CACHED.len())], &mut client, reader.number);
                    thread::sleep(Duration::from_micros(random.u64(..200)));
                } else if std::mem::replace(&mut seen, bursts.load(SeqCst)) == seen {
                    thread::sleep(Duration::from_micros(100));
                } else {
                    // While the cache knows nothing of it, some see it.
                    thread::sleep(Duration::from_micros(random.u64(..10_000)));
                    look(UNCACHED[random.usize(..UNCACHED.len())], &mut client, reader.number);
                }
            }
        },
    );
    let hits = house.proxy.stat("hits");
    assert!(hits > 1_000, "{hits} reads were answered from memory: hardly anything was tested");
}

/// A way to see how long the key is; some look more than once.
type Way = (&'static str, fn(&mut Client, u64) -> Vec<usize>);

const CACHED: &[Way] = &[
    ("GET", |client, _| vec![text(&client.must("GET k"))]),
    ("STRLEN", |client, _| vec![number(&client.must("STRLEN k"))]),
    ("GETRANGE", |client, _| vec![text(&client.must("GETRANGE k 0 -1"))]),
    ("SUBSTR", |client, _| vec![text(&client.must("SUBSTR k 0 -1"))]),
    // The letter has four bits.
    ("BITCOUNT", |client, _| vec![number(&client.must("BITCOUNT k")) / 4]),
];

/// These see Redis itself, and after them nobody may see less.
const UNCACHED: &[Way] = &[
    ("a read that nobody made before", |client, _| {
        let end = fastrand::u32(1_000..);
        vec![text(&client.must(&format!("GETRANGE k 0 {end}")))]
    }),
    ("MGET", |client, _| vec![text(children(&client.must("MGET k other"))[0])]),
    ("LCS, which is never cached", |client, _| vec![number(&client.must("LCS k k LEN"))]),
    ("a transaction", |client, _| {
        let replies = client.ask_all(&["MULTI", "GET k", "EXEC"]);
        vec![text(children(&replies[2])[0])]
    }),
    ("a script", |client, _| vec![number(&client.must("EVAL return(redis.call('STRLEN',KEYS[1])) 1 k"))]),
    ("a write that reads", |client, me| vec![number(&client.must(&format!("BITOP NOT own{me} k")))]),
    ("a copy", |client, me| {
        client.must(&format!("COPY k own{me} REPLACE"));
        vec![number(&client.must(&format!("STRLEN own{me}")))]
    }),
    ("a pipeline", |client, me| {
        let copy = format!("BITOP OR own{me} k");
        let replies = client.ask_all(&["GET k", "STRLEN k", "MGET k k", "GET k", &copy, "STRLEN k", "GET k"]);
        let twice = children(&replies[2]);
        vec![
            text(&replies[0]),
            number(&replies[1]),
            text(twice[0]),
            text(twice[1]),
            text(&replies[3]),
            number(&replies[4]),
            number(&replies[5]),
            text(&replies[6]),
        ]
    }),
];

fn text(reply: &[u8]) -> usize {
    if matches!(reply, b"$-1\r\n" | b"_\r\n") { 0 } else { payload(reply).len() }
}

fn number(reply: &[u8]) -> usize {
    usize::try_from(integer(reply)).expect("a length")
}

/// Has `k` in memory, a letter long, for who reads it in this way. What changes it from now on is told of late.
fn cache_a_letter(house: &House, reader: &mut Client, outside: &mut Client, read: &str) {
    house.relay.link().delay(0, 0);
    outside.must("SET k x");
    // Not in the way of what another round has left to certify.
    house.proxy.settle();
    house.heat(reader, read);
    house.proxy.settle();
    house.delay_pushes();
}

/// The same, one by one: whoever it is that sees Redis itself first, by whatever it may be.
#[test]
fn whoever_saw_it_first_nobody_sees_less() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut first, mut outside) = (house.client(), house.client(), house.outside());
    // One for whom nothing is cached, since it may not ask how long a key lives.
    outside.must("ACL SETUSER meek on >m ~* +get");
    let mut meek = house.client();
    meek.expect(b"+OK\r\n", &["AUTH", "meek", "m"]);
    let one_by_one: &[Way] = &[
        ("one for whom nothing is cached", |client, _| vec![text(&client.must("GET k"))]),
        ("one who watches", |client, _| {
            client.must("WATCH k");
            let length = text(&client.must("GET k"));
            client.must("UNWATCH");
            vec![length]
        }),
    ];
    let ways = one_by_one.iter().chain(&CACHED[1..]).chain(UNCACHED);
    for (number, (name, look)) in (0..).zip(ways) {
        for round in 0..4 {
            cache_a_letter(&house, &mut reader, &mut outside, "GET k");
            outside.must("APPEND k y");
            let client = if number == 0 { &mut meek } else { &mut first };
            let seen = look(client, 0)[0];
            let then = text(&reader.must("GET k"));
            assert!(then >= seen, "{seen} by {name}, {then} by GET then, round {round}");
        }
    }
}

/// A write that reads another key shows what it found there, and a hit behind it in its pipeline must not be older.
#[test]
fn what_follows_a_write_that_reads_is_not_older() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..10 {
        cache_a_letter(&house, &mut reader, &mut outside, "STRLEN k");
        outside.must("APPEND k y");
        let replies = reader.ask_all(&["BITOP OR own k", "STRLEN k"]);
        let (seen, then) = (number(&replies[0]), number(&replies[1]));
        assert!(then >= seen, "{seen} by BITOP, {then} by STRLEN behind it, round {round}");
    }
}

/// An MGET that was answered in part from memory may have to be asked again as a whole; what follows it in its
/// pipeline would then be older than it is.
#[test]
fn what_follows_an_mget_in_a_pipeline_is_not_older() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for round in 0..10 {
        cache_a_letter(&house, &mut reader, &mut outside, "GET k");
        let gets = house.redis.calls("mget") + house.redis.calls("strlen");
        reader.send_raw(&encode(&["MGET", "k", &format!("missing{round}")]));
        reader.send_raw(&encode(&["STRLEN", "k"]));
        // Both may be at Redis now, and the MGET waits to be certified.
        for _ in 0..20 {
            if house.redis.calls("mget") + house.redis.calls("strlen") >= gets + 2 {
                break;
            }
        }
        outside.must("APPEND k y");
        let first = text(children(&reader.recv())[0]);
        let second = number(&reader.recv());
        assert!(second >= first, "{first} and then {second}, round {round}");
    }
}

#[test]
fn an_mget_is_whole() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    // So few entries that each is evicted time and again, alone.
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("cache.max_entries", "8")
    });
    house.proxy.wait_live();
    house.delay_pushes();
    house.outside().must("MSET a 0 b 0 c 0");
    let partly = AtomicUsize::new(0);
    while_someone_writes(
        &house,
        |outside, random| {
            for round in 1..150 {
                outside.must(&format!("MSET a {round} b {round} c {round}"));
                pause(random);
            }
        },
        |reader| {
            let (mut client, mut random) = (reader.client(), Rng::with_seed(reader.number));
            while reader.goes_on() {
                // Makes some of them hot, and evicts others.
                client.must(&format!("GET {}", KEYS[random.usize(..3)]));
                for _ in 0..random.usize(..3) {
                    client.must(&format!("GET noise{}", random.u8(..40)));
                }
                let mut keys = KEYS;
                random.shuffle(&mut keys);
                let line = format!("MGET {} {} {} nothing", keys[0], keys[1], keys[2]);
                let reply = client.must(&line);
                let values = children(&reply);
                assert!(values[0] == values[1] && values[1] == values[2], "{line}: {}", shown(&reply));
                partly.fetch_add(1, SeqCst);
            }
        },
    );
    assert!(house.proxy.stat("evictions") > 1_000, "nothing was evicted");
    assert!(house.proxy.stat("hits") > 1_000 && partly.into_inner() > 1_000, "nothing was tested");
}
