//! Delimiting the requests of clients: flat arrays of bulk strings, and inline commands.
//!
//! [`RequestScanner`] remembers how far it got, so bytes are looked at once however they arrive, and it keeps the
//! spans of the arguments in a vector that it reuses. It refuses exactly what `processMultibulkBuffer` and
//! `processInlineBuffer` of Redis 7.0.15 (networking.c) refuse, in the same words. What Redis accepts although it is
//! not canonical is handed back rewritten, because requests travel upstream as raw bytes on a connection that other
//! clients share: no client may put bytes there that a server could delimit in another way than nearhit did.

use memchr::memchr2;

use super::{
    args::{self, Args, Span},
    error::RequestError,
    header::{self, Header, work},
    inline,
};

/// Redis's `PROTO_INLINE_MAX_SIZE`: how long an inline command or a header line may be.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// How many arguments a client that has not authenticated may send, and how long each may be.
const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 * 1024;
/// A span vector that a huge request left behind is given back when the next request begins.
const SPANS_KEPT_MAX: usize = 1024;
/// What [`RequestScanner::scan_short`] takes: requests below all other limits.
const SHORT_ARGUMENTS_MAX: u8 = 9;
const SHORT_ARGUMENT_BYTES_MAX: usize = UNAUTHENTICATED_BULK_BYTES_MAX;
const SHORT_REQUEST_BYTES_MAX: usize = (SHORT_ARGUMENTS_MAX as usize + 1) * (SHORT_ARGUMENT_BYTES_MAX + 16);

/// What one request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole request with its headers, in bytes. At most 4 GiB, since spans are kept in 32 bits.
    pub request_bytes_max: usize,
    /// One argument, in bytes; the server's `proto-max-bulk-len`.
    pub bulk_bytes_max: usize,
    /// Redis takes `INT_MAX` since 7.0; 6.2 took 1,048,576 and hangs up on more.
    pub arguments_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 512 * 1024 * 1024,
            bulk_bytes_max: 512 * 1024 * 1024,
            arguments_max: i32::MAX.unsigned_abs(),
        }
    }
}

/// What [`RequestScanner::scan`] found. `len` is what the caller takes from its buffer before it scans on.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// More bytes are needed.
    Incomplete,
    /// A canonical request: its bytes may go upstream as they are. [`RequestScanner::args`] has its arguments.
    Request {
        /// Its length.
        len: usize,
    },
    /// A request that Redis accepts but that is not canonical: an inline command, or an array with something else
    /// than CRLF behind a header or a payload (Redis skips two bytes there unseen). `request` says the same
    /// canonically and takes its place; [`RequestScanner::args`] has the arguments of `request`, so it need not be
    /// scanned again.
    Rewritten {
        /// How many bytes of the input it replaces.
        len: usize,
        /// The canonical bytes.
        request: Vec<u8>,
    },
    /// Bytes that ask for nothing, and get no reply: a blank line, `*0`, `*-1`.
    Empty {
        /// Their length.
        len: usize,
    },
}

/// The two header lines of a request.
#[derive(Clone, Copy)]
enum Line {
    Count,
    Bulk,
}

impl Line {
    fn kind(self) -> u8 {
        match self {
            Self::Count => b'*',
            Self::Bulk => b'$',
        }
    }
}

/// Finds the end of each request in a client's input. One a client, reused from request to request.
#[derive(Debug)]
pub struct RequestScanner {
    limits: Limits,
    /// The limits are none for a short request.
    takes_short: bool,
    spans: Vec<Span>,
    /// Where the next header begins, or the payload that is being waited for.
    position: usize,
    /// Arguments yet to come; 0 between requests, and while the first line is incomplete.
    arguments_left: u32,
    /// The length of the payload at `position`, once its header has been read.
    payload: Option<u32>,
    /// An odd or inline line has no end before this.
    searched: usize,
    /// Whether everything so far is as nearhit itself would have written it.
    canonical: bool,
    wanted: usize,
}

