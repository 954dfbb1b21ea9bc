//! The wire itself: whatever way the bytes come, the replies are those that Redis gives, in the order of the requests.
//!
//! Requests are cut at every byte, packed ten thousand to a write, typed as inline commands, and broken in all the
//! ways that Redis has a message for. The oracle is a second redis-server, asked the same bytes.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use common::resp::{children, encode, payload, shown};
use common::{Client, Proxy, Redis, eventually, proxy};

/// A Redis asked directly, and another one behind a proxy: the same bytes go to both.
struct Pair {
    alone: Redis,
    behind: Redis,
    proxy: Proxy,
}

impl Pair {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(&[])
    }

    #[track_caller]
    fn start_with(args: &[&str]) -> Self {
        let (alone, behind) = (Redis::start_with(args), Redis::start_with(args));
        let proxy = proxy().upstream(&behind).set("cache.max_staleness", "10s").start();
        Self { alone, behind, proxy }
    }

    /// A pair with the same few keys in both servers, and a link that allows hits.
    #[track_caller]
    fn filled() -> Self {
        let pair = Self::start();
        pair.proxy.wait_live();
        for address in pair.addresses() {
            let mut client = Client::connect(address);
            client.expect(b"+OK\r\n", &["MSET", "a", "1", "b", "two", "long", &"x".repeat(300), "empty", ""]);
            client.expect(b":2\r\n", &["HSET", "h", "f", "v", "g", "w"]);
            client.expect(b":3\r\n", &["RPUSH", "l", "1", "2", "3"]);
        }
        pair
    }

    /// First Redis, then the proxy.
    fn addresses(&self) -> [SocketAddr; 2] {
        [self.alone.addr(), self.proxy.addr()]
    }

    /// Sends the bytes to both on new connections, and everything until each closes must be the same.
    #[track_caller]
    fn closes_alike(&self, bytes: &[u8]) -> Vec<u8> {
        let [expected, got] = self.addresses().map(|address| {
            let mut client = Client::connect(address);
            // A server may close before it has read everything.
            let _ = client.try_send_raw(bytes);
            client.recv_to_end()
        });
        assert_eq!(shown(&got), shown(&expected), "the answer to {}", shown(bytes));
        expected
    }
}

/// Requests that change nothing when they are repeated, in every form a request can take.
fn requests() -> Vec<Vec<u8>> {
    let binary: &[u8] = b"\x00\r\n$3\r\n*1\r\n\xff";
    vec![
        encode(&["GET", "a"]),
        encode(&["GET", "missing"]),
        encode(&["GET", "long"]),
        encode(&["GET", "empty"]),
        encode(&["SET", "a", "1"]),
        encode(&["MGET", "a", "missing", "b"]),
        encode(&["HGETALL", "h"]),
        encode(&["GET", "h"]),
        encode(&["NOSUCH", "a"]),
        encode(&[b"SET", b"bin".as_slice(), binary]),
        encode(&[b"ECHO".as_slice(), binary]),
        b"PING\r\n".to_vec(),
        b"get a\n".to_vec(),
        b"  SET \"a\"   '1'  \r\n".to_vec(),
        b"ECHO \"\\x41\\n\\\"q\\\"\"\r\n".to_vec(),
        // Each of these is no command, so the PING behind it is the first to be answered.
        b"\r\nPING\r\n".to_vec(),
        b"*0\r\nPING\r\n".to_vec(),
        b"*-1\r\nPING\r\n".to_vec(),
        b"   \r\nPING\r\n".to_vec(),
        [encode(&["GET", "a"]), b"PING\r\n".to_vec(), encode(&["LRANGE", "l", "0", "-1"])].concat(),
    ]
}

