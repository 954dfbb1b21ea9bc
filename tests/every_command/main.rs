//! Every command that the server lists, in shapes made from what it says of them, against Redis and through the proxy.
//!
//! Two servers with the same contents, one asked directly and one through the proxy. COMMAND says which commands there
//! are, COMMAND DOCS what arguments they take; from that come requests with each option, each branch and each
//! repetition, filled with keys of every type, binary and empty texts, integers at the edges and beyond, and with an
//! argument too few or too many. They are sent one by one (a read again and again, so that it is answered from
//! memory), in one pipeline, and in a transaction; in the end all commands are mixed. The replies must be the same
//! bytes, and so must the datasets be afterwards. What may differ, and why, is in `differences.rs`; what chance must not
//! fill in is in `by_hand.txt`.
//!
//! `NEARHIT_COMMANDS_SEED` repeats a run, `NEARHIT_COMMANDS_ROUNDS` makes it longer (2 by default), and
//! `NEARHIT_COMMANDS_ONLY` keeps it to commands whose name begins so.

#[path = "../common/mod.rs"]
mod common;

mod by_hand;
mod catalog;
mod differences;
mod shapes;
mod values;

use std::{collections::BTreeSet, env, str::FromStr, time::Instant};

use catalog::{Entry, catalog};
use common::{
    Client, Proxy, Redis, proxy,
    resp::{children, encode, shown},
};
use differences::{Compare, compare, depends_on_others, diverges, excused};
use fastrand::Rng;
use shapes::{Request, shapes};
use values::SEED;

/// How often each form of a request is filled with values.
const ROUNDS: u32 = 2;
/// Blocked clients time out when the server's clock ticks. HINCRBYFLOAT by 1e400 writes 401 digits, which would make the
/// hash a table, and the order of its fields each server's own.
const ARGS: &[&str] = &["--hz", "500", "--hash-max-listpack-value", "1024"];
/// Requests between two fillings of the database.
const CHUNK: usize = 8;
/// The same where commands are mixed, and how many of those there are in each round.
const MIXED_CHUNK: usize = 24;
const MIXED_CHUNKS: usize = 25;
/// A read is sent so often: the second is a hit, if it may be one.
const READS: usize = 3;
/// A failed run shows no more than this.
const FAILURES_MAX: usize = 40;
/// Reads from memory that a whole run has at least; it has some 700.
const HITS_MIN: u64 = 200;

#[test]
fn every_command_answers_the_same_in_resp2() {
    run(2);
}

#[test]
fn every_command_answers_the_same_in_resp3() {
    run(3);
}

