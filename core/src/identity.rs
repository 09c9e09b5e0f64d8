//! Who somebody is: the identity in an X.509 certificate of the authority, and its check.
//!
//! A certificate names its holder in one URI: `smqtt://TENANT/ROLE/ID/NAME`. The role is part of the
//! name so that a broker's or an administrator's certificate never passes for a device's.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::crypto::sha256;

/// Most characters of a device's name.
pub const NAME_CHARS_MAX: usize = 64;
/// Most bytes of a certificate that is looked at.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;

/// What a holder of a certificate is to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Publishes and subscribes.
    Device,
    /// Carries messages it cannot read.
    Broker,
    /// Brings messages that others published to a broker, and takes some away. Signs none itself.
    Bridge,
    /// Administers the authority.
    Admin,
    /// Lets devices enrol: makes tokens, reads who the devices are.
    Enroller,
    /// Reads devices, rules and the audit log; changes nothing.
    Auditor,
    /// The authority itself: its HTTPS server and what signs bundles.
    Authority,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Device,
        Self::Broker,
        Self::Bridge,
        Self::Admin,
        Self::Enroller,
        Self::Auditor,
        Self::Authority,
    ];

    /// The word in the URI.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Broker => "broker",
            Self::Bridge => "bridge",
            Self::Admin => "admin",
            Self::Enroller => "enroller",
            Self::Auditor => "auditor",
            Self::Authority => "authority",
        }
    }

    /// The role of this word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdentityError;

            /// Lower-case hexadecimal digits, all of them.
            fn from_str(text: &str) -> Result<Self, IdentityError> {
                let mut out = [0; $bytes];
                if text.len() != 2 * $bytes || text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(IdentityError::Id);
                }
                for (i, byte) in out.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| IdentityError::Id)?;
                }
                Ok(Self(out))
            }
        }
    };
}

hex_id!(
    /// A device's identifier: random, never used again.
    DeviceId, 16
);
hex_id!(
    /// A tenant's identifier: the first 8 bytes of its first root's fingerprint.
    TenantId, 8
);
hex_id!(
    /// The SHA-256 of a root certificate's public key (SubjectPublicKeyInfo).
    Fingerprint, 32
);

impl Fingerprint {
    /// The tenant whose first root has this fingerprint.
    pub fn tenant(&self) -> TenantId {
        TenantId(self.0[..8].try_into().expect("eight of 32 bytes"))
    }
}

/// Why a name or certificate was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not of the form that device names have.
    #[error(
        "a name has 1 to {NAME_CHARS_MAX} letters, digits, `.`, `_` or `-`, and begins with a letter or digit"
    )]
    Name,
    /// Fit for a name, but it reads as an identifier.
    #[error("a name of 32 hexadecimal digits would pass for an identifier")]
    NameIsId,
    /// Not an identifier.
    #[error("not an identifier: lower-case hexadecimal digits are expected")]
    Id,
    /// No X.509 certificate, or not one of an authority of ours.
    #[error("not a certificate of an SMQTT authority")]
    Malformed,
    /// Does not chain to the root.
    #[error("the certificate is not issued by this authority")]
    UnknownIssuer,
    /// Outside its validity.
    #[error("the certificate was not valid at that time")]
    NotValidThen,
    /// For something else.
    #[error("the certificate is for another use")]
    OtherUse,
}

/// Checks a device's name.
///
/// # Errors
/// [`IdentityError::Name`], saying what names look like.
pub fn check_name(name: &str) -> Result<(), IdentityError> {
    let fits = name.len() <= NAME_CHARS_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(IdentityError::Name) }
}

/// Checks a name that somebody is about to get. Where a device is named, a name or an identifier will do: a name that read as the
/// identifier of another device would mean that one.
///
/// # Errors
/// As [`check_name`], and [`IdentityError::NameIsId`].
pub fn check_new_name(name: &str) -> Result<(), IdentityError> {
    check_name(name)?;
    match name.to_ascii_lowercase().parse::<DeviceId>() {
        Ok(_) => Err(IdentityError::NameIsId),
        Err(_) => Ok(()),
    }
}

/// Whoever a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Whose authority.
    pub tenant: TenantId,
    /// What the holder is.
    pub role: Role,
    /// Which one.
    pub id: DeviceId,
    /// What people call it.
    pub name: String,
}

impl Identity {
    /// `smqtt://TENANT/ROLE/ID/NAME`
    pub fn uri(&self) -> String {
        format!("smqtt://{}/{}/{}/{}", self.tenant, self.role.name(), self.id, self.name)
    }

    /// Reads what `uri` wrote.
    ///
    /// # Errors
    /// [`IdentityError`] for anything else.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let rest = uri.strip_prefix("smqtt://").ok_or(IdentityError::Malformed)?;
        let mut parts = rest.splitn(4, '/');
        let mut next = || parts.next().ok_or(IdentityError::Malformed);
        let (tenant, role, id, name) = (next()?, next()?, next()?, next()?);
        check_name(name)?;
        Ok(Self {
            tenant: tenant.parse()?,
            role: Role::from_name(role).ok_or(IdentityError::Malformed)?,
            id: id.parse()?,
            name: name.to_owned(),
        })
    }
}

/// A certificate that was checked: who it is, and with which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCertificate {
    /// Who it names.
    pub identity: Identity,
    /// The P-256 public key, uncompressed, 65 bytes.
    pub public_key: [u8; 65],
}

/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Reads the identity and key of a certificate **without** checking who issued it.
///
/// # Errors
/// [`IdentityError::Malformed`] for anything but a P-256 certificate with one identity.
pub fn read_certificate(der: &[u8]) -> Result<VerifiedCertificate, IdentityError> {
    let der = CertificateDer::from(der);
    identity_of(&parse(&der)?)
}

