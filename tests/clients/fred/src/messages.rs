//! Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups, invalidations.

use std::time::Duration;

use fred::clients::SubscriberClient;
use fred::interfaces::TrackingInterface;
use fred::prelude::*;
use fred::types::lists::LMoveDirection;
use fred::types::{ClientUnblockFlag, Message};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

use crate::place::{builder, client, custom, is_resp3, somebody_waits, until};
use crate::transcript::Transcript;
use crate::values::run;

const PATIENCE: Duration = Duration::from_secs(20);

async fn heard(said: &mut Transcript, messages: &mut Receiver<Message>) {
    let message = timeout(PATIENCE, messages.recv()).await.expect("a message in time").expect("a message");
    said.note("heard", (&message.channel, &message.kind, &message.value));
}

/// Returns once the server counts so many subscribers of `news`, `more`, the shard channel and any pattern. In RESP3 fred
/// does not wait for the server to say so.
async fn subscribed(client: &Client, wanted: [i64; 4]) {
    until(async || {
        let questions: [&[&str]; 3] = [
            &["PUBSUB", "NUMSUB", "news", "more"],
            &["PUBSUB", "SHARDNUMSUB", "shard"],
            &["PUBSUB", "NUMPAT"],
        ];
        let mut counts = Vec::new();
        for question in questions {
            let reply = custom(client, question).await.expect("it is answered");
            counts.extend(reply.into_array().into_iter().filter_map(|value| value.as_i64()));
        }
        counts == wanted
    })
    .await;
}

/// fred's subscriber knows what it has subscribed to, and does so again on a new connection.
pub(crate) async fn subscriptions(said: &mut Transcript) {
    let client = client(0).await.expect("connected");
    run(said, &client, &["SET subject old", "GET subject", "GET subject"]).await;
    let subscriber: SubscriberClient = builder(0).build_subscriber_client().expect("a valid configuration");
    subscriber.init().await.expect("connected");
    let mut messages = subscriber.message_rx();
    let resubscribing = subscriber.manage_subscriptions();
    let () = subscriber.subscribe(vec!["news", "more"]).await.expect("it is answered");
    let () = subscriber.psubscribe("pattern:*").await.expect("it is answered");
    let () = subscriber.ssubscribe("shard").await.expect("it is answered");
    subscribed(&client, [1, 1, 1, 1]).await;
    run(
        said,
        &client,
        &["PUBLISH news one", "PUBLISH pattern:x two", "PUBLISH nobody three", "SPUBLISH shard four"],
    )
    .await;
    for _ in 0..3 {
        heard(said, &mut messages).await;
    }
    run(said, &client, &["SET subject new", "PUBLISH news look"]).await;
    heard(said, &mut messages).await;
    run(said, &client, &["GET subject", "PUBSUB NUMSUB news none", "PUBSUB NUMPAT", "PUBSUB SHARDCHANNELS"])
        .await;
    let () = subscriber.unsubscribe("more").await.expect("it is answered");
    subscribed(&client, [1, 0, 1, 1]).await;
    run(said, &client, &["PUBLISH more unheard"]).await;
    run(said, &client, &["CLIENT KILL TYPE pubsub"]).await;
    subscribed(&client, [1, 0, 1, 1]).await;
    run(said, &client, &["PUBLISH news again", "PUBLISH pattern:y again", "PUBLISH more unheard"]).await;
    for _ in 0..2 {
        heard(said, &mut messages).await;
    }
    let () = subscriber.unsubscribe_all().await.expect("it is answered");
    subscribed(&client, [0, 0, 0, 0]).await;
    run(said, &client, &["PUBLISH news unheard"]).await;
    resubscribing.abort();
    subscriber.quit().await.expect("it is answered");
}

/// One pops while another pushes, once somebody waits: a pop that nobody waits for tells nothing.
async fn popped(
    said: &mut Transcript,
    what: &str,
    pusher: &Client,
    push: &[&str],
    pop: impl Future<Output = Result<Value, Error>>,
) {
    let (reply, ()) = tokio::join!(pop, async {
        until(async || somebody_waits(pusher).await).await;
        custom(pusher, push).await.expect("it is answered");
    });
    said.say(what, reply);
}

