//! Waiting for what is bound to come.

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
