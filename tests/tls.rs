//! TLS, on the clients' side and on the upstream's: what it has to let through, and whom it has to keep out.
//!
//! Against a real Redis that speaks TLS, with certificates of CAs that each test makes up.

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use common::authority::{Authority, Identity, greet, tls};
use common::resp::shown;
use common::{Client, Proxy, ProxyBuilder, Redis, eventually, free_port, proxy};
use rustix::process::Signal;
use rustls::ClientConfig;

/// Longer than a handshake may take.
const BEYOND_A_HANDSHAKE: Duration = Duration::from_secs(30);

/// A proxy that speaks TLS to its clients, and plainly to its Redis.
struct Front {
    proxy: Proxy,
    redis: Redis,
    authority: Authority,
    own: Identity,
    trust: Arc<ClientConfig>,
}

impl Front {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(|proxy, _| proxy.set("cache.max_staleness", "10s"))
    }

    #[track_caller]
    fn start_with(configure: impl FnOnce(ProxyBuilder, &Authority) -> ProxyBuilder) -> Self {
        let (authority, redis) = (Authority::new(), Redis::start());
        let own = authority.issue(&["localhost"]);
        let builder = configure(server_tls(proxy().upstream(&redis), &own), &authority);
        let trust = authority.trust(None);
        Self { proxy: builder.start(), redis, authority, own, trust }
    }

    #[track_caller]
    fn client(&self) -> Client {
        tls(self.proxy.addr(), &self.trust).expect("the handshake succeeds")
    }

    #[track_caller]
    fn stat(&self, name: &str) -> u64 {
        figure(&mut self.client(), name)
    }
}

fn server_tls(builder: ProxyBuilder, own: &Identity) -> ProxyBuilder {
    let Identity { cert, key } = own;
    builder
        .set("server.tls.cert", &cert.display().to_string())
        .set("server.tls.key", &key.display().to_string())
}

/// Reads the key, whose value is `one`, until it comes from memory.
#[track_caller]
fn is_hit(client: &mut Client) {
    eventually("it is answered from memory", || {
        let hits = figure(client, "hits");
        client.expect(b"$3\r\none\r\n", &["GET", "key"]);
        figure(client, "hits") > hits
    });
}

/// One counter of the proxy that a client is connected to.
#[track_caller]
fn figure(client: &mut Client, name: &str) -> u64 {
    let text = client.text(&["INFO", "nearhit"]);
    let value =
        text.lines().find_map(|line| line.strip_prefix("nearhit_")?.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// A Redis that speaks TLS, and plainly to its neighbours.
struct Secure {
    redis: Redis,
    port: u16,
}

impl Secure {
    #[track_caller]
    fn start(authority: &Authority, own: &Identity, auth_clients: &str) -> Self {
        let port = free_port();
        let text = |path: &std::path::Path| path.display().to_string();
        let redis = Redis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &text(&own.cert),
            "--tls-key-file",
            &text(&own.key),
            "--tls-ca-cert-file",
            &text(&authority.ca()),
            "--tls-auth-clients",
            auth_clients,
        ]);
        Self { redis, port }
    }

    /// A proxy in front of it that believes its CA; `host` is how it knows the server.
    fn behind(&self, host: &str, authority: &Authority) -> ProxyBuilder {
        proxy()
            .set("upstream.url", &format!("rediss://{host}:{}", self.port))
            .set("upstream.tls.ca", &authority.ca().display().to_string())
            .set("cache.max_staleness", "10s")
            .set("upstream.backoff_max", "100ms")
    }
}

/// Every command is answered with the upstream's name and this reason, which is also in the log.
#[track_caller]
fn is_cut_off(proxy: &Proxy, secure: &Secure, reason: &str) {
    let reply = proxy.client().cmd(&["GET", "key"]);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(reply.starts_with("-ERR nearhit: upstream ") && reply.contains(reason), "{reply}");
    eventually("the log says so", || proxy.log().contains(reason));
    assert_eq!(secure.redis.calls("get"), 0);
}

