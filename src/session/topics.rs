//! Who hears what on a connection that many subscribers share: pure.
//!
//! Two things are kept apart. *Wanted* is as of the commands that have been sent, and decides whether the server has to
//! be told: the next UNSUBSCRIBE stands behind them in the stream. *Hearing* is as of the answers that have come: a
//! subscriber hears from its confirmation on to that of its UNSUBSCRIBE, wherever those stand among the messages.

use std::collections::HashMap;

use super::state::Family;

/// What the subscribers of one connection want and hear. `L` is a subscriber; the same one never hears a topic twice.
#[derive(Debug)]
pub(super) struct Topics<L>([HashMap<Box<[u8]>, Topic<L>>; 3]);

/// A channel, pattern or shard channel that somebody wants or hears.
#[derive(Debug)]
struct Topic<L> {
    wanted: usize,
    hearing: Vec<L>,
}

impl<L: PartialEq> Topics<L> {
    pub(super) fn new() -> Self {
        Self([HashMap::new(), HashMap::new(), HashMap::new()])
    }

    /// One more wants it.
    pub(super) fn want(&mut self, family: Family, name: &[u8]) {
        self.topic(family, name).wanted += 1;
    }

    /// One of those who wanted it wants it no more; whether nobody else does.
    pub(super) fn unwant(&mut self, family: Family, name: &[u8]) -> bool {
        let Some(topic) = self.0[family as usize].get_mut(name) else { return false };
        topic.wanted -= 1;
        let is_last = topic.wanted == 0;
        self.tidy(family, name);
        is_last
    }

    /// Whether anybody wants it.
    pub(super) fn is_wanted(&self, family: Family, name: &[u8]) -> bool {
        self.0[family as usize].get(name).is_some_and(|topic| topic.wanted > 0)
    }

    /// It hears it from now on.
    pub(super) fn hear(&mut self, family: Family, name: &[u8], who: L) {
        self.topic(family, name).hearing.push(who);
    }

    /// It hears it no more.
    pub(super) fn unhear(&mut self, family: Family, name: &[u8], who: &L) {
        if let Some(topic) = self.0[family as usize].get_mut(name)
            && let Some(index) = topic.hearing.iter().position(|other| other == who)
        {
            topic.hearing.swap_remove(index);
        }
        self.tidy(family, name);
    }

    /// Everybody who hears it now.
    pub(super) fn hearing(&self, family: Family, name: &[u8]) -> &[L] {
        self.0[family as usize].get(name).map_or(&[], |topic| &topic.hearing)
    }

    /// Everybody who hears anything, once for each topic.
    pub(super) fn into_all(self) -> impl Iterator<Item = L> {
        self.0.into_iter().flat_map(HashMap::into_values).flat_map(|topic| topic.hearing)
    }

    /// A name that nobody wants or hears.
    pub(super) fn nobodys(&self, family: Family) -> Vec<u8> {
        let names = (0..).map(|number: u64| format!("nearhit:nobody:{number}").into_bytes());
        let mut free = names.filter(|name| !self.0[family as usize].contains_key(&name[..]));
        free.next().unwrap_or_default()
    }

    fn topic(&mut self, family: Family, name: &[u8]) -> &mut Topic<L> {
        let topics = &mut self.0[family as usize];
        topics.entry(name.into()).or_insert_with(|| Topic { wanted: 0, hearing: Vec::new() })
    }

    fn tidy(&mut self, family: Family, name: &[u8]) {
        let topics = &mut self.0[family as usize];
        if topics.get(name).is_some_and(|topic| topic.wanted == 0 && topic.hearing.is_empty()) {
            topics.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_told_when_the_last_who_wants_it_goes_though_others_still_hear() {
        let mut topics = Topics::new();
        topics.want(Family::Channel, b"a");
        topics.want(Family::Channel, b"a");
        topics.hear(Family::Channel, b"a", 1);
        topics.hear(Family::Channel, b"a", 2);
        assert!(!topics.unwant(Family::Channel, b"a"), "the other wants it");
        assert!(topics.unwant(Family::Channel, b"a"), "though neither has been confirmed");
        assert_eq!(topics.hearing(Family::Channel, b"a"), [1, 2]);
        topics.unhear(Family::Channel, b"a", &1);
        assert_eq!(topics.hearing(Family::Channel, b"a"), [2]);
        assert_eq!(topics.hearing(Family::Pattern, b"a"), [0; 0]);
        topics.unhear(Family::Channel, b"a", &2);
        assert!(topics.0[0].is_empty());
    }

    #[test]
    fn who_wants_it_before_the_last_is_out_hears_it_after() {
        let mut topics = Topics::new();
        topics.want(Family::Shard, b"a");
        topics.hear(Family::Shard, b"a", 1);
        assert!(topics.unwant(Family::Shard, b"a"));
        topics.want(Family::Shard, b"a");
        topics.unhear(Family::Shard, b"a", &1);
        topics.hear(Family::Shard, b"a", 2);
        assert_eq!(topics.hearing(Family::Shard, b"a"), [2]);
        assert_eq!(topics.into_all().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn nobodys_name_is_nobodys() {
        let mut topics: Topics<u8> = Topics::new();
        let first = topics.nobodys(Family::Channel);
        topics.want(Family::Channel, &first);
        let second = topics.nobodys(Family::Channel);
        assert_ne!(first, second);
        assert_eq!(topics.nobodys(Family::Pattern), first);
    }
}
