//! Who may be connected: so many to a listener, so many from a source, and so many from a source that have not logged
//! in.
//!
//! A source is an IPv4 address, or an IPv6 /64, which is what a household has; a whole /48, what a customer can have of
//! some providers, may have four times as much.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Networks, stream::Peer};

/// Connections without a seat that are told so at once; past that they are closed without a word, for each
/// costs a descriptor for as long as it takes.
const REFUSALS_MAX: usize = 64;
/// What an IPv6 /48 may have, in /64s.
const NETWORK_FACTOR: usize = 4;
/// From where somebody has logged in, strangers are not counted for so long.
const GOOD_FOR: Duration = Duration::from_hours(24);
/// Sources that are known to be good at most (P6): some 10 MB.
const GOOD_MAX: u64 = 100_000;
/// Seats that are kept for clients that are gone at most (P6): a few hundred octets each.
const OWED_MAX: usize = 50_000;

/// How many may be connected to one listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// Connections at once from one source; 0 for no limit.
    pub per_source_max: usize,
    /// Those of them that have not logged in; 0 for no limit. There is none for a source from which somebody has,
    /// within a day.
    pub strangers_per_source_max: usize,
    /// Sources without such limits: those behind which there are many.
    pub uncapped: Networks,
}

impl Limits {
    /// So many connections, from wherever.
    pub fn new(connections_max: usize) -> Self {
        let uncapped = Networks::default();
        Self { connections_max, per_source_max: 0, strangers_per_source_max: 0, uncapped }
    }
}

/// The seats of one listener.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Arc<Semaphore>,
    pub(crate) refusals: Arc<Semaphore>,
    sources: Arc<Sources>,
}

/// A place among all connections of a listener: the first half of a seat.
pub(crate) type Place = OwnedSemaphorePermit;

/// Leave to refuse a connection with a word, held while that takes.
pub(crate) type Refusal = OwnedSemaphorePermit;

/// A seat that is taken until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    _place: Place,
    held: Held,
}

impl Seats {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            sources: Arc::new(Sources::new(limits)),
        }
    }

    pub(crate) fn place(&self) -> Option<Place> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }

    /// A seat for a client from `peer`, for which there is a place or not.
    pub(crate) fn take(&self, place: Option<Place>, peer: Peer) -> Result<Seat, Full> {
        let place = place.ok_or(Full::All)?;
        let held = Sources::take(&self.sources, peer, true)?;
        Ok(Seat { _place: place, held })
    }
}

/// Which limit there is no seat by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// That of the listener.
    All,
    /// That of the source.
    Source,
    /// That of clients of the source that have not logged in.
    Strangers,
}

impl Full {
    /// The limit's word in the metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Source => "source",
            Self::Strangers => "strangers",
        }
    }
}

impl Seat {
    /// Makes this the seat of another client. `false` if that has as many as it may.
    pub(crate) fn move_to(&mut self, peer: Peer) -> bool {
        if self.held.keys == self.held.sources.keys(peer) {
            return true;
        }
        let Ok(held) = Sources::take(&self.held.sources, peer, self.held.stranger) else { return false };
        self.held = held;
        true
    }

    /// The client has logged in: it is no stranger any longer, and neither are others from where it is.
    pub(crate) fn logged_in(&mut self) {
        self.held.log_in();
    }

    /// Keeps the client's seat among its source's for as long as this, although it is gone: so that who does not wait for
    /// an answer cannot ask again the sooner. Its place among all is free. `false` where it is not counted by its source,
    /// or too many are kept; then there is no way but to wait.
    pub(crate) fn owe(&mut self, wait: Duration) -> bool {
        if self.held.keys.is_none() {
            return false;
        }
        let Ok(permit) = Arc::clone(&self.held.sources.owed).try_acquire_owned() else { return false };
        let none = Held { sources: Arc::clone(&self.held.sources), keys: Keys::NONE, stranger: false };
        let held = std::mem::replace(&mut self.held, none);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            drop((held, permit));
        });
        true
    }
}

/// What a connection is counted by: its address, or its /64 and /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keys([Option<Key>; 2]);

