//! FABEO as smqtt-core has it: the suites that seal real traffic.

use smqtt_core::attribute::Versions;
use smqtt_core::crypto::{AeadKey, Secret32};
use smqtt_core::suite::{Master, Params, Scope, Suite, SuiteId, UserKey};
use smqtt_core::target::Target;

use super::{Instance, Mode, Scheme, Sizes, payload};

/// The epoch whose label every policy and key has.
pub const EPOCH: u64 = 7;

/// One of our suites.
pub struct Fabeo(SuiteId);

impl Fabeo {
    /// `fabeo-cp`.
    pub const CP: Self = Self(SuiteId::FabeoCp);

    /// `fabeo-kp`.
    pub const KP: Self = Self(SuiteId::FabeoKp);

    /// Both modes.
    pub const ALL: &'static [Self] = &[Self::CP, Self::KP];

    /// Which suite.
    pub fn id(&self) -> SuiteId {
        self.0
    }

    /// How many pairings its floor has.
    pub fn pairings(&self) -> usize {
        match self.mode() {
            Mode::CiphertextPolicy => 3,
            Mode::KeyPolicy => 2,
        }
    }

    /// A policy `{prefix}1 and … and {prefix}n` and the label of the epoch.
    pub fn with_prefix(&self, prefix: &str, attributes: usize) -> FabeoInstance {
        FabeoInstance::new(self.0, prefix, attributes)
    }
}

impl Scheme for Fabeo {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn mode(&self) -> Mode {
        // A suite of a third kind would be measured in its own way.
        match self.0 {
            SuiteId::FabeoKp => Mode::KeyPolicy,
            _ => Mode::CiphertextPolicy,
        }
    }

    fn protects(&self) -> bool {
        true
    }

    fn at(&self, attributes: usize) -> Box<dyn Instance> {
        Box::new(self.with_prefix("a", attributes))
    }
}

/// A suite set up for one policy.
pub struct FabeoInstance {
    suite: &'static dyn Suite,
    params: Params,
    master: Master,
    attributes: usize,
    grant: Scope,
    target: Target,
    key: UserKey,
    encapsulation: Vec<u8>,
    sealed: Vec<u8>,
    payload: Vec<u8>,
    calls: u64,
}

impl FabeoInstance {
    fn new(suite: SuiteId, prefix: &str, attributes: usize) -> Self {
        let (grant, target) = sides(suite, prefix, attributes).expect("names as policies take them");
        let suite = suite.suite();
        let (params, master) = suite.setup(&coins(0));
        let key = suite.keygen(&master, EPOCH, &grant, &coins(1)).expect("a grant of this suite");
        let mut instance = Self {
            suite,
            params,
            master,
            attributes,
            grant,
            target,
            key,
            encapsulation: Vec::new(),
            sealed: Vec::new(),
            payload: payload(),
            calls: 2,
        };
        instance.seal();
        instance
    }

    /// Coins that no call had before: a measurement is no place for chance.
    fn coins(&mut self) -> Secret32 {
        self.calls += 1;
        coins(self.calls)
    }

    fn encapsulated(&mut self) -> Secret32 {
        let coins = self.coins();
        let made = self.suite.encapsulate(&self.params, &self.scope(), b"", &coins);
        let (encapsulation, secret) = made.expect("parameters of this suite");
        self.encapsulation = encapsulation;
        secret
    }

    /// The formula, or the labels, of the target: made anew each time, as a header that is sealed or opened does.
    fn scope(&self) -> Scope {
        self.target.scope(&Versions::default(), EPOCH)
    }

    fn decapsulated(&self, key: &UserKey) -> Option<Secret32> {
        self.suite.decapsulate(&self.params, key, &self.scope(), b"", &self.encapsulation).ok()
    }

    /// Decapsulates with a key that is still bytes, and keeps nothing of it; whether there was a secret.
    pub fn decapsulate_with(&self, key: &[u8]) -> bool {
        UserKey::decode(key).is_ok_and(|key| self.decapsulated(&key).is_some())
    }

