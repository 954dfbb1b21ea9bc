//! The upstream's own log of what was done, by MONITOR: is the authors' record true to it?
//!
//! What is judged and measured elsewhere stands on that record: which version came after which, and when. Here each
//! version is looked for in what Redis says it ran: in that order, and between the record's start and end.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::shapes::Place;
use crate::common::{Client, Redis};
use crate::history::recorder::{UNKNOWN, Written, nanoseconds, now};

const LAST_WORD: &str = "the log ends here";
/// The beginning of a line says which key and which version.
const LINE_BYTES_MAX: usize = 160;
/// The server stamps with the wall clock, which is slewed.
const SLACK: Duration = Duration::from_millis(2);

/// What was run on one key.
type Lines = Vec<(u64, String)>;

pub(crate) struct Log {
    lines: JoinHandle<HashMap<(String, String), Lines>>,
    redis: Client,
}

impl Log {
    pub(crate) fn follow(redis: &Redis) -> Self {
        let mut monitor = redis.client();
        monitor.expect(b"+OK\r\n", &["MONITOR"]);
        let (wall, origin) = (SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"), now());
        let lines = thread::spawn(move || {
            let mut lines: HashMap<_, Lines> = HashMap::new();
            loop {
                let line = String::from_utf8_lossy(&monitor.recv()).into_owned();
                if line.contains(LAST_WORD) {
                    return lines;
                }
                if let Some((time, database, key, words)) = parsed(&line) {
                    let time = (time + Duration::from_nanos(origin)).saturating_sub(wall);
                    lines.entry((database, key)).or_default().push((nanoseconds(time), words));
                }
            }
        });
        Self { lines, redis: redis.client() }
    }

    /// The number of versions that were found, or what is wrong with the record.
    pub(crate) fn check(mut self, record: &[(Place, Vec<Written>)]) -> Result<usize, String> {
        self.redis.cmd(&["ECHO", LAST_WORD]);
        let all = self.lines.join().expect("the log is read to its end");
        let mut found = 0;
        for (place, versions) in record {
            let lines = all.get(&(place.database.to_string(), place.name.clone()));
            let mut lines = lines.into_iter().flatten();
            for one in versions.iter().filter(|one| one.end != UNKNOWN) {
                let (word, number) = place.mark(one);
                let is_it = |line: &str| {
                    line.get(1..).is_some_and(|line| {
                        line.len() > word.len()
                            && line[..word.len()].eq_ignore_ascii_case(word)
                            && line[word.len()..].starts_with('"')
                            && number.is_none_or(|number| says(line, number))
                    })
                };
                let Some((time, line)) = lines.find(|(_, line)| is_it(line)) else {
                    return Err(format!("Redis did not run {one:?} of {place:?}, or not in its turn"));
                };
                let slack = nanoseconds(SLACK);
                if *time + slack < one.start || *time > one.end + slack {
                    return Err(format!("{one:?} of {place:?} was run at {time}: {line}"));
                }
                found += 1;
            }
        }
        Ok(found)
    }
}

/// Whether an argument is that number, or begins with it and a colon.
fn says(line: &str, number: u64) -> bool {
    let number = number.to_string();
    line.split('"')
        .any(|word| word.strip_prefix(&*number).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
}

/// Time since 1970, database, key and the beginning of the words.
fn parsed(line: &str) -> Option<(Duration, String, String, String)> {
    let (time, rest) = line.strip_prefix('+')?.split_once(" [")?;
    let (from, words) = rest.split_once("] ")?;
    let (seconds, microseconds) = time.split_once('.')?;
    let time = Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(microseconds.parse().ok()?);
    let mut arguments = words.split('"').skip(1).step_by(2);
    let name = arguments.next()?;
    let key = if name.eq_ignore_ascii_case("COPY") { arguments.nth(1)? } else { arguments.next()? };
    let database = from.split_once(' ')?.0;
    let words = words.chars().take(LINE_BYTES_MAX).collect();
    Some((time, database.to_owned(), key.to_owned(), words))
}
