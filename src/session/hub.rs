//! A hub: one subscription connection that many clients of a worker share, of one user and in one protocol.
//!
//! It is for the subscribers for whom `upstream.max_subscribed` has no room. Everything about them that has a place in
//! the stream is sent and answered here, so that the server's own order decides who is told what: a client hears a
//! channel from where its SUBSCRIBE was confirmed, though others had it before, to where its UNSUBSCRIBE was answered,
//! though others keep it. Where nothing has to be said to the server, a mark is: UNSUBSCRIBE of what nobody has. A hub
//! that ends takes all who hear anything with it, as each one's own connection would.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};

use super::{
    Session,
    sharing::Change,
    state::{Family, PubSubFrame, Subscriptions, pub_sub_frame, subscribes},
    ticket::{Place, error},
    topics::Topics,
    worker::Worker,
};
use crate::{
    clock::{self, Nanos},
    ids::{Database, IdentityId, ServerId},
    resp::{FrameKind, OutputBuffer, Protocol, Raw, encode_request, reply},
    upstream::{
        completion::{Completion, Loss, Progress},
        connection::{Connection, DialError, Profile},
        lane::{Hooks, Lane, Pinned},
    },
};

/// A hub that nobody shares is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// One worker's hubs. Of several clients that need one which is not there, one dials and the others wait for it.
#[derive(Default)]
pub(super) struct Hubs(RefCell<HashMap<(IdentityId, Protocol), Rc<Slot>>>);

/// Where a hub is, or is being dialled by whoever has it locked.
type Slot = Mutex<Option<Rc<Hub>>>;

/// A shared subscription connection.
pub(super) struct Hub {
    lane: Rc<Lane<Errand>>,
    worker: Weak<Worker>,
    topics: RefCell<Topics<Hearer>>,
    /// What waits for a mark that is not sent yet: one is in flight.
    held: RefCell<Vec<Held>>,
    is_marking: Cell<bool>,
    /// What nobody wanted any more when the server was too busy to be told.
    untold: RefCell<Vec<(Family, Names)>>,
}

/// What topics of one family are called.
type Names = Vec<Box<[u8]>>;

/// A client that hears something.
pub(super) struct Hearer(Rc<Session>);

impl PartialEq for Hearer {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// A command on a hub.
pub(super) enum Errand {
    /// A client's SUBSCRIBE or UNSUBSCRIBE, with the answers that are still to come.
    Change(Rc<Change>, usize),
    /// What the server has the words for: a PING, or what it refuses a subscriber.
    Relay { session: Rc<Session>, place: Place, is_ping: bool },
    /// UNSUBSCRIBE from what nobody wants any more, with the answers that are still to come.
    Leave(Rc<Hub>, Family, Names, usize),
    /// Everything that was published before is told before this.
    Mark(Rc<Hub>, Vec<Held>),
}

/// What waits for a mark.
pub(super) enum Held {
    /// A reply that came on another connection.
    Reply { session: Rc<Session>, place: Place, raw: Bytes, fence: Option<Nanos> },
    /// Whoever awaits it.
    Told(oneshot::Sender<()>),
}

impl Hubs {
    /// The hub for clients of this profile, whose database does not matter.
    ///
    /// Cancel safe: another who waits for it dials in its place.
    pub(super) async fn get(&self, worker: &Rc<Worker>, profile: &Profile) -> Result<Rc<Hub>, DialError> {
        let shared = &worker.shared;
        let slot = Rc::clone(self.0.borrow_mut().entry((profile.identity.id, profile.protocol)).or_default());
        let mut hub = slot.lock().await;
        if let Some(hub) = hub.as_ref().filter(|hub| hub.is_usable(shared.coherence.server())) {
            return Ok(Rc::clone(hub));
        }
        if let Some(error) = shared.health.down_reason() {
            return Err(error);
        }
        let profile = Profile { database: Database::default(), ..profile.clone() };
        let connection = shared.dialer.open(profile, "nearhit-subscription").await?;
        let connection = worker.lanes.identified(connection).await;
        Ok(Rc::clone(hub.insert(Hub::open(worker, connection))))
    }

