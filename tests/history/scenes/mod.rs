//! Scenes: versions of keys of every type, through one proxy or two on one Redis, with what strains one guard or
//! another. `troupe.rs` plays them; each key is judged by `versions.rs`, by `checker.rs` too if all its writes went
//! through one proxy, and by how long outside writes were not shown (`staleness.rs`).
//!
//! Each proxy is judged for itself, by what was read through it: what went through the other is an outside write.

pub(crate) mod counter;
mod monitor;
mod shapes;
mod staleness;
mod troupe;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::monitor::Log;
use self::shapes::{Place, Shape};
use self::staleness::Staleness;
use self::troupe::{Board, Record};
use crate::common::resp::payload;
use crate::common::{Proxy, Redis, Relay, eventually, ms, proxy};
use crate::history::recorder::{Door, History, Kind, Op, SOMETHING, Written};
use crate::history::run::{
    HitShare, Outcome, StopOnPanic, audited_unless_broken, drawn, found_by_auditor, turn,
};
use crate::history::trouble::{LINK_DELAY_MS, MAX_STALENESS, Trouble};
use crate::history::{checker, versions};

/// May do everything, like the default user, and yet has variants of its own.
pub(crate) const USER: &str = "reader";
pub(crate) const PASSWORD: &str = "secret";

/// The share of the attacked keys' reads that must have been hits, through each proxy.
const HIT_SHARE_MIN: f64 = 0.30;

const AUTHORS: usize = 2;
/// Longer than any lane's, so that an old reply comes while its key's invalidation is still to come.
const CROSSING_LINK_DELAY_MS: u64 = 50;
const LANE_DELAY_MS: u64 = 20;
const SWITCH_INTERVAL_MS: Range<u64> = 400..700;

/// What is to be written and read, and how hard.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) proxies: usize,
    pub(crate) workers: u32,
    pub(crate) readers: usize,
    /// Readers pause between two reads.
    pub(crate) is_quiet: bool,
    /// In all databases together.
    pub(crate) keys: usize,
    pub(crate) databases: u8,
    pub(crate) shapes: &'static [Shape],
    /// How many reading commands there are for a key. Each is a variant, and where something else is seen through
    /// one, the others have to wait for a certification.
    pub(crate) variants: usize,
    /// How many of `troupe::PROFILES` readers have.
    pub(crate) profiles: usize,
    /// How long an author leaves a key alone: drawn for each.
    pub(crate) tempo_ms: Range<u64>,
    /// Of each version, if they have any.
    pub(crate) ttl_ms: Option<Range<u64>>,
    /// The share of writes that go through a proxy.
    pub(crate) inside: f64,
    /// A factor, where keys are written seldom.
    pub(crate) lasts_longer: u32,
    pub(crate) strain: Strain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strain {
    None,
    /// Invalidations come late.
    SlowLink,
    /// Replies come late, and Redis expires nothing that nobody asks for.
    SlowLanes,
    /// Replies overtake each other, and invalidations come later still.
    Crossing,
    /// Scripts keep Redis busy for longer than a lease.
    BusyScripts,
    /// The address leads to another server all at once, while the old one lives.
    Moves,
}

impl Scene {
    pub(crate) fn may_fail(&self) -> bool {
        matches!(self.strain, Strain::BusyScripts | Strain::Moves)
    }
}

const ORDINARY: Scene = Scene {
    name: "EveryType",
    proxies: 1,
    workers: 2,
    readers: 3,
    is_quiet: false,
    keys: 8,
    databases: 2,
    shapes: &Shape::ALL,
    variants: 7,
    profiles: 4,
    tempo_ms: 10..80,
    ttl_ms: None,
    inside: 0.4,
    lasts_longer: 1,
    strain: Strain::None,
};

pub(crate) const EVERY_TYPE: Scene = ORDINARY;

pub(crate) const PLAIN: Scene =
    Scene { name: "Plain", workers: 1, readers: 2, is_quiet: true, keys: 6, inside: 0.1, ..ORDINARY };

pub(crate) const SLOW_LINK: Scene = Scene {
    name: "SlowLink",
    keys: 6,
    variants: 2,
    profiles: 2,
    tempo_ms: 200..600,
    inside: 0.1,
    lasts_longer: 4,
    strain: Strain::SlowLink,
    ..ORDINARY
};

