//! One scan, confirmed by the gateway's own status.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use stoker_core::{Category, Fault, chain};

use super::ConfirmOptions;
use crate::client::{GatewayClient, GatewayError, ScanStatus};
use crate::rules::ScanKind;

/// How one scan ended. Serialises as `{kind, outcome, reason?, durationMs}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// Which half.
    pub kind: ScanKind,
    /// How it ended.
    pub outcome: ScanOutcome,
    /// From the first look to the last one.
    pub duration: Duration,
    /// When the scan began at the latest, in epoch milliseconds of the gateway's clock: where its log is read from.
    pub(super) log_from_ms: Option<i64>,
}

/// How a scan ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanOutcome {
    /// The gateway's status moved and nothing runs: it has read the files.
    Confirmed,
    /// It is not known whether the gateway has read the files.
    Unconfirmed(Unconfirmed),
    /// It was not asked to.
    Skipped(Skip),
}

/// Why a scan is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unconfirmed {
    /// The gateway took the request and cannot tell how it went: it has no such status.
    NoStatus,
    /// It did not end in time.
    TooSlow(Duration),
    /// The gateway restarted meanwhile and does not remember.
    Restarted,
    /// The gateway did not take the request, or not tell the status.
    Failed {
        /// The class of the error.
        category: Category,
        /// What it said.
        message: String,
    },
}

/// Why a half was not scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Nothing in it changed.
    NothingChanged,
    /// Projects may need the configuration that could not be confirmed before them.
    ConfigUnconfirmed,
}

impl fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStatus => {
                f.write_str("this gateway has no scan status, so nothing is known of the result")
            }
            Self::TooSlow(limit) => write!(f, "not finished within {} s", limit.as_secs_f64()),
            Self::Restarted => f.write_str("the gateway restarted meanwhile"),
            Self::Failed { message, .. } => f.write_str(message),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingChanged => "nothing changed in this half",
            Self::ConfigUnconfirmed => "the config scan before it is not confirmed",
        })
    }
}

impl ScanOutcome {
    /// `confirmed`, `unconfirmed` or `skipped`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::Skipped(_) => "skipped",
        }
    }
}

impl Serialize for ScanReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reason = match &self.outcome {
            ScanOutcome::Confirmed => None,
            ScanOutcome::Unconfirmed(reason) => Some(reason.to_string()),
            ScanOutcome::Skipped(skip) => Some(skip.to_string()),
        };
        let mut report = serializer.serialize_struct("ScanReport", 4)?;
        report.serialize_field("kind", &self.kind)?;
        report.serialize_field("outcome", self.outcome.as_str())?;
        match reason {
            Some(reason) => report.serialize_field("reason", &reason)?,
            None => report.skip_field("reason")?,
        }
        report
            .serialize_field("durationMs", &u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX))?;
        report.end()
    }
}

impl ScanReport {
    pub(super) const fn skipped(kind: ScanKind, skip: Skip) -> Self {
        Self { kind, outcome: ScanOutcome::Skipped(skip), duration: Duration::ZERO, log_from_ms: None }
    }

    /// Whether the gateway took the request and cannot tell how it went.
    pub(super) fn is_unknown(&self) -> bool {
        self.outcome == ScanOutcome::Unconfirmed(Unconfirmed::NoStatus)
    }

    /// Whether it should have been scanned and, as far as anybody knows, was not. A gateway without status leaves
    /// that open, which is no reason to stop.
    pub(super) fn is_unconfirmed_for_sure(&self) -> bool {
        matches!(&self.outcome, ScanOutcome::Unconfirmed(reason) if *reason != Unconfirmed::NoStatus)
    }
}

enum Seen {
    Finished(ScanStatus),
    Not(Unconfirmed),
}