    /// Periodic care: closes those that nobody has shared for long, and those that end at another process than
    /// `server`, where the upstream is no more.
    pub(super) fn sweep(&self, now: Nanos, server: ServerId) {
        self.0.borrow_mut().retain(|_, slot| {
            // Who has it locked is dialling.
            let Ok(mut hub) = slot.try_lock() else { return true };
            if let Some(hub) = &*hub {
                hub.untold.take().into_iter().for_each(|(family, names)| hub.unsubscribe(family, names));
                hub.lane.close_if_idle(now, IDLE_TIMEOUT);
                if hub.lane.greeting.server.is_another(server) {
                    hub.lane.close();
                }
            }
            hub.take_if(|hub| !hub.is_open());
            hub.is_some() || Rc::strong_count(slot) > 1
        });
    }
}

impl Hub {
    fn open(worker: &Rc<Worker>, connection: Connection) -> Rc<Self> {
        let (counters, health) = (Arc::clone(&worker.counters), Arc::clone(&worker.shared.health));
        counters.hubs.add(1);
        Rc::new_cyclic(|hub: &Weak<Self>| {
            let hooks = Hooks {
                batch_end: Rc::new({
                    let hub = Weak::clone(hub);
                    move || {
                        if let Some(hub) = hub.upgrade() {
                            hub.batch_end();
                        }
                    }
                }),
                unsolicited: Some(Box::new({
                    let hub = Weak::clone(hub);
                    move |raw, kind, arrived| hub.upgrade()?.sort(raw, kind, arrived)
                })),
                ended: Box::new({
                    let hub = Weak::clone(hub);
                    move |loss: Option<&Loss>| {
                        counters.hubs.sub(1);
                        if let Some(loss) = loss {
                            health.suspect(&loss.to_string());
                        }
                        if let Some(hub) = hub.upgrade() {
                            hub.ended();
                        }
                    }
                }),
            };
            Self {
                lane: Lane::open(connection, worker.shared.dialer.address(), hooks),
                worker: Rc::downgrade(worker),
                topics: RefCell::new(Topics::new()),
                held: RefCell::default(),
                is_marking: Cell::new(false),
                untold: RefCell::default(),
            }
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.lane.is_open()
    }

    fn is_usable(&self, server: ServerId) -> bool {
        self.lane.is_usable() && !self.lane.greeting.server.is_another(server)
    }

    /// Whether the server takes in requests too slowly; then `waker` is woken when it has caught up.
    pub(super) fn is_congested(&self, waker: Option<&Waker>) -> bool {
        self.lane.is_congested(waker)
    }

    /// One client's share in it.
    pub(super) fn pin(&self) -> Pinned<Errand> {
        Pinned::new(Rc::clone(&self.lane))
    }

    /// Sends a client's SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn change(&self, change: &Rc<Change>, request: Raw<'_>) {
        let (family, names) = (change.family(), &change.changing);
        let mut topics = self.topics.borrow_mut();
        if subscribes(change.kind) {
            // Also where others have it: the answer says from where on this client hears it.
            names.iter().for_each(|name| topics.want(family, name));
            let answers = change.names.len();
            return self.send(Errand::Change(Rc::clone(change), answers), |out| out.push(request));
        }
        let mut gone: Vec<&[u8]> = names.iter().map(|name| &**name).collect();
        gone.retain(|name| topics.unwant(family, name));
        let nobodys = topics.nobodys(family);
        if gone.is_empty() {
            gone.push(&nobodys);
        }
        let (answers, request) = (gone.len(), unsubscribe(family, gone));
        self.send(Errand::Change(Rc::clone(change), answers), |out| out.extend(&request));
    }

    /// The server has answered: the client hears, or no longer does, what `change` names, or all is as it was before.
    pub(super) fn changed(&self, session: &Rc<Session>, change: &Change, is_refused: bool) {
        let mut topics = self.topics.borrow_mut();
        let family = change.family();
        for name in &change.changing {
            match (subscribes(change.kind), is_refused) {
                (true, false) => topics.hear(family, name, Hearer(Rc::clone(session))),
                (true, true) => {
                    topics.unwant(family, name);
                }
                (false, false) => topics.unhear(family, name, &Hearer(Rc::clone(session))),
                (false, true) => topics.want(family, name),
            }
        }
    }

    /// A client goes, whatever it hears, and whatever it has asked for and not been told yet.
    pub(super) fn leave(
        self: &Rc<Self>,
        session: &Rc<Session>,
        heard: &Subscriptions,
        asked: Option<&Change>,
    ) {
        let who = Hearer(Rc::clone(session));
        let mut topics = self.topics.borrow_mut();
        let mut gone = Vec::new();
        for family in Family::ALL {
            let asked = asked.filter(|change| change.family() == family);
            let (wanted, given_up) = match asked {
                Some(change) if subscribes(change.kind) => (&change.changing[..], &[][..]),
                Some(change) => (&[][..], &change.changing[..]),
                None => (&[][..], &[][..]),
            };
            heard.of(family).iter().for_each(|name| topics.unhear(family, name, &who));
            let still = heard.of(family).iter().filter(|name| !given_up.contains(name)).chain(wanted);
            gone.push((family, still.filter(|name| topics.unwant(family, name)).cloned().collect()));
        }
        drop(topics);
        gone.into_iter().for_each(|(family, names)| self.unsubscribe(family, names));
    }

    /// Tells the server that nobody wants these, as far as it is still so.
    fn unsubscribe(self: &Rc<Self>, family: Family, mut names: Names) {
        names.retain(|name| !self.topics.borrow().is_wanted(family, name));
        if !names.is_empty() && self.is_open() {
            let request = unsubscribe(family, names.iter());
            let answers = names.len();
            self.send(Errand::Leave(Rc::clone(self), family, names, answers), |out| out.extend(&request));
        }
    }

    /// Has the server answer a subscriber what this connection, which is subscribed, may be asked without harm.
    pub(super) fn relay(&self, session: Rc<Session>, place: Place, is_ping: bool, request: Raw<'_>) {
        self.send(Errand::Relay { session, place, is_ping }, |out| out.push(request));
    }

    /// Lets go of `held` once everything has been told that was published before now.
    pub(super) fn mark(self: &Rc<Self>, held: Held) {
        if !self.is_open() {
            return held.release();
        }
        self.held.borrow_mut().push(held);
        self.mark_next();
    }

    /// One mark at a time, for all that wait by then.
    fn mark_next(self: &Rc<Self>) {
        if self.is_marking.get() || !self.is_open() || self.held.borrow().is_empty() {
            return;
        }
        self.is_marking.set(true);
        let nobodys = self.topics.borrow().nobodys(Family::Channel);
        let request = unsubscribe(Family::Channel, [nobodys]);
        self.send(Errand::Mark(Rc::clone(self), self.held.take()), |out| out.extend(&request));
    }

    fn send(&self, errand: Errand, write: impl FnOnce(&mut OutputBuffer)) {
        // No time is set: the order of a stream cannot go on without an answer, nor can a subscriber.
        let sent = self.lane.send(errand, clock::now(), Nanos::FOREVER, write);
        debug_assert!(sent.is_ok(), "whoever sends has looked whether it is open");
    }

    /// Tells a message to those who hear it; gives back what answers a command.
    fn sort<'a>(&self, raw: Raw<'a>, kind: FrameKind, arrived: Nanos) -> Option<Raw<'a>> {
        match pub_sub_frame(&raw) {
            PubSubFrame::Message(family) => {
                self.tell(family, &raw, arrived);
                None
            }
            PubSubFrame::Other if kind == FrameKind::Push => None,
            _ => Some(raw),
        }
    }

