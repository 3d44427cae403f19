//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Pauses that double, with jitter: a site's gateways that failed together do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    due: Instant,
}

impl Backoff {
    pub(super) fn new((first, longest): (Duration, Duration)) -> Self {
        Self { first, longest, next: first, due: Instant::now() }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// It worked, or something else is wanted: at once.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
        self.due = Instant::now();
    }

    /// It failed: after a pause.
    pub(super) fn again(&mut self) {
        // A hasher's random seed is randomness enough to spread a herd.
        let part = RandomState::new().hash_one(0) % 1000;
        let jittered = self.next.mul_f64(0.75 + part as f64 / 2000.0);
        self.due = Instant::now() + jittered;
        self.next = (self.next * 2).min(self.longest);
    }

    /// At a moment of the caller's choice.
    pub(super) const fn at(&mut self, due: Instant) {
        self.due = due;
    }
}
