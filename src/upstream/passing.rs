//! How far a lane is with a large reply that it passes on in pieces: see `pieces`.

use std::cell::Cell;

use crate::clock::Nanos;

/// Read so much of a large reply at a time.
pub(super) const PIECE_BYTES: usize = 256 * 1024;

/// Whether a piece is the last one of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More of the reply is to come.
    Inner,
    /// It ends the reply, and with it the command.
    Last,
}

/// How far the reply at the head of the queue is, if it is passed on in pieces.
#[derive(Debug, Default)]
pub(super) struct Passing {
    pub(super) is_on: Cell<bool>,
    /// Its client has to read before more is read for it.
    pub(super) is_paused: Cell<bool>,
    /// Bytes passed on, of all large replies so far.
    pub(super) passed: Cell<u64>,
    /// The window in which the client's rate is being measured: since when, and what had been passed on by then.
    pub(super) window: Cell<Option<(Nanos, u64)>>,
}

impl Passing {
    pub(super) fn is_on(&self) -> bool {
        self.is_on.get()
    }
}
