//! A TCP relay on loopback that puts distance between a client and a server: `relay PORT DELAY_US`.
//!
//! Prints the port it listens on. Whatever comes in goes on that much later, in order, in each direction: bytes are
//! delayed, never the bytes behind them as well, as on a long wire. Std alone, like `load.rs`, and a thread for each
//! end of each direction, since `thread::sleep` is precise to some 60 us where timers of runtimes tick in milliseconds.

use std::{
    env,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

const CHUNK_BYTES: usize = 64 * 1024;

type Chunk = (Instant, Vec<u8>);

fn main() {
    let words: Vec<u64> = env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [port, delay_us] = words[..] else {
        eprintln!("usage: relay PORT DELAY_US");
        process::exit(2)
    };
    let delay = Duration::from_micros(delay_us);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    println!("{}", listener.local_addr().expect("a bound socket").port());
    for client in listener.incoming().map_while(Result::ok) {
        // A dead server shows to the client as a connection that closes at once.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port as u16)) else { continue };
        if let (Ok(to_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) {
            carry(client, to_server, delay);
            carry(server, to_client, delay);
        }
    }
}

fn carry(source: TcpStream, sink: TcpStream, delay: Duration) {
    let _ = sink.set_nodelay(true);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || read(source, delay, &sender));
    thread::spawn(move || write(sink, &receiver));
}

fn read(mut source: TcpStream, delay: Duration, sender: &Sender<Chunk>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = source.read(&mut chunk) {
        if sender.send((Instant::now() + delay, chunk[..length].to_vec())).is_err() {
            break;
        }
    }
}

fn write(mut sink: TcpStream, receiver: &Receiver<Chunk>) {
    for (due, bytes) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if sink.write_all(&bytes).is_err() {
            break;
        }
    }
    // The end of a connection arrives like its bytes; the other direction sees it, too.
    let _ = sink.shutdown(Shutdown::Both);
}
