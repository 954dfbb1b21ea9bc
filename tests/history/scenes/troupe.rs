//! Who plays a scene (`scenes.rs`): authors, who write the versions of keys of every type past the proxies or through
//! one of them, and readers, who move between connections of different protocols and users.
//!
//! What a reader has seen on one connection binds the next one, whatever protocol it speaks, whoever it is logged in as,
//! and whichever part of the key it asks for: so all that was read of a key through one proxy is one record.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::{Mutex, RwLock};

use super::shapes::{Place, Question};
use super::{PASSWORD, Scene, Strain, USER};
use crate::common::resp::{encode, shown};
use crate::common::{Client, Redis};
use crate::history::generator::words;
use crate::history::recorder::{Door, Kind, NOTHING, Op, UNKNOWN, Value, Written, nanoseconds, now};

/// Of one database, through one proxy: RESP2 and RESP3, the default user and another one.
const PROFILES: [(u8, bool); 4] = [(2, false), (3, false), (2, true), (3, true)];
const LIFE_MS: std::ops::Range<u64> = 250..900;
/// Where nobody is answered, there is no hurry to ask again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(2);
const SLOW_WRITE_MS: std::ops::Range<u64> = 1..15;
/// A script outlasts the lease by far.
const BUSY_FOR: Duration = Duration::from_millis(800);
const PAUSE_AFTER_BUSY_MS: std::ops::Range<u64> = 300..600;
/// The second write of a burst comes about when the first one's invalidation does, and reads are on their way.
const BURST_MS: std::ops::Range<u64> = 50..75;

/// One key of one database, as long as it is attacked.
pub(crate) struct Life {
    pub(crate) place: Place,
    /// How many came before it.
    ordinal: u64,
    /// All its versions are written through this proxy, and none removes it: then it is a register there.
    home: Option<usize>,
    tempo: Duration,
    born: Instant,
    lasts: Duration,
    is_over: AtomicBool,
    record: Mutex<Record>,
    judge: Sender<Record>,
}

/// What was read through each proxy, and the versions with the proxy that each went through.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) is_register: bool,
    pub(crate) reads: Vec<Vec<Op>>,
    pub(crate) versions: Vec<(Option<usize>, Written)>,
}

impl Drop for Life {
    fn drop(&mut self) {
        // Nobody judges any more once a scene has failed.
        let _ = self.judge.send(std::mem::take(&mut *self.record.lock()));
    }
}

/// What all players share.
pub(crate) struct Board<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) proxies: Vec<SocketAddr>,
    pub(crate) servers: &'a [Redis],
    /// Which server the proxies are meant to be at.
    pub(crate) server: AtomicUsize,
    /// Held for reading by who writes, and for writing by who wants nobody to.
    pub(crate) stillness: RwLock<()>,
    pub(crate) is_over: Arc<AtomicBool>,
    pub(crate) fault: Mutex<Option<String>>,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) errors: AtomicU64,
    lives: RwLock<Vec<Arc<Life>>>,
    hot: AtomicUsize,
    numbers: AtomicU64,
    judge: Sender<Record>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(
        scene: &'a Scene,
        proxies: Vec<SocketAddr>,
        servers: &'a [Redis],
        judge: Sender<Record>,
        random: &mut Rng,
    ) -> Self {
        let board = Self {
            scene,
            proxies,
            servers,
            server: AtomicUsize::new(0),
            stillness: RwLock::new(()),
            is_over: Arc::default(),
            fault: Mutex::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            lives: RwLock::default(),
            hot: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            judge,
        };
        for index in 0..scene.keys {
            board.renew(index, random);
        }
        board
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    pub(crate) fn complain(&self, fault: String) {
        self.fault.lock().get_or_insert(fault);
        self.is_over.store(true, Relaxed);
    }

    pub(crate) fn lives(&self) -> Vec<Arc<Life>> {
        self.lives.read().clone()
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed)
    }

    fn any(&self, random: &mut Rng) -> Arc<Life> {
        let lives = self.lives.read();
        if random.u8(0..40) == 0 {
            self.hot.store(random.usize(0..lives.len()), Relaxed);
        }
        let index = if random.bool() { self.hot.load(Relaxed) } else { random.usize(0..lives.len()) };
        Arc::clone(&lives[index])
    }

    /// Gives a key up for a new one. Neighbours have the same names, each in its own database.
    fn renew(&self, index: usize, random: &mut Rng) {
        let Scene { shapes, tempo_ms, databases, proxies, .. } = self.scene;
        let database = u8::try_from(index).expect("a few keys") % databases;
        let ordinal = self.lives.read().get(index).map_or(0, |old| old.ordinal + 1);
        let name = format!("key:{}:{ordinal}", index / usize::from(*databases));
        let place = Place { name, database, shape: *random.choice(*shapes).expect("there are some") };
        let is_homely = self.scene.ttl_ms.is_none() && index.is_multiple_of(3);
        let home = is_homely.then(|| random.usize(0..*proxies));
        let record = Record {
            place: place.clone(),
            is_register: home.is_some(),
            reads: vec![Vec::new(); *proxies],
            versions: Vec::new(),
        };
        let mut life = Arc::new(Life {
            place,
            ordinal,
            home,
            tempo: Duration::from_millis(random.u64(tempo_ms.clone())),
            born: Instant::now(),
            lasts: Duration::from_millis(random.u64(LIFE_MS)) * self.scene.lasts_longer,
            is_over: AtomicBool::new(false),
            record: Mutex::new(record),
            judge: self.judge.clone(),
        });
        let mut lives = self.lives.write();
        match lives.get_mut(index) {
            Some(old) => std::mem::swap(old, &mut life),
            None => return lives.push(life),
        }
        // The old one may be handed in right here, outside of the lock.
        drop(lives);
    }
}

