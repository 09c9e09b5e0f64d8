//! Enrolment and what follows it: newer bundles, newer keys, a renewed certificate.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use smqtt_core::api::{EnrolRequest, Enrolment, Keys, Params, RenewRequest, Waiting};
use smqtt_core::attribute::Label;
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::{SigningKey, sha256};
use smqtt_core::identity::{DeviceId, Role, fingerprint, verify_certificate};
use smqtt_core::suite::{SuiteId, UserKey};
use smqtt_core::token::Token;

use crate::authority::{Authority, RequestError, spread_out};
use crate::keyring::{Keyring, KeyringError, OwnKeys, SharedKeyring};
use crate::tls;

/// How long one `GET /v1/bundle` waits for news.
const BUNDLE_WAIT: Duration = Duration::from_secs(30);
/// Longest pause between two tries to reach the authority.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// After a new certificate was refused, how long the next attempt waits while the old one holds.
const RENEWAL_PAUSE_SECONDS: u64 = 3600;

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
    /// A person has to approve: the same call again, after a while, gets the answer.
    #[error("the enrolment of `{}` waits for approval", .0.name)]
    Waits(Waiting),
    /// The certificate request could not be made.
    #[error("cannot make a certificate request")]
    Csr(#[from] rcgen::Error),
    /// The authority gave a certificate and then did not take it. The old one stays.
    #[error("the renewed certificate does not work: the old one stays")]
    NewCertificate(#[source] Box<EnrolError>),
    /// It slept for too long.
    #[error("the certificate has run out, and the authority does not renew it any more")]
    RanOut(#[source] Box<EnrolError>),
}

impl EnrolError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Request(error) => error.hint(),
            Self::Keyring(error) => error.hint().map(str::to_owned),
            Self::Taken { .. } => Some("choose another directory with `--dir`".into()),
            Self::WrongRoot => Some("ask for a new token; somebody may be in between".into()),
            Self::RanOut(_) => Some("enrol again into another directory, with a new token".into()),
            Self::Waits(waiting) => {
                Some(format!("an administrator says `smqtt device approve {}`", waiting.name))
            }
            Self::Expired => Some("ask for a new one: `smqtt token new NAME attribute=value…`".into()),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_temporary())
    }

    /// After how long to ask again, where the authority says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Request(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the authority says that the device was revoked: nothing more is to be had.
    pub fn is_revoked(&self) -> bool {
        matches!(self, Self::Request(error) if error.code() == Some("revoked"))
    }
}

/// What the authority answers to whoever presents a token.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Waits(Waiting),
    Enrolled(Box<Enrolment>),
}

/// Enrols with `token` into `dir`: makes the device's keys there, sends a certificate request over
/// HTTPS pinned to the token's fingerprint, stores what comes back. May be called again with the same
/// token after a failure: the keys stay, and the authority gives the same answer.
///
/// # Errors
/// [`EnrolError`]; nothing but the device's own keys is then stored.
pub async fn enrol(token: &Token, dir: &Path, now: u64) -> Result<Keyring, EnrolError> {
    enrol_as(token, None, dir, now).await
}

/// The same for a device that says which `serial` it has, as a token with a list of them wants to know.
///
/// # Errors
/// As [`enrol`].
pub async fn enrol_as(
    token: &Token,
    serial: Option<&str>,
    dir: &Path,
    now: u64,
) -> Result<Keyring, EnrolError> {
    match Keyring::load(dir) {
        Err(KeyringError::NotEnrolled(_)) => {}
        Err(error) => return Err(error.into()),
        Ok(keyring) => return Err(EnrolError::Taken { name: keyring.place().name.clone() }),
    }
    let authority = Authority::new(&token.url, tls::pinned_config_at(token.fingerprint, now)?)?;
    let own = OwnKeys::load_or_make(dir)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    let request = EnrolRequest {
        token_id: hex(&token.id),
        secret: hex(&token.secret),
        csr: STANDARD.encode(csr(&own.signing)?),
        hpke_key: STANDARD.encode(&own.hpke_public),
        serial: serial.map(str::to_owned),
    };
    let answer: Answer = match authority.post("/v1/enrol", &request).await {
        // The clock that counts is the authority's; ours may be wrong.
        Err(RequestError::Problem(problem)) if problem.code() == "token-expired" => {
            return Err(EnrolError::Expired);
        }
        answer => answer?,
    };
    let mut enrolment = match answer {
        Answer::Enrolled(enrolment) => enrolment,
        Answer::Waits(waiting) => return Err(EnrolError::Waits(waiting)),
    };
    // The root that the token names: of several in trust perhaps not the newest.
    let named = |root: &&String| {
        let root = STANDARD.decode(root).ok().and_then(|der| fingerprint(&der).ok());
        root == Some(token.fingerprint)
    };
    let root = std::iter::once(&enrolment.root).chain(&enrolment.roots).find(named).cloned();
    enrolment.root = root.ok_or(EnrolError::WrongRoot)?;
    Ok(Keyring::create(dir, &token.url, own, &enrolment, now)?)
}