#[test]
fn a_request_cut_at_any_byte_has_the_same_reply() {
    let pair = Pair::filled();
    let mut direct = pair.alone.client();
    for request in requests() {
        // The marker shows that nothing followed that should not have.
        let whole = [request, encode(&["ECHO", "end of request"])].concat();
        let marker = b"$14\r\nend of request\r\n";
        direct.send_raw(&whole);
        let mut expected = Vec::new();
        while !expected.ends_with(marker) {
            expected.extend(direct.recv());
        }
        let mut client = pair.proxy.client();
        for cut in 1..whole.len() {
            client.send_raw(&whole[..cut]);
            // Long enough, mostly, for the proxy to read the first part alone. When it is not, the test is weaker.
            thread::sleep(Duration::from_micros(200));
            client.send_raw(&whole[cut..]);
            let got = client.recv_bytes(expected.len());
            assert_eq!(shown(&got), shown(&expected), "{} cut at {cut}", shown(&whole));
        }
    }
}

#[test]
fn requests_sent_byte_by_byte_have_the_same_replies() {
    let pair = Pair::filled();
    let stream: Vec<u8> = requests().concat();
    let whole = [stream, encode(&["QUIT"])].concat();
    let expected = pair.closes_alike(&whole);
    let mut client = pair.proxy.client();
    for byte in whole {
        client.send_raw(&[byte]);
    }
    assert_eq!(shown(&client.recv_to_end()), shown(&expected));
}

#[test]
fn a_deep_pipeline_is_answered_in_order() {
    let pair = Pair::filled();
    let mut random = fastrand::Rng::with_seed(20);
    let commands: Vec<Vec<u8>> = (0..10_000).map(|number| mixed(&mut random, number)).collect();
    let stream = commands.concat();
    // The second round finds a warm cache, and whatever the first one left behind.
    for round in 0..2 {
        let [expected, got] = pair.addresses().map(|address| {
            let mut client = Client::connect(address);
            let (mut writer, bytes) = (client.writer(), stream.clone());
            let sender = thread::spawn(move || writer.write_all(&bytes).expect("the server reads on"));
            let replies = commands.iter().enumerate().map(|(index, command)| {
                let lost = |error| panic!("round {round}, command {index}, {}: {error}", shown(command));
                client.try_recv().unwrap_or_else(lost)
            });
            let replies: Vec<Vec<u8>> = replies.collect();
            sender.join().expect("everything was sent");
            replies
        });
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let command = shown(&commands[index]);
            assert_eq!(shown(got), shown(expected), "round {round}, command {index}: {command}");
        }
    }
    assert!(pair.proxy.stat("hits") > 0, "a pipeline of reads and writes hits where it may");
}

/// Hits, misses, writes and errors over a few keys, so that they meet.
fn mixed(random: &mut fastrand::Rng, number: usize) -> Vec<u8> {
    let key = format!("key:{}", random.u32(0..50));
    let value = format!("value {number}");
    match random.u32(0..20) {
        0..6 => encode(&["GET", &key]),
        6..8 => encode(&["GET", ["b", "long"][number % 2]]),
        8 => encode(&["STRLEN", &key]),
        9 => encode(&["MGET", &key, "a", &format!("key:{}", random.u32(0..50))]),
        10..12 => encode(&["SET", &key, &value]),
        12 => encode(&["DEL", &key]),
        13 => encode(&["APPEND", &key, "+"]),
        14 => encode(&["LPUSH", &key, "wrong type unless missing"]),
        15 => encode(&["INCR", "counter"]),
        16 => encode(&["GET"]),
        // Rare, since an unknown command might change anything: until it is answered there are no hits.
        17 if number % 1_000 > 900 => encode(&["NOSUCH", &key]),
        17 => encode(&["HGET", &key]),
        18 => encode(&["ECHO", &value]),
        _ => format!("GET {key}\r\n").into_bytes(),
    }
}

#[test]
fn a_pipeline_of_misses_and_hits_keeps_its_order() {
    let pair = Pair::filled();
    let mut client = pair.proxy.client();
    for number in 0..100 {
        client.expect(b"+OK\r\n", &["SET", &format!("n:{number}"), &number.to_string()]);
    }
    pair.proxy.settle();
    for number in (0..100).step_by(3) {
        client.expect(&bulk(&number.to_string()), &["GET", &format!("n:{number}")]);
    }
    let keys: Vec<String> = (0..100).map(|number| format!("n:{number}")).collect();
    let commands: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key]).collect();
    let commands: Vec<&[&str]> = commands.iter().map(<[&str; 2]>::as_slice).collect();
    for (number, reply) in client.pipeline(&commands).iter().enumerate() {
        assert_eq!(shown(reply), shown(&bulk(&number.to_string())), "reply {number}");
    }
}

