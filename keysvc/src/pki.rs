//! X.509: the root, what it issues, and what counts of a signing request. The one file that knows the crates for it.

use std::net::IpAddr;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use smqtt_core::crypto::{SIGNATURE_BYTES, SigningKey, random, sha256};
use smqtt_core::identity::{Fingerprint, Identity, TenantId};
use smqtt_core::lineage::ROOTS_MAX;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// Most bytes of a signing request.
pub(crate) const CSR_BYTES_MAX: usize = 4096;
/// How far a certificate's beginning lies back: clocks differ.
const BACKDATE_SECONDS: u64 = 300;
const ROOT_SECONDS: u64 = 20 * 365 * 86_400;

/// An uncompressed P-256 point.
pub(crate) type Point = [u8; 65];

/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Whom a server's certificate is for: a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// A host's name (a wildcard in the first label may be) or an IP address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let name = text.strip_prefix("*.").unwrap_or(text);
        (text.len() <= 253 && name.split('.').all(label)).then(|| Self::Name(text.to_ascii_lowercase()))
    }

    fn san(&self) -> SanType {
        match self {
            Self::Name(name) => SanType::DnsName(ia5(name)),
            Self::Address(address) => SanType::IpAddress(*address),
        }
    }
}

/// This machine itself: in every server's certificate.
pub(crate) fn local_hosts() -> Vec<Host> {
    ["localhost", "127.0.0.1", "::1"].iter().filter_map(|host| Host::parse(host)).collect()
}

/// What a certificate is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    ServerAndClient,
}

/// A certificate to issue.
pub(crate) struct Leaf<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) public_key: &'a Point,
    pub(crate) usage: Usage,
    pub(crate) hosts: &'a [Host],
    pub(crate) now: u64,
    pub(crate) seconds: u64,
}

/// A certificate that was issued.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) serial: [u8; 16],
    pub(crate) der: Vec<u8>,
    pub(crate) not_after: u64,
}

/// A root of the authority: signs everything, and is what a token's fingerprint names.
pub(crate) struct Root {
    issuer: Issuer<'static, RootKey>,
    certificate: Vec<u8>,
    fingerprint: Fingerprint,
    tenant: TenantId,
}

impl Root {
    /// A fresh root key and its certificate: of a new tenant, or for the tenant of another root.
    pub(crate) fn generate(now: u64, tenant: Option<TenantId>) -> Self {
        let key = SigningKey::generate();
        let tenant = tenant.unwrap_or_else(|| fingerprint_of(&key).tenant());
        let params = root_params(&key, tenant, now);
        let key = RootKey(key);
        let certificate = params.self_signed(&key).expect("a root's fields are ours").der().to_vec();
        Self::new(key.0, certificate, tenant)
    }

    /// The root of this key and certificate, as they were stored.
    pub(crate) fn new(key: SigningKey, certificate: Vec<u8>, tenant: TenantId) -> Self {
        let fingerprint = fingerprint_of(&key);
        let issuer = Issuer::new(root_params(&key, tenant, 0), RootKey(key));
        Self { issuer, certificate, fingerprint, tenant }
    }

    /// The key of `next`, certified by this root: whoever knows this one follows to that one. It has the same name, and so
    /// is self-issued (RFC 5280, section 6.1): the path length of 0 in this root's own certificate does not forbid it.
    pub(crate) fn link_to(&self, next: &Self, now: u64) -> Vec<u8> {
        let mut params = root_params(next.key(), next.tenant, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(ROOTS_MAX as u8));
        params.use_authority_key_identifier_extension = true;
        let link = params.signed_by(&SubjectKey(point(next.key())), &self.issuer);
        link.expect("a root's fields are ours").der().to_vec()
    }

    /// The key that signs. Whoever takes it keeps it secret.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.issuer.key().0
    }

    /// DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whose: the tenant of the first root.
    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Issues a certificate.
    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let serial = serial();
        let not_after = leaf.now.saturating_add(leaf.seconds);
        let uri = SanType::URI(ia5(&leaf.identity.uri()));
        let mut params = CertificateParams::default();
        params.not_before = time(leaf.now.saturating_sub(BACKDATE_SECONDS));
        params.not_after = time(not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = common_name(&leaf.identity.name);
        params.subject_alt_names = std::iter::once(uri).chain(leaf.hosts.iter().map(Host::san)).collect();
        // Of two roots with one name OpenSSL finds by this the one to check with. It checks servers; devices' certificates
        // go along with every header, and stay small.
        params.use_authority_key_identifier_extension = leaf.usage == Usage::ServerAndClient;
        params.extended_key_usages = match leaf.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::ServerAndClient => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        let certificate = params.signed_by(&SubjectKey(*leaf.public_key), &self.issuer);
        let der = certificate.expect("the fields of a leaf are checked before").der().to_vec();
        Issued { serial, der, not_after }
    }
}

