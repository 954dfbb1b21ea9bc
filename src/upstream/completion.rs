//! What a lane's user gives it with each command, and is told of its reply.

use thiserror::Error;

use super::passing::Piece;
use crate::{clock::Nanos, resp::Raw};

/// What becomes of a command that was sent on a lane.
///
/// None of the methods may call back into the lane that calls them.
pub trait Completion: 'static {
    /// Whether this reply is for the completion's own information alone, and another one is to follow. It is called while
    /// the lane is borrowed: it keeps what it is told, and no more. By default never.
    fn absorb(&mut self, _raw: &[u8]) -> bool {
        false
    }

    /// One reply that was not absorbed, in the order of the requests. [`Progress::More`] keeps the command at the head of the queue.
    fn reply(&mut self, raw: Raw<'_>, arrived: Nanos) -> Progress;

    /// A reply begins that is of so many bytes at least, and has not arrived whole. Returns whether it can be passed on in
    /// pieces from now on; if not, that is asked again when more of it has come.
    /// By default never.
    fn passes_on(&mut self, _announced: usize, _arrived: Nanos) -> bool {
        false
    }

    /// A piece of a reply that is passed on in pieces, in the place of [`Completion::reply`].
    fn piece(&mut self, _bytes: Raw<'_>, _piece: Piece) {}

    /// Whether its client has as much to read of such a reply as may be. It may be more while others wait behind it.
    fn is_full(&self, _holds_up_others: impl FnOnce() -> bool) -> bool {
        false
    }

    /// Its client reads too slowly, while others wait: it is to get no more.
    fn cut_off(&self) {}

    /// What is ahead of it takes as long as that client likes: nobody else is to wait for its reply.
    fn held_up(&mut self) {}

    /// Whether both are the same client's.
    fn is_of_client_of(&self, _other: &Self) -> bool {
        false
    }

    /// The lane died before the last reply.
    fn lost(self, loss: &Loss);

    /// The deadline passed. The lane keeps the command until its late reply, which is still handed to
    /// [`Completion::reply`] so that what must be undone is undone, but the client has to be answered now.
    fn timed_out(&mut self);
}

/// Whether a command has all its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another reply belongs to this command.
    More,
    /// That was the last one.
    Done,
}

/// Why a lane died.
#[derive(Clone, Debug, Error)]
#[error("the connection to upstream {address} was lost ({reason})")]
pub struct Loss {
    /// The upstream's address.
    pub address: String,
    /// What the system said.
    pub reason: String,
}
