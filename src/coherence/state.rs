//! The link's state, without sockets and clocks, so that it can be simulated.
//!
//! [`Phase`] is what the rest of nearhit may conclude from the link; [`Heartbeat`] turns ECHO answers into
//! certified times.

use crate::{clock::Nanos, mutation::Mutation};

/// What the link allows. A lapsed lease (SUSPECT) is not a phase of its own: it is `Live` with an old certified
/// time, and every reader compares that time for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No link: nothing is answered from memory and nothing is stored.
    Down = 0,
    /// The server has begun to track, but nothing is certified yet.
    Sync = 1,
    /// Invalidations arrive, and up to the certified time all have.
    Live = 2,
    /// The server has no tracking: own writes and time to live alone keep the cache fresh.
    Off = 3,
    /// The cache is off by configuration.
    Disabled = 4,
}

impl Phase {
    /// The inverse of `as u8`.
    pub fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Sync,
            2 => Self::Live,
            3 => Self::Off,
            4 => Self::Disabled,
            _ => Self::Down,
        }
    }

    /// As INFO and PROXY STATS call it, `leased` telling whether the lease stands.
    pub fn name(self, leased: bool) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Sync => "sync",
            Self::Live if leased => "live",
            Self::Live => "suspect",
            Self::Off => "off",
            Self::Disabled => "disabled",
        }
    }
}

/// The answer to one ECHO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echoed text.
    Echo,
    /// An error, such as -BUSY while a script runs: the server answers, but it does not broadcast.
    Error,
}

/// Pairs ECHOs with their answers, one outstanding.
///
/// With broadcast tracking, the pushes of one cycle of the server's event loop leave at its end, so the answer to
/// an ECHO of that same cycle may overtake them. But an ECHO that was sent after the answer to the one before had
/// come in was executed in a later cycle, and then the pushes of all that was executed before the earlier one lie in
/// the stream ahead of the later answer. So answer n certifies the moment at which ECHO n-1 was sent, if both were
/// answered in the ordinary course. An error in between starts the pair anew: in the course of a script, answers of one
/// cycle can be to questions of which one was asked after the other's refusal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heartbeat {
    outstanding: Option<Nanos>,
    previous: Option<Nanos>,
}

impl Heartbeat {
    /// An ECHO is sent at `now`; the caller read the clock before it wrote.
    pub fn sent(&mut self, now: Nanos) {
        debug_assert!(self.outstanding.is_none(), "one ECHO at a time");
        self.outstanding = Some(now);
    }

    /// Its answer came, at `now`. Returns the time that is now certified, if any.
    pub fn answered(&mut self, answer: Answer, now: Nanos) -> Option<Nanos> {
        let certified = self.pair(answer);
        if Mutation::LeaseFromAnswer.is_on() { certified.map(|_| now) } else { certified }
    }

    fn pair(&mut self, answer: Answer) -> Option<Nanos> {
        let sent = self.outstanding.take()?;
        match answer {
            Answer::Echo if Mutation::OneAnswer.is_on() => Some(sent),
            Answer::Error if Mutation::BusyCertifies.is_on() => self.previous.replace(sent),
            Answer::Echo => self.previous.replace(sent),
            Answer::Error => {
                self.previous = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_answer_certifies_the_first_question() {
        let mut heartbeat = Heartbeat::default();
        heartbeat.sent(Nanos(10));
        assert_eq!(heartbeat.answered(Answer::Echo, Nanos(99)), None, "one answer proves nothing");
        heartbeat.sent(Nanos(20));
        assert_eq!(heartbeat.answered(Answer::Echo, Nanos(99)), Some(Nanos(10)));
        heartbeat.sent(Nanos(30));
        assert_eq!(heartbeat.answered(Answer::Echo, Nanos(99)), Some(Nanos(20)));
    }

    #[test]
    fn an_error_certifies_nothing_and_breaks_the_pair() {
        let mut heartbeat = Heartbeat::default();
        heartbeat.sent(Nanos(10));
        heartbeat.answered(Answer::Echo, Nanos(99));
        heartbeat.sent(Nanos(20));
        assert_eq!(heartbeat.answered(Answer::Error, Nanos(99)), None, "-BUSY");
        heartbeat.sent(Nanos(30));
        assert_eq!(heartbeat.answered(Answer::Echo, Nanos(99)), None, "the pair begins anew");
        heartbeat.sent(Nanos(40));
        assert_eq!(heartbeat.answered(Answer::Echo, Nanos(99)), Some(Nanos(30)));
    }

    #[test]
    fn an_answer_without_a_question_is_ignored() {
        assert_eq!(Heartbeat::default().answered(Answer::Echo, Nanos(99)), None);
    }
}
