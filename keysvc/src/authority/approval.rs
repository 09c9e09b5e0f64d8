//! Enrolments that a person has to approve: who waits, and the answer.

use std::sync::Arc;

use smqtt_core::api::{Applicant, Device};
use smqtt_core::identity::{DeviceId, Role};

use super::enrol::key_text;
use super::profiles::{adds_up_to, given_by};
use super::tokens::{for_devices, may_make};
use super::{Authority, Caller, Operation, devices};
use crate::error::Error;
use crate::store::{TokenRow, Tx, UseRow};

/// Most of those who wait in one answer.
const PAGE_MAX: usize = 1000;

impl Authority {
    /// Up to 1,000 of those who wait for approval, by name. For administrators and enrollers.
    ///
    /// # Errors
    /// Not allowed, or the store failed.
    pub async fn applicants(&self, caller: &Caller) -> Result<Vec<Applicant>, Error> {
        self.authorise(caller, Operation::ListApplicants).await?;
        let now = self.now();
        self.store
            .read(move |tx| {
                let waiting = tx.waiting(now, PAGE_MAX)?;
                waiting.into_iter().map(|used| applicant(tx, &token_of(tx, &used)?, used)).collect()
            })
            .await
    }

    /// Makes a device of whoever waits under this name; it gets its answer when it asks again. Approved again, it is the same
    /// device. With the `key` that somebody compared nobody else is approved, who may have come in between. For
    /// administrators; for enrollers devices alone.
    ///
    /// # Errors
    /// Not allowed, nobody waits, or with another key, the token or the name is not to be had any more, or the store failed.
    pub async fn approve(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        key: Option<String>,
    ) -> Result<Device, Error> {
        let who = self.authorise(caller, Operation::Approve).await?;
        let (this, now) = (self.clone(), self.now());
        let (actor, subject) = (who.actor.clone(), name.clone());
        let done = self
            .store
            .write(move |tx| {
                let (used, token) = asked(tx, &name, who.role, key.as_deref())?;
                may_make(&who, token.role)?;
                if used.denied.is_some() {
                    return Err(Error::Answered { name, answer: "denied" });
                }
                if let Some(id) = used.device {
                    let device = tx.device(id)?.ok_or(Error::NoSuchEnrolment { name })?;
                    return Ok(devices::device(device));
                }
                token.is_open(now)?;
                if tx.active_device(&used.name)?.is_some() {
                    return Err(Error::NameTaken { name });
                }
                let subject = format!("{name} key {}", key_text(&used));
                this.audit(tx, &who.actor, Operation::Approve.name(), &subject)?;
                let (device, _) = this.admit(tx, token, &used, now)?;
                tx.grant_use(&used, device.id)?;
                Ok(devices::device(device))
            })
            .await;
        self.or_refused(actor, Operation::Approve, subject, done).await
    }

    /// Turns away whoever waits under this name, and with `key` nobody who has another: it learns so when it asks again, and
    /// another may use the token instead. For administrators; for enrollers devices alone.
    ///
    /// # Errors
    /// Not allowed, nobody waits, or with another key, it was approved, or the store failed.
    pub async fn deny_enrolment(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        key: Option<String>,
    ) -> Result<Applicant, Error> {
        let who = self.authorise(caller, Operation::Deny).await?;
        let (this, now) = (self.clone(), self.now());
        let (actor, subject) = (who.actor.clone(), name.clone());
        let done = self
            .store
            .write_reserved(move |tx| {
                let (used, token) = asked(tx, &name, who.role, key.as_deref())?;
                if used.device.is_some() {
                    return Err(Error::Answered { name, answer: "approved" });
                }
                if used.denied.is_none() {
                    tx.deny_use(&used, now)?;
                    let subject = format!("{name} key {}", key_text(&used));
                    this.audit(tx, &who.actor, Operation::Deny.name(), &subject)?;
                    tracing::info!(name, "denied an enrolment");
                }
                applicant(tx, &token, used)
            })
            .await;
        self.or_refused(actor, Operation::Deny, subject, done).await
    }
}

/// Who asked under this name, and with which token, if somebody of this role may answer and it has this key.
fn asked(tx: &Tx<'_>, name: &str, by: Role, key: Option<&str>) -> Result<(UseRow, TokenRow), Error> {
    let none = || Error::NoSuchEnrolment { name: name.chars().take(64).collect() };
    let used = tx.asked_approval(name)?.ok_or_else(none)?;
    let token = token_of(tx, &used)?;
    for_devices(by, token.role)?;
    if key.is_some_and(|key| key != key_text(&used)) {
        return Err(Error::OtherKey { name: used.name });
    }
    Ok((used, token))
}

fn token_of(tx: &Tx<'_>, used: &UseRow) -> Result<TokenRow, Error> {
    Ok(tx.token(&used.token)?.ok_or(crate::store::StoreError::Corrupt("token_uses"))?)
}

/// Who waits, and what it would have in all: whoever approves says yes to that, and not to what the token gives alone.
fn applicant(tx: &Tx<'_>, token: &TokenRow, used: UseRow) -> Result<Applicant, Error> {
    let (attributes, policy) = adds_up_to(tx, &given_by(tx, token)?, token.role)?;
    Ok(Applicant {
        key: key_text(&used),
        name: used.name,
        serial: used.serial,
        address: used.address,
        asked: used.asked,
        token: DeviceId(token.id).to_string(),
        role: token.role.name().to_owned(),
        attributes: attributes.iter().map(ToString::to_string).collect(),
        policy: policy.as_ref().map(ToString::to_string),
    })
}
