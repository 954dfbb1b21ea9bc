//! No going back, against a simulated server.
//!
//! One key with a few fields; outside writers, some of whom put a field back to what it was; lanes that overtake
//! each other; a link whose pushes come late, in order; certification; expiry that is never pushed; own writes; and
//! clock readings that are older than what they are used for. Every read that completes must be explained by a
//! version of the key that is no older than those of the reads that had completed when it began, and of the
//! writes that had been acknowledged. The weakest explanation is always taken, so that what fails is wrong.
//!
//! Each of these changes to the code was seen to fail here: `is_usable` without `heard_at`, without `seen_at`, or
//! always true; a hit, or a join, that does not ask it; `holds` without comparing; an equal refill that does not
//! move `heard_at`; a stored reply that moves nothing though another variant is there or in flight; a late reply
//! with a dead token, or a refused one, that is not observed; `land` forgetting the times; a lone entry that does
//! not wait after `observe`, or settles too early; a fill without a look at `has_landed`; no look at `writers`;
//! `begin_write` or `invalidate` leaving what was there; a hit past its deadline.

use std::collections::VecDeque;

use super::*;

const K: &[u8] = b"key";
const FIELDS: usize = 3;
const NAMES: [&[u8]; FIELDS] = [b"a", b"b", b"c"];
/// What a field that is not there looks like.
const GONE: u8 = 9;

type Op = usize;

/// What a client has asked and not been told yet.
struct Question {
    field: usize,
    /// The oldest version the answer may be of.
    floor: usize,
    began: u64,
    is_answered: bool,
}

enum Request {
    Fill { op: Op, token: Token<Op> },
    Bypass { op: Op, sent_at: Nanos },
    Write,
}

struct Answer {
    request: Request,
    values: [u8; FIELDS],
    version: usize,
    read_at: u64,
    expires_in: Option<u64>,
}

enum News {
    Changed,
    Flushed,
    Certified(u64),
}

#[derive(Default)]
struct Lane {
    requests: VecDeque<Request>,
    answers: VecDeque<Answer>,
}

#[derive(Clone, Copy)]
enum Event {
    Ask,
    Dispatch,
    Serve,
    Receive,
    Change,
    Write,
    Echo,
    Hear,
    Invalidate,
    Sweep,
    Flush,
}

/// How often each event comes; every world draws one of the numbers for each.
const FREQUENCIES: [(Event, [u32; 3]); 11] = [
    (Event::Ask, [50, 100, 100]),
    (Event::Dispatch, [150, 200, 300]),
    (Event::Serve, [150, 200, 300]),
    (Event::Receive, [150, 200, 300]),
    (Event::Change, [2, 10, 30]),
    (Event::Write, [0, 0, 10]),
    (Event::Echo, [10, 50, 150]),
    (Event::Hear, [10, 50, 150]),
    (Event::Invalidate, [0, 0, 10]),
    (Event::Sweep, [0, 5, 5]),
    (Event::Flush, [0, 0, 2]),
];

