//! redigo, a Go client with pools, pipelines and scripts, which speaks RESP2.

use std::process::Command;

use crate::ecosystem::{installed, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, the workload has not met the cache. It makes about 2,000.
const HITS_MIN: u64 = 1_200;

#[track_caller]
fn redigo(login: Login) {
    let workload = Command::new(installed("go").join("redigo"));
    compare(login, HITS_MIN, |place| transcript(&workload, "2", place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redigo_as_nobody() {
    redigo(Login::Nobody);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn redigo_with_a_password() {
    redigo(Login::User);
}
