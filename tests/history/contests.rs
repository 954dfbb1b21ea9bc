//! Two things that the record of a key does not show: an update that is lost although its client watched the key, and
//! news that outruns its key.
//!
//! *Counters*: some add one in a transaction that watches, others in Redis itself, and at the end the sum must be right. A
//! watcher that is answered from memory adds to a number that somebody has raised already.
//!
//! *News*: somebody writes to Redis and says so, by a message or as a job in a list; whoever is told so through the
//! proxy looks at once, on a connection that may be answered from memory, and must not find anything older.
//!
//! Where errors are part of the trouble, who gets one dials again. An update of unknown fate may count or not, and news
//! may be missed.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::caller::Shared;
use super::outside::Outside;
use super::run::{House, Outcome};
use super::strikes::sleep_ms;
use super::trouble::{self, Trouble};
use crate::common::Client;
use crate::common::resp::{children, payload, shown};

const READERS: usize = 3;
const ADDERS: usize = 3;
/// Readers leave the adders the machine, and yet keep the key in memory.
const READ_PAUSE: Duration = Duration::from_micros(200);
const OUTSIDE_PAUSE_MS: std::ops::Range<u64> = 20..120;
const ADD_PAUSE_MS: std::ops::Range<u64> = 5..40;
/// Who waits for news looks up so often.
const LISTEN_MAX: Duration = Duration::from_millis(500);

/// What all who take part share.
pub(super) struct Ring<'a> {
    house: &'a House,
    shared: &'a Shared,
    trouble: Trouble,
    lasts: Duration,
    is_over: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    unknown: AtomicU64,
}

type Act<'a> = &'a (dyn Fn(&mut Rng) + Sync);

impl<'a> Ring<'a> {
    pub(super) fn new(house: &'a House, shared: &'a Shared, trouble: Trouble, lasts: Duration) -> Self {
        let [reads, writes, unknown] = [const { AtomicU64::new(0) }; 3];
        Self { house, shared, trouble, lasts, is_over: AtomicBool::new(false), reads, writes, unknown }
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    fn complain(&self, fault: String) {
        self.shared.complain(fault);
        self.is_over.store(true, Relaxed);
    }

    fn client(&self) -> Asker<'_> {
        Asker { ring: self, client: None }
    }

    fn outside(&self) -> Outside<'a> {
        Outside::new(&self.house.relay)
    }

    /// Lets them act until the time is up or somebody complains.
    fn run<'s>(&'s self, random: &mut Rng, acts: &[Act<'s>]) {
        thread::scope(|scope| {
            let make_trouble = |random: &mut Rng| {
                let retire = || {};
                trouble::make(&self.house.scene(self.shared, &self.is_over, &retire), self.trouble, random);
            };
            let mut its_random = random.fork();
            scope.spawn(move || make_trouble(&mut its_random));
            for act in acts {
                let mut random = random.fork();
                scope.spawn(move || act(&mut random));
            }
            let began = Instant::now();
            while self.goes_on() && self.shared.goes_on(began, self.lasts) {
                thread::sleep(Duration::from_millis(5));
            }
            self.is_over.store(true, Relaxed);
        });
    }

    /// Keeps a key in memory.
    fn read(&self, key: &str) {
        let mut client = self.client();
        while self.goes_on() {
            if client.ask(&["GET", key]).is_some() {
                self.reads.fetch_add(1, Relaxed);
            }
            thread::sleep(READ_PAUSE);
        }
    }

    fn outcome(self) -> Outcome {
        Outcome {
            reads: self.reads.into_inner(),
            writes: self.writes.into_inner(),
            unknown: self.unknown.into_inner(),
            lives: 1,
            fault: self.shared.faults.lock().pop(),
            ..Outcome::default()
        }
    }
}

/// A client of the proxy, which dials when it needs to.
struct Asker<'a> {
    ring: &'a Ring<'a>,
    client: Option<Client>,
}

impl Asker<'_> {
    fn client(&mut self) -> &mut Client {
        self.client.get_or_insert_with(|| {
            let mut client = self.ring.house.proxy.client();
            client.set_timeout(self.ring.shared.hang_max);
            client
        })
    }

    /// The reply; nothing if it was an error or did not come. What was begun on the connection is then over.
    fn ask(&mut self, request: &[&str]) -> Option<Vec<u8>> {
        let phase = self.ring.shared.phase();
        let client = self.client();
        let _ = client.try_send_raw(&crate::common::resp::encode(request));
        let (why, is_excused) = match client.try_recv() {
            Ok(reply) if reply[0] != b'-' => return Some(reply),
            Ok(error) => (shown(&error), self.ring.shared.excuses(phase)),
            Err(error) => (error.to_string(), self.ring.shared.may_fail()),
        };
        self.fail(is_excused, &format!("{request:?} failed with nothing broken: {why}"));
        None
    }

    /// As `ask`, with this reply.
    fn expect(&mut self, wanted: &[u8], request: &[&str]) -> Option<()> {
        let reply = self.ask(request)?;
        if reply != wanted {
            self.ring.complain(format!("{request:?} answered {}", shown(&reply)));
        }
        Some(())
    }

    fn fail(&mut self, is_excused: bool, what: &str) {
        self.client = None;
        if !is_excused {
            self.ring.complain(what.to_owned());
        }
    }
}

