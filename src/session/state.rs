//! What a session is in the middle of: pure, so that every order of MULTI, WATCH and SUBSCRIBE can be tested.

use std::collections::HashSet;

use super::{output::Seq, pause::PauseChange};
use crate::{coherence::WriteKind, command::SubscribeKind, ids::Database, resp::reply};

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    /// Every request is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The next one is not (it was just asked for).
    SkipNext,
}

/// A transaction from MULTI to EXEC: what it will do to the cache once it runs.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The worst kind of write among the queued commands.
    pub(super) kind: WriteKind,
    /// The union of the keys they write.
    pub(super) writes: HashSet<Box<[u8]>>,
    /// The union of the keys they read.
    pub(super) reads: HashSet<Box<[u8]>>,
    /// Queued SELECTs: their place in EXEC's reply and the database.
    pub(super) selects: Vec<(usize, Database)>,
    /// Whether a (P|S)(UN)SUBSCRIBE is among them.
    pub(super) subscribes: bool,
    /// What the last queued CLIENT PAUSE or UNPAUSE changes.
    pub(super) pause: Option<PauseChange>,
    /// Whether a command is among them that nobody has heard of, and that may change the connection.
    pub(super) is_uncertain: bool,
    /// Commands queued, as far as can be seen from here.
    pub(super) queued: usize,
    /// Whether the server has agreed to it. Until then nothing more is sent: were MULTI refused (by an ACL, for its
    /// arity), what follows would be executed at once, and as a write like any other.
    pub(super) is_open: bool,
}

impl Transaction {
    pub(super) fn new() -> Self {
        Self {
            kind: WriteKind::Declared,
            writes: HashSet::new(),
            reads: HashSet::new(),
            selects: Vec::new(),
            subscribes: false,
            pause: None,
            is_uncertain: false,
            queued: 0,
            is_open: false,
        }
    }

    /// The database the connection is in after EXEC: that of the last SELECT that was not refused. `None`: as
    /// before, as when EXEC ran nothing.
    pub(super) fn database_after(&self, exec_reply: &[u8]) -> Option<Database> {
        if self.selects.is_empty() {
            return None;
        }
        let results: Vec<&[u8]> = reply::elements(exec_reply)?.collect();
        // A command that was refused at queue time makes EXEC fail, so places and results agree.
        let done =
            |(place, _): &&(usize, Database)| results.get(*place).is_some_and(|raw| !reply::is_error(raw));
        self.selects.iter().rev().find(done).map(|(_, database)| *database)
    }
}

/// Whether the client watches keys: from the sending of WATCH, unless the server refuses it, to EXEC, DISCARD or UNWATCH.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_accepted: bool,
    /// Each WATCH that is not answered yet.
    asked: Vec<Seq>,
}

impl Watch {
    /// Whether anything is, or may be, watched.
    pub(super) fn is_set(&self) -> bool {
        self.is_accepted || !self.asked.is_empty()
    }

    /// A WATCH is sent.
    pub(super) fn ask(&mut self, seq: Seq) {
        self.asked.push(seq);
    }

    /// It is answered; after `clear` that means nothing any more.
    pub(super) fn answered(&mut self, seq: Seq, is_accepted: bool) {
        if let Some(index) = self.asked.iter().position(|asked| *asked == seq) {
            self.asked.swap_remove(index);
            self.is_accepted |= is_accepted;
        }
    }

    /// What was watched is forgotten.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Channel,
    Pattern,
    Shard,
}

impl From<SubscribeKind> for Family {
    fn from(kind: SubscribeKind) -> Self {
        match kind {
            SubscribeKind::Subscribe | SubscribeKind::Unsubscribe => Self::Channel,
            SubscribeKind::Psubscribe | SubscribeKind::Punsubscribe => Self::Pattern,
            SubscribeKind::Ssubscribe | SubscribeKind::Sunsubscribe => Self::Shard,
        }
    }
}

impl Family {
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    /// What ends a subscription, as the server calls it in its confirmations too.
    pub(super) fn unsubscribe(self) -> &'static str {
        match self {
            Self::Channel => "unsubscribe",
            Self::Pattern => "punsubscribe",
            Self::Shard => "sunsubscribe",
        }
    }

    /// What begins one.
    pub(super) fn subscribe(self) -> &'static str {
        match self {
            Self::Channel => "subscribe",
            Self::Pattern => "psubscribe",
            Self::Shard => "ssubscribe",
        }
    }
}

/// Whether a command begins subscriptions.
pub(super) fn subscribes(kind: SubscribeKind) -> bool {
    matches!(kind, SubscribeKind::Subscribe | SubscribeKind::Psubscribe | SubscribeKind::Ssubscribe)
}

/// What a subscriber listens to, kept in step with the server's confirmations.
#[derive(Debug, Default)]
pub(super) struct Subscriptions([HashSet<Box<[u8]>>; 3]);

