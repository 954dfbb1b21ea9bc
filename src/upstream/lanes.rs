//! One worker's lanes: which there are, which a client gets, and what to say when there is none.
//!
//! Lanes are opened when first needed, a few for each profile and `SPARE_LANES` more while all of those are
//! stalled, and closed when long idle. One whose command timed out is replaced as soon as the server answers on another.
//! A failed dial is remembered for a backoff that grows with each failure, during which everybody gets the same error
//! at once instead of a queue in front of a dead host.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_local,
};

use super::{
    backoff::backoff,
    completion::{Completion, Loss},
    connection::{Connection, DialError, Dialer, Profile, ProfileKey},
    control::Question,
    health::Health,
    identity::Identity,
    lane::{Hooks, Lane, Pinned},
};
use crate::{
    clock::{self, Nanos},
    ids::{IdentityId, ServerId},
    metrics::Counters,
};

/// A further lane of a profile is opened only once those there are serve this many clients each: clients that
/// share a lane share its system calls.
const PINS_BEFORE_NEXT: usize = 16;

/// So many lanes of a profile may be opened beyond the policy's number when all are stalled, for those who can still
/// be answered.
const SPARE_LANES: usize = 2;

/// Lanes with nobody pinned to them are closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// What a worker decides about its lanes.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Lanes for each profile at most.
    pub per_profile: usize,
    /// Backoff after the first failed dial, and the longest one.
    pub backoff: (Duration, Duration),
    /// How long a command waits for its reply.
    pub command_timeout: Duration,
}

/// The answer to a client that needs a lane.
pub enum Pick<C: Completion> {
    /// Here it is.
    Ready(Pinned<C>),
    /// One is being dialled; the waker will be woken.
    Dialing,
    /// There is none, and the reason.
    Failed(DialError),
}

/// Is told whose lane has died.
pub type Lost = Rc<dyn Fn(&Arc<Identity>)>;

struct Slots<C: Completion> {
    lanes: Vec<Rc<Lane<C>>>,
    dialing: Option<Vec<Waker>>,
    /// What is being dialled, if anything, may have been greeted before the others were [set aside](Lanes::set_aside).
    is_outdated: bool,
    failure: Option<(DialError, Nanos)>,
    failures: u32,
}

/// One worker's lanes, by profile.
pub struct Lanes<C: Completion> {
    dialer: Arc<Dialer>,
    health: Arc<Health>,
    questions: mpsc::Sender<Question>,
    policy: Policy,
    counters: Arc<Counters>,
    batch_end: Rc<dyn Fn()>,
    lost: Lost,
    slots: RefCell<HashMap<ProfileKey, Slots<C>>>,
    /// Every lane that is open, those too that take no further client: their commands have deadlines like others.
    open: RefCell<Vec<Weak<Lane<C>>>>,
}

impl<C: Completion> Lanes<C> {
    /// No lanes yet. `batch_end` is called after each batch of replies, and `lost` when a lane of that user has died.
    pub fn new(
        dialer: Arc<Dialer>,
        health: Arc<Health>,
        questions: mpsc::Sender<Question>,
        policy: Policy,
        counters: Arc<Counters>,
        batch_end: Rc<dyn Fn()>,
        lost: Lost,
    ) -> Rc<Self> {
        let (slots, open) = (RefCell::default(), RefCell::default());
        Rc::new(Self { dialer, health, questions, policy, counters, batch_end, lost, slots, open })
    }

    /// Finds a lane for a client of this profile, or starts dialling one.
    pub fn pick(self: &Rc<Self>, profile: &Profile, now: Nanos, waker: &Waker) -> Pick<C> {
        let mut all = self.slots.borrow_mut();
        let slots = all.entry(profile.key()).or_insert_with(Slots::new);
        slots.lanes.retain(|lane| lane.is_usable());
        let best = slots.lanes.iter().min_by_key(|lane| (lane.is_stalled(now), lane.pins()));
        let enough = slots.lanes.len() >= self.policy.per_profile;
        let all_stalled = best.is_some_and(|lane| lane.is_stalled(now));
        // One that is given up may be dead, though nothing says so: it takes nobody's place.
        let live = slots.lanes.iter().filter(|lane| !lane.is_given_up(now)).count();
        let may_open_spare = all_stalled && live < self.policy.per_profile + SPARE_LANES;
        if let Some(lane) = best.filter(|_| !may_open_spare) {
            let lane = Rc::clone(lane);
            if !enough && lane.pins() >= PINS_BEFORE_NEXT && slots.may_dial() && !self.health.is_down() {
                self.dial(slots, profile.clone(), Vec::new());
            }
            return Pick::Ready(Pinned::new(lane));
        }
        if let Some(waiting) = &mut slots.dialing {
            waiting.push(waker.clone());
            return Pick::Dialing;
        }
        if let (false, Some((error, _))) = (slots.may_dial(), &slots.failure) {
            return Pick::Failed(error.clone());
        }
        if let Some(error) = self.health.down_reason() {
            return Pick::Failed(error);
        }
        self.dial(slots, profile.clone(), vec![waker.clone()]);
        Pick::Dialing
    }

    /// The server has just accepted this user: that it refused a connection before is no answer any more.
    pub fn forgive(&self, identity: IdentityId) {
        let mut all = self.slots.borrow_mut();
        for (_, slots) in all.iter_mut().filter(|((id, ..), _)| *id == identity) {
            (slots.failure, slots.failures) = (None, 0);
        }
    }