#[test]
fn a_write_in_a_pipeline_is_seen_by_the_read_behind_it() {
    let pair = Pair::filled();
    let mut client = pair.proxy.client();
    client.expect(&bulk("1"), &["GET", "a"]);
    for round in 0..200 {
        let value = format!("round {round}");
        let stored = bulk(&value);
        let replies = client.pipeline(&[&["GET", "a"], &["SET", "a", &value], &["GET", "a"], &["GET", "a"]]);
        assert_eq!(shown(&replies[2]), shown(&stored));
        assert_eq!(shown(&replies[3]), shown(&stored));
    }
}

#[test]
fn values_and_keys_may_hold_any_byte() {
    let pair = Pair::filled();
    let every: Vec<u8> = (0..=255).collect();
    let mut client = pair.proxy.client();
    for value in [every.as_slice(), b"", b"\r\n", b"$-1\r\n", b"*2\r\n$3\r\nGET\r\n", &every.repeat(1000)] {
        for key in [every.as_slice(), b"", b"\r\n", b"*1\r\n$4\r\nPING\r\n"] {
            client.expect(b"+OK\r\n", &[b"SET".as_slice(), key, value]);
            let framed = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
            for _ in 0..3 {
                client.expect(&framed, &[b"GET".as_slice(), key]);
            }
        }
    }
}

#[test]
fn requests_that_are_none_are_passed_over() {
    let pair = Pair::start();
    let mut client = pair.proxy.client();
    client.send_raw(b"\r\n\r\n*0\r\n*-1\r\n   \r\n*-5\r\n\n\nPING\r\n");
    assert_eq!(shown(&client.recv()), "+PONG\\r\\n");
    // Were one of them answered, its reply would be here.
    client.expect(b"+PONG\r\n", &["PING"]);
}

#[test]
fn a_protocol_error_is_said_as_redis_says_it_and_closes_that_client_alone() {
    let pair = Pair::filled();
    let mut bystander = pair.proxy.client();
    let long = "x".repeat(70_000);
    let broken: Vec<Vec<u8>> = vec![
        b"*1\r\n+PING\r\n".to_vec(),
        b"*1\r\n*1\r\n$4\r\nPING\r\n".to_vec(),
        b"*abc\r\n".to_vec(),
        b"*\r\n+\r\n".to_vec(),
        b"*1x\r\n".to_vec(),
        b"*2147483648\r\n".to_vec(),
        b"*99999999999999999999\r\n".to_vec(),
        b"*1\r\n$-1\r\n".to_vec(),
        b"*1\r\n$abc\r\n".to_vec(),
        b"*1\r\n$\r\n".to_vec(),
        b"*1\r\n$536870913\r\n".to_vec(),
        b"*1\r\n$99999999999999999999\r\n".to_vec(),
        b"*2\r\n$3\r\nGET\r\n:1\r\n".to_vec(),
        b"GET \"unbalanced\r\n".to_vec(),
        b"GET 'unbalanced\r\n".to_vec(),
        b"GET \"a\"b\r\n".to_vec(),
        long.clone().into_bytes(),
        format!("*{long}").into_bytes(),
        format!("*1\r\n${long}").into_bytes(),
        // Whole commands before the broken one are answered first.
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$7\r\nmissing\r\n*1\r\n!\r\n".to_vec(),
        b"PING\r\nGET a\r\n*1\r\n$x\r\n".to_vec(),
        b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n2\r\n*1\r\n$x\r\n".to_vec(),
    ];
    for bytes in broken {
        bystander.send_raw(&encode(&["GET", "a"])[..10]);
        let answer = pair.closes_alike(&bytes);
        let message = memchr::memmem::find(&answer, b"-ERR Protocol error");
        assert!(message.is_some(), "Redis calls {} fine: {}", shown(&bytes), shown(&answer));
        bystander.send_raw(&encode(&["GET", "a"])[10..]);
        assert_eq!(shown(&bystander.recv()), shown(&bulk("1")));
    }
    bystander.expect(&bulk("2"), &["GET", "b"]);
}

