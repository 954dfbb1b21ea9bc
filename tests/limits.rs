//! What is too much, too large, too deep, too slow or broken harms nobody but who sent it.
//!
//! After each excess another client of the same proxy still works, the clients that misbehaved are gone, and the
//! proxy's memory is back under a named bound. The peak is looked at too where a queue could grow meanwhile.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::resp::{encode, shown};
use common::{Client, Intercept, Proxy, ProxyBuilder, Redis, Relay, eventually, proxy, raise_open_files};

const MIB: usize = 1024 * 1024;
/// How much more memory than at rest the proxy may keep once an excess is over: what allocators hold back.
const RESIDUE_MIB_MAX: u64 = 64;
/// How much more it may take while an excess lasts, beyond the limit that is being tested.
const PEAK_MIB_MAX: u64 = 96;
/// Lanes and pooled connections may have been opened for an excess, and may stay for a while.
const UPSTREAM_CONNECTIONS_MAX: usize = 32;
/// What a connection that does nothing may cost.
const IDLE_CLIENT_KIB_MAX: u64 = 16;
/// A large transfer on a busy machine; only a hang takes this long.
const LARGE_TIMEOUT: Duration = Duration::from_mins(1);

/// A proxy at rest, one client of it that behaves, and what it needs then.
struct House {
    redis: Redis,
    proxy: Proxy,
    bystander: Client,
    clients: u64,
    files: usize,
    rss_mib: u64,
}

/// A proxy that takes no busy machine for a dead server: these tests make the machine busy.
fn patient() -> ProxyBuilder {
    proxy()
        .set("cache.max_staleness", "10s")
        .set("upstream.dial_timeout", "5s")
        .set("upstream.command_timeout", "30s")
}

impl House {
    #[track_caller]
    fn start(configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let redis = Redis::start();
        let proxy = configure(patient().upstream(&redis)).start();
        Self::around(redis, proxy)
    }

    #[track_caller]
    fn around(redis: Redis, proxy: Proxy) -> Self {
        proxy.wait_live();
        let mut bystander = proxy.client();
        bystander.expect(b"+OK\r\n", &["SET", "bystander", "well"]);
        bystander.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
        let (clients, files) = (proxy.stat("connected_clients"), proxy.process().open_files());
        let rss_mib = proxy.process().rss_mib();
        Self { redis, proxy, bystander, clients, files, rss_mib }
    }

    /// The client that behaves, and a new one, read and write.
    #[track_caller]
    fn serves(&mut self) {
        for client in [&mut self.bystander, &mut self.proxy.client()] {
            client.expect(b"+OK\r\n", &["SET", "bystander", "well"]);
            client.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
            client.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
        }
    }

    /// It serves, whoever misbehaved is gone, and what was taken has been given back.
    #[track_caller]
    fn recovers(&mut self) {
        self.serves();
        let clients = self.clients;
        eventually("the clients that misbehaved are gone", || {
            self.proxy.stat("connected_clients") <= clients
        });
        let files = self.files + UPSTREAM_CONNECTIONS_MAX;
        eventually("their sockets are closed", || self.proxy.process().open_files() <= files);
        let bound = self.rss_mib + RESIDUE_MIB_MAX;
        eventually("memory is given back", || self.proxy.process().rss_mib() <= bound);
        self.serves();
    }

    #[track_caller]
    fn peaked_below(&self, extra_mib: u64) {
        let (peak, bound) = (self.proxy.process().peak_rss_mib(), self.rss_mib + extra_mib + PEAK_MIB_MAX);
        assert!(peak <= bound, "{peak} MiB at the peak, from {} at rest; allowed are {bound}", self.rss_mib);
    }
}

