//! Headers that were verified once, kept so that their publishers may send compact messages.
//!
//! A message holds the header that it needs itself, and counts it in its size, so what is kept here need not outlive
//! that. What is kept here is what a publisher may go on with: a header that is *live*, the current content key of a
//! connection, never goes; the others are a convenience, and make room.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use smqtt_core::header::{Header, Kid};
use smqtt_core::identity::DeviceId;

use crate::broker::Limits;

/// For how long a publisher that brings no new headers saves up what its rate allows.
const NEW_BURST_SECONDS: f64 = 64.0;
/// Content keys that one connection has at a time: as many as a publisher of ours holds. The one not used for longest is
/// live no longer.
pub(super) const LIVE_PER_CONNECTION_MAX: usize = 64;

/// How many headers are looked at for one that can go.
const LOOKS_MAX: usize = 1024;

/// How many headers are kept, and how many new ones taken: those of the broker's [`Limits`] that are about headers.
#[derive(Debug, Clone, Copy)]
pub struct HeaderLimits {
    /// [`Limits::headers_per_publisher_max`].
    pub per_publisher: usize,
    /// [`Limits::headers_bytes_max`].
    pub bytes: usize,
    /// [`Limits::new_headers_per_second_max`].
    pub new_per_second: u32,
    /// [`Limits::new_headers_per_second_per_bridge_max`].
    pub new_per_second_per_bridge: u32,
}

impl From<&Limits> for HeaderLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            per_publisher: limits.headers_per_publisher_max,
            bytes: limits.headers_bytes_max,
            new_per_second: limits.new_headers_per_second_max,
            new_per_second_per_bridge: limits.new_headers_per_second_per_bridge_max,
        }
    }
}

impl Default for HeaderLimits {
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

/// Why a header is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Its publisher has as many live ones as it may.
    Publisher,
    /// All publishers together have.
    Broker,
}

/// A verified header, and its bytes to share with whatever needs them.
#[derive(Debug)]
pub struct Kept {
    header: Arc<Header>,
    bytes: Bytes,
    /// Connections that have it as a current content key.
    live: AtomicUsize,
}

/// A header's bytes, shared with the header.
struct Own(Arc<Header>);

impl AsRef<[u8]> for Own {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Kept {
    /// Takes over a header.
    pub fn new(header: Header) -> Self {
        let header = Arc::new(header);
        let bytes = Bytes::from_owner(Own(header.clone()));
        Self { header, bytes, live: AtomicUsize::new(0) }
    }

    /// The header's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether a connection may go on with it.
    fn is_live(&self, now: u64) -> bool {
        self.live.load(Ordering::Relaxed) > 0 && now < self.expires()
    }
}

impl Deref for Kept {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

/// The current content keys of one connection, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Live(VecDeque<Arc<Kept>>);

impl Live {
    /// The connection uses this one now.
    pub(super) fn uses(&mut self, header: &Arc<Kept>) {
        if self.0.back().is_some_and(|last| Arc::ptr_eq(last, header)) {
            return;
        }
        if let Some(at) = self.0.iter().position(|one| Arc::ptr_eq(one, header)) {
            let moved = self.0.remove(at);
            self.0.extend(moved);
            return;
        }
        self.make_way(header);
        header.live.fetch_add(1, Ordering::Relaxed);
        self.0.push_back(header.clone());
    }

    /// Lets go of those in whose place a new one comes: a publisher has one content key for the same topics and readers.
    pub(super) fn make_way(&mut self, header: &Header) {
        self.0.retain(|one| {
            let replaced = one.created() <= header.created()
                && one.filter() == header.filter()
                && one.target() == header.target();
            one.live.fetch_sub(usize::from(replaced), Ordering::Relaxed);
            !replaced
        });
        if self.0.len() >= LIVE_PER_CONNECTION_MAX {
            self.let_go();
        }
    }

