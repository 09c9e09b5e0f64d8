//! The roots that certificates are issued from, and how one takes the place of another: prepared, so that everyone knows it;
//! activated, so that it issues; and the old one retired, when nothing that it issued counts any more.
//!
//! ```text
//! root        the first root's certificate, for ever: the vault and the tenant are named after it
//! root-key    sealed, its key; of the Nth root after it root-key/N: never there is another than that which issues and the next
//! roots       since the first rotation: certificates, links (smqtt_core::lineage), and how far the rotation is
//! ```
//!
//! The old root's key goes when the new one begins to issue: nothing is signed with it after that. It stays in trust until
//! `retire`, for what it has issued.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use smqtt_core::api::{CertificateRotated, CertificateRotation};
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::SigningKey;
use smqtt_core::identity::{Fingerprint, TenantId, fingerprint, tenant_of_root};
use smqtt_core::lineage::{Lineage, ROOTS_MAX};

use super::masters::not_before;
use super::{Authority, Caller, OWN_CERTIFICATE_SECONDS, Operation};
use crate::config::Config;
use crate::error::Error;
use crate::pki::Root;
use crate::store::{Deed, StoreError, Tx};
use crate::vault::Vault;

const DOCUMENT: &str = "roots";
const CORRUPT: StoreError = StoreError::Corrupt("roots");

/// The document: all roots there are, and how far their rotation is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// How many there were before the oldest that is still here.
    forgotten: usize,
    /// Those, oldest first: nobody is led from them any more, and what they signed of the audit log still verifies.
    #[serde(default)]
    before: Vec<String>,
    /// Oldest first, DER.
    roots: Vec<String>,
    links: Vec<String>,
    retired: usize,
    /// Which of `roots` issues.
    issuing: usize,
    /// The epoch in which the newest came.
    prepared: u64,
    activated: Option<Activated>,
}

/// When the newest root began to issue.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Activated {
    at: u64,
    /// When the last certificate of the one before runs out.
    until: u64,
}

impl State {
    fn load(tx: &Tx<'_>) -> Result<Self, StoreError> {
        if let Some(bytes) = tx.document(DOCUMENT)? {
            return serde_json::from_slice(&bytes).map_err(|_| CORRUPT);
        }
        let first = tx.document("root")?.ok_or(CORRUPT)?;
        let roots = vec![STANDARD.encode(first)];
        Ok(Self {
            forgotten: 0,
            before: Vec::new(),
            roots,
            links: Vec::new(),
            retired: 0,
            issuing: 0,
            prepared: 0,
            activated: None,
        })
    }

    fn save(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).expect("numbers and text are JSON");
        tx.set_document(DOCUMENT, &bytes)
    }

    fn newest(&self) -> usize {
        self.roots.len() - 1
    }

    /// The step that is next.
    fn next(&self) -> &'static str {
        match () {
            () if self.issuing < self.newest() => "activate",
            () if self.retired < self.issuing => "retire",
            () => "prepare",
        }
    }

    fn key_name(&self, root: usize) -> String {
        match self.forgotten + root {
            0 => "root-key".to_owned(),
            number => format!("root-key/{number}"),
        }
    }

    fn certificates(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        decode(&self.roots)
    }

    fn lineage(&self) -> Result<Option<Lineage>, StoreError> {
        if self.roots.len() == 1 {
            return Ok(None);
        }
        let lineage = Lineage::new(self.certificates()?, decode(&self.links)?, self.retired, self.issuing);
        lineage.map(Some).ok_or(CORRUPT)
    }

    fn place_of(&self, wanted: &Fingerprint) -> Result<Option<usize>, StoreError> {
        let is_it = |der: &Vec<u8>| fingerprint(der).as_ref() == Ok(wanted);
        Ok(self.certificates()?.iter().position(is_it))
    }

    fn issue_from_newest(&mut self, tx: &Tx<'_>, config: &Config, at: u64) -> Result<(), StoreError> {
        tx.delete_document(&self.key_name(self.issuing))?;
        self.issuing = self.newest();
        // A restored authority does not know of those that were issued since the backup.
        let longest = OWN_CERTIFICATE_SECONDS.max(config.certificate_seconds());
        let until = tx.certificates_until()?.max(at.saturating_add(longest));
        self.activated = Some(Activated { at, until });
        self.save(tx)
    }

    fn retire_before(&mut self, tx: &Tx<'_>, place: usize) -> Result<(), StoreError> {
        self.retired = self.retired.max(place.min(self.issuing));
        self.save(tx)
    }
}

fn decode(texts: &[String]) -> Result<Vec<Vec<u8>>, StoreError> {
    texts.iter().map(|text| STANDARD.decode(text).map_err(|_| CORRUPT)).collect()
}

/// All roots, in memory, and the key of the one that issues.
pub(crate) struct Roots {
    issuing: Root,
    in_trust: Vec<Vec<u8>>,
    past: Vec<Vec<u8>>,
    chain: Vec<Vec<u8>>,
}

