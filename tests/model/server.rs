//! A Redis as the coherence protocol knows it, small enough to be run a million times a second.
//!
//! It has what the protocol stands on, and what makes it hard: commands are executed in cycles of an event loop, a
//! socket's pipeline in one go; with broadcast tracking the keys that a cycle has changed are named at its end, after
//! the replies of that same cycle; FLUSHALL is told at once; an expired key is gone for who asks, and told of only then
//! or when the server comes to it; a long script answers -BUSY to everybody and names nothing until it ends. It has
//! no network: whoever runs it decides when bytes move, and tells it in [`Step`]s what a server would see of that.
//!
//! `replay.rs` holds it against a real server, step by step. Times are milliseconds.

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

/// What happens to a server: all that it knows of the world, and all that the world can do to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Connect(SocketId),
    Disconnect(SocketId),
    /// One round of the event loop, in which these are found ready, in this order.
    Cycle {
        at: u64,
        said: Vec<Said>,
    },
    /// While a script runs, one is found ready.
    Refuse(Said),
    /// A script ends, and its round goes on. Those that were refused in it may have been heard of again since the
    /// server has last looked.
    FinishScript {
        at: u64,
        said: Vec<Said>,
    },
    /// The server looks for keys whose time is over.
    Expire {
        at: u64,
    },
}

/// What was read from a socket in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) socket: SocketId,
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Socket {
    /// What was written and has not been taken off yet.
    frames: VecDeque<Frame>,
    is_tracking: bool,
}

/// A script that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    socket: SocketId,
    writes: Vec<(Key, Value)>,
    /// What its socket had said behind it.
    behind: Vec<Command>,
    /// Whom the server comes to when it goes on with its round.
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
}

