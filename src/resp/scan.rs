//! Delimiting what a server sends: replies and pushes, in both protocols.
//!
//! [`ReplyScanner`] finds where the next frame ends. It keeps a counter of the elements still owed rather than a
//! stack, since the end of a frame needs no more than that: memory is constant and a million nested arrays are a
//! million steps of a loop. It reads each byte once however it arrives, checks the framing (so that a stream out of
//! step is noticed) and leaves contents alone. Streamed types (`$?`) are refused: no Redis sends them.

use memchr::memchr;

use super::header::{self, Header, work};

/// No slice can be longer, so that no frame can arrive that is.
const ADDRESSABLE: usize = isize::MAX as usize;

/// What stands between two frames of a server's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The answer to a request.
    Reply,
    /// News without a request, `>` at the top level. Inside another frame a push is an element like any other.
    Push,
}

/// A frame that has arrived whole. An attribute belongs to the frame of the value that it precedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes, counted from the start of the input.
    pub len: usize,
    /// Reply or push.
    pub kind: FrameKind,
}

/// The server does not speak RESP, or the stream is out of step: the connection is of no more use, and whatever
/// was asked on it has no known outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// A frame begins with this byte, which is no type.
    #[error("a frame begins with {:?}, which is no RESP type", char::from(*.0))]
    UnknownType(u8),
    /// A length or count that is no decimal number, or negative where nothing may be.
    #[error("the length of a RESP frame is not a number")]
    InvalidLength,
    /// Lengths or counts that add up to more than can be addressed.
    #[error("the length of a RESP frame is beyond all bounds")]
    LengthOverflow,
    /// A payload that CRLF does not follow.
    #[error("a RESP string does not end where its length says")]
    UnterminatedPayload,
    /// A streamed string or aggregate (`$?`), of RESP3's draft, which no server sends.
    #[error("streamed RESP3 types are not supported")]
    Streamed,
}

/// Finds the end of each frame in a server's stream. One a connection.
#[derive(Debug)]
pub struct ReplyScanner {
    /// Where the next element begins; behind the payload, and so maybe ahead of the input, if one is awaited.
    position: usize,
    /// Elements still owed: at first the frame itself.
    owed: u64,
    /// The payload that ends at `position` has not arrived whole.
    in_payload: bool,
    /// The line at `position` has no end before this.
    searched: usize,
    kind: Option<FrameKind>,
    /// The length of the last input.
    seen: usize,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyScanner {
    /// A scanner at the start of a frame.
    pub const fn new() -> Self {
        Self { position: 0, owed: 1, in_payload: false, searched: 0, kind: None, seen: 0 }
    }

    /// Looks for the end of the frame that begins `input`; `None` if it has not arrived. Then the next call's
    /// `input` begins with the same bytes and has more of them (but see [`ReplyScanner::forget`]); after a frame
    /// it begins behind that.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<Frame>, ScanError> {
        // The short way for what most replies are: one string, and all of it there.
        if self.position == 0
            && self.owed == 1
            && self.kind.is_none()
            && let Some((_, end)) = header::string(input, 0)
        {
            *self = Self::new();
            return Ok(Some(Frame { len: end + 2, kind: FrameKind::Reply }));
        }
        self.scan_any(input)
    }

    fn scan_any(&mut self, input: &[u8]) -> Result<Option<Frame>, ScanError> {
        self.seen = input.len();
        while self.owed > 0 {
            if !self.in_payload && !self.element(input)? {
                return Ok(None);
            }
            if self.in_payload {
                let Some(terminator) = input.get(self.position - 2..self.position) else { return Ok(None) };
                if terminator != b"\r\n" {
                    return Err(ScanError::UnterminatedPayload);
                }
                self.in_payload = false;
                self.owed -= 1;
            }
        }
        let frame = Frame { len: self.position, kind: self.kind.unwrap_or(FrameKind::Reply) };
        *self = Self::new();
        Ok(Some(frame))
    }

