//! Subscribers, and what they cost: a connection each while `upstream.max_subscribed` has room, a share in one when it
//! has not. A sharer must not be able to tell.

mod common;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use common::resp::{children, encode, payload, shown};
use common::{Client, Proxy, ProxyBuilder, Redis, Relay, eventually, proxy, raise_open_files};

/// A proxy in front of a relay, with a single worker, whose only place for a subscriber is taken: all others share.
struct House {
    /// It holds the place.
    occupant: Client,
    proxy: Proxy,
    relay: Relay,
    redis: Redis,
}

impl House {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(&[], |proxy| proxy)
    }

    #[track_caller]
    fn start_with(redis: &[&str], configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let redis = Redis::start_with(redis);
        let relay = Relay::to(redis.addr());
        let builder = proxy().upstream_addr(relay.addr()).set("server.workers", "1");
        let proxy = configure(builder.set("upstream.max_subscribed", "1")).start();
        let mut occupant = proxy.client();
        subscribe(&mut occupant, "SUBSCRIBE", &["occupied"]);
        assert_eq!((proxy.stat("subscribed_in_use"), proxy.stat("hubs")), (1, 0));
        Self { occupant, proxy, relay, redis }
    }

    #[track_caller]
    fn client(&self, protocol: u8) -> Client {
        let mut client = self.proxy.client();
        client.hello(protocol);
        client
    }

    #[track_caller]
    fn sharer(&self, protocol: u8, channels: &[&str]) -> Client {
        let mut client = self.client(protocol);
        subscribe(&mut client, "SUBSCRIBE", channels);
        client
    }

    /// Said behind the proxy's back, so that it is on its way on the shared connection, if on any.
    fn publish(&self, channel: &str, message: &str) {
        assert_eq!(self.redis.client().cmd(&["PUBLISH", channel, message])[0], b':');
    }
}

#[track_caller]
fn subscribe(client: &mut Client, verb: &str, channels: &[&str]) {
    client.send(&[&[verb], channels].concat());
    for channel in channels {
        assert_eq!(said(&client.recv())[..2], [&verb.to_lowercase(), *channel]);
    }
}

/// The words of a message or a confirmation.
fn said(frame: &[u8]) -> Vec<String> {
    children(frame).into_iter().map(|part| String::from_utf8_lossy(payload(part)).into_owned()).collect()
}

#[track_caller]
fn hears(client: &mut Client, channel: &str, message: &str) {
    assert_eq!(said(&client.recv()), ["message", channel, message]);
}

/// How many of the server's connections have this name.
fn named(redis: &Redis, name: &str) -> usize {
    let word = format!(" name={name} ");
    redis.client().text(&["CLIENT", "LIST"]).lines().filter(|line| line.contains(&word)).count()
}