// Clients.

#[test]
fn hits_and_outside_writes_are_seen_over_tls_by_either_version() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let front = Front::start();
        let trust = front.authority.trust_by(None, &[version]);
        let mut client = tls(front.proxy.addr(), &trust).expect("the handshake succeeds");
        eventually("the link is live", || client.text(&["INFO", "nearhit"]).contains("link_state:live"));
        client.expect(b"+OK\r\n", &["SET", "key", "one"]);
        is_hit(&mut client);
        front.redis.client().expect(b"+OK\r\n", &["SET", "key", "two"]);
        // Its reply comes when every invalidation before it has been applied.
        client.expect(b":1\r\n", &["EVAL", "return 1", "0"]);
        client.expect(b"$3\r\ntwo\r\n", &["GET", "key"]);
    }
}

#[test]
fn long_pipelines_pass() {
    let front = Front::start();
    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let requests: Vec<[&str; 3]> = numbers.iter().map(|number| ["SETEX", number, "100"]).collect();
    let requests: Vec<Vec<&str>> = requests.iter().map(|words| [&words[..], &words[1..2]].concat()).collect();
    let mut client = front.client();
    for reply in client.pipeline(&requests.iter().map(Vec::as_slice).collect::<Vec<_>>()) {
        assert_eq!(shown(&reply), r"+OK\r\n");
    }
    for _ in 0..2 {
        let reads: Vec<[&str; 2]> = numbers.iter().map(|number| ["GET", number]).collect();
        let replies = client.pipeline(&reads.iter().map(|words| &words[..]).collect::<Vec<_>>());
        for (number, reply) in numbers.iter().zip(replies) {
            assert_eq!(shown(&reply), format!(r"${}\r\n{number}\r\n", number.len()));
        }
    }
}

#[test]
fn a_client_that_does_not_read_gets_all_of_it_later() {
    let front = Front::start();
    let value: Vec<u8> = (0..1_u32 << 20).map(|n| (n / 251 % 251) as u8).collect();
    front.redis.client().expect(b"+OK\r\n", &[&b"SET"[..], b"large", &value]);
    let mut client = front.client();
    for _ in 0..32 {
        client.send(&["GET", "large"]);
    }
    // It is not read from, and holds up nobody.
    eventually("the proxy has begun", || front.stat("upstream_commands") > 0);
    let mut other = front.client();
    for _ in 0..100 {
        other.expect(b"$2\r\nhi\r\n", &["ECHO", "hi"]);
    }
    let expected = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
    for _ in 0..32 {
        assert!(client.recv() == expected, "a reply is not what was stored");
    }
    client.expect(b"+PONG\r\n", &["PING"]);
}

#[test]
fn half_closed_connections_get_their_replies_and_a_goodbye() {
    let front = Front::start();
    let mut client = front.client();
    client.send(&["ECHO", "one"]);
    client.send(&["BLPOP", "nothing", "0.1"]);
    client.send(&["ECHO", "two"]);
    client.finish_sending();
    // A connection that is cut instead of closed would be an error here.
    let all = client.recv_to_end();
    assert!(shown(&all).starts_with(r"$3\r\none\r\n"), "{}", shown(&all));
    let mut client = front.client();
    client.send(&["QUIT"]);
    assert_eq!(shown(&client.recv_to_end()), r"+OK\r\n");
}

#[test]
fn a_client_that_speaks_plainly_is_not_understood() {
    let front = Front::start();
    let mut client = Client::connect(front.proxy.addr());
    client.send(&["SET", "intruder", "1"]);
    let said = client.recv_to_end();
    assert!(!said.starts_with(b"+") && !said.starts_with(b"$"), "{}", shown(&said));
    front.redis.client().expect(b":0\r\n", &["EXISTS", "intruder"]);
    eventually("it is counted", || front.stat("handshakes_failed") == 1);
}

