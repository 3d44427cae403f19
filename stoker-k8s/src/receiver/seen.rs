//! Deliveries that were handled already.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::source::Origin;
use crate::roster::StokerView;

/// Most deliveries remembered; the oldest is forgotten first.
const REMEMBERED: usize = 4096;

/// A set with a bounded memory.
#[derive(Default)]
pub(super) struct Seen(Mutex<Content>);

#[derive(Default)]
struct Content {
    order: VecDeque<blake3::Hash>,
    all: HashSet<blake3::Hash>,
}

/// What makes a delivery the same; `None` when its sender gives it no name.
pub(super) fn key(stoker: &StokerView, origin: &Origin) -> Option<blake3::Hash> {
    let delivery = origin.delivery.as_ref()?;
    let parts = [&stoker.namespace, &stoker.name, &stoker.uid, origin.source.as_str(), delivery];
    Some(blake3::hash(parts.join("\0").as_bytes()))
}

impl Seen {
    /// Remembers `key`; false when it is known.
    pub(super) fn begin(&self, key: &blake3::Hash) -> bool {
        let mut content = self.lock();
        if !content.all.insert(*key) {
            return false;
        }
        content.order.push_back(*key);
        if content.order.len() > REMEMBERED
            && let Some(oldest) = content.order.pop_front()
        {
            content.all.remove(&oldest);
        }
        true
    }

    /// Forgets `key`: it could not be handled, and may come again.
    pub(super) fn forget(&self, key: &blake3::Hash) {
        let mut content = self.lock();
        if content.all.remove(key) {
            content.order.retain(|other| other != key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_new_once_and_memory_is_bounded() {
        let seen = Seen::default();
        let key = |n: usize| blake3::hash(&n.to_le_bytes());
        assert!(seen.begin(&key(0)) && !seen.begin(&key(0)));
        seen.forget(&key(0));
        assert!(seen.begin(&key(0)), "what failed may come again");
        for n in 1..=REMEMBERED {
            assert!(seen.begin(&key(n)));
        }
        assert!(seen.begin(&key(0)), "the oldest was forgotten");
        assert!(!seen.begin(&key(REMEMBERED)));
        let content = seen.lock();
        assert_eq!((content.order.len(), content.all.len()), (REMEMBERED, REMEMBERED));
    }
}
