//! What an agent measures. Few labels: an agent lives beside a gateway and must stay small.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::Obtained;
use crate::gateway_sync::{Confirmation, SyncReport};

/// Upper bounds of the buckets of every duration, in seconds: from a small change to a first clone.
pub const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

const SYNC_DURATION: &str = "stoker_sync_duration_seconds";

/// Gives every metric of the agent its help text and unit.
pub fn describe_metrics() {
    describe_counter!(
        "stoker_sync_total",
        "Syncs, by result: confirmed, unverified, rejected (by the gateway), unchanged (a commit without changes here), held, failed."
    );
    describe_histogram!(
        SYNC_DURATION,
        Unit::Seconds,
        "Time of a sync that changed files, by phase: fetch, plan, apply, scan, and total until the gateway confirmed."
    );
    describe_counter!("stoker_files_changed_total", "Files written or deleted, by change.");
    describe_gauge!("stoker_drift_files", "Files that somebody else had changed, at the last look.");
    describe_histogram!(
        "stoker_agent_clone_duration_seconds",
        Unit::Seconds,
        "Time to get a commit from the git server, by operation: clone (everything anew) or fetch."
    );
    describe_histogram!(
        "stoker_scan_api_duration_seconds",
        Unit::Seconds,
        "Time from asking the gateway for a scan to its end, by scan."
    );
    describe_gauge!("stoker_designer_sessions", "Open Designers, when last asked for.");
    describe_gauge!(
        "stoker_last_sync_timestamp_seconds",
        Unit::Seconds,
        "When the gateway last confirmed a sync, since the epoch."
    );
}

/// What has been counted, so that asking again is not another sync.
#[derive(Debug, Default)]
pub(super) struct Counted(Option<&'static str>);

impl Counted {
    /// A commit has come from somewhere.
    pub(super) fn obtained(how: Obtained, took: Duration) {
        let operation = match how {
            Obtained::Cloned => "clone",
            Obtained::Fetched => "fetch",
            Obtained::Present => return,
        };
        histogram!("stoker_agent_clone_duration_seconds", "operation" => operation).record(took);
    }

    /// Files were looked at and, maybe, written. `open`: the gateway has yet to say something about them.
    pub(super) fn files(&mut self, report: &SyncReport, moved: bool, open: bool) {
        let files = report.files;
        gauge!("stoker_drift_files").set(files.drifted as f64);
        let changed = [("added", files.added), ("modified", files.modified), ("deleted", files.deleted)];
        let wrote = changed.iter().any(|(_, count)| *count > 0);
        if wrote {
            for (change, count) in changed {
                counter!("stoker_files_changed_total", "change" => change).increment(count);
            }
            let took = report.duration_ms;
            phase("fetch", Duration::from_millis(took.fetch));
            phase("plan", Duration::from_millis(took.plan));
            phase("apply", Duration::from_millis(took.apply));
        }
        if wrote || moved {
            self.0 = None;
        }
        if moved && !open {
            self.result("unchanged");
        }
    }

    /// Designers were asked for.
    pub(super) fn designers(report: &SyncReport) {
        if let Some(open) = report.designers {
            gauge!("stoker_designer_sessions").set(open as f64);
        }
    }

    /// The gateway was asked. `took`: since the sync began.
    pub(super) fn confirmed(&mut self, confirmation: &Confirmation, took: Option<Duration>) {
        for scan in confirmation.scans() {
            let name = if scan.kind == "config" { "config" } else { "projects" };
            let took = Duration::from_millis(scan.duration_ms);
            histogram!("stoker_scan_api_duration_seconds", "scan" => name).record(took);
        }
        match confirmation {
            Confirmation::Confirmed { at, scans, .. } => {
                gauge!("stoker_last_sync_timestamp_seconds").set(at.as_second() as f64);
                if let Some(took) = took {
                    phase("scan", Duration::from_millis(scans.iter().map(|s| s.duration_ms).sum()));
                    phase("total", took);
                }
                self.result("confirmed");
            }
            Confirmation::Unverified { .. } => self.result("unverified"),
            Confirmation::Rejected { .. } => self.result("rejected"),
            Confirmation::Waiting(_) => {}
        }
    }

    /// Something holds the sync, for as long as it does.
    pub(super) fn held(&mut self) {
        self.result("held");
    }

    /// An attempt failed; each one counts.
    pub(super) fn failed(&mut self) {
        self.0 = None;
        self.result("failed");
    }

    fn result(&mut self, result: &'static str) {
        if self.0.replace(result) != Some(result) {
            counter!("stoker_sync_total", "result" => result).increment(1);
        }
    }
}

fn phase(phase: &'static str, took: Duration) {
    histogram!(SYNC_DURATION, "phase" => phase).record(took);
}
