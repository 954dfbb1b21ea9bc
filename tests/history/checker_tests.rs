//! The checker's own test: histories made by hand, and a search of all orders that it must agree with.
//!
//! A checker that accepts too much would let every fault of the proxy pass, and one that accepts too little would be
//! switched off. So small random histories, some sound and some not, are put to both the checker and a plain
//! search, which must say the same of each; and how many of either kind there were is counted.

use std::collections::HashSet;

use super::checker::check;
use super::recorder::{History, Kind, NOTHING, Op, UNKNOWN, Value};
use Kind::{Read, Write};

/// What the key holds before the histories made by hand.
const INITIAL: Value = 9;
const RANDOM_HISTORIES: u32 = 60_000;
/// So many of each kind must be among them, else the comparison says nothing.
const OF_EACH_KIND_MIN: u32 = 5_000;

/// An operation on its own, from `start` to `end`.
fn op(kind: Kind, start: u64, end: u64) -> Op {
    // No two operations made by hand begin at once: so a batch of its own for each start.
    Op { kind, command: "op", client: 0, batch: start, place: 0, start, end }
}

fn swap(old: Value, new: Value, start: u64, end: u64) -> Op {
    op(Kind::Swap { old, new }, start, end)
}

/// One pipeline: sent at `start`, answered in order.
fn pipeline(kinds: &[Kind], start: u64, ends: &[u64]) -> Vec<Op> {
    let places = kinds.iter().zip(ends).zip(0..);
    places.map(|((kind, end), place)| Op { batch: 1_000, place, ..op(*kind, start, *end) }).collect()
}

#[track_caller]
fn verdict(ops: &[Op]) -> Result<(), String> {
    let history = History { initial: INITIAL, ops: ops.to_vec(), ..History::default() };
    assert_eq!(check(&history).is_ok(), has_an_order(&history), "the search says otherwise");
    check(&history).map_err(|violation| violation.what)
}

#[track_caller]
fn accepts(ops: &[Op]) {
    assert_eq!(verdict(ops), Ok(()));
}

#[track_caller]
fn rejects(ops: &[Op], why: &str) {
    let verdict = verdict(ops);
    assert!(verdict.as_ref().is_err_and(|what| what.contains(why)), "{verdict:?}");
}

#[test]
fn one_after_the_other() {
    accepts(&[]);
    accepts(&[op(Read(INITIAL), 1, 2), op(Write(1), 3, 4), op(Read(1), 5, 6)]);
    accepts(&[op(Write(1), 1, 2), op(Write(NOTHING), 3, 4), op(Read(NOTHING), 5, 6), op(Write(2), 7, 8)]);
}

#[test]
fn what_overlaps_may_be_either_way_round() {
    accepts(&[op(Write(1), 1, 10), op(Read(INITIAL), 2, 3), op(Read(1), 4, 5)]);
    accepts(&[op(Write(1), 1, 10), op(Write(2), 2, 9), op(Read(1), 11, 12)]);
    accepts(&[op(Write(1), 1, 10), op(Write(2), 2, 9), op(Read(2), 11, 12)]);
    accepts(&[op(Write(1), 1, 10), op(Write(2), 2, 9), op(Read(2), 3, 4), op(Read(1), 5, 6)]);
}

#[test]
fn a_stale_read() {
    let both = "before and after";
    rejects(&[op(Write(1), 1, 2), op(Read(INITIAL), 3, 4)], both);
    rejects(&[op(Write(1), 1, 2), op(Write(2), 3, 4), op(Read(1), 5, 6)], both);
}

#[test]
fn a_lost_write() {
    // Nobody wrote 1 again, and 2 was acknowledged.
    let ops =
        [op(Write(1), 1, 2), op(Read(1), 3, 4), op(Write(2), 5, 6), op(Read(1), 7, 8), op(Read(1), 9, 10)];
    rejects(&ops, "before and after");
}

#[test]
fn going_back_though_the_write_is_not_over() {
    let write = op(Write(1), 1, 100);
    rejects(&[write, op(Read(1), 2, 3), op(Read(INITIAL), 4, 5)], "before and after");
    accepts(&[write, op(Read(1), 2, 4), op(Read(INITIAL), 3, 5)]);
}

#[test]
fn two_readers_that_disagree_about_the_order() {
    let writes = [op(Write(1), 1, 10), op(Write(2), 2, 11)];
    let reads = [op(Read(1), 12, 13), op(Read(2), 14, 15)];
    rejects(&[writes, reads].concat(), "before and after");
    let reads = [op(Read(1), 3, 4), op(Read(2), 5, 6), op(Read(1), 7, 8)];
    rejects(&[&writes[..], &reads].concat(), "before and after");
}

#[test]
fn reads_of_the_future_and_of_what_nobody_wrote() {
    rejects(&[op(Read(1), 1, 2), op(Write(1), 3, 4)], "before its write began");
    rejects(&[op(Read(7), 1, 2)], "nobody wrote");
    rejects(&[op(Read(NOTHING), 1, 2)], "nobody wrote");
}

