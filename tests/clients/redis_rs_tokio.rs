//! redis-rs on tokio: the multiplexed connection, which many tasks share, and the manager, which reconnects.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::caching::CacheConfig;
use redis::{
    AsyncCommands, AsyncConnectionConfig, PushInfo, PushKind, RedisResult, Script, Value, cmd, pipe,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{sleep, timeout};

use crate::pair::Place;
use crate::redis_rs::{
    A_MOMENT, HOT_PASSES, INCREMENTS, POLLS_MAX, Protocol, TIMEOUT, WORKERS, open, rounds,
};
use crate::transcript::Transcript;

/// Tasks that share one connection, and the commands of each.
const TASKS: usize = 50;
const COMMANDS: usize = 20;

/// What every kind of connection can do.
trait Shared: ConnectionLike + AsyncCommands + Clone + Send + Sync + 'static {}

impl<C: ConnectionLike + AsyncCommands + Clone + Send + Sync + 'static> Shared for C {}

/// The workload with the multiplexed connection.
pub(crate) fn run_multiplexed(place: Place, protocol: Protocol) -> Vec<String> {
    run(place, protocol, |t, place, protocol| async move {
        let mut t = t;
        let caller = Caller { place, protocol };
        everything(&mut t, &mut caller.multiplexed(0).await, &mut caller.multiplexed(0).await).await;
        databases(&mut t, caller).await;
        subscriptions(&mut t, caller).await;
        if protocol == "resp3" {
            pushes(&mut t, caller).await;
            client_side_caching(&mut t, caller).await;
        }
        t
    })
}

/// The workload with the manager.
pub(crate) fn run_manager(place: Place, protocol: Protocol) -> Vec<String> {
    run(place, protocol, |t, place, protocol| async move {
        let mut t = t;
        let caller = Caller { place, protocol };
        everything(&mut t, &mut caller.manager().await, &mut caller.manager().await).await;
        reconnection(&mut t, caller).await;
        t
    })
}

fn run<F: Future<Output = Transcript>>(
    place: Place,
    protocol: Protocol,
    workload: impl Fn(Transcript, Place, Protocol) -> F,
) -> Vec<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    rounds(place, protocol, |transcript, place, protocol| {
        *transcript = runtime.block_on(workload(std::mem::take(transcript), place, protocol));
    })
}

/// Who connects, and how.
#[derive(Clone, Copy)]
struct Caller {
    place: Place,
    protocol: Protocol,
}

impl Caller {
    async fn multiplexed(self, database: u8) -> MultiplexedConnection {
        self.configured(database, Self::config()).await
    }

    async fn configured(self, database: u8, config: AsyncConnectionConfig) -> MultiplexedConnection {
        let client = open(self.place, self.protocol, database);
        client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
    }

    fn config() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT)).set_connection_timeout(Some(TIMEOUT))
    }

    async fn manager(self) -> ConnectionManager {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(TIMEOUT))
            .set_connection_timeout(Some(TIMEOUT));
        let client = open(self.place, self.protocol, 0);
        client.get_connection_manager_with_config(config).await.expect("a connection")
    }
}

async fn words<C: Shared>(con: &mut C, line: &str) -> RedisResult<Value> {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().expect("a line has words"));
    words.for_each(|word| {
        command.arg(word);
    });
    command.query_async(con).await
}

/// What both kinds of connection do.
async fn everything<C: Shared>(t: &mut Transcript, con: &mut C, other: &mut C) {
    values(t, con).await;
    hot(t, con, other).await;
    tasks(t, con).await;
    pipelines(t, con).await;
    transactions(t, con, other).await;
    scripts(t, con).await;
    scans(t, con).await;
    blocking(t, con, other).await;
}