pub(crate) const LOAD: Scene = Scene { name: "Load", readers: 6, tempo_ms: 5..40, inside: 0.1, ..ORDINARY };

pub(crate) const TWO_PROXIES: Scene =
    Scene { name: "TwoProxies", proxies: 2, readers: 4, tempo_ms: 20..120, inside: 0.7, ..ORDINARY };

pub(crate) const SLOW_LANES: Scene = Scene {
    name: "SlowLanes",
    readers: 6,
    keys: 6,
    variants: 1,
    tempo_ms: 150..300,
    ttl_ms: Some(5..100),
    inside: 0.1,
    strain: Strain::SlowLanes,
    ..ORDINARY
};

pub(crate) const CROSSING: Scene = Scene {
    name: "Crossing",
    readers: 6,
    keys: 4,
    databases: 1,
    shapes: &[Shape::Text, Shape::Hash],
    variants: 2,
    profiles: 2,
    tempo_ms: 400..800,
    inside: 0.0,
    lasts_longer: 4,
    strain: Strain::Crossing,
    ..ORDINARY
};

pub(crate) const BUSY: Scene = Scene {
    name: "BusyScripts",
    keys: 4,
    variants: 2,
    tempo_ms: 50..150,
    lasts_longer: 8,
    strain: Strain::BusyScripts,
    ..ORDINARY
};

pub(crate) const MOVES: Scene =
    Scene { name: "Moves", keys: 6, tempo_ms: 30..100, lasts_longer: 2, strain: Strain::Moves, ..ORDINARY };

/// Plays it for its share of the time, prints what was done, and panics if that cannot be explained.
#[track_caller]
pub(crate) fn play(scene: &Scene) {
    let (seed, lasts) = drawn();
    let report = launch(scene, seed, lasts, None);
    println!("Scene with {}: seed {seed}, {report}", scene.name);
    let again = format!("NEARHIT_HISTORY_SEED={seed} draws the like again");
    if let Some(fault) = report.outcome.fault {
        panic!("{}: {fault}\n{again}", scene.name);
    }
    let staleness = &report.staleness;
    assert!(staleness.max() <= MAX_STALENESS, "{}: {staleness}\n{again}", scene.name);
    assert!(staleness.count() > 0 && report.registers > 0 || scene.ttl_ms.is_some(), "{report:?}");
    // Keys that live for milliseconds are as often gone as the draw has it.
    let share_min = if scene.ttl_ms.is_some() { HIT_SHARE_MIN / 3.0 } else { HIT_SHARE_MIN };
    for share in &report.shares {
        assert!(share.ratio() >= share_min, "{}: {share}: hardly used\n{again}", scene.name);
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    staleness: Staleness,
    /// How many keys were judged as registers, too.
    registers: u64,
    /// The versions of all keys, where they are held against Redis's own log.
    record: Vec<(Place, Vec<Written>)>,
    /// Of each proxy.
    pub(crate) shares: Vec<HitShare>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outcome, registers, staleness, shares, .. } = self;
        write!(f, "{outcome}, {registers} of them registers; {staleness}")?;
        shares.iter().try_for_each(|share| write!(f, "; {share}"))
    }
}

/// Plays it once, against proxies in which this guard is broken, if one is named.
pub(crate) fn launch(scene: &Scene, seed: u64, lasts: Duration, mutation: Option<&str>) -> Report {
    let _turn = turn(Trouble::None);
    let mut random = Rng::with_seed(seed);
    let servers = start_servers(scene);
    let relay = Relay::to(servers[0].addr());
    let proxies: Vec<Proxy> =
        (0..scene.proxies).map(|_| start_proxy(scene, &servers[0], &relay, mutation)).collect();
    let (judge, records) = mpsc::channel();
    let addresses = proxies.iter().map(Proxy::addr).collect();
    let board = Board::new(scene, addresses, &servers, judge, &mut random);
    let log = (scene.name == PLAIN.name).then(|| Log::follow(&servers[0]));
    let mut report = perform(board, records, &proxies, &relay, lasts, &mut random);
    report.outcome.fault = report.outcome.fault.or_else(|| proxies.iter().find_map(found_by_auditor));
    if let Some(log) = log {
        match log.check(&report.record) {
            Ok(found) => {
                println!("{}: {found} versions stand in Redis's own log as in the record", scene.name);
            }
            Err(fault) => report.outcome.fault = report.outcome.fault.or(Some(fault)),
        }
    }
    report
}