/// The authority, as the device of this keyring, for requests that are made at once: `now` in seconds since 1970.
///
/// # Errors
/// [`EnrolError`] where the keyring's certificate cannot be used.
pub fn authority_of(keyring: &Keyring, now: u64) -> Result<Authority, EnrolError> {
    let authority = authority_as(keyring, keyring.signer().certificate(), now)?;
    Ok(authority.over(keyring.connection().clone()))
}

fn authority_as(keyring: &Keyring, certificate: &[u8], now: u64) -> Result<Authority, EnrolError> {
    let identity = (certificate, keyring.signer().key().expose_pkcs8());
    let tls = tls::authority_config_at(keyring.roots(), identity, now)?;
    Ok(Authority::new(&keyring.place().authority, tls)?)
}

/// What [`refresh`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// There is a newer bundle.
    pub bundle: bool,
    /// The certificate was renewed.
    pub certificate: bool,
    /// User secret keys were fetched.
    pub keys: bool,
    /// The revision of the caller, where the authority says it; of a broker that of the directory.
    pub revision: Option<u64>,
}

/// Does everything that is due at `now` (seconds since 1970): renews a certificate in the last third of its life, fetches
/// a newer bundle (waiting up to `wait` for one) and the keys that go with it, those of the next epoch when it is near,
/// and all of them where the device's attributes changed. When exactly of what can wait is spread over the devices. The
/// keyring is locked only to read and change it.
///
/// # Errors
/// [`EnrolError`]; what was fetched before stays. While the old certificate holds, its renewal failing keeps nothing else
/// from being done.
pub async fn refresh(keyring: &SharedKeyring, now: u64, wait: Duration) -> Result<Refreshed, EnrolError> {
    let revision = keyring.with(|k| k.revision());
    refresh_after(keyring, now, wait, revision).await
}

/// [`refresh`] for whoever knows what changed up to another `revision` than that of the keys: a broker, the directory.
///
/// # Errors
/// As [`refresh`].
pub async fn refresh_after(
    keyring: &SharedKeyring,
    now: u64,
    wait: Duration,
    revision: u64,
) -> Result<Refreshed, EnrolError> {
    // The certificate first: with one that has expired nothing else is to be had.
    let renewed = renew_if_due(keyring, now).await;
    let mut done = Refreshed::default();
    let failed = match renewed {
        Ok(renewed) => {
            done.certificate = renewed;
            None
        }
        Err(error) if error.is_revoked() || error.is_temporary() => return Err(error),
        Err(error) if keyring.with(|k| certificate_holds(k, now)) => Some(error),
        Err(error) => return Err(EnrolError::RanOut(Box::new(error))),
    };
    let reads = keyring.with(|k| k.signer().identity().role == Role::Device);
    // What is wanted already is not to wait for news.
    if reads && let Some(since) = keyring.with(|k| keys_wanted(k, &k.bundle().clone(), now)) {
        done.keys |= fetch_keys(keyring, since, now).await?;
    }
    let (authority, known) =
        keyring.with(|k| Ok::<_, EnrolError>((authority_of(k, now)?, k.bundle().number)))?;
    let news = authority.news(known, revision, wait).await?;
    done.revision = news.revision;
    let newest = keyring.with(|k| match &news.bundle {
        Some(bytes) => Bundle::verify(bytes, k.roots()).map_err(KeyringError::Bundle),
        None => Ok(k.bundle().clone()),
    })?;
    let is_own = keyring.with(|k| k.signer().identity().role != Role::Broker);
    let changed = news.revision.filter(|revision| is_own && keyring.with(|k| k.revision() != *revision));
    // Asked of the keys, not of the bundle: the last try may have broken in between, and most bundles
    // change nothing for most devices.
    let wanted = match changed {
        Some(_) => Some(0),
        None => keyring.with(|k| keys_wanted(k, &newest, now)).filter(|_| news.bundle.is_some()),
    };
    // Keys come before the bundle that asks for them: until both are there, what is sealed under it is
    // newer than the keyring and waits, instead of being for others. Without keys the bundle still counts.
    let lacks = |k: &mut Keyring| newest.params.iter().any(|id| k.params().iter().all(|own| own.id() != id));
    let lacks_params = reads && keyring.with(lacks);
    let keys = async {
        if lacks_params {
            let answer: Params = authority.get("/v1/params").await?;
            keyring.with(|k| k.take_params(&newest, &answer.params))?;
        }
        if reads && let Some(since) = wanted {
            done.keys |= fetch_keys(keyring, since, now).await?;
        }
        if let Some(revision) = changed {
            keyring.with(|k| k.take_revision(revision.max(k.revision())))?;
        }
        Ok::<_, EnrolError>(())
    };
    let keys = keys.await;
    if let Some(bytes) = &news.bundle {
        done.bundle = keyring.with(|k| k.take_bundle(bytes))?;
    }
    keys?;
    failed.map_or(Ok(done), Err)
}

