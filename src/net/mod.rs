//! Connections as bytes, whatever they are made of: TCP, a Unix socket, or TLS over TCP.
//!
//! Sessions and lanes read within their task and write from wherever a batch ends, so a stream falls into a half that
//! is polled and a half that is tried. All is an `enum` and none of it a trait object: an ordinary client's bytes take
//! the way that they would take without this file. Nothing here knows what the bytes mean, and nothing is retried.

pub mod certificates;
pub mod listener;
pub mod tls;

use std::{
    cell::RefCell,
    fmt::{self, Display},
    io::{self, IoSlice},
    net::{SocketAddr, TcpStream as StdTcpStream},
    os::unix::net::UnixStream as StdUnixStream,
    path::Path,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};

use self::tls::{RestingTls, TlsStream};

/// One end of a client's connection, printed as Redis shows it.
#[derive(Clone, Debug)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The listener's path, at both ends: who connects to a Unix socket has none.
    Unix(Arc<Path>),
}

impl Address {
    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}:0", path.display()),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TLS.
    Tls(TlsStream),
}

/// The half that is read from.
#[derive(Debug)]
pub enum ReadHalf {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedReadHalf),
    /// Over TLS, of which there are no halves.
    Tls(Rc<RefCell<TlsStream>>),
}

/// The half that is written to; the sending direction ends when it is dropped.
#[derive(Debug)]
pub enum WriteHalf {
    /// Over TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedWriteHalf),
    /// Over TLS: it ends when both are dropped.
    Tls(Rc<RefCell<TlsStream>>),
}

/// A connection on its way between threads: no event loop watches it.
#[derive(Debug)]
pub enum Resting {
    /// Over TCP.
    Tcp(StdTcpStream),
    /// Over a Unix socket.
    Unix(StdUnixStream),
    /// Over TLS.
    Tls(RestingTls),
}

impl Stream {
    /// Takes it apart.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Tls(stream) => {
                let stream = Rc::new(RefCell::new(stream));
                (ReadHalf::Tls(Rc::clone(&stream)), WriteHalf::Tls(stream))
            }
        }
    }

    /// Our end's address; a Unix socket that has connected has none.
    pub fn local(&mut self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(stream) => stream.local_addr().map(Some),
            Self::Tls(stream) => stream.socket().local_addr().map(Some),
            Self::Unix(_) => Ok(None),
        }
    }

    /// Takes it out of this thread's event loop.
    pub fn rest(self) -> io::Result<Resting> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Resting::Tcp),
            Self::Unix(stream) => stream.into_std().map(Resting::Unix),
            Self::Tls(stream) => stream.rest().map(Resting::Tls),
        }
    }
}

impl Resting {
    /// Puts it into this thread's event loop.
    pub fn wake(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
            Self::Tls(stream) => stream.wake().map(Stream::Tls),
        }
    }

    /// Whether it stands and there is nothing to be read.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => recv(stream, &mut byte[..], RecvFlags::PEEK),
            Self::Unix(stream) => recv(stream, &mut byte[..], RecvFlags::PEEK),
            Self::Tls(stream) => match stream.drained() {
                Some(socket) => recv(socket, &mut byte[..], RecvFlags::PEEK),
                None => return false,
            },
        };
        matches!(read, Err(error) if error == rustix::io::Errno::AGAIN)
    }
}

impl ReadHalf {
    /// Undoes [`Stream::into_split`]; `None` if the halves are not of one connection.
    pub fn reunite(self, write: WriteHalf) -> Option<Stream> {
        match (self, write) {
            (Self::Tcp(read), WriteHalf::Tcp(write)) => read.reunite(write).ok().map(Stream::Tcp),
            (Self::Unix(read), WriteHalf::Unix(write)) => read.reunite(write).ok().map(Stream::Unix),
            (Self::Tls(read), WriteHalf::Tls(write)) => {
                drop(read);
                Rc::into_inner(write).map(|stream| Stream::Tls(stream.into_inner()))
            }
            _ => None,
        }
    }
}

impl WriteHalf {
    /// Writes what is taken at once, or `WouldBlock`: then the next call must be given the same bytes, and may be given
    /// more behind them.
    #[inline]
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
            Self::Tls(stream) => stream.borrow_mut().try_write(bytes),
        }
    }

    /// The same from several places.
    #[inline]
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(slices),
            Self::Unix(half) => half.try_write_vectored(slices),
            Self::Tls(stream) => stream.borrow_mut().try_write_vectored(slices),
        }
    }

    /// Waits until something may be taken again.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(cx),
            Self::Unix(half) => half.as_ref().poll_write_ready(cx),
            Self::Tls(stream) => stream.borrow_mut().poll_write_ready(cx),
        }
    }
}

/// Has the kernel ask a peer that is silent for `idle` whether it is still there.
pub fn keep_alive(socket: &TcpStream, idle: Duration) -> io::Result<()> {
    // The kernel counts in whole seconds, and takes none for an error.
    let interval = (idle / 3).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

impl AsyncRead for ReadHalf {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Unix(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Tls(stream) => stream.borrow_mut().poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => loop {
                match stream.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(cx))?;
                    }
                    written => break Poll::Ready(written),
                }
            },
        }
    }

    /// Nothing that counts as written is kept back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            // It says goodbye when it is dropped.
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }
}
