//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pauses that double from `first` to `max`, each shortened by up to a half at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for Backoff {
    /// From a quarter of a second to ten seconds: a gateway takes most of a minute to start, and is wanted at once
    /// when it is up.
    fn default() -> Self {
        Self { first: Duration::from_millis(250), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The pause after attempt `number` (from 0); `chance` in 0..=1 decides the jitter.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stoker_ignition::confirm::Backoff;
    /// let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(5) };
    /// let pauses: Vec<u64> = (0..5).map(|n| backoff.delay(n, 1.0).as_secs()).collect();
    /// assert_eq!(pauses, [1, 2, 4, 5, 5]);
    /// assert_eq!(backoff.delay(1, 0.0), Duration::from_secs(1));
    /// ```
    #[must_use]
    pub fn delay(&self, number: u32, chance: f64) -> Duration {
        let factor = 1_u32.checked_shl(number.min(31)).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.max);
        whole.mul_f64(0.5 + 0.5 * if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 1.0 })
    }
}

/// A number in 0..1 that differs from call to call, so that gateways of one plant do not move in step.
pub(super) fn chance() -> f64 {
    let bits = RandomState::new().hash_one(0_u8);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_stay_between_half_the_first_and_the_longest(
            number: u32, chance in -1.0..2.0f64, first in 1u64..10_000, more in 0u64..100_000,
        ) {
            let backoff = Backoff { first: Duration::from_millis(first), max: Duration::from_millis(first + more) };
            let pause = backoff.delay(number, chance);
            prop_assert!(pause >= backoff.first / 2 && pause <= backoff.max, "{pause:?}");
            prop_assert!(backoff.delay(number.saturating_add(1), chance) >= pause);
        }
    }

    #[test]
    fn chances_differ() {
        let all: Vec<f64> = (0..20).map(|_| chance()).collect();
        assert!(all.iter().all(|c| (0.0..1.0).contains(c)));
        assert!(all.windows(2).any(|w| w[0] != w[1]));
    }
}
