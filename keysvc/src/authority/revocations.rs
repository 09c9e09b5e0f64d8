//! The report of a revocation: what it closed, what is still open, and what each broker says that it did.
//!
//! A broker's word is kept as its word: TLS tells which broker it is, so that none can speak for another; it speaks once,
//! and only of a bundle that revokes the device. Whether it did what it says nobody can see from here. What the
//! revocation promises of what is sealed afterwards does not depend on it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::{
    BrokerState, FormerReader, MAX_STALENESS_SECONDS, PUBLISHER_SECONDS_MAX, Publishers, Readable,
    ReadableEpoch, RevocationDone, RevocationOrder, RevocationReport, STALENESS_FACTOR,
};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::CLOCK_SKEW_SECONDS;
use smqtt_core::identity::{DeviceId, Role};

use super::bundle::WAIT_MAX;
use super::devices::{find, version_keys};
use super::keys::texts;
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{ClosedRow, DeviceRow, RevocationRow, StoreError, Tx};

/// Most revocations in one answer.
const PAGE_MAX: usize = 1000;
/// How far back a broker is asked about revocations: whatever it has of older ones went when it took the bundle.
const PENDING_SECONDS_MAX: u64 = 30 * 86_400;
/// Most sessions or messages that a broker can mean.
const COUNT_MAX: u64 = u32::MAX as u64;

/// What a broker said, and when; `None`: nothing yet.
type Told = Option<(RevocationDone, u64)>;

/// What the store has of a revocation, in one snapshot.
struct Facts {
    device: DeviceRow,
    revocation: RevocationRow,
    closed: ClosedRow,
    brokers: Vec<(DeviceId, String, Told)>,
    publishers: u64,
}

impl Authority {
    /// What a revocation did, after waiting up to `wait`, and at most a minute, for every connected broker to say that it
    /// did its part. For administrators and auditors.
    ///
    /// # Errors
    /// Not allowed, no such device, it was not revoked, or the store failed.
    pub async fn revocation(
        &self,
        caller: &Caller,
        name_or_id: String,
        wait: Duration,
    ) -> Result<RevocationReport, Error> {
        self.authorise(caller, Operation::ShowRevocation).await?;
        let mut reports = self.reports.subscribe();
        let until = tokio::time::Instant::now() + wait.min(WAIT_MAX);
        loop {
            reports.borrow_and_update();
            let name = name_or_id.clone();
            let facts = self.store.read(move |tx| facts(tx, &name)).await?;
            let report = self.report_of(facts);
            if report.complete || tokio::time::timeout_at(until, reports.changed()).await.is_err() {
                // Somebody who was revoked meanwhile learns it now.
                if !wait.is_zero() {
                    self.authorise(caller, Operation::ShowRevocation).await?;
                }
                return Ok(report);
            }
        }
    }

