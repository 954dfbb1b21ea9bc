//! The wait between two attempts at something that fails.

use std::time::Duration;

/// The wait after the `failures`-th failure in a row, doubling from the least to the longest, less a random part
/// of up to a half so that many waiters do not come back at once.
pub fn backoff(failures: u32, (least, longest): (Duration, Duration)) -> Duration {
    let full = least.saturating_mul(1 << failures.min(16)).min(longest);
    full.mul_f64(1.0 - fastrand::f64() / 2.0)
}