#[test]
fn ten_thousand_idle_connections() {
    /// What the test process and the proxy hold open beside these connections.
    const OTHER_FILES: u64 = 1_000;
    let files = raise_open_files();
    let count = files.saturating_sub(OTHER_FILES).min(10_000);
    if count < 10_000 {
        eprintln!("the hard limit of {files} open files allows {count} connections instead of 10000");
    }
    let mut house = House::start(|proxy| proxy.set("server.max_clients", "20000"));
    let mut idle: Vec<Client> = (0..count).map(|_| house.proxy.client()).collect();
    eventually("all are accepted", || house.proxy.stat("connected_clients") == house.clients + count);
    house.serves();
    let (rss, bound) = (
        house.proxy.process().rss_mib(),
        house.rss_mib + RESIDUE_MIB_MAX + count * IDLE_CLIENT_KIB_MAX / 1024,
    );
    assert!(rss <= bound, "{rss} MiB for {count} idle connections; allowed are {bound}");
    for client in &mut idle {
        client.expect(b"+PONG\r\n", &["PING"]);
    }
    idle.into_iter().for_each(Client::reset);
    house.recovers();
}

#[test]
fn a_value_of_a_hundred_megabytes_goes_there_and_back() {
    let mut house = House::start(|proxy| proxy);
    let value: Vec<u8> = (0..100_000_000_u32).map(|index| (index % 251) as u8).collect();
    let framed = [b"$100000000\r\n".as_slice(), &value, b"\r\n"].concat();
    let mut client = house.proxy.client();
    client.set_timeout(LARGE_TIMEOUT);
    assert_eq!(shown(&client.cmd(&[b"SET".as_slice(), b"large", &value])), "+OK\\r\\n");
    for _ in 0..2 {
        assert!(client.cmd(&["GET", "large"]) == framed, "the value came back changed");
    }
    client.expect(b":1\r\n", &["DEL", "large"]);
    drop(client);
    house.recovers();
}

#[test]
fn small_commands_go_on_beside_large_values() {
    const SMALL_MIN: u32 = 10;
    let mut house = House::start(|proxy| proxy);
    let address = house.proxy.addr();
    let done = Arc::new(AtomicBool::new(false));
    let finished = Arc::clone(&done);
    let large = thread::spawn(move || {
        let value = vec![b'x'; 100_000_000];
        let mut client = Client::connect(address);
        client.set_timeout(LARGE_TIMEOUT);
        for _ in 0..2 {
            assert_eq!(shown(&client.cmd(&[b"SET".as_slice(), b"large", &value])), "+OK\\r\\n");
            assert_eq!(client.cmd(&["GET", "large"]).len(), value.len() + 14);
        }
        finished.store(true, SeqCst);
    });
    // One of these is answered from memory and one by Redis, over whichever connection carries the large value.
    let mut small = house.proxy.client();
    let mut rounds = 0;
    while !done.load(SeqCst) && !large.is_finished() {
        rounds += 1;
        small.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
        small.expect(format!(":{rounds}\r\n").as_bytes(), &["INCR", "counter"]);
    }
    large.join().expect("the large values came through");
    assert!(rounds >= SMALL_MIN, "only {rounds} rounds of small commands while 400 MB went by");
    drop(small);
    house.recovers();
}