fn root_params(key: &SigningKey, tenant: TenantId, now: u64) -> CertificateParams {
    let fingerprint = fingerprint_of(key);
    let mut params = CertificateParams::default();
    params.not_before = time(now.saturating_sub(BACKDATE_SECONDS));
    params.not_after = time(now.saturating_add(ROOT_SECONDS));
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.distinguished_name = common_name(&format!("SMQTT root {tenant}"));
    if tenant != fingerprint.tenant() {
        params.subject_alt_names = vec![SanType::URI(ia5(&format!("smqtt://{tenant}/root")))];
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(fingerprint.0[..20].to_vec());
    params
}

fn fingerprint_of(key: &SigningKey) -> Fingerprint {
    Fingerprint(sha256(&[&P256_SPKI_PREFIX, key.public_key()]))
}

/// 127 random bits: positive, never zero at the front.
fn serial() -> [u8; 16] {
    let mut serial = random::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// A time as X.509 has it.
pub(crate) fn time(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    // The last second that X.509 can write.
    OffsetDateTime::from_unix_timestamp(seconds.min(253_402_300_799)).expect("a time before the year 10000")
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).expect("names, hosts and identities are ASCII")
}

/// Until when a certificate says that it is valid, seconds since 1970; nobody has checked it.
pub(crate) fn not_after(der: &[u8]) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// The point of a signing key.
pub(crate) fn point(key: &SigningKey) -> Point {
    key.public_key().try_into().expect("an uncompressed P-256 point has 65 bytes")
}

/// A PEM block (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for start in (0..body.len()).step_by(64) {
        pem.push_str(&body[start..body.len().min(start + 64)]);
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

struct RootKey(SigningKey);

impl PublicKeyData for RootKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for RootKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(der_signature(&self.0.sign(message)))
    }
}

struct SubjectKey(Point);

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Ecdsa-Sig-Value of `r || s` (RFC 3279, section 2.2.3).
fn der_signature(fixed: &[u8; SIGNATURE_BYTES]) -> Vec<u8> {
    let mut out = vec![0x30, 0];
    for half in fixed.chunks(SIGNATURE_BYTES / 2) {
        let zeros = half.iter().take_while(|byte| **byte == 0).count().min(half.len() - 1);
        let digits = &half[zeros..];
        let sign = usize::from(digits[0] & 0x80 != 0);
        out.extend([0x02, (digits.len() + sign) as u8]);
        out.extend(std::iter::repeat_n(0, sign));
        out.extend(digits);
    }
    out[1] = (out.len() - 2) as u8;
    out
}

/// Why a signing request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("not a PKCS #10 signing request in DER")]
    Malformed,
    #[error("the key of the signing request is not a P-256 key")]
    Key,
    #[error("the signing request is not signed by its own key with ECDSA and SHA-256")]
    Signature,
}

/// The public key of a signing request that was signed with it. Nothing else of it counts.
pub(crate) fn csr_key(der: &[u8]) -> Result<Point, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::Malformed);
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let spki = csr.certification_request_info.subject_pki.raw;
    let point = spki.strip_prefix(&P256_SPKI_PREFIX).ok_or(CsrError::Key)?;
    let point = point.try_into().map_err(|_| CsrError::Key)?;
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(point)
}

#[cfg(test)]
mod tests {
    use smqtt_core::identity::{DeviceId, Role, fingerprint, verify_certificate};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn identity(root: &Root, name: &str) -> Identity {
        Identity { tenant: root.tenant(), role: Role::Device, id: DeviceId(random()), name: name.to_owned() }
    }

    #[test]
    fn certificates_are_small_and_verify_within_their_time() {
        let root = Root::generate(NOW, None);
        let certificate = root.certificate().to_vec();
        assert_eq!(fingerprint(&certificate).unwrap(), root.fingerprint());
        // The signature's length varies, and with it the certificate's.
        for _ in 0..64 {
            let key = SigningKey::generate();
            let identity = identity(&root, "temperature-sensor-17");
            let leaf = Leaf {
                identity: &identity,
                public_key: &point(&key),
                usage: Usage::Client,
                hosts: &[],
                now: NOW,
                seconds: 86_400,
            };
            let issued = root.issue(&leaf);
            assert!(issued.der.len() < 520, "{} bytes", issued.der.len());
            let roots = [certificate.clone()];
            assert_eq!(verify_certificate(&issued.der, &roots, NOW).unwrap().identity, identity);
            assert!(verify_certificate(&issued.der, &roots, NOW - 299).is_ok());
            assert!(verify_certificate(&issued.der, &roots, NOW - 301).is_err());
            assert!(verify_certificate(&issued.der, &roots, NOW + 86_401).is_err());
            let other = Root::generate(NOW, Some(root.tenant()));
            assert!(verify_certificate(&issued.der, &[other.certificate().to_vec()], NOW).is_err());
        }
    }

    #[test]
    fn a_root_that_was_stored_issues_as_before() {
        let root = Root::generate(NOW, None);
        let certificate = root.certificate().to_vec();
        let key = SigningKey::from_pkcs8(root.key().expose_pkcs8()).unwrap();
        let again = Root::new(key, certificate.clone(), root.tenant());
        let identity = identity(&again, "a");
        let key = point(&SigningKey::generate());
        let leaf = Leaf {
            identity: &identity,
            public_key: &key,
            usage: Usage::Client,
            hosts: &[],
            now: NOW,
            seconds: 60,
        };
        assert!(verify_certificate(&again.issue(&leaf).der, &[certificate], NOW).is_ok());
    }

    #[test]
    fn signatures_are_minimal_der() {
        let mut fixed = [0; SIGNATURE_BYTES];
        fixed[31] = 0x7f;
        fixed[63] = 0x80;
        assert_eq!(der_signature(&fixed), [0x30, 7, 2, 1, 0x7f, 2, 2, 0, 0x80]);
        assert_eq!(der_signature(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(der_signature(&[0xff; 64]).len(), 72);
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in ["localhost", "a.example", "*.a.example", "10.0.0.1", "::1", "A-1"] {
            assert!(Host::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "a..b", "-a", "a-", "é", "a/b", "*", "a.*", "[::1]", "a:1", &"a".repeat(64)] {
            assert!(Host::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn garbage_is_no_signing_request() {
        for bad in [&b""[..], b"\x30\x00", &[0x30; 5000], b"-----BEGIN CERTIFICATE REQUEST-----"] {
            assert_eq!(csr_key(bad), Err(CsrError::Malformed));
        }
    }
}
