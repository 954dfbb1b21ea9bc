//! Random histories while servers and connections fail, one test a fault: what `tests/history.rs` holds them to holds
//! here too, no acknowledged write is lost, no reply stays out for longer than the timeouts, and after each heal
//! everything is as before within the time of the contract, by itself.
//!
//! Each fault (`history/strikes.rs`) strikes and heals again and again under each law that it leaves standing. By
//! default a run is short, and only the first law is tried and one more at random. `NEARHIT_HISTORY_SECONDS=60` gives
//! each law so much; `NEARHIT_HISTORY_SEED=n` draws the same commands again. `--nocapture` shows what was done.

mod common;
#[path = "history/mod.rs"]
mod history;

use common::Redis;
use history::run::{Law, run};
use history::trouble::Trouble;

/// What each fault leaves standing.
macro_rules! faults {
    ($($test:ident: $trouble:ident, $first:ident $(or $law:ident)*;)+) => {
        $(
            #[test]
            fn $test() {
                hold(Trouble::$trouble, Law::$first, &[$(Law::$law),*]);
            }
        )+
    };
}

faults! {
    the_link_is_delayed: SlowLink, Versions or Register or Counters or News;
    the_link_falls_into_a_black_hole: LinkBlackHole, Versions or Register or Counters or News;
    everything_falls_into_a_black_hole: BlackHole, Register or Versions or Counters or News;
    a_lane_falls_into_a_black_hole: LaneBlackHole, Register or Versions or Counters or News;
    everything_is_cut: Cut, Versions or Register or Counters or News;
    every_connection_is_killed: Killed, Register or Versions or Counters or News;
    the_server_is_killed_and_comes_back_empty: RestartEmpty, Versions or Register;
    the_server_is_frozen: ServerStopped, Register or Versions or Counters or News;
    the_proxy_is_frozen: ProxyStopped, Versions or Register or Counters or News;
    the_server_becomes_a_replica_and_a_master_again: Resync, Versions or Register;
    the_address_leads_to_another_server: Moved, Register or Versions;
    everybody_is_paused: PauseAll, Versions or Register or Counters or News;
    writers_are_paused: PauseWrites, Register or Versions or Counters or News;
    everything_is_flushed: Flushes, Versions;
    keys_are_evicted: Evictions, Versions;
    a_script_keeps_the_server_busy: BusyScript, Versions or Register or Counters or News;
    the_server_cannot_save: Misconf, Versions or Register or Counters or News;
    every_byte_comes_alone: Bytewise, Register or Versions or Counters or News;
    a_huge_reply_and_a_huge_push_come_first: Huge, Versions or Register or Counters or News;
    databases_change_places: SwapDb, Register or Versions;
    a_user_loses_a_right: AclEdits, Versions or Register or Counters or News;
}

#[test]
fn a_field_expires() {
    let version = Redis::start().client().text(&["INFO", "server"]);
    let version = version.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(7_u32), Some(4)) {
        println!("FieldExpiry skipped: HPEXPIRE needs Redis 7.4, and this is {version}");
        return;
    }
    hold(Trouble::FieldExpiry, Law::Versions, &[Law::Register]);
}

#[track_caller]
fn hold(trouble: Trouble, first: Law, others: &[Law]) {
    let is_long = std::env::var_os("NEARHIT_HISTORY_SECONDS").is_some();
    let one = fastrand::choice(others);
    run(first, trouble);
    others.iter().filter(|law| is_long || Some(*law) == one).for_each(|law| run(*law, trouble));
}
