//! Steps about data: every type, what is large, binary, or about to expire.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use fred::prelude::*;
use fred::types::Expiration;
use fred::types::scan::Scanner;
use futures::TryStreamExt;

use crate::place::{client, custom, until};
use crate::transcript::Transcript;

const HOT_PASSES: usize = 15;

/// Runs each command, which is words with blanks between, and says what came of it.
pub(crate) async fn run(said: &mut Transcript, client: &Client, commands: &[&str]) {
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        said.say(command, custom(client, &words).await);
    }
}

/// The same for replies without an order.
async fn run_sorted(said: &mut Transcript, client: &Client, commands: &[&str]) {
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        said.say_sorted(command, custom(client, &words).await);
    }
}

async fn read_hot(client: &Client) -> Result<Vec<Value>, Error> {
    let mut seen = Vec::new();
    for number in 0..10 {
        seen.push(client.get(format!("hot:{number}")).await?);
    }
    seen.push(client.get("hot:missing").await?);
    seen.push(client.mget(vec!["hot:0", "hot:1", "hot:missing"]).await?);
    seen.push(client.hgetall("hot:hash").await?);
    seen.push(client.hget("hot:hash", "field").await?);
    seen.push(client.lrange("hot:list", 0, -1).await?);
    seen.push(client.zrange("hot:zset", 0, -1, None, false, None, true).await?);
    seen.push(client.zscore("hot:zset", "member").await?);
    seen.push(client.scard("hot:set").await?);
    seen.push(client.sismember("hot:set", "1").await?);
    seen.push(client.strlen("hot:1").await?);
    seen.push(client.exists("hot:1").await?);
    Ok(seen)
}

/// What a cache is for: the same few reads, again and again, by two programs. And then a change.
pub(crate) async fn hot(said: &mut Transcript) {
    let (client, other) = (client(0).await.expect("connected"), client(0).await.expect("connected"));
    for version in ["1", "2"] {
        let many: Vec<(String, String)> =
            (0..10).map(|n| (format!("hot:{n}"), format!("{version}:{n}"))).collect();
        said.say("mset", client.mset(many).await.map(|()| Value::Null));
        said.say("hset", client.hset("hot:hash", [("field", version), ("other", "value")]).await);
        said.say("del", client.del("hot:list").await);
        said.say("rpush", client.rpush("hot:list", vec![version, "b", "c"]).await);
        said.say("zadd", client.zadd("hot:zset", None, None, false, false, (1.5, "member")).await);
        said.say("sadd", client.sadd("hot:set", version).await);
        let first = read_hot(&client).await.expect("all reads are answered");
        said.note("read", first.clone().into_iter().filter(|value| !value.is_map()).collect::<Vec<_>>());
        let mut different = 0;
        for _ in 0..HOT_PASSES {
            for reader in [&client, &other] {
                different += usize::from(read_hot(reader).await.expect("all reads are answered") != first);
            }
        }
        said.note("different", different);
    }
}

