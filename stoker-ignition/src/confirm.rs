//! From "the files are there" to "the gateway says it loaded them".
//!
//! ```text
//!        lock ─▶ (files change) ─▶ is it up? ─▶ scan config ─▶ scan projects ─▶ verify ─▶ Verdict
//!          │                          │              │                             │
//!          └ no lock to be had:       └ NotReady:    └ read the status, POST, poll └ projects, resources,
//!            go on without              try again      until it moved                log lines since
//! ```
//!
//! A scan's 200 is a receipt: what counts is a later status in which nothing runs and the timestamp has moved. A
//! gateway that starts reads everything by itself; it is never asked to scan before it is up.
//!
//! ```no_run
//! # async fn example(gateway: stoker_ignition::client::GatewayClient) {
//! use stoker_core::RelPathBuf;
//! use stoker_ignition::confirm::{ConfirmOptions, Verdict, Work, confirm};
//! use stoker_ignition::rules::Touched;
//!
//! let written = RelPathBuf::parse("projects/line/project.json").unwrap();
//! let work = Work::of(Touched::of_written([written.as_path()]));
//! match confirm(&gateway, &work, &ConfirmOptions::default()).await {
//!     Ok(confirmation) if confirmation.verdict() == Verdict::Confirmed => println!("live"),
//!     Ok(confirmation) => println!("{}", confirmation.summary()),
//!     Err(not_ready) => println!("later: {not_ready}"),
//! }
//! # }
//! ```

mod backoff;
mod lock;
mod scan;
mod verify;

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, Instant};

use stoker_core::{Category, Fault, Retry};

pub use backoff::Backoff;
pub use lock::{BlockingLock, HeldLocks, LockOptions, LockOutcome, NoLock, lock};
pub use scan::{ScanOutcome, ScanReport, Skip, Unconfirmed};
pub use verify::{Problem, Subject, Unverified, Verification};

use scan::Looks;

use crate::client::{GatewayClient, GatewayError, Phase};
use crate::rules::{ScanKind, ScanNeed, Touched};

/// What a gateway is to load, and what must be there afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// The halves to scan.
    pub need: ScanNeed,
    /// What changed: resources that must be loaded, and what log lines are about.
    pub touched: Touched,
    /// Projects that must be there: all that are synced, not only those that changed.
    pub projects: BTreeSet<String>,
}

impl Work {
    /// What a set of changes needs; the touched projects must be there afterwards, but for those it deleted.
    #[must_use]
    pub fn of(touched: Touched) -> Self {
        Self { need: touched.need(), projects: touched.expected_projects(), touched }
    }
}

/// Limits of a confirmation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmOptions {
    /// How long one scan may take, waiting for one that already runs included. Default 60 s.
    pub scan_limit: Duration,
    /// The first pause between two looks at a scan's status. It grows to `poll_max`. Default 10 ms.
    pub poll_first: Duration,
    /// The longest such pause. Default 500 ms.
    pub poll_max: Duration,
    /// How many log lines are looked at. Default 200.
    pub log_lines: u32,
}

impl Default for ConfirmOptions {
    fn default() -> Self {
        Self {
            scan_limit: Duration::from_secs(60),
            poll_first: Duration::from_millis(10),
            poll_max: Duration::from_millis(500),
            log_lines: 200,
        }
    }
}

/// The gateway cannot be asked now: nothing is wrong with the files, try again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// It says of itself that it is not up.
    #[error("gateway is not up (it says {0:?})")]
    NotUp(String),
    /// It runs its first set-up.
    #[error("gateway is not commissioned yet")]
    NotCommissioned,
    /// It does not answer as a gateway that is up.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

impl Fault for NotReady {
    fn category(&self) -> Category {
        match self {
            Self::NotUp(_) => Category::new("GatewayStarting"),
            Self::NotCommissioned => Category::new("GatewayNotCommissioned"),
            Self::Gateway(error) => error.category(),
        }
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// What a gateway says about changed files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confirmation {
    /// One entry for each half, config first.
    pub scans: Vec<ScanReport>,
    /// What was looked at afterwards.
    pub verification: Verification,
}

/// The short form of a [`Confirmation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The gateway loaded everything, and everything could be looked at.
    Confirmed,
    /// Nothing speaks against it, but not everything could be looked at: the key lacks a right, or the gateway a route.
    Unverified,
    /// A scan is not known to have happened. Ask again.
    Unconfirmed,
    /// The gateway loaded the files and something is wrong with them.
    Rejected,
}

impl Confirmation {
    /// The short form.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let unconfirmed = |s: &ScanReport| {
            s.is_unconfirmed_for_sure() || s.outcome == ScanOutcome::Skipped(Skip::ConfigUnconfirmed)
        };
        if self.scans.iter().any(unconfirmed) {
            Verdict::Unconfirmed
        } else if !self.verification.problems.is_empty() {
            Verdict::Rejected
        } else if self.scans.iter().any(ScanReport::is_unknown) || !self.verification.unverified.is_empty() {
            Verdict::Unverified
        } else {
            Verdict::Confirmed
        }
    }

    /// One line for a person: what is wrong, else what is not known; empty when all is well.
    #[must_use]
    pub fn summary(&self) -> String {
        let scans = self.scans.iter().filter_map(|s| match &s.outcome {
            ScanOutcome::Unconfirmed(reason) => Some(format!("{} scan: {reason}", s.kind)),
            _ => None,
        });
        let problems = self.verification.problems.iter().map(ToString::to_string);
        let unverified = self.verification.unverified.iter().map(ToString::to_string);
        scans.chain(problems).chain(unverified).collect::<Vec<_>>().join("; ")
    }
}

