//! Bytes on their way out of a socket.
//!
//! Replies and requests are mostly small, and are gathered in one buffer so that a batch costs one `write`.
//! A frame over [`SHARED_BYTES_MIN`] is kept as it came, by reference count, instead of being copied, and goes
//! out in the same vectored write. The buffer does no I/O of its own.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

/// From this size on a frame is passed on by reference count instead of being copied.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

/// A buffer that has grown past this is given back to the allocator once it has been written out.
const TAIL_BYTES_KEPT: usize = 64 * 1024;
/// How many such tails a worker keeps for whoever has something to write next.
const SPARES_MAX: usize = 64;

/// A whole frame as it came off a socket, borrowed from the read buffer or, when large, shared with it.
#[derive(Clone, Debug)]
pub enum Raw<'a> {
    /// A small frame, valid until the read buffer is used again.
    Borrowed(&'a [u8]),
    /// A large frame, held by reference count.
    Shared(Bytes),
}

impl std::ops::Deref for Raw<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Raw<'_> {
    /// The frame as bytes of its own; copies a small one.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Raw<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl From<Bytes> for Raw<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Shared(bytes)
    }
}

/// Bytes to be written, in order: first the chunks, then the gathered tail.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    chunks: VecDeque<Chunk>,
    tail: Vec<u8>,
    /// How much of the front (the first chunk, or the tail where there is none) has been written.
    written: usize,
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// Else it is a tail that frames were gathered in.
    is_frame: bool,
}

impl OutputBuffer {
    /// Bytes that wait to be written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a frame, copying it only when it is small.
    pub fn push(&mut self, raw: Raw<'_>) {
        match raw {
            Raw::Borrowed(bytes) => self.extend(bytes),
            Raw::Shared(bytes) => self.push_shared(bytes),
        }
    }

    /// Appends a copy of `bytes`.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends whatever `write` adds to the vector it is given; it must only add.
    #[inline]
    pub fn extend_with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.tail.len();
        let result = write(&mut self.tail);
        self.len += self.tail.len() - before;
        result
    }

    /// Appends `bytes` by reference, or by copy when that is cheaper.
    pub fn push_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.extend(&bytes);
        }
        self.seal_tail();
        self.len += bytes.len();
        self.chunks.push_back(Chunk { bytes, is_frame: true });
    }

    /// The bytes to write next, as slices for a vectored write; returns how many slices were set.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.chunks.iter().map(|chunk| &chunk.bytes[..]).chain([&self.tail[..]]);
        let mut count = 0;
        for (index, part) in parts.take(slices.len()).enumerate() {
            let part = if index == 0 { &part[self.written..] } else { part };
            if !part.is_empty() {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
        }
        count
    }

    /// The bytes to write, if they lie in one piece: the common case, which needs no vectored write.
    #[inline]
    pub fn contiguous(&self) -> Option<&[u8]> {
        self.chunks.is_empty().then(|| &self.tail[self.written..])
    }

    /// How much is left of a large frame that is being written. What is gathered of small ones does not count.
    pub fn front_len(&self) -> usize {
        let frame = self.chunks.front().filter(|chunk| chunk.is_frame);
        frame.map_or(0, |chunk| chunk.bytes.len() - self.written)
    }

    /// Takes off what has been written.
    pub fn advance(&mut self, mut written: usize) {
        debug_assert!(written <= self.len, "more was written than there was");
        self.len -= written;
        while let Some(chunk) = self.chunks.front() {
            let left = chunk.bytes.len() - self.written;
            if written < left {
                self.written += written;
                return;
            }
            written -= left;
            self.written = 0;
            self.chunks.pop_front();
        }
        self.written += written;
        if self.written == self.tail.len() {
            self.written = 0;
            self.tail.clear();
            if self.tail.capacity() > TAIL_BYTES_KEPT {
                self.tail = Vec::new();
            }
        }
    }

    /// Lends the buffer an empty vector's memory, if it has none of its own and there is one.
    #[inline]
    pub fn lend(&mut self, spares: &mut Vec<Vec<u8>>) {
        if self.tail.capacity() == 0 {
            self.tail = spares.pop().unwrap_or_default();
        }
    }

    /// Gives memory back once everything is written, so that an idle client holds none.
    pub fn give_back(&mut self, spares: &mut Vec<Vec<u8>>) {
        if self.len > 0 || self.tail.capacity() == 0 {
            return;
        }
        let tail = std::mem::take(&mut self.tail);
        if spares.len() < SPARES_MAX {
            spares.push(tail);
        }
    }

    /// Makes the tail a chunk, so that another chunk can follow it.
    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        // What was already written of a lone tail stays counted in `written`, which then refers to this chunk.
        self.chunks.push_back(Chunk { bytes: std::mem::take(&mut self.tail).into(), is_frame: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(buffer: &mut OutputBuffer, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !buffer.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = buffer.slices(&mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let take = step.min(all.len());
            out.extend_from_slice(&all[..take]);
            buffer.advance(take);
        }
        out
    }

    #[test]
    fn small_and_large_frames_keep_their_order_whatever_the_write_sizes() {
        for step in [7, 1000, 16_384, 100_000] {
            let mut buffer = OutputBuffer::default();
            let mut expected = Vec::new();
            for round in 0..5u8 {
                let large = Bytes::from(vec![round; SHARED_BYTES_MIN + usize::from(round)]);
                buffer.extend(&[round; 3]);
                buffer.push_shared(large.clone());
                buffer.extend(&[100 + round; 5]);
                expected.extend_from_slice(&[round; 3]);
                expected.extend_from_slice(&large);
                expected.extend_from_slice(&[100 + round; 5]);
            }
            assert_eq!(buffer.len(), expected.len());
            assert!(drain(&mut buffer, step) == expected, "step {step}");
        }
    }

    #[test]
    fn a_partly_written_tail_that_becomes_a_chunk_is_not_written_twice() {
        let mut buffer = OutputBuffer::default();
        buffer.extend(b"abcdef");
        buffer.advance(2);
        buffer.push_shared(Bytes::from(vec![b'x'; SHARED_BYTES_MIN]));
        let out = drain(&mut buffer, 3);
        assert!(out.starts_with(b"cdefxxx"));
        assert_eq!(out.len(), 4 + SHARED_BYTES_MIN);
    }

    #[test]
    fn only_a_large_frame_counts_as_one_that_is_being_written() {
        let mut buffer = OutputBuffer::default();
        buffer.extend(b"abc");
        buffer.push_shared(Bytes::from(vec![b'y'; 2 * SHARED_BYTES_MIN]));
        buffer.advance(1);
        assert_eq!(buffer.front_len(), 0, "small ones were gathered");
        buffer.advance(3);
        assert_eq!(buffer.front_len(), 2 * SHARED_BYTES_MIN - 1);
    }

    #[test]
    fn an_empty_buffer_gives_its_memory_back() {
        let mut spares = vec![Vec::with_capacity(100)];
        let mut buffer = OutputBuffer::default();
        buffer.lend(&mut spares);
        assert!(spares.is_empty());
        buffer.extend(b"x");
        buffer.give_back(&mut spares);
        assert!(spares.is_empty(), "not while bytes wait");
        buffer.advance(1);
        buffer.give_back(&mut spares);
        assert_eq!(spares.iter().map(Vec::capacity).collect::<Vec<_>>(), [100]);
        buffer.give_back(&mut spares);
        assert_eq!(spares.len(), 1, "there is nothing to give");
    }
}
