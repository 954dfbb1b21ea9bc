//! Exclusive connections: the ones that transactions, blocking commands and subscriptions have to themselves.
//!
//! bb8 holds the places; who takes a place that is empty dials. A pooled socket is
//! interchangeable: it is brought to the profile it is wanted in when it is taken out, so that one pool serves all
//! users and databases and its limit holds for all together. A socket is only ever put back by
//! [`Exclusive::give_back`]; one that is dropped anywhere else, in mid-request or by a cancelled task, is missing
//! from its slot, which is how bb8 learns that it is broken.

use std::{sync::Arc, time::Duration};

use bb8_redis::bb8::{self, ManageConnection, PooledConnection, QueueStrategy};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::connection::{Connection, DialError, Dialer, Fresh, Greeting, Profile};
use crate::{
    ids::ServerId,
    net::{Resting, Stream},
};

/// One in so many places is left to those who have no other way to go.
const SPARED: usize = 4;

/// An unused pooled connection is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes places for bb8, with no socket in them yet. bb8 keeps a failed connect to itself, and whoever waits for it
/// waits on until his time is up; so who takes a place out dials for himself, and is told at once why it fails.
pub struct Manager;

/// A place in the pool.
pub struct Slot {
    /// Missing while it is in use, and before the first time.
    socket: Option<Resting>,
    /// What it was last agreed to be.
    agreed: Option<(Profile, Greeting)>,
}

impl Slot {
    fn empty() -> Self {
        Self { socket: None, agreed: None }
    }
}

/// A pooled connection was closed while nobody used it.
#[derive(Debug, Error)]
#[error("closed in the pool")]
pub struct Closed;

impl ManageConnection for Manager {
    type Connection = Slot;
    type Error = Closed;

    async fn connect(&self) -> Result<Slot, Closed> {
        Ok(Slot::empty())
    }

    /// A resting socket has nothing to read: bytes would be somebody's late reply, an end of file a dead server.
    async fn is_valid(&self, slot: &mut Slot) -> Result<(), Closed> {
        slot.socket.as_mut().is_none_or(Resting::is_quiet).then_some(()).ok_or(Closed)
    }

    fn has_broken(&self, slot: &mut Slot) -> bool {
        slot.socket.is_none()
    }
}

/// Why there is no exclusive connection.
#[derive(Debug, Error)]
pub enum CheckoutError {
    /// All are taken, and none came free in time, if time was given.
    #[error("all {max} upstream connections for {purpose} are in use ({key}); waited {waited:?}")]
    Exhausted {
        /// The limit.
        max: usize,
        /// What the pool is for.
        purpose: &'static str,
        /// The configuration key that sets the limit.
        key: &'static str,
        /// How long was waited (`upstream.connect_timeout`, or not at all).
        waited: Duration,
    },
    /// The upstream could not be reached, or refused.
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// What a pool is for, and how large it may grow.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// For messages: "transactions", "subscribers".
    pub purpose: &'static str,
    /// The configuration key.
    pub key: &'static str,
    /// Connections at most.
    pub max: usize,
    /// How long to wait for one.
    pub wait: Duration,
}

/// A pool of exclusive connections, shared by all workers.
#[derive(Clone)]
pub struct Pool {
    dialer: Arc<Dialer>,
    places: bb8::Pool<Manager>,
    /// As many as there are places. bb8 can only be waited for; this can also be asked whether there is one now.
    room: Arc<Semaphore>,
    budget: Budget,
}

/// Whether a connection is waited for where all are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For as long as the budget says.
    Waits,
    /// Whoever asks has another way to go, and leaves the last ones to those who have none.
    None,
}

impl Pool {
    /// An empty pool. Must be called within the runtime that is to run its reaper.
    pub fn new(dialer: Arc<Dialer>, budget: Budget) -> Self {
        let places = bb8::Pool::builder()
            .max_size(u32::try_from(budget.max).unwrap_or(u32::MAX))
            .min_idle(None)
            .max_lifetime(None)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .connection_timeout(budget.wait)
            .retry_connection(false)
            // The one used last is the likeliest to be in the wanted database, protocol and hands already, and then
            // needs no handshake: not even one that a busy server would refuse.
            .queue_strategy(QueueStrategy::Lifo)
            .test_on_check_out(true)
            .build_unchecked(Manager);
        let room = Arc::new(Semaphore::new(budget.max.min(Semaphore::MAX_PERMITS)));
        Self { dialer, places, room, budget }
    }

