//! Splitting an inline command, what a human types into telnet: `SET greeting "hello\x21"`.
//!
//! This is Redis's `sdssplitargs` (sds.c), with each of its quirks, because a proxy that splits a line another way
//! than the server would write to another key: a quote may open in mid-word, must be followed by white space where
//! it closes, and `\v` and `\f` are skipped between words but do not end one.

/// The words of `line`, which holds neither a newline nor a NUL; `None` if its quotes are unbalanced.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, after @ ..] = rest
            && is_space(*first)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = split_word(rest)?;
        words.push(word);
        rest = after;
    }
}

/// The first word of `rest` and what follows it.
fn split_word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] | [b' ' | b'\r' | b'\t', ..] => return Some((word, rest)),
            [b'"', after @ ..] => return closed(word, after, double_quoted),
            [b'\'', after @ ..] => return closed(word, after, single_quoted),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// Finishes a word with its quoted part, behind whose closing quote it must end.
fn closed(
    mut word: Vec<u8>,
    quoted: &[u8],
    unquote: for<'a> fn(&'a [u8], &mut Vec<u8>) -> Option<&'a [u8]>,
) -> Option<(Vec<u8>, &[u8])> {
    let rest = unquote(quoted, &mut word)?;
    rest.first().is_none_or(|next| is_space(*next)).then_some((word, rest))
}

/// Appends what stands between double quotes; returns what follows the closing one.
fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex_digit(*high) * 16 + hex_digit(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

/// Appends what stands between single quotes, where `\'` is the only escape.
fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = match rest {
            [] => return None,
            [b'\'', after @ ..] => return Some(after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<String>> {
        Some(
            split(line.as_bytes())?
                .into_iter()
                .map(|word| String::from_utf8_lossy(&word).into_owned())
                .collect(),
        )
    }

    #[test]
    fn splits_as_sdssplitargs_does() {
        let cases: [(&str, Option<&[&str]>); 18] = [
            ("", Some(&[])),
            ("  \t \x0b\x0c ", Some(&[])),
            ("GET key", Some(&["GET", "key"])),
            ("  GET   key  ", Some(&["GET", "key"])),
            ("a\rb\tc", Some(&["a", "b", "c"])),
            ("\x0ba\x0bb\x0c", Some(&["a\x0bb\x0c"])),
            (r#""" ''"#, Some(&["", ""])),
            (r#""hello world" x"#, Some(&["hello world", "x"])),
            (r#"pre"quoted""#, Some(&["prequoted"])),
            (r#""a\n\r\t\b\a\q\"\\""#, Some(&["a\n\r\t\x08\x07q\"\\"])),
            (r#""\x41\x7aB\x4""#, Some(&["AzBx4"])),
            (r"'it\'s' '\n'", Some(&["it's", r"\n"])),
            (r#"'"' "'""#, Some(&["\"", "'"])),
            (r#""a""#, Some(&["a"])),
            (r#""a"b"#, None),
            ("'a'b", None),
            (r#""a\"#, None),
            ("'", None),
        ];
        for (line, expected) in cases {
            let expected = expected.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(words(line), expected, "{line:?}");
        }
    }

    #[test]
    fn hex_escapes_reach_every_byte() {
        for byte in 0..=u8::MAX {
            for line in [format!("\"\\x{byte:02x}\""), format!("\"\\x{byte:02X}\"")] {
                assert_eq!(split(line.as_bytes()), Some(vec![vec![byte]]));
            }
        }
    }
}
