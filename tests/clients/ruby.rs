//! redis-rb, the client of most Ruby programs before its version 5, and Sidekiq, whose workers and web pages are built
//! on it. Both speak RESP2.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// The workload of redis-rb makes about 2,000 hits.
const REDIS_RB_HITS_MIN: u64 = 1_200;
/// The jobs of Sidekiq read their settings about 18,000 times, and many at once are misses or joins.
const SIDEKIQ_HITS_MIN: u64 = 5_000;

#[track_caller]
fn ruby(program: &str, login: Login, hits_min: u64) {
    installed("ruby");
    let mut workload = Command::new("ruby");
    workload.arg(sources("ruby").join(program));
    compare(login, hits_min, |place| transcript(&workload, "2", place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redis_rb() {
    ruby("redis_rb/main.rb", Login::Nobody, REDIS_RB_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redis_rb_with_a_password() {
    ruby("redis_rb/main.rb", Login::User, REDIS_RB_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn sidekiq() {
    ruby("sidekiq/main.rb", Login::Nobody, SIDEKIQ_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn sidekiq_with_a_password() {
    ruby("sidekiq/main.rb", Login::User, SIDEKIQ_HITS_MIN);
}