#[test]
fn subscribers_beyond_the_budget_share_a_connection_for_each_protocol() {
    let house = House::start();
    let mut sharers: Vec<_> =
        [2, 3, 2, 3].into_iter().map(|protocol| house.sharer(protocol, &["news"])).collect();
    assert_eq!(named(&house.redis, "nearhit-subscription"), 2);
    assert_eq!(named(&house.redis, "nearhit-subscribed"), 1);
    assert_eq!((house.proxy.stat("hubs"), house.proxy.stat("hub_clients")), (2, 4));
    let mut client = house.client(2);
    client.expect(b":2\r\n", &["PUBLISH", "news", "hello"]);
    for sharer in &mut sharers {
        hears(sharer, "news", "hello");
    }
    let list = client.text(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    assert_eq!(list.lines().filter(|line| line.contains(" sub=1 psub=0 ssub=0 ")).count(), 5, "{list}");

    // The last one's going is told to the server at once.
    drop(sharers);
    eventually("all have left", || house.proxy.stat("hub_clients") == 0);
    eventually("the server knows", || client.cmd(&["PUBSUB", "CHANNELS"]) == b"*1\r\n$8\r\noccupied\r\n");
    // And a place that has become free is taken again.
    drop(house.occupant);
    eventually("the place is free", || house.proxy.stat("subscribed_in_use") == 0);
    subscribe(&mut client, "SUBSCRIBE", &["news"]);
    assert_eq!((house.proxy.stat("subscribed_in_use"), house.proxy.stat("hub_clients")), (1, 0));
}

#[test]
fn a_busy_server_is_told_later_of_what_nobody_hears_any_more() {
    let house = House::start_with(&["--busy-reply-threshold", "10"], |proxy| proxy);
    let sharer = house.sharer(2, &["news"]);
    let mut script = house.redis.client();
    script.send(&["EVAL", "while true do end", "0"]);
    let mut outside = house.redis.client();
    eventually("the server is busy", || outside.cmd(&["PING"]).starts_with(b"-BUSY"));
    drop(sharer);
    eventually("it has left", || house.proxy.stat("hub_clients") == 0);
    thread::sleep(Duration::from_millis(300));
    outside.expect(b"+OK\r\n", &["SCRIPT", "KILL"]);
    eventually("nobody hears", || outside.cmd(&["PUBSUB", "CHANNELS"]) == b"*1\r\n$8\r\noccupied\r\n");
}

#[test]
fn two_sharers_hear_what_each_has_asked_for() {
    let house = House::start();
    let mut both = house.sharer(2, &["a", "b"]);
    let mut one = house.sharer(2, &["b"]);
    subscribe(&mut one, "PSUBSCRIBE", &["b*"]);
    for channel in ["a", "b", "bb"] {
        house.publish(channel, "1");
    }
    hears(&mut both, "a", "1");
    hears(&mut both, "b", "1");
    hears(&mut one, "b", "1");
    assert_eq!(said(&one.recv()), ["pmessage", "b*", "b", "1"]);
    assert_eq!(said(&one.recv()), ["pmessage", "b*", "bb", "1"]);

    // What one leaves the other keeps.
    one.expect(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:1\r\n", &["UNSUBSCRIBE", "b"]);
    house.publish("b", "2");
    hears(&mut both, "b", "2");
    assert_eq!(said(&one.recv()), ["pmessage", "b*", "b", "2"]);
    both.expect(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:1\r\n", &["UNSUBSCRIBE", "b"]);
    house.redis.client().expect(b"*2\r\n$1\r\nb\r\n:0\r\n", &["PUBSUB", "NUMSUB", "b"]);
    house.publish("b", "3");
    house.publish("a", "3");
    hears(&mut both, "a", "3");
    assert_eq!(said(&one.recv()), ["pmessage", "b*", "b", "3"]);
}

/// Everything that the server has said to the shared connection is still on its way when the next one comes.
#[test]
fn a_late_joiner_hears_nothing_from_before() {
    for protocol in [2, 3] {
        let house = House::start();
        let mut early = house.sharer(protocol, &["news"]);
        let mut late = house.client(protocol);
        house.relay.hubs().hold_down(true);
        house.publish("news", "before");
        late.send(&["SUBSCRIBE", "news"]);
        eventually("the server has confirmed", || house.redis.calls("subscribe") == 3);
        house.publish("news", "after");
        house.relay.hubs().hold_down(false);
        assert_eq!(said(&late.recv()), ["subscribe", "news", "1"]);
        hears(&mut late, "news", "after");
        hears(&mut early, "news", "before");
        hears(&mut early, "news", "after");
    }
}

#[test]
fn who_leaves_is_told_what_was_published_before() {
    for (protocol, leaves, answer) in [
        (2, "UNSUBSCRIBE", &b"*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n"[..]),
        (3, "UNSUBSCRIBE", b">3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n"),
        (2, "RESET", b"+RESET\r\n"),
        (3, "RESET", b"+RESET\r\n"),
        (2, "QUIT", b"+OK\r\n"),
    ] {
        let house = House::start();
        let mut stays = house.sharer(protocol, &["news"]);
        let mut goes = house.sharer(protocol, &["news"]);
        house.relay.hubs().hold_down(true);
        house.publish("news", "before");
        goes.send(&[leaves]);
        eventually("the server has marked it", || house.redis.calls("unsubscribe") == 1);
        house.publish("news", "after");
        house.relay.hubs().hold_down(false);
        hears(&mut goes, "news", "before");
        let mut last = goes.recv();
        if leaves != "UNSUBSCRIBE" && said(&last) == ["message", "news", "after"] {
            // It is told so much that it cannot know when it was obeyed.
            last = goes.recv();
        }
        assert_eq!(shown(&last), shown(answer), "{leaves}");
        hears(&mut stays, "news", "before");
        hears(&mut stays, "news", "after");
        if leaves == "QUIT" {
            assert_eq!(goes.recv_to_end(), b"");
        } else {
            goes.expect(b"+PONG\r\n", &["PING"]);
        }
    }
}

#[test]
fn an_answer_does_not_outrun_what_was_published_before() {
    let house = House::start_with(&[], |proxy| proxy.set("cache.max_staleness", "10s"));
    house.proxy.wait_live();
    let mut reader = house.client(3);
    // It could be answered from memory.
    while house.proxy.stat("hits") == 0 {
        reader.expect(b"_\r\n", &["GET", "key"]);
    }
    let (mut second, mut third) = (house.sharer(2, &["news"]), house.sharer(3, &["news"]));
    house.relay.hubs().hold_down(true);
    house.publish("news", "before");
    second.send(&["PING", "ping"]);
    third.send(&["GET", "key"]);
    house.relay.hubs().hold_down(false);
    hears(&mut second, "news", "before");
    assert_eq!(said(&second.recv()), ["pong", "ping"]);
    hears(&mut third, "news", "before");
    assert_eq!(third.recv(), b"_\r\n");
    // What it publishes itself, too.
    for round in 0..100 {
        let message = round.to_string();
        third.send(&["PUBLISH", "news", &message]);
        hears(&mut third, "news", &message);
        assert_eq!(third.recv(), b":2\r\n");
        hears(&mut second, "news", &message);
    }
    // Though its commands travel on two connections, they are obeyed in their order.
    for _ in 0..100 {
        let replies = third.pipeline(&[
            &["PUBLISH", "news", "last"][..],
            &["UNSUBSCRIBE", "news"],
            &["SUBSCRIBE", "news"],
            &["PUBLISH", "news", "first"],
            &["ECHO", "end"],
            &["ECHO", "end"],
        ]);
        let words: Vec<_> =
            replies.iter().map(|reply| said(reply).first().cloned().unwrap_or_default()).collect();
        assert_eq!(words, ["message", "", "unsubscribe", "subscribe", "message", ""]);
        third.recv();
        third.recv();
    }
}

#[test]
fn a_sharer_in_resp3_has_transactions_and_blocks_on_connections_of_its_own() {
    let house = House::start();
    let (mut sharer, mut other) = (house.sharer(3, &["news"]), house.sharer(3, &["news"]));
    let replies = sharer.pipeline(&[&["WATCH", "key"][..], &["MULTI"], &["SET", "key", "1"], &["EXEC"]]);
    assert_eq!(replies.concat(), b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    sharer.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || house.proxy.stat("blocking_in_use") == 1);
    house.publish("news", "meanwhile");
    hears(&mut sharer, "news", "meanwhile");
    hears(&mut other, "news", "meanwhile");
    other.expect(b":1\r\n", &["RPUSH", "list", "job"]);
    assert_eq!(said(&sharer.recv()), ["list", "job"]);
    sharer.expect(b"$1\r\n1\r\n", &["GET", "key"]);
    sharer.expect(b"+OK\r\n", &["SELECT", "3"]);
    sharer.expect(b"_\r\n", &["GET", "key"]);
    // In a transaction it would be another connection that subscribes.
    let replies = sharer.pipeline(&[&["MULTI"][..], &["SUBSCRIBE", "more"], &["EXEC"]]);
    assert!(replies[1].starts_with(b"-ERR") && replies[2].starts_with(b"-EXECABORT"));
    for refused in [&["HELLO", "2"][..], &["HELLO", "3", "AUTH", "default", ""]] {
        assert!(sharer.cmd(refused).starts_with(b"-ERR"), "{refused:?}");
    }
    house.publish("news", "still");
    hears(&mut sharer, "news", "still");
    eventually("what it has taken out is back", || {
        house.proxy.stat("pool_in_use") == 0 && house.proxy.stat("blocking_in_use") == 0
    });
}

/// What it was told of a script on its way out it must find there, though nobody knew what the script would write.
#[test]
fn who_leaves_behind_a_script_reads_what_it_wrote() {
    let house = House::start_with(&[], |proxy| proxy.set("cache.max_staleness", "10s"));
    house.proxy.wait_live();
    let mut reader = house.client(3);
    for round in 0..2 {
        let mut sharer = house.sharer(3, &["news"]);
        reader.expect(b"+OK\r\n", &["SET", "key", "old"]);
        house.proxy.until_hit("the key", || reader.expect(b"$3\r\nold\r\n", &["GET", "key"]));
        // Longer than the two marks, which the replies wait for, take to be answered.
        house.relay.link().delay(0, 300);
        house.relay.hubs().delay(0, 50);
        sharer.send(&["GET", "nothing"]);
        sharer.send(&["EVAL", "return redis.call('SET', 'key', 'new')", "0"]);
        eventually("both are answered", || house.redis.client().cmd(&["GET", "key"]) == b"$3\r\nnew\r\n");
        // Time for the second answer, which must be held already.
        thread::sleep(Duration::from_millis(10));
        sharer.send(&["UNSUBSCRIBE", "news"]);
        sharer.send(&["GET", "key"]);
        let replies = [(); 4].map(|()| shown(&sharer.recv()));
        assert_eq!(replies[1], r"+OK\r\n");
        assert_eq!(replies[3], r"$3\r\nnew\r\n", "round {round}");
        house.relay.all().delay(0, 0);
    }
}

/// Random scripts, on Redis itself and on a shared connection, step by step: the same bytes.
#[test]
fn a_sharer_is_told_what_redis_would_tell_it() {
    for seed in 0..12_u64 {
        let house = House::start();
        // Somebody else has the channels too, so that nothing is the only one's to leave.
        let mut crowd = house.sharer(2, &["a", "c"]);
        subscribe(&mut crowd, "PSUBSCRIBE", &["a*"]);
        let alone = Redis::start();
        let mut random = fastrand::Rng::with_seed(seed);
        let protocol = if seed.is_multiple_of(2) { 2 } else { 3 };
        let (mut direct, mut shared) = (alone.client(), house.client(protocol));
        direct.hello(protocol);
        let (mut tells_direct, mut tells_shared) = (alone.client(), house.redis.client());
        for step in 0..150 {
            let (line, is_published) = random_line(&mut random, protocol);
            let words: Vec<&str> = line.split(' ').collect();
            if is_published {
                tells_direct.cmd(&words);
                tells_shared.cmd(&words);
                continue;
            }
            if line == "RESET" && protocol == 3 {
                // It would go on in RESP2.
                continue;
            }
            let token = format!("token:{seed}:{step}");
            let expected = answers(&mut direct, &words, &token, protocol);
            let got = answers(&mut shared, &words, &token, protocol);
            assert_eq!(got, expected, "seed {seed}, step {step}: {line}");
        }
        assert_eq!(house.proxy.stat("subscribed_in_use"), 1, "it has shared all the time");
    }
}

fn random_line(random: &mut fastrand::Rng, protocol: u8) -> (String, bool) {
    let mut name = |names: &[&'static str]| *random.choose_multiple(names.iter(), 1)[0];
    let (channel, other) = (name(&["a", "b", "c"]), name(&["a", "ab", "d"]));
    let pattern = name(&["a*", "*b", "[cd]"]);
    let line = match random.u32(0..18) {
        0..3 => format!("SUBSCRIBE {channel} {other}"),
        3 => format!("subscribe {channel} {channel}"),
        4 => format!("PSUBSCRIBE {pattern}"),
        5 => format!("SSUBSCRIBE {channel}"),
        6..8 => format!("UNSUBSCRIBE {channel} {other}"),
        8 => format!("PUNSUBSCRIBE {pattern}"),
        9 => format!("SUNSUBSCRIBE {channel}"),
        10 => "PING".into(),
        11 => format!("GET {channel}"),
        12 if random.u32(0..4) == 0 => "RESET".into(),
        12 => "SUBSCRIBE".into(),
        // Nobody else hears it, so that the count is right.
        13 if protocol == 3 => "PUBLISH d self".into(),
        13 => "CONFIG GET maxmemory".into(),
        14 => "UNSUBSCRIBE nobody".into(),
        15 => "NOBODY-KNOWS this command".into(),
        _ => return (format!("PUBLISH {other} {}", random.u32(..)), true),
    };
    (line, false)
}

/// All that comes until an answer that is sure to come behind it.
fn answers(client: &mut Client, words: &[&str], token: &str, protocol: u8) -> Vec<String> {
    let last = if protocol == 2 { encode(&["PING", token]) } else { encode(&["ECHO", token]) };
    client.send_raw(&[encode(words), last].concat());
    let mut all = Vec::new();
    loop {
        let frame = client.recv();
        all.push(shown(&frame));
        if memchr::memmem::find(&frame, token.as_bytes()).is_some() {
            // The patterns that a message fits come in an order that is each server's own.
            let is_by_pattern = |frame: &String| frame.contains("pmessage");
            all.chunk_by_mut(|a, b| is_by_pattern(a) && is_by_pattern(b)).for_each(<[String]>::sort);
            return all;
        }
    }
}

/// Sharers come and go while messages are counted: between a confirmation and the next, none is missing or told twice.
#[test]
fn nothing_is_lost_or_told_twice_while_others_come_and_go() {
    const CHANNELS: usize = 3;
    let house = House::start();
    let has_ended = AtomicBool::new(false);
    let house = &house;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = house.redis.client();
            for number in (0_u64..).take_while(|_| !has_ended.load(SeqCst)) {
                for channel in 0..CHANNELS {
                    publisher.cmd(&["PUBLISH", &channel.to_string(), &number.to_string()]);
                }
            }
        });
        let sharers: Vec<_> = (0..8).map(|seed| scope.spawn(move || come_and_go(house, seed))).collect();
        let heard: u64 = sharers.into_iter().map(|sharer| sharer.join().unwrap_or(0)).sum();
        has_ended.store(true, SeqCst);
        assert!(heard > 1_000, "{heard} messages were heard");
    });
    eventually("nobody shares", || house.proxy.stat("hub_clients") == 0);
    let mut outside = house.redis.client();
    eventually("nobody hears", || outside.cmd(&["PUBSUB", "CHANNELS"]) == b"*1\r\n$8\r\noccupied\r\n");
}

