//! Another root in the place of the first: who believes whom.

mod common;

use common::NOW;
use common::pki::{Pki, VALID};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::{Bundle, BundleError, Epoch};
use smqtt_core::header::Signer;
use smqtt_core::identity::{
    Identity, IdentityError, Role, TenantId, verify_certificate, verify_certificate_through,
};
use smqtt_core::lineage::{Lineage, ROOTS_MAX};

const UNKNOWN: IdentityError = IdentityError::UnknownIssuer;

fn bundle(tenant: TenantId, lineage: Option<Lineage>) -> Bundle {
    Bundle {
        tenant,
        number: 1,
        issued: NOW,
        expires: NOW + 60,
        epoch: Epoch { number: 1, begins: NOW, ends: NOW + 60 },
        grace: 0,
        rules: Vec::new(),
        versions: Versions::default(),
        revoked: Vec::new(),
        params: Vec::new(),
        lineage,
    }
}

/// Roots, each in the place of the one before, and the links between them.
fn line(count: usize) -> (Vec<Pki>, Vec<Vec<u8>>) {
    let (mut roots, mut links) = (vec![Pki::new()], Vec::new());
    while roots.len() < count {
        let (next, link) = roots[roots.len() - 1].successor();
        roots.push(next);
        links.push(link);
    }
    (roots, links)
}

fn lineage(roots: &[Pki], links: &[Vec<u8>], retired: usize) -> Lineage {
    let roots: Vec<_> = roots.iter().map(|pki| pki.root.clone()).collect();
    let newest = roots.len() - 1;
    Lineage::new(roots, links.to_vec(), retired, newest).unwrap()
}

fn refused(bytes: &[u8], roots: &[Vec<u8>]) -> IdentityError {
    match Bundle::verify(bytes, roots) {
        Err(BundleError::Certificate(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_leads_from_the_old_root_to_the_new_one_and_not_back() {
    let (pkis, links) = line(2);
    let [old, new] = &pkis[..] else { unreachable!() };
    for retired in [0, 1] {
        let bundle = bundle(old.tenant, Some(lineage(&pkis, &links, retired)));
        let by_new = bundle.sign(&new.authority());
        for known in [old, new] {
            let read = Bundle::verify(&by_new, &known.roots()).unwrap();
            assert_eq!(read, bundle);
            assert_eq!(read.lineage.unwrap().in_trust().len(), 2 - retired);
        }
        let by_old = bundle.sign(&old.authority());
        match retired {
            0 => assert!(Bundle::verify(&by_old, &old.roots()).is_ok()),
            _ => assert_eq!(refused(&by_old, &old.roots()), UNKNOWN, "retired, it says itself"),
        }
        assert_eq!(refused(&by_old, &new.roots()), UNKNOWN, "links lead one way");
    }
    // One that says nothing of roots is the old root's alone.
    let silent = bundle(old.tenant, None);
    assert_eq!(refused(&silent.sign(&new.authority()), &old.roots()), UNKNOWN);
    assert_eq!(refused(&silent.sign(&old.authority()), &new.roots()), UNKNOWN);
}

#[test]
fn whoever_slept_through_every_exchange_follows_all_of_them() {
    let (pkis, links) = line(ROOTS_MAX);
    let last = &pkis[ROOTS_MAX - 1];
    let bytes = bundle(last.tenant, Some(lineage(&pkis, &links, ROOTS_MAX - 1))).sign(&last.authority());
    for pki in &pkis {
        assert!(Bundle::verify(&bytes, &pki.roots()).is_ok());
    }
    // A stranger's certificate is nobody's, however many links there are.
    let stranger = Pki::new().authority();
    let strange = Signer::certificate(&stranger);
    assert_eq!(verify_certificate_through(strange, &pkis[0].roots(), &links, NOW), Err(UNKNOWN));
}

#[test]
fn a_root_that_nobody_announced_is_nobodys() {
    let (pkis, links) = line(2);
    let [old, _] = &pkis[..] else { unreachable!() };
    // Made by an attacker for our tenant; the link is by their own key, by a device's, or borrowed.
    let attacker = Pki::new();
    let (theirs, own_link) = attacker.successor();
    let uri = format!("smqtt://{}/root", old.tenant);
    let ca = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let (_, ours) = attacker.issue(&[uri], VALID, ca);
    for link in [own_link, links[0].clone(), ours.clone()] {
        let roots = vec![old.root.clone(), ours.clone()];
        let forged = bundle(old.tenant, Lineage::new(roots, vec![link], 0, 1));
        let mut identity: Identity = theirs.identity(Role::Authority, 1);
        identity.tenant = old.tenant;
        let (key, certificate) = theirs.issue(&[identity.uri()], VALID, |_| ());
        let bytes = forged.sign(&Signer::new(key, certificate).unwrap());
        assert_eq!(refused(&bytes, &old.roots()), UNKNOWN);
    }
    // A device's certificate is no link, whatever it signs.
    let device = old.device(1).certificate().to_vec();
    let of_theirs = theirs.authority();
    assert!(verify_certificate_through(of_theirs.certificate(), &old.roots(), &[device], NOW).is_err());
    // A root, and a link, are nobody's own certificate.
    for der in [&pkis[1].root, &links[0]] {
        assert!(verify_certificate(der, &old.roots(), NOW).is_err());
        assert!(Signer::new(smqtt_core::crypto::SigningKey::generate(), der.clone()).is_err());
    }
}

#[test]
fn lineages_have_bounds_and_one_tenant() {
    let (pkis, links) = line(3);
    let roots: Vec<_> = pkis.iter().map(|pki| pki.root.clone()).collect();
    let make = |roots: &[Vec<u8>], links: &[Vec<u8>], retired| {
        Lineage::new(roots.to_vec(), links.to_vec(), retired, roots.len().saturating_sub(1)).is_some()
    };
    assert!(make(&roots, &links, 2) && !make(&roots, &links, 3));
    assert!(Lineage::new(roots.clone(), links.clone(), 1, 0).is_none(), "one that issues and is retired");
    assert!(Lineage::new(roots.clone(), links.clone(), 0, 3).is_none());
    assert!(!make(&roots[..1], &[], 0) && !make(&[], &[], 0));
    assert!(!make(&roots, &links[..1], 0) && !make(&roots[..2], &links, 0));
    let many = vec![roots[0].clone(); ROOTS_MAX + 1];
    assert!(!make(&many, &vec![links[0].clone(); ROOTS_MAX], 0));
    assert!(!make(&[roots[0].clone(), vec![0; 5000]], &links[..1], 0));
    // Signed by whom it may, a root of another tenant makes no bundle.
    let (foreign, _) = Pki::new().successor();
    let mixed = Lineage::new(vec![roots[0].clone(), foreign.root], vec![links[0].clone()], 0, 0);
    let bytes = bundle(pkis[0].tenant, mixed).sign(&pkis[0].authority());
    assert_eq!(Bundle::verify(&bytes, &pkis[0].roots()), Err(BundleError::Malformed));
}
