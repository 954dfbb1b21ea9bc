//! A client that shares a hub: how it comes to it, what it may say there, and how it goes.
//!
//! A subscriber has a connection of its own as long as `upstream.max_subscribed` has room; else it gets a share of its
//! worker's hub, for as long as it is subscribed to anything. What has a place among the messages travels on the hub,
//! one command at a time; in RESP3 everything else goes its usual way, and its replies wait for a mark on the hub, so
//! that a message that was published before is told before. A sharer reads nothing from memory.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Ending, Inner, Next, Session,
    exclusive::Purpose,
    hub::{Errand, Held, Hub},
    state::{Family, subscribes},
    ticket::{self, Place},
    transition::{Transition, Verdict},
};
use crate::{
    clock::Nanos,
    coherence::Batch,
    command::{Class, Command, Local, SubscribeKind},
    metrics::Counters,
    resp::{Args, Protocol, Raw, Value},
    upstream::{
        connection::DialError,
        lane::Pinned,
        pool::{CheckoutError, Patience},
    },
};

/// What a RESP2 client subscribes to so as to be told what another one's tracking tells. The server tells it to one
/// connection, which must be that client's alone.
const INVALIDATIONS: &[u8] = b"__redis__:invalidate";

/// A client's share in a hub.
pub(super) struct Share {
    hub: Rc<Hub>,
    _pin: Pinned<Errand>,
    /// Its SUBSCRIBE or UNSUBSCRIBE that is in flight.
    asked: Option<Rc<Change>>,
    counters: Arc<Counters>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counters.hub_clients.sub(1);
    }
}

/// A SUBSCRIBE or UNSUBSCRIBE of a sharer.
pub(super) struct Change {
    session: Rc<Session>,
    place: Place,
    pub(super) kind: SubscribeKind,
    /// What it names, or what it means where it names nothing.
    pub(super) names: Vec<Box<[u8]>>,
    /// Those of them that it begins or ends, each once.
    pub(super) changing: Vec<Box<[u8]>>,
    /// CLIENT REPLY OFF or SKIP: an error is not told.
    mute: bool,
}

impl Session {
    /// A client that is not subscribed wants to be.
    pub(super) fn acquire_subscription(inner: &mut Inner, class: Class, args: Args<'_>) -> Next {
        // A hub lets in all who share it: who has to authenticate would be one of those who had not to.
        let may_share = inner.wants_auth() == Some(false) && !hears_invalidations(args);
        match Self::acquire(inner, class) {
            Next::Await(_) if may_share => Next::Await(Transition::Subscribe),
            next => next,
        }
    }

    /// Takes out a connection of its own, or a share in a hub where there is none left.
    pub(super) async fn subscribe_somewhere(self: &Rc<Self>) {
        let error = match self.try_check_out(Purpose::Subscribed, Patience::None).await {
            Ok(()) => return,
            Err(CheckoutError::Dial(error)) => error,
            Err(CheckoutError::Exhausted { .. }) => match self.join_hub().await {
                Ok(()) => return,
                Err(error) => error,
            },
        };
        self.inner.borrow_mut().verdict = Some(Verdict::Refused(error.reply().to_vec()));
    }

    async fn join_hub(self: &Rc<Self>) -> Result<(), DialError> {
        let profile = self.inner.borrow().profile.clone();
        let hub = self.worker.hubs.get(&self.worker, &profile).await;
        let hub = hub.inspect_err(|error| self.dial_failed(&profile, error))?;
        let counters = Arc::clone(&self.worker.counters);
        counters.hub_clients.add(1);
        let share = Share { _pin: hub.pin(), hub, asked: None, counters };
        self.inner.borrow_mut().share = Some(share);
        Ok(())
    }

    /// Gives the share back, if there is one.
    pub(super) fn leave_hub(self: &Rc<Self>, inner: &mut Inner) {
        if let Some(share) = inner.share.take() {
            share.hub.leave(self, &inner.subscriptions, share.asked.as_deref());
        }
    }

