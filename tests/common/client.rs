//! A client that shows replies as the bytes that came, because byte for byte is what the proxy promises.
//!
//! It blocks, on a plain socket unless a test brings another, and it never gives up a frame before it is whole. Whatever
//! does not come within `READ_TIMEOUT` fails the test; it is no measurement.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::resp::{encode, frame_length, payload, shown};

/// How long a reply may take before the test counts it as lost.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const CHUNK_BYTES: usize = 64 * 1024;

/// What a client's bytes travel on.
pub(crate) trait Wire: Read + Write + Send + Sync {
    /// Its socket.
    fn socket(&self) -> socket2::SockRef<'_>;

    /// Ends the sending half.
    fn finish_sending(&mut self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Wire for TcpStream {
    fn socket(&self) -> socket2::SockRef<'_> {
        self.into()
    }
}

impl Wire for UnixStream {
    fn socket(&self) -> socket2::SockRef<'_> {
        self.into()
    }
}

/// One connection, and the bytes that were read from it and not yet handed out.
pub(crate) struct Client {
    stream: Box<dyn Wire>,
    received: Vec<u8>,
    taken: usize,
    chunk: Box<[u8]>,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Self::over(stream)
    }

    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).and_then(Self::over);
        stream.unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()))
    }

    /// A client on a connection that a test has made.
    pub(crate) fn over(stream: impl Wire + 'static) -> io::Result<Self> {
        stream.socket().set_read_timeout(Some(READ_TIMEOUT))?;
        stream.socket().set_write_timeout(Some(READ_TIMEOUT))?;
        let (received, chunk) = (Vec::new(), vec![0; CHUNK_BYTES].into_boxed_slice());
        Ok(Self { stream: Box::new(stream), received, taken: 0, chunk })
    }

    /// Replaces the ten seconds that a read or a write may take.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.stream.socket().set_read_timeout(Some(timeout)).expect("a timeout that is not zero");
        self.stream.socket().set_write_timeout(Some(timeout)).expect("a timeout that is not zero");
    }

    /// Sends one command and returns its reply, whole and unread.
    #[track_caller]
    pub(crate) fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.send(args);
        self.recv()
    }

    /// Sends one command whose reply must be exactly `reply`.
    #[track_caller]
    pub(crate) fn expect<A: AsRef<[u8]>>(&mut self, reply: &[u8], args: &[A]) {
        let got = self.cmd(args);
        assert_eq!(shown(&got), shown(reply), "the reply to {}", shown(&encode(args)));
    }

    /// Sends one command, and returns what its reply says, without the framing, as text.
    #[track_caller]
    pub(crate) fn text<A: AsRef<[u8]>>(&mut self, args: &[A]) -> String {
        let reply = self.cmd(args);
        String::from_utf8_lossy(payload(&reply)).into_owned()
    }

    /// Sends all commands in one write, then reads a reply for each.
    #[track_caller]
    pub(crate) fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[&[A]]) -> Vec<Vec<u8>> {
        let request: Vec<u8> = commands.iter().flat_map(|args| encode(args)).collect();
        self.send_raw(&request);
        commands.iter().map(|_| self.recv()).collect()
    }

    /// Switches the protocol, and returns the server's greeting.
    #[track_caller]
    pub(crate) fn hello(&mut self, protocol: u8) -> Vec<u8> {
        let reply = self.cmd(&["HELLO", &protocol.to_string()]);
        assert_ne!(reply[0], b'-', "HELLO {protocol}: {}", shown(&reply));
        reply
    }

    #[track_caller]
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send_raw(&encode(args));
    }

    #[track_caller]
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).unwrap_or_else(|error| panic!("cannot send {}: {error}", shown(bytes)));
    }

    pub(crate) fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next frame: a reply, or a push where the client asked for pushes.
    #[track_caller]
    pub(crate) fn recv(&mut self) -> Vec<u8> {
        self.try_recv().unwrap_or_else(|error| {
            panic!("no reply: {error}; so far {}", shown(&self.received[self.taken..]))
        })
    }

    /// As `recv`; the end of the stream is `UnexpectedEof`.
    pub(crate) fn try_recv(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(length) = frame_length(&self.received[self.taken..]) {
                return Ok(self.take(length));
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Exactly `length` bytes, whatever they are.
    #[track_caller]
    pub(crate) fn recv_bytes(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() - self.taken < length {
            match self.fill() {
                Ok(0) => panic!("closed after {}", shown(&self.received[self.taken..])),
                Ok(_) => {}
                Err(error) => panic!("{error} after {}", shown(&self.received[self.taken..])),
            }
        }
        self.take(length)
    }

    /// Everything until the server closes. A reset counts as closing: it is what a server's close becomes when
    /// it had not read everything.
    #[track_caller]
    pub(crate) fn recv_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("not closed: {error}; so far {}", shown(&self.received[self.taken..])),
            }
        }
        self.take(self.received.len() - self.taken)
    }

    /// Everything for as long as `wants` more, until nothing comes for so long, or until the server closes.
    pub(crate) fn recv_while(&mut self, patience: Duration, wants: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.set_timeout(patience);
        while wants(&self.received[self.taken..]) && self.fill().is_ok_and(|length| length > 0) {}
        self.set_timeout(READ_TIMEOUT);
        self.take(self.received.len() - self.taken)
    }

    /// Whether the server has closed the connection by now, and nothing is left to read.
    #[track_caller]
    pub(crate) fn is_closed(&self) -> bool {
        let socket = self.stream.socket();
        socket.set_nonblocking(true).expect("an open socket");
        let peeked = socket.peek(&mut [MaybeUninit::uninit()]);
        socket.set_nonblocking(false).expect("an open socket");
        match peeked {
            Ok(left) => left == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// Ends the sending half; replies still come.
    pub(crate) fn finish_sending(&mut self) {
        self.try_finish_sending().expect("the connection stands");
    }

    pub(crate) fn try_finish_sending(&mut self) -> io::Result<()> {
        self.stream.finish_sending()
    }

    /// Closes with a reset, as a client that is killed does, and leaves no port waiting.
    pub(crate) fn reset(self) {
        self.stream.socket().set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    /// A second handle on the socket, to write from another thread while this one reads.
    pub(crate) fn writer(&self) -> TcpStream {
        let socket = self.stream.socket().as_fd().try_clone_to_owned().expect("a descriptor is free");
        socket.into()
    }

    fn fill(&mut self) -> io::Result<usize> {
        let length = loop {
            match self.stream.read(&mut self.chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.received.extend_from_slice(&self.chunk[..length]);
        Ok(length)
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let bytes = self.received[self.taken..self.taken + length].to_vec();
        self.taken += length;
        // What was handed out is dropped in strides, so that a pipeline of small replies is not copied each time.
        if self.taken == self.received.len() || self.taken > CHUNK_BYTES {
            self.received.drain(..self.taken);
            self.taken = 0;
        }
        bytes
    }
}