impl Roots {
    pub(super) fn load(tx: &Tx<'_>, vault: &Vault) -> Result<Self, StoreError> {
        let state = State::load(tx)?;
        let (certificates, lineage) = (state.certificates()?, state.lineage()?);
        let certificate = certificates.get(state.issuing).ok_or(CORRUPT)?;
        let name = state.key_name(state.issuing);
        let key = SigningKey::from_pkcs8(&vault.get(tx, &name)?).ok_or(StoreError::Corrupt("root-key"))?;
        let tenant = tenant_of_root(certificate).map_err(|_| CORRUPT)?;
        let issuing = Root::new(key, certificate.clone(), tenant);
        let (in_trust, past, chain) = match lineage {
            None => (certificates.clone(), Vec::new(), certificates.clone()),
            Some(lineage) => (
                lineage.in_trust().to_vec(),
                decode(&state.before)?.into_iter().chain(lineage.past().iter().cloned()).collect(),
                lineage.chain().map(<[u8]>::to_vec).collect(),
            ),
        };
        Ok(Self { issuing, in_trust, past, chain })
    }

    /// The one that issues.
    pub(crate) fn issuing(&self) -> &Root {
        &self.issuing
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.issuing.tenant()
    }

    /// Those that vouch for everyone, oldest first.
    pub(crate) fn in_trust(&self) -> &[Vec<u8>] {
        &self.in_trust
    }

    /// Those that did.
    pub(super) fn past(&self) -> &[Vec<u8>] {
        &self.past
    }

    /// What a TLS server sends after its own certificate.
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
}

/// The roots in trust, as the transaction sees them.
pub(super) fn in_trust(tx: &Tx<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
    let state = State::load(tx)?;
    Ok(state.certificates()?.split_off(state.retired))
}

/// What the bundle says of them; `None` as long as there was but one.
pub(super) fn lineage(tx: &Tx<'_>) -> Result<Option<Lineage>, StoreError> {
    State::load(tx)?.lineage()
}

/// Does again what the journal says: certificates are issued from this root.
pub(super) fn issue_again(
    tx: &Tx<'_>,
    config: &Config,
    root: &Fingerprint,
    at: u64,
) -> Result<bool, StoreError> {
    let mut state = State::load(tx)?;
    match state.place_of(root)? {
        // Without its key nobody can be given what the others would believe.
        None => Err(StoreError::RootMissing(root.to_string())),
        Some(place) if place > state.issuing => state.issue_from_newest(tx, config, at).map(|()| true),
        Some(_) => Ok(false),
    }
}

