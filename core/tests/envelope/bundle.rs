//! Bundles: the authority's word, in one encoding.

use ciborium::Value;
use coset::{CborSerializable, CoseSign1};
use smqtt_core::attribute::Versions;
use smqtt_core::bundle::{Bundle, BundleError, CLOCK_SKEW_SECONDS, Epoch, Refusal};
use smqtt_core::header::{Draft, HEADER_SECONDS_MAX, Header};
use smqtt_core::identity::{DeviceId, IdentityError, Role, TenantId};
use smqtt_core::policy::Template;

use crate::common::cose::{self, BUNDLE_AAD, HEADER_AAD};
use crate::common::pki::{Pki, VALID};
use crate::common::{NOW, policy};
use crate::{TOPIC, World};

#[test]
fn bundle_verifies_for_the_authority_alone() {
    let world = World::new();
    let (pki, bundle) = (&world.pki, world.bundle());
    let bytes = bundle.sign(&pki.authority());
    assert_eq!(Bundle::verify(&bytes, &pki.roots()).unwrap(), bundle);
    let cose = CoseSign1::from_slice(&bytes).unwrap();
    assert_eq!(cose.payload.as_deref(), Some(&cose::parts(&bytes)[1][..]));

    for role in [Role::Device, Role::Broker, Role::Bridge, Role::Admin] {
        let bytes = bundle.sign(&pki.signer(role, 1, VALID));
        assert_eq!(Bundle::verify(&bytes, &pki.roots()), Err(BundleError::Signature), "{role:?}");
    }
    let unknown = BundleError::Certificate(IdentityError::UnknownIssuer);
    assert_eq!(Bundle::verify(&bytes, &Pki::new().roots()).unwrap_err(), unknown);
    let bytes_by_other = bundle.sign(&Pki::new().authority());
    assert_eq!(Bundle::verify(&bytes_by_other, &pki.roots()).unwrap_err(), unknown);
    let expired = bundle.sign(&pki.signer(Role::Authority, 1, (2020, 2025)));
    let not_then = BundleError::Certificate(IdentityError::NotValidThen);
    assert_eq!(Bundle::verify(&expired, &pki.roots()).unwrap_err(), not_then);
    let other_tenant = Bundle { tenant: TenantId([0; 8]), ..bundle.clone() };
    let bytes_for_other = other_tenant.sign(&pki.authority());
    assert_eq!(
        Bundle::verify(&bytes_for_other, &pki.roots()),
        Err(BundleError::Signature),
        "another tenant's"
    );
    // Signed by the authority, but as a header.
    let as_header = cose::sign1(&pki.authority(), HEADER_AAD, &cose::parts(&bytes)[1]);
    assert_eq!(Bundle::verify(&as_header, &pki.roots()), Err(BundleError::Signature));

    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Bundle::verify(&bad, &pki.roots()).is_err(), "byte {at}");
    }
    for cut in 0..bytes.len() {
        assert_eq!(Bundle::verify(&bytes[..cut], &pki.roots()), Err(BundleError::Malformed));
    }
    assert!(bundle.is_expired(bundle.expires) && !bundle.is_expired(bundle.expires - 1));
    assert!(bundle.is_revoked(DeviceId([9; 16])) && !bundle.is_revoked(DeviceId([1; 16])));
}

fn rule(filter: &str) -> Value {
    cose::map([(1, filter.into()), (2, 0.into())])
}

#[test]
fn bundles_have_one_encoding() {
    let world = World::new();
    let authority = world.pki.authority();
    let bytes = world.bundle().sign(&authority);
    let verify = |edit: cose::Edit| {
        Bundle::verify(&cose::edited(&bytes, &authority, BUNDLE_AAD, edit), &world.pki.roots()).map(drop)
    };
    assert_eq!(verify(|_| ()), Ok(()));
    assert_eq!(verify(|f| *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("a/#")])), Ok(()));
    let malformed: [(&str, cose::Edit); 11] = [
        ("two rules of one filter", |f| *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("a")])),
        ("two rules of one filter that say different things", |f| {
            let other = cose::map([(1, "a".into()), (2, 0.into()), (4, cose::bytes(policy("a").encode()))]);
            *cose::field(f, 9) = Value::Array(vec![rule("a"), rule("b"), other]);
        }),
        ("a field too many", |f| f.push((13.into(), 0.into()))),
        ("another order", |f| f.swap(0, 1)),
        ("a field missing", |f| drop(f.pop())),
        ("revoked out of order", |f| {
            *cose::field(f, 11) = Value::Array(vec![cose::bytes([2; 16]), cose::bytes([1; 16])]);
        }),
        ("revoked twice", |f| {
            *cose::field(f, 11) = Value::Array(vec![cose::bytes([2; 16]), cose::bytes([2; 16])])
        }),
        ("a rule without a policy that requires one", |f| {
            let rule = cose::map([(1, "a".into()), (2, 2.into())]);
            *cose::field(f, 9) = Value::Array(vec![rule]);
        }),
        ("a placeholder without its `+`", |f| {
            let template = "a=$1".parse::<Template>().unwrap().encode();
            let rule = cose::map([(1, "a".into()), (2, 0.into()), (3, cose::bytes(template))]);
            *cose::field(f, 9) = Value::Array(vec![rule]);
        }),
        ("an unknown mode", |f| {
            *cose::field(f, 9) = Value::Array(vec![cose::map([(1, "a".into()), (2, 3.into())])]);
        }),
        ("too many rules", |f| {
            *cose::field(f, 9) = Value::Array((0..1025).map(|i| rule(&i.to_string())).collect());
        }),
    ];
    for (what, edit) in malformed {
        assert_eq!(verify(edit), Err(BundleError::Malformed), "{what}");
    }
}

