//! A client before it has a session: counted, greeted where TLS is spoken, and given to its worker.
//!
//! A handshake is awaited by a task of its own on a thread of its own, so that a client that connects and says nothing
//! keeps nobody waiting; it counts as a client meanwhile. Whoever is not greeted in time, or not as `server.tls` demands,
//! never reaches a worker: no command of his is read.

use std::{io, net::TcpStream as StdTcpStream, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::spawn_local,
    time::timeout,
};

use super::{
    registry::ClientInfo,
    worker::{Mail, Shared},
};
use crate::{
    clock,
    net::{Address, Resting, Stream, certificates::Current, tls::TlsStream},
};

/// A client that has not been greeted after this long is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where clients go that have to be greeted first; `server.max_clients` bounds them.
pub type Greeter = UnboundedSender<(io::Result<StdTcpStream>, Arrival)>;

/// Admits a client that has just connected, or turns it away. Called on the control thread.
pub fn admit(stream: Stream, peer: Address, local: Address, greeter: Option<&Greeter>, shared: &Arc<Shared>) {
    let counters = shared.metrics.control();
    counters.connections_received.add(1);
    if shared.registry.len() >= shared.config.server.max_clients {
        counters.connections_rejected.add(1);
        let (_read, write) = stream.into_split();
        if greeter.is_none() {
            // Redis's own words; a client that does not take them is closed all the same.
            let _ = write.try_write(b"-ERR max number of clients reached\r\n");
        }
        return;
    }
    let info = shared.registry.enter(peer, local, clock::now());
    let arrival = Arrival { info: Some(info), shared: Arc::clone(shared) };
    match (greeter, stream) {
        // If it has ended, so has the arrival.
        (Some(greeter), Stream::Tcp(socket)) => drop(greeter.send((socket.into_std(), arrival))),
        (_, stream) => arrival.hand_over(stream.rest()),
    }
}

/// A client that no worker has yet: dropped, it is struck off.
pub struct Arrival {
    info: Option<Arc<ClientInfo>>,
    shared: Arc<Shared>,
}

impl Arrival {
    fn hand_over(mut self, stream: io::Result<Resting>) {
        if let (Ok(stream), Some(info)) = (stream, &self.info)
            && self.shared.mailboxes[info.worker.0].send(Mail::Client(stream, info.id)).is_ok()
        {
            self.info = None;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(info) = &self.info {
            self.shared.registry.remove(info.id);
        }
    }
}

/// Greets all that come, until the last listener has gone; whoever has not been greeted by then is dropped. Must be called
/// within a `LocalSet`.
pub async fn greet_all(
    mut arrivals: UnboundedReceiver<(io::Result<StdTcpStream>, Arrival)>,
    tls: Arc<Current<ServerConfig>>,
) {
    while let Some((socket, arrival)) = arrivals.recv().await {
        spawn_local(greet(socket, arrival, tls.get()));
    }
}

async fn greet(socket: io::Result<StdTcpStream>, arrival: Arrival, tls: Arc<ServerConfig>) {
    let greeting = async { TlsStream::accept(TcpStream::from_std(socket?)?, tls).await };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
    match timeout(HANDSHAKE_TIMEOUT, greeting).await.unwrap_or_else(late) {
        Ok(stream) => arrival.hand_over(stream.rest().map(Resting::Tls)),
        Err(error) => {
            arrival.shared.metrics.handshakes().handshakes_failed.add(1);
            let peer = arrival.info.as_ref().map(|info| info.peer.to_string()).unwrap_or_default();
            tracing::info!(peer, %error, "TLS handshake failed");
        }
    }
}
