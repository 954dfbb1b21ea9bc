//! A TCP relay on loopback that fails on demand: it delays, holds back, swallows, cuts and refuses.
//!
//! It stands between the proxy and Redis (or a client and the proxy) and knows nothing of the protocol but one
//! word: a connection whose client has said TRACKING is the proxy's invalidation link, and one that calls itself a
//! subscription is shared by subscribers. Faults can therefore be put on the link alone, on those alone, on all
//! others, or on all, which is how a test forces the order of a reply and the invalidation that belongs to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const CHUNK_BYTES: usize = 64 * 1024;
/// How often a held direction looks whether it may go on.
const HOLD_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// What a client sends to turn a connection into an invalidation link.
const LINK_WORD: &[u8] = b"TRACKING";
/// The name that the proxy gives its shared connections.
const LANE_WORD: &[u8] = b"nearhit-lane";
/// And the connections that subscribers share.
const HUB_WORD: &[u8] = b"nearhit-subscription";

/// A relay to one target. Dropping it closes the listener and every connection.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// The connections that a fault is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The proxy's invalidation link.
    Link,
    /// The connections that its subscribers share.
    Hub,
    /// Lanes, pools, control connections.
    Others,
}

/// Faults on one or both scopes of connections.
pub(crate) struct Faults<'a> {
    shared: &'a Shared,
    scopes: &'static [Scope],
}

struct Shared {
    target: Mutex<SocketAddr>,
    closed: AtomicBool,
    refusing: AtomicBool,
    link: Switches,
    hubs: Switches,
    others: Switches,
    connections: Mutex<Vec<Arc<Connection>>>,
}

#[derive(Default)]
struct Switches {
    delay_up_ms: AtomicU64,
    delay_down_ms: AtomicU64,
    hold_up: AtomicBool,
    hold_down: AtomicBool,
    black_hole: AtomicBool,
    bytewise: AtomicBool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    is_link: AtomicBool,
    is_lane: AtomicBool,
    is_hub: AtomicBool,
    /// Set for good: what fell into a black hole is missing from the stream, so the stream can never go on.
    lost: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl Relay {
    #[track_caller]
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            closed: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            link: Switches::default(),
            hubs: Switches::default(),
            others: Switches::default(),
            connections: Mutex::default(),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || acceptor.accept(&listener));
        Self { address, shared }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn all(&self) -> Faults<'_> {
        Faults { shared: &self.shared, scopes: &[Scope::Link, Scope::Hub, Scope::Others] }
    }

    pub(crate) fn link(&self) -> Faults<'_> {
        Faults { shared: &self.shared, scopes: &[Scope::Link] }
    }

    pub(crate) fn hubs(&self) -> Faults<'_> {
        Faults { shared: &self.shared, scopes: &[Scope::Hub] }
    }

    /// All but the link.
    pub(crate) fn others(&self) -> Faults<'_> {
        Faults { shared: &self.shared, scopes: &[Scope::Hub, Scope::Others] }
    }

    /// Sends new connections elsewhere, as a name that has moved does; those that stand stay where they are.
    pub(crate) fn move_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Where new connections go.
    pub(crate) fn target(&self) -> SocketAddr {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Swallows everything on one of the proxy's shared connections, for good; `false` if there is none.
    pub(crate) fn lose_a_lane(&self) -> bool {
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = connections.iter().filter(|one| one.is_lane.load(SeqCst) && !one.lost.load(SeqCst));
        let lane = fastrand::choice(lanes.collect::<Vec<_>>());
        lane.inspect(|lane| lane.lost.store(true, SeqCst)).is_some()
    }

    /// Whether new connections are closed as soon as they come.
    pub(crate) fn refuse(&self, on: bool) {
        self.shared.refusing.store(on, SeqCst);
    }
}

impl Faults<'_> {
    /// Every byte arrives so much later, in each direction. Order is kept.
    pub(crate) fn delay(&self, up_ms: u64, down_ms: u64) {
        for switches in self.switches() {
            switches.delay_up_ms.store(up_ms, SeqCst);
            switches.delay_down_ms.store(down_ms, SeqCst);
        }
    }

    /// Holds back what the server sends; nothing is lost, and `hold_down(false)` delivers it.
    pub(crate) fn hold_down(&self, on: bool) {
        self.switches().for_each(|switches| switches.hold_down.store(on, SeqCst));
    }

    /// Holds back what the client sends.
    pub(crate) fn hold_up(&self, on: bool) {
        self.switches().for_each(|switches| switches.hold_up.store(on, SeqCst));
    }

    /// Each byte becomes a segment of its own, in both directions.
    pub(crate) fn bytewise(&self, on: bool) {
        self.switches().for_each(|switches| switches.bytewise.store(on, SeqCst));
    }

    /// Swallows everything while connections seem to stand, as a firewall that forgot a flow does. Connections that
    /// were in it stay dead when it is over; new ones work again.
    pub(crate) fn black_hole(&self, on: bool) {
        if on {
            self.each_connection(|connection| connection.lost.store(true, SeqCst));
        }
        self.switches().for_each(|switches| switches.black_hole.store(on, SeqCst));
    }

    /// Closes the connections that stand now, on both sides.
    pub(crate) fn cut(&self) {
        self.each_connection(Connection::close);
    }

    /// How many connections stand.
    pub(crate) fn count(&self) -> usize {
        let mut count = 0;
        self.each_connection(|_| count += 1);
        count
    }

    fn switches(&self) -> impl Iterator<Item = &Switches> {
        self.scopes.iter().map(|scope| self.shared.switches(*scope))
    }

    fn each_connection(&self, mut act: impl FnMut(&Connection)) {
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().filter(|one| self.scopes.contains(&one.scope())).for_each(|one| act(one));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        // The acceptor sits in accept(); a last connection wakes it, and it finds the relay closed.
        let _ = TcpStream::connect(self.address);
        self.all().cut();
    }
}

