//! How often somebody may ask. Before anybody knows who is there, a bucket of requests for each address; after that, one for each
//! certificate, or access token, that holds: whoever is known is not held up by what others do behind the same address.
//!
//! A bucket that is empty refuses requests. Whoever goes on all the same gets into debt, up to one more bucket; then not even
//! connections are taken from that address. A credential that is wrong costs as much as ten requests. Of all places for
//! connections one address has at most half.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smqtt_core::identity::{DeviceId, Role};

use super::{Authority, Caller};
use crate::config::Rate;
use crate::error::Error;

/// Most addresses, and most certificates and tokens, of which it is remembered how often they asked. Those that asked
/// least are forgotten first.
const BUCKETS_MAX: usize = 1 << 16;
/// What a wrong credential costs, in requests.
const WRONG_COST: u64 = 10;
/// What a renewed certificate costs, in requests: it is kept, and everybody is told of it.
const RENEWAL_COST: u64 = 20;
/// Longest time that anybody is told to wait.
const RETRY_AFTER_SECONDS_MAX: u64 = 3600;

/// How far a clock may go back without that it was put back: requests read it before they wait for each other.
const CLOCK_JITTER_SECONDS: u64 = 60;

/// How many were turned away since the start.
#[derive(Debug, Default)]
pub struct Limited {
    /// Connections, for their address, before TLS is done.
    pub connections: AtomicU64,
    /// Requests without a credential that holds, for their address.
    pub addresses: AtomicU64,
    /// Requests with a certificate or an access token, for that.
    pub callers: AtomicU64,
}

/// Everybody's buckets.
#[derive(Default)]
pub(super) struct Rates {
    addresses: Mutex<Buckets<IpAddr>>,
    callers: Mutex<Buckets<[u8; 16]>>,
    connected: Mutex<HashMap<IpAddr, usize>>,
    limited: Limited,
}

/// The place of a connection; dropped with it.
pub(crate) struct Place {
    authority: Arc<Authority>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = lock(&self.authority.rates.connected);
        if let Some(count) = connected.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.from);
            }
        }
    }
}

