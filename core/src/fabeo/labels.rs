//! The points of labels, hashed once, with tables for those that come again and again.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::attribute::Label;
use crate::curve::{Base, G1};
use crate::suite::SuiteId;
use crate::tables::{LABELS_MAX, Profile, SMALL_LABELS_MAX, profile};

type Points = BTreeMap<(SuiteId, Label), Arc<Base>>;

static LABELS: LazyLock<Mutex<Generations>> = LazyLock::new(Mutex::default);

/// The point of each label, by `hash` where it is not known.
pub(super) fn points<'l>(
    suite: SuiteId,
    labels: impl Iterator<Item = &'l Label>,
    hash: impl Fn(&Label) -> G1,
) -> Vec<Arc<Base>> {
    let labels: Vec<(SuiteId, Label)> = labels.map(|label| (suite, label.clone())).collect();
    // A thread that panicked left maps behind that are as good as ever.
    let lock = || LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    let half = match profile() {
        Profile::Standard => LABELS_MAX / 2,
        Profile::Small => SMALL_LABELS_MAX / 2,
    };
    let known: Vec<Option<Arc<Base>>> = {
        let mut generations = lock();
        labels.iter().map(|label| generations.get(label, half)).collect()
    };
    // Hashing takes its time, so nobody waits for it.
    let fresh = |label: (SuiteId, Label)| {
        let point = hash(&label.1).to_affine().expect("nobody knows a label that hashes to the identity");
        let base = Arc::new(Base::new(point));
        lock().insert(label, base.clone(), half);
        base
    };
    labels.into_iter().zip(known).map(|(label, known)| known.unwrap_or_else(|| fresh(label))).collect()
}

/// What was used lately: when the young half is full it becomes the old one, and what the old one held is
/// forgotten. A label that is used moves to the young one.
#[derive(Default)]
struct Generations {
    young: Points,
    old: Points,
}

impl Generations {
    fn get(&mut self, label: &(SuiteId, Label), half: usize) -> Option<Arc<Base>> {
        if let Some(base) = self.young.get(label) {
            return Some(base.clone());
        }
        let base = self.old.remove(label)?;
        self.insert(label.clone(), base.clone(), half);
        Some(base)
    }

    fn insert(&mut self, label: (SuiteId, Label), base: Arc<Base>, half: usize) {
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(label, base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(n: usize) -> (SuiteId, Label) {
        (SuiteId::FabeoCp, Label::epoch(n as u64))
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let base = Arc::new(Base::new(G1::generator().to_affine().unwrap()));
        let mut generations = Generations::default();
        for n in 0..100 {
            generations.insert(label(n), base.clone(), 8);
            assert!(generations.get(&label(0), 8).is_some(), "used all the time");
            assert!(generations.young.len() + generations.old.len() <= 16);
        }
        assert!(generations.get(&label(50), 8).is_none(), "not used for long");
    }
}