impl RequestScanner {
    /// A scanner at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        let request_bytes_max = limits.request_bytes_max.min(u32::MAX as usize);
        Self {
            limits: Limits { request_bytes_max, ..limits },
            takes_short: request_bytes_max >= SHORT_REQUEST_BYTES_MAX
                && limits.bulk_bytes_max >= SHORT_ARGUMENT_BYTES_MAX
                && limits.arguments_max >= u32::from(SHORT_ARGUMENTS_MAX),
            spans: Vec::new(),
            position: 0,
            arguments_left: 0,
            payload: None,
            searched: 0,
            canonical: true,
            wanted: 0,
        }
    }

    /// Looks for the end of the request that begins `input`. After [`Scanned::Incomplete`] the next call's `input`
    /// begins with the same bytes and has more of them; after anything else it begins `len` bytes further on.
    ///
    /// `authenticated` is false where the server would answer NOAUTH, for it checks the two tighter limits as each
    /// header arrives. An error ends the connection: nothing behind it can be delimited.
    #[inline]
    pub fn scan(&mut self, input: &[u8], authenticated: bool) -> Result<Scanned, RequestError> {
        match self.scan_short(input) {
            Some(len) => Ok(Scanned::Request { len }),
            None => self.scan_any(input, authenticated),
        }
    }

    /// The short way for what nearly all requests are: canonical, whole, and so short that no limit is near. Gives
    /// the length, or leaves the request to [`RequestScanner::scan_any`].
    #[inline]
    fn scan_short(&mut self, input: &[u8]) -> Option<usize> {
        let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = *input else { return None };
        if self.arguments_left > 0 || !self.takes_short || self.spans.capacity() > SPANS_KEPT_MAX {
            return None;
        }
        self.spans.clear();
        let mut position = 4;
        for _ in b'0'..count {
            let (start, end) = header::string(input, position)?;
            if end - start > SHORT_ARGUMENT_BYTES_MAX {
                return None;
            }
            self.spans.push(Span::new(start, end - start));
            position = end + 2;
        }
        self.wanted = 0;
        Some(position)
    }

    fn scan_any(&mut self, input: &[u8], authenticated: bool) -> Result<Scanned, RequestError> {
        self.wanted = 0;
        if self.arguments_left == 0 {
            match input.first() {
                Some(b'*') => {}
                Some(_) => return self.scan_inline(input, authenticated),
                None => return Ok(Scanned::Incomplete),
            }
            let Some(count) = self.header(input, Line::Count)? else { return Ok(Scanned::Incomplete) };
            if let Some(empty) = self.begin(count, authenticated)? {
                return Ok(empty);
            }
        }
        while self.arguments_left > 0 {
            let len = match self.payload {
                Some(len) => len as usize,
                None => match self.header(input, Line::Bulk)? {
                    Some(len) => self.admit(len, authenticated)?,
                    None => return Ok(Scanned::Incomplete),
                },
            };
            let end = self.position + len;
            let Some(terminator) = input.get(end..end + 2) else {
                self.payload = Some(len as u32);
                self.wanted = (end + 2).saturating_sub(input.len());
                return Ok(Scanned::Incomplete);
            };
            self.canonical &= terminator == b"\r\n";
            self.spans.push(Span::new(self.position, len));
            self.payload = None;
            self.position = end + 2;
            self.arguments_left -= 1;
        }
        let canonical = self.canonical;
        let len = self.finish();
        if canonical { Ok(Scanned::Request { len }) } else { Ok(self.rewrite_array(input, len)) }
    }

    /// The arguments of the last [`Scanned::Request`] or [`Scanned::Rewritten`], until the next call of
    /// [`RequestScanner::scan`]; `request` is its bytes from the first one on (more may follow).
    pub fn args<'a>(&'a self, request: &'a [u8]) -> Args<'a> {
        Args::new(request, &self.spans)
    }

    /// How many bytes are missing of the argument that the last [`Scanned::Incomplete`] stopped in; 0 if not known.
    /// Good for reserving a buffer, up to a limit: it is what the client claims.
    pub fn bytes_wanted(&self) -> usize {
        self.wanted
    }

    /// Takes the array's count; an array without elements is over at once.
    fn begin(&mut self, count: i64, authenticated: bool) -> Result<Option<Scanned>, RequestError> {
        if count <= 0 {
            return Ok(Some(Scanned::Empty { len: self.finish() }));
        }
        let count = u32::try_from(count).map_err(|_| RequestError::CountInvalid)?;
        if count > self.limits.arguments_max {
            return Err(RequestError::CountInvalid);
        }
        if count as usize > UNAUTHENTICATED_ARGUMENTS_MAX && !authenticated {
            return Err(RequestError::CountUnauthenticated);
        }
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans = Vec::new();
        }
        self.spans.clear();
        self.arguments_left = count;
        Ok(None)
    }

    /// Checks the length of the payload that begins at `position`.
    #[inline]
    fn admit(&self, len: i64, authenticated: bool) -> Result<usize, RequestError> {
        let Ok(bytes) = usize::try_from(len) else { return Err(RequestError::BulkInvalid) };
        if bytes > self.limits.bulk_bytes_max {
            return Err(RequestError::BulkInvalid);
        }
        if bytes > UNAUTHENTICATED_BULK_BYTES_MAX && !authenticated {
            return Err(RequestError::BulkUnauthenticated);
        }
        if self.position.saturating_add(bytes).saturating_add(2) > self.limits.request_bytes_max {
            return Err(self.too_large());
        }
        Ok(bytes)
    }

    /// Reads the header line at `position` and steps over it; `None` if its end has not arrived. A number that
    /// does not fit is `i64::MAX`, which every limit refuses.
    #[inline]
    fn header(&mut self, input: &[u8], line: Line) -> Result<Option<i64>, RequestError> {
        let Some((kind, rest)) = input.get(self.position..).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        if *kind == line.kind() {
            match header::parse(rest) {
                Header::Length { value, len } => {
                    self.position += 1 + len;
                    return Ok(Some(i64::try_from(value).unwrap_or(i64::MAX)));
                }
                Header::Incomplete => return Ok(None),
                Header::Odd => {}
            }
        }
        self.odd_header(input, line)
    }

    /// Redis's own reading of a header line. It ends at the first CR, whatever the byte behind that is; a NUL
    /// hides the CR from `strchr`, so that such a line only grows until it is too long. A line is also too long
    /// here if its end arrives after 64 KiB; in Redis that depends on how the bytes were cut into reads.
    #[cold]
    fn odd_header(&mut self, input: &[u8], line: Line) -> Result<Option<i64>, RequestError> {
        let too_long = match line {
            Line::Count => RequestError::CountLineTooLong,
            Line::Bulk => RequestError::BulkLineTooLong,
        };
        let Some(end) = self.line_end(input, b'\r', too_long)? else { return Ok(None) };
        let Some(behind) = input.get(end + 1) else { return Ok(None) };
        let text = &input[self.position + 1..end.max(self.position + 1)];
        let number = match line {
            Line::Count => canonical_number(text).ok_or(RequestError::CountInvalid)?,
            Line::Bulk if input[self.position] != b'$' => {
                return Err(RequestError::BulkExpected(input[self.position]));
            }
            Line::Bulk => canonical_number(text).ok_or(RequestError::BulkInvalid)?,
        };
        self.canonical &= *behind == b'\n';
        self.position = end + 2;
        Ok(Some(number))
    }

    /// The index of the `end` byte of the line at `position`, without looking at any byte twice.
    fn line_end(
        &mut self,
        input: &[u8],
        end: u8,
        too_long: RequestError,
    ) -> Result<Option<usize>, RequestError> {
        let from = self.searched.max(self.position);
        let found = input.get(from..).and_then(|rest| memchr2(end, 0, rest)).map(|at| from + at);
        let searched = found.unwrap_or(input.len());
        work::add(searched.saturating_sub(from) + 1);
        self.searched = searched;
        let found = found.filter(|at| input[*at] == end);
        if found.unwrap_or(input.len()).saturating_sub(self.position) > LINE_BYTES_MAX {
            return Err(too_long);
        }
        Ok(found)
    }

    /// A request whose first byte is no `*` is a line of words. Redis takes a long one before AUTH, but what goes
    /// upstream is an array, over which it would close the lane: here the limits hold for both forms.
    #[cold]
    fn scan_inline(&mut self, input: &[u8], authenticated: bool) -> Result<Scanned, RequestError> {
        let Some(end) = self.line_end(input, b'\n', RequestError::InlineTooLong)? else {
            return Ok(Scanned::Incomplete);
        };
        // A CR in front of the newline is white space to the splitter, and needs no stripping.
        let words = inline::split(&input[..end]).ok_or(RequestError::QuotesUnbalanced)?;
        if !authenticated && words.len() > UNAUTHENTICATED_ARGUMENTS_MAX {
            return Err(RequestError::CountUnauthenticated);
        }
        if !authenticated && words.iter().any(|word| word.len() > UNAUTHENTICATED_BULK_BYTES_MAX) {
            return Err(RequestError::BulkUnauthenticated);
        }
        self.position = end + 1;
        let len = self.finish();
        if len > self.limits.request_bytes_max {
            return Err(self.too_large());
        }
        if words.is_empty() {
            return Ok(Scanned::Empty { len });
        }
        Ok(Scanned::Rewritten {
            len,
            request: args::rewrite(words.iter().map(Vec::as_slice), &mut self.spans),
        })
    }

    /// Rewrites an array that had something else than CRLF somewhere; costs a copy of it.
    #[cold]
    fn rewrite_array(&mut self, input: &[u8], len: usize) -> Scanned {
        let spans = std::mem::take(&mut self.spans);
        let request = args::rewrite(spans.iter().filter_map(|span| span.of(input)), &mut self.spans);
        Scanned::Rewritten { len, request }
    }

    /// Forgets the request that is over, except for its spans, and returns its length.
    fn finish(&mut self) -> usize {
        self.searched = 0;
        self.canonical = true;
        std::mem::take(&mut self.position)
    }

    fn too_large(&self) -> RequestError {
        RequestError::RequestTooLarge { bytes_max: self.limits.request_bytes_max }
    }
}