/// Whoever always has something to say lets others say something in between.
#[test]
fn pipelines_without_end_take_turns() {
    const FLOODS: usize = 8;
    const PING: &[u8] = b"PING\r\n";
    /// In a turn of all of them, twice over.
    const PINGS_MAX: usize = FLOODS * 2 * 64 * 1024 / PING.len();
    // What a Unix socket holds, its reader can have at once.
    let directory = tempfile::tempdir().expect("a directory for a socket");
    let path = directory.path().join("nearhit.sock");
    let listen = format!(r#"["unix:{}", "127.0.0.1:0"]"#, path.display());
    let house = House::start(|proxy| proxy.set("server.workers", "1").set("server.listen", &listen));
    let mut small = house.proxy.client();
    let mut floods: Vec<Client> = (0..FLOODS).map(|_| Client::connect_unix(&path)).collect();
    for client in floods.iter_mut().chain([&mut small]) {
        client.expect(b"+PONG\r\n", &["PING"]);
    }
    house.proxy.stop();
    let mut waiting = 0;
    for flood in &floods {
        let mut writer = flood.writer();
        socket2::SockRef::from(&writer).set_send_buffer_size(4 * MIB).expect("an open socket");
        writer.set_nonblocking(true).expect("an open socket");
        while let Ok(length) = writer.write(&PING.repeat(1024)) {
            waiting += length / PING.len();
        }
    }
    assert!(waiting > 2 * PINGS_MAX, "the sockets take {waiting} PINGs only");
    small.send(&["PROXY", "STATS"]);
    house.proxy.cont();
    let stats = String::from_utf8(small.recv()).expect("figures");
    let processed = stats.split("\r\n:").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let processed: usize = processed.unwrap_or_else(|| panic!("{stats}"));
    assert!(stats.contains("commands_processed\r\n:") && processed > FLOODS, "{stats}");
    assert!(processed < PINGS_MAX, "{processed} of {waiting} PINGs were answered first");
}

/// Longer than all that the proxy may take for it.
const HUGE_BYTES: usize = 160 * MIB;

impl House {
    /// One lane, so that everybody meets on it, and replies that are larger than what may be held.
    #[track_caller]
    fn with_huge_values() -> Self {
        let house = Self::start(|proxy| proxy.set("server.workers", "1").set("upstream.lanes", "1"));
        let mut outside = house.redis.client();
        outside.set_timeout(LARGE_TIMEOUT);
        for mark in 0..HUGE_BYTES / MIB {
            let offset = (mark * MIB + MIB / 2).to_string();
            outside.cmd(&["SETRANGE", "huge", &offset, &format!("mark {mark}")]);
        }
        outside.cmd(&["SETRANGE", "huge", &(HUGE_BYTES - 3).to_string(), "end"]);
        house
    }
}

/// Others go on meanwhile, the proxy holds little of it, and when it is read at last it is whole.
#[test]
fn a_huge_reply_to_a_slow_reader_is_held_in_part() {
    let mut house = House::with_huge_values();
    let mut direct = house.redis.client();
    direct.set_timeout(LARGE_TIMEOUT);
    for number in 0..HUGE_BYTES / MIB {
        direct.cmd(&["RPUSH", "list", &format!("{number:04}").repeat(MIB / 4)]);
    }
    let (string, list) = (direct.cmd(&["GET", "huge"]), direct.cmd(&["LRANGE", "list", "0", "-1"]));
    let script = "return redis.call('get', KEYS[1])";
    let cases: [(&[&str], &[u8]); 4] = [
        // It might fill the cache.
        (&["GET", "huge"], &string),
        (&["GETEX", "huge"], &string),
        // Its reply has to be certified before it is seen.
        (&["EVAL", script, "1", "huge"], &string),
        (&["LRANGE", "list", "0", "-1"], &list),
    ];
    for (number, (command, whole)) in cases.into_iter().enumerate() {
        let mut slow = house.proxy.client();
        slow.set_timeout(LARGE_TIMEOUT);
        if number == 3 {
            // On a connection of its own.
            slow.expect(b"+OK\r\n", &["WATCH", "other"]);
        }
        slow.send_raw(&[encode(command), encode(&["ECHO", "behind"])].concat());
        let begun = slow.recv_bytes(1);
        for _ in 0..20 {
            house.serves();
        }
        house.peaked_below(0);
        let rest = slow.recv_bytes(whole.len() - 1);
        assert!(begun == whole[..1] && rest == whole[1..], "another reply to {}", command[0]);
        assert_eq!(shown(&slow.recv()), r"$6\r\nbehind\r\n", "{}", command[0]);
    }
    house.peaked_below(0);
    assert_eq!(house.proxy.stat("slow_reader_disconnections"), 0, "nobody waited behind");
    house.recovers();
}

/// It is put together of parts, and has to be whole for that.
#[test]
fn a_huge_mget_is_held_once() {
    const VALUES: usize = 8;
    let mut house = House::start(|proxy| proxy);
    let value = vec![b'x'; HUGE_BYTES / VALUES];
    let keys: Vec<String> = (0..VALUES).map(|number| format!("key {number}")).collect();
    for key in &keys {
        house.redis.client().expect(b"+OK\r\n", &[b"SET", key.as_bytes(), &value]);
    }
    let mut client = house.proxy.client();
    client.set_timeout(LARGE_TIMEOUT);
    let mget: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    assert!(client.cmd(&mget).len() > HUGE_BYTES);
    house.peaked_below((HUGE_BYTES / MIB) as u64);
    drop(client);
    house.recovers();
}

/// Whoever has something in flight behind the reply cannot leave: the reader is cut off for it.
#[test]
fn a_slow_reader_is_cut_off_if_others_wait_behind_its_reply() {
    const ROUNDS_MAX: u32 = 20;
    /// Enough to be on every lane that there is.
    const OTHERS: usize = 12;
    let mut house = House::with_huge_values();
    let mut rounds = 0;
    while house.proxy.stat("slow_reader_disconnections") == 0 {
        rounds += 1;
        assert!(rounds <= ROUNDS_MAX, "nobody ever waited behind the reply");
        let mut sleeper = house.redis.client();
        let mut slow = house.proxy.client();
        let mut others: Vec<Client> = (0..OTHERS).map(|_| house.proxy.client()).collect();
        for client in others.iter_mut().chain([&mut slow]) {
            client.expect(b"+PONG\r\n", &["PING"]);
        }
        // All are sent while the server sleeps.
        sleeper.send(&["DEBUG", "SLEEP", "0.3"]);
        slow.send(&["GET", "huge"]);
        for other in &mut others {
            other.send(&["INCR", "counter"]);
        }
        for other in &mut others {
            assert_eq!(other.recv()[0], b':');
        }
        sleeper.recv();
        if house.proxy.stat("slow_reader_disconnections") > 0 {
            let got = slow.recv_to_end().len();
            assert!(got < HUGE_BYTES, "it has read {got} bytes");
        }
    }
    house.recovers();
    // At half of `server.output_limit` there is no more room for it.
    house.peaked_below(32);
}

/// What a client has read of a reply cannot be taken back, and no error may be taken for the rest of it.
#[test]
fn a_huge_reply_that_breaks_off_ends_its_client() {
    let mut house = House::with_huge_values();
    for protocol in [2, 3] {
        let mut slow = house.proxy.client();
        slow.hello(protocol);
        slow.send_raw(&[encode(&["GET", "huge"]), encode(&["ECHO", "behind"])].concat());
        let begun = slow.recv_bytes(16);
        house.redis.client().cmd(&["CLIENT", "KILL", "TYPE", "normal"]);
        let rest = slow.recv_to_end();
        assert!(begun.starts_with(format!("${HUGE_BYTES}\r\n").as_bytes()));
        assert!(rest.len() < HUGE_BYTES, "the whole of it had come");
        assert!(!rest.windows(4).any(|bytes| bytes == b"-ERR" || bytes == b"behi"));
        house.proxy.wait_live();
        eventually("others go on", || house.proxy.client().cmd(&["INCR", "counter"])[0] == b':');
    }
    house.bystander = house.proxy.client();
    house.recovers();
}

#[test]
fn garbage_is_refused_and_forgotten() {
    let mut house = House::start(|proxy| proxy);
    let mut random = fastrand::Rng::with_seed(6);
    for _ in 0..200 {
        let mut bytes = vec![0; random.usize(1..64 * 1024)];
        random.fill(&mut bytes);
        throw(&house.proxy, &bytes);
    }
    house.recovers();
}

#[test]
fn requests_with_bytes_changed_are_refused_or_answered() {
    let mut house = House::start(|proxy| proxy);
    let pipeline =
        [encode(&["SET", "key", "value"]), encode(&["GET", "key"]), encode(&["MGET", "key", "other"])];
    let stream = pipeline.concat().repeat(20);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut changed = stream.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..changed.len());
            changed[at] = random.u8(..);
        }
        throw(&house.proxy, &changed);
    }
    house.recovers();
}

