//! Chance decides what happens next, and a world says whether clients were told the truth.
//!
//! A run is a list of events, each with a seed of its own for what it leaves open. So a list that ends in a fault can
//! be shortened event by event, as long as it still does, and what is printed is the shortest.
//!
//! The model of the server is not taken on trust: what some worlds do to theirs is done to a real one, from a seed that
//! is new each time.
//!
//! `NEARHIT_MODEL_RUNS=n` makes n runs of a thousand events instead of the few thousand of the short test, from
//! `NEARHIT_MODEL_SEED` on; `NEARHIT_REPLAYS=n` replays n of them.

use std::panic;

use fastrand::Rng;

use super::{
    replay::{Figures as Replayed, number, replay},
    server::Step,
    world::{Event, FREQUENCIES, World},
};

const EVENTS: usize = 1_000;
const RUNS: u64 = 3_000;
const REPLAYS: u64 = 12;

type Schedule = Vec<(Event, u64)>;

#[derive(Clone, Copy, Default)]
struct Figures {
    hits: u64,
    joins: u64,
    fences: u64,
}

/// What a world draws from a seed: how often which event comes, and then the events.
fn schedule(seed: u64) -> Schedule {
    let mut random = Rng::with_seed(seed);
    let frequencies = FREQUENCIES.map(|(event, choice)| (event, choice[random.usize(0..3)]));
    let all: u32 = frequencies.iter().map(|(_, frequency)| frequency).sum();
    let mut draw = || {
        let mut ticket = random.u32(0..all);
        for (event, frequency) in frequencies {
            if ticket < frequency {
                return (event, random.u64(..));
            }
            ticket -= frequency;
        }
        unreachable!("a ticket is below the sum")
    };
    (0..EVENTS).map(|_| draw()).collect()
}

/// Plays a schedule. The fault, if there is one, comes with the story if that was asked for.
fn play(schedule: &[(Event, u64)], tells: bool) -> Result<Figures, String> {
    let run = || {
        let mut world = World::new();
        world.story = tells.then(String::new);
        for (event, seed) in schedule {
            world.step(*event, &mut Rng::with_seed(*seed));
            if world.fault.is_some() {
                break;
            }
        }
        world.finish(&mut Rng::with_seed(0));
        let figures = Figures { hits: world.hits, joins: world.joins, fences: world.fences };
        match world.fault {
            Some(fault) => Err(format!("{fault}\n{}", world.story.unwrap_or_default())),
            None => Ok(figures),
        }
    };
    panic::catch_unwind(run).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

/// Leaves out whatever can be left out.
fn shortened(mut schedule: Schedule) -> Schedule {
    let mut chunk = schedule.len() / 2;
    while chunk > 0 {
        let mut start = 0;
        while start < schedule.len() {
            let end = (start + chunk).min(schedule.len());
            let without = [&schedule[..start], &schedule[end..]].concat();
            if play(&without, false).is_err() {
                schedule = without;
            } else {
                start = end;
            }
        }
        chunk /= 2;
    }
    schedule
}

/// Runs until a fault is found, and says it in the shortest way.
fn search(first_seed: u64, runs: u64) -> Result<Figures, String> {
    let mut sum = Figures::default();
    for seed in first_seed..first_seed + runs {
        let schedule = schedule(seed);
        let Ok(figures) = play(&schedule, false) else {
            let short = shortened(schedule);
            let fault = play(&short, true).err().unwrap_or_default();
            return Err(format!("seed {seed}, {} events: {fault}", short.len()));
        };
        sum.hits += figures.hits;
        sum.joins += figures.joins;
        sum.fences += figures.fences;
    }
    Ok(sum)
}

#[test]
fn no_client_is_told_what_is_too_old() {
    let runs = number("NEARHIT_MODEL_RUNS", RUNS);
    let figures = search(number("NEARHIT_MODEL_SEED", 0), runs).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{} hits, {} joins, {} fences in {runs} runs", figures.hits, figures.joins, figures.fences);
    // They were served from memory, or nothing has been tested.
    assert!(figures.hits > 5 * runs && figures.joins > runs && figures.fences > runs / 2);
}

/// What happens to each server of a world.
fn traces(seed: u64) -> impl Iterator<Item = Vec<Step>> {
    let mut world = World::new();
    for (event, seed) in schedule(seed) {
        world.step(event, &mut Rng::with_seed(seed));
    }
    world.into_traces()
}

#[test]
fn a_real_server_does_what_the_worlds_see() {
    let first = number("NEARHIT_MODEL_SEED", fastrand::u64(..u64::MAX / 2));
    let replays = number("NEARHIT_REPLAYS", REPLAYS);
    println!("NEARHIT_MODEL_SEED={first}");
    let next = first + replays;
    // What makes two answers to ECHO necessary comes seldom, and is looked for.
    let is_rare = |step: &Step| matches!(step, Step::FinishScript { said, .. } if !said.is_empty());
    let rare = (next..next + 1_000 * replays).flat_map(traces).filter(|trace| trace.iter().any(is_rare));
    let few = usize::try_from(replays.div_ceil(4)).expect("a number of worlds");
    let sum: Replayed =
        (first..next).flat_map(traces).chain(rare.take(few)).map(|trace| replay(&trace)).sum();
    println!("{sum} in {replays} worlds and {few} rare ones");
    assert!(sum.rounds > 50 * few && sum.pushes > 4 * few);
}

#[cfg(feature = "mutations")]
mod broken {
    use super::*;
    use crate::mutation::{self, Mutation};

    /// Every guard that the coherence layer keeps by itself; `tests/mutations.rs` has those of the sessions.
    const GUARDS: [Mutation; 15] = [
        Mutation::NoTokenCheck,
        Mutation::OneAnswer,
        Mutation::LeaseFromAnswer,
        Mutation::BusyCertifies,
        Mutation::NullIgnored,
        Mutation::PttlFromReceipt,
        Mutation::JoinPastDeadline,
        Mutation::AcknowledgeBeforeDrop,
        Mutation::DropsOnce,
        Mutation::FenceReleasedEarly,
        Mutation::OwnFlushIgnored,
        Mutation::GenerationKept,
        Mutation::ForeignLane,
        Mutation::SeenByFillTime,
        Mutation::SeenNotMoved,
    ];

    /// Within how many runs each must be found.
    const BROKEN_RUNS: u64 = 20_000;

    #[test]
    fn every_broken_guard_is_found() {
        for guard in GUARDS {
            let found = mutation::with(Some(guard), || search(0, BROKEN_RUNS));
            let fault = found.err();
            let fault = fault.unwrap_or_else(|| panic!("{}: not found in {BROKEN_RUNS} runs", guard.name()));
            println!("{}: {fault}", guard.name());
            // Not by an assertion that fails within: a client has to have been told something wrong.
            let was_told = fault.split_once(" events: client ").is_some();
            assert!(was_told, "{}: found for another reason", guard.name());
        }
    }
}