/// A connection through a proxy, and what it has asked and not yet heard.
struct Seat<'a> {
    board: &'a Board<'a>,
    client: Client,
    proxy: usize,
    number: u32,
    protocol: u8,
    asked: Vec<(Arc<Life>, Question, u64)>,
}

impl<'a> Seat<'a> {
    fn take(board: &'a Board<'a>, proxy: usize, database: u8, (protocol, is_user): (u8, bool)) -> Self {
        let mut client = Client::connect(board.proxies[proxy]);
        if protocol == 3 {
            client.hello(3);
        }
        if is_user {
            client.expect(b"+OK\r\n", &["AUTH", USER, PASSWORD]);
        }
        client.expect(b"+OK\r\n", &["SELECT", &database.to_string()]);
        let number = u32::try_from(board.number()).expect("a few thousand");
        Self { board, client, proxy, number, protocol, asked: Vec::new() }
    }

    fn ask(&mut self, life: &Arc<Life>, question: Question) {
        let request = encode(&question.request(&life.place.name));
        self.asked.push((Arc::clone(life), question, now()));
        self.client.send_raw(&request);
    }

    /// Asks several things of one key in one piece.
    fn pipeline(&mut self, life: &Arc<Life>, questions: &[Question]) {
        let bytes: Vec<u8> =
            questions.iter().flat_map(|question| encode(&question.request(&life.place.name))).collect();
        let start = now();
        self.asked.extend(questions.iter().map(|question| (Arc::clone(life), *question, start)));
        self.client.send_raw(&bytes);
    }

    fn hear(&mut self) {
        let batch = self.board.number();
        let Self { board, client, .. } = self;
        for ((life, question, start), place) in self.asked.drain(..).zip(0..) {
            let reply = client.recv();
            let end = now();
            if reply[0] == b'-' {
                board.errors.fetch_add(1, Relaxed);
                if board.scene.may_fail() {
                    thread::sleep(PAUSE_AFTER_ERROR);
                } else {
                    board.complain(format!("{} failed: {}", question.command, shown(&reply)));
                }
                continue;
            }
            let Some(value) = life.place.told(question, &reply) else {
                let (command, key) = (question.command, &life.place);
                board.complain(format!(
                    "client {} (RESP{}): {command} of {key:?} answered {}",
                    self.number,
                    self.protocol,
                    shown(&reply)
                ));
                continue;
            };
            let (kind, client) = (Kind::Read(value), self.number);
            let op = Op { kind, command: question.command, client, batch, place, start, end };
            life.record.lock().reads[self.proxy].push(op);
            board.reads.fetch_add(1, Relaxed);
        }
    }
}