/// Sends bytes that may be anything, and takes whatever comes until the proxy closes.
fn throw(proxy: &Proxy, bytes: &[u8]) {
    let mut client = proxy.client();
    // The proxy may have closed before it has everything, and then there is no half left to end either.
    if client.try_send_raw(bytes).is_ok() {
        let _ = client.try_finish_sending();
    }
    client.recv_to_end();
}

#[test]
fn a_request_nested_a_million_levels_is_refused_as_redis_does() {
    let mut house = House::start(|proxy| proxy);
    let nested = b"*1\r\n".repeat(1_000_000);
    let mut client = house.proxy.client();
    // The refusal comes with the first few bytes; a reset may then swallow it, as it may before Redis.
    let _ = client.try_send_raw(&nested[..8]);
    let answer = client.recv_to_end();
    assert_eq!(shown(&answer), r"-ERR Protocol error: expected \'$\', got \'*\'\r\n");
    throw(&house.proxy, &nested);
    house.recovers();
    house.peaked_below(0);
}

#[test]
fn a_reply_nested_a_million_levels_harms_nobody() {
    let redis = Redis::start();
    let deep = [b"*1\r\n".repeat(1_000_000), b"+x\r\n".to_vec()].concat();
    let upstream = Intercept::get(redis.addr(), "deep", deep.clone());
    let proxy = patient().upstream_addr(upstream.addr()).start();
    let mut house = House::around(redis, proxy);
    for protocol in [2, 3] {
        let mut client = house.proxy.client();
        client.hello(protocol);
        client.send_raw(&[encode(&["GET", "deep"]), encode(&["QUIT"])].concat());
        let answer = client.recv_to_end();
        let whole = answer == [deep.as_slice(), b"+OK\r\n"].concat();
        let refused = answer.is_empty() || answer.starts_with(b"-");
        assert!(whole || refused, "RESP{protocol}: neither the reply nor an error: {}", shown(&answer));
    }
    assert!(upstream.given() >= 2, "the proxy has seen the reply");
    house.recovers();
    house.peaked_below(0);
}

