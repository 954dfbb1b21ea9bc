//! phpredis, the extension that most PHP programs speak to Redis with, and PHP's sessions, which it can keep. It knows
//! RESP2 alone.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// The workload of phpredis makes about 2,000 hits.
const PHPREDIS_HITS_MIN: u64 = 1_200;
/// That of sessions, whose every request writes, makes about 350.
const SESSIONS_HITS_MIN: u64 = 200;

#[track_caller]
fn php(program: &str, login: Login, hits_min: u64) {
    installed("php");
    let mut workload = Command::new("php");
    workload.args(["-d", "display_errors=stderr"]).arg(sources("php").join(program));
    compare(login, hits_min, |place| transcript(&workload, "2", place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn phpredis() {
    php("phpredis.php", Login::Nobody, PHPREDIS_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn phpredis_with_a_password() {
    php("phpredis.php", Login::User, PHPREDIS_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn sessions() {
    php("sessions.php", Login::Nobody, SESSIONS_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn sessions_with_a_password() {
    php("sessions.php", Login::User, SESSIONS_HITS_MIN);
}