    /// What this broker has not reported yet, oldest first. For brokers.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn revocations_pending(&self, caller: &Caller) -> Result<Vec<RevocationOrder>, Error> {
        let now = self.now();
        let broker = self.authorise_holder(caller, Operation::ListRevocations, now).await?.device;
        let since = broker.enrolled.max(now.saturating_sub(PENDING_SECONDS_MAX));
        let read = move |tx: &Tx<'_>| {
            let pending = tx.closed_pending(broker.id, since, PAGE_MAX)?;
            pending.into_iter().filter_map(|id| order(tx, id, broker.id).transpose()).collect()
        };
        self.store.read(read).await
    }

    /// Keeps what a broker says that it did about a revocation. The same again changes nothing; what was retained may be
    /// told later than the rest. For brokers.
    ///
    /// # Errors
    /// Not allowed, no such revocation, not what the broker said before, impossible, or the store failed.
    pub async fn report_revocation(
        self: &Arc<Self>,
        caller: &Caller,
        id: DeviceId,
        done: RevocationDone,
    ) -> Result<RevocationDone, Error> {
        let (this, now) = (self.clone(), self.now());
        let broker = self.authorise_holder(caller, Operation::ReportRevocation, now).await?;
        self.store
            .write_reserved(move |tx| {
                let not_revoked = || Error::NotRevoked { name: id.to_string() };
                let device = tx.device(id)?.ok_or_else(not_revoked)?;
                let revocation = device.revocation.as_ref().ok_or_else(not_revoked)?;
                let closed = tx.closed(id)?.ok_or_else(not_revoked)?;
                check(&done, revocation, &closed, tx.counter("bundle")?, now)?;
                match tx.done(id, broker.device.id)? {
                    Some((before, _)) if before == done => return Ok(done),
                    Some((before, _)) if (RevocationDone { retained: None, ..done.clone() }) != before => {
                        return Err(Error::ReportedOtherwise);
                    }
                    _ => {}
                }
                tx.set_done(id, broker.device.id, &done, now)?;
                let retained = done.retained.map_or(String::new(), |count| format!(", {count} retained"));
                let subject = format!(
                    "{} {id}: bundle {}, {} sessions, {} connected{retained}",
                    device.name, done.bundle, done.sessions, done.connections
                );
                this.audit(tx, &broker.actor, Operation::ReportRevocation.name(), &subject)?;
                let told = this.clone();
                tx.after_commit(move || told.reports.send_modify(|count| *count += 1));
                Ok(done)
            })
            .await
    }

    /// Writes down what a revocation closes, in its transaction; `before`: the epoch in which it began.
    pub(super) fn record_closed(
        &self,
        tx: &Tx<'_>,
        device: &DeviceRow,
        raised: &[String],
        before: u64,
        actor: &str,
        now: u64,
    ) -> Result<(), Error> {
        let (all, current) = (tx.versions()?, tx.current_epoch()?.number);
        let mut versions = Versions::default();
        for key in version_keys(device).iter().filter(|key| raised.contains(&key.to_string())) {
            // There is room for a part of what there was room for.
            versions.set(key, all.get(key)).map_err(|_| StoreError::Corrupt("versions"))?;
        }
        let reads = device.role == Role::Device;
        let epochs = tx.epochs(before.saturating_sub(self.config.history_epochs))?;
        let readable = epochs.into_iter().filter(|row| reads && row.epoch.number <= before);
        let readable = readable.map(|row| ReadableEpoch {
            epoch: row.epoch.number,
            from: row.epoch.begins,
            until: if row.epoch.number == before { now } else { row.epoch.ends.min(now) },
        });
        let closed = ClosedRow {
            at: now,
            actor: actor.to_owned(),
            versions,
            epoch: (current != before).then_some(current),
            epochs: readable.collect(),
            purge: None,
        };
        Ok(tx.insert_closed(device.id, &closed)?)
    }

    /// Orders brokers to remove what is retained and was open to a revoked device.
    pub(super) fn order_purge(
        self: &Arc<Self>,
        tx: &Tx<'_>,
        device: &DeviceRow,
        actor: &str,
        now: u64,
    ) -> Result<(), Error> {
        if device.role != Role::Device {
            let detail =
                format!("a {} reads nothing, so nothing retained was open to it", device.role.name());
            return Err(Error::invalid("purge", detail).with_hint("leave `--purge-retained` away"));
        }
        if tx.order_purge(device.id, now)? {
            self.tell(tx, device.id)?;
            self.audit(tx, actor, "purge-retained", &format!("{} {}", device.name, device.id))?;
        }
        Ok(())
    }

    fn report_of(&self, facts: Facts) -> RevocationReport {
        let Facts { device, revocation, closed, brokers, publishers } = facts;
        let now = self.now();
        let brokers: Vec<_> = brokers
            .into_iter()
            .map(|(id, name, done)| self.state_of(id, name, done, revocation.bundle, now))
            .collect();
        let has_all = |broker: &BrokerState| match &broker.done {
            Some(done) => closed.purge.is_none() || done.retained.is_some(),
            None => broker.state == "away",
        };
        let (told, behind) = self.polls.publishers(revocation.bundle, now);
        let by = revocation.at.saturating_add(PUBLISHER_SECONDS_MAX);
        RevocationReport {
            id: device.id.to_string(),
            name: device.name,
            role: device.role.name().to_owned(),
            revoked: revocation.at,
            actor: closed.actor,
            raised: revocation.raised,
            epoch: closed.epoch,
            bundle: revocation.bundle,
            readable: Readable {
                enrolled: device.enrolled,
                epochs: closed.epochs,
                until: revocation.at,
                until_at_the_latest: by,
            },
            complete: brokers.iter().all(has_all),
            brokers,
            publishers: Publishers { told, behind, away: publishers.saturating_sub(told + behind), by },
            purge_ordered: closed.purge,
        }
    }

    fn state_of(&self, id: DeviceId, name: String, done: Told, bundle: u64, now: u64) -> BrokerState {
        let heard = self.polls.heard(id);
        let connected = heard.is_some_and(|heard| heard.is_connected(now));
        let has_it = heard.is_some_and(|heard| heard.bundle >= bundle);
        let state = match (&done, has_it, connected) {
            (Some(_), ..) => "done",
            (None, true, _) => "told",
            (None, false, true) => "connected",
            (None, false, false) => "away",
        };
        // From when it was heard last, or, at worst, from the start of this process.
        let silent_since = heard.map_or(self.opened, |heard| heard.at);
        let away = state == "away";
        let closes = |times| silent_since.saturating_add(times * MAX_STALENESS_SECONDS);
        BrokerState {
            id: id.to_string(),
            name,
            state: state.to_owned(),
            heard: heard.map(|heard| heard.at),
            bundle: heard.map(|heard| heard.bundle),
            reported: done.as_ref().map(|(_, at)| *at),
            done: done.map(|(done, _)| done),
            admits_until: away.then(|| closes(1)),
            serves_until: away.then(|| closes(STALENESS_FACTOR)),
        }
    }
}

