//! The invalidation link: one connection, on a thread of its own, on which the server names every key that changes.
//!
//! It runs apart from the workers so that a busy worker never delays everybody's freshness. It applies each push
//! before it looks at the next frame, and asks ECHO after ECHO while somebody waits for certainty, else every
//! quarter of `max_staleness`. It never answers a client and never reads a value.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Coherence,
    state::{Answer, Heartbeat, Phase},
};
use crate::{
    clock,
    ids::Database,
    net::Stream,
    resp::{FrameKind, Protocol, ReplyScanner, encode_request, reply},
    upstream::{
        backoff::backoff,
        connection::{DialError, Dialer, Profile},
        health::Health,
        identity::Identity,
    },
};

/// After an error answer (-BUSY) the next ECHO waits this long, instead of asking a busy server again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A server without tracking is asked again after this long, or when it turns out to be another process.
const UNSUPPORTED_RETRY: Duration = Duration::from_mins(1);

/// What the link needs to be dialled and kept.
pub struct Settings {
    /// Where the upstream is.
    pub dialer: Arc<Dialer>,
    /// Whose connection the link is.
    pub identity: Arc<Identity>,
    /// Whether it is worth trying.
    pub health: Arc<Health>,
    /// Prefixes to track; empty: every key.
    pub prefixes: Vec<bytes::Bytes>,
    /// After the lease has lapsed, the link counts as lost after this long without an answer.
    pub fence_timeout: Duration,
    /// Backoff between attempts.
    pub backoff: (Duration, Duration),
}

#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    #[error("the server closed the link")]
    Closed,
    #[error("no answer to ECHO within {0:?} (cache.max_staleness and coherence.fence_timeout)")]
    Silent(Duration),
    #[error("ECHO was answered by errors alone for {0:?} while replies waited for it: {1}")]
    Refusing(Duration, String),
    #[error("{0}")]
    Unfit(String),
    #[error("the control user may not do what the link needs: {0}")]
    Forbidden(String),
    #[error("the server has no tracking: {0}")]
    Unsupported(String),
}

impl LinkError {
    /// Whether the upstream itself may be gone; else it is there, and does not suit.
    fn is_of_the_network(&self) -> bool {
        match self {
            Self::Io(_) | Self::Closed | Self::Silent(_) => true,
            Self::Dial(error) => error.no_connection().is_some(),
            Self::Refusing(..) | Self::Unfit(_) | Self::Forbidden(_) | Self::Unsupported(_) => false,
        }
    }
}

/// Keeps the link, for ever.
pub async fn run<W>(coherence: Arc<Coherence<W>>, settings: Settings) {
    let mut failures = 0;
    let mut told = None;
    loop {
        settings.health.wait_until_up().await;
        let began = clock::now();
        let Err(error) = serve(&coherence, &settings).await;
        if let LinkError::Unsupported(reason) = &error {
            coherence.tracking_unavailable(reason);
            tokio::select! {
                () = sleep(UNSUPPORTED_RETRY) => {}
                () = coherence.relink_wanted() => {}
            }
            continue;
        }
        let reason = error.to_string();
        coherence.link_lost(&reason);
        tracing::debug!(reason, "link attempt ended");
        if error.is_of_the_network() {
            settings.health.suspect("the link was lost");
        } else if told.as_ref() != Some(&reason) {
            // The next attempts fail likewise until somebody mends it: it is told once.
            tracing::warn!(reason, "there is no link, so nothing is answered from memory");
            told = Some(reason);
        }
        let lasted = clock::now().since(began) > settings.backoff.1;
        failures = if lasted { 0 } else { failures + 1 };
        sleep(backoff(failures, settings.backoff)).await;
    }
}

