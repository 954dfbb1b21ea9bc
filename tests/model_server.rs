//! The model of the server (`model/server.rs`) is held against a real one: what the coherence layer was tried on must
//! be what Redis does.
//!
//! A stopped server is sent what several connections have to say, and goes on: so all of it is found ready in one
//! round of its event loop. In which order the connections are served is the server's affair: the model is run with
//! every order, and one of them must come to the same replies and the same pushes on the tracking connection.

mod common;
#[path = "model/server.rs"]
#[allow(dead_code, reason = "the model's other user has connections that die")]
mod server;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use common::resp::{children, payload, shown};
use common::{Client, Redis};
use server::{Command, Frame, Key, Server, SocketId};

const CLIENTS: usize = 3;
const KEYS: u8 = 3;
const SCENARIOS: usize = 12;
const CYCLES: usize = 12;
/// Longer than a round of the event loop, shorter than the pause between two.
const SHORT_LIFE_MS: u64 = 25;
const PAUSE_MS: u64 = 60;

/// A server and its model, with the same connections: the first is the link.
struct Pair {
    redis: Redis,
    clients: Vec<Client>,
    /// Every state that the model may be in, by what has been seen.
    models: Vec<Server>,
    sockets: Vec<SocketId>,
    now: u64,
    markers: u64,
}

impl Pair {
    fn start() -> Self {
        let redis = Redis::start();
        let mut model = Server::default();
        let sockets: Vec<SocketId> = (0..=CLIENTS).map(|_| model.connect()).collect();
        let mut clients: Vec<Client> = sockets.iter().map(|_| redis.client()).collect();
        // What expires is found by who asks for it, until a test wants it otherwise.
        clients[1].expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        clients[0].hello(3);
        clients[0].expect(b"+OK\r\n", &["CLIENT", "TRACKING", "ON", "BCAST"]);
        model.arrive(sockets[0], Command::Track);
        model.cycle(&[sockets[0]], 0);
        assert_eq!(model.leave(sockets[0]), Some(Frame::Ok));
        Self { redis, clients, models: vec![model], sockets, now: 1_000, markers: 1_000_000 }
    }

    /// One round of the event loop with what these connections send.
    fn cycle(&mut self, sent: &[(usize, Vec<Command>)]) {
        self.redis.stop();
        for (client, commands) in sent {
            for command in commands {
                self.clients[*client].send(&words(command));
            }
        }
        self.redis.cont();
        let mut seen: BTreeMap<usize, Vec<Frame>> = BTreeMap::new();
        for (client, commands) in sent.iter().filter(|(client, _)| *client > 0) {
            let replies = commands.iter().map(|_| frame(&self.clients[*client].recv())).collect();
            seen.insert(*client, replies);
        }
        // The link's frames end with the answer to a question that comes in a later round.
        self.markers += 1;
        let echoes = sent.iter().filter(|(client, _)| *client == 0).map(|(_, commands)| commands.len()).sum();
        let mut heard = Vec::new();
        while heard.iter().filter(|frame| matches!(frame, Frame::Echo(_))).count() < echoes {
            heard.push(frame(&self.clients[0].recv()));
        }
        self.clients[0].send(&words(&Command::Echo(self.markers)));
        loop {
            match frame(&self.clients[0].recv()) {
                Frame::Echo(number) if number == self.markers => break,
                other => heard.push(other),
            }
        }
        seen.insert(0, heard);
        self.agree(sent, &seen);
    }

    /// Keeps those states of the model that come to the same.
    fn agree(&mut self, sent: &[(usize, Vec<Command>)], seen: &BTreeMap<usize, Vec<Frame>>) {
        let mut agreed = Vec::new();
        let mut imagined = Vec::new();
        let orders = permutations(&sent.iter().map(|(client, _)| *client).collect::<Vec<_>>());
        for model in &self.models {
            for order in &orders {
                let mut model = model.clone();
                for (client, commands) in sent {
                    commands.iter().for_each(|command| model.arrive(self.sockets[*client], command.clone()));
                }
                let order: Vec<SocketId> = order.iter().map(|client| self.sockets[*client]).collect();
                model.cycle(&order, self.now);
                let mut told = BTreeMap::new();
                for client in sent.iter().map(|(client, _)| *client).chain([0]) {
                    let socket = self.sockets[client];
                    let frames = told.entry(client).or_insert_with(Vec::new);
                    frames.extend(std::iter::from_fn(|| model.leave(socket)));
                }
                model.journal.clear();
                if is_the_same(&told, seen) {
                    if !agreed.contains(&model) {
                        agreed.push(model);
                    }
                } else {
                    imagined.push(told);
                }
            }
        }
        assert!(!agreed.is_empty(), "{sent:?}: Redis says {seen:?}, the model one of {imagined:?}");
        self.models = agreed;
    }

    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(PAUSE_MS));
        self.now += PAUSE_MS;
    }
}

