//! The load that `redis-benchmark` cannot make: mixtures within one pipeline, Zipf's law, a given rate, every key once.
//!
//!     load address=127.0.0.1:6380 workload=mixture requests=100000 clients=50 pipeline=16 size=32 hot=1000 cold=200000
//!     load address=127.0.0.1:6380 workload=zipf requests=100000 clients=50 size=1024 keys=100000 exponent=0.99 writes=0.05
//!     load address=127.0.0.1:6380 workload=sweep requests=100000 pipeline=1000 request='GET key:{}'
//!
//! Prints one line of JSON. A thread for each client, which writes a pipeline and reads its replies: no runtime whose
//! timers are coarser than what is measured, and nothing to build but std, so that `rustc -O` alone makes it.
//! `bench/` and `scripts/bench` are its users.

use std::{
    collections::BTreeMap,
    env,
    fmt::Display,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process,
    str::FromStr,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

const STACK_BYTES: usize = 128 * 1024;
/// 90 % of a mixture are reads of hot keys, 5 % reads and 5 % writes of cold ones.
const MIXTURE_HOT: f64 = 0.90;
const MIXTURE_WRITES: f64 = 0.05;

fn main() {
    let options = Options::of_process();
    let clients: usize = options.number("clients", Some(1));
    let shared = Arc::new(Shared {
        address: options.number("address", None),
        requests: options.number::<usize>("requests", None).div_ceil(clients),
        pipeline: options.number("pipeline", Some(1)),
        interval: Some(options.number("rate", Some(0.0)))
            .filter(|rate| *rate > 0.0)
            .map(|rate| Duration::from_secs_f64(clients as f64 / rate)),
        clients,
        seed: options.number("seed", Some(1)),
        value: vec![b'x'; options.number("size", Some(32))],
        workload: Workload::of(&options),
        start: Barrier::new(clients + 1),
    });
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
    let split_ns = options.number::<u32>("split_us", Some(0)).saturating_mul(1_000);
    println!("{}", taken.report(shared.requests * clients, seconds, split_ns));
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
    Mixture { hot: u64, cold: u64 },
    Zipf { cumulative: Vec<f64>, writes: f64 },
    Sweep { words: Vec<String> },
}

impl Workload {
    fn of(options: &Options) -> Self {
        match options.number::<String>("workload", None).as_str() {
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
            "sweep" => {
                let request: String = options.number("request", None);
                Self::Sweep { words: request.split(' ').map(str::to_owned).collect() }
            }
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
            Self::Sweep { words } => {
                let key = format!("{number:012}");
                let words: Vec<String> = words.iter().map(|word| word.replace("{}", &key)).collect();
                encode(&words.iter().map(String::as_bytes).collect::<Vec<_>>(), out);
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
    /// Between two pipelines of a client, if there is a rate to keep.
    interval: Option<Duration>,
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
        sink.write_all(b"PING\r\n")?;
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
        let mut due = Instant::now();
        if let Some(interval) = self.interval {
            due += interval.mul_f64(index as f64 / self.clients as f64);
        }
        let mut done = 0;
        while done < self.requests {
            let count = self.pipeline.min(self.requests - done);
            out.clear();
            for number in done..done + count {
                is_read =
                    self.workload.request(index * self.requests + number, &mut dice, &self.value, &mut out);
            }
            if let Some(interval) = self.interval {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += interval;
            }
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

/// Reads one reply and forgets it; an error reply is an error.
fn skip_reply(replies: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    let mut frames = 1_u64;
    while frames > 0 {
        frames -= 1;
        line.clear();
        if replies.read_until(b'\n', line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(line);
        // A null has none.
        let length = || text[1..].trim_end().parse::<u64>().ok();
        match line.first() {
            Some(b'-') => return Err(io::Error::other(text.trim_end().to_owned())),
            Some(b'*') => frames += length().unwrap_or(0),
            Some(b'$') => {
                if let Some(length) = length() {
                    io::copy(&mut replies.take(length + 2), &mut io::sink())?;
                }
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
    fn report(mut self, requests: usize, seconds: f64, split_ns: u32) -> String {
        self.all_ns.sort_unstable();
        self.reads_ns.sort_unstable();
        let near = &self.reads_ns[..self.reads_ns.partition_point(|taken| *taken < split_ns)];
        format!(
            r#"{{"requests": {requests}, "seconds": {seconds:.6}, "all": {}, "reads": {}, "near": {}}}"#,
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
