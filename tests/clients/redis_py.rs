//! redis-py, blocking and asyncio, in both protocols, with both of its parsers.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, the workload has not met the cache. It makes about 2,000.
const HITS_MIN: u64 = 1_200;

/// `interface` is `blocking` or `asyncio`; `parser` is `python`, or `hiredis`, which is C and which redis-py takes
/// where it is installed.
#[track_caller]
fn redis_py(interface: &str, protocol: &str, parser: &str, login: Login) {
    let mut workload = Command::new(installed("redis_py").join("bin/python"));
    // Isolated from the variables and packages of whoever runs the tests, and leaving nothing in the sources.
    workload.args(["-I", "-B"]).arg(sources("redis_py"));
    workload.args(["--interface", interface, "--parser", parser]);
    compare(login, HITS_MIN, |place| transcript(&workload, protocol, place));
}

#[test]
fn blocking_in_resp2() {
    redis_py("blocking", "2", "python", Login::Nobody);
}

#[test]
fn blocking_in_resp2_with_hiredis_and_a_password() {
    redis_py("blocking", "2", "hiredis", Login::User);
}

#[test]
fn blocking_in_resp3() {
    redis_py("blocking", "3", "python", Login::Nobody);
}

#[test]
fn blocking_in_resp3_with_hiredis_and_a_password() {
    redis_py("blocking", "3", "hiredis", Login::User);
}

#[test]
fn asyncio_in_resp2() {
    redis_py("asyncio", "2", "python", Login::Nobody);
}

#[test]
fn asyncio_in_resp2_with_hiredis_and_a_password() {
    redis_py("asyncio", "2", "hiredis", Login::User);
}

#[test]
fn asyncio_in_resp3() {
    redis_py("asyncio", "3", "python", Login::Nobody);
}

#[test]
fn asyncio_in_resp3_with_hiredis_and_a_password() {
    redis_py("asyncio", "3", "hiredis", Login::User);
}