/// Whether no update is lost.
pub(super) fn counters(ring: Ring<'_>, random: &mut Rng) -> Outcome {
    const KEY: &str = "counter";
    let added = AtomicU64::new(0);
    let read = |_: &mut Rng| ring.read(KEY);
    let add = |random: &mut Rng| {
        let mut client = ring.client();
        let prepare = |client: &mut Asker<'_>| {
            client.expect(b"+OK\r\n", &["WATCH", KEY])?;
            let next = (number(&client.ask(&["GET", KEY])?) + 1).to_string();
            client.expect(b"+OK\r\n", &["MULTI"])?;
            client.expect(b"+QUEUED\r\n", &["SET", KEY, &next])
        };
        while ring.goes_on() {
            sleep_ms(random, ADD_PAUSE_MS);
            if prepare(&mut client).is_none() {
                continue;
            }
            match client.ask(&["EXEC"]) {
                Some(nothing) if nothing == b"*-1\r\n" => {}
                Some(done) if done.starts_with(b"*1\r\n+OK") => {
                    added.fetch_add(1, Relaxed);
                    ring.writes.fetch_add(1, Relaxed);
                }
                Some(other) => ring.complain(format!("EXEC answered {}", shown(&other))),
                None => drop(ring.unknown.fetch_add(1, Relaxed)),
            }
        }
    };
    let add_outside = |random: &mut Rng| {
        let mut client = ring.outside();
        while ring.goes_on() {
            sleep_ms(random, OUTSIDE_PAUSE_MS);
            let is_added = client.ask(&format!("INCR {KEY}")).is_some();
            let count = if is_added { &added } else { &ring.unknown };
            count.fetch_add(1, Relaxed);
        }
    };
    let mut acts: Vec<Act<'_>> = vec![&add_outside];
    acts.extend([&read as Act<'_>; READERS]);
    acts.extend([&add as Act<'_>; ADDERS]);
    ring.run(random, &acts);
    let sum = number(&ring.outside().must(&format!("GET {KEY}")));
    let (added, unknown) = (added.load(Relaxed), ring.unknown.load(Relaxed));
    if !(added..=added + unknown).contains(&sum) {
        ring.complain(format!(
            "an update was lost: one was added {added} times, perhaps {unknown} times more, and the counter \
             says {sum}"
        ));
    }
    ring.outcome()
}

/// Whether who is told to look finds what he was told of.
pub(super) fn news(ring: Ring<'_>, random: &mut Rng) -> Outcome {
    const KEY: &str = "topic";
    const CHANNEL: &str = "told";
    const JOBS: &str = "jobs";
    let shared = ring.shared;
    let read = |_: &mut Rng| ring.read(KEY);
    let tell = |random: &mut Rng| {
        let mut client = ring.outside();
        for number in 1.. {
            if !ring.goes_on() {
                break;
            }
            sleep_ms(random, OUTSIDE_PAUSE_MS);
            let number = format!("{number}");
            let set = vec!["SET", KEY, &number];
            let mut all = vec![set, vec!["PUBLISH", CHANNEL, &number], vec!["LPUSH", JOBS, &number]];
            if shared.may_fail() {
                // A server may refuse a write and yet pass on the message.
                all.insert(0, vec!["MULTI"]);
                all.push(vec!["EXEC"]);
            }
            client.ask_all(&all);
            ring.writes.fetch_add(1, Relaxed);
        }
    };
    let look = |looker: &mut Asker<'_>, told: u64, how: &str| {
        let found = looker.ask(&["GET", KEY]).map(|reply| number(&reply));
        if let Some(found) = found.filter(|found| *found < told) {
            ring.complain(format!("{how} told of {told}, and then {found} was read"));
        }
    };
    let listen = |_: &mut Rng| {
        let (mut listener, mut looker) = (ring.client(), ring.client());
        let mut since = shared.phase();
        while ring.goes_on() {
            if listener.client.is_none() {
                since = shared.phase();
                if listener.ask(&["SUBSCRIBE", CHANNEL]).is_none() {
                    thread::sleep(READ_PAUSE);
                    continue;
                }
            }
            listener.client().set_timeout(LISTEN_MAX);
            match listener.client().try_recv() {
                Ok(message) if message[0] == b'-' => {
                    listener.fail(shared.excuses(since), "a subscription was ended by an error");
                }
                Ok(message) => look(&mut looker, number(children(&message)[2]), "a message"),
                // In a black hole nobody hears that his subscription is over.
                Err(error) if error.kind() == ErrorKind::WouldBlock && !shared.may_fail() => {}
                Err(error) => {
                    listener.fail(shared.may_fail(), &format!("a subscription was ended: {error}"));
                }
            }
        }
    };
    let work = |_: &mut Rng| {
        let (mut worker, mut looker) = (ring.client(), ring.client());
        while ring.goes_on() {
            // No timeout of the proxy ends a command that waits by nature.
            let patience = if shared.may_fail() { 2 * LISTEN_MAX } else { shared.hang_max };
            worker.client().set_timeout(patience);
            let Some(job) = worker.ask(&["BRPOP", JOBS, "0.2"]) else { continue };
            if let [_, told] = children(&job)[..] {
                look(&mut looker, number(told), "a job");
            }
        }
    };
    ring.run(random, &[&tell, &read, &read, &read, &listen, &listen, &work, &work]);
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
