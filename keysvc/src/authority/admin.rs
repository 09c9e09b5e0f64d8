//! The administrator's certificate: written by the first start, used over HTTPS like anybody's.

use std::path::Path;

use serde_json::json;
use smqtt_core::attribute::Attributes;
use smqtt_core::crypto::{SigningKey, random};
use smqtt_core::identity::{DeviceId, Identity, Role, read_certificate};
use zeroize::Zeroizing;

use super::{OWN_CERTIFICATE_SECONDS, Secrets, audit, is_due};
use crate::error::OpenError;
use crate::files;
use crate::pki::{Issued, Leaf, Usage, pem, point};
use crate::store::{DeviceRow, Opening, StoreError, Tx};

const NAME: &str = "admin";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
/// Roots that were retired: by them the older checkpoints of the audit log are checked, and nothing else.
const PAST_ROOTS: &str = "past-roots.pem";

/// An administrator as the files have it.
struct Files {
    certificate: Zeroizing<Vec<u8>>,
    key: SigningKey,
    identity: Identity,
}

/// A certificate to take the place of the one in the files.
pub(super) struct Renewal {
    identity: Identity,
    public_key: Vec<u8>,
    issued: Issued,
}

/// Sees to it that `dir` holds a certificate of an active administrator with a third of its life before it.
pub(super) fn ensure(
    opening: &Opening,
    secrets: &Secrets,
    dir: &Path,
    url: &str,
    now: u64,
) -> Result<(), OpenError> {
    match load(secrets, dir)? {
        Some(files) => {
            let known = opening.transaction(|tx| {
                let active = |row: DeviceRow| row.role == Role::Admin && row.revocation.is_none();
                let ours = tx.certificate(files.identity.id, files.key.public_key())?.is_some();
                Ok(ours && tx.device(files.identity.id)?.is_some_and(active))
            })?;
            if !known {
                return Err(OpenError::Admin { path: dir.join(CERTIFICATE) });
            }
            if let Some(renewal) = renewal(secrets, files, now) {
                opening.transaction(|tx| renewal.record(tx, secrets, now))?;
                renewal.write(dir)?;
            }
        }
        None => create(opening, secrets, dir, now)?,
    }
    write_place(secrets, dir, url)
}

/// Where the authority is, and by which roots it is known.
pub(super) fn write_place(secrets: &Secrets, dir: &Path, url: &str) -> Result<(), OpenError> {
    let roots = secrets.roots();
    let all = |roots: &[Vec<u8>]| roots.iter().map(|root| pem("CERTIFICATE", root)).collect::<String>();
    let fingerprint = roots.issuing().fingerprint().to_string();
    let authority = json!({ "url": url, "fingerprint": fingerprint }).to_string() + "\n";
    let files =
        [("root.pem", all(roots.in_trust())), (PAST_ROOTS, all(roots.past())), ("authority.json", authority)];
    for (name, content) in files {
        let path = dir.join(name);
        if files::read(&path)?.unwrap_or_default() != content.as_bytes() {
            files::write_secret(&path, content.as_bytes())?;
        }
    }
    Ok(())
}

/// A new certificate for the administrator in `dir`, if it is time. The store knew the old one at the start.
pub(super) fn due(secrets: &Secrets, dir: &Path, now: u64) -> Result<Option<Renewal>, OpenError> {
    Ok(load(secrets, dir)?.and_then(|files| renewal(secrets, files, now)))
}

fn renewal(secrets: &Secrets, files: Files, now: u64) -> Option<Renewal> {
    if !is_due(&files.certificate, secrets.roots().issuing().certificate(), now) {
        return None;
    }
    let issued = issue(secrets, &files.identity, &files.key, now);
    Some(Renewal { identity: files.identity, public_key: files.key.public_key().to_vec(), issued })
}

impl Renewal {
    pub(super) fn record(&self, tx: &Tx<'_>, secrets: &Secrets, now: u64) -> Result<(), StoreError> {
        // While we run, the files may have become somebody else's.
        if tx.certificate(self.identity.id, &self.public_key)?.is_none() {
            return Err(StoreError::Corrupt("admin"));
        }
        tx.insert_certificate(self.identity.id, &self.public_key, &self.issued)?;
        tx.renew_device(self.identity.id, &[], self.issued.not_after)?;
        audit::append(tx, &secrets.vault, now, "authority", "renew", &subject(&self.identity))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        files::write_secret(&dir.join(CERTIFICATE), pem("CERTIFICATE", &self.issued.der).as_bytes())
    }
}

