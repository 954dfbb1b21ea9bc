//! Node.js: ioredis and node-redis, and two that are built on them, BullMQ and the Redis adapter of Socket.IO.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, a workload has not met the cache. The clients' make about 3,400, BullMQ's 1,700.
const HITS_MIN: u64 = 1_000;
/// Socket.IO has nothing to read: it publishes and listens.
const NO_HITS: u64 = 0;

#[track_caller]
fn node(workload: &[&str], protocol: &str, login: Login, hits_min: u64) {
    let mut command = Command::new("node");
    let [script, arguments @ ..] = workload else { panic!("a workload is a script") };
    command.arg(sources("node").join(script)).args(arguments);
    command.env("NODE_PATH", installed("node").join("node_modules"));
    compare(login, hits_min, |place| transcript(&command, protocol, place));
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn ioredis_in_resp3() {
    node(&["ioredis.js", "ioredis"], "3", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn ioredis_in_resp3_with_a_password() {
    node(&["ioredis.js", "ioredis"], "3", Login::User, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn ioredis_in_resp2() {
    node(&["ioredis.js", "ioredis"], "2", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn ioredis_5_in_resp2_with_a_password() {
    node(&["ioredis.js", "ioredis-5"], "2", Login::User, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn node_redis_in_resp3() {
    node(&["node_redis.js"], "3", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn node_redis_in_resp3_with_a_password() {
    node(&["node_redis.js"], "3", Login::User, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn node_redis_in_resp2() {
    node(&["node_redis.js"], "2", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn node_redis_in_resp2_with_a_password() {
    node(&["node_redis.js"], "2", Login::User, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn bullmq_on_ioredis_in_resp3() {
    node(&["bullmq.js", "ioredis"], "3", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn bullmq_on_ioredis_in_resp2_with_a_password() {
    node(&["bullmq.js", "ioredis"], "2", Login::User, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn bullmq_on_node_redis_in_resp3() {
    node(&["bullmq.js", "redis"], "3", Login::Nobody, HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn socket_io_on_ioredis_in_resp3() {
    node(&["socket_io.js", "ioredis", "plain"], "3", Login::Nobody, NO_HITS);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn socket_io_on_ioredis_in_resp2_with_sharded_channels() {
    node(&["socket_io.js", "ioredis", "sharded"], "2", Login::Nobody, NO_HITS);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn socket_io_on_node_redis_in_resp2_with_a_password() {
    node(&["socket_io.js", "redis", "plain"], "2", Login::User, NO_HITS);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn socket_io_on_node_redis_in_resp3_with_sharded_channels() {
    node(&["socket_io.js", "redis", "sharded"], "3", Login::Nobody, NO_HITS);
}