async fn values<C: Shared>(t: &mut Transcript, con: &mut C) {
    t.step("values");
    let binary: Vec<u8> = (0..=255).collect();
    t.say("set binary", con.set(&binary, &binary).await);
    for _ in 0..2 {
        t.say("get binary", con.get(&binary).await);
    }
    t.say("set large", con.set("large", "0123456789".repeat(300_000)).await);
    for _ in 0..3 {
        t.say("get large", con.get("large").await);
    }
    for line in [
        "SET key value",
        "GET key",
        "GET key",
        "GET none",
        "GET none",
        "HSET hash f v g w",
        "HGETALL hash",
        "HGETALL hash",
        "HGETALL none",
        "ZADD zset 1 one 2.5 two",
        "ZRANGE zset 0 -1 WITHSCORES",
        "ZRANGE zset 0 -1 WITHSCORES",
        "SADD numbers 3 1 2",
        "SMEMBERS numbers",
        "SMEMBERS numbers",
        "LPUSH key x",
        "GET hash",
        "GET",
        "NOSUCH a b",
        "XADD stream 1-1 f v",
        "XRANGE stream - +",
        "CLIENT SETNAME tokio",
        "CLIENT GETNAME",
        "CONFIG GET maxmemory",
        "COMMAND COUNT",
        "DEL key",
        "GET key",
    ] {
        t.say(line, words(con, line).await);
    }
    let typed: RedisResult<(Option<String>, Vec<Option<i64>>)> =
        pipe().get("hash:none").mget(&["a", "b"]).query_async(con).await;
    t.note("typed", typed);
}

async fn hot<C: Shared>(t: &mut Transcript, con: &mut C, other: &mut C) {
    t.step("hot");
    let keys: Vec<String> = (0..10).map(|number| format!("hot:{number}")).collect();
    for version in 0..2 {
        for key in &keys {
            t.say("set", con.set(key, format!("{key} {version}")).await);
        }
        for _ in 0..HOT_PASSES {
            for key in &keys {
                t.say("get", con.get(key).await);
                t.say("get of another", other.get(key).await);
            }
            t.say("mget", con.mget(&keys).await);
        }
    }
}

/// Many tasks on one connection: everybody has to get their own reply, in spite of hits that overtake misses.
async fn tasks<C: Shared>(t: &mut Transcript, con: &mut C) {
    t.step("tasks");
    let running: Vec<_> = (0..TASKS)
        .map(|task| {
            let mut con = con.clone();
            tokio::spawn(async move {
                let mut wrong = 0;
                for number in 0..COMMANDS {
                    let (own, value) = (format!("task:{task}"), format!("{task}:{number}"));
                    let set: RedisResult<()> = con.set(&own, &value).await;
                    let read: RedisResult<String> = con.get(&own).await;
                    let added: RedisResult<i64> = con.incr("tasks", 1).await;
                    let common: RedisResult<String> = con.get("task:common").await;
                    let is_right = read.is_ok_and(|read| read == value) && common.is_err();
                    wrong += usize::from(set.is_err() || added.is_err() || !is_right);
                }
                wrong
            })
        })
        .collect();
    let mut wrong = 0;
    for task in running {
        wrong += task.await.expect("a task ends");
    }
    t.note("wrong", wrong);
    t.say("sum", con.get("tasks").await);
}

async fn pipelines<C: Shared>(t: &mut Transcript, con: &mut C) {
    t.step("pipelines");
    for atomic in [false, true] {
        let mut pipeline = pipe();
        let mut failing = pipe();
        let mut many = pipe();
        if atomic {
            for one in [&mut pipeline, &mut failing, &mut many] {
                one.atomic();
            }
        }
        pipeline.set("piped", 1).ignore().get("piped").incr("piped", 5).get("piped").hgetall("piped:none");
        for _ in 0..2 {
            t.say("query", pipeline.query_async(con).await);
        }
        failing.set("piped", 7).lpush("piped", "x").get("piped");
        t.say("one fails", failing.query_async(con).await);
        failing.ignore_errors();
        t.say("errors among the replies", failing.query_async(con).await);
        for number in 0..500 {
            many.set(format!("piped:{}", number % 50), number).get(format!("piped:{}", number % 50));
        }
        t.say("many", many.query_async(con).await);
    }
}

