//! Unix sockets, on the clients' side and on the upstream's: the same proxy, and a file that comes and goes with it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use common::resp::shown;
use common::{Client, Process, Proxy, ProxyBuilder, Redis, eventually, proxy};
use rustix::process::Signal;
use tempfile::TempDir;

/// The exit code of a listener that cannot be bound.
const EXIT_UNAVAILABLE: i32 = 69;

/// A Redis and a proxy in front of it, both on Unix sockets. The proxy also listens on a port.
struct House {
    proxy: Proxy,
    redis: Redis,
    directory: TempDir,
}

impl House {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(|proxy| proxy.set("cache.max_staleness", "10s"))
    }

    #[track_caller]
    fn start_with(configure: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let directory = tempfile::tempdir().expect("a directory for sockets");
        let upstream = directory.path().join("redis.sock");
        let redis = Redis::start_with(&["--unixsocket", upstream.to_str().expect("UTF-8")]);
        let builder = configure(behind(&upstream, &own(&directory)));
        Self { proxy: builder.start(), redis, directory }
    }

    fn path(&self) -> PathBuf {
        own(&self.directory)
    }

    #[track_caller]
    fn client(&self) -> Client {
        Client::connect_unix(&self.path())
    }
}

fn own(directory: &TempDir) -> PathBuf {
    directory.path().join("nearhit.sock")
}

/// A proxy between two sockets.
fn behind(upstream: &Path, own: &Path) -> ProxyBuilder {
    // The port comes last: when it is announced, both are bound.
    proxy()
        .set("upstream.url", &format!("unix:{}", upstream.display()))
        .set("server.listen", &format!(r#"["unix:{}", "127.0.0.1:0"]"#, own.display()))
        .set("upstream.backoff_max", "100ms")
}

/// A field of CLIENT INFO, or of a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn the_cache_works_between_two_sockets() {
    let house = House::start();
    house.proxy.wait_live();
    let (mut client, mut outside) = (house.client(), house.redis.client());
    client.expect(b"+OK\r\n", &["SET", "key", "one"]);
    house.proxy.settle();
    client.expect(b"$3\r\none\r\n", &["GET", "key"]);
    house.proxy.until_hit("the key", || client.expect(b"$3\r\none\r\n", &["GET", "key"]));
    outside.expect(b"+OK\r\n", &["SET", "key", "two"]);
    house.proxy.settle();
    client.expect(b"$3\r\ntwo\r\n", &["GET", "key"]);
    // Nothing went past the socket: every connection that Redis sees is one to it.
    let list = outside.text(&["CLIENT", "LIST"]);
    let over_tcp = list.lines().filter(|line| !field(line, "flags").contains('U')).count();
    assert_eq!(over_tcp, 1, "beside the one that asks: {list}");
}

#[test]
fn a_client_is_shown_as_redis_shows_one() {
    let house = House::start();
    let path = house.path();
    let line = house.client().text(&["CLIENT", "INFO"]);
    let direct = Client::connect_unix(&house.directory.path().join("redis.sock")).text(&["CLIENT", "INFO"]);
    for name in ["addr", "laddr"] {
        let of_redis = field(&direct, name).replace("redis.sock", "nearhit.sock");
        assert_eq!(field(&line, name), of_redis);
    }
    assert_eq!(field(&line, "addr"), format!("{}:0", path.display()));
    assert_eq!(field(&line, "flags"), field(&direct, "flags"));

    let mut other = house.client();
    other.expect(b"+PONG\r\n", &["PING"]);
    let killed = house.proxy.client().cmd(&["CLIENT", "KILL", "ADDR", &format!("{}:0", path.display())]);
    assert_eq!(shown(&killed), r":1\r\n");
    assert_eq!(other.recv_to_end(), b"");
}

#[test]
fn whoever_comes_over_a_socket_may_use_proxy() {
    let house = House::start();
    let reply = house.client().cmd(&["PROXY", "STATS"]);
    assert_eq!(reply[0], b'*', "{}", shown(&reply));
}

#[test]
fn connections_of_ones_own_go_over_the_socket_and_are_used_again() {
    let house = House::start();
    let mut client = house.client();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        client.expect(b"+OK\r\n", &["MULTI"]);
        client.expect(b"+QUEUED\r\n", &["INCR", "n"]);
        assert!(client.cmd(&["EXEC"]).starts_with(b"*1\r\n:"));
        eventually("it is back in the pool", || house.proxy.stat("pool_in_use") == 0);
        let list = house.redis.client().text(&["CLIENT", "LIST"]);
        let resting = list.lines().find(|line| field(line, "name") == "nearhit-transaction");
        numbers.push(field(resting.expect("it rests"), "id").to_owned());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "one connection serves all three");

    client.send(&["BLPOP", "list", "0"]);
    eventually("it is blocked", || house.proxy.stat("blocking_in_use") == 1);
    house.redis.client().expect(b":1\r\n", &["RPUSH", "list", "item"]);
    assert_eq!(shown(&client.recv()), r"*2\r\n$4\r\nlist\r\n$4\r\nitem\r\n");
    client.expect(b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n", &["SUBSCRIBE", "ch"]);
    house.redis.client().expect(b":1\r\n", &["PUBLISH", "ch", "news"]);
    assert_eq!(shown(&client.recv()), r"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$4\r\nnews\r\n");
}

#[test]
fn large_values_and_long_pipelines_pass() {
    let house = House::start();
    let mut client = house.client();
    let value = vec![b'v'; 10 * 1024 * 1024];
    client.expect(b"+OK\r\n", &[&b"SET"[..], b"large", &value]);
    let reply = client.cmd(&["GET", "large"]);
    assert!(reply.ends_with(b"v\r\n") && reply.len() == value.len() + b"$10485760\r\n\r\n".len());
    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let requests: Vec<[&str; 2]> = numbers.iter().map(|number| ["ECHO", number]).collect();
    let replies = client.pipeline(&requests.iter().map(|request| &request[..]).collect::<Vec<_>>());
    for (number, reply) in numbers.iter().zip(replies) {
        assert_eq!(shown(&reply), format!(r"${}\r\n{number}\r\n", number.len()));
    }
}

#[test]
fn a_user_who_may_not_ask_info_is_served_uncached() {
    let house = House::start();
    house.proxy.wait_live();
    let user = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "+get", "+set", "+pttl"];
    house.redis.client().expect(b"+OK\r\n", &user);
    let mut client = house.client();
    client.expect(b"+OK\r\n", &["AUTH", "app", "secret"]);
    client.expect(b"+OK\r\n", &["SET", "key", "one"]);
    let fills = house.proxy.stat("fills");
    for _ in 0..20 {
        client.expect(b"$3\r\none\r\n", &["GET", "key"]);
    }
    assert_eq!((house.proxy.stat("fills"), house.proxy.stat("hits")), (fills, 0));
}