struct World {
    frequencies: Vec<(Event, u32)>,
    /// How many values a field has.
    values: u8,
    /// The longest time to live of the key; 0: it never has one.
    lives_max: u64,
    /// The longest time to live the proxy's rules give.
    ttl_max: u64,
    /// How many in a hundred replies are observed without a word on what was read.
    blind: u32,
    rng: fastrand::Rng,
    now: u64,
    cache: Cache<Op>,
    /// What the key was in every version.
    versions: Vec<[u8; FIELDS]>,
    expires_at: Option<u64>,
    lanes: [Lane; 3],
    link: VecDeque<News>,
    echo: Option<u64>,
    certified: u64,
    certified_before: u64,
    generation: u64,
    floor: usize,
    questions: Vec<Question>,
    waiting: Vec<Op>,
    hits: usize,
    joins: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let frequencies = FREQUENCIES.map(|(event, choice)| (event, choice[rng.usize(0..3)])).to_vec();
        let values = rng.u8(2..4);
        let lives_max = [0, 30, 200][rng.usize(0..3)];
        let ttl_max = [50, 1000, 1000][rng.usize(0..3)];
        let blind = [0, 2, 20][rng.usize(0..3)];
        Self {
            frequencies,
            values,
            lives_max,
            ttl_max,
            blind,
            rng,
            now: 1,
            cache: Cache::new(UNBOUNDED),
            versions: vec![[0; FIELDS]],
            expires_at: None,
            lanes: Default::default(),
            link: VecDeque::new(),
            echo: None,
            certified: 0,
            certified_before: 0,
            generation: 1,
            floor: 0,
            questions: Vec::new(),
            waiting: Vec::new(),
            hits: 0,
            joins: 0,
        }
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..2);
        if self.expires_at.is_some_and(|at| at <= self.now) {
            // Without a word: the push of an expiry may come minutes late.
            self.versions.push([GONE; FIELDS]);
            self.expires_at = None;
        }
        let lane = self.rng.usize(0..self.lanes.len());
        match self.draw() {
            Event::Ask => self.ask(),
            Event::Dispatch => self.dispatch(),
            Event::Serve => {
                let busy = self.busy_lane(|lane| !lane.requests.is_empty());
                self.serve(busy);
            }
            Event::Receive => {
                let busy = self.busy_lane(|lane| !lane.answers.is_empty());
                self.receive(busy);
            }
            Event::Change => {
                self.change();
                self.link.push_back(News::Changed);
            }
            Event::Write => {
                self.cache.begin_write(K);
                self.lanes[lane].requests.push_back(Request::Write);
            }
            Event::Echo => match self.echo.take() {
                Some(sent_at) => self.link.push_back(News::Certified(sent_at)),
                None => self.echo = Some(self.now),
            },
            Event::Hear => self.hear(),
            Event::Invalidate => {
                self.cache.invalidate(K);
            }
            Event::Sweep => {
                let at = self.moment_since(self.now);
                self.cache.sweep_all(&at);
            }
            Event::Flush => {
                self.versions.push([GONE; FIELDS]);
                self.expires_at = None;
                self.link.push_back(News::Flushed);
            }
        }
        self.cache.check_invariants();
    }

    fn draw(&mut self) -> Event {
        let mut ticket = self.rng.u32(0..self.frequencies.iter().map(|(_, frequency)| frequency).sum());
        for &(event, frequency) in &self.frequencies {
            if ticket < frequency {
                return event;
            }
            ticket -= frequency;
        }
        Event::Ask
    }

    /// Any of the lanes that have something to do, if there are.
    fn busy_lane(&mut self, is_busy: impl Fn(&Lane) -> bool) -> usize {
        let busy: Vec<usize> = (0..self.lanes.len()).filter(|&lane| is_busy(&self.lanes[lane])).collect();
        self.rng.choice(busy).unwrap_or(0)
    }

    /// A client asks.
    fn ask(&mut self) {
        let field = self.rng.usize(0..FIELDS);
        self.waiting.push(self.questions.len());
        self.questions.push(Question { field, floor: self.floor, began: self.now, is_answered: false });
    }

    /// The proxy comes to a question, with a clock reading from any time since it was asked.
    fn dispatch(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let op = self.waiting.swap_remove(self.rng.usize(0..self.waiting.len()));
        let variant = field(NAMES[self.questions[op].field]);
        let at = self.moment_since(self.questions[op].began);
        if let Some(shown) = self.cache.shown(K, &variant, &at) {
            self.hits += 1;
            return self.answer(op, shown[0]);
        }
        let lane = self.rng.usize(0..self.lanes.len());
        let found = |hit: Hit<'_>| hit.reply.bytes().unwrap()[0];
        if self.rng.u32(0..8) == 0 {
            // A part of a larger read, which is sent in any case.
            let request = match self.cache.fetch_only(K, &variant, &at) {
                Some(token) => Request::Fill { op, token },
                None => Request::Bypass { op, sent_at: at.now },
            };
            return self.lanes[lane].requests.push_back(request);
        }
        match self.cache.join_or_fetch(K, &variant, &at, found, || op) {
            Read::Hit(value) => self.answer(op, value),
            Read::Joined => self.joins += 1,
            Read::Fetch(token) => self.lanes[lane].requests.push_back(Request::Fill { op, token }),
            Read::Bypass(_) => self.lanes[lane].requests.push_back(Request::Bypass { op, sent_at: at.now }),
        }
    }

    /// The server comes to a request.
    fn serve(&mut self, lane: usize) {
        let Some(request) = self.lanes[lane].requests.pop_front() else { return };
        if matches!(request, Request::Write) {
            self.change();
            self.link.push_back(News::Changed);
        }
        let answer = Answer {
            request,
            values: *self.versions.last().unwrap(),
            version: self.versions.len() - 1,
            read_at: self.now,
            expires_in: self.expires_at.map(|at| at - self.now),
        };
        self.lanes[lane].answers.push_back(answer);
    }

    /// The proxy comes to an answer, which has arrived at some time since it was given.
    fn receive(&mut self, lane: usize) {
        let Some(answer) = self.lanes[lane].answers.pop_front() else { return };
        let arrived = ms(self.rng.u64(answer.read_at..=self.now));
        let at = self.moment_since(answer.read_at);
        match answer.request {
            Request::Write => {
                self.cache.end_write(K);
                self.floor = self.floor.max(answer.version);
            }
            Request::Bypass { op, sent_at } => {
                let value = [answer.values[self.questions[op].field]];
                let variant = field(NAMES[self.questions[op].field]);
                let read = Observed { variant, reply: Reply::Bytes(&value), sent_at };
                let read = (self.rng.u32(0..100) >= self.blind).then_some(&read);
                self.cache.observe(K, read, arrived, &at);
                self.answer(op, value[0]);
            }
            Request::Fill { op, token } if self.rng.u32(0..30) == 0 => {
                self.questions[op].is_answered = true;
                for waiter in self.cache.abandon(K, token) {
                    self.questions[waiter].is_answered = true;
                }
            }
            Request::Fill { op, token } => {
                let value = [answer.values[self.questions[op].field]];
                let time = self.rng.u64(10..=self.ttl_max).min(answer.expires_in.unwrap_or(u64::MAX));
                let deadline = token.sent_at() + Duration::from_millis(time);
                let deadline = (self.rng.u32(0..30) > 0).then_some(deadline);
                let filled = self.cache.fill(K, token, Reply::Bytes(&value), deadline, arrived, &at);
                for waiter in filled.waiters {
                    self.answer(waiter, value[0]);
                }
                self.waiting.extend(filled.latecomers);
                self.answer(op, value[0]);
            }
        }
    }

    /// The key becomes something else on the server; often a field is put back to what it was.
    fn change(&mut self) {
        let mut values = *self.versions.last().unwrap();
        for value in &mut values {
            if self.rng.bool() {
                *value = self.rng.u8(0..self.values);
            }
        }
        self.versions.push(values);
        let lives = self.rng.u64(1..=self.lives_max.max(1));
        self.expires_at = (self.lives_max > 0 && self.rng.bool()).then_some(self.now + lives);
    }

    /// The link's next push or answer.
    fn hear(&mut self) {
        match self.link.pop_front() {
            Some(News::Changed) => {
                self.cache.invalidate(K);
            }
            Some(News::Flushed) => self.generation += 1,
            Some(News::Certified(sent_at)) => {
                self.certified_before = self.certified;
                self.certified = sent_at;
            }
            None => {}
        }
    }

    /// The client is told.
    fn answer(&mut self, op: Op, value: u8) {
        let question = &mut self.questions[op];
        assert!(!question.is_answered, "a question is answered once");
        question.is_answered = true;
        let (field, floor) = (question.field, question.floor);
        let explained = (floor..self.versions.len()).find(|&version| self.versions[version][field] == value);
        let version = explained.unwrap_or_else(|| {
            panic!("field {field} was {value}, which is older than version {floor}: {:?}", self.versions)
        });
        self.floor = self.floor.max(version);
    }

    /// A moment with a clock reading of some time since `earliest`.
    fn moment_since(&mut self, earliest: u64) -> Moment {
        let now = self.rng.u64(earliest..=self.now);
        let certified = if self.rng.u32(0..4) == 0 { self.certified_before } else { self.certified };
        Moment { now: ms(now), certified: ms(certified), generation: Generation(self.generation) }
    }

    /// Lets everything come to its end.
    fn finish(&mut self) {
        while self.questions.iter().any(|question| !question.is_answered) {
            self.dispatch();
            for lane in 0..self.lanes.len() {
                self.serve(lane);
                self.receive(lane);
            }
        }
        self.cache.check_invariants();
    }
}

#[test]
fn no_read_goes_back() {
    let (mut hits, mut joins) = (0, 0);
    for seed in 0..15_000 {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..1000).for_each(|_| world.step());
            world.finish();
            (world.hits, world.joins)
        });
        let Ok((more_hits, more_joins)) = run else { panic!("seed {seed} has failed") };
        hits += more_hits;
        joins += more_joins;
    }
    // The clients have been served from memory, or nothing has been tested.
    assert!(hits > 80_000 && joins > 80_000, "{hits} hits, {joins} joins");
}
