//! How often strangers may make us ask the API server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many look-ups at once, then one each [`INTERVAL`].
const BURST: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(500);

/// The look-ups of names that nobody knows, whatever the pace at which they are tried.
#[derive(Default)]
pub(super) struct Allowance {
    /// Until when those that were made are paid for.
    paid: Mutex<Option<Instant>>,
}

impl Allowance {
    /// Whether one more is allowed now.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.map_or(now, |until| until.max(now));
        let allowed = from < now + INTERVAL * BURST;
        if allowed {
            *paid = Some(from + INTERVAL);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cause_a_burst_of_look_ups_and_then_one_each_interval() {
        let (allowance, start) = (Allowance::default(), Instant::now());
        let taken = |at| (0..100).filter(|_| allowance.take(start + INTERVAL * at)).count();
        assert_eq!(taken(0), BURST as usize);
        assert_eq!(taken(3), 3);
        assert_eq!(taken(1000), BURST as usize, "what was not taken is not saved up");
    }
}
