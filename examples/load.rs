//! The load of the benchmarks: one request again and again, mixtures within one pipeline, Zipf's law, every key once,
//! as fast as it goes or at a given rate.
//!
//!     load address=127.0.0.1:6380 workload=same requests=100000 clients=50 pipeline=16 keys=1000 request='GET key:{}'
//!     load address=127.0.0.1:6380 workload=mixture requests=100000 clients=50 pipeline=16 size=32 hot=1000 cold=200000
//!     load address=127.0.0.1:6380 workload=zipf requests=100000 clients=50 size=1024 keys=100000 exponent=0.99 writes=0.05
//!     load address=127.0.0.1:6380 workload=sweep requests=100000 pipeline=1000 request='GET key:{}'
//!
//! Prints one line of JSON. As fast as it goes means that the server is what is waited for: all clients are one thread's,
//! which has made their requests before the clock starts and only counts replies, so that it needs a fraction of the
//! time that Redis does (redis-benchmark needs about as long). At a given rate there is a thread for each client, since
//! no poll's timer is as fine as what is measured.
//! `bench/` and `scripts/bench` are its users.

use std::{
    collections::BTreeMap,
    env,
    fmt::Display,
    fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process,
    str::FromStr,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
};

const STACK_BYTES: usize = 128 * 1024;
/// So much of what is to be sent is made ahead; more than that is sent again from the start.
const PREPARED_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 256 * 1024;
/// 90 % of a mixture are reads of hot keys, 5 % reads and 5 % writes of cold ones.
const MIXTURE_HOT: f64 = 0.90;
const MIXTURE_WRITES: f64 = 0.05;

fn main() {
    let options = Options::of_process();
    let clients: usize = options.number("clients", Some(1));
    let rate = options.number("rate", Some(0.0));
    let shared = Arc::new(Shared {
        address: options.number("address", None),
        requests: options.number::<usize>("requests", None).div_ceil(clients),
        pipeline: options.number("pipeline", Some(1)),
        interval: Duration::from_secs_f64(if rate > 0.0 { clients as f64 / rate } else { 0.0 }),
        clients,
        seed: options.number("seed", Some(1)),
        value: vec![b'x'; options.number("size", Some(32))],
        workload: Workload::of(&options),
        start: Barrier::new(clients + 1),
    });
    let split_ns = options.number::<u32>("split_us", Some(0)).saturating_mul(1_000);
    let requests = shared.requests * clients;
    if rate <= 0.0 {
        match Crowd::connect(&shared).and_then(Crowd::run) {
            Ok((taken, seconds, busy)) => {
                println!("{}", taken.report(requests, seconds, Some(busy), split_ns));
            }
            Err(error) => fail(error),
        }
        return;
    }
    let threads: Vec<_> = (0..clients)
        .map(|index| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            builder.spawn(move || shared.run(index)).expect("a thread for each client")
        })
        .collect();
    shared.start.wait();
    let begun = Instant::now();
    let mut taken = Taken::default();
    for thread in threads {
        match thread.join().expect("clients do not panic") {
            Ok(one) => taken.add(one),
            Err(error) => fail(error),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", taken.report(requests, seconds, None, split_ns));
}

fn fail(what: impl Display) -> ! {
    eprintln!("load: {what}");
    process::exit(1)
}

/// The `name=value` words of the command line.
struct Options(BTreeMap<String, String>);

impl Options {
    fn of_process() -> Self {
        let pair = |word: String| {
            let Some((name, value)) = word.split_once('=') else { fail(format!("{word} is no name=value")) };
            (name.to_owned(), value.to_owned())
        };
        Self(env::args().skip(1).map(pair).collect())
    }

    fn number<T: FromStr>(&self, name: &str, default: Option<T>) -> T {
        match (self.0.get(name), default) {
            (Some(value), _) => value.parse().unwrap_or_else(|_| fail(format!("{name}={value}"))),
            (None, Some(default)) => default,
            (None, None) => fail(format!("{name} is missing")),
        }
    }
}

enum Workload {
    Same { words: Vec<String>, keys: u64 },
    Mixture { hot: u64, cold: u64 },
    Zipf { cumulative: Vec<f64>, writes: f64 },
    Sweep { words: Vec<String> },
}

impl Workload {
    fn of(options: &Options) -> Self {
        match options.number::<String>("workload", None).as_str() {
            "same" => Self::Same { words: words(options), keys: options.number("keys", None) },
            "mixture" => {
                Self::Mixture { hot: options.number("hot", None), cold: options.number("cold", None) }
            }
            "zipf" => {
                let (keys, exponent): (u32, f64) =
                    (options.number("keys", None), options.number("exponent", None));
                let mut sum = 0.0;
                let cumulative = (1..=keys).map(|rank| {
                    sum += f64::from(rank).powf(-exponent);
                    sum
                });
                Self::Zipf { cumulative: cumulative.collect(), writes: options.number("writes", None) }
            }
            "sweep" => Self::Sweep { words: words(options) },
            other => fail(format!("no workload {other}")),
        }
    }

    /// Writes the request of that number; says whether it is a read.
    fn request(&self, number: usize, dice: &mut Dice, value: &[u8], out: &mut Vec<u8>) -> bool {
        let (key, is_read) = match self {
            Self::Mixture { hot, cold } => {
                let roll = dice.unit();
                if roll < MIXTURE_HOT {
                    (dice.below(*hot), true)
                } else {
                    (hot + dice.below(*cold), roll < 1.0 - MIXTURE_WRITES)
                }
            }
            Self::Zipf { cumulative, writes } => {
                let roll = dice.unit() * cumulative.last().copied().unwrap_or_default();
                let rank = cumulative.partition_point(|sum| *sum <= roll);
                (rank as u64, dice.unit() >= *writes)
            }
            Self::Same { words, keys } => {
                encode_words(words, || dice.below(*keys), value, out);
                return true;
            }
            Self::Sweep { words } => {
                encode_words(words, || number as u64, value, out);
                return true;
            }
        };
        let key = format!("key:{key:012}");
        if is_read {
            encode(&[b"GET", key.as_bytes()], out);
        } else {
            encode(&[b"SET", key.as_bytes(), value], out);
        }
        is_read
    }
}

/// The words of `request=`.
fn words(options: &Options) -> Vec<String> {
    let request: String = options.number("request", None);
    request.split(' ').map(str::to_owned).collect()
}

/// `{}` at the end of a word is the number of a key, and the word `{value}` is a value.
fn encode_words(words: &[String], mut key: impl FnMut() -> u64, value: &[u8], out: &mut Vec<u8>) {
    let words: Vec<Vec<u8>> = words
        .iter()
        .map(|word| match word.strip_suffix("{}") {
            Some(stem) => format!("{stem}{:012}", key()).into_bytes(),
            None if word == "{value}" => value.to_vec(),
            None => word.clone().into_bytes(),
        })
        .collect();
    encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), out);
}

