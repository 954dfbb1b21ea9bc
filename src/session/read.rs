//! Reads: answered from memory, joined to another client's, or sent upstream with leave to fill.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Inner, Next, Session,
    audit::{Auditor, Shown},
    inner::Repeat,
    output::Seq,
    send::NoLane,
    state::ReplyMode,
    ticket::{self, AskedVariant, Fill, Nature, Place, PlainRead, Pttl, Ticket, Work},
    worker::{Outcome, Waiter, Worker},
};
use crate::{
    clock::{self, Nanos},
    coherence::{Batch, FillOutcome, Hit, Missed, Protocols, Read, Reply, Response, Token, VariantKey},
    command::{Class, Command, Sameness},
    ids::Database,
    resp::{Args, OutputBuffer, Protocol, Raw, RequestScanner, Scanned, reply},
    upstream::{control::Question, lane::Lane},
};

impl Session {
    /// A read on the allowlist: of one key, argument 1.
    pub(super) fn read_cached(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        same: bool,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if !batch.is_leased() {
            let next = self.forward_read(inner, command, batch, args, request);
            if matches!(next, Next::Done) {
                self.worker.counters.misses.add(1);
                self.worker.counters.bypasses.add(1);
            }
            return next;
        }
        let key = &args[1];
        let variant = variant(inner, command, same, args);
        if inner.must_wait(std::iter::once_with(|| self.worker.hash(key))) {
            return Next::Hold;
        }
        let eligible = inner.is_eligible() && !inner.reads(|| self.worker.hash(key));
        let auditor = &self.worker.auditor;
        let coherence = &self.worker.shared.coherence;
        let seq = inner.output.next_seq();
        let waiter = Waiter { worker: self.worker.id, client: self.info.id, seq };
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(NoLane::Wait) if eligible && coherence.join(key, &variant, batch, || waiter) => {
                self.join(inner, seq, key, &request);
                return Next::Done;
            }
            Err(reason) => return inner.no_lane(reason),
        };
        let missed = Missed { key, variant: &variant, server: lane.greeting.server };
        let token = if !inner.profile.identity.may_cache(coherence.generation()) {
            None
        } else if eligible {
            match coherence.miss(&missed, batch, |hit| copy(inner, &hit, auditor), || waiter) {
                // Filled between the two looks, or read with its reply muted.
                Read::Hit(taken) => {
                    self.count_hit(inner, taken, command, args, &variant);
                    return Next::Done;
                }
                Read::Joined => {
                    self.join(inner, seq, key, &request);
                    return Next::Done;
                }
                Read::Bypass(_) => None,
                Read::Fetch(token) => Some(token),
            }
        } else {
            // It may not be shown what is cached, but what it reads may be: it is sent behind what forbids the hit.
            coherence.fetch(&missed, batch)
        };
        self.worker.counters.misses.add(1);
        let Some(token) = token else {
            self.worker.counters.bypasses.add(1);
            return self.forward_read(inner, command, batch, args, request);
        };
        let fill = Fill {
            key: args.span(1),
            request: self.worker.copy(&request),
            token: Some(token),
            pttl: None,
            nature: Nature { missing: command.missing_reply(&args), is_hash: command.reads_hash() },
            get: (command.name == "get").then(|| coherence.generation()),
        };
        let mut place = inner.place();
        place.reading.push(self.worker.hash(key));
        self.worker.counters.upstream_commands.add(1);
        let header = key_with_header(args);
        self.send(inner, batch, &lane, place, Work::Fill(fill), |out| {
            encode_pttl(header, out);
            out.push(request.clone());
        })
    }

    /// What [`Mutation::HitsDuringWatch`] does.
    pub(super) fn hit_in_spite_of_watch(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        same: bool,
        batch: &Batch,
        args: Args<'_>,
    ) -> bool {
        inner.is_drained() && self.look_up(inner, command, same, batch, args)
    }

    /// The client waits for another one's read of the same thing.
    fn join(&self, inner: &mut Inner, seq: Seq, key: &[u8], request: &[u8]) {
        self.worker.counters.joins.add(1);
        self.worker.counters.upstream_commands_saved.add(1);
        let reserved = inner.output.reserve(inner.mute);
        debug_assert_eq!(seq, reserved, "a waiter is found by its place");
        let key = self.worker.hash(key);
        inner.waits += 1;
        *inner.reading.entry(key).or_insert(0) += 1;
        inner.joined.insert(seq, (self.worker.copy(request), key));
    }

    /// Answers a read on the allowlist from memory if that may be and can be: one shard lock, one copy, no await.
    #[inline]
    pub(super) fn hit(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        sameness: Sameness,
        batch: &Batch,
        args: Args<'_>,
    ) -> bool {
        let may_hit = batch.is_leased()
            && !self.is_denied(&args[0])
            && inner.is_eligible()
            && inner.reply_mode == ReplyMode::On
            && inner.doomed.is_none()
            && !inner.must_wait(std::iter::once_with(|| self.worker.hash(&args[1])))
            && !inner.reads(|| self.worker.hash(&args[1]));
        if may_hit && self.look_up(inner, command, sameness.same(&args), batch, args) {
            inner.last_command = command.id;
            self.worker.counters.commands.add(1);
            return true;
        }
        false
    }

    #[inline]
    fn look_up(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        same: bool,
        batch: &Batch,
        args: Args<'_>,
    ) -> bool {
        let Worker { shared, auditor, .. } = &*self.worker;
        let variant = variant(inner, command, same, args);
        inner.mute = false;
        let taken = shared.coherence.hit(&args[1], &variant, batch, |hit| copy(inner, &hit, auditor));
        taken.is_some_and(|rest| {
            self.count_hit(inner, rest, command, args, &variant);
            true
        })
    }

    #[inline]
    fn count_hit(
        self: &Rc<Self>,
        inner: &mut Inner,
        rest: Option<Box<Rest>>,
        command: &Command,
        args: Args<'_>,
        variant: &VariantKey<'_>,
    ) {
        if let Some(rest) = rest {
            self.finish_hit(inner, *rest, command, args, variant);
        }
        self.worker.counters.hits.add(1);
        self.worker.counters.upstream_commands_saved.add(1);
    }

    #[cold]
    fn finish_hit(
        self: &Rc<Self>,
        inner: &mut Inner,
        rest: Rest,
        command: &Command,
        args: Args<'_>,
        variant: &VariantKey<'_>,
    ) {
        if let Some(large) = rest.large {
            inner.output.append_shared(large);
        }
        if rest.touch {
            self.touch(variant.database, &args[1]);
        }
        if let Some(shown) = rest.shown {
            let request = [format!("*{}\r\n", args.len()).as_bytes(), args.tail_from(0)].concat();
            self.audit(&inner.profile, command, &args[1], variant, request, shown);
        }
    }

    /// A key that is hot here looks cold to a server that evicts by use.
    pub(super) fn touch(&self, database: Database, key: &[u8]) {
        // A full queue means that the control thread is busy; the key comes up again.
        if self.worker.shared.questions.try_send(Question::Touch(database, key.into())).is_ok() {
            self.worker.counters.touches.add(1);
        }
    }

    /// A read that is sent and fills nothing. What it shows of its keys may be newer than what is cached.
    pub(super) fn forward_read(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        let undeclared = command.class(&args) == Class::ReadUndeclared;
        let reading = self.reading(command, args);
        if inner.must_wait(reading.iter().copied()) || (undeclared && inner.waits > 0) {
            return Next::Hold;
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        let read = self.plain_read(inner, command, batch, args, &request);
        let place = Place { reading, barrier: undeclared, ..inner.place() };
        self.send(inner, batch, &lane, place, Work::Read(read), |out| out.push(request))
    }

    /// Sends a read again in its old place; it fills nothing.
    pub(super) fn resend(self: &Rc<Self>, inner: &mut Inner, lane: &Rc<Lane<Ticket>>, repeat: &Repeat) {
        let request = &*repeat.request;
        let batch = self.worker.shared.coherence.batch(clock::now());
        let mut scanner = RequestScanner::new(self.worker.request_limits.get());
        let Ok(Scanned::Request { .. }) = scanner.scan(request, true) else {
            debug_assert!(false, "a request that was sent once is whole");
            let text = ticket::error("nearhit: the read could not be sent again");
            return inner.output.complete(repeat.seq, Raw::Borrowed(&text), None);
        };
        let args = scanner.args(request);
        let table = Arc::clone(&self.worker.table.borrow());
        let command = table.lookup(&args[0], args.get(1));
        let read = self.plain_read(inner, command, &batch, args, request);
        let reading = self.reading(command, args);
        let place = Place { reading, barrier: read.undeclared, ..Place::new(repeat.seq) };
        let work = Work::Read(PlainRead { again: repeat.was_lost, ..read });
        self.send(inner, &batch, lane, place, work, |out| out.push(Raw::Borrowed(request)));
    }

    /// The hashes of the keys of a read, which no hit may overtake.
    #[inline]
    fn reading(&self, command: &Command, args: Args<'_>) -> SmallVec<[u64; 1]> {
        let mut hashes = SmallVec::new();
        if self.worker.caches() {
            command.for_each_key(&args, |key, _| hashes.push(self.worker.hash(key)));
        }
        hashes
    }

    /// What has to be known of a read when its reply comes.
    #[inline]
    fn plain_read(
        &self,
        inner: &Inner,
        command: &Command,
        batch: &Batch,
        args: Args<'_>,
        request: &[u8],
    ) -> PlainRead {
        let class = command.class(&args);
        let mut keys = SmallVec::new();
        let mut variant = None;
        if self.worker.caches() {
            command.for_each_key(&args, |key, _| keys.push(args.span_of(key)));
            if let Class::Cached(sameness) = class {
                variant = Some(AskedVariant {
                    protocols: protocols(inner.profile.protocol, sameness.same(&args)),
                    command: command.id,
                    tail: args.span_of(args.tail_from(2)),
                    database: inner.profile.database,
                    sent_at: batch.now,
                });
            }
        }
        PlainRead {
            request: self.worker.copy(request),
            keys,
            variant,
            undeclared: class == Class::ReadUndeclared,
            mget: (class == Class::Mget).then(|| self.worker.shared.coherence.generation()),
            again: false,
        }
    }
}