/// Keeps the keyring fresh for as long as it is polled: newer bundles as soon as there are any, keys
/// and certificates with them. Ends only when the authority says that its holder was revoked.
pub async fn keep_fresh(keyring: &SharedKeyring, now: fn() -> u64) -> EnrolError {
    let mut failures = 0u32;
    loop {
        match refresh(keyring, now(), BUNDLE_WAIT).await {
            Ok(_) => failures = 0,
            Err(error) if error.is_revoked() => return error,
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, failures, "cannot refresh the keyring");
                let pause = Duration::from_millis(500) * 2u32.saturating_pow(failures.min(7) - 1);
                let asked = error.retry_after().unwrap_or_default();
                tokio::time::sleep(spread_out(pause.max(asked).min(BACKOFF_MAX))).await;
            }
        }
    }
}

// ---- user secret keys

/// From which epoch on the device lacks keys that it is to have under `bundle` at `now`; `None`: it has all of them.
fn keys_wanted(keyring: &Keyring, bundle: &Bundle, now: u64) -> Option<u64> {
    let (current, before) = (bundle.epoch.number, keyring.bundle().epoch.number);
    let in_time = |label: &Label| label.version().is_none_or(|(key, v)| v >= bundle.versions.get(&key));
    let suites = [Some(SuiteId::FabeoCp), keyring.policy().map(|_| SuiteId::FabeoKp)];
    let mut wanted: Option<u64> = None;
    for params in keyring.params().iter().filter(|params| bundle.params.contains(params.id())) {
        if !suites.contains(&Some(params.suite())) {
            continue;
        }
        let keys = || keyring.keys().iter().filter(|key| key.params_id() == params.id());
        let has = |epoch| keys().any(|key| key.epoch() == epoch && key.labels().iter().all(in_time));
        let mut want = |epoch: u64| wanted = Some(wanted.map_or(epoch, |least| least.min(epoch)));
        match keys().map(UserKey::epoch).max() {
            None => want(0),
            Some(last) if !has(current) => want(last.min(current)),
            Some(_) => {}
        }
        // A version may have been raised at the end of an epoch in which the device went to sleep.
        if before < current && keys().any(|key| key.epoch() == before) && !has(before) {
            want(before);
        }
        if now >= next_keys_due(keyring, bundle) && !has(current + 1) {
            want(current + 1);
        }
    }
    wanted
}

/// When the device fetches the next epoch's keys: in the last quarter of this one, in which the authority gives them.
fn next_keys_due(keyring: &Keyring, bundle: &Bundle) -> u64 {
    let epoch = &bundle.epoch;
    let quarter = epoch.ends.saturating_sub(epoch.begins) / 4;
    let spread = spread(keyring, &epoch.number.to_be_bytes(), quarter / 4 * 3);
    epoch.ends.saturating_sub(quarter).saturating_add(spread)
}

/// Fetches keys of epochs from `since` on; whether there were any.
async fn fetch_keys(keyring: &SharedKeyring, since: u64, now: u64) -> Result<bool, EnrolError> {
    let authority = keyring.with(|k| authority_of(k, now))?;
    let answer: Keys = authority.get(&format!("/v1/keys?since={since}")).await?;
    keyring.with(|k| {
        k.take_policy(answer.policy.as_deref())?;
        k.take_keys(&answer.keys)?;
        // Only who was given all that there is has the keys of that revision.
        if since == 0 { k.take_revision(answer.revision) } else { Ok(()) }
    })?;
    Ok(!answer.keys.is_empty())
}

// ---- the certificate