#[test]
fn a_client_that_never_reads_its_hits_is_not_read_from() {
    let mut house = House::start(|proxy| proxy.set("server.output_limit", "8MiB"));
    let value = "x".repeat(1_000_000);
    house.bystander.expect(b"+OK\r\n", &["SET", "large", &value]);
    house.proxy.settle();
    for _ in 0..2 {
        assert_eq!(house.bystander.cmd(&["GET", "large"]).len(), value.len() + 12);
    }
    let silent = ask_and_never_read(&house, 2_000);
    // It is not read from while it takes nothing, so it costs what one reply and the pause cost, and no more.
    for _ in 0..100 {
        house.bystander.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
    }
    drop(silent);
    house.recovers();
    house.peaked_below(8);
}

#[test]
fn a_client_that_never_reads_its_misses_is_cut_off() {
    let mut house =
        House::start(|proxy| proxy.set("server.output_limit", "8MiB").set("cache.max_value_size", "64KiB"));
    house.bystander.expect(b"+OK\r\n", &["SET", "large", &"x".repeat(1_000_000)]);
    let silent = ask_and_never_read(&house, 200);
    let clients = house.clients;
    eventually("the client that does not read is cut off", || {
        house.bystander.expect(b"$4\r\nwell\r\n", &["GET", "bystander"]);
        house.proxy.stat("connected_clients") <= clients
    });
    drop(silent);
    house.recovers();
    house.peaked_below(8);
}

/// What others have read for it gathers behind the reply that it does not read.
#[test]
fn a_client_that_reads_nothing_of_a_large_reply_is_cut_off_for_what_is_behind() {
    const READS: usize = 8;
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let builder = patient().upstream_addr(relay.addr());
    let proxy = builder.set("server.workers", "1").set("server.output_limit", "4MiB").start();
    let mut house = House::around(redis, proxy);
    let keys: Vec<String> = (0..READS).map(|number| format!("key {number}")).collect();
    for key in &keys {
        house.bystander.expect(b"+OK\r\n", &["SET", key, &"x".repeat(900_000)]);
    }
    house.redis.client().cmd(&["SETRANGE", "huge", "40000000", "x"]);
    house.proxy.settle();
    // On lanes of another protocol, where nobody waits for who does not read.
    let mut others: Vec<Client> = keys.iter().map(|_| house.proxy.client()).collect();
    others.iter_mut().for_each(|other| drop(other.hello(3)));
    let mut silent = house.proxy.client();
    silent.expect(b"$-1\r\n", &["GET", "nothing"]);
    relay.others().hold_down(true);
    let (misses, joins) = (house.proxy.stat("misses"), house.proxy.stat("joins"));
    for (other, key) in others.iter_mut().zip(&keys) {
        other.send(&["GET", key]);
    }
    eventually("they are asked for", || house.proxy.stat("misses") == misses + READS as u64);
    silent.send(&["GET", "huge"]);
    keys.iter().for_each(|key| silent.send(&["GET", key]));
    eventually("it waits for the others'", || house.proxy.stat("joins") == joins + READS as u64);
    relay.others().hold_down(false);
    for other in &mut others {
        assert_eq!(other.recv().len(), 900_011);
    }
    eventually("it is cut off", || house.proxy.stat("output_limit_disconnections") == 1);
    drop((silent, others));
    house.recovers();
}

