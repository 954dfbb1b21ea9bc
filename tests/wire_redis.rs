//! The wire code against a real redis-server: what it refuses, what it accepts, what it writes.
//!
//! The same bytes go to the server and through the scanner. Where the server answers with a protocol error the scanner
//! must have the same words; where it does not, the canonical bytes that the scanner would send upstream must get the
//! same replies as the client's own bytes do. Without `redis-server` in the path these tests fail.

#![allow(clippy::unwrap_used)] // a test that cannot talk to its server has failed

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nearhit::resp::{
    FrameKind, Limits, Protocol, ReplyScanner, RequestScanner, Scanned, Value, encode_request, reply,
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

/// A server of this test's own, killed when it goes.
struct Server {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let process = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--enable-debug-command",
                "yes",
            ])
            .args(["--port", &port.to_string()])
            .args(options)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is in the path");
        let server = Self { process, port, _directory: directory };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not listen on port {port}");
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Everything that the server has to say to `input` before it hangs up. It drops what it has not written by
    /// then, so this is for short replies.
    fn answer(&self, input: &[u8]) -> Vec<u8> {
        let mut socket = self.connect();
        socket.write_all(input).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What would go upstream for `input`, and the error reply that would follow, if any.
fn forwarded(input: &[u8], authenticated: bool) -> (Vec<u8>, Vec<u8>) {
    let mut scanner = RequestScanner::new(Limits::default());
    let (mut upstream, mut error) = (Vec::new(), Vec::new());
    let mut rest = input;
    loop {
        let len = match scanner.scan(rest, authenticated) {
            Ok(Scanned::Incomplete) => return (upstream, error),
            Ok(Scanned::Request { len }) => {
                upstream.extend_from_slice(&rest[..len]);
                len
            }
            Ok(Scanned::Rewritten { len, request }) => {
                upstream.extend_from_slice(&request);
                len
            }
            Ok(Scanned::Empty { len }) => len,
            Err(refused) => {
                refused.encode(&mut error);
                return (upstream, error);
            }
        };
        rest = &rest[len..];
    }
}

#[test]
fn protocol_errors_are_in_the_words_of_redis() {
    let open = Server::start(&[]);
    let locked = Server::start(&["--requirepass", "secret"]);
    let long = |start: &str| [start.as_bytes(), &b"1".repeat(64 * 1024 + 2 - start.len())].concat();
    let after = |start: &str, long: &[u8]| [start.as_bytes(), long].concat();

    let cases: Vec<(&Server, Vec<u8>)> = [
        "*x\r\n",
        "*\r\n",
        "*01\r\n",
        "*+1\r\n",
        "*-0\r\n",
        "*1 \r\n",
        "*2147483648\r\n",
        "*9223372036854775808\r\n",
        "*99999999999999999999999\r\n",
        "*1\n$4\nPING\n\r\n",
        "*1\r\n+4\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n\r\n\r\n",
        "*1\r\n\n4\r\nPING\r\n",
        "*1\r\nPING\r\n",
        "*2\r\n$4\r\nPING\r\n*1\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$04\r\nPING\r\n",
        "*1\r\n$4x\r\nPING\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n$9223372036854775808\r\n",
        "GET \"a\r\n",
        "GET \"a\"b\r\n",
        "GET 'a'b\r\n",
        "GET 'a\n",
        "'\\'\r\n",
        "PING\r\nECHO hello\r\n*1\r\n$4\r\nPING\r\n*1\r\n!\r\n",
    ]
    .into_iter()
    .map(|input| (&open, input.as_bytes().to_vec()))
    .chain([
        (&open, b"*1\r\n\x80\r\n".to_vec()),
        (&open, b"*1\r\n\xff4\r\n".to_vec()),
        (&open, long("*")),
        (&open, after("*1\r\n", &long("$"))),
        (&open, after("*1\r\n", &long("x"))),
        (&open, long("x")),
        (&open, after("PING\r\n", &long("*1\0\r\n"))),
        (&open, after("*1\r\n$4\r\nPING\r\n", &long("PING\0\r\n"))),
        (&locked, b"*11\r\n".to_vec()),
        (&locked, b"*1\r\n$16385\r\n".to_vec()),
        (&locked, b"*2147483648\r\n".to_vec()),
        (&locked, b"*1\r\n$536870913\r\n".to_vec()),
        (&locked, b"*10\r\n$-1\r\n".to_vec()),
    ])
    .collect();

    for (server, input) in cases {
        let authenticated = std::ptr::eq(server, &raw const open);
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]).into_owned();
        let (upstream, error) = forwarded(&input, authenticated);
        assert!(error.starts_with(b"-ERR Protocol error: "), "{shown:?} is not refused: {error:?}");
        let expected = server.answer(&input);
        let ours = [server.answer(&upstream), error].concat();
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&expected), "{shown:?}");
    }
}

