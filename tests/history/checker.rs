//! Whether one key's history is that of an atomic register: the test of linearizability.
//!
//! Each value is written once, so a read tells which write it saw, and the question can be decided exactly in the time
//! of a sort (Gibbons and Korach, "Testing shared memories", 1997). In any order that explains the history, a write
//! and the reads of its value stand together: they are a *block*. Block A must come before block B if some operation of
//! A had ended when one of B began, that is, if A's first end lies before B's last start. No order exists if and only if
//! two blocks must each come before the other.
//!
//! Two things are added. A swap (GETSET) tells which value it replaced, so its block stands right behind that
//! value's: such blocks form a *chain*, and chains take the place of blocks. And what a client sent in one pipeline
//! takes effect in that order, though its times overlap: such an edge can be part of a longer circle, so where there
//! are any, an order is really made. It is no heuristic: `checker_tests.rs` holds it against a search of all orders.
//!
//! A write of unknown fate is left out if nobody saw its value, for then it may not have happened; if somebody did, it
//! happened, and has no end.

use std::collections::{BTreeSet, HashMap};

use super::recorder::{History, Kind, Op, Violation};

/// Accepts a history if there is one order of its operations that a register could have gone through: each at
/// a moment between its start and its end, in a pipeline in the order in which it was sent.
///
/// # Panics
///
/// Panics if a value was written twice: such a history does not tell what it saw.
pub(crate) fn check(history: &History) -> Result<(), Box<Violation>> {
    let blocks = Blocks::of(history)?;
    let chains = blocks.chained()?;
    disjoint(&chains)?;
    let edges = program_order(history, &blocks, &chains)?;
    if edges.is_empty() { Ok(()) } else { ordered(&chains, &edges) }
}

/// One write and the reads of its value, with the two operations that decide where it can stand.
#[derive(Clone)]
struct Block {
    write: Op,
    first_end: Op,
    last_start: Op,
}

struct Blocks {
    all: Vec<Block>,
    by_value: HashMap<u64, usize>,
}

/// Blocks that stand together in this order.
struct Chain {
    blocks: Vec<usize>,
    first_end: Op,
    last_start: Op,
    /// The writes, for the report.
    writes: Vec<Op>,
}

impl Block {
    fn new(write: Op) -> Self {
        Self { write, first_end: write, last_start: write }
    }

    fn add(&mut self, read: Op) {
        if read.end < self.first_end.end {
            self.first_end = read;
        }
        if read.start > self.last_start.start {
            self.last_start = read;
        }
    }
}

impl Blocks {
    /// Sorts the operations by the value they wrote or saw.
    fn of(history: &History) -> Result<Self, Box<Violation>> {
        let mut blocks = Self { all: Vec::new(), by_value: HashMap::new() };
        blocks.open(initial(history));
        for op in &history.ops {
            if op.kind.written().is_some() {
                blocks.open(*op);
            }
        }
        for op in &history.ops {
            // What a swap has seen is its place in a chain, not a read of its own.
            let Some(value) = op.kind.seen() else { continue };
            let Some(&block) = blocks.by_value.get(&value) else {
                return Err(violation("a value that nobody wrote was read", &[*op]));
            };
            let block = &mut blocks.all[block];
            if op.precedes(&block.write) {
                return Err(violation("a value was read before its write began", &[*op, block.write]));
            }
            if matches!(op.kind, Kind::Read(_)) {
                block.add(*op);
            }
        }
        blocks.forget_unseen(history);
        Ok(blocks)
    }

    fn open(&mut self, write: Op) {
        let value = write.kind.written().expect("a block is opened by a write");
        let before = self.by_value.insert(value, self.all.len());
        assert!(before.is_none(), "{value} was written twice, last by {write:?}");
        self.all.push(Block::new(write));
    }

    /// Writes of unknown fate whose value nobody saw may not have happened.
    fn forget_unseen(&mut self, history: &History) {
        let seen: BTreeSet<u64> = history.ops.iter().filter_map(|op| op.kind.seen()).collect();
        let kept: Vec<Block> = self
            .all
            .drain(..)
            .filter(|block| {
                let value = block.write.kind.written();
                block.write.end != super::recorder::UNKNOWN
                    || value.is_some_and(|value| seen.contains(&value))
            })
            .collect();
        self.all = kept;
        let values = self.all.iter().enumerate();
        self.by_value =
            values.filter_map(|(index, block)| Some((block.write.kind.written()?, index))).collect();
    }