/// Times left are compared by their kind.
fn is_the_same(one: &BTreeMap<usize, Vec<Frame>>, other: &BTreeMap<usize, Vec<Frame>>) -> bool {
    let plain = |frames: &BTreeMap<usize, Vec<Frame>>| -> BTreeMap<usize, Vec<Frame>> {
        let plain = |frame: &Frame| match frame {
            Frame::Number(2..) => Frame::Number(2),
            other => other.clone(),
        };
        frames.iter().map(|(client, frames)| (*client, frames.iter().map(plain).collect())).collect()
    };
    plain(one) == plain(other)
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, first) in of.iter().enumerate() {
        let rest = [&of[..place], &of[place + 1..]].concat();
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![*first], tail].concat()));
    }
    all
}

fn name(key: Key) -> String {
    format!("k{key}")
}

fn words(command: &Command) -> Vec<String> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    match command {
        Command::Get(key) => words(&["GET", &name(*key)]),
        Command::Pttl(key) => words(&["PTTL", &name(*key)]),
        Command::Set { key, value, lives: None } => words(&["SET", &name(*key), &value.to_string()]),
        Command::Set { key, value, lives: Some(lives) } => {
            words(&["SET", &name(*key), &value.to_string(), "PX", &lives.to_string()])
        }
        Command::Del(key) => words(&["DEL", &name(*key)]),
        Command::FlushAll => words(&["FLUSHALL"]),
        Command::Echo(number) => words(&["ECHO", &number.to_string()]),
        Command::Track => words(&["CLIENT", "TRACKING", "ON", "BCAST"]),
        Command::Script(writes) => script("", writes),
        // Half a second: many times the threshold that the test sets.
        Command::LongScript(writes) => script(
            "local t = redis.call('TIME') local e = t[1] * 1000 + t[2] / 1000 + 500 \
             repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e ",
            writes,
        ),
    }
}

fn script(before: &str, writes: &[(Key, u64)]) -> Vec<String> {
    let set = |(key, value): &(Key, u64)| format!("redis.call('SET', '{}', {value}) ", name(*key));
    let sets = writes.iter().map(set).collect::<Vec<_>>().concat();
    vec!["EVAL".into(), format!("{before}{sets}return redis.status_reply('OK')"), "0".into()]
}

fn frame(raw: &[u8]) -> Frame {
    let text = || String::from_utf8_lossy(payload(raw)).into_owned();
    match raw[0] {
        b'+' => Frame::Ok,
        b'-' if raw.starts_with(b"-BUSY") => Frame::Busy,
        b':' => Frame::Number(text().parse().expect("an integer")),
        b'_' => Frame::Value(None),
        b'$' if raw.starts_with(b"$-1") => Frame::Value(None),
        // An echo is a large number, a value is a small one.
        b'$' => match text().parse().expect("a number") {
            number @ 500_000.. => Frame::Echo(number),
            value => Frame::Value(Some(value)),
        },
        b'>' => {
            let keys = children(raw)[1];
            if keys.starts_with(b"_") {
                return Frame::InvalidateAll;
            }
            let mut keys: Vec<Key> = children(keys).iter().map(|key| payload(key)[1] - b'0').collect();
            keys.sort_unstable();
            Frame::Invalidate(keys)
        }
        _ => panic!("not expected: {}", shown(raw)),
    }
}

fn random_command(random: &mut Rng, value: &mut u64) -> Command {
    *value += 1;
    let key = random.u8(0..KEYS);
    match random.u8(0..20) {
        0..6 => Command::Get(key),
        6..8 => Command::Pttl(key),
        8..12 => Command::Set { key, value: *value, lives: None },
        12..15 => Command::Set { key, value: *value, lives: Some(SHORT_LIFE_MS) },
        15..17 => Command::Del(key),
        17 => Command::FlushAll,
        _ => Command::Script(vec![(key, *value), (random.u8(0..KEYS), *value + 10_000)]),
    }
}

