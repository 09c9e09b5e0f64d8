//! What the rules say of a device, a topic and a message. Publishing, delivering, explaining and reviewing all ask here.

use std::sync::atomic::{AtomicU64, Ordering};

use smqtt_core::bundle::{Bundle, Refusal};
use smqtt_core::header::Header;
use smqtt_core::identity::DeviceId;
use smqtt_core::policy::Policy;
use smqtt_core::rule::{Mode, RULES_MAX, Rule};
use smqtt_core::topic::Filter;

use super::hook::SecurePublish;
use super::refused::Refused;
use super::view::Ruled;
use crate::mqtt::ReasonCode;

/// A message's rule, as a place among a bundle's rules.
pub(super) type Place = Option<usize>;

/// Under which bundle a message was last found good, and which rule that was by: mostly nothing changed since.
#[derive(Debug, Default)]
pub(super) struct Judged(AtomicU64);

/// Bits that a place takes; all ones for none.
const PLACE_BITS: u32 = 11;
const NO_PLACE: u64 = (1 << PLACE_BITS) - 1;
const _: () = assert!(RULES_MAX < NO_PLACE as usize);
/// Set if the rule asks something of who gets the message.
const ASKS: u64 = 1 << PLACE_BITS;
/// Set if the rule closes when the authority is away too long.
const CLOSES: u64 = ASKS << 1;
const NUMBER_SHIFT: u32 = PLACE_BITS + 2;

impl Judged {
    pub(super) fn under(bundle: &Bundle, place: Place) -> Self {
        let judged = Self::default();
        judged.good(bundle, place);
        judged
    }

    pub(super) fn good(&self, bundle: &Bundle, place: Place) {
        let rule = rule_at(bundle, place);
        let asks = rule.is_some_and(|rule| rule.subscribers.is_some());
        let closes = rule.is_some_and(|rule| rule.mode == Mode::Required);
        let place = place.map_or(NO_PLACE, |place| place as u64);
        let flags = if asks { ASKS } else { 0 } | if closes { CLOSES } else { 0 };
        self.0.store(mark(bundle.number) | flags | place, Ordering::Relaxed);
    }

    /// By which rule it was good under this very bundle.
    pub(super) fn get(&self, bundle: &Bundle) -> Option<Place> {
        let judged = self.0.load(Ordering::Relaxed);
        let place = judged & NO_PLACE;
        is_marked(judged, bundle.number).then(|| (place != NO_PLACE).then_some(place as usize))
    }

    /// Whether it was good under the bundle of this number, and everybody may have it; `closed`: but what closes.
    pub(super) fn is_for_all(&self, number: u64, closed: bool) -> bool {
        let judged = self.0.load(Ordering::Relaxed);
        let asks = if closed { ASKS | CLOSES } else { ASKS };
        is_marked(judged, number) && judged & asks == 0
    }
}

impl Clone for Judged {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Never 0 in the higher bits, which is what a message has that nobody judged.
fn mark(number: u64) -> u64 {
    number.wrapping_add(1) << NUMBER_SHIFT
}

fn is_marked(judged: u64, number: u64) -> bool {
    judged >> NUMBER_SHIFT == mark(number) >> NUMBER_SHIFT
}

/// The rule there.
pub(super) fn rule_at(bundle: &Bundle, place: Place) -> Option<&Rule> {
    place.and_then(|place| bundle.rules.get(place))
}

/// Says why a header does not agree with a bundle.
pub(super) fn disagrees(refusal: &Refusal, rule: Option<&Rule>) -> Refused {
    let refused = Refused::new(refusal.code(), ReasonCode::PayloadFormatInvalid, refusal.to_string());
    match rule {
        Some(rule) => refused.by(rule.filter.as_str()),
        None => refused,
    }
}

/// A plain message where the rule wants it sealed.
pub(super) fn plaintext(rule: &Rule) -> Refused {
    let text = format!("the rule `{}` requires messages to be sealed", rule.filter);
    Refused::new("plaintext", ReasonCode::PayloadFormatInvalid, text).by(rule.filter.as_str())
}

/// What a message is, as far as rules care.
pub(super) enum Form<'a> {
    /// Sealed under this header.
    Sealed(&'a Header),
    /// Not sealed.
    Plain,
    /// Empty and to be retained, by a device: it takes the kept message away and says nothing.
    Clears,
}

impl SecurePublish {
    /// Whether a device's attributes satisfy `policy`; those of nobody satisfy nothing.
    pub(super) fn satisfies(&self, device: Option<DeviceId>, policy: &Option<Policy>) -> bool {
        match policy {
            None => true,
            Some(policy) => device
                .and_then(|id| self.view.peer(id))
                .is_some_and(|peer| peer.active && policy.satisfied_by(&peer.attributes)),
        }
    }

    /// Whether a rule lets a device publish now.
    pub(super) fn may_publish(&self, device: Option<DeviceId>, rule: Option<&Rule>) -> Result<(), Refused> {
        match rule {
            Some(rule) if !self.satisfies(device, &rule.publishers) => {
                Err(Refused::not_allowed(rule, "publish"))
            }
            _ => self.check_open(rule),
        }
    }