pub(crate) async fn strings(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    said.say("set nx", client.set("greeting", "hello", None, Some(SetOptions::NX), false).await);
    said.say("set nx", client.set("greeting", "other", None, Some(SetOptions::NX), false).await);
    said.say("set get", client.set("greeting", "newer", Some(Expiration::EX(100)), None, true).await);
    run(
        said,
        &client,
        &[
            "GET greeting",
            "GET greeting",
            "GET missing",
            "GETSET greeting newest",
            "APPEND greeting !",
            "STRLEN greeting",
            "GETRANGE greeting 1 3",
            "SETRANGE greeting 2 XX",
            "GET greeting",
            "MSET a 1 b 2.5",
            "MGET a b none",
            "MGET a b none",
            "INCR a",
            "INCRBY a 5",
            "INCRBYFLOAT b 1.5",
            "MGET a b",
            "SETBIT bits 9 1",
            "GETBIT bits 9",
            "BITCOUNT bits",
            "BITFIELD bits SET u8 0 200 GET u8 0",
            "GETDEL a",
            "GET a",
            "RENAME b renamed",
            "GET renamed",
            "COPY renamed copied",
            "GET copied",
            "TYPE copied",
            "TYPE missing",
            "EXISTS copied missing copied",
            "DEL copied missing",
            "GET copied",
            "UNLINK renamed",
            "OBJECT ENCODING greeting",
            "LPUSH greeting x",
            "LRANGE greeting 0 -1",
            "LRANGE greeting 0 -1",
            "INCR greeting",
            "NOSUCH a",
            "GET",
            "RENAME missing x",
            "SET greeting x EX 0",
            "CONFIG SET nosuch 1",
            "COMMAND INFO get",
            "COMMAND COUNT",
            "CONFIG GET maxmemory-policy",
        ],
    )
    .await;
    let dumped: Value = client.dump("greeting").await.expect("there is such a key");
    said.say("restore", client.restore("restored", 0, dumped, false, false, None, None).await);
    said.say("restored", client.get("restored").await);
}