/// Key and certificate; `None` where one of them is missing.
fn load(secrets: &Secrets, dir: &Path) -> Result<Option<Files>, OpenError> {
    let (cert_path, key_path) = (dir.join(CERTIFICATE), dir.join(KEY));
    let (certificate, key) = (files::read(&cert_path)?, files::read(&key_path)?.map(Zeroizing::new));
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    files::warn_if_others_read(&key_path);
    let wrong = || OpenError::Admin { path: cert_path.clone() };
    let certificate = from_pem("CERTIFICATE", &certificate).ok_or_else(wrong)?;
    let key = from_pem("PRIVATE KEY", &key).and_then(|der| SigningKey::from_pkcs8(&der));
    let key = key.ok_or_else(|| OpenError::Admin { path: key_path.clone() })?;
    let identity = identity_of(secrets, &certificate, &key).ok_or_else(wrong)?;
    Ok(Some(Files { certificate, key, identity }))
}

/// A new administrator in the place of one whose files are lost.
fn create(opening: &Opening, secrets: &Secrets, dir: &Path, now: u64) -> Result<(), OpenError> {
    let key = SigningKey::generate();
    let identity = Identity {
        tenant: secrets.roots().tenant(),
        role: Role::Admin,
        id: DeviceId(random()),
        name: NAME.into(),
    };
    let issued = issue(secrets, &identity, &key, now);
    opening.transaction(|tx| {
        if let Some(lost) = tx.active_device(NAME)? {
            tx.revoke_device(lost.id, now)?;
            // Whoever has the lost files may have made them for later.
            let whose = format!("{} {}", lost.name, lost.id);
            let tokens = tx.remove_tokens_of(&whose, now)?;
            let access = tx.delete_access_of(&whose)?;
            let lost = format!("{whose}, {access} access tokens and {tokens} tokens with it");
            audit::append(tx, &secrets.vault, now, "authority", "revoke", &lost)?;
        }
        tx.insert_device(&DeviceRow {
            id: identity.id,
            name: identity.name.clone(),
            role: Role::Admin,
            serial: None,
            attributes: Attributes::default(),
            policy: None,
            profile: None,
            group: None,
            hosts: Vec::new(),
            hpke_key: Vec::new(),
            enrolled: now,
            certificate_expires: issued.not_after,
            revision: 0,
            suspension: None,
            revocation: None,
            is_reset: false,
        })?;
        tx.insert_certificate(identity.id, key.public_key(), &issued)?;
        audit::append(tx, &secrets.vault, now, "authority", "create-admin", &subject(&identity))
    })?;
    let key = Zeroizing::new(pem("PRIVATE KEY", key.expose_pkcs8()));
    files::write_secret(&dir.join(KEY), key.as_bytes())?;
    files::write_secret(&dir.join(CERTIFICATE), pem("CERTIFICATE", &issued.der).as_bytes())
}

fn issue(secrets: &Secrets, identity: &Identity, key: &SigningKey, now: u64) -> Issued {
    secrets.roots().issuing().issue(&Leaf {
        identity,
        public_key: &point(key),
        usage: Usage::Client,
        hosts: &[],
        now,
        seconds: OWN_CERTIFICATE_SECONDS,
    })
}

/// When the administrator's certificate ends, seconds since 1970.
pub(super) fn not_after(dir: &Path) -> Option<u64> {
    let bytes = files::read(&dir.join(CERTIFICATE)).ok()??;
    crate::pki::not_after(&from_pem("CERTIFICATE", &bytes)?)
}

/// Whom the certificate names, if key and tenant fit. Whether we issued it the store knows.
fn identity_of(secrets: &Secrets, certificate: &[u8], key: &SigningKey) -> Option<Identity> {
    let read = read_certificate(certificate).ok()?;
    let fits = read.public_key[..] == *key.public_key()
        && read.identity.tenant == secrets.roots().tenant()
        && read.identity.role == Role::Admin;
    fits.then_some(read.identity)
}

fn subject(identity: &Identity) -> String {
    format!("{} {}", identity.name, identity.id)
}

/// The content of a PEM file with one block of this label.
fn from_pem(label: &str, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    use base64::Engine;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let body = text.strip_prefix(&format!("-----BEGIN {label}-----"))?;
    let body = body.strip_suffix(&format!("-----END {label}-----"))?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    base64::engine::general_purpose::STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}
