//! Whatever is done to an encapsulation or what it is under, a key that fits refuses; and what is sealed under any
//! policy, or for a key with any policy, opens where it must. The first byte chooses the suite.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smqtt_core::attribute::{Attributes, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteId, UserKey};

const EPOCH: u64 = 7;

struct World {
    suite: &'static dyn Suite,
    params: Params,
    master: Master,
    key: UserKey,
    sealed: Vec<(Scope, Vec<u8>)>,
}

impl World {
    /// A key for `grant`, and encapsulations that it opens.
    fn new(suite: SuiteId, grant: &Scope, scopes: Vec<Scope>) -> Self {
        let suite = suite.suite();
        // Not the coins of the frozen vectors, which are among the seeds and would open.
        let (params, master) = suite.setup(&Secret32::new([0xf; 32]));
        let key = suite.keygen(&master, EPOCH, grant, &Secret32::new([2; 32])).expect("a key");
        let seal = |scope: Scope| {
            let sealed = suite.encapsulate(&params, &scope, b"", &Secret32::new([3; 32]));
            (scope, sealed.expect("it seals").0)
        };
        let sealed = scopes.into_iter().map(seal).collect();
        Self { suite, params, master, key, sealed }
    }
}

fn labels(text: &str) -> Scope {
    let attributes: Attributes = text.parse().expect("attributes");
    Scope::Labels(attributes.labels(&Versions::default(), EPOCH).into())
}

fn policy(text: &str) -> Scope {
    let policy: Policy = text.parse().expect("a policy");
    Scope::Policy(policy.access(&Versions::default(), EPOCH))
}

static WORLDS: LazyLock<[World; 2]> = LazyLock::new(|| {
    let policies = ["a", "a or b", "a and (a or c)", "2 of (a, b, c)"].map(policy);
    let sets = ["a", "a, b", "b, c", "a, b, c, d"].map(labels);
    [
        World::new(SuiteId::FabeoCp, &labels("a, b"), policies.to_vec()),
        World::new(SuiteId::FabeoKp, &policy("a and (a or b) or 2 of (a, b, c)"), sets.to_vec()),
    ]
});

fuzz_target!(|data: &[u8]| {
    let Some((&suite, data)) = data.split_first() else { return };
    let world = &WORLDS[usize::from(suite) % 2];
    let Some((&choice, rest)) = data.split_first() else { return };
    let (scope, good) = &world.sealed[usize::from(choice) % world.sealed.len()];
    let decapsulate = |bytes: &[u8]| world.suite.decapsulate(&world.params, &world.key, scope, b"", bytes);
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
        // Any policy, with all labels that it names on the other side; costs as the policy does.
        _ => {
            let Ok(text) = std::str::from_utf8(rest) else { return };
            let Ok(policy) = text.parse::<Policy>() else { return };
            if policy.leaf_cost() > 40 {
                return;
            }
            let access = policy.access(&Versions::default(), EPOCH);
            let labels = Scope::Labels(access.leaves().cloned().collect::<Vec<Label>>().into());
            let (grant, scope) = match world.params.suite() {
                SuiteId::FabeoKp => (Scope::Policy(access), labels),
                _ => (labels, Scope::Policy(access)),
            };
            let key = world.suite.keygen(&world.master, EPOCH, &grant, &Secret32::new([4; 32])).expect("a key");
            let sealed = world.suite.encapsulate(&world.params, &scope, rest, &Secret32::new([choice; 32]));
            let (bytes, secret) = sealed.expect("it seals");
            assert_eq!(world.suite.encapsulation_bytes(&scope), Some(bytes.len()));
            assert!(key.satisfies(&scope));
            assert_eq!(world.suite.decapsulate(&world.params, &key, &scope, rest, &bytes), Ok(secret));
        }
    }
});
