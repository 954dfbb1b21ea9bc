//! CLIENT PAUSE, as far as it was given through this proxy.
//!
//! A server whose writers are paused answers reads as ever, but on one connection only in order: on a shared lane the
//! reads of all others would wait behind somebody's held-up write, until both are given up. So while such a
//! pause is on, what it may hold up travels on a connection of its client's own. And while any pause is on, a
//! command may take as long as the pause and `command_timeout` together, since a client of Redis waits for the end of it.
//!
//! A pause that was given elsewhere is not known here; then clients leave the lane that is held up when they can.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{clock::Nanos, command::Class, resp::Args};

/// Until when the server holds up its clients.
#[derive(Debug, Default)]
pub struct Pause {
    writers_until: AtomicU64,
    everybody_until: AtomicU64,
}

/// What CLIENT PAUSE or UNPAUSE changes once it has been agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PauseChange {
    /// PAUSE ... WRITE.
    Writers(Duration),
    /// PAUSE, or PAUSE ... ALL.
    Everybody(Duration),
    /// UNPAUSE.
    End,
}

impl PauseChange {
    /// What this CLIENT command asks for, if it is well-formed.
    pub(super) fn asked(args: Args<'_>) -> Option<Self> {
        let is =
            |index: usize, word: &[u8]| args.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word));
        if is(1, b"UNPAUSE") && args.len() == 2 {
            return Some(Self::End);
        }
        if !is(1, b"PAUSE") || args.len() > 4 {
            return None;
        }
        let time = Duration::from_millis(std::str::from_utf8(args.get(2)?).ok()?.parse().ok()?);
        Some(if is(3, b"WRITE") { Self::Writers(time) } else { Self::Everybody(time) })
    }
}

impl Pause {
    /// The server has agreed at `arrived`. As there, a later pause never shortens an earlier one.
    pub(super) fn change(&self, change: PauseChange, arrived: Nanos) {
        let until = |time: Duration| (arrived + time).0;
        match change {
            PauseChange::Writers(time) => {
                self.writers_until.fetch_max(until(time), Ordering::Relaxed);
            }
            PauseChange::Everybody(time) => {
                self.everybody_until.fetch_max(until(time), Ordering::Relaxed);
            }
            PauseChange::End => {
                self.writers_until.store(0, Ordering::Relaxed);
                self.everybody_until.store(0, Ordering::Relaxed);
            }
        }
    }

    /// When no pause is on any more.
    pub(super) fn until(&self) -> Nanos {
        let [writers, everybody] =
            [&self.writers_until, &self.everybody_until].map(|until| until.load(Ordering::Relaxed));
        Nanos(writers.max(everybody))
    }

    /// Whether a command of this class may be held up while others are answered. If everybody is paused a connection
    /// of one's own is of no use, and could not even be greeted.
    pub(super) fn singles_out(&self, class: Class, now: Nanos) -> bool {
        // PUBLISH is held up too, and it is not told apart from what else touches no key.
        let may_replicate =
            matches!(class, Class::Write | Class::Script | Class::Flush | Class::Unknown | Class::Neutral);
        may_replicate
            && now.0 < self.writers_until.load(Ordering::Relaxed)
            && now.0 >= self.everybody_until.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Nanos {
        Nanos(1) + Duration::from_millis(ms)
    }

    #[test]
    fn writers_are_singled_out_while_they_alone_are_paused() {
        let pause = Pause::default();
        pause.change(PauseChange::Writers(Duration::from_millis(100)), at(0));
        pause.change(PauseChange::Writers(Duration::from_millis(10)), at(1));
        assert!(pause.singles_out(Class::Write, at(99)));
        assert!(!pause.singles_out(Class::Read, at(99)));
        assert!(!pause.singles_out(Class::Write, at(100)), "it is over");
        pause.change(PauseChange::Everybody(Duration::from_millis(50)), at(0));
        assert!(!pause.singles_out(Class::Write, at(49)));
        assert!(pause.singles_out(Class::Write, at(50)));
        assert_eq!(pause.until(), at(100));
        pause.change(PauseChange::End, at(60));
        assert!(!pause.singles_out(Class::Write, at(60)));
        assert_eq!(pause.until(), Nanos::NEVER);
    }
}
