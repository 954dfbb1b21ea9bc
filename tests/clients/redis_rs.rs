//! What the workloads of redis-rs share: how they connect, how often they run, and how long they wait.

use std::time::Duration;

use redis::{Client, RedisResult, Value};

use crate::pair::{Login, Place, USER};
use crate::transcript::Transcript;

/// A reply that takes longer is lost. redis-rs gives an answer on tokio half a second, which a busy machine takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks, and before something is written that somebody should wait for.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(30);
/// How often what comes by itself is looked for, a moment apart.
pub(crate) const POLLS_MAX: usize = 600;
/// The same reads again, for the cache.
pub(crate) const HOT_PASSES: usize = 30;
/// Concurrent writers of one key, and how often each adds to it.
pub(crate) const WORKERS: usize = 4;
pub(crate) const INCREMENTS: usize = 8;

/// The protocol as the query of a redis-rs URL names it.
pub(crate) type Protocol = &'static str;

/// A client of a database, as the login of the place asks for.
pub(crate) fn open(place: Place, protocol: Protocol, database: u8) -> Client {
    let login = match place.login {
        Login::Nobody => String::new(),
        Login::User => format!("{}:{}@", USER.0, USER.1),
    };
    open_as(place, protocol, &login, database)
}

/// The same with a login of its own, `name:password@`.
pub(crate) fn open_as(place: Place, protocol: Protocol, login: &str, database: u8) -> Client {
    let url = format!("redis://{login}{}/{database}?protocol={protocol}", place.address);
    Client::open(url).expect("a URL as redis-rs documents it")
}

/// Runs a workload twice on an emptied server; the second time meets what the first has left in a cache between.
pub(crate) fn rounds(
    place: Place,
    protocol: Protocol,
    workload: impl Fn(&mut Transcript, Place, Protocol),
) -> Vec<String> {
    let mut transcript = Transcript::default();
    for round in 0..2 {
        transcript.round(round);
        let mut cleaner = open(place, protocol, 0).get_connection().expect("the server is there");
        for clean in [["FLUSHALL", "SYNC"], ["SCRIPT", "FLUSH"]] {
            let done: RedisResult<Value> = redis::cmd(clean[0]).arg(clean[1]).query(&mut cleaner);
            transcript.take(clean[0], done);
        }
        workload(&mut transcript, place, protocol);
    }
    transcript.into_lines()
}
