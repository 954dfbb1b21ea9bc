//! redis-rs with its blocking connection.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{
    Commands, Connection, ConnectionLike, InfoDict, PushInfo, PushKind, RedisResult, Script, TypedCommands,
    Value, cmd, pipe,
};

use crate::pair::Place;
use crate::redis_rs::{
    A_MOMENT, HOT_PASSES, INCREMENTS, POLLS_MAX, Protocol, TIMEOUT, WORKERS, open, open_as, rounds,
};
use crate::transcript::Transcript;

pub(crate) fn run(place: Place, protocol: Protocol) -> Vec<String> {
    rounds(place, protocol, |transcript, place, protocol| {
        let place = Caller { place, protocol };
        values(transcript, &mut place.connection(0));
        typed(transcript, &mut place.connection(0));
        hot(transcript, place);
        pipelines(transcript, &mut place.connection(0));
        transactions(transcript, place);
        scripts(transcript, &mut place.connection(0));
        scans(transcript, &mut place.connection(0));
        subscriptions(transcript, place);
        blocking(transcript, place);
        streams(transcript, place);
        databases(transcript, place);
        users(transcript, place);
        if protocol == "resp3" {
            pushes(transcript, place);
        }
    })
}

/// Who connects, and how.
#[derive(Clone, Copy)]
struct Caller {
    place: Place,
    protocol: Protocol,
}

impl Caller {
    fn connection(self, database: u8) -> Connection {
        let connection = open(self.place, self.protocol, database).get_connection().expect("a connection");
        connection.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        connection
    }

    /// Runs something once a client is blocked on the server, on a connection of its own.
    fn later(
        self,
        act: impl FnOnce(&mut Connection) -> RedisResult<Value> + Send + 'static,
    ) -> thread::JoinHandle<Value> {
        thread::spawn(move || {
            let mut connection = self.connection(0);
            for _ in 0..POLLS_MAX {
                let clients: InfoDict =
                    cmd("INFO").arg("clients").query(&mut connection).expect("INFO is text");
                if clients.get::<u64>("blocked_clients").is_some_and(|blocked| blocked > 0) {
                    break;
                }
                thread::sleep(A_MOMENT);
            }
            act(&mut connection).expect("it can be written")
        })
    }
}

/// A command in its words, for what has no method, and for replies as they come.
fn words(con: &mut Connection, line: &str) -> RedisResult<Value> {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().expect("a line has words"));
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(con)
}

fn values(t: &mut Transcript, con: &mut Connection) {
    t.step("values");
    let binary: Vec<u8> = (0..=255).collect();
    t.say("set", Commands::set(con, "key", "value"));
    for _ in 0..3 {
        t.say("get", Commands::get(con, "key"));
        t.say("get nil", Commands::get(con, "missing"));
    }
    t.say("set binary", Commands::set(con, &binary, &binary));
    for _ in 0..2 {
        t.say("get binary", Commands::get(con, &binary));
    }
    t.say("set large", Commands::set(con, "large", "0123456789".repeat(300_000)));
    for _ in 0..3 {
        t.say("get large", Commands::get(con, "large"));
    }
    for line in [
        "HSET hash f v g w",
        "HGETALL hash",
        "HGETALL hash",
        "HGETALL none",
        "HGETALL none",
        "RPUSH list a b c",
        "LRANGE list 0 -1",
        "LRANGE list 0 -1",
        "ZADD zset 1 one 2.5 two",
        "ZRANGE zset 0 -1 WITHSCORES",
        "ZRANGE zset 0 -1 WITHSCORES",
        "ZSCORE zset two",
        "ZSCORE zset two",
        "SADD numbers 3 1 2",
        "SMEMBERS numbers",
        "SMEMBERS numbers",
        "SISMEMBER numbers 1",
        "MGET key missing key",
        "MGET key missing key",
        "GEOADD geo 13.361389 38.115556 Palermo",
        "GEOPOS geo Palermo none",
        "INCRBYFLOAT float 1.25",
        "GET float",
        "SET expiring soon PX 40",
        "OBJECT ENCODING list",
        "LPUSH key x",
        "HGETALL key",
        "HGETALL key",
        "INCR key",
        "GET",
        "NOSUCH a b",
        "CONFIG GET maxmemory",
        "COMMAND COUNT",
        "COMMAND INFO get",
        "CLIENT GETNAME",
        "CLIENT SETNAME rs",
        "CLIENT GETNAME",
        "ROLE",
        "WAIT 0 1",
        "DEL key",
        "GET key",
    ] {
        t.say(line, words(con, line));
    }
    thread::sleep(A_MOMENT * 2);
    t.say("expired", Commands::get(con, "expiring"));
}