/// A number as Redis's `string2ll` reads it: no sign but one minus, no leading zero, nothing behind the digits.
fn canonical_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = text == b"0" || matches!(digits.first(), Some(b'1'..=b'9'));
    if !canonical || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner() -> RequestScanner {
        RequestScanner::new(Limits::default())
    }

    /// Scans one request that is there as a whole: its canonical bytes, its arguments, its length in the input.
    fn whole(input: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>, usize) {
        let mut scanner = scanner();
        let (request, len) = match scanner.scan(input, true).unwrap() {
            Scanned::Request { len } => (input[..len].to_vec(), len),
            Scanned::Rewritten { len, request } => (request, len),
            other => panic!("{other:?}"),
        };
        let arguments = scanner.args(&request).iter().map(<[u8]>::to_vec).collect();
        (request, arguments, len)
    }

    fn error(input: &[u8]) -> RequestError {
        scanner().scan(input, true).unwrap_err()
    }

    #[test]
    fn a_pipeline_is_scanned_request_by_request() {
        let input = b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4";
        let mut scanner = scanner();
        assert_eq!(scanner.scan(input, true), Ok(Scanned::Request { len: 24 }));
        assert_eq!(scanner.args(input).iter().collect::<Vec<_>>(), [&b"GET"[..], b"key:1"]);
        assert_eq!(scanner.scan(&input[24..], true), Ok(Scanned::Request { len: 14 }));
        assert_eq!(scanner.args(&input[24..]).iter().collect::<Vec<_>>(), [b"PING"]);
        assert_eq!(scanner.scan(&input[38..], true), Ok(Scanned::Incomplete));
    }

    #[test]
    fn odd_line_ends_are_accepted_and_rewritten() {
        let canonical = b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n";
        for odd in [
            &b"*2\rx$4\r\nECHO\r\n$2\r\nhi\r\n"[..],
            b"*2\r\n$4\rxECHO\r\n$2\r\nhi\r\n",
            b"*2\r\n$4\r\nECHO\r\n$2\r\nhi\rx",
            b"*2\r\n$4\r\nECHOx\n$2\r\nhi\r\n",
            b"*2\r\n$4\r\0ECHOxy$2\r\rhi\n\n",
        ] {
            let (request, arguments, len) = whole(odd);
            assert_eq!((request, len), (canonical.to_vec(), odd.len()), "{odd:?}");
            assert_eq!(arguments, [b"ECHO".to_vec(), b"hi".to_vec()]);
        }
        // What was odd before says nothing about the next request.
        let mut scanner = scanner();
        assert!(matches!(scanner.scan(b"*1\rx$4\r\nPING\r\n", true), Ok(Scanned::Rewritten { len: 14, .. })));
        assert_eq!(scanner.scan(b"*1\r\n$4\r\nPING\r\n", true), Ok(Scanned::Request { len: 14 }));
        assert_eq!(scanner.scan(b"*0\rx*1", true), Ok(Scanned::Empty { len: 4 }));
        assert_eq!(scanner.scan(b"*1\r\n$4\r\nPING\r\n", true), Ok(Scanned::Request { len: 14 }));
    }

    #[test]
    fn inline_commands_are_rewritten() {
        let (request, arguments, len) = whole(b"SET k \"a b\"\r\nPING\r\n");
        assert_eq!(request, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na b\r\n");
        assert_eq!((arguments.len(), len), (3, 13));
        assert_eq!(whole(b"PING\n").2, 5);
    }

    #[test]
    fn inline_commands_obey_the_limits_before_authentication() {
        let scan = |line: &str, authenticated| scanner().scan(line.as_bytes(), authenticated);
        let (ten, eleven) = ("a b c d e f g h i j\r\n", "a b c d e f g h i j k\r\n");
        assert!(matches!(scan(ten, false), Ok(Scanned::Rewritten { .. })));
        assert!(matches!(scan(eleven, true), Ok(Scanned::Rewritten { .. })));
        assert_eq!(scan(eleven, false), Err(RequestError::CountUnauthenticated));
        let long = format!("ECHO {}\n", "x".repeat(UNAUTHENTICATED_BULK_BYTES_MAX + 1));
        assert!(matches!(scan(&long, true), Ok(Scanned::Rewritten { .. })));
        assert!(matches!(scan(&long.replace("xx\n", "x\n"), false), Ok(Scanned::Rewritten { .. })));
        assert_eq!(scan(&long, false), Err(RequestError::BulkUnauthenticated));
    }

    #[test]
    fn what_asks_for_nothing_is_empty() {
        for (input, len) in [
            (&b"*0\r\nx"[..], 4),
            (b"*-1\r\n", 5),
            (b"*-99\r\n", 6),
            (b"\r\n\r\n", 2),
            (b"\n", 1),
            (b" \t \r\n", 5),
            (b"\r\r\n", 3),
        ] {
            assert_eq!(scanner().scan(input, true), Ok(Scanned::Empty { len }), "{input:?}");
        }
    }

    #[test]
    fn a_nul_hides_the_end_of_its_line() {
        for (line, too_long) in [
            (&b"*1\0\r\n$4\r\nPING\r\n"[..], RequestError::CountLineTooLong),
            (b"*1\r\n$4\0\r\nPING\r\n", RequestError::BulkLineTooLong),
            (b"PING\0\r\n", RequestError::InlineTooLong),
        ] {
            let mut scanner = scanner();
            let mut input = line.to_vec();
            assert_eq!(scanner.scan(&input, true), Ok(Scanned::Incomplete));
            input.resize(LINE_BYTES_MAX + 8, b'\n');
            assert_eq!(scanner.scan(&input, true), Err(too_long));
        }
    }

    #[test]
    fn limits_are_refused_as_soon_as_the_header_is_there() {
        let mut limits = Limits { request_bytes_max: 100, bulk_bytes_max: 60, arguments_max: 3 };
        let scan = |limits: Limits, input: &[u8], authenticated| {
            RequestScanner::new(limits).scan(input, authenticated)
        };
        assert_eq!(scan(limits, b"*4\r\n", true), Err(RequestError::CountInvalid));
        assert_eq!(scan(limits, b"*1\r\n$61\r\n", true), Err(RequestError::BulkInvalid));
        assert_eq!(scan(limits, b"*1\r\n$60\r\n", true), Ok(Scanned::Incomplete));
        limits.bulk_bytes_max = usize::MAX;
        let too_large = RequestError::RequestTooLarge { bytes_max: 100 };
        assert_eq!(scan(limits, b"*1\r\n$90\r\n", true), Err(too_large));
        assert_eq!(scan(limits, b"*1\r\n$89\r\n", true), Ok(Scanned::Incomplete));
        assert_eq!(scan(limits, b"*1\r\n$9223372036854775807\r\n", true), Err(too_large));
        assert_eq!(scan(limits, format!("{}\n", "x".repeat(100)).as_bytes(), true), Err(too_large));

        let defaults = Limits::default();
        assert_eq!(scan(defaults, b"*11\r\n", false), Err(RequestError::CountUnauthenticated));
        assert_eq!(scan(defaults, b"*10\r\n$16384\r\n", false), Ok(Scanned::Incomplete));
        assert_eq!(scan(defaults, b"*10\r\n$16385\r\n", false), Err(RequestError::BulkUnauthenticated));
        assert_eq!(scan(defaults, b"*2147483647\r\n", true), Ok(Scanned::Incomplete));
        assert_eq!(scan(defaults, b"*2147483648\r\n", true), Err(RequestError::CountInvalid));
        assert_eq!(scan(defaults, b"*1\r\n$536870913\r\n", true), Err(RequestError::BulkInvalid));
        assert_eq!(
            RequestError::RequestTooLarge { bytes_max: 100 }.to_string(),
            "Protocol error: request is larger than 100 bytes"
        );
    }

    #[test]
    fn an_unexpected_byte_is_quoted_faithfully() {
        for (byte, quoted) in
            [(b'+', &b"+"[..]), (b'\n', b" "), (0x7f, b"\x7f"), (0x80, b"\x80"), (0xff, b"\xff")]
        {
            let mut reply = Vec::new();
            error(&[b"*1\r\n", &[byte][..], b"4\r\nPING\r\n"].concat()).encode(&mut reply);
            assert_eq!(reply, [b"-ERR Protocol error: expected '$', got '", quoted, b"'\r\n"].concat());
        }
        let mut reply = Vec::new();
        error(b"*1\r\n\r4\r\n").encode(&mut reply);
        assert_eq!(reply, b"-ERR Protocol error: expected '$', got ' '\r\n");
    }

    #[test]
    fn a_big_argument_says_how_much_is_missing() {
        let mut scanner = scanner();
        assert_eq!(scanner.scan(b"*2\r\n$3\r\nSET\r\n$100", true), Ok(Scanned::Incomplete));
        assert_eq!(scanner.bytes_wanted(), 0);
        assert_eq!(scanner.scan(b"*2\r\n$3\r\nSET\r\n$100\r\n0123456789", true), Ok(Scanned::Incomplete));
        assert_eq!(scanner.bytes_wanted(), 92);
    }

    #[test]
    fn single_byte_segments_cost_linear_work() {
        let big =
            [&b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1000000\r\n"[..], &b"x".repeat(1_000_000), b"\r\n"].concat();
        let many = [&b"*100000\r\n"[..], &b"$3\r\nabc\r\n".repeat(100_000)].concat();
        let line = [&b"x".repeat(LINE_BYTES_MAX)[..], b"\n"].concat();
        let header = [b"*", &b"x".repeat(LINE_BYTES_MAX - 1)[..], b"\r\n"].concat();
        for (name, input) in [("big", big), ("many", many), ("line", line), ("header", header)] {
            let mut scanner = scanner();
            let mut ended = 0;
            let work = work::during(|| {
                ended = (1..=input.len())
                    .find(|end| scanner.scan(&input[..*end], true) != Ok(Scanned::Incomplete))
                    .unwrap();
            });
            assert_eq!(ended, input.len(), "{name}");
            // A header is read again when more of it arrives, and every call may look at one byte in vain.
            assert!(work < input.len() * 6, "{name}: {work} bytes looked at for {}", input.len());
        }
    }

    #[test]
    fn spans_of_a_huge_request_are_given_back() {
        let huge = [&b"*100000\r\n"[..], &b"$0\r\n\r\n".repeat(100_000)].concat();
        let mut scanner = scanner();
        assert_eq!(scanner.scan(&huge, true), Ok(Scanned::Request { len: huge.len() }));
        assert_eq!(scanner.args(&huge).len(), 100_000);
        assert_eq!(scanner.scan(b"*1\r\n$4\r\nPING\r\n", true), Ok(Scanned::Request { len: 14 }));
        assert!(scanner.spans.capacity() <= SPANS_KEPT_MAX);
    }
}
