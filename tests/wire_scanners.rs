//! The scanners against redis-protocol's decoder, and against themselves however the bytes are cut.
//!
//! Frames are made up as trees, written by a writer of this file and by redis-protocol's encoders, and scanned. What
//! the scanners answer must not depend on segments, on what follows, or on anything before. redis-protocol recurses
//! and re-parses, so trees are kept shallow. `PROPTEST_CASES=100000` makes a long run of it.

use nearhit::resp::{
    FrameKind, Limits, ReplyScanner, RequestError, RequestScanner, ScanError, Scanned, encode_request, reply,
};
use proptest::{collection::vec, prelude::*};
use redis_protocol::{
    resp2::{self, types::OwnedFrame as Frame2, types::Resp2Frame},
    resp3::{self, types::OwnedFrame as Frame3, types::Resp3Frame, types::VerbatimStringFormat},
};

/// Cases for each property, unless the environment asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(512);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A reply before it is written.
#[derive(Clone, Debug)]
enum Tree {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Double(f64),
    Boolean(bool),
    BigNumber(String),
    BulkError(Vec<u8>),
    Verbatim(String),
    Array(Vec<Tree>),
    Set(Vec<Tree>),
    Push(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
    Attributed(Vec<(Tree, Tree)>, Box<Tree>),
}

impl Tree {
    /// This file's own writer, RESP3.
    fn write(&self, out: &mut Vec<u8>) {
        let line =
            |out: &mut Vec<u8>, kind: char, text: &str| out.extend(format!("{kind}{text}\r\n").into_bytes());
        let string = |out: &mut Vec<u8>, kind: char, bytes: &[u8]| {
            out.extend(format!("{kind}{}\r\n", bytes.len()).into_bytes());
            out.extend(bytes);
            out.extend(b"\r\n");
        };
        match self {
            Self::Simple(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Bulk(bytes) => string(out, '$', bytes),
            Self::Null => line(out, '_', ""),
            Self::Double(number) => line(out, ',', &number.to_string()),
            Self::Boolean(yes) => line(out, '#', if *yes { "t" } else { "f" }),
            Self::BigNumber(digits) => line(out, '(', digits),
            Self::BulkError(bytes) => string(out, '!', bytes),
            Self::Verbatim(text) => string(out, '=', format!("txt:{text}").as_bytes()),
            Self::Array(items) | Self::Set(items) | Self::Push(items) => {
                let kind = match self {
                    Self::Array(_) => '*',
                    Self::Set(_) => '~',
                    _ => '>',
                };
                line(out, kind, &items.len().to_string());
                for item in items {
                    item.write(out);
                }
            }
            Self::Map(pairs) => write_pairs(out, '%', pairs),
            Self::Attributed(pairs, value) => {
                write_pairs(out, '|', pairs);
                value.write(out);
            }
        }
    }

    fn written(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn kind(&self) -> FrameKind {
        match self {
            Self::Push(_) => FrameKind::Push,
            Self::Attributed(_, value) => value.kind(),
            _ => FrameKind::Reply,
        }
    }

    /// The tree in RESP2, which has fewer types.
    fn resp2(&self) -> Frame2 {
        match self {
            Self::Simple(text) => Frame2::SimpleString(text.clone().into_bytes()),
            Self::Error(text) => Frame2::Error(text.clone()),
            Self::Integer(number) => Frame2::Integer(*number),
            Self::Boolean(yes) => Frame2::Integer(i64::from(*yes)),
            Self::Bulk(bytes) | Self::BulkError(bytes) => Frame2::BulkString(bytes.clone()),
            Self::Null => Frame2::Null,
            Self::Double(number) => Frame2::BulkString(number.to_string().into_bytes()),
            Self::BigNumber(text) | Self::Verbatim(text) => Frame2::BulkString(text.clone().into_bytes()),
            Self::Array(items) | Self::Set(items) | Self::Push(items) => {
                Frame2::Array(items.iter().map(Self::resp2).collect())
            }
            Self::Map(pairs) => {
                Frame2::Array(pairs.iter().flat_map(|(key, value)| [key.resp2(), value.resp2()]).collect())
            }
            Self::Attributed(_, value) => value.resp2(),
        }
    }

    fn resp3(&self) -> Frame3 {
        let attributes = None;
        let all = |items: &[Self]| items.iter().map(Self::resp3).collect::<Vec<_>>();
        let pairs =
            |pairs: &[(Self, Self)]| pairs.iter().map(|(key, value)| (key.resp3(), value.resp3())).collect();
        match self {
            Self::Simple(text) => Frame3::SimpleString { data: text.clone().into_bytes(), attributes },
            Self::Error(text) => Frame3::SimpleError { data: text.clone(), attributes },
            Self::Integer(data) => Frame3::Number { data: *data, attributes },
            Self::Bulk(data) => Frame3::BlobString { data: data.clone(), attributes },
            Self::Null => Frame3::Null,
            Self::Double(data) => Frame3::Double { data: *data, attributes },
            Self::Boolean(data) => Frame3::Boolean { data: *data, attributes },
            Self::BigNumber(text) => Frame3::BigNumber { data: text.clone().into_bytes(), attributes },
            Self::BulkError(data) => Frame3::BlobError { data: data.clone(), attributes },
            Self::Verbatim(text) => {
                let data = text.clone().into_bytes();
                Frame3::VerbatimString { data, format: VerbatimStringFormat::Text, attributes }
            }
            Self::Array(items) => Frame3::Array { data: all(items), attributes },
            Self::Push(items) => Frame3::Push { data: all(items), attributes },
            Self::Set(items) => Frame3::Set { data: all(items).into_iter().collect(), attributes },
            Self::Map(entries) => Frame3::Map { data: pairs(entries), attributes },
            Self::Attributed(entries, value) => {
                let mut frame = value.resp3();
                frame
                    .add_attributes(pairs(entries))
                    .expect("the strategy makes no bare null with attributes");
                frame
            }
        }
    }
}

fn write_pairs(out: &mut Vec<u8>, kind: char, pairs: &[(Tree, Tree)]) {
    out.extend(format!("{kind}{}\r\n", pairs.len()).into_bytes());
    for (key, value) in pairs {
        key.write(out);
        value.write(out);
    }
}

/// Values that redis-protocol can hash, and so have as keys.
fn key() -> impl Strategy<Value = Tree> {
    prop_oneof![
        "[ -~]{0,12}".prop_map(Tree::Simple),
        any::<i64>().prop_map(Tree::Integer),
        vec(any::<u8>(), 0..20).prop_map(Tree::Bulk),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        4 => key(),
        1 => "[A-Z]{1,8} [ -~]{0,12}".prop_map(Tree::Error),
        1 => Just(Tree::Null),
        1 => any::<f64>().prop_filter("NaN", |number| !number.is_nan()).prop_map(Tree::Double),
        1 => any::<bool>().prop_map(Tree::Boolean),
        1 => "-?[1-9][0-9]{20,40}".prop_map(Tree::BigNumber),
        1 => "[A-Z]{1,8} [ -~]{0,12}".prop_map(|text| Tree::BulkError(text.into_bytes())),
        1 => "[ -~]{0,12}".prop_map(Tree::Verbatim),
        1 => vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$'), Just(b'1')], 0..12).prop_map(Tree::Bulk),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let items = || vec(inner.clone(), 0..6);
        let pairs = || vec((key(), inner.clone()), 0..4);
        // redis-protocol has no null with attributes, nor attributes of attributes.
        let plain =
            inner.clone().prop_filter("bare", |tree| !matches!(tree, Tree::Null | Tree::Attributed(..)));
        prop_oneof![
            4 => items().prop_map(Tree::Array),
            1 => vec(key(), 0..6).prop_map(Tree::Set),
            1 => items().prop_map(Tree::Push),
            2 => pairs().prop_map(Tree::Map),
            1 => (pairs(), plain).prop_map(|(pairs, value)| Tree::Attributed(pairs, Box::new(value))),
        ]
    })
}

/// What a stream of frames is cut into: the frames, and what is the matter with the rest.
type Frames = (Vec<(Vec<u8>, FrameKind)>, Option<ScanError>);

/// Scans `input` as it arrives in `segments`.
fn frames<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> Frames {
    let mut scanner = ReplyScanner::new();
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for segment in segments {
        buffer.extend_from_slice(segment);
        loop {
            match scanner.scan(&buffer) {
                Ok(Some(frame)) => found.push((buffer.drain(..frame.len).collect(), frame.kind)),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(scanner.scanned() <= buffer.len());
    }
    (found, None)
}

/// What a stream of requests is cut into: canonical bytes with their arguments, and what is the matter with the rest.
type Requests = (Vec<(Vec<u8>, Vec<Vec<u8>>)>, Option<RequestError>);

fn requests<'a>(authenticated: bool, segments: impl IntoIterator<Item = &'a [u8]>) -> Requests {
    let mut scanner = RequestScanner::new(Limits::default());
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for segment in segments {
        buffer.extend_from_slice(segment);
        loop {
            let (len, request) = match scanner.scan(&buffer, authenticated) {
                Ok(Scanned::Incomplete) => break,
                Ok(Scanned::Request { len }) => (len, buffer[..len].to_vec()),
                Ok(Scanned::Rewritten { len, request }) => (len, request),
                Ok(Scanned::Empty { len }) => (len, Vec::new()),
                Err(error) => return (found, Some(error)),
            };
            if !request.is_empty() {
                let args = scanner.args(&request).iter().map(<[u8]>::to_vec).collect();
                found.push((request, args));
            }
            assert!(len > 0);
            buffer.drain(..len);
        }
    }
    (found, None)
}

/// Pieces of the protocol, to be put together at random.
const MORSELS: &[&str] = &[
    "\r\n",
    "*1\r\n",
    "*2\r\n",
    "$1\r\n",
    "$3\r\n",
    "abc\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "_\r\n",
    "%1\r\n",
    "|1\r\n",
    ">1\r\n",
    "~2\r\n",
    ":1\r\n",
    "+a\r\n",
    "=5\r\ntxt:a\r\n",
    "*1\r\n$3\r\nabc\rx",
    "*2\rx$0\r\n\r\n$3\rxabc\r\n",
    "*0\r\n",
    "$0\r\n\r\n",
    "\"",
    "'",
    "\\x41",
];

/// Bytes that look like the protocol more often than chance would have it.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let morsels = prop_oneof![
        6 => prop::sample::select(MORSELS).prop_map(|text| text.as_bytes().to_vec()),
        2 => vec(prop::sample::select(&b"*$%~>|+-:_#,(!=.;?019\r\n\0 \"'\\xa"[..]), 1..4),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(morsels, 0..16).prop_map(|morsels| morsels.concat())
}

fn single_bytes(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.chunks(1)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_frame_has_the_length_and_kind_that_its_writer_gave_it(trees in vec(tree(), 1..4)) {
        let expected = trees.iter().map(|tree| (tree.written(), tree.kind())).collect::<Vec<_>>();
        let input = expected.iter().flat_map(|(frame, _)| frame.clone()).collect::<Vec<_>>();
        prop_assert_eq!(frames([&input[..]]), (expected.clone(), None));
        prop_assert_eq!(frames(single_bytes(&input)), (expected.clone(), None));
        for cut in 0..=input.len().min(400) {
            prop_assert_eq!(frames([&input[..cut], &input[cut..]]), (expected.clone(), None), "cut at {}", cut);
        }
    }

    #[test]
    fn redis_protocol_agrees_on_resp3(tree in tree()) {
        let own = tree.written();
        let (_, len) = resp3::decode::complete::decode_range(&own).unwrap().unwrap();
        prop_assert_eq!(len, own.len());
        let frame = tree.resp3();
        let mut theirs = vec![0; frame.encode_len(false) + 64];
        let len = resp3::encode::complete::encode(&mut theirs, &frame, false).unwrap();
        let scanned = ReplyScanner::new().scan(&theirs).unwrap().unwrap();
        prop_assert_eq!((scanned.len, scanned.kind), (len, tree.kind()));
    }

    #[test]
    fn redis_protocol_agrees_on_resp2(tree in tree()) {
        let frame = tree.resp2();
        let mut theirs = vec![0; frame.encode_len(false) + 64];
        let len = resp2::encode::encode(&mut theirs, &frame, false).unwrap();
        let scanned = ReplyScanner::new().scan(&theirs).unwrap().unwrap();
        prop_assert_eq!((scanned.len, scanned.kind), (len, FrameKind::Reply));
        let (_, decoded) = resp2::decode::decode_range(&theirs).unwrap().unwrap();
        prop_assert_eq!(decoded, len);
    }

    #[test]
    fn elements_are_the_written_elements(items in vec(tree(), 0..6)) {
        let written = items.iter().map(Tree::written).collect::<Vec<_>>();
        for aggregate in [Tree::Array(items.clone()), Tree::Push(items.clone())] {
            let whole = aggregate.written();
            let found = reply::elements(&whole).unwrap().map(<[u8]>::to_vec).collect::<Vec<_>>();
            prop_assert_eq!(&found, &written);
        }
    }

    #[test]
    fn requests_come_back_as_their_arguments(
        pipeline in vec(vec(prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 100..300)], 1..12), 1..4)
    ) {
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for (number, arguments) in pipeline.iter().enumerate() {
            let mut request = Vec::new();
            if number % 2 == 0 {
                encode_request(arguments, &mut request);
            } else {
                let frame = Frame2::Array(arguments.iter().cloned().map(Frame2::BulkString).collect());
                request.resize(frame.encode_len(false) + 64, 0);
                let len = resp2::encode::encode(&mut request, &frame, false).unwrap();
                request.truncate(len);
            }
            input.extend_from_slice(&request);
            expected.push((request, arguments.clone()));
        }
        prop_assert_eq!(requests(true, [&input[..]]), (expected.clone(), None));
        prop_assert_eq!(requests(true, single_bytes(&input)), (expected.clone(), None));
        for cut in 0..=input.len().min(400) {
            prop_assert_eq!(requests(true, [&input[..cut], &input[cut..]]), (expected.clone(), None), "cut at {}", cut);
        }
    }

