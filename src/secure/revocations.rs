//! What the authority is told of revocations: what was cut here, and which retained messages went. It is done first and told
//! afterwards, and told until the authority has it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_client::authority::RequestError;
use smqtt_core::api::{FormerReader, RevocationDone, RevocationOrder};
use smqtt_core::attribute::{Attributes, Versions};
use smqtt_core::header::Header;
use smqtt_core::identity::DeviceId;
use smqtt_core::policy::Policy;
use smqtt_core::target::Target;
use tokio::sync::Notify;

use super::hook::SecurePublish;
use crate::broker::{BrokerHandle, SessionInfo};

/// Pause after the authority could not be told.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What was cut, until it is told.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    of: Mutex<HashMap<DeviceId, Cut>>,
    /// There may be something to tell.
    pub(super) news: Notify,
}

/// What a revoked device had here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cut {
    at: u64,
    sessions: u64,
    connections: u64,
}

/// Counts sessions while they are cut.
#[derive(Default)]
pub(super) struct Tally(RefCell<HashMap<String, (u64, u64)>>);

impl Tally {
    pub(super) fn count(&self, session: &SessionInfo<'_>) {
        let Some(owner) = session.identity else { return };
        let mut tally = self.0.borrow_mut();
        let (sessions, connections) = tally.entry(owner.to_string()).or_default();
        *sessions += 1;
        *connections += u64::from(session.client.is_some());
    }
}

impl Cuts {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Cut>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were cut, and everything they had here is gone.
    pub(super) fn note(&self, devices: &[DeviceId], tally: &Tally, at: u64) {
        let (mut cuts, tally) = (self.lock(), tally.0.borrow());
        for device in devices {
            let (sessions, connections) = tally.get(&device.to_string()).copied().unwrap_or_default();
            cuts.entry(*device).or_insert(Cut { at, sessions, connections });
        }
        drop(cuts);
        self.news.notify_one();
    }
}

/// What a device could read, parsed.
struct Former {
    attributes: Attributes,
    policy: Option<Policy>,
    versions: Versions,
    epoch: Option<u64>,
}

impl Former {
    fn parse(reader: &FormerReader) -> Option<Self> {
        Some(Self {
            attributes: Attributes::parse(&reader.attributes).ok()?,
            policy: reader.policy.as_deref().map(Policy::parse).transpose().ok()?,
            versions: Versions::decode(&STANDARD.decode(&reader.versions).ok()?).ok()?,
            epoch: reader.epoch,
        })
    }

    /// Whether it could open what was sealed under this header, as far as attributes and versions say.
    fn could_read(&self, header: &Header) -> bool {
        let raised = header.target().used_versions(&self.versions);
        let sealed_since = raised.iter().any(|(key, version)| header.versions().get(key) >= version)
            || self.epoch.is_some_and(|epoch| header.epoch() >= epoch);
        let satisfied = match header.target() {
            Target::Policy(policy) => policy.satisfied_by(&self.attributes),
            Target::Labels(labels) => self.policy.as_ref().is_some_and(|own| own.satisfied_by(labels)),
        };
        satisfied && !sealed_since
    }
}

impl SecurePublish {
    /// Tells the authority what became of revocations, for as long as it is polled.
    pub(super) async fn tell_revocations(&self, broker: &BrokerHandle) {
        self.cuts.news.notify_one();
        loop {
            self.cuts.news.notified().await;
            while let Err(error) = self.tell_pending(broker).await {
                tracing::debug!(%error, "cannot tell the authority what was done about revocations");
                let again = self.cuts.news.notified();
                let _ = tokio::time::timeout(RETRY_PAUSE, again).await;
            }
        }
    }

    async fn tell_pending(&self, broker: &BrokerHandle) -> Result<(), RequestError> {
        let known: Vec<DeviceId> = self.cuts.lock().keys().copied().collect();
        let authority = self.view.authority()?;
        let orders: Vec<RevocationOrder> = authority.get("/v1/revocations").await?;
        let (mut pending, mut unsettled) = (Vec::new(), false);
        for order in &orders {
            let Ok(id) = order.id.parse::<DeviceId>() else { continue };
            pending.push(id);
            let (number, revoked) = (self.view.number(), self.view.bundle().is_revoked(id));
            if number < order.bundle || !revoked {
                // The bundle comes first, and with it this is asked again.
                continue;
            }
            let retained = match &order.purge {
                None => None,
                Some(reader) => match self.purge(broker, reader).await {
                    Some(count) => Some(count),
                    // Not on disk: it is not told before it is.
                    None => {
                        unsettled = true;
                        continue;
                    }
                },
            };
            let done = match &order.done {
                Some(told) => RevocationDone { retained, ..told.clone() },
                None => {
                    // What an earlier process had cut is not known any more.
                    let cut = self.cuts.lock().get(&id).copied();
                    let cut = cut.unwrap_or(Cut { at: self.view.now(), ..Cut::default() });
                    let (cut_at, bundle) = (cut.at, order.bundle);
                    let (sessions, connections) = (cut.sessions, cut.connections);
                    RevocationDone { bundle, cut_at, sessions, connections, retained }
                }
            };
            match authority.post::<serde_json::Value>(&format!("/v1/revocations/{id}/done"), &done).await {
                Ok(_) => {
                    tracing::info!(device = %id, sessions = done.sessions, "told what was done about a revocation")
                }
                // The rest was told before, perhaps by an earlier process: what is asked is what was retained.
                Err(error) if matches!(error.code(), Some("reported" | "not-revoked" | "report")) => {
                    tracing::warn!(device = %id, %error, "the authority does not take what was done");
                }
                Err(error) => return Err(error),
            }
        }
        // Whatever is not asked was told.
        self.cuts.lock().retain(|id, _| pending.contains(id) || !known.contains(id));
        if unsettled {
            tokio::time::sleep(RETRY_PAUSE).await;
            self.cuts.news.notify_one();
        }
        Ok(())
    }

    /// Removes what is retained and a device could read; gives how many, once that is on disk.
    async fn purge(&self, broker: &BrokerHandle, reader: &FormerReader) -> Option<u64> {
        let former = Former::parse(reader)?;
        let readable =
            |message: &_| Self::sealed_under(message).is_some_and(|header| former.could_read(header));
        let removed = broker.remove_retained(readable).await;
        if removed > 0 {
            tracing::info!(removed, "removed retained messages that a revoked device could read");
        }
        broker.settled().await.then_some(removed as u64)
    }
}
