//! A publisher with a certificate as the authority issues them: whose headers and messages are measured.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use smqtt_core::attribute::Versions;
use smqtt_core::crypto::{SIGNATURE_BYTES, Secret32, SigningKey, random};
use smqtt_core::envelope::{OpeningKey, SealingKey};
use smqtt_core::header::{Draft, Header, Signer};
use smqtt_core::identity::{DeviceId, Identity, Role, fingerprint};
use smqtt_core::suite::{Params, SuiteId};
use smqtt_core::target::Target;
use smqtt_core::topic::Filter;

use crate::schemes::{EPOCH, Fabeo, targets};

/// The topic of every message.
pub const TOPIC: &str = "home/7/temperature";
/// Seconds since 1970, within the certificates' validity.
const NOW: u64 = 1_800_000_000;

/// Who makes headers under one target, each with a secret of its own.
pub struct Author {
    params: Params,
    target: Target,
    versions: Versions,
    filter: Filter,
    signer: Signer,
    sign_messages: bool,
}

impl Author {
    /// Of headers under `target`; whether messages are signed is said in them.
    fn new(params: Params, target: Target, sign_messages: bool) -> Self {
        let filter = TOPIC.parse().expect("a topic is a filter");
        Self { params, target, versions: Versions::default(), filter, signer: signer(), sign_messages }
    }

    /// Encapsulates, writes the header down and signs it.
    pub fn header(&self) -> (Header, SealingKey) {
        let draft = Draft {
            params: &self.params,
            epoch: EPOCH,
            versions: &self.versions,
            target: &self.target,
            created: NOW,
            expires: NOW + 3_600,
            filter: &self.filter,
            sign_messages: self.sign_messages,
        };
        Header::seal(&draft, &self.signer).expect("parameters of this suite")
    }
}

/// A header, and what seals and opens under it.
pub struct Publisher {
    /// Makes more of them.
    pub author: Author,
    /// The header.
    pub header: Header,
    /// Seals.
    pub key: SealingKey,
    /// Opens.
    pub opening: OpeningKey,
}

/// Bytes of a header.
pub struct HeaderParts {
    /// Each part with its name; together they are the whole.
    pub parts: [(&'static str, usize); 5],
    /// All of it.
    pub whole: usize,
}

impl HeaderParts {
    /// Bytes of the encapsulation.
    pub fn encapsulation(&self) -> usize {
        self.parts[0].1
    }
}

impl Publisher {
    /// Seals a header under `a1 and … and an`, or under these labels for a key with this policy; whether messages are
    /// signed is said in it.
    pub fn new(suite: &Fabeo, attributes: usize, sign_messages: bool) -> Self {
        let (policy, labels) = targets("a", attributes).expect("names as policies take them");
        let (target, other) = match suite.id() {
            SuiteId::FabeoKp => (labels, policy),
            _ => (policy, labels),
        };
        let suite = suite.id().suite();
        let (params, master) = suite.setup(&Secret32::random());
        let grant = other.scope(&Versions::default(), EPOCH);
        let key = suite.keygen(&master, EPOCH, &grant, &Secret32::random()).expect("a grant of this suite");
        let author = Author::new(params, target, sign_messages);
        let (header, sealing) = author.header();
        let opening = header.open(&author.params, &key).expect("the key has all that is asked for");
        Self { author, header, key: sealing, opening }
    }

    /// What the header weighs, part by part.
    pub fn header_parts(&self) -> HeaderParts {
        let whole = self.header.as_bytes().len();
        let encapsulation = self.header.encapsulation().len();
        let certificate = self.header.certificate().len();
        let target = match &self.author.target {
            Target::Policy(policy) => policy.encode().len(),
            Target::Labels(labels) => labels.encode().len(),
        };
        let rest = whole - encapsulation - certificate - target - SIGNATURE_BYTES;
        let parts = [
            ("encapsulation", encapsulation),
            ("certificate", certificate),
            ("policy or labels", target),
            ("signature", SIGNATURE_BYTES),
            ("the rest", rest),
        ];
        HeaderParts { parts, whole }
    }
}

/// A device with a certificate of the fields that the authority writes.
fn signer() -> Signer {
    const OURS: &str = "the fields are ours";
    let years = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2036, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&[&[0x40][..], &random::<15>()].concat()));
    };
    let name = |text: &str| {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, text);
        name
    };
    let root_key = KeyPair::generate().expect("the operating system gives random bytes");
    let mut root = CertificateParams::default();
    years(&mut root);
    root.distinguished_name = name("SMQTT root 0123456789abcdef0123456789abcdef");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let der = root.self_signed(&root_key).expect(OURS).der().to_vec();
    let tenant = fingerprint(&der).expect(OURS).tenant();
    let issuer = Issuer::new(root, root_key);

    let key = KeyPair::generate().expect("the operating system gives random bytes");
    let identity =
        Identity { tenant, role: Role::Device, id: DeviceId(random()), name: "temperature-7".to_owned() };
    let mut leaf = CertificateParams::default();
    years(&mut leaf);
    leaf.distinguished_name = name(&identity.name);
    leaf.subject_alt_names = vec![SanType::URI(identity.uri().as_str().try_into().expect(OURS))];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let der = leaf.signed_by(&key, &issuer).expect(OURS).der().to_vec();
    Signer::new(SigningKey::from_pkcs8(&key.serialize_der()).expect(OURS), der).expect(OURS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smqtt_core::envelope::Envelope;

    #[test]
    fn a_publisher_opens_what_it_seals_and_its_parts_make_the_whole() {
        for (suite, signed) in [(&Fabeo::CP, false), (&Fabeo::CP, true), (&Fabeo::KP, false)] {
            let publisher = Publisher::new(suite, 2, signed);
            let sealed = publisher.key.seal(TOPIC, b"21.5").unwrap();
            let message = Envelope::parse(&sealed).unwrap().message;
            assert_eq!(publisher.opening.open(TOPIC, &message).unwrap(), b"21.5");
            assert_eq!(message.is_signed(), signed);
            let header = publisher.header_parts();
            assert_eq!(header.parts.iter().map(|(_, bytes)| bytes).sum::<usize>(), header.whole);
        }
    }
}