    #[test]
    fn garbage_from_a_client_means_the_same_however_it_is_cut(input in garbage(), authenticated: bool) {
        let whole = requests(authenticated, [&input[..]]);
        prop_assert_eq!(&requests(authenticated, single_bytes(&input)), &whole);
        for cut in 0..=input.len() {
            prop_assert_eq!(&requests(authenticated, [&input[..cut], &input[cut..]]), &whole, "cut at {}", cut);
        }
        // What goes upstream is canonical, or the next server might read it in another way.
        for (request, arguments) in &whole.0 {
            let mut canonical = Vec::new();
            encode_request(arguments, &mut canonical);
            prop_assert_eq!(request, &canonical);
        }
    }

    #[test]
    fn garbage_from_a_server_means_the_same_however_it_is_cut(input in garbage()) {
        let whole = frames([&input[..]]);
        prop_assert_eq!(&frames(single_bytes(&input)), &whole);
        for cut in 0..=input.len() {
            prop_assert_eq!(&frames([&input[..cut], &input[cut..]]), &whole, "cut at {}", cut);
        }
        for (frame, _) in &whole.0 {
            let _ = (reply::is_nil(frame), reply::integer(frame), reply::bulk(frame), reply::error_code(frame));
            if let Some(elements) = reply::elements(frame) {
                prop_assert!(elements.map(<[u8]>::len).sum::<usize>() < frame.len());
            }
        }
        if let Some((first, _)) = whole.0.first() {
            if let Ok(Some((_, len))) = resp3::decode::complete::decode_range(&input) {
                prop_assert_eq!(len, first.len());
            }
            if let Ok(Some((_, len))) = resp2::decode::decode_range(&input) {
                prop_assert_eq!(len, first.len());
            }
        }
    }

