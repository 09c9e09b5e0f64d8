//! Secrets at rest on three levels: each has a data key of its own, sealed under the root key, sealed under the seal.
//!
//! So another seal rewraps one record, another root key a few data keys, and neither touches a secret.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use smqtt_core::crypto::{AeadKey, NONCE_BYTES, Prk, Secret32, TAG_BYTES, equal, random};
use zeroize::Zeroizing;

use crate::error::OpenError;
use crate::seal::{Custodian, KeyFile, Seal, UnsealError, Unsealed};
use crate::store::{Opening, StoreError, Tx};

/// The document that holds the sealed root key.
const RECORD: &str = "seal";
/// The data key of tags.
const TAGS: &str = "tags";
/// A secret of which nothing is secret but that nobody can write it: the number of the newest record.
const GENERATION: &str = "seal-generation";

/// What seals and opens the secrets of the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Vault(Arc<Inner>);

struct Inner {
    /// The fingerprint of the authority's first root, hexadecimal.
    authority: String,
    seal: Seal,
    /// In the order in which they came. Two while a rotation is being committed, one otherwise.
    roots: RwLock<Vec<(u64, Secret32)>>,
    tags: Secret32,
}

impl Vault {
    /// A fresh root key under `seal`, for an authority that is being made.
    pub(crate) fn create(tx: &Tx<'_>, authority: &str, seal: Seal) -> Result<Self, StoreError> {
        Self::with(tx, authority, seal, 1, Secret32::random(), Secret32::random())
    }

    fn with(
        tx: &Tx<'_>,
        authority: &str,
        seal: Seal,
        generation: u64,
        root: Secret32,
        tags: Secret32,
    ) -> Result<Self, StoreError> {
        tx.set_data_key(TAGS, &wrap(&root, TAGS, &tags))?;
        tx.set_document(RECORD, &seal.wrap(authority, generation, &root))?;
        let roots = RwLock::new(vec![(generation, root)]);
        let vault = Self(Arc::new(Inner { authority: authority.to_owned(), seal, roots, tags }));
        vault.put(tx, GENERATION, &generation.to_be_bytes())?;
        Ok(vault)
    }

    /// Opens the store's vault, asking `custodian` for what it takes. A store of an earlier version, whose secrets the key
    /// file seals itself, gets its root key now.
    pub(crate) fn open(
        opening: &Opening,
        authority: &str,
        seal_dir: &Path,
        custodian: &mut dyn Custodian,
    ) -> Result<Self, OpenError> {
        let Some(record) = opening.transaction(|tx| tx.document(RECORD))? else {
            return Self::migrate(opening, authority, seal_dir);
        };
        let Unsealed { seal, generation, root } = Seal::open(&record, authority, seal_dir, custodian)?;
        let wrapped = opening.transaction(|tx| tx.data_key(TAGS))?;
        let altered = || OpenError::from(UnsealError::Altered);
        let tags = wrapped.and_then(|wrapped| unwrap(&root, TAGS, &wrapped)).ok_or_else(altered)?;
        let roots = RwLock::new(vec![(generation, root)]);
        let vault = Self(Arc::new(Inner { authority: authority.to_owned(), seal, roots, tags }));
        let known = opening.transaction(|tx| vault.get(tx, GENERATION)).map_err(|_| altered())?;
        let known = u64::from_be_bytes(known.as_slice().try_into().map_err(|_| altered())?);
        if known != generation {
            return Err(UnsealError::Older { got: generation, known }.into());
        }
        vault.clean(seal_dir)?;
        Ok(vault)
    }

    /// The vault of a restored store, whose root key came with the backup: under another seal from now on.
    pub(crate) fn recover(
        opening: &Opening,
        authority: &str,
        root: Secret32,
        seal: Seal,
    ) -> Result<Self, OpenError> {
        let altered = || OpenError::from(UnsealError::Altered);
        let wrapped = opening.transaction(|tx| tx.data_key(TAGS))?;
        let tags = wrapped.and_then(|wrapped| unwrap(&root, TAGS, &wrapped)).ok_or_else(altered)?;
        let roots = RwLock::new(vec![(0, root)]);
        let vault = Self(Arc::new(Inner { authority: authority.to_owned(), seal, roots, tags }));
        opening.transaction(|tx| vault.reseal(tx, &vault.0.seal))?;
        Ok(vault)
    }

