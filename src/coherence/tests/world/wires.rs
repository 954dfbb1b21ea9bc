//! The world's machinery: what lanes, the link and the servers do with the bytes between them.

use fastrand::Rng;

use super::{
    super::server::{Change, Frame},
    *,
};

impl World {
    // ---- time and the log --------------------------------------------------------------------------------------

    /// Time passes; what expires meanwhile is gone at its time, whoever hears of it when.
    pub(super) fn pass(&mut self, time: u64) {
        self.now += time;
        let now = self.now;
        let due: Vec<_> =
            self.expiring.iter().filter(|(_, at)| **at <= now).map(|(key, at)| (*key, *at)).collect();
        for (key, at) in due {
            self.expiring.remove(&key);
            self.log[usize::from(key)].push(Version { at, value: None, is_expiry: true });
        }
    }

    /// Takes over what the current server's commands have changed.
    fn keep_log(&mut self) {
        for machine in 0..self.machines.len() {
            let changes = std::mem::take(&mut self.machines[machine].server.journal);
            if machine != self.current {
                continue;
            }
            for Change { at, key, value, expires_at } in changes {
                self.log[usize::from(key)].push(Version { at, value, is_expiry: false });
                match expires_at {
                    Some(at) => self.expiring.insert(key, at),
                    None => self.expiring.remove(&key),
                };
            }
        }
    }

    pub(super) fn add_machine(&mut self) {
        let id = ServerId(u32::try_from(self.machines.len()).expect("a world has few servers") + 1);
        self.machines.push(Machine {
            server: Server::default(),
            id,
            wires: BTreeMap::new(),
            arrived: BTreeMap::new(),
            trace: Vec::new(),
            sockets_made: 0,
        });
        self.current = self.machines.len() - 1;
    }

    /// Something happens to a server.
    fn happens(&mut self, machine: usize, step: Step) {
        let machine = &mut self.machines[machine];
        machine.server.take(&step);
        machine.trace.push(step);
        self.keep_log();
    }

    fn socket(&mut self) -> SocketId {
        let machine = &mut self.machines[self.current];
        machine.sockets_made += 1;
        let socket = machine.sockets_made;
        self.happens(self.current, Step::Connect(socket));
        socket
    }

    fn connect(&mut self) -> (usize, SocketId) {
        let socket = self.socket();
        self.machines[self.current].wires.insert(socket, VecDeque::new());
        (self.current, socket)
    }

    fn send(&mut self, machine: usize, socket: SocketId, command: Command) {
        if let Some(wire) = self.machines[machine].wires.get_mut(&socket) {
            wire.push_back(command);
        }
    }

    /// Nothing gets through any more, in either direction. What had arrived may be lost, or the server comes to it
    /// before it comes to the end of the connection.
    fn cut(&mut self, machine: usize, socket: SocketId, random: &mut Rng) {
        self.machines[machine].wires.remove(&socket);
        let arrived = &mut self.machines[machine].arrived;
        if arrived.contains_key(&socket) && random.bool() {
            return;
        }
        arrived.remove(&socket);
        self.happens(machine, Step::Disconnect(socket));
    }

    fn is_cut(&self, machine: usize, socket: SocketId) -> bool {
        !self.machines[machine].wires.contains_key(&socket)
    }

    // ---- the servers -------------------------------------------------------------------------------------------

    /// Bytes arrive: one command, or all that are on the way.
    pub(super) fn arrive(&mut self, random: &mut Rng) {
        let mut loaded = Vec::new();
        for (at, machine) in self.machines.iter().enumerate() {
            let sockets = machine.wires.iter().filter(|(_, wire)| !wire.is_empty());
            loaded.extend(sockets.map(|(socket, _)| (at, *socket)));
        }
        let Some((at, socket)) = random.choice(loaded) else { return };
        let machine = &mut self.machines[at];
        let Some(wire) = machine.wires.get_mut(&socket) else { return };
        let count = if random.bool() { 1 } else { wire.len() };
        machine.arrived.entry(socket).or_default().extend(wire.drain(..count));
    }

