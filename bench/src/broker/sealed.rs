//! What a device of the load seals, and how it connects.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use smqtt_client::keyring::Keyring;
use smqtt_client::sealer::{Outgoing, Sealer, Wish};
use smqtt_client::{system_now, tls};
use smqtt_core::crypto::TAG_BYTES;

use super::wire::STAMP_BYTES;

/// A device.
pub struct Sealed(Keyring);

impl Sealed {
    /// The device of this keyring.
    ///
    /// # Errors
    /// The keyring cannot be read.
    pub fn load(keyring: &Path) -> io::Result<Self> {
        Keyring::load(keyring).map(Self).map_err(io::Error::other)
    }

    /// TLS with its certificate.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        let signer = self.0.signer();
        let certificate = (signer.certificate(), signer.key().expose_pkcs8());
        tls::client_config(self.0.roots(), Some(certificate)).map_err(io::Error::other)
    }

    /// Where the stamp goes, from the end: it overwrites what the ciphertext begins with. No broker can tell, and what
    /// readers make of it is not measured here.
    pub fn stamp_from_end(payload_bytes: usize) -> usize {
        payload_bytes.max(STAMP_BYTES) + TAG_BYTES
    }

    /// A message under the topic's rule, compact and full.
    ///
    /// # Errors
    /// No rule wants it sealed, or it cannot be.
    pub fn seal(&self, topic: &str, payload_bytes: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let payload = vec![0; payload_bytes.max(STAMP_BYTES)];
        let sealed = Sealer::new(false).seal(&self.0, topic, &payload, Wish::Rule, system_now());
        match sealed.map_err(io::Error::other)? {
            Outgoing::Sealed(sealed) => {
                let full = sealed.full();
                Ok((sealed.into_compact(), full))
            }
            Outgoing::Plain(_) => Err(io::Error::other("no rule wants this topic sealed")),
        }
    }
}