fn encode(words: &[&[u8]], out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// What all clients go by.
struct Shared {
    address: SocketAddr,
    /// Of one client.
    requests: usize,
    pipeline: usize,
    /// Between two pipelines of a client; zero: as fast as it goes.
    interval: Duration,
    clients: usize,
    seed: u64,
    value: Vec<u8>,
    workload: Workload,
    start: Barrier,
}

impl Shared {
    /// Connects, and waits until the server has answered something: a kernel accepts before a server does.
    fn connect(&self) -> io::Result<(TcpStream, BufReader<TcpStream>)> {
        let mut sink = TcpStream::connect(self.address)?;
        sink.set_nodelay(true)?;
        let mut replies = BufReader::with_capacity(64 * 1024, sink.try_clone()?);
        sink.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        skip_reply(&mut replies, &mut Vec::new())?;
        Ok((sink, replies))
    }

    fn run(&self, index: usize) -> io::Result<Taken> {
        let connected = self.connect();
        // Whoever could not connect must not leave the others waiting.
        self.start.wait();
        let (mut sink, mut replies) = connected?;
        let mut dice = Dice::new(self.seed.wrapping_mul(1_000_003).wrapping_add(index as u64));
        let mut taken = Taken::default();
        let mut out = Vec::new();
        let mut line = Vec::new();
        let mut is_read = false;
        let mut due = Instant::now() + self.interval.mul_f64(index as f64 / self.clients as f64);
        let mut done = 0;
        while done < self.requests {
            let count = self.pipeline.min(self.requests - done);
            out.clear();
            for number in done..done + count {
                is_read =
                    self.workload.request(index * self.requests + number, &mut dice, &self.value, &mut out);
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += self.interval;
            let sent = Instant::now();
            sink.write_all(&out)?;
            for _ in 0..count {
                skip_reply(&mut replies, &mut line)?;
            }
            let latency_ns = u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX);
            taken.all_ns.push(latency_ns);
            if is_read && self.pipeline == 1 {
                taken.reads_ns.push(latency_ns);
            }
            done += count;
        }
        Ok(taken)
    }
}

/// All clients in one thread, as fast as it goes.
struct Crowd<'a> {
    shared: &'a Shared,
    clients: Vec<Client>,
    /// What is sent, again and again, and how many requests that is.
    pipelines: Vec<(Vec<u8>, usize)>,
}