fn parse<'a>(der: &'a CertificateDer<'a>) -> Result<EndEntityCert<'a>, IdentityError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(IdentityError::Malformed);
    }
    EndEntityCert::try_from(der).map_err(|_| IdentityError::Malformed)
}

fn identity_of(certificate: &EndEntityCert<'_>) -> Result<VerifiedCertificate, IdentityError> {
    let mut uris = certificate.valid_uri_names();
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(IdentityError::Malformed) };
    let identity = Identity::from_uri(uri)?;
    let spki = certificate.subject_public_key_info();
    let point = spki.strip_prefix(&P256_SPKI_PREFIX).ok_or(IdentityError::Malformed)?;
    let public_key = point.try_into().map_err(|_| IdentityError::Malformed)?;
    Ok(VerifiedCertificate { identity, public_key })
}

/// Checks that `der` was issued by one of `roots` for use as a client, valid at `at` (seconds since
/// 1970), and reads who it names.
///
/// # Errors
/// [`IdentityError`], saying what does not hold.
pub fn verify_certificate(
    der: &[u8],
    roots: &[Vec<u8>],
    at: u64,
) -> Result<VerifiedCertificate, IdentityError> {
    verify_certificate_through(der, roots, &[], at)
}

/// As [`verify_certificate`], also where `der` was issued by a root that `links` tie to one of `roots`
/// (see [`crate::lineage`]). Links are not trusted: they may come from anybody.
///
/// # Errors
/// As there.
pub fn verify_certificate_through(
    der: &[u8],
    roots: &[Vec<u8>],
    links: &[Vec<u8>],
    at: u64,
) -> Result<VerifiedCertificate, IdentityError> {
    let der = CertificateDer::from(der);
    let certificate = parse(&der)?;
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|r| CertificateDer::from(r.as_slice())).collect();
    let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    // The newest first: that is the way which leads on, and the verifier tries only so many.
    let links: Vec<_> = links.iter().rev().map(|link| CertificateDer::from(link.as_slice())).collect();
    certificate
        .verify_for_usage(
            &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
            &anchors,
            &links,
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. }
            | webpki::Error::CertNotValidYet { .. }
            | webpki::Error::InvalidCertValidity => IdentityError::NotValidThen,
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::CaUsedAsEndEntity => {
                IdentityError::OtherUse
            }
            webpki::Error::BadDer => IdentityError::Malformed,
            _ => IdentityError::UnknownIssuer,
        })?;
    let verified = identity_of(&certificate)?;
    let tenant = Ok(verified.identity.tenant);
    let of_a_root = roots.iter().any(|root| tenant_of_root(root) == tenant);
    if of_a_root { Ok(verified) } else { Err(IdentityError::UnknownIssuer) }
}

/// The tenant of a root certificate: the one that it names as `smqtt://TENANT/root`, as roots do that took the place of
/// another, or else the one of its fingerprint. Counts of roots alone that are trusted.
///
/// # Errors
/// [`IdentityError::Malformed`] for what is no certificate.
pub fn tenant_of_root(der: &[u8]) -> Result<TenantId, IdentityError> {
    let der = CertificateDer::from(der);
    let certificate = parse(&der)?;
    let mut named = certificate.valid_uri_names();
    match (named.next(), named.next()) {
        (None, _) => Ok(Fingerprint(sha256(&[&certificate.subject_public_key_info()])).tenant()),
        (Some(uri), None) => {
            let tenant = uri.strip_prefix("smqtt://").and_then(|rest| rest.strip_suffix("/root"));
            tenant.and_then(|tenant| tenant.parse().ok()).ok_or(IdentityError::Malformed)
        }
        _ => Err(IdentityError::Malformed),
    }
}

/// The fingerprint of a (root) certificate.
///
/// # Errors
/// [`IdentityError::Malformed`] for what is no certificate.
pub fn fingerprint(der: &[u8]) -> Result<Fingerprint, IdentityError> {
    let der = CertificateDer::from(der);
    let certificate = parse(&der)?;
    Ok(Fingerprint(sha256(&[&certificate.subject_public_key_info()])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trips_and_nothing_else_parses() {
        let identity = Identity {
            tenant: TenantId([7; 8]),
            role: Role::Device,
            id: DeviceId([9; 16]),
            name: "sensor-1".into(),
        };
        let uri = identity.uri();
        assert_eq!(Identity::from_uri(&uri).unwrap(), identity);
        for bad in ["", "smqtt://", "smqtt://a/b/c/d", &format!("{uri}/x"), &uri.replace("device", "root")] {
            assert!(Identity::from_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_stay_simple() {
        assert!(check_name("Sensor_1.a-b").is_ok());
        for bad in ["", "-a", "a/b", "a b", "é", &"a".repeat(65)] {
            assert_eq!(check_name(bad), Err(IdentityError::Name), "{bad:?}");
        }
    }

    #[test]
    fn an_identifier_is_no_new_name() {
        let id = DeviceId([0xa9; 16]).to_string();
        for bad in [&id, &id.to_uppercase()] {
            assert_eq!(check_new_name(bad), Err(IdentityError::NameIsId), "{bad}");
            // Whoever is known by nothing else is read.
            assert!(check_name(bad).is_ok());
        }
        assert!(check_new_name(&id[1..]).is_ok() && check_new_name(&format!("{id}-1")).is_ok());
        assert_eq!(check_new_name("a b"), Err(IdentityError::Name));
    }

    #[test]
    fn garbage_is_no_certificate() {
        for bad in [&b""[..], b"\x30\x00", &[0x30; 5000]] {
            assert_eq!(read_certificate(bad), Err(IdentityError::Malformed));
            assert_eq!(verify_certificate(bad, &[], 0), Err(IdentityError::Malformed));
        }
    }
}