impl Shared {
    fn switches(&self, scope: Scope) -> &Switches {
        match scope {
            Scope::Link => &self.link,
            Scope::Hub => &self.hubs,
            Scope::Others => &self.others,
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.closed.load(SeqCst) {
                return;
            }
            if !self.refusing.load(SeqCst) {
                // A dead target shows to the client as a connection that closes at once.
                let _ = self.join(client);
            }
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let server = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let lost = AtomicBool::new(self.others.black_hole.load(SeqCst));
        let [is_link, is_lane, is_hub] = [false; 3].map(AtomicBool::new);
        let connection = Arc::new(Connection { client, server, is_link, is_lane, is_hub, lost });
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&connection));
        for direction in [Direction::Up, Direction::Down] {
            let (sender, receiver) = mpsc::channel();
            let (shared, one) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || shared.read(&one, direction, &sender));
            let (shared, one) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || shared.write(&one, direction, &receiver));
        }
        Ok(())
    }

    fn read(&self, connection: &Arc<Connection>, direction: Direction, sender: &Sender<(Instant, Vec<u8>)>) {
        let mut source = connection.source(direction);
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = source.read(&mut chunk) {
            let bytes = chunk[..length].to_vec();
            if direction == Direction::Up && memchr::memmem::find(&bytes, LINK_WORD).is_some() {
                connection.is_link.store(true, SeqCst);
            }
            if direction == Direction::Up && memchr::memmem::find(&bytes, LANE_WORD).is_some() {
                connection.is_lane.store(true, SeqCst);
            }
            if direction == Direction::Up && memchr::memmem::find(&bytes, HUB_WORD).is_some() {
                connection.is_hub.store(true, SeqCst);
            }
            let switches = self.switches(connection.scope());
            if switches.black_hole.load(SeqCst) {
                connection.lost.store(true, SeqCst);
            }
            let delay_ms = match direction {
                Direction::Up => switches.delay_up_ms.load(SeqCst),
                Direction::Down => switches.delay_down_ms.load(SeqCst),
            };
            if sender.send((Instant::now() + Duration::from_millis(delay_ms), bytes)).is_err() {
                break;
            }
        }
        // The sender drops here, and the writer closes the connection once it has delivered what is on its way.
    }

    fn write(
        &self,
        connection: &Arc<Connection>,
        direction: Direction,
        receiver: &Receiver<(Instant, Vec<u8>)>,
    ) {
        let mut sink = connection.sink(direction);
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            while self.holds(connection, direction) && !self.closed.load(SeqCst) {
                thread::sleep(HOLD_POLL_INTERVAL);
            }
            let is_bytewise = self.switches(connection.scope()).bytewise.load(SeqCst);
            let mut pieces = bytes.chunks(if is_bytewise { 1 } else { bytes.len() });
            if !connection.lost.load(SeqCst) && pieces.any(|piece| sink.write_all(piece).is_err()) {
                break;
            }
        }
        // In a black hole not even the end of a connection gets through.
        if !connection.lost.load(SeqCst) {
            connection.close();
        }
        self.forget(connection);
    }

    fn holds(&self, connection: &Connection, direction: Direction) -> bool {
        let switches = self.switches(connection.scope());
        match direction {
            Direction::Up => switches.hold_up.load(SeqCst),
            Direction::Down => switches.hold_down.load(SeqCst),
        }
    }

    fn forget(&self, connection: &Arc<Connection>) {
        if !connection.lost.load(SeqCst) {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.retain(|one| !Arc::ptr_eq(one, connection));
        }
    }
}

impl Connection {
    fn scope(&self) -> Scope {
        match (self.is_link.load(SeqCst), self.is_hub.load(SeqCst)) {
            (true, _) => Scope::Link,
            (_, true) => Scope::Hub,
            _ => Scope::Others,
        }
    }

    fn source(&self, direction: Direction) -> &TcpStream {
        match direction {
            Direction::Up => &self.client,
            Direction::Down => &self.server,
        }
    }

    fn sink(&self, direction: Direction) -> &TcpStream {
        match direction {
            Direction::Up => &self.server,
            Direction::Down => &self.client,
        }
    }

    fn close(&self) {
        // Either half may be closed already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}