    /// Whether each data key and each secret opens.
    pub(crate) fn check(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        for (name, sealed) in tx.data_keys()? {
            let known = unwrap(&self.root(tx)?, &name, &sealed).is_some();
            if !known {
                return Err(StoreError::Secret(name));
            }
            if name != TAGS {
                self.get(tx, &name)?;
            }
        }
        Ok(())
    }

    fn migrate(opening: &Opening, authority: &str, seal_dir: &Path) -> Result<Self, OpenError> {
        let file = KeyFile::open(seal_dir)?;
        let key = file.key();
        let names = opening.transaction(|tx| tx.document_names())?;
        let is_secret = |name: &String| name.ends_with("-key") || name.starts_with("master/");
        let mut secrets = Vec::new();
        for name in names.into_iter().filter(is_secret) {
            let record = opening.transaction(|tx| tx.document(&name))?.unwrap_or_default();
            let wrong = || OpenError::SealKeyWrong { path: seal_dir.join("seal.key") };
            secrets.push((open(key, &aad("at rest", &name), &record).ok_or_else(wrong)?, name));
        }
        opening.transaction(|tx| {
            let vault = Self::create(tx, authority, Seal::of_key_file(&file))?;
            for (secret, name) in &secrets {
                vault.put(tx, name, secret)?;
            }
            // A head of the audit log that was wrong before stays wrong.
            const HEAD: &str = "audit-head";
            if let (Some((number, hash)), Some(head)) = (tx.last_audit()?, tx.document(HEAD)?) {
                let last = [&number.to_be_bytes()[..], &hash].concat();
                if equal(&head, &tag(key, HEAD, &last)) {
                    tx.set_document(HEAD, &vault.tag(HEAD, &last))?;
                }
            }
            tracing::info!("the store's secrets have data keys of their own now, under a root key");
            Ok(vault)
        })
    }

