//! Headers: COSE Sign1 to the byte, by the publisher and nobody else.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use ciborium::Value;
use coset::{CborSerializable, CoseSign1, iana};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::{Bundle, BundleError};
use smqtt_core::crypto::{Secret32, verify};
use smqtt_core::envelope::Envelope;
use smqtt_core::header::{Header, HeaderError, Signer};
use smqtt_core::identity::{IdentityError, Role};
use smqtt_core::suite::SuiteError;

use crate::common::cose::{self, BUNDLE_AAD, HEADER_AAD};
use crate::common::pki::{Pki, VALID};
use crate::common::{NOW, keygen, policy};
use crate::{TOPIC, World};

#[test]
fn header_is_a_cose_sign1() {
    let world = World::new();
    let (header, _) = world.seal();
    let cose = CoseSign1::from_slice(header.as_bytes()).unwrap();
    let protected = &cose.protected.header;
    assert_eq!(protected.alg, Some(coset::Algorithm::Assigned(iana::Algorithm::ES256)));
    let x5chain = (coset::Label::Int(33), cose::bytes(world.publisher.certificate()));
    assert_eq!(protected.rest, [x5chain]);
    let check =
        |signature: &[u8], data: &[u8]| match verify(world.publisher.key().public_key(), data, signature) {
            true => Ok(()),
            false => Err(()),
        };
    cose.verify_signature(HEADER_AAD, check).unwrap();
    cose.verify_signature(BUNDLE_AAD, check).unwrap_err();

    let mut versions = Versions::default();
    versions.raise(&"role=nurse".parse().unwrap()).unwrap();
    let expected = cose::map([
        (1, "fabeo-cp".into()),
        (2, cose::bytes(world.params.id())),
        (3, 7.into()),
        (4, cose::bytes(versions.encode())),
        (5, cose::bytes(world.policy.encode())),
        (6, cose::bytes(header.encapsulation())),
        (7, cose::bytes([1; 16])),
        (8, NOW.into()),
        (9, (NOW + 3600).into()),
        (10, "ward/3/#".into()),
    ]);
    assert_eq!(cose.payload.unwrap(), cose::encode(&expected), "only the versions that the policy asks for");

    let (signing, _) = world.seal_signing();
    let mut fields = expected.into_map().unwrap();
    fields.push((11.into(), true.into()));
    assert_eq!(cose::parts(signing.as_bytes())[1], cose::encode(&Value::Map(fields)));
    assert!(signing.messages_are_signed() && !header.messages_are_signed());
    assert_eq!(world.verify(&signing), Ok(()));
}

#[test]
fn header_verifies_for_the_publisher_alone() {
    let world = World::new();
    let pki = &world.pki;
    let (header, _) = world.seal();
    assert_eq!(header.verify(&pki.roots()).unwrap().identity, pki.identity(Role::Device, 1));
    assert!(header.verify(&[Pki::new().root, pki.root.clone()]).is_ok(), "one root of several");

    let certificate = HeaderError::Certificate;
    assert_eq!(header.verify(&[]).unwrap_err(), certificate(IdentityError::UnknownIssuer));
    let other = Pki::new();
    assert_eq!(header.verify(&other.roots()).unwrap_err(), certificate(IdentityError::UnknownIssuer));
    for role in [Role::Broker, Role::Bridge, Role::Admin, Role::Authority] {
        let header = world.seal_by(&pki.signer(role, 1, VALID));
        assert_eq!(world.verify(&header), Err(HeaderError::NotPublisher), "{role:?}");
    }
    for years in [(2020, 2025), (2028, 2036)] {
        let header = world.seal_by(&pki.signer(Role::Device, 1, years));
        assert_eq!(world.verify(&header), Err(certificate(IdentityError::NotValidThen)));
    }
    // A certificate of this root that claims another tenant's name.
    let mut stranger = pki.identity(Role::Device, 1);
    stranger.tenant = other.tenant;
    let (key, der) = pki.issue(&[stranger.uri()], VALID, |_| ());
    let header = world.seal_by(&Signer::new(key, der).unwrap());
    assert_eq!(world.verify(&header), Err(certificate(IdentityError::UnknownIssuer)));
}

#[test]
fn certificates_for_other_uses_are_refused() {
    let world = World::new();
    let uri = || world.pki.identity(Role::Device, 1).uri();
    let signer = |uris: &[String], change: fn(&mut rcgen::CertificateParams)| {
        let (key, der) = world.pki.issue(uris, VALID, change);
        Signer::new(key, der)
    };
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
    let server =
        signer(&[uri()], |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).unwrap();
    let ca = signer(&[uri()], |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).unwrap();
    for signer in [server, ca] {
        let refused = world.verify(&world.seal_by(&signer));
        assert_eq!(refused, Err(HeaderError::Certificate(IdentityError::OtherUse)));
    }
    // No identity, or two of them: nobody could say who it is.
    let other = world.pki.identity(Role::Device, 2).uri();
    for uris in [vec![], vec![uri(), other], vec!["https://example.org/".to_owned()]] {
        assert_eq!(signer(&uris, |_| ()).unwrap_err(), IdentityError::Malformed);
    }
    let (key, _) = world.pki.issue(&[uri()], VALID, |_| ());
    let mismatch = Signer::new(key, world.publisher.certificate().to_vec());
    assert_eq!(mismatch.unwrap_err(), IdentityError::OtherUse, "a key that the certificate does not name");
}

