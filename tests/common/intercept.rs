//! A server that is Redis in everything but one reply, which the test writes itself.
//!
//! It relays to a real redis-server, so that the proxy finds a complete one behind it, and gives the scripted
//! bytes in answer to `GET` of one key. On the way up that GET becomes an ECHO of a marker, on the way down the
//! marker becomes the script, so replies keep their order whatever else is in the pipeline.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use super::resp::{children, encode, frame_length, payload};

const MARKER: &[u8] = b"the scripted reply goes here";

/// The listener, and how often it gave the scripted reply.
pub(crate) struct Intercept {
    address: SocketAddr,
    script: Arc<Script>,
}

struct Script {
    target: SocketAddr,
    key: Vec<u8>,
    reply: Vec<u8>,
    given: AtomicUsize,
    closed: AtomicBool,
}

impl Intercept {
    /// In front of `target`, answering `GET key` with `reply`.
    #[track_caller]
    pub(crate) fn get(target: SocketAddr, key: &str, reply: Vec<u8>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (given, closed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let script = Arc::new(Script { target, key: key.into(), reply, given, closed });
        let acceptor = Arc::clone(&script);
        thread::spawn(move || acceptor.accept(&listener));
        Self { address, script }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn given(&self) -> usize {
        self.script.given.load(SeqCst)
    }
}

impl Drop for Intercept {
    fn drop(&mut self) {
        self.script.closed.store(true, SeqCst);
        // Wakes the acceptor. The connections end with the proxy or the server at their ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl Script {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.closed.load(SeqCst) {
                return;
            }
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            for (source, sink, rewrite) in [
                (&client, &server, Self::upward as fn(&Self, &[u8]) -> Option<Vec<u8>>),
                (&server, &client, Self::downward),
            ] {
                let (script, source, sink) = (Arc::clone(self), source.try_clone(), sink.try_clone());
                let (Ok(source), Ok(sink)) = (source, sink) else { continue };
                thread::spawn(move || script.relay(source, sink, rewrite));
            }
        }
    }

    /// Moves frame after frame, each as it is or as `rewrite` wants it, until either side closes.
    fn relay(
        &self,
        mut source: TcpStream,
        mut sink: TcpStream,
        rewrite: fn(&Self, &[u8]) -> Option<Vec<u8>>,
    ) {
        let mut pending = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = source.read(&mut chunk) {
            pending.extend_from_slice(&chunk[..length]);
            let mut out = Vec::new();
            while let Some(end) = frame_length(&pending) {
                let frame: Vec<u8> = pending.drain(..end).collect();
                out.extend(rewrite(self, &frame).unwrap_or(frame));
            }
            if sink.write_all(&out).is_err() {
                break;
            }
        }
        let _ = source.shutdown(Shutdown::Both);
        let _ = sink.shutdown(Shutdown::Both);
    }

    fn upward(&self, request: &[u8]) -> Option<Vec<u8>> {
        let args: Vec<&[u8]> = children(request).into_iter().map(payload).collect();
        let [name, key] = args[..] else { return None };
        let wanted = name.eq_ignore_ascii_case(b"GET") && key == self.key;
        wanted.then(|| encode(&[b"ECHO".as_slice(), MARKER]))
    }

    fn downward(&self, reply: &[u8]) -> Option<Vec<u8>> {
        let wanted = reply.starts_with(b"$") && payload(reply) == MARKER;
        wanted.then(|| {
            self.given.fetch_add(1, SeqCst);
            self.reply.clone()
        })
    }
}
