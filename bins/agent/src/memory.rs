//! Memory that a sync needed goes back to the machine when the sync is over.
//!
//! An agent works for seconds and waits for days. glibc keeps what was freed for the next allocation, for each thread
//! apart; beside a gateway that needs its memory, what is kept for days would be a third of the agent.
//!
//! The one module of this program with `unsafe`: both calls take numbers and may be made at any time.

use std::time::Duration;

use stoker_k8s::agent::report::Saying;
use tokio::sync::watch;

/// A sync reports several times; after this long without a word it is over.
const SETTLED: Duration = Duration::from_secs(2);
/// A look for drift that finds nothing reports nothing: what it needed goes back with the next turn of this clock.
const PERIOD: Duration = Duration::from_secs(60);

/// Gives memory back after each change of what is reported, and from time to time, until nothing is reported any more.
pub(crate) async fn give_back_after(mut saying: watch::Receiver<Saying>) {
    loop {
        let mut word = tokio::time::timeout(PERIOD, saying.changed()).await;
        while let Ok(changed) = word {
            if changed.is_err() {
                return;
            }
            word = tokio::time::timeout(SETTLED, saying.changed()).await;
        }
        give_back();
    }
}

/// One heap for all threads: there is hardly ever more than one at work.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn set_up() {
    // SAFETY: mallopt(3) sets a number; no other thread runs yet.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: malloc_trim(3) is safe to call from any thread (MT-Safe); it unmaps pages that hold no allocation.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
