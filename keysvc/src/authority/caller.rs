//! Who asks, and whether they may.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smqtt_core::identity::{
    DeviceId, Identity, IdentityError, Role, VerifiedCertificate, read_certificate, verify_certificate,
};

use super::access::Presented;
use super::edition::Expected;
use super::{Authority, Operation};
use crate::error::Error;
use crate::pki::not_after;
use crate::store::{DeviceRow, Tx};

/// Who asks: an address, the certificate that TLS found, if there was one, and the access token of the request.
#[derive(Clone, Debug)]
pub struct Caller {
    address: IpAddr,
    certificate: Option<Arc<Shown>>,
    /// Whom the certificate names.
    named: Option<Arc<Identity>>,
    access: Option<Presented>,
    /// Whether the secret of the access token was found to be right.
    access_held: Arc<AtomicBool>,
    /// Under which the request may be made again.
    key: Option<Arc<str>>,
    /// What it expects to find.
    pub(super) expected: Expected,
}

/// For how long a connection's certificate that was found to hold need not be checked again.
const HOLDS_SECONDS: u64 = 60;

/// The certificate of a connection. Whoever asks again over it is spared the signature's check.
#[derive(Debug)]
struct Shown {
    der: Vec<u8>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
enum Found {
    #[default]
    Nothing,
    /// It held; whoever asks once is not worth more work than that.
    Once,
    /// It holds under these roots from one time to another, seconds since 1970.
    Holds { verified: VerifiedCertificate, roots: Vec<Vec<u8>>, from: u64, to: u64 },
}

impl Shown {
    fn verify(&self, roots: &[Vec<u8>], at: u64) -> Result<VerifiedCertificate, IdentityError> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Found::Holds { verified, roots: under, from, to } = &*found
            && under == roots
            && (*from..=*to).contains(&at)
        {
            return Ok(verified.clone());
        }
        let verified = verify_certificate(&self.der, roots, at)?;
        let to = at.saturating_add(HOLDS_SECONDS);
        // What is valid at both ends is valid in between.
        *found = match *found {
            Found::Nothing => Found::Once,
            _ if verify_certificate(&self.der, roots, to).is_ok() => {
                Found::Holds { verified: verified.clone(), roots: roots.to_vec(), from: at, to }
            }
            _ => Found::Once,
        };
        Ok(verified)
    }
}

/// A caller whose standing was checked.
pub(super) struct Known {
    pub(super) role: Role,
    /// By an access token, and no certificate.
    pub(super) by_access: bool,
    /// Name and identifier, for the audit log.
    pub(super) actor: String,
}

/// A caller whose certificate and standing were checked.
pub(super) struct Holder {
    pub(super) device: DeviceRow,
    pub(super) public_key: [u8; 65],
    /// Name and identifier, for the audit log.
    pub(super) actor: String,
}

impl DeviceRow {
    /// Whether it is let do anything at all: neither revoked nor suspended.
    pub(super) fn stands(&self) -> Result<(), Error> {
        match (&self.revocation, &self.suspension) {
            (Some(_), _) => Err(Error::Revoked),
            (None, Some(_)) => Err(Error::Suspended),
            (None, None) => Ok(()),
        }
    }
}

impl Caller {
    /// A caller at `address` whose possession of `certificate` (DER) TLS has checked.
    pub fn new(address: IpAddr, certificate: Option<Vec<u8>>) -> Self {
        let named = certificate.as_ref().and_then(|der| read_certificate(der).ok());
        let named = named.map(|read| Arc::new(read.identity));
        let shown = |der| Arc::new(Shown { der, found: Mutex::default() });
        Self {
            address,
            certificate: certificate.map(shown),
            named,
            access: None,
            access_held: Arc::default(),
            key: None,
            expected: Expected::default(),
        }
    }

    /// The same with an access token: it counts instead of the certificate.
    pub fn with_access(self, token: &str) -> Self {
        Self { access: Some(Presented::parse(token)), access_held: Arc::default(), ..self }
    }