/// Reads on one connection, or moves through several, or asks the same on all of them at once.
pub(crate) fn read(board: &Board<'_>, random: &mut Rng) {
    let mut seats: HashMap<(usize, u8), Vec<Seat<'_>>> = HashMap::new();
    while board.goes_on() {
        let life = board.any(random);
        let home = (random.usize(0..board.proxies.len()), life.place.database);
        let seats = seats.entry(home).or_insert_with(|| {
            let profiles = PROFILES.iter().take(board.scene.profiles).cycle().take(PROFILES.len());
            profiles.map(|profile| Seat::take(board, home.0, home.1, *profile)).collect()
        });
        random.shuffle(seats);
        let first = life.place.question(board.scene.variants, random);
        match random_style(random) {
            Style::Alone => {
                seats[0].ask(&life, first);
                seats[0].hear();
            }
            Style::Moving => {
                for seat in seats.iter_mut() {
                    seat.ask(&life, life.place.question(board.scene.variants, random));
                    seat.hear();
                }
            }
            Style::Swarm => {
                seats.iter_mut().for_each(|seat| seat.ask(&life, first));
                seats.iter_mut().for_each(Seat::hear);
            }
            Style::Pipeline => {
                let questions: Vec<Question> =
                    (0..random.u8(2..7)).map(|_| life.place.question(board.scene.variants, random)).collect();
                seats[0].pipeline(&life, &questions);
                seats[0].hear();
            }
        }
        if board.scene.is_quiet {
            thread::sleep(Duration::from_micros(random.u64(0..1_000)));
        }
    }
}

enum Style {
    Alone,
    Moving,
    Swarm,
    Pipeline,
}

fn random_style(random: &mut Rng) -> Style {
    match random.u8(0..10) {
        0..3 => Style::Alone,
        3..6 => Style::Moving,
        6..8 => Style::Swarm,
        _ => Style::Pipeline,
    }
}