    /// Joins the blocks that swaps have tied together.
    fn chained(&self) -> Result<Vec<Chain>, Box<Violation>> {
        let mut next: Vec<Option<usize>> = vec![None; self.all.len()];
        let mut has_previous = vec![false; self.all.len()];
        for (index, block) in self.all.iter().enumerate() {
            let Kind::Swap { old, .. } = block.write.kind else { continue };
            let replaced = self.by_value[&old];
            if let Some(other) = next[replaced].replace(index) {
                let ops = [self.all[replaced].write, self.all[other].write, block.write];
                return Err(violation("two swaps replaced the same value", &ops));
            }
            has_previous[index] = true;
        }
        let heads = (0..self.all.len()).filter(|index| !has_previous[*index]);
        let chains: Vec<Chain> = heads.map(|head| self.chain(head, &next)).collect::<Result<_, _>>()?;
        let chained: BTreeSet<usize> = chains.iter().flat_map(|chain| &chain.blocks).copied().collect();
        if chained.len() < self.all.len() {
            let left = (0..self.all.len()).filter(|index| !chained.contains(index));
            let ops: Vec<Op> = left.map(|index| self.all[index].write).collect();
            return Err(violation("swaps replaced each other's values in a circle", &ops));
        }
        Ok(chains)
    }

    fn chain(&self, head: usize, next: &[Option<usize>]) -> Result<Chain, Box<Violation>> {
        let Block { first_end, last_start, write } = self.all[head];
        let mut chain = Chain { blocks: vec![head], first_end, last_start, writes: vec![write] };
        while let Some(index) = next[chain.blocks[chain.blocks.len() - 1]] {
            let block = &self.all[index];
            if block.first_end.end < chain.last_start.start {
                let ops = [block.first_end, block.write, chain.last_start];
                return Err(violation("a value was read after a swap had replaced it, or a later one", &ops));
            }
            chain.blocks.push(index);
            chain.writes.push(block.write);
            if block.first_end.end < chain.first_end.end {
                chain.first_end = block.first_end;
            }
            if block.last_start.start > chain.last_start.start {
                chain.last_start = block.last_start;
            }
        }
        Ok(chain)
    }
}

impl Chain {
    /// Whether an operation in here had ended when one of the other's began.
    fn must_precede(&self, other: &Self) -> bool {
        self.first_end.end < other.last_start.start
    }

    /// Between its first end and its last start, if they come in this order, the register holds one of its values.
    fn is_forward(&self) -> bool {
        self.first_end.end < self.last_start.start
    }
}

/// The zone test. Forward zones must not overlap, and no backward zone may lie within a forward one.
fn disjoint(chains: &[Chain]) -> Result<(), Box<Violation>> {
    let mut forward: Vec<&Chain> = chains.iter().filter(|chain| chain.is_forward()).collect();
    forward.sort_by_key(|chain| chain.first_end.end);
    for pair in forward.windows(2) {
        if pair[0].must_precede(pair[1]) && pair[1].must_precede(pair[0]) {
            return Err(conflict(pair[0], pair[1]));
        }
    }
    for chain in chains.iter().filter(|chain| !chain.is_forward()) {
        // Forward zones are disjoint, so only the last one that begins before this one can reach around it.
        let before = forward.partition_point(|zone| zone.must_precede(chain));
        if let Some(zone) = before.checked_sub(1).map(|last| forward[last])
            && chain.must_precede(zone)
        {
            return Err(conflict(zone, chain));
        }
    }
    Ok(())
}

fn conflict(one: &Chain, other: &Chain) -> Box<Violation> {
    let mut ops = vec![one.first_end, other.last_start, other.first_end, one.last_start];
    ops.extend(one.writes.first());
    ops.extend(other.writes.first());
    violation("each of two values was seen both before and after the other", &ops)
}

/// What one client sent ahead of what else, where times do not tell: `from` must come before `to`.
struct Edge {
    from: usize,
    to: usize,
    ops: [Op; 2],
}