    pub(super) fn cycle(&mut self, random: &mut Rng) {
        let machine = self.any_machine(random);
        self.cycle_of(machine, random);
    }

    /// Mostly the one that matters.
    pub(super) fn any_machine(&self, random: &mut Rng) -> usize {
        if random.u8(0..4) == 0 { random.usize(0..self.machines.len()) } else { self.current }
    }

    fn is_busy(&self, machine: usize) -> bool {
        self.machines[machine].server.is_busy_with().is_some()
    }

    /// Whoever has come again by then to whom the server comes in its round is served in it.
    pub(super) fn finish_script(&mut self, machine: usize) {
        if self.is_busy(machine) {
            let arrived = &self.machines[machine].arrived;
            let mut late = self.machines[machine].server.rest().to_vec();
            late.retain(|socket| arrived.contains_key(socket));
            let said: Vec<Said> = late.iter().map(|socket| self.said(machine, *socket)).collect();
            self.happens(machine, Step::FinishScript { at: self.now, said });
            late.into_iter().for_each(|socket| self.part(machine, socket));
        }
    }

    pub(super) fn cycle_of(&mut self, machine: usize, random: &mut Rng) {
        if self.is_busy(machine) {
            return;
        }
        let mut ready: Vec<SocketId> = self.machines[machine].arrived.keys().copied().collect();
        random.shuffle(&mut ready);
        if random.bool() {
            ready.truncate(random.usize(0..=ready.len()));
        }
        if !ready.is_empty() {
            let said = ready.iter().map(|socket| self.said(machine, *socket)).collect();
            self.happens(machine, Step::Cycle { at: self.now, said });
            ready.into_iter().for_each(|socket| self.part(machine, socket));
        }
    }

    /// What the server reads from a socket.
    fn said(&mut self, machine: usize, socket: SocketId) -> Said {
        Said { socket, commands: self.machines[machine].arrived.remove(&socket).unwrap_or_default() }
    }

    /// Behind the last that was said is the end of the connection, if it is cut.
    fn part(&mut self, machine: usize, socket: SocketId) {
        if self.is_cut(machine, socket) {
            self.happens(machine, Step::Disconnect(socket));
        }
    }

    pub(super) fn refuse(&mut self, random: &mut Rng) {
        let machine = self.current;
        let Some(running) = self.machines[machine].server.is_busy_with() else { return };
        let ready = self.machines[machine].arrived.keys().copied().filter(|socket| *socket != running);
        if let Some(socket) = random.choice(ready.collect::<Vec<_>>()) {
            let said = self.said(machine, socket);
            self.happens(machine, Step::Refuse(said));
            self.part(machine, socket);
        }
    }

    pub(super) fn expire(&mut self) {
        if !self.is_busy(self.current) {
            self.happens(self.current, Step::Expire { at: self.now });
        }
    }

    /// Somebody else's commands are there, and will be served like any others. Who that was is gone then, and does not
    /// wait for the end of a script.
    pub(super) fn outside(&mut self, commands: Vec<Command>) {
        tell!(self, "somebody else: {commands:?}");
        let socket = self.socket();
        self.machines[self.current].arrived.insert(socket, commands);
    }

    pub(super) fn restart(&mut self) {
        tell!(self, "the server is killed and comes back with nothing");
        let dead = &mut self.machines[self.current];
        dead.wires.clear();
        dead.arrived.clear();
        self.add_machine();
        self.begin_anew();
    }

    /// The address leads elsewhere. Who holds a connection to the old server keeps it, but for the link, which the
    /// health check breaks.
    pub(super) fn switch(&mut self, random: &mut Rng) {
        tell!(self, "the address leads to another server");
        self.add_machine();
        self.begin_anew();
        if let Some(link) = self.link.take() {
            self.cut(link.machine, link.socket, random);
        }
        self.coherence.link_lost("the upstream is another process");
        for asked in self.asked.iter_mut().filter(|asked| !asked.is_answered) {
            asked.is_exempt = true;
        }
        for key in 0..KEYS {
            let value = self.value();
            if random.bool() {
                self.outside(vec![Command::Set { key, value, lives: None }]);
            }
        }
    }

