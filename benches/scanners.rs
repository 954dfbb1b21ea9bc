//! What the scanners cost: requests and frames in batches, as they come off a socket.
//!
//! `cargo bench --bench scanners`: the throughput is in requests, or frames. `cargo bench -- --save-baseline NAME` keeps
//! figures, `-- --baseline NAME` compares with them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearhit::resp::{Limits, ReplyScanner, RequestScanner, Scanned, encode_request};

const BATCH: usize = 64;

criterion_group!(benches, requests, replies);
criterion_main!(benches);

/// Scans a batch and looks at every argument's first byte, as classifying a command does.
fn requests(criterion: &mut Criterion) {
    let value = "x".repeat(64);
    let shapes: [(&str, &[&str]); 4] = [
        ("GET", &["GET", "key:1"]),
        ("GET, key of 36 bytes", &["GET", "session:0123456789abcdef0123456789ab"]),
        ("SET, value of 64 bytes", &["SET", "key:1", &value]),
        ("MGET of 20 keys", &["key:1234567890"; 21]),
    ];
    let mut group = criterion.benchmark_group("requests");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, arguments) in shapes {
        let mut request = Vec::new();
        encode_request(arguments, &mut request);
        let batch = request.repeat(BATCH);
        let mut scanner = RequestScanner::new(Limits::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut sum = 0_u64;
                let mut rest = black_box(&batch[..]);
                while !rest.is_empty() {
                    let Ok(Scanned::Request { len }) = scanner.scan(rest, true) else {
                        panic!("a valid request")
                    };
                    for argument in scanner.args(rest).iter() {
                        sum += u64::from(argument[0]);
                    }
                    rest = &rest[len..];
                }
                sum
            });
        });
    }
}

fn replies(criterion: &mut Criterion) {
    let bulk = format!("$64\r\n{}\r\n", "x".repeat(64));
    let array = format!("*100\r\n{}", "$16\r\n0123456789abcdef\r\n".repeat(100));
    let shapes = [
        ("bulk string of 64 bytes", bulk.as_str()),
        ("+OK", "+OK\r\n"),
        ("integer", ":1234\r\n"),
        ("null", "$-1\r\n"),
        ("array of 100 bulk strings of 16 bytes", &array),
        ("invalidation push", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nkey:1\r\n"),
    ];
    let mut group = criterion.benchmark_group("replies");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, reply) in shapes {
        let batch = reply.as_bytes().repeat(BATCH);
        let mut scanner = ReplyScanner::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(&batch[..]);
                while !rest.is_empty() {
                    let Ok(Some(frame)) = scanner.scan(rest) else { panic!("a valid frame") };
                    rest = &rest[frame.len..];
                }
            });
        });
    }
}
