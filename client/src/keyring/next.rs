//! A renewed certificate on trial: it lies beside the old one until the authority was seen to take it.
//!
//! ```text
//! certificate.next.pem    written first; then, when it works, certificate.pem; goes in the end, and where it does not work
//! ```
//!
//! Each step is one rename or removal, so that whatever ends the process leaves a keyring that loads, with the old
//! certificate or the new one.

use std::fs;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use smqtt_core::bundle::Bundle;
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::Signer;
use smqtt_core::identity::{IdentityError, verify_certificate};

use super::{CERTIFICATE, FILE_BYTES_MAX, Keyring, KeyringError, pem, roots_under};
use crate::authority::Kept;
use crate::files::{FileError, read_if_any, write_private};

const NEXT: &str = "certificate.next.pem";

/// What there is of it in `dir`. What cannot be read was cut off half way; what is in its place already, before it went.
pub(super) fn load(dir: &Path, signer: &Signer) -> Result<Option<Vec<u8>>, FileError> {
    let path = dir.join(NEXT);
    let Some(pem) = read_if_any(&path, FILE_BYTES_MAX)? else { return Ok(None) };
    let next = CertificateDer::from_pem_slice(&pem).ok().map(|der| der.to_vec());
    let next = next.filter(|der| *der != signer.certificate());
    if next.is_none() {
        // Where it cannot be removed it is looked at again, and that is all.
        let _ = fs::remove_file(&path);
    }
    Ok(next)
}

impl Keyring {
    /// A renewed certificate that was not tried out yet.
    pub fn next_certificate(&self) -> Option<&[u8]> {
        self.next.as_deref()
    }

    /// Stores a renewed certificate for the device's key beside the present one. It comes with a bundle, which may know a
    /// newer root than the keyring does; the bundle itself is not taken.
    ///
    /// # Errors
    /// [`KeyringError::Certificate`] where it is not this device's, [`KeyringError::Bundle`], or a file error.
    pub fn put_next_certificate(
        &mut self,
        certificate: Vec<u8>,
        bundle: &[u8],
        now: u64,
    ) -> Result<(), KeyringError> {
        let bundle = Bundle::verify(bundle, &self.roots).map_err(KeyringError::Bundle)?;
        self.check_own(&certificate, &roots_under(&bundle, &self.roots), now)?;
        write_private(&self.dir.join(NEXT), pem("CERTIFICATE", &certificate).as_bytes())?;
        self.next = Some(certificate);
        Ok(())
    }

    /// Puts the renewed certificate in the place of the present one.
    ///
    /// # Errors
    /// A file error; the present one then stays. So it does where there is no other.
    pub fn take_next_certificate(&mut self) -> Result<(), KeyringError> {
        let Some(certificate) = self.next.clone() else { return Ok(()) };
        let signer = self.signer_with(certificate.clone())?;
        write_private(&self.dir.join(CERTIFICATE), pem("CERTIFICATE", &certificate).as_bytes())?;
        self.signer = signer;
        self.connection = Kept::default();
        self.drop_next_certificate()
    }

    /// Forgets the renewed certificate: it is in its place, or does not work.
    ///
    /// # Errors
    /// A file error.
    pub fn drop_next_certificate(&mut self) -> Result<(), KeyringError> {
        let path = self.dir.join(NEXT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(FileError::new("remove", &path, error).into());
            }
            _ => {}
        }
        self.next = None;
        Ok(())
    }

    /// No other certificate is to be asked for before then, while the present one holds.
    pub fn put_off_renewal(&mut self, until: u64) {
        self.renewal_not_before = until;
    }

    /// Before when no other certificate is to be asked for.
    pub fn renewal_not_before(&self) -> u64 {
        self.renewal_not_before
    }

    /// Takes a renewed certificate for the device's key without trying it out.
    ///
    /// # Errors
    /// [`KeyringError::Certificate`] where it is not this device's, or a file error.
    pub fn take_certificate(&mut self, certificate: Vec<u8>, now: u64) -> Result<(), KeyringError> {
        let bundle = self.bundle_bytes.clone();
        self.put_next_certificate(certificate, &bundle, now)?;
        self.take_next_certificate()
    }

    /// Whether a certificate is this device's, and holds.
    fn check_own(&self, certificate: &[u8], roots: &[Vec<u8>], now: u64) -> Result<(), KeyringError> {
        let checked = verify_certificate(certificate, roots, now).map_err(KeyringError::Certificate)?;
        if checked.identity != *self.signer.identity() {
            return Err(KeyringError::Certificate(IdentityError::OtherUse));
        }
        self.signer_with(certificate.to_vec()).map(drop)
    }

    /// The device's key under another certificate.
    fn signer_with(&self, certificate: Vec<u8>) -> Result<Signer, KeyringError> {
        let key = SigningKey::from_pkcs8(self.hpke.signing.expose_pkcs8()).ok_or(KeyringError::Answer)?;
        Signer::new(key, certificate).map_err(KeyringError::Certificate)
    }
}
