//! The key in a file beside the data, `DIR/seal/seal.key`: 32 bytes, for its owner alone.
//!
//! While a seal is changed the new key waits as `seal.key.next`: whichever of the two the store names is the right one.

use std::path::{Path, PathBuf};

use smqtt_core::crypto::{Secret32, sha256};
use zeroize::Zeroizing;

use crate::error::OpenError;
use crate::files;

const NAME: &str = "seal.key";
const NEXT: &str = "seal.key.next";

/// A key that was read from its file, or is about to be.
pub(crate) struct KeyFile {
    key: Secret32,
}

impl KeyFile {
    /// The key in `dir`; made where there is none, for an authority that is being made.
    pub(crate) fn open_or_make(dir: &Path) -> Result<Self, OpenError> {
        if let Some(file) = Self::read(&dir.join(NAME))? {
            return Ok(file);
        }
        let key = Secret32::random();
        files::write_secret(&dir.join(NAME), key.expose())?;
        Ok(Self { key })
    }

    /// The key in `dir`, which must be there.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(NAME);
        Self::read(&path)?.ok_or(OpenError::SealKeyMissing { path })
    }

    /// The key of this identifier; one that was waiting takes its place.
    pub(crate) fn find(dir: &Path, id: &str) -> Result<Self, OpenError> {
        let (path, next) = (dir.join(NAME), dir.join(NEXT));
        let current = Self::read(&path);
        if let Ok(Some(file)) = &current
            && file.id() == id
        {
            return current.map(|file| file.expect("it was there"));
        }
        if let Some(waiting) = Self::read(&next)?
            && waiting.id() == id
        {
            files::rename(&next, &path)?;
            return Ok(waiting);
        }
        match current? {
            Some(_) => Err(OpenError::SealKeyWrong { path }),
            None => Err(OpenError::SealKeyMissing { path }),
        }
    }

    /// A fresh key that waits beside the present one until the store names it.
    pub(crate) fn prepare(dir: &Path) -> Result<Self, OpenError> {
        let key = Secret32::random();
        files::write_secret(&dir.join(NEXT), key.expose())?;
        Ok(Self { key })
    }

    /// Takes away what the seal does not use any more: the store names another.
    pub(crate) fn clean(dir: &Path, keep: Option<&Self>) -> Result<(), OpenError> {
        for path in [dir.join(NAME), dir.join(NEXT)] {
            let used = |file: &Self| keep.is_some_and(|keep| keep.key == file.key);
            match Self::read(&path) {
                Ok(Some(file)) if used(&file) => {}
                Ok(None) => {}
                _ => {
                    tracing::warn!(path = %path.display(), "removed a seal key that opens nothing any more");
                    files::remove(&path)?;
                }
            }
        }
        Ok(())
    }

    fn read(path: &Path) -> Result<Option<Self>, OpenError> {
        let Some(bytes) = files::read(path)?.map(Zeroizing::new) else { return Ok(None) };
        files::warn_if_others_read(path);
        let wrong = |_| OpenError::SealKeyWrong { path: PathBuf::from(path) };
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(wrong)?;
        Ok(Some(Self { key: Secret32::new(key) }))
    }

    /// Which key it is; says nothing about the key.
    pub(crate) fn id(&self) -> String {
        let hash = sha256(&[b"SMQTT-V01 seal key", self.key.expose()]);
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn key(&self) -> &Secret32 {
        &self.key
    }
}
