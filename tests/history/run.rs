//! One run: a Redis, a proxy, perhaps a relay between them, the actors, the trouble, and the verdict.
//!
//! A run fails if a history has no explanation, if a reply is missing or is an error though nothing was broken, if the
//! proxy's own auditor finds something, and also if too little was answered from memory: a history proves nothing where
//! the cache was not hit.

use std::cell::Cell;
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
use super::contests::Ring;
use super::recorder::History;
use super::trouble::{self, MAX_STALENESS, Scene, Trouble};
use super::{checker, contests, versions};
use crate::common::{Proxy, ProxyBuilder, Redis, Relay, ms, proxy};

const SECONDS_DEFAULT: f64 = 1.0;

/// Of the hits. More would be asked of the server than by the clients themselves.
const AUDITED_SHARE: &str = "0.1";

/// In pairs, where they are versions.
const KEYS: usize = 6;
const READERS: usize = 4;
const WRITERS: usize = 2;

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

/// Runs it for its time, prints what was done, and panics if that cannot be explained.
#[track_caller]
pub(crate) fn run(law: Law, trouble: Trouble) {
    let (seed, lasts) = drawn();
    let name = format!("{law:?} with {trouble:?}");
    let again = format!(
        "NEARHIT_HISTORY_SEED={seed} NEARHIT_HISTORY_SECONDS={} runs the like again",
        lasts.as_secs_f64()
    );
    let told = TellOnPanic(&again);
    let (outcome, share) = launch(law, trouble, seed, lasts, None);
    println!("{name}: seed {seed}, {outcome}, {share}");
    if let Some(fault) = outcome.fault {
        panic!("{name}: {fault}");
    }
    assert!(share.ratio() >= trouble.hit_share_min(), "{name}: {share}: the cache was hardly used");
    drop(told);
}

/// The seed, and how long it is to last.
pub(super) fn drawn() -> (u64, Duration) {
    let seconds =
        env::var("NEARHIT_HISTORY_SECONDS").map_or(SECONDS_DEFAULT, |text| text.parse().expect("seconds"));
    let seed = env::var("NEARHIT_HISTORY_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a seed"));
    (seed, Duration::from_secs_f64(seconds))
}

/// Where the harness itself fails, the seed is wanted too.
struct TellOnPanic<'a>(&'a str);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Who is there in a run.
pub(crate) struct House {
    pub(crate) redis: Redis,
    /// Another server, if the trouble needs one.
    pub(crate) other: Option<Redis>,
    pub(crate) relay: Relay,
    pub(crate) proxy: Proxy,
}

/// Runs it once, against a proxy in which this guard is broken, if one is named.
pub(crate) fn launch(
    law: Law,
    trouble: Trouble,
    seed: u64,
    lasts: Duration,
    mutation: Option<&str>,
) -> (Outcome, HitShare) {
    let _turn = turn(trouble);
    let (redis, other) = (trouble.start_redis(), trouble.start_other());
    let relay = Relay::to(redis.addr());
    let proxy = start(law, trouble, &redis, &relay, mutation);
    let house = House { redis, other, relay, proxy };
    let mut random = Rng::with_seed(seed);
    let shared = Arc::new(Shared::new(trouble));
    let mut outcome = match law {
        Law::Register | Law::Versions => attack(&house, &shared, law, trouble, &mut random, lasts),
        Law::Counters => contests::counters(Ring::new(&house, &shared, trouble, lasts), &mut random),
        Law::News => contests::news(Ring::new(&house, &shared, trouble, lasts), &mut random),
    };
    outcome.recoveries = shared.recoveries();
    if !trouble.changes_silently() {
        outcome.fault = outcome.fault.or_else(|| found_by_auditor(&house.proxy));
    }
    let share = HitShare::of(&house.proxy).among(outcome.reads);
    (outcome, share)
}

impl House {
    /// What the trouble gets to see of it.
    pub(crate) fn scene<'a>(
        &'a self,
        shared: &'a Shared,
        is_over: &'a AtomicBool,
        retire: &'a (dyn Fn() + Sync),
    ) -> Scene<'a> {
        let Self { redis, other, relay, proxy } = self;
        Scene { redis, other: other.as_ref(), proxy, relay, shared, is_over, retire, healed: Cell::new(None) }
    }
}

/// Runs take turns, whether they are threads of one process or processes of their own: each needs the machine. But where
/// most of the time is waited for what is broken, some go together.
pub(super) fn turn(trouble: Trouble) -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("history.lock");
    let file = File::create(path).expect("cargo makes this directory");
    let locked = if trouble.strikes() { file.lock_shared() } else { file.lock() };
    locked.expect("the file system has locks");
    file
}

fn start(law: Law, trouble: Trouble, redis: &Redis, relay: &Relay, mutation: Option<&str>) -> Proxy {
    let builder = proxy().set("server.workers", "2").set("upstream.backoff_min", "10ms");
    let builder = audited_unless_broken(builder, mutation);
    let builder = match law {
        Law::Register | Law::Counters | Law::News => builder,
        Law::Versions => builder.set("cache.max_staleness", &ms(MAX_STALENESS)),
    };
    let builder = match trouble {
        Trouble::None => builder.upstream(redis),
        _ => builder.upstream_addr(relay.addr()),
    };
    let proxy = trouble.configure(builder).start();
    proxy.wait_live();
    proxy
}