impl Session {
    /// Invariants 3 and 7: a token's reply came. It is stored if it may be, and those who joined are answered.
    pub(super) fn settle_flight(
        &self,
        key: &[u8],
        token: Token<Waiter>,
        raw: Raw<'_>,
        pttl: Option<Pttl>,
        nature: Nature,
        arrived: Nanos,
    ) {
        let coherence = &self.worker.shared.coherence;
        let is_error = reply::is_error(&raw);
        if matches!(pttl, Some(Pttl::Forbidden)) && !is_error {
            // The key may be read, so it is the command that may not be used. Of a key that may not be read, PTTL is
            // forbidden too, which says nothing about other keys.
            self.identity().refuse_pttl(coherence.generation());
        }
        let Some(Pttl::Milliseconds(pttl)) = pttl.filter(|_| !is_error) else {
            let waiters = coherence.abandon(key, token);
            coherence.observe(key, arrived);
            return self.answer_all(waiters, raw);
        };
        let response = Response {
            is_missing: nature.missing.is(&raw),
            raw: raw.clone(),
            pttl,
            is_hash: nature.is_hash,
            arrived,
        };
        let filled = coherence.fill(key, token, &response);
        match filled.outcome {
            FillOutcome::Stored => self.worker.counters.fills.add(1),
            FillOutcome::Revoked | FillOutcome::Expired | FillOutcome::TooLarge => {
                self.worker.counters.fills_refused.add(1);
            }
        }
        self.all_ask_again(filled.latecomers);
        self.answer_all(filled.waiters, raw);
    }