/// How many messages it has heard.
fn come_and_go(house: &House, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut count = 0;
    for _ in 0..10 {
        let mut client = house.client(if seed.is_multiple_of(2) { 2 } else { 3 });
        let mut heard: HashMap<String, Option<u64>> = HashMap::new();
        for _ in 0..30 {
            let channel = random.u32(0..3).to_string();
            let verb = if random.bool() { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            client.send(&[verb, &channel]);
            loop {
                let said = said(&client.recv());
                match said[0].as_str() {
                    "message" => {
                        let number: u64 = said[2].parse().expect("a number");
                        let before = heard.get_mut(&said[1]).expect("it has been subscribed to");
                        assert!(
                            before.is_none_or(|before| before + 1 == number),
                            "{before:?}, then {number}"
                        );
                        *before = Some(number);
                        count += 1;
                    }
                    "subscribe" => {
                        heard.entry(said[1].clone()).or_insert(None);
                        break;
                    }
                    _ => {
                        heard.remove(&said[1]);
                        break;
                    }
                }
            }
        }
    }
    count
}

#[test]
fn thousands_of_subscribers_cost_a_few_connections() {
    const SUBSCRIBERS: usize = 2_000;
    const MESSAGES: usize = 100;
    raise_open_files();
    let redis = Redis::start();
    let builder = proxy().upstream(&redis).set("server.workers", "2").set("upstream.max_subscribed", "1");
    let proxy = builder.start();
    let mut occupant = proxy.client();
    subscribe(&mut occupant, "SUBSCRIBE", &["occupied"]);
    // Every client has a lane, too, whatever it does.
    let connected =
        || redis.client().text(&["CLIENT", "LIST"]).lines().count() - named(&redis, "nearhit-lane");
    let before = connected();
    let mut subscribers: Vec<Client> = (0..SUBSCRIBERS).map(|_| proxy.client()).collect();
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.send(&["HELLO", if number % 4 < 2 { "2" } else { "3" }]);
        subscriber.send(&["SUBSCRIBE", "all", &format!("own:{}", number % 10)]);
    }
    for subscriber in &mut subscribers {
        subscriber.recv();
        assert_eq!(said(&subscriber.recv())[..2], ["subscribe", "all"]);
        subscriber.recv();
    }
    assert_eq!(named(&redis, "nearhit-subscription"), 4, "workers and protocols");
    assert_eq!((proxy.stat("hubs"), proxy.stat("hub_clients")), (4, SUBSCRIBERS as u64));
    assert!(connected() <= before + 4, "{} connections, {before} before", connected());

    let mut publisher = redis.client();
    for message in 0..MESSAGES {
        publisher.expect(b":4\r\n", &["PUBLISH", "all", &message.to_string()]);
        publisher.cmd(&["PUBLISH", &format!("own:{}", message % 10), &message.to_string()]);
    }
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        for message in 0..MESSAGES {
            hears(subscriber, "all", &message.to_string());
            if message % 10 == number % 10 {
                hears(subscriber, &format!("own:{}", number % 10), &message.to_string());
            }
        }
    }
}