impl Server {
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Connect(socket) => {
                self.sockets.insert(*socket, Socket::default());
            }
            Step::Disconnect(socket) => {
                self.sockets.remove(socket);
                if !self.is_heard() {
                    self.changed.clear();
                }
                // How much of the list of ready sockets the end of a connection overwrites is a matter of chance.
                if let Some(running) = self.running.as_mut().filter(|running| running.socket != *socket) {
                    running.rest.clear();
                }
            }
            Step::Cycle { at, said } => self.cycle(said, *at),
            Step::Refuse(said) => self.refuse(said),
            Step::FinishScript { at, said } => self.finish_script(said, *at),
            Step::Expire { at } => self.expire(*at),
        }
    }

    /// Whose script keeps it from everything else.
    pub(crate) fn is_busy_with(&self) -> Option<SocketId> {
        self.running.as_ref().map(|running| running.socket)
    }

    /// Whom it comes to when that script has ended, in this order.
    pub(crate) fn rest(&self) -> &[SocketId] {
        self.running.as_ref().map_or(&[], |running| &running.rest)
    }

    /// Whether that script's own socket has said more behind it.
    pub(crate) fn has_more_to_do(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.behind.is_empty())
    }

    /// Somebody changes nothing of a key that can be asked for here.
    pub(crate) fn touch(&mut self, key: Key) {
        self.change(key);
        self.tell();
    }

    /// Bytes leave.
    pub(crate) fn leave(&mut self, socket: SocketId) -> Option<Frame> {
        self.sockets.get_mut(&socket)?.frames.pop_front()
    }

    pub(crate) fn has_frames(&self, socket: SocketId) -> bool {
        self.sockets.get(&socket).is_some_and(|socket| !socket.frames.is_empty())
    }

    /// How many keys it holds, also of those whose time is over.
    pub(crate) fn size(&self) -> usize {
        self.keys.len()
    }

    fn cycle(&mut self, said: &[Said], now: u64) {
        debug_assert!(self.running.is_none(), "a server in a script has no cycles");
        self.go_on(said, now);
        if let Some(running) = &mut self.running {
            // Redis goes on with the list of ready sockets that it had, from the script's own place in it. But when it
            // looked at its sockets in the script, it wrote those that it found ready to the front of that same list.
            let place = said.iter().position(|said| said.socket == running.socket).unwrap_or(said.len());
            let refused: Vec<SocketId> = said[place + 1..].iter().map(|said| said.socket).collect();
            for (at, said) in said.iter().enumerate().skip(place + 1) {
                let listed = refused.get(at).copied().unwrap_or(said.socket);
                // Nothing more is found where it comes to for the second time.
                if !running.rest.contains(&listed) {
                    running.rest.push(listed);
                }
            }
        }
    }

    fn go_on(&mut self, said: &[Said], now: u64) {
        for said in said {
            if self.running.is_some() {
                self.refuse(said);
            } else {
                self.execute_all(said.socket, &said.commands, now);
            }
        }
        if self.running.is_none() {
            self.tell();
        }
    }

    /// Whoever asks anything is told so, at once. Whoever runs the script is not listened to.
    fn refuse(&mut self, Said { socket, commands }: &Said) {
        debug_assert!(self.is_busy_with().is_some_and(|running| running != *socket));
        if let Some(one) = self.sockets.get_mut(socket) {
            one.frames.extend(commands.iter().map(|_| Frame::Busy));
        }
    }

    fn finish_script(&mut self, said: &[Said], now: u64) {
        debug_assert!(said.iter().all(|said| self.rest().contains(&said.socket)));
        let Some(Running { socket, writes, behind, .. }) = self.running.take() else { return };
        self.execute(socket, &Command::Script(writes), now);
        self.execute_all(socket, &behind, now);
        self.go_on(said, now);
    }

    /// The server comes across keys whose time is over: it deletes them, and tells.
    fn expire(&mut self, now: u64) {
        debug_assert!(self.running.is_none(), "a server in a script looks for nothing");
        let all: Vec<Key> = self.keys.keys().copied().collect();
        for key in all {
            self.look(key, now);
        }
        self.tell();
    }

    /// A pipeline, as far as the next long script.
    fn execute_all(&mut self, socket: SocketId, commands: &[Command], now: u64) {
        for (place, command) in commands.iter().enumerate() {
            if let Command::LongScript(writes) = command {
                let behind = commands[place + 1..].to_vec();
                let rest = Vec::new();
                self.running = Some(Running { socket, writes: writes.clone(), behind, rest });
                return;
            }
            self.execute(socket, command, now);
        }
    }

    fn execute(&mut self, socket: SocketId, command: &Command, now: u64) {
        let frame = match *command {
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
                    self.change(key);
                    self.journal.push(Change { at: now, key, value: None, expires_at: None });
                }
                Frame::Number(i64::from(was_there))
            }
            Command::FlushAll => {
                for key in std::mem::take(&mut self.keys).into_keys() {
                    self.journal.push(Change { at: now, key, value: None, expires_at: None });
                }
                self.tell_flush(|other| other != socket);
                Frame::Ok
            }
            Command::Echo(number) => Frame::Echo(number),
            Command::Track => {
                if let Some(one) = self.sockets.get_mut(&socket) {
                    one.is_tracking = true;
                }
                Frame::Ok
            }
            Command::Script(ref writes) | Command::LongScript(ref writes) => {
                for &(key, value) in writes {
                    self.set(key, value, None, now);
                }
                Frame::Ok
            }
        };
        if let Some(one) = self.sockets.get_mut(&socket) {
            one.frames.push_back(frame);
        }
        // Nobody is told of his own in the midst of his reply.
        if *command == Command::FlushAll {
            self.tell_flush(|other| other == socket);
        }
    }

    fn tell_flush(&mut self, is_told: impl Fn(SocketId) -> bool) {
        let told = self.sockets.iter_mut().filter(|(socket, one)| one.is_tracking && is_told(**socket));
        told.for_each(|(_, one)| one.frames.push_back(Frame::InvalidateAll));
    }

    fn set(&mut self, key: Key, value: Value, expires_at: Option<u64>, now: u64) {
        self.keys.insert(key, Stored { value, expires_at });
        self.change(key);
        self.journal.push(Change { at: now, key, value: Some(value), expires_at });
    }

    /// Looks a key up as every command does: one that has expired is deleted first.
    fn look(&mut self, key: Key, now: u64) -> Option<Stored> {
        let stored = *self.keys.get(&key)?;
        if stored.expires_at.is_some_and(|at| at <= now) {
            self.keys.remove(&key);
            self.change(key);
            return None;
        }
        Some(stored)
    }

    /// What changes while nobody listens is not kept for who begins to in the same cycle.
    fn change(&mut self, key: Key) {
        if self.is_heard() {
            self.changed.insert(key);
        }
    }

    fn is_heard(&self) -> bool {
        self.sockets.values().any(|one| one.is_tracking)
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
