//! Steps about doing several things at once: pipelines, MULTI, WATCH, scripts.

use fred::prelude::*;
use fred::types::scripts::Script;
use futures::future::join_all;

use crate::place::client;
use crate::transcript::Transcript;
use crate::values::run;

const WORKERS: usize = 4;
const INCREMENTS: usize = 8;

pub(crate) async fn pipelines(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    let pipeline = client.pipeline();
    let () = pipeline.set("a", 1, None, None, false).await.expect("it is queued");
    let () = pipeline.get("a").await.expect("it is queued");
    let () = pipeline.lpush("a", "x").await.expect("it is queued");
    let () = pipeline.incr("a").await.expect("it is queued");
    let () = pipeline.get("a").await.expect("it is queued");
    for reply in pipeline.try_all::<Value>().await {
        said.say("one", reply);
    }
    said.say("all", pipeline.all().await);
    said.say("last", pipeline.last().await);
    // Whatever is asked for at once is pipelined, without a word of the program.
    let replies = join_all((0..500).map(|number| {
        let client = client.clone();
        async move {
            let set: Value = client.set("k", number, None, None, true).await?;
            let read: Value = client.get("missing").await?;
            Ok::<_, Error>((set.is_null() || set.is_string(), read))
        }
    }))
    .await;
    said.note(
        "at once",
        replies.into_iter().filter(|reply| matches!(reply, Ok((true, Value::Null)))).count(),
    );
    let written: Vec<Value> = {
        let pipeline = client.pipeline();
        for number in 0..300 {
            let () = pipeline.set("k", number, None, None, false).await.expect("it is queued");
            let () = pipeline.get("k").await.expect("it is queued");
            let () = pipeline.get("k").await.expect("it is queued");
        }
        pipeline.all().await.expect("all are answered")
    };
    said.note("read your writes", written);
}

pub(crate) async fn transactions(said: &mut Transcript) {
    let (client, other) = (client(0).await.expect("connected"), client(0).await.expect("connected"));
    for abort_on_error in [true, false] {
        let transaction = client.multi();
        let _: Value = transaction.set("a", 1, None, None, false).await.expect("it is queued");
        let _: Value = transaction.incr("a").await.expect("it is queued");
        let _: Value = transaction.get("a").await.expect("it is queued");
        said.say("exec", transaction.exec(abort_on_error).await);
        let transaction = client.multi();
        let _: Value = transaction.get("a").await.expect("it is queued");
        let _: Value = transaction.lpush("a", "x").await.expect("it is queued");
        said.say("error", transaction.exec(abort_on_error).await);
    }
    for change in [false, true] {
        let () = client.watch(vec!["a", "not yet"]).await.expect("it is answered");
        run(said, &client, &["GET a"]).await;
        if change {
            run(said, &other, &["SET a 10"]).await;
        }
        run(said, &client, &["GET a"]).await;
        let transaction = client.multi();
        let _: Value = transaction.incr("a").await.expect("it is queued");
        said.say("watched", transaction.exec(true).await);
        run(said, &client, &["GET a", "GET a"]).await;
    }
    contention().await;
    run(said, &client, &["GET contended"]).await;
}

/// Several clients at once; no increment may be lost.
async fn contention() {
    join_all((0..WORKERS).map(|_| async {
        let client = client(0).await.expect("connected");
        let mut done = 0;
        while done < INCREMENTS {
            let () = client.watch("contended").await.expect("it is answered");
            let value: Option<u64> = client.get("contended").await.expect("it is answered");
            let transaction = client.multi();
            let _: Value = transaction
                .set("contended", value.unwrap_or(0) + 1, None, None, false)
                .await
                .expect("it is queued");
            // Nil, or an error of fred's own about that, if another was first.
            done += usize::from(transaction.exec::<Value>(true).await.is_ok_and(|reply| !reply.is_null()));
        }
    }))
    .await;
}

pub(crate) async fn scripts(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    let add = Script::from_lua("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    said.say("noscript", add.evalsha(&client, "scripted", 5).await);
    for _ in 0..2 {
        // By digest; loads it when the server says NOSCRIPT.
        said.say("called", add.evalsha_with_reload(&client, "scripted", 5).await);
        run(said, &client, &["GET scripted", "GET scripted"]).await;
    }
    let none: Vec<String> = Vec::new();
    for code in [
        "redis.call('SET', 'scripted', 'by script') return redis.call('GET', 'scripted')",
        "return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'seen', nil, 'not seen'}",
        "redis.setresp(3) return {map={a='b'}}",
        "redis.setresp(3) return {double=1.5}",
        "return redis.error_reply('MINE own words')",
        "no lua",
    ] {
        said.say(code, client.eval(code, none.clone(), none.clone()).await);
        run(said, &client, &["GET scripted"]).await;
    }
    let code = "#!lua name=mine\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)";
    said.say("load", client.function_load(true, code).await);
    said.say("fcall", client.fcall("put", "scripted", "by function").await);
    run(said, &client, &["GET scripted", "FUNCTION DELETE mine", "SCRIPT KILL"]).await;
}
