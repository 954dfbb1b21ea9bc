//! Length headers, `<type><decimal>\r\n`, which both scanners live on: reading one, and writing one.
//!
//! Only the canonical form is read here (decimal digits without a leading zero, then CRLF). Whatever else a peer
//! may have written is [`Header::Odd`], and each scanner decides in a cold function of its own what that means:
//! the two sides disagree about it, and the hot path need not know.

/// More digits than this do not fit in 64 bits, whatever they are.
const DIGITS_MAX: usize = 19;

/// What follows a type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A canonical length, and the bytes it took with its CRLF, the type byte not counted.
    Length { value: u64, len: usize },
    /// The start of a canonical length.
    Incomplete,
    /// Anything else.
    Odd,
}

/// Reads the length at the start of `input`, which begins behind the type byte.
#[inline]
pub(super) fn parse(input: &[u8]) -> Header {
    let mut value = 0_u64;
    let mut at = 0;
    loop {
        work::add(1);
        let Some(byte) = input.get(at) else { return Header::Incomplete };
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || at == DIGITS_MAX {
            break;
        }
        value = value * 10 + u64::from(digit);
        at += 1;
    }
    if at == 0 || input[at] != b'\r' || (at > 1 && input[0] == b'0') {
        return Header::Odd;
    }
    match input.get(at + 1) {
        Some(b'\n') => Header::Length { value, len: at + 2 },
        Some(_) => Header::Odd,
        None => Header::Incomplete,
    }
}

/// The range of the payload of a bulk string that begins at `position`, if all of it is there and canonical.
#[inline]
pub(super) fn string(input: &[u8], position: usize) -> Option<(usize, usize)> {
    let [b'$', first, second, third, fourth] = *input.get(position..)?.first_chunk()? else { return None };
    // Most are below a hundred bytes, and need no loop.
    let (start, len) = match (first.wrapping_sub(b'0'), second.wrapping_sub(b'0')) {
        (len @ 0..=9, _) if [second, third] == *b"\r\n" => (position + 4, usize::from(len)),
        (tens @ 1..=9, ones @ 0..=9) if [third, fourth] == *b"\r\n" => {
            (position + 5, usize::from(tens * 10 + ones))
        }
        _ => match parse(&input[position + 1..]) {
            Header::Length { value, len } => (position + 1 + len, usize::try_from(value).ok()?),
            Header::Incomplete | Header::Odd => return None,
        },
    };
    let end = start.checked_add(len)?;
    (*input.get(end..)?.first_chunk()? == *b"\r\n").then_some((start, end))
}

/// How many bytes [`push`] writes for `value`.
pub(super) fn len_of(value: usize) -> usize {
    "*\r\n".len() + value.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Appends `<kind><value>\r\n`.
pub(super) fn push(out: &mut Vec<u8>, kind: u8, value: usize) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    let mut rest = value;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

/// Counts the bytes that are looked at, so that tests can hold the scanners to linear work without a clock.
pub(super) mod work {
    #[cfg(test)]
    thread_local! {
        static BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// Nothing at all outside the unit tests.
    #[inline]
    pub(in crate::resp) fn add(bytes: usize) {
        #[cfg(test)]
        BYTES.with(|total| total.set(total.get() + bytes));
        #[cfg(not(test))]
        let _ = bytes;
    }

    /// The bytes looked at while `run` ran.
    #[cfg(test)]
    pub(in crate::resp) fn during(run: impl FnOnce()) -> usize {
        let before = BYTES.with(std::cell::Cell::get);
        run();
        BYTES.with(std::cell::Cell::get) - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_canonical_lengths_only() {
        let length = |value, len| Header::Length { value, len };
        assert_eq!(parse(b"0\r\n"), length(0, 3));
        assert_eq!(parse(b"5\r\nhello"), length(5, 3));
        assert_eq!(parse(b"1234567890123456789\r\n"), length(1_234_567_890_123_456_789, 21));
        assert_eq!(parse(b"9999999999999999999\r\n"), length(9_999_999_999_999_999_999, 21));
        for start in [&b""[..], b"1", b"12", b"12\r", b"1234567890123456789", b"1234567890123456789\r"] {
            assert_eq!(parse(start), Header::Incomplete, "{start:?}");
        }
        for odd in [
            &b"\r\n"[..],
            b"-1\r\n",
            b"+1\r\n",
            b"01\r\n",
            b"00\r\n",
            b"1\n",
            b"1\rx",
            b"1 \r\n",
            b"1\0\r\n",
            b"?",
        ] {
            assert_eq!(parse(odd), Header::Odd, "{odd:?}");
        }
        assert_eq!(parse(b"12345678901234567890"), Header::Odd);
    }

    #[test]
    fn writes_what_it_reads() {
        for value in [0, 1, 9, 10, 99, 100, 65_535, usize::MAX / 2] {
            let mut out = Vec::new();
            push(&mut out, b'$', value);
            assert_eq!(out, format!("${value}\r\n").as_bytes());
            assert_eq!(out.len(), len_of(value));
            assert_eq!(parse(&out[1..]), Header::Length { value: value as u64, len: out.len() - 1 });
        }
    }
}
