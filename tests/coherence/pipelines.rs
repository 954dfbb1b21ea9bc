//! One connection's commands take effect in their order, whichever of them are answered from memory: pipelines of
//! random commands are held against a model that runs them one by one. Others read the same keys meanwhile, so
//! that the cache is full of them, but nobody else writes them.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::common::Client;
use crate::common::resp::{children, encode, shown};
use crate::{House, bulk, is_own_error, kill_named};

const PIPELINES: u32 = 250;
const COMMANDS_MAX: usize = 40;
const KEYS: usize = 3;
/// Longer values are replaced, so that numbers stay numbers.
const DIGITS_MAX: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Verb {
    Get,
    Strlen,
    Exists,
    Set(u32),
    Incr,
    Append(u8),
    Del,
    Getdel,
    Script,
    /// The same, of a key that it does not declare.
    HiddenScript,
}

#[derive(Clone, Debug)]
enum Command {
    One(Verb, usize),
    Mget(Vec<usize>),
}

type Value = Option<String>;

/// What each key of one client may hold: one value, or several after a write whose fate is not known.
struct Model {
    owner: u64,
    keys: [Vec<Value>; KEYS],
}

/// Whether a command may be answered with an error about its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Losses {
    None,
    Allowed,
}

impl Verb {
    fn words(self, key: &str) -> Vec<String> {
        let line = match self {
            Self::Get => format!("GET {key}"),
            Self::Strlen => format!("STRLEN {key}"),
            Self::Exists => format!("EXISTS {key}"),
            Self::Set(value) => format!("SET {key} {value}"),
            Self::Incr => format!("INCR {key}"),
            Self::Append(digit) => format!("APPEND {key} {digit}"),
            Self::Del => format!("DEL {key}"),
            Self::Getdel => format!("GETDEL {key}"),
            Self::Script => format!("EVAL return(redis.call('INCRBY',KEYS[1],7)) 1 {key}"),
            Self::HiddenScript => format!("EVAL return(redis.call('INCRBY','{key}',7)) 0"),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    /// What Redis answers, and what the key holds then.
    fn run(self, value: &Value) -> (Vec<u8>, Value) {
        let text = value.as_deref().unwrap_or_default();
        let plus = |more: u64| (text.parse().unwrap_or(0) + more).to_string();
        let number = |number: usize| format!(":{number}\r\n").into_bytes();
        let own = || value.as_deref().map_or(b"$-1\r\n".to_vec(), bulk);
        match self {
            Self::Get => (own(), value.clone()),
            Self::Strlen => (number(text.len()), value.clone()),
            Self::Exists => (number(usize::from(value.is_some())), value.clone()),
            Self::Set(new) => (b"+OK\r\n".to_vec(), Some(new.to_string())),
            Self::Incr => (format!(":{}\r\n", plus(1)).into_bytes(), Some(plus(1))),
            Self::Append(digit) => (number(text.len() + 1), Some(format!("{text}{digit}"))),
            Self::Del => (number(usize::from(value.is_some())), None),
            Self::Getdel => (own(), None),
            Self::Script | Self::HiddenScript => (format!(":{}\r\n", plus(7)).into_bytes(), Some(plus(7))),
        }
    }
}

impl Model {
    fn new(owner: u64) -> Self {
        Self { owner, keys: [const { Vec::new() }; KEYS].map(|_: Vec<Value>| vec![None]) }
    }

    fn name(&self, key: usize) -> String {
        format!("client{}:{key}", self.owner)
    }

    fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::One(verb, key) => verb.words(&self.name(*key)),
            Command::Mget(keys) => {
                ["MGET".to_owned()].into_iter().chain(keys.iter().map(|key| self.name(*key))).collect()
            }
        }
    }

    /// The calmer, the fewer writes. A value that has become long is set anew.
    fn choose(&self, random: &mut Rng, calm: u8) -> Command {
        let key = random.usize(..KEYS);
        let is_long = self.keys[key].iter().flatten().any(|value| value.len() > DIGITS_MAX);
        Command::One(
            match random.u8(..if is_long { 1 } else { 8 + calm }) {
                0 | 1 => Verb::Set(random.u32(1..100)),
                2 => Verb::Del,
                3 => Verb::Getdel,
                4 | 5 => Verb::Incr,
                6 => Verb::Append(random.u8(1..9)),
                7 if random.bool() => Verb::Script,
                7 => Verb::HiddenScript,
                number if number % 8 == 0 => Verb::Exists,
                number if number % 8 < 3 => Verb::Strlen,
                number if number % 8 < 5 => {
                    return Command::Mget((0..random.usize(1..4)).map(|_| random.usize(..KEYS)).collect());
                }
                _ => Verb::Get,
            },
            key,
        )
    }

