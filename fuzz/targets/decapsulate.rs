//! Whatever is done to an encapsulation or its policy, a key that satisfies it refuses; and what is
//! sealed under any policy opens for a key that has all of its labels.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smqtt_core::attribute::{Attributes, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteId, UserKey};

struct World {
    params: Params,
    master: Master,
    key: UserKey,
    sealed: Vec<(Policy, Vec<u8>)>,
}

fn suite() -> &'static dyn Suite {
    SuiteId::FabeoCp.suite()
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    // Not the coins of the frozen vectors, which are among the seeds and would open.
    let (params, master) = suite().setup(&Secret32::new([0xf; 32]));
    let attributes: Attributes = "a, b".parse().expect("attributes");
    let labels = attributes.labels(&Versions::default(), 7);
    let key = suite().keygen(&master, 7, &labels, &Secret32::new([2; 32]));
    let sealed = ["a", "a or b", "a and (a or c)", "2 of (a, b, c)"].map(|text| {
        let policy: Policy = text.parse().expect("a policy");
        let access = policy.access(&Versions::default(), 7);
        let coins = Secret32::new([3; 32]);
        let (bytes, _) = suite().encapsulate(&params, &Scope::Policy(access.clone()), b"", &coins).expect("it seals");
        (policy, bytes)
    });
    World { params, master, key, sealed: sealed.to_vec() }
});

fuzz_target!(|data: &[u8]| {
    let world = &*WORLD;
    let Some((&choice, rest)) = data.split_first() else { return };
    let (policy, good) = &world.sealed[choice as usize % world.sealed.len()];
    let access = policy.access(&Versions::default(), 7);
    let decapsulate =
        |bytes: &[u8]| suite().decapsulate(&world.params, &world.key, &Scope::Policy(access.clone()), b"", bytes);
    match choice / 64 {
        // Differences to a genuine one, from a place on.
        0 => {
            let Some((at, rest)) = rest.split_first_chunk() else { return };
            let mut bad = good.clone();
            let at = u16::from_be_bytes(*at) as usize % bad.len();
            bad[at..].iter_mut().zip(rest).for_each(|(byte, change)| *byte ^= change);
            assert_eq!(decapsulate(&bad).is_ok(), bad == *good);
        }
        // Whole bytes.
        1 => assert_eq!(decapsulate(rest).is_ok(), rest == good),
        // Any policy, sealed and opened; costs as the policy does.
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let Ok(policy) = text.parse::<Policy>() else { return };
            if policy.leaf_cost() > 40 {
                return;
            }
            let access = policy.access(&Versions::default(), 7);
            let labels: Vec<Label> = access.leaves().cloned().collect();
            let key = suite().keygen(&world.master, 7, &labels, &Secret32::new([4; 32]));
            let (scope, coins) = (&Scope::Policy(access.clone()), Secret32::new([choice; 32]));
            let (bytes, secret) = suite().encapsulate(&world.params, scope, rest, &coins).expect("it seals");
            assert_eq!(bytes.len(), suite().encapsulation_bytes(scope));
            assert_eq!(suite().decapsulate(&world.params, &key, scope, rest, &bytes), Ok(secret));
        }
    }
});
