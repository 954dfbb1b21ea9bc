//! fred, a client on tokio that pipelines by itself and connects again by itself, in both protocols. It is a program
//! of its own: its dependencies would be compiled with every test otherwise.

use std::process::Command;

use crate::ecosystem::{installed, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, the workload has not met the cache. It makes about 3,600.
const HITS_MIN: u64 = 2_000;

#[track_caller]
fn fred(protocol: &str, login: Login) {
    let workload = Command::new(installed("fred").join("debug/fred-workload"));
    compare(login, HITS_MIN, |place| transcript(&workload, protocol, place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn in_resp2() {
    fred("2", Login::Nobody);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn in_resp2_with_a_password() {
    fred("2", Login::User);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn in_resp3() {
    fred("3", Login::Nobody);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn in_resp3_with_a_password() {
    fred("3", Login::User);
}