#[test]
fn a_deletion_is_a_write_of_nothing() {
    rejects(&[op(Write(NOTHING), 1, 2), op(Read(INITIAL), 3, 4)], "before and after");
    rejects(&[op(Write(NOTHING), 1, 2), op(Write(1), 3, 4), op(Read(NOTHING), 5, 6)], "before and after");
    rejects(&[op(Read(NOTHING), 1, 2), op(Write(NOTHING), 3, 4)], "before its write began");
}

#[test]
fn a_write_of_unknown_fate_may_have_happened_and_may_not() {
    let lost = op(Write(1), 1, UNKNOWN);
    accepts(&[lost, op(Read(INITIAL), 5, 6), op(Read(INITIAL), 7, 8)]);
    accepts(&[lost, op(Read(1), 5, 6), op(Read(1), 7, 8)]);
    accepts(&[lost, op(Read(INITIAL), 5, 6), op(Read(1), 7, 8)]);
    rejects(&[lost, op(Read(1), 5, 6), op(Read(INITIAL), 7, 8)], "before and after");
    rejects(&[lost, op(Write(2), 3, 4), op(Read(1), 5, 6), op(Read(2), 7, 8)], "before and after");
    // It may also come late.
    accepts(&[lost, op(Write(2), 3, 4), op(Read(2), 5, 6), op(Read(1), 7, 8)]);
    rejects(&[op(Read(1), 1, 2), op(Write(1), 3, UNKNOWN)], "before its write began");
}

#[test]
fn a_swap_stands_right_behind_what_it_replaced() {
    accepts(&[swap(INITIAL, 1, 1, 2), swap(1, 2, 3, 4), op(Read(2), 5, 6)]);
    rejects(&[swap(INITIAL, 1, 1, 2), swap(INITIAL, 2, 3, 4)], "the same value");
    rejects(&[swap(INITIAL, 1, 1, 5), swap(INITIAL, 2, 2, 6)], "the same value");
    rejects(&[swap(2, 1, 1, 5), swap(1, 2, 2, 6)], "circle");
    // 2 was written and seen in between.
    let between = [op(Write(1), 1, 2), op(Write(2), 3, 4), swap(1, 3, 5, 6)];
    rejects(&between, "before and after");
    rejects(&[op(Write(1), 1, 2), swap(1, 2, 3, 4), op(Read(1), 5, 6)], "replaced");
    rejects(
        &[swap(INITIAL, 1, 1, 2), swap(1, 2, 3, 9), op(Read(2), 4, 5), op(Read(INITIAL), 6, 7)],
        "replaced",
    );
}

#[test]
fn a_pipeline_takes_effect_in_its_order() {
    let own_write = pipeline(&[Write(1), Read(INITIAL)], 1, &[10, 11]);
    rejects(&own_write, "contradict");
    accepts(&pipeline(&[Read(INITIAL), Write(1), Read(1)], 1, &[10, 11, 12]));
    rejects(&pipeline(&[Read(1), Write(1)], 1, &[10, 11]), "before its write began");
    // What another client has seen in order bears on it.
    let other = [op(Write(1), 2, 20), op(Read(1), 3, 4)];
    let late = pipeline(&[Read(1), Read(INITIAL)], 1, &[10, 11]);
    rejects(&[&other[..], &late].concat(), "contradict");
    let sent_after_lost = pipeline(&[Write(2), Read(INITIAL)], 1, &[UNKNOWN, 11]);
    accepts(&sent_after_lost);
    // A read ahead of a write whose fate is unknown cannot have seen it.
    rejects(&pipeline(&[Read(2), Write(2)], 1, &[11, UNKNOWN]), "before its write began");
}

#[test]
fn two_pipelines_in_a_circle() {
    let mut ops = pipeline(&[Read(1), Read(2)], 1, &[50, 51]);
    ops.extend(pipeline(&[Read(2), Read(1)], 2, &[52, 53]).into_iter().map(|op| Op { batch: 2_000, ..op }));
    ops.extend([op(Write(1), 3, 60), op(Write(2), 4, 61)]);
    rejects(&ops, "contradict");
}

#[test]
fn a_report_names_the_few_operations_that_contradict_each_other() {
    let mut ops = vec![op(Write(1), 1_000_000, 2_000_000), op(Read(INITIAL), 3_000_000, 4_000_000)];
    ops.extend((10..500).map(|at| op(Read(1), at * 1_000_000, at * 1_000_000 + 1)));
    let history = History { initial: INITIAL, ops, ..History::default() };
    let report = check(&history).expect_err("9 was read when 1 had been acknowledged").to_string();
    assert!(report.contains("1.000 ms client  0, batch 1000000.0: op 1\n"), "{report}");
    assert!(report.contains("op -> 9"), "{report}");
    assert!(report.lines().count() < 8, "{report}");
}

