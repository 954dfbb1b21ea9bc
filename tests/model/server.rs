//! A Redis as the coherence protocol knows it, small enough to be run a million times a second.
//!
//! It has what the protocol stands on, and what makes it hard: commands are executed in cycles of an event loop, a
//! socket's pipeline in one go; with broadcast tracking the keys that a cycle has changed are named at its end, after
//! the replies of that same cycle; FLUSHALL is told at once; an expired key is gone for who asks, and told of only then
//! or when the server comes to it; a long script answers -BUSY to everybody and names nothing until it ends. It has
//! no network: whoever runs it decides when bytes move.
//!
//! `tests/model_server.rs` holds it against a real server. Times are milliseconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) type Key = u8;
pub(crate) type Value = u64;
pub(crate) type SocketId = u32;

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Get(Key),
    Pttl(Key),
    Set {
        key: Key,
        value: Value,
        lives: Option<u64>,
    },
    Del(Key),
    FlushAll,
    Echo(u64),
    /// `CLIENT TRACKING ON BCAST`.
    Track,
    /// A script that sets keys which it does not declare.
    Script(Vec<(Key, Value)>),
    /// The same, which runs for so long that the server answers others -BUSY.
    LongScript(Vec<(Key, Value)>),
}

/// What a socket is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Value(Option<Value>),
    Number(i64),
    Ok,
    Echo(u64),
    Busy,
    /// In order of their names.
    Invalidate(Vec<Key>),
    InvalidateAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    value: Value,
    expires_at: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Socket {
    /// What has arrived and is not executed yet.
    requests: VecDeque<Command>,
    /// What was written and has not been taken off yet.
    frames: VecDeque<Frame>,
    is_tracking: bool,
}

/// A script that is running, and who comes after it in its cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    socket: SocketId,
    writes: Vec<(Key, Value)>,
    /// What its socket had sent behind it.
    rest: Vec<SocketId>,
}

/// A change that was made, as whoever holds the server to account wants to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: u64,
    pub(crate) key: Key,
    /// Nothing: it was deleted.
    pub(crate) value: Option<Value>,
    pub(crate) expires_at: Option<u64>,
}

/// One server process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// What commands have changed, in their order. An expiry is no command.
    pub(crate) journal: Vec<Change>,
    keys: BTreeMap<Key, Stored>,
    sockets: BTreeMap<SocketId, Socket>,
    /// Changed in this cycle, and not told yet.
    changed: BTreeSet<Key>,
    running: Option<Running>,
    sockets_made: SocketId,
}

impl Server {
    pub(crate) fn connect(&mut self) -> SocketId {
        self.sockets_made += 1;
        self.sockets.insert(self.sockets_made, Socket::default());
        self.sockets_made
    }

