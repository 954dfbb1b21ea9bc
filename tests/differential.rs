//! Byte for byte what Redis would have answered: scripts of commands, run against Redis and through the proxy.
//!
//! `tests/differential/*.txt` holds the commands; what they must answer is written nowhere, for a second Redis, asked
//! directly, says it. Each script runs twice on the same servers, with its main connection in RESP2 and then in
//! RESP3, so that the second time finds a full cache, which every write must have cleared. A line marked as a
//! cacheable read is also compared with the proxy's own upstream, and must be answered from memory when it comes
//! again: a proxy that only forwards fails here.
//!
//! One command a line, quoted as redis-cli reads it. A bare `{x*5000}` is `x` 5,000 times, and a bare `$name` is
//! what a line `=name ...` kept. `#` opens a comment. The marks, apart from the command by a space, are `Mark`'s.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::thread;

use common::resp::{payload, shown, sorted, without_digits};
use common::{Client, Proxy, Redis, proxy};

/// How a line is run, and how its replies are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// No mark: the same bytes.
    Exact,
    /// `~`: Redis orders the reply by a seed of its own, so two servers are compared without the order.
    AnyOrder,
    /// `?`, or `?~` where the order is the server's own: a cacheable read, done over both protocols, twice.
    Read { any_order: bool },
    /// `%`: times, ids or addresses; each run of digits counts as one.
    Digits,
    /// `=name`: the payload of the reply is `$name` from here on.
    Keep(String),
    /// `&`: on the other connection, which speaks the other protocol.
    Other,
    /// `>`: sent without waiting for a reply.
    Send,
    /// `<`, alone on its line: one more frame on the main connection.
    Receive,
}

#[derive(Debug)]
struct Line {
    number: usize,
    mark: Mark,
    words: Vec<Word>,
}

#[derive(Debug)]
enum Word {
    Bytes(Vec<u8>),
    Kept(String),
}

/// How often a read is repeated until it is a hit.
const HIT_TRIES: u32 = 3;
/// Every command that answers from memory (`docs/ARCHITECTURE.md`, the allowlist). MGET is answered by parts.
const CACHEABLE: &str = "get strlen getrange substr getbit bitcount bitpos bitfield_ro mget \
    hget hmget hgetall hkeys hvals hlen hexists hstrlen lrange lindex llen lpos \
    smembers sismember smismember scard zscore zmscore zrank zrevrank zcard zcount zlexcount \
    zrange zrangebyscore zrangebylex zrevrange zrevrangebyscore zrevrangebylex \
    xrange xrevrange xlen geopos geodist geohash geosearch exists type";

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        const SCRIPTS: &[(&str, &str)] =
            &[$((stringify!($name), include_str!(concat!("differential/", stringify!($name), ".txt")))),*];
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*
    };
}

scripts!(
    strings,
    bits,
    hashes,
    lists,
    sets,
    zsets,
    streams,
    geo,
    hyperloglog,
    keys,
    scripts,
    transactions,
    pubsub,
    tracking,
    server,
    connection,
);

/// Where nobody has a connection of his own left for it.
#[test]
fn pubsub_on_a_shared_connection() {
    let (alone, behind) = (Redis::start(), Redis::start());
    let proxy = proxy().upstream(&behind).set("upstream.max_subscribed", "1");
    let proxy = proxy.set("cache.max_staleness", "10s").start();
    let mut monitor = proxy.client();
    monitor.expect(b"+OK\r\n", &["MONITOR"]);
    compare("pubsub", &alone, &behind, &proxy);
    assert_eq!(proxy.stat("subscribed_in_use"), 1, "only the monitor");
}

#[test]
fn every_cacheable_command_is_read_from_memory_in_some_script() {
    let mut missing: BTreeSet<&str> = CACHEABLE.split_whitespace().collect();
    for (_, text) in SCRIPTS {
        for line in parse(text) {
            if let (Mark::Read { .. }, Some(Word::Bytes(name))) = (&line.mark, line.words.first()) {
                missing.remove(String::from_utf8_lossy(name).to_lowercase().as_str());
            }
        }
    }
    assert!(missing.is_empty(), "no script reads by {missing:?}");
}

fn run(name: &'static str) {
    let (alone, behind) = (Redis::start(), Redis::start());
    // A busy machine may stall the heartbeat; this is not the test of what happens then.
    let proxy = proxy().upstream(&behind).set("cache.max_staleness", "10s").start();
    compare(name, &alone, &behind, &proxy);
}