/// Renews the certificate where it is due, tries the new one out, and puts it in the place of the old one.
async fn renew_if_due(keyring: &SharedKeyring, now: u64) -> Result<bool, EnrolError> {
    // One on trial is there already where the last attempt broke in between.
    let mut keys = None;
    if keyring.with(|k| k.next_certificate().is_none()) {
        let Some(request) = keyring.with(|k| renewal(k, now))? else { return Ok(false) };
        let authority = keyring.with(|k| authority_of(k, now))?;
        let renewed: Enrolment = authority.post("/v1/renew", &request).await?;
        let certificate = STANDARD.decode(&renewed.certificate).map_err(|_| KeyringError::Answer)?;
        let bundle = STANDARD.decode(&renewed.bundle).map_err(|_| KeyringError::Answer)?;
        keyring.with(|k| k.put_next_certificate(certificate, &bundle, now))?;
        keys = Some((renewed.keys, renewed.revision));
    }
    match try_next(keyring, now).await {
        Ok(()) => {}
        Err(error) if error.is_revoked() || error.is_temporary() => return Err(error),
        Err(error) => {
            keyring.with(|k| {
                k.put_off_renewal(now.saturating_add(RENEWAL_PAUSE_SECONDS));
                k.drop_next_certificate()
            })?;
            return Err(EnrolError::NewCertificate(Box::new(error)));
        }
    }
    keyring.with(|k| {
        k.take_next_certificate()?;
        let Some((keys, revision)) = keys else { return Ok(()) };
        k.take_keys(&keys)?;
        k.take_revision(revision)
    })?;
    Ok(true)
}

/// Asks the authority for nothing, under the certificate on trial.
async fn try_next(keyring: &SharedKeyring, now: u64) -> Result<(), EnrolError> {
    let authority = keyring.with(|k| {
        let next = k.next_certificate().unwrap_or_else(|| k.signer().certificate());
        authority_as(k, next, now)
    })?;
    Ok(authority.bundle(u64::MAX, Duration::ZERO).await.map(drop)?)
}

/// A request for a new certificate, where it is time for one.
fn renewal(keyring: &Keyring, now: u64) -> Result<Option<RenewRequest>, EnrolError> {
    if now < renewal_due(keyring) || (now < keyring.renewal_not_before() && certificate_holds(keyring, now)) {
        return Ok(None);
    }
    Ok(Some(RenewRequest {
        csr: STANDARD.encode(csr(&keyring.own().signing)?),
        hpke_key: STANDARD.encode(&keyring.own().hpke_public),
    }))
}

/// When the certificate is renewed, seconds since 1970: when two thirds of its life are over, and then spread over half of
/// the rest. Once another root issues than did then, sooner: devices within the epoch, all others at once.
pub fn renewal_due(keyring: &Keyring) -> u64 {
    let Some((from, to)) = validity(keyring.signer().certificate()) else { return 0 };
    let life = to.saturating_sub(from);
    let due = from + life / 3 * 2 + spread(keyring, &from.to_be_bytes(), life / 6);
    if !is_of_former_root(keyring, from) {
        return due;
    }
    let epoch = &keyring.bundle().epoch;
    let within = epoch.ends.saturating_sub(epoch.begins) / 4 * 3;
    match keyring.signer().identity().role {
        Role::Device => due.min(epoch.begins + spread(keyring, b"root", within)),
        _ => 0,
    }
}

/// Whether the certificate, valid from `from`, was issued by another root than the one that issues now.
fn is_of_former_root(keyring: &Keyring, from: u64) -> bool {
    let Some(lineage) = keyring.bundle().lineage.as_ref() else { return false };
    let issuing = std::slice::from_ref(lineage.issuing_root());
    verify_certificate(keyring.signer().certificate(), issuing, from).is_err()
}

fn certificate_holds(keyring: &Keyring, now: u64) -> bool {
    validity(keyring.signer().certificate()).is_some_and(|(_, to)| now <= to)
}

/// A part of `span` that is the device's own for this `occasion`: devices that began together do not go on together.
fn spread(keyring: &Keyring, occasion: &[u8], span: u64) -> u64 {
    spread_of(keyring.id(), occasion, span)
}

fn spread_of(id: DeviceId, occasion: &[u8], span: u64) -> u64 {
    let hash = sha256(&[b"SMQTT-V01 spread", &id.0, occasion]);
    let part = u64::from_be_bytes(hash[..8].try_into().expect("8 of 32 bytes"));
    ((u128::from(part) * u128::from(span)) >> 64) as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet that enrolled in one minute: in each tenth of the time about a tenth of it is due, another tenth each time.
    #[test]
    fn devices_that_began_together_do_not_go_on_together() {
        let due = |n: u16, occasion: &[u8]| {
            let mut id = [7; 16];
            id[..2].copy_from_slice(&n.to_be_bytes());
            spread_of(DeviceId(id), occasion, 1000)
        };
        for occasion in [b"1", b"2"] {
            let mut tenths = [0; 10];
            (0..1000).for_each(|n| tenths[due(n, occasion) as usize / 100] += 1);
            assert!(tenths.iter().all(|count| (60..140).contains(count)), "{tenths:?}");
        }
        assert!((0..1000).filter(|n| due(*n, b"1") == due(*n, b"2")).count() < 20);
        assert_eq!(due(1, b"1"), due(1, b"1"));
        assert_eq!(spread_of(DeviceId([1; 16]), b"", 0), 0);
    }
}
