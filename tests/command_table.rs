//! The command table against a real server.
//!
//! The table is data, and data is wrong until something disagrees with it: here the server's own flags, its
//! `COMMAND GETKEYSANDFLAGS`, and the bytes it answers in both protocols. Argument lists are not written by hand but
//! generated from the syntax in `COMMAND DOCS`, so that no option is left out because nobody thought of it. Where the
//! table differs on purpose, the exception is listed with its reason, and an exception that nothing needs fails too.

#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command as Process, Stdio},
    time::Duration,
};

use fastrand::Rng;
use nearhit::command::{Access, Blocking, Class, Command, Sameness, ServerCommand, Table};

/// What a command is called, and why the table knows better.
type Exceptions = &'static [(&'static str, &'static str)];

const NOT_AS_FLAGGED: Exceptions = &[
    ("cluster|countkeysinslot", "not flagged at all, shows how many keys there are"),
    ("cluster|getkeysinslot", "not flagged at all, shows names of keys"),
    ("config|set", "not flagged as a write, and writes no key; it may change users"),
    ("lolwut", "flagged readonly, reads no key"),
    ("pfcount", "flagged readonly, stores the count it computes in its keys"),
    ("sort", "flagged as a write, only reads without STORE"),
];

const WRITES_KEYS_FLAGGED_AS_READ: Exceptions = &[
    ("bitfield", "with GET alone it reads; not worth a look at its arguments"),
    ("xreadgroup", "changes the group's state, which is part of the key"),
];

const NOT_SEEN_TO_DIFFER: Exceptions = &[
    ("zrank", "WITHSCORE came with Redis 7.2: a null array, or the score as a double"),
    ("zrevrank", "WITHSCORE came with Redis 7.2: a null array, or the score as a double"),
];

/// The allowlist of cacheable reads, as it was decided on. MGET is apart.
const CACHEABLE: &str = "get strlen getrange substr getbit bitcount bitpos bitfield_ro \
    hget hmget hgetall hkeys hvals hlen hexists hstrlen lrange lindex llen lpos \
    smembers sismember smismember scard zscore zmscore zrank zrevrank zcard zcount zlexcount \
    zrange zrangebyscore zrangebylex zrevrange zrevrangebyscore zrevrangebylex \
    xrange xrevrange xlen geopos geodist geohash geosearch exists type";

#[test]
fn every_command_of_the_server_has_a_row() {
    let server = Server::start(&[]);
    let rows = server.connect().commands();
    assert!(rows.len() > 200, "{} rows", rows.len());

    let table = Table::builtin();
    let extended = table.extend(&rows);
    let new: Vec<_> =
        extended.commands().skip(table.commands().count()).map(|command| &command.name).collect();
    assert_eq!(new, [&""; 0]);
}

#[test]
fn classes_agree_with_the_servers_flags() {
    let server = Server::start(&[]);
    let table = Table::builtin();
    let mut exceptions = Unused::of(NOT_AS_FLAGGED);
    for row in server.connect().commands_and_subcommands() {
        let args: Vec<&[u8]> = row.name.split('|').chain(["key"]).map(str::as_bytes).collect();
        let command = find(&table, &row.name);
        let class = command.class(&args[..]);
        let has_keys = row.key_specs.iter().any(|spec| !spec.flags.contains(&"not_key".to_owned()));

        let agrees = if row.has_flag("write") {
            // FUNCTION LOAD and its like write no key: they are fenced.
            matches!(class, Class::Write) == has_keys
                && matches!(class, Class::Write | Class::Flush | Class::Unknown)
        } else if row.has_flag("readonly") {
            let declares_all = has_keys && !row.name.ends_with("_ro");
            class.is_read() && (!declares_all || class != Class::ReadUndeclared)
        } else {
            !class.is_read() && class != Class::Write
        };
        assert!(agrees || exceptions.take(&row.name), "{} is {class:?}, flagged {:?}", row.name, row.flags);
        assert_eq!(row.has_flag("blocking"), command.blocking != Blocking::No, "{}", row.name);
    }
    exceptions.check();
}

