//! MGET by parts: hits from memory, the rest as one MGET upstream.
//!
//! Redis answers an MGET at one moment, so the parts must have been true together at some moment, too
//! (invariant 10). Entries that are valid in two looks, one after the other, were valid together in between. But
//! an outside write of two keys may have reached a reply that came here while its invalidation has not: then
//! one part would be new and the other old. So a part from memory counts only if everything that happened before its
//! reply arrived has been certified, and where parts came from upstream, the second look waits for the certification
//! of their arrival. If a part has gone by then, the whole MGET is asked of Redis.

use std::{ops::Range, rc::Rc};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Inner, Next, Session,
    inner::Repeat,
    ticket::{self, Nature, Place, Pttl, Ticket, Work},
    worker::Waiter,
};
use crate::{
    clock::{self, Nanos},
    coherence::{Batch, Missed, Protocols, Reply, Stamp, Token, VariantKey},
    command::{Command, CommandId, MissingReply},
    ids::{Database, Generation, IdentityId, ServerId},
    mutation::Mutation,
    resp::{Args, Protocol, Raw, encode_request, reply},
    upstream::{completion::Progress, identity::StringRead},
};

/// An MGET of more keys than this goes upstream whole.
const KEYS_MAX: usize = 1024;

/// An MGET that was answered in part from memory.
pub(super) struct Mget {
    request: Vec<u8>,
    parts: Vec<Part>,
    variant: (IdentityId, Database, CommandId),
    /// PTTLs that are still to come, then the MGET itself.
    pttls_left: usize,
    sent_at: Nanos,
    generation: Generation,
}

/// One key of an MGET.
struct Part {
    key: Range<usize>,
    source: Source,
}

enum Source {
    /// From memory, in the client's protocol.
    Memory(Bytes, Stamp),
    /// Asked of Redis, perhaps with leave to fill.
    Upstream { token: Option<Token<Waiter>>, pttl: Option<Pttl>, value: Bytes },
}

/// Under what the parts of an MGET are cached.
struct MgetSource {
    variant: (IdentityId, Database, CommandId),
    /// Whether the client is known to be allowed an MGET.
    may_show: bool,
    generation: Generation,
}

/// An MGET whose parts are all there and must be looked at once more.
pub(super) struct Parts {
    mget: Box<Mget>,
    /// Not settled before the reply is certain.
    pub(super) place: Place,
    /// When the upstream part came.
    pub(super) arrived: Nanos,
}

impl Session {
    /// Answers from memory what can be, and asks Redis for the rest.
    pub(super) fn mget(
        self: &Rc<Self>,
        inner: &mut Inner,
        command: &Command,
        batch: &Batch,
        args: Args<'_>,
        request: Raw<'_>,
    ) -> Next {
        if inner.must_wait(args.iter().skip(1).map(|key| self.worker.hash(key))) {
            return Next::Hold;
        }
        let eligible = inner.is_eligible()
            && args.len() - 1 <= KEYS_MAX
            && args.iter().skip(1).all(|key| !inner.reads(|| self.worker.hash(key)));
        if !eligible {
            return self.forward_read(inner, command, batch, args, request);
        }
        let counters = &self.worker.counters;
        let source = self.mget_source(inner, command);
        if source.may_show && self.mget_hit(inner, &source, batch, args) {
            counters.hits.add(args.len() as u64 - 1);
            counters.upstream_commands_saved.add(1);
            return Next::Done;
        }
        let mut mget = self.collect(inner, &source, batch, args);
        mget.request = request.to_vec();
        let missing = mget.parts.iter().filter(|part| matches!(part.source, Source::Upstream { .. })).count();
        if missing == 0 && mget.is_still_valid(self, batch.now) {
            counters.hits.add(mget.parts.len() as u64);
            counters.upstream_commands_saved.add(1);
            if !inner.mute {
                inner.output.append(|out| mget.write(out));
            }
            return Next::Done;
        }
        if missing == 0 {
            return self.forward_read(inner, command, batch, args, request);
        }
        let lane = match self.lane(inner) {
            Ok(lane) => lane,
            Err(reason) => return inner.no_lane(reason),
        };
        counters.hits.add((mget.parts.len() - missing) as u64);
        counters.misses.add(missing as u64);
        self.ask_for_missing(&mut mget, args, inner, batch, lane.greeting.server);
        let mut place = inner.place();
        place.may_repeat = mget.has_memory();
        place.reading = args.iter().skip(1).map(|key| self.worker.hash(key)).collect();
        let mut bytes = Vec::new();
        mget.encode(&mut bytes);
        self.send(inner, batch, &lane, place, Work::Mget(Box::new(mget)), |out| out.extend(&bytes))
    }