#[test]
fn who_does_not_read_is_cut_off_and_the_others_go_on() {
    const BYTES: usize = 8_000_000;
    let house = House::start_with(&[], |proxy| proxy.set("server.output_limit", "1MiB"));
    for size in [100_000, 1_000] {
        let lazy = house.sharer(2, &["news"]);
        socket2::SockRef::from(&lazy.writer()).set_recv_buffer_size(16_384).expect("an open socket");
        let (mut second, mut third) = (house.sharer(2, &["news"]), house.sharer(3, &["news"]));
        let cut_off = house.proxy.stat("output_limit_disconnections");
        let message = "x".repeat(size);
        let count = BYTES / size;
        let mut publisher = house.redis.client();
        for _ in 0..count {
            publisher.cmd(&["PUBLISH", "news", &message]);
            hears(&mut second, "news", &message);
            hears(&mut third, "news", &message);
        }
        eventually("it is cut off", || house.proxy.stat("output_limit_disconnections") == cut_off + 1);
        assert_eq!(house.proxy.stat("hub_clients"), 2);
    }
}

#[test]
fn no_budget_starves_another() {
    let house = House::start_with(&[], |proxy| {
        let proxy = proxy.set("upstream.max_connections", "1").set("upstream.max_blocking", "1");
        proxy.set("upstream.connect_timeout", "500ms")
    });
    // All three are used up.
    let (mut blocked, mut in_transaction) = (house.client(2), house.client(2));
    blocked.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || house.proxy.stat("blocking_in_use") == 1);
    in_transaction.expect(b"+OK\r\n", &["MULTI"]);
    let mut second = house.client(2);
    assert!(second.text(&["BLPOP", "list", "0"]).contains("(upstream.max_blocking)"));
    second.expect(b"+OK\r\n", &["MULTI"]);
    assert!(second.text(&["GET", "key"]).contains("(upstream.max_connections)"));
    second.cmd(&["DISCARD"]);
    // Yet each goes on, and subscribers come as before.
    let mut sharer = house.sharer(2, &["news"]);
    house.publish("news", "hello");
    hears(&mut sharer, "news", "hello");
    in_transaction.expect(b"+QUEUED\r\n", &["RPUSH", "list", "job"]);
    in_transaction.expect(b"*1\r\n:1\r\n", &["EXEC"]);
    assert_eq!(said(&blocked.recv()), ["list", "job"]);
    second.expect(b"+OK\r\n", &["MULTI"]);
    second.expect(b"*0\r\n", &["EXEC"]);
    second.expect(b"*-1\r\n", &["BLPOP", "list", "0.01"]);

    // What cannot be shared is told so: there is one place, and it is taken.
    let (mut other, mut redirected) = (house.client(3), house.client(2));
    let text = "all 1 upstream connections for subscribed clients are in use (upstream.max_subscribed)";
    for words in [&["MONITOR"][..], &["CLIENT", "TRACKING", "ON"], &["SUBSCRIBE", "__redis__:invalidate"]] {
        assert!(other.text(words).contains(text), "{words:?}");
    }
    subscribe(&mut redirected, "SUBSCRIBE", &["news"]);
    let refused = redirected.text(&["SUBSCRIBE", "__redis__:invalidate"]);
    assert!(refused.contains(text), "{refused}");
    other.expect(b"_\r\n", &["GET", "key"]);
}