/// WATCH belongs to a connection: each of these has one that nobody else uses meanwhile.
async fn transactions<C: Shared>(t: &mut Transcript, con: &mut C, other: &mut C) {
    t.step("transactions");
    t.say("set", con.set("contended", 0).await);
    let workers = [con.clone(), other.clone()].map(|con| {
        tokio::spawn(async move {
            for _ in 0..WORKERS * INCREMENTS / 2 {
                increment(con.clone()).await.expect("it is added at last");
            }
        })
    });
    for worker in workers {
        worker.await.expect("a task ends");
    }
    t.say("sum", con.get("contended").await);
}

async fn increment<C: Shared>(con: C) -> RedisResult<Value> {
    redis::aio::transaction_async(con, &["contended"], |mut con, mut pipeline| async move {
        let value: i64 = con.get("contended").await?;
        pipeline.set("contended", value + 1).query_async(&mut con).await
    })
    .await
}

async fn scripts<C: Shared>(t: &mut Transcript, con: &mut C) {
    t.step("scripts");
    let script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), redis.call('GET', KEYS[1])}");
    for _ in 0..2 {
        t.say("invoke", script.key("scripted").arg(5).invoke_async(con).await);
        t.say("get", con.get("scripted").await);
    }
    t.say("error", Script::new("return redis.error_reply('MY words')").invoke_async(con).await);
}

async fn scans<C: Shared>(t: &mut Transcript, con: &mut C) {
    t.step("scans");
    for number in 0..200 {
        t.take::<Value>("set", con.set(format!("scan:{number}"), number).await);
    }
    let mut keys: Vec<String> = Vec::new();
    let mut scan = con.scan_match::<_, String>("scan:*").await.expect("the scan begins");
    while let Some(key) = scan.next_item().await {
        keys.push(key.expect("the scan goes on"));
    }
    keys.sort();
    t.note("scan", keys);
}

async fn blocking<C: Shared>(t: &mut Transcript, con: &mut C, other: &mut C) {
    t.step("blocking");
    let mut another = other.clone();
    let pushed = tokio::spawn(async move {
        sleep(A_MOMENT).await;
        another.rpush::<_, _, Value>("queue", &["a", "b"]).await
    });
    t.say("blpop", con.blpop("queue", 10.0).await);
    t.say("pushed", pushed.await.expect("a task ends"));
    t.say("rest", con.lrange("queue", 0, -1).await);
    t.say("times out", con.blpop("empty", 0.05).await);
}

async fn databases(t: &mut Transcript, caller: Caller) {
    t.step("databases");
    let (mut zero, mut three) = (caller.multiplexed(0).await, caller.multiplexed(3).await);
    t.say("set", zero.set("place", "zero").await);
    t.say("set", three.set("place", "three").await);
    for _ in 0..2 {
        t.say("zero", zero.get("place").await);
        t.say("three", three.get("place").await);
    }
}

async fn subscriptions(t: &mut Transcript, caller: Caller) {
    t.step("subscriptions");
    let mut publisher = caller.multiplexed(0).await;
    let mut pubsub = open(caller.place, caller.protocol, 0).get_async_pubsub().await.expect("a connection");
    t.note("subscribe", pubsub.subscribe(&["news", "more"]).await);
    t.note("psubscribe", pubsub.psubscribe("pattern:*").await);
    t.say("ping", pubsub.ping().await);
    for (channel, message) in [("news", "one"), ("pattern:x", "two"), ("nobody", "three")] {
        t.say("publish", publisher.publish(channel, message).await);
    }
    for _ in 0..2 {
        let message = timeout(TIMEOUT, pubsub.on_message().next()).await.expect("a message comes");
        t.note("message", message);
    }
    t.note("unsubscribe", pubsub.unsubscribe(&["news", "more"]).await);
    t.say("publish", publisher.publish("news", "nobody hears").await);
}

