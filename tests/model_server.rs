//! The model of the server (`model/server.rs`) is held against a real one: what the coherence layer was tried on must
//! be what Redis does.
//!
//! What happens to a server is drawn at random, denser than in the schedules of the layer's own model, which
//! `src/coherence/tests/model.rs` replays in the same way (`model/replay.rs`). And each fact that the protocol stands on
//! has a test of its own.
//!
//! `NEARHIT_REPLAYS=n` makes n scenarios, `NEARHIT_MODEL_SEED` repeats the first.

mod common;
#[path = "model/replay.rs"]
mod replay;
#[path = "model/server.rs"]
#[allow(dead_code, reason = "the model's other user looks at more of it")]
mod server;

use fastrand::Rng;

use common::Redis;
use common::resp::{children, payload};
use replay::{Figures, Replay, number, replay};
use server::{Command, Frame, Key, Said, Server, SocketId, Step, Value};

const SOCKETS: usize = 4;
const KEYS: u8 = 3;
const SCENARIOS: u64 = 8;
const STEPS: usize = 80;
const LIFE_MAX_MS: u64 = 40;

/// Draws what happens to a server.
struct Drawing {
    random: Rng,
    /// Knows when a script is running.
    model: Server,
    trace: Vec<Step>,
    sockets: Vec<SocketId>,
    sockets_made: SocketId,
    now: u64,
    numbers: Value,
}

impl Drawing {
    fn new(seed: u64) -> Self {
        let mut drawing = Self {
            random: Rng::with_seed(seed),
            model: Server::default(),
            trace: Vec::new(),
            sockets: Vec::new(),
            sockets_made: 0,
            now: 1_000,
            numbers: 0,
        };
        (0..SOCKETS).for_each(|_| drawing.connect());
        let link = drawing.sockets[0];
        drawing.happens(cycle(drawing.now, &[(link, &[Command::Track])]));
        drawing
    }

    fn happens(&mut self, step: Step) {
        self.model.take(&step);
        self.trace.push(step);
    }

    fn step(&mut self) {
        let running = self.model.is_busy_with();
        match (self.random.u8(0..20), running) {
            (0, _) => {
                let dies = self.random.usize(0..SOCKETS);
                let dies = self.sockets.swap_remove(dies);
                self.happens(Step::Disconnect(dies));
                self.connect();
            }
            (1..4, None) => self.now += self.random.u64(0..LIFE_MAX_MS),
            (4..10, Some(_)) => {
                let rest = self.model.rest().to_vec();
                let said = rest.into_iter().map(|socket| self.say(socket)).collect();
                self.happens(Step::FinishScript { at: self.now, said });
            }
            (_, Some(running)) => {
                let socket = self.sockets[self.random.usize(0..SOCKETS)];
                if socket != running {
                    let said = self.say(socket);
                    self.happens(Step::Refuse(said));
                }
            }
            (4, None) => self.happens(Step::Expire { at: self.now }),
            (_, None) => {
                let mut speak = self.sockets.clone();
                self.random.shuffle(&mut speak);
                speak.truncate(self.random.usize(1..=SOCKETS));
                let said = speak.into_iter().map(|socket| self.say(socket)).collect();
                self.happens(Step::Cycle { at: self.now, said });
            }
        }
    }

    fn connect(&mut self) {
        self.sockets_made += 1;
        self.sockets.push(self.sockets_made);
        self.happens(Step::Connect(self.sockets_made));
    }

    fn say(&mut self, socket: SocketId) -> Said {
        let commands = (0..self.random.usize(1..4)).map(|_| self.command()).collect();
        Said { socket, commands }
    }

