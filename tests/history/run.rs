//! One run: a Redis, a proxy, perhaps a relay between them, the actors, the trouble, and the verdict.
//!
//! A run fails if a history has no explanation, if a reply is missing or is an error though nothing was broken, and
//! also if too little was answered from memory: a history proves nothing where the cache was not hit.

use std::env;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::actors::{self, Stage};
use super::caller::Shared;
use super::generator::Load;
use super::recorder::History;
use super::{checker, contests, versions};
use crate::common::{Client, Proxy, ProxyBuilder, Redis, Relay, proxy};

const SECONDS_DEFAULT: f64 = 1.0;
/// The share of the attacked keys' reads that must have been hits.
const HIT_SHARE_MIN: f64 = 0.30;

/// In pairs, where they are versions.
const KEYS: usize = 6;
const READERS: usize = 4;
const WRITERS: usize = 2;
/// For versions: short, so that a value kept too long is soon noticed.
const MAX_STALENESS: Duration = Duration::from_millis(300);
const LINK_DELAY_MS: u64 = 25;
/// Longer than `MAX_STALENESS`: the lease must lapse.
const STALL: Duration = Duration::from_millis(450);

/// What is held against the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// All writes go through the proxy: every key is an atomic register.
    Register,
    /// Some go past it: what is seen of a key goes forward, and is not too old.
    Versions,
    /// No update is lost by who watches the key.
    Counters,
    /// Who is told to look finds what he was told of.
    News,
}

/// What is done to the connections between proxy and Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// Invalidations come late.
    SlowLink,
    /// Lanes are slow by turns, so that replies overtake each other.
    Jitter,
    /// Redis closes lanes and exclusive connections.
    LanesDie,
    /// Redis closes the link, or nothing comes through it for longer than a lease.
    LinkFails,
}

/// Runs it for its time, prints what was done, and panics if that cannot be explained.
#[track_caller]
pub(crate) fn run(law: Law, trouble: Trouble) {
    let seconds =
        env::var("NEARHIT_HISTORY_SECONDS").map_or(SECONDS_DEFAULT, |text| text.parse().expect("seconds"));
    let seed = env::var("NEARHIT_HISTORY_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a seed"));

    let name = format!("{law:?} with {trouble:?}");
    let (outcome, share) = launch(law, trouble, seed, Duration::from_secs_f64(seconds), None);
    println!("{name}: seed {seed}, {outcome}, {share}");
    let again = format!("NEARHIT_HISTORY_SEED={seed} NEARHIT_HISTORY_SECONDS={seconds} runs the like again");
    if let Some(fault) = outcome.fault {
        panic!("{name}: {fault}\n{again}");
    }
    assert!(share.ratio() >= HIT_SHARE_MIN, "{name}: {share}: the cache was hardly used\n{again}");
}

/// Runs it once, against a proxy in which this guard is broken, if one is named.
pub(crate) fn launch(
    law: Law,
    trouble: Trouble,
    seed: u64,
    lasts: Duration,
    mutation: Option<&str>,
) -> (Outcome, HitShare) {
    let _turn = turn();
    let redis = Redis::start();
    let relay = Relay::to(redis.addr());
    let proxy = start(law, trouble, &redis, &relay, mutation);
    let mut random = Rng::with_seed(seed);
    let outcome = match law {
        Law::Register | Law::Versions => attack(&proxy, &redis, &relay, law, trouble, &mut random, lasts),
        Law::Counters | Law::News => {
            if trouble == Trouble::SlowLink {
                relay.link().delay(0, LINK_DELAY_MS);
            }
            let contest = if law == Law::News { contests::news } else { contests::counters };
            contest(&proxy, &redis, lasts, &mut random)
        }
    };
    (outcome, HitShare::of(&proxy))
}

/// Runs take turns, whether they are threads of one process or processes of their own: each needs the machine.
fn turn() -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("history.lock");
    let file = File::create(path).expect("cargo makes this directory");
    file.lock().expect("the file system has locks");
    file
}