/// Replies that redis-rs makes values of: it has to be told the same types.
fn typed(t: &mut Transcript, con: &mut Connection) {
    t.step("typed");
    t.note("set", TypedCommands::set(con, "typed", 42));
    for _ in 0..2 {
        t.note("get", TypedCommands::get(con, "typed"));
        t.note("get int", TypedCommands::get_int(con, "typed"));
        t.note("mget", TypedCommands::mget(con, &["typed", "missing"]));
        t.note("exists", TypedCommands::exists(con, "typed"));
    }
    t.note("incr", TypedCommands::incr(con, "typed", 1));
    t.note("hset", TypedCommands::hset_multiple(con, "typed:hash", &[("a", 1), ("b", 2)]));
    for _ in 0..2 {
        t.note("hgetall", t.take::<BTreeMap<String, u32>>("hgetall", Commands::hgetall(con, "typed:hash")));
    }
    t.note("zadd", TypedCommands::zadd(con, "typed:zset", "member", 1.5));
    for _ in 0..2 {
        t.note("zrange", TypedCommands::zrange_withscores(con, "typed:zset", 0, -1));
    }
    t.note("ttl", TypedCommands::ttl(con, "typed"));
    t.note("wrong type", t.take::<Option<String>>("get", Commands::get(con, "none")));
    t.note("del", TypedCommands::del(con, "typed"));
}

fn hot(t: &mut Transcript, place: Caller) {
    t.step("hot");
    let mut connections = [place.connection(0), place.connection(0)];
    let keys: Vec<String> = (0..10).map(|number| format!("hot:{number}")).collect();
    for version in 0..2 {
        for key in &keys {
            t.say("set", Commands::set(&mut connections[0], key, format!("{key} {version}")));
        }
        for pass in 0..HOT_PASSES {
            let con = &mut connections[pass % 2];
            for key in &keys {
                t.say("get", Commands::get(con, key));
            }
            t.say("mget", Commands::mget(con, &keys));
        }
    }
}

fn pipelines(t: &mut Transcript, con: &mut Connection) {
    t.step("pipelines");
    for atomic in [false, true] {
        let mut pipeline = pipe();
        if atomic {
            pipeline.atomic();
        }
        pipeline.set("piped", 1).ignore().get("piped").incr("piped", 5).get("piped").hgetall("piped:none");
        t.say("query", pipeline.query(con));
        t.say("again", pipeline.query(con));
        let mut failing = pipe();
        if atomic {
            failing.atomic();
        }
        failing.set("piped", 7).lpush("piped", "x").get("piped");
        t.say("one fails", failing.query(con));
        failing.ignore_errors();
        t.say("errors among the replies", failing.query(con));
        let mut many = pipe();
        if atomic {
            many.atomic();
        }
        for number in 0..500 {
            many.set(format!("piped:{}", number % 50), number).get(format!("piped:{}", number % 50));
        }
        t.say("many", many.query(con));
    }
}

fn transactions(t: &mut Transcript, place: Caller) {
    t.step("transactions");
    let mut con = place.connection(0);
    t.say("set", Commands::set(&mut con, "contended", 0));
    let workers = [(); WORKERS].map(|()| thread::spawn(move || increments(&mut place.connection(0))));
    workers.into_iter().for_each(|worker| worker.join().expect("it says what went wrong"));
    t.say("sum", Commands::get(&mut con, "contended"));
    let mut other = place.connection(0);
    let mut tries = 0;
    let done: RedisResult<Value> = redis::transaction(&mut con, &["contended"], |con, pipeline| {
        tries += 1;
        let value: i64 = Commands::get(con, "contended")?;
        if tries == 1 {
            let _: Value = Commands::set(&mut other, "contended", 100)?;
        }
        pipeline.set("contended", value + 1).get("contended").query(con)
    });
    t.say("disturbed", done);
    t.note("tries", tries);
    for line in ["WATCH contended", "UNWATCH", "MULTI", "SET contended x", "DISCARD", "GET contended", "EXEC"]
    {
        t.say(line, words(&mut con, line));
    }
}

