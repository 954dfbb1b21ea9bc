//! Read your writes, by every route there is: once a write is acknowledged, nobody reads what was before.
//!
//! One client has a reply hot, another changes what it was made from, and the first asks again at once. In every
//! other round pushes are late, so that nothing but the write's own guard can have made the difference.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::common::resp::{integer, payload, shown};
use crate::common::{Client, eventually};
use crate::{Ask, House, bulk, words};

/// Of each route; pushes are late in half of them.
const ROUNDS: u32 = 50;
/// Later than a reply takes to come and the next request to go, and no later, since scripts wait for it.
const LATE_PUSH_MS: u64 = 5;

/// What is written to an empty server before, the read that is hot, and the write, each command ending at a `; `.
/// The last command is the one whose reply acknowledges it all.
type Route = (&'static str, &'static str, &'static str);

const STRINGS: &[Route] = &[
    ("SET k old", "GET k", "SET k new"),
    ("SET k old", "GET k", "SET k new KEEPTTL GET"),
    ("", "GET k", "SETNX k new"),
    ("SET k old", "GET k", "SETEX k 100 new"),
    ("SET k old", "GET k", "MSET other 1 k new"),
    ("", "GET k", "MSETNX other 1 k new"),
    ("SET k old", "GET k", "GETSET k new"),
    ("SET k old", "GET k", "GETDEL k"),
    ("SET k old", "GET k", "GETEX k PXAT 1"),
    ("SET k 1", "GET k", "INCR k"),
    ("SET k 1", "GET k", "DECRBY k 5"),
    ("SET k 1", "GET k", "INCRBYFLOAT k 0.5"),
    ("SET k old", "STRLEN k", "APPEND k er"),
    ("SET k old", "GETRANGE k 0 -1", "SETRANGE k 1 xx"),
    ("SET k old", "GETBIT k 0", "SETBIT k 0 1"),
    ("SET k old", "BITCOUNT k", "BITFIELD k SET u8 0 255"),
    ("SET k old; SET other abc", "GET k", "BITOP NOT k other"),
    ("PFADD k a", "GET k", "PFADD k b"),
    ("PFADD k a; PFADD other b", "GET k", "PFMERGE k other"),
];

const KEYS: &[Route] = &[
    ("SET k old", "GET k", "DEL k"),
    ("SET k old", "EXISTS k", "DEL other k"),
    ("SET k old", "GET k", "UNLINK k"),
    ("SET k old", "GET k", "RENAME k other"),
    ("SET k old; SET other new", "GET k", "RENAME other k"),
    ("SET other new", "GET k", "RENAMENX other k"),
    ("SET k old; SET other new", "GET k", "COPY other k REPLACE"),
    ("SET k old", "GET k", "MOVE k 1"),
    ("SET k old", "GET k", "EXPIRE k -1"),
    ("SET k old", "GET k", "PEXPIRE k 0"),
    ("SET k old", "GET k", "EXPIREAT k 1"),
    ("SET k old", "TYPE k", "RESTORE k 0 {dump} REPLACE"),
    ("LPUSH k old; LPUSH other 2 1", "LRANGE k 0 -1", "SORT other STORE k"),
    ("LPUSH k old; LPUSH other 2; SET w_2 new", "LRANGE k 0 -1", "SORT other GET w_* STORE k"),
    // In another database than the writer's, which an invalidation does not tell apart.
    ("SELECT 1; SET k old", "SELECT 1; GET k", "SELECT 1; SET k new"),
    ("SET k new; SELECT 1; SET k old", "SELECT 1; GET k", "COPY k k DB 1 REPLACE"),
    ("SET k new", "SELECT 1; GET k", "MOVE k 1"),
];

const COLLECTIONS: &[Route] = &[
    ("HSET k f old", "HGETALL k", "HSET k f new"),
    ("HSET k f old", "HGET k f", "HDEL k f"),
    ("HSET k f 1", "HMGET k f", "HINCRBY k f 1"),
    ("LPUSH k old", "LRANGE k 0 -1", "LPUSH k new"),
    ("LPUSH k old", "LLEN k", "RPUSHX k new"),
    ("RPUSH k old older", "LINDEX k 0", "LPOP k"),
    ("RPUSH k old older", "LRANGE k 0 -1", "LTRIM k 1 1"),
    ("RPUSH k old older", "LRANGE k 0 -1", "LMOVE k other LEFT LEFT"),
    ("RPUSH other new", "LRANGE k 0 -1", "RPOPLPUSH other k"),
    ("RPUSH k old", "LLEN k", "LMPOP 1 k LEFT"),
    ("RPUSH k old", "LLEN k", "BLPOP k 0"),
    ("RPUSH other new", "LLEN k", "BLMOVE other k LEFT LEFT 0"),
    ("RPUSH k old", "LLEN k", "BLMPOP 0 1 k LEFT"),
    ("SADD k old", "SCARD k", "SADD k new"),
    ("SADD k old", "SISMEMBER k old", "SREM k old"),
    ("SADD other m", "SISMEMBER k m", "SMOVE other k m"),
    ("SADD k old; SADD other m", "SMEMBERS k", "SINTERSTORE k other other"),
    ("SADD k old", "SMEMBERS k", "SPOP k"),
    ("ZADD k 1 m", "ZSCORE k m", "ZADD k 2 m"),
    ("ZADD k 1 m", "ZRANGE k 0 -1 WITHSCORES", "ZINCRBY k 1 m"),
    ("ZADD k 1 m", "ZCARD k", "ZPOPMIN k"),
    ("ZADD k 1 m", "ZCARD k", "BZPOPMAX k 0"),
    ("ZADD k 1 old; ZADD other 1 m", "ZRANGE k 0 -1", "ZUNIONSTORE k 2 other other"),
    ("ZADD k 1 old; ZADD other 1 m", "ZRANK k m", "ZRANGESTORE k other 0 -1"),
    ("XADD k 1-1 f old", "XLEN k", "XADD k 2-1 f new"),
    ("XADD k 1-1 f old", "XRANGE k - +", "XDEL k 1-1"),
    ("XADD k 1-1 f old", "XRANGE k - +", "XTRIM k MAXLEN 0"),
    ("GEOADD k 1 1 m", "GEOPOS k m", "GEOADD k 2 2 m"),
    (
        "GEOADD k 1 1 old; GEOADD other 1 1 m",
        "GEOPOS k m",
        "GEOSEARCHSTORE k other FROMMEMBER m BYRADIUS 1 m",
    ),
];

const SCRIPTS: &[Route] = &[
    ("SET k old", "GET k", "EVAL redis.call('SET',KEYS[1],ARGV[1]) 1 k new"),
    ("SET k old", "GET k", "EVAL redis.call('SET','k','new') 0"),
    ("SET k old", "GET k", "EVAL redis.call('SET','k','new') 1 other"),
    ("SET k old", "GET k", "EVALSHA {sha} 1 k new"),
    ("SET k old", "GET k", "FCALL put 1 k new"),
    ("SET k old", "GET k", "FCALL put_hidden 0"),
    // A command that the server was made to rename, and of which nothing is known.
    ("SET k 1", "GET k", "SHRINK k"),
];

const TRANSACTIONS: &[Route] = &[
    ("SET k old", "GET k", "MULTI; SET k new; EXEC"),
    ("SET k old", "GET k", "MULTI; PING; DEL other; APPEND k er; EXEC"),
    ("SET k old", "GET k", "WATCH k; GET k; MULTI; SET k new; EXEC"),
    ("SET k old", "GET k", "MULTI; EVAL redis.call('SET','k','new') 0; EXEC"),
    ("SET k old", "GET k", "MULTI; FCALL put_hidden 0; EXEC"),
    ("SET k 1", "GET k", "MULTI; SHRINK k; EXEC"),
    ("SET k old", "GET k", "MULTI; FLUSHALL; EXEC"),
    ("SELECT 1; SET k old", "SELECT 1; GET k", "MULTI; SELECT 1; SET k new; EXEC"),
];

const WHOLESALE: &[Route] = &[
    ("SET k old", "GET k", "FLUSHALL"),
    ("SET k old", "GET k", "FLUSHALL ASYNC"),
    ("SET k old", "GET k", "FLUSHDB"),
    ("SELECT 1; SET k old", "SELECT 1; GET k", "SELECT 1; FLUSHDB"),
    ("SET k old; SELECT 1; SET k new", "GET k", "SWAPDB 0 1"),
    ("SET k new; SELECT 1; SET k old", "SELECT 1; GET k", "SWAPDB 1 0"),
];

#[test]
fn strings() {
    House::routed().take(STRINGS);
}

#[test]
fn keys() {
    House::routed().take(KEYS);
}

#[test]
fn collections() {
    House::routed().take(COLLECTIONS);
}

#[test]
fn scripts() {
    House::routed().take(SCRIPTS);
}

#[test]
fn transactions() {
    House::routed().take(TRANSACTIONS);
}

#[test]
fn wholesale() {
    House::routed().take(WHOLESALE);
}

/// A house, and what its routes need.
struct Routes {
    house: House,
    /// What stands for `{sha}` and `{dump}` in a route.
    sha: Vec<u8>,
    dump: Vec<u8>,
    /// One in each protocol.
    readers: [Client; 2],
    oracles: [Client; 2],
    writer: Client,
    outside: Client,
}

impl House {
    #[track_caller]
    fn routed() -> Routes {
        let house = Self::start_with(&["--rename-command", "DECR", "SHRINK"], |proxy| {
            proxy.set("cache.max_staleness", crate::LONG_LEASE)
        });
        house.proxy.wait_live();
        let mut outside = house.outside();
        let sha = outside.cmd(&["SCRIPT", "LOAD", "redis.call('SET', KEYS[1], ARGV[1])"]);
        outside.must("RPUSH list new");
        let dump = outside.must("DUMP list");
        let library = "#!lua name=library
            redis.register_function('put', function(keys, args) redis.call('SET', keys[1], args[1]) end)
            redis.register_function('put_hidden', function() redis.call('SET', 'k', 'new') end)";
        outside.expect(&bulk("library"), &["FUNCTION", "LOAD", library]);
        let [mut readers, mut oracles] =
            [[house.client(), house.client()], [house.outside(), house.outside()]];
        readers[1].hello(3);
        oracles[1].hello(3);
        let (sha, dump) = (payload(&sha).to_vec(), payload(&dump).to_vec());
        let writer = house.client();
        Routes { house, sha, dump, readers, oracles, writer, outside }
    }
}

impl Routes {
    #[track_caller]
    fn take(mut self, routes: &[Route]) {
        for route in routes {
            for round in 0..ROUNDS {
                self.go(*route, round);
            }
        }
    }

    #[track_caller]
    fn go(&mut self, (before, read, write): Route, round: u32) {
        self.outside.must("FLUSHALL");
        self.outside.must("SELECT 0");
        for line in before.split("; ").filter(|line| !line.is_empty()) {
            self.outside.must(line);
        }
        self.writer.must("SELECT 0");
        // A script's reply waits for all that was written so far to be known.
        self.writer.must("EVAL return(1) 0");

        let protocol = (round / 2 % 2) as usize;
        let (database, read) = read.split_once("; ").unwrap_or(("SELECT 0", read));
        for client in [&mut self.readers[protocol], &mut self.oracles[protocol]] {
            client.must(database);
        }
        let old = self.house.heat(&mut self.readers[protocol], read);

        let late_ms = if round.is_multiple_of(2) { LATE_PUSH_MS } else { 0 };
        self.house.relay.link().delay(0, late_ms);
        for line in write.split("; ") {
            let reply = self.writer.cmd(&self.words(line));
            assert_ne!(reply[0], b'-', "{line}: {}", shown(&reply));
        }
        let new = self.readers[protocol].ask(read);
        self.house.relay.link().delay(0, 0);

        let truth = self.oracles[protocol].ask(read);
        assert_ne!(shown(&truth), shown(&old), "{write} changes what {read} answers");
        assert_eq!(shown(&new), shown(&truth), "{read} after {write}, round {round}");
    }

    fn words(&self, line: &str) -> Vec<Vec<u8>> {
        let word = |word| match word {
            "{sha}" => self.sha.clone(),
            "{dump}" => self.dump.clone(),
            plain => plain.as_bytes().to_vec(),
        };
        words(line).into_iter().map(word).collect()
    }
}

/// An invalidation knows no databases, but a cached value does.
#[test]
fn databases_are_apart() {
    let house = House::start();
    house.proxy.wait_live();
    let mut clients = [house.client(), house.client(), house.client()];
    for (number, client) in clients.iter_mut().enumerate() {
        client.must(&format!("SELECT {number}"));
        client.must(&format!("SET k {number}"));
    }
    for _ in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(shown(&house.heat(client, "GET k")), shown(&bulk(&number.to_string())));
            client.must(&format!("SET k {number}"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(&bulk(&number.to_string()), &["GET", "k"]);
        }
    }
}

/// Redis still has it for up to a millisecond; from when it has not, nobody else may.
#[test]
fn a_key_that_expires_at_once() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut writer, mut outside) = (house.client(), house.client(), house.outside());
    for expire in ["PEXPIRE k 1", "PSETEX k 1 newer", "SET k newer PX 1", "GETEX k PX 1"] {
        for round in 0..ROUNDS {
            writer.must("SET k old");
            house.heat(&mut reader, "GET k");
            writer.must(expire);
            while outside.must("GET k") != b"$-1\r\n" {}
            let reply = reader.ask("GET k");
            assert_eq!(shown(&reply), r"$-1\r\n", "after {expire}, round {round}");
        }
    }
}

