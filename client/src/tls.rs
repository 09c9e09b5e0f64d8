//! TLS towards authority and broker: their root, and nobody else's, is what counts.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use smqtt_core::identity::{Fingerprint, Role, fingerprint, read_certificate};

/// The one crypto provider of the whole tree.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS to a broker, or any other server that `roots` (DER) vouch for, as the holder of `certificate` if one is given.
///
/// # Errors
/// [`Error`] where a root, the certificate or its key (PKCS #8) cannot be used.
pub fn client_config(
    roots: &[Vec<u8>],
    certificate: Option<(&[u8], &[u8])>,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(root_store(roots)?);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(chain(certificate), private(key))?,
    };
    Ok(Arc::new(config))
}

/// TLS to the authority of `roots` (DER) and to nobody else, its brokers included, as the holder of `certificate`.
///
/// # Errors
/// [`Error`] where a root, the certificate or its key (PKCS #8) cannot be used.
pub fn authority_config(roots: &[Vec<u8>], certificate: (&[u8], &[u8])) -> Result<Arc<ClientConfig>, Error> {
    authority_by(roots, certificate, Arc::new(DefaultTimeProvider))
}

/// As [`authority_config`], by a clock that says `now`: for connections that are made at once.
///
/// # Errors
/// As there.
pub fn authority_config_at(
    roots: &[Vec<u8>],
    certificate: (&[u8], &[u8]),
    now: u64,
) -> Result<Arc<ClientConfig>, Error> {
    authority_by(roots, certificate, Arc::new(Standing(now)))
}

fn authority_by(
    roots: &[Vec<u8>],
    certificate: (&[u8], &[u8]),
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = AuthorityOnly { trust: Trust::Roots(verifier(root_store(roots)?)?), provider: provider() };
    let (certificate, key) = certificate;
    let config = ClientConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain(certificate), private(key))?;
    Ok(Arc::new(config))
}

/// TLS to the authority whose root has this fingerprint: for enrolment, when nothing else is known.
///
/// # Errors
/// [`Error`] from the TLS library's set-up alone.
pub fn pinned_config(pin: Fingerprint) -> Result<Arc<ClientConfig>, Error> {
    pinned_by(pin, Arc::new(DefaultTimeProvider))
}

/// As [`pinned_config`], by a clock that says `now`: for connections that are made at once.
///
/// # Errors
/// As there.
pub fn pinned_config_at(pin: Fingerprint, now: u64) -> Result<Arc<ClientConfig>, Error> {
    pinned_by(pin, Arc::new(Standing(now)))
}

fn pinned_by(pin: Fingerprint, time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AuthorityOnly {
            trust: Trust::Pin(pin),
            provider: provider(),
        }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A clock that says what it was told.
#[derive(Debug)]
struct Standing(u64);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

fn root_store(roots: &[Vec<u8>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.clone()))?;
    }
    Ok(store)
}

fn chain(certificate: &[u8]) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from(certificate.to_vec())]
}

fn private(key: &[u8]) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()))
}

fn verifier(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// Trusts a server that the root vouches for and whose certificate is of the role `authority`. A broker is a server
/// of the same root, perhaps under the same name: it must not be told a token.
#[derive(Debug)]
struct AuthorityOnly {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// The root, known.
    Roots(Arc<WebPkiServerVerifier>),
    /// The root in the chain that the server sends has this fingerprint.
    Pin(Fingerprint),
}

impl ServerCertVerifier for AuthorityOnly {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match &self.trust {
            Trust::Roots(verifier) => verifier.verify_server_cert(leaf, intermediates, name, ocsp, now),
            Trust::Pin(pin) => {
                let root = intermediates
                    .iter()
                    .find(|certificate| fingerprint(certificate).is_ok_and(|f| f == *pin))
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let root = root_store(&[root.to_vec()])?;
                verifier(root)?.verify_server_cert(leaf, intermediates, name, ocsp, now)
            }
        }?;
        match read_certificate(leaf) {
            Ok(read) if read.identity.role == Role::Authority => Ok(verified),
            _ => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
