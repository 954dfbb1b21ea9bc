//! What the scanners cost: nanoseconds per request or frame, in batches as they come off a socket.
//!
//! `cargo bench --bench scanners`. A plain program rather than a statistics framework: it prints the median and the
//! best of a number of rounds, which is what a figure in the design is compared with.

use std::{hint::black_box, time::Instant};

use nearhit::resp::{Limits, ReplyScanner, RequestScanner, Scanned, encode_request};

const ROUNDS: usize = 101;
const OPERATIONS_PER_ROUND: usize = 100_000;

fn main() {
    requests("GET key:1", &["GET", "key:1"]);
    requests("GET, key of 36 bytes", &["GET", "session:0123456789abcdef0123456789ab"]);
    requests("SET, value of 64 bytes", &["SET", "key:1", &"x".repeat(64)]);
    requests("MGET of 20 keys", &vec!["key:1234567890"; 21]);
    let array = format!("*100\r\n{}", "$16\r\n0123456789abcdef\r\n".repeat(100));
    replies("bulk string of 64 bytes", &format!("$64\r\n{}\r\n", "x".repeat(64)));
    replies("+OK", "+OK\r\n");
    replies("integer", ":1234\r\n");
    replies("null", "$-1\r\n");
    replies("array of 100 bulk strings of 16 bytes", &array);
    replies("invalidation push", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nkey:1\r\n");
}

/// Scans a batch and looks at every argument's first byte, as classifying a command does.
fn requests(name: &str, arguments: &[&str]) {
    let mut request = Vec::new();
    encode_request(arguments, &mut request);
    let batch = request.repeat(64);
    let mut scanner = RequestScanner::new(Limits::default());
    report(&format!("request: {name}"), || {
        let mut sum = 0_u64;
        let mut rest = black_box(&batch[..]);
        while !rest.is_empty() {
            let Ok(Scanned::Request { len }) = scanner.scan(rest, true) else { panic!("a valid request") };
            for argument in scanner.args(rest).iter() {
                sum += u64::from(argument[0]);
            }
            rest = &rest[len..];
        }
        black_box(sum);
        64
    });
}

fn replies(name: &str, reply: &str) {
    let batch = reply.as_bytes().repeat(64);
    let mut scanner = ReplyScanner::new();
    report(&format!("reply: {name}"), || {
        let mut rest = black_box(&batch[..]);
        while !rest.is_empty() {
            let Ok(Some(frame)) = scanner.scan(rest) else { panic!("a valid frame") };
            rest = &rest[frame.len..];
        }
        64
    });
}

/// Times `run`, which returns how many operations it did.
fn report(name: &str, mut run: impl FnMut() -> usize) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            let mut operations = 0;
            while operations < OPERATIONS_PER_ROUND {
                operations += run();
            }
            begin.elapsed().as_secs_f64() * 1e9 / operations as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<50} {:8.1} ns median {:8.1} ns best", rounds[ROUNDS / 2], rounds[0]);
}