#[test]
fn agrees_with_a_search_of_all_orders() {
    let mut random = fastrand::Rng::with_seed(20_240_607);
    let (mut sound, mut unsound) = (0, 0);
    for number in 0..RANDOM_HISTORIES {
        let history = if number % 3 == 0 { noise(&mut random) } else { near_a_run(&mut random) };
        let (checked, searched) = (check(&history), has_an_order(&history));
        assert_eq!(checked.is_ok(), searched, "history {number}: {checked:?}\n{:#?}", history.ops);
        *(if searched { &mut sound } else { &mut unsound }) += 1;
    }
    assert!(sound.min(unsound) > OF_EACH_KIND_MIN, "{sound} sound, {unsound} unsound");
}

/// Operations at random times, which saw random values.
fn noise(random: &mut fastrand::Rng) -> History {
    let mut values = vec![INITIAL];
    let mut ops: Vec<Op> = Vec::new();
    for _ in 0..random.usize(1..7) {
        let kind = match random.u8(0..5) {
            0 | 1 => Write(values.len() as Value),
            2 => Kind::Swap { old: *pick(random, &values), new: values.len() as Value },
            _ => Read(*pick(random, &values)),
        };
        values.extend(kind.written());
        ops.push(timed(random, kind, 0));
    }
    History { initial: INITIAL, ops: in_batches(random, ops), ..History::default() }
}

/// What a register did, in an order of its own, with times around it; then, perhaps, one thing is changed.
fn near_a_run(random: &mut fastrand::Rng) -> History {
    let (mut value, mut ops) = (INITIAL, Vec::new());
    for number in 1..=random.u64(2..8) {
        let kind = match random.u8(0..6) {
            0 => Write(number),
            1 => Kind::Swap { old: value, new: number },
            _ => Read(value),
        };
        // At `3 * number` it took effect.
        ops.push(timed(random, kind, 3 * number));
        // What has no known fate may have had none.
        let happened = ops.last().is_some_and(|op| op.end != UNKNOWN) || random.bool();
        value = kind.written().filter(|_| happened).unwrap_or(value);
    }
    let values: Vec<Value> = ops.iter().filter_map(|op| op.kind.written()).chain([INITIAL]).collect();
    let changed = random.usize(0..ops.len());
    let op = &mut ops[changed];
    match random.u8(0..3) {
        0 if matches!(op.kind, Read(_)) => op.kind = Read(*pick(random, &values)),
        1 => {
            let shift = random.u64(0..12);
            (op.start, op.end) = (op.start + shift, op.end.saturating_add(shift));
        }
        _ => {}
    }
    let ops = in_batches(random, ops);
    History { initial: INITIAL, ops, ..History::default() }
}

/// Times around `moment`, or anywhere.
fn timed(random: &mut fastrand::Rng, kind: Kind, moment: u64) -> Op {
    let moment = if moment == 0 { random.u64(1..24) } else { moment };
    let start = moment.saturating_sub(random.u64(0..8)).max(1);
    let end = moment + random.u64(0..8);
    let is_lost = matches!(kind, Write(_)) && random.u8(0..5) == 0;
    Op { end: if is_lost { UNKNOWN } else { end }, ..op(kind, start, end) }
}

/// Puts some neighbours into one pipeline: with one start, and ends in their order.
fn in_batches(random: &mut fastrand::Rng, mut ops: Vec<Op>) -> Vec<Op> {
    let (mut batch, mut place) = (0, 0);
    for index in 0..ops.len() {
        if index > 0 && random.u8(0..3) == 0 {
            place += 1;
            let earlier = ops[index - 1];
            let op = &mut ops[index];
            op.start = earlier.start;
            op.end = if earlier.end == UNKNOWN { op.end.max(op.start) } else { op.end.max(earlier.end) };
        } else {
            (batch, place) = (batch + 1, 0);
        }
        (ops[index].batch, ops[index].place) = (batch, place);
    }
    ops
}

fn pick<'a, T>(random: &mut fastrand::Rng, of: &'a [T]) -> &'a T {
    &of[random.usize(0..of.len())]
}

/// Tries every order, by the definition: an operation may be next if nothing that is left precedes it, and a read if
/// it saw what is there. What has no known fate may stay away.
fn has_an_order(history: &History) -> bool {
    search(&history.ops, 0, history.initial, &mut HashSet::new())
}

fn search(ops: &[Op], done: u32, value: Value, failed: &mut HashSet<(u32, Value)>) -> bool {
    let is_left = |index: usize| done & (1 << index) == 0;
    if !(0..ops.len()).any(|index| is_left(index) && ops[index].end != UNKNOWN) {
        return true;
    }
    if failed.contains(&(done, value)) {
        return false;
    }
    let found = (0..ops.len()).filter(|index| is_left(*index)).any(|next| {
        let is_kept_back = (0..ops.len()).any(|other| is_left(other) && ops[other].precedes(&ops[next]));
        let is_possible = !is_kept_back && ops[next].kind.seen().is_none_or(|seen| seen == value);
        let after = ops[next].kind.written().unwrap_or(value);
        is_possible && search(ops, done | 1 << next, after, failed)
    });
    if !found {
        failed.insert((done, value));
    }
    found
}