fn run(protocol: u8) {
    let seed = setting("SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = setting("ROUNDS").unwrap_or(ROUNDS);
    let only: String = setting("ONLY").unwrap_or_default();
    eprintln!("RESP{protocol} with NEARHIT_COMMANDS_SEED={seed}");
    let mut twins = Twins::start(protocol);
    let entries = catalog(&mut twins.alone_control);
    let scripts = by_hand::scripts();
    twins.names = entries.iter().map(|entry| entry.name.clone()).collect();
    let mut mixed = Vec::new();
    for entry in entries.iter().filter(|entry| entry.name.starts_with(&only)) {
        // So that a single command can be looked at again with the same seed.
        let mut rng =
            Rng::with_seed(entry.name.bytes().fold(seed, |seed, byte| seed.rotate_left(5) ^ u64::from(byte)));
        let began = Instant::now();
        match scripts.get(&entry.name) {
            Some(lines) => lines.iter().for_each(|line| twins.converse(line)),
            None => mixed.extend(twins.generated(entry, rounds, &mut rng)),
        }
        if setting::<u8>("VERBOSE").is_some() {
            let hits = twins.proxy.stat("hits");
            eprintln!("{:>6} ms {} ({hits} hits so far)", began.elapsed().as_millis(), entry.name);
        }
    }
    Rng::with_seed(seed).shuffle(&mut mixed);
    let guises = GUISES.iter().cycle();
    for (chunk, guise) in mixed.chunks(MIXED_CHUNK).take(rounds as usize * MIXED_CHUNKS).zip(guises) {
        twins.guise = guise;
        let requests: Vec<Named<'_>> = chunk.iter().map(|(entry, request)| (*entry, request)).collect();
        twins.in_every_way(&requests);
    }
    let Twins { failures, compared, names, exercised, proxy, .. } = twins;
    eprintln!("RESP{protocol}: {compared} replies, {} hits", proxy.stat("hits"));
    let shown = failures.iter().take(FAILURES_MAX).fold(String::new(), |text, failure| text + failure + "\n");
    assert!(failures.is_empty(), "in RESP{protocol}, {} replies differ:\n{shown}", failures.len());
    if only.is_empty() {
        let missing: Vec<_> = names.difference(&exercised).collect();
        assert!(missing.is_empty(), "listed and not exercised: {missing:?}");
        let named = excused().map(str::to_owned).chain(scripts.into_keys());
        let unknown: Vec<_> = named.filter(|name| !names.contains(name)).collect();
        assert!(unknown.is_empty(), "the server has no {unknown:?}");
        assert!(proxy.stat("hits") >= HITS_MIN, "hardly anything was answered from memory");
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(format!("NEARHIT_COMMANDS_{name}")).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("NEARHIT_COMMANDS_{name}={text}")))
}

/// What a connection says first: mixed commands are also sent by who watches keys, is subscribed, has its own tracking or
/// its own lane, and by who may not do everything.
const GUISES: &[&str] = &[
    "PING",
    "WATCH string missing",
    "AUTH limited any",
    "SELECT 1",
    "SUBSCRIBE quiet",
    "CLIENT TRACKING ON OPTIN",
    "WAIT 0 0",
];
/// Who may not do everything. One command is named at most: in which order ACL LIST shows several is each server's own.
const LIMITED: &str =
    "ACL SETUSER limited on nopass ~s* ~list ~zset %R~int %W~hash &ch +@all -@dangerous -@scripting -hget";

/// A request, and the command that it is one of.
type Named<'a> = (&'a Entry, &'a Request);

/// Two servers, and what was found between them.
struct Twins {
    protocol: u8,
    alone: Redis,
    proxy: Proxy,
    guise: &'static str,
    alone_control: Client,
    behind_control: Client,
    settler: Client,
    /// All that the server lists.
    names: BTreeSet<String>,
    exercised: BTreeSet<String>,
    compared: usize,
    failures: Vec<String>,
    _behind: Redis,
}

/// A connection to each.
struct Pair {
    direct: Client,
    proxied: Client,
}

impl Twins {
    fn start(protocol: u8) -> Self {
        let (alone, behind) = (Redis::start_with(ARGS), Redis::start_with(ARGS));
        // A busy machine may stall the heartbeat; this is not the test of what happens then.
        let proxy = proxy().upstream(&behind).set("cache.max_staleness", "10s");
        // PFSELFTEST keeps the server for seconds.
        let proxy = proxy.set("upstream.command_timeout", "60s").start();
        proxy.wait_live();
        for server in [&alone, &behind] {
            server.client().expect(b"+OK\r\n", &LIMITED.split(' ').collect::<Vec<_>>());
        }
        Self {
            protocol,
            guise: GUISES[0],
            alone_control: alone.client(),
            behind_control: behind.client(),
            settler: proxy.client(),
            alone,
            proxy,
            names: BTreeSet::new(),
            exercised: BTreeSet::new(),
            compared: 0,
            failures: Vec::new(),
            _behind: behind,
        }
    }

    fn connect(&self) -> Pair {
        let mut pair = Pair { direct: self.alone.client(), proxied: self.proxy.client() };
        pair.direct.hello(self.protocol);
        pair.proxied.hello(self.protocol);
        let words: Vec<&str> = self.guise.split(' ').collect();
        assert_eq!(pair.direct.cmd(&words), pair.proxied.cmd(&words), "{}", self.guise);
        pair
    }

