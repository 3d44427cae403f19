//! When the gateway beside the agent may start: a pure decision.
//!
//! Availability of the plant beats freshness of the configuration. A gateway that was synced once always starts again,
//! whatever is broken around it; one that never was waits for its first configuration, as long as the policy says.

use std::time::Duration;

use crate::api::OnTimeout;

/// How long a gateway that was synced before waits for the newest commit while nothing fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the decision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartFacts {
    /// Files went live, or were found to be right, since this agent started.
    pub applied: bool,
    /// The data directory was synced by an earlier agent.
    pub synced_before: bool,
    /// The last attempt failed, or something (the API server, the repository) is out of reach.
    pub failing: bool,
    /// Somebody decided that nothing is to be written now: paused, held, no valid profile.
    pub held: bool,
    /// Since the agent started.
    pub elapsed: Duration,
    /// `spec.agent.startup.timeout`.
    pub timeout: Duration,
    /// `spec.agent.startup.onTimeout`.
    pub on_timeout: OnTimeout,
}

/// Whether the gateway may start, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It may.
    Go(&'static str),
    /// Not yet.
    Wait(&'static str),
}

/// Decides.
#[must_use]
pub fn may_start(facts: &StartFacts) -> Start {
    if facts.applied {
        return Start::Go("the configuration is in place");
    }
    if facts.held {
        return Start::Go("nothing is to be written now; the gateway starts on what it has");
    }
    if facts.synced_before {
        if facts.failing {
            return Start::Go(
                "the newest commit cannot be had now; the gateway starts on its last good configuration",
            );
        }
        return if facts.elapsed < PATIENCE.min(facts.timeout) {
            Start::Wait("the newest commit is being fetched")
        } else {
            Start::Go("the newest commit takes too long; the gateway starts on its last good configuration")
        };
    }
    match facts.on_timeout {
        _ if facts.elapsed < facts.timeout => Start::Wait("the first configuration is being fetched"),
        OnTimeout::UseLastGood => Start::Go("there is no configuration yet; the startup timeout has passed"),
        OnTimeout::Block => Start::Wait("there is no configuration yet, and onTimeout is Block"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = StartFacts> {
        let flags = [false, true];
        let policies = [OnTimeout::UseLastGood, OnTimeout::Block];
        let times = [0, 29, 30, 299, 300, 100_000];
        flags.into_iter().flat_map(move |applied| {
            flags.into_iter().flat_map(move |synced_before| {
                flags.into_iter().flat_map(move |failing| {
                    flags.into_iter().flat_map(move |held| {
                        policies.into_iter().flat_map(move |on_timeout| {
                            times.into_iter().map(move |seconds| StartFacts {
                                applied,
                                synced_before,
                                failing,
                                held,
                                elapsed: Duration::from_secs(seconds),
                                timeout: Duration::from_secs(300),
                                on_timeout,
                            })
                        })
                    })
                })
            })
        })
    }

    /// A16, over all combinations.
    #[test]
    fn a_gateway_that_was_synced_before_starts_within_a_bounded_time() {
        for facts in all() {
            let go = matches!(may_start(&facts), Start::Go(_));
            if facts.synced_before && (facts.elapsed >= PATIENCE || facts.failing) {
                assert!(go, "{facts:?}");
            }
            if facts.applied || facts.held {
                assert!(go, "{facts:?}");
            }
            if !facts.applied && !facts.held && !facts.synced_before {
                let late = facts.elapsed >= facts.timeout && facts.on_timeout == OnTimeout::UseLastGood;
                assert_eq!(go, late, "{facts:?}");
            }
        }
    }
}