#[test]
fn just_the_allowlist_is_cached() {
    let args: &[&[u8]] = &[b"name", b"key"];
    let table = Table::builtin();
    let cached = table.commands().filter(|command| matches!(command.class(args), Class::Cached(_)));
    let cached: BTreeSet<_> = cached.map(|command| command.name.clone()).collect();
    assert_eq!(cached, CACHEABLE.split_whitespace().map(str::to_owned).collect());
}

#[test]
fn keys_are_those_the_server_finds() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    let syntax = connection.syntax();
    let table = Table::builtin().extend(&connection.commands().into_iter().map(disguise).collect::<Vec<_>>());
    let mut exceptions = Unused::of(WRITES_KEYS_FLAGGED_AS_READ);
    let mut compared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut compared_learned = 0;
    let mut rng = Rng::with_seed(1);

    for (name, arguments) in &syntax {
        let command = find(&table, name);
        // The same command as learned from the server, where it tells of all its keys.
        let learned = Some(find(&table, &format!("x-{name}")))
            .filter(|learned| matches!(learned.class(NO_ARGUMENTS), Class::Read | Class::Write));
        for _ in 0..40 {
            let line = Generator::new(&mut rng, &NEUTRAL_WORDS).line(name, arguments);
            let Some(mut theirs) = connection.keys(&line) else { continue };
            let ours = keys(command, &line);
            let only_writes = !ours.is_empty() && ours.iter().all(|(_, access)| *access == Access::Write);
            if ours != theirs && only_writes && exceptions.take(name) {
                for (_, access) in &mut theirs {
                    *access = Access::Write;
                }
            }
            assert_eq!(ours, theirs, "{line:?}");
            if let Some(learned) = learned {
                assert_eq!(keys(learned, &line), ours, "{line:?}");
                compared_learned += 1;
            }
            *compared.entry(name).or_default() += usize::from(!ours.is_empty());
        }
    }
    assert!(compared_learned > 4000, "{compared_learned}");

    for row in connection.commands_and_subcommands() {
        if row.key_specs.iter().any(|spec| !spec.flags.contains(&"not_key".to_owned())) {
            let count = compared.get(row.name.as_str()).copied().unwrap_or(0);
            assert!(count >= 10, "{} was compared {count} times", row.name);
        }
    }
    exceptions.check();
}

#[test]
fn replies_called_the_same_are_the_same_in_both_protocols() {
    let server = Server::start(&[]);
    let (mut two, mut three) = (server.connect(), server.connect());
    three.call(&["HELLO", "3"]);
    for line in DATA {
        let reply = two.call(&line.split(' ').collect::<Vec<_>>());
        assert_ne!(reply[0], b'-', "{line}: {}", String::from_utf8_lossy(&reply));
    }

    let syntax = two.syntax();
    let table = Table::builtin();
    let mut exceptions = Unused::of(NOT_SEEN_TO_DIFFER);
    let mut rng = Rng::with_seed(2);
    for name in CACHEABLE.split_whitespace() {
        let command = find(&table, name);
        let (mut answered, mut differed, mut may_differ) = (0, 0, false);
        for _ in 0..1500 {
            let line = Generator::new(&mut rng, &DATA_WORDS).line(name, &syntax[name]);
            let args: Vec<&[u8]> = line.iter().map(String::as_bytes).collect();
            let (reply_2, reply_3) = (two.call(&line), three.call(&line));
            let Class::Cached(sameness) = command.class(&args[..]) else { continue };
            may_differ |= sameness != Sameness::Same;
            if reply_2[0] == b'-' {
                continue;
            }
            answered += 1;
            let same = reply_2 == reply_3 || (reply_2 == b"$-1\r\n" && reply_3 == b"_\r\n");
            differed += usize::from(!same);
            if sameness.same(&args[..]) {
                let (reply_2, reply_3) =
                    (String::from_utf8_lossy(&reply_2), String::from_utf8_lossy(&reply_3));
                assert!(same, "{line:?}: {reply_2:?} and {reply_3:?}");
            }
        }
        assert!(answered >= 30, "{name} was answered {answered} times");
        assert!(!may_differ || differed > 0 || exceptions.take(name), "{name} was never seen to differ");
    }
    exceptions.check();
}

