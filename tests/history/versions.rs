//! What clients of one proxy may see of a key that others write past it.
//!
//! One author numbers a key's writes, so what was seen can be put in order: *time of the key*, in which version `v`
//! is at `2v`, and its expiry, if it has a time to live, at `2v + 1`. A read must not be of an earlier time than
//!
//! - any read of the key that had completed when it began, or stood before it in the same pipeline (no going back);
//! - a write that went through the proxy and was acknowledged when it began (everyone's writes are read);
//! - a write that went past the proxy and was acknowledged more than `max_staleness` before (bounded staleness);
//!
//! nor of a version whose own time to live was over when it began (expiry is honoured, without any staleness), or
//! whose write had not begun when it ended, nor of an expiry that could not have been. A read of nothing does not say
//! which deletion or expiry it saw. The earliest that is possible is assumed, so whatever is found wrong is wrong.
//!
//! Where the server evicts keys, that is an expiry that may be at any time, but no less final.

use std::collections::HashMap;
use std::time::Duration;

use super::recorder::{
    Door, History, Kind, NOTHING, Op, SOMETHING, UNKNOWN, Violation, Written, nanoseconds,
};

/// Redis counts times to live in milliseconds of the wall clock, and the proxy in a clock of its own.
const CLOCK_SLACK: Duration = Duration::from_millis(5);

/// Accepts a history whose reads are as the module's text says. Its versions must be numbered from 1 in the order in
/// which they were written, one after the other.
pub(crate) fn check(history: &History, max_staleness: Duration) -> Result<(), Box<Violation>> {
    let key = Key { versions: &history.versions, may_vanish: history.may_vanish };
    let mut floors = key.floors(nanoseconds(max_staleness));
    let mut reads: Vec<&Op> = history.ops.iter().collect();
    reads.sort_by_key(|op| (op.start, op.batch, op.place));
    // The floor that is in force, and what completed reads raise it by when time gets there.
    let mut floor = Floor { from: 0, time: 0, why: Why::Beginning };
    let mut completed: Vec<Floor> = Vec::new();
    // The latest that each pipeline has seen.
    let mut ahead: HashMap<u64, Floor> = HashMap::new();
    floors.sort_by_key(|floor| std::cmp::Reverse(floor.from));
    for op in reads {
        while floors.last().is_some_and(|next| next.from < op.start) {
            floor = floor.max(floors.pop().expect("it was just looked at"));
        }
        completed.retain(|done| {
            let is_past = done.from < op.start;
            if is_past {
                floor = floor.max(*done);
            }
            !is_past
        });
        let binding = ahead.get(&op.batch).map_or(floor, |ahead| floor.max(*ahead));
        let time = key.time_of(op, binding)?;
        let seen = Floor { from: op.end, time, why: Why::Read(*op) };
        completed.push(seen);
        ahead.entry(op.batch).and_modify(|ahead| *ahead = ahead.max(seen)).or_insert(seen);
    }
    Ok(())
}

/// From a moment on, nothing of an earlier time of the key may be seen.
#[derive(Clone, Copy)]
struct Floor {
    from: u64,
    time: u64,
    why: Why,
}

#[derive(Clone, Copy)]
enum Why {
    Beginning,
    Read(Op),
    Acknowledged(Written),
    TooOld(Written),
}

impl Floor {
    fn max(self, other: Self) -> Self {
        if other.time > self.time { other } else { self }
    }
}

struct Key<'a> {
    versions: &'a [Written],
    may_vanish: bool,
}

