//! Headers that were verified once, kept so that their publishers may send compact messages.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use smqtt_core::header::{Header, Kid};
use smqtt_core::identity::DeviceId;

/// Most headers kept for one publisher; its oldest goes first.
pub const HEADERS_PER_PUBLISHER_MAX: usize = 64;
/// Most bytes of headers kept in all; the oldest go first. What a retained or queued message needs
/// is shared with it, and stays for as long as the message does.
pub const HEADERS_BYTES_MAX: usize = 256 << 20;
/// New headers that a publisher may bring at once, and gets back at [`NEW_PER_SECOND`]: each costs
/// every reader some milliseconds.
pub const NEW_BURST_MAX: f64 = 64.0;
/// See [`NEW_BURST_MAX`].
pub const NEW_PER_SECOND: f64 = 1.0;

/// A verified header, and its bytes to share with whatever needs them.
#[derive(Debug)]
pub struct Kept {
    header: Header,
    bytes: Bytes,
}

impl Kept {
    /// Takes over a header.
    pub fn new(header: Header) -> Self {
        let bytes = Bytes::copy_from_slice(header.as_bytes());
        Self { header, bytes }
    }

    /// The header's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Deref for Kept {
    type Target = Header;

    fn deref(&self) -> &Header {
        &self.header
    }
}

/// Verified headers by kid.
#[derive(Debug, Default)]
pub struct Headers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_kid: HashMap<Kid, Arc<Kept>>,
    publishers: HashMap<DeviceId, Publisher>,
    order: VecDeque<(Kid, usize)>,
    bytes: usize,
}

#[derive(Debug)]
struct Publisher {
    kids: VecDeque<Kid>,
    credit: f64,
    at: u64,
}

impl Headers {
    /// The header of `kid`, if it was kept.
    pub fn get(&self, kid: Kid) -> Option<Arc<Kept>> {
        self.lock().by_kid.get(&kid).cloned()
    }

    /// Whether `publisher` may bring another new header at `now` (seconds since 1970); takes the credit.
    pub fn admit(&self, publisher: DeviceId, now: u64) -> bool {
        let mut inner = self.lock();
        let fresh = || Publisher { kids: VecDeque::new(), credit: NEW_BURST_MAX, at: now };
        let state = inner.publishers.entry(publisher).or_insert_with(fresh);
        let earned = now.saturating_sub(state.at) as f64 * NEW_PER_SECOND;
        state.credit = (state.credit + earned).min(NEW_BURST_MAX);
        state.at = now;
        let admitted = state.credit >= 1.0;
        if admitted {
            state.credit -= 1.0;
        }
        admitted
    }

    /// Keeps a verified header.
    pub fn keep(&self, header: Arc<Kept>) {
        let mut inner = self.lock();
        let (kid, bytes) = (header.kid(), header.as_bytes().len());
        let publisher = header.publisher();
        if inner.by_kid.insert(kid, header).is_some() {
            return;
        }
        inner.bytes += bytes;
        inner.order.push_back((kid, bytes));
        let state = inner.publishers.entry(publisher).or_insert_with(|| Publisher {
            kids: VecDeque::new(),
            credit: NEW_BURST_MAX,
            at: 0,
        });
        state.kids.push_back(kid);
        let crowded = state.kids.len() > HEADERS_PER_PUBLISHER_MAX;
        if let Some(oldest) = crowded.then(|| state.kids.pop_front()).flatten() {
            inner.drop_header(oldest);
        }
        while inner.bytes > HEADERS_BYTES_MAX {
            let Some((oldest, _)) = inner.order.pop_front() else { break };
            inner.drop_header(oldest);
        }
        // The order may hold kids that went with their publisher's oldest: not for ever.
        if inner.order.len() > 2 * inner.by_kid.len() + 1024 {
            let Inner { by_kid, order, .. } = &mut *inner;
            order.retain(|(kid, _)| by_kid.contains_key(kid));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drop_header(&mut self, kid: Kid) {
        if let Some(header) = self.by_kid.remove(&kid) {
            self.bytes -= header.as_bytes().len();
            if let Some(state) = self.publishers.get_mut(&header.publisher()) {
                state.kids.retain(|k| *k != kid);
            }
        }
    }
}