#[test]
fn the_model_and_redis_agree_on_random_rounds() {
    let seed =
        std::env::var("NEARHIT_MODEL_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("NEARHIT_MODEL_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let (mut value, mut echoes) = (0, 500_000);
    for _ in 0..SCENARIOS {
        let mut pair = Pair::start();
        for _ in 0..CYCLES {
            let mut sent: Vec<(usize, Vec<Command>)> = Vec::new();
            for client in 1..=CLIENTS {
                let count = random.usize(0..4);
                let commands: Vec<Command> =
                    (0..count).map(|_| random_command(&mut random, &mut value)).collect();
                if !commands.is_empty() {
                    sent.push((client, commands));
                }
            }
            if random.bool() {
                echoes += 1;
                sent.push((0, vec![Command::Echo(echoes)]));
            }
            pair.cycle(&sent);
            let is_short = |command: &Command| matches!(command, Command::Set { lives: Some(_), .. });
            if sent.iter().any(|(_, commands)| commands.iter().any(is_short)) {
                pair.pause();
            }
        }
    }
}

#[test]
fn the_answer_of_a_round_comes_before_its_push() {
    let mut pair = Pair::start();
    let set = Command::Set { key: 0, value: 1, lives: None };
    pair.cycle(&[(1, vec![set]), (0, vec![Command::Echo(500_000)])]);
}

#[test]
fn an_expired_key_is_told_of_when_the_server_comes_across_it() {
    let mut pair = Pair::start();
    pair.cycle(&[(1, vec![Command::Set { key: 0, value: 1, lives: Some(SHORT_LIFE_MS) }])]);
    pair.pause();
    // Nobody has asked, and nobody is told.
    pair.cycle(&[(0, vec![Command::Echo(500_000)])]);
    pair.clients[1].expect(b"+OK\r\n", &["DEBUG", "SET-ACTIVE-EXPIRE", "1"]);
    let pushed = frame(&pair.clients[0].recv());
    let model = &mut pair.models[0];
    model.expire(pair.now);
    assert_eq!(Some(pushed), model.leave(pair.sockets[0]));
}

/// A long script: what was done in its round before it is acknowledged while it runs, and told of when it has ended;
/// whoever asks anything meanwhile gets -BUSY.
#[test]
fn a_long_script_answers_busy_and_tells_nothing() {
    let mut pair = Pair::start();
    pair.clients[1].expect(b"+OK\r\n", &["CONFIG", "SET", "busy-reply-threshold", "20"]);
    // Two connections, served in the order in which they have spoken.
    let said = [(1, Command::Set { key: 0, value: 1, lives: None }), (2, Command::LongScript(vec![(1, 2)]))];
    pair.redis.stop();
    said.iter().for_each(|(client, command)| pair.clients[*client].send(&words(command)));
    pair.redis.cont();
    let [link, writer, scripter] = [pair.sockets[0], pair.sockets[1], pair.sockets[2]];
    let model = &mut pair.models[0];
    for (client, command) in said {
        model.arrive(pair.sockets[client], command);
    }
    model.cycle(&[writer, scripter], pair.now);
    assert!(model.is_busy());

    assert_eq!(Some(frame(&pair.clients[1].recv())), model.leave(writer), "the SET is acknowledged");
    pair.clients[0].send(&words(&Command::Echo(500_000)));
    model.arrive(link, Command::Echo(500_000));
    model.refuse(link);
    assert_eq!(Some(frame(&pair.clients[0].recv())), model.leave(link), "the link is told -BUSY");
    assert!(!model.has_frames(link), "and nothing else");

    assert!(!model.ready().contains(&link));
    model.finish_script(pair.now);
    assert_eq!(Some(frame(&pair.clients[2].recv())), model.leave(scripter), "the script has ended");
    assert_eq!(Some(frame(&pair.clients[0].recv())), model.leave(link), "both keys are told of");
}

/// What the health check has to find; but groups, of which nothing is cached.
#[test]
fn what_is_changed_wholesale_or_beside_the_keys_is_not_told_of() {
    let mut pair = Pair::start();
    let [link, other, ..] = pair.clients.as_mut_slice() else { unreachable!("there are four") };
    other.expect(b"+OK\r\n", &["SET", "k0", "1"]);
    other.cmd(&["XADD", "k1", "*", "field", "value"]);
    let told: Vec<Frame> = (0..2).map(|_| frame(&link.recv())).collect();
    assert_eq!(told, [Frame::Invalidate(vec![0]), Frame::Invalidate(vec![1])]);
    other.expect(b"+OK\r\n", &["XGROUP", "CREATE", "k1", "group", "0"]);
    other.expect(b"+OK\r\n", &["ACL", "SETUSER", "default", "-get"]);
    other.expect(b"+OK\r\n", &["SWAPDB", "0", "1"]);
    // Two rounds, so that whatever there is to be told has been.
    for number in [500_000, 500_001] {
        link.send(&words(&Command::Echo(number)));
        assert_eq!(frame(&link.recv()), Frame::Echo(number));
    }
}
