//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Pauses that double, with jitter: a site's gateways that failed together do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    /// `None` is at once: a moment taken now would lie after the one that the caller compares it with.
    due: Option<Instant>,
}

impl Backoff {
    pub(super) fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, next: first, due: None }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    pub(super) fn due(&self) -> Instant {
        self.due.unwrap_or_else(Instant::now)
    }

    /// It worked, or something else is wanted: at once.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
        self.due = None;
    }

    /// It failed: after a pause.
    pub(super) fn again(&mut self) {
        // A hasher's random seed is randomness enough to spread a herd.
        let part = RandomState::new().hash_one(0) % 1000;
        let jittered = self.next.mul_f64(0.75 + part as f64 / 2000.0);
        self.due = Some(Instant::now() + jittered);
        self.next = (self.next * 2).min(self.longest);
    }

    /// At a moment of the caller's choice.
    pub(super) const fn at(&mut self, due: Instant) {
        self.due = Some(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_due_at_the_moment_that_was_taken_before_it() {
        let mut backoff = Backoff::new((Duration::from_secs(60), Duration::from_secs(60)));
        let now = Instant::now();
        backoff.again();
        assert!(!backoff.is_due(now));
        backoff.reset();
        assert!(backoff.is_due(now));
    }
}
