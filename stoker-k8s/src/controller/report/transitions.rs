//! Events: what changed from one status to the next.

use std::collections::BTreeMap;

use crate::api::{GatewayEntry, StokerStatus, SyncStatus};
use crate::conditions;

/// An event to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Something a person should look at.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The pod that it is about, too.
    pub pod: Option<String>,
}

impl Note {
    fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into(), pod: None }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into(), pod: None }
    }

    fn about(self, entry: &GatewayEntry) -> Self {
        Self { pod: Some(entry.pod_name.clone()), ..self }
    }
}

/// What changed between two statuses that is worth an event. Equal statuses give none.
#[must_use]
pub fn transitions(old: &StokerStatus, new: &StokerStatus) -> Vec<Note> {
    let mut notes = Vec::new();
    let condition = |status: &StokerStatus, type_: &str| {
        conditions::find(&status.conditions, type_)
            .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
    };
    let changed = |type_: &str| {
        let (before, after) = (condition(old, type_), condition(new, type_));
        let moved = before.as_ref().map(|b| (&b.0, &b.1)) != after.as_ref().map(|a| (&a.0, &a.1));
        moved.then_some((before, after))
    };

    if let Some((before, Some((status, reason, message)))) = changed(conditions::REF_RESOLVED) {
        match status.as_str() {
            "True" if reason == conditions::reason::SUCCEEDED_WITH_WARNINGS => {
                notes.push(Note::warning("RefResolved", message));
            }
            "True" if before.is_none_or(|b| b.0 != "True") => {
                notes.push(Note::normal("RefResolved", message))
            }
            "False" => notes.push(Note::warning("RefResolutionFailed", format!("{reason}: {message}"))),
            _ => {}
        }
    }
    if let (Some(before), Some(after)) = (&old.last_sync_commit, &new.last_sync_commit)
        && before != after
    {
        let name = new.last_sync_ref.as_deref().unwrap_or("the ref");
        notes.push(Note::normal(
            "RefUpdated",
            format!("{name} went from {} to {}", short(before), short(after)),
        ));
    }
    if let Some((before, after)) = changed(conditions::PAUSED) {
        match (before, after) {
            (None, Some((_, _, message))) => notes.push(Note::normal("Paused", message)),
            (Some(_), None) => notes.push(Note::normal("Resumed", "gateways are written again")),
            _ => {}
        }
    }
    if let Some((_, Some((status, _, message)))) = changed(conditions::PROFILES_VALID)
        && status == "False"
    {
        notes.push(Note::warning("ProfileInvalid", message));
    }
    notes.extend(of_gateways(old, new));
    notes
}

fn of_gateways(old: &StokerStatus, new: &StokerStatus) -> Vec<Note> {
    let before: BTreeMap<&str, &GatewayEntry> =
        old.discovered_gateways.iter().map(|entry| (entry.pod_name.as_str(), entry)).collect();
    let mut notes = Vec::new();
    for entry in &new.discovered_gateways {
        let was = before.get(entry.pod_name.as_str());
        let name = &entry.pod_name;
        if was.is_none() {
            notes.push(
                Note::normal("GatewayDiscovered", format!("gateway {} in pod {name}", entry.name))
                    .about(entry),
            );
        }
        let moved =
            was.is_none_or(|was| (was.sync_status, &was.reason) != (entry.sync_status, &entry.reason));
        let synced_anew = was.is_none_or(|was| was.synced_commit != entry.synced_commit);
        let detail = match &entry.reason {
            Some(reason) => format!("{reason}: {}", entry.message),
            None => entry.message.clone(),
        };
        match entry.sync_status {
            SyncStatus::Synced if synced_anew || was.is_none_or(|w| w.sync_status == SyncStatus::Error) => {
                let files = entry.files_changed.unwrap_or_default();
                let message = format!(
                    "{name} runs {} (+{} ~{} -{} files)",
                    short(entry.synced_commit.as_deref().unwrap_or("?")),
                    files.added,
                    files.modified,
                    files.deleted
                );
                notes.push(Note::normal("SyncCompleted", message).about(entry));
            }
            SyncStatus::Held if moved && entry.reason.as_deref() == Some("MassDeletionBlocked") => {
                notes.push(
                    Note::warning("MassDeletionBlocked", format!("{name}: {}", entry.message)).about(entry),
                );
            }
            SyncStatus::Error if moved => {
                notes.push(Note::warning("SyncFailed", format!("{name}: {detail}")).about(entry));
            }
            SyncStatus::Held if moved => {
                notes.push(Note::normal("SyncHeld", format!("{name}: {detail}")).about(entry));
            }
            SyncStatus::MissingSidecar if moved => {
                notes.push(Note::warning("MissingSidecar", format!("{name}: {detail}")).about(entry));
            }
            _ => {}
        }
    }
    notes
}

fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}
