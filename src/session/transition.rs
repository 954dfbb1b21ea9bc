//! Transitions: what has to be awaited between two requests of a client, and what it came to.
//!
//! Dispatch never awaits. A request that needs a connection, a password judged, or another client's doing, asks for a
//! transition, which the session's task carries out when it would else read on; then the request is dispatched again
//! and finds a verdict, or what it had asked for.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{Inner, Next, Session, exclusive::Purpose, registry::ClientInfo, worker::Mail};
use crate::{
    ids::ClientId,
    upstream::identity::{Credentials, Identity},
};

/// How often it is looked whether another client has got its connection.
const CLAIM_INTERVAL: Duration = Duration::from_millis(2);

/// An operator who wants to see or cut off clients while the upstream hangs is not to wait for it.
const JUDGED_WITHIN: Duration = Duration::from_millis(500);

/// What has to be awaited between two requests.
pub(super) enum Transition {
    /// Let the other clients of the worker have their turn.
    Yield,
    /// Take out an exclusive connection.
    Acquire(Purpose),
    /// The same for a subscriber, or share one.
    Subscribe,
    /// Wait until everything is told that was published before now.
    CatchUp,
    /// Put it back.
    Release,
    /// Have the upstream judge a user and password, by this request.
    Authenticate(Credentials, Vec<u8>),
    /// Have another client take out a connection, on which it is to hear of this client's invalidations.
    Claim(ClientId),
    /// Take out a connection, since another client has asked for that.
    BeClaimed,
    /// Have the upstream answer this request on a connection that nothing else travels on.
    Ask(Vec<u8>),
    /// The same, to hear whether it minds what is then done here. Not for long: no answer is no objection.
    Judge(Vec<u8>),
    /// Cut these clients off.
    Kill(Vec<Arc<ClientInfo>>),
}

/// What an awaited transition came to.
pub(super) enum Verdict {
    /// The upstream accepts the user.
    Accepted(Arc<Identity>),
    /// The error reply that says why not.
    Refused(Vec<u8>),
    /// What it answered.
    Answered(Bytes),
    /// The other client has its connection, or will not get one.
    Claimed,
    /// It is told.
    CaughtUp,
    /// So many clients are gone.
    Killed(i64),
}

impl Session {
    /// Carries out a transition. The request that wants it is dispatched again afterwards.
    pub(super) async fn perform(self: &Rc<Self>, transition: Transition) {
        let verdict = match transition {
            // Unlike a wake-up it lets the event loop look for those who have come meanwhile.
            Transition::Yield => return yield_now().await,
            Transition::Acquire(purpose) => return self.check_out(purpose).await,
            Transition::Subscribe => return self.subscribe_somewhere().await,
            Transition::Release => return self.release().await,
            Transition::BeClaimed => {
                self.check_out(Purpose::Subscribed).await;
                let mut inner = self.inner.borrow_mut();
                // Without a connection: who has asked finds none, and is told so by the server.
                (inner.is_claimed, inner.verdict) = (false, None);
                return inner.spend_exclusive();
            }
            Transition::CatchUp => {
                self.catch_up().await;
                Verdict::CaughtUp
            }
            Transition::Claim(target) => {
                self.claim(target).await;
                Verdict::Claimed
            }
            Transition::Authenticate(credentials, request) => self.judge(credentials, &request).await,
            Transition::Ask(request) => Verdict::Answered(self.ask(&request).await),
            Transition::Judge(question) => {
                Verdict::Answered(timeout(JUDGED_WITHIN, self.ask(&question)).await.unwrap_or_default())
            }
            Transition::Kill(doomed) => Verdict::Killed(self.kill_all(doomed).await),
        };
        self.inner.borrow_mut().verdict = Some(verdict);
    }

    /// The upstream's answer on a connection that nothing else travels on, or why there is none.
    async fn ask(&self, request: &[u8]) -> Bytes {
        let profile = self.inner.borrow().profile.clone();
        self.worker.shared.dialer.ask(&profile, request).await.unwrap_or_else(|error| error.reply())
    }

    /// Asks another client, of whatever worker, and waits until it has its connection. It happens once in a client's life
    /// at most, so looking again and again is good enough.
    async fn claim(&self, target: ClientId) {
        let shared = &self.worker.shared;
        let Some(info) = shared.registry.get(target) else { return };
        self.worker.post(info.worker, Mail::Claim(target));
        let has_come = async {
            while info.exclusive.load(Ordering::Acquire) == 0 && shared.registry.get(target).is_some() {
                sleep(CLAIM_INTERVAL).await;
            }
        };
        // Too late is as good as never: the server is asked all the same.
        let _ = timeout(shared.config.upstream.connect_timeout, has_come).await;
    }

    /// Another client redirects its invalidations to this one.
    pub(super) fn claimed(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.is_claimed = inner.exclusive.is_none() && inner.share.is_none();
        inner.spend_exclusive();
        drop(inner);
        self.wake();
    }

    /// Sends a command past everything that is in flight on lanes, its own client's commands excepted.
    pub(super) fn ask_apart(inner: &mut Inner, request: &[u8]) -> Next {
        match inner.verdict.take() {
            Some(Verdict::Answered(raw)) => inner.reply_raw(&raw),
            _ if inner.is_drained() => Next::Await(Transition::Ask(request.to_vec())),
            _ => Next::Hold,
        }
    }
}