    /// Where the parts of a client's MGET are found.
    fn mget_source(&self, inner: &Inner, mget: &Command) -> MgetSource {
        let generation = self.worker.shared.coherence.generation();
        // Who may not GET is not to find by GET what was read by MGET.
        let is_allowed = |read| inner.profile.identity.is_allowed(read, generation);
        let get = || self.worker.table.borrow().lookup(b"GET", None).id;
        let command = if is_allowed(StringRead::Get) { get() } else { mget.id };
        MgetSource {
            variant: (inner.profile.identity.id, inner.profile.database, command),
            may_show: is_allowed(StringRead::Mget),
            generation,
        }
    }

    /// The short way for an MGET whose parts are all in memory, and none of them large: each is copied to the client's
    /// output as it is found. If it is not that, nothing has happened.
    fn mget_hit(&self, inner: &mut Inner, source: &MgetSource, batch: &Batch, args: Args<'_>) -> bool {
        if inner.mute || self.worker.auditor.is_on() || Mutation::TornMget.is_on() {
            return false;
        }
        let coherence = &self.worker.shared.coherence;
        let (variant, protocol) = (variant(source.variant), inner.profile.protocol);
        let keys = || args.iter().skip(1);
        let mut stamps = SmallVec::<[Stamp; 16]>::new();
        inner.output.append(|out| {
            let start = out.len();
            out.extend_from_slice(format!("*{}\r\n", keys().len()).as_bytes());
            let is_whole = keys().all(|key| {
                let mut touch = false;
                let stamp = coherence.hit(key, &variant, batch, |hit| {
                    touch = hit.touch;
                    let bytes = match hit.reply {
                        _ if hit.arrived() > batch.certified() => return None,
                        Reply::Nil => reply::nil(protocol),
                        Reply::Bytes(bytes) => bytes,
                        Reply::Shared(_) => return None,
                    };
                    out.extend_from_slice(bytes);
                    Some(hit.stamp())
                });
                if touch {
                    self.touch(variant.database, key);
                }
                stamp.flatten().map(|stamp| stamps.push(stamp)).is_some()
            });
            let is_still_valid = |(key, stamp)| coherence.is_still_valid(key, &variant, stamp, batch.now);
            let is_hit = is_whole && keys().zip(stamps).all(is_still_valid);
            if !is_hit {
                out.truncate(start);
            }
            is_hit
        })
    }

    /// Looks each key up. A part counts only if everything that came before it was read has been certified:
    /// else it might show one half of an outside write whose other half is still cached as it was.
    fn collect(self: &Rc<Self>, inner: &Inner, source: &MgetSource, batch: &Batch, args: Args<'_>) -> Mget {
        let table = self.worker.table.borrow();
        let get = table.lookup(b"GET", None);
        let MgetSource { variant: whose, may_show, generation } = *source;
        let variant = variant(whose);
        let coherence = &self.worker.shared.coherence;
        let part = |index: usize| {
            let (mut drawn, mut touch) = (None, false);
            let look = || {
                coherence.hit(&args[index], &variant, batch, |hit| {
                    touch = hit.touch;
                    let certified = hit.arrived() <= batch.certified() || Mutation::TornMget.is_on();
                    if !certified {
                        coherence.certifier().want(batch.now);
                    }
                    certified.then(|| {
                        drawn = self.worker.auditor.draw(&hit, inner.profile.protocol);
                        Source::Memory(owned(hit.reply, inner.profile.protocol), hit.stamp())
                    })
                })
            };
            let source = may_show.then(look).flatten().flatten();
            if touch {
                self.touch(variant.database, &args[index]);
            }
            if let Some(shown) = drawn {
                let mut request = Vec::new();
                encode_request([b"GET", &args[index]], &mut request);
                self.audit(&inner.profile, get, &args[index], &variant, request, shown);
            }
            Part { key: args.span(index), source: source.unwrap_or_else(Source::unasked) }
        };
        Mget {
            request: Vec::new(),
            parts: (1..args.len()).map(part).collect(),
            variant: whose,
            pttls_left: 0,
            sent_at: batch.now,
            generation,
        }
    }