/// However small each message is.
#[test]
fn a_subscriber_that_never_reads_is_cut_off() {
    let mut house = House::start(|proxy| proxy.set("server.output_limit", "1MiB"));
    let mut silent = house.proxy.client();
    assert_eq!(silent.cmd(&["SUBSCRIBE", "channel"])[0], b'*');
    socket2::SockRef::from(&silent.writer()).set_recv_buffer_size(16_384).expect("an open socket");
    let publishing = encode(&["PUBLISH", "channel", &"x".repeat(1_000)]).repeat(100);
    let clients = house.clients;
    eventually("the subscriber that does not read is cut off", || {
        house.bystander.send_raw(&publishing);
        (0..100).for_each(|_| assert_eq!(house.bystander.recv()[0], b':'));
        house.proxy.stat("connected_clients") <= clients
    });
    drop(silent);
    house.recovers();
    house.peaked_below(8);
}

/// Asks so many times for a megabyte that nobody takes. The requests fit the socket's buffers.
fn ask_and_never_read(house: &House, requests: usize) -> Client {
    let mut silent = house.proxy.client();
    silent.send_raw(&encode(&["GET", "large"]).repeat(requests));
    silent
}

#[test]
fn thousands_of_clients_cut_off_in_mid_request() {
    let mut house = House::start(|proxy| proxy);
    let whole =
        [encode(&["GET", "bystander"]), encode(&["SET", "cut", "value"]), encode(&["GET", "cut"])].concat();
    let mut random = fastrand::Rng::with_seed(8);
    for number in 0..3_000 {
        let mut client = house.proxy.client();
        client.send_raw(&whole[..random.usize(1..=whole.len())]);
        if number % 2 == 0 {
            client.reset();
        }
        if number % 500 == 0 {
            house.serves();
        }
    }
    house.recovers();
}

/// Clients cut off while their transactions, watches and blocking commands hold a connection of their own.
#[test]
fn clients_cut_off_in_mid_transaction_leave_no_connection_behind() {
    let mut house = House::start(|proxy| {
        let proxy = proxy.set("upstream.max_connections", "5").set("upstream.max_blocking", "5");
        proxy.set("upstream.max_subscribed", "5")
    });
    for number in 0..60 {
        let mut client = house.proxy.client();
        match number % 4 {
            0 => client.send_raw(&[encode(&["MULTI"]), encode(&["SET", "never", "stored"])].concat()),
            1 => client.expect(b"+OK\r\n", &["WATCH", "bystander"]),
            2 => client.send(&["BLPOP", "nothing", "0"]),
            _ => assert_eq!(client.cmd(&["SUBSCRIBE", "channel"])[0], b'*'),
        }
        if number % 8 < 4 {
            client.reset();
        } else {
            drop(client);
        }
        // The budget is five of each kind: whatever leaks is missed soon.
        let holders = house.clients;
        eventually(&format!("client {number} is gone"), || house.proxy.stat("connected_clients") <= holders);
    }
    eventually("the pool is free", || house.proxy.stat("pool_in_use") == 0);
    eventually("no blocking connection is held", || house.proxy.stat("blocking_in_use") == 0);
    eventually("nobody is subscribed", || house.proxy.stat("subscribed_in_use") == 0);
    assert_eq!(house.proxy.stat("hubs"), 0, "nobody has had to share");
    let replies = house.bystander.pipeline(&[&["MULTI"], &["GET", "never"], &["EXEC"]]);
    assert_eq!(shown(&replies[2]), "*1\\r\\n$-1\\r\\n");
    house.recovers();
}