    /// What the root key is sealed under, as the command line calls it.
    pub(crate) fn seal_name(&self) -> &'static str {
        self.0.seal.name()
    }

    /// Keeps `secret` as the document `name`, under a data key of its own.
    pub(crate) fn put(&self, tx: &Tx<'_>, name: &str, secret: &[u8]) -> Result<(), StoreError> {
        let data_key = Secret32::random();
        tx.set_data_key(name, &wrap(&self.root(tx)?, name, &data_key))?;
        tx.set_document(name, &seal(&data_key, &aad("at rest", name), secret))
    }

    /// The secret `name`.
    pub(crate) fn get(&self, tx: &Tx<'_>, name: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let sealed = tx.document(name)?.ok_or(StoreError::Corrupt("documents"))?;
        let data_key = tx.data_key(name)?.ok_or(StoreError::Corrupt("data_keys"))?;
        let data_key = unwrap(&self.root(tx)?, name, &data_key);
        let secret = data_key.and_then(|key| open(&key, &aad("at rest", name), &sealed));
        secret.ok_or_else(|| StoreError::Secret(name.to_owned()))
    }

    /// A tag on `message` as the record `name`, under a key that is not in the store.
    pub(crate) fn tag(&self, name: &str, message: &[u8]) -> [u8; 32] {
        tag(&self.0.tags, name, message)
    }

    /// Seals what is kept in the record `name` for a while, under a key that is not in the store.
    pub(crate) fn seal_record(&self, name: &str, secret: &[u8]) -> Vec<u8> {
        seal(&self.records_key(), &aad("record", name), secret)
    }

    /// What [`Self::seal_record`] sealed under this name.
    pub(crate) fn open_record(&self, name: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        open(&self.records_key(), &aad("record", name), sealed)
    }

    fn records_key(&self) -> Secret32 {
        Secret32::new(self.tag("records", b""))
    }

    /// The root key as it is now, for a backup.
    pub(crate) fn expose_current_root(&self) -> Secret32 {
        let roots = self.0.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots[0].1.clone()
    }

    /// Whose: the fingerprint of the authority's first root.
    pub(crate) fn authority(&self) -> &str {
        &self.0.authority
    }

    /// The key of the journal's lines.
    pub(crate) fn journal_key(&self) -> Secret32 {
        Secret32::new(self.tag("journal", b""))
    }

    /// Another root key: every data key is sealed under it, and it under the same seal. Gives the number of keys.
    pub(crate) fn rotate_root(&self, tx: &Tx<'_>) -> Result<usize, StoreError> {
        let (old, new) = (self.root(tx)?, Secret32::random());
        let keys = tx.data_keys()?;
        for (name, sealed) in &keys {
            let key = unwrap(&old, name, sealed).ok_or_else(|| StoreError::Secret(name.clone()))?;
            tx.set_data_key(name, &wrap(&new, name, &key))?;
        }
        // Not by what the store says: its keys are under the new one now.
        let generation = {
            let mut roots = self.0.roots.write().unwrap_or_else(PoisonError::into_inner);
            let generation = roots.iter().map(|(generation, _)| *generation).max().unwrap_or(0) + 1;
            roots.push((generation, new.clone()));
            generation
        };
        let number = self.generation(tx)? + 1;
        tx.set_document(RECORD, &self.0.seal.wrap(&self.0.authority, number, &new))?;
        self.put(tx, GENERATION, &number.to_be_bytes())?;
        let this = self.clone();
        tx.after_commit(move || {
            let mut roots = this.0.roots.write().unwrap_or_else(PoisonError::into_inner);
            roots.retain(|(kept, _)| *kept >= generation);
        });
        Ok(keys.len())
    }

    /// Puts the same root key under another seal.
    pub(crate) fn reseal(&self, tx: &Tx<'_>, seal: &Seal) -> Result<(), StoreError> {
        let generation = self.generation(tx)? + 1;
        tx.set_document(RECORD, &seal.wrap(&self.0.authority, generation, &self.root(tx)?))?;
        self.put(tx, GENERATION, &generation.to_be_bytes())
    }

    /// Takes away what the seal does not use.
    fn clean(&self, seal_dir: &Path) -> Result<(), OpenError> {
        match self.seal_name() {
            "file" => KeyFile::clean(seal_dir, Some(&KeyFile::open(seal_dir)?)),
            _ => KeyFile::clean(seal_dir, None),
        }
    }

    fn generation(&self, tx: &Tx<'_>) -> Result<u64, StoreError> {
        let number = self.get(tx, GENERATION)?;
        Ok(u64::from_be_bytes(number.as_slice().try_into().map_err(|_| StoreError::Corrupt("seal"))?))
    }

    /// The root key that the transaction sees: the store says which.
    fn root(&self, tx: &Tx<'_>) -> Result<Secret32, StoreError> {
        let roots = self.0.roots.read().unwrap_or_else(PoisonError::into_inner);
        if let [(_, only)] = &roots[..] {
            return Ok(only.clone());
        }
        let wrapped = tx.data_key(TAGS)?.ok_or(StoreError::Corrupt("data_keys"))?;
        let fits = |root: &&(u64, Secret32)| unwrap(&root.1, TAGS, &wrapped).is_some();
        roots.iter().find(fits).map(|root| root.1.clone()).ok_or(StoreError::Corrupt("data_keys"))
    }
}

fn aad(purpose: &str, name: &str) -> Vec<u8> {
    format!("SMQTT-V01 {purpose} {name}").into_bytes()
}

/// Nonce, ciphertext and tag.
fn seal(key: &Secret32, aad: &[u8], secret: &[u8]) -> Vec<u8> {
    let nonce = random::<NONCE_BYTES>();
    let mut out = Vec::with_capacity(NONCE_BYTES + secret.len() + TAG_BYTES);
    out.extend(nonce);
    AeadKey::new(key.expose()).seal_into(nonce, aad, secret, &mut out);
    out
}

fn open(key: &Secret32, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    AeadKey::new(key.expose()).open(*nonce, aad, ciphertext).map(Zeroizing::new)
}

fn wrap(root: &Secret32, name: &str, data_key: &Secret32) -> Vec<u8> {
    seal(root, &aad("data key", name), data_key.expose())
}

fn unwrap(root: &Secret32, name: &str, wrapped: &[u8]) -> Option<Secret32> {
    let key = open(root, &aad("data key", name), wrapped)?;
    Some(Secret32::new(key.as_slice().try_into().ok()?))
}

/// HMAC-SHA-256 under the key, then HKDF-Expand.
fn tag(key: &Secret32, name: &str, message: &[u8]) -> [u8; 32] {
    Prk::extract(key.expose(), message).expand(&[b"SMQTT-V01 tag ", name.as_bytes()])
}
