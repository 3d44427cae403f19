//! What the agent says, derived from what happened. Pure: events in, statuses out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::report::Saying;
use super::target::Run;
use crate::api::{FilesChanged, HistoryEntry, MAX_HISTORY, SyncStatus};
use crate::conditions::cap;
use crate::gateway_sync::{Confirmation, Failure, SyncReport};
use crate::protocol::{AgentStatus, ChangeLine, DiffReport};

/// The longest message.
const MAX_MESSAGE: usize = 1024;

/// The story so far.
pub(super) struct Story {
    saying: Saying,
    /// Files are right, and the gateway has not said that it loaded them.
    unconfirmed: bool,
}

impl Story {
    pub(super) fn new() -> Self {
        let status = AgentStatus {
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..AgentStatus::default()
        };
        Self { saying: Saying { status, report: None }, unconfirmed: false }
    }

    pub(super) const fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }

    pub(super) fn waiting(&mut self, why: &str) -> Saying {
        self.set(SyncStatus::Pending, None, why)
    }

    pub(super) fn held(&mut self, reason: &str, message: &str, commit: Option<&str>) -> Saying {
        // Paused at the commit that is live already is still held: nothing will be written.
        self.saying.status.target_commit = commit.map(str::to_owned);
        self.set(SyncStatus::Held, Some(reason), message)
    }

    pub(super) fn failed(&mut self, failure: &Failure, commit: Option<&str>) -> Saying {
        let new = self.saying.status.target_commit.as_deref() != commit
            || self.saying.status.sync_status != SyncStatus::Error;
        self.saying.status.target_commit = commit.map(str::to_owned);
        if new && let Some(commit) = commit {
            self.history(commit, None, &failure.category, None);
        }
        self.set(SyncStatus::Error, Some(&failure.category), &failure.message)
    }

    pub(super) fn syncing(&mut self, run: &Run) -> Saying {
        self.saying.status.target_commit = Some(run.commit.clone());
        self.set(SyncStatus::Syncing, None, &format!("fetching {}", short(&run.commit)))
    }

    /// Keeps the diff of a sync that was stopped.
    pub(super) fn remember(&mut self, report: &SyncReport) {
        self.saying.report = Some(diff(report, false));
    }

    /// The files are as they should be.
    pub(super) fn files(&mut self, report: &SyncReport, run: &Run, trigger: &str, pending: bool) -> Saying {
        let changed = FilesChanged {
            added: report.files.added,
            modified: report.files.modified,
            deleted: report.files.deleted,
        };
        let wrote = changed != FilesChanged::default();
        let moved = self.saying.status.synced_commit.as_deref() != Some(run.commit.as_str());
        self.unconfirmed = pending && !run.profile.dry_run;
        let status = &mut self.saying.status;
        status.target_commit = Some(run.commit.clone());
        status.trigger = Some(trigger.to_owned());
        status.profile_revision = Some(run.profile.revision.clone());
        status.dry_run = run.profile.dry_run;
        if moved || wrote || status.phase_millis.is_empty() {
            status.files_changed = Some(changed);
            status.last_sync_millis = Some(report.duration_ms.total + report.duration_ms.fetch);
            status.phase_millis = phases(report);
            status.last_sync_time = Some(Time(Timestamp::now()));
            self.saying.report = Some(diff(report, run.profile.dry_run));
        }
        if wrote && !run.profile.dry_run {
            self.saying.status.projects_synced.clone_from(&report.projects);
            let result = if report.files.drifted > 0 { "DriftRestored" } else { "Applied" };
            self.history(&run.commit, Some(&run.facts.git_ref), result, Some(changed));
        }
        if run.profile.dry_run {
            return self.set(SyncStatus::Held, Some("dryRun"), &format!("dry run: {}", words(changed)));
        }
        if self.unconfirmed {
            return self.set(
                SyncStatus::Syncing,
                Some("Confirming"),
                "files are in place; waiting for the gateway to load them",
            );
        }
        self.synced(run, "in step")
    }

    /// What the gateway said.
    pub(super) fn confirmed(&mut self, confirmation: &Confirmation, run: &Run) -> Saying {
        match confirmation {
            Confirmation::Waiting(failure) => {
                let message = format!("files are in place; {}", failure.message);
                self.set(SyncStatus::Syncing, Some(&failure.category), &message)
            }
            Confirmation::Confirmed { scans, note } => {
                self.unconfirmed = false;
                let scanned: u64 = scans.iter().map(|s| s.duration_ms).sum();
                self.saying.status.phase_millis.insert("scan".to_owned(), scanned);
                self.saying.status.last_scan_result = Some("Confirmed".to_owned());
                let message = if note.is_empty() { "in step, confirmed by the gateway" } else { note };
                self.synced(run, message)
            }
            Confirmation::Unverified { note } => {
                self.unconfirmed = false;
                self.saying.status.last_scan_result = Some("Unverified".to_owned());
                self.synced(run, &format!("unverified: {note}"))
            }
            Confirmation::Rejected(failure) => {
                self.unconfirmed = false;
                self.saying.status.last_scan_result = Some("Rejected".to_owned());
                self.failed(failure, Some(&run.commit))
            }
        }
    }

    fn synced(&mut self, run: &Run, message: &str) -> Saying {
        self.saying.status.synced_commit = Some(run.commit.clone());
        self.saying.status.synced_ref = Some(run.facts.git_ref.clone());
        self.set(SyncStatus::Synced, None, message)
    }

    fn set(&mut self, status: SyncStatus, reason: Option<&str>, message: &str) -> Saying {
        self.saying.status.sync_status = status;
        self.saying.status.reason = reason.map(str::to_owned);
        self.saying.status.message = cap(message.to_owned(), MAX_MESSAGE);
        self.saying.clone()
    }

    fn history(&mut self, commit: &str, git_ref: Option<&str>, result: &str, files: Option<FilesChanged>) {
        let history = &mut self.saying.status.history;
        history.insert(
            0,
            HistoryEntry {
                commit: commit.to_owned(),
                r#ref: git_ref.map(str::to_owned),
                at: Time(Timestamp::now()),
                result: result.to_owned(),
                files_changed: files,
            },
        );
        history.truncate(MAX_HISTORY);
    }
}

fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

fn words(changed: FilesChanged) -> String {
    format!("{} to add, {} to modify, {} to delete", changed.added, changed.modified, changed.deleted)
}

fn phases(report: &SyncReport) -> BTreeMap<String, u64> {
    let d = report.duration_ms;
    [("fetch", d.fetch), ("plan", d.plan), ("apply", d.apply)].map(|(k, v)| (k.to_owned(), v)).into()
}

fn diff(report: &SyncReport, dry_run: bool) -> DiffReport {
    let line = |change: &crate::gateway_sync::Change| ChangeLine {
        path: change.path.clone(),
        action: change.action.to_owned(),
        reason: change.reason.clone(),
    };
    DiffReport {
        commit: report.commit.clone(),
        dry_run,
        changes: report.changes.iter().map(line).collect(),
        more: 0,
        warnings: report.warnings.clone(),
    }
}
