//! Redis.pm, Perl's own client, which speaks RESP2.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, the workload has not met the cache. It makes about 3,000.
const HITS_MIN: u64 = 1_800;

#[track_caller]
fn redis_pm(login: Login) {
    installed("perl");
    let mut workload = Command::new("perl");
    workload.arg(sources("perl").join("redis_pm.pl"));
    compare(login, HITS_MIN, |place| transcript(&workload, "2", place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redis_pm_as_nobody() {
    redis_pm(Login::Nobody);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redis_pm_with_a_password() {
    redis_pm(Login::User);
}
