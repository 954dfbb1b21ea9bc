//! Runs one workload against Redis and through the proxy, and holds what it saw against each other.
//!
//! A workload is anything that makes a transcript of one line a thing. It must say the same in every run against the
//! same answers, so it leaves out ids, addresses and times. Each side has a Redis of its own, and both run at once.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::thread;

use crate::common::{Redis, proxy};

/// What a user of the server is called where clients log in, and their password.
pub(crate) const USER: (&str, &str) = ("app", "its-password");

/// How the workload's connections introduce themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// Not at all: they are the default user.
    Nobody,
    /// As [`USER`], who may do everything.
    User,
}

/// Where a workload runs: at a server of its own, or at a proxy with such a server behind it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) login: Login,
}

/// The transcripts must be equal, and the proxy must have answered from memory at least `hits_min` times: one that
/// only forwards would be equal as well.
#[track_caller]
pub(crate) fn compare(login: Login, hits_min: u64, workload: impl Fn(Place) -> Vec<String> + Sync) {
    let (name, password) = USER;
    let password = format!(">{password}");
    let user = ["--user", name, "on", &password, "~*", "&*", "+@all"];
    let (alone, behind) = (Redis::start_with(&user), Redis::start_with(&user));
    let proxy = proxy().upstream(&behind).start();
    proxy.wait_live();
    let [expected, got] = thread::scope(|scope| {
        let workload = &workload;
        [alone.addr(), proxy.addr()]
            .map(|address| scope.spawn(move || workload(Place { address, login })))
            .map(|running| running.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    // Line by line first: the whole of two transcripts is nothing to read.
    for (number, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "line {number}: through the proxy (left) and from Redis (right)");
    }
    assert_eq!(got.len(), expected.len(), "one of the transcripts ends early");
    assert!(!got.is_empty(), "the workload says nothing");
    let stats = proxy.stats();
    let hits = proxy.stat("hits");
    assert!(hits >= hits_min, "{hits} hits: {stats:?}");
    for never in ["timeouts", "link_losses", "connections_rejected", "output_limit_disconnections"] {
        assert_eq!(stats[never], "0", "{never}: {stats:?}");
    }
}