    /// Takes leave to fill for each missing key that has no read in flight.
    fn ask_for_missing(
        &self,
        mget: &mut Mget,
        args: Args<'_>,
        inner: &Inner,
        batch: &Batch,
        server: ServerId,
    ) {
        let coherence = &self.worker.shared.coherence;
        if !inner.profile.identity.may_cache(coherence.generation()) {
            return;
        }
        let variant = mget.variant();
        for (index, part) in mget.parts.iter_mut().enumerate() {
            let Source::Upstream { token, .. } = &mut part.source else { continue };
            let missed = Missed { key: &args[index + 1], variant: &variant, server };
            // What has just been filled, or is on its way for another client, is asked again all the same: this
            // reply must have been true at one moment.
            if let Some(granted) = coherence.fetch(&missed, batch) {
                *token = Some(granted);
                mget.pttls_left += 1;
            }
        }
    }

    /// Makes the reply of an MGET whose turn has come, or asks Redis for all of it.
    pub(super) fn finish_mget(&self, inner: &mut Inner, parts: Parts) {
        let Parts { mget, place, .. } = parts;
        inner.settle_landed(&place);
        if mget.is_still_valid(self, clock::now()) {
            let mut out = Vec::new();
            mget.write(&mut out);
            inner.output.complete(place.seq, Raw::Shared(out.into()), None);
        } else {
            inner.ask_again(Repeat { seq: place.seq, request: mget.request, was_lost: false });
        }
    }
}

impl Mget {
    fn variant(&self) -> VariantKey<'static> {
        variant(self.variant)
    }

    /// The second look (invariant 10).
    fn is_still_valid(&self, session: &Session, now: Nanos) -> bool {
        if Mutation::TornMget.is_on() {
            return true;
        }
        let variant = self.variant();
        self.parts.iter().all(|part| match &part.source {
            Source::Upstream { .. } => true,
            Source::Memory(_, stamp) => session.worker.shared.coherence.is_still_valid(
                &self.request[part.key.clone()],
                &variant,
                *stamp,
                now,
            ),
        })
    }

    fn has_memory(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.source, Source::Memory(..)))
    }

    /// The reply, put together.
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("*{}\r\n", self.parts.len()).as_bytes());
        for part in &self.parts {
            match &part.source {
                Source::Memory(value, _) | Source::Upstream { value, .. } => out.extend_from_slice(value),
            }
        }
    }

    /// A PTTL for each key with a token, then one MGET for all that are missing.
    fn encode(&self, out: &mut Vec<u8>) {
        let key = |part: &Part| self.request[part.key.clone()].to_vec();
        for part in &self.parts {
            if let Source::Upstream { token: Some(_), .. } = part.source {
                encode_request([b"PTTL".to_vec(), key(part)], out);
            }
        }
        let missing =
            self.parts.iter().filter(|part| matches!(part.source, Source::Upstream { .. })).map(key);
        encode_request(std::iter::once(b"MGET".to_vec()).chain(missing), out);
    }

    /// The lane died: the joined are told, and the request is given back.
    pub(super) fn abandon(mut self, session: &Session) -> Vec<u8> {
        session.all_ask_again(self.give_up(session));
        self.request
    }

    /// Nothing will be filled any more; returns those who joined.
    pub(super) fn give_up(&mut self, session: &Session) -> Vec<Waiter> {
        let mut joined = Vec::new();
        for part in &mut self.parts {
            if let Source::Upstream { token, .. } = &mut part.source
                && let Some(token) = token.take()
            {
                let key = &self.request[part.key.clone()];
                joined.extend(session.worker.shared.coherence.abandon(key, token));
            }
        }
        joined
    }
}