/// A sound proxy audits itself meanwhile. What is wrong with one whose guard is broken, the history has to find.
pub(super) fn audited_unless_broken(builder: ProxyBuilder, mutation: Option<&str>) -> ProxyBuilder {
    match mutation {
        None => builder.set("audit.sample", AUDITED_SHARE),
        Some(guard) => builder.broken(guard),
    }
}

/// Hits that differ from what the server says although nothing explains it, by the proxy's own account.
pub(super) fn found_by_auditor(proxy: &Proxy) -> Option<String> {
    let violations = proxy.stat("audit_violations");
    (violations > 0).then(|| {
        let log = proxy.log();
        let told: String = log.lines().filter(|line| line.contains("VIOLATION")).collect();
        format!("the auditor found {violations} violations: {told}")
    })
}

/// What was done, and what was wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) unknown: u64,
    pub(crate) errors: u64,
    pub(crate) lives: u64,
    /// How many times everything was mended, and the longest that the proxy needed to recover.
    pub(crate) recoveries: (u64, Duration),
    pub(crate) fault: Option<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reads, writes, unknown, errors, lives, recoveries: (healed, longest), fault } = self;
        write!(
            f,
            "{reads} reads and {writes} writes ({unknown} of unknown fate, {errors} errors) of {lives} keys, "
        )?;
        if *healed > 0 {
            write!(f, "{healed} recoveries in at most {} ms, ", longest.as_millis())?;
        }
        write!(f, "{} violations", if fault.is_some() { "some" } else { "no" })
    }
}

fn attack(
    house: &House,
    shared: &Arc<Shared>,
    law: Law,
    trouble: Trouble,
    random: &mut Rng,
    lasts: Duration,
) -> Outcome {
    let is_over = Arc::new(AtomicBool::new(false));
    let (judge, histories) = mpsc::channel();
    let verdict = {
        let (shared, is_over) = (Arc::clone(shared), Arc::clone(&is_over));
        thread::spawn(move || judge_all(law, &histories, &shared, &is_over))
    };
    let (keys_of, over) = (Arc::clone(shared), Arc::clone(&is_over));
    let stage = Stage::new(&house.proxy, &house.relay, keys_of, over, judge, trouble);
    open(&stage, law, random);
    thread::scope(|scope| {
        let stage = &stage;
        for act in cast(stage, house, law, trouble) {
            let mut random = random.fork();
            scope.spawn(move || {
                // If one panics, the others are to stop.
                let _stop = StopOnPanic(&stage.is_over);
                act(&mut random);
            });
        }
        let began = Instant::now();
        while stage.goes_on() && shared.goes_on(began, lasts) {
            thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Relaxed);
    });
    stage.check_ledger();
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
        ..Outcome::default()
    }
}

type Act<'a> = Box<dyn FnOnce(&mut Rng) + Send + 'a>;

/// Who takes part.
fn cast<'a>(stage: &'a Stage<'a>, house: &'a House, law: Law, trouble: Trouble) -> Vec<Act<'a>> {
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
    if law == Law::Register && !trouble.loses() {
        acts.push(Box::new(|random| actors::keep_ledger(stage, random)));
    }
    acts.push(Box::new(move |random| {
        let retire = || stage.retire();
        trouble::make(&house.scene(&stage.shared, &stage.is_over, &retire), trouble, random);
    }));
    acts
}

/// Ends a run when its thread panics.
pub(super) struct StopOnPanic<'a>(pub(super) &'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

/// Puts the first lives in their places.
fn open(stage: &Stage<'_>, law: Law, random: &mut Rng) {
    let mut outside = stage.outside();
    match law {
        Law::Register => (0..KEYS).for_each(|place| stage.renew(place, random, &mut outside)),
        _ => (0..KEYS).step_by(2).for_each(|place| stage.renew_pair(place, random)),
    }
}

/// Checks each history as it is handed in. The first violation ends the run.
fn judge_all(
    law: Law,
    histories: &Receiver<History>,
    shared: &Shared,
    is_over: &AtomicBool,
) -> (u64, Option<String>) {
    let (mut lives, mut fault) = (0, None);
    for mut history in histories {
        lives += 1;
        if fault.is_some() {
            continue;
        }
        shared.losses.apply(&mut history);
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

/// The proxy's own counters: nothing but the attacked keys is ever read.
#[derive(Debug)]
pub(crate) struct HitShare {
    hits: u64,
    lookups: u64,
    /// Hits that the server confirmed when they were read again.
    audited: u64,
}

impl HitShare {
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let [hits, misses, joins] = ["hits", "misses", "joins"].map(|name| proxy.stat(name));
        Self { hits, lookups: hits + misses + joins, audited: proxy.stat("audit_agreements") }
    }

    /// Only what was answered with a value counts: while the server is away, each of thousands of refused reads was
    /// looked up in vain.
    fn among(self, answered: u64) -> Self {
        Self { lookups: self.lookups.min(answered), ..self }
    }

    pub(crate) fn ratio(&self) -> f64 {
        self.hits as f64 / self.lookups.max(1) as f64
    }
}

impl std::fmt::Display for HitShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hits, lookups, audited } = self;
        write!(f, "{hits} hits of {lookups} lookups ({:.0} %, {audited} confirmed)", 100.0 * self.ratio())
    }
}
