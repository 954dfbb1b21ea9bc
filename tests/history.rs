//! Random histories: many clients on few keys through one proxy, and then the question whether what they saw can be
//! explained.
//!
//! Where all writes go through the proxy, each key must have been an atomic register (`checker.rs`). Where some go
//! past it, what is seen of a key must go forward, not lag behind by more than `max_staleness`, and end with its
//! time to live (`versions.rs`). No update is lost, and no news outruns its key (`contests.rs`). Each run puts another
//! trouble between proxy and Redis, and must have been answered
//! from memory in good part.
//!
//! Scenes (`scenes/`) have keys of every type in two databases, readers who move between connections of both protocols
//! and two users, and one proxy or two. They also measure for how long outside writes were not shown
//! (`scenes/staleness.rs`), and each strains a guard that some broken proxy of `tests/mutations.rs` lacks.
//!
//! A second each by default. `NEARHIT_HISTORY_SECONDS=60` makes them long, `NEARHIT_HISTORY_SEED=n` draws the
//! same commands again (threads interleave as they like, so the same history does not come back by itself).
//! `--nocapture` shows what was done.

mod common;
#[path = "history/mod.rs"]
mod history;

use history::run::{Law, run};
use history::scenes;
use history::trouble::Trouble;

#[test]
fn each_key_is_a_register() {
    run(Law::Register, Trouble::None);
}

#[test]
fn each_key_is_a_register_while_invalidations_come_late() {
    run(Law::Register, Trouble::SlowLink);
}

#[test]
fn each_key_is_a_register_while_replies_overtake_each_other() {
    run(Law::Register, Trouble::Jitter);
}

#[test]
fn each_key_is_a_register_while_lanes_die() {
    run(Law::Register, Trouble::LanesDie);
}

#[test]
fn nothing_goes_back_when_others_write() {
    run(Law::Versions, Trouble::None);
}

#[test]
fn nothing_goes_back_while_invalidations_come_late() {
    run(Law::Versions, Trouble::SlowLink);
}

#[test]
fn nothing_goes_back_while_replies_overtake_each_other() {
    run(Law::Versions, Trouble::Jitter);
}

#[test]
fn nothing_goes_back_while_the_link_fails() {
    run(Law::Versions, Trouble::LinkFails);
}

#[test]
fn no_update_is_lost_while_invalidations_come_late() {
    run(Law::Counters, Trouble::SlowLink);
}

#[test]
fn no_news_outruns_its_key_while_invalidations_come_late() {
    run(Law::News, Trouble::SlowLink);
}

#[test]
fn outside_writes_show_in_time() {
    scenes::play(&scenes::PLAIN);
}

#[test]
fn outside_writes_show_in_time_while_invalidations_come_late() {
    scenes::play(&scenes::SLOW_LINK);
}

#[test]
fn outside_writes_show_in_time_under_load() {
    scenes::play(&scenes::LOAD);
}

#[test]
fn keys_of_every_type_go_forward_on_every_connection() {
    scenes::play(&scenes::EVERY_TYPE);
}

#[test]
fn two_proxies_each_keep_their_promises() {
    scenes::play(&scenes::TWO_PROXIES);
}

#[test]
fn nothing_outlives_its_time_while_replies_come_late() {
    scenes::play(&scenes::SLOW_LANES);
}

#[test]
fn nothing_goes_back_while_replies_cross_invalidations() {
    scenes::play(&scenes::CROSSING);
}

#[test]
fn no_write_is_hidden_by_a_busy_script() {
    scenes::play(&scenes::BUSY);
}

#[test]
fn no_lane_stays_behind_when_the_address_moves() {
    scenes::play(&scenes::MOVES);
}

#[test]
fn no_update_is_lost_between_two_proxies() {
    scenes::counter::play();
}
