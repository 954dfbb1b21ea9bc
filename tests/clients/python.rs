//! Applications in Python that stand on redis-py: Celery, RQ, Django's cache (django-redis, and Django's own), and
//! Flask-Caching.

use std::process::Command;

use crate::ecosystem::{installed, sources, transcript};
use crate::pair::{Login, compare};

/// With fewer hits than this, the workload of a cache has not met ours. Django's makes about 1,400, Flask's 2,600.
const CACHE_HITS_MIN: u64 = 1_000;
/// The same for a queue, most of which is BRPOP, LPUSH and scripts: Celery makes about 900, RQ 2,500.
const QUEUE_HITS_MIN: u64 = 400;

#[track_caller]
fn python(workload: &[&str], protocol: &str, login: Login, hits_min: u64) {
    let mut command = Command::new(installed("python").join("bin/python"));
    let [script, arguments @ ..] = workload else { panic!("a workload is a script") };
    command.args(["-s", "-B"]).arg(sources("python").join(script)).args(arguments);
    // The transcript is that of redis-py's workload.
    command.env("PYTHONPATH", sources("redis_py"));
    compare(login, hits_min, |place| transcript(&command, protocol, place));
}

/// Celery has no setting for the protocol. It takes redis-py's default, which is RESP3.
#[test]
#[ignore = "scripts/test-clients runs it"]
fn celery() {
    python(&["celery_queue.py", "--step=together"], "3", Login::Nobody, QUEUE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn celery_with_a_password() {
    python(&["celery_queue.py", "--step=together"], "3", Login::User, QUEUE_HITS_MIN);
}

/// It waits until what the worker took may be given to another.
#[test]
#[ignore = "scripts/test-clients runs it"]
fn celery_loses_a_worker() {
    python(&["celery_queue.py", "--step=a_lost_worker"], "3", Login::Nobody, 0);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn rq_in_resp3() {
    python(&["rq_queue.py"], "3", Login::Nobody, QUEUE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn rq_in_resp2_with_a_password() {
    python(&["rq_queue.py"], "2", Login::User, QUEUE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn django_in_resp3() {
    python(&["django_cache.py"], "3", Login::Nobody, CACHE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn django_in_resp2_with_a_password() {
    python(&["django_cache.py"], "2", Login::User, CACHE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn flask_in_resp3_with_a_password() {
    python(&["flask_cache.py"], "3", Login::User, CACHE_HITS_MIN);
}

#[test]
#[ignore = "scripts/test-clients runs it"]
fn flask_in_resp2() {
    python(&["flask_cache.py"], "2", Login::Nobody, CACHE_HITS_MIN);
}
