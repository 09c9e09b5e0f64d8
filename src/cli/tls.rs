//! TLS of an open broker, from files that others made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use smqtt_client::files::{read_bounded, read_secret};
use smqtt_client::tls::provider;

use super::failure::Failure;

const FILE_BYTES_MAX: usize = 1 << 20;

/// Which files.
#[derive(Args, Clone)]
pub struct TlsArgs {
    /// Certificate chain of an open broker for `--tls` and `--wss` (PEM, its own first); read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["open", "key"])]
    certificate: Option<PathBuf>,
    /// Its private key (PEM), which others must not be able to read
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Who vouches for clients of an open broker (PEM): with it, TLS needs a client certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    client_ca: Option<PathBuf>,
}

/// The files of one server.
#[derive(Clone)]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// Whether clients over TLS need a certificate.
    pub fn wants_client_certificate(&self) -> bool {
        self.client_ca.is_some()
    }

    /// The files, if any were named.
    pub fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.certificate.clone()?, self.key.clone()?);
        Some(TlsFiles { certificate, key, client_ca: self.client_ca.clone() })
    }
}

impl TlsFiles {
    /// All of them.
    pub fn paths(&self) -> Vec<PathBuf> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        all.into_iter().flatten().cloned().collect()
    }

    /// Reads them.
    pub fn load(&self) -> Result<Arc<ServerConfig>, Failure> {
        let chain = certificates(&self.certificate)?;
        let bytes = read_secret(&self.key, FILE_BYTES_MAX)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
            let hint = "it must be a private key in PEM: PKCS #8, PKCS #1 or SEC 1, without a passphrase";
            Failure::new(format!("no private key in `{}`", self.key.display())).because(&error).hint(hint)
        })?;
        let failed = |error: &dyn std::error::Error| {
            Failure::new(format!("cannot use `{}` for TLS", self.certificate.display()))
                .because(error)
                .hint("certificate and key must belong together, and be of a kind that TLS 1.2 or 1.3 takes")
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let failed = |error: &dyn std::error::Error| {
                    Failure::new(format!("cannot use `{}` for client certificates", path.display()))
                        .because(error)
                };
                let mut roots = rustls::RootCertStore::empty();
                for root in certificates(path)? {
                    roots.add(root).map_err(|error| failed(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(&error))?)
            }
        };
        builder.with_single_cert(chain, key).map(Arc::new).map_err(|error| failed(&error))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let failure = || Failure::new(format!("no certificate in `{}`", path.display())).hint("it must be PEM");
    match read {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(failure()),
        Err(error) => Err(failure().because(&error)),
    }
}