    /// A request of a sharer: it has a place in the order of its hub, or goes its usual way.
    pub(super) fn on_share(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        class: Class,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let Some(hub) = inner.share.as_ref().map(|share| Rc::clone(&share.hub)) else { return Next::Hold };
        if inner.subscribing > 0 {
            // What the client says next it means for then, on whatever connection that travels.
            return Next::Hold;
        }
        if !hub.is_open() {
            if !inner.subscriptions.is_empty() {
                // It is about to take this client with it.
                return Next::Hold;
            }
            self.leave_hub(inner);
            return self.route(inner, command, class, batch, args, request);
        }
        let is_restricted = inner.profile.protocol == Protocol::Resp2 && !inner.subscriptions.is_empty();
        match class {
            _ if inner.transaction.is_some() || inner.doomed.is_some() => {}
            Class::Subscribe(kind) => return self.change(inner, &hub, kind, args, request),
            Class::Session(Local::Quit | Local::Reset) => {
                if !inner.is_drained() {
                    return Next::Hold;
                }
                if inner.verdict.take_if(|verdict| matches!(verdict, Verdict::CaughtUp)).is_none() {
                    return Next::Await(Transition::CatchUp);
                }
            }
            // Said on another connection, it would change that one alone.
            Class::Session(Local::Hello | Local::Auth) if inner.exclusive.is_some() => {
                return inner.refuse(CANNOT_CHANGE);
            }
            Class::Refused => {}
            // It may have been renamed, and is not to be done to all who share.
            _ if is_restricted && command.is_unheard_of() => {
                let raw = ticket::error(&unknown(args)).into();
                let place = inner.place();
                inner.expect(&place);
                hub.mark(Held::Reply { session: Rc::clone(self), place, raw, fence: None });
                return Next::Done;
            }
            _ if is_restricted => {
                let is_ping = class == Class::Session(Local::Ping);
                return self.relay(inner, &hub, is_ping, request);
            }
            _ => {}
        }
        self.route(inner, command, class, batch, args, request)
    }

    /// SUBSCRIBE and UNSUBSCRIBE: one of a client at a time.
    fn change(
        self: &Rc<Self>,
        inner: &mut Inner,
        hub: &Rc<Hub>,
        kind: SubscribeKind,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if !inner.is_drained() || hub.is_congested(self.waker.borrow().as_ref()) {
            return Next::Hold;
        }
        let begins = subscribes(kind);
        if begins && args.len() == 1 {
            return self.relay(inner, hub, false, request);
        }
        if begins && hears_invalidations(args) {
            let max = self.worker.shared.config.upstream.max_subscribed;
            let text = format!(
                "ERR nearhit: all {max} upstream connections for subscribed clients are in use \
                 (upstream.max_subscribed), and invalidations cannot be heard on a shared one"
            );
            return inner.refuse(&text);
        }
        let heard = inner.subscriptions.of(kind.into());
        let mut names: Vec<Box<[u8]>> = args.iter().skip(1).map(Box::from).collect();
        if names.is_empty() {
            names.extend(heard.iter().cloned());
        }
        let mut changing = names.clone();
        changing.retain(|name| heard.contains(name) != begins);
        changing.sort_unstable();
        changing.dedup();
        let place = Place::new(inner.output.reserve(false));
        inner.expect(&place);
        inner.subscribing += 1;
        self.worker.counters.upstream_commands.add(1);
        let session = Rc::clone(self);
        let change = Rc::new(Change { session, place, kind, names, changing, mute: inner.mute });
        if let Some(share) = inner.share.as_mut() {
            share.asked = Some(Rc::clone(&change));
        }
        hub.change(&change, request);
        Next::Done
    }

    fn relay(self: &Rc<Self>, inner: &mut Inner, hub: &Rc<Hub>, is_ping: bool, request: Raw<'_>) -> Next {
        if hub.is_congested(self.waker.borrow().as_ref()) {
            return Next::Hold;
        }
        let place = inner.place();
        inner.expect(&place);
        self.worker.counters.upstream_commands.add(1);
        hub.relay(Rc::clone(self), place, is_ping, request);
        Next::Done
    }

    /// What was relayed has been answered.
    pub(super) fn relayed(self: &Rc<Self>, place: &Place, raw: Raw<'_>) {
        let mut inner = self.inner.borrow_mut();
        inner.settle(place);
        if inner.is_drained() && inner.subscriptions.is_empty() {
            // A SUBSCRIBE that names nothing was its first.
            self.leave_hub(&mut inner);
        }
        drop(inner);
        self.deliver(place.seq, raw, None);
    }

