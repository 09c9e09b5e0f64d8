//! Who asks, and whether they may.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use smqtt_core::identity::{
    DeviceId, IdentityError, Role, VerifiedCertificate, read_certificate, verify_certificate,
};

use super::access::Presented;
use super::{Authority, Operation};
use crate::error::Error;
use crate::pki::not_after;
use crate::store::DeviceRow;

/// Who asks: an address, the certificate that TLS found, if there was one, and the access token of the request.
#[derive(Clone, Debug)]
pub struct Caller {
    address: IpAddr,
    certificate: Option<Arc<Shown>>,
    /// Whom the certificate names.
    named: Option<(DeviceId, Role)>,
    access: Option<Presented>,
    /// Under which the request may be made again.
    key: Option<Arc<str>>,
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
        let named = named.map(|read| (read.identity.id, read.identity.role));
        let shown = |der| Arc::new(Shown { der, found: Mutex::default() });
        Self { address, certificate: certificate.map(shown), named, access: None, key: None }
    }

    /// The same with an access token: it counts instead of the certificate.
    pub fn with_access(self, token: &str) -> Self {
        Self { access: Some(Presented::parse(token)), ..self }
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
        self.named.map(|(id, _)| id)
    }

    /// The same, with the role that it names.
    pub(crate) fn named(&self) -> Option<(DeviceId, Role)> {
        self.named
    }

    /// The role that the certificate names, where it is the certificate that counts.
    pub(crate) fn role(&self) -> Option<Role> {
        self.named.filter(|_| self.access.is_none()).map(|(_, role)| role)
    }

    /// Which access token the request says it has, whether that is so or not.
    pub(super) fn access_id(&self) -> Option<[u8; 16]> {
        self.access.as_ref().and_then(Presented::id)
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
        let named = self.certificate.as_ref().and_then(|shown| read_certificate(&shown.der).ok());
        match named {
            Some(named) => format!("{} {}", named.identity.name, named.identity.id),
            None => self.address.to_string(),
        }
    }
}

impl Authority {
    /// Checks standing and role, now: a revoked device is refused with its next request. Refusals are written down.
    pub(super) async fn authorise(&self, caller: &Caller, operation: Operation) -> Result<Known, Error> {
        match caller.access {
            Some(presented) => {
                let checked = self.check_access(presented, operation).await;
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
        let checked = match caller.access {
            Some(presented) => {
                self.check_access(presented, operation).await.and(Err(Error::CertificateRequired))
            }
            None => self.check_holder(caller, operation, at).await,
        };
        self.or_denied(caller, operation, checked).await
    }

    /// The same; a refusal is written down.
    async fn or_denied<T>(
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

    async fn check_holder(&self, caller: &Caller, operation: Operation, at: u64) -> Result<Holder, Error> {
        let certificate = caller.certificate.as_ref().ok_or(Error::CertificateRequired)?;
        let verified = certificate.verify(&self.roots(), at).map_err(Error::Certificate)?;
        let (id, role) = (verified.identity.id, verified.identity.role);
        let device = self.store.read(move |tx| Ok(tx.device(id)?)).await?.ok_or(Error::UnknownCaller)?;
        device.stands()?;
        if device.role != role {
            return Err(Error::UnknownCaller);
        }
        if !operation.roles().contains(&role) {
            return Err(Error::Role { role });
        }
        let actor = format!("{} {id}", device.name);
        Ok(Holder { device, public_key: verified.public_key, actor })
    }
}