/// One life of the link.
async fn serve<W>(
    coherence: &Coherence<W>,
    settings: &Settings,
) -> Result<std::convert::Infallible, LinkError> {
    let profile = Profile {
        identity: Arc::clone(&settings.identity),
        database: Database(0),
        protocol: Protocol::Resp3,
    };
    let connection = settings.dialer.open(profile, "nearhit-link").await.map_err(unsupported_hello)?;
    settings.health.reached();
    let greeting = connection.greeting;
    if greeting.server == crate::ids::ServerId::UNKNOWN {
        return Err(LinkError::Unfit("the control user may not ask INFO, so no lane can be matched".into()));
    }
    if greeting.role != "master" {
        return Err(LinkError::Unfit(format!(
            "the upstream is a {}, whose reads are never cached",
            greeting.role
        )));
    }
    let mut link = Link {
        coherence,
        stream: connection.stream,
        heartbeat: Heartbeat::default(),
        expected: VecDeque::new(),
        echo_number: 0,
        next_echo: Instant::now(),
        paused_until: Instant::now(),
        server: greeting.server,
        patience: coherence.certifier().max_staleness() + settings.fence_timeout,
    };
    link.start_tracking(&settings.prefixes).await?;
    let interval = coherence.certifier().max_staleness() / 4;
    let patience = link.patience;
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let mut scanner = ReplyScanner::new();
    loop {
        buffer.reserve(scanner.bytes_wanted().max(16 * 1024));
        let due = link.due(patience);
        tokio::select! {
            biased;
            read = link.stream.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Err(LinkError::Closed);
                }
                link.apply(&mut buffer, &mut scanner, interval)?;
                if coherence.certifier().is_wanted() {
                    link.echo_now().await?;
                }
            }
            () = coherence.certifier().wanted() => link.echo_now().await?,
            () = coherence.relink_wanted() => {
                return Err(LinkError::Unfit("the upstream is another server process, or has another role".into()));
            }
            () = sleep_until(due) => {
                if !link.expected.is_empty() {
                    return Err(LinkError::Silent(patience));
                }
                link.echo().await?;
            }
        }
    }
}

/// HELLO 3 is as old as CLIENT TRACKING: a server that does not know it cannot track.
fn unsupported_hello(error: DialError) -> LinkError {
    match &error {
        DialError::Refused(raw) if raw.starts_with(b"-ERR unknown command") => {
            LinkError::Unsupported(error.to_string())
        }
        _ => LinkError::Dial(error),
    }
}

/// What a reply on the link answers.
enum Expected {
    Tracking,
    NoEvict,
    Echo,
}

struct Link<'a, W> {
    coherence: &'a Coherence<W>,
    stream: Stream,
    heartbeat: Heartbeat,
    /// What is unanswered, and when it was asked.
    expected: VecDeque<(Expected, Instant)>,
    echo_number: u64,
    next_echo: Instant,
    paused_until: Instant,
    server: crate::ids::ServerId,
    /// How long nothing may be certified while somebody waits for it.
    patience: Duration,
}