pub(crate) async fn collections(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    run(
        said,
        &client,
        &[
            "HSET hash name Ada born 1815",
            "RPUSH list a b c",
            "SADD set a b c",
            "SADD set2 b c d",
            "ZADD zset 1 one 2.5 two",
        ],
    )
    .await;
    run(
        said,
        &client,
        &["GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "PFADD log a b"],
    )
    .await;
    for _ in 0..2 {
        run(
            said,
            &client,
            &[
                "HGETALL hash",
                "HGET hash name",
                "HMGET hash name none",
                "HLEN hash",
                "HEXISTS hash name",
                "HGETALL missing",
                "LRANGE list 0 -1",
                "LINDEX list 1",
                "LLEN list",
                "LPOS list b",
                "SISMEMBER set a",
                "SMISMEMBER set a z",
                "SCARD set",
                "ZRANGE zset 0 -1",
                "ZRANGE zset 0 -1 WITHSCORES",
                "ZREVRANGE zset 0 0 WITHSCORES",
                "ZRANGEBYSCORE zset 2 +inf WITHSCORES",
                "ZSCORE zset two",
                "ZSCORE zset none",
                "ZMSCORE zset one none",
                "ZRANK zset two",
                "ZCARD zset",
                "ZCOUNT zset -inf 2",
                "ZADD zset INCR 0.5 one",
                "GEOPOS geo Palermo none",
                "GEODIST geo Palermo Catania km",
                "GEOHASH geo Palermo",
                "GEOSEARCH geo FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST",
                "PFCOUNT log",
                "ZUNION 2 zset zset WITHSCORES",
                "HINCRBYFLOAT hash born 0.5",
                "HRANDFIELD missing 2 WITHVALUES",
                "ZPOPMIN missing",
                "ZPOPMAX zset 0",
            ],
        )
        .await;
        run_sorted(
            said,
            &client,
            &["SMEMBERS set", "SINTER set set2", "SUNION set set2", "SDIFF set set2", "HKEYS hash"],
        )
        .await;
    }
    run(
        said,
        &client,
        &[
            "LMOVE list other LEFT RIGHT",
            "LPOP list 2",
            "LRANGE list 0 -1",
            "SMOVE set set2 a",
            "SREM set b",
            "SPOP set 5",
            "ZPOPMIN zset",
            "ZRANGE zset 0 -1",
            "HDEL hash name none",
            "HGETALL hash",
            "SORT other",
            "ZRANDMEMBER zset 1 WITHSCORES",
        ],
    )
    .await;
}

pub(crate) async fn expiry(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    run(
        said,
        &client,
        &[
            "SETEX brief 100 value",
            "GET brief",
            "GET brief",
            "PERSIST brief",
            "TTL brief",
            "TTL missing",
            "EXPIREAT brief 4000000000",
            "EXPIRETIME brief",
            "PEXPIRE brief 0",
            "GET brief",
            "SET shortest value PX 50",
        ],
    )
    .await;
    until(async || client.get::<Option<String>, _>("shortest").await.is_ok_and(|value| value.is_none()))
        .await;
    run(said, &client, &["GET shortest", "EXISTS shortest"]).await;
}

pub(crate) async fn binary(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    let every: Vec<u8> = (0..=255).collect();
    said.say("set", client.set(&every[..], &every[..], None, None, false).await);
    for _ in 0..2 {
        let read: Vec<u8> = client.get(&every[..]).await.expect("there is such a key");
        said.note("every byte", read == every);
    }
    for size in [1 << 14, 1 << 18, 3 << 20] {
        let large = b"0123456789\r\n\0\xff".repeat(size / 14);
        let key = format!("large:{size}");
        said.say("set", client.set(&key, &large[..], None, None, false).await);
        for _ in 0..2 {
            let read: Vec<u8> = client.get(&key).await.expect("there is such a key");
            said.note("the same", read == large);
        }
    }
    let many: Vec<(String, String)> =
        (0..5_000).map(|n| (format!("many:{n}"), format!("value {n}"))).collect();
    let (keys, values): (Vec<String>, Vec<String>) = many.iter().cloned().unzip();
    said.say("mset", client.mset(many.clone()).await.map(|()| Value::Null));
    said.say("hset", client.hset("many", many).await);
    for _ in 0..2 {
        said.note(
            "mget",
            client.mget::<Vec<String>, _>(keys.clone()).await.expect("all are there") == values,
        );
        let hash: BTreeMap<String, String> = client.hgetall("many").await.expect("it is there");
        said.note("hgetall", hash);
    }
}

/// fred's iterators, which are streams.
pub(crate) async fn scans(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    run(said, &client, &["FLUSHDB"]).await;
    let pipeline = client.pipeline();
    for number in 0..500 {
        let () =
            pipeline.set(format!("scanned:{number}"), number, None, None, false).await.expect("it is queued");
        let () = pipeline.sadd("scan:set", format!("member {number}")).await.expect("it is queued");
        let () = pipeline.hset("scan:hash", (format!("field {number}"), number)).await.expect("it is queued");
        let () = pipeline
            .zadd("scan:zset", None, None, false, false, (f64::from(number), number))
            .await
            .expect("it is queued");
    }
    said.note("filled", pipeline.all::<Vec<Value>>().await.expect("all are answered").len());
    let keys: BTreeSet<String> = client
        .scan_buffered("scanned:*", Some(50), None)
        .map_ok(|key| key.into_string().expect("text"))
        .try_collect()
        .await
        .expect("every page is answered");
    said.note("scan", keys);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut pages = pin!(client.sscan("scan:set", "*1*", Some(50)));
    while let Some(mut page) = pages.try_next().await.expect("every page is answered") {
        seen.extend(page.take_results().unwrap_or_default().iter().map(|member| format!("{member:?}")));
        page.next();
    }
    said.note("sscan", &seen);
    seen.clear();
    let mut pages = pin!(client.hscan("scan:hash", "*1*", Some(50)));
    while let Some(mut page) = pages.try_next().await.expect("every page is answered") {
        let fields = page.take_results();
        seen.extend(
            fields
                .iter()
                .flat_map(|fields| fields.iter())
                .map(|(field, value)| format!("{:?} {value:?}", field.as_bytes())),
        );
        page.next();
    }
    said.note("hscan", &seen);
    seen.clear();
    let mut pages = pin!(client.zscan("scan:zset", "*1*", Some(50)));
    while let Some(mut page) = pages.try_next().await.expect("every page is answered") {
        let members = page.take_results().unwrap_or_default();
        seen.extend(members.iter().map(|(member, score)| format!("{member:?} {score}")));
        page.next();
    }
    said.note("zscan", &seen);
    run(said, &client, &["DBSIZE"]).await;
}