/// A publisher that signs what the library would not, and others who sign in its name.
#[test]
fn headers_signed_by_forgers_are_refused() {
    let world = World::new();
    let (header, _) = world.seal();
    let bytes = header.as_bytes();
    let payload = &cose::parts(bytes)[1];
    let forger = world.pki.device(2);

    let by_forger = Header::parse(&cose::sign1(&forger, HEADER_AAD, payload)).unwrap();
    assert_eq!(world.verify(&by_forger), Err(HeaderError::NotPublisher), "its own certificate");
    let stolen = cose::sign1_with(forger.key(), world.publisher.certificate(), HEADER_AAD, payload);
    assert_eq!(
        world.verify(&Header::parse(&stolen).unwrap()),
        Err(HeaderError::Signature),
        "somebody else's"
    );
    let as_bundle = cose::sign1(&world.publisher, BUNDLE_AAD, payload);
    assert_eq!(world.verify(&Header::parse(&as_bundle).unwrap()), Err(HeaderError::Signature), "another use");
    let [_, _, signature] = cose::parts(bytes);
    for at in 0..64 {
        let mut bad = bytes.to_vec();
        let from = bad.len() - signature.len();
        bad[from + at] ^= 1;
        assert_eq!(world.verify(&Header::parse(&bad).unwrap()), Err(HeaderError::Signature));
    }

    // An honest signature over an edited header: the encapsulation knows what it was made for.
    let reader = world.reader();
    let edits: [(&str, cose::Edit); 4] = [
        ("policy", |f| *cose::field(f, 5) = cose::bytes(policy("role=nurse or ward=3").encode())),
        ("epoch", |f| *cose::field(f, 3) = 8.into()),
        ("no versions", |f| f.retain(|(key, _)| *key != 4.into())),
        ("encapsulation", |f| {
            let Value::Bytes(bytes) = cose::field(f, 6) else { panic!("bytes") };
            bytes[300] ^= 1;
        }),
    ];
    let all = {
        let strong = "role=nurse, ward=3".parse::<smqtt_core::attribute::Attributes>().unwrap();
        let mut labels = strong.labels(&world.versions, 7);
        labels.extend(strong.labels(&Versions::default(), 8));
        keygen(&world.master, 7, &labels, &Secret32::new([2; 32]))
    };
    for (what, edit) in edits {
        let edited = Header::parse(&cose::edited(bytes, &world.publisher, HEADER_AAD, edit)).unwrap();
        assert_eq!(world.verify(&edited), Ok(()), "{what}");
        for key in [&reader, &all] {
            assert!(edited.open(&world.params, key).is_err(), "{what}");
        }
        let opened = edited.open(&world.params, &all).unwrap_err();
        assert!(
            matches!(opened, HeaderError::Suite(SuiteError::Inconsistent | SuiteError::Malformed)),
            "{what}"
        );
    }
}

/// ECDSA is malleable: from `(r, s)` anybody makes `(r, -s)`, which is as good to the library. It would be
/// another header, with another kid: one message would count as two.
#[test]
fn the_other_signature_is_refused() {
    let world = World::new();
    let roots = world.pki.roots();
    let by_library = |bytes: &[u8], by: &Signer, aad: &[u8]| {
        let cose = CoseSign1::from_slice(bytes).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, by.key().public_key());
        cose.verify_signature(aad, |signature, data| key.verify(data, signature))
    };
    let (header, content) = world.seal_signing();
    let mut twin = header.as_bytes().to_vec();
    cose::double(&mut twin);
    assert!(by_library(&twin, &world.publisher, HEADER_AAD).is_ok());
    assert_eq!(Header::parse(&twin).unwrap().verify(&roots), Err(HeaderError::Signature));

    let authority = world.pki.authority();
    let mut twin = world.bundle().sign(&authority);
    cose::double(&mut twin);
    assert!(by_library(&twin, &authority, BUNDLE_AAD).is_ok());
    assert_eq!(Bundle::verify(&twin, &roots), Err(BundleError::Signature));

    let sealed = content.seal(TOPIC, b"38.5").unwrap();
    let by = world.publisher.key().public_key();
    let verify = |sealed: &[u8]| {
        let message = Envelope::parse(sealed).unwrap().message;
        message.verify(by, TOPIC, header.hash(), header.publisher())
    };
    assert_eq!(verify(&sealed), Some(true));
    let ends = sealed.len() - b"38.5".len() - 16 - 1;
    let mut twin = sealed.clone();
    cose::double(&mut twin[..ends]);
    assert_eq!(verify(&twin), Some(false));
    cose::double(&mut twin[..ends]);
    assert_eq!(twin, sealed, "the signature ends where we think");
}