fn program_order(history: &History, blocks: &Blocks, chains: &[Chain]) -> Result<Vec<Edge>, Box<Violation>> {
    let mut places = vec![(0, 0); blocks.all.len()];
    for (number, chain) in chains.iter().enumerate() {
        for (place, block) in chain.blocks.iter().enumerate() {
            places[*block] = (number, place);
        }
    }
    // The chain; the place in it, and that a block's write stands before its reads.
    let place_of = |op: &Op| {
        let value = op.kind.written().or(op.kind.seen())?;
        let (chain, place) = places[*blocks.by_value.get(&value)?];
        Some((chain, (place, matches!(op.kind, Kind::Read(_)))))
    };
    let mut sent: Vec<&Op> = history.ops.iter().collect();
    sent.sort_by_key(|op| (op.batch, op.place));
    let mut edges = Vec::new();
    for batch in sent.chunk_by(|a, b| a.batch == b.batch) {
        let mut before: Option<&Op> = None;
        for op in batch {
            // A write that did not happen has no place.
            let Some((to, to_place)) = place_of(op) else { continue };
            if let Some(first) = before
                && let Some((from, from_place)) = place_of(first)
            {
                if from == to && from_place > to_place {
                    let ops = [*first, **op, blocks.all[chains[to].blocks[from_place.0]].write];
                    return Err(violation("one client's pipeline saw a value and then an older one", &ops));
                }
                if from != to {
                    edges.push(Edge { from, to, ops: [*first, **op] });
                }
            }
            if op.end != super::recorder::UNKNOWN {
                before = Some(op);
            }
        }
    }
    Ok(edges)
}

/// Makes an order of the chains, one by one: the next is any that nothing left must precede. If one is free, then it
/// is the one with the earliest last start, or the one with the earliest first end: every other is kept back by
/// the latter.
fn ordered(chains: &[Chain], edges: &[Edge]) -> Result<(), Box<Violation>> {
    let mut kept_back = vec![0_usize; chains.len()];
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); chains.len()];
    for edge in edges {
        kept_back[edge.to] += 1;
        out[edge.from].push(edge.to);
    }
    let start = |index: usize| (chains[index].last_start.start, index);
    let mut by_end: BTreeSet<(u64, usize)> =
        chains.iter().enumerate().map(|(index, chain)| (chain.first_end.end, index)).collect();
    let mut ready: BTreeSet<(u64, usize)> =
        (0..chains.len()).filter(|index| kept_back[*index] == 0).map(start).collect();
    while !by_end.is_empty() {
        let is_free = |index: &usize| {
            let other = by_end.iter().find(|(_, other)| other != index);
            ready.contains(&start(*index)) && other.is_none_or(|(end, _)| *end >= start(*index).0)
        };
        let candidates = [ready.first(), by_end.first()];
        let next = candidates.into_iter().flatten().map(|(_, index)| *index).find(is_free);
        let Some(next) = next else { return Err(circle(chains, edges, &by_end)) };
        ready.remove(&start(next));
        by_end.remove(&(chains[next].first_end.end, next));
        for &to in &out[next] {
            kept_back[to] -= 1;
            if kept_back[to] == 0 {
                ready.insert(start(to));
            }
        }
    }
    Ok(())
}

/// The operations of one circle among the chains that are left.
fn circle(chains: &[Chain], edges: &[Edge], left: &BTreeSet<(u64, usize)>) -> Box<Violation> {
    // Each one that is left is kept back by another: whoever follows them meets one again.
    let keeper = |index: usize| -> (usize, [Op; 2]) {
        let edge = edges.iter().find(|edge| edge.to == index && left.iter().any(|(_, l)| *l == edge.from));
        let earliest = left.iter().find(|(_, other)| *other != index).map(|(_, other)| *other);
        let by_time = earliest.filter(|other| chains[*other].must_precede(&chains[index]));
        match (by_time, edge) {
            (Some(other), _) => (other, [chains[other].first_end, chains[index].last_start]),
            (None, Some(edge)) => (edge.from, edge.ops),
            (None, None) => unreachable!("nothing keeps it back"),
        }
    };
    let mut way: Vec<usize> = vec![left.first().expect("something is left").1];
    let mut steps = Vec::new();
    loop {
        let (from, ops) = keeper(way[way.len() - 1]);
        steps.push(ops);
        if let Some(met) = way.iter().position(|passed| *passed == from) {
            let mut ops: Vec<Op> = steps[met..].concat();
            ops.extend(way[met..].iter().filter_map(|index| chains[*index].writes.first()));
            return violation("pipelines and times contradict each other in a circle", &ops);
        }
        way.push(from);
    }
}

/// The write that put the initial value there, before everything else.
fn initial(history: &History) -> Op {
    let kind = Kind::Write(history.initial);
    Op { kind, command: "initially", client: 0, batch: u64::MAX, place: 0, start: 0, end: 0 }
}

fn violation(what: &str, ops: &[Op]) -> Box<Violation> {
    Box::new(Violation::new(what, ops))
}
