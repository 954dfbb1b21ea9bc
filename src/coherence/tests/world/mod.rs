//! A proxy, its clients, servers and the wires between them, one event at a time.
//!
//! The proxy's part is the real [`Coherence`] and [`Heartbeat`]; sessions, lanes and the link are the few lines that
//! call them as `session` and `link.rs` do. Every delay is an event that has not come yet: bytes on a wire, a cycle of
//! a server, a reply that was not looked at, a connection that is dead without anybody's knowing.
//!
//! What clients were told is judged by the log of what the server held, and when. A read must not be of a version older
//!
//! - than that of a read that had completed, or of a write that had been acknowledged, when it began;
//! - than what the server held `max_staleness` before it began;
//!
//! nor of one whose own time to live was over when it began, for which there is no staleness.
//!
//! The oldest version that explains a reply is assumed, so that what is found wrong is wrong.

macro_rules! tell {
    ($world:expr, $($words:tt)*) => {
        if let Some(story) = &mut $world.story {
            let _ = writeln!(story, "{:>6} ms  {}", $world.now, format_args!($($words)*));
        }
    };
}

mod wires;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;

use super::{
    super::*,
    server::{Command, Key, Said, Server, SocketId, Step, Value},
};
use crate::{
    config::Eviction,
    ids::{Database, IdentityId},
};

const KEYS: u8 = 2;
const FIELDS: [&[u8]; 3] = [b"a", b"b", b"c"];
const LANES: usize = 3;
const MAX_STALENESS_MS: u64 = 200;

/// A client's command, by its number.
pub(super) type Op = usize;

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A client asks.
    Read,
    Write,
    Flush,
    Script,
    /// The proxy comes to a command.
    Dispatch,
    /// A command arrives at a server, a server runs a cycle, a reply is read.
    Arrive,
    Cycle,
    Receive,
    /// The link asks, and hears.
    Echo,
    Hear,
    /// Somebody else writes.
    OutsideSet,
    OutsideDelete,
    OutsideFlush,
    OutsideScript,
    /// A running script answers others, and ends.
    Refuse,
    FinishScript,
    /// A server comes across what has expired.
    Expire,
    Wait,
    WaitLong,
    Sweep,
    LaneDies,
    LaneOpens,
    LinkIsCut,
    LinkNotices,
    LinkOpens,
    /// The server is killed, and comes back with nothing.
    Restart,
    /// The address leads to another server, while the old one lives.
    Switch,
}

/// How often each comes; every world draws one of the numbers for each.
pub(super) const FREQUENCIES: [(Event, [u32; 3]); 27] = [
    (Event::Read, [60, 100, 200]),
    (Event::Write, [0, 2, 8]),
    (Event::Flush, [0, 0, 2]),
    (Event::Script, [0, 1, 4]),
    (Event::Dispatch, [150, 300, 400]),
    (Event::Arrive, [200, 400, 800]),
    (Event::Cycle, [200, 300, 400]),
    (Event::Receive, [200, 400, 800]),
    (Event::Echo, [50, 100, 200]),
    (Event::Hear, [50, 100, 400]),
    (Event::OutsideSet, [1, 4, 10]),
    (Event::OutsideDelete, [0, 1, 2]),
    (Event::OutsideFlush, [0, 0, 2]),
    (Event::OutsideScript, [0, 1, 3]),
    (Event::Refuse, [50, 100, 100]),
    (Event::FinishScript, [2, 5, 20]),
    (Event::Expire, [0, 2, 20]),
    (Event::Wait, [2, 10, 40]),
    (Event::WaitLong, [0, 1, 4]),
    (Event::Sweep, [0, 1, 5]),
    (Event::LaneDies, [0, 0, 2]),
    (Event::LaneOpens, [20, 20, 20]),
    (Event::LinkIsCut, [0, 0, 2]),
    (Event::LinkNotices, [5, 20, 20]),
    (Event::LinkOpens, [20, 50, 50]),
    (Event::Restart, [0, 0, 1]),
    (Event::Switch, [0, 0, 1]),
];

