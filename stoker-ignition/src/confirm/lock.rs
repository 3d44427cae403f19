//! The scan lock, for the moment in which files change.

use std::time::{Duration, Instant};

use stoker_core::chain;
use tokio::runtime::Handle;

use crate::client::{GatewayClient, GatewayError, LockAnswer};
use crate::rules::{ScanKind, ScanNeed};

/// The longest that a gateway is asked to wait for the lock in one request.
const MAX_ACQUIRE: Duration = Duration::from_secs(10);
/// The pause after a refusal that came at once.
const BETWEEN_REFUSALS: Duration = Duration::from_millis(100);

/// How to lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOptions {
    /// How long to wait while somebody else holds a lock, for all halves together. Default 5 s.
    pub budget: Duration,
    /// How long to hold it: it must cover the moment of renaming, tens of milliseconds. Default 30 s.
    pub hold: Duration,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { budget: Duration::from_secs(5), hold: Duration::from_secs(30) }
    }
}

/// What came of asking for scan locks.
#[derive(Debug)]
pub enum LockOutcome {
    /// They are held: change the files, then scan.
    Held(HeldLocks),
    /// There is no lock, and none is needed or to be had: change the files.
    Without(NoLock),
    /// Somebody else changes files of this half right now: do not write.
    Busy(ScanKind),
}

/// Why there is no lock.
#[derive(Debug)]
#[non_exhaustive]
pub enum NoLock {
    /// No half is scanned afterwards.
    NothingToScan,
    /// This gateway has no scan lock.
    NoRoute,
    /// The gateway is down, starting, or does not let us in: it reads nothing that a lock could keep from it, or
    /// would not give one.
    Gateway(GatewayError),
}

/// Scan locks that are held. They end with the scan that follows, or by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLocks {
    kinds: Vec<ScanKind>,
    until: Instant,
}

impl HeldLocks {
    /// The halves whose lock is held, config first.
    #[must_use]
    pub fn kinds(&self) -> &[ScanKind] {
        &self.kinds
    }

    /// How long the first of them will still be held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Gives the locks back unused, when no file was changed after all.
    ///
    /// The only way to do so is a scan. It is safe: while we held the lock nobody else was half-way through a change.
    /// A gateway that does not take it lets the lock expire.
    pub async fn give_back(self, client: &GatewayClient) {
        for kind in self.kinds {
            if let Err(error) = client.scan(kind).await {
                tracing::debug!(%kind, error = %chain(&error), "scan lock left to expire");
            }
        }
    }
}

/// Takes the scan lock of each half in `need`, config first.
///
/// Never fails: what stands in the way of a lock does not stand in the way of the files, except somebody else's lock.
/// When the second lock is busy, the first one is given back.
pub async fn lock(client: &GatewayClient, need: ScanNeed, options: &LockOptions) -> LockOutcome {
    if need.is_empty() {
        return LockOutcome::Without(NoLock::NothingToScan);
    }
    let deadline = Instant::now() + options.budget;
    let mut held = HeldLocks { kinds: Vec::new(), until: Instant::now() + options.hold };
    for kind in need.kinds() {
        let asked = Instant::now();
        match lock_one(client, kind, options.hold, deadline).await {
            Ok(LockAnswer::Held(_)) => {
                if held.kinds.is_empty() {
                    // Counted from before the request: rather too short than too long.
                    held.until = asked + options.hold;
                }
                held.kinds.push(kind);
            }
            Ok(LockAnswer::Busy) => {
                held.give_back(client).await;
                return LockOutcome::Busy(kind);
            }
            Ok(LockAnswer::NoRoute) if held.kinds.is_empty() => return LockOutcome::Without(NoLock::NoRoute),
            Err(error) if held.kinds.is_empty() => return LockOutcome::Without(NoLock::Gateway(error)),
            Ok(LockAnswer::NoRoute) => {}
            Err(error) => tracing::debug!(%kind, error = %chain(&error), "no scan lock"),
        }
    }
    LockOutcome::Held(held)
}

async fn lock_one(
    client: &GatewayClient,
    kind: ScanKind,
    hold: Duration,
    deadline: Instant,
) -> Result<LockAnswer, GatewayError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Whole seconds are sent, rounded up: round down here to stay within the budget.
        let acquire = Duration::from_secs(left.min(MAX_ACQUIRE).as_secs());
        let answer = client.scan_lock(kind, acquire, hold).await?;
        if answer != LockAnswer::Busy || Instant::now() + BETWEEN_REFUSALS > deadline {
            return Ok(answer);
        }
        tokio::time::sleep(BETWEEN_REFUSALS).await;
    }
}

/// The scan lock for callers that are not asynchronous, such as an engine in a blocking task.
#[derive(Debug, Clone)]
pub struct BlockingLock {
    client: GatewayClient,
    runtime: Handle,
    options: LockOptions,
}

impl BlockingLock {
    /// Locks through `client` on `runtime`.
    #[must_use]
    pub const fn new(client: GatewayClient, runtime: Handle, options: LockOptions) -> Self {
        Self { client, runtime, options }
    }

    /// As [`lock`].
    ///
    /// Call it from a thread that runs no asynchronous task, such as one of `spawn_blocking`; the runtime refuses to
    /// block any other.
    #[must_use]
    pub fn lock(&self, need: ScanNeed) -> LockOutcome {
        self.runtime.block_on(lock(&self.client, need, &self.options))
    }

    /// As [`HeldLocks::give_back`], from the same kind of thread.
    pub fn give_back(&self, held: HeldLocks) {
        self.runtime.block_on(held.give_back(&self.client));
    }
}