    /// Tells those who joined a read that came to nothing.
    pub(super) fn all_ask_again(&self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            self.worker.answer(waiter, Outcome::Again);
        }
    }

    /// Answers those who joined.
    fn answer_all(&self, waiters: Vec<Waiter>, raw: Raw<'_>) {
        if waiters.is_empty() {
            return;
        }
        let is_nil = reply::is_translatable_nil(&raw);
        let outcome = if is_nil { Outcome::Nil } else { Outcome::Reply(raw.into_bytes()) };
        for waiter in waiters {
            self.worker.answer(waiter, outcome.clone());
        }
    }
}

/// What a read on the allowlist asks of its key.
fn variant<'a>(inner: &Inner, command: &Command, same: bool, args: Args<'a>) -> VariantKey<'a> {
    VariantKey {
        identity: inner.profile.identity.id,
        database: inner.profile.database,
        protocols: protocols(inner.profile.protocol, same),
        command: command.id.0,
        tail: args.tail_from(2),
    }
}

/// The protocols that a reply to be read in `protocol` is right for.
fn protocols(protocol: Protocol, same: bool) -> Protocols {
    match protocol {
        _ if same => Protocols::Both,
        Protocol::Resp2 => Protocols::Resp2,
        Protocol::Resp3 => Protocols::Resp3,
    }
}

/// What is left to do of a hit once the shard's lock is gone; of most there is nothing.
struct Rest {
    /// A reply too large to be copied under the lock.
    large: Option<Bytes>,
    touch: bool,
    /// It is to be audited.
    shown: Option<Box<Shown>>,
}

/// Copies a hit's reply to the client's output, under the shard's lock.
#[inline]
fn copy(inner: &mut Inner, hit: &Hit<'_>, auditor: &Auditor) -> Option<Box<Rest>> {
    let protocol = inner.profile.protocol;
    let shown = auditor.draw(hit, protocol);
    let mut large = None;
    match hit.reply {
        _ if inner.mute => {}
        Reply::Nil => inner.output.append(|out| out.extend_from_slice(reply::nil(protocol))),
        Reply::Bytes(bytes) => inner.output.append(|out| out.extend_from_slice(bytes)),
        Reply::Shared(bytes) => large = Some(bytes),
    }
    if large.is_none() && !hit.touch && shown.is_none() {
        return None;
    }
    Some(Box::new(Rest { large: large.cloned(), touch: hit.touch, shown }))
}

/// The key of a one-key command as it stands in the request, `$` header and line end included.
fn key_with_header(args: Args<'_>) -> &[u8] {
    let from_key = args.tail_from(1);
    &from_key[..from_key.len() - args.tail_from(2).len()]
}

/// PTTL goes ahead of every read that may fill: an expired key lives on in a server that has not got round to it,
/// and only its own answer about the time left tells.
fn encode_pttl(key_with_header: &[u8], out: &mut OutputBuffer) {
    out.extend(b"*2\r\n$4\r\nPTTL\r\n");
    out.extend(key_with_header);
}