/// Redis takes these for an attack by way of a browser and closes at once: on a shared connection, a disaster.
#[test]
fn a_request_by_http_closes_that_client_alone() {
    let pair = Pair::filled();
    let mut bystander = pair.proxy.client();
    for bytes in [
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n".as_slice(),
        b"Host: localhost\r\nGET a\r\n",
        b"*1\r\n$4\r\npost\r\n",
        b"*2\r\n$5\r\nhost:\r\n$1\r\nx\r\n",
    ] {
        bystander.expect(b"+OK\r\n", &["SET", "bystander", "before"]);
        let lane = last_setter(&pair.behind);
        pair.closes_alike(bytes);
        bystander.expect(b"+OK\r\n", &["SET", "bystander", "after"]);
        assert_eq!(last_setter(&pair.behind), lane, "the bystander's upstream connection died of it");
    }
}

/// The id of the one connection to Redis whose last command was SET.
#[track_caller]
fn last_setter(redis: &Redis) -> String {
    let list = redis.client().text(&["CLIENT", "LIST"]);
    let setter =
        list.lines().find(|line| line.contains(" cmd=set ")).unwrap_or_else(|| panic!("no SET in {list}"));
    setter.split(' ').next().expect("a line starts with its id").to_owned()
}

#[test]
fn quit_answers_what_came_before_it_and_nothing_after() {
    let pair = Pair::filled();
    for bytes in [
        [encode(&["GET", "a"]), encode(&["SET", "b", "3"]), encode(&["QUIT"]), encode(&["GET", "a"])]
            .concat(),
        b"QUIT\r\nPING\r\n".to_vec(),
        b"quit now\r\n".to_vec(),
        [encode(&["MULTI"]), encode(&["SET", "b", "4"]), encode(&["QUIT"])].concat(),
    ] {
        pair.closes_alike(&bytes);
    }
    let [expected, got] = pair.addresses().map(|address| Client::connect(address).cmd(&["GET", "b"]));
    assert_eq!(shown(&got), shown(&expected));
}

#[test]
fn a_client_that_ends_its_sending_half_gets_every_reply() {
    let pair = Pair::filled();
    let pipeline: Vec<Vec<u8>> =
        (0..2_000).map(|number| encode(&["SET", "half", &format!("{number:0>100}")])).collect();
    let reads: Vec<Vec<u8>> =
        ["a", "missing", "half", "long"].iter().map(|key| encode(&["GET", key])).collect();
    let stream = [pipeline.concat(), reads.concat()].concat();
    let mut client = pair.proxy.client();
    client.send_raw(&stream);
    client.finish_sending();
    let last =
        [bulk("1"), b"$-1\r\n".to_vec(), bulk(&format!("{:0>100}", 1999)), bulk(&"x".repeat(300))].concat();
    let expected = [b"+OK\r\n".repeat(2_000), last].concat();
    let got = client.recv_to_end();
    assert!(got == expected, "{} bytes of {}: {}", got.len(), expected.len(), shown(&got));
}