#[test]
fn only_a_client_with_a_certificate_of_the_right_ca_is_let_in() {
    let front = Front::start_with(|proxy, authority| {
        proxy.set("server.tls.client_ca", &authority.ca().display().to_string())
    });
    let mine = front.authority.issue(&["app"]);
    let other_ca = Authority::new();
    let stranger = other_ca.issue(&["app"]);
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let known = front.authority.trust_by(Some(&mine), versions);
        let mut client = tls(front.proxy.addr(), &known).expect("the handshake succeeds");
        client.expect(b"+PONG\r\n", &["PING"]);
        for other in [None, Some(&stranger)] {
            let before = figure(&mut client, "handshakes_failed");
            let unknown = front.authority.trust_by(other, versions);
            let refused = tls(front.proxy.addr(), &unknown).and_then(|mut client| {
                client.try_send_raw(b"SET intruder 1\r\n")?;
                client.try_recv()
            });
            assert!(refused.is_err(), "{}", shown(&refused.unwrap_or_default()));
            eventually("it is counted", || figure(&mut client, "handshakes_failed") == before + 1);
        }
    }
    front.redis.client().expect(b":0\r\n", &["EXISTS", "intruder"]);
    assert!(front.proxy.log().contains("TLS handshake failed"));
}

#[test]
fn who_says_nothing_holds_up_nobody_and_is_dropped_in_the_end() {
    let front = Front::start_with(|proxy, _| proxy.set("server.max_clients", "4"));
    let mut client = front.client();
    let mut silent: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(front.proxy.addr()).expect("it is accepted")).collect();
    eventually("they are counted", || client.text(&["CLIENT", "LIST"]).lines().count() == 4);
    // They take places, so that nobody gets around the limit by saying nothing.
    assert!(tls(front.proxy.addr(), &front.trust).is_err());
    drop(silent.pop());
    eventually("there is a place again", || tls(front.proxy.addr(), &front.trust).is_ok());
    client.expect(b"+PONG\r\n", &["PING"]);
    for mut socket in silent {
        socket.set_read_timeout(Some(BEYOND_A_HANDSHAKE)).expect("a timeout");
        socket.read_to_end(&mut Vec::new()).expect("it is closed, not forgotten");
    }
    eventually("they are gone", || client.text(&["CLIENT", "LIST"]).lines().count() == 1);
}

#[test]
fn who_says_nothing_does_not_hold_up_the_end() {
    let mut front = Front::start_with(|proxy, _| proxy.set("server.drain_timeout", "60s"));
    let mut client = front.client();
    let _silent = TcpStream::connect(front.proxy.addr()).expect("it is accepted");
    eventually("it is counted", || client.text(&["CLIENT", "LIST"]).lines().count() == 2);
    drop(client);
    assert!(front.proxy.terminate().success());
}

#[test]
fn who_is_killed_before_he_has_greeted_is_gone() {
    let front = Front::start();
    let mut client = front.client();
    let socket = TcpStream::connect(front.proxy.addr()).expect("it is accepted");
    let address = socket.local_addr().expect("it has one").to_string();
    eventually("it is listed", || client.text(&["CLIENT", "LIST"]).contains(&address));
    client.expect(b":1\r\n", &["CLIENT", "KILL", "ADDR", &address]);
    let answer = greet(socket, &front.trust).and_then(|mut killed| {
        killed.try_send_raw(b"PING\r\n")?;
        killed.try_recv()
    });
    assert!(answer.is_err(), "{}", shown(&answer.unwrap_or_default()));
    eventually("nobody is left", || front.stat("connected_clients") == 2);
}

// The upstream.

