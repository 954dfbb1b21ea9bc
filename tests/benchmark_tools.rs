//! The tools that come with Redis work on the proxy's port as they do on Redis's own.
//!
//! redis-benchmark must run its whole default set, and redis-cli must print, session by session, what it prints for
//! a Redis asked directly. Speed is not looked at.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::thread;

use common::{Proxy, Redis, proxy};

/// The tests of redis-benchmark's default set, as it names them.
const BENCHMARKS: [&str; 20] = [
    "PING_INLINE",
    "PING_MBULK",
    "SET",
    "GET",
    "INCR",
    "LPUSH",
    "RPUSH",
    "LPOP",
    "RPOP",
    "SADD",
    "HSET",
    "SPOP",
    "ZADD",
    "ZPOPMIN",
    "LPUSH (needed to benchmark LRANGE)",
    "LRANGE_100 (first 100 elements)",
    "LRANGE_300 (first 300 elements)",
    "LRANGE_500 (first 500 elements)",
    "LRANGE_600 (first 600 elements)",
    "MSET (10 keys)",
];

/// A Redis to compare with, and another one behind a proxy.
struct Pair {
    alone: Redis,
    // Dropped before the server behind it, so that its log is not about that.
    proxy: Proxy,
    _behind: Redis,
}

impl Pair {
    #[track_caller]
    fn start() -> Self {
        let (alone, behind) = (Redis::start(), Redis::start());
        let proxy = proxy().upstream(&behind).set("cache.max_staleness", "10s").start();
        proxy.wait_live();
        Self { alone, proxy, _behind: behind }
    }

    /// First Redis, then the proxy.
    fn addresses(&self) -> [SocketAddr; 2] {
        [self.alone.addr(), self.proxy.addr()]
    }

    /// Runs redis-cli on both, and returns what it printed, which must be the same.
    #[track_caller]
    fn cli(&self, args: &[&str], input: &[u8]) -> String {
        let [expected, got] =
            self.addresses().map(|address| printed(&run("redis-cli", address, args, input)));
        assert_eq!(got, expected, "redis-cli {args:?} with {}", input.escape_ascii());
        got
    }
}

/// Runs a tool on one port with all of `input` on its stdin.
#[track_caller]
fn run(tool: &str, address: SocketAddr, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(tool);
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Neither a history nor a configuration of whoever runs the tests.
    command
        .env_remove("REDISCLI_AUTH")
        .env("HOME", std::env::temp_dir())
        .env("REDISCLI_HISTFILE", "/dev/null");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {tool}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // A tool that does not read its input closes it, which is no failure.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the child is ours");
    writer.join().expect("the writer only writes");
    output
}

/// Everything a tool said and how it ended.
fn printed(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}[{}]", output.status)
}

#[track_caller]
fn benchmark(args: &[&str]) {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    proxy.wait_live();
    let output = run("redis-benchmark", proxy.addr(), args, b"");
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    // With -q it rewrites one line as it goes; what counts is how each test ended.
    let finished: Vec<&str> =
        text.split(['\r', '\n']).filter(|line| line.contains("requests per second")).collect();
    for name in BENCHMARKS {
        let prefix = format!("{name}: ");
        assert!(finished.iter().any(|line| line.starts_with(&prefix)), "{name} did not finish: {text}");
    }
    let complaint =
        text.lines().find(|line| ["ERR", "rror", "WARNING"].iter().any(|word| line.contains(word)));
    assert_eq!(complaint, None, "redis-benchmark complains");
}

#[test]
fn redis_benchmark_runs_its_default_set() {
    benchmark(&["-n", "2000", "-q", "-P", "1"]);
}

#[test]
fn redis_benchmark_runs_its_default_set_pipelined() {
    benchmark(&["-n", "2000", "-q", "-P", "16"]);
}

#[test]
fn redis_benchmark_runs_over_many_keys_in_both_protocols() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).start();
    proxy.wait_live();
    for protocol in [&[][..], &["-3"]] {
        let args = [
            &["-n", "3000", "-q", "-r", "100", "-P", "4", "-c", "20", "-t", "set,get,mset,hset,zadd"],
            protocol,
        ];
        let output = run("redis-benchmark", proxy.addr(), &args.concat(), b"");
        let text = printed(&output);
        assert!(output.status.success() && text.contains("ZADD: ") && !text.contains("rror"), "{text}");
    }
    assert!(proxy.stat("hits") > 0);
}