    /// Removes a lane from sharing: it serves the client that has it, alone, until that client lets go.
    pub fn privatize(&self, lane: &Rc<Lane<C>>) {
        if let Some(slots) = self.slots.borrow_mut().get_mut(&lane.profile.key()) {
            slots.lanes.retain(|other| !Rc::ptr_eq(other, lane));
        }
        lane.make_private();
    }

    /// Retires the lanes that are on another server process than `server`: the upstream has been restarted,
    /// replaced or given another role, and nothing may be cached from them.
    pub fn retire_others(&self, server: ServerId) {
        let open = self.open_lanes();
        open.iter().filter(|lane| !lane.greeting.server.is_same(server)).for_each(|lane| lane.retire());
    }

    /// Leaves the lanes of this user to the clients that are on them: what the server lets them do, it would not let
    /// newcomers do any more, or the other way round.
    pub fn set_aside(&self, identity: IdentityId) {
        let mut all = self.slots.borrow_mut();
        for (_, slots) in all.iter_mut().filter(|((id, ..), _)| *id == identity) {
            slots.lanes.clear();
            slots.is_outdated = true;
        }
    }

    /// Periodic care: timed-out commands are answered, idle lanes closed.
    pub fn sweep(&self, now: Nanos) {
        for lane in self.open_lanes() {
            lane.sweep(now, self.policy.command_timeout);
            lane.close_if_idle(now, IDLE_TIMEOUT);
            lane.close_if_abandoned(now);
        }
        self.slots.borrow_mut().retain(|_, slots| {
            slots.lanes.retain(|lane| lane.is_open());
            !slots.lanes.is_empty()
                || slots.dialing.is_some()
                || slots.failure.as_ref().is_some_and(|(_, until)| *until > now)
        });
    }

    fn open_lanes(&self) -> Vec<Rc<Lane<C>>> {
        let mut open = self.open.borrow_mut();
        open.retain(|lane| lane.upgrade().is_some_and(|lane| lane.is_open()));
        open.iter().filter_map(Weak::upgrade).collect()
    }

    fn open(self: &Rc<Self>, connection: Connection) -> Rc<Lane<C>> {
        self.counters.lanes.add(1);
        let this = Rc::clone(self);
        let identity = Arc::clone(&connection.profile.identity);
        let ended = Box::new(move |loss: Option<&Loss>| {
            this.counters.lanes.sub(1);
            if let Some(loss) = loss {
                this.counters.lanes_lost.add(1);
                this.health.suspect(&loss.to_string());
                (this.lost)(&identity);
            }
        });
        let hooks = Hooks { batch_end: Rc::clone(&self.batch_end), unsolicited: None, ended };
        let lane = Lane::open(connection, self.dialer.address(), hooks);
        self.open.borrow_mut().push(Rc::downgrade(&lane));
        lane
    }

    /// Invariant 8: where the lane's own user may not ask INFO, the control plane finds out by the lane's HELLO id and
    /// address which process it ends at. By the id alone it could be another process's connection: over a Unix socket,
    /// where all have the same address, nothing is cached for such a user.
    pub async fn identified(&self, mut connection: Connection) -> Connection {
        let Connection { greeting, local, .. } = &mut connection;
        if let (ServerId::UNKNOWN, Some(id), Some(local)) = (greeting.server, greeting.client_id, *local) {
            let (answer, server) = oneshot::channel();
            if self.questions.send(Question::WhoServes(id, local, answer)).await.is_ok() {
                greeting.server = server.await.unwrap_or(ServerId::UNKNOWN);
            }
        }
        connection
    }

    fn dial(self: &Rc<Self>, slots: &mut Slots<C>, profile: Profile, waiting: Vec<Waker>) {
        (slots.dialing, slots.is_outdated) = (Some(waiting), false);
        let this = Rc::clone(self);
        spawn_local(async move {
            let key = profile.key();
            let result = this.dialer.open(profile, "nearhit-lane").await;
            let lane = match result {
                Ok(connection) => Ok(this.open(this.identified(connection).await)),
                Err(error) => Err(error),
            };
            let mut all = this.slots.borrow_mut();
            let slots = all.entry(key).or_insert_with(Slots::new);
            let waiting = slots.dialing.take().unwrap_or_default();
            match lane {
                Ok(lane) => {
                    this.health.reached();
                    slots.failures = 0;
                    slots.failure = None;
                    // The server has just answered here, so what is still silent there is stuck, or dead.
                    let now = clock::now();
                    slots.lanes.iter().filter(|lane| lane.is_given_up(now)).for_each(|lane| lane.retire());
                    if slots.is_outdated {
                        lane.retire();
                    } else {
                        slots.lanes.push(lane);
                    }
                }
                Err(error) => {
                    if let Some(reason) = error.no_connection() {
                        this.health.suspect(reason);
                    }
                    let wait = backoff(slots.failures, this.policy.backoff);
                    slots.failures += 1;
                    slots.failure = Some((error, clock::now() + wait));
                }
            }
            drop(all);
            waiting.into_iter().for_each(Waker::wake);
        });
    }
}

impl<C: Completion> Slots<C> {
    fn new() -> Self {
        Self { lanes: Vec::new(), dialing: None, is_outdated: false, failure: None, failures: 0 }
    }

    fn may_dial(&self) -> bool {
        self.dialing.is_none() && self.failure.as_ref().is_none_or(|(_, until)| clock::now() >= *until)
    }
}
