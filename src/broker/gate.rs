//! At the door: how many connections there are, how many of them have not said CONNECT, how fast they come from one
//! address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::limits::{Limit, Limits};

/// How long one that has not said CONNECT is left alone when there are too many of them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Addresses whose rate is known. Those that have made no connection for long are forgotten first; if all of them make
/// some, all are forgotten.
const ADDRESSES_MAX: usize = 65_536;

/// For how long an address that has made no connection saves up what its rate allows.
const BURST_SECONDS: u32 = 20;

/// Connections a second that are told why they are turned away, which costs a handshake; others are just closed.
const TOLD_PER_SECOND: u32 = 100;

/// Bytes of a CONNECT that are not counted: most have no more, and there are only so many connections.
const CONNECT_BYTES_FREE: usize = 4 << 10;

#[derive(Default)]
pub(crate) struct Gate {
    open: AtomicUsize,
    /// Bytes of CONNECTs that have not arrived entirely.
    connect_bytes: AtomicUsize,
    pending: Mutex<PendingTable>,
    addresses: Mutex<HashMap<IpAddr, Bucket>>,
    told: Mutex<Option<Bucket>>,
}

#[derive(Default)]
struct PendingTable {
    /// By the order in which they came. Who is taken out notices it.
    entries: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
    last: u64,
}

/// A place inside, free again when this is dropped.
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

/// What a CONNECT under way takes up; free again when this is dropped.
pub(crate) struct UnderWay {
    gate: Arc<Gate>,
    bytes: usize,
}

impl UnderWay {
    /// So much of it is there. Whether there is room to wait for the rest.
    pub(crate) fn has_room(&mut self, bytes: usize, limits: &Limits) -> bool {
        let bytes = bytes.saturating_sub(CONNECT_BYTES_FREE);
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        let all = self.gate.connect_bytes.fetch_add(more, Ordering::Relaxed) + more;
        more == 0 || all <= limits.connect_bytes_pending_max
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.gate.connect_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What becomes of a connection.
pub(crate) enum Entry {
    /// It comes in.
    Free(Ticket),
    /// It comes in, and another was closed for it.
    InPlaceOf(Ticket, Limit),
    /// It stays out.
    Refused(Limit),
}

impl Entry {
    /// The limit that took effect.
    pub(crate) fn limit(&self) -> Option<Limit> {
        match self {
            Self::Free(_) => None,
            Self::InPlaceOf(_, limit) | Self::Refused(limit) => Some(*limit),
        }
    }

    /// Ends when the connection must close to make room.
    pub(crate) async fn evicted(&mut self) {
        match self {
            Self::Free(ticket) | Self::InPlaceOf(ticket, _) => ticket.evicted().await,
            Self::Refused(_) => std::future::pending().await,
        }
    }
}

impl Gate {
    /// Decides about a new connection.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Entry {
        let now = Instant::now();
        if self.open() >= limits.connections_max {
            return Entry::Refused(Limit::Connections);
        }
        if !self.is_slow_enough(address, limits, now) {
            return Entry::Refused(Limit::ConnectionRate);
        }
        let full = {
            let mut pending = self.pending.lock();
            let full = pending.entries.len() >= limits.connections_pending_max;
            if full {
                match pending.entries.first_entry() {
                    Some(oldest) if now.duration_since(oldest.get().0) >= PATIENCE => oldest.remove(),
                    _ => return Entry::Refused(Limit::ConnectionsPending),
                };
            }
            full
        };
        match full {
            true => Entry::InPlaceOf(self.enter_freely(), Limit::ConnectionsPending),
            false => Entry::Free(self.enter_freely()),
        }
    }

    /// Lets a connection in whatever the limits say.
    pub(crate) fn enter_freely(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::SeqCst);
        let (present, evicted) = oneshot::channel();
        let mut pending = self.pending.lock();
        pending.last += 1;
        let number = pending.last;
        pending.entries.insert(number, (Instant::now(), present));
        Ticket { gate: self.clone(), number, evicted }
    }

    /// Begins to count a CONNECT.
    pub(crate) fn connect_under_way(self: &Arc<Self>) -> UnderWay {
        UnderWay { gate: self.clone(), bytes: 0 }
    }

    /// Bytes of CONNECTs under way that count.
    pub(crate) fn connect_bytes(&self) -> usize {
        self.connect_bytes.load(Ordering::Relaxed)
    }

    /// Whether there is time to tell one that is turned away why.
    pub(crate) fn may_tell(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock();
        told.get_or_insert_with(|| Bucket::full(TOLD_PER_SECOND, now)).take(
            TOLD_PER_SECOND,
            TOLD_PER_SECOND,
            now,
        )
    }