fn compare(name: &'static str, alone: &Redis, behind: &Redis, proxy: &Proxy) {
    let (_, text) = SCRIPTS.iter().find(|(script, _)| *script == name).expect("the macro made both");
    let lines = parse(text);
    for protocol in [2, 3] {
        proxy.wait_live();
        let mut pass = Pass {
            name,
            proxy,
            settler: proxy.client(),
            direct: Side::connect(alone.addr(), protocol),
            proxied: Side::connect(proxy.addr(), protocol),
            beside: Side::connect(behind.addr(), protocol),
            at: String::new(),
            failures: Vec::new(),
        };
        for line in &lines {
            pass.at = pass.place(line);
            pass.line(line);
        }
        let failures = std::mem::take(&mut pass.failures);
        drop(pass);
        assert!(
            failures.is_empty(),
            "in RESP{protocol}, {} lines differ:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
}

/// One run of a script, with its main connections in one protocol.
struct Pass<'a> {
    name: &'static str,
    proxy: &'a Proxy,
    settler: Client,
    /// The other Redis: what would have been answered.
    direct: Side,
    proxied: Side,
    /// The proxy's own upstream, past the proxy: what a cached reply must still equal.
    beside: Side,
    /// Where it stands, for the message when a reply never comes.
    at: String,
    /// What differed so far: one wrong reply need not hide the next.
    failures: Vec<String>,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stopped at {}; until then {}", self.at, self.failures.join("\n"));
        }
    }
}

/// A pair of connections to one server, and what was kept from its replies.
struct Side {
    main: Client,
    other: Client,
    kept: HashMap<String, Vec<u8>>,
}

impl Side {
    fn connect(address: SocketAddr, protocol: u8) -> Self {
        let (mut main, mut other) = (Client::connect(address), Client::connect(address));
        main.hello(protocol);
        other.hello(5 - protocol);
        Self { main, other, kept: HashMap::new() }
    }

    fn args(&self, line: &Line) -> Vec<Vec<u8>> {
        let bytes = |word: &Word| match word {
            Word::Bytes(bytes) => bytes.clone(),
            Word::Kept(name) => self.kept[name].clone(),
        };
        line.words.iter().map(bytes).collect()
    }

    fn answer(&mut self, line: &Line) -> Vec<u8> {
        let args = self.args(line);
        match &line.mark {
            Mark::Receive => self.main.recv(),
            Mark::Other => self.other.cmd(&args),
            Mark::Send => {
                self.main.send(&args);
                Vec::new()
            }
            mark => {
                let reply = self.main.cmd(&args);
                if let Mark::Keep(name) = mark {
                    self.kept.insert(name.clone(), payload(&reply).to_vec());
                }
                reply
            }
        }
    }
}

impl Pass<'_> {
    fn line(&mut self, line: &Line) {
        if let Mark::Read { any_order } = line.mark {
            self.read(line, any_order, |side| &mut side.main);
            self.read(line, any_order, |side| &mut side.other);
            return;
        }
        let expected = self.direct.answer(line);
        let got = self.proxied.answer(line);
        match line.mark {
            Mark::AnyOrder => self.compare("the reply", &sorted(&got), &sorted(&expected)),
            Mark::Digits => self.compare("the reply", &without_digits(&got), &without_digits(&expected)),
            _ => self.compare("the reply", &got, &expected),
        }
        self.follow(line);
    }

    /// A cacheable read: cold or not the first time, from memory the second.
    fn read(&mut self, line: &Line, any_order: bool, client: fn(&mut Side) -> &mut Client) {
        let args = self.proxied.args(line);
        let elsewhere = client(&mut self.direct).cmd(&args);
        // The pushes of the writes before it are still on their way: they would drop what the first read brings.
        self.settle();
        let first = client(&mut self.proxied).cmd(&args);
        let upstream = client(&mut self.beside).cmd(&args);
        self.settle();
        self.compare("the first read", &first, &upstream);
        // What the health check finds (the ACL has changed) throws everything away, perhaps just now.
        let is_hit = (0..HIT_TRIES).any(|_| {
            let hits = self.proxy.stat("hits");
            let second = client(&mut self.proxied).cmd(&args);
            self.compare("the second read", &second, &upstream);
            self.proxy.stat("hits") > hits
        });
        if any_order {
            self.compare("the first read", &sorted(&first), &sorted(&elsewhere));
        } else {
            self.compare("the first read", &first, &elsewhere);
        }
        if first[0] == b'-' {
            self.failures.push(format!("{}: an error is not cacheable", self.at));
        } else if !is_hit {
            self.failures.push(format!("{}: the second read was no hit", self.at));
        }
    }

    /// A script that might write anything is answered when every invalidation before it was applied.
    fn settle(&mut self) {
        self.settler.expect(b":1\r\n", &["EVAL", "return 1", "0"]);
    }

    /// A read asks six connections: those that no line speaks on follow where the main one went.
    fn follow(&mut self, line: &Line) {
        let args = self.direct.args(line);
        let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        if matches!(name.as_slice(), b"SELECT" | b"HELLO" | b"RESET") {
            self.beside.main.cmd(&args);
        }
        if name == b"SELECT" {
            for side in [&mut self.direct, &mut self.proxied, &mut self.beside] {
                side.other.cmd(&args);
            }
        }
    }

    fn compare(&mut self, what: &str, got: &[u8], expected: &[u8]) {
        if got != expected {
            let (got, expected) = (shown(got), shown(expected));
            self.failures.push(format!("{}: {what} is\n  {got}\nand Redis says\n  {expected}", self.at));
        }
    }

    fn place(&self, line: &Line) -> String {
        let words = line.words.iter().map(|word| match word {
            Word::Bytes(bytes) => shown(bytes),
            Word::Kept(name) => format!("${name}"),
        });
        format!("{}.txt:{}: {}", self.name, line.number, words.collect::<Vec<_>>().join(" "))
    }
}

