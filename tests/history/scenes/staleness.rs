//! How long what others wrote was not yet shown.
//!
//! For each write that went past the proxy and was acknowledged: how long after the acknowledgement the last read began
//! that still showed something older; zero, if none did. A read of nothing, or one that tells only that there is something,
//! counts as the latest that it can have been. So what is measured is never more than it was, and what is judged by it
//! is wrong for certain.
//!
//! Against which log? The authors' own record. The versions of a key have one author, who writes the next when the one
//! before is acknowledged, so the order in which Redis saw them is known; and the times of the record and those of the
//! reads are readings of one monotonic clock. MONITOR tells the same order, but stamps it with the wall clock of another
//! process, costs Redis a copy of every command of the run, and is cut off when it falls behind; so one run reads it
//! to see that the record is true (`monitor.rs`), and none to measure.

use std::fmt;
use std::time::Duration;

use crate::history::recorder::{Door, History, Kind, NOTHING, SOMETHING, UNKNOWN, Value, Written};

/// One measurement for each outside write, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Staleness(Vec<u64>);

impl Staleness {
    pub(crate) fn of(history: &History) -> Self {
        let mut behind: Vec<u64> = vec![0; history.versions.len()];
        for op in &history.ops {
            let Kind::Read(value) = op.kind else { continue };
            let seen = latest(&history.versions, value, op.end);
            let newer = history.versions.iter().zip(&mut behind).skip(seen);
            for (one, behind) in newer.take_while(|(one, _)| one.end < op.start) {
                *behind = (*behind).max(op.start - one.end);
            }
        }
        let measured = history.versions.iter().zip(behind);
        let outside = measured.filter(|(one, _)| one.door == Door::Outside && one.end != UNKNOWN);
        Self(outside.map(|(_, behind)| behind).collect())
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.0.iter().copied().max().unwrap_or(0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// How many of the versions a read has seen at most.
fn latest(versions: &[Written], value: Value, end: u64) -> usize {
    let begun = || versions.iter().rev().filter(move |one| one.start <= end);
    let found = match value {
        NOTHING => begun().find(|one| one.removes || one.ttl.is_some()),
        SOMETHING => begun().find(|one| !one.removes),
        value => return usize::try_from(value).expect("so many versions fit in memory"),
    };
    found.map_or(0, |one| usize::try_from(one.version).expect("so many versions fit in memory"))
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let ms = |percent: usize| {
            let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(place).copied().unwrap_or(0) as f64 / 1e6
        };
        let [p50, p99, max] = [50, 99, 100].map(ms);
        write!(f, "{} outside writes stale for p50 {p50:.2}, p99 {p99:.2}, max {max:.2} ms", sorted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::recorder::Op;

    #[test]
    fn it_is_the_last_older_read_that_counts() {
        let written = |version, door, removes, start, end| Written {
            version,
            door,
            removes,
            ttl: None,
            command: "set",
            start,
            end,
        };
        let read = |value, start| Op {
            kind: Kind::Read(value),
            command: "get",
            client: 0,
            batch: start,
            place: 0,
            start,
            end: start + 1,
        };
        let versions = vec![
            written(1, Door::Outside, false, 10, 20),
            written(2, Door::Proxy, false, 30, 40),
            written(3, Door::Outside, true, 50, 60),
            written(4, Door::Outside, false, 100, UNKNOWN),
        ];
        let ops = vec![read(0, 25), read(1, 41), read(0, 52), read(2, 75), read(SOMETHING, 80), read(0, 90)];
        let staleness = Staleness::of(&History { ops, versions, ..History::default() });
        assert_eq!(staleness.0, [5, 20]);
        assert_eq!(staleness.max(), Duration::from_nanos(20));
    }
}
