//! What a session is in the middle of: pure, so that every order of MULTI, WATCH and SUBSCRIBE can be tested.

use std::collections::HashSet;

use super::{local::Agreement, output::Seq, pause::PauseChange};
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

/// What a queued command does to the session when it is executed and not refused.
#[derive(Debug)]
pub(super) enum Effect {
    /// SELECT.
    Select(Database),
    /// HELLO or AUTH.
    Agree(Agreement),
    /// This request of CLIENT, which is about the session rather than the server's connection.
    Client(Box<[u8]>),
    /// What leaves the connection in a state that only its end undoes.
    Spend,
    /// A (P|S)(UN)SUBSCRIBE that names so many channels.
    Subscribe(SubscribeKind, usize),
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
    /// What they do to the session, in the order of their places in the queue.
    pub(super) effects: Vec<(usize, Effect)>,
    /// What the last queued CLIENT PAUSE or UNPAUSE changes.
    pub(super) pause: Option<PauseChange>,
    /// Whether a command is among them that nobody has heard of, and that may change the connection.
    pub(super) is_uncertain: bool,
    /// Whether a command is among them that may change users.
    pub(super) is_about_users: bool,
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
            effects: Vec::new(),
            pause: None,
            is_uncertain: false,
            is_about_users: false,
            queued: 0,
            is_open: false,
        }
    }

    /// Whether a (P|S)(UN)SUBSCRIBE is among them.
    pub(super) fn subscribes(&self) -> bool {
        self.effects.iter().any(|(_, effect)| matches!(effect, Effect::Subscribe(..)))
    }

    /// Whether what follows EXEC is to be read, or answered, in the light of its results.
    pub(super) fn agrees(&self) -> bool {
        self.effects.iter().any(|(_, effect)| matches!(effect, Effect::Agree(_) | Effect::Client(_)))
    }

    /// The frames of EXEC's reply behind its first line, each with the place in the queue of what it answers, and
    /// those that answer nothing (messages) without. `None` while some are missing: a SUBSCRIBE is answered by a frame
    /// for each channel, of which EXEC's first line counts one. `subscriptions` are those from before.
    pub(super) fn results<'r>(
        &self,
        subscriptions: &Subscriptions,
        exec_reply: &'r [u8],
    ) -> Option<Vec<(Option<usize>, &'r [u8])>> {
        let mut results = Vec::new();
        let Some(elements) = reply::elements(exec_reply) else { return Some(results) };
        let mut subscriptions = subscriptions.clone();
        let queued = elements.count();
        let (mut place, mut confirmed) = (0, 0);
        for frame in reply::frames(&exec_reply[first_line(exec_reply)..]) {
            let what = pub_sub_frame(frame);
            let is_push = frame.first() == Some(&b'>');
            let is_news = matches!(what, PubSubFrame::Message(_)) && !subscriptions.is_empty();
            if is_news || (is_push && !matches!(what, PubSubFrame::Confirmation(_))) {
                results.push((None, frame));
                continue;
            }
            results.push((Some(place), frame));
            if let Some((kind, named)) = self.subscribe_at(place)
                && !reply::is_error(frame)
            {
                if confirmed == 0 {
                    confirmed = subscriptions.confirmations(kind, named);
                }
                subscriptions.confirm(kind, frame);
                confirmed -= 1;
            }
            place += usize::from(confirmed == 0);
        }
        (place >= queued).then_some(results)
    }

    fn subscribe_at(&self, place: usize) -> Option<(SubscribeKind, usize)> {
        self.effects.iter().find_map(|(at, effect)| match effect {
            Effect::Subscribe(kind, named) if *at == place => Some((*kind, *named)),
            _ => None,
        })
    }
}

/// Where a frame's first line ends.
pub(super) fn first_line(frame: &[u8]) -> usize {
    memchr::memchr(b'\n', frame).map_or(frame.len(), |end| end + 1)
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
#[derive(Clone, Debug, Default)]
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
    fn execs_reply_is_told_apart_by_place() {
        let transaction = Transaction::new();
        let reply = b"*2\r\n+OK\r\n$1\r\nx\r\n";
        let results = transaction.results(&Subscriptions::default(), reply);
        assert_eq!(results, Some(vec![(Some(0), &b"+OK\r\n"[..]), (Some(1), b"$1\r\nx\r\n")]));
        for nothing in [&b"*-1\r\n"[..], b"_\r\n", b"-EXECABORT x\r\n", b"*0\r\n"] {
            assert_eq!(transaction.results(&Subscriptions::default(), nothing), Some(Vec::new()));
        }
    }

    #[test]
    fn a_queued_subscribe_is_answered_by_a_frame_a_channel() {
        let confirmation = |kind: &str, channel: &str, count: usize| {
            format!(">3\r\n${}\r\n{kind}\r\n${}\r\n{channel}\r\n:{count}\r\n", kind.len(), channel.len())
        };
        let mut transaction = Transaction::new();
        transaction.effects = vec![
            (0, Effect::Subscribe(SubscribeKind::Subscribe, 2)),
            (1, Effect::Subscribe(SubscribeKind::Unsubscribe, 0)),
        ];
        let message = ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n".to_owned();
        let frames = [
            (Some(0), confirmation("subscribe", "a", 1)),
            (Some(0), confirmation("subscribe", "b", 2)),
            (None, message),
            (Some(1), confirmation("unsubscribe", "a", 1)),
            (Some(1), confirmation("unsubscribe", "b", 0)),
            (Some(2), ":1\r\n".to_owned()),
        ];
        let mut reply = "*3\r\n".to_owned();
        for (count, (_, frame)) in frames.iter().enumerate() {
            reply += frame;
            let results = transaction.results(&Subscriptions::default(), reply.as_bytes());
            assert_eq!(results.is_some(), count + 1 == frames.len(), "after {} frames", count + 1);
        }
        let results = transaction.results(&Subscriptions::default(), reply.as_bytes()).unwrap();
        let expected = frames.iter().map(|(place, frame)| (*place, frame.as_bytes()));
        assert_eq!(results, expected.collect::<Vec<_>>());
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