    /// Turns to other labels of the same number; key and encapsulation stay what they were until made anew.
    pub fn relabel(&mut self, prefix: &str) {
        let sides = sides(self.params.suite(), prefix, self.attributes);
        (self.grant, self.target) = sides.expect("names as policies take them");
    }

    /// What another process needs to decapsulate: parameters, key and encapsulation.
    pub fn exported(&self) -> [Vec<u8>; 3] {
        [self.params.encode(), self.key.encode().to_vec(), self.encapsulation.clone()]
    }

    /// Puts an instance together from what another process exported.
    pub fn imported(
        suite: SuiteId,
        prefix: &str,
        attributes: usize,
        [params, key, encapsulation]: [Vec<u8>; 3],
    ) -> Option<Self> {
        let params = Params::decode(&params).ok().filter(|params| params.suite() == suite)?;
        let (grant, target) = sides(suite, prefix, attributes)?;
        Some(Self {
            suite: suite.suite(),
            master: Master::new(&params, Secret32::new([0; 32])),
            params,
            attributes,
            grant,
            target,
            key: UserKey::decode(&key).ok()?,
            encapsulation,
            sealed: Vec::new(),
            payload: Vec::new(),
            calls: 0,
        })
    }

    /// Bytes of one encapsulation.
    pub fn encapsulation_bytes(&self) -> usize {
        self.encapsulation.len()
    }
}

/// The policy `{prefix}1 and … and {prefix}n` with the epoch's label, and what satisfies it: what a key is made for,
/// and what is encapsulated under.
fn sides(suite: SuiteId, prefix: &str, attributes: usize) -> Option<(Scope, Target)> {
    let (policy, labels) = targets(prefix, attributes)?;
    let (grant, target) = match suite {
        SuiteId::FabeoKp => (policy, labels),
        _ => (labels, policy),
    };
    Some((grant.scope(&Versions::default(), EPOCH), target))
}

/// The policy `{prefix}1 and … and {prefix}n`, and all of its attributes.
pub fn targets(prefix: &str, attributes: usize) -> Option<(Target, Target)> {
    let names: Vec<String> = (1..=attributes).map(|i| format!("{prefix}{i}")).collect();
    let policy = names.join(" and ").parse().ok()?;
    let labels = names.join(", ").parse().ok()?;
    Some((Target::Policy(policy), Target::Labels(labels)))
}

fn coins(n: u64) -> Secret32 {
    let mut coins = [0x5a; 32];
    coins[..8].copy_from_slice(&n.to_be_bytes());
    Secret32::new(coins)
}

/// Each secret seals one payload, so the nonce may be the same.
const NONCE: [u8; 12] = [0; 12];

impl Instance for FabeoInstance {
    fn setup(&mut self) {
        let coins = self.coins();
        (self.params, self.master) = self.suite.setup(&coins);
    }

    fn keygen(&mut self) {
        let coins = self.coins();
        self.key =
            self.suite.keygen(&self.master, EPOCH, &self.grant, &coins).expect("a grant of this suite");
    }

    fn encapsulate(&mut self) {
        self.encapsulated();
    }

    fn decapsulate(&mut self) -> bool {
        self.decapsulated(&self.key).is_some()
    }

    fn seal(&mut self) {
        let secret = self.encapsulated();
        let mut sealed = Vec::with_capacity(self.payload.len() + 16);
        sealed.extend_from_slice(&self.payload);
        AeadKey::new(secret.expose()).seal(NONCE, &self.encapsulation, &mut sealed, 0);
        self.sealed = sealed;
    }

    fn open(&mut self) -> bool {
        let Some(secret) = self.decapsulated(&self.key) else { return false };
        let plain = AeadKey::new(secret.expose()).open(NONCE, &self.encapsulation, &self.sealed);
        plain.is_some_and(|plain| plain == self.payload)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            params: self.params.encode().len(),
            key: self.key.encode().len(),
            encapsulation: self.encapsulation.len(),
        }
    }
}