    /// The same with a key under which the request may be made again.
    pub fn with_idempotency_key(self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whom the certificate names, whether it holds or not.
    pub(super) fn device(&self) -> Option<DeviceId> {
        self.named.as_ref().map(|named| named.id)
    }

    /// The same, with the role that it names.
    pub(crate) fn named(&self) -> Option<(DeviceId, Role)> {
        self.named.as_ref().map(|named| (named.id, named.role))
    }

    /// The role that the certificate names, where it is the certificate that counts.
    pub(crate) fn role(&self) -> Option<Role> {
        self.named().filter(|_| self.access.is_none()).map(|(_, role)| role)
    }

    /// Which access token the request says it has, whether that is so or not.
    pub(super) fn access_id(&self) -> Option<[u8; 16]> {
        self.access.as_ref().and_then(Presented::id)
    }

    /// Whether somebody looked at the access token's secret, and it was right. Not every request is one that asks for it.
    pub(super) fn access_held(&self) -> bool {
        self.access_held.load(Ordering::Relaxed)
    }

    pub(super) fn hold_access(&self) {
        self.access_held.store(true, Ordering::Relaxed);
    }

    /// Until when the certificate says that it is valid, whether it holds or not; seconds since 1970.
    pub(super) fn certificate_expires(&self) -> Option<u64> {
        not_after(&self.certificate.as_ref()?.der)
    }

    /// Whether a certificate, and no access token, says who asks.
    pub(super) fn shows_certificate(&self) -> bool {
        self.access.is_none() && self.certificate.is_some()
    }

    /// For the audit log: which access token it says it is or whom the certificate names, whether they hold or not, or
    /// the address.
    pub(crate) fn actor(&self) -> String {
        if let Some(access) = &self.access {
            return access.actor().unwrap_or_else(|| self.address.to_string());
        }
        match &self.named {
            Some(named) => format!("{} {}", named.name, named.id),
            None => self.address.to_string(),
        }
    }
}

impl Authority {
    /// Checks standing and role, now: a revoked device is refused with its next request. Refusals are written down.
    pub(super) async fn authorise(&self, caller: &Caller, operation: Operation) -> Result<Known, Error> {
        match caller.access {
            Some(presented) => {
                let checked = self.check_access(caller, presented, operation).await;
                self.or_denied(caller, operation, checked).await
            }
            None => {
                let holder = self.authorise_holder(caller, operation, self.now()).await?;
                Ok(Known { role: holder.device.role, by_access: false, actor: holder.actor })
            }
        }
    }

    /// As [`Self::authorise`], of the holder of a certificate that was valid at `at`.
    pub(super) async fn authorise_holder(
        &self,
        caller: &Caller,
        operation: Operation,
        at: u64,
    ) -> Result<Holder, Error> {
        let shown = self.shown_holder(caller, operation, at).await?;
        let one = shown.clone();
        let device = self.store.read(move |tx| one.device(tx, operation)).await;
        let device = self.or_denied(caller, operation, device).await?;
        let actor = format!("{} {}", device.name, device.id);
        Ok(Holder { device, public_key: shown.0.public_key, actor })
    }

    /// Gives back what was checked; a refusal is written down.
    pub(super) async fn or_denied<T>(
        &self,
        caller: &Caller,
        operation: Operation,
        checked: Result<T, Error>,
    ) -> Result<T, Error> {
        match checked {
            Err(error) if !matches!(error, Error::Store(_)) => {
                Err(self.deny(caller.actor(), operation.name(), String::new(), error).await)
            }
            checked => checked,
        }
    }

    /// The same of what shows in the transaction alone: that what is asked for is about somebody with whom `actor` has nothing
    /// to do.
    pub(super) async fn or_refused<T>(
        &self,
        actor: String,
        operation: Operation,
        subject: String,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        match done {
            Err(error @ (Error::Role { .. } | Error::CertificateRequired)) => {
                Err(self.deny(actor, operation.name(), subject, error).await)
            }
            done => done,
        }
    }

    /// The certificate alone, of whoever must have one; the rest is asked of the store, together with what else is.
    pub(super) async fn shown_holder(
        &self,
        caller: &Caller,
        operation: Operation,
        at: u64,
    ) -> Result<ShownHolder, Error> {
        let checked = match caller.access {
            Some(presented) => {
                self.check_access(caller, presented, operation).await.and(Err(Error::CertificateRequired))
            }
            None => match &caller.certificate {
                Some(certificate) => certificate.verify(&self.roots(), at).map_err(Error::Certificate),
                None => Err(Error::CertificateRequired),
            },
        };
        self.or_denied(caller, operation, checked.map(ShownHolder)).await
    }
}

/// Whom a certificate that holds names. Nothing is known of its standing.
#[derive(Clone)]
pub(super) struct ShownHolder(VerifiedCertificate);

impl ShownHolder {
    /// The device, if it stands and may do this.
    pub(super) fn device(&self, tx: &Tx<'_>, operation: Operation) -> Result<DeviceRow, Error> {
        let (id, role) = (self.0.identity.id, self.0.identity.role);
        let device = tx.device(id)?.ok_or(Error::UnknownCaller)?;
        device.stands()?;
        if device.role != role {
            return Err(Error::UnknownCaller);
        }
        if !operation.roles().contains(&role) {
            return Err(Error::Role { role });
        }
        Ok(device)
    }
}