/// Does again what the journal says: this root is retired.
pub(super) fn retire_again(tx: &Tx<'_>, root: &Fingerprint) -> Result<bool, StoreError> {
    let mut state = State::load(tx)?;
    match state.place_of(root)? {
        Some(place) if (state.retired..state.issuing).contains(&place) => {
            state.retire_before(tx, place + 1).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// The same out of a bundle that somebody kept; gives the steps that were done again, and of which root.
pub(super) fn follow_bundle(
    tx: &Tx<'_>,
    config: &Config,
    bundle: &Bundle,
) -> Result<Vec<(&'static str, Fingerprint)>, StoreError> {
    let Some(lineage) = &bundle.lineage else { return Ok(Vec::new()) };
    let mut done = Vec::new();
    let issuing = fingerprint(lineage.issuing_root()).map_err(|_| CORRUPT)?;
    if issue_again(tx, config, &issuing, bundle.issued)? {
        done.push(("activate", issuing));
    }
    for root in lineage.past() {
        let root = fingerprint(root).map_err(|_| CORRUPT)?;
        if retire_again(tx, &root)? {
            done.push(("retire", root));
        }
    }
    Ok(done)
}

/// Writes down for a new journal what must not be undone.
pub(super) fn write_down(tx: &Tx<'_>) -> Result<(), StoreError> {
    let state = State::load(tx)?;
    let roots = state.certificates()?.iter().map(|root| fingerprint(root)).collect::<Result<Vec<_>, _>>();
    let roots = roots.map_err(|_| CORRUPT)?;
    // As it happens: one that issues is not retired.
    if let Some(root) = roots.get(state.issuing).filter(|_| state.forgotten + state.issuing > 0) {
        tx.write_down(Deed::RootIssues { root: *root });
    }
    for root in roots.iter().take(state.retired) {
        tx.write_down(Deed::RootRetired { root: *root });
    }
    Ok(())
}

impl Authority {
    /// A step on the way to another root that issues certificates. For administrators.
    ///
    /// # Errors
    /// Not allowed, not the step that is next, too early and not forced, or the store failed.
    pub async fn rotate_certificate(
        self: &Arc<Self>,
        caller: &Caller,
        request: CertificateRotation,
    ) -> Result<CertificateRotated, Error> {
        let admin = self.authorise(caller, Operation::RotateCertificate).await?;
        let once = self.once(caller, &admin, Operation::RotateCertificate, &request);
        let (this, now) = (self.clone(), self.now());
        let done = self.write_once(once, move |tx| {
            let mut state = State::load(tx)?;
            let step = request.step.as_str();
            if !["prepare", "activate", "retire"].contains(&step) {
                let detail = format!("there is no step `{step}`");
                return Err(Error::invalid("step", detail).with_hint("prepare, activate, retire"));
            }
            if step != state.next() {
                return Err(Error::Step { asked: request.step.clone(), next: state.next() });
            }
            let epoch = tx.current_epoch()?.number;
            match step {
                "prepare" => this.prepare_root(tx, &mut state, epoch, now)?,
                "activate" => {
                    // Who is awake knows both within an epoch.
                    not_before(state.prepared + 1, epoch, request.force)?;
                    let root = fingerprint_at(&state, state.newest())?;
                    tx.write_down(Deed::RootIssues { root });
                    state.issue_from_newest(tx, &this.config, now)?;
                }
                _ => {
                    this.can_retire(tx, &state, now, request.force)?;
                    for place in state.retired..state.issuing {
                        tx.write_down(Deed::RootRetired { root: fingerprint_at(&state, place)? });
                    }
                    let issuing = state.issuing;
                    state.retire_before(tx, issuing)?;
                }
            }
            let roots = Arc::new(Roots::load(tx, &this.secrets.vault)?);
            let before = this.secrets.roots();
            // What is issued in the same commit as `activate` must not be the old root's: nobody counts it. Should the commit
            // fail, the new one is in trust already.
            if step == "activate" {
                this.secrets.set_roots(roots.clone());
            } else {
                let (this, roots) = (this.clone(), roots.clone());
                tx.after_commit(move || this.secrets.set_roots(roots));
            }
            let issuing = roots.issuing().fingerprint();
            let finish = || {
                let bundle = this.publish(tx, now)?;
                let subject = format!("{step}: {issuing}");
                this.audit(tx, &admin.actor, Operation::RotateCertificate.name(), &subject)?;
                Ok::<_, Error>(bundle)
            };
            let bundle = finish().inspect_err(|_| this.secrets.set_roots(before))?;
            tracing::info!(step, %issuing, bundle, "rotated the issuing certificate");
            let hex = |der: &Vec<u8>| fingerprint(der).map(|root| root.to_string()).map_err(|_| CORRUPT);
            Ok(CertificateRotated {
                retire_from: match state.next() {
                    "retire" => Some(retire_from(tx, &this.config, &state)?),
                    _ => None,
                },
                step: request.step,
                issuing: issuing.to_string(),
                roots: roots.in_trust().iter().map(hex).collect::<Result<_, _>>()?,
                bundle,
            })
        });
        let done = done.await?;
        self.renew_admin(self.now()).await?;
        Ok(done)
    }

    /// Draws another root and its link to the one that issues.
    fn prepare_root(&self, tx: &Tx<'_>, state: &mut State, epoch: u64, now: u64) -> Result<(), StoreError> {
        let roots = self.secrets.roots();
        let old = roots.issuing();
        let new = Root::generate(now, Some(old.tenant()));
        let link = old.link_to(&new, now);
        if state.roots.len() == ROOTS_MAX {
            state.before.push(state.roots.remove(0));
            state.links.remove(0);
            (state.forgotten, state.retired, state.issuing) =
                (state.forgotten + 1, state.retired - 1, state.issuing - 1);
        }
        state.roots.push(STANDARD.encode(new.certificate()));
        state.links.push(STANDARD.encode(link));
        (state.prepared, state.activated) = (epoch, None);
        self.secrets.vault.put(tx, &state.key_name(state.newest()), new.key().expose_pkcs8())?;
        state.save(tx)
    }

    /// Whether nothing counts any more that the old root issued.
    fn can_retire(&self, tx: &Tx<'_>, state: &State, now: u64, force: bool) -> Result<(), Error> {
        let from = retire_from(tx, &self.config, state)?;
        let history = tx.current_epoch()?.number.saturating_sub(self.config.history_epochs);
        let until = state.activated.map_or(0, |activated| activated.until);
        // Epochs may have been longer than the configuration says.
        let oldest = tx.epochs(history)?.first().map_or(0, |oldest| oldest.epoch.begins);
        if force || (now >= from && oldest > until) {
            return Ok(());
        }
        let from = if now < from { from } else { tx.current_epoch()?.ends };
        Err(Error::TooEarlyUntil { from })
    }
}

/// From when on the old root may be retired, as far as can be told: its last certificate has run out, and can be renewed no
/// more; what was sealed under one is history to nobody; and nobody may enrol any more with a token that names it.
fn retire_from(tx: &Tx<'_>, config: &Config, state: &State) -> Result<u64, StoreError> {
    let Some(Activated { at, until }) = state.activated else { return Ok(0) };
    let history = (config.history_epochs + 1).saturating_mul(config.epoch_seconds);
    let renewed = until.saturating_add(config.renewal_window_seconds());
    Ok(renewed.max(until.saturating_add(history)).max(tx.tokens_until(at)?))
}

fn fingerprint_at(state: &State, place: usize) -> Result<Fingerprint, StoreError> {
    let certificates = state.certificates()?;
    certificates.get(place).and_then(|der| fingerprint(der).ok()).ok_or(CORRUPT)
}
