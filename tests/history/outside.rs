//! A client of the server itself, past the proxy, wherever that server is at the moment.
//!
//! It lives through the death of a server and follows an address that is switched. What it was refused, or not
//! answered, is nothing: whoever wrote it does not know its fate.

use std::net::SocketAddr;

use crate::common::resp::{encode, payload};
use crate::common::{Client, Relay};

/// One connection at a time, dialled when it is needed.
pub(crate) struct Outside<'a> {
    relay: &'a Relay,
    connection: Option<(SocketAddr, Client)>,
}

impl<'a> Outside<'a> {
    pub(crate) fn new(relay: &'a Relay) -> Self {
        Self { relay, connection: None }
    }

    /// Sends all in one write; the replies, unless one was an error or did not come.
    pub(crate) fn ask_all<A: AsRef<[u8]>>(&mut self, requests: &[Vec<A>]) -> Option<Vec<Vec<u8>>> {
        self.send(requests)?;
        let replies: Vec<Vec<u8>> = requests.iter().map(|_| self.reply()).collect::<Option<_>>()?;
        replies.iter().all(|reply| reply[0] != b'-').then_some(replies)
    }

    /// The reply to one command, unless it was an error or did not come.
    pub(crate) fn ask(&mut self, line: &str) -> Option<Vec<u8>> {
        let mut replies = self.ask_all(&[line.split(' ').collect()])?;
        replies.pop()
    }

    /// A command that the server is there for.
    #[track_caller]
    pub(crate) fn must(&mut self, line: &str) -> Vec<u8> {
        self.ask(line).unwrap_or_else(|| panic!("{line} was refused, or not answered"))
    }

    /// What a reply says, as text; nothing if there is none.
    pub(crate) fn text(&mut self, line: &str) -> String {
        self.ask(line).map(|reply| String::from_utf8_lossy(payload(&reply)).into_owned()).unwrap_or_default()
    }

    /// Sends, and leaves the replies to [`Self::reply`].
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, requests: &[impl AsRef<[A]>]) -> Option<()> {
        let target = self.relay.target();
        if self.connection.as_ref().is_none_or(|(at, _)| *at != target) {
            self.connection = Client::try_connect(target).ok().map(|client| (target, client));
        }
        let bytes: Vec<u8> = requests.iter().flat_map(|args| encode(args.as_ref())).collect();
        let (_, client) = self.connection.as_mut()?;
        let sent = client.try_send_raw(&bytes);
        if sent.is_err() {
            self.connection = None;
        }
        sent.ok()
    }

    /// The next reply, which may be an error; nothing if the connection is lost.
    pub(crate) fn reply(&mut self) -> Option<Vec<u8>> {
        let reply = self.connection.as_mut()?.1.try_recv();
        if reply.is_err() {
            self.connection = None;
        }
        reply.ok()
    }
}