/// Reads the status, asks for a scan, and looks until it is over.
///
/// Fails only when the gateway is not ready to be asked.
pub(super) async fn scan(
    client: &GatewayClient,
    kind: ScanKind,
    options: &ConfirmOptions,
) -> Result<ScanReport, GatewayError> {
    let began = Instant::now();
    let mut looks =
        Looks { pause: options.poll_first, max: options.poll_max, until: began + options.scan_limit };
    let seen = match protocol(client, kind, options, &mut looks).await {
        Ok(seen) => seen,
        Err(error) if error.is_not_ready() || error.lacks_key() => return Err(error),
        Err(error) => Seen::Not(Unconfirmed::Failed { category: error.category(), message: chain(&error) }),
    };
    let (outcome, log_from_ms) = match seen {
        // Whether the timestamp is the scan's beginning or its end is not documented: this is right for both.
        Seen::Finished(after) => {
            (ScanOutcome::Confirmed, Some(after.last_scan_timestamp - after.last_scan_duration.max(0)))
        }
        Seen::Not(reason) => (ScanOutcome::Unconfirmed(reason), None),
    };
    let duration = began.elapsed();
    tracing::debug!(%kind, outcome = outcome.as_str(), ms = duration.as_millis() as u64, "scan");
    Ok(ScanReport { kind, outcome, duration, log_from_ms })
}

async fn protocol(
    client: &GatewayClient,
    kind: ScanKind,
    options: &ConfirmOptions,
    looks: &mut Looks,
) -> Result<Seen, GatewayError> {
    // A scan that already runs may have begun before the files were complete: its end would prove nothing.
    let before = loop {
        match client.scan_status(kind).await? {
            None => {
                client.scan(kind).await?;
                return Ok(Seen::Not(Unconfirmed::NoStatus));
            }
            Some(status) if !status.scan_active => break status,
            Some(_) if !looks.again().await => {
                return Ok(Seen::Not(Unconfirmed::TooSlow(options.scan_limit)));
            }
            Some(_) => {}
        }
    };
    client.scan(kind).await?;
    looks.pause = options.poll_first;
    let mut interrupted = false;
    while looks.again().await {
        match client.scan_status(kind).await {
            Ok(None) => return Ok(Seen::Not(Unconfirmed::NoStatus)),
            Ok(Some(status)) if status.finished_since(&before) => return Ok(Seen::Finished(status)),
            // A gateway that comes back without the memory of a scan has lost the request.
            Ok(Some(status)) if !status.scan_active && (interrupted || forgot(&status, &before)) => {
                return Ok(Seen::Not(Unconfirmed::Restarted));
            }
            Ok(Some(_)) => {}
            Err(error) if error.is_not_ready() => interrupted = true,
            Err(error) => return Err(error),
        }
    }
    Ok(Seen::Not(Unconfirmed::TooSlow(options.scan_limit)))
}

const fn forgot(status: &ScanStatus, before: &ScanStatus) -> bool {
    before.last_scan_timestamp > 0 && status.last_scan_timestamp <= 0
}

/// Looks at something again and again, with growing pauses, within the limit of a scan.
pub(super) struct Looks {
    pause: Duration,
    max: Duration,
    until: Instant,
}

impl Looks {
    pub(super) fn new(options: &ConfirmOptions) -> Self {
        Self { pause: options.poll_first, max: options.poll_max, until: Instant::now() + options.scan_limit }
    }

    /// Waits for the next look; `false` when the time is over.
    pub(super) async fn again(&mut self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = self.pause.mul_f64(1.5).min(self.max);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_what_the_command_line_documents() {
        let report = ScanReport {
            kind: ScanKind::Config,
            outcome: ScanOutcome::Confirmed,
            duration: Duration::from_millis(42),
            log_from_ms: Some(1),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"kind":"config","outcome":"confirmed","durationMs":42}"#
        );
        let skipped =
            serde_json::to_value(ScanReport::skipped(ScanKind::Projects, Skip::NothingChanged)).unwrap();
        assert_eq!(skipped["outcome"], "skipped");
        assert_eq!(skipped["reason"], "nothing changed in this half");
    }
}
