//! Conversations that are written down, for commands that do more to their connection than answer once.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Pair, Twins,
    common::resp::{encode, frame_length, shown},
    differences::Compare,
    shapes::Request,
};

/// What the last reply of every conversation holds.
const END: &[u8] = b"the end of it\r\n";
/// How long nothing comes before the next command of a conversation is sent: some have no reply.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the proxy may take to say as much as Redis has said.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a conversation may take to end: PFSELFTEST keeps a busy machine for many seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// A line of `by_hand.txt`.
pub(crate) struct Conversation {
    how: Compare,
    text: &'static str,
    requests: Vec<Request>,
}

/// The conversations by the command that they are about.
pub(crate) fn scripts() -> BTreeMap<String, Vec<Conversation>> {
    let mut scripts: BTreeMap<String, Vec<Conversation>> = BTreeMap::new();
    let mut name = "";
    for line in include_str!("by_hand.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(command) => name = command,
            None => scripts.entry(name.to_owned()).or_default().push(conversation(line)),
        }
    }
    scripts
}

fn conversation(line: &'static str) -> Conversation {
    let (how, text) = match line.split_once(' ') {
        Some(("%", rest)) => (Compare::Digits, rest),
        Some(("~", rest)) => (Compare::AnyOrder, rest),
        Some(("!", rest)) => (Compare::Kinds, rest),
        Some((".", rest)) => (Compare::Nothing, rest),
        Some(("-", rest)) => (Compare::Refused, rest),
        Some(("^", rest)) => (Compare::First, rest),
        _ => (Compare::Bytes, line),
    };
    Conversation { how, text, requests: text.split(" | ").map(request).collect() }
}

/// Words apart by a space; one in double quotes may hold some.
fn request(text: &str) -> Request {
    let parts = text.split('"').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        1 => vec![part],
        _ => part.split_ascii_whitespace().collect(),
    });
    words.map(|word| word.as_bytes().to_vec()).collect()
}

impl Twins {
    /// Held at leisure, then in one go, which is the same if there is but one command.
    pub(crate) fn converse(&mut self, conversation: &Conversation) {
        let ways: &[bool] = if conversation.requests.len() > 1 { &[true, false] } else { &[true] };
        for is_paced in ways.iter().copied() {
            self.fill();
            let mut pair = self.connect();
            if let Compare::Refused | Compare::First = conversation.how {
                let request = &conversation.requests[0];
                let got = pair.proxied.cmd(request);
                if conversation.how == Compare::First {
                    let expected = pair.direct.cmd(request);
                    return self.compare(Compare::Bytes, "at first", request, &expected, &got);
                }
                self.note(request);
                if !got.starts_with(b"-ERR nearhit") {
                    self.failures.push(format!("{} is answered {}", conversation.text, shown(&got)));
                }
                continue;
            }
            let (expected, got) = pair.talk(&conversation.requests, is_paced);
            for request in &conversation.requests {
                self.note(request);
            }
            let way = if is_paced { "at leisure" } else { "in one go" };
            let (one, other) = (frames(&expected), frames(&got));
            let is_same = one.len() == other.len()
                && one.iter().zip(&other).all(|(one, other)| conversation.how.is_same(one, other));
            if !is_same {
                return self.compare(Compare::Bytes, way, &[conversation.text.into()], &expected, &got);
            }
            self.compared += one.len();
        }
    }
}

impl Pair {
    /// All that either says until the end.
    fn talk(&mut self, requests: &[Request], is_paced: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let end = vec![b"PING".to_vec(), END[..END.len() - 2].to_vec()];
        for request in requests.iter().chain([&end]) {
            // A server that has hung up says so to who reads.
            let _ = self.direct.try_send_raw(&encode(request));
            let _ = self.proxied.try_send_raw(&encode(request));
            if is_paced {
                expected.extend(self.direct.recv_while(PAUSE, |said| !is_whole(said)));
                let missing = frames(&expected).len().saturating_sub(frames(&got).len());
                got.extend(self.proxied.recv_while(PAUSE_MAX, |said| frames(said).len() < missing));
            }
        }
        // The pauses have only set the pace: what counts is all of it.
        for (client, said) in [(&mut self.direct, &mut expected), (&mut self.proxied, &mut got)] {
            if !said.ends_with(END) {
                said.extend(client.recv_while(PATIENCE, |said| !said.ends_with(END)));
            }
        }
        (expected, got)
    }
}

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = frame_length(bytes).unwrap_or(bytes.len());
        let (frame, rest) = bytes.split_at(length);
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// Whether no frame is cut.
fn is_whole(bytes: &[u8]) -> bool {
    frames(bytes).last().is_some_and(|frame| frame_length(frame).is_some())
}
