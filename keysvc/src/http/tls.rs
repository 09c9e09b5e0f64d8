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

use crate::authority::{Authority, Roots, provider};
use crate::clock::Clock;

/// The server's certificate, made anew before it expires, and when another root issues.
pub(super) struct Certificate {
    authority: Arc<Authority>,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    key: Arc<CertifiedKey>,
    roots: Arc<Roots>,
    good: Range<u64>,
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

    /// Makes a new certificate if this one is in the last third of its life, or was made by a clock that was put back since, or
    /// the roots are others.
    pub(super) fn renew(&self) -> Result<(), Error> {
        let current = self.current();
        let same_roots = Arc::ptr_eq(&current.roots, &self.authority.current_roots());
        if !current.good.contains(&self.authority.now()) || !same_roots {
            let renewed = issue(&self.authority)?;
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        Ok(())
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Err(error) = self.renew() {
            tracing::error!(%error, "the server's certificate could not be renewed");
        }
        Some(self.current().key)
    }
}

/// Leaf and roots: a device that has only a root's fingerprint finds the root in the handshake, and one that knows but an old
/// root the links from there.
fn issue(authority: &Authority) -> Result<Current, Error> {
    let roots = authority.current_roots();
    let (key, leaf, good) = authority.server_certificate(&roots);
    let rest = roots.chain().iter().cloned();
    let chain = std::iter::once(leaf).chain(rest).map(CertificateDer::from).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.expose_pkcs8().to_vec()));
    let key = Arc::new(CertifiedKey::from_der(chain, key, &provider())?);
    Ok(Current { key, roots, good })
}

/// The configuration of the HTTPS server, and its certificate to be renewed.
pub(super) fn config(
    authority: &Arc<Authority>,
) -> Result<(Arc<ServerConfig>, Arc<Certificate>), Box<dyn std::error::Error + Send + Sync>> {
    let verifier = Lenient::new(authority.clone())?;
    let certificate = Arc::new(Certificate::new(authority.clone())?);
    let time = Arc::new(Time(authority.clock().clone()));
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
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

/// Lets a certificate pass that has expired: a device that was off line must be able to renew it, and whoever comes too late for
/// that is told so, on record. Everything else refuses it later.
struct Lenient {
    authority: Arc<Authority>,
    /// By which roots, and what checks with them.
    current: RwLock<(Arc<Roots>, Arc<dyn ClientCertVerifier>)>,
    /// All roots have one name; and what else does not depend on them.
    first: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Lenient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lenient(..)")
    }
}

impl Lenient {
    fn new(authority: Arc<Authority>) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let roots = authority.current_roots();
        let first = verifier(&roots)?;
        Ok(Self { authority, current: RwLock::new((roots, first.clone())), first })
    }

    /// What checks with the roots as they are now.
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let roots = self.authority.current_roots();
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&current.0, &roots) {
                return Ok(current.1.clone());
            }
        }
        let made = verifier(&roots).map_err(|error| Error::General(error.to_string()))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (roots, made.clone());
        Ok(made)
    }
}

fn verifier(roots: &Roots) -> Result<Arc<dyn ClientCertVerifier>, Box<dyn std::error::Error + Send + Sync>> {
    let mut store = RootCertStore::empty();
    for root in roots.in_trust() {
        store.add(CertificateDer::from(root.clone()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider());
    Ok(verifier.allow_unauthenticated().build()?)
}

impl ClientCertVerifier for Lenient {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.verifier()?;
        let verify = |at| verifier.verify_client_cert(end_entity, intermediates, at);
        match verify(now) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
                // Of one that did not hold then, either, that it is over is what its holder can do something about.
                let expired = CertificateError::ExpiredContext { time, not_after };
                verify(not_after).map_err(|_| Error::InvalidCertificate(expired))
            }
            // All roots have one name: of a retired one it is the signature that does not fit. Said so, it would be a fault of
            // the connection to whoever reads the alert, and worth another try.
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) => {
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            }
            result => result,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.first.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.first.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.first.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.supported_verify_schemes()
    }
}
