//! Master secret keys and their public parameters, and how one takes the place of another: prepared, so that readers get keys under
//! both; activated, so that publishers seal under the new one; and the old one retired, when no key of history needs it.
//!
//! Documents `params/SUITE` and, sealed, `master/SUITE`: what is sealed under now. With `/next`: what is prepared. With
//! `/old`: what was sealed under before. `rotation/SUITE` says since when.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smqtt_core::api::{MasterRotated, MasterRotation};
use smqtt_core::crypto::{Secret32, sha256};
use smqtt_core::suite::{Master, PARAMS_ID_BYTES, Params, SuiteId};

use super::{Authority, Caller, Operation};
use crate::error::Error;
use crate::store::{StoreError, Tx};
use crate::vault::Vault;

/// Which of a suite's master secret keys, in the order of the bundle: the first is sealed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Next,
    Old,
}

impl Place {
    const ALL: [Self; 3] = [Self::Active, Self::Next, Self::Old];

    fn params(self, suite: SuiteId) -> String {
        format!("params/{suite}{}", self.suffix())
    }

    fn master(self, suite: SuiteId) -> String {
        format!("master/{suite}{}", self.suffix())
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Active => "",
            Self::Next => "/next",
            Self::Old => "/old",
        }
    }
}

/// How far a rotation is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rotation {
    /// The epoch in which the new parameters came.
    prepared: u64,
    /// The epoch in which publishers were told to seal under them.
    activated: Option<u64>,
}

impl Rotation {
    fn load(tx: &Tx<'_>, suite: SuiteId) -> Result<Option<Self>, StoreError> {
        let bytes = tx.document(&format!("rotation/{suite}"))?;
        bytes
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|_| StoreError::Corrupt("rotation")))
            .transpose()
    }

    fn save(&self, tx: &Tx<'_>, suite: SuiteId) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).expect("numbers are JSON");
        tx.set_document(&format!("rotation/{suite}"), &bytes)
    }
}

/// All that there are, in memory.
pub(super) struct Masters(Vec<(Params, Master)>);

impl Masters {
    /// Those of the store. What a later version brought is drawn at its first start; the first suite there was always.
    pub(super) fn load(tx: &Tx<'_>, vault: &Vault) -> Result<Self, StoreError> {
        let mut held = Vec::new();
        for suite in SuiteId::ALL {
            for place in Place::ALL {
                let params = tx.document(&place.params(suite))?;
                let has = params.is_some() || tx.document(&place.master(suite))?.is_some();
                let must = suite == SuiteId::FabeoCp && place == Place::Active;
                if !has && !must {
                    continue;
                }
                let params = Params::decode(&params.ok_or(StoreError::Corrupt("documents"))?);
                let params = params.map_err(|_| StoreError::Corrupt("params"))?;
                let secret = vault.get(tx, &place.master(suite))?;
                let secret = secret.as_slice().try_into().map_err(|_| StoreError::Corrupt("master"))?;
                let master = Master::new(&params, Secret32::new(secret));
                held.push((params, master));
            }
        }
        Ok(Self(held))
    }

    pub(super) fn params(&self) -> impl Iterator<Item = &Params> {
        self.0.iter().map(|(params, _)| params)
    }

    pub(super) fn has(&self, suite: SuiteId) -> bool {
        self.params().any(|params| params.suite() == suite)
    }

    /// The master secret key of these parameters; `None` where it went meanwhile.
    pub(super) fn get(&self, id: &[u8; PARAMS_ID_BYTES]) -> Option<&Master> {
        self.0.iter().find(|(params, _)| params.id() == id).map(|(_, master)| master)
    }
}

/// Draws public parameters and the master secret key of a suite.
pub(super) fn draw(tx: &Tx<'_>, vault: &Vault, suite: SuiteId) -> Result<(), StoreError> {
    draw_at(tx, vault, suite, Place::Active)
}

fn draw_at(tx: &Tx<'_>, vault: &Vault, suite: SuiteId, place: Place) -> Result<(), StoreError> {
    let (params, master) = suite.suite().setup(&Secret32::random());
    tx.set_document(&place.params(suite), &params.encode())?;
    vault.put(tx, &place.master(suite), master.expose().expose())
}

/// A set of parameters that is in use, as the transaction sees it.
pub(super) struct InUse {
    pub(super) suite: SuiteId,
    pub(super) id: [u8; PARAMS_ID_BYTES],
    /// The first epoch of which there are keys under it.
    pub(super) since: u64,
}

