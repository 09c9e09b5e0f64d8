//! Whatever is done to an encapsulation or what it is under, a key that fits refuses; and what is sealed under any
//! policy, or for a key with any policy, opens where it must. The first byte chooses the suite.
//!
//! Says on standard error how many executions came as far as the consistency check: most changes are of points for
//! other points, since bytes at random are refused before it.
#![no_main]

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use blst::{min_pk, min_sig};

use libfuzzer_sys::fuzz_target;
use smqtt_core::attribute::{Attributes, Label, Versions};
use smqtt_core::crypto::Secret32;
use smqtt_core::policy::Policy;
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteError, SuiteId, UserKey};

const EPOCH: u64 = 7;
const G1_BYTES: usize = 48;
const G2_BYTES: usize = 96;
const MASKED_BYTES: usize = 32;
/// Most changes to one encapsulation.
const CHANGES_MAX: usize = 16;
/// How often the count is printed.
const PRINT_EVERY: u64 = 1_000;

/// Executions that came as far as the consistency check, of each suite.
static REACHED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

struct World {
    suite: &'static dyn Suite,
    params: Params,
    master: Master,
    key: UserKey,
    sealed: Vec<Sealed>,
}

struct Sealed {
    scope: Scope,
    bytes: Vec<u8>,
    /// Where its points are, those of G2 first.
    points: Vec<Range<usize>>,
}

impl Sealed {
    fn new(scope: Scope, bytes: Vec<u8>) -> Self {
        let of_g1 = G1_BYTES
            * match &scope {
                Scope::Policy(access) => access.leaf_count(),
                Scope::Labels(labels) => labels.as_slice().len(),
            };
        let end = bytes.len() - MASKED_BYTES;
        let between = |from: usize, to: usize, step| (from..to).step_by(step).map(move |at| at..at + step);
        let points = between(0, end - of_g1, G2_BYTES).chain(between(end - of_g1, end, G1_BYTES)).collect();
        Self { scope, bytes, points }
    }

    /// Whether `bytes` would have points wherever this has some; then what refuses them is the consistency check.
    fn decodes(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes.len() && self.points.iter().all(|place| is_point(&bytes[place.clone()]))
    }

    /// Points for points, negatives, points that trade places, and bits of the masked secret: three bytes a change.
    fn changed(&self, changes: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for [what, place, with] in changes.as_chunks().0.iter().take(CHANGES_MAX) {
            let pick = |n: &u8| self.points[usize::from(*n) % self.points.len()].clone();
            let place = pick(place);
            match what % 4 {
                0 => {
                    let others = &POINTS[usize::from(place.len() == G2_BYTES)];
                    bytes[place].copy_from_slice(&others[usize::from(*with) % others.len()]);
                }
                // The sign of a compressed point.
                1 => bytes[place.start] ^= 0x20,
                2 => {
                    let other = pick(with);
                    if place.len() == other.len() {
                        let point = bytes[place.clone()].to_vec();
                        bytes.copy_within(other.clone(), place.start);
                        bytes[other].copy_from_slice(&point);
                    }
                }
                _ => {
                    let at = bytes.len() - 1 - place.start % MASKED_BYTES;
                    bytes[at] ^= with;
                }
            }
        }
        bytes
    }
}

/// A compressed point on the curve, in the subgroup or not, that is not the identity.
fn is_point(bytes: &[u8]) -> bool {
    let on_curve = match bytes.len() {
        G1_BYTES => min_pk::PublicKey::uncompress(bytes).is_ok(),
        _ => min_sig::PublicKey::uncompress(bytes).is_ok(),
    };
    on_curve && bytes[0] & 0x40 == 0
}

