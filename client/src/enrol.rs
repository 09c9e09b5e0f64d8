//! Enrolment and what follows it: newer bundles, newer keys, a renewed certificate.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smqtt_core::api::{EnrolRequest, Enrolment, Keys, Params, RenewRequest};
use smqtt_core::attribute::Label;
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::SigningKey;
use smqtt_core::identity::{Role, fingerprint};
use smqtt_core::suite::{SuiteId, UserKey};
use smqtt_core::token::Token;

use crate::authority::{Authority, RequestError};
use crate::keyring::{Keyring, KeyringError, OwnKeys, SharedKeyring};
use crate::tls;

/// How long one `GET /v1/bundle` waits for news.
const BUNDLE_WAIT: Duration = Duration::from_secs(30);
/// Longest pause between two tries to reach the authority.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Why enrolment or renewal came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The authority was not reached, or said no.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The directory, or what the authority sent.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// A device is enrolled here already.
    #[error("`{name}` is enrolled in this directory already")]
    Taken {
        /// Who.
        name: String,
    },
    /// The authority sent another root than the token names.
    #[error("the authority's root is not the one that the token names")]
    WrongRoot,
    /// The token was good until then.
    #[error("the enrolment token has expired")]
    Expired,
    /// The certificate request could not be made.
    #[error("cannot make a certificate request")]
    Csr(#[from] rcgen::Error),
}

impl EnrolError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Request(error) => error.hint(),
            Self::Keyring(error) => error.hint().map(str::to_owned),
            Self::Taken { .. } => Some("choose another directory with `--dir`".into()),
            Self::WrongRoot => Some("ask for a new token; somebody may be in between".into()),
            Self::Expired => Some("ask for a new one: `smqtt token new NAME attribute=value…`".into()),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_temporary())
    }
}

/// Enrols with `token` into `dir`: makes the device's keys there, sends a certificate request over
/// HTTPS pinned to the token's fingerprint, stores what comes back. May be called again with the same
/// token after a failure: the keys stay, and the authority gives the same answer.
///
/// # Errors
/// [`EnrolError`]; nothing but the device's own keys is then stored.
pub async fn enrol(token: &Token, dir: &Path, now: u64) -> Result<Keyring, EnrolError> {
    match Keyring::load(dir) {
        Err(KeyringError::NotEnrolled(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(keyring) => return Err(EnrolError::Taken { name: keyring.place().name.clone() }),
    }
    let authority = Authority::new(&token.url, tls::pinned_config(token.fingerprint)?)?;
    let own = OwnKeys::load_or_make(dir)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    let request = EnrolRequest {
        token_id: hex(&token.id),
        secret: hex(&token.secret),
        csr: STANDARD.encode(csr(&own.signing)?),
        hpke_key: STANDARD.encode(&own.hpke_public),
    };
    let enrolment: Enrolment = match authority.post("/v1/enrol", &request).await {
        // The clock that counts is the authority's; ours may be wrong.
        Err(RequestError::Problem(problem)) if problem.code() == "token-expired" => {
            return Err(EnrolError::Expired);
        }
        answer => answer?,
    };
    let root = STANDARD.decode(&enrolment.root).map_err(|_| KeyringError::Answer)?;
    if fingerprint(&root).map_err(KeyringError::Certificate)? != token.fingerprint {
        return Err(EnrolError::WrongRoot);
    }
    Ok(Keyring::create(dir, &token.url, own, &enrolment, now)?)
}

/// The authority, as the device of this keyring.
///
/// # Errors
/// [`EnrolError`] where the keyring's certificate cannot be used.
pub fn authority_of(keyring: &Keyring) -> Result<Authority, EnrolError> {
    let signer = keyring.signer();
    let identity = (signer.certificate(), signer.key().expose_pkcs8());
    let tls = tls::authority_config(keyring.roots(), identity)?;
    Ok(Authority::new(&keyring.place().authority, tls)?)
}

/// What [`refresh`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// There is a newer bundle.
    pub bundle: bool,
    /// The certificate was renewed.
    pub certificate: bool,
}

/// Fetches a newer bundle (waiting up to `wait` for one), the keys that go with it, and a new
/// certificate where two thirds of its life are over. The keyring is locked only to read and change it.
///
/// # Errors
/// [`EnrolError`]; what was fetched before stays.
pub async fn refresh(keyring: &SharedKeyring, now: u64, wait: Duration) -> Result<Refreshed, EnrolError> {
    // The certificate first: with one that has expired nothing else is to be had.
    let mut done = Refreshed { certificate: renew_if_due(keyring, now).await?, ..Refreshed::default() };
    let (authority, known) = keyring.with(|k| Ok::<_, EnrolError>((authority_of(k)?, k.bundle().number)))?;
    let news = authority.bundle(known, wait).await?;
    let newest = keyring.with(|k| match &news {
        Some(bytes) => Bundle::verify(bytes, k.roots()).map_err(KeyringError::Bundle),
        None => Ok(k.bundle().clone()),
    })?;
    // Asked of the keys, not of the bundle: the last try may have broken in between, and most bundles
    // change nothing for most devices.
    let reads = keyring.with(|k| k.signer().identity().role == Role::Device);
    let behind = reads && keyring.with(|k| keys_are_behind(k, &newest));
    // Keys come before the bundle that asks for them: until both are there, what is sealed under it is
    // newer than the keyring and waits, instead of being for others. Without keys the bundle still counts.
    let lacks = |k: &mut Keyring| newest.params.iter().any(|id| k.params().iter().all(|own| own.id() != id));
    let lacks_params = reads && keyring.with(lacks);
    let keys = async {
        if lacks_params {
            let answer: Params = authority.get("/v1/params").await?;
            keyring.with(|k| k.take_params(&newest, &answer.params))?;
        }
        if behind {
            let keys: Keys = authority.get("/v1/keys").await?;
            keyring.with(|k| k.take_keys(&keys.keys))?;
        }
        Ok::<_, EnrolError>(())
    };
    let keys = keys.await;
    if let Some(bytes) = &news {
        done.bundle = keyring.with(|k| k.take_bundle(bytes))?;
    }
    keys.map(|()| done)
}

/// Keeps the keyring fresh for as long as it is polled: newer bundles as soon as there are any, keys
/// and certificates with them. Ends only when the authority says that its holder was revoked.
pub async fn keep_fresh(keyring: &SharedKeyring, now: fn() -> u64) -> EnrolError {
    let mut failures = 0u32;
    loop {
        match refresh(keyring, now(), BUNDLE_WAIT).await {
            Ok(_) => failures = 0,
            Err(EnrolError::Request(error)) if error.code() == Some("revoked") => {
                return EnrolError::Request(error);
            }
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, failures, "cannot refresh the keyring");
                let pause = Duration::from_millis(500) * 2u32.saturating_pow(failures.min(7) - 1);
                tokio::time::sleep(pause.min(BACKOFF_MAX)).await;
            }
        }
    }
}