    #[test]
    fn the_questions_to_a_reply_take_any_bytes(input in garbage()) {
        let _ = (reply::is_nil(&input), reply::is_error(&input), reply::integer(&input), reply::bulk(&input));
        let _ = reply::error_code(&input);
        if let Some(elements) = reply::elements(&input) {
            prop_assert!(elements.map(<[u8]>::len).sum::<usize>() < input.len());
        }
    }
}

#[test]
fn a_large_argument_in_single_bytes_is_scanned() {
    let mut input = Vec::new();
    encode_request(["SET", "key", &"x".repeat(2_000_000)], &mut input);
    let mut scanner = RequestScanner::new(Limits::default());
    for end in 1..input.len() {
        assert_eq!(scanner.scan(&input[..end], true), Ok(Scanned::Incomplete));
    }
    assert_eq!(scanner.scan(&input, true), Ok(Scanned::Request { len: input.len() }));
    assert_eq!(scanner.args(&input)[2].len(), 2_000_000);
}

#[test]
fn a_million_levels_are_scanned_in_single_bytes() {
    let input = ["*1\r\n".repeat(1_000_000), "$-1\r\n".to_owned()].concat().into_bytes();
    assert_eq!(frames([&input[..]]).0.len(), 1);
    let mut scanner = ReplyScanner::new();
    for end in 1..input.len() {
        assert_eq!(scanner.scan(&input[..end]), Ok(None));
    }
    assert_eq!(scanner.scan(&input).unwrap().unwrap().len, input.len());
}
