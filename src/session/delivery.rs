//! Delivery: what comes back, in which order it goes out, and what is asked again.

use std::{
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Ending, Flow, Inner, Session,
    hub::Held,
    inner::Repeat,
    mget,
    output::{Seq, Stop},
    send::NoLane,
    ticket::Place,
};
use crate::{
    clock::{self, Nanos},
    resp::{Protocol, Raw},
    upstream::{connection::Profile, identity::Identity, lane::write_some},
};

/// What is answered at once waits for the rest of its batch if that can be expected so soon: two writes where one would
/// do cost more than all else about a few hits. Redis writes a batch's replies together, too.
const REST_WITHIN: Duration = Duration::from_millis(1);

/// No more than this waits.
const WAITING_BYTES_MAX: usize = 16 * 1024;

/// What an attempt to write has changed.
pub(super) struct Change {
    /// The socket has stopped taking bytes, and nobody waits for it yet.
    is_blocked_anew: bool,
    /// Something was written, or has left the queue.
    has_moved: bool,
}

impl Session {
    /// A command of this client was answered.
    pub(super) fn answered(self: &Rc<Self>, place: Place, raw: Raw<'_>, fence: Option<Nanos>) {
        match self.hub() {
            // Until its turn has come it is in flight: were it not, its client could leave the hub, and be shown what is
            // older than this reply and its fence.
            Some(hub) => {
                let session = Rc::clone(self);
                hub.mark(Held::Reply { session, place, raw: raw.into_bytes(), fence });
            }
            None => self.landed(&place, raw, fence),
        }
    }

    /// A command is in flight no longer, and its reply may go out when its turn comes.
    pub(super) fn landed(self: &Rc<Self>, place: &Place, raw: Raw<'_>, fence: Option<Nanos>) {
        self.inner.borrow_mut().settle(place);
        self.deliver(place.seq, raw, fence);
    }

    /// A reply may go out when its turn comes.
    pub(super) fn deliver(self: &Rc<Self>, seq: Seq, raw: Raw<'_>, fence: Option<Nanos>) {
        if self.ending.get() == Ending::Now {
            // Nobody is left to read it.
            return;
        }
        let mut inner = self.inner.borrow_mut();
        inner.output.ready().lend(&mut self.worker.spares.borrow_mut());
        inner.output.complete(seq, raw, fence);
        drop(inner);
        self.worker.mark_dirty(self);
    }

    /// An MGET has all its parts, and must be looked at again once they are certified.
    pub(super) fn deferred(self: &Rc<Self>, parts: mget::Parts) {
        let mut inner = self.inner.borrow_mut();
        let (seq, arrived) = (parts.place.seq, parts.arrived);
        // It waits for its turn, and what comes before it may need another lane, which a client with something in flight
        // does not get.
        inner.in_flight -= 1;
        inner.output.defer(seq, parts, arrived);
        drop(inner);
        self.worker.counters.fences.add(1);
        self.worker.mark_dirty(self);
    }

    /// The read that this one waited for was answered.
    pub(super) fn joined(self: &Rc<Self>, seq: Seq, raw: Raw<'_>) {
        let mut inner = self.inner.borrow_mut();
        if let Some((request, key)) = inner.joined.remove(&seq) {
            self.worker.reuse(request);
            inner.waits -= 1;
            inner.read_ended(key);
            inner.output.complete(seq, raw, None);
        }
        drop(inner);
        self.worker.mark_dirty(self);
    }

    /// The read that this one waited for came to nothing.
    pub(super) fn ask_again(self: &Rc<Self>, seq: Seq) {
        let mut inner = self.inner.borrow_mut();
        if let Some((request, key)) = inner.joined.remove(&seq) {
            inner.waits -= 1;
            inner.read_ended(key);
            inner.ask_again(Repeat { seq, request, was_lost: false });
        }
        drop(inner);
        self.wake();
    }

    /// Writes what can be written, and looks after what the batch has changed.
    pub(super) fn flush(self: &Rc<Self>) {
        let change = self.write_out();
        let may_be_over = self.ending.get() != Ending::No || self.worker.draining.get();
        if change.is_blocked_anew || may_be_over || self.inner.borrow().needs_attention() {
            self.wake();
        }
    }

    /// The same within the session's own task, which is about to look at everything: only what the writing itself
    /// has changed calls for another round, or a client that takes nothing would keep the task running.
    fn flush_own(self: &Rc<Self>) {
        let change = self.write_out();
        let inner = self.inner.borrow();
        if change.is_blocked_anew || !inner.again.is_empty() || (change.has_moved && inner.is_held) {
            self.wake();
        }
    }

