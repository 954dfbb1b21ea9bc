//! Where a server's frame ends, and what it holds: the tests' own reading of RESP2 and RESP3.
//!
//! It shares no code with the proxy, so that a mistake there cannot hide here. It is a plain recursive descent,
//! which is why it refuses frames nested deeper than any that Redis sends.

/// Redis itself nests no deeper than about ten levels.
const DEPTH_MAX: u32 = 64;

/// The length of the first frame in `bytes`; `None` while it is incomplete. An attribute and the reply that it
/// belongs to count as one frame. Panics on what is not RESP: in a test that is a finding.
pub(crate) fn frame_length(bytes: &[u8]) -> Option<usize> {
    frame_length_at(bytes, 0)
}

/// A command as clients send it, an array of bulk strings.
pub(crate) fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// The frames inside an aggregate; empty for every other frame. A map's keys and values alternate.
pub(crate) fn children(frame: &[u8]) -> Vec<&[u8]> {
    if !matches!(frame[0], b'*' | b'~' | b'>' | b'%') {
        return Vec::new();
    }
    let (_, mut at) = header(frame).expect("a whole frame");
    let mut found = Vec::new();
    while at < frame.len() {
        let length = frame_length(&frame[at..]).expect("a whole frame");
        found.push(&frame[at..at + length]);
        at += length;
    }
    found
}

/// What a frame says without its framing: a bulk string's payload, a simple string's or a number's text.
pub(crate) fn payload(frame: &[u8]) -> &[u8] {
    let (line, after) = header(frame).expect("a whole frame");
    match frame[0] {
        b'$' | b'!' if line >= 0 => &frame[after..frame.len() - 2],
        // A verbatim string opens with its format and a colon, as in "txt:".
        b'=' => &frame[after + 4..frame.len() - 2],
        _ => &frame[1..after - 2],
    }
}

/// The number in an integer reply.
#[track_caller]
pub(crate) fn integer(frame: &[u8]) -> i64 {
    assert_eq!(frame[0], b':', "not an integer: {}", shown(frame));
    str::from_utf8(payload(frame)).ok().and_then(|text| text.parse().ok()).expect("digits after the colon")
}

/// Bytes for a failure's message: escaped, and cut where nobody would read on.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 400;
    if bytes.len() <= SHOWN_MAX {
        return bytes.escape_ascii().to_string();
    }
    format!("{}... ({} bytes)", bytes[..SHOWN_MAX].escape_ascii(), bytes.len())
}

/// The frame with the members of every aggregate in order of their bytes.
pub(crate) fn sorted(frame: &[u8]) -> Vec<u8> {
    let members = children(frame);
    if members.is_empty() {
        return frame.to_vec();
    }
    let header = frame.len() - members.iter().map(|member| member.len()).sum::<usize>();
    let mut members: Vec<Vec<u8>> = members.into_iter().map(sorted).collect();
    members.sort();
    [&frame[..header], &members.concat()].concat()
}

/// The frame with each run of digits, lengths included, as one `N`.
pub(crate) fn without_digits(frame: &[u8]) -> Vec<u8> {
    let mut masked: Vec<u8> =
        frame.iter().map(|byte| if byte.is_ascii_digit() { b'N' } else { *byte }).collect();
    masked.dedup_by(|next, last| *next == b'N' && *last == b'N');
    masked
}

/// The number in a frame's first line (0 where it holds none), and where the line ends.
fn header(bytes: &[u8]) -> Option<(i64, usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = bytes[1..end].strip_suffix(b"\r").unwrap_or_else(|| panic!("no RESP: {}", shown(bytes)));
    let number = str::from_utf8(line).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    Some((number, end + 1))
}

fn frame_length_at(bytes: &[u8], depth: u32) -> Option<usize> {
    assert!(depth < DEPTH_MAX, "a reply nested deeper than {DEPTH_MAX}");
    let kind = *bytes.first()?;
    let (number, start) = header(bytes)?;
    let count = usize::try_from(number).unwrap_or(0);
    let members = match kind {
        b'+' | b'-' | b':' | b',' | b'_' | b'#' | b'(' => 0,
        b'$' | b'=' | b'!' if number < 0 => 0,
        b'$' | b'=' | b'!' => {
            let end = start + count + 2;
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'~' | b'>' => count,
        b'%' => count * 2,
        b'|' => count * 2 + 1,
        _ => panic!("no RESP: {}", shown(bytes)),
    };
    let mut at = start;
    for _ in 0..members {
        at += frame_length_at(bytes.get(at..)?, depth + 1)?;
    }
    Some(at)
}