    /// Connections at the moment.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Those that have not said CONNECT.
    pub(crate) fn pending(&self) -> usize {
        self.pending.lock().entries.len()
    }

    fn is_slow_enough(&self, address: IpAddr, limits: &Limits, now: Instant) -> bool {
        let rate = limits.connection_rate_per_address_max;
        let burst = rate.saturating_mul(BURST_SECONDS);
        let mut addresses = self.addresses.lock();
        let address = network(address);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, bucket| !bucket.is_full(rate, burst, now));
            if addresses.len() >= ADDRESSES_MAX {
                addresses.clear();
            }
        }
        addresses.entry(address).or_insert_with(|| Bucket::full(burst, now)).take(rate, burst, now)
    }
}

impl Ticket {
    /// CONNECT has come: from now on it cannot be closed for a newer connection.
    pub(crate) fn connected(&mut self) {
        self.gate.pending.lock().entries.remove(&self.number);
    }

    /// Ends when the connection must close to make room.
    pub(crate) async fn evicted(&mut self) {
        // Never told anything: the other end is dropped.
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connected();
        self.gate.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What counts as one address: of IPv6 the half that a site gets.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

/// A bucket of tokens (one for a connection), filled at a rate.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(burst: u32, now: Instant) -> Self {
        Self { tokens: burst.into(), at: now }
    }

    fn tokens(&self, rate: u32, burst: u32, now: Instant) -> f64 {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate);
        (self.tokens + earned).min(burst.into())
    }

    fn is_full(&self, rate: u32, burst: u32, now: Instant) -> bool {
        self.tokens(rate, burst, now) >= f64::from(burst)
    }

    fn take(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        let tokens = self.tokens(rate, burst, now);
        let taken = tokens >= 1.0;
        *self = Self { tokens: if taken { tokens - 1.0 } else { tokens }, at: now };
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(pending: usize, rate: u32) -> Limits {
        Limits {
            connections_pending_max: pending,
            connection_rate_per_address_max: rate,
            ..Limits::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_a_burst_and_then_a_rate() {
        let (gate, limits) = (Arc::<Gate>::default(), limits(100, 2));
        let enter = |from: &str| gate.enter(address(from), &limits).limit();
        for _ in 0..40 {
            assert_eq!(enter("10.0.0.1"), None);
        }
        assert_eq!(enter("10.0.0.1"), Some(Limit::ConnectionRate));
        assert_eq!(enter("::ffff:10.0.0.1"), Some(Limit::ConnectionRate));
        assert_eq!(enter("10.0.0.2"), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([enter("10.0.0.1"), enter("10.0.0.1")], [None, None]);
        assert_eq!(enter("10.0.0.1"), Some(Limit::ConnectionRate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_of_ipv6_is_one_address() {
        let (gate, limits) = (Arc::<Gate>::default(), limits(100, 1));
        let enter = |from: &str| gate.enter(address(from), &limits).limit();
        for number in 0..20 {
            assert_eq!(enter(&format!("2001:db8::{number}")), None);
        }
        assert_eq!(enter("2001:db8:0:0:ffff::1"), Some(Limit::ConnectionRate));
        assert_eq!(enter("2001:db8:0:1::1"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_forgotten_when_there_are_too_many() {
        let (gate, limits) = (Arc::<Gate>::default(), limits(usize::MAX, 1));
        for number in 0..2 * ADDRESSES_MAX as u32 {
            assert_eq!(gate.enter(std::net::Ipv4Addr::from(number).into(), &limits).limit(), None);
        }
        assert!(gate.addresses.lock().len() <= ADDRESSES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_silent_for_longest_makes_room() {
        let (gate, limits) = (Arc::<Gate>::default(), limits(2, 100));
        let enter = || gate.enter(address("10.0.0.1"), &limits);
        let ticket = |entry| match entry {
            Entry::Free(ticket) => ticket,
            other => panic!("room expected, met {:?}", other.limit()),
        };
        let (mut silent, mut spoke) = (ticket(enter()), ticket(enter()));
        assert!(matches!(enter(), Entry::Refused(Limit::ConnectionsPending)));
        spoke.connected();
        let _third = ticket(enter());
        tokio::time::advance(PATIENCE).await;
        let fourth = enter();
        assert!(matches!(fourth, Entry::InPlaceOf(_, Limit::ConnectionsPending)));
        silent.evicted().await;
        assert_eq!((gate.open(), gate.pending()), (4, 2));
        drop((spoke, silent));
        assert_eq!((gate.open(), gate.pending()), (2, 2));
    }
}
