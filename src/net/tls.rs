//! TLS over TCP: rustls between a socket and whoever reads and writes plain bytes.
//!
//! tokio-rustls is not used, because it writes only from within a task that waits for the socket: a session is written
//! to from wherever a batch of replies ends, and its lane must not wait for it. So what is read is polled and what is
//! written is tried, as with a bare socket. No byte counts as written before the kernel has all of its record: who is
//! told `WouldBlock` comes back with the same bytes, and more behind them if there are, and no other account of what a
//! client has not taken is needed than the one there is for TCP.

use std::{
    io::{self, BufRead, IoSlice, Read, Write},
    mem,
    net::TcpStream as StdTcpStream,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, pki_types::ServerName,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

/// A connection over TLS. It says goodbye when it is dropped.
#[derive(Debug)]
pub struct TlsStream(Option<Box<Inner<TcpStream>>>);

/// A [`TlsStream`] that no event loop watches.
#[derive(Debug)]
pub struct RestingTls(Box<Inner<StdTcpStream>>);

#[derive(Debug)]
struct Inner<S> {
    socket: S,
    session: Connection,
    /// So many bytes are encrypted, and the kernel has not taken all of their records.
    sealed: usize,
}

impl TlsStream {
    /// Greets a client, to its end. Cancel safe: a dropped attempt closes its socket.
    pub async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = ServerConnection::new(config).map_err(invalid)?;
        Self::greeted(socket, session.into()).await
    }

    /// Greets a server that must prove to be `name`. Cancel safe: a dropped attempt closes its socket.
    pub async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(invalid)?;
        Self::greeted(socket, session.into()).await
    }

    async fn greeted(socket: TcpStream, session: Connection) -> io::Result<Self> {
        let mut stream = Self(Some(Box::new(Inner { socket, session, sealed: 0 })));
        std::future::poll_fn(|cx| stream.inner().poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// Reads what there is.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }

    /// Writes what is taken at once; after `WouldBlock` it must be given the same bytes again.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().seal(|writer| writer.write(bytes))
    }

    /// The same from several places.
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.inner().seal(|writer| writer.write_vectored(slices))
    }

    /// Waits until something may be taken again.
    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().socket.poll_write_ready(cx)
    }

    /// The socket below.
    pub fn socket(&mut self) -> &TcpStream {
        &self.inner().socket
    }

    /// Takes it out of this thread's event loop.
    pub fn rest(mut self) -> io::Result<RestingTls> {
        let inner = self.0.take().ok_or_else(|| io::Error::other(NEVER_EMPTY))?;
        let Inner { socket, session, sealed } = *inner;
        Ok(RestingTls(Box::new(Inner { socket: socket.into_std()?, session, sealed })))
    }

    fn inner(&mut self) -> &mut Inner<TcpStream> {
        self.0.as_mut().expect(NEVER_EMPTY)
    }
}

/// The only one who takes the content out ends the stream with it.
const NEVER_EMPTY: &str = "a stream is empty only once it has been put to rest";

impl Drop for TlsStream {
    fn drop(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.session.send_close_notify();
            // Who has left, or takes nothing, does not hear it.
            let _ = inner.flush();
        }
    }
}

impl RestingTls {
    /// Puts it into this thread's event loop.
    pub fn wake(self) -> io::Result<TlsStream> {
        let Inner { socket, session, sealed } = *self.0;
        let socket = TcpStream::from_std(socket)?;
        Ok(TlsStream(Some(Box::new(Inner { socket, session, sealed }))))
    }

    /// The socket below, if nothing that came over it waits to be read.
    pub fn drained(&mut self) -> Option<&StdTcpStream> {
        let state = self.0.session.process_new_packets().ok()?;
        let is_drained = state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed();
        is_drained.then_some(&self.0.socket)
    }
}

impl Inner<TcpStream> {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                    continue;
                }
                flushed => flushed?,
            }
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_pull(cx))? == 0 {
                let why = "the connection was closed in the handshake";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                // Frames say where they end, so that nothing is gained by telling a cut from a proper end.
                Ok([]) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Ok(chunk) => {
                    let len = chunk.len().min(buffer.remaining());
                    buffer.put_slice(&chunk[..len]);
                    reader.consume(len);
                    if buffer.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if buffer.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.poll_pull(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads once from the socket and decrypts what is complete; 0 is its end.
    fn poll_pull(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = match self.session.read_tls(&mut Polled { socket: &mut self.socket, cx }) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            read => read?,
        };
        let processed = self.session.process_new_packets();
        // An alert, or the answer to a change of keys: if it is not taken now, it goes ahead of what is written next.
        let _ = self.flush();
        Poll::Ready(processed.map(|_| read).map_err(invalid))
    }

    fn seal(
        &mut self,
        write: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.sealed == 0 {
            self.sealed = write(&mut self.session.writer())?;
        }
        self.flush()?;
        Ok(mem::take(&mut self.sealed))
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut Tried(&self.socket))?;
        }
        Ok(())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A socket as rustls reads it, within a task that is woken when there is more.
struct Polled<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// A socket as rustls writes it.
struct Tried<'a>(&'a TcpStream);

impl Write for Tried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
