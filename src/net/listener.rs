//! Where clients connect.
//!
//! A Unix socket is a file, which outlives a process that was killed: one that nobody listens on any more is
//! replaced, one that somebody does is left alone. The file goes when its listener does, before the proxy drains, so
//! that a successor can have the path; not if it is another's by then. Who may connect to it is decided by the umask, as with any file.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::{Address, Stream, keep_alive};

/// A client over TCP that is silent for this long is asked by the kernel whether it is there: Redis's `tcp-keepalive`.
const KEEPALIVE: Duration = Duration::from_mins(5);

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a Unix socket. The file goes first: what has no listener any more should not be found.
    Unix(SocketFile, UnixListener),
}

/// The file of a Unix socket, removed on drop.
#[derive(Debug)]
pub struct SocketFile {
    path: Arc<Path>,
    /// Device and number, which nobody else gets while the socket is open.
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), inode: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Whoever removed it before us has done what was to be done.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Listener {
    /// Listens on a TCP port. Must be called within a runtime.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// Listens on a Unix socket. Must be called within a runtime.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !fs::symlink_metadata(path)?.file_type().is_socket() {
                    return Err(io::Error::other("there is a file of that name, which is no socket"));
                }
                if !is_abandoned(path).await {
                    return Err(error);
                }
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        Ok(Self::Unix(SocketFile::new(path)?, listener))
    }

    /// As in `server.listen`, with the port that the system chose.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
            }
            Self::Unix(SocketFile { path, .. }, _) => format!("unix:{}", path.display()),
        }
    }

    /// The TCP address.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The next connection, its client's end and ours. Cancel safe.
    pub async fn accept(&self) -> io::Result<(Stream, Address, Address)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr()?;
                stream.set_nodelay(true)?;
                keep_alive(&stream, KEEPALIVE)?;
                Ok((Stream::Tcp(stream), Address::Tcp(peer), Address::Tcp(local)))
            }
            Self::Unix(SocketFile { path, .. }, listener) => {
                let (stream, _) = listener.accept().await?;
                let address = Address::Unix(Arc::clone(path));
                Ok((Stream::Unix(stream), address.clone(), address))
            }
        }
    }
}

/// Whether nobody listens on a socket's file. A full backlog is somebody's.
async fn is_abandoned(path: &Path) -> bool {
    matches!(UnixStream::connect(path).await, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