/// A source, or what several are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    /// The first 64 bits.
    Net64(u64),
    /// The first 48 of them.
    Net48(u64),
}

impl Keys {
    const NONE: Self = Self([None, None]);

    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self([Some(Key::V4(ip.to_bits())), None]),
            IpAddr::V6(ip) => {
                let net = (ip.to_bits() >> 64) as u64;
                Self([Some(Key::Net64(net)), Some(Key::Net48(net >> 16))])
            }
        }
    }

    fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The source itself.
    fn source(self) -> Option<Key> {
        self.0[0]
    }

    fn iter(self) -> impl Iterator<Item = Key> {
        self.0.into_iter().flatten()
    }
}

/// How many connections there are from each source; none are counted where there is no limit.
#[derive(Debug)]
struct Sources {
    each_max: usize,
    strangers_max: usize,
    uncapped: Networks,
    counts: Mutex<HashMap<Key, Count>>,
    good: moka::sync::Cache<Key, ()>,
    owed: Arc<Semaphore>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    all: usize,
    strangers: usize,
}

/// A seat among a source's.
#[derive(Debug)]
struct Held {
    sources: Arc<Sources>,
    keys: Keys,
    stranger: bool,
}

impl Sources {
    fn new(limits: &Limits) -> Self {
        Self {
            each_max: limits.per_source_max,
            strangers_max: limits.strangers_per_source_max,
            uncapped: limits.uncapped.clone(),
            counts: Mutex::default(),
            good: moka::sync::Cache::builder().max_capacity(GOOD_MAX).time_to_live(GOOD_FOR).build(),
            owed: Arc::new(Semaphore::new(OWED_MAX)),
        }
    }

    /// What connections from `peer` are counted by.
    fn keys(&self, peer: Peer) -> Keys {
        match peer {
            Peer::Ip(ip) if (self.each_max, self.strangers_max) != (0, 0) && !self.uncapped.contains(ip) => {
                Keys::of(ip)
            }
            Peer::Ip(_) | Peer::Unix => Keys::NONE,
        }
    }