/// The loop that redis-rs makes of WATCH: no increment may be lost.
fn increments(con: &mut Connection) {
    for _ in 0..INCREMENTS {
        let added: RedisResult<Value> = redis::transaction(con, &["contended"], |con, pipeline| {
            let value: i64 = Commands::get(con, "contended")?;
            pipeline.set("contended", value + 1).query(con)
        });
        added.expect("it is added at last");
    }
}

fn scripts(t: &mut Transcript, con: &mut Connection) {
    t.step("scripts");
    let script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), redis.call('GET', KEYS[1])}");
    // EVALSHA says NOSCRIPT, redis-rs loads it and asks again.
    for _ in 0..2 {
        t.say("invoke", script.key("scripted").arg(5).invoke(con));
        t.say("get", Commands::get(con, "scripted"));
    }
    t.note("load", script.prepare_invoke().load(con));
    let mut pipeline = pipe();
    pipeline.invoke_script(script.key("scripted").arg(1)).get("scripted");
    t.say("piped", pipeline.query(con));
    t.say("error", Script::new("return redis.error_reply('MY words')").invoke(con));
}

fn scans(t: &mut Transcript, con: &mut Connection) {
    t.step("scans");
    for number in 0..200 {
        t.take::<Value>("set", Commands::set(con, format!("scan:{number}"), number));
        t.take::<Value>("hset", Commands::hset(con, "scanned:hash", format!("f{number}"), "x".repeat(100)));
        t.take::<Value>("sadd", Commands::sadd(con, "scanned:set", number * 1_000_000_007_i64));
    }
    let keys: RedisResult<Vec<String>> = Commands::scan_match(con, "scan:*").map(sorted);
    t.note("scan", keys);
    let fields: RedisResult<Vec<String>> = Commands::hscan::<_, (String, String)>(con, "scanned:hash")
        .map(|all| sorted(all.map(|pair| pair.map(|(field, value)| format!("{field}={}", value.len())))));
    t.note("hscan", fields);
    let members: RedisResult<Vec<String>> = Commands::sscan(con, "scanned:set").map(sorted);
    t.note("sscan", members);
}

fn sorted(found: impl Iterator<Item = RedisResult<String>>) -> Vec<String> {
    let mut all: Vec<String> = found.map(|one| one.expect("the scan goes on")).collect();
    all.sort();
    all
}

fn subscriptions(t: &mut Transcript, place: Caller) {
    t.step("subscriptions");
    let mut con = place.connection(0);
    let mut publisher = place.connection(0);
    let mut pubsub = con.as_pubsub();
    // One at a time: redis-rs waits for a single confirmation, whatever it asked for.
    for channel in ["news", "more"] {
        t.note("subscribe", pubsub.subscribe(channel));
    }
    t.note("psubscribe", pubsub.psubscribe("pattern:*"));
    for (channel, message) in [("news", "one"), ("pattern:x", "two"), ("nobody", "three")] {
        t.say("publish", Commands::publish(&mut publisher, channel, message));
    }
    for _ in 0..2 {
        t.note("message", pubsub.get_message());
    }
    t.say("ping", pubsub.ping());
    t.note("unsubscribe", pubsub.unsubscribe("news"));
    t.say("publish", Commands::publish(&mut publisher, "news", "nobody hears"));
    drop(pubsub);
    // The connection leaves its subscriptions, and is one like all others again.
    t.say("usable", Commands::set(&mut con, "after", 1));
    t.say("usable", Commands::get(&mut con, "after"));
    t.say("nobody left", words(&mut con, "PUBSUB NUMSUB news more"));
}

fn blocking(t: &mut Transcript, place: Caller) {
    t.step("blocking");
    let mut con = place.connection(0);
    t.say("cached", Commands::lrange(&mut con, "queue", 0, -1));
    let pushed = place.later(|con| Commands::rpush(con, "queue", &["a", "b"]));
    t.say("blpop", Commands::blpop(&mut con, "queue", 10.0));
    t.note("pushed", pushed.join().expect("it was pushed"));
    t.say("rest", Commands::lrange(&mut con, "queue", 0, -1));
    t.say("times out", Commands::blpop(&mut con, "empty", 0.05));
    t.say("usable", Commands::get(&mut con, "empty"));
}