impl Subscriptions {
    /// Whether nothing is subscribed to.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(HashSet::is_empty)
    }

    /// How many channels, patterns and shard channels.
    pub(super) fn counts(&self) -> [usize; 3] {
        Family::ALL.map(|family| self.of(family).len())
    }

    /// All of one family.
    pub(super) fn of(&self, family: Family) -> &HashSet<Box<[u8]>> {
        &self.0[family as usize]
    }

    /// The number that a confirmation tells.
    pub(super) fn count(&self, family: Family) -> usize {
        let [channels, patterns, shards] = self.counts();
        if family == Family::Shard { shards } else { channels + patterns }
    }

    /// Begins or ends one; whether that changes anything.
    pub(super) fn set(&mut self, kind: SubscribeKind, name: &[u8]) -> bool {
        let names = &mut self.0[Family::from(kind) as usize];
        if subscribes(kind) { names.insert(name.into()) } else { names.remove(name) }
    }

    /// How many confirmations the server sends for a command with `named` channels, when it gets to it: one each,
    /// or for "all" one for each that is subscribed to, and one all the same where there is none.
    pub(super) fn confirmations(&self, kind: SubscribeKind, named: usize) -> usize {
        if named > 0 { named } else { self.of(kind.into()).len().max(1) }
    }

    /// Takes in one confirmation: `[kind, channel, count]`.
    pub(super) fn confirm(&mut self, kind: SubscribeKind, frame: &[u8]) {
        let Some(channel) = reply::elements(frame).and_then(|mut elements| elements.nth(1)) else { return };
        if let Some(channel) = reply::bulk(channel) {
            self.set(kind, channel);
        }
    }
}

/// What a frame is on a connection with subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PubSubFrame {
    /// The confirmation of a (P|S)(UN)SUBSCRIBE, which is the reply to it.
    Confirmation(SubscribeKind),
    /// A message, which nobody asked for.
    Message(Family),
    /// Neither.
    Other,
}

/// Tells a confirmation from a message by the frame's first element. In RESP2 both are plain arrays.
pub(super) fn pub_sub_frame(frame: &[u8]) -> PubSubFrame {
    if !matches!(frame.first(), Some(b'*' | b'>')) {
        return PubSubFrame::Other;
    }
    let first = reply::elements(frame).and_then(|mut elements| elements.next()).and_then(reply::bulk);
    match first {
        Some(b"subscribe") => PubSubFrame::Confirmation(SubscribeKind::Subscribe),
        Some(b"psubscribe") => PubSubFrame::Confirmation(SubscribeKind::Psubscribe),
        Some(b"ssubscribe") => PubSubFrame::Confirmation(SubscribeKind::Ssubscribe),
        Some(b"unsubscribe") => PubSubFrame::Confirmation(SubscribeKind::Unsubscribe),
        Some(b"punsubscribe") => PubSubFrame::Confirmation(SubscribeKind::Punsubscribe),
        Some(b"sunsubscribe") => PubSubFrame::Confirmation(SubscribeKind::Sunsubscribe),
        Some(b"message") => PubSubFrame::Message(Family::Channel),
        Some(b"pmessage") => PubSubFrame::Message(Family::Pattern),
        Some(b"smessage") => PubSubFrame::Message(Family::Shard),
        _ => PubSubFrame::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_select_that_worked_decides_the_database() {
        let mut transaction = Transaction::new();
        transaction.selects = vec![(0, Database(3)), (2, Database(99))];
        let reply = b"*3\r\n+OK\r\n$1\r\nx\r\n-ERR DB index is out of range\r\n";
        assert_eq!(transaction.database_after(reply), Some(Database(3)));
        assert_eq!(transaction.database_after(b"*-1\r\n"), None, "the watch failed, nothing ran");
        assert_eq!(transaction.database_after(b"-EXECABORT x\r\n"), None);
    }

    #[test]
    fn a_refused_watch_watches_nothing_and_a_forgotten_one_neither() {
        let mut watch = Watch::default();
        watch.ask(1);
        assert!(watch.is_set(), "from its sending");
        watch.ask(2);
        watch.answered(1, false);
        assert!(watch.is_set(), "the other may be accepted");
        watch.answered(2, false);
        assert!(!watch.is_set());
        watch.ask(3);
        watch.clear();
        watch.answered(3, true);
        assert!(!watch.is_set(), "UNWATCH was sent behind it");
        watch.ask(4);
        watch.answered(4, true);
        assert!(watch.is_set());
    }

    #[test]
    fn unsubscribing_from_all_is_confirmed_once_a_channel_and_at_least_once() {
        let mut subscriptions = Subscriptions::default();
        assert_eq!(subscriptions.confirmations(SubscribeKind::Unsubscribe, 0), 1);
        subscriptions.confirm(SubscribeKind::Subscribe, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        subscriptions.confirm(SubscribeKind::Subscribe, b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n");
        assert_eq!(subscriptions.confirmations(SubscribeKind::Unsubscribe, 0), 2);
        assert_eq!(subscriptions.confirmations(SubscribeKind::Punsubscribe, 0), 1);
        subscriptions.confirm(SubscribeKind::Unsubscribe, b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n");
        assert!(!subscriptions.is_empty());
        subscriptions.confirm(SubscribeKind::Unsubscribe, b">3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n");
        assert!(subscriptions.is_empty());
    }

    #[test]
    fn frames_are_told_apart_in_both_protocols() {
        assert_eq!(
            pub_sub_frame(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"),
            PubSubFrame::Message(Family::Channel)
        );
        assert_eq!(
            pub_sub_frame(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
            PubSubFrame::Confirmation(SubscribeKind::Subscribe)
        );
        assert_eq!(pub_sub_frame(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), PubSubFrame::Other);
        assert_eq!(pub_sub_frame(b"$7\r\nmessage\r\n"), PubSubFrame::Other);
    }
}