/// The parameters in use, of each suite the one to seal under first.
pub(super) fn in_use(tx: &Tx<'_>) -> Result<Vec<InUse>, StoreError> {
    let mut found = Vec::new();
    for suite in SuiteId::ALL {
        let rotation = Rotation::load(tx, suite)?;
        for place in Place::ALL {
            let Some(params) = tx.document(&place.params(suite))? else { continue };
            let id = sha256(&[&params])[..PARAMS_ID_BYTES].try_into().expect("16 of 32 bytes");
            let since = match (&rotation, place) {
                (Some(rotation), Place::Next) => rotation.prepared,
                (Some(rotation), Place::Active) if rotation.activated.is_some() => rotation.prepared,
                _ => 0,
            };
            found.push(InUse { suite, id, since });
        }
    }
    Ok(found)
}

fn put_at(tx: &Tx<'_>, vault: &Vault, suite: SuiteId, from: Place, to: Place) -> Result<(), StoreError> {
    let params = tx.document(&from.params(suite))?.ok_or(StoreError::Corrupt("params"))?;
    tx.set_document(&to.params(suite), &params)?;
    vault.put(tx, &to.master(suite), &vault.get(tx, &from.master(suite))?)
}

fn remove(tx: &Tx<'_>, suite: SuiteId, place: Place) -> Result<(), StoreError> {
    tx.delete_document(&place.params(suite))?;
    tx.delete_document(&place.master(suite))
}

impl Authority {
    /// A step on the way to another master secret key. For administrators.
    ///
    /// # Errors
    /// Not allowed, not the step that is next, too early and not forced, or the store failed.
    pub async fn rotate_master(
        self: &Arc<Self>,
        caller: &Caller,
        request: MasterRotation,
    ) -> Result<MasterRotated, Error> {
        let admin = self.authorise(caller, Operation::RotateMaster).await?;
        let once = self.once(caller, &admin, Operation::RotateMaster, &request);
        let suite = SuiteId::from_name(&request.suite).ok_or_else(|| {
            let known = SuiteId::ALL.map(SuiteId::name).join("`, `");
            let detail = format!("there is no suite `{}`", request.suite);
            Error::invalid("suite", detail).with_hint(format!("it is `{known}`"))
        })?;
        let (this, now) = (self.clone(), self.now());
        self.write_once(once, move |tx| {
            let epoch = tx.current_epoch()?.number;
            let vault = &this.secrets.vault;
            let rotation = Rotation::load(tx, suite)?;
            match (request.step.as_str(), rotation) {
                ("prepare", None) => {
                    draw_at(tx, vault, suite, Place::Next)?;
                    Rotation { prepared: epoch, activated: None }.save(tx, suite)?;
                }
                ("activate", Some(Rotation { prepared, activated: None })) => {
                    // Who is awake has keys under both within an epoch.
                    not_before(prepared + 1, epoch, request.force)?;
                    put_at(tx, vault, suite, Place::Active, Place::Old)?;
                    put_at(tx, vault, suite, Place::Next, Place::Active)?;
                    remove(tx, suite, Place::Next)?;
                    Rotation { prepared, activated: Some(epoch) }.save(tx, suite)?;
                }
                ("retire", Some(Rotation { activated: Some(activated), .. })) => {
                    // The last epoch in which anybody sealed under it is then history to nobody.
                    let history = this.config.history_epochs;
                    not_before(activated + history + 1, epoch, request.force)?;
                    remove(tx, suite, Place::Old)?;
                    tx.delete_document(&format!("rotation/{suite}"))?;
                }
                ("prepare" | "activate" | "retire", rotation) => {
                    let next = match rotation {
                        None => "prepare",
                        Some(Rotation { activated: None, .. }) => "activate",
                        Some(_) => "retire",
                    };
                    return Err(Error::Step { asked: request.step.clone(), next });
                }
                (step, _) => {
                    let detail = format!("there is no step `{step}`");
                    return Err(Error::invalid("step", detail).with_hint("prepare, activate, retire"));
                }
            }
            let masters = Arc::new(Masters::load(tx, vault)?);
            let bundle = this.publish(tx, now)?;
            let subject = format!("{suite} {}", request.step);
            this.audit(tx, &admin.actor, Operation::RotateMaster.name(), &subject)?;
            let hex = |id: [u8; PARAMS_ID_BYTES]| id.iter().map(|byte| format!("{byte:02x}")).collect();
            let params = in_use(tx)?.into_iter().filter(|params| params.suite == suite);
            let params = params.map(|params| hex(params.id)).collect();
            tracing::info!(%suite, step = request.step, bundle, "rotated a master secret key");
            let changed = this.clone();
            tx.after_commit(move || changed.secrets.set_masters(masters));
            Ok(MasterRotated { suite: suite.name().to_owned(), step: request.step, params, bundle })
        })
        .await
    }
}

pub(super) fn not_before(wanted: u64, epoch: u64, force: bool) -> Result<(), Error> {
    if force || epoch >= wanted { Ok(()) } else { Err(Error::TooEarly { epoch: wanted, current: epoch }) }
}