    fn command(&mut self) -> Command {
        self.numbers += 1;
        let (key, other) = (self.random.u8(0..KEYS), self.random.u8(0..KEYS));
        let (value, lives) = (self.numbers, self.random.u64(1..LIFE_MAX_MS));
        let writes = vec![(key, value), (other, value + 10_000)];
        match self.random.u8(0..40) {
            0..12 => Command::Get(key),
            12..16 => Command::Pttl(key),
            16..22 => Command::Set { key, value, lives: None },
            22..26 => Command::Set { key, value, lives: Some(lives) },
            26..29 => Command::Del(key),
            29..31 => Command::FlushAll,
            31..35 => Command::Echo(value),
            35 => Command::Track,
            36..39 => Command::Script(writes),
            _ => Command::LongScript(writes),
        }
    }
}

fn cycle(at: u64, said: &[(SocketId, &[Command])]) -> Step {
    let said = said.iter().map(|(socket, commands)| Said { socket: *socket, commands: commands.to_vec() });
    Step::Cycle { at, said: said.collect() }
}

fn set(key: Key, value: Value, lives: Option<u64>) -> Command {
    Command::Set { key, value, lives }
}

#[test]
fn the_model_and_redis_agree_on_random_rounds() {
    let first_seed = number("NEARHIT_MODEL_SEED", fastrand::u64(..u64::MAX / 2));
    let scenarios = number("NEARHIT_REPLAYS", SCENARIOS);
    let mut sum = Figures::default();
    for seed in first_seed..first_seed + scenarios {
        println!("NEARHIT_MODEL_SEED={seed}");
        let mut drawing = Drawing::new(seed);
        (0..STEPS).for_each(|_| drawing.step());
        sum = [sum, replay(&drawing.trace)].into_iter().sum();
    }
    println!("{sum}");
    let scenarios = usize::try_from(scenarios).expect("a number of scenarios");
    assert!(sum.rounds > 10 * scenarios && sum.pushes > 5 * scenarios && sum.refusals > scenarios / 2);
}

/// A link and three others.
fn started() -> (Replay, [SocketId; 4]) {
    let mut replay = Replay::start();
    let sockets = [1, 2, 3, 4];
    sockets.iter().for_each(|socket| drop(replay.told(&Step::Connect(*socket))));
    replay.told(&cycle(0, &[(1, &[Command::Track])]));
    (replay, sockets)
}

#[test]
fn the_answer_of_a_round_comes_before_its_push() {
    let (mut replay, [link, other, ..]) = started();
    let told = replay.told(&cycle(0, &[(other, &[set(0, 1, None)]), (link, &[Command::Echo(1)])]));
    assert_eq!(told[&link], [Frame::Echo(1), Frame::Invalidate(vec![0])]);
}

#[test]
fn a_flush_is_told_at_once() {
    let (mut replay, [link, other, ..]) = started();
    let said = [set(0, 1, None), Command::FlushAll, set(1, 2, None)];
    let told = replay.told(&cycle(0, &[(other, &said), (link, &[Command::Echo(1)])]));
    assert_eq!(told[&link], [Frame::InvalidateAll, Frame::Echo(1), Frame::Invalidate(vec![0, 1])]);
}

#[test]
fn an_expired_key_is_told_of_when_the_server_comes_across_it() {
    let (mut replay, [link, other, ..]) = started();
    let told = replay.told(&cycle(0, &[(other, &[set(0, 1, Some(1)), set(1, 2, Some(1))])]));
    assert_eq!(told[&link], [Frame::Invalidate(vec![0, 1])]);
    // Nobody has asked, and nobody is told.
    let told = replay.told(&cycle(2, &[(link, &[Command::Echo(1)])]));
    assert_eq!(told[&link], [Frame::Echo(1)]);
    let told = replay.told(&cycle(3, &[(other, &[Command::Get(0)])]));
    assert_eq!(
        (&told[&other][..], &told[&link][..]),
        (&[Frame::Value(None)][..], &[Frame::Invalidate(vec![0])][..])
    );
    let told = replay.told(&Step::Expire { at: 4 });
    assert_eq!(told[&link], [Frame::Invalidate(vec![1])]);
}

