//! Steps about the connection itself: names, databases, pools, users, reconnecting.

use fred::prelude::*;
use futures::future::join_all;

use crate::place::{builder, client, custom, somebody_waits, until};
use crate::transcript::Transcript;
use crate::values::run;

pub(crate) async fn pools(said: &mut Transcript) {
    let pool = builder(0).build_pool(3).expect("a valid configuration");
    pool.init().await.expect("connected");
    join_all((0..12).map(|_| async {
        for _ in 0..10 {
            let _: i64 = pool.incr("pooled").await.expect("it is answered");
            let _: i64 = pool.get("pooled").await.expect("it is answered");
        }
    }))
    .await;
    said.say("sum", pool.get("pooled").await);
    pool.quit().await.expect("it is answered");
    let (zero, three) = (client(0).await.expect("connected"), client(3).await.expect("connected"));
    run(said, &zero, &["SET place zero"]).await;
    run(said, &three, &["GET place", "SET place three"]).await;
    for _ in 0..2 {
        run(said, &zero, &["GET place"]).await;
        run(said, &three, &["GET place"]).await;
    }
    let () = zero.select(3).await.expect("there is such a database");
    run(said, &zero, &["GET place"]).await;
    let () = zero.select(0).await.expect("there is such a database");
    run(
        said,
        &zero,
        &[
            "GET place",
            "MOVE place 5",
            "GET place",
            "SWAPDB 0 5",
            "GET place",
            "CLIENT GETNAME",
            "ECHO hello",
        ],
    )
    .await;
    run(said, &three, &["FLUSHDB", "GET place", "CLIENT SETNAME three", "CLIENT GETNAME"]).await;
    said.note("version", three.server_version().map(|version| version.to_string()));
    said.say("wait", three.wait(0, 10).await);
}

pub(crate) async fn users(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    run(said, &client, &["ACL SETUSER alice reset on >secret ~her:* &her:* +@all -lpush"]).await;
    let as_user = async |name: &str, password: &str| {
        let mut builder = builder(0);
        builder.with_config(|config| {
            config.username = Some(name.to_owned());
            config.password = Some(password.to_owned());
            config.fail_fast = true;
        });
        let user = builder.build().expect("a valid configuration");
        user.init().await.map(|_| user)
    };
    let alice = as_user("alice", "secret").await.expect("it is her password");
    run(said, &alice, &["ACL WHOAMI", "SET her:key 1", "GET her:key", "GET her:key"]).await;
    run(said, &client, &["SET his:key secret", "GET his:key", "GET his:key"]).await;
    run(said, &alice, &["GET his:key", "MGET her:key his:key", "LPUSH her:list x", "PUBLISH news x"]).await;
    for (name, password) in [("alice", "guess"), ("nobody", "guess")] {
        let refused = as_user(name, password).await.map(|_| Value::Null);
        said.say(name, refused);
    }
    run(said, &client, &["ACL SETUSER alice resetkeys ~other:*"]).await;
    run(said, &alice, &["GET her:key"]).await;
    run(said, &client, &["GET her:key"]).await;
}

/// A killed client connects again by itself, in its database and with its login.
pub(crate) async fn kills(said: &mut Transcript) {
    let killer = client(0).await.expect("connected");
    let victim = client(2).await.expect("connected");
    run(said, &victim, &["SET survivor value", "GET survivor", "GET survivor"]).await;
    let mut reconnected = victim.reconnect_rx();
    for _ in 0..2 {
        let id: i64 = victim.client_id().await.expect("it is answered");
        let id = id.to_string();
        said.say("kill", custom(&killer, &["CLIENT", "KILL", "ID", &id]).await);
        said.note("connects again", reconnected.recv().await.is_ok());
        run(said, &victim, &["GET survivor", "GET survivor"]).await;
    }
    // Commands in flight are sent again on the new connection, if fred thinks that safe.
    let popper = client(0).await.expect("connected");
    let id: i64 = popper.client_id().await.expect("it is answered");
    let id = id.to_string();
    let popping = popper.clone();
    let waiting = tokio::spawn(async move { popping.blpop::<Value, _>("nothing", 10.0).await });
    until(async || somebody_waits(&killer).await).await;
    said.say("kill", custom(&killer, &["CLIENT", "KILL", "ID", &id]).await);
    // It blocks anew, or fails. What is pushed while the killed connection still blocks is lost with it.
    until(async || {
        if somebody_waits(&killer).await {
            custom(&killer, &["RPUSH", "nothing", "something"]).await.expect("it is answered");
        }
        waiting.is_finished()
    })
    .await;
    said.say("popped", waiting.await.expect("it does not panic"));
}