/// As an operator would.
fn kill_hub(redis: &Redis, protocol: u8) {
    let list = redis.client().text(&["CLIENT", "LIST"]);
    let is_it = |line: &&str| {
        line.contains("name=nearhit-subscription") && line.contains(&format!("resp={protocol}"))
    };
    let id = list.lines().find(is_it).and_then(|line| line.strip_prefix("id=")?.split(' ').next());
    redis.client().expect(b":1\r\n", &["CLIENT", "KILL", "ID", id.expect("there is one")]);
}

#[test]
fn the_end_of_a_shared_connection_is_its_subscribers_end() {
    let house = House::start();
    let mut sharers: Vec<_> = (0..3).map(|_| house.sharer(2, &["news"])).collect();
    let mut other = house.sharer(3, &["news"]);
    // It has another connection to block on, which stays.
    let mut blocked = house.sharer(3, &["news"]);
    blocked.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || house.proxy.stat("blocking_in_use") == 1);
    let mut bystander = house.client(2);
    kill_hub(&house.redis, 2);
    for sharer in &mut sharers {
        assert_eq!(sharer.recv_to_end(), b"");
    }
    bystander.expect(b"+PONG\r\n", &["PING"]);
    // They come back, to another one.
    let mut back = house.sharer(2, &["news"]);
    house.publish("news", "hello");
    hears(&mut back, "news", "hello");
    hears(&mut other, "news", "hello");
    eventually("nothing is left of the others", || house.proxy.stat("hub_clients") == 3);
    assert_eq!(house.proxy.stat("hubs"), 2);
    hears(&mut blocked, "news", "hello");
    kill_hub(&house.redis, 3);
    assert_eq!(blocked.recv_to_end(), b"");
}

