//! What a client is owed, in order.
//!
//! Replies come in whatever order lanes, waiters and fences give them; they go out in the order of the requests.
//! What is due goes to the ready bytes at once; what is not has a place in the queue, and everything made here
//! meanwhile (hits, PONGs) is kept behind the place it follows. Pure: the socket is written elsewhere.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    clock::Nanos,
    resp::{OutputBuffer, Raw},
};

/// An empty queue that had more places than this is given back.
pub(super) const PLACES_KEPT_MAX: usize = 1024;

/// The number of a place in the queue, counted over the session's life.
pub(super) type Seq = u64;

/// What fills a place.
#[derive(Debug)]
pub(super) enum Payload<D> {
    /// Bytes as they are to be written.
    Bytes(Bytes),
    /// Something that has to be looked at once more when its turn comes.
    Deferred(D),
}

#[derive(Debug)]
enum State<D> {
    /// The reply has not come.
    Waiting,
    /// It is coming in pieces, each of which is ready at once. It is the first place.
    Passing,
    /// It may go when its turn comes and, if a time is given, once that time is certified.
    Ready(Payload<D>, Option<Nanos>),
}

#[derive(Debug)]
struct Place<D> {
    /// Messages that came while this place was waiting, each with the time that must be certified first.
    before: VecDeque<(Bytes, Option<Nanos>)>,
    state: State<D>,
    muted: bool,
    after: Vec<u8>,
}

/// A session's output. `D` is what a deferred reply is made from.
#[derive(Debug)]
pub(super) struct Output<D> {
    ready: OutputBuffer,
    queue: VecDeque<Place<D>>,
    /// The number of the first place in the queue.
    base: Seq,
    /// Bytes in the queue that are finished and wait for their turn.
    queued_bytes: usize,
    /// Places that are filled and wait for a certification.
    fenced: usize,
}

/// Why the queue does not move.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop<D> {
    /// Nothing is queued, or the first reply has not come.
    Waiting,
    /// The first reply waits for this time to be certified.
    Fence(Nanos),
    /// The first reply is due and must be made from this, or be asked for again: its place waits.
    Deferred(D),
}

impl<D> Output<D> {
    pub(super) fn new() -> Self {
        Self { ready: OutputBuffer::default(), queue: VecDeque::new(), base: 0, queued_bytes: 0, fenced: 0 }
    }

    /// Bytes that can be written now.
    pub(super) fn ready(&mut self) -> &mut OutputBuffer {
        &mut self.ready
    }

    /// All finished bytes that the client has not taken.
    pub(super) fn undelivered(&self) -> usize {
        self.ready.len() + self.queued_bytes
    }

    /// The same without the frame that is being written, and without a reply in pieces, of which the client gets no more
    /// than it may hold.
    pub(super) fn gathered(&self) -> usize {
        if self.is_passing() { self.queued_bytes } else { self.undelivered() - self.ready.front_len() }
    }

