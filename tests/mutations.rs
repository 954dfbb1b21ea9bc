//! For each guard of coherence a nearhit in which it is broken: a history on a real server must show it, within a
//! bounded number of runs. Those that the model shows as well are in `src/coherence/tests/model.rs`.
//!
//! Wants the feature `mutations` (`scripts/test` builds it). `--nocapture` prints what was found.

mod common;

#[path = "history/actors.rs"]
mod actors;
#[path = "history/caller.rs"]
mod caller;
#[path = "history/checker.rs"]
mod checker;
#[path = "history/contests.rs"]
mod contests;
#[path = "history/generator.rs"]
mod generator;
#[path = "history/outside.rs"]
mod outside;
#[path = "history/recorder.rs"]
mod recorder;
#[path = "history/run.rs"]
#[allow(dead_code, reason = "histories of a sound proxy are judged elsewhere")]
mod run;
#[path = "history/strikes.rs"]
mod strikes;
#[path = "history/trouble.rs"]
mod trouble;
#[path = "history/versions.rs"]
mod versions;

use std::time::Duration;

use nearhit::mutation::Mutation;
use run::{Law, launch};
use trouble::Trouble;

/// A run ends as soon as something is found.
const LASTS: Duration = Duration::from_secs(4);
const RUNS_MAX: u64 = 8;

/// What is to be found by which history.
macro_rules! histories {
    ($($test:ident: $mutation:ident, $law:ident with $trouble:ident;)+) => {
        const BY_HISTORY: &[Mutation] = &[$(Mutation::$mutation),+];

        $(
            #[test]
            fn $test() {
                is_found(Mutation::$mutation, Law::$law, Trouble::$trouble);
            }
        )+
    };
}

histories! {
    a_fill_that_does_not_look_at_its_token: NoTokenCheck, Register with Jitter;
    hits_while_keys_are_watched: HitsDuringWatch, Counters with SlowLink;
    a_lease_that_counts_from_the_answer: LeaseFromAnswer, Register with SlowLink;
    a_null_that_is_ignored: NullIgnored, Versions with None;
    an_acknowledgement_before_the_drop: AcknowledgeBeforeDrop, Register with SlowLink;
    a_fence_that_opens_early: FenceReleasedEarly, Register with SlowLink;
    a_generation_that_stays_when_the_link_is_lost: GenerationKept, Versions with LinkFails;
    an_exec_that_misses_a_key: ExecMissesKey, Register with SlowLink;
    unknown_writers_that_are_ignored: UnknownWritersIgnored, Register with SlowLink;
    what_was_seen_is_not_remembered: SeenNotMoved, Versions with SlowLink;
    a_torn_mget: TornMget, Versions with SlowLink;
    a_message_before_its_push: MessageBeforePush, News with SlowLink;
    a_busy_answer_that_certifies: BusyCertifies, Versions with BusyScript;
}

/// What needs times that no real server keeps to, or an order of events that it seldom comes to.
const BY_MODEL_ALONE: [Mutation; 5] = [
    Mutation::OneAnswer,
    Mutation::PttlFromReceipt,
    Mutation::JoinPastDeadline,
    Mutation::ForeignLane,
    Mutation::SeenByFillTime,
];

#[test]
fn every_guard_has_somebody_who_misses_it() {
    for mutation in Mutation::ALL {
        let is_tried = BY_HISTORY.contains(mutation) || BY_MODEL_ALONE.contains(mutation);
        assert!(is_tried, "{}: who would notice?", mutation.name());
    }
}

#[track_caller]
fn is_found(mutation: Mutation, law: Law, trouble: Trouble) {
    for seed in 0..RUNS_MAX {
        let (outcome, share) = launch(law, trouble, seed, LASTS, Some(mutation.name()));
        if let Some(fault) = &outcome.fault {
            println!("{}: run {}, {outcome}, {share}: {fault}", mutation.name(), seed + 1);
            return;
        }
        println!("{}: run {}, {outcome}, {share}", mutation.name(), seed + 1);
    }
    panic!("{}: not found in {RUNS_MAX} runs of {law:?} with {trouble:?}", mutation.name());
}
