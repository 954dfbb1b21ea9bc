//! How often an address may fail to authenticate.
//!
//! The upstream judges every user and password, on a connection dialled for it, so that wrong ones would be a way to
//! tire it out. Each address has [`AT_ONCE_MAX`] places; an attempt takes one, gives it back at once if it succeeds,
//! and keeps it for `FAILURE_PAUSE` if it fails. Who finds none waits in line, since behind one address (a NAT, a
//! machine with many applications) there may be others than the one that fails; and who brings what the upstream has
//! accepted from that user before needs no place (`Identities::knows`), so that nobody's wrong password locks out
//! an application that runs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::spawn_local,
    time::{sleep, timeout},
};

/// Attempts of one address that are under way or have failed a short while ago.
pub const AT_ONCE_MAX: usize = 20;

/// How long a failure keeps its place: five failures a second, in the long run.
const FAILURE_PAUSE: Duration = Duration::from_secs(4);

/// How long an attempt waits for a place before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Addresses that are told apart; those beyond share one account.
const SOURCES_MAX: usize = 10_000;

/// The account of all for whom there is none.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// Judgements under way at a time, for all clients: when nearhit or the upstream has been restarted all come at once, and
/// the upstream accepts only so many connections ahead.
const JUDGED_AT_ONCE_MAX: usize = 64;

/// The attempts that are under way or have failed lately.
#[derive(Debug)]
pub struct Attempts {
    /// The places of each address.
    sources: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
    turns: Semaphore,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { sources: Mutex::default(), turns: Semaphore::new(JUDGED_AT_ONCE_MAX) }
    }
}

/// Leave for one attempt. Dropped, it is there for the next.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

impl Attempts {
    /// Waits in line for a place; `None`: too many attempts from this address have failed. Cancel safe.
    pub(super) async fn wait(&self, from: IpAddr) -> Option<Place> {
        timeout(WAIT_MAX, self.places(from).acquire_owned()).await.ok()?.ok().map(Place)
    }

    /// A place, if there is one now.
    pub(super) fn try_take(&self, from: IpAddr) -> Option<Place> {
        self.places(from).try_acquire_owned().ok().map(Place)
    }

    /// Waits until the upstream may be asked. Cancel safe.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it, so there always is one.
        self.turns.acquire().await.ok()
    }

    fn places(&self, from: IpAddr) -> Arc<Semaphore> {
        let mut all = self.sources.lock();
        let from = source(from);
        if all.len() >= SOURCES_MAX && !all.contains_key(&from) {
            all.retain(|_, places| Arc::strong_count(places) > 1 || places.available_permits() < AT_ONCE_MAX);
        }
        let from = if all.len() >= SOURCES_MAX && !all.contains_key(&from) { OTHERS } else { from };
        Arc::clone(all.entry(from).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_MAX))))
    }
}

impl Place {
    /// The attempt has failed.
    pub(super) fn keep(self) {
        spawn_local(async move {
            sleep(FAILURE_PAUSE).await;
            drop(self);
        });
    }
}

/// Whoever has an IPv6 address has a whole network of them.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_address_has_so_many_places_and_others_have_their_own() {
        let attempts = Attempts::default();
        let mut taken: Vec<_> = (0..AT_ONCE_MAX).map_while(|_| attempts.try_take(address(1))).collect();
        assert_eq!(taken.len(), AT_ONCE_MAX);
        assert!(attempts.try_take(address(1)).is_none());
        assert!(attempts.try_take(address(2)).is_some());
        taken.pop();
        assert!(attempts.try_take(address(1)).is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:127.0.0.1"), source("127.0.0.1"));
    }

    #[test]
    fn addresses_without_end_take_no_memory_without_end() {
        let attempts = Attempts::default();
        let sources = u32::try_from(SOURCES_MAX).unwrap();
        let held: Vec<_> = (0..sources).map(|number| attempts.try_take(address(number))).collect();
        assert!(held.iter().all(Option::is_some));
        let more: Vec<_> = (0..100).map(|number| attempts.try_take(address(sources + number))).collect();
        assert_eq!(more.iter().flatten().count(), AT_ONCE_MAX, "they share one account");
        assert_eq!(attempts.sources.lock().len(), SOURCES_MAX + 1);
        drop((held, more));
        assert!(attempts.try_take(address(sources)).is_some());
        assert!(attempts.sources.lock().len() < 10, "who has gone leaves nothing behind");
    }
}