#[test]
fn an_upstream_that_is_gone_is_named_and_found_again() {
    let house = House::start();
    let mut client = house.client();
    client.expect(b"+OK\r\n", &["SET", "key", "one"]);
    house.redis.kill9();
    let name = format!("-ERR nearhit: upstream unix:{}", house.directory.path().join("redis.sock").display());
    eventually("the error names the socket", || {
        let reply = client.cmd(&["SET", "key", "two"]);
        reply.starts_with(name.as_bytes())
    });
    house.redis.restart_empty();
    eventually("it serves again", || client.cmd(&["SET", "key", "three"]) == b"+OK\r\n");
}

#[test]
fn a_client_too_many_is_told_so() {
    let house = House::start_with(|proxy| proxy.set("server.max_clients", "1"));
    let mut first = house.client();
    first.expect(b"+PONG\r\n", &["PING"]);
    assert_eq!(house.client().recv_to_end(), b"-ERR max number of clients reached\r\n");
}

#[test]
fn the_file_goes_when_nobody_listens_any_more() {
    let mut house = House::start();
    let path = house.path();
    // Whoever stays on holds up the drain, not the file's end.
    let mut client = house.client();
    client.expect(b"+OK\r\n", &["MULTI"]);
    house.proxy.process().signal(Signal::TERM);
    eventually("the file is gone", || !path.exists());
    client.expect(b"+QUEUED\r\n", &["PING"]);
    client.expect(b"*1\r\n+PONG\r\n", &["EXEC"]);
    assert!(house.proxy.terminate().success());
}

/// Someone has taken it away and another proxy has the path since.
#[test]
fn the_file_of_another_stays() {
    let mut house = House::start();
    fs::remove_file(house.path()).expect("it is there");
    let upstream = house.directory.path().join("redis.sock");
    let _next = behind(&upstream, &house.path()).start();
    assert!(house.proxy.terminate().success());
    house.client().expect(b"+PONG\r\n", &["PING"]);
}

#[test]
fn the_umask_says_who_may_connect() {
    let house = House::start();
    let ours = house.directory.path().join("plain.sock");
    let _listener = UnixListener::bind(&ours).expect("a socket");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!(mode(&house.path()), mode(&ours));
}

#[test]
fn a_file_that_was_left_behind_is_replaced() {
    let mut house = House::start();
    house.proxy.kill9();
    assert!(house.path().exists() && UnixStream::connect(house.path()).is_err(), "it was left behind");
    let upstream = house.directory.path().join("redis.sock");
    let _again = behind(&upstream, &house.path()).start();
    house.client().expect(b"+PONG\r\n", &["PING"]);
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_alone() {
    let house = House::start();
    refuses_to_listen(&house.path(), "in use");
    house.client().expect(b"+PONG\r\n", &["PING"]);

    // One whose owner does not accept, with a backlog that is full, is somebody's too.
    let busy = house.directory.path().join("busy.sock");
    let listener =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&socket2::SockAddr::unix(&busy).expect("a short path")).expect("a new file");
    listener.listen(0).expect("it was bound");
    let _waiting = UnixStream::connect(&busy).expect("the backlog takes one");
    refuses_to_listen(&busy, "in use");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notes.txt");
    fs::write(&path, "mine").expect("a file");
    refuses_to_listen(&path, "no socket");
    assert_eq!(fs::read_to_string(&path).expect("it is still there"), "mine");
}

/// A proxy that is to listen on `path` ends, with the exit code for it and a message that names the path.
#[track_caller]
fn refuses_to_listen(path: &Path, why: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearhit"));
    command.env("NEARHIT_SERVER__LISTEN", format!(r#"["unix:{}"]"#, path.display()));
    command.current_dir(std::env::temp_dir());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    let mut stderr = process.child().stderr.take().expect("it is piped");
    let told = thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
    assert_eq!(process.wait().code(), Some(EXIT_UNAVAILABLE));
    let told = told.join().expect("the reader lives");
    assert!(told.contains(&format!("unix:{}", path.display())) && told.contains(why), "{told}");
}
