//! For each guard of coherence a nearhit in which it is broken: a history on a real server must show it, within a
//! bounded number of runs. Those that the model shows as well are in `src/coherence/tests/model.rs`. And the auditor,
//! which watches in production, must find what a history finds.
//!
//! Wants the feature `mutations` (`scripts/test` builds it). `--nocapture` prints what was found.

mod common;
#[path = "history/mod.rs"]
mod history;

use std::time::Duration;

use common::{Client, Proxy, Redis, Relay, eventually, proxy};
use history::run::{Law, launch};
use history::scenes;
use history::trouble::Trouble;
use nearhit::mutation::Mutation;

/// A run ends as soon as something is found.
const LASTS: Duration = Duration::from_secs(4);
const RUNS_MAX: u64 = 16;

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
}

/// What is to be found in which scene.
macro_rules! scenes {
    ($($test:ident: $mutation:ident, $scene:ident;)+) => {
        const BY_SCENE: &[Mutation] = &[$(Mutation::$mutation),+];

        $(
            #[test]
            fn $test() {
                is_found_in(Mutation::$mutation, &scenes::$scene);
            }
        )+
    };
}

scenes! {
    an_error_that_certifies: BusyCertifies, BUSY;
    a_time_to_live_that_counts_from_the_answer: PttlFromReceipt, SLOW_LANES;
    who_joins_past_the_deadline: JoinPastDeadline, SLOW_LANES;
    a_lane_that_stays_behind: ForeignLane, MOVES;
    an_entry_that_counts_as_read_when_it_was_stored: SeenByFillTime, CROSSING;
}

/// A broken guard shows in what clients are told. These are about a reply that failed or did not come, which a busy machine
/// brings about as well.
const NOT_OF_COHERENCE: [&str; 3] = ["failed with nothing broken", "no reply to ", " failed: "];

/// What needs an order of events that no real server keeps to often enough.
const BY_MODEL_ALONE: [Mutation; 3] = [Mutation::OneAnswer, Mutation::DropsOnce, Mutation::OwnFlushIgnored];

#[test]
fn every_guard_has_somebody_who_misses_it() {
    for mutation in Mutation::ALL {
        let is_tried = [BY_HISTORY, BY_SCENE, &BY_MODEL_ALONE].iter().any(|all| all.contains(mutation));
        assert!(is_tried, "{}: who would notice?", mutation.name());
    }
}

#[test]
fn the_auditor_finds_a_null_that_is_ignored() {
    the_auditor_finds(Mutation::NullIgnored, |_, _, outside| {
        outside.expect(b"+OK\r\n", &["FLUSHALL"]);
    });
}

#[test]
fn the_auditor_finds_a_generation_that_stays_when_the_link_is_lost() {
    the_auditor_finds(Mutation::GenerationKept, |proxy, relay, outside| {
        // The push is on the link when it is cut, and nobody will say it again.
        relay.link().hold_down(true);
        outside.expect(b"+OK\r\n", &["SET", "k", "new"]);
        relay.link().cut();
        relay.link().hold_down(false);
        eventually("the link is up again", || proxy.stat("reconnects") == 1);
        proxy.wait_live();
    });
}

/// With the guard broken `harm` leaves a stale entry behind, which the first audited hit finds and drops; with all of
/// them whole it leaves nothing to be found.
#[track_caller]
fn the_auditor_finds(mutation: Mutation, harm: impl Fn(&Proxy, &Relay, &mut Client)) {
    for broken in [true, false] {
        let redis = Redis::start();
        let relay = Relay::to(redis.addr());
        let builder = proxy().upstream_addr(relay.addr()).set("audit.sample", "1.0");
        let builder = if broken { builder.broken(mutation.name()) } else { builder };
        let proxy = builder.start();
        proxy.wait_live();
        let (mut client, mut outside) = (proxy.client(), redis.client());
        client.expect(b"+OK\r\n", &["SET", "k", "old"]);
        eventually("the key is cached", || {
            client.expect(b"$3\r\nold\r\n", &["GET", "k"]);
            proxy.stat("hits") > 0
        });
        // Else one that is in flight would find it before anybody is shown anything.
        eventually("no audit is in flight", || proxy.stat("audit_agreements") == proxy.stat("hits"));
        harm(&proxy, &relay, &mut outside);
        let truth = outside.cmd(&["GET", "k"]);
        proxy.settle();
        let is_stale = client.cmd(&["GET", "k"]) != truth;
        assert_eq!(is_stale, broken);
        eventually("the difference is found", || (proxy.stat("audit_violations") > 0) == broken);
        eventually("the key is dropped", || client.cmd(&["GET", "k"]) == truth);
        assert_eq!(proxy.stat("audit_violations") > 0, broken);
        eventually("it is logged", || proxy.log().contains("VIOLATION") == broken);
    }
}

/// Whether a fault says that the law was broken.
fn is_of_coherence(fault: &str) -> bool {
    !NOT_OF_COHERENCE.iter().any(|other| fault.contains(other))
}

#[track_caller]
fn is_found(mutation: Mutation, law: Law, trouble: Trouble) {
    for seed in 0..RUNS_MAX {
        let (outcome, share) = launch(law, trouble, seed, LASTS, Some(mutation.name()));
        let fault = outcome.fault.as_deref();
        let said = fault.unwrap_or("nothing was found");
        println!("{}: run {}, {outcome}, {share}: {said}", mutation.name(), seed + 1);
        if fault.is_some_and(is_of_coherence) {
            return;
        }
    }
    panic!("{}: not found in {RUNS_MAX} runs of {law:?} with {trouble:?}", mutation.name());
}

#[track_caller]
fn is_found_in(mutation: Mutation, scene: &scenes::Scene) {
    for seed in 0..RUNS_MAX {
        let report = scenes::launch(scene, seed, LASTS, Some(mutation.name()));
        let fault = report.outcome.fault.as_deref();
        println!("{}: run {}, {report}: {}", mutation.name(), seed + 1, fault.unwrap_or("nothing was found"));
        if fault.is_some_and(is_of_coherence) {
            return;
        }
    }
    panic!("{}: not found in {RUNS_MAX} runs of the scene {}", mutation.name(), scene.name);
}