/// Points of G1 and of G2: of all encapsulations, and some outside the subgroups.
static POINTS: LazyLock<[Vec<Vec<u8>>; 2]> = LazyLock::new(|| {
    [G1_BYTES, G2_BYTES].map(|len| {
        let genuine = WORLDS.iter().flat_map(|world| &world.sealed).flat_map(|sealed| {
            let places = sealed.points.iter().filter(|place| place.len() == len);
            places.map(|place| sealed.bytes[place.clone()].to_vec())
        });
        let guessed = (1..=u8::MAX).map(|x| {
            let mut bytes = vec![0; len];
            (bytes[0], bytes[len - 1]) = (0x80, x);
            bytes
        });
        genuine.chain(guessed.filter(|bytes| is_point(bytes)).take(16)).collect()
    })
});

impl World {
    /// A key for `grant`, and encapsulations that it opens.
    fn new(suite: SuiteId, grant: &Scope, scopes: Vec<Scope>) -> Self {
        let suite = suite.suite();
        // Not the coins of the frozen vectors, which are among the seeds and would open.
        let (params, master) = suite.setup(&Secret32::new([0xf; 32]));
        let key = suite.keygen(&master, EPOCH, grant, &Secret32::new([2; 32])).expect("a key");
        let seal = |scope: Scope| {
            let sealed = suite.encapsulate(&params, &scope, b"", &Secret32::new([3; 32]));
            Sealed::new(scope, sealed.expect("it seals").0)
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
    let [suite, choice, rest @ ..] = data else { return };
    let suite = usize::from(*suite) % 2;
    let world = &WORLDS[suite];
    let sealed = &world.sealed[usize::from(*choice) % world.sealed.len()];
    let reached = || {
        let count = REACHED[suite].fetch_add(1, Ordering::Relaxed) + 1;
        if count % PRINT_EVERY == 0 {
            eprintln!("reached the consistency check: {} {count}", world.params.suite());
        }
    };
    let refused_unless_genuine = |bytes: &[u8]| {
        let outcome = world.suite.decapsulate(&world.params, &world.key, &sealed.scope, b"", bytes);
        assert_eq!(outcome.is_ok(), bytes == sealed.bytes);
        if outcome.is_ok() || outcome == Err(SuiteError::Inconsistent) && sealed.decodes(bytes) {
            reached();
        }
    };
    match choice / 32 {
        // Differences to a genuine one, from a place on.
        0 => {
            let Some((at, rest)) = rest.split_first_chunk() else { return };
            let mut bad = sealed.bytes.clone();
            let at = u16::from_be_bytes(*at) as usize % bad.len();
            bad[at..].iter_mut().zip(rest).for_each(|(byte, change)| *byte ^= change);
            refused_unless_genuine(&bad);
        }
        // Whole bytes; most are of another length, which takes no time.
        1 => {
            refused_unless_genuine(rest);
            if rest.len() != sealed.bytes.len() {
                refused_unless_genuine(&sealed.changed(rest));
            }
        }
        // Any policy, with all labels that it names on the other side; costs as the policy does.
        2 | 3 if let Some(policy) = small_policy(rest) => {
            let access = policy.access(&Versions::default(), EPOCH);
            let labels = Scope::Labels(access.leaves().cloned().collect::<Vec<Label>>().into());
            let (grant, scope) = match world.params.suite() {
                SuiteId::FabeoKp => (Scope::Policy(access), labels),
                _ => (labels, Scope::Policy(access)),
            };
            let key =
                world.suite.keygen(&world.master, EPOCH, &grant, &Secret32::new([4; 32])).expect("a key");
            let sealed = world.suite.encapsulate(&world.params, &scope, rest, &Secret32::new([*choice; 32]));
            let (bytes, secret) = sealed.expect("it seals");
            assert_eq!(world.suite.encapsulation_bytes(&scope), Some(bytes.len()));
            assert!(key.satisfies(&scope));
            assert_eq!(world.suite.decapsulate(&world.params, &key, &scope, rest, &bytes), Ok(secret));
            reached();
        }
        // What decodes.
        _ => refused_unless_genuine(&sealed.changed(rest)),
    }
});

fn small_policy(text: &[u8]) -> Option<Policy> {
    let policy: Policy = std::str::from_utf8(text).ok()?.parse().ok()?;
    (policy.leaf_cost() <= 40).then_some(policy)
}
