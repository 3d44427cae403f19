//! For how long each agent has been silent, by this process's own clock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Remembers when each heartbeat was last seen to change.
///
/// The heartbeat's own time is never compared with ours: clocks of nodes differ.
#[derive(Debug, Default)]
pub(super) struct Heartbeats(Mutex<HashMap<Place, Beat>>);

/// Namespace and name of a ConfigMap.
type Place = (String, String);
/// A heartbeat, and when it was first seen.
type Beat = (Option<String>, Instant);

impl Heartbeats {
    /// Time since the heartbeat in this ConfigMap was seen to change.
    pub(super) fn silent_for(&self, namespace: &str, map: &str, heartbeat: Option<&str>) -> Duration {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known
            .entry((namespace.to_owned(), map.to_owned()))
            .or_insert_with(|| (heartbeat.map(str::to_owned), now));
        if entry.0.as_deref() != heartbeat {
            *entry = (heartbeat.map(str::to_owned), now);
        }
        now.duration_since(entry.1)
    }

    /// Forgets a ConfigMap that is gone.
    pub(super) fn forget(&self, namespace: &str, map: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.to_owned(), map.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_with_another_heartbeat() {
        let beats = Heartbeats::default();
        assert!(beats.silent_for("a", "x", Some("1")) < Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(20));
        assert!(beats.silent_for("a", "x", Some("1")) >= Duration::from_millis(20));
        assert!(beats.silent_for("b", "x", Some("1")) < Duration::from_millis(20));
        assert!(beats.silent_for("a", "x", Some("2")) < Duration::from_millis(20));
    }
}