    /// Takes out a connection of this profile, waiting for a free one as `patience` says. One to another
    /// process than `server` is not used again: the upstream has moved, though the old one may live on, and a client's
    /// transactions are to go where its other commands go (invariant 8).
    ///
    /// `wants_auth` tells what the server said to the client that is to have it: whoever has not authenticated and has to
    /// gets none that was left by one who did not have to, and was let in.
    ///
    /// Cancel safe: a connection that was taken out and not handed over is discarded.
    pub async fn checkout(
        &self,
        profile: &Profile,
        name: &str,
        server: ServerId,
        wants_auth: Option<bool>,
        patience: Patience,
    ) -> Result<(Connection, Exclusive), CheckoutError> {
        let wait = if patience == Patience::Waits { self.budget.wait } else { Duration::ZERO };
        if patience == Patience::None && self.room.available_permits() <= self.budget.max / SPARED {
            return Err(self.exhausted(wait));
        }
        let room = match Arc::clone(&self.room).try_acquire_owned() {
            Ok(room) => room,
            // Nobody closes it.
            Err(_) => match timeout(wait, Arc::clone(&self.room).acquire_owned()).await {
                Ok(Ok(room)) => room,
                _ => return Err(self.exhausted(wait)),
            },
        };
        loop {
            // There is a place, and it fails only when its time is up: see `Manager`.
            let mut slot = self.places.get_owned().await.map_err(|_| self.exhausted(self.budget.wait))?;
            if slot.agreed.as_ref().is_some_and(|(_, greeting)| greeting.server.is_another(server)) {
                *slot = Slot::empty();
            }
            let used = slot.agreed.is_some();
            match self.take(&mut slot, profile, name, wants_auth).await {
                Ok(connection) => return Ok((connection, Exclusive { place: slot, _room: room })),
                // A used connection may have died in the pool. Nothing of the client's has been sent on it, so
                // the next one may serve; a fresh one that fails tells the truth.
                Err(error) if used && error.no_connection().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connections that are in use or lie ready.
    pub fn connections(&self) -> u32 {
        self.places.state().connections
    }

    async fn take(
        &self,
        slot: &mut Slot,
        profile: &Profile,
        name: &str,
        wants_auth: Option<bool>,
    ) -> Result<Connection, DialError> {
        let lost = |reason: String| DialError::Unreachable { address: self.dialer.address(), reason };
        let mut stream = match slot.socket.take() {
            Some(socket) => socket.wake().map_err(|error| lost(error.to_string()))?,
            None => self.dialer.open_bare().await?,
        };
        let greeting = match slot.agreed.take() {
            Some((agreed, greeting)) if agreed == *profile && wants_auth == Some(greeting.wants_auth()) => {
                greeting
            }
            other => {
                let fresh = if other.is_some() { Fresh::No } else { Fresh::Yes };
                self.dialer.agree(&mut stream, profile, name, fresh).await?
            }
        };
        let local = stream.local().map_err(|error| lost(error.to_string()))?;
        Ok(Connection { stream, profile: profile.clone(), greeting, local })
    }

    fn exhausted(&self, waited: Duration) -> CheckoutError {
        let Budget { purpose, key, max, .. } = self.budget;
        CheckoutError::Exhausted { max, purpose, key, waited }
    }
}

/// The place in the pool that belongs to a connection in use. Dropped, it frees the place and discards the socket.
pub struct Exclusive {
    place: PooledConnection<'static, Manager>,
    /// Given back behind the place, so that whoever gets it finds one.
    _room: OwnedSemaphorePermit,
}

impl Exclusive {
    /// Puts a connection back that is as it was agreed: no transaction, watch, subscription or unread byte.
    pub fn give_back(mut self, stream: Stream, profile: Profile, greeting: Greeting) {
        self.place.socket = stream.rest().ok();
        self.place.agreed = Some((profile, greeting));
    }
}
