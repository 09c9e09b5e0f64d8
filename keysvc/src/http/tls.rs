//! TLS: our certificate, and which client certificates pass. Who may do what is not decided here.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::authority::{Authority, provider};
use crate::clock::Clock;

/// The server's certificate, made anew before it expires.
pub(super) struct Certificate {
    authority: Arc<Authority>,
    current: RwLock<(Arc<CertifiedKey>, Range<u64>)>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

impl Certificate {
    fn new(authority: Arc<Authority>) -> Result<Self, Error> {
        let current = RwLock::new(issue(&authority)?);
        Ok(Self { authority, current })
    }

    /// Makes a new certificate if this one is in the last third of its life, or was made by a clock that was put back since.
    pub(super) fn renew(&self) -> Result<(), Error> {
        let good = self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone();
        if !good.contains(&self.authority.now()) {
            let renewed = issue(&self.authority)?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// Leaf and root: a device that has only the root's fingerprint finds the root in the handshake.
fn issue(authority: &Authority) -> Result<(Arc<CertifiedKey>, Range<u64>), Error> {
    let (key, leaf, good) = authority.server_certificate();
    let chain = vec![CertificateDer::from(leaf), CertificateDer::from(authority.root().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose_pkcs8().to_vec()));
    let certified = CertifiedKey::from_der(chain, key, &provider())?;
    Ok((Arc::new(certified), good))
}

/// The configuration of the HTTPS server, and its certificate to be renewed.
pub(super) fn config(
    authority: &Arc<Authority>,
) -> Result<(Arc<ServerConfig>, Arc<Certificate>), Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.root().to_vec()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()?;
    let window = Duration::from_secs(authority.config().renewal_window_days * 86_400);
    let certificate = Arc::new(Certificate::new(authority.clone())?);
    let time = Arc::new(Time(authority.clock().clone()));
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Lenient { verifier, window }))
        .with_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), certificate))
}

struct Time(Arc<dyn Clock>);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time(..)")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.now())))
    }
}

/// Lets a certificate pass that expired not long ago: a device that was off line must be able to renew it. Everything
/// but renewal refuses it later.
#[derive(Debug)]
struct Lenient {
    verifier: Arc<dyn ClientCertVerifier>,
    window: Duration,
}

impl ClientCertVerifier for Lenient {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verify = |at| self.verifier.verify_client_cert(end_entity, intermediates, at);
        match verify(now) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }))
                if now.as_secs() <= not_after.as_secs().saturating_add(self.window.as_secs()) =>
            {
                verify(not_after)
            }
            result => result,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