    /// The upstream holds nothing.
    fn begin_anew(&mut self) {
        self.expiring.clear();
        let at = self.now;
        self.log.iter_mut().for_each(|log| log.push(Version { at, value: None, is_expiry: false }));
    }

    // ---- lanes -------------------------------------------------------------------------------------------------

    pub(super) fn lane_opens(&mut self, lane: usize) {
        if self.lanes[lane].is_none() {
            let (machine, socket) = self.connect();
            self.lanes[lane] = Some(Lane { machine, socket, work: VecDeque::new() });
        }
    }

    pub(super) fn lane_dies(&mut self, lane: usize, random: &mut Rng) {
        let Some(lane) = self.lanes[lane].take() else { return };
        tell!(self, "a lane to server {} dies", lane.machine);
        self.cut(lane.machine, lane.socket, random);
        for work in lane.work {
            match work {
                Work::Fill { op, token, .. } => {
                    let key = self.asked[op].key;
                    let waiters = self.coherence.abandon(&name(key), token);
                    self.waiting.extend(waiters);
                    self.waiting.push(op);
                }
                Work::Bypass { op, .. } => self.waiting.push(op),
                // Nobody knows whether it was carried out. Its guard ends here.
                Work::Write { op, .. } => self.asked[op].is_answered = true,
            }
        }
    }

    /// The proxy comes to a command.
    pub(super) fn dispatch(&mut self, random: &mut Rng) {
        if self.waiting.is_empty() {
            return;
        }
        let op = self.waiting.swap_remove(random.usize(0..self.waiting.len()));
        let now = self.coherence.batch(ms(self.now));
        let batch = self.asked[op].batch.take().unwrap_or(now);
        if self.asked[op].command.is_some() {
            return self.dispatch_write(op, random);
        }
        let (key, field) = (self.asked[op].key, self.asked[op].field);
        let variant = variant(field);
        if let Some(value) = self.coherence.hit(&name(key), &variant, &batch, |hit| value_of(hit.reply)) {
            self.hits += 1;
            return self.answer(op, value, "a hit");
        }
        let Some(lane) = self.usable_lane(random) else {
            if self.coherence.join(&name(key), &variant, &batch, || op) {
                self.joins += 1;
            } else {
                self.waiting.push(op);
            }
            return;
        };
        let (machine, socket) = self.lane_end(lane);
        let missed = Missed { key: &name(key), variant: &variant, server: self.machines[machine].id };
        let read = self.coherence.miss(&missed, &batch, |hit| value_of(hit.reply), || op);
        let work = match read {
            Read::Hit(value) => return self.answer(op, value, "a hit at the second look"),
            Read::Joined => {
                tell!(self, "client {op} joins a read in flight");
                self.joins += 1;
                return;
            }
            Read::Bypass(_) => Work::Bypass { op, sent_at: batch.now },
            Read::Fetch(token) => Work::Fill { op, token, pttl: None },
        };
        self.asked[op].is_exempt |= machine != self.current;
        if matches!(work, Work::Fill { .. }) {
            self.send(machine, socket, Command::Pttl(key));
        }
        let with = if matches!(work, Work::Fill { .. }) { "leave to fill" } else { "no leave to fill" };
        tell!(self, "client {op}'s read is sent on lane {lane} with {with}");
        self.send(machine, socket, Command::Get(key));
        self.push_work(lane, work);
    }

    fn dispatch_write(&mut self, op: Op, random: &mut Rng) {
        let Some(lane) = self.usable_lane(random) else { return self.waiting.push(op) };
        let (machine, socket) = self.lane_end(lane);
        let command = self.asked[op].command.clone().expect("it is a write");
        let (kind, keys) = match &command {
            Command::Set { key, .. } => (WriteKind::Declared, vec![name(*key)]),
            Command::FlushAll => (WriteKind::Flush, Vec::new()),
            _ => (WriteKind::Undeclared, Vec::new()),
        };
        let guard = self.coherence.begin_write(kind, keys.iter().map(<[u8; 1]>::as_slice));
        self.asked[op].is_exempt |= machine != self.current;
        tell!(self, "client {op}'s write is sent on lane {lane}");
        self.send(machine, socket, command);
        self.push_work(lane, Work::Write { op, guard });
    }