#[test]
fn everything_works_with_tls_on_both_sides() {
    let authority = Authority::new();
    let own = authority.issue(&["localhost", "127.0.0.1"]);
    let secure = Secure::start(&authority, &own, "no");
    let proxy = server_tls(secure.behind("127.0.0.1", &authority), &own).start();
    let trust = authority.trust(None);
    let connect = || tls(proxy.addr(), &trust).expect("the handshake succeeds");
    let (mut client, mut outside) = (connect(), secure.redis.client());
    eventually("the link is live", || client.text(&["INFO", "nearhit"]).contains("link_state:live"));

    client.expect(b"+OK\r\n", &["SET", "key", "one"]);
    is_hit(&mut client);
    outside.expect(b"+OK\r\n", &["SET", "key", "two"]);
    client.expect(b":1\r\n", &["EVAL", "return 1", "0"]);
    client.expect(b"$3\r\ntwo\r\n", &["GET", "key"]);

    let value: Vec<u8> = (0..10_u32 << 20).map(|n| (n / 251 % 251) as u8).collect();
    client.expect(b"+OK\r\n", &[&b"SET"[..], b"large", &value]);
    let expected = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
    assert!(client.cmd(&["GET", "large"]) == expected && outside.cmd(&["GET", "large"]) == expected);

    // Connections of one's own, which rest in the pool between two uses.
    let mut numbers = Vec::new();
    for _ in 0..3 {
        client.expect(b"+OK\r\n", &["MULTI"]);
        client.expect(b"+QUEUED\r\n", &["INCR", "n"]);
        assert!(client.cmd(&["EXEC"]).starts_with(b"*1\r\n:"));
        eventually("it is back in the pool", || figure(&mut connect(), "pool_in_use") == 0);
        let list = outside.text(&["CLIENT", "LIST"]);
        let resting = list.lines().find(|line| line.contains(" name=nearhit-transaction "));
        numbers.push(resting.and_then(|line| line.split(' ').next()).expect("it rests").to_owned());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "one connection serves all three");

    client.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || figure(&mut connect(), "blocking_in_use") == 1);
    outside.expect(b":1\r\n", &["RPUSH", "list", "item"]);
    assert_eq!(shown(&client.recv()), r"*2\r\n$4\r\nlist\r\n$4\r\nitem\r\n");
    client.expect(b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n", &["SUBSCRIBE", "ch"]);
    for n in 0..100 {
        let news = format!("news{n}");
        outside.expect(b":1\r\n", &["PUBLISH", "ch", &news]);
        let message = format!(r"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n${}\r\n{news}\r\n", news.len());
        assert_eq!(shown(&client.recv()), message);
    }

    // Nothing went past TLS: on the plain port there is the one that asks.
    let list = outside.text(&["CLIENT", "LIST"]);
    let port = format!(" laddr=127.0.0.1:{} ", secure.port);
    assert_eq!(list.lines().filter(|line| !line.contains(&port)).count(), 1, "{list}");
}

#[test]
fn a_server_of_another_ca_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let secure = Secure::start(&authority, &authority.issue(&["localhost"]), "no");
    let proxy = secure.behind("localhost", &other).start();
    is_cut_off(&proxy, &secure, "UnknownIssuer");
    // Nor is one of a CA that the system does not know.
    let proxy = secure.behind("localhost", &other).set("upstream.tls.ca", "").start();
    is_cut_off(&proxy, &secure, "UnknownIssuer");
}

#[test]
fn a_server_of_another_name_is_not_believed_unless_it_is_expected() {
    let authority = Authority::new();
    let secure = Secure::start(&authority, &authority.issue(&["redis.example"]), "no");
    for host in ["localhost", "127.0.0.1"] {
        let proxy = secure.behind(host, &authority).start();
        is_cut_off(&proxy, &secure, "not valid for name");
    }
    let proxy =
        secure.behind("localhost", &authority).set("upstream.tls.server_name", "redis.example").start();
    proxy.wait_live();
    proxy.client().expect(b"$-1\r\n", &["GET", "key"]);
    let wrong = secure.behind("localhost", &authority).set("upstream.tls.server_name", "localhost").start();
    let reply = wrong.client().cmd(&["GET", "key"]);
    assert!(shown(&reply).contains("not valid for name"), "{}", shown(&reply));
}

