//! Coherence, through the proxy's port: what a client may never be shown, whoever wrote and whatever broke.
//!
//! Real servers throughout. A relay stands between the proxy and Redis where an order of events must be forced,
//! mostly to keep an invalidation back: what is right by luck on a fast link is wrong then. No test asserts a time,
//! except the bounds that the contract names; each fails without the guard that it is about.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod faults;
mod flights;
mod lease;
mod news;
mod order;
mod outside;
mod pipelines;
mod transactions;
mod users;
mod writes;

use common::resp::shown;
use common::{Client, Proxy, ProxyBuilder, Redis, Relay, proxy};

/// How late pushes are where they are made late: later than any client can ask again.
const PUSH_DELAY_MS: u64 = 25;
/// For tests that want every hit they can get: no pause of a busy machine ends this lease.
const LONG_LEASE: &str = "10s";

/// A Redis, a relay in front of it, and a proxy that knows only the relay.
struct House {
    proxy: Proxy,
    relay: Relay,
    redis: Redis,
}

impl House {
    /// With a lease that only a fault ends.
    #[track_caller]
    fn start() -> Self {
        Self::start_with(&[], |proxy| proxy.set("cache.max_staleness", LONG_LEASE))
    }

    #[track_caller]
    fn start_with(redis: &[&str], configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let redis = Redis::start_with(redis);
        let relay = Relay::to(redis.addr());
        // Two workers at least, so that clients meet across threads on every machine.
        let builder = proxy().upstream_addr(relay.addr()).set("server.workers", "2");
        let proxy = configure(builder).start();
        Self { proxy, relay, redis }
    }

    /// A client of the proxy.
    #[track_caller]
    fn client(&self) -> Client {
        self.proxy.client()
    }

    /// A client of Redis itself, of whose writes the proxy knows only what it is told.
    #[track_caller]
    fn outside(&self) -> Client {
        self.redis.client()
    }

    /// See [`heat`].
    #[track_caller]
    fn heat(&self, client: &mut Client, read: &str) -> Vec<u8> {
        heat(&self.proxy, client, read)
    }

    /// Holds each invalidation, and each certification, back for a while.
    fn delay_pushes(&self) {
        self.relay.link().delay(0, PUSH_DELAY_MS);
    }
}

/// Reads until the reply comes from memory, by the proxy's own count, and returns it.
#[track_caller]
fn heat(proxy: &Proxy, client: &mut Client, read: &str) -> Vec<u8> {
    let mut reply = Vec::new();
    proxy.until_hit(read, || reply = client.ask(read));
    reply
}

/// Commands as one types them: words, apart by spaces.
/// A transaction that there is no connection for: the commands in it get the reason, and EXEC aborts; none is executed.
#[track_caller]
fn is_doomed(client: &mut Client, reason: &str) {
    assert_eq!(shown(&client.ask("MULTI")), r"+OK\r\n");
    for line in ["SET doomed yes", "GET doomed"] {
        let reply = shown(&client.ask(line));
        assert!(reply.starts_with('-') && reply.contains(reason), "{line}: {reply}");
    }
    let reply = shown(&client.ask("EXEC"));
    assert!(reply.starts_with("-EXECABORT"), "{reply}");
}

trait Ask {
    fn ask(&mut self, line: &str) -> Vec<u8>;
    fn must(&mut self, line: &str) -> Vec<u8>;
    fn ask_all(&mut self, lines: &[&str]) -> Vec<Vec<u8>>;
}

impl Ask for Client {
    #[track_caller]
    fn ask(&mut self, line: &str) -> Vec<u8> {
        self.cmd(&words(line))
    }

    /// As `ask`, of a command that cannot fail.
    #[track_caller]
    fn must(&mut self, line: &str) -> Vec<u8> {
        let reply = self.ask(line);
        assert_ne!(reply[0], b'-', "{line}: {}", shown(&reply));
        reply
    }

    /// All in one write.
    #[track_caller]
    fn ask_all(&mut self, lines: &[&str]) -> Vec<Vec<u8>> {
        let requests: Vec<Vec<&str>> = lines.iter().map(|line| words(line)).collect();
        self.pipeline(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// A bulk string, as a reply.
fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// An error that the proxy made itself.
fn is_own_error(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR nearhit:")
}

/// Closes the connections to Redis that have given themselves this name, and says how many they were.
#[track_caller]
fn kill_named(outside: &mut Client, name: &str) -> usize {
    let list = outside.text(&["CLIENT", "LIST"]);
    let wanted = list.lines().filter(|line| line.contains(&format!(" name={name} ")));
    let ids: Vec<&str> = wanted.filter_map(|line| line.strip_prefix("id=")?.split(' ').next()).collect();
    // One may have gone by itself since it was listed.
    ids.iter().filter(|id| outside.cmd(&["CLIENT", "KILL", "ID", id]) == b":1\r\n").count()
}
