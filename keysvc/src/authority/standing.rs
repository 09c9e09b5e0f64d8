//! A device's standing: suspended for a while, let in again, or ended to begin anew.
//!
//! A suspended device gets no key, no certificate and no session, and the versions of its attributes are raised as if it were
//! revoked: who has it in hand does not read what is sealed meanwhile. Its identity stays, so that all of it comes back
//! with [`Authority::resume`]. A reset ends the identity, and leaves the name to the holder of a new token.

use std::sync::Arc;

use smqtt_core::api::{Reset, ResetRequest, Resumption, Suspension};
use smqtt_core::crypto::sha256;
use smqtt_core::identity::{Role, check_new_name};

use super::devices::{find, version_keys};
use super::tokens::may_make;
use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{DeviceRow, RevocationRow, TokenRow, Tx};

impl Authority {
    /// Suspends a device until it is resumed. Asked again, it answers the same. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such device, it was revoked, or the store failed.
    pub async fn suspend(self: &Arc<Self>, caller: &Caller, name_or_id: String) -> Result<Suspension, Error> {
        let admin = self.authorise(caller, Operation::Suspend).await?;
        let (this, now) = (self.clone(), self.now());
        self.store
            .write_reserved(move |tx| {
                let mut device = not_revoked(find(tx, &name_or_id)?)?;
                if let Some(suspension) = device.suspension.take() {
                    return Ok(report(device, suspension));
                }
                tx.suspend_device(device.id, now)?;
                this.tell(tx, device.id)?;
                let raised = this.shut_out(tx, version_keys(&device), &admin.actor, now)?;
                let bundle = this.publish(tx, now)?;
                tx.set_revocation(device.id, &raised, bundle)?;
                this.audit(
                    tx,
                    &admin.actor,
                    Operation::Suspend.name(),
                    &format!("{} {}", device.name, device.id),
                )?;
                tracing::info!(device = %device.id, name = device.name, bundle, "suspended");
                Ok(report(device, RevocationRow { at: now, raised, bundle }))
            })
            .await
    }

    /// Lets a suspended device in again. Of one that is not suspended it changes nothing. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such device, it was revoked, or the store failed.
    pub async fn resume(self: &Arc<Self>, caller: &Caller, name_or_id: String) -> Result<Resumption, Error> {
        let admin = self.authorise(caller, Operation::Resume).await?;
        let (this, now) = (self.clone(), self.now());
        self.store
            .write(move |tx| {
                let device = not_revoked(find(tx, &name_or_id)?)?;
                let bundle = match device.suspension {
                    None => tx.counter("bundle")?,
                    Some(_) => {
                        tx.resume_device(device.id)?;
                        this.tell(tx, device.id)?;
                        let bundle = this.publish(tx, now)?;
                        this.audit(
                            tx,
                            &admin.actor,
                            Operation::Resume.name(),
                            &format!("{} {}", device.name, device.id),
                        )?;
                        tracing::info!(device = %device.id, name = device.name, bundle, "resumed");
                        bundle
                    }
                };
                Ok(Resumption { id: device.id.to_string(), name: device.name, bundle })
            })
            .await
    }

    /// Ends a device as a revocation does, and makes a token for the next one of its name, with the same attributes and
    /// policy. Asked again before anybody enrolled with that token, it makes another in its place. For administrators.
    ///
    /// # Errors
    /// Not allowed, no such device, it was revoked for good, its name is taken again, or the store failed.
    pub async fn reset(
        self: &Arc<Self>,
        caller: &Caller,
        name_or_id: String,
        request: ResetRequest,
    ) -> Result<Reset, Error> {
        let admin = self.authorise(caller, Operation::Reset).await?;
        let (this, now) = (self.clone(), self.now());
        let once = self.once(caller, &admin, Operation::Reset, &(&name_or_id, &request));
        let token = self.draw_token(request.ttl_seconds, now)?;
        let (actor, subject) = (admin.actor.clone(), name_or_id.clone());
        let reset = self.write_once(once, move |tx| {
            let mut device = find(tx, &name_or_id)?;
            may_make(&admin, device.role)?;
            // Of one that has such a name from before nobody could take the place.
            check_new_name(&device.name).map_err(|error| Error::invalid("name", error))?;
            let revocation = match device.revocation.take() {
                None => this.end(tx, &device, Operation::Reset.name(), &admin.actor, now)?,
                Some(_) if !device.is_reset => return Err(Error::DeviceRevoked { name: device.name }),
                Some(_) if is_taken(tx, &device.name, now)? => {
                    return Err(Error::NameTaken { name: device.name });
                }
                Some(revocation) => {
                    let subject = format!("{} {}", device.name, device.id);
                    this.audit(tx, &admin.actor, Operation::Reset.name(), &subject)?;
                    revocation
                }
            };
            // From now on, until the token is used or over, its name is kept for it.
            tx.set_reset(device.id, now)?;
            // Whoever has an older token for the name must not be quicker.
            tx.remove_unused_tokens(&device.name, None, now)?;
            let reset = Reset {
                id: device.id.to_string(),
                name: device.name.clone(),
                revoked: revocation.at,
                raised: revocation.raised,
                bundle: revocation.bundle,
                token: token.expose().to_string(),
                expires: token.expires,
            };
            let given = tx.given(&device)?;
            let row = TokenRow {
                id: token.id,
                secret_hash: sha256(&[&token.secret]),
                name: device.name,
                role: device.role,
                attributes: given.attributes,
                policy: given.policy,
                hosts: device.hosts,
                made: now,
                expires: token.expires,
                uses_max: 1,
                used: 0,
                approval: false,
                removed: None,
            };
            tx.insert_token(&row, &admin.actor)?;
            tx.set_token_given(&token.id, given.profile.as_deref(), given.group.as_deref())?;
            Ok(reset)
        });
        let done = reset.await;
        self.or_refused(actor, Operation::Reset, subject, done).await
    }
}

/// A device that can be suspended and the like.
pub(super) fn not_revoked(device: DeviceRow) -> Result<DeviceRow, Error> {
    match device.role {
        Role::Admin => Err(Error::NotRevocable),
        _ if device.revocation.is_some() => Err(Error::DeviceRevoked { name: device.name }),
        _ => Ok(device),
    }
}

/// Whether somebody has the name of a device that was reset, or waits for approval under it.
fn is_taken(tx: &Tx<'_>, name: &str, now: u64) -> Result<bool, Error> {
    tx.deny_in_vain(name, now)?;
    Ok(tx.active_device(name)?.is_some() || tx.is_waiting(name)?)
}

fn report(device: DeviceRow, suspension: RevocationRow) -> Suspension {
    Suspension {
        id: device.id.to_string(),
        name: device.name,
        suspended: suspension.at,
        raised: suspension.raised,
        bundle: suspension.bundle,
    }
}