async fn listeners<C: Shared>(con: &mut C, channel: &str) -> RedisResult<i64> {
    let (_, count): (String, i64) = cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(con).await?;
    Ok(count)
}

/// In RESP3 one connection carries commands and messages.
async fn pushes(t: &mut Transcript, caller: Caller) {
    t.step("pushes");
    let (sender, mut heard) = unbounded_channel();
    let mut con = caller.configured(0, Caller::config().set_push_sender(sender)).await;
    let mut other = caller.multiplexed(0).await;
    t.say("set", con.set("subject", "old").await);
    t.note("subscribe", con.subscribe("news").await);
    t.note("psubscribe", con.psubscribe("pattern:*").await);
    t.say("get", con.get("subject").await);
    // Whoever has listened before may still be leaving.
    while listeners(&mut other, "news").await != Ok(1) {
        sleep(Duration::from_millis(5)).await;
    }
    t.say("publish", other.publish("news", "a push").await);
    t.note("message", pushed(&mut heard, &PushKind::Message).await);
    t.say("publish", other.publish("pattern:x", "another").await);
    t.note("message", pushed(&mut heard, &PushKind::PMessage).await);
    t.note("unsubscribe", con.unsubscribe("news").await);
    t.note("punsubscribe", con.punsubscribe("pattern:*").await);
    t.say("usable", con.get("subject").await);
    t.say("tracking", words(&mut con, "CLIENT TRACKING ON").await);
    t.say("get", con.get("subject").await);
    t.say("set elsewhere", other.set("subject", "new").await);
    t.note("invalidated", pushed(&mut heard, &PushKind::Invalidate).await);
    t.say("get", con.get("subject").await);
}

async fn pushed(heard: &mut UnboundedReceiver<PushInfo>, kind: &PushKind) -> Vec<Value> {
    loop {
        let push =
            timeout(TIMEOUT, heard.recv()).await.expect("a push comes").expect("the connection stands");
        if push.kind == *kind {
            return push.data;
        }
    }
}

/// redis-rs's own cache, told by the server what others change.
async fn client_side_caching(t: &mut Transcript, caller: Caller) {
    t.step("client side caching");
    let mut con = caller.configured(0, Caller::config().set_cache_config(CacheConfig::new())).await;
    let mut other = caller.multiplexed(0).await;
    t.say("set", other.set("tracked", "old").await);
    for _ in 0..3 {
        t.say("get", con.get("tracked").await);
        t.say("mget", con.mget(&["tracked", "missing"]).await);
    }
    t.note("hits", con.get_cache_statistics().is_some_and(|statistics| statistics.hit > 0));
    t.say("set elsewhere", other.set("tracked", "new").await);
    let mut seen: Option<String> = None;
    for _ in 0..POLLS_MAX {
        seen = con.get("tracked").await.expect("a reply");
        if seen.as_deref() == Some("new") {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    t.note("seen", seen);
}

/// The manager loses its connection and dials again; a program sees at most an error or a few meanwhile.
async fn reconnection(t: &mut Transcript, caller: Caller) {
    t.step("reconnection");
    let mut con = caller.manager().await;
    let mut killer = caller.multiplexed(0).await;
    t.say("set", con.set("survivor", 1).await);
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut con).await.expect("a number");
    t.say("kill", cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async(&mut killer).await);
    let mut seen: RedisResult<Value> = Ok(Value::Nil);
    for _ in 0..POLLS_MAX {
        seen = con.get("survivor").await;
        if seen.is_ok() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    t.say("seen", seen);
    let new: i64 = cmd("CLIENT").arg("ID").query_async(&mut con).await.expect("a number");
    t.note("another connection", new > id);
}