/// One state of a key, and since when it was so.
#[derive(Clone, Copy, Debug)]
struct Version {
    at: u64,
    value: Option<Value>,
    is_expiry: bool,
}

/// A server process and what is on the way to it.
struct Machine {
    server: Server,
    id: ServerId,
    /// What has been sent, by connections that stand.
    wires: BTreeMap<SocketId, VecDeque<Command>>,
    /// What has come and was not read yet, maybe from who is gone by now.
    arrived: BTreeMap<SocketId, Vec<Command>>,
    /// All that has happened to the server.
    trace: Vec<Step>,
    sockets_made: SocketId,
}

struct Lane {
    machine: usize,
    socket: SocketId,
    work: VecDeque<Work>,
}

/// What waits for a reply.
enum Work {
    Fill { op: Op, token: Token<Op>, pttl: Option<i64> },
    Bypass { op: Op, sent_at: Nanos },
    Write { op: Op, guard: WriteGuard<Op> },
}

struct Link {
    machine: usize,
    socket: SocketId,
    is_tracking: bool,
    /// An ECHO is unanswered.
    is_asking: bool,
    heartbeat: Heartbeat,
    echoes: u64,
}

/// A client's command.
struct Asked {
    key: Key,
    field: usize,
    /// What it writes, if it is a write.
    command: Option<Command>,
    began: u64,
    /// The oldest version it may be told of.
    floor: usize,
    /// The look at clock and lease that it was read with, if that was before it is dispatched.
    batch: Option<Batch>,
    is_answered: bool,
    /// It went to a server that is the upstream no longer: what that says is its own affair.
    is_exempt: bool,
}

pub(super) struct World {
    pub(super) now: u64,
    coherence: Arc<Coherence<Op>>,
    machines: Vec<Machine>,
    current: usize,
    lanes: Vec<Option<Lane>>,
    link: Option<Link>,
    asked: Vec<Asked>,
    /// Commands that the proxy has not come to.
    waiting: Vec<Op>,
    /// Writes whose acknowledgement is behind a fence.
    fenced: Vec<(Op, Nanos)>,
    /// What each key was.
    log: Vec<Vec<Version>>,
    expiring: BTreeMap<Key, u64>,
    /// The oldest version that a command beginning now may be told of.
    floors: Vec<usize>,
    values: Value,
    pub(super) fault: Option<String>,
    pub(super) hits: u64,
    pub(super) joins: u64,
    pub(super) fences: u64,
    /// What happened, in words, if somebody wants to read it.
    pub(super) story: Option<String>,
}

fn name(key: Key) -> [u8; 1] {
    [b'k' + key]
}

fn ms(time: u64) -> Nanos {
    Nanos(time * 1_000_000)
}

impl World {
    pub(super) fn new() -> Self {
        let settings = Settings {
            phase: Phase::Down,
            max_staleness: Duration::from_millis(MAX_STALENESS_MS),
            ttl: Duration::from_secs(5),
            touch_interval: Duration::ZERO,
            prefixes: Vec::new(),
            canary_key: None,
            workers: 1,
        };
        let limits =
            Limits { entries_max: 0, bytes_max: 0, value_bytes_max: 0, shards: 2, eviction: Eviction::Lru };
        let keys = usize::from(KEYS);
        let mut world = Self {
            now: 1_000,
            coherence: Arc::new(Coherence::new(settings, limits, Arc::default())),
            machines: Vec::new(),
            current: 0,
            lanes: (0..LANES).map(|_| None).collect(),
            link: None,
            asked: Vec::new(),
            waiting: Vec::new(),
            fenced: Vec::new(),
            log: vec![vec![Version { at: 0, value: None, is_expiry: false }]; keys],
            expiring: BTreeMap::new(),
            floors: vec![0; keys],
            values: 0,
            fault: None,
            hits: 0,
            joins: 0,
            fences: 0,
            story: None,
        };
        world.add_machine();
        world.warm_up();
        world
    }