#[test]
fn what_redis_accepts_is_accepted() {
    let open = Server::start(&[]);
    let locked = Server::start(&["--requirepass", "secret"]);
    for (server, input) in [
        (&open, &b"*1\rx$4\r\nPING\r\n"[..]),
        (&open, b"*2\r\n$4\r\nECHO??$2\r\nhi!!*1\r\n$4\r\nPING\r\n"),
        (&open, b"*0\r\n*-1\r\n*-7\r?\r\n\n \t\r\n*1\r\n$4\r\nPING\r\n"),
        (&open, b"ECHO \"a\\x00\\r\\n\\\"b\" \r\nPING\nECHO \x0ba\x0bb\x0c \n"),
        (&open, b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n"),
        (&locked, b"*10\r\n"),
        (&locked, b"a b c d e f g h i j\r\nPING\r\n"),
        (&locked, b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\nPING\r\n"),
    ] {
        let (upstream, error) = forwarded(input, std::ptr::eq(server, &raw const open));
        assert_eq!(error, b"", "{input:?}");
        let (ours, expected) = (server.answer(&upstream), server.answer(input));
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&expected), "{input:?}");
    }
}

/// Requests of harmless commands, in all the forms that Redis takes and some that it does not. An unknown command's
/// error quotes the arguments, and so shows how the server understood them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let argument = vec(prop::sample::select(&b"ab01\r\n\"' \\\xff"[..]), 0..6);
    let line_end = || prop_oneof![6 => Just(&b"\r\n"[..]), 1 => Just(&b"\rx"[..]), 1 => Just(&b"\n\n"[..]), 1 => Just(&b"\r\r"[..])];
    let name = prop::sample::select(&["ECHO", "PING", "nosuch"][..]);
    let array =
        (name.clone(), vec(argument, 0..4), vec(line_end(), 9)).prop_map(|(name, arguments, line_ends)| {
            let mut line_ends = line_ends.into_iter();
            let mut end = || line_ends.next().unwrap_or(b"\r\n");
            let mut out = [format!("*{}", arguments.len() + 1).as_bytes(), end()].concat();
            for argument in std::iter::once(name.as_bytes()).chain(arguments.iter().map(Vec::as_slice)) {
                out.extend_from_slice(
                    &[format!("${}", argument.len()).as_bytes(), end(), argument, end()].concat(),
                );
            }
            out
        });
    let words = vec(prop::sample::select(&b"ab4 \t\x0b\x0c\r\"\"'\\x1n"[..]), 0..12);
    let inline = (name, words, prop::sample::select(&["\r\n", "\n"][..]))
        .prop_map(|(name, words, end)| [name.as_bytes(), b" ", &words, end.as_bytes()].concat());
    let nothing = prop::sample::select(&["\r\n", "\n", " \r\n", "*0\r\n", "*-1\r\n", "*0\r!"][..])
        .prop_map(|text| text.as_bytes().to_vec());
    let noise = vec(prop::sample::select(&b"*$-012\r\n\0\"ab"[..]), 1..8);
    vec(prop_oneof![4 => array, 4 => inline, 1 => nothing, 1 => noise], 0..6).prop_map(|parts| parts.concat())
}