    fn usable_lane(&self, random: &mut Rng) -> Option<usize> {
        let open: Vec<usize> = (0..LANES).filter(|lane| self.lanes[*lane].is_some()).collect();
        random.choice(open)
    }

    fn lane_end(&self, lane: usize) -> (usize, SocketId) {
        let lane = self.lanes[lane].as_ref().expect("it is open");
        (lane.machine, lane.socket)
    }

    fn push_work(&mut self, lane: usize, work: Work) {
        self.lanes[lane].as_mut().expect("it is open").work.push_back(work);
    }

    /// A lane reads a reply, or finds that it has been cut.
    pub(super) fn receive(&mut self, random: &mut Rng) {
        let speaks = |lane: &Lane| {
            self.is_cut(lane.machine, lane.socket)
                || self.machines[lane.machine].server.has_frames(lane.socket)
        };
        let busy: Vec<usize> =
            (0..LANES).filter(|lane| self.lanes[*lane].as_ref().is_some_and(speaks)).collect();
        let Some(lane) = random.choice(busy) else { return };
        let (machine, socket) = self.lane_end(lane);
        let is_cut = self.is_cut(machine, socket);
        match self.machines[machine].server.leave(socket).filter(|_| !is_cut) {
            None => self.lane_dies(lane, random),
            Some(frame) => {
                let work = self.lanes[lane].as_mut().and_then(|lane| lane.work.pop_front());
                let work = work.expect("nothing comes unasked on a lane");
                self.replied(lane, work, &frame);
            }
        }
    }

    fn replied(&mut self, lane: usize, work: Work, frame: &Frame) {
        let arrived = ms(self.now);
        match (work, frame) {
            (Work::Fill { op, token, pttl: None }, frame) => {
                // An error in the place of PTTL's answer: the fill is given up when the read's own comes.
                let pttl = if let Frame::Number(pttl) = frame { *pttl } else { 0 };
                let lane = self.lanes[lane].as_mut().expect("it has just spoken");
                lane.work.push_front(Work::Fill { op, token, pttl: Some(pttl) });
            }
            (Work::Fill { op, token, pttl: Some(pttl) }, Frame::Value(value)) => {
                let key = self.asked[op].key;
                let (raw, is_missing) = (encoded(*value), value.is_none());
                let raw = Raw::Borrowed(&raw);
                let response = Response { raw, pttl, is_missing, is_hash: false, arrived };
                let filled = self.coherence.fill(&name(key), token, &response);
                tell!(self, "{value:?} of key {key} has come with PTTL {pttl}: {:?}", filled.outcome);
                for waiter in filled.waiters {
                    self.answer(waiter, *value, "by another's read");
                }
                self.waiting.extend(filled.latecomers);
                self.answer(op, *value, "by its own read");
            }
            (Work::Bypass { op, sent_at }, Frame::Value(value)) => {
                let (key, field) = (self.asked[op].key, self.asked[op].field);
                let raw = encoded(*value);
                self.coherence.observe_read(
                    &name(key),
                    variant(field),
                    &Raw::Borrowed(&raw),
                    sent_at,
                    arrived,
                );
                self.answer(op, *value, "by its own read");
            }
            (Work::Write { op, guard }, Frame::Ok) => match guard.complete(arrived) {
                Acknowledge::Now => self.acknowledge(op),
                Acknowledge::After(moment) => {
                    tell!(self, "client {op}'s acknowledgement is behind a fence");
                    self.fences += 1;
                    self.fenced.push((op, moment));
                }
            },
            // -BUSY.
            (Work::Fill { op, token, .. }, _) => {
                let key = self.asked[op].key;
                let waiters = self.coherence.abandon(&name(key), token);
                self.coherence.observe(&name(key), arrived);
                self.waiting.extend(waiters);
                self.asked[op].is_answered = true;
            }
            (Work::Bypass { op, .. }, _) => {
                let key = self.asked[op].key;
                self.coherence.observe(&name(key), arrived);
                self.asked[op].is_answered = true;
            }
            (Work::Write { op, guard }, _) => {
                drop(guard);
                self.asked[op].is_answered = true;
            }
        }
    }