#[test]
fn a_renamed_command_is_not_taken_for_anything_else() {
    let server = Server::start(&["--rename-command", "SET", "PUT", "--rename-command", "GET", ""]);
    let mut connection = server.connect();
    assert_eq!(connection.call(&["PUT", "a", "1"]), b"+OK\r\n");
    let table = Table::builtin().extend(&connection.commands());
    let args: &[&[u8]] = &[b"PUT", b"a", b"1"];
    assert!(matches!(table.lookup(args[0], None).class(args), Class::Unknown | Class::Write));
    assert_eq!(table.lookup(b"SET", None).class(args), Class::Write);
}

#[test]
fn the_server_hangs_up_on_what_we_refuse_to_forward() {
    let server = Server::start(&[]);
    for name in ["POST", "Host:"] {
        let args: &[&[u8]] = &[name.as_bytes()];
        assert_eq!(Table::builtin().lookup(args[0], None).class(args), Class::Refused);
        let mut connection = server.connect();
        connection.send(&[name, "/"]);
        assert_eq!(connection.reader.read(&mut [0; 9]).unwrap_or(0), 0, "{name}");
    }
}

const NO_ARGUMENTS: &[&[u8]] = &[];

/// The row of a command named as the server names it, `config|get`.
fn find<'a>(table: &'a Table, name: &str) -> &'a Command {
    let (name, sub) = name.split_once('|').map_or((name, None), |(name, sub)| (name, Some(sub.as_bytes())));
    table.lookup(name.as_bytes(), sub)
}

/// The keys the table finds in a request, sorted.
fn keys(command: &Command, line: &[String]) -> Vec<(String, Access)> {
    let args: Vec<&[u8]> = line.iter().map(String::as_bytes).collect();
    let mut keys = Vec::new();
    command.for_each_key(&args[..], |key, access| {
        keys.push((String::from_utf8_lossy(key).into_owned(), access));
    });
    keys.sort();
    keys
}

/// The same row under a name that the table does not know.
fn disguise(mut row: ServerCommand) -> ServerCommand {
    row.name = format!("x-{}", row.name);
    row.subcommands = row.subcommands.into_iter().map(disguise).collect();
    row
}

/// Exceptions, each of which must be used.
struct Unused {
    exceptions: Exceptions,
    used: BTreeSet<String>,
}

impl Unused {
    fn of(exceptions: Exceptions) -> Self {
        Self { exceptions, used: BTreeSet::new() }
    }

    fn take(&mut self, name: &str) -> bool {
        let listed = self.exceptions.iter().any(|(listed, _)| *listed == name);
        if listed {
            self.used.insert(name.to_owned());
        }
        listed
    }

    fn check(&self) {
        let listed: BTreeSet<_> = self.exceptions.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(self.used, listed, "exceptions that nothing needs");
    }
}

// ---- Argument lists ---------------------------------------------------------------------------------------------

/// What values are made of.
struct Vocabulary {
    keys: &'static [&'static str],
    words: &'static [&'static str],
    doubles: &'static [&'static str],
}

const NEUTRAL_WORDS: Vocabulary =
    Vocabulary { keys: &["k1", "k2", "k3", "k4"], words: &["v", "w", "7"], doubles: &["1.5"] };

const DATA_WORDS: Vocabulary = Vocabulary {
    keys: &["text", "number", "hash", "list", "set", "scores", "places", "stream", "missing"],
    words: &[
        "a", "b", "c", "-", "+", "[a", "(b", "[c", "0", "1", "-1", "2", "(1", "-inf", "+inf", "1-1", "2-0",
        "u8", "i5", "#1", "9",
    ],
    doubles: &["-inf", "+inf", "0", "1", "1.5", "13", "38", "900"],
};

/// What the reads find: a value of every type, scores that are no integers among them.
const DATA: &[&str] = &[
    "SET text foobar",
    "SET number 10",
    "HSET hash a 1 b 2 c x",
    "RPUSH list a b a c",
    "SADD set a b c",
    "ZADD scores 1 a 1.5 b -inf c",
    "GEOADD places 13.36 38.11 a 15.08 37.5 b 0 0 c",
    "XADD stream 1-1 a 1 b 2",
    "XADD stream 2-0 c 3",
];

