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
mod patience;
mod process;
mod proxy;
mod redis;
mod relay;
pub(crate) mod resp;

pub(crate) use client::{Client, Wire};
pub(crate) use intercept::Intercept;
pub(crate) use patience::eventually;
pub(crate) use process::{Process, free_port, raise_open_files};
pub(crate) use proxy::{Proxy, ProxyBuilder, ms, proxy};
pub(crate) use redis::Redis;
pub(crate) use relay::Relay;