    /// Judges a reply, and takes in what it tells; errors out with what would have been right.
    fn take(&mut self, command: &Command, reply: &[u8], losses: Losses) -> Result<(), String> {
        let is_lost = is_own_error(reply);
        if is_lost && losses == Losses::None {
            return Err("no error".into());
        }
        match command {
            Command::One(verb, key) if is_lost => {
                let after: Vec<Value> = self.keys[*key].iter().map(|value| verb.run(value).1).collect();
                // Without this they double with each loss, and a slow machine sees many in a row.
                self.keys[*key].extend(after);
                self.keys[*key].sort();
                self.keys[*key].dedup();
                Ok(())
            }
            Command::One(verb, key) => self.narrow(*verb, *key, reply),
            Command::Mget(_) if is_lost => Ok(()),
            Command::Mget(keys) => {
                let values = children(reply);
                if values.len() != keys.len() {
                    return Err(format!("{} values", keys.len()));
                }
                keys.iter().zip(values).try_for_each(|(key, value)| self.narrow(Verb::Get, *key, value))
            }
        }
    }

    /// Keeps of the values that a key may have had those that explain the reply.
    fn narrow(&mut self, verb: Verb, key: usize, reply: &[u8]) -> Result<(), String> {
        let ran: Vec<_> = self.keys[key].iter().map(|value| verb.run(value)).collect();
        let expected: Vec<String> = ran.iter().map(|(reply, _)| shown(reply)).collect();
        let mut after: Vec<Value> =
            ran.into_iter().filter(|(expected, _)| expected == reply).map(|(_, value)| value).collect();
        if after.is_empty() {
            return Err(format!("{} of {}", expected.join(" or "), self.name(key)));
        }
        after.sort();
        after.dedup();
        self.keys[key] = after;
        Ok(())
    }

    /// One pipeline of random commands, written in pieces.
    #[track_caller]
    fn round(&mut self, client: &mut Client, random: &mut Rng, losses: Losses) {
        // Chosen before any reply is known; the lengths in the model lag behind, which the margin to 18 digits covers.
        let calm = [8, 24, 200][random.usize(..3)];
        let commands: Vec<Command> =
            (0..random.usize(1..COMMANDS_MAX)).map(|_| self.choose(random, calm)).collect();
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(&self.words(command))).collect();
        let cut = random.usize(..bytes.len());
        client.send_raw(&bytes[..cut]);
        if random.u8(..4) == 0 {
            // Some of the first half is answered by now, or waits for its fence.
            thread::sleep(Duration::from_micros(random.u64(..3_000)));
        }
        client.send_raw(&bytes[cut..]);
        let replies: Vec<Vec<u8>> = commands.iter().map(|_| client.recv()).collect();
        for (index, (command, reply)) in commands.iter().zip(&replies).enumerate() {
            if let Err(expected) = self.take(command, reply, losses) {
                let lines = commands.iter().zip(&replies).map(|(command, reply)| {
                    format!("{}  ->  {}\n", self.words(command).join(" "), shown(reply))
                });
                let all: String = lines.collect();
                panic!(
                    "reply {index}, to {command:?}, is {} instead of {expected}; the pipeline:\n{all}",
                    shown(reply)
                );
            }
        }
    }
}

/// So many clients at work on keys of their own, and two that only read all of them; `disturb` runs meanwhile.
#[track_caller]
fn pipelines(house: &House, clients: u64, losses: Losses, disturb: impl Fn(&AtomicBool) + Sync) {
    house.proxy.wait_live();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = &done;
        let workers: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || {
                    let (mut client, mut random) = (house.client(), Rng::with_seed(number));
                    let mut model = Model::new(number);
                    for _ in 0..PIPELINES {
                        model.round(&mut client, &mut random, losses);
                    }
                })
            })
            .collect();
        for number in 0..2 {
            scope.spawn(move || read_all(house, clients, number, done));
        }
        scope.spawn(|| disturb(done));
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, SeqCst);
        assert!(results.iter().all(Result::is_ok), "see above");
    });
    let hits = house.proxy.stat("hits");
    assert!(hits > u64::from(PIPELINES), "{hits} hits: hardly anything was tested");
}

fn read_all(house: &House, clients: u64, seed: u64, done: &AtomicBool) {
    let (mut client, mut random) = (house.client(), Rng::with_seed(1_000 + seed));
    while !done.load(SeqCst) {
        let model = Model::new(random.u64(..clients));
        let key = random.usize(..KEYS);
        let command = match random.u8(..4) {
            0 => Command::Mget((0..KEYS).collect()),
            1 => Command::One(Verb::Strlen, key),
            _ => Command::One(Verb::Get, key),
        };
        client.cmd(&model.words(&command));
    }
}

#[test]
fn a_pipeline_takes_effect_in_its_order() {
    let house = House::start();
    pipelines(&house, 1, Losses::None, |_| {});
}

#[test]
fn many_pipelines_take_effect_in_their_order_with_late_pushes() {
    let house = House::start();
    house.relay.link().delay(0, 5);
    pipelines(&house, 4, Losses::None, |_| {});
}

#[test]
fn a_pipeline_whose_lane_dies_shows_errors_and_nothing_wrong() {
    let house = House::start();
    pipelines(&house, 4, Losses::Allowed, |done| {
        let (mut outside, mut random) = (house.outside(), Rng::with_seed(7));
        while !done.load(SeqCst) {
            kill_named(&mut outside, if random.u8(..20) == 0 { "nearhit-link" } else { "nearhit-lane" });
            thread::sleep(Duration::from_millis(random.u64(1..40)));
        }
    });
    assert!(house.proxy.stat("lanes_lost") > 10, "lanes were killed");
}