/// One argument of a command's syntax, as in COMMAND DOCS.
struct Argument {
    name: String,
    kind: String,
    token: Option<String>,
    flags: Vec<String>,
    arguments: Vec<Argument>,
}

impl Argument {
    fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }
}

/// Makes argument lists at random. Two things the syntax does not say: `numkeys` counts the keys behind it, and
/// XREAD has as many ids as keys.
struct Generator<'a> {
    rng: &'a mut Rng,
    words: &'a Vocabulary,
    counted: Option<usize>,
    line: Vec<String>,
}

impl<'a> Generator<'a> {
    fn new(rng: &'a mut Rng, words: &'a Vocabulary) -> Self {
        Self { rng, words, counted: None, line: Vec::new() }
    }

    fn line(mut self, name: &str, arguments: &[Argument]) -> Vec<String> {
        self.line = name.split('|').map(str::to_owned).collect();
        self.all(arguments);
        self.line
    }

    fn all(&mut self, arguments: &[Argument]) {
        for argument in arguments {
            self.one(argument);
        }
    }

    fn one(&mut self, argument: &Argument) {
        if argument.name == "numkeys" {
            let count = self.rng.usize(1..4);
            self.line.push(count.to_string());
            self.counted = Some(count);
            return;
        }
        let counts = argument.kind == "key" || argument.name.eq_ignore_ascii_case("id");
        let counted = self.counted.take_if(|_| counts && argument.has_flag("multiple"));
        if counted.is_none() && argument.has_flag("optional") && self.rng.bool() {
            return;
        }
        let times = match counted {
            Some(count) => count,
            None if argument.has_flag("multiple") => self.rng.usize(1..4),
            None => 1,
        };
        for time in 0..times {
            if let Some(token) = &argument.token
                && (time == 0 || argument.has_flag("multiple_token"))
            {
                // MIGRATE's syntax writes the empty argument as two quotation marks.
                self.line.push(if token == "\"\"" { String::new() } else { token.clone() });
            }
            self.value(argument);
        }
        // In XREAD the keys come first, and the ids count them.
        let in_streams = argument.kind == "block" && argument.token.as_deref() == Some("STREAMS");
        self.counted = self.counted.filter(|_| !in_streams);
        if argument.kind == "key" && argument.has_flag("multiple") && counted.is_none() {
            self.counted = Some(times);
        }
    }

    fn value(&mut self, argument: &Argument) {
        let value = match argument.kind.as_str() {
            "pure-token" => return,
            "block" => return self.all(&argument.arguments),
            "oneof" => {
                let chosen = self.rng.usize(..argument.arguments.len());
                return self.one(&argument.arguments[chosen]);
            }
            "key" => self.pick(self.words.keys),
            "integer" | "unix-time" => self.rng.i32(-2..6).to_string(),
            "double" => self.pick(self.words.doubles),
            "pattern" => "p*".to_owned(),
            _ => self.pick(self.words.words),
        };
        self.line.push(value);
    }

    fn pick(&mut self, from: &[&str]) -> String {
        from[self.rng.usize(..from.len())].to_owned()
    }
}

// ---- The server -------------------------------------------------------------------------------------------------

