//! Whether an update is lost between two proxies: some add one to a counter that they watch through one proxy or the
//! other, others add past both, and swarms keep the counter in the memory of either. In the end the sum must be right.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::{HIT_SHARE_MIN, LINK_DELAY_MS, SLOW_LINK, start_proxy, start_servers};
use crate::common::resp::{payload, shown};
use crate::common::{Client, Relay};
use crate::history::run::{HitShare, drawn, found_by_auditor, turn};
use crate::history::trouble::Trouble;

const KEY: &str = "counter";
const READ_PAUSE: Duration = Duration::from_micros(300);
const ADD_PAUSE_MS: std::ops::Range<u64> = 10..60;
const OUTSIDE_PAUSE_MS: std::ops::Range<u64> = 20..120;

/// Plays it for its time, prints what was done, and panics if an update was lost.
#[track_caller]
pub(crate) fn play() {
    let (seed, lasts) = drawn();
    let _turn = turn(Trouble::None);
    let servers = start_servers(&SLOW_LINK);
    let relay = Relay::to(servers[0].addr());
    let proxies = [(); 2].map(|()| start_proxy(&SLOW_LINK, &servers[0], &relay, None));
    relay.link().delay(0, LINK_DELAY_MS);
    let is_over = AtomicBool::new(false);
    let [reads, added, refused] = [const { AtomicU64::new(0) }; 3];
    let mut random = Rng::with_seed(seed);
    thread::scope(|scope| {
        for proxy in &proxies {
            for protocol in [2, 3] {
                let mut random = random.fork();
                let (is_over, reads, added, refused) = (&is_over, &reads, &added, &refused);
                scope.spawn(move || {
                    let mut client = proxy.client();
                    client.hello(protocol);
                    while !is_over.load(Relaxed) {
                        thread::sleep(Duration::from_millis(random.u64(ADD_PAUSE_MS)));
                        let is_added = add(&mut client);
                        [refused, added][usize::from(is_added)].fetch_add(1, Relaxed);
                    }
                });
                scope.spawn(move || {
                    let mut client = proxy.client();
                    while !is_over.load(Relaxed) {
                        number(&client.cmd(&["GET", KEY]));
                        reads.fetch_add(1, Relaxed);
                        thread::sleep(READ_PAUSE);
                    }
                });
            }
        }
        scope.spawn(|| {
            let mut outside = servers[0].client();
            while !is_over.load(Relaxed) {
                thread::sleep(Duration::from_millis(random.u64(OUTSIDE_PAUSE_MS)));
                outside.cmd(&["INCR", KEY]);
                added.fetch_add(1, Relaxed);
            }
        });
        thread::sleep(lasts);
        is_over.store(true, Relaxed);
    });
    let sum = number(&servers[0].client().cmd(&["GET", KEY]));
    let [reads, added, refused] = [reads, added, refused].map(AtomicU64::into_inner);
    let shares = proxies.each_ref().map(HitShare::of);
    println!(
        "Counter with TwoProxies: seed {seed}, {reads} reads and {added} writes ({refused} refused), {}; {}",
        shares[0], shares[1]
    );
    assert_eq!(proxies.iter().find_map(found_by_auditor), None);
    assert_eq!(sum, added, "an update was lost: the counter, and how often one was added");
    assert!(
        shares.iter().all(|share| share.ratio() >= HIT_SHARE_MIN),
        "the cache was hardly used: {shares:?}"
    );
}

/// Whether nobody else had written since it was watched.
fn add(client: &mut Client) -> bool {
    client.expect(b"+OK\r\n", &["WATCH", KEY]);
    let next = (number(&client.cmd(&["GET", KEY])) + 1).to_string();
    client.expect(b"+OK\r\n", &["MULTI"]);
    client.expect(b"+QUEUED\r\n", &["SET", KEY, &next]);
    let done = client.cmd(&["EXEC"]);
    let is_added = done.starts_with(b"*1\r\n+OK");
    assert!(is_added || matches!(&*done, b"*-1\r\n" | b"_\r\n"), "EXEC answered {}", shown(&done));
    is_added
}

/// Nothing counts as zero.
fn number(frame: &[u8]) -> u64 {
    if frame.starts_with(b"$-1") || frame[0] == b'_' {
        return 0;
    }
    let text = String::from_utf8_lossy(payload(frame));
    text.parse().unwrap_or_else(|_| panic!("no number: {}", shown(frame)))
}