impl<W> Link<'_, W> {
    async fn start_tracking(&mut self, prefixes: &[bytes::Bytes]) -> Result<(), LinkError> {
        let mut tracking: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON", b"BCAST"];
        for prefix in prefixes {
            tracking.extend([&b"PREFIX"[..], prefix]);
        }
        let mut request = Vec::new();
        encode_request(tracking, &mut request);
        encode_request([&b"CLIENT"[..], b"NO-EVICT", b"ON"], &mut request);
        self.expected
            .extend([Expected::Tracking, Expected::NoEvict].map(|expected| (expected, Instant::now())));
        self.stream.write_all(&request).await?;
        Ok(())
    }

    /// When the loop must look again: at the end of patience with what is outstanding, or for the next ECHO.
    fn due(&self, patience: Duration) -> Instant {
        self.expected.front().map_or(self.next_echo, |(_, asked)| *asked + patience)
    }

    /// Asks without waiting for the next heartbeat, unless a question is outstanding or an error wants a pause.
    async fn echo_now(&mut self) -> Result<(), LinkError> {
        if self.expected.is_empty() && Instant::now() >= self.paused_until {
            self.echo().await
        } else {
            Ok(())
        }
    }

    async fn echo(&mut self) -> Result<(), LinkError> {
        self.echo_number += 1;
        let mut request = Vec::with_capacity(48);
        encode_request([&b"ECHO"[..], self.echo_number.to_string().as_bytes()], &mut request);
        // The clock is read before the write: what is certified is never later than what was asked.
        self.heartbeat.sent(clock::now());
        self.expected.push_back((Expected::Echo, Instant::now()));
        self.stream.write_all(&request).await?;
        Ok(())
    }

    /// Applies every complete frame, strictly in order.
    fn apply(
        &mut self,
        buffer: &mut BytesMut,
        scanner: &mut ReplyScanner,
        interval: Duration,
    ) -> Result<(), LinkError> {
        let mut start = 0;
        while let Some(frame) =
            scanner.scan(&buffer[start..]).map_err(|error| LinkError::Unfit(error.to_string()))?
        {
            let raw = &buffer[start..start + frame.len];
            match frame.kind {
                FrameKind::Push => self.invalidate(raw),
                FrameKind::Reply => self.answered(raw, interval)?,
            }
            start += frame.len;
        }
        buffer.advance(start);
        Ok(())
    }

    /// `["invalidate", [key...]]`, or a null in place of the keys for "everything" (`_`, and `$-1` of some servers).
    fn invalidate(&self, raw: &[u8]) {
        let Some(mut elements) = reply::elements(raw) else { return };
        if elements.next().and_then(reply::bulk) != Some(b"invalidate") {
            return;
        }
        let Some(keys) = elements.next() else { return };
        match reply::elements(keys) {
            Some(keys) => keys.filter_map(reply::bulk).for_each(|key| self.coherence.link_invalidated(key)),
            None => self.coherence.link_invalidated_all(),
        }
    }

    fn answered(&mut self, raw: &[u8], interval: Duration) -> Result<(), LinkError> {
        match self.expected.pop_front().map(|(expected, _)| expected) {
            Some(Expected::Tracking) if reply::is_error(raw) => Err(tracking_refused(raw)),
            Some(Expected::Tracking) => {
                self.coherence.link_synced(self.server);
                self.next_echo = Instant::now();
                Ok(())
            }
            Some(Expected::NoEvict) => {
                if reply::is_error(raw) {
                    tracing::info!(answer = %text(raw), "CLIENT NO-EVICT was refused: client eviction may cut the link");
                }
                Ok(())
            }
            Some(Expected::Echo) => {
                let answer = if reply::is_error(raw) { Answer::Error } else { Answer::Echo };
                let now = Instant::now();
                self.next_echo = now + interval;
                if answer == Answer::Error {
                    self.paused_until = now + ERROR_PAUSE;
                    self.next_echo = self.paused_until;
                    self.bear(raw)?;
                }
                if let Some(moment) = self.heartbeat.answered(answer, clock::now()) {
                    self.coherence.link_certified(moment);
                } else if answer == Answer::Echo {
                    // Half a proof: the other half is asked for at once.
                    self.next_echo = now;
                }
                Ok(())
            }
            None => Err(LinkError::Unfit("an answer that nobody asked for".into())),
        }
    }
}

impl<W> Link<'_, W> {
    /// An ECHO was refused. That may pass (-BUSY), but a fence must end: it does not wait for longer than for a server
    /// that says nothing. A user who may not ask will never be allowed to while the link stands.
    fn bear(&self, raw: &[u8]) -> Result<(), LinkError> {
        if reply::error_code(raw) == Some(b"NOPERM") {
            return Err(LinkError::Forbidden(text(raw)));
        }
        let certifier = self.coherence.certifier();
        let has_lapsed = clock::now() > certifier.certified() + self.patience;
        if has_lapsed && certifier.phase() == Phase::Live && certifier.is_wanted() {
            return Err(LinkError::Refusing(self.patience, text(raw)));
        }
        Ok(())
    }
}

/// A server that does not know the command differs from a user that may not use it: the first will never
/// track, the second is a mistake to be mended, and until then nothing is cached.
fn tracking_refused(raw: &[u8]) -> LinkError {
    let said = text(raw);
    let lower = said.to_ascii_lowercase();
    if lower.contains("unknown") || lower.contains("syntax error") || lower.contains("try client help") {
        LinkError::Unsupported(said)
    } else {
        LinkError::Forbidden(said)
    }
}

fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).trim_start_matches('-').trim_end().to_owned()
}