    /// Writes what can be written.
    pub(super) fn write_out(self: &Rc<Self>) -> Change {
        let mut inner = self.inner.borrow_mut();
        let before = inner.output.queued();
        self.advance(&mut inner);
        let mut has_moved = before != inner.output.queued();
        let was_blocked = inner.is_write_blocked;
        let write = self.write.borrow();
        while let Some(write) = write.as_ref().filter(|_| !inner.output.ready().is_empty()) {
            match write_some(write, inner.output.ready()) {
                Ok(written) => {
                    if was_blocked {
                        // It reads, which is as good as saying something.
                        self.info.active.store(clock::now().0, Ordering::Relaxed);
                    }
                    has_moved = true;
                    inner.output.ready().advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.end(Ending::Now);
                    break;
                }
            }
        }
        inner.is_write_blocked = !inner.output.ready().is_empty();
        inner.output.ready().give_back(&mut self.worker.spares.borrow_mut());
        let limit = self.worker.shared.config.server.output_limit;
        if inner.output.gathered() > limit && self.ending.get() != Ending::Now {
            self.worker.counters.output_limit_disconnections.add(1);
            tracing::warn!(client = self.info.id.0, peer = %self.info.peer, "cut off: server.output_limit");
            self.end(Ending::Now);
        }
        let change = Change { is_blocked_anew: inner.is_write_blocked && !was_blocked, has_moved };
        let is_passing = inner.output.is_passing();
        drop(inner);
        if is_passing && has_moved {
            self.resume();
        }
        change
    }

    /// Moves what is due to the ready bytes.
    pub(super) fn advance(self: &Rc<Self>, inner: &mut Inner) {
        let certifier = self.worker.shared.coherence.certifier();
        loop {
            match inner.output.advance(|moment| certifier.is_past(moment)) {
                Stop::Waiting => return,
                Stop::Deferred(parts) => self.finish_mget(inner, parts),
                Stop::Fence(moment) => {
                    // Parked first, asked second, looked at third: a certification in between is not missed.
                    self.worker.park(self);
                    certifier.want(moment);
                    if !certifier.is_past(moment) {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn after_batch(self: &Rc<Self>, flow: &Flow) {
        let mut inner = self.inner.borrow_mut();
        inner.is_held = matches!(flow, Flow::Held | Flow::Await(_));
        let quiet = inner.output.ready().is_empty() && !inner.is_write_blocked;
        let is_rest_near = self.is_rest_near(&mut inner);
        drop(inner);
        if is_rest_near {
            // What comes writes it. Should that take its time after all, the worker does.
            return self.worker.write_later(self);
        }
        if quiet {
            self.inner.borrow_mut().output.ready().give_back(&mut self.worker.spares.borrow_mut());
        } else {
            self.flush_own();
        }
    }

    /// Whether what the batch still waits for will be here in a moment, so that all can be written together.
    fn is_rest_near(&self, inner: &mut Inner) -> bool {
        let len = inner.output.ready().len();
        inner.output.queued() > 0
            && (1..=WAITING_BYTES_MAX).contains(&len)
            && !inner.is_write_blocked
            && inner.again.is_empty()
            && inner.exclusive.is_none()
            && inner.private_lane.is_none()
            && inner.lane.as_ref().is_some_and(|lane| lane.answers_within(REST_WITHIN, self.now()))
    }

    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.inner.borrow().profile.identity)
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.inner.borrow().profile.protocol
    }

    /// A SELECT, HELLO or AUTH on the exclusive connection has taken effect.
    pub(super) fn changed(&self, change: impl FnOnce(&mut Profile)) {
        let mut inner = self.inner.borrow_mut();
        let before = inner.profile.clone();
        change(&mut inner.profile);
        if inner.profile != before {
            // The shared lane, which the client goes back to, is another one.
            inner.pin(None);
            self.show_profile(&inner);
        }
    }

    /// Tells CLIENT LIST.
    pub(super) fn show_profile(&self, inner: &Inner) {
        let mut details = self.info.details.lock();
        details.database = inner.profile.database;
        details.protocol = inner.profile.protocol;
        details.user.clone_from(&inner.profile.identity.user);
    }

    /// Whether a read whose connection died may be sent once more: only if nothing that is no read was sent after
    /// it, for it would see what came later.
    pub(super) fn may_ask_again(&self, seq: Seq) -> bool {
        let inner = self.inner.borrow();
        self.worker.shared.config.upstream.retry_reads
            && self.ending.get() == Ending::No
            && inner.exclusive.is_none()
            && inner.last_write.is_none_or(|write| write < seq)
    }

    pub(super) fn lost_read(self: &Rc<Self>, place: &Place, request: Vec<u8>) {
        let mut inner = self.inner.borrow_mut();
        inner.settle(place);
        inner.ask_again(Repeat { seq: place.seq, request, was_lost: true });
        drop(inner);
        self.worker.counters.retried_reads.add(1);
        self.wake();
    }

    /// Sends the reads again that came to nothing; false while they have to wait.
    pub(super) fn ask_pending_again(self: &Rc<Self>, inner: &mut Inner) -> bool {
        while let Some(repeat) = inner.again.pop_front() {
            let lane = match self.lane(inner) {
                Ok(lane) => lane,
                Err(NoLane::Wait) => {
                    inner.again.push_front(repeat);
                    return false;
                }
                Err(NoLane::Failed(error)) => {
                    inner.waits -= 1;
                    let raw = error.reply();
                    inner.output.complete(repeat.seq, Raw::Borrowed(&raw), None);
                    self.worker.mark_dirty(self);
                    continue;
                }
            };
            inner.waits -= 1;
            self.resend(inner, &lane, &repeat);
        }
        true
    }
}
