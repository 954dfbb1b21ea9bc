//! News does not outrun its key: who is told by Redis that something is there, by a message or by a job, finds it,
//! although the invalidation is a good while behind.

use std::thread;

use crate::common::resp::shown;
use crate::{Ask, House, bulk, words};

/// Listeners at a time, each with its own key; and rounds of each.
const LISTENERS: u32 = 8;
const ROUNDS: u32 = 40;

/// What a listener waits for, and how it is told.
#[derive(Clone, Copy)]
struct Channel {
    /// Said once.
    listen: &'static str,
    /// Said before each round.
    wait: Option<&'static str>,
    /// Said outside, right behind the SET.
    tell: &'static str,
    /// A word of the news.
    word: &'static str,
}

const NEWS: Channel = Channel { listen: "PING", wait: None, tell: "PING", word: "news" };

const MESSAGE: Channel = Channel { listen: "SUBSCRIBE {}", tell: "PUBLISH {} news", ..NEWS };
const PATTERN: Channel = Channel { listen: "PSUBSCRIBE {}*", tell: "PUBLISH {} news", ..NEWS };
const SHARD: Channel = Channel { listen: "SSUBSCRIBE {}", tell: "SPUBLISH {} news", ..NEWS };
const JOB: Channel = Channel { wait: Some("BRPOP {}:jobs 0"), tell: "LPUSH {}:jobs news", ..NEWS };
const MOVED_JOB: Channel =
    Channel { wait: Some("BLMOVE {}:jobs {}:done RIGHT LEFT 0"), tell: "LPUSH {}:jobs news", ..NEWS };
const EVENT: Channel = Channel {
    wait: Some("XREAD BLOCK 0 STREAMS {}:events {before}-1"),
    tell: "XADD {}:events {now}-1 field news",
    ..NEWS
};
/// A client's own tracking, of keys that it may well read on another connection.
const TRACKING: Channel =
    Channel { listen: "CLIENT TRACKING ON BCAST PREFIX {}", word: "invalidate", ..NEWS };

#[test]
fn a_message_does_not_outrun_its_key() {
    let house = House::start();
    house.is_not_outrun(&[MESSAGE, PATTERN, SHARD]);
}

#[test]
fn a_job_does_not_outrun_its_key() {
    let house = House::start();
    house.is_not_outrun(&[JOB, MOVED_JOB, EVENT]);
}

#[test]
fn an_invalidation_that_a_client_has_asked_for_does_not_outrun_its_key() {
    let house = House::start();
    house.is_not_outrun(&[TRACKING]);
}

impl House {
    #[track_caller]
    fn is_not_outrun(&self, channels: &[Channel]) {
        self.proxy.wait_live();
        self.delay_pushes();
        let hits = self.proxy.stat("hits");
        thread::scope(|scope| {
            for (number, channel) in (0..LISTENERS).zip(channels.iter().cycle()) {
                scope.spawn(move || self.listen(*channel, number));
            }
        });
        // Each round asks twice for a key that nobody has changed since.
        let hits = self.proxy.stat("hits") - hits;
        assert!(hits > u64::from(LISTENERS * ROUNDS), "{hits} hits: the keys were not hot");
        assert!(self.proxy.stat("fences") >= u64::from(LISTENERS * ROUNDS));
    }

    fn listen(&self, channel: Channel, number: u32) {
        let key = format!("key{number}");
        let (mut listener, mut reader, mut outside) = (self.client(), self.client(), self.outside());
        // The other protocol has another shape of message, and alone one of invalidations.
        if number % 4 >= 2 || channel.word == TRACKING.word {
            listener.hello(3);
        }
        listener.must(&channel.listen.replace("{}", &key));
        for round in 1..=ROUNDS {
            let (before, now) = ((round - 1).to_string(), round.to_string());
            let named =
                |line: &str| line.replace("{}", &key).replace("{before}", &before).replace("{now}", &now);
            if let Some(wait) = channel.wait {
                listener.send(&words(&named(wait)));
            }
            // The first may fill, the others are hits.
            for _ in 0..3 {
                reader.must(&named("GET {}"));
            }
            outside.must(&named("SET {} {now}"));
            outside.must(&named(channel.tell));
            let news = listener.recv();
            assert!(memchr::memmem::find(&news, channel.word.as_bytes()).is_some(), "{}", shown(&news));
            let reply = reader.ask(&named("GET {}"));
            assert_eq!(shown(&reply), shown(&bulk(&now)), "the key after {}", shown(&news));
        }
    }
}
