//! One entry of the status for each gateway pod.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::Findings;
use crate::api::{FilesChanged, GatewayEntry, HistoryEntry, MAX_HISTORY, Period, StokerStatus, SyncStatus};
use crate::conditions::{cap, whole_second};
use crate::controller::rollout::{Behind, behind};
use crate::controller::validate::{Gateway, Report};
use crate::protocol::{AgentStatus, Metadata};

/// How long an agent may be silent before it counts as stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Default for Patience {
    /// Three heartbeats.
    fn default() -> Self {
        Self(Duration::from_secs(180))
    }
}

/// The entries, by the name of the pod.
pub(super) fn entries(
    findings: Findings<'_>,
    metadata: Option<&Metadata>,
    old: &StokerStatus,
) -> Vec<GatewayEntry> {
    let namespace = findings.world.stoker.namespace().unwrap_or_default();
    findings
        .validated
        .gateways
        .iter()
        .map(|gateway| {
            let before = old.discovered_gateways.iter().find(|entry| entry.pod_name == gateway.pod_name);
            entry(gateway, &namespace, metadata, findings.patience, before)
        })
        .collect()
}

fn entry(
    gateway: &Gateway,
    namespace: &str,
    metadata: Option<&Metadata>,
    patience: Patience,
    before: Option<&GatewayEntry>,
) -> GatewayEntry {
    let mut entry = GatewayEntry {
        name: cap(gateway.name.clone(), 253),
        pod_name: gateway.pod_name.clone(),
        namespace: namespace.to_owned(),
        profile: gateway.annotations.sync_profile.clone(),
        service_path: gateway.annotations.service_path.clone(),
        target_commit: metadata.and_then(|m| m.commit.clone()),
        ..GatewayEntry::default()
    };
    let set = |entry: &mut GatewayEntry, status, message: String| {
        entry.sync_status = status;
        entry.message = message;
    };
    if !gateway.has_agent {
        set(
            &mut entry,
            SyncStatus::MissingSidecar,
            "the pod was admitted without the sidecar; delete it, so that it is made again with one"
                .to_owned(),
        );
        return entry;
    }
    match &gateway.report {
        Report::Absent | Report::OfAnotherPod { .. } => {
            set(&mut entry, SyncStatus::Pending, "waiting for the agent's first report".to_owned());
        }
        Report::Foreign(whose) | Report::Overwritten(whose) => {
            entry.reason = Some("StatusNameCollision".to_owned());
            let what = match gateway.report {
                Report::Foreign(_) => "is that of",
                _ => "was written by the agent of",
            };
            let message = format!(
                "nothing is known of this agent: configmap {}, in which it has to report, {what} {whose}, whose names \
                 join to the same one; give one of the pods or Stokers another name",
                gateway.status_map
            );
            set(&mut entry, SyncStatus::Error, message);
        }
        Report::Unreadable(error) => {
            entry.reason = Some("ProtocolError".to_owned());
            set(&mut entry, SyncStatus::Error, format!("the agent's report cannot be read: {error}"));
        }
        Report::Heard { report, silent_for } => match &report.status {
            None => set(&mut entry, SyncStatus::Pending, "waiting for the agent's first report".to_owned()),
            Some(status) => {
                take(&mut entry, status);
                judge(&mut entry, gateway, status, metadata);
                let heartbeat = report.heartbeat.map(|at| whole_second(at).to_string());
                // A restart of this process has forgotten how long the silence is: what was stale stays so until the
                // agent is heard again.
                let message = format!(
                    "the agent has been silent since {}; look at its container and at the node",
                    heartbeat.as_deref().unwrap_or("it started")
                );
                let was_stale =
                    before.is_some_and(|b| b.sync_status == SyncStatus::Stale && b.message == message);
                if *silent_for >= patience.0 || was_stale {
                    entry.reason = None;
                    set(&mut entry, SyncStatus::Stale, message);
                }
            }
        },
    }
    let mut remarks: Vec<String> = gateway.annotation_errors.iter().map(ToString::to_string).collect();
    if gateway.annotations.ref_override.is_some() {
        remarks
            .push("annotation stoker.io/ref-override is not followed by this version; remove it".to_owned());
    }
    for remark in remarks {
        let separator = if entry.message.is_empty() { "" } else { "; " };
        entry.message.push_str(separator);
        entry.message.push_str(&remark);
    }
    entry.message = cap(entry.message, 1024);
    entry
}

/// What the agent says, within the bounds of the schema: an agent is not trusted to keep them.
fn take(entry: &mut GatewayEntry, status: &AgentStatus) {
    let short = |text: &Option<String>, limit| text.clone().map(|t| cap(t, limit));
    entry.sync_status = status.sync_status;
    entry.reason = short(&status.reason, 64);
    entry.message = cap(status.message.clone(), 1024);
    entry.synced_commit = short(&status.synced_commit, 64);
    entry.synced_ref = short(&status.synced_ref, 255);
    entry.last_sync_time = status.last_sync_time.as_ref().map(|t| Time(whole_second(t.0)));
    entry.last_sync_duration =
        status.last_sync_millis.map(|millis| Period(Duration::from_millis(millis)).to_string());
    entry.files_changed = status.files_changed.map(|f: FilesChanged| f);
    entry.projects_synced = status.projects_synced.iter().take(256).map(|p| cap(p.clone(), 255)).collect();
    entry.last_scan_result = short(&status.last_scan_result, 512);
    entry.agent_version = short(&status.agent_version, 64);
    entry.history = status.history.iter().take(MAX_HISTORY).map(history).collect();
}

fn history(entry: &HistoryEntry) -> HistoryEntry {
    HistoryEntry {
        commit: cap(entry.commit.clone(), 64),
        r#ref: entry.r#ref.clone().map(|r| cap(r, 255)),
        at: Time(whole_second(entry.at.0)),
        result: cap(entry.result.clone(), 64),
        files_changed: entry.files_changed,
    }
}

/// Synced means: the very commit and profile that are wanted now.
fn judge(entry: &mut GatewayEntry, gateway: &Gateway, status: &AgentStatus, metadata: Option<&Metadata>) {
    if matches!(status.sync_status, SyncStatus::Stale | SyncStatus::MissingSidecar) {
        // Not an agent's to say.
        entry.sync_status = SyncStatus::Pending;
    }
    if entry.sync_status != SyncStatus::Synced {
        return;
    }
    let missing = match metadata.and_then(|metadata| behind(gateway, status, metadata)) {
        None => return,
        Some(Behind::Commit) => "wanted commit",
        Some(Behind::Profile) => "edited profile",
    };
    entry.sync_status = SyncStatus::Syncing;
    entry.message = format!("the agent has not yet reported the {missing}");
}
