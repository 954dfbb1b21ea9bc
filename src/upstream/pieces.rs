//! Large replies, which a lane passes on while they arrive.
//!
//! A reply of [`WHOLE_BYTES_MAX`] is held until it is whole: it may be stored, compared, or kept back behind a fence.
//! A larger one goes to its client in pieces, if the client's output has come to it, and the lane is read no faster
//! than the client reads. Nobody else is to suffer from that: whoever has nothing in flight on the lane leaves it
//! ([`Lane::is_stalled`]); for those who do wait behind the reply, the client is given more room, and if that is not
//! enough and it reads less than `RATE_BYTES_MIN` in `RATE_WINDOW`, it is cut off, and the rest is thrown away.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    completion::Completion,
    lane::{InFlight, Lane, Queue, Reader},
    passing::{PIECE_BYTES, Passing, Piece},
};
use crate::{clock::Nanos, resp::Raw};

/// A reply that is no longer than this is not passed on before it is whole.
pub const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// What a client must read in [`RATE_WINDOW`] while others wait behind its reply.
const RATE_BYTES_MIN: u64 = 3 * 1024 * 1024;
const RATE_WINDOW: Duration = Duration::from_secs(3);

impl<C: Completion> Lane<C> {
    /// Passes on what has come of an unfinished reply, if it is large and its client can take it.
    pub(super) fn pass_on(&self, reader: &mut Reader, arrived: Nanos) {
        if !self.passing.is_on() {
            let announced = reader.buffer.len() + reader.scanner.bytes_wanted();
            // A push has no command to answer, and of an attribute it is not known yet what it belongs to.
            let is_reply = !matches!(reader.buffer.first(), None | Some(b'>' | b'|'));
            if announced <= WHOLE_BYTES_MAX || !is_reply || !self.begin(announced, arrived) {
                return;
            }
            self.passing.is_on.set(true);
        }
        let scanned = reader.scanner.scanned();
        reader.scanner.forget(scanned);
        let piece = reader.buffer.split_to(scanned).freeze();
        if reader.buffer.capacity() > 4 * PIECE_BYTES {
            // What was reserved for the whole reply.
            reader.buffer = BytesMut::from(&reader.buffer[..]);
        }
        self.piece(piece, Piece::Inner);
    }

    fn begin(&self, announced: usize, arrived: Nanos) -> bool {
        // Taken out, since the client's output is its session's, which may look at the lane.
        let Some(mut entry) = self.queue.borrow_mut().in_flight.pop_front() else { return false };
        let passes_on = entry.completion.passes_on(announced, arrived);
        self.queue.borrow_mut().in_flight.push_front(entry);
        passes_on
    }

    /// The rest of a reply that is being passed on.
    pub(super) fn last_piece(&self, bytes: Bytes, arrived: Nanos) {
        self.passing.is_on.set(false);
        self.passing.window.set(None);
        // It may have taken its time, which was not the time of what waits behind it.
        self.held_up_until.set(arrived);
        if let Some(entry) = self.piece(bytes, Piece::Last) {
            self.ended(&entry, arrived);
        }
    }

    /// Hands on one piece; returns the command if it was the last.
    fn piece(&self, bytes: Bytes, piece: Piece) -> Option<InFlight<C>> {
        self.passing.passed.set(self.passing.passed.get() + bytes.len() as u64);
        let mut entry = self.queue.borrow_mut().in_flight.pop_front()?;
        entry.completion.piece(Raw::Shared(bytes), piece);
        if piece == Piece::Last {
            return Some(entry);
        }
        self.queue.borrow_mut().in_flight.push_front(entry);
        None
    }

    /// Whether the client of the large reply has to read first; [`Lane::resume`] then wakes the driver.
    pub(super) fn must_pause(&self) -> bool {
        let must = self.passing.is_on() && self.is_full();
        self.passing.is_paused.set(must);
        must
    }

    fn is_full(&self) -> bool {
        let queue = self.queue.borrow();
        let Some(head) = queue.in_flight.front() else { return false };
        head.completion.is_full(|| queue.holds_up_others())
    }

    /// The client has read, or is gone.
    pub fn resume(&self) {
        if self.passing.is_paused.get() {
            self.kick();
        }
    }

    /// Looks whether a client that is slow to read its large reply holds up others for too long. True while the reply is
    /// not late by the server's fault.
    pub(super) fn watch_reader(&self, now: Nanos) -> bool {
        let Passing { is_on, is_paused, passed, window } = &self.passing;
        if !(is_on.get() && is_paused.get()) {
            window.set(None);
            return false;
        }
        if !self.queue.borrow().holds_up_others() {
            window.set(None);
            return true;
        }
        // Somebody may have come to wait behind it since the driver last looked: there may be more room now.
        self.kick();
        match window.get() {
            Some((since, before)) if now.since(since) >= RATE_WINDOW => {
                if passed.get() - before < RATE_BYTES_MIN
                    && let Some(head) = self.queue.borrow().in_flight.front()
                {
                    head.completion.cut_off();
                }
                window.set(Some((now, passed.get())));
            }
            Some(_) => {}
            None => window.set(Some((now, passed.get()))),
        }
        true
    }
}

impl<C: Completion> Queue<C> {
    /// Whether somebody else than the client of the first command waits behind it.
    fn holds_up_others(&self) -> bool {
        let mut entries = self.in_flight.iter();
        let Some(head) = entries.next() else { return false };
        entries.any(|entry| !entry.is_orphan() && !entry.completion.is_of_client_of(&head.completion))
    }
}