#[test]
fn a_bundle_refuses_what_does_not_agree_with_it() {
    let world = World::new();
    let (header, _) = world.seal();
    let good = world.bundle();
    assert_eq!(good.check(&header, TOPIC, NOW), Ok(()));
    let check = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle.check(&header, TOPIC, NOW)
    };
    let code = |result: Result<(), Refusal>| result.unwrap_err().code();

    assert_eq!(check(&|b| b.revoked = vec![DeviceId([1; 16])]), Err(Refusal::Revoked));
    assert_eq!(check(&|b| b.params = vec![[0; 16]]), Err(Refusal::Params));
    assert_eq!(check(&|b| b.params.clear()), Err(Refusal::Params));
    for current in [0, 6, 9, u64::MAX] {
        assert_eq!(check(&|b| b.epoch.number = current), Err(Refusal::Epoch { sealed: 7, current }));
    }
    assert_eq!(check(&|b| b.versions = Versions::default()), Err(Refusal::Versions));
    assert_eq!(check(&|b| drop(b.versions.raise(&"role=nurse".parse().unwrap()))), Err(Refusal::Versions));
    assert_eq!(check(&|b| drop(b.versions.raise(&"ward=3".parse().unwrap()))), Err(Refusal::Versions));
    assert_eq!(
        check(&|b| drop(b.versions.raise(&"nobody=asks".parse().unwrap()))),
        Ok(()),
        "not in the policy"
    );
    let other = |template: &str| Some(template.parse::<Template>().unwrap());
    assert_eq!(code(check(&|b| b.rules[0].policy = other("role=nurse or ward=$1"))), "policy");
    assert_eq!(
        code(check(&|b| b.rules[0].policy = other("ward=$1 and role=nurse"))),
        "policy",
        "order counts"
    );
    assert_eq!(check(&|b| b.rules[0].policy = None), Ok(()));
    assert_eq!(check(&|b| b.rules.clear()), Ok(()));

    // Topics: outside the filter, inside it but with another policy, and one that gives no value.
    assert_eq!(
        good.check(&header, "ward/4/temperature", NOW),
        Err(Refusal::Filter { filter: "ward/3/#".into() })
    );
    let wide = Draft { filter: &"ward/#".parse().unwrap(), ..world.draft() };
    let wide = Header::seal(&wide, &world.publisher).unwrap().0;
    let wanted = Refusal::Policy {
        sealed: "role=nurse and ward=3".into(),
        rule: "ward/+/temperature".into(),
        wanted: "role=nurse and ward=4".into(),
    };
    assert_eq!(good.check(&wide, "ward/4/temperature", NOW), Err(wanted));
    assert_eq!(good.check(&wide, "ward//temperature", NOW), Err(Refusal::TopicLevel));
    let injected = good.check(&wide, "ward/3 or role=visitor/temperature", NOW);
    assert_eq!(code(injected), "policy", "a level is a value and never syntax");

    // Times: at `expires` it is over, and `created` may be ahead by the skew and no more.
    assert_eq!(good.check(&header, TOPIC, NOW + 3599), Ok(()));
    assert_eq!(good.check(&header, TOPIC, NOW + 3600), Err(Refusal::Expired));
    assert_eq!(good.check(&header, TOPIC, NOW - CLOCK_SKEW_SECONDS), Ok(()));
    assert_eq!(good.check(&header, TOPIC, NOW - CLOCK_SKEW_SECONDS - 1), Err(Refusal::Clock));
    let life = |created, expires, now| {
        let draft = Draft { created, expires, ..world.draft() };
        good.check(&Header::seal(&draft, &world.publisher).unwrap().0, TOPIC, now)
    };
    assert_eq!(life(NOW, NOW, NOW - 10), Err(Refusal::Clock));
    assert_eq!(life(NOW, NOW - 1, NOW - 10), Err(Refusal::Clock), "it ends before it begins");
    assert_eq!(HEADER_SECONDS_MAX, 86_400, "a day");
    assert_eq!(life(NOW, NOW + HEADER_SECONDS_MAX, NOW), Ok(()));
    assert_eq!(life(NOW, NOW + HEADER_SECONDS_MAX + 1, NOW), Err(Refusal::Clock));
    assert_eq!(life(NOW, u64::MAX, NOW), Err(Refusal::Clock));
    assert_eq!(
        life(NOW - 60, NOW + HEADER_SECONDS_MAX, NOW),
        Err(Refusal::Clock),
        "however much is left of it"
    );
    // Backdated to before the epoch: a certificate that has run out since would otherwise do for ever.
    for (created, expected) in [(360, Ok(())), (361, Err(Refusal::Clock))] {
        let draft = Draft { created: NOW - created, ..world.draft() };
        let backdated = Header::seal(&draft, &world.publisher).unwrap().0;
        assert_eq!(good.check(&backdated, TOPIC, NOW), expected, "{created} seconds ago");
    }

    // The previous epoch, as long as the grace lasts.
    let next = |begins| {
        let mut bundle = good.clone();
        bundle.epoch = Epoch { number: 8, begins, ends: begins + 86_400 };
        bundle.check(&header, TOPIC, NOW)
    };
    assert_eq!(next(NOW - 599), Ok(()));
    assert_eq!(next(NOW - 600), Err(Refusal::Epoch { sealed: 7, current: 8 }));
}