impl Key<'_> {
    /// What does not depend on reads.
    fn floors(&self, max_staleness: u64) -> Vec<Floor> {
        let mut floors = Vec::new();
        for (index, one) in self.versions.iter().enumerate() {
            assert_eq!(one.version, index as u64 + 1, "versions are numbered in their order");
            if one.end == UNKNOWN {
                continue;
            }
            let time = 2 * one.version;
            floors.push(match one.door {
                Door::Proxy => Floor { from: one.end, time, why: Why::Acknowledged(*one) },
                Door::Outside => Floor { from: one.end + max_staleness, time, why: Why::TooOld(*one) },
            });
        }
        floors
    }

    /// The time of the key that a read saw: the earliest possible at or after the floor.
    fn time_of(&self, op: &Op, floor: Floor) -> Result<u64, Box<Violation>> {
        let Kind::Read(value) = op.kind else { panic!("{op:?} is no read of a version") };
        if value == NOTHING {
            return self.absence(op, floor);
        }
        if value == SOMETHING {
            return self.presence(op, floor);
        }
        let written = usize::try_from(value).ok().and_then(|value| self.versions.get(value - 1));
        match written {
            None => Err(Box::new(Violation::new("a version that nobody wrote was read", &[*op]))),
            Some(one) if op.end < one.start => {
                Err(fault("a version was read before its write began", *op, [*one]))
            }
            Some(one) if one.is_over_at(op.start) => {
                Err(fault("a value was read past its time to live", *op, [*one]))
            }
            Some(one) if 2 * value < floor.time => Err(self.too_early(op, Some(*one), floor)),
            Some(_) => Ok(2 * value),
        }
    }

    /// When the key was there: as with absence, the earliest that is possible.
    fn presence(&self, op: &Op, floor: Floor) -> Result<u64, Box<Violation>> {
        let mut possible = self.from(floor, op).filter(|one| !one.removes && !one.is_over_at(op.start));
        possible.find(|one| 2 * one.version >= floor.time).map(|one| 2 * one.version).ok_or_else(|| {
            let begun = self.versions.iter().take_while(|one| one.start <= op.end);
            match begun.last().filter(|one| !one.removes) {
                None if floor.time == 0 => fault("something was read before any write began", *op, []),
                Some(one) if one.is_over_at(op.start) => {
                    fault("something was read past its time to live", *op, [*one])
                }
                _ => self.too_early(op, None, floor),
            }
        })
    }

    /// The versions that a read may have seen, from the floor's on.
    fn from(&self, floor: Floor, op: &Op) -> impl Iterator<Item = &Written> {
        let first =
            usize::try_from(floor.time / 2).expect("so many versions fit in memory").saturating_sub(1);
        let end = op.end;
        self.versions[first..].iter().take_while(move |one| one.start <= end)
    }

    /// When the key was not there.
    fn absence(&self, op: &Op, floor: Floor) -> Result<u64, Box<Violation>> {
        if floor.time == 0 {
            return Ok(0);
        }
        for one in self.from(floor, op) {
            if one.removes && 2 * one.version >= floor.time {
                return Ok(2 * one.version);
            }
            let slack = nanoseconds(CLOCK_SLACK);
            let may_have_expired = |ttl| one.start + nanoseconds(ttl) <= op.end + slack;
            let may_be_gone = self.may_vanish || one.ttl.is_some_and(may_have_expired);
            if may_be_gone && 2 * one.version + 1 >= floor.time {
                return Ok(2 * one.version + 1);
            }
        }
        Err(self.too_early(op, None, floor))
    }

    fn too_early(&self, op: &Op, seen: Option<Written>, floor: Floor) -> Box<Violation> {
        let what = match floor.why {
            Why::Read(_) => "a read went back behind one that was over, or ahead of it",
            Why::Acknowledged(_) => "a write through the proxy was acknowledged, and not read",
            Why::TooOld(_) => "a value was read later after its replacement than max_staleness",
            Why::Beginning => "a time before the beginning was read",
        };
        let (mut ops, mut versions) = (vec![*op], Vec::from_iter(seen));
        match floor.why {
            Why::Read(before) => ops.push(before),
            Why::Acknowledged(one) | Why::TooOld(one) => versions.push(one),
            Why::Beginning => {}
        }
        // The write that the floor is about, when that is known by a read only.
        let of_floor =
            usize::try_from(floor.time / 2).ok().and_then(|index| self.versions.get(index.checked_sub(1)?));
        versions.extend(of_floor);
        versions.sort_by_key(|one| one.version);
        versions.dedup();
        Box::new(Violation::new(what, &ops).with(versions))
    }
}

impl Written {
    /// Whether its time to live was certainly over.
    fn is_over_at(&self, moment: u64) -> bool {
        self.end != UNKNOWN && self.ttl.is_some_and(|ttl| self.end + nanoseconds(ttl + CLOCK_SLACK) < moment)
    }
}