#[test]
fn subscribers_follow_an_upstream_that_has_moved_while_the_old_one_lives_on() {
    let mut house = House::start_with(&[], |proxy| proxy.set("upstream.health_check_interval", "100ms"));
    let new = Redis::start();
    let mut sharers = [house.sharer(2, &["news"]), house.sharer(3, &["news"])];
    // It has its tracking on the connection that it had for something else.
    let mut tracking = house.client(3);
    for words in [&["WATCH", "key"][..], &["CLIENT", "TRACKING", "ON"], &["UNWATCH"]] {
        tracking.expect(b"+OK\r\n", words);
    }
    house.proxy.wait_live();
    house.relay.move_to(new.addr());
    assert_eq!(house.occupant.recv_to_end(), b"");
    assert_eq!(tracking.recv_to_end(), b"");
    for sharer in &mut sharers {
        assert_eq!(sharer.recv_to_end(), b"");
    }
    let mut back = [house.sharer(2, &["news"]), house.sharer(2, &["news"]), house.sharer(3, &["news"])];
    assert_eq!(house.proxy.stat("hub_clients"), 2);
    new.client().expect(b":3\r\n", &["PUBLISH", "news", "hello"]);
    for subscriber in &mut back {
        hears(subscriber, "news", "hello");
    }
}