    /// Counts a connection from `peer`, unless there are as many as there may be.
    fn take(this: &Arc<Self>, peer: Peer, stranger: bool) -> Result<Held, Full> {
        let keys = this.keys(peer);
        let good = keys.source().is_some_and(|source| this.good.contains_key(&source));
        let mut counts = this.lock();
        for key in keys.iter() {
            let factor = if matches!(key, Key::Net48(_)) { NETWORK_FACTOR } else { 1 };
            let reached = |count: usize, most: usize| most > 0 && count >= most.saturating_mul(factor);
            let count = counts.get(&key).copied().unwrap_or_default();
            if reached(count.all, this.each_max) {
                return Err(Full::Source);
            }
            if stranger && !good && reached(count.strangers, this.strangers_max) {
                return Err(Full::Strangers);
            }
        }
        for key in keys.iter() {
            let count = counts.entry(key).or_default();
            count.all += 1;
            count.strangers += usize::from(stranger);
        }
        drop(counts);
        Ok(Held { sources: Arc::clone(this), keys, stranger })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Count>> {
        // No panic can happen while it is held, so poisoned counts are still whole ones.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn log_in(&mut self) {
        if !std::mem::take(&mut self.stranger) {
            return;
        }
        if let Some(source) = self.keys.source() {
            self.sources.good.insert(source, ());
        }
        let mut counts = self.sources.lock();
        for key in self.keys.iter() {
            if let Some(count) = counts.get_mut(&key) {
                count.strangers = count.strangers.saturating_sub(1);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.keys.is_none() {
            return;
        }
        let mut counts = self.sources.lock();
        for key in self.keys.iter() {
            let Some(count) = counts.get_mut(&key) else { continue };
            count.all = count.all.saturating_sub(1);
            count.strangers = count.strangers.saturating_sub(usize::from(self.stranger));
            if count.all == 0 {
                counts.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(per_source_max: usize, strangers_per_source_max: usize) -> Seats {
        let uncapped = ["10.9.0.0/16".parse().unwrap()].into_iter().collect();
        Seats::new(&Limits { per_source_max, strangers_per_source_max, uncapped, ..Limits::new(100) })
    }

    fn take(seats: &Seats, ip: &str) -> Option<Seat> {
        seats.take(seats.place(), Peer::Ip(ip.parse().unwrap())).ok()
    }

    fn take_all(seats: &Seats, ip: &str) -> Vec<Seat> {
        std::iter::from_fn(|| take(seats, ip)).collect()
    }

    #[test]
    fn seats_are_given_back() {
        let seats = seats(2, 0);
        let (first, second) = (take(&seats, "10.0.0.1"), take(&seats, "::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(take(&seats, "10.0.0.1").is_none(), "two from one address are the limit");
        let third = take(&seats, "10.0.0.2");
        assert!(third.is_some());
        drop(first);
        assert!(take(&seats, "10.0.0.1").is_some());
        drop((second, third));
        assert!(seats.sources.lock().is_empty());
        assert_eq!(seats.all.available_permits(), 100);
    }

    #[test]
    fn a_seat_moves_to_another_source() {
        let seats = seats(1, 0);
        let peer = |ip: &str| Peer::Ip(ip.parse().unwrap());
        let mut seat = take(&seats, "10.0.0.1").unwrap();
        assert!(seat.move_to(peer("10.0.0.1")) && seat.move_to(peer("10.0.0.2")));
        let mut other = take(&seats, "10.0.0.1").unwrap();
        assert!(!other.move_to(peer("10.0.0.2")), "it is taken");
        assert!(take(&seats, "10.0.0.1").is_none(), "the seat is where it was");
        assert!(other.move_to(peer("10.9.0.1")), "to where none are counted");
        assert!(take(&seats, "10.0.0.1").is_some());
        drop((seat, other));
        assert!(seats.sources.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_some_are_none() {
        let seats = seats(3, 0);
        let first = take_all(&seats, "2001:db8:1:1::1");
        assert_eq!((first.len(), take_all(&seats, "2001:db8:1:1:ffff::2").len()), (3, 0));
        let others: Vec<_> =
            (2..9).flat_map(|net| take_all(&seats, &format!("2001:db8:1:{net}::1"))).collect();
        assert_eq!(others.len(), 9, "four times as many for the /48");
        assert_eq!(take_all(&seats, "2001:db8:2::1").len(), 3);
        assert_eq!(take_all(&seats, "10.9.1.1").len(), 100 - 12, "no limit but that for all");
        drop((first, others));
        assert!(seats.sources.lock().is_empty());
    }

    #[test]
    fn strangers_are_fewer_than_those_who_are_known() {
        let seats = seats(5, 2);
        let mut strangers = take_all(&seats, "192.0.2.1");
        assert_eq!(strangers.len(), 2);
        let mut first = strangers.pop().unwrap();
        first.logged_in();
        first.logged_in();
        // From where somebody has logged in there may be more of them, but no more in all.
        let more = take_all(&seats, "192.0.2.1");
        let refused = |ip: &str| seats.take(seats.place(), Peer::Ip(ip.parse().unwrap())).err();
        assert_eq!(refused("192.0.2.1"), Some(Full::Source));
        let others = take_all(&seats, "192.0.2.3");
        assert_eq!(refused("192.0.2.3"), Some(Full::Strangers));
        drop(others);
        assert_eq!((more.len(), take_all(&seats, "192.0.2.2").len()), (3, 2));
        drop((first, strangers, more));
        assert!(seats.sources.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_before_its_answer_has_its_seat_until_then() {
        let seats = seats(0, 2);
        let mut seat = take(&seats, "192.0.2.1").unwrap();
        assert!(seat.owe(Duration::from_secs(15)));
        drop(seat);
        assert_eq!(seats.all.available_permits(), 100, "its place is free");
        assert_eq!(take_all(&seats, "192.0.2.1").len(), 1, "its seat is not");
        tokio::time::sleep(Duration::from_secs(16)).await;
        assert_eq!(take_all(&seats, "192.0.2.1").len(), 2);
        assert!(!take(&seats, "10.9.0.1").unwrap().owe(Duration::from_secs(15)), "it is not counted");
        assert!(seats.sources.lock().is_empty());
    }
}