fn parse(text: &str) -> Vec<Line> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let commands = numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    commands.map(|(number, line)| parse_line(number, line)).collect()
}

fn parse_line(number: usize, line: &str) -> Line {
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mark = match first {
        "~" => Mark::AnyOrder,
        "?" => Mark::Read { any_order: false },
        "?~" => Mark::Read { any_order: true },
        "%" => Mark::Digits,
        "&" => Mark::Other,
        ">" => Mark::Send,
        "<" => Mark::Receive,
        name if name.starts_with('=') => Mark::Keep(name[1..].to_owned()),
        _ => return Line { number, mark: Mark::Exact, words: words(line) },
    };
    Line { number, mark, words: words(rest) }
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' => escaped(&rest[1..]),
            '\'' => {
                let (inside, after) = rest[1..].split_once('\'').expect("a closing quote");
                (Word::Bytes(inside.into()), after)
            }
            _ => {
                let (bare, after) = rest.split_once(' ').unwrap_or((rest, ""));
                (bare_word(bare), after)
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

fn bare_word(bare: &str) -> Word {
    if let Some(name) = bare.strip_prefix('$').filter(|name| !name.is_empty()) {
        return Word::Kept(name.to_owned());
    }
    let repeated = bare.strip_prefix('{').and_then(|inside| inside.strip_suffix('}'));
    if let Some((unit, times)) = repeated.and_then(|inside| inside.split_once('*')) {
        return Word::Bytes(unit.repeat(times.parse().expect("a count")).into());
    }
    Word::Bytes(bare.into())
}

/// What stands in double quotes, and the text behind them.
fn escaped(text: &str) -> (Word, &str) {
    let mut bytes = Vec::new();
    let mut at = 0;
    let source = text.as_bytes();
    loop {
        match (source[at], source.get(at + 1)) {
            (b'"', _) => return (Word::Bytes(bytes), &text[at + 1..]),
            (b'\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(&text[at + 2..at + 4], 16).expect("two hexadecimal digits"));
                at += 4;
            }
            (b'\\', Some(letter)) => {
                bytes.push(match letter {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                at += 2;
            }
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
}

#[test]
fn the_scripts_own_reading_is_right() {
    let line = parse_line(1, r#"=name SET "a\x00\r\n\"" {ab*3} '$x "' $kept $"#);
    assert_eq!(line.mark, Mark::Keep("name".to_owned()));
    let shown: Vec<String> = line.words.iter().map(|word| format!("{word:?}")).collect();
    let expected = [
        Word::Bytes(b"SET".to_vec()),
        Word::Bytes(b"a\0\r\n\"".to_vec()),
        Word::Bytes(b"ababab".to_vec()),
        Word::Bytes(b"$x \"".to_vec()),
        Word::Kept("kept".to_owned()),
        Word::Bytes(b"$".to_vec()),
    ];
    assert_eq!(shown, expected.map(|word| format!("{word:?}")));
    assert_eq!(sorted(b"*2\r\n+b\r\n*2\r\n:2\r\n:1\r\n"), b"*2\r\n*2\r\n:1\r\n:2\r\n+b\r\n");
    assert_eq!(without_digits(b"$12\r\nid=345\r\n"), b"$N\r\nid=N\r\n");
}