fn fault(what: &str, op: Op, versions: impl IntoIterator<Item = Written>) -> Box<Violation> {
    Box::new(Violation::new(what, &[op]).with(versions))
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Losses, now};
    use super::*;

    const MAX_STALENESS_MS: u64 = 100;

    fn ms(ms: u64) -> u64 {
        ms * 1_000_000
    }

    /// Versions from 1: door, time to live (0: none; `u64::MAX`: it removes), start and end.
    fn versions(of: &[(Door, u64, u64, u64)]) -> Vec<Written> {
        let written = of.iter().zip(1..).map(|(&(door, ttl, start, end), version)| Written {
            version,
            door,
            removes: ttl == u64::MAX,
            ttl: (1..u64::MAX).contains(&ttl).then(|| Duration::from_millis(ttl)),
            command: "set",
            start: ms(start),
            end: if end == UNKNOWN { UNKNOWN } else { ms(end) },
        });
        written.collect()
    }

    /// Reads: the version, start and end. Those that begin at the same time are one pipeline.
    fn history(versions: &[Written], reads: &[(u64, u64, u64)]) -> History {
        let ops = reads.iter().zip(0..).map(|(&(version, start, end), place)| Op {
            kind: Kind::Read(version),
            command: "get",
            client: 0,
            batch: start,
            place,
            start: ms(start),
            end: ms(end),
        });
        History { ops: ops.collect(), versions: versions.to_vec(), ..History::default() }
    }

    fn verdict(versions: &[Written], reads: &[(u64, u64, u64)]) -> Result<(), String> {
        let max_staleness = Duration::from_millis(MAX_STALENESS_MS);
        check(&history(versions, reads), max_staleness).map_err(|violation| violation.to_string())
    }

    #[track_caller]
    fn accepts(versions: &[Written], reads: &[(u64, u64, u64)]) {
        assert_eq!(verdict(versions, reads), Ok(()));
    }

    #[track_caller]
    fn rejects(versions: &[Written], reads: &[(u64, u64, u64)], why: &str) {
        let verdict = verdict(versions, reads);
        assert!(verdict.as_ref().is_err_and(|what| what.contains(why)), "{verdict:?}");
    }

    use Door::{Outside, Proxy};

    #[test]
    fn outside_writes_may_show_late_but_not_too_late() {
        let two = versions(&[(Outside, 0, 10, 20), (Outside, 0, 30, 40)]);
        accepts(&two, &[(0, 30, 31), (1, 60, 61), (1, 140, 150), (2, 160, 161)]);
        rejects(&two, &[(1, 141, 150)], "max_staleness");
        rejects(&two, &[(0, 141, 150)], "max_staleness");
        accepts(&two, &[(2, 31, 32)]);
        rejects(&two, &[(2, 28, 29)], "before its write began");
        rejects(&two, &[(3, 50, 51)], "nobody wrote");
    }

    #[test]
    fn writes_through_the_proxy_show_at_once() {
        let two = versions(&[(Outside, 0, 10, 20), (Proxy, 0, 30, 40)]);
        accepts(&two, &[(1, 40, 42), (2, 41, 43)]);
        rejects(&two, &[(1, 41, 42)], "acknowledged, and not read");
    }

    #[test]
    fn a_write_of_unknown_fate_promises_nothing() {
        let lost = versions(&[(Outside, 0, 10, 20), (Proxy, 0, 30, UNKNOWN)]);
        accepts(&lost, &[(1, 500, 501), (2, 600, 601)]);
        rejects(&lost, &[(2, 500, 501), (1, 600, 601)], "went back");
    }

    #[test]
    fn reads_do_not_go_back() {
        let two = versions(&[(Outside, 0, 10, 20), (Outside, 0, 30, 40)]);
        rejects(&two, &[(2, 41, 43), (1, 44, 45)], "went back");
        accepts(&two, &[(2, 41, 43), (1, 42, 45)]);
        // In one pipeline, whatever the times.
        rejects(&two, &[(2, 41, 43), (1, 41, 45)], "went back");
        accepts(&two, &[(1, 41, 43), (2, 41, 45)]);
        rejects(&two, &[(2, 41, 43), (2, 41, 44), (1, 41, 45)], "went back");
        rejects(&two, &[(0, 41, 42), (2, 43, 44), (0, 45, 46)], "went back");
    }

    #[test]
    fn deletions_are_versions() {
        let three = versions(&[(Outside, 0, 10, 20), (Outside, u64::MAX, 30, 40), (Outside, 0, 50, 60)]);
        accepts(&three, &[(1, 31, 32), (0, 33, 34), (3, 51, 52)]);
        rejects(&three, &[(1, 31, 32), (0, 33, 34), (1, 35, 36)], "went back");
        rejects(&three, &[(3, 51, 52), (0, 53, 54)], "went back");
        rejects(&three, &[(1, 21, 22), (0, 23, 24)], "went back");
    }

    #[test]
    fn who_asks_only_whether_there_is_something_is_told_of_deletions() {
        let deleted = versions(&[(Outside, 0, 10, 20), (Outside, u64::MAX, 30, 40), (Outside, 0, 250, 260)]);
        accepts(
            &deleted,
            &[(SOMETHING, 31, 32), (SOMETHING, 139, 141), (0, 142, 143), (SOMETHING, 255, 256)],
        );
        rejects(&deleted, &[(SOMETHING, 5, 6)], "before any write began");
        rejects(&deleted, &[(SOMETHING, 141, 142)], "max_staleness");
        rejects(&deleted, &[(1, 21, 22), (0, 31, 32), (SOMETHING, 33, 34)], "went back");
        rejects(&deleted, &[(0, 200, 201), (SOMETHING, 255, 256), (0, 257, 258)], "went back");
        let volatile = versions(&[(Outside, 50, 10, 20)]);
        accepts(&volatile, &[(SOMETHING, 74, 80)]);
        rejects(&volatile, &[(SOMETHING, 76, 80)], "past its time to live");
    }

    #[test]
    fn expiry_is_honoured_at_once() {
        let volatile = versions(&[(Outside, 50, 10, 20), (Outside, 0, 200, 210)]);
        accepts(&volatile, &[(1, 30, 31), (1, 74, 80), (0, 81, 82), (2, 205, 206)]);
        rejects(&volatile, &[(1, 76, 77)], "past its time to live");
        // Nothing may be seen before it can have expired, nor the value once nothing has been seen.
        rejects(&volatile, &[(1, 30, 31), (0, 40, 41)], "went back");
        rejects(&volatile, &[(1, 30, 31), (0, 62, 63), (1, 64, 65)], "went back");
    }

    #[test]
    fn what_may_be_evicted_does_not_come_back() {
        let history =
            |reads| History { may_vanish: true, ..history(&versions(&[(Outside, 0, 10, 20)]), reads) };
        let verdict = |reads| check(&history(reads), Duration::from_millis(MAX_STALENESS_MS));
        assert!(verdict(&[(1, 21, 22), (0, 30, 31), (0, 500, 501)]).is_ok());
        assert!(verdict(&[(1, 21, 22), (0, 30, 31), (1, 32, 33)]).is_err());
    }

    #[test]
    fn what_was_lost_is_not_judged() {
        let losses = Losses::default();
        losses.begin();
        let lost_at = now();
        let version = |start, end| Written { version: 1, start, end, ..versions(&[(Proxy, 0, 1, 2)])[0] };
        let read = |value, start, end| Op { start, end, ..history(&[], &[(value, 1, 2)]).ops[0] };
        let judged = |born, versions: &[Written], ops: &[Op]| {
            let (ops, versions) = (ops.to_vec(), versions.to_vec());
            let mut history = History { ops, versions, born, ..History::default() };
            losses.apply(&mut history);
            check(&history, Duration::from_millis(MAX_STALENESS_MS)).is_ok()
        };
        let late = lost_at + ms(1_000);
        // What was read before the loss counts, and what was read after does not, nor what is younger.
        assert!(!judged(0, &[version(1, 2)], &[read(0, 3, 4)]));
        assert!(judged(0, &[version(1, 2)], &[read(1, 3, 4), read(0, late, late + 1)]));
        assert!(judged(lost_at, &[version(lost_at, lost_at + 1)], &[read(0, late, late + 1)]));
        // Until it is over.
        losses.end();
        assert!(!judged(late, &[version(late, late + 1)], &[read(0, late + 2, late + 3)]));
    }

    #[test]
    fn a_pipeline_may_not_undo_what_its_first_read_saw_of_an_expiry() {
        let volatile = versions(&[(Outside, 50, 10, 20)]);
        rejects(&volatile, &[(1, 30, 31), (0, 62, 63), (1, 62, 64)], "went back");
    }
}