fn facts(tx: &Tx<'_>, name_or_id: &str) -> Result<Facts, Error> {
    let device = find(tx, name_or_id)?;
    let not_revoked = || Error::NotRevoked { name: device.name.clone() };
    let revocation = device.revocation.clone().ok_or_else(not_revoked)?;
    // Of one that a restore learned of from others nothing more is known.
    let unknown = || ClosedRow {
        at: revocation.at,
        actor: String::new(),
        versions: Versions::default(),
        epoch: None,
        epochs: Vec::new(),
        purge: None,
    };
    let closed = tx.closed(device.id)?.unwrap_or_else(unknown);
    let mut brokers = Vec::new();
    for (id, name) in tx.brokers(revocation.at)? {
        brokers.push((id, name, tx.done(device.id, id)?));
    }
    Ok(Facts { revocation, closed, brokers, publishers: tx.publishers()?, device })
}

fn order(tx: &Tx<'_>, id: DeviceId, broker: DeviceId) -> Result<Option<RevocationOrder>, Error> {
    let (Some(device), Some(closed)) = (tx.device(id)?, tx.closed(id)?) else { return Ok(None) };
    let Some(revocation) = device.revocation else { return Ok(None) };
    let purge = closed.purge.map(|_| FormerReader {
        attributes: texts(&device.attributes),
        policy: device.policy.as_ref().map(ToString::to_string),
        versions: STANDARD.encode(closed.versions.encode()),
        epoch: closed.epoch,
    });
    let done = tx.done(id, broker)?.map(|(done, _)| done);
    Ok(Some(RevocationOrder { id: id.to_string(), bundle: revocation.bundle, purge, done }))
}

/// Whether a broker can have done that.
fn check(
    done: &RevocationDone,
    revocation: &RevocationRow,
    closed: &ClosedRow,
    newest: u64,
    now: u64,
) -> Result<(), Error> {
    let invalid = |detail: String| Err(Error::invalid("report", detail));
    if !(revocation.bundle..=newest).contains(&done.bundle) {
        return invalid(format!("bundle {} does not revoke the device, or is none", done.bundle));
    }
    let times = revocation.at.saturating_sub(CLOCK_SKEW_SECONDS)..=now.saturating_add(CLOCK_SKEW_SECONDS);
    if !times.contains(&done.cut_at) {
        return invalid(format!("{} is not a time between the revocation and now", done.cut_at));
    }
    if done.connections > done.sessions || done.sessions.max(done.retained.unwrap_or(0)) > COUNT_MAX {
        return invalid("these numbers cannot be".to_owned());
    }
    if done.retained.is_some() && closed.purge.is_none() {
        return invalid("nobody ordered that retained messages go".to_owned());
    }
    Ok(())
}