#[test]
fn a_server_that_wants_a_certificate_is_shown_one() {
    let authority = Authority::new();
    let secure = Secure::start(&authority, &authority.issue(&["localhost"]), "yes");
    let proxy = secure.behind("localhost", &authority).start();
    is_cut_off(&proxy, &secure, "cannot be used over TLS: received fatal alert: CertificateRequired");

    let own = authority.issue(&["nearhit"]);
    let proxy = secure
        .behind("localhost", &authority)
        .set("upstream.tls.cert", &own.cert.display().to_string())
        .set("upstream.tls.key", &own.key.display().to_string())
        .start();
    proxy.wait_live();
    proxy.client().expect(b"$-1\r\n", &["GET", "key"]);
    // The control plane too: COMMAND has told it of every command.
    eventually("the upstream is known", || proxy.log().contains("upstream known"));
}

#[test]
fn a_server_without_tls_is_named() {
    let authority = Authority::new();
    let secure = Secure::start(&authority, &authority.issue(&["localhost"]), "no");
    let plain = format!("rediss://localhost:{}", secure.redis.port());
    let proxy = secure.behind("localhost", &authority).set("upstream.url", &plain);
    let proxy = proxy.set("upstream.connect_timeout", "500ms").start();
    is_cut_off(&proxy, &secure, "no TLS handshake within 500ms");
}

// Certificates that change.

#[test]
fn hangup_has_clients_shown_another_certificate_and_keeps_those_who_are_connected() {
    let front = Front::start();
    let mut old = front.client();
    old.expect(b"+PONG\r\n", &["PING"]);

    let successor = Authority::new();
    let next = successor.issue(&["localhost"]);
    for (from, to) in [(&next.cert, &front.own.cert), (&next.key, &front.own.key)] {
        fs::copy(from, to).expect("a writable directory");
    }
    front.proxy.process().signal(Signal::HUP);
    eventually("the log says so", || {
        front.proxy.log().contains("the certificates of server.tls were read anew")
    });
    let mut new = tls(front.proxy.addr(), &successor.trust(None)).expect("the new one is shown");
    new.expect(b"+PONG\r\n", &["PING"]);
    assert!(tls(front.proxy.addr(), &front.trust).is_err(), "the old one is shown no more");
    old.expect(b"+PONG\r\n", &["PING"]);

    // What is of no use is not taken.
    for contents in ["", "not a certificate"] {
        fs::write(&front.own.cert, contents).expect("a writable directory");
        let errors = front.proxy.log().matches("server.tls stays as it was").count();
        front.proxy.process().signal(Signal::HUP);
        eventually("the log says so", || {
            front.proxy.log().matches("server.tls stays as it was").count() > errors
        });
        let mut new = tls(front.proxy.addr(), &successor.trust(None)).expect("the last good one is shown");
        new.expect(b"+PONG\r\n", &["PING"]);
    }
    old.expect(b"+PONG\r\n", &["PING"]);
}

#[test]
fn hangup_has_the_upstream_judged_by_another_ca() {
    let (authority, other) = (Authority::new(), Authority::new());
    let secure = Secure::start(&authority, &authority.issue(&["localhost"]), "no");
    let proxy = secure.behind("localhost", &other).start();
    is_cut_off(&proxy, &secure, "UnknownIssuer");
    fs::copy(authority.ca(), other.ca()).expect("a writable directory");
    proxy.process().signal(Signal::HUP);
    proxy.wait_live();
    let mut client = proxy.client();
    eventually("it serves", || client.cmd(&["SET", "key", "one"]) == b"+OK\r\n");
    fs::write(other.ca(), "").expect("a writable directory");
    proxy.process().signal(Signal::HUP);
    eventually("the log says so", || proxy.log().contains("upstream.tls stays as it was"));
    client.expect(b"+OK\r\n", &["MULTI"]);
    client.expect(b"*0\r\n", &["EXEC"]);
}

#[test]
fn hangup_without_certificates_changes_nothing() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    proxy.process().signal(Signal::HUP);
    eventually("the log says so", || proxy.log().contains("nothing but certificates is read anew"));
    proxy.client().expect(b"+PONG\r\n", &["PING"]);
}