/// A redis-server of our own, stopped on drop.
struct Server {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Process::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
            .args(options)
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Self { process, port, _directory: directory };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server did not start on port {port}");
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Connection { reader: BufReader::new(stream) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A reply taken apart; maps as lists, as in RESP2.
#[derive(Debug)]
enum Reply {
    Text(String),
    List(Vec<Reply>),
    Error(String),
    Other,
}

impl Reply {
    fn list(&self) -> &[Reply] {
        if let Self::List(replies) = self { replies } else { &[] }
    }

    fn text(&self) -> String {
        if let Self::Text(text) = self { text.clone() } else { String::new() }
    }

    fn texts(&self) -> Vec<String> {
        self.list().iter().map(Self::text).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (String, &Reply)> {
        self.list().chunks_exact(2).map(|pair| (pair[0].text(), &pair[1]))
    }

    fn field(&self, name: &str) -> Option<&Reply> {
        self.pairs().find(|(field, _)| field == name).map(|(_, value)| value)
    }
}

/// A client so small that it cannot disagree with the server.
struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn send<T: AsRef<str>>(&mut self, args: &[T]) {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args.iter().map(AsRef::as_ref) {
            write!(request, "${}\r\n{arg}\r\n", arg.len()).unwrap();
        }
        self.reader.get_mut().write_all(&request).unwrap();
    }

    /// The raw bytes of the reply.
    fn call<T: AsRef<str>>(&mut self, args: &[T]) -> Vec<u8> {
        self.send(args);
        let mut raw = Vec::new();
        self.read(&mut raw);
        raw
    }

    fn ask<T: AsRef<str>>(&mut self, args: &[T]) -> Reply {
        self.send(args);
        self.read(&mut Vec::new())
    }

    fn read(&mut self, raw: &mut Vec<u8>) -> Reply {
        let start = raw.len();
        self.reader.read_until(b'\n', raw).unwrap();
        let line = String::from_utf8_lossy(&raw[start..]).trim_end().to_owned();
        let (kind, rest) = line.split_at(1);
        let len: usize = rest.parse().unwrap_or(0);
        match kind {
            "$" if rest != "-1" => {
                let start = raw.len();
                raw.resize(start + len + 2, 0);
                self.reader.read_exact(&mut raw[start..]).unwrap();
                Reply::Text(String::from_utf8_lossy(&raw[start..start + len]).into_owned())
            }
            "*" | "~" => Reply::List((0..len).map(|_| self.read(raw)).collect()),
            "%" => Reply::List((0..2 * len).map(|_| self.read(raw)).collect()),
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            _ => Reply::Other,
        }
    }

    fn commands(&mut self) -> Vec<ServerCommand> {
        ServerCommand::parse(&self.call(&["COMMAND"])).unwrap()
    }

    fn commands_and_subcommands(&mut self) -> Vec<ServerCommand> {
        let rows = self.commands();
        let subcommands: Vec<_> = rows.iter().flat_map(|row| row.subcommands.clone()).collect();
        rows.into_iter().filter(|row| row.subcommands.is_empty()).chain(subcommands).collect()
    }

    /// The keys of a request and what is done to them, unless the server rejects it.
    fn keys(&mut self, line: &[String]) -> Option<Vec<(String, Access)>> {
        let question: Vec<&str> =
            ["COMMAND", "GETKEYSANDFLAGS"].into_iter().chain(line.iter().map(String::as_str)).collect();
        let reply = self.ask(&question);
        match &reply {
            Reply::Error(error) if error == "ERR The command has no key arguments" => return Some(Vec::new()),
            Reply::Error(_) => return None,
            _ => {}
        }
        let mut keys = Vec::new();
        for key in reply.list() {
            let flags = key.list()[1].texts();
            let writes = ["RW", "OW", "RM"].iter().any(|flag| flags.contains(&(*flag).to_owned()));
            keys.push((key.list()[0].text(), if writes { Access::Write } else { Access::Read }));
        }
        keys.sort();
        Some(keys)
    }

    /// The syntax of every command and subcommand.
    fn syntax(&mut self) -> BTreeMap<String, Vec<Argument>> {
        let mut syntax = BTreeMap::new();
        for (name, doc) in self.ask(&["COMMAND", "DOCS"]).pairs() {
            match doc.field("subcommands") {
                Some(subcommands) => {
                    syntax.extend(subcommands.pairs().map(|(name, doc)| (name, arguments(doc))));
                }
                None => drop(syntax.insert(name, arguments(doc))),
            }
        }
        syntax
    }
}

fn arguments(doc: &Reply) -> Vec<Argument> {
    let argument = |reply: &Reply| Argument {
        name: reply.field("name").map(Reply::text).unwrap_or_default(),
        kind: reply.field("type").map(Reply::text).unwrap_or_default(),
        token: reply.field("token").map(Reply::text),
        flags: reply.field("flags").map(Reply::texts).unwrap_or_default(),
        arguments: arguments(reply),
    };
    doc.field("arguments").iter().flat_map(|list| list.list()).map(argument).collect()
}