#[test]
fn any_stream_gets_the_replies_that_redis_would_give() {
    let server = Server::start(&[]);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let ran = TestRunner::new(config).run(&stream(), |input| {
        let (upstream, error) = forwarded(&input, true);
        let ours = [server.answer(&upstream), error].concat();
        let expected = server.answer(&input);
        prop_assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&expected));
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Sends `commands` in one pipeline and delimits what comes back, as it arrives, until each has its reply.
fn frames(server: &Server, protocol: Protocol, commands: &[&[&str]]) -> Vec<(Vec<u8>, FrameKind)> {
    let hello: &[&str] = if protocol == Protocol::Resp3 { &["HELLO", "3"] } else { &["PING"] };
    let mut input = Vec::new();
    for command in [&[hello], commands].concat() {
        encode_request(command, &mut input);
    }
    let mut socket = server.connect();
    socket.write_all(&input).unwrap();

    let (mut scanner, mut buffer, mut frames) = (ReplyScanner::new(), Vec::new(), Vec::new());
    let mut owed = commands.len() + 1;
    while owed > 0 {
        let mut segment = [0; 4096];
        let len = socket.read(&mut segment).unwrap();
        assert!(len > 0, "the server hung up with {owed} replies owed");
        buffer.extend_from_slice(&segment[..len]);
        while let Some(frame) = scanner.scan(&buffer).expect("Redis speaks RESP") {
            frames.push((buffer.drain(..frame.len).collect(), frame.kind));
            owed -= usize::from(frame.kind == FrameKind::Reply);
        }
    }
    assert!(buffer.is_empty(), "bytes behind the last reply");
    frames.split_off(1)
}

#[test]
fn values_are_written_as_redis_writes_them() {
    let server = Server::start(&[]);
    let numbers = || (0..3).map(Value::Integer);
    let cases = [
        ("string", Value::bulk("Hello World")),
        ("integer", Value::Integer(12345)),
        ("double", Value::Double("3.141".parse().unwrap())), // no approximation of pi, says clippy
        ("null", Value::Nil),
        ("array", Value::Array(numbers().collect())),
        ("set", Value::Set(numbers().collect())),
        (
            "map",
            Value::Map(
                numbers().map(|key| (key.clone(), Value::Boolean(key == Value::Integer(1)))).collect(),
            ),
        ),
        ("verbatim", Value::Verbatim("This is a verbatim\nstring".into())),
        ("true", Value::Boolean(true)),
        ("false", Value::Boolean(false)),
    ];
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        for (name, value) in &cases {
            let mut written = Vec::new();
            value.encode(protocol, &mut written);
            let answer = frames(&server, protocol, &[&["DEBUG", "PROTOCOL", name]]);
            assert_eq!(answer, [(written, FrameKind::Reply)], "{name} in {protocol:?}");
        }
        let mut null_array = Vec::new();
        Value::NullArray.encode(protocol, &mut null_array);
        assert_eq!(frames(&server, protocol, &[&["BLPOP", "nosuch", "0.001"]])[0].0, null_array);
        assert_eq!(frames(&server, protocol, &[&["GET", "nosuch"]])[0].0, reply::nil(protocol));
    }
}

#[test]
fn replies_pair_with_commands_by_count() {
    let server = Server::start(&[]);
    let commands: &[&[&str]] = &[
        &["COMMAND"],
        &["COMMAND", "DOCS"],
        &["INFO", "everything"],
        &["CONFIG", "GET", "*"],
        &["CLIENT", "LIST"],
        &["HSET", "hash", "a", "1", "b", "2"],
        &["HGETALL", "hash"],
        &["ZADD", "zset", "1.5", "a", "inf", "b"],
        &["ZRANGE", "zset", "0", "-1", "WITHSCORES"],
        &["SADD", "set", "x", "y"],
        &["SMEMBERS", "set"],
        &["XADD", "stream", "*", "field", "value"],
        &["XINFO", "STREAM", "stream", "FULL"],
        &["XREAD", "STREAMS", "stream", "0"],
        &["EVAL", "return {1, {2, {3, 'four', {err = 'ERR five'}}}, false}", "0"],
        &["MULTI"],
        &["GET", "nosuch"],
        &["LPUSH", "hash", "x"],
        &["EXEC"],
        &["DEBUG", "PROTOCOL", "attrib"],
        &["DEBUG", "PROTOCOL", "bignum"],
        &["nosuch"],
        &["ECHO", "the end"],
    ];
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let answer = frames(&server, protocol, commands);
        assert_eq!(answer.len(), commands.len());
        assert!(answer.iter().all(|(_, kind)| *kind == FrameKind::Reply));
        assert!(reply::elements(&answer[0].0).unwrap().count() > 200);
        assert_eq!(reply::elements(&answer[6].0).unwrap().filter_map(reply::bulk).count(), 4);
        assert_eq!(reply::bulk(&answer[19].0), Some(&b"Some real reply following the attribute"[..]));
        assert_eq!(reply::error_code(&answer[21].0), Some(&b"ERR"[..]));
        assert_eq!(reply::bulk(&answer[22].0), Some(&b"the end"[..]));
    }
    let pushed = frames(&server, Protocol::Resp3, &[&["DEBUG", "PROTOCOL", "push"]]);
    assert_eq!(pushed.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), [FrameKind::Push, FrameKind::Reply]);
}
