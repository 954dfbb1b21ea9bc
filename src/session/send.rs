//! Sending: which connection a client's commands travel on, and how they get there.

use std::{rc::Rc, sync::atomic::Ordering, task::Waker};

use super::{
    Ending, Inner, Next, Session,
    ticket::{self, Place, Ticket, Work},
};
use crate::{
    clock::Nanos,
    coherence::Batch,
    ids::IdentityId,
    resp::{OutputBuffer, Raw},
    upstream::{
        connection::{DialError, Profile},
        lane::{Lane, Pinned},
        lanes::Pick,
    },
};

impl Session {
    /// The connection that this client's commands travel on.
    pub(super) fn lane(&self, inner: &mut Inner) -> Result<Rc<Lane<Ticket>>, NoLane> {
        if let Some(exclusive) = &inner.exclusive {
            return Ok(Rc::clone(&exclusive.lane));
        }
        if let Some(lane) = &inner.lane {
            debug_assert!(lane.profile == inner.profile, "a lane of another user, database or protocol");
            // A retired or stalled lane is left only when nothing is in flight on it: the order of a pipeline is the
            // lane's. On one that has become another client's own, nothing more is sent meanwhile.
            let suits = lane.is_usable() && !lane.is_stalled(self.now());
            let stays = inner.private_lane.is_some() || (inner.in_flight > 0 && !lane.is_private());
            if suits || (lane.is_open() && stays) {
                let congested = lane.is_congested(self.waker.borrow().as_ref());
                return if congested { Err(NoLane::Wait) } else { Ok(Rc::clone(lane)) };
            }
            if inner.in_flight > 0 {
                return Err(NoLane::Wait);
            }
            inner.pin(None);
        }
        let lane = self.pick(&inner.profile)?;
        let shared = Rc::clone(&lane);
        inner.pin(Some(lane));
        Ok(shared)
    }

    /// The time of the batch at hand.
    pub(super) fn now(&self) -> Nanos {
        Nanos(self.info.active.load(Ordering::Relaxed))
    }

    pub(super) fn pick(&self, profile: &Profile) -> Result<Pinned<Ticket>, NoLane> {
        let waker = self.waker.borrow().clone().unwrap_or_else(|| Waker::noop().clone());
        match self.worker.lanes.pick(profile, self.now(), &waker) {
            Pick::Ready(lane) => Ok(lane),
            Pick::Dialing => Err(NoLane::Wait),
            Pick::Failed(error) => {
                self.end_if_disowned(profile, &error);
                Err(NoLane::Failed(error))
            }
        }
    }

    /// The server closes a user's connections when it deletes the user, and a client finds out by dialling again.
    /// Here nobody closes the client's own connection, so that is done once its user is found to be gone.
    fn end_if_disowned(&self, profile: &Profile, error: &DialError) {
        if profile.identity.is_verified()
            && matches!(error, DialError::Refused(raw) if raw.starts_with(b"-WRONGPASS"))
        {
            self.count_disowned();
            self.end_after_output();
        }
    }

    /// A connection of this client's own, or one that it was to share, could not be had.
    pub(super) fn dial_failed(&self, profile: &Profile, error: &DialError) {
        self.end_if_disowned(profile, error);
        if let Some(reason) = error.no_connection() {
            self.worker.shared.health.suspect(reason);
        }
    }

    pub(super) fn kill_if_of(&self, identity: IdentityId) {
        if self.inner.borrow().profile.identity.id == identity {
            self.count_disowned();
            self.kill();
        }
    }

    /// It is about to be cut off because its user is gone, which may be found out in more than one way.
    fn count_disowned(&self) {
        if self.ending.get() == Ending::No {
            self.worker.counters.auth_disowned.add(1);
        }
    }

    /// Sends one command; `write` encodes it.
    pub(super) fn send(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        lane: &Rc<Lane<Ticket>>,
        place: Place,
        work: Work,
        write: impl FnOnce(&mut OutputBuffer),
    ) -> Next {
        let since = if work.may_take_its_time() { Nanos::FOREVER } else { self.worker.since(batch.now) };
        inner.expect(&place);
        self.worker.counters.upstream_commands.add(1);
        if let Err(mut ticket) = lane.send(Ticket::new(Rc::clone(self), place, work), batch.now, since, write)
        {
            inner.settle(&ticket.place);
            // Another worker's client may have joined since leave to fill was given.
            self.all_ask_again(ticket.give_up());
            let address = self.worker.shared.dialer.address();
            let text = ticket::error(&format!("nearhit: upstream {address} is not answering"));
            inner.output.complete(ticket.place.seq, Raw::Borrowed(&text), None);
            self.worker.mark_dirty(self);
        }
        Next::Done
    }

    /// Sends a command that the cache need not know of.
    pub(super) fn forward_plain(self: &Rc<Self>, inner: &mut Inner, batch: &Batch, request: Raw<'_>) -> Next {
        self.forward(inner, batch, request, Work::Plain)
    }

    /// Sends a command that is no read, behind the reads it must not overtake.
    pub(super) fn forward(
        self: &Rc<Self>,
        inner: &mut Inner,
        batch: &Batch,
        request: Raw<'_>,
        work: Work,
    ) -> Next {
        if inner.waits > 0 {
            return Next::Hold;
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        let place = inner.place();
        inner.last_write = Some(place.seq);
        self.send(inner, batch, &lane, place, work, |out| out.push(request))
    }
}

impl Work {
    /// Whether there is no telling how long the server may rightly take.
    pub(super) fn may_take_its_time(&self) -> bool {
        matches!(self, Self::Blocking { .. } | Self::Subscribe { .. } | Self::Monitor | Self::Wait { .. })
    }
}

/// Why there is no connection to send on.
pub(super) enum NoLane {
    /// One is on its way, or the one there is must be drained first.
    Wait,
    /// The upstream cannot be reached, or refuses.
    Failed(DialError),
}