#[test]
fn one_client_too_many_is_told_so() {
    // Two of the five are the bystander and the connection that asks for statistics.
    let mut house = House::start(|proxy| proxy.set("server.max_clients", "5"));
    let mut guests: Vec<Client> = (0..3).map(|_| house.proxy.client()).collect();
    for guest in &mut guests {
        guest.expect(b"+PONG\r\n", &["PING"]);
    }
    for _ in 0..10 {
        let answer = house.proxy.client().recv_to_end();
        assert_eq!(shown(&answer), "-ERR max number of clients reached\\r\\n");
    }
    for guest in &mut guests {
        guest.expect(b"+PONG\r\n", &["PING"]);
    }
    guests.pop();
    eventually("there is room again", || {
        let mut guest = house.proxy.client();
        guest.try_send_raw(b"PING\r\n").is_ok() && guest.try_recv().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
    drop(guests);
    eventually("the guests are gone", || house.proxy.stat("connected_clients") <= house.clients);
    house.recovers();
}

/// Who has vanished without a word (a machine that lost its power) is found out by the kernel, if it is told to look.
#[test]
fn the_kernel_asks_silent_clients_whether_they_are_there() {
    /// What the kernel writes in front of the time that is left.
    const KEEPALIVE_TIMER: &str = "02:";
    let house = House::start(|proxy| proxy);
    let ours = house.bystander.writer().local_addr().expect("it has one");
    let port = |address: std::net::SocketAddr| format!(":{:04X}", address.port());
    let (local, remote) = (port(house.proxy.addr()), port(ours));
    // Another timer runs while something is on its way.
    eventually("it is asked now and then", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a Linux machine");
        let mut sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let socket = sockets.find(|fields| fields[1].ends_with(&local) && fields[2].ends_with(&remote));
        socket.expect("the proxy's end of it")[5].starts_with(KEEPALIVE_TIMER)
    });
}

#[test]
fn a_request_over_max_request_is_refused() {
    let mut house = House::start(|proxy| proxy.set("server.max_request", "1MiB"));
    house.bystander.expect(b"+OK\r\n", &["SET", "fits", &"x".repeat(900_000)]);

    let mut client = house.proxy.client();
    client.set_timeout(Duration::from_millis(500));
    client.send_raw(b"*3\r\n$3\r\nSET\r\n$8\r\ntoolarge\r\n$2097152\r\n");
    // It may be refused as soon as it is announced, or when the limit is passed; a write into a closed connection
    // would wipe out the answer, so the rest is sent only to a proxy that waits for it.
    let answer = client.try_recv().or_else(|_| {
        client.set_timeout(LARGE_TIMEOUT);
        client.send_raw(&vec![b'x'; MIB + 64 * 1024]);
        client.try_recv()
    });
    let answer = answer.expect("an error is said before the connection closes");
    assert!(answer.starts_with(b"-ERR"), "{}", shown(&answer));
    drop(client);

    // Small arguments add up, too.
    let arguments = b"$10\r\n0123456789\r\n".repeat(200_000);
    throw(&house.proxy, &[b"*200001\r\n$3\r\nDEL\r\n".as_slice(), &arguments].concat());
    assert_eq!(shown(&house.redis.client().cmd(&["EXISTS", "toolarge"])), ":0\\r\\n");
    assert_eq!(house.redis.calls("del"), 0, "the request that was too large went through");
    house.recovers();
    house.peaked_below(1);
}

/// What is announced costs nothing until it comes.
#[test]
fn announced_lengths_take_no_memory() {
    let mut house = House::start(|proxy| proxy);
    let announcements: [&[u8]; 3] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nfirst bytes",
        b"*1048576\r\n$3\r\nDEL\r\n",
        b"*2147483647\r\n",
    ];
    let mut announcers = Vec::new();
    for announcement in announcements.into_iter().cycle().take(300) {
        let mut client = house.proxy.client();
        client.send_raw(announcement);
        announcers.push(client);
    }
    house.serves();
    house.peaked_below(0);
    announcers.into_iter().for_each(Client::reset);
    house.recovers();
}
