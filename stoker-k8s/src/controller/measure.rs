//! Metrics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use super::report::Findings;
use super::validate::Report;
use crate::api::{FilesChanged, Stoker, StokerStatus, SyncStatus};
use crate::conditions;

/// Gives every metric of the controller its help text and unit.
pub fn describe_metrics() {
    describe_counter!("stoker_reconcile_total", "Passes over a Stoker, by result.");
    describe_histogram!(
        "stoker_reconcile_duration_seconds",
        Unit::Seconds,
        "Time for one pass over a Stoker."
    );
    describe_histogram!(
        "stoker_ref_resolve_duration_seconds",
        Unit::Seconds,
        "Time to resolve a ref, waiting for a slot included, by result."
    );
    describe_counter!("stoker_git_requests_total", "Requests to git servers, by operation and result.");
    describe_gauge!("stoker_gateways_discovered", "Gateway pods of a Stoker.");
    describe_gauge!("stoker_gateways_synced", "Gateway pods of a Stoker that confirmed the wanted commit.");
    describe_gauge!("stoker_gateways", "Gateway pods of a Stoker, by status.");
    describe_gauge!("stoker_cr_ready", "Whether a Stoker is ready (1) or not (0).");
    describe_gauge!(
        "stoker_last_sync_timestamp_seconds",
        Unit::Seconds,
        "When a gateway of a Stoker last confirmed a sync, since the epoch."
    );
    describe_histogram!(
        "stoker_push_to_live_seconds",
        Unit::Seconds,
        "From the delivery (or the first sight of the commit) to the gateway's confirmed scan."
    );
    describe_counter!("stoker_panics_total", "Passes that a defect ended.");
    describe_counter!("stoker_watch_errors_total", "Interruptions of a watch, by kind.");
    describe_counter!("stoker_undecodable_objects_total", "Objects that were left out, by kind.");
    describe_gauge!("stoker_leader", "Whether this replica leads (1) or not (0).");
}

/// The state of one `Stoker` as gauges.
pub(super) fn gauges(stoker: &Stoker, status: &StokerStatus) {
    let (namespace, name) = super::watch::key(stoker);
    let of =
        |wanted: SyncStatus| status.discovered_gateways.iter().filter(|e| e.sync_status == wanted).count();
    for each in SyncStatus::ALL {
        metrics::gauge!("stoker_gateways", "namespace" => namespace.clone(), "name" => name.clone(), "status" => each.as_str())
            .set(of(each) as f64);
    }
    let labels = [("namespace", namespace), ("name", name)];
    let total = status.discovered_gateways.len() + status.gateways_not_listed as usize;
    metrics::gauge!("stoker_gateways_discovered", &labels).set(total as f64);
    metrics::gauge!("stoker_gateways_synced", &labels).set(of(SyncStatus::Synced) as f64);
    let ready = conditions::is_true(&status.conditions, conditions::READY);
    metrics::gauge!("stoker_cr_ready", &labels).set(f64::from(u8::from(ready)));
    if let Some(at) = &status.last_sync_time {
        metrics::gauge!("stoker_last_sync_timestamp_seconds", &labels).set(at.0.as_second() as f64);
    }
}

/// Since when each `Stoker` wants the commit that it wants.
#[derive(Debug, Default)]
pub(super) struct LiveClocks(Mutex<HashMap<(String, String), (String, Timestamp)>>);

impl LiveClocks {
    /// Notes new commits, and measures gateways that have just confirmed theirs.
    pub(super) fn measure(&self, findings: Findings<'_>, old: &StokerStatus, new: &StokerStatus) {
        let stoker = &findings.world.stoker;
        let Some(commit) = &new.last_sync_commit else { return };
        let key = super::watch::key(stoker.as_ref());
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if old.last_sync_commit.as_ref() != Some(commit) {
            clocks.insert(key.clone(), (commit.clone(), since(findings)));
        }
        let Some((wanted, start)) = clocks.get(&key).filter(|(wanted, _)| wanted == commit) else { return };
        for entry in new.discovered_gateways.iter().filter(|e| e.sync_status == SyncStatus::Synced) {
            let before = old.discovered_gateways.iter().find(|e| e.pod_name == entry.pod_name);
            if before.is_none_or(|b| b.synced_commit.as_ref() == Some(wanted)) {
                continue;
            }
            let reported = findings.validated.gateways.iter().find(|g| g.pod_name == entry.pod_name);
            let Some(Report::Heard { report, .. }) = reported.map(|g| &g.report) else { continue };
            let Some(status) = &report.status else { continue };
            // A commit that changed nothing here did not go live, and one that nobody confirmed is not known to be.
            let live = status.last_scan_result.as_deref() == Some("Confirmed")
                && status.files_changed.is_some_and(|changed| changed != FilesChanged::default());
            let Some(at) = status.last_sync_time.as_ref().filter(|_| live) else { continue };
            let took = at.0.duration_since(*start).as_secs_f64().max(0.0);
            metrics::histogram!("stoker_push_to_live_seconds").record(took);
            tracing::info!(
                namespace = key.0,
                name = key.1,
                pod = entry.pod_name,
                commit,
                seconds = took,
                "live"
            );
        }
    }

    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// The delivery, when there was one lately; else now, when the commit was first seen.
fn since(findings: Findings<'_>) -> Timestamp {
    let now = Timestamp::now();
    let delivered = findings
        .world
        .lookup
        .as_ref()
        .and_then(|outcome| outcome.trigger.as_deref())
        .and_then(|trigger| trigger.parse::<Timestamp>().ok());
    match delivered {
        Some(at) if at <= now && now.duration_since(at).as_secs() < 600 => at,
        _ => now,
    }
}