    /// Lets go of the one that was not used for longest; whether there was one.
    pub(super) fn let_go(&mut self) -> bool {
        let oldest = self.0.pop_front();
        oldest.is_some_and(|oldest| oldest.live.fetch_sub(1, Ordering::Relaxed) > 0)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for header in &self.0 {
            header.live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Verified headers by kid.
#[derive(Debug, Default)]
pub struct Headers {
    limits: HeaderLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_kid: HashMap<Kid, (u64, Arc<Kept>)>,
    publishers: HashMap<DeviceId, Publisher>,
    /// The oldest first; one that was found live is among the newest again.
    order: BTreeMap<u64, Kid>,
    last: u64,
    bytes: usize,
    /// With how many publishers it is time to forget some.
    sweep_at: usize,
}

#[derive(Debug)]
struct Publisher {
    /// The oldest first.
    kids: VecDeque<Kid>,
    credit: f64,
    at: u64,
}

impl Publisher {
    fn new(now: u64) -> Self {
        Self { kids: VecDeque::new(), credit: f64::INFINITY, at: now }
    }

    fn credit_at(&self, rate: f64, now: u64) -> f64 {
        let earned = now.saturating_sub(self.at) as f64 * rate;
        (self.credit + earned).min(rate * NEW_BURST_SECONDS)
    }
}

impl Headers {
    /// None yet.
    pub fn new(limits: HeaderLimits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    /// What it is bounded by.
    pub fn limits(&self) -> HeaderLimits {
        self.limits
    }

    /// The header of `kid`, if it was kept.
    pub fn get(&self, kid: Kid) -> Option<Arc<Kept>> {
        self.lock().by_kid.get(&kid).map(|(_, kept)| kept.clone())
    }

    /// How many are kept, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.by_kid.len(), inner.bytes)
    }

    /// Whether `publisher` may bring another new header at `now` (seconds since 1970); takes the credit.
    pub fn admit(&self, publisher: DeviceId, now: u64) -> bool {
        let rate = f64::from(self.limits.new_per_second);
        let mut inner = self.lock();
        inner.forget_idle_publishers(rate, now);
        let state = inner.publishers.entry(publisher).or_insert_with(|| Publisher::new(now));
        (state.credit, state.at) = (state.credit_at(rate, now), now);
        let admitted = state.credit >= 1.0;
        if admitted {
            state.credit -= 1.0;
        }
        admitted
    }

    /// Keeps a verified header; gives the one that is kept under its kid from now on.
    ///
    /// # Errors
    /// `NoRoom`: too many others are live.
    pub fn keep(&self, header: Arc<Kept>, now: u64) -> Result<Arc<Kept>, NoRoom> {
        let mut inner = self.lock();
        if let Some((_, kept)) = inner.by_kid.get(&header.kid()) {
            return Ok(kept.clone());
        }
        let (kid, publisher) = (header.kid(), header.publisher());
        let own = inner.publishers.get(&publisher).map_or(0, |state| state.kids.len());
        if own >= self.limits.per_publisher {
            let oldest = inner.oldest_of(publisher, now).ok_or(NoRoom::Publisher)?;
            inner.drop_header(oldest);
        }
        let mut looks = LOOKS_MAX;
        while inner.bytes + header.bytes.len() > self.limits.bytes {
            let oldest = inner.oldest(&mut looks, now).ok_or(NoRoom::Broker)?;
            inner.drop_header(oldest);
        }
        inner.bytes += header.bytes.len();
        inner.last += 1;
        let number = inner.last;
        inner.order.insert(number, kid);
        inner.publishers.entry(publisher).or_insert_with(|| Publisher::new(now)).kids.push_back(kid);
        inner.by_kid.insert(kid, (number, header.clone()));
        Ok(header)
    }

    /// Forgets a publisher that is one no longer, and its headers. What is retained or queued has its own.
    pub fn forget(&self, publisher: DeviceId) {
        let mut inner = self.lock();
        let kids = inner.publishers.get_mut(&publisher).map(|state| std::mem::take(&mut state.kids));
        kids.into_iter().flatten().for_each(|kid| inner.drop_header(kid));
        inner.publishers.remove(&publisher);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The publisher's oldest that is not live.
    fn oldest_of(&self, publisher: DeviceId, now: u64) -> Option<Kid> {
        let kids = &self.publishers.get(&publisher)?.kids;
        kids.iter().copied().find(|kid| self.by_kid.get(kid).is_some_and(|(_, kept)| !kept.is_live(now)))
    }

    /// The oldest of all that is not live, after at most so many looks.
    fn oldest(&mut self, looks: &mut usize, now: u64) -> Option<Kid> {
        while *looks > 0 {
            *looks -= 1;
            let (number, kid) = self.order.pop_first()?;
            let Some((place, kept)) = self.by_kid.get_mut(&kid) else { continue };
            if !kept.is_live(now) {
                self.order.insert(number, kid);
                return Some(kid);
            }
            self.last += 1;
            *place = self.last;
            self.order.insert(self.last, kid);
        }
        None
    }

    fn drop_header(&mut self, kid: Kid) {
        let Some((number, header)) = self.by_kid.remove(&kid) else { return };
        self.order.remove(&number);
        self.bytes -= header.bytes.len();
        if let Some(state) = self.publishers.get_mut(&header.publisher()) {
            state.kids.retain(|k| *k != kid);
        }
    }

    /// Publishers without headers whose credit is whole again are as if they had never come.
    fn forget_idle_publishers(&mut self, rate: f64, now: u64) {
        if self.publishers.len() >= self.sweep_at.max(1024) {
            let whole = rate * NEW_BURST_SECONDS;
            self.publishers.retain(|_, state| !state.kids.is_empty() || state.credit_at(rate, now) < whole);
            self.sweep_at = 2 * self.publishers.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_comes_back_with_time() {
        let headers = Headers::default();
        let device = DeviceId([1; 16]);
        for _ in 0..64 {
            assert!(headers.admit(device, 1000));
        }
        assert!(!headers.admit(device, 1000));
        assert!(headers.admit(device, 1001));
        assert!(!headers.admit(device, 1001));
        assert!(headers.admit(DeviceId([2; 16]), 1000));
    }

    #[test]
    fn publishers_that_went_are_forgotten() {
        let headers = Headers::default();
        let device = |n: u32| DeviceId(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
        (0..5000).for_each(|n| assert!(headers.admit(device(n), 1000 + u64::from(n))));
        assert!(headers.lock().publishers.len() < 2000);
    }
}