#[test]
fn a_key_that_no_longer_expires_stays() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut reader, mut writer) = (house.client(), house.client());
    for _ in 0..5 {
        writer.must("SET k value PX 80");
        reader.must("GET k");
        if writer.must("PERSIST k") == b":1\r\n" {
            thread::sleep(Duration::from_millis(100));
            reader.expect(&bulk("value"), &["GET", "k"]);
            reader.expect(b":-1\r\n", &["TTL", "k"]);
        }
    }
}

/// Many readers and writers of a few keys at a time, on all workers, and pushes that help nobody: a reader that
/// starts after an acknowledgement reads that write or a later one, whoever filled the cache meanwhile.
#[test]
fn readers_that_race_writers() {
    const KEYS: [&str; 2] = ["a", "b"];
    const WRITES: i64 = 400;
    let house = House::start();
    house.proxy.wait_live();
    house.delay_pushes();
    let acknowledged = [const { AtomicI64::new(0) }; KEYS.len()];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (house, acknowledged, done) = (&house, &acknowledged, &done);
        for number in 0..6 {
            scope.spawn(move || {
                let mut client = house.client();
                let mut random = fastrand::Rng::with_seed(number);
                while !done.load(SeqCst) {
                    let key = random.usize(..KEYS.len());
                    let least = acknowledged[key].load(SeqCst);
                    let reply = client.ask(&format!("GET {}", KEYS[key]));
                    let read = if reply == b"$-1\r\n" { 0 } else { number_in(&reply) };
                    assert!(read >= least, "{} is {read} after {least} was acknowledged", KEYS[key]);
                }
            });
        }
        let writers = KEYS.iter().zip(acknowledged).map(|(key, acknowledged)| {
            scope.spawn(move || {
                let mut client = house.client();
                let mut random = fastrand::Rng::with_seed(99);
                for _ in 0..WRITES {
                    let written = integer(&client.must(&format!("INCR {key}")));
                    acknowledged.fetch_max(written, SeqCst);
                    // Time for a fill, and for hits on it.
                    thread::sleep(Duration::from_micros(random.u64(..4_000)));
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        for writer in writers {
            writer.join().expect("the writer only writes");
        }
        done.store(true, SeqCst);
    });
    assert!(house.proxy.stat("hits") > 1_000, "nothing was answered from memory: nothing was tested");
    let mut reader = house.client();
    for key in KEYS {
        eventually("the last value stays", || number_in(&reader.ask(&format!("GET {key}"))) == WRITES);
    }
}

#[track_caller]
fn number_in(reply: &[u8]) -> i64 {
    str::from_utf8(payload(reply)).ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        panic!("no number: {}", shown(reply));
    })
}
