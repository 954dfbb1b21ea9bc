//! Large replies on their way through a session: see `upstream/pieces.rs`.
//!
//! A reply is passed on once the client's output has come to its place, so that nothing but the client's own reading holds
//! it up: not another reply, which might come behind it on the same lane. What it does before it may be seen (`ticket`) is
//! done then, since the server has executed the command. What has to be looked at as a whole (EXEC, MGET by parts, what may
//! be stored) is held until it is whole.

use std::rc::Rc;

use super::{
    Ending, Session,
    ticket::{Place, Ticket, Work},
};
use crate::{
    clock::Nanos,
    coherence::Acknowledge,
    resp::Raw,
    upstream::{identity::StringRead, passing::Piece, pieces::WHOLE_BYTES_MAX},
};

/// A client with so much of a large reply to read gets no more, unless others wait behind it.
const PASSED_ON_BYTES_PAUSE: usize = 1024 * 1024;

/// The least `server.output_limit` with which replies are passed on in pieces: a few of them must not be over it.
const LIMIT_BYTES_MIN: usize = 4 * WHOLE_BYTES_MAX;

impl Ticket {
    /// See `Completion::passes_on`.
    pub(super) fn begin_large(&mut self, announced: usize, arrived: Nanos) -> bool {
        let is_for_nobody = self.is_for_nobody();
        // Before its turn comes nothing is done: a read that is lost meanwhile can be sent again.
        if !(is_for_nobody || self.session.may_begin(&self.place)) || !self.begin(announced, arrived) {
            return false;
        }
        let certifier = self.session.worker.shared.coherence.certifier();
        self.is_passed_on = is_for_nobody
            || (self.fence.is_none_or(|moment| certifier.is_past(moment))
                && self.session.inner.borrow_mut().output.begin(self.place.seq));
        self.is_passed_on
    }

    /// Whether nobody is left to read the reply, so that its pieces can be dropped as they come.
    fn is_for_nobody(&self) -> bool {
        self.answered || self.session.ending.get() == Ending::Now
    }

    /// Does what has to be done before the reply may be seen, once: what is left of the work is to deliver it. False if it
    /// has to be whole for that.
    fn begin(&mut self, announced: usize, arrived: Nanos) -> bool {
        let session = Rc::clone(&self.session);
        let shared = &session.worker.shared;
        match std::mem::replace(&mut self.work, Work::Plain) {
            Work::Plain | Work::Wait { .. } => {}
            Work::Read(read) => {
                if let Some(generation) = read.mget {
                    self.allow(StringRead::Mget, generation);
                }
                self.observe(read.keys(), arrived);
                self.fence = if read.undeclared { session.worker.fence(arrived) } else { None };
            }
            Work::Fill(mut fill) if fill.pttl.is_some() && announced > shared.config.cache.max_value_size => {
                if let Some(generation) = fill.get {
                    self.allow(StringRead::Get, generation);
                }
                let key = &fill.request[fill.key.clone()];
                if let Some(token) = fill.token.take() {
                    session.worker.counters.fills_refused.add(1);
                    session.all_ask_again(shared.coherence.abandon(key, token));
                }
                shared.coherence.observe(key, arrived);
            }
            Work::Write { guard, sources, .. } => {
                self.observe(&sources, arrived);
                if let Acknowledge::After(moment) = guard.complete(arrived) {
                    session.worker.counters.fences.add(1);
                    self.fence = Some(moment);
                }
            }
            other => {
                self.work = other;
                return false;
            }
        }
        true
    }

    /// See `Completion::piece`.
    pub(super) fn pass_on(&mut self, bytes: Raw<'_>, piece: Piece) {
        if !self.answered {
            self.answered = piece == Piece::Last;
            self.session.piece(&self.place, bytes, piece);
        }
    }

    /// The reply will not come to its end. What the client has read of it is of no use, and cannot be taken back.
    pub(super) fn tear(&mut self) {
        if !std::mem::replace(&mut self.answered, true) {
            self.session.inner.borrow_mut().settle(&self.place);
            self.session.kill();
        }
    }
}

impl Session {
    /// Whether a large reply may be passed on in pieces, once it may be seen.
    fn may_begin(&self, place: &Place) -> bool {
        let inner = self.inner.borrow();
        // What a RESP2 subscriber is sent unasked looks like a reply.
        let is_certain = inner.subscriptions.is_empty() && inner.subscribing == 0 && !inner.is_monitoring;
        is_certain
            && self.worker.shared.config.server.output_limit >= LIMIT_BYTES_MIN
            && inner.output.may_begin(place.seq)
    }

    fn piece(self: &Rc<Self>, place: &Place, bytes: Raw<'_>, piece: Piece) {
        let mut inner = self.inner.borrow_mut();
        if piece == Piece::Last {
            inner.settle(place);
        }
        if self.ending.get() == Ending::Now {
            return;
        }
        inner.output.piece(place.seq, bytes, piece == Piece::Last);
        drop(inner);
        self.worker.mark_dirty(self);
    }

    /// Whether the client has to read before it gets more of a large reply.
    pub(super) fn is_full(&self, holds_up_others: impl FnOnce() -> bool) -> bool {
        if self.ending.get() == Ending::Now {
            return false;
        }
        let undelivered = self.inner.borrow().output.undelivered();
        undelivered > PASSED_ON_BYTES_PAUSE
            && (undelivered > self.worker.shared.config.server.output_limit / 2 || !holds_up_others())
    }

    /// The client has read, or is gone: there may be room for more of a large reply.
    pub(super) fn resume(&self) {
        let inner = self.inner.borrow();
        let exclusive = inner.exclusive.as_ref().map(|exclusive| &exclusive.lane);
        if let Some(lane) = exclusive.or(inner.lane.as_deref()) {
            lane.resume();
        }
    }

    /// The client is too slow for those who wait behind its reply.
    pub(super) fn cut_off(&self) {
        self.worker.counters.slow_reader_disconnections.add(1);
        tracing::warn!(client = self.info.id.0, peer = %self.info.peer, "cut off: too slow with a large reply that others wait behind");
        self.kill();
    }
}
