//! Two things that the record of a key does not show: an update that is lost although its client watched the key, and
//! news that outruns its key.
//!
//! *Counters*: some add one in a transaction that watches, others in Redis itself, and at the end the sum must be right. A
//! watcher that is answered from memory adds to a number that somebody has raised already.
//!
//! *News*: somebody writes to Redis and says so, by a message or as a job in a list; whoever is told so through the
//! proxy looks at once, on a connection that may be answered from memory, and must not find anything older.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;

use super::run::Outcome;
use crate::common::resp::{children, payload, shown};
use crate::common::{Client, Proxy, Redis};

const READERS: usize = 3;
const ADDERS: usize = 3;
/// Readers leave the adders the machine, and yet keep the key in memory.
const READ_PAUSE: Duration = Duration::from_micros(200);
const OUTSIDE_PAUSE_MS: std::ops::Range<u64> = 20..120;
const ADD_PAUSE_MS: std::ops::Range<u64> = 5..40;

/// What all who take part share.
struct Ring<'a> {
    proxy: &'a Proxy,
    redis: &'a Redis,
    is_over: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl<'a> Ring<'a> {
    fn new(proxy: &'a Proxy, redis: &'a Redis) -> Self {
        Self {
            proxy,
            redis,
            is_over: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            fault: Mutex::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    fn complain(&self, fault: String) {
        self.fault.lock().get_or_insert(fault);
        self.is_over.store(true, Relaxed);
    }

    /// Lets them act until the time is up or somebody complains.
    fn run<'s>(&'s self, lasts: Duration, random: &mut Rng, acts: &[&'s (dyn Fn(&mut Rng) + Sync)]) {
        thread::scope(|scope| {
            for act in acts {
                let mut random = random.fork();
                scope.spawn(move || act(&mut random));
            }
            let began = Instant::now();
            while self.goes_on() && began.elapsed() < lasts {
                thread::sleep(Duration::from_millis(5));
            }
            self.is_over.store(true, Relaxed);
        });
    }

    /// Keeps a key in memory.
    fn read(&self, key: &str) {
        let mut client = self.proxy.client();
        while self.goes_on() {
            number(&client.cmd(&["GET", key]));
            self.reads.fetch_add(1, Relaxed);
            thread::sleep(READ_PAUSE);
        }
    }

    fn outcome(self) -> Outcome {
        Outcome {
            reads: self.reads.into_inner(),
            writes: self.writes.into_inner(),
            lives: 1,
            fault: self.fault.into_inner(),
            ..Outcome::default()
        }
    }
}

/// Whether no update is lost.
pub(super) fn counters(proxy: &Proxy, redis: &Redis, lasts: Duration, random: &mut Rng) -> Outcome {
    const KEY: &str = "counter";
    let ring = Ring::new(proxy, redis);
    let added = AtomicU64::new(0);
    let read = |_: &mut Rng| ring.read(KEY);
    let add = |random: &mut Rng| {
        let mut client = ring.proxy.client();
        while ring.goes_on() {
            sleep_ms(random, ADD_PAUSE_MS);
            client.expect(b"+OK\r\n", &["WATCH", KEY]);
            let next = (number(&client.cmd(&["GET", KEY])) + 1).to_string();
            client.expect(b"+OK\r\n", &["MULTI"]);
            client.expect(b"+QUEUED\r\n", &["SET", KEY, &next]);
            let done = client.cmd(&["EXEC"]);
            if done != b"*-1\r\n" {
                assert!(done.starts_with(b"*1\r\n+OK"), "EXEC answered {}", shown(&done));
                added.fetch_add(1, Relaxed);
                ring.writes.fetch_add(1, Relaxed);
            }
        }
    };
    let add_outside = |random: &mut Rng| {
        let mut client = ring.redis.client();
        while ring.goes_on() {
            sleep_ms(random, OUTSIDE_PAUSE_MS);
            client.cmd(&["INCR", KEY]);
            added.fetch_add(1, Relaxed);
        }
    };
    let mut acts: Vec<&(dyn Fn(&mut Rng) + Sync)> = vec![&add_outside];
    acts.extend([&read as &(dyn Fn(&mut Rng) + Sync); READERS]);
    acts.extend([&add as &(dyn Fn(&mut Rng) + Sync); ADDERS]);
    ring.run(lasts, random, &acts);
    let (sum, added) = (number(&redis.client().cmd(&["GET", KEY])), added.into_inner());
    if sum != added {
        ring.complain(format!("an update was lost: one was added {added} times, and the counter says {sum}"));
    }
    ring.outcome()
}

/// Whether who is told to look finds what he was told of.
pub(super) fn news(proxy: &Proxy, redis: &Redis, lasts: Duration, random: &mut Rng) -> Outcome {
    const KEY: &str = "topic";
    const CHANNEL: &str = "told";
    const JOBS: &str = "jobs";
    let ring = Ring::new(proxy, redis);
    let read = |_: &mut Rng| ring.read(KEY);
    let tell = |random: &mut Rng| {
        let mut client = ring.redis.client();
        for number in 1.. {
            if !ring.goes_on() {
                break;
            }
            sleep_ms(random, OUTSIDE_PAUSE_MS);
            let number = format!("{number}");
            let set = ["SET", KEY, &number];
            client.pipeline(&[&set, &["PUBLISH", CHANNEL, &number], &["LPUSH", JOBS, &number]]);
            ring.writes.fetch_add(1, Relaxed);
        }
        // So that those who listen find that it is over.
        client.cmd(&["PUBLISH", CHANNEL, "0"]);
    };
    let look = |looker: &mut Client, told: u64, how: &str| {
        let found = number(&looker.cmd(&["GET", KEY]));
        if found < told {
            ring.complain(format!("{how} told of {told}, and then {found} was read"));
        }
    };
    let listen = |_: &mut Rng| {
        let (mut listener, mut looker) = (ring.proxy.client(), ring.proxy.client());
        listener.cmd(&["SUBSCRIBE", CHANNEL]);
        while ring.goes_on() {
            let message = listener.recv();
            look(&mut looker, number(children(&message)[2]), "a message");
        }
    };
    let work = |_: &mut Rng| {
        let (mut worker, mut looker) = (ring.proxy.client(), ring.proxy.client());
        while ring.goes_on() {
            let job = worker.cmd(&["BRPOP", JOBS, "0.2"]);
            if let [_, told] = children(&job)[..] {
                look(&mut looker, number(told), "a job");
            }
        }
    };
    ring.run(lasts, random, &[&tell, &read, &read, &read, &listen, &listen, &work, &work]);
    ring.outcome()
}

/// Nothing counts as zero.
fn number(frame: &[u8]) -> u64 {
    if frame.starts_with(b"$-1") {
        return 0;
    }
    let text = String::from_utf8_lossy(payload(frame));
    text.parse().unwrap_or_else(|_| panic!("no number: {}", shown(frame)))
}

fn sleep_ms(random: &mut Rng, range: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.u64(range)));
}