struct Buckets<K>(HashMap<K, Bucket>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// What was taken out of a bucket and has not come back yet. One that is full need not be remembered.
#[derive(Clone, Copy)]
struct Bucket {
    taken: u64,
    at: u64,
    rate: Rate,
}

impl Bucket {
    fn taken(&self, now: u64) -> u64 {
        // The clock was put back: the bucket would wait for it to come this far again.
        if self.at > now.saturating_add(CLOCK_JITTER_SECONDS) {
            return 0;
        }
        let back = now.saturating_sub(self.at).saturating_mul(self.rate.per_second.into());
        self.taken.saturating_sub(back)
    }
}

impl<K: Hash + Eq + Copy> Buckets<K> {
    /// How many seconds it takes until there is a request in the bucket again; `None` where there is one.
    fn empty_for(&self, key: K, rate: Rate, now: u64) -> Option<u64> {
        let taken = self.taken(key, now)?;
        let missing = (taken + 1).checked_sub(rate.burst.into()).filter(|missing| *missing > 0)?;
        Some(missing.div_ceil(rate.per_second.max(1).into()).min(RETRY_AFTER_SECONDS_MAX))
    }

    /// Whether it is as deep in debt as anybody can get.
    fn is_over_drawn(&self, key: K, rate: Rate, now: u64) -> bool {
        rate.per_second > 0 && self.taken(key, now).is_some_and(|taken| taken >= debt_max(rate))
    }

    fn taken(&self, key: K, now: u64) -> Option<u64> {
        self.0.get(&key).map(|bucket| bucket.taken(now))
    }

    fn take(&mut self, key: K, rate: Rate, count: u64, now: u64) {
        if rate.per_second == 0 {
            return;
        }
        let taken = self.taken(key, now).unwrap_or(0).saturating_add(count).min(debt_max(rate));
        if self.0.len() >= BUCKETS_MAX && !self.0.contains_key(&key) {
            self.forget(now);
        }
        self.0.insert(key, Bucket { taken, at: now, rate });
    }

    fn give_back(&mut self, key: K, count: u64) {
        if let Some(bucket) = self.0.get_mut(&key) {
            bucket.taken = bucket.taken.saturating_sub(count);
        }
    }

    /// Forgets those that are full and, were that not enough, the fuller half: a flood of addresses makes room by forgiving,
    /// never by refusing somebody else.
    fn forget(&mut self, now: u64) {
        self.0.retain(|_, bucket| bucket.taken(now) > 0);
        let room = BUCKETS_MAX / 2;
        if self.0.len() <= room {
            return;
        }
        let mut taken: Vec<u64> = self.0.values().map(|bucket| bucket.taken(now)).collect();
        taken.sort_unstable();
        let middle = taken[taken.len() - room];
        // Of those that are as full as the one in the middle as many as there is room for.
        let mut spare = room - (taken.len() - taken.partition_point(|taken| *taken <= middle));
        self.0.retain(|_, bucket| match bucket.taken(now).cmp(&middle) {
            Ordering::Greater => true,
            Ordering::Equal if spare > 0 => {
                spare -= 1;
                true
            }
            _ => false,
        });
    }
}

fn debt_max(rate: Rate) -> u64 {
    u64::from(rate.burst).saturating_mul(2)
}

/// Whom an address counts as: of IPv6 the network, in which anybody has as many addresses as they like (RFC 4291, section
/// 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) & !(u128::MAX >> 64);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        v4 => v4,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a request is counted.
enum Bill {
    Address(IpAddr),
    Caller([u8; 16], Rate),
}

impl Authority {
    /// How many were turned away for asking too often since the start.
    pub fn limited(&self) -> &Limited {
        &self.rates.limited
    }

    /// A place for a connection from there; `None` where it is not taken.
    pub(crate) fn place_for(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let (rate, now, from) = (self.config.rates.address, self.now(), network(address));
        let over = lock(&self.rates.addresses).is_over_drawn(from, rate, now);
        let mut connected = lock(&self.rates.connected);
        let taken = connected.get(&from).copied().unwrap_or(0);
        if over || taken >= self.config.limits.connections_max.div_ceil(2) {
            self.rates.limited.connections.fetch_add(1, Relaxed);
            return None;
        }
        connected.insert(from, taken + 1);
        Some(Place { authority: self.clone(), from })
    }

    /// Counts a handshake that brought no certificate that holds; it stands for the connection's first request as well.
    pub(crate) fn count_stranger(&self, address: IpAddr) {
        let (rate, now) = (self.config.rates.address, self.now());
        lock(&self.rates.addresses).take(network(address), rate, 1, now);
    }

    /// Counts a request, unless `is_paid` for already.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub(crate) fn count_request(&self, caller: &Caller, is_paid: bool) -> Result<(), Error> {
        let (now, cost) = (self.now(), u64::from(!is_paid));
        let (empty_for, turned_away) = match self.bill(caller) {
            Bill::Address(address) => {
                let rate = self.config.rates.address;
                let mut addresses = lock(&self.rates.addresses);
                // What was paid for is in the bucket no more.
                addresses.give_back(address, 1 - cost);
                let empty_for = addresses.empty_for(address, rate, now);
                addresses.take(address, rate, 1, now);
                (empty_for, &self.rates.limited.addresses)
            }
            Bill::Caller(id, rate) => {
                let mut callers = lock(&self.rates.callers);
                let empty_for = callers.empty_for(id, rate, now);
                if empty_for.is_none() {
                    callers.take(id, rate, cost, now);
                }
                (empty_for, &self.rates.limited.callers)
            }
        };
        // Nobody but its holder can empty an access token's bucket: wrong secrets are counted for their address.
        let of_token = caller
            .access_id()
            .and_then(|id| lock(&self.rates.callers).empty_for(id, self.config.rates.trusted, now));
        let (retry_after_seconds, turned_away) = match (empty_for, of_token) {
            (None, None) => return Ok(()),
            (Some(seconds), _) => (seconds, turned_away),
            (None, Some(seconds)) => (seconds, &self.rates.limited.callers),
        };
        turned_away.fetch_add(1, Relaxed);
        Err(Error::TooMany { retry_after_seconds })
    }

    /// After the answer: whether the credential was wrong. An access token that held is counted for itself.
    pub(crate) fn settle(&self, caller: &Caller, is_wrong: bool) {
        let now = self.now();
        match self.bill(caller) {
            Bill::Address(address) => {
                let mut addresses = lock(&self.rates.addresses);
                if is_wrong {
                    addresses.take(address, self.config.rates.address, WRONG_COST - 1, now);
                } else if let Some(id) = caller.access_id().filter(|_| caller.access_held()) {
                    addresses.give_back(address, 1);
                    lock(&self.rates.callers).take(id, self.config.rates.trusted, 1, now);
                }
            }
            Bill::Caller(id, rate) if is_wrong => {
                lock(&self.rates.callers).take(id, rate, WRONG_COST - 1, now);
            }
            Bill::Caller(..) => {}
        }
    }

    /// A certificate was renewed: more than one request's worth.
    pub(super) fn count_renewal(&self, caller: &Caller) {
        if let Bill::Caller(id, rate) = self.bill(caller) {
            lock(&self.rates.callers).take(id, rate, RENEWAL_COST - 1, self.now());
        }
    }

    fn bill(&self, caller: &Caller) -> Bill {
        let rates = &self.config.rates;
        match caller.named() {
            Some((DeviceId(id), Role::Device | Role::Bridge)) => Bill::Caller(id, rates.device),
            Some((DeviceId(id), _)) => Bill::Caller(id, rates.trusted),
            None => Bill::Address(network(caller.address())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2, burst: 10 };

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let mut buckets = Buckets::default();
        for _ in 0..10 {
            assert_eq!(buckets.empty_for(1, RATE, 100), None);
            buckets.take(1, RATE, 1, 100);
        }
        assert_eq!(buckets.empty_for(1, RATE, 100), Some(1));
        assert_eq!(buckets.empty_for(2, RATE, 100), None, "another one is not held up");
        assert_eq!(buckets.empty_for(1, RATE, 101), None);
        buckets.take(1, RATE, 1000, 100);
        assert_eq!(buckets.empty_for(1, RATE, 100), Some(6), "a debt has an end");
        assert!(buckets.is_over_drawn(1, RATE, 100) && !buckets.is_over_drawn(1, RATE, 101));
        assert_eq!(buckets.empty_for(1, RATE, 40), Some(6), "a clock that goes back a little gives nothing");
        assert_eq!(
            buckets.empty_for(1, RATE, 39),
            None,
            "nobody waits until one that was put back is there again"
        );
        assert_eq!(buckets.empty_for(1, RATE, 106), None);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let mut buckets = Buckets::default();
        buckets.take(1, Rate { per_second: 0, burst: 1 }, 100, 0);
        assert!(buckets.0.is_empty());
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_and_offenders_are_not() {
        let mut buckets = Buckets::default();
        buckets.take(u64::MAX, RATE, 20, 0);
        for address in 0..3 * BUCKETS_MAX as u64 {
            assert_eq!(buckets.empty_for(address, RATE, 0), None, "nobody is locked out");
            buckets.take(address, RATE, 1 + address % 3, 0);
            assert!(buckets.0.len() <= BUCKETS_MAX);
        }
        assert!(buckets.is_over_drawn(u64::MAX, RATE, 0));
        // Were all in the same debt, half of them is forgiven.
        let mut buckets = Buckets::default();
        (0..2 * BUCKETS_MAX as u64).for_each(|address| buckets.take(address, RATE, 20, 0));
        assert!(buckets.0.len() <= BUCKETS_MAX);
        // And who is full again goes first.
        let mut buckets = Buckets::default();
        (0..BUCKETS_MAX as u64).for_each(|address| buckets.take(address, RATE, 1, 0));
        buckets.take(u64::MAX, RATE, 1, 60);
        assert_eq!(buckets.0.len(), 1);
    }

    #[test]
    fn an_address_of_ipv6_is_its_network_and_a_mapped_one_is_of_ipv4() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:aaaa::1"), of("2001:db8:1:2:bbbb::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