    /// Places in the queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether a reply that has come waits for a certification. Until it is out, its client gets no hits: they
    /// would be older than what that reply tells.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced > 0
    }

    /// The number the next reserved place will have.
    pub(super) fn next_seq(&self) -> Seq {
        self.base + self.queue.len() as Seq
    }

    /// Takes a place at the end. A muted one (CLIENT REPLY OFF, SKIP) will write nothing.
    pub(super) fn reserve(&mut self, muted: bool) -> Seq {
        let seq = self.next_seq();
        self.queue.push_back(Place {
            before: VecDeque::new(),
            state: State::Waiting,
            muted,
            after: Vec::new(),
        });
        seq
    }

    /// Appends a reply that is made here; `write` must only add to the vector.
    #[inline]
    pub(super) fn append<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        match self.queue.back_mut() {
            None => self.ready.extend_with(write),
            Some(last) => {
                let before = last.after.len();
                let result = write(&mut last.after);
                self.queued_bytes += last.after.len() - before;
                result
            }
        }
    }

    /// Appends a large reply by reference.
    pub(super) fn append_shared(&mut self, bytes: Bytes) {
        if self.queue.is_empty() {
            return self.ready.push_shared(bytes);
        }
        let seq = self.reserve(false);
        self.complete(seq, Raw::Shared(bytes), None);
    }

    /// Puts in a message, which may have to wait for `fence`, as it came: behind the replies that have come, ahead of those
    /// that have not. A reply may be a long time coming (BLPOP), and behind that of an UNSUBSCRIBE nobody reads messages.
    pub(super) fn insert_message(&mut self, raw: Raw<'_>, fence: Option<Nanos>) {
        let waiting = self.queue.iter_mut().find(|place| matches!(place.state, State::Waiting));
        let Some(place) = waiting else {
            let seq = self.reserve(false);
            return self.complete(seq, raw, fence);
        };
        let bytes = raw.into_bytes();
        self.queued_bytes += bytes.len();
        self.fenced += usize::from(fence.is_some());
        place.before.push_back((bytes, fence));
    }

    /// Fills a place. The first one goes to the ready bytes at once if no fence holds it; call
    /// [`Output::advance`] afterwards. A place that is filled already, or gone, stays as it is.
    pub(super) fn complete(&mut self, seq: Seq, raw: Raw<'_>, fence: Option<Nanos>) {
        let Some(index) = self.index(seq) else { return };
        let place = &mut self.queue[index];
        if !matches!(place.state, State::Waiting) {
            return;
        }
        if index == 0 && fence.is_none() && place.before.is_empty() {
            if !place.muted {
                self.ready.push(raw);
            }
            self.release_first();
        } else {
            let bytes = if place.muted { Bytes::new() } else { raw.into_bytes() };
            self.queued_bytes += bytes.len();
            self.fenced += usize::from(fence.is_some());
            place.state = State::Ready(Payload::Bytes(bytes), fence);
        }
    }

    /// Whether it is a reply's turn, so that it may come in pieces.
    pub(super) fn may_begin(&self, seq: Seq) -> bool {
        let is_due = |place: &Place<D>| matches!(place.state, State::Waiting) && place.before.is_empty();
        self.index(seq) == Some(0) && is_due(&self.queue[0])
    }

    /// Has a reply come in pieces from now on; false unless it is its turn.
    pub(super) fn begin(&mut self, seq: Seq) -> bool {
        let may_begin = self.may_begin(seq);
        if may_begin {
            self.queue[0].state = State::Passing;
        }
        may_begin
    }

    /// Whether the first reply is coming in pieces.
    pub(super) fn is_passing(&self) -> bool {
        self.queue.front().is_some_and(|place| matches!(place.state, State::Passing))
    }

    /// A piece of the first reply; call [`Output::advance`] after the last one.
    pub(super) fn piece(&mut self, seq: Seq, raw: Raw<'_>, is_last: bool) {
        if self.index(seq) != Some(0) || !self.is_passing() {
            return;
        }
        if !self.queue[0].muted {
            self.ready.push(raw);
        }
        if is_last {
            self.release_first();
        }
    }

    /// Fills a place with what is to be looked at again once `fence` is certified.
    pub(super) fn defer(&mut self, seq: Seq, deferred: D, fence: Nanos) {
        if let Some(index) = self.index(seq) {
            self.queue[index].state = State::Ready(Payload::Deferred(deferred), Some(fence));
            self.fenced += 1;
        }
    }

    /// Moves everything that is due to the ready bytes; `is_past` tells whether a time is certified.
    pub(super) fn advance(&mut self, is_past: impl Fn(Nanos) -> bool) -> Stop<D> {
        loop {
            let Some(first) = self.queue.front_mut() else { return Stop::Waiting };
            while let Some((bytes, fence)) = first.before.pop_front() {
                if let Some(fence) = fence.filter(|fence| !is_past(*fence)) {
                    first.before.push_front((bytes, Some(fence)));
                    return Stop::Fence(fence);
                }
                self.fenced -= usize::from(fence.is_some());
                self.queued_bytes -= bytes.len();
                self.ready.push_shared(bytes);
            }
            match std::mem::replace(&mut first.state, State::Waiting) {
                State::Waiting => return Stop::Waiting,
                State::Passing => {
                    first.state = State::Passing;
                    return Stop::Waiting;
                }
                State::Ready(payload, Some(fence)) if !is_past(fence) => {
                    first.state = State::Ready(payload, Some(fence));
                    return Stop::Fence(fence);
                }
                State::Ready(Payload::Deferred(deferred), fence) => {
                    self.fenced -= usize::from(fence.is_some());
                    return Stop::Deferred(deferred);
                }
                State::Ready(Payload::Bytes(bytes), fence) => {
                    self.fenced -= usize::from(fence.is_some());
                    self.queued_bytes -= bytes.len();
                    self.ready.push_shared(bytes);
                    self.release_first();
                }
            }
        }
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        let index = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        (index < self.queue.len()).then_some(index)
    }

    /// Drops the first place, whose reply has been written, and lets out what was made behind it.
    fn release_first(&mut self) {
        if let Some(place) = self.queue.pop_front() {
            self.base += 1;
            self.queued_bytes -= place.after.len();
            if !place.after.is_empty() {
                self.ready.extend(&place.after);
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > PLACES_KEPT_MAX {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &mut Output<&'static str>) -> String {
        let bytes = output.ready.contiguous().expect("small replies").to_vec();
        output.ready.advance(bytes.len());
        String::from_utf8(bytes).unwrap()
    }

    fn reply(output: &mut Output<&'static str>, seq: Seq, text: &str) {
        output.complete(seq, Raw::Borrowed(text.as_bytes()), None);
        output.advance(|_| true);
    }

    #[test]
    fn replies_go_in_the_order_of_the_requests() {
        let mut output = Output::new();
        output.append(|out| out.extend(b"a"));
        let b = output.reserve(false);
        output.append(|out| out.extend(b"c"));
        let d = output.reserve(false);
        output.append(|out| out.extend(b"e"));
        reply(&mut output, d, "d");
        assert_eq!(written(&mut output), "a");
        assert_eq!(output.undelivered(), 3);
        reply(&mut output, b, "b");
        assert_eq!(written(&mut output), "bcde");
        assert_eq!(output.undelivered(), 0);
    }

    #[test]
    fn a_fenced_reply_holds_up_what_follows_until_its_time() {
        let mut output = Output::new();
        let a = output.reserve(false);
        let b = output.reserve(false);
        output.complete(a, Raw::Borrowed(b"a"), Some(Nanos(10)));
        output.complete(b, Raw::Borrowed(b"b"), None);
        assert_eq!(output.advance(|moment| moment < Nanos(10)), Stop::Fence(Nanos(10)));
        assert_eq!(written(&mut output), "");
        assert_eq!(output.advance(|moment| moment <= Nanos(10)), Stop::Waiting);
        assert_eq!(written(&mut output), "ab");
    }

    #[test]
    fn a_deferred_reply_comes_back_when_due_and_can_wait_again() {
        let mut output = Output::new();
        let a = output.reserve(false);
        output.defer(a, "again", Nanos(10));
        assert_eq!(output.advance(|_| true), Stop::Deferred("again"));
        assert_eq!(output.queued(), 1);
        reply(&mut output, a, "a");
        assert_eq!(written(&mut output), "a");
    }

    #[test]
    fn a_muted_place_writes_nothing_but_keeps_the_order() {
        let mut output = Output::new();
        let a = output.reserve(true);
        let b = output.reserve(false);
        reply(&mut output, b, "b");
        assert_eq!(written(&mut output), "");
        reply(&mut output, a, "a");
        assert_eq!(written(&mut output), "b");
    }

    #[test]
    fn a_message_goes_ahead_of_the_replies_that_have_not_come() {
        let mut output = Output::new();
        let a = output.reserve(false);
        let b = output.reserve(false);
        output.complete(a, Raw::Borrowed(b"a"), Some(Nanos(10)));
        output.insert_message(Raw::Borrowed(b"1"), Some(Nanos(11)));
        output.insert_message(Raw::Borrowed(b"2"), Some(Nanos(12)));
        let c = output.reserve(false);
        assert_eq!(output.undelivered(), 3);
        assert_eq!(output.advance(|moment| moment <= Nanos(11)), Stop::Fence(Nanos(12)));
        assert_eq!(written(&mut output), "a1");
        output.complete(b, Raw::Borrowed(b"b"), None);
        output.complete(c, Raw::Borrowed(b"c"), None);
        assert!(output.is_fenced());
        output.advance(|_| true);
        output.insert_message(Raw::Borrowed(b"3"), None);
        assert_eq!(written(&mut output), "2bc3");
        assert!(!output.is_fenced() && output.undelivered() == 0);
    }

    #[test]
    fn a_reply_in_pieces_goes_out_as_it_comes_and_nothing_gets_between() {
        let mut output = Output::new();
        let a = output.reserve(false);
        let b = output.reserve(false);
        assert!(!output.begin(b), "it is not its turn");
        output.append(|out| out.extend(b"c"));
        assert!(output.begin(a));
        output.piece(a, Raw::Borrowed(b"a1"), false);
        output.insert_message(Raw::Borrowed(b"!"), None);
        output.insert_message(Raw::Borrowed(b"?"), None);
        output.complete(a, Raw::Borrowed(b"timeout"), None);
        assert_eq!(output.advance(|_| true), Stop::Waiting);
        assert_eq!(written(&mut output), "a1");
        output.piece(a, Raw::Borrowed(b"a2"), true);
        assert_eq!(output.advance(|_| true), Stop::Waiting);
        assert_eq!(written(&mut output), "a2!?");
        reply(&mut output, b, "b");
        assert_eq!(written(&mut output), "bc");
        assert_eq!(output.undelivered(), 0);
    }

    #[test]
    fn a_late_second_reply_to_a_place_is_dropped() {
        let mut output = Output::new();
        let a = output.reserve(false);
        reply(&mut output, a, "timeout");
        reply(&mut output, a, "late");
        let b = output.reserve(false);
        reply(&mut output, a, "later still");
        reply(&mut output, b, "b");
        assert_eq!(written(&mut output), "timeoutb");
    }
}
