//! What was done to one key, and when: the record that a checker judges.
//!
//! Times are taken outside the clients, before a request is written and after its reply was read, so an operation
//! took effect somewhere in between. A write that was answered with an error, or not at all, has no end: it may have
//! taken effect at any time after its start, or never. Nothing in here knows what a history has to be like.

use std::fmt::{self, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a key holds: the number of the write that put it there, or [`NOTHING`].
pub(crate) type Value = u64;

/// What a key that does not exist holds.
pub(crate) const NOTHING: Value = 0;

/// What a read says that tells only that there is something, as EXISTS does.
pub(crate) const SOMETHING: Value = u64::MAX;

/// The end of an operation of which nobody knows whether it took effect.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// Nanoseconds since the first reading, which is 1: so 0 is before every operation.
pub(crate) fn now() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    nanoseconds(ORIGIN.get_or_init(Instant::now).elapsed()) + 1
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("tests do not run for centuries")
}

/// What an operation did to the key, or saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read(Value),
    Write(Value),
    /// A write that was told what it replaced, as GETSET is.
    Swap {
        old: Value,
        new: Value,
    },
}

impl Kind {
    /// What it found, if it told.
    pub(crate) fn seen(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Swap { old: value, .. } => Some(value),
            Self::Write(_) => None,
        }
    }

    /// What it left behind, if it changed anything.
    pub(crate) fn written(self) -> Option<Value> {
        match self {
            Self::Write(value) | Self::Swap { new: value, .. } => Some(value),
            Self::Read(_) => None,
        }
    }
}

/// One operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) kind: Kind,
    /// How it was done.
    pub(crate) command: &'static str,
    pub(crate) client: u32,
    /// What a client has sent without waiting for replies. Within it, operations take effect in the order of
    /// their places, though their times overlap.
    pub(crate) batch: u64,
    pub(crate) place: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Op {
    /// Whether this one had taken effect before the other could: it had ended when the other began, or was sent
    /// ahead of it on the same connection. What has no known fate precedes nothing.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        let is_ahead = self.batch == other.batch && self.place < other.place && self.end != UNKNOWN;
        self.end < other.start || is_ahead
    }
}

/// Which way a write took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Proxy,
    /// Straight to Redis, past the proxy.
    Outside,
}

/// One of a key's writes where all of them have one author, who numbers them: versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) version: Value,
    pub(crate) door: Door,
    /// It deleted the key.
    pub(crate) removes: bool,
    /// The time to live that it gave the key.
    pub(crate) ttl: Option<Duration>,
    pub(crate) command: &'static str,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Everything that happened to a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) key: String,
    /// What the key held before the first operation.
    pub(crate) initial: Value,
    /// In no order. Where the writes are versions, reads only.
    pub(crate) ops: Vec<Op>,
    /// The versions, in their order.
    pub(crate) versions: Vec<Written>,
    /// When the key was first attacked.
    pub(crate) born: u64,
    /// It may have vanished at any time.
    pub(crate) may_vanish: bool,
}

impl History {
    /// Forgets what began after a moment, and what a write came to that was not over by then.
    fn cut(&mut self, moment: u64) {
        let is_read = |op: &Op| matches!(op.kind, Kind::Read(_));
        self.ops.retain(|op| if is_read(op) { op.end < moment } else { op.start < moment });
        for op in self.ops.iter_mut().filter(|op| op.end >= moment) {
            op.end = UNKNOWN;
            if let Kind::Swap { new, .. } = op.kind {
                op.kind = Kind::Write(new);
            }
        }
        self.versions.retain(|one| one.start < moment);
        self.versions.iter_mut().filter(|one| one.end >= moment).for_each(|one| one.end = UNKNOWN);
    }
}

/// The times in which what was written may have been lost, by no fault of the proxy. A history is judged up to the first
/// of them, and not at all if it began within one.
#[derive(Default)]
pub(crate) struct Losses(Mutex<Vec<(u64, u64)>>);

impl Losses {
    pub(crate) fn begin(&self) {
        self.0.lock().push((now(), UNKNOWN));
    }

    pub(crate) fn end(&self) {
        self.0.lock().last_mut().expect("it has begun").1 = now();
    }

    /// Whether one of them overlaps this time.
    pub(crate) fn overlap(&self, start: u64, end: u64) -> bool {
        self.0.lock().iter().any(|(begin, over)| *begin <= end && start <= *over)
    }

    /// Leaves what can be judged.
    pub(crate) fn apply(&self, history: &mut History) {
        for (begin, end) in self.0.lock().iter() {
            if *end >= history.born {
                return history.cut((*begin).max(history.born));
            }
        }
    }
}

/// Why a history cannot have been that of a sound cache.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    /// The few operations that contradict each other.
    pub(crate) ops: Vec<Op>,
    pub(crate) versions: Vec<Written>,
}

impl Violation {
    pub(crate) fn new(what: impl Into<String>, ops: &[Op]) -> Self {
        let mut ops = ops.to_vec();
        ops.sort_by_key(|op| (op.start, op.batch, op.place));
        ops.dedup();
        Self { what: what.into(), ops, versions: Vec::new() }
    }

    pub(crate) fn with(mut self, versions: impl IntoIterator<Item = Written>) -> Self {
        self.versions.extend(versions);
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        let starts = self.ops.iter().map(|op| op.start).chain(self.versions.iter().map(|one| one.start));
        let origin = starts.filter(|start| *start > 0).min().unwrap_or(0);
        let mut lines: Vec<(u64, String)> = Vec::new();
        for op in &self.ops {
            let what = match op.kind {
                Kind::Read(value) => format!("{} -> {}", op.command, Shown(value)),
                Kind::Write(value) => format!("{} {}", op.command, Shown(value)),
                Kind::Swap { old, new } => format!("{} {} -> {}", op.command, Shown(new), Shown(old)),
            };
            let who = format!("client {:>2}, batch {}.{}", op.client, op.batch, op.place);
            lines.push((op.start, format!("{} {who}: {what}", span(origin, op.start, op.end))));
        }
        for one in &self.versions {
            let mut what = format!("{:?}: {} version {}", one.door, one.command, one.version);
            if let Some(ttl) = one.ttl {
                let _ = write!(what, ", which lives {ttl:?}");
            }
            lines.push((one.start, format!("{} {what}", span(origin, one.start, one.end))));
        }
        lines.sort();
        lines.iter().try_for_each(|(_, line)| writeln!(f, "  {line}"))
    }
}

struct Shown(Value);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NOTHING => f.write_str("nothing"),
            SOMETHING => f.write_str("something"),
            value => write!(f, "{value}"),
        }
    }
}

/// Milliseconds after `origin`.
fn span(origin: u64, start: u64, end: u64) -> String {
    let ms = |time: u64| time.saturating_sub(origin) as f64 / 1e6;
    let end = if end == UNKNOWN { "?".to_owned() } else { format!("{:.3}", ms(end)) };
    format!("{:>9.3} .. {end:>9} ms", ms(start))
}