#[test]
fn hello_answers_as_redis_does() {
    let pair = Pair::start();
    let conversations: &[&[&[&str]]] = &[
        &[&["HELLO"], &["HGETALL", "none"]],
        &[&["HELLO", "2"], &["HGETALL", "none"]],
        &[&["HELLO", "3"], &["HGETALL", "none"], &["GET", "none"]],
        &[&["HELLO", "3", "SETNAME", "me"], &["CLIENT", "GETNAME"]],
        &[
            &["HELLO", "3", "AUTH", "default", "any", "SETNAME", "me"],
            &["CLIENT", "GETNAME"],
            &["ACL", "WHOAMI"],
        ],
        &[&["HELLO", "3"], &["HELLO", "2"], &["HGETALL", "none"], &["HELLO"]],
        &[&["HELLO", "4"], &["HGETALL", "none"]],
        &[&["HELLO", "0"], &["HELLO", "x"], &["HELLO", "3", "WHAT"], &["HELLO", "2", "AUTH", "default"]],
        &[&["HELLO", "3", "AUTH", "nobody", "x"], &["HGETALL", "none"]],
        &[&["HELLO", "3"], &["RESET"], &["HGETALL", "none"]],
    ];
    for conversation in conversations {
        let [expected, got] = pair.addresses().map(|address| {
            let mut client = Client::connect(address);
            let replies = conversation.iter().map(|args| without_id(&client.cmd(args)));
            replies.collect::<Vec<String>>()
        });
        assert_eq!(got, expected, "{conversation:?}");
    }
}

#[test]
fn hello_with_a_password_opens_what_is_closed() {
    let pair = Pair::start_with(&["--requirepass", "secret"]);
    let conversations: &[&[&[&str]]] = &[
        &[
            &["PING"],
            &["GET", "a"],
            &["HELLO", "3"],
            &["HELLO"],
            &["SELECT", "1"],
            &["NOSUCH"],
            &["CLIENT", "ID", "x"],
        ],
        &[&["HELLO", "3", "AUTH", "default", "wrong"], &["GET", "a"]],
        &[&["HELLO", "3", "AUTH", "default", "secret"], &["SET", "a", "1"], &["GET", "a"], &["GET", "a"]],
        &[
            &["GET", "a"],
            &["AUTH", "wrong"],
            &["GET", "a"],
            &["AUTH", "secret"],
            &["GET", "a"],
            &["GET", "none"],
        ],
        &[&["AUTH", "default", "secret"], &["HELLO", "3"], &["GET", "a"], &["RESET"], &["GET", "a"]],
        &[
            &["MULTI"],
            &["GET", "a"],
            &["EXEC"],
            &["SUBSCRIBE", "x"],
            &["BLPOP", "x", "1"],
            &["RESET"],
            &["ECHO", "x"],
        ],
    ];
    for conversation in conversations {
        let [expected, got] = pair.addresses().map(|address| {
            let mut client = Client::connect(address);
            let replies = conversation.iter().map(|args| without_id(&client.cmd(args)));
            replies.collect::<Vec<String>>()
        });
        assert_eq!(got, expected, "{conversation:?}");
    }
}

/// Redis allows ten arguments of 16 KiB each to whoever has not authenticated, and so bounds what a stranger costs.
#[test]
fn who_has_not_authenticated_may_not_send_much() {
    let pair = Pair::start_with(&["--requirepass", "secret"]);
    pair.closes_alike(b"*11\r\n");
    pair.closes_alike(b"*1\r\n$16385\r\n");
}

/// A reply for a message; in HELLO's greeting the connection's id, which differs, is left out.
fn without_id(reply: &[u8]) -> String {
    let members = children(reply);
    let id = members.iter().position(|member| payload(member) == b"id");
    id.map_or_else(
        || shown(reply),
        |id| {
            let kept =
                members.iter().enumerate().filter(|(index, _)| *index != id + 1).map(|(_, member)| *member);
            format!("{}{}", char::from(reply[0]), shown(&kept.collect::<Vec<_>>().concat()))
        },
    )
}

#[test]
fn every_type_of_resp3_passes_unchanged() {
    let pair = Pair::start();
    let kinds = [
        "string", "integer", "double", "null", "array", "set", "map", "attrib", "verbatim", "true", "false",
        "bignum",
    ];
    for protocol in [2, 3] {
        for kind in kinds {
            let [expected, got] = pair.addresses().map(|address| {
                let mut client = Client::connect(address);
                client.hello(protocol);
                [client.cmd(&["DEBUG", "PROTOCOL", kind]), client.cmd(&["PING"])].concat()
            });
            assert_eq!(shown(&got), shown(&expected), "{kind} in RESP{protocol}");
        }
    }
    let mut client = pair.proxy.client();
    client.hello(3);
    assert_eq!(client.cmd(&["DEBUG", "PROTOCOL", "map"])[0], b'%');
    assert_eq!(client.cmd(&["DEBUG", "PROTOCOL", "bignum"])[0], b'(');
}

