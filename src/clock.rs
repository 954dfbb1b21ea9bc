//! The one clock of the house.
//!
//! Every time in nearhit is a [`Nanos`] of `CLOCK_BOOTTIME`, which also counts while the machine is suspended:
//! a lease must not survive a laptop's lid or a paused virtual machine. Pure code never calls [`now`]; it is
//! handed the time, so that it can be simulated.

use std::{ops::Add, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, suspended time included. Zero is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A time before every other.
    pub const NEVER: Self = Self(0);
    /// A time after every other.
    pub const FOREVER: Self = Self(u64::MAX);

    /// The time that has passed since `earlier`, zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Reads the clock. Costs a vDSO call, some 25 ns: once a batch, never once a command.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Boottime);
    Nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}