fn start_servers(scene: &Scene) -> Vec<Redis> {
    let count = if scene.strain == Strain::Moves { 2 } else { 1 };
    let servers: Vec<Redis> =
        (0..count).map(|_| Redis::start_with(&["--busy-reply-threshold", "50"])).collect();
    for server in &servers {
        let mut redis = server.client();
        redis.expect(
            b"+OK\r\n",
            &["ACL", "SETUSER", USER, "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"],
        );
        if scene.strain == Strain::SlowLanes {
            redis.expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        }
    }
    servers
}

fn start_proxy(scene: &Scene, redis: &Redis, relay: &Relay, mutation: Option<&str>) -> Proxy {
    let builder = proxy()
        .set("server.workers", &scene.workers.to_string())
        .set("upstream.backoff_min", "10ms")
        .set("cache.max_staleness", &ms(MAX_STALENESS));
    let builder = audited_unless_broken(builder, mutation);
    let proxy = match scene.strain {
        Strain::None => builder.upstream(redis).start(),
        _ => builder.upstream_addr(relay.addr()).start(),
    };
    proxy.wait_live();
    proxy
}

type Act<'a> = Box<dyn FnOnce(&mut Rng) + Send + 'a>;

fn perform(
    board: Board<'_>,
    records: Receiver<Record>,
    proxies: &[Proxy],
    relay: &Relay,
    lasts: Duration,
    random: &mut Rng,
) -> Report {
    let (scene, is_over) = (board.scene, Arc::clone(&board.is_over));
    let keeps = scene.name == PLAIN.name;
    let (proxy_count, judge_ends) = (scene.proxies, Arc::clone(&is_over));
    let judge = thread::spawn(move || Verdict::on(&records, proxy_count, keeps, &judge_ends));
    thread::scope(|scope| {
        let board = &board;
        let mut acts: Vec<Act<'_>> = vec![Box::new(move |random| strain(board, proxies, relay, random))];
        for number in 0..AUTHORS {
            acts.push(Box::new(move |random| troupe::write(board, random, (number, AUTHORS))));
        }
        for _ in 0..scene.readers {
            acts.push(Box::new(move |random| troupe::read(board, random)));
        }
        for act in acts {
            let mut random = random.fork();
            scope.spawn(move || {
                // If one panics, the others are to stop.
                let _stop = StopOnPanic(&board.is_over);
                act(&mut random);
            });
        }
        let began = Instant::now();
        while board.goes_on() && began.elapsed() < lasts {
            thread::sleep(Duration::from_millis(5));
        }
        is_over.store(true, Relaxed);
    });
    let [reads, writes, errors] =
        [&board.reads, &board.writes, &board.errors].map(|count| count.load(Relaxed));
    let fault = board.fault.lock().take();
    // With it goes the last hold on every key, and the last sender to the judge.
    drop(board);
    let verdict = judge.join().expect("the judge does not panic");
    let fault = verdict.fault.or(fault);
    Report {
        outcome: Outcome { reads, writes, errors, lives: verdict.lives, fault, ..Outcome::default() },
        staleness: verdict.staleness,
        registers: verdict.registers,
        record: verdict.record,
        shares: proxies.iter().map(HitShare::of).collect(),
    }
}

#[derive(Default)]
struct Verdict {
    lives: u64,
    registers: u64,
    staleness: Staleness,
    fault: Option<String>,
    record: Vec<(Place, Vec<Written>)>,
}