    /// A message for this client.
    pub(super) fn tell(self: &Rc<Self>, message: Raw<'_>, fence: Option<Nanos>) {
        // Behind the answer to QUIT nothing comes.
        if self.ending.get() == Ending::No {
            self.inner.borrow_mut().output.insert_message(message, fence);
            self.worker.mark_dirty(self);
        }
    }

    /// Waits until everything is told that was published before now.
    pub(super) async fn catch_up(&self) {
        let (told, mark) = oneshot::channel();
        match self.hub() {
            Some(hub) => hub.mark(Held::Told(told)),
            // There is nothing left to be told.
            None => drop(told),
        }
        let _ = mark.await;
    }

    /// What this client shares.
    pub(super) fn hub(&self) -> Option<Rc<Hub>> {
        self.inner.borrow().share.as_ref().map(|share| Rc::clone(&share.hub))
    }

    /// The hub has ended, and what this client heard there would be missed without a word.
    pub(super) fn hub_ended(&self) {
        // What blocks on another connection may be answered never.
        let is_blocked = self.info.blocking.load(Ordering::Relaxed) > 0;
        self.end(if is_blocked { Ending::Now } else { Ending::AfterOutput });
        self.wake();
    }
}

impl Change {
    pub(super) fn family(&self) -> Family {
        self.kind.into()
    }

    /// The server has answered, or refuses.
    pub(super) fn answered(&self, refusal: Option<Raw<'_>>) {
        let session = &self.session;
        let mut inner = session.inner.borrow_mut();
        let inner = &mut *inner;
        inner.settle(&self.place);
        inner.subscribing -= 1;
        let Some(share) = inner.share.as_mut() else { return };
        share.asked = None;
        share.hub.changed(session, self, refusal.is_some());
        let answer = match refusal {
            Some(_) if self.mute => Raw::Borrowed(b""),
            Some(raw) => raw,
            None => Raw::Shared(self.confirm(inner).into()),
        };
        inner.output.complete(self.place.seq, answer, None);
        session.info.details.lock().subscriptions = inner.subscriptions.counts();
        if inner.subscriptions.is_empty() {
            session.leave_hub(inner);
        }
        session.worker.mark_dirty(session);
    }

    /// Takes the change in, and says so as the server would to this client alone.
    fn confirm(&self, inner: &mut Inner) -> Vec<u8> {
        let family = self.family();
        let verb = if subscribes(self.kind) { family.subscribe() } else { family.unsubscribe() };
        let mut out = Vec::new();
        let mut confirm = |name: Value, count: usize| {
            let count = Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
            Value::Push(vec![Value::bulk(verb), name, count]).encode(inner.profile.protocol, &mut out);
        };
        if self.names.is_empty() {
            confirm(Value::Nil, inner.subscriptions.count(family));
        }
        for name in &self.names {
            inner.subscriptions.set(self.kind, name);
            confirm(Value::Bulk(Bytes::copy_from_slice(name)), inner.subscriptions.count(family));
        }
        out
    }
}

/// What a sharer is told that would become somebody else, or speak another protocol.
pub(super) const CANNOT_CHANGE: &str = "ERR nearhit: HELLO and AUTH have to wait for the last UNSUBSCRIBE, since this client shares a subscription connection";

fn hears_invalidations(args: Args<'_>) -> bool {
    args.iter().skip(1).any(|name| name == INVALIDATIONS)
}

/// Redis's words for a command that it does not know; it quotes 128 bytes of its arguments.
fn unknown(args: Args<'_>) -> String {
    const QUOTED_BYTES_MAX: usize = 128;
    let cut = |text: &[u8], len: usize| String::from_utf8_lossy(&text[..text.len().min(len)]).into_owned();
    let mut quoted = String::new();
    for argument in args.iter().skip(1) {
        if quoted.len() >= QUOTED_BYTES_MAX {
            break;
        }
        quoted = format!("{quoted}'{}' ", cut(argument, QUOTED_BYTES_MAX - quoted.len()));
    }
    let name = cut(&args[0], QUOTED_BYTES_MAX);
    format!("unknown command '{name}', with args beginning with: {quoted}")
}