/// Writes the versions of its share of the keys.
pub(crate) fn write(board: &Board<'_>, random: &mut Rng, share: (usize, usize)) {
    let mut author = Author { board, outside: HashMap::new(), inside: HashMap::new(), seats: HashMap::new() };
    let indices: Vec<usize> = (share.0..board.scene.keys).step_by(share.1).collect();
    let mut due: Vec<u64> = vec![0; indices.len()];
    while board.goes_on() {
        for (index, due) in indices.iter().zip(&mut due) {
            let life = Arc::clone(&board.lives.read()[*index]);
            if life.is_over.load(Relaxed) || life.born.elapsed() > life.lasts {
                drop(life);
                board.renew(*index, random);
            } else if *due <= now() {
                author.write(&life, random);
                // Twos of writes, so that the reads that the first one causes are on their way at the second.
                let is_first =
                    board.scene.strain == Strain::Crossing && life.next_version().is_multiple_of(2);
                let pause = if is_first {
                    Duration::from_millis(random.u64(BURST_MS))
                } else {
                    life.tempo.mul_f64(random.f64() + 0.5)
                };
                *due = now() + nanoseconds(pause);
            }
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// Writes once in a while just before a script keeps Redis busy, in the same cycle of its event loop: the write is
/// acknowledged while the script runs, and its invalidation does not go out before the script ends.
pub(crate) fn write_before_a_script(board: &Board<'_>, random: &mut Rng) {
    let [mut sleeper, mut writer, mut busy] = std::array::from_fn(|_| board.servers[0].client());
    while board.goes_on() {
        thread::sleep(Duration::from_millis(random.u64(PAUSE_AFTER_BUSY_MS)));
        let life = board.any(random);
        if life.home.is_some() {
            continue;
        }
        let _alone = board.stillness.write();
        let version = life.next_version();
        let requests = [
            vec![words(&["SELECT", &life.place.database.to_string()]), words(&["MULTI"])],
            life.place.writes(&life.place.name, version),
            vec![words(&["EXEC"])],
        ]
        .concat();
        let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        // What comes while it sleeps is read in one cycle.
        sleeper.send(&["DEBUG", "SLEEP", "0.02"]);
        thread::sleep(Duration::from_millis(5));
        let start = now();
        writer.send_raw(&bytes);
        busy.send(&["EVAL", "while true do end", "0"]);
        let replies: Vec<Vec<u8>> = requests.iter().map(|_| writer.recv()).collect();
        // Else the script came first, and nothing was written.
        if replies.iter().all(|reply| reply[0] != b'-') {
            life.record_version(None, start, now(), "exec, and a busy script", false, None);
            board.writes.fetch_add(1, Relaxed);
        }
        thread::sleep(BUSY_FOR);
        writer.expect(b"+OK\r\n", &["SCRIPT", "KILL"]);
        assert_eq!(busy.recv()[0], b'-', "a script that was killed");
        sleeper.recv();
    }
}

impl Life {
    fn next_version(&self) -> Value {
        self.record.lock().versions.len() as Value + 1
    }

    fn record_version(
        &self,
        proxy: Option<usize>,
        start: u64,
        end: u64,
        command: &'static str,
        removes: bool,
        ttl: Option<Duration>,
    ) {
        let version = self.next_version();
        // Whether it is one depends on who judges: the other proxy's writes are outside writes.
        let door = if proxy.is_some() { Door::Proxy } else { Door::Outside };
        let written = Written { version, door, removes, ttl, command, start, end };
        self.record.lock().versions.push((proxy, written));
        if end == UNKNOWN {
            // It may happen yet, and then the next version would not be the next.
            self.is_over.store(true, Relaxed);
        }
    }

    /// The version that an INCR would go on from.
    fn follows(&self) -> bool {
        let record = self.record.lock();
        let last = record.versions.last().map(|(_, written)| *written);
        last.is_some_and(|last| !last.removes && last.ttl.is_none() && last.version != NOTHING)
    }
}

struct Author<'a> {
    board: &'a Board<'a>,
    /// By server and database.
    outside: HashMap<(usize, u8), Client>,
    /// By proxy and database.
    inside: HashMap<(usize, u8), Client>,
    seats: HashMap<(usize, u8), Seat<'a>>,
}

impl Author<'_> {
    fn outside(&mut self, database: u8) -> &mut Client {
        let server = self.board.server.load(Relaxed);
        self.outside
            .entry((server, database))
            .or_insert_with(|| in_database(self.board.servers[server].client(), database))
    }

    fn write(&mut self, life: &Arc<Life>, random: &mut Rng) {
        let board = self.board;
        let _nobody_minds = board.stillness.read();
        let (place, version) = (&life.place, life.next_version());
        let ttl = board.scene.ttl_ms.clone().map(|ttl| Duration::from_millis(random.u64(ttl)));
        let is_inside = random.f64() < board.scene.inside;
        let proxy = life.home.or_else(|| is_inside.then(|| random.usize(0..board.proxies.len())));
        let mut dumped = |requests: Vec<Vec<Vec<u8>>>, key: &str| {
            let client = self.outside(place.database);
            requests.iter().for_each(|request| drop(client.cmd(request)));
            let dump = client.cmd(&["DUMP", key]);
            crate::common::resp::payload(&dump).to_vec()
        };
        let mut change = place.change(version, ttl, life.follows(), &mut dumped, random);
        while change.removes && life.home.is_some() {
            change = place.change(version, ttl, life.follows(), &mut dumped, random);
        }
        let client = match proxy {
            None => self.outside(place.database),
            Some(proxy) => self
                .inside
                .entry((proxy, place.database))
                .or_insert_with(|| in_database(Client::connect(board.proxies[proxy]), place.database)),
        };
        let start = now();
        let [first @ .., last] = change.requests.as_slice() else { unreachable!("a change is a request") };
        client.send_raw(&first.iter().flat_map(|request| encode(request)).collect::<Vec<u8>>());
        if !first.is_empty() && random.u8(0..4) == 0 {
            // A slow writer: what it has prepared is still to come.
            thread::sleep(Duration::from_millis(random.u64(SLOW_WRITE_MS)));
        }
        client.send(last);
        let replies: Vec<Vec<u8>> = change.requests.iter().map(|_| client.recv()).collect();
        let end = now();
        let error = replies.iter().find(|reply| reply[0] == b'-');
        if let Some(error) = error
            && !board.scene.may_fail()
        {
            board.complain(format!("{} of {place:?} failed: {}", change.command, shown(error)));
        }
        let end = if error.is_none() { end } else { UNKNOWN };
        let ttl = ttl.filter(|_| !change.removes);
        life.record_version(proxy, start, end, change.command, change.removes, ttl);
        board.writes.fetch_add(1, Relaxed);
        let is_crossing = board.scene.strain == Strain::Crossing;
        if let Some(proxy) = proxy.or(is_crossing.then_some(0)) {
            // Who has written looks at once, as another user on another connection; where replies cross, with a question
            // that nobody else asks, which may overtake an older reply.
            let profile = PROFILES[random.usize(0..board.scene.profiles)];
            let seat = self
                .seats
                .entry((proxy, place.database))
                .or_insert_with(|| Seat::take(board, proxy, place.database, profile));
            let question = if is_crossing { Place::rare_question } else { Place::question };
            seat.ask(life, question(place, board.scene.variants, random));
            seat.hear();
        }
    }
}

fn in_database(mut client: Client, database: u8) -> Client {
    client.expect(b"+OK\r\n", &["SELECT", &database.to_string()]);
    client
}