#[test]
fn headers_have_one_encoding() {
    let world = World::new();
    let (header, _) = world.seal();
    let parse = |edit: cose::Edit| {
        Header::parse(&cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, edit)).map(drop)
    };
    assert_eq!(parse(|_| ()), Ok(()));
    assert_eq!(parse(|f| f.push((11.into(), true.into()))), Ok(()));
    let suites = ["bsw", "ac17", "fabeo", "lsw", "ghw11", "yct14", ""];
    for suite in suites {
        let bytes = cose::edited(header.as_bytes(), &world.publisher, HEADER_AAD, |f| {
            *cose::field(f, 1) = suite.into();
        });
        assert_eq!(Header::parse(&bytes).unwrap_err(), HeaderError::UnknownSuite, "{suite}");
    }
    let malformed: [(&str, cose::Edit); 18] = [
        ("a field too many", |f| f.push((12.into(), 0.into()))),
        ("`false` for unsigned messages", |f| f.push((11.into(), false.into()))),
        ("null for unsigned messages", |f| f.push((11.into(), Value::Null))),
        ("1 for signed messages", |f| f.push((11.into(), 1.into()))),
        ("signed messages twice", |f| f.extend([(11.into(), true.into()), (11.into(), true.into())])),
        ("a field twice", |f| f.push(f[9].clone())),
        ("another order", |f| f.swap(0, 1)),
        ("a field missing", |f| drop(f.remove(7))),
        ("empty versions", |f| *cose::field(f, 4) = cose::bytes(Versions::default().encode())),
        ("null versions", |f| *cose::field(f, 4) = Value::Null),
        ("versions nobody asked for", |f| {
            let mut versions = Versions::default();
            versions.raise(&"other".parse().unwrap()).unwrap();
            *cose::field(f, 4) = cose::bytes(versions.encode());
        }),
        ("a short params id", |f| *cose::field(f, 2) = cose::bytes([1; 15])),
        ("a long publisher", |f| *cose::field(f, 7) = cose::bytes([1; 17])),
        ("a policy that is none", |f| *cose::field(f, 5) = cose::bytes([0x80])),
        ("a policy not canonical", |f| {
            let leaf = [0x83, 0, 0x61, b'a', 0xf6];
            *cose::field(f, 5) = cose::bytes([&[0x82, 3, 0x81][..], &leaf].concat());
        }),
        ("a filter that is none", |f| *cose::field(f, 10) = "a/#/b".into()),
        ("a negative time", |f| *cose::field(f, 8) = (-1).into()),
        ("text for bytes", |f| *cose::field(f, 6) = "text".into()),
    ];
    for (what, edit) in malformed {
        assert_eq!(parse(edit), Err(HeaderError::Malformed), "{what}");
    }

    let [protected, payload, signature] = cose::parts(header.as_bytes()).map(cose::bytes);
    let other_algorithm =
        cose::encode(&cose::map([(1, (-35).into()), (33, cose::bytes(world.publisher.certificate()))]));
    let chain = Value::Array(vec![cose::bytes(world.publisher.certificate())]);
    let as_array = cose::encode(&cose::map([(1, (-7).into()), (33, chain)]));
    let empty = || Value::Map(vec![]);
    for (what, parts) in [
        (
            "an unprotected header",
            vec![protected.clone(), cose::map([(4, 1.into())]), payload.clone(), signature.clone()],
        ),
        (
            "another algorithm",
            vec![cose::bytes(other_algorithm), empty(), payload.clone(), signature.clone()],
        ),
        ("a chain in an array", vec![cose::bytes(as_array), empty(), payload.clone(), signature.clone()]),
        ("a detached payload", vec![protected.clone(), empty(), Value::Null, signature.clone()]),
        ("a short signature", vec![protected.clone(), empty(), payload.clone(), cose::bytes([0; 63])]),
        ("no signature", vec![protected.clone(), empty(), payload.clone()]),
    ] {
        let bytes = cose::encode(&Value::Array(parts));
        assert_eq!(Header::parse(&bytes).unwrap_err(), HeaderError::Malformed, "{what}");
    }
    let tagged = [&[0xd2], header.as_bytes()].concat();
    assert_eq!(Header::parse(&tagged).unwrap_err(), HeaderError::Malformed, "a COSE tag");
    assert_eq!(Header::parse(&vec![0; 70_000]).unwrap_err(), HeaderError::Malformed);
}