fn streams(t: &mut Transcript, place: Caller) {
    t.step("streams");
    let mut con = place.connection(0);
    for number in 1..=4 {
        t.say("xadd", Commands::xadd(&mut con, "stream", format!("{number}-1"), &[("n", number)]));
    }
    for line in [
        "XRANGE stream - +",
        "XRANGE stream - +",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group alice COUNT 2 STREAMS stream >",
        "XACK stream group 1-1",
        "XPENDING stream group",
        "XREADGROUP GROUP group alice STREAMS stream 0",
        "XINFO GROUPS stream",
    ] {
        t.say(line, words(&mut con, line));
    }
    let added = place.later(|con| Commands::xadd(con, "stream", "9-1", &[("n", 9)]));
    let options = StreamReadOptions::default().block(10_000).count(10);
    let read: RedisResult<Option<StreamReadReply>> =
        Commands::xread_options(&mut con, &["stream"], &["$"], &options);
    t.note("xread", read);
    t.note("added", added.join().expect("it was added"));
}

fn databases(t: &mut Transcript, place: Caller) {
    t.step("databases");
    let [mut zero, mut three] = [0, 3].map(|database| place.connection(database));
    t.say("set", Commands::set(&mut zero, "place", "zero"));
    t.say("set", Commands::set(&mut three, "place", "three"));
    for _ in 0..2 {
        t.say("zero", Commands::get(&mut zero, "place"));
        t.say("three", Commands::get(&mut three, "place"));
    }
    t.note("db", (zero.get_db(), three.get_db()));
    t.say("select", words(&mut zero, "SELECT 3"));
    t.say("now three", Commands::get(&mut zero, "place"));
    t.say("flushdb", words(&mut three, "FLUSHDB"));
    t.say("flushed", Commands::get(&mut zero, "place"));
}

fn users(t: &mut Transcript, place: Caller) {
    t.step("users");
    let mut con = place.connection(0);
    t.say("setuser", words(&mut con, "ACL SETUSER alice reset on >secret ~her:* +@all -@admin +acl|whoami"));
    let mut alice =
        open_as(place.place, place.protocol, "alice:secret@", 0).get_connection().expect("she may");
    t.say("set", Commands::set(&mut con, "his:key", "his"));
    for line in [
        "ACL WHOAMI",
        "SET her:key 1",
        "GET her:key",
        "GET her:key",
        "GET his:key",
        "CONFIG GET *",
        "MGET her:key his:key",
    ] {
        t.say(line, words(&mut alice, line));
    }
    let refused = open_as(place.place, place.protocol, "alice:guess@", 0).get_connection();
    t.note("wrong password", refused.err().map(|error| (error.kind(), error.to_string())));
    t.say("deluser", words(&mut con, "ACL DELUSER alice"));
    t.note("cut off", words(&mut alice, "GET her:key").is_err());
}

/// RESP3 has pushes between replies, on the connection that goes on with commands.
fn pushes(t: &mut Transcript, place: Caller) {
    t.step("pushes");
    let mut con = place.connection(0);
    let mut other = place.connection(0);
    let (sender, heard) = mpsc::channel();
    con.set_push_sender(sender);
    t.note("subscribe", con.subscribe_resp3("news"));
    t.say("set", Commands::set(&mut con, "subject", "old"));
    t.say("get", Commands::get(&mut con, "subject"));
    t.say("publish", Commands::publish(&mut other, "news", "a push"));
    t.note("message", pushed(&mut con, &heard, &PushKind::Message));
    t.note("unsubscribe", con.unsubscribe_resp3("news"));
    t.say("tracking", words(&mut con, "CLIENT TRACKING ON"));
    t.say("get", Commands::get(&mut con, "subject"));
    t.say("set elsewhere", Commands::set(&mut other, "subject", "new"));
    t.note("invalidated", pushed(&mut con, &heard, &PushKind::Invalidate));
    t.say("get", Commands::get(&mut con, "subject"));
}

/// The next push of a kind. redis-rs reads what has come when it reads a reply, so it is given replies to read.
fn pushed(con: &mut Connection, heard: &Receiver<PushInfo>, kind: &PushKind) -> Vec<Value> {
    for _ in 0..POLLS_MAX {
        con.check_connection();
        if let Some(push) = heard.try_iter().find(|push| push.kind == *kind) {
            return push.data;
        }
        thread::sleep(A_MOMENT);
    }
    panic!("no {kind:?} comes");
}