    /// Everything that an event leaves open is drawn from `random`.
    pub(super) fn step(&mut self, event: Event, random: &mut Rng) {
        self.pass(random.u64(0..2));
        match event {
            Event::Read => self.read(random),
            Event::Write => self.write(random),
            Event::Flush => self.ask(0, 0, Some(Command::FlushAll), random),
            Event::Script => self.script(random),
            Event::Dispatch => self.dispatch(random),
            Event::Arrive => self.arrive(random),
            Event::Cycle => self.cycle(random),
            Event::Receive => self.receive(random),
            Event::Echo => self.echo(),
            Event::Hear => self.hear(random),
            Event::OutsideSet => {
                let lives = random.bool().then(|| random.u64(1..120));
                let command = Command::Set { key: random.u8(0..KEYS), value: self.value(), lives };
                self.outside(vec![command]);
            }
            Event::OutsideDelete => self.outside(vec![Command::Del(random.u8(0..KEYS))]),
            Event::OutsideFlush => self.outside(vec![Command::FlushAll]),
            Event::OutsideScript => {
                let mut commands = vec![Command::LongScript(self.writes(random))];
                if random.bool() {
                    // Acknowledged before the script, and told of after it.
                    let set = Command::Set { key: random.u8(0..KEYS), value: self.value(), lives: None };
                    commands.insert(0, set);
                }
                self.outside(commands);
            }
            Event::Refuse => self.refuse(random),
            Event::FinishScript => {
                let machine = self.any_machine(random);
                self.finish_script(machine);
            }
            Event::Expire => self.expire(),
            Event::Wait => self.pass(random.u64(1..30)),
            Event::WaitLong => self.pass(random.u64(MAX_STALENESS_MS / 2..2 * MAX_STALENESS_MS)),
            Event::Sweep => {
                let at = self.coherence.moment(ms(self.now));
                (0..self.coherence.cache().shards()).for_each(|shard| {
                    self.coherence.cache().sweep(shard, &at);
                });
            }
            Event::LaneDies => self.lane_dies(random.usize(0..LANES), random),
            Event::LaneOpens => self.lane_opens(random.usize(0..LANES)),
            Event::LinkIsCut => self.link_is_cut(random),
            Event::LinkNotices => self.link_notices(),
            Event::LinkOpens => self.link_opens(),
            Event::Restart => self.restart(),
            Event::Switch => self.switch(random),
        }
        self.lift_fences();
        self.coherence.cache().check_invariants();
    }

    /// Brings lanes and link up, as they are before the first client comes.
    fn warm_up(&mut self) {
        let random = &mut Rng::with_seed(0);
        (0..LANES).for_each(|lane| self.lane_opens(lane));
        self.link_opens();
        while self.coherence.certifier().phase() != Phase::Live {
            [Event::Arrive, Event::Cycle, Event::Hear, Event::Echo]
                .into_iter()
                .for_each(|event| self.step(event, random));
        }
    }

    /// All that has happened to each server.
    pub(super) fn into_traces(self) -> impl Iterator<Item = Vec<Step>> {
        self.machines.into_iter().map(|machine| machine.trace)
    }

    /// Lets everything come to its end.
    pub(super) fn finish(&mut self, random: &mut Rng) {
        for round in 0.. {
            if self.fault.is_some() || self.asked.iter().all(|asked| asked.is_answered) {
                break;
            }
            assert!(round < 10_000, "a command is never answered");
            for machine in 0..self.machines.len() {
                self.finish_script(machine);
                self.cycle_of(machine, random);
            }
            for event in [
                Event::LinkNotices,
                Event::LinkOpens,
                Event::Echo,
                Event::Arrive,
                Event::Receive,
                Event::Hear,
                Event::Dispatch,
            ] {
                self.step(event, random);
            }
            (0..LANES).for_each(|lane| self.lane_opens(lane));
        }
    }

    // ---- the clients -------------------------------------------------------------------------------------------

    fn read(&mut self, random: &mut Rng) {
        let (key, field) = (random.u8(0..KEYS), random.usize(0..FIELDS.len()));
        self.ask(key, field, None, random);
    }