#[test]
fn users_of_different_rights_share_nothing() {
    let house = House::start();
    let mut admin = house.redis.client();
    for user in ["a", "b"] {
        let channels = format!("&{user}:*");
        admin.expect(
            b"+OK\r\n",
            &["ACL", "SETUSER", user, "on", ">secret", "resetchannels", &channels, "+@all"],
        );
    }
    let mut clients = ["a", "b"].map(|user| {
        let mut clients = [house.client(2), house.client(2)];
        for client in &mut clients {
            client.expect(b"+OK\r\n", &["AUTH", user, "secret"]);
            subscribe(client, "SUBSCRIBE", &[&format!("{user}:1")]);
            let refused = client.text(&["SUBSCRIBE", &format!("{user}:2"), "c:1"]);
            assert!(refused.contains("NOPERM"), "{refused}");
        }
        clients
    });
    assert_eq!((house.proxy.stat("hubs"), house.proxy.stat("hub_clients")), (2, 4));
    // What was refused is not subscribed to.
    admin.expect(b":0\r\n", &["PUBLISH", "a:2", "hello"]);
    admin.expect(b":1\r\n", &["PUBLISH", "a:1", "hello"]);
    admin.expect(b":1\r\n", &["PUBLISH", "b:1", "hello"]);
    for (clients, user) in clients.iter_mut().zip(["a", "b"]) {
        for client in clients {
            hears(client, &format!("{user}:1"), "hello");
        }
    }
    // Whoever loses the right to what he hears is cut off, as by Redis.
    admin.expect(b"+OK\r\n", &["ACL", "SETUSER", "a", "resetchannels", "&other"]);
    for client in &mut clients[0] {
        assert_eq!(client.recv_to_end(), b"");
    }
    for client in &mut clients[1] {
        client.expect(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", &["PING"]);
    }
}

#[test]
fn a_subscriber_is_told_what_it_is_refused_in_the_servers_words() {
    let house = House::start_with(&["--rename-command", "RESET", "XRESET"], |proxy| proxy);
    let mut sharer = house.sharer(2, &["news"]);
    let mut stays = house.sharer(2, &["news"]);
    let mut direct = house.redis.client();
    direct.cmd(&["SUBSCRIBE", "news"]);
    for words in [
        &["GET", "key"][..],
        &["SET", "key"],
        &["CONFIG", "GET", "maxmemory"],
        &["CONFIG", "NONSENSE"],
        &["MULTI"],
        &["SUBSCRIBE"],
        &["HELLO", "3"],
        &["AUTH", "secret"],
        &["PING", "too", "many"],
        &["NOBODY-KNOWS", "this", &"argument".repeat(20), "further"],
        &["NOBODY-KNOWS"],
    ] {
        assert_eq!(shown(&sharer.cmd(words)), shown(&direct.cmd(words)));
    }
    // Who is refused his first subscription shares nothing.
    assert!(house.client(2).cmd(&["SUBSCRIBE"]).starts_with(b"-ERR wrong number"));
    assert_eq!(house.proxy.stat("hub_clients"), 2);
    // Renamed, it would be obeyed, on the connection of them all.
    assert!(sharer.cmd(&["XRESET"]).starts_with(b"-ERR unknown command"));
    for words in [&["QUIT", "now"][..], &["POST", "/"]] {
        let mut goes = house.sharer(2, &["news"]);
        goes.send(words);
        goes.recv_to_end();
    }
    house.publish("news", "still there");
    hears(&mut sharer, "news", "still there");
    hears(&mut stays, "news", "still there");
    assert_eq!(house.proxy.stat("hub_clients"), 2);
}

#[test]
fn a_message_does_not_outrun_its_key_for_any_who_shares() {
    let house = House::start_with(&[], |proxy| proxy.set("cache.max_staleness", "10s"));
    house.proxy.wait_live();
    let mut sharers = [house.sharer(2, &["news"]), house.sharer(3, &["news"])];
    let (mut reader, mut outside) = (house.client(2), house.redis.client());
    house.relay.link().delay(0, 5);
    for round in 0..40 {
        let value = round.to_string();
        for _ in 0..3 {
            reader.cmd(&["GET", "key"]);
        }
        outside.cmd(&["SET", "key", &value]);
        outside.cmd(&["PUBLISH", "news", &value]);
        hears(&mut sharers[round % 2], "news", &value);
        assert_eq!(reader.text(&["GET", "key"]), value);
        hears(&mut sharers[1 - round % 2], "news", &value);
    }
}

#[test]
fn subscribers_leave_places_to_those_who_cannot_share() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("upstream.max_subscribed", "4").start();
    let mut subscribers: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    subscribers.iter_mut().for_each(|one| subscribe(one, "SUBSCRIBE", &["news"]));
    assert_eq!((proxy.stat("subscribed_in_use"), proxy.stat("hub_clients")), (3, 5));
    let mut tracking = proxy.client();
    tracking.hello(3);
    tracking.expect(b"+OK\r\n", &["CLIENT", "TRACKING", "ON"]);
}