/// Asks the gateway to load what changed and whether it did: one attempt.
///
/// # Errors
/// When the gateway is not ready to be asked. What it refuses is part of the [`Confirmation`].
pub async fn confirm(
    client: &GatewayClient,
    work: &Work,
    options: &ConfirmOptions,
) -> Result<Confirmation, NotReady> {
    attempt(client, work, options, &mut Vec::new()).await
}

/// `confirmed` carries the halves that an earlier attempt has confirmed; they are not scanned again.
async fn attempt(
    client: &GatewayClient,
    work: &Work,
    options: &ConfirmOptions,
    confirmed: &mut Vec<ScanReport>,
) -> Result<Confirmation, NotReady> {
    let ping = client.status_ping().await?;
    match ping.phase() {
        Phase::Running => {}
        Phase::Commissioning => return Err(NotReady::NotCommissioned),
        Phase::Starting => return Err(NotReady::NotUp(ping.state)),
    }
    let mut scans: Vec<ScanReport> = Vec::new();
    for kind in ScanKind::ALL {
        let report = if let Some(earlier) = confirmed.iter().find(|c| c.kind == kind) {
            earlier.clone()
        } else if !work.need.includes(kind) {
            ScanReport::skipped(kind, Skip::NothingChanged)
        } else if scans.iter().any(|s| s.is_unconfirmed_for_sure()) {
            ScanReport::skipped(kind, Skip::ConfigUnconfirmed)
        } else {
            let report = scan::scan(client, kind, options).await?;
            if report.outcome == ScanOutcome::Confirmed {
                confirmed.push(report.clone());
            }
            report
        };
        scans.push(report);
    }
    if scans.iter().any(ScanReport::is_unconfirmed_for_sure) {
        return Ok(Confirmation { scans, verification: Verification::default() });
    }
    let mut verification = verify::verify(client, work, &scans, options).await?;
    // Without a status nobody knows when a scan is over: what is missing now may only be late.
    let mut looks = Looks::new(options);
    while scans.iter().any(ScanReport::is_unknown) && !verification.problems.is_empty() && looks.again().await
    {
        verification = verify::verify(client, work, &scans, options).await?;
    }
    Ok(Confirmation { scans, verification })
}

/// How [`confirm_until`] ended.
#[derive(Debug)]
pub enum Ended {
    /// The gateway has spoken.
    Answered(Confirmation),
    /// The caller cancelled, or the time was over. `last` is the answer of the last attempt, if there was one.
    Stopped {
        /// What was known by then.
        last: Option<Result<Confirmation, NotReady>>,
    },
}

/// Tries until the gateway has answered for good, with `backoff` between two attempts.
///
/// Tried again: a gateway that is not ready, and a scan that is not known to have happened. An answer (also a
/// rejection) ends it, and so do `cancel` and, if given, `limit`. After every attempt that is not the last one `waits`
/// is told why and for how long.
pub async fn confirm_until(
    client: &GatewayClient,
    work: &Work,
    options: &ConfirmOptions,
    backoff: &Backoff,
    limit: Option<Duration>,
    cancel: impl Future<Output = ()>,
    mut waits: impl FnMut(&Result<Confirmation, NotReady>, Duration),
) -> Ended {
    let began = Instant::now();
    let mut last = None;
    let mut cancel = pin!(cancel);
    let mut confirmed = Vec::new();
    for number in 0.. {
        let outcome = tokio::select! {
            biased;
            () = &mut cancel => break,
            outcome = attempt(client, work, options, &mut confirmed) => outcome,
        };
        let outcome = match outcome {
            Ok(c) if c.verdict() != Verdict::Unconfirmed => return Ended::Answered(c),
            other => other,
        };
        let pause = backoff.delay(number, backoff::chance());
        if limit.is_some_and(|l| began.elapsed() + pause > l) {
            last = Some(outcome);
            break;
        }
        waits(&outcome, pause);
        last = Some(outcome);
        tokio::select! {
            biased;
            () = &mut cancel => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ended::Stopped { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmation(outcomes: [ScanOutcome; 2]) -> Confirmation {
        let scans = ScanKind::ALL
            .into_iter()
            .zip(outcomes)
            .map(|(kind, outcome)| ScanReport { kind, outcome, duration: Duration::ZERO, log_from_ms: None })
            .collect();
        Confirmation { scans, verification: Verification::default() }
    }

    #[test]
    fn the_verdict_is_the_worst_that_is_known() {
        use ScanOutcome::{Confirmed, Skipped};
        let unknown = || ScanOutcome::Unconfirmed(Unconfirmed::NoStatus);
        let lost = || ScanOutcome::Unconfirmed(Unconfirmed::Restarted);
        let skipped = || Skipped(Skip::NothingChanged);
        for (outcomes, expected) in [
            ([Confirmed, Confirmed], Verdict::Confirmed),
            ([skipped(), Confirmed], Verdict::Confirmed),
            ([unknown(), Confirmed], Verdict::Unverified),
            ([Confirmed, lost()], Verdict::Unconfirmed),
            ([lost(), Skipped(Skip::ConfigUnconfirmed)], Verdict::Unconfirmed),
        ] {
            let mut c = confirmation(outcomes);
            assert_eq!(c.verdict(), expected);
            c.verification.unverified.push(Unverified { what: "the log".into(), why: "403".into() });
            let with_gap = if expected == Verdict::Confirmed { Verdict::Unverified } else { expected };
            assert_eq!(c.verdict(), with_gap);
            let subject = Subject::Project("line".into());
            c.verification.problems.push(Problem { subject, message: "it is missing".into() });
            let with_problem = if expected == Verdict::Unconfirmed { expected } else { Verdict::Rejected };
            assert_eq!(c.verdict(), with_problem);
            assert!(c.summary().contains("project line: it is missing"), "{}", c.summary());
        }
    }
}