    fn write(&mut self, random: &mut Rng) {
        let key = random.u8(0..KEYS);
        let lives = (random.u8(0..3) == 0).then(|| random.u64(1..120));
        let value = self.value();
        self.ask(key, 0, Some(Command::Set { key, value, lives }), random);
    }

    fn script(&mut self, random: &mut Rng) {
        let writes = self.writes(random);
        let is_long = random.u8(0..4) == 0;
        let command = if is_long { Command::LongScript(writes) } else { Command::Script(writes) };
        self.ask(0, 0, Some(command), random);
    }

    fn ask(&mut self, key: Key, field: usize, command: Option<Command>, random: &mut Rng) {
        let op = self.asked.len();
        match &command {
            None => tell!(self, "client {op} reads key {key}, variant {field}"),
            Some(command) => tell!(self, "client {op} asks for {command:?}"),
        }
        let batch = random.bool().then(|| self.coherence.batch(ms(self.now)));
        self.asked.push(Asked {
            key,
            field,
            command,
            began: self.now,
            floor: self.floor(key),
            batch,
            is_answered: false,
            is_exempt: false,
        });
        self.waiting.push(op);
    }

    fn value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    fn writes(&mut self, random: &mut Rng) -> Vec<(Key, Value)> {
        let keys: Vec<Key> = (0..KEYS).filter(|_| random.bool()).collect();
        keys.into_iter().map(|key| (key, self.value())).collect()
    }

    /// A reply to a read reaches its client.
    fn answer(&mut self, op: Op, value: Option<Value>, how: &str) {
        tell!(self, "client {op} is told {value:?} ({how})");
        let asked = &mut self.asked[op];
        assert!(!asked.is_answered, "a command is answered once");
        asked.is_answered = true;
        if asked.is_exempt {
            return;
        }
        let (key, floor, began) = (usize::from(asked.key), asked.floor, asked.began);
        let log = &self.log[key];
        let has_expired =
            |index: usize| log.get(index + 1).is_some_and(|next| next.is_expiry && next.at <= began);
        let explained = (floor..log.len()).find(|&index| log[index].value == value && !has_expired(index));
        match explained {
            Some(index) => self.floors[key] = self.floors[key].max(index),
            None => {
                self.fault = Some(format!(
                    "client {op} read {value:?} of key {key} ({how}), though it had begun at {began} ms, when that had \
                     expired or was older than version {floor}: {log:?}"
                ));
            }
        }
    }

    /// A write is acknowledged.
    fn acknowledge(&mut self, op: Op) {
        tell!(self, "client {op} is acknowledged");
        let asked = &mut self.asked[op];
        assert!(!asked.is_answered, "a command is answered once");
        asked.is_answered = true;
        if asked.is_exempt {
            return;
        }
        let written = match &asked.command {
            Some(Command::Set { key, value, .. }) => vec![(*key, *value)],
            Some(Command::Script(writes) | Command::LongScript(writes)) => writes.clone(),
            Some(Command::FlushAll) => {
                let began = asked.began;
                return self.flushed(began);
            }
            _ => Vec::new(),
        };
        for (key, value) in written {
            let key = usize::from(key);
            if let Some(index) = self.log[key].iter().position(|version| version.value == Some(value)) {
                self.floors[key] = self.floors[key].max(index);
            }
        }
    }

    /// A FLUSHALL that began then is acknowledged: what a key held before it is no more.
    fn flushed(&mut self, began: u64) {
        for (log, floor) in self.log.iter().zip(&mut self.floors) {
            if let Some(before) = log.iter().rposition(|version| version.at < began) {
                *floor = (*floor).max(before + usize::from(log[before].value.is_some()));
            }
        }
    }

    /// The oldest version of a key that a read which begins now may see.
    fn floor(&self, key: Key) -> usize {
        let key = usize::from(key);
        let log = &self.log[key];
        let is_bound = |version: &Version| version.at + MAX_STALENESS_MS < self.now;
        let bound = log.iter().rposition(is_bound).unwrap_or(0);
        self.floors[key].max(bound)
    }
}