#[test]
fn redis_cli_runs_single_commands() {
    let pair = Pair::start();
    assert_eq!(pair.cli(&["SET", "key", "a value"], b""), "OK\n[exit status: 0]");
    for args in [
        &["GET", "key"][..],
        &["GET", "key"],
        &["--no-raw", "GET", "key"],
        &["--no-raw", "GET", "missing"],
        &["-3", "--no-raw", "HGETALL", "missing"],
        &["--csv", "MGET", "key", "missing"],
        &["--json", "MGET", "key", "missing"],
        &["-n", "1", "GET", "key"],
        &["-r", "3", "INCR", "counter"],
        &["-e", "NOSUCH"],
        &["-e", "LPUSH", "key", "x"],
        &["--eval", "/nonexistent"],
        &["PING"],
        &["ECHO", "hello"],
        &["COMMAND", "COUNT"],
        &["CONFIG", "GET", "maxmemory"],
        &["-X", "tag", "SET", "key", "tag"],
        &["DEL", "key"],
        &["GET", "key"],
    ] {
        pair.cli(args, b"the last argument");
    }
    let value = b"binary \x00\xff\r\n".as_slice();
    assert_eq!(pair.cli(&["-x", "SET", "stdin"], value), "OK\n[exit status: 0]");
    pair.cli(&["--no-raw", "GET", "stdin"], b"");
}

#[test]
fn redis_cli_runs_a_session_from_its_stdin() {
    let pair = Pair::start();
    let session = b"SET key value\nGET key\nGET key\nNOSUCH\nLPUSH key x\nHSET hash f v g w\nHGETALL hash\n\
        MULTI\nSET key inside\nINCR counter\nGET key\nEXEC\nGET key\n\
        MULTI\nSET key discarded\nDISCARD\nGET key\nEXEC\n\
        WATCH key\nMULTI\nGET key\nEXEC\n\
        SELECT 2\nGET key\nSET key two\nGET key\nSELECT 0\nGET key\n\
        2 INCR counter\nEVAL \"return redis.call('GET', KEYS[1])\" 1 key\nGET \"unbalanced\nhelp GET\n\
        DEL key\nGET key\nHELLO 3\nHGETALL hash\nCLIENT SETNAME cli\nCLIENT GETNAME\nRESET\nPING\nQUIT\n";
    let without_ids = without_greeting(session);
    let raw = pair.cli(&[], &without_ids);
    assert!(raw.contains("inside\n"), "{raw}");
    pair.cli(&["--no-raw"], &without_ids);
    pair.cli(&["-3", "--no-raw"], &without_ids);
}

/// HELLO's greeting holds the connection's id, which two servers do not share.
fn without_greeting(session: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(session).replace("HELLO 3\n", "").into_bytes()
}

#[test]
fn redis_cli_loads_in_bulk() {
    let pair = Pair::start();
    let commands: Vec<String> =
        (0..5_000).map(|number| format!("SET key:{number} value:{number}\n")).collect();
    let said = pair.cli(&["--pipe"], commands.concat().as_bytes());
    assert!(said.contains("errors: 0, replies: 5000"), "{said}");
    assert_eq!(pair.cli(&["DBSIZE"], b""), "5000\n[exit status: 0]");
    assert_eq!(pair.cli(&["GET", "key:4321"], b""), "value:4321\n[exit status: 0]");

    let arrays: String =
        (0..1_000).map(|_| "*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n*1\r\n$6\r\nNOSUCH\r\n").collect();
    for address in pair.addresses() {
        let said = printed(&run("redis-cli", address, &["--pipe"], arrays.as_bytes()));
        assert!(said.contains("errors: 1000, replies: 2000"), "{said}");
    }
    assert_eq!(pair.cli(&["GET", "counter"], b""), "1000\n[exit status: 0]");
}

#[test]
fn redis_cli_scans() {
    let pair = Pair::start();
    let commands: Vec<String> = (0..300).map(|number| format!("SET key:{number} {number}\n")).collect();
    pair.cli(&["--pipe"], commands.concat().as_bytes());
    pair.cli(
        &[],
        b"RPUSH list a b c d\nHSET hash f v\nSADD set a b\nZADD zset 1 a 2 b\nXADD stream 1-1 f v\n",
    );
    for args in [&["--scan"][..], &["--scan", "--pattern", "key:1*"], &["--scan", "--pattern", "*:?"]] {
        let [expected, got] =
            pair.addresses().map(|address| sorted_lines(&run("redis-cli", address, args, b"")));
        assert_eq!(got, expected, "redis-cli {args:?}");
        assert!(expected.len() >= 10, "{expected:?}");
    }
    // Both print sizes as they come upon them, in an order of the server's own; the summary is the same.
    for report in ["--bigkeys", "--memkeys"] {
        let [expected, got] =
            pair.addresses().map(|address| summary(&run("redis-cli", address, &[report], b"")));
        assert_eq!(got, expected, "redis-cli {report}");
    }
}

fn sorted_lines(output: &Output) -> Vec<String> {
    let mut lines: Vec<String> = printed(output).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The lines behind the heading of the summary that do not name one of several equally big keys.
fn summary(output: &Output) -> Vec<String> {
    let text = printed(output);
    let (_, summary) =
        text.split_once("-------- summary -------").unwrap_or_else(|| panic!("no summary: {text}"));
    summary.lines().filter(|line| !line.starts_with("Biggest string")).map(str::to_owned).collect()
}