    pub(crate) fn disconnect(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Bytes arrive.
    pub(crate) fn arrive(&mut self, socket: SocketId, command: Command) {
        if let Some(socket) = self.sockets.get_mut(&socket) {
            socket.requests.push_back(command);
        }
    }

    /// Bytes leave.
    pub(crate) fn leave(&mut self, socket: SocketId) -> Option<Frame> {
        self.sockets.get_mut(&socket)?.frames.pop_front()
    }

    pub(crate) fn has_frames(&self, socket: SocketId) -> bool {
        self.sockets.get(&socket).is_some_and(|socket| !socket.frames.is_empty())
    }

    /// Sockets that have something to be executed.
    pub(crate) fn ready(&self) -> Vec<SocketId> {
        self.sockets.iter().filter(|(_, socket)| !socket.requests.is_empty()).map(|(id, _)| *id).collect()
    }

    /// One round of the event loop, in which these sockets are found ready, in this order. Ends early if a long script
    /// begins.
    pub(crate) fn cycle(&mut self, order: &[SocketId], now: u64) {
        debug_assert!(self.running.is_none(), "a server in a script has no cycles");
        for (place, &socket) in order.iter().enumerate() {
            while let Some(command) = self.sockets.get_mut(&socket).and_then(|one| one.requests.pop_front()) {
                if let Command::LongScript(writes) = command {
                    let rest = order[place..].to_vec();
                    self.running = Some(Running { socket, writes, rest });
                    return;
                }
                self.execute(socket, command, now);
            }
        }
        self.tell();
    }

    /// While a script runs: whoever asks anything is told so, at once.
    pub(crate) fn refuse(&mut self, socket: SocketId) {
        debug_assert!(self.running.is_some());
        if self.running.as_ref().is_some_and(|running| running.socket == socket) {
            return;
        }
        if let Some(one) = self.sockets.get_mut(&socket) {
            let refused = one.requests.drain(..).count();
            one.frames.extend(std::iter::repeat_n(Frame::Busy, refused));
        }
    }

    /// The script ends, and its cycle goes on.
    pub(crate) fn finish_script(&mut self, now: u64) {
        let Some(Running { socket, writes, rest }) = self.running.take() else { return };
        self.execute(socket, Command::Script(writes), now);
        self.cycle(&rest, now);
    }

    /// The server comes across keys whose time is over: it deletes them, and tells.
    pub(crate) fn expire(&mut self, now: u64) {
        let due: Vec<Key> = self.keys.keys().copied().collect();
        for key in due {
            self.look(key, now);
        }
        if self.running.is_none() {
            self.tell();
        }
    }

    fn execute(&mut self, socket: SocketId, command: Command, now: u64) {
        let frame = match command {
            Command::Get(key) => Frame::Value(self.look(key, now).map(|stored| stored.value)),
            Command::Pttl(key) => Frame::Number(match self.look(key, now) {
                None => -2,
                Some(Stored { expires_at: None, .. }) => -1,
                Some(Stored { expires_at: Some(at), .. }) => i64::try_from(at - now).unwrap_or(i64::MAX),
            }),
            Command::Set { key, value, lives } => {
                self.set(key, value, lives.map(|lives| now + lives), now);
                Frame::Ok
            }
            Command::Del(key) => {
                let was_there = self.look(key, now).is_some();
                if was_there {
                    self.keys.remove(&key);
                    self.changed.insert(key);
                    self.journal.push(Change { at: now, key, value: None, expires_at: None });
                }
                Frame::Number(i64::from(was_there))
            }
            Command::FlushAll => {
                for key in std::mem::take(&mut self.keys).into_keys() {
                    self.journal.push(Change { at: now, key, value: None, expires_at: None });
                }
                for one in self.sockets.values_mut().filter(|one| one.is_tracking) {
                    one.frames.push_back(Frame::InvalidateAll);
                }
                Frame::Ok
            }
            Command::Echo(number) => Frame::Echo(number),
            Command::Track => {
                if let Some(one) = self.sockets.get_mut(&socket) {
                    one.is_tracking = true;
                }
                Frame::Ok
            }
            Command::Script(writes) | Command::LongScript(writes) => {
                for (key, value) in writes {
                    self.set(key, value, None, now);
                }
                Frame::Ok
            }
        };
        if let Some(one) = self.sockets.get_mut(&socket) {
            one.frames.push_back(frame);
        }
    }

    fn set(&mut self, key: Key, value: Value, expires_at: Option<u64>, now: u64) {
        self.keys.insert(key, Stored { value, expires_at });
        self.changed.insert(key);
        self.journal.push(Change { at: now, key, value: Some(value), expires_at });
    }

    /// Looks a key up as every command does: one that has expired is deleted first.
    fn look(&mut self, key: Key, now: u64) -> Option<Stored> {
        let stored = *self.keys.get(&key)?;
        if stored.expires_at.is_some_and(|at| at <= now) {
            self.keys.remove(&key);
            self.changed.insert(key);
            return None;
        }
        Some(stored)
    }

    /// The end of a cycle.
    fn tell(&mut self) {
        let changed: Vec<Key> = std::mem::take(&mut self.changed).into_iter().collect();
        if changed.is_empty() {
            return;
        }
        for one in self.sockets.values_mut().filter(|one| one.is_tracking) {
            one.frames.push_back(Frame::Invalidate(changed.clone()));
        }
    }
}