#[test]
fn two_protocols_read_one_key_each_in_its_own_words() {
    let pair = Pair::filled();
    let mut clients = [2, 3].map(|protocol| {
        let [mut direct, mut proxied] = pair.addresses().map(Client::connect);
        direct.hello(protocol);
        proxied.hello(protocol);
        (direct, proxied)
    });
    for client in clients.iter_mut().flat_map(|(direct, proxied)| [direct, proxied]) {
        client.cmd(&["ZADD", "z", "1.5", "m"]);
        client.cmd(&["SADD", "s", "m"]);
    }
    let reads: &[&[&str]] = &[
        &["GET", "a"],
        &["GET", "missing"],
        &["HGETALL", "h"],
        &["HGET", "h", "missing"],
        &["HMGET", "h", "f", "missing"],
        &["SMEMBERS", "s"],
        &["ZSCORE", "z", "m"],
        &["ZSCORE", "z", "missing"],
        &["ZRANGE", "z", "0", "-1", "WITHSCORES"],
        &["ZRANK", "z", "missing"],
        &["MGET", "a", "missing"],
        &["GEOPOS", "missing", "m"],
        &["LPOS", "l", "missing"],
        &["LRANGE", "l", "0", "-1"],
    ];
    for _ in 0..4 {
        for read in reads {
            for (direct, proxied) in &mut clients {
                assert_eq!(shown(&proxied.cmd(read)), shown(&direct.cmd(read)), "{read:?}");
            }
        }
    }
    assert!(pair.proxy.stat("hits") > 0);
    drop(pair.behind);
}

/// The bulk string of a text.
fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

#[test]
fn who_is_silent_for_too_long_is_disconnected_as_by_redis() {
    // What it says, and what it reads of the answer before it falls silent.
    let silent: [(&[u8], &[u8]); 5] = [
        (b"PING\r\n", b"+PONG\r\n"),
        (b"PING\r\n*2\r\n$3\r\nGET\r\n$3\r\nha", b"+PONG\r\n"),
        (b"MULTI\r\nGET key\r\n", b"+OK\r\n+QUEUED\r\n"),
        (b"WATCH key\r\n", b"+OK\r\n"),
        (b"GET large\r\n", b"$40000000\r\n"),
    ];
    let waiting: [(&[u8], &[u8]); 4] = [
        (b"SUBSCRIBE ch\r\n", b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n"),
        (b"MONITOR\r\n", b"+OK\r\n"),
        (b"PING\r\nBLPOP list 0\r\n", b"+PONG\r\n"),
        (b"PING\r\nWAIT 1 0\r\n", b"+PONG\r\n"),
    ];
    let (impatient, redis) = (Redis::start_with(&["--timeout", "1"]), Redis::start());
    let proxy = proxy().upstream(&redis).set("server.idle_timeout", "1s").start();
    for redis in [&impatient, &redis] {
        redis.client().cmd(&["SETRANGE", "large", "39999999", "x"]);
    }
    for (who, address) in [("Redis", impatient.addr()), ("nearhit", proxy.addr())] {
        let reach = |(says, hears): (&[u8], &[u8])| {
            let mut client = Client::connect(address);
            client.send_raw(says);
            assert_eq!(shown(&client.recv_bytes(hears.len())), shown(hears));
            client
        };
        let waiting = waiting.map(reach);
        let mut operator = Client::connect(address);
        for exchange in silent {
            let client = reach(exchange);
            let port = format!(":{} ", client.writer().local_addr().expect("it has one").port());
            let what = format!("{who} disconnects it after {}", shown(exchange.0));
            eventually(&what, || !operator.text(&["CLIENT", "LIST"]).contains(&port));
        }
        assert!(waiting.iter().all(|client| !client.is_closed()), "{who} has disconnected one that waits");
    }
}
