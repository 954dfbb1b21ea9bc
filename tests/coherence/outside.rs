//! What others change is seen: writes, flushes and swaps made straight on Redis, expiry, and, the other way
//! round, keys that must not look cold to Redis because they are hot here.

use std::time::{Duration, Instant};

use crate::common::resp::{integer, shown};
use crate::common::{Client, eventually, ms};
use crate::{Ask, House, LONG_LEASE, bulk};

/// So much later than the change the proxy may still show what was before.
const MAX_STALENESS: Duration = Duration::from_millis(100);
const TTL: Duration = Duration::from_millis(150);
/// Redis counts in whole milliseconds, and lets a key live to the end of its last one.
const REDIS_TICK: Duration = Duration::from_millis(2);

#[test]
fn a_write_made_elsewhere_is_seen() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for (write, read) in [
        ("SET k {}", "GET k"),
        ("APPEND k {}", "STRLEN k"),
        ("EVAL redis.call('SET','k','{}') 0", "GETRANGE k 0 -1"),
        ("LPUSH list {}", "LRANGE list 0 -1"),
        ("DEL list {}", "LLEN list"),
        ("HSET hash f {}", "HGETALL hash"),
        ("ZADD zset {} m", "ZSCORE zset m"),
        ("RENAME hash hash{}", "HGETALL hash"),
    ] {
        house.heat(&mut reader, read);
        for round in 0..20 {
            outside.ask(&write.replace("{}", &format!("{round}")));
            let truth = outside.ask(read);
            eventually(&format!("{read} shows {write}"), || reader.ask(read) == truth);
        }
    }
}

#[test]
fn a_flush_made_elsewhere_is_seen() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    for flush in ["FLUSHALL", "FLUSHDB", "FLUSHALL ASYNC"] {
        outside.must("MSET a 1 b 2");
        house.proxy.settle();
        house.heat(&mut reader, "GET a");
        house.heat(&mut reader, "GET b");
        outside.must(flush);
        for read in ["GET a", "GET b"] {
            eventually(&format!("{read} shows {flush}"), || reader.ask(read) == b"$-1\r\n");
        }
    }
}

/// Redis says nothing of it, and the link would never know.
#[test]
fn databases_swapped_elsewhere_are_found_by_the_health_check() {
    let house = House::start_with(&[], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("upstream.health_check_interval", "200ms")
    });
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    outside.must("SET k zero");
    outside.must("SELECT 1");
    outside.must("SET k one");
    house.proxy.settle();
    for value in ["one", "zero", "one"] {
        house.heat(&mut reader, "GET k");
        outside.must("SWAPDB 0 1");
        eventually("the databases are swapped", || reader.ask("GET k") == bulk(value));
    }
}

/// The server is kept from noticing that the key is due, as it is when it has many; asked, it always knows.
#[test]
fn no_hit_outlives_its_key() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    outside.must("DEBUG SET-ACTIVE-EXPIRE 0");
    for read in ["GET k", "STRLEN k", "MGET k"] {
        for _ in 0..4 {
            outside.must("SET k value");
            house.proxy.settle();
            outside.must(&format!("PEXPIRE k {}", TTL.as_millis()));
            let due = Instant::now() + TTL + REDIS_TICK;
            house.proxy.settle();
            // Not of `heat`, whose polls might last longer than the key.
            let hits = house.proxy.stat("hits");
            let replies =
                read_past(&mut reader, read, due, |client| client.ask("EXISTS missing") == b":0\r\n");
            assert!(house.proxy.stat("hits") > hits, "{read} was never answered from memory");
            assert!(replies > 3, "{read} was hardly asked");
        }
    }
}

/// Reads until well after `due`; whatever is asked later than that must be answered as for a key that is gone.
#[track_caller]
fn read_past(reader: &mut Client, read: &str, due: Instant, pause: impl Fn(&mut Client) -> bool) -> u32 {
    let gone: &[u8] = match read.split(' ').next() {
        Some("GET") => b"$-1\r\n",
        Some("STRLEN") => b":0\r\n",
        _ => b"*1\r\n$-1\r\n",
    };
    let mut replies = 0;
    while Instant::now() < due + TTL {
        let asked = Instant::now();
        let reply = reader.ask(read);
        assert!(asked < due || reply == gone, "{read}: {} of a key that had expired", shown(&reply));
        replies += 1;
        assert!(pause(reader));
    }
    replies
}

#[test]
fn a_time_to_live_set_elsewhere_is_kept() {
    let house = House::start_with(&[], |proxy| proxy.set("cache.max_staleness", &ms(MAX_STALENESS)));
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    outside.must("DEBUG SET-ACTIVE-EXPIRE 0");
    for expire in ["PEXPIRE k 150", "SET k value PX 150", "GETEX k PX 150"] {
        for _ in 0..4 {
            outside.must("SET k value");
            house.heat(&mut reader, "GET k");
            outside.must(expire);
            // The bound on staleness has passed by then as well.
            let due = Instant::now() + TTL.max(MAX_STALENESS) + REDIS_TICK;
            read_past(&mut reader, "GET k", due, |_| true);
        }
    }
}

#[test]
fn a_hot_key_is_touched_where_redis_evicts_by_use() {
    let house = House::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("cache.touch_interval", "1s")
    });
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    outside.must("MSET hot 1 also:hot 1 cold 2");
    house.proxy.settle();
    house.heat(&mut reader, "GET hot");
    house.heat(&mut reader, "MGET also:hot");
    house.heat(&mut reader, "GET cold");
    let misses = house.proxy.stat("misses");
    // OBJECT IDLETIME counts in seconds and does not touch.
    eventually("the cold key has been idle for four seconds", || {
        reader.expect(&bulk("1"), &["GET", "hot"]);
        reader.expect(b"*1\r\n$1\r\n1\r\n", &["MGET", "also:hot"]);
        integer(&outside.must("OBJECT IDLETIME cold")) >= 4
    });
    assert_eq!(house.proxy.stat("misses"), misses, "all of it was answered from memory");
    for key in ["hot", "also:hot"] {
        let idle = integer(&outside.must(&format!("OBJECT IDLETIME {key}")));
        assert!(idle <= 2, "the hot key looks as if it had been idle for {idle} s");
    }
    assert!(house.redis.calls("touch") > 0);
}

#[test]
fn nothing_is_touched_where_redis_does_not_evict() {
    let house = House::start_with(&["--maxmemory-policy", "noeviction"], |proxy| {
        proxy.set("cache.max_staleness", LONG_LEASE).set("cache.touch_interval", "1s")
    });
    house.proxy.wait_live();
    let (mut reader, mut outside) = (house.client(), house.outside());
    outside.must("SET hot 1");
    house.proxy.settle();
    house.heat(&mut reader, "GET hot");
    eventually("the key would be due for a touch", || {
        reader.expect(&bulk("1"), &["GET", "hot"]);
        integer(&outside.must("OBJECT IDLETIME hot")) >= 3
    });
    assert_eq!((house.redis.calls("touch"), house.proxy.stat("touches")), (0, 0));
}