/// Whether a suite that the device reads with has no key of the bundle's epoch (or a later one) with all that it names
/// in the current versions.
fn keys_are_behind(keyring: &Keyring, bundle: &Bundle) -> bool {
    let (epoch, versions) = (bundle.epoch.number, &bundle.versions);
    let current = |label: &Label| label.version().is_none_or(|(key, version)| version >= versions.get(&key));
    let is_current = |key: &UserKey| key.epoch() >= epoch && key.labels().iter().all(current);
    let behind = |suite| !keyring.keys().iter().any(|key| key.suite() == suite && is_current(key));
    behind(SuiteId::FabeoCp) || (keyring.policy().is_some() && behind(SuiteId::FabeoKp))
}

async fn renew_if_due(keyring: &SharedKeyring, now: u64) -> Result<bool, EnrolError> {
    let Some(request) = keyring.with(|k| renewal(k, now))? else { return Ok(false) };
    let authority = keyring.with(|k| authority_of(k))?;
    let renewed: Enrolment = authority.post("/v1/renew", &request).await?;
    let certificate = STANDARD.decode(&renewed.certificate).map_err(|_| KeyringError::Answer)?;
    keyring.with(|k| k.take_certificate(certificate, now))?;
    Ok(true)
}

/// A request for a new certificate, where two thirds of the old one's life are over.
fn renewal(keyring: &Keyring, now: u64) -> Result<Option<RenewRequest>, EnrolError> {
    if !certificate_is_due(keyring, now) {
        return Ok(None);
    }
    Ok(Some(RenewRequest {
        csr: STANDARD.encode(csr(&keyring.own().signing)?),
        hpke_key: STANDARD.encode(&keyring.own().hpke_public),
    }))
}

/// Whether two thirds of the certificate's life are over.
fn certificate_is_due(keyring: &Keyring, now: u64) -> bool {
    let Some((from, to)) = validity(keyring.signer().certificate()) else { return true };
    now >= from + (to.saturating_sub(from)) / 3 * 2
}

/// Not before and not after of a certificate, seconds since 1970.
pub fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    Some((seconds(validity.not_before)?, seconds(validity.not_after)?))
}

/// A certificate request; the authority takes nothing from it but the key.
fn csr(key: &SigningKey) -> Result<Vec<u8>, rcgen::Error> {
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.expose_pkcs8());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let request = rcgen::CertificateParams::default().serialize_request(&pair)?;
    Ok(request.der().to_vec())
}