/// What was done in its round before it is acknowledged while it runs, and told of when it has ended; whoever asks
/// anything meanwhile gets -BUSY, and so does whoever had asked in its round behind it.
#[test]
fn a_long_script_answers_busy_and_tells_nothing() {
    let (mut replay, [link, writer, scripter, late]) = started();
    let script = [Command::LongScript(vec![(1, 2)]), set(2, 3, None)];
    let round = [(writer, &[set(0, 1, None)][..]), (scripter, &script), (late, &[Command::Get(0)])];
    let told = replay.told(&cycle(0, &round));
    assert_eq!((&told[&writer][..], &told[&late][..]), (&[Frame::Ok][..], &[Frame::Busy][..]));
    let told = replay.told(&Step::Refuse(Said { socket: link, commands: vec![Command::Echo(1)] }));
    assert_eq!(told[&link], [Frame::Busy]);
    let told = replay.told(&Step::FinishScript { at: 1, said: Vec::new() });
    assert_eq!(told[&scripter], [Frame::Ok, Frame::Ok]);
    assert_eq!(told[&link], [Frame::Invalidate(vec![0, 1, 2])]);
}

/// What makes one answer prove nothing: it comes in a later cycle than what was done before it was asked for, but for
/// this.
#[test]
fn an_answer_may_come_before_the_push_of_what_was_acknowledged_before_the_question() {
    let (mut replay, [link, writer, scripter, _]) = started();
    let script = [Command::LongScript(Vec::new())];
    let round = [(writer, &[set(0, 1, None)][..]), (scripter, &script), (link, &[Command::Echo(1)])];
    let told = replay.told(&cycle(0, &round));
    assert_eq!((&told[&writer][..], &told[&link][..]), (&[Frame::Ok][..], &[Frame::Busy][..]));
    let said = vec![Said { socket: link, commands: vec![Command::Echo(2)] }];
    let told = replay.told(&Step::FinishScript { at: 1, said });
    assert_eq!(told[&link], [Frame::Echo(2), Frame::Invalidate(vec![0])]);
}

/// Who dies in the middle of his own script has it carried out, and all that he had said behind it.
#[test]
fn a_script_outlives_who_has_sent_it() {
    let (mut replay, [link, scripter, reader, _]) = started();
    let said = [Command::LongScript(vec![(0, 1)]), set(1, 2, None)];
    replay.told(&cycle(0, &[(scripter, &said)]));
    replay.told(&Step::Disconnect(scripter));
    let told = replay.told(&Step::FinishScript { at: 1, said: Vec::new() });
    assert_eq!(told[&link], [Frame::Invalidate(vec![0, 1])]);
    let told = replay.told(&cycle(2, &[(reader, &[Command::Get(0), Command::Get(1)])]));
    assert_eq!(told[&reader], [Frame::Value(Some(1)), Frame::Value(Some(2))]);
}

/// What the health check has to find; but groups, of which nothing is cached.
#[test]
fn what_is_changed_wholesale_or_beside_the_keys_is_not_told_of() {
    let redis = Redis::start();
    let (mut link, mut other) = (redis.client(), redis.client());
    link.hello(3);
    link.expect(b"+OK\r\n", &["CLIENT", "TRACKING", "ON", "BCAST"]);
    other.expect(b"+OK\r\n", &["SET", "k0", "1"]);
    other.cmd(&["XADD", "k1", "*", "field", "value"]);
    for key in ["k0", "k1"] {
        let told = link.recv();
        assert_eq!(
            children(children(&told)[1]).iter().map(|key| payload(key)).collect::<Vec<_>>(),
            [key.as_bytes()]
        );
    }
    other.expect(b"+OK\r\n", &["XGROUP", "CREATE", "k1", "group", "0"]);
    other.expect(b"+OK\r\n", &["ACL", "SETUSER", "default", "-get"]);
    other.expect(b"+OK\r\n", &["SWAPDB", "0", "1"]);
    // Two rounds, so that whatever there is to be told has been.
    for number in ["1", "2"] {
        link.expect(format!("$1\r\n{number}\r\n").as_bytes(), &["ECHO", number]);
    }
}