struct Client {
    stream: TcpStream,
    replies: Replies,
    /// Which pipeline is under way, and how much of it has been sent; and when it was begun.
    pipeline: usize,
    written: usize,
    sent: Instant,
}

impl<'a> Crowd<'a> {
    fn connect(shared: &'a Shared) -> io::Result<Self> {
        let mut dice = Dice::new(shared.seed);
        let (mut pipelines, mut bytes, mut number) = (Vec::new(), 0, 0);
        let all = shared.requests * shared.clients;
        let is_sweep = matches!(shared.workload, Workload::Sweep { .. });
        while number < all && (is_sweep || bytes < PREPARED_BYTES_MAX) {
            let count = shared.pipeline.min(all - number);
            let mut out = Vec::new();
            for _ in 0..count {
                shared.workload.request(number, &mut dice, &shared.value, &mut out);
                number += 1;
            }
            bytes += out.len();
            pipelines.push((out, count));
        }
        let clients = (0..shared.clients).map(|_| {
            let (stream, _) = shared.connect()?;
            stream.set_nonblocking(true)?;
            Ok(Client { stream, replies: Replies::default(), pipeline: 0, written: 0, sent: Instant::now() })
        });
        Ok(Self { shared, clients: clients.collect::<io::Result<_>>()?, pipelines })
    }

    /// Returns what pipelines took, how long all took, and for how much of that this thread was on its core.
    fn run(mut self) -> io::Result<(Taken, f64, f64)> {
        let mut taken = Taken::default();
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (index, client) in self.clients.iter().enumerate() {
            // Told of each change once: a pipeline that the socket does not take whole needs no other asking.
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            epoll::add(&epoll, &client.stream, EventData::new_u64(index as u64), flags)?;
        }
        let (begun, busy) = (Instant::now(), on_core_seconds());
        let mut left = self.shared.requests * self.shared.clients;
        let (mut next, mut running) = (0, 0);
        let mut events = Vec::with_capacity(1024);
        let mut buffer = vec![0; READ_BYTES];
        for index in 0..self.clients.len() {
            running += usize::from(self.begin(index, &mut next, &mut left)?);
        }
        while running > 0 {
            events.clear();
            epoll::wait(&epoll, spare_capacity(&mut events), None)?;
            for event in &events {
                let index = event.data.u64() as usize;
                self.write(index)?;
                while self.clients[index].replies.left > 0 {
                    let client = &mut self.clients[index];
                    let len = match client.stream.read(&mut buffer) {
                        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                        Ok(len) => len,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    };
                    client.replies.take(&buffer[..len])?;
                    if client.replies.left == 0 {
                        let latency = client.sent.elapsed().as_nanos();
                        taken.all_ns.push(u32::try_from(latency).unwrap_or(u32::MAX));
                        if !self.begin(index, &mut next, &mut left)? {
                            running -= 1;
                        }
                        break;
                    }
                    if len < buffer.len() {
                        break;
                    }
                }
            }
        }
        Ok((taken, begun.elapsed().as_secs_f64(), on_core_seconds() - busy))
    }