/// The load under which the cache is still hit: what slows reads or certifications down leaves less to write.
fn load(trouble: Trouble) -> Load {
    match trouble {
        Trouble::None => Load { tempo_ms: 0.5..40.0, exec_reads: 0.03, ranges: 0.24, variants: 12 },
        Trouble::SlowLink => Load { tempo_ms: 40.0..400.0, exec_reads: 0.0002, ranges: 0.0006, variants: 1 },
        Trouble::Jitter | Trouble::LanesDie | Trouble::LinkFails => {
            Load { tempo_ms: 2.0..80.0, exec_reads: 0.01, ranges: 0.2, variants: 4 }
        }
    }
}

fn start(law: Law, trouble: Trouble, redis: &Redis, relay: &Relay, mutation: Option<&str>) -> Proxy {
    let builder = proxy().set("server.workers", "2").set("upstream.backoff_min", "10ms");
    let builder = mutation.into_iter().fold(builder, ProxyBuilder::broken);
    let builder = match law {
        Law::Register | Law::Counters | Law::News => builder,
        Law::Versions => builder.set("cache.max_staleness", &format!("{}ms", MAX_STALENESS.as_millis())),
    };
    let proxy = match trouble {
        Trouble::None => builder.upstream(redis),
        _ => builder.upstream_addr(relay.addr()),
    };
    let proxy = proxy.start();
    proxy.wait_live();
    proxy
}

/// What was done, and what was wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) unknown: u64,
    pub(crate) errors: u64,
    pub(crate) lives: u64,
    pub(crate) fault: Option<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reads, writes, unknown, errors, lives, fault } = self;
        write!(
            f,
            "{reads} reads and {writes} writes ({unknown} of unknown fate, {errors} errors) of {lives} keys, "
        )?;
        write!(f, "{} violations", if fault.is_some() { "some" } else { "no" })
    }
}

fn attack(
    proxy: &Proxy,
    redis: &Redis,
    relay: &Relay,
    law: Law,
    trouble: Trouble,
    random: &mut Rng,
    lasts: Duration,
) -> Outcome {
    let is_over = Arc::new(AtomicBool::new(false));
    let (judge, histories) = mpsc::channel();
    let verdict = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || judge_all(law, &histories, &is_over))
    };
    let may_fail = matches!(trouble, Trouble::LanesDie);
    let shared = Arc::new(Shared::new(may_fail));
    let stage = Stage::new(proxy, redis, Arc::clone(&shared), Arc::clone(&is_over), judge, load(trouble));
    open(&stage, law, random);
    thread::scope(|scope| {
        let stage = &stage;
        for act in cast(stage, relay, law, trouble) {
            let mut random = random.fork();
            scope.spawn(move || {
                // If one panics, the others are to stop.
                let _stop = StopOnPanic(stage);
                act(&mut random);
            });
        }
        let began = Instant::now();
        while stage.goes_on() && began.elapsed() < lasts && shared.faults.lock().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Relaxed);
    });
    // With it goes the last hold on every key, and the last sender to the judge.
    drop(stage);
    let (lives, violation) = verdict.join().expect("the judge does not panic");
    let tally = &shared.tally;
    Outcome {
        reads: tally.reads.load(Relaxed),
        writes: tally.writes.load(Relaxed),
        unknown: tally.unknown.load(Relaxed),
        errors: tally.errors.load(Relaxed),
        lives,
        fault: violation.or_else(|| shared.faults.lock().pop()),
    }
}

type Act<'a> = Box<dyn FnOnce(&mut Rng) + Send + 'a>;

/// Who takes part.
fn cast<'a>(stage: &'a Stage<'a>, relay: &'a Relay, law: Law, trouble: Trouble) -> Vec<Act<'a>> {
    let mut acts: Vec<Act<'a>> = Vec::new();
    for _ in 0..READERS {
        acts.push(Box::new(|random| actors::read(stage, random)));
    }
    acts.push(Box::new(|random| actors::swarm(stage, random)));
    for number in 0..WRITERS {
        let share = (number, WRITERS);
        match law {
            Law::Register => {
                acts.push(Box::new(move |random| actors::write(stage, random, share)));
                acts.push(Box::new(|random| actors::alternate(stage, random)));
            }
            _ => acts.push(Box::new(move |random| actors::publish(stage, random, share))),
        }
    }
    acts.push(Box::new(move |random| make_trouble(stage, relay, trouble, random)));
    acts
}