impl Verdict {
    /// Judges each record as it is handed in. The first violation ends the scene.
    fn on(records: &Receiver<Record>, proxies: usize, keeps: bool, is_over: &AtomicBool) -> Self {
        let mut verdict = Self::default();
        for mut record in records {
            verdict.lives += 1;
            verdict.registers += u64::from(record.is_register);
            for proxy in 0..proxies {
                if verdict.fault.is_some() {
                    break;
                }
                verdict.judge(&mut record, proxy);
            }
            if verdict.fault.is_some() {
                is_over.store(true, Relaxed);
            }
            if keeps {
                let versions = record.versions.into_iter().map(|(_, written)| written);
                verdict.record.push((record.place, versions.collect()));
            }
        }
        verdict
    }

    fn judge(&mut self, record: &mut Record, proxy: usize) {
        let versions = record.versions.iter().map(|(through, written)| {
            let door = if *through == Some(proxy) { Door::Proxy } else { Door::Outside };
            Written { door, ..*written }
        });
        let key = format!("{:?} through proxy {proxy}", record.place);
        let ops = std::mem::take(&mut record.reads[proxy]);
        let history = History { key, ops, versions: versions.collect(), ..History::default() };
        self.staleness.add(Staleness::of(&history));
        let is_register = record.is_register && history.versions.iter().all(|one| one.door == Door::Proxy);
        let verdict = versions::check(&history, MAX_STALENESS)
            .and_then(|()| if is_register { checker::check(&as_register(&history)) } else { Ok(()) });
        self.fault = verdict.err().map(|violation| format!("{}: {violation}", history.key));
    }
}

/// The same as reads and writes, in which no order of the writes is known.
fn as_register(history: &History) -> History {
    let reads = history.ops.iter().filter(|op| op.kind != Kind::Read(SOMETHING)).copied();
    let writes = history.versions.iter().map(|one| Op {
        kind: Kind::Write(one.version),
        command: one.command,
        client: u32::MAX,
        batch: u64::MAX - one.version,
        place: 0,
        start: one.start,
        end: one.end,
    });
    History { key: history.key.clone(), ops: reads.chain(writes).collect(), ..History::default() }
}

fn strain(board: &Board<'_>, proxies: &[Proxy], relay: &Relay, random: &mut Rng) {
    match board.scene.strain {
        Strain::None => {}
        Strain::SlowLink => relay.link().delay(0, LINK_DELAY_MS),
        Strain::SlowLanes => relay.others().delay(0, LANE_DELAY_MS),
        Strain::Crossing => {
            relay.link().delay(0, CROSSING_LINK_DELAY_MS);
            while board.goes_on() {
                relay.others().delay(0, *random.choice(&[0, 0, 10, 30]).expect("there are some"));
                thread::sleep(Duration::from_millis(random.u64(1..6)));
            }
        }
        Strain::BusyScripts => troupe::write_before_a_script(board, random),
        Strain::Moves => {
            while board.goes_on() {
                thread::sleep(Duration::from_millis(random.u64(SWITCH_INTERVAL_MS)));
                move_address(board, proxies, relay);
            }
        }
    }
}

/// Leads the address to the other server, which holds the same. Lanes stay where they are: that is for the proxy to
/// find out, as soon as its link comes to the new one.
fn move_address(board: &Board<'_>, proxies: &[Proxy], relay: &Relay) {
    let _alone = board.stillness.write();
    let from = board.server.load(Relaxed);
    let to = 1 - from;
    for place in board.lives().iter().map(|life| &life.place) {
        let database = place.database.to_string();
        let [mut old, mut new] = [from, to].map(|server| {
            let mut client = board.servers[server].client();
            client.expect(b"+OK\r\n", &["SELECT", &database]);
            client
        });
        let dump = old.cmd(&["DUMP", &place.name]);
        if dump.starts_with(b"$-1") {
            new.cmd(&["DEL", &place.name]);
        } else {
            let restore = [b"RESTORE", place.name.as_bytes(), b"0", payload(&dump), b"REPLACE"];
            new.expect(b"+OK\r\n", &restore);
        }
    }
    let losses = || proxies.iter().map(|proxy| proxy.stat("link_losses")).sum::<u64>();
    let before = losses();
    relay.move_to(board.servers[to].addr());
    relay.link().cut();
    eventually("the link's loss is noticed", || losses() >= before + proxies.len() as u64);
    proxies.iter().for_each(Proxy::wait_live);
    board.server.store(to, Relaxed);
}
