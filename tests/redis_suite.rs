//! What Redis's own test suite found when it was run through the proxy: each is a test of that suite in short.
//!
//! They are about what an administrator does to the server, and what that does to everybody else on shared connections.

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::resp::shown;
use common::{Redis, eventually, proxy};

/// Long enough for what was sent to be on its way.
const MOMENT: Duration = Duration::from_millis(100);

#[test]
fn a_busy_server_is_no_less_busy_without_a_cache() {
    let redis = Redis::start();
    let proxy = proxy().upstream(&redis).set("cache.mode", "off").start();
    let (mut runner, mut other) = (proxy.client(), proxy.client());
    other.expect(b"+OK\r\n", &["CONFIG", "SET", "busy-reply-threshold", "10"]);
    runner.send(&["EVAL", "while true do end", "0"]);
    sleep(MOMENT);
    eventually("PING says so", || other.cmd(&["PING"]).starts_with(b"-BUSY"));
    other.expect(b"+OK\r\n", &["SCRIPT", "KILL"]);
    assert!(shown(&runner.recv()).contains("killed by user"));
    eventually("it has ended", || other.cmd(&["PING"]) == b"+PONG\r\n");
}