pub(crate) async fn blocking(said: &mut Transcript) {
    let (popper, pusher) = (client(0).await.expect("connected"), client(0).await.expect("connected"));
    run(said, &pusher, &["RPUSH queue a b"]).await;
    said.say("ready", popper.blpop("queue", 1.0).await);
    said.say("ready", popper.brpop("queue", 1.0).await);
    said.say("nothing", popper.blpop("queue", 0.05).await);
    for side in ["left", "right"] {
        run(said, &pusher, &["LLEN queue"]).await;
        let queues = vec!["missing", "queue"];
        let push = ["RPUSH", "queue", side];
        match side {
            "left" => popped(said, side, &pusher, &push, popper.blpop(queues, 10.0)).await,
            _ => popped(said, side, &pusher, &push, popper.brpop(queues, 10.0)).await,
        }
        run(said, &pusher, &["LLEN queue", "LRANGE queue 0 -1"]).await;
    }
    let moving = popper.blmove("queue", "working", LMoveDirection::Left, LMoveDirection::Right, 10.0);
    popped(said, "blmove", &pusher, &["RPUSH", "queue", "moved"], moving).await;
    run(said, &pusher, &["LRANGE working 0 -1"]).await;
    let push = ["ZADD", "zqueue", "1", "first", "2", "second"];
    popped(said, "bzpopmin", &pusher, &push, popper.bzpopmin("zqueue", 10.0)).await;
    run(said, &pusher, &["ZRANGE zqueue 0 -1"]).await;
    // By the number that the client has here, and with an error.
    let popping = popper.clone();
    let waiting = tokio::spawn(async move { popping.blpop::<Value, _>("nothing", 10.0).await });
    until(async || somebody_waits(&pusher).await).await;
    let ids: Vec<(Server, i64)> = popper.connection_ids().into_iter().collect();
    said.say("unblock", pusher.client_unblock(ids[0].1, Some(ClientUnblockFlag::Error)).await);
    said.say("unblocked", waiting.await.expect("it does not panic"));
}

pub(crate) async fn streams(said: &mut Transcript) {
    let (client, adder) = (client(0).await.expect("connected"), client(0).await.expect("connected"));
    for number in 1..=4 {
        said.say(
            "xadd",
            client.xadd("stream", false, None::<()>, format!("{number}-1"), ("number", number)).await,
        );
    }
    for _ in 0..2 {
        run(said, &client, &["XLEN stream", "XRANGE stream - +", "XREVRANGE stream + - COUNT 2"]).await;
    }
    run(
        said,
        &client,
        &[
            "XREAD STREAMS stream 3-1",
            "XREAD STREAMS stream $",
            "XGROUP CREATE stream group 0",
            "XGROUP CREATE stream group 0",
            "XREADGROUP GROUP group alice COUNT 3 STREAMS stream >",
            "XREADGROUP GROUP group bob STREAMS stream >",
            "XACK stream group 1-1 9-9",
            "XPENDING stream group",
            "XREADGROUP GROUP group alice STREAMS stream 0",
            "XCLAIM stream group bob 0 2-1",
            "XAUTOCLAIM stream group carol 0 0-0 COUNT 1",
            "XINFO GROUPS stream",
            "XDEL stream 1-1",
            "XTRIM stream MAXLEN 2",
            "XRANGE stream - +",
        ],
    )
    .await;
    let reading = client.xread(None, Some(10_000), "stream", "$");
    popped(said, "blocked", &adder, &["XADD", "stream", "10-1", "late", "yes"], reading).await;
    let group: Result<Value, Error> =
        client.xreadgroup("group", "alice", Some(9), Some(10_000), false, "stream", ">").await;
    said.say("blocked group", group);
    said.say("timeout", client.xread(None, Some(30), "stream", "$").await);
    run(said, &client, &["XGROUP DESTROY stream group"]).await;
}

/// Client-side caching, for which fred wants RESP3: what the program has read is told to be outdated.
pub(crate) async fn tracking(said: &mut Transcript) {
    if !is_resp3() {
        return;
    }
    let (client, other) = (client(0).await.expect("connected"), client(0).await.expect("connected"));
    run(said, &other, &["SET tracked old", "GET tracked", "GET tracked"]).await;
    let mut invalidations = client.invalidation_rx();
    let none: Vec<String> = Vec::new();
    let () = client.start_tracking(none, false, false, false, false).await.expect("it is answered");
    for value in ["new", "newer"] {
        run(said, &client, &["GET tracked"]).await;
        said.say("changed", other.set("tracked", value, None, None, false).await);
        let told = timeout(PATIENCE, invalidations.recv()).await.expect("in time").expect("an invalidation");
        said.note("told", told.keys);
        run(said, &client, &["GET tracked", "GET tracked"]).await;
    }
    let () = client.stop_tracking().await.expect("it is answered");
    run(said, &client, &["GET tracked", "CLIENT GETREDIR"]).await;
}
