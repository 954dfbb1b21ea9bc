//! Subscriptions, MONITOR and a client's own tracking: what a server says without being asked each time.
//!
//! A frame of an exclusive connection is a reply or it is not, and here that is decided: by its kind in RESP3, by its
//! looks in RESP2.

use std::rc::Rc;

use super::{
    Inner, Next, Session,
    exclusive::Purpose,
    state::{PubSubFrame, pub_sub_frame},
    ticket::Work,
};
use crate::{
    clock::Nanos,
    coherence::Batch,
    command::SubscribeKind,
    resp::{Args, FrameKind, Protocol, Raw},
};

impl Session {
    pub(super) fn subscribe(
        self: &Rc<Self>,
        inner: &mut Inner,
        kind: SubscribeKind,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if let Some(exclusive) = inner.exclusive.as_mut() {
            exclusive.purpose = Purpose::Subscribed;
        }
        // Confirmations are told whatever CLIENT REPLY says.
        let mute = std::mem::take(&mut inner.mute);
        let work = Work::Subscribe { kind, named: args.len() - 1, left: None, mute, gathered: Vec::new() };
        let next = self.forward(inner, batch, request, work);
        inner.mute = mute;
        inner.subscribing += usize::from(!matches!(next, Next::Hold));
        next
    }

    /// A frame on the exclusive connection: kept if nobody asked for it, given back if it is a reply.
    pub(super) fn unsolicited<'a>(
        self: &Rc<Self>,
        raw: Raw<'a>,
        kind: FrameKind,
        arrived: Nanos,
    ) -> Option<Raw<'a>> {
        let mut inner = self.inner.borrow_mut();
        let is_resp2_subscriber =
            inner.profile.protocol == Protocol::Resp2 && !inner.subscriptions.is_empty();
        let is_message = match (kind, pub_sub_frame(&raw)) {
            // A confirmation that no command waits for: the server has unsubscribed the client by itself.
            (FrameKind::Push, PubSubFrame::Confirmation(kind)) if inner.subscribing == 0 => {
                inner.subscriptions.confirm(kind, &raw);
                true
            }
            (FrameKind::Push, frame) => !matches!(frame, PubSubFrame::Confirmation(_)),
            (FrameKind::Reply, _) if inner.is_monitoring => is_monitor_line(&raw),
            (FrameKind::Reply, frame) => is_resp2_subscriber && matches!(frame, PubSubFrame::Message(_)),
        };
        if !is_message {
            return Some(raw);
        }
        let raw = match inner.redirect {
            // An invalidation, of the client's own tracking.
            Some(redirect) if kind == FrameKind::Push && pub_sub_frame(&raw) == PubSubFrame::Other => {
                redirect.shown(raw)
            }
            _ => raw,
        };
        // Invariant 11: news does not outrun its key. That goes for the invalidations of the client's own tracking, too,
        // if they may be of keys that it looks at by another connection. Those of what it has read by this one are looked
        // at by this one again, and are not kept back: the server sends them in one go with the reply to the client's
        // own write. A line of MONITOR is no news: it would make the link ask, and be told of that by the next line, for
        // ever.
        let is_own_read = pub_sub_frame(&raw) == PubSubFrame::Other
            && inner.exclusive.as_ref().is_some_and(|exclusive| exclusive.tracks_reads);
        let is_news = if kind == FrameKind::Push { !is_own_read } else { !inner.is_monitoring };
        let fence = if is_news { self.worker.news_fence(arrived) } else { None };
        inner.output.insert_message(raw, fence);
        drop(inner);
        self.worker.mark_dirty(self);
        None
    }

    /// A SUBSCRIBE or UNSUBSCRIBE has had all its confirmations, or an error.
    pub(super) fn subscribe_ended(&self) {
        self.inner.borrow_mut().subscribing -= 1;
    }

    pub(super) fn confirmations(&self, kind: SubscribeKind, named: usize) -> usize {
        self.inner.borrow_mut().subscriptions.confirmations(kind, named)
    }

    pub(super) fn confirmed(&self, kind: SubscribeKind, frame: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        inner.subscriptions.confirm(kind, frame);
        self.info.details.lock().subscriptions = inner.subscriptions.counts();
    }

    /// MONITOR has begun: what follows its answer is not asked for line by line.
    pub(super) fn monitors(&self) {
        self.inner.borrow_mut().is_monitoring = true;
    }
}

/// `+1700000000.123456 [0 127.0.0.1:1234] "get" "k"`.
fn is_monitor_line(raw: &[u8]) -> bool {
    raw.first() == Some(&b'+')
        && raw.get(1).is_some_and(u8::is_ascii_digit)
        && raw.windows(2).any(|two| two == b" [")
}