struct StopOnPanic<'a>(&'a Stage<'a>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.is_over.store(true, Relaxed);
        }
    }
}

/// Puts the first lives in their places.
fn open(stage: &Stage<'_>, law: Law, random: &mut Rng) {
    let mut outside = stage.redis.client();
    match law {
        Law::Register => (0..KEYS).for_each(|place| stage.renew(place, random, &mut outside)),
        _ => (0..KEYS).step_by(2).for_each(|place| stage.renew_pair(place, random)),
    }
}

/// Checks each history as it is handed in. The first violation ends the run.
fn judge_all(law: Law, histories: &Receiver<History>, is_over: &AtomicBool) -> (u64, Option<String>) {
    let (mut lives, mut fault) = (0, None);
    for history in histories {
        lives += 1;
        if fault.is_some() {
            continue;
        }
        let verdict = match law {
            Law::Register => checker::check(&history),
            _ => versions::check(&history, MAX_STALENESS),
        };
        if let Err(violation) = verdict {
            is_over.store(true, Relaxed);
            fault = Some(format!("{}: {violation}", history.key));
        }
    }
    (lives, fault)
}

fn make_trouble(stage: &Stage<'_>, relay: &Relay, trouble: Trouble, random: &mut Rng) {
    let mut redis = stage.redis.client();
    match trouble {
        Trouble::None => {}
        Trouble::SlowLink => relay.link().delay(0, LINK_DELAY_MS),
        Trouble::Jitter => {
            while stage.goes_on() {
                let mut delay = || random.choice([0, 0, 1, 3, 8]).expect("there are some");
                relay.others().delay(delay(), delay());
                sleep_ms(random, 1..6);
            }
        }
        Trouble::LanesDie => {
            // So that there is something in flight.
            relay.others().delay(1, 1);
            while stage.goes_on() {
                sleep_ms(random, 10..50);
                match random.u8(0..10) {
                    // What Redis had done already stays unanswered.
                    0 => relay.others().cut(),
                    1..4 => kill(&mut redis, "nearhit-transaction", random),
                    _ => kill(&mut redis, "nearhit-lane", random),
                }
            }
        }
        Trouble::LinkFails => {
            while stage.goes_on() {
                sleep_ms(random, 100..400);
                if random.bool() {
                    kill(&mut redis, "nearhit-link", random);
                } else {
                    relay.link().hold_down(true);
                    thread::sleep(STALL);
                    relay.link().hold_down(false);
                }
            }
        }
    }
}

/// Closes one of the proxy's connections of this name, from the server's side.
fn kill(redis: &mut Client, name: &str, random: &mut Rng) {
    let list = redis.text(&["CLIENT", "LIST"]);
    let field = format!(" name={name} ");
    let ids: Vec<&str> = list
        .lines()
        .filter(|line| line.contains(&field))
        .filter_map(|line| line.strip_prefix("id=")?.split(' ').next())
        .collect();
    if let Some(id) = random.choice(&ids) {
        // It may have closed by itself.
        redis.cmd(&["CLIENT", "KILL", "ID", id]);
    }
}

fn sleep_ms(random: &mut Rng, range: std::ops::Range<u64>) {
    thread::sleep(Duration::from_millis(random.u64(range)));
}

/// The proxy's own counters: nothing but the attacked keys is ever read.
#[derive(Debug)]
pub(crate) struct HitShare {
    hits: u64,
    lookups: u64,
}

impl HitShare {
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let [hits, misses, joins] = ["hits", "misses", "joins"].map(|name| proxy.stat(name));
        Self { hits, lookups: hits + misses + joins }
    }

    pub(crate) fn ratio(&self) -> f64 {
        self.hits as f64 / self.lookups.max(1) as f64
    }
}

impl std::fmt::Display for HitShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hits of {} lookups ({:.0} %)", self.hits, self.lookups, 100.0 * self.ratio())
    }
}
