//! All clients of this proxy, for those of CLIENT that look across workers: LIST and KILL, and UNBLOCK and TRACKING
//! REDIRECT, which need the number of another client's connection on the server.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use dashmap::DashMap;
use parking_lot::Mutex;

use crate::{
    clock::Nanos,
    ids::{ClientId, Database, WorkerId},
    net::Address,
    resp::Protocol,
};

/// What CLIENT LIST tells of one client. Written by its session only, and only when something changes.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// CLIENT SETNAME.
    pub name: Bytes,
    /// CLIENT SETINFO LIB-NAME.
    pub library: Bytes,
    /// CLIENT SETINFO LIB-VER.
    pub library_version: Bytes,
    /// The user, once authenticated.
    pub user: Option<Bytes>,
    /// The selected database.
    pub database: Database,
    /// The protocol in use.
    pub protocol: Protocol,
    /// Channels, patterns and shard channels subscribed to.
    pub subscriptions: [usize; 3],
}

/// One client.
#[derive(Debug)]
pub struct ClientInfo {
    /// Its number.
    pub id: ClientId,
    /// The worker that serves it.
    pub worker: WorkerId,
    /// Its end.
    pub peer: Address,
    /// Our end.
    pub local: Address,
    /// When it was accepted.
    pub since: Nanos,
    /// When it last sent something.
    pub active: AtomicU64,
    /// The number of the last command's row; 0 is none, or one that is not known.
    pub command: AtomicU16,
    /// The server's number for the connection that the client has to itself; 0 while it has none.
    pub exclusive: AtomicI64,
    /// The same for the lane that WAIT has made the client's own.
    pub private_lane: AtomicI64,
    /// Set by the CLIENT KILL that names it: its worker has yet to cut it off, but to everybody else it is gone.
    doomed: AtomicBool,
    /// Commands queued between MULTI and EXEC; -1 outside.
    pub queued: AtomicI64,
    /// Blocking commands in flight.
    pub blocking: AtomicU32,
    /// CLIENT NO-EVICT.
    pub no_evict: AtomicBool,
    /// CLIENT NO-TOUCH.
    pub no_touch: AtomicBool,
    /// What may change.
    pub details: Mutex<Details>,
}

/// Shows its client as blocked for as long as it lives, which is as long as a blocking command is in flight.
pub(super) struct BlockedMark(Arc<ClientInfo>);

impl BlockedMark {
    pub(super) fn new(info: &Arc<ClientInfo>) -> Self {
        info.blocking.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(info))
    }
}

impl Drop for BlockedMark {
    fn drop(&mut self) {
        self.0.blocking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All clients.
#[derive(Debug, Default)]
pub struct Registry {
    clients: DashMap<ClientId, Arc<ClientInfo>>,
    last_id: AtomicU64,
    /// Clients of each worker, for the choice of the least loaded one.
    load: Vec<AtomicU64>,
}

impl Registry {
    /// Nobody yet.
    pub fn new(workers: usize) -> Self {
        let load = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self { clients: DashMap::new(), last_id: AtomicU64::new(0), load }
    }

    /// Enters a client that has just been accepted, with the least loaded worker.
    pub fn enter(&self, peer: Address, local: Address, now: Nanos) -> Arc<ClientInfo> {
        let worker = (0..self.load.len()).min_by_key(|worker| self.load[*worker].load(Ordering::Relaxed));
        let worker = WorkerId(worker.unwrap_or(0));
        self.load[worker.0].fetch_add(1, Ordering::Relaxed);
        let id = ClientId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        let info = Arc::new(ClientInfo {
            id,
            worker,
            peer,
            local,
            since: now,
            active: AtomicU64::new(now.0),
            command: AtomicU16::new(0),
            exclusive: AtomicI64::new(0),
            private_lane: AtomicI64::new(0),
            doomed: AtomicBool::new(false),
            queued: AtomicI64::new(-1),
            blocking: AtomicU32::new(0),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            details: Mutex::default(),
        });
        self.clients.insert(id, Arc::clone(&info));
        info
    }

    /// One client.
    pub fn get(&self, client: ClientId) -> Option<Arc<ClientInfo>> {
        self.clients.get(&client).map(|entry| Arc::clone(entry.value()))
    }

    /// Strikes a client off.
    pub fn remove(&self, client: ClientId) {
        if let Some((_, info)) = self.clients.remove(&client) {
            self.load[info.worker.0].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Everybody who was not killed, by number.
    pub fn all(&self) -> Vec<Arc<ClientInfo>> {
        let mut all: Vec<_> = self.clients.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.retain(|info| !info.is_doomed());
        all.sort_by_key(|info| info.id);
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

impl ClientInfo {
    /// Counts this client out; false if another CLIENT KILL was first.
    pub fn doom(&self) -> bool {
        !self.doomed.swap(true, Ordering::AcqRel)
    }

    /// Whether a CLIENT KILL has named it.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// The server's number for the connection on which a command of this client may be blocked; no connection is 0.
    pub fn blocked_on(&self) -> i64 {
        match self.exclusive.load(Ordering::Acquire) {
            0 => self.private_lane.load(Ordering::Acquire),
            number => number,
        }
    }

    /// Whether CLIENT LIST and KILL count this client as of a type; a proxy has no masters and replicas.
    pub fn is_of_type(&self, kind: &[u8]) -> bool {
        let is_subscriber = self.details.lock().subscriptions != [0; 3];
        kind.eq_ignore_ascii_case(if is_subscriber { b"pubsub" } else { b"normal" })
    }

    /// As Redis's, as far as they apply to a client of a proxy, and in its order.
    fn flags(&self, details: &Details) -> String {
        let flags = [
            (details.subscriptions != [0; 3], 'P'),
            (self.queued.load(Ordering::Relaxed) >= 0, 'x'),
            (self.blocking.load(Ordering::Relaxed) > 0, 'b'),
            (matches!(self.peer, Address::Unix(_)), 'U'),
            (self.no_evict.load(Ordering::Relaxed), 'e'),
            (self.no_touch.load(Ordering::Relaxed), 'T'),
        ];
        let set: String = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect();
        if set.is_empty() { "N".into() } else { set }
    }

    /// This client's line of CLIENT LIST. What only the server's own connections have (buffers, memory) is zero, but
    /// for the request of the client that asks, which is in its buffer.
    pub fn line(&self, now: Nanos, command: &str, query_bytes: usize) -> String {
        let details = self.details.lock();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let idle = now.since(Nanos(self.active.load(Ordering::Relaxed))).as_secs();
        let [channels, patterns, shards] = details.subscriptions;
        let queued = self.queued.load(Ordering::Relaxed);
        let mut line = format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={idle} flags={} db={} sub={channels} psub={patterns} \
             ssub={shards} multi={queued} qbuf={query_bytes} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 \
             events=r cmd={command} user={} redir=-1 resp={}",
            self.id.0,
            self.peer,
            self.local,
            text(&details.name),
            now.since(self.since).as_secs(),
            self.flags(&details),
            details.database.0,
            details.user.as_ref().map_or_else(|| "default".into(), text),
            match details.protocol {
                Protocol::Resp2 => 2,
                Protocol::Resp3 => 3,
            },
        );
        if !details.library.is_empty() || !details.library_version.is_empty() {
            let _ = write!(
                line,
                " lib-name={} lib-ver={}",
                text(&details.library),
                text(&details.library_version)
            );
        }
        line
    }
}