    /// The same contents in both, and nothing of what was before in the cache.
    fn fill(&mut self) {
        let one = self.alone_control.pipeline(SEED);
        let other = self.behind_control.pipeline(SEED);
        assert_eq!(one, other, "the databases are filled alike");
        self.settler.expect(b":1\r\n", &["EVAL", "return 1", "0"]);
    }

    /// Requests of one command, in every way that requests travel; gives back those that may be mixed with others.
    fn generated<'a>(
        &mut self,
        entry: &'a Entry,
        rounds: u32,
        rng: &mut Rng,
    ) -> impl Iterator<Item = (&'a Entry, Request)> + use<'a> {
        let (apart, requests): (Vec<_>, Vec<_>) =
            shapes(entry, rounds, rng).into_iter().partition(|request| diverges(&entry.name, request));
        for request in &apart {
            self.fill();
            self.one_by_one(&[(entry, request)]);
            self.fill();
            self.in_transaction(&[(entry, request)]);
        }
        let named: Vec<Named<'_>> = requests.iter().map(|request| (entry, request)).collect();
        for chunk in named.chunks(CHUNK) {
            self.in_every_way(chunk);
        }
        let mixable = !depends_on_others(&entry.name);
        requests.into_iter().filter(move |_| mixable).map(move |request| (entry, request))
    }

    fn in_every_way(&mut self, requests: &[Named<'_>]) {
        let before = self.failures.len();
        self.fill();
        self.one_by_one(requests);
        self.compare_datasets("one by one");
        self.fill();
        self.in_pipeline(requests);
        self.compare_datasets("in a pipeline");
        self.fill();
        // What is refused when it is queued spoils the others.
        let queue: Vec<Named<'_>> =
            requests.iter().filter(|(entry, request)| is_queued(entry, request)).copied().collect();
        self.in_transaction(&queue);
        if queue.len() < requests.len() {
            self.in_transaction(requests);
        }
        self.compare_datasets("in a transaction");
        if self.failures.len() > before {
            let all =
                requests.iter().fold(String::new(), |text, (_, request)| text + "\n  " + &words(request));
            self.failures.push(format!("which were among, after {}{all}", self.guise));
        }
    }

    fn one_by_one(&mut self, requests: &[Named<'_>]) {
        let mut pair = self.connect();
        for (entry, request) in requests {
            for time in 0..if entry.is_readonly { READS } else { 1 } {
                let (expected, got) = self.ask(&mut pair, request);
                let way = format!("one by one, time {time}");
                self.compare(compare(&entry.name, request), &way, request, &expected, &got);
            }
        }
        self.end(&mut pair);
    }

    fn in_pipeline(&mut self, requests: &[Named<'_>]) {
        let mut pair = self.connect();
        let bytes: Vec<u8> = requests.iter().flat_map(|(_, request)| encode(request)).collect();
        pair.direct.send_raw(&bytes);
        pair.proxied.send_raw(&bytes);
        for (entry, request) in requests {
            let (expected, got) = self.replies(&mut pair, request);
            self.compare(compare(&entry.name, request), "in a pipeline", request, &expected, &got);
        }
        self.end(&mut pair);
    }

    fn in_transaction(&mut self, requests: &[Named<'_>]) {
        let mut pair = self.connect();
        let (multi, exec) = (vec![b"MULTI".to_vec()], vec![b"EXEC".to_vec()]);
        let (begun, also) = self.ask(&mut pair, &multi);
        self.compare(Compare::Bytes, "begun", &multi, &begun, &also);
        let mut queued = Vec::new();
        for (entry, request) in requests {
            let (expected, got) = self.ask(&mut pair, request);
            self.compare(Compare::Bytes, "queued", request, &expected, &got);
            if expected == b"+QUEUED\r\n" {
                queued.push((entry, request));
            }
        }
        let (expected, got) = self.ask(&mut pair, &exec);
        self.end(&mut pair);
        let (parts, got_parts) = (children(&expected), children(&got));
        if parts.len() != got_parts.len() || parts.len() != queued.len() {
            let all: Vec<Vec<u8>> = requests.iter().flat_map(|(_, request)| (*request).clone()).collect();
            return self.compare(Compare::Bytes, "executed", &all, &expected, &got);
        }
        for ((entry, request), (expected, got)) in queued.iter().zip(parts.into_iter().zip(got_parts)) {
            self.compare(compare(&entry.name, request), "in a transaction", request, expected, got);
        }
    }

    /// What the last request has pushed behind its reply comes before one more.
    fn end(&mut self, pair: &mut Pair) {
        let ping = vec![b"PING".to_vec()];
        let (expected, got) = self.ask(pair, &ping);
        self.compare(Compare::Bytes, "in the end", &ping, &expected, &got);
    }

    /// The replies to one request, which are yet to be compared.
    fn ask(&mut self, pair: &mut Pair, request: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        for client in [&mut pair.direct, &mut pair.proxied] {
            // A connection that has ended says so when it is read from.
            let _ = client.try_send_raw(&encode(request));
        }
        self.replies(pair, request)
    }

    /// The next replies. Pushes are none: who flushes and tracks is told so behind the reply, and they must be the same.
    fn replies(&mut self, pair: &mut Pair, request: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let ((pushed, expected), (also, got)) = (next(&mut pair.direct), next(&mut pair.proxied));
        if pushed != also {
            self.differ("pushed before its reply", request, &pushed, &also);
        }
        (expected, got)
    }

    fn compare_datasets(&mut self, way: &str) {
        let digest = ["DEBUG", "DIGEST"];
        let (expected, got) = (self.alone_control.cmd(&digest), self.behind_control.cmd(&digest));
        if expected != got {
            self.failures.push(format!("{way}, the datasets differ in the end"));
        }
    }

    fn compare(&mut self, how: Compare, way: &str, request: &[Vec<u8>], expected: &[u8], got: &[u8]) {
        self.note(request);
        self.compared += 1;
        if !how.is_same(expected, got) {
            self.differ(way, request, expected, got);
        }
    }

    fn differ(&mut self, way: &str, request: &[Vec<u8>], expected: &[u8], got: &[u8]) {
        let (request, expected, got) = (words(request), shown(expected), shown(got));
        self.failures.push(format!("{request}, {way}, is\n  {got}\nand Redis says\n  {expected}"));
    }

    /// Which command that was.
    fn note(&mut self, request: &[Vec<u8>]) {
        let word = |index: usize| request.get(index).map(|word| String::from_utf8_lossy(word).to_lowercase());
        let Some(name) = word(0) else { return };
        let subcommand = word(1).map(|second| format!("{name}|{second}"));
        let noted = [Some(name), subcommand].into_iter().flatten();
        self.exercised.extend(noted.filter(|name| self.names.contains(name)));
    }
}

/// Whether the server takes it into a transaction: what is wrong with it otherwise shows at EXEC.
fn is_queued(entry: &Entry, request: &Request) -> bool {
    let given = i64::try_from(request.len()).expect("a short request");
    !entry.is_container && if entry.arity < 0 { given >= -entry.arity } else { given == entry.arity }
}

/// What is pushed until the reply, and the reply, or why there is none.
fn next(client: &mut Client) -> (Vec<u8>, Vec<u8>) {
    let mut pushed = Vec::new();
    loop {
        match client.try_recv() {
            Ok(frame) if frame.starts_with(b">") => pushed.extend(frame),
            Ok(frame) => return (pushed, frame),
            Err(error) => return (pushed, format!("no reply: {error}").into_bytes()),
        }
    }
}

fn words(request: &[Vec<u8>]) -> String {
    let words = request.iter().map(|word| format!("\"{}\"", shown(word)));
    words.collect::<Vec<_>>().join(" ")
}
