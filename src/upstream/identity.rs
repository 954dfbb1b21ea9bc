//! Who a client is to the upstream.
//!
//! nearhit checks no password itself: an [`Identity`] comes into being only after the upstream has accepted the
//! user and password. It is known by its number, which is part of every cached variant and of every lane's
//! profile, so that what one user may read never reaches another.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    ids::{Generation, IdentityId},
    resp::encode_request,
};

/// After the client that has not authenticated, 0, and the user of `upstream.url`, 1.
const FIRST_VERIFIED: IdentityId = IdentityId(2);

/// A user name and password that the upstream has accepted, or that the operator has configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user; `default` where only a password was given.
    pub user: Bytes,
    /// The password. It is never logged and never part of a key.
    pub password: Bytes,
}

impl Credentials {
    /// The AUTH that has a server judge them.
    pub fn auth(&self) -> Vec<u8> {
        let mut request = Vec::new();
        encode_request([&b"AUTH"[..], &self.user, &self.password], &mut request);
        request
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A user of the upstream.
#[derive(Debug)]
pub struct Identity {
    /// The number by which caches and lanes know it.
    pub id: IdentityId,
    /// The user's name; `None` for a client that has not authenticated.
    pub user: Option<Bytes>,
    /// The latest accepted ones, for dialling; a changed password replaces them.
    credentials: Mutex<Option<Credentials>>,
    /// The upstream has refused them since.
    are_doubted: AtomicBool,
    /// The generation, plus one, in which the upstream refused this user's PTTL; 0 is never.
    pttl_refused: AtomicU64,
    /// The generations, plus one, in which the upstream let this user GET and MGET; 0 is never.
    string_reads: [AtomicU64; 2],
}

impl Identity {
    fn new(id: u32, credentials: Option<Credentials>) -> Self {
        Self {
            id: IdentityId(id),
            user: credentials.as_ref().map(|credentials| credentials.user.clone()),
            credentials: Mutex::new(credentials),
            are_doubted: AtomicBool::new(false),
            pttl_refused: AtomicU64::new(0),
            string_reads: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    /// Whether clients became this user by AUTH or HELLO.
    pub fn is_verified(&self) -> bool {
        self.id >= FIRST_VERIFIED
    }

    /// What a connection of this identity authenticates with.
    pub fn credentials(&self) -> Option<Credentials> {
        self.credentials.lock().clone()
    }

    /// Notes that this user may not ask for a key's time to live, without which nothing can be cached for it.
    /// It holds for this generation: an ACL change moves the generation, and the question is asked anew.
    pub fn refuse_pttl(&self, generation: Generation) {
        self.pttl_refused.store(generation.0 + 1, Ordering::Relaxed);
    }

    /// Whether replies may be cached for this user.
    pub fn may_cache(&self, generation: Generation) -> bool {
        self.pttl_refused.load(Ordering::Relaxed) != generation.0 + 1
    }

    /// Notes that the upstream has obeyed this command of this user, which was sent in that generation.
    pub fn allow(&self, read: StringRead, generation: Generation) {
        self.string_reads[read as usize].store(generation.0 + 1, Ordering::Relaxed);
    }

    /// Whether the upstream has let this user use this command since anybody's rights last changed: else what the other
    /// one has read is not to be shown by it.
    pub fn is_allowed(&self, read: StringRead, generation: Generation) -> bool {
        self.string_reads[read as usize].load(Ordering::Relaxed) == generation.0 + 1
    }
}

/// The two reads that share their entries. A user may be allowed one of them and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringRead {
    /// GET.
    Get,
    /// MGET.
    Mget,
}

/// All identities seen since the start. They are few, since each was accepted by the upstream, and never freed.
#[derive(Debug)]
pub struct Identities {
    control: Arc<Identity>,
    client_default: Arc<Identity>,
    verified: Mutex<HashMap<Bytes, Arc<Identity>>>,
}

/// Which identity a client has before it authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientDefault {
    /// Whoever the upstream takes an unauthenticated connection for (`auth.mode = "upstream"`).
    Unauthenticated,
    /// The identity of `upstream.url` (`auth.mode = "none"`).
    Control,
}

impl Identities {
    /// Starts with the operator's own credentials, if there are any.
    pub fn new(configured: Option<Credentials>, client_default: ClientDefault) -> Self {
        let control = Arc::new(Identity::new(1, configured));
        let client_default = match client_default {
            ClientDefault::Unauthenticated => Arc::new(Identity::new(0, None)),
            ClientDefault::Control => Arc::clone(&control),
        };
        Self { control, client_default, verified: Mutex::new(HashMap::new()) }
    }

    /// The identity of `upstream.url`, which serves the link and the control plane.
    pub fn control(&self) -> &Arc<Identity> {
        &self.control
    }

    /// The identity of a client that has not authenticated.
    pub fn client_default(&self) -> &Arc<Identity> {
        &self.client_default
    }

    /// The identity of credentials that the upstream has just accepted.
    pub fn verified(&self, credentials: Credentials) -> Arc<Identity> {
        let mut verified = self.verified.lock();
        let next = u32::try_from(verified.len()).unwrap_or(u32::MAX - 2) + FIRST_VERIFIED.0;
        let identity = verified
            .entry(credentials.user.clone())
            .or_insert_with(|| Arc::new(Identity::new(next, Some(credentials.clone()))));
        *identity.credentials.lock() = Some(credentials);
        identity.are_doubted.store(false, Ordering::Relaxed);
        Arc::clone(identity)
    }

    /// Whether these are what the upstream accepted of that user last, and has not refused since.
    pub fn knows(&self, credentials: &Credentials) -> bool {
        let verified = self.verified.lock();
        verified.get(&credentials.user).is_some_and(|identity| {
            !identity.are_doubted.load(Ordering::Relaxed)
                && identity.credentials().is_some_and(|known| is_same(&known.password, &credentials.password))
        })
    }

    /// The upstream has refused these.
    pub fn doubt(&self, credentials: &Credentials) {
        if self.knows(credentials)
            && let Some(identity) = self.verified.lock().get(&credentials.user)
        {
            identity.are_doubted.store(true, Ordering::Relaxed);
        }
    }
}

/// Compares passwords in a time that does not tell how much of them is the same.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}