    fn tell(&self, family: Family, message: &Raw<'_>, arrived: Nanos) {
        let topic = reply::elements(message).and_then(|mut elements| elements.nth(1)).and_then(reply::bulk);
        let (Some(topic), Some(worker)) = (topic, self.worker.upgrade()) else { return };
        let topics = self.topics.borrow();
        let hearing = topics.hearing(family, topic);
        if hearing.is_empty() {
            return;
        }
        // Invariant 11: news does not outrun its key.
        let fence = worker.news_fence(arrived);
        // What has to wait is kept once for all.
        let message =
            if fence.is_some() { Raw::Shared(message.clone().into_bytes()) } else { message.clone() };
        hearing.iter().for_each(|Hearer(session)| session.tell(message.clone(), fence));
    }

    fn batch_end(self: &Rc<Self>) {
        self.mark_next();
        if let Some(worker) = self.worker.upgrade() {
            worker.flush_dirty();
        }
    }

    fn ended(&self) {
        self.held.take().into_iter().for_each(Held::release);
        let topics = self.topics.replace(Topics::new());
        topics.into_all().for_each(|Hearer(session)| session.hub_ended());
    }
}

impl Held {
    fn release(self) {
        match self {
            Self::Reply { session, place, raw, fence } => session.landed(&place, Raw::Shared(raw), fence),
            // Whoever has gone does not wait.
            Self::Told(told) => drop(told.send(())),
        }
    }
}

impl Completion for Errand {
    fn reply(&mut self, raw: Raw<'_>, _: Nanos) -> Progress {
        let is_error = reply::is_error(&raw);
        match self {
            // An error is the only answer.
            Self::Change(_, answers) | Self::Leave(.., answers) if !is_error && *answers > 1 => {
                *answers -= 1;
                return Progress::More;
            }
            Self::Change(change, _) => change.answered(is_error.then_some(raw)),
            Self::Leave(hub, family, names, _) => {
                if reply::error_code(&raw) == Some(b"BUSY") {
                    hub.untold.borrow_mut().push((*family, std::mem::take(names)));
                }
            }
            Self::Relay { session, place, is_ping } => {
                if !is_error && !*is_ping {
                    // It has done what it was to refuse.
                    session.hub().inspect(|hub| hub.lane.close());
                }
                session.relayed(place, raw);
            }
            Self::Mark(hub, held) => {
                hub.is_marking.set(false);
                held.drain(..).for_each(Held::release);
            }
        }
        Progress::Done
    }

    fn lost(self, loss: &Loss) {
        let text = error(&format!("nearhit: {loss}; the command may or may not have been executed"));
        match self {
            Self::Change(change, _) => change.answered(Some(text.as_slice().into())),
            Self::Relay { session, place, .. } => session.relayed(&place, text.as_slice().into()),
            Self::Leave(..) => {}
            Self::Mark(_, held) => held.into_iter().for_each(Held::release),
        }
    }

    fn timed_out(&mut self) {
        debug_assert!(false, "no time was set");
    }
}

fn unsubscribe(family: Family, names: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut request = Vec::new();
    let names: Vec<_> = names.into_iter().collect();
    let words = [family.unsubscribe().as_bytes()].into_iter().chain(names.iter().map(AsRef::as_ref));
    encode_request(words, &mut request);
    request
}
