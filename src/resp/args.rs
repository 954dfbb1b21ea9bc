//! The arguments of a request, as spans into its bytes, and the writing of requests.
//!
//! A request is never taken apart into owned strings: its bytes go upstream as they came, and what classifying and
//! caching need to see of it are slices. The canonical form, an array of bulk strings with CRLF everywhere, is
//! written here and nowhere else.

use std::ops::{Index, Range};

use super::header;

/// Where an argument lies in its request, whose length is limited to what 32 bits can say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    #[inline]
    pub(super) fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, end: (start + len) as u32 }
    }

    #[inline]
    pub(super) fn of(self, request: &[u8]) -> Option<&[u8]> {
        request.get(self.start as usize..self.end as usize)
    }
}

/// The arguments of one request, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    request: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(super) fn new(request: &'a [u8], spans: &'a [Span]) -> Self {
        Self { request, spans }
    }

    /// How many there are, at least 1.
    #[allow(clippy::len_without_is_empty)] // a request has a name at least: an empty array never gets here
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// One of them.
    pub fn get(self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index)?.of(self.request)
    }

    /// Where one of them lies in the request; empty past the last.
    pub fn span(self, index: usize) -> Range<usize> {
        self.spans.get(index).map_or(0..0, |span| span.start as usize..span.end as usize)
    }

    /// Where a part of the request, as another of these functions gave it, lies in the request.
    pub fn span_of(self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr().addr().wrapping_sub(self.request.as_ptr().addr());
        if part.is_empty() { 0..0 } else { start..start + part.len() }
    }

    /// All of them in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone {
        self.spans.iter().map(move |span| span.of(self.request).unwrap_or_default())
    }

    /// The request's bytes from the `$` of argument `index` to its end; empty from `len()` on. Behind another
    /// header and name they make another command of the same arguments, without a copy of each.
    pub fn tail_from(self, index: usize) -> &'a [u8] {
        let (Some(first), Some(last)) = (self.spans.get(index), self.spans.last()) else { return &[] };
        let start = first.start as usize - header::len_of((first.end - first.start) as usize);
        self.request.get(start..last.end as usize + 2).unwrap_or_default()
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    /// Panics beyond the last argument, as a slice does.
    fn index(&self, index: usize) -> &[u8] {
        self.spans[index].of(self.request).unwrap_or_default()
    }
}

/// Appends a canonical request.
pub fn encode_request(arguments: impl IntoIterator<Item = impl AsRef<[u8]>>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut count = 0;
    for argument in arguments {
        push_argument(out, argument.as_ref());
        count += 1;
    }
    // The count is known last. Moving the body up costs less than asking every caller for an exact size.
    let mut count_line = Vec::with_capacity(header::len_of(count));
    header::push(&mut count_line, b'*', count);
    out.splice(start..start, count_line);
}

/// The canonical request of `arguments`, whose spans in it replace those in `spans`.
pub(super) fn rewrite<'a>(
    arguments: impl Iterator<Item = &'a [u8]> + Clone,
    spans: &mut Vec<Span>,
) -> Vec<u8> {
    let mut request = Vec::new();
    spans.clear();
    header::push(&mut request, b'*', arguments.clone().count());
    for argument in arguments {
        let start = request.len() + header::len_of(argument.len());
        push_argument(&mut request, argument);
        spans.push(Span::new(start, argument.len()));
    }
    request
}

fn push_argument(out: &mut Vec<u8>, argument: &[u8]) {
    header::push(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(arguments: &[&str]) -> (Vec<u8>, Vec<Span>) {
        let mut spans = Vec::new();
        let request = rewrite(arguments.iter().map(|argument| argument.as_bytes()), &mut spans);
        (request, spans)
    }

    #[test]
    fn both_writers_write_the_same_request() {
        let long = "x".repeat(1000);
        for arguments in
            [&["PING"][..], &["SET", "key", "a\r\nb"], &["ECHO", ""], &["MSET", "k", &long, "l", "0"]]
        {
            let mut out = b"before".to_vec();
            encode_request(arguments, &mut out);
            let (request, spans) = written(arguments);
            assert_eq!(out, [b"before", &request[..]].concat());
            let args = Args::new(&request, &spans);
            assert_eq!(
                args.iter().collect::<Vec<_>>(),
                arguments.iter().map(|a| a.as_bytes()).collect::<Vec<_>>()
            );
        }
        assert_eq!(written(&["GET", "key:1"]).0, b"*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n");
    }

    #[test]
    fn arguments_are_had_by_index_and_as_a_raw_tail() {
        let (request, spans) = written(&["MGET", "", "0123456789", "b"]);
        let buffer = [&request[..], b"*1\r\n$4\r\nPING\r\n"].concat();
        let args = Args::new(&buffer, &spans);
        assert_eq!((args.len(), &args[0], &args[2]), (4, &b"MGET"[..], &b"0123456789"[..]));
        assert_eq!((args.get(3), args.get(4)), (Some(&b"b"[..]), None));
        assert_eq!(args.tail_from(0), &request[4..]);
        assert_eq!(args.tail_from(1), b"$0\r\n\r\n$10\r\n0123456789\r\n$1\r\nb\r\n");
        assert_eq!(args.tail_from(2), b"$10\r\n0123456789\r\n$1\r\nb\r\n");
        assert_eq!(
            (args.tail_from(3), args.tail_from(4), args.tail_from(9)),
            (&b"$1\r\nb\r\n"[..], &b""[..], &b""[..])
        );
    }
}