    pub(super) fn lift_fences(&mut self) {
        let certifier = self.coherence.certifier();
        let (open, closed) = self.fenced.drain(..).partition(|(_, moment)| certifier.is_past(*moment));
        self.fenced = closed;
        let open: Vec<(Op, Nanos)> = open;
        open.into_iter().for_each(|(op, _)| self.acknowledge(op));
    }

    // ---- the link ----------------------------------------------------------------------------------------------

    pub(super) fn link_opens(&mut self) {
        if self.link.is_some() {
            return;
        }
        let (machine, socket) = self.connect();
        self.send(machine, socket, Command::Track);
        let heartbeat = Heartbeat::default();
        self.link =
            Some(Link { machine, socket, is_tracking: false, is_asking: false, heartbeat, echoes: 0 });
    }

    /// The wire is dead from now on; the proxy does not know it yet.
    pub(super) fn link_is_cut(&mut self, random: &mut Rng) {
        if let Some((machine, socket)) = self.link.as_ref().map(|link| (link.machine, link.socket)) {
            tell!(self, "the link is cut");
            self.cut(machine, socket, random);
        }
    }

    pub(super) fn link_notices(&mut self) {
        let is_dead = self.link.as_ref().is_some_and(|link| self.is_cut(link.machine, link.socket));
        if is_dead {
            tell!(self, "the loss of the link is noticed");
            self.link = None;
            self.coherence.link_lost("cut");
        }
    }

    pub(super) fn echo(&mut self) {
        let now = ms(self.now);
        let Some(link) = self.link.as_mut().filter(|link| link.is_tracking) else { return };
        if link.is_asking {
            return;
        }
        link.is_asking = true;
        link.heartbeat.sent(now);
        link.echoes += 1;
        let (machine, socket, number) = (link.machine, link.socket, link.echoes);
        self.send(machine, socket, Command::Echo(number));
    }

    pub(super) fn hear(&mut self, random: &mut Rng) {
        let now = ms(self.now);
        let Some(link) = &mut self.link else { return };
        let machine = &mut self.machines[link.machine];
        if !machine.wires.contains_key(&link.socket) {
            return;
        }
        let Some(frame) = machine.server.leave(link.socket) else { return };
        match &frame {
            // Tracking is on; or it is not, and the link tries again.
            Frame::Ok if !link.is_tracking => {
                link.is_tracking = true;
                self.coherence.link_synced(machine.id);
            }
            Frame::Busy if !link.is_tracking => {
                let (machine, socket) = (link.machine, link.socket);
                self.link = None;
                self.cut(machine, socket, random);
            }
            Frame::Echo(_) | Frame::Busy => {
                link.is_asking = false;
                let answer = if frame == Frame::Busy { Answer::Error } else { Answer::Echo };
                if let Some(moment) = link.heartbeat.answered(answer, now) {
                    self.coherence.link_certified(moment);
                    tell!(self, "{:?} is certified", moment);
                }
            }
            Frame::Invalidate(keys) => {
                keys.iter().for_each(|key| self.coherence.link_invalidated(&name(*key)));
                tell!(self, "the link hears of {keys:?}");
            }
            Frame::InvalidateAll => {
                self.coherence.link_invalidated_all();
                tell!(self, "the link hears of everything");
            }
            Frame::Value(_) | Frame::Number(_) | Frame::Ok => unreachable!("nobody asked for {frame:?}"),
        }
    }
}

fn variant(field: usize) -> VariantKey<'static> {
    VariantKey {
        identity: IdentityId(1),
        database: Database(0),
        protocols: Protocols::Both,
        command: 1,
        tail: FIELDS[field],
    }
}

fn encoded(value: Option<Value>) -> Vec<u8> {
    value.map_or(b"$-1\r\n".to_vec(), |value| value.to_string().into_bytes())
}

fn value_of(reply: Reply<'_>) -> Option<Value> {
    let bytes = reply.bytes()?;
    Some(std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("a value is a number"))
}
