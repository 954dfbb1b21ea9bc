//! How often a key of several variants hits, under load: that invariant 9 does not starve the cache.
//!
//! A closed loop of clients on a simulated clock. A read upstream takes a round trip; a certification takes two, of
//! which the first may have to wait for an ECHO that is out already.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

const K: &[u8] = b"hash";
const CLIENTS: u32 = 50;
/// Nanoseconds.
const ROUND_TRIP: u64 = 100_000;
const THINK_TIME: u64 = 5_000;

enum Event {
    Ready(u32),
    Reply { client: u32, tail: Vec<u8>, sent_at: Nanos, token: Option<Token<u32>> },
    Echoed,
}

struct Loop {
    rng: fastrand::Rng,
    cache: Cache<u32>,
    fields: usize,
    /// Changes with every write outside.
    version: u64,
    now: u64,
    certified: Nanos,
    /// When the ECHO that is out was sent, and the one before it.
    echoes: Option<(Nanos, Nanos)>,
    is_echo_wanted: bool,
    events: BinaryHeap<Reverse<(u64, usize)>>,
    slots: Vec<Option<Event>>,
    reads: usize,
    hits: usize,
}

impl Loop {
    fn new(fields: usize) -> Self {
        let mut new = Self {
            rng: fastrand::Rng::with_seed(7),
            cache: unbounded(),
            fields,
            version: 0,
            now: 1_000_000,
            certified: Nanos::NEVER,
            echoes: None,
            is_echo_wanted: false,
            events: BinaryHeap::new(),
            slots: Vec::new(),
            reads: 0,
            hits: 0,
        };
        (0..CLIENTS).for_each(|client| new.after(u64::from(client) * 100, Event::Ready(client)));
        new
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.events.push(Reverse((self.now + delay, self.slots.len())));
        self.slots.push(Some(event));
    }

    /// The hit ratio over the next `reads`.
    fn ratio(&mut self, reads: usize) -> f64 {
        (self.reads, self.hits) = (0, 0);
        while self.reads < reads {
            let Reverse((time, slot)) = self.events.pop().unwrap();
            self.now = time;
            match self.slots[slot].take().unwrap() {
                Event::Ready(client) => self.read(client),
                Event::Reply { client, tail, sent_at, token } => self.reply(client, &tail, sent_at, token),
                Event::Echoed => {
                    let (sent_at, before) = self.echoes.take().unwrap();
                    self.certified = before;
                    if std::mem::take(&mut self.is_echo_wanted) || sent_at > before {
                        self.echo(sent_at);
                    }
                }
            }
        }
        self.hits as f64 / self.reads as f64
    }

    fn at(&self) -> Moment {
        Moment { now: Nanos(self.now), certified: self.certified, generation: Generation(1) }
    }

    fn read(&mut self, client: u32) {
        self.reads += 1;
        let tail = self.rng.usize(0..self.fields).to_string().into_bytes();
        let at = self.at();
        let delay = ROUND_TRIP + self.rng.u64(0..ROUND_TRIP / 2);
        let token = match self.cache.read_as(K, &field(&tail), &at, client) {
            Read::Hit(_) => {
                self.hits += 1;
                return self.after(THINK_TIME, Event::Ready(client));
            }
            Read::Joined => return,
            Read::Fetch(token) => Some(token),
            Read::Bypass(_) => None,
        };
        self.after(delay, Event::Reply { client, tail, sent_at: at.now, token });
    }

    fn reply(&mut self, client: u32, tail: &[u8], sent_at: Nanos, token: Option<Token<u32>>) {
        let (at, reply) = (self.at(), [tail, &self.version.to_be_bytes()].concat());
        let moved = if let Some(token) = token {
            let filled = self.cache.fill_now(K, token, &reply, &at);
            for waiter in filled.waiters {
                self.after(THINK_TIME, Event::Ready(waiter));
            }
            filled.seen_moved
        } else {
            let read = Observed { variant: field(tail), reply: Reply::Bytes(&reply), sent_at };
            self.cache.observe(K, Some(&read), at.now, &at)
        };
        if moved {
            self.is_echo_wanted = true;
            if self.echoes.is_none() {
                self.is_echo_wanted = false;
                self.echo(Nanos::NEVER);
            }
        }
        self.after(THINK_TIME, Event::Ready(client));
    }

    fn echo(&mut self, before: Nanos) {
        self.echoes = Some((Nanos(self.now), before));
        self.after(ROUND_TRIP, Event::Echoed);
    }
}

#[test]
fn two_variants_hit_nearly_always() {
    let mut two = Loop::new(2);
    two.ratio(2000);
    let ratio = two.ratio(50_000);
    assert!(ratio > 0.999, "{ratio}");
}

#[test]
fn a_thousand_fields_of_a_hash_hit_nearly_always() {
    let mut many = Loop::new(1000);
    many.ratio(40_000);
    let ratio = many.ratio(100_000);
    assert!(ratio > 0.99, "{ratio}");
}

#[test]
fn a_hot_key_recovers_from_a_change_in_a_few_round_trips() {
    for fields in [1, 2] {
        let mut hot = Loop::new(fields);
        hot.ratio(10_000);
        for _ in 0..20 {
            // Reads are in flight when the second push comes, and their replies come late.
            hot.version += 1;
            hot.cache.invalidate(K);
            hot.ratio(CLIENTS as usize);
            hot.version += 1;
            hot.cache.invalidate(K);
            let began = hot.now;
            while hot.ratio(20) < 1.0 {}
            let round_trips = (hot.now - began) / ROUND_TRIP;
            assert!(round_trips <= 8, "{round_trips} round trips with {fields} fields");
        }
    }
}
