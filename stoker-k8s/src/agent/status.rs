//! What the agent says, derived from what happened. Pure: events in, statuses out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::report::Saying;
use super::target::Run;
use crate::api::{FilesChanged, HistoryEntry, MAX_HISTORY, SyncStatus};
use crate::conditions::cap;
use crate::gateway_sync::{Confirmation, Failure, Standing, SyncReport};
use crate::protocol::{AgentStatus, ChangeLine, DiffReport};

/// The longest message.
const MAX_MESSAGE: usize = 1024;
/// What is said while nothing is to do.
const IN_STEP: &str = "in step, confirmed by the gateway";

/// The story so far.
pub(super) struct Story {
    saying: Saying,
    /// Files are right, and the gateway has not said that it loaded them.
    unconfirmed: bool,
    /// It said that something is wrong with them. That holds until it says something else.
    rejected: bool,
    /// When the sync began that the gateway has not confirmed yet.
    began: Option<Instant>,
    /// The commit that the files are at.
    files_at: Option<String>,
    /// What is said whatever else is said.
    note: Option<&'static str>,
}

/// What a look at the files found.
pub(super) struct Look<'a> {
    /// What the sync did.
    pub(super) report: &'a SyncReport,
    /// What it was about.
    pub(super) run: &'a Run,
    /// The trigger that it answers.
    pub(super) trigger: &'a str,
    /// Where the gateway stands with what is live now.
    pub(super) standing: Standing,
    /// Somebody asked, or this agent has just started: a gateway that could not tell is asked again.
    pub(super) asked: bool,
    /// When it began, the fetch included.
    pub(super) began: Instant,
}

impl Story {
    pub(super) fn new() -> Self {
        let status = AgentStatus {
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..AgentStatus::default()
        };
        Self {
            saying: Saying { status, report: None },
            unconfirmed: false,
            rejected: false,
            began: None,
            files_at: None,
            note: None,
        }
    }

    pub(super) const fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }

    /// The commit that the files are at.
    pub(super) fn files_at(&self) -> Option<&String> {
        self.files_at.as_ref()
    }

    /// Since the sync began that the gateway has not confirmed yet.
    pub(super) fn since_began(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
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
    pub(super) fn files(&mut self, look: &Look<'_>) -> Saying {
        let Look { report, run, standing, .. } = look;
        let changed = FilesChanged {
            added: report.files.added,
            modified: report.files.modified,
            deleted: report.files.deleted,
        };
        let wrote = changed != FilesChanged::default() && !run.profile.dry_run;
        let moved = self.files_at.replace(run.commit.clone()).as_ref() != Some(&run.commit);
        let open = standing.pending && !run.profile.dry_run;
        self.note = standing.note;
        self.unconfirmed = open && (wrote || look.asked || standing.unverified.is_none());
        let status = &mut self.saying.status;
        status.target_commit = Some(run.commit.clone());
        status.trigger = Some(look.trigger.to_owned());
        status.profile_revision = Some(run.profile.revision.clone());
        let turned = std::mem::replace(&mut status.dry_run, run.profile.dry_run) != run.profile.dry_run;
        if status.last_sync_time.is_none() {
            // An earlier agent heard it.
            status.last_sync_time = standing.confirmed.map(Time);
        }
        let differs = run.profile.dry_run && status.files_changed != Some(changed);
        if moved || wrote || turned || differs {
            status.files_changed = Some(changed);
            status.evaluated_at = run.profile.dry_run.then(|| Time(Timestamp::now()));
            status.phase_millis = phases(report);
            self.saying.report = Some(diff(report, run.profile.dry_run));
            self.began = Some(look.began);
        }
        if wrote {
            let result = if report.files.drifted > 0 { "DriftRestored" } else { "Applied" };
            self.history(&run.commit, Some(&run.facts.git_ref), result, Some(changed));
        }
        if run.profile.dry_run {
            return self.set(SyncStatus::Held, Some("dryRun"), &format!("dry run: {}", words(changed)));
        }
        if self.unconfirmed {
            if self.rejected && !moved && !wrote {
                // Asked again about the same files: what it said last is the truth until it answers.
                return self.saying.clone();
            }
            return self.set(
                SyncStatus::Syncing,
                Some("Confirming"),
                "files are in place; waiting for the gateway to load them",
            );
        }
        match &standing.unverified {
            Some(note) => self.synced(run, &unverified(note)),
            None => self.synced(run, IN_STEP),
        }
    }

    /// What the gateway said.
    pub(super) fn confirmed(&mut self, confirmation: &Confirmation, run: &Run) -> Saying {
        if let Confirmation::Waiting(failure) = confirmation {
            if self.rejected {
                return self.saying.clone();
            }
            let message = format!("files are in place; {}", failure.message);
            return self.set(SyncStatus::Syncing, Some(&failure.category), &message);
        }
        self.unconfirmed = false;
        if let Confirmation::Rejected { failure, .. } = confirmation
            && self.rejected
            && self.saying.status.message == cap(failure.message.clone(), MAX_MESSAGE)
        {
            return self.saying.clone();
        }
        let scanned: u64 = confirmation.scans().iter().map(|s| s.duration_ms).sum();
        let status = &mut self.saying.status;
        status.phase_millis.insert("scan".to_owned(), scanned);
        match confirmation {
            Confirmation::Confirmed { at, projects, note, .. } => {
                status.last_scan_result = Some("Confirmed".to_owned());
                status.last_sync_time = Some(Time(*at));
                status.projects_synced.clone_from(projects);
                if let Some(began) = self.began.take() {
                    status.last_sync_millis = u64::try_from(began.elapsed().as_millis()).ok();
                }
                self.synced(run, if note.is_empty() { IN_STEP } else { note })
            }
            Confirmation::Unverified { note, .. } => {
                status.last_scan_result = Some("Unverified".to_owned());
                self.synced(run, &unverified(note))
            }
            Confirmation::Rejected { failure, .. } => {
                status.last_scan_result = Some("Rejected".to_owned());
                let saying = self.failed(failure, Some(&run.commit));
                self.rejected = true;
                saying
            }
            Confirmation::Waiting(_) => self.saying.clone(),
        }
    }

    fn synced(&mut self, run: &Run, message: &str) -> Saying {
        self.saying.status.synced_commit = Some(run.commit.clone());
        self.saying.status.synced_ref = Some(run.facts.git_ref.clone());
        match self.note {
            Some(note) => self.set(SyncStatus::Synced, None, &format!("{message}; {note}")),
            None => self.set(SyncStatus::Synced, None, message),
        }
    }

    fn set(&mut self, status: SyncStatus, reason: Option<&str>, message: &str) -> Saying {
        self.rejected = false;
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

fn unverified(note: &str) -> String {
    format!("unverified: {note}")
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