    /// How many bytes are missing of the string that the last call stopped in; 0 if it stopped elsewhere. It is what
    /// the server claims: reserve it up to a limit.
    pub fn bytes_wanted(&self) -> usize {
        self.position.saturating_sub(self.seen)
    }

    /// How many bytes at the start of the last input belong to the unfinished frame and will not be looked at
    /// again; 0 after a finished one.
    pub fn scanned(&self) -> usize {
        let settled = if self.in_payload { self.position - 2 } else { self.position };
        settled.min(self.seen)
    }

    /// Takes notice that the caller has taken `bytes` of the [scanned](Self::scanned) bytes off the front of its
    /// buffer, as it does to pass a large reply on while it arrives. [`Frame::len`] then counts what is left.
    pub fn forget(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.scanned(), "bytes are forgotten before they were scanned");
        let bytes = bytes.min(self.scanned());
        self.position -= bytes;
        self.searched = self.searched.saturating_sub(bytes);
        self.seen -= bytes;
    }

    /// Steps over one element: a line, or the header of a string or an aggregate. False if it is incomplete.
    #[inline]
    fn element(&mut self, input: &[u8]) -> Result<bool, ScanError> {
        let Some((&kind, rest)) = input.get(self.position..).and_then(<[u8]>::split_first) else {
            return Ok(false);
        };
        // While an attribute's elements are owed the value behind them is owed as well, so the count is over 1:
        // the first value that is met at a count of 1 is the frame itself.
        if self.owed == 1 && self.kind.is_none() && kind != b'|' {
            self.kind = Some(if kind == b'>' { FrameKind::Push } else { FrameKind::Reply });
        }
        match kind {
            b'$' | b'=' | b'!' => self.string(kind, rest),
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Ok(self.line(input)),
            b'*' | b'~' | b'>' => self.aggregate(kind, rest, 1, 0),
            b'%' => self.aggregate(kind, rest, 2, 0),
            b'|' => self.aggregate(kind, rest, 2, 1),
            other => Err(ScanError::UnknownType(other)),
        }
    }

    /// A string's header; its payload is then awaited.
    #[inline]
    fn string(&mut self, kind: u8, rest: &[u8]) -> Result<bool, ScanError> {
        match header::parse(rest) {
            Header::Length { value, len } => {
                let payload = self.position + 1 + len;
                let end =
                    usize::try_from(value).ok().and_then(|value| payload.checked_add(value)?.checked_add(2));
                self.position = end.filter(|end| *end <= ADDRESSABLE).ok_or(ScanError::LengthOverflow)?;
                self.in_payload = true;
                Ok(true)
            }
            Header::Incomplete => Ok(false),
            Header::Odd => self.null(kind, rest),
        }
    }

    /// An aggregate's header. It makes `count * each + more` elements owed in place of itself.
    #[inline]
    fn aggregate(&mut self, kind: u8, rest: &[u8], each: u64, more: u64) -> Result<bool, ScanError> {
        match header::parse(rest) {
            Header::Length { value, len } => {
                let elements = value.checked_mul(each).and_then(|elements| elements.checked_add(more));
                let owed = elements.and_then(|elements| (self.owed - 1).checked_add(elements));
                self.owed = owed.ok_or(ScanError::LengthOverflow)?;
                self.position += 1 + len;
                Ok(true)
            }
            Header::Incomplete => Ok(false),
            Header::Odd => self.null(kind, rest),
        }
    }

    /// RESP2's nulls, `$-1` and `*-1`, which a RESP3 stream may hold as well (a FLUSHALL's invalidation does).
    #[cold]
    fn null(&mut self, kind: u8, rest: &[u8]) -> Result<bool, ScanError> {
        const NULL: &[u8] = b"-1\r\n";
        if rest.first() == Some(&b'?') {
            return Err(ScanError::Streamed);
        }
        let arrived = rest.len().min(NULL.len());
        if !matches!(kind, b'$' | b'*') || rest[..arrived] != NULL[..arrived] {
            return Err(ScanError::InvalidLength);
        }
        if arrived < NULL.len() {
            return Ok(false);
        }
        self.position += 1 + NULL.len();
        self.owed -= 1;
        Ok(true)
    }

    /// A line, which ends with the first CRLF; a CR or LF by itself is part of it, as client libraries have it.
    #[inline]
    fn line(&mut self, input: &[u8]) -> bool {
        let mut from = self.searched.max(self.position + 1);
        while let Some(at) = input.get(from..).and_then(|rest| memchr(b'\n', rest)) {
            work::add(at + 1);
            from += at + 1;
            if input[from - 2] == b'\r' {
                self.position = from;
                self.owed -= 1;
                return true;
            }
        }
        work::add(input.len().saturating_sub(from) + 1);
        self.searched = input.len();
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(input: &str) -> Result<Option<Frame>, ScanError> {
        ReplyScanner::new().scan(input.as_bytes())
    }

    #[test]
    fn every_type_has_its_length() {
        for frame in [
            "+OK\r\n",
            "+\r\n",
            "+a\rb\nc\r\r\n",
            "-ERR no\r\n",
            ":-5\r\n",
            "$5\r\nhello\r\n",
            "$2\r\n\r\n\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(12345678901234567890\r\n",
            "!5\r\nERR x\r\n",
            "=5\r\ntxt:a\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n",
            "~2\r\n:1\r\n:2\r\n",
            "*2\r\n$-1\r\n*-1\r\n",
            "*1\r\n>1\r\n+x\r\n",
            "|1\r\n+ttl\r\n:5\r\n$1\r\nv\r\n",
            "*2\r\n|1\r\n+ttl\r\n*2\r\n:5\r\n:6\r\n:1\r\n:2\r\n",
            "|1\r\n|1\r\n+a\r\n+b\r\n+k\r\n+v\r\n|0\r\n*1\r\n:1\r\n",
        ] {
            let reply = Frame { len: frame.len(), kind: FrameKind::Reply };
            assert_eq!(scan(frame), Ok(Some(reply)), "{frame:?}");
            assert_eq!(scan(&format!("{frame}:1\r\n")), Ok(Some(reply)), "{frame:?} and more");
            for end in 0..frame.len() {
                assert_eq!(scan(&frame[..end]), Ok(None), "{:?}", &frame[..end]);
            }
        }
    }

    #[test]
    fn pushes_are_told_from_replies_at_the_top_level_only() {
        let kind = |frame: &str| scan(frame).unwrap().unwrap().kind;
        assert_eq!(kind(">2\r\n+invalidate\r\n*1\r\n+k\r\n"), FrameKind::Push);
        assert_eq!(kind(">0\r\n"), FrameKind::Push);
        assert_eq!(kind("|1\r\n+a\r\n*1\r\n:1\r\n>1\r\n+x\r\n"), FrameKind::Push);
        assert_eq!(kind("|1\r\n>1\r\n+a\r\n+b\r\n:1\r\n"), FrameKind::Reply);
        assert_eq!(kind("*1\r\n>1\r\n+x\r\n"), FrameKind::Reply);
        let mut scanner = ReplyScanner::new();
        assert_eq!(scanner.scan(b">1\r\n+x\r\n").unwrap().unwrap().kind, FrameKind::Push);
        assert_eq!(scanner.scan(b":1\r\n").unwrap().unwrap().kind, FrameKind::Reply);
    }

    #[test]
    fn broken_streams_are_errors() {
        use ScanError::{InvalidLength, LengthOverflow, Streamed, UnknownType, UnterminatedPayload};
        for (input, error) in [
            ("hello\r\n", UnknownType(b'h')),
            ("\r\n", UnknownType(b'\r')),
            ("*1\r\n;4\r\n", UnknownType(b';')),
            ("$5\r\nhelloxx", UnterminatedPayload),
            ("$1\r\na\n\n", UnterminatedPayload),
            ("$?\r\n", Streamed),
            ("*?", Streamed),
            ("$-2\r\n", InvalidLength),
            ("$-1x", InvalidLength),
            ("%-1\r\n", InvalidLength),
            ("=-1\r\n", InvalidLength),
            (">-", InvalidLength),
            ("$\r\n", InvalidLength),
            ("*01\r\n", InvalidLength),
            ("*12345678901234567890\r\n", InvalidLength),
            ("$9223372036854775807\r\n", LengthOverflow),
            ("!9999999999999999999\r\n", LengthOverflow),
            ("%9999999999999999999\r\n", LengthOverflow),
            ("|9223372036854775808\r\n", LengthOverflow),
            ("*9999999999999999999\r\n*9999999999999999999\r\n", LengthOverflow),
        ] {
            assert_eq!(scan(input), Err(error), "{input:?}");
        }
        assert_eq!(scan("*1\r\n$18446744073709551615\r\n"), Err(InvalidLength));
    }

    #[test]
    fn a_million_levels_take_a_million_steps() {
        for opening in ["*1\r\n", "%1\r\n+k\r\n", "~1\r\n", "|1\r\n+k\r\n"] {
            let mut input = opening.repeat(1_000_000);
            input.push_str(":1\r\n");
            if opening.starts_with('|') {
                // The value of each attribute, innermost first.
                input.push_str(&":1\r\n".repeat(1_000_000));
            }
            let work = work::during(|| {
                let reply = Frame { len: input.len(), kind: FrameKind::Reply };
                assert_eq!(scan(&input), Ok(Some(reply)), "{opening:?}");
            });
            assert!(work < input.len() * 2, "{opening:?}: {work}");
        }
    }

    #[test]
    fn single_byte_segments_cost_linear_work() {
        let bulk = format!("$1000000\r\n{}\r\n", "x".repeat(1_000_000));
        let line = format!("+{}\r\n", "x\n\r".repeat(100_000));
        let array = format!("*100000\r\n{}", "$3\r\nabc\r\n".repeat(100_000));
        for input in [bulk, line, array] {
            let mut scanner = ReplyScanner::new();
            let work = work::during(|| {
                for end in 1..input.len() {
                    assert_eq!(scanner.scan(&input.as_bytes()[..end]), Ok(None));
                }
                assert_eq!(scanner.scan(input.as_bytes()).unwrap().map(|frame| frame.len), Some(input.len()));
            });
            assert!(work < input.len() * 6, "{:?}: {work} bytes for {}", &input[..8], input.len());
        }
    }

    #[test]
    fn a_large_reply_can_be_passed_on_while_it_arrives() {
        let reply = "*3\r\n$20\r\n01234567890123456789\r\n+a line\r\n*2\r\n$3\r\nabc\r\n:5\r\n";
        for step in 1..reply.len() {
            let mut scanner = ReplyScanner::new();
            let mut buffer = Vec::new();
            let mut passed = Vec::new();
            let mut frame = None;
            for segment in reply.as_bytes().chunks(step) {
                assert_eq!(frame, None);
                buffer.extend_from_slice(segment);
                frame = scanner.scan(&buffer).unwrap();
                let taken = frame.map_or(scanner.scanned(), |frame| frame.len);
                passed.extend(buffer.drain(..taken));
                if frame.is_none() {
                    scanner.forget(taken);
                }
            }
            assert_eq!(
                (frame.is_some(), passed.as_slice(), buffer.len()),
                (true, reply.as_bytes(), 0),
                "{step}"
            );
        }
    }

    #[test]
    fn a_string_says_how_much_is_missing() {
        let mut scanner = ReplyScanner::new();
        assert_eq!(scanner.scan(b"*2\r\n$10"), Ok(None));
        assert_eq!((scanner.bytes_wanted(), scanner.scanned()), (0, 4));
        assert_eq!(scanner.scan(b"*2\r\n$100\r\nabc"), Ok(None));
        assert_eq!((scanner.bytes_wanted(), scanner.scanned()), (99, 13));
        scanner.forget(13);
        assert_eq!((scanner.bytes_wanted(), scanner.scanned()), (99, 0));
    }
}