impl Source {
    fn unasked() -> Self {
        Self::Upstream { token: None, pttl: None, value: Bytes::new() }
    }
}

impl Ticket {
    /// One reply to an MGET by parts: PTTLs in the order of the keys, then the values.
    pub(super) fn mget(&mut self, mut mget: Box<Mget>, raw: Raw<'_>, arrived: Nanos) -> Progress {
        if mget.pttls_left > 0 {
            mget.pttls_left -= 1;
            let unanswered = mget.parts.iter_mut().find_map(|part| match &mut part.source {
                Source::Upstream { token: Some(_), pttl: pttl @ None, .. } => Some(pttl),
                _ => None,
            });
            if let Some(pttl) = unanswered {
                *pttl = Some(ticket::pttl(&raw));
            }
            self.work = Work::Mget(mget);
            return Progress::More;
        }
        let has_memory = mget.has_memory();
        let Some(mut values) = reply::elements(&raw) else {
            // An error: nothing is stored, and the joined ask for themselves.
            mget.abandon(&self.session);
            self.answer(raw, None);
            return Progress::Done;
        };
        self.allow(StringRead::Mget, mget.generation);
        let Mget { request, parts, variant: mget_variant, sent_at, .. } = &mut *mget;
        let (mget_variant, sent_at) = (*mget_variant, *sent_at);
        for part in parts {
            let Source::Upstream { token, pttl, value } = &mut part.source else { continue };
            let element = values.next().unwrap_or_default();
            let key = &request[part.key.clone()];
            if let Some(token) = token.take() {
                self.session.settle_part(key, token, *pttl, element, arrived);
            } else {
                let raw = Raw::Borrowed(element);
                let coherence = &self.session.worker.shared.coherence;
                coherence.observe_read(key, variant(mget_variant), &raw, sent_at, arrived);
            }
            if has_memory {
                *value = Bytes::copy_from_slice(element);
            }
        }
        if has_memory {
            self.defer(|place| Parts { mget, place, arrived });
        } else {
            self.answer(raw, None);
        }
        Progress::Done
    }
}

impl Session {
    /// MGET says nil of a key of another type, too, where GET gives an error. So a nil is the GET's reply only if
    /// PTTL has just said that there is no key; else those who joined with a GET ask for themselves.
    fn settle_part(
        &self,
        key: &[u8],
        token: Token<Waiter>,
        pttl: Option<Pttl>,
        element: &[u8],
        arrived: Nanos,
    ) {
        let is_missing = matches!(pttl, Some(Pttl::Milliseconds(-2)));
        if reply::is_nil(element) && !is_missing {
            let waiters = self.worker.shared.coherence.abandon(key, token);
            self.all_ask_again(waiters);
            self.worker.shared.coherence.observe(key, arrived);
            return;
        }
        let nature = Nature { missing: MissingReply::Nil, is_hash: false };
        self.settle_flight(key, token, Raw::Borrowed(element), pttl, nature, arrived);
    }
}

/// The variant of a GET, which is what each part of an MGET is to who may use both, or of a part.
fn variant((identity, database, command): (IdentityId, Database, CommandId)) -> VariantKey<'static> {
    VariantKey { identity, database, protocols: Protocols::Both, command: command.0, tail: &[] }
}

pub(super) fn owned(reply: Reply<'_>, protocol: Protocol) -> Bytes {
    match reply {
        Reply::Nil => Bytes::from_static(reply::nil(protocol)),
        Reply::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        Reply::Shared(bytes) => bytes.clone(),
    }
}
