//! Fixtures of the integration tests: a real Redis, the proxy's binary, a client that sees raw bytes, a relay
//! that fails on demand.
//!
//! Tests meet the proxy as applications do, through its port, its log and its signals; nothing in here looks
//! inside it. Every server is a child process on a free port of 127.0.0.1, so tests run side by side, and every
//! fixture kills what it started when it is dropped, also when its test panics.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_imports)]

pub(crate) mod authority;
mod client;
mod intercept;
mod process;
mod proxy;
mod redis;
mod relay;
pub(crate) mod resp;

pub(crate) use client::{Client, Wire};
pub(crate) use intercept::Intercept;
pub(crate) use process::{Process, free_port, raise_open_files};
pub(crate) use proxy::{Proxy, ProxyBuilder, proxy};
pub(crate) use redis::Redis;
pub(crate) use relay::Relay;

use std::thread;
use std::time::Duration;

/// How long `eventually` sleeps between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How often it looks: ten seconds' worth, which only a broken program takes.
const POLLS_MAX: u32 = 1_000;

/// Polls until `holds` answers true, and panics with `what` when it never does.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..POLLS_MAX {
        if holds() {
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
    panic!("never came true: {what}");
}
