//! The API server on behalf of strangers: asked rarely, and not held against a sender when it does not answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest time for a read.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(5);

/// How long after a failed read a refusal may be our own fault.
const OUTAGE: Duration = Duration::from_secs(3);

/// Whether the API server failed to answer a moment ago.
#[derive(Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Takes note of a read that took too long.
    pub(super) fn begin(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Takes note of a read that failed, if it may go well the next time: a denied one will not.
    pub(super) fn note(&self, error: &kube::Error, now: Instant) {
        let lasting = matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429);
        if !lasting {
            self.begin(now);
        }
    }

    /// Whether the keys and names that are known may be fewer than there are.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| now.duration_since(at) < OUTAGE)
    }
}

/// So many reads at once for names that nobody knows, then one each [`INTERVAL`].
const BURST: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(500);

/// The reads that strangers may cause, whatever their pace.
#[derive(Default)]
pub(super) struct Allowance(Mutex<Option<Instant>>);

impl Allowance {
    /// Whether one more read is allowed now.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut paid_until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid_until.map_or(now, |until| until.max(now));
        let allowed = from < now + INTERVAL * BURST;
        if allowed {
            *paid_until = Some(from + INTERVAL);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cause_a_burst_of_reads_and_then_one_each_interval() {
        let (allowance, start) = (Allowance::default(), Instant::now());
        let taken = |at| (0..100).filter(|_| allowance.take(start + INTERVAL * at)).count();
        assert_eq!(taken(0), BURST as usize);
        assert_eq!(taken(3), 3);
        assert_eq!(taken(1000), BURST as usize, "what was not taken is not saved up");
    }

    #[test]
    fn a_denied_read_is_no_outage_and_one_that_failed_is_for_a_while() {
        let status = |code| kube::Error::Api(kube::core::Status::failure("no", "No").with_code(code).boxed());
        let now = Instant::now();
        for code in [400, 401, 403, 404] {
            let outage = Outage::default();
            outage.note(&status(code), now);
            assert!(!outage.is_recent(now), "{code}");
        }
        for error in [status(429), status(500), status(503), kube::Error::LinesCodecMaxLineLengthExceeded] {
            let outage = Outage::default();
            outage.note(&error, now);
            assert!(outage.is_recent(now) && !outage.is_recent(now + OUTAGE), "{error}");
        }
    }
}