    /// Whether the topics of a rule are not closed, the authority having been away for too long.
    pub(super) fn check_open(&self, rule: Option<&Rule>) -> Result<(), Refused> {
        match rule {
            Some(rule) if rule.mode == Mode::Required && self.is_closed() => {
                let refused = Refused::stale(ReasonCode::ImplementationSpecificError);
                Err(refused.by(rule.filter.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the rules let a device subscribe; `shared`: as a member of a group.
    pub(super) fn may_subscribe(
        &self,
        device: Option<DeviceId>,
        filter: &Filter,
        shared: bool,
    ) -> Result<(), Refused> {
        let bundle = self.view.bundle();
        if device.is_some_and(|device| bundle.is_revoked(device)) {
            return Err(Refused::revoked());
        }
        let covering = bundle.rules.iter().filter(|rule| rule.filter.covers(filter));
        let nearest = covering.min_by_key(|rule| rule.filter.precedence());
        // Of a wildcard's messages those that the client may not have are left out when they are delivered; but what a
        // member of a group may not have would then reach nobody.
        let nearer = |rule: &Rule| nearest.is_none_or(|n| rule.filter.precedence() < n.filter.precedence());
        let within = |rule: &&Rule| shared && rule.filter.overlaps(filter) && nearer(rule);
        let mut asked = nearest.into_iter().chain(bundle.rules.iter().filter(within));
        if let Some(rule) = asked.find(|rule| !self.satisfies(device, &rule.subscribers)) {
            return Err(Refused::not_allowed(rule, "subscribe"));
        }
        match self.required_within(&bundle, filter) {
            Some(rule) if self.is_closed() => {
                Err(Refused::stale(ReasonCode::ImplementationSpecificError).by(rule.filter.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// A rule that requires sealing on some topic of this filter.
    pub(super) fn required_within<'b>(&self, bundle: &'b Bundle, filter: &Filter) -> Option<&'b Rule> {
        let required = |rule: &&Rule| rule.mode == Mode::Required && rule.filter.overlaps(filter);
        bundle.rules.iter().find(required)
    }

    /// Whether a message that was taken under an earlier bundle is still what the rules say: its publisher, its form, its
    /// policy or labels. Epoch, versions and times were for when it was sealed. Gives the place of its rule.
    pub(super) fn judge(
        &self,
        bundle: &Ruled,
        topic: &str,
        publisher: Option<DeviceId>,
        form: &Form<'_>,
    ) -> Result<Place, Refused> {
        let place = bundle.place_of(topic);
        let Some(rule) = rule_at(bundle, place) else { return Ok(place) };
        if !self.satisfied(publisher, &rule.publishers) {
            let text = format!("the rule `{}` does not let its publisher publish", rule.filter);
            let refused = Refused::new("not-allowed", ReasonCode::NotAuthorized, text);
            return Err(refused.by(rule.filter.as_str()));
        }
        match form {
            Form::Clears => {}
            Form::Plain if rule.mode == Mode::Required => return Err(plaintext(rule)),
            Form::Sealed(header) if rule.mode != Mode::Warn => {
                bundle.check_topic(header, topic).map_err(|refusal| disagrees(&refusal, Some(rule)))?;
            }
            Form::Plain | Form::Sealed(_) => {}
        }
        Ok(place)
    }

    /// Whether a device's attributes satisfied `policy` while it was a device: a revoked one's messages are for readers to
    /// refuse. Where there is no directory to ask, what was taken stays.
    fn satisfied(&self, device: Option<DeviceId>, policy: &Option<Policy>) -> bool {
        let Some(policy) = policy else { return true };
        match device.map(|id| self.view.peer(id)) {
            Some(Some(peer)) => policy.satisfied_by(&peer.attributes),
            Some(None) => !self.view.has_directory(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use smqtt_core::attribute::Versions;
    use smqtt_core::bundle::Epoch;
    use smqtt_core::identity::TenantId;

    use super::*;

    fn bundle(number: u64) -> Bundle {
        Bundle {
            tenant: TenantId([0; 8]),
            number,
            issued: 0,
            expires: 0,
            epoch: Epoch { number: 0, begins: 0, ends: 0 },
            grace: 0,
            rules: Vec::new(),
            versions: Versions::default(),
            revoked: Vec::new(),
            params: Vec::new(),
            lineage: None,
        }
    }

    #[test]
    fn a_judgement_holds_under_its_bundle_alone() {
        let judged = Judged::default();
        for number in [0, 1, 2] {
            assert_eq!(judged.get(&bundle(number)), None);
        }
        for place in [None, Some(0), Some(RULES_MAX - 1)] {
            judged.good(&bundle(1), place);
            assert_eq!(judged.get(&bundle(1)), Some(place));
            assert_eq!(judged.get(&bundle(0)), None);
            assert_eq!(judged.get(&bundle(2)), None);
            assert!(judged.is_for_all(1, true) && !judged.is_for_all(0, false));
        }
    }

    #[test]
    fn a_judgement_knows_whether_its_rule_asks_or_closes() {
        let policy = || Some("role=nurse".parse().unwrap());
        let nurses = || Some("role=nurse".parse().unwrap());
        let rule = |mode, policy, subscribers| Rule {
            filter: "a/#".parse().unwrap(),
            mode,
            policy,
            labels: None,
            publishers: None,
            subscribers,
        };
        for (rule, open, closed) in [
            (rule(Mode::Open, None, None), true, true),
            (rule(Mode::Required, policy(), None), true, false),
            (rule(Mode::Open, None, nurses()), false, false),
            (rule(Mode::Required, policy(), nurses()), false, false),
        ] {
            let judged = Judged::under(&Bundle { rules: vec![rule], ..bundle(7) }, Some(0));
            assert_eq!((judged.is_for_all(7, false), judged.is_for_all(7, true)), (open, closed));
            assert_eq!(judged.get(&bundle(7)), Some(Some(0)));
            assert!(!judged.is_for_all(8, false));
        }
    }
}