    /// Sends this client's next pipeline; false if all have been sent.
    fn begin(&mut self, index: usize, next: &mut usize, left: &mut usize) -> io::Result<bool> {
        let (_, count) = self.pipelines[*next];
        if *left == 0 {
            return Ok(false);
        }
        let client = &mut self.clients[index];
        client.replies.left = count;
        (client.pipeline, client.written, client.sent) = (*next, 0, Instant::now());
        *next = (*next + 1) % self.pipelines.len();
        *left = left.saturating_sub(count);
        self.write(index)?;
        Ok(true)
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        let (pipeline, _) = &self.pipelines[client.pipeline];
        while client.replies.left > 0 && client.written < pipeline.len() {
            match client.stream.write(&pipeline[client.written..]) {
                Ok(len) => client.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// For how long this thread has been on a core.
fn on_core_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// Counts replies in whatever pieces they come.
#[derive(Default)]
struct Replies {
    /// That are still to come.
    left: usize,
    /// Of the first of them, frames that are still to come.
    frames: u64,
    /// Bytes that are still to come of a bulk string.
    skip: usize,
    /// A line that has not come whole.
    line: Vec<u8>,
}

impl Replies {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                if self.skip == 0 {
                    self.frame_ends();
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            let line = if self.line.is_empty() {
                &bytes[..end]
            } else {
                self.line.extend_from_slice(&bytes[..end]);
                &self.line
            };
            let (kind, length) = header(line)?;
            self.line.clear();
            bytes = &bytes[end + 1..];
            self.frames = self.frames.max(1);
            match (kind, length) {
                (b'$', Some(length)) => {
                    self.skip = length + 2;
                    continue;
                }
                (b'*', Some(length)) => self.frames += length as u64,
                _ => {}
            }
            self.frame_ends();
        }
        Ok(())
    }

    fn frame_ends(&mut self) {
        self.frames -= 1;
        if self.frames == 0 {
            self.left = self.left.saturating_sub(1);
        }
    }
}

/// The kind of a line without its end, and its length if it has one (a null has none); an error reply is an error.
fn header(line: &[u8]) -> io::Result<(u8, Option<usize>)> {
    let text = line.strip_suffix(b"\r").unwrap_or(line);
    let (kind, rest) = text.split_first().ok_or(ErrorKind::InvalidData)?;
    match kind {
        b'-' => Err(io::Error::other(String::from_utf8_lossy(text))),
        b'$' | b'*' => Ok((*kind, std::str::from_utf8(rest).ok().and_then(|rest| rest.parse().ok()))),
        _ => Ok((*kind, None)),
    }
}

/// Reads one reply and forgets it; an error reply is an error.
fn skip_reply(replies: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    let mut frames = 1_u64;
    while frames > 0 {
        frames -= 1;
        line.clear();
        if replies.read_until(b'\n', line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match header(&line[..line.len() - 1])? {
            (b'*', Some(length)) => frames += length as u64,
            (b'$', Some(length)) => {
                io::copy(&mut replies.take(length as u64 + 2), &mut io::sink())?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// How long pipelines took, from writing one until its last reply was read.
#[derive(Default)]
struct Taken {
    all_ns: Vec<u32>,
    /// Those of reads that were alone in their pipeline.
    reads_ns: Vec<u32>,
}

impl Taken {
    fn add(&mut self, mut other: Self) {
        self.all_ns.append(&mut other.all_ns);
        self.reads_ns.append(&mut other.reads_ns);
    }

    /// `near`: the reads that took less than `split_ns`.
    /// `busy`: the seconds that it was on a core for, if they are known.
    fn report(mut self, requests: usize, seconds: f64, busy: Option<f64>, split_ns: u32) -> String {
        self.all_ns.sort_unstable();
        self.reads_ns.sort_unstable();
        let near = &self.reads_ns[..self.reads_ns.partition_point(|taken| *taken < split_ns)];
        format!(
            r#"{{"requests": {requests}, "seconds": {seconds:.6}, "busy_seconds": {}, "all": {}, "reads": {}, "near": {}}}"#,
            busy.map_or("null".to_owned(), |busy| format!("{busy:.6}")),
            quantiles(&self.all_ns),
            quantiles(&self.reads_ns),
            quantiles(near)
        )
    }
}

/// In microseconds, of what is sorted.
fn quantiles(sorted_ns: &[u32]) -> String {
    let at = |per_mille: usize| {
        let index = sorted_ns.len() * per_mille / 1_000;
        sorted_ns.get(index).map_or(0.0, |ns| f64::from(*ns) / 1_000.0)
    };
    format!(
        r#"{{"count": {}, "p50": {:.1}, "p99": {:.1}, "p99.9": {:.1}}}"#,
        sorted_ns.len(),
        at(500),
        at(990),
        at(999)
    )
}

/// `SplitMix64`: the same numbers for the same seed, on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
