//! A small authority: a root, and certificates of every role.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use smqtt_core::crypto::SigningKey;
use smqtt_core::header::Signer;
use smqtt_core::identity::{DeviceId, Identity, Role, TenantId, fingerprint};

pub struct Pki {
    /// The root certificate, DER.
    pub root: Vec<u8>,
    pub tenant: TenantId,
    issuer: Issuer<'static, KeyPair>,
}

fn ca(path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(VALID.0, 1, 1);
    params.not_after = date_time_ymd(VALID.1, 1, 1);
    params
}

/// From and until which year a certificate is valid.
pub type Years = (i32, i32);
/// The years that contain `NOW`.
pub const VALID: Years = (2026, 2036);

impl Pki {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca(0);
        let root = params.self_signed(&key).unwrap().der().to_vec();
        let tenant = fingerprint(&root).unwrap().tenant();
        Self { root, tenant, issuer: Issuer::new(params, key) }
    }

    /// Another root for the same tenant, and the link to it.
    pub fn successor(&self) -> (Self, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let (mut params, mut link) = (ca(0), ca(6));
        let tenant = format!("smqtt://{}/root", self.tenant);
        for params in [&mut params, &mut link] {
            params.subject_alt_names = vec![SanType::URI(tenant.as_str().try_into().unwrap())];
        }
        let root = params.self_signed(&key).unwrap().der().to_vec();
        let link = link.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        (Self { root, tenant: self.tenant, issuer: Issuer::new(params, key) }, link)
    }

    pub fn roots(&self) -> Vec<Vec<u8>> {
        vec![self.root.clone()]
    }

    pub fn identity(&self, role: Role, id: u8) -> Identity {
        Identity { tenant: self.tenant, role, id: DeviceId([id; 16]), name: format!("{}-{id}", role.name()) }
    }

    /// A certificate for these URIs, and its key.
    pub fn issue(
        &self,
        uris: &[String],
        years: Years,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (SigningKey, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        change(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        (SigningKey::from_pkcs8(&key.serialize_der()).unwrap(), der)
    }

    /// The signer of this role and id, valid in `years`.
    pub fn signer(&self, role: Role, id: u8, years: Years) -> Signer {
        let (key, der) = self.issue(&[self.identity(role, id).uri()], years, |_| ());
        Signer::new(key, der).unwrap()
    }

    pub fn device(&self, id: u8) -> Signer {
        self.signer(Role::Device, id, VALID)
    }

    pub fn authority(&self) -> Signer {
        self.signer(Role::Authority, 0xaa, VALID)
    }
}
