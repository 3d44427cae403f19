//! `stoker-status-<cr>-<pod>`: what one agent says about itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::ProtocolError;
use crate::api::{FilesChanged, HistoryEntry, SyncStatus};

/// Longest `report`, in bytes of JSON.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;

/// What one agent says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentReport {
    /// Where it stands. Absent until the agent has spoken.
    pub status: Option<AgentStatus>,
    /// When it last spoke (its own clock).
    pub heartbeat: Option<Timestamp>,
    /// What the last plan changed or would change.
    pub report: Option<DiffReport>,
}

/// Where an agent stands: the fields of `discoveredGateways[]` that only it can know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentStatus {
    /// The `Stoker` that the agent belongs to.
    pub cr: String,
    /// The pod that it is in. Two pairs of `Stoker` and pod can have the same ConfigMap for their reports
    /// ([`names::status`](crate::names::status)): a report counts only for whom it names.
    pub pod: String,
    /// Pending, Syncing, Synced, Held or Error.
    pub sync_status: SyncStatus,
    /// Why, when Held or Error: one CamelCase word (the category of the fault, or what holds).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The commit that the agent was told to run when it wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_commit: Option<String>,
    /// The trigger that the agent has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// The commit that is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_commit: Option<String>,
    /// The ref that it was reached by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_ref: Option<String>,
    /// When the gateway confirmed it (the agent's clock).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,
    /// How long that sync took, in milliseconds: from the start of the fetch to the gateway's confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_millis: Option<u64>,
    /// Where those milliseconds went, by phase (`fetch`, `plan`, `apply`, `scan`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub phase_millis: BTreeMap<String, u64>,
    /// What that sync changed; of a dry run, what it would have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_changed: Option<FilesChanged>,
    /// These are the results of a dry run: nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// When that dry run was (the agent's clock).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluated_at: Option<Time>,
    /// Projects that the gateway confirmed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub projects_synced: Vec<String>,
    /// What the gateway answered to the last scan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scan_result: Option<String>,
    /// Version of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// [`revision`](crate::compile::CompiledProfile::revision) of the profile (or base) that `synced_commit` was
    /// synced with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_revision: Option<String>,
    /// The last syncs, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
}

/// What a plan changed or would change, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiffReport {
    /// The commit.
    pub commit: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// The changes, in order of path.
    pub changes: Vec<ChangeLine>,
    /// Changes that did not fit: "…and N more".
    pub more: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeLine {
    /// Path below the data directory.
    pub path: String,
    /// `add`, `modify`, `delete`, `adopt`, `restore`.
    pub action: String,
    /// Which mapping and rule led to it.
    #[serde(default)]
    pub reason: String,
}

impl AgentReport {
    /// As the data of a ConfigMap. A report that is too long is cut, and says by how much.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let mut data = BTreeMap::new();
        if let Some(status) = &self.status {
            data.insert("status".to_owned(), json(status));
        }
        if let Some(heartbeat) = self.heartbeat {
            data.insert("heartbeat".to_owned(), heartbeat.to_string());
        }
        if let Some(report) = &self.report {
            data.insert("report".to_owned(), report.to_json());
        }
        data
    }

    /// From the data of a ConfigMap. Empty data is an agent that has not spoken yet.
    ///
    /// # Errors
    /// When a value is not what its key promises.
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, ProtocolError> {
        let get = |key: &str| data.get(key).map(String::as_str).filter(|v| !v.is_empty());
        Ok(Self {
            status: get("status").map(|text| from_json("status", text)).transpose()?,
            heartbeat: get("heartbeat")
                .map(|text| {
                    text.parse().map_err(|_| ProtocolError::Value {
                        key: "heartbeat",
                        value: text.chars().take(80).collect(),
                    })
                })
                .transpose()?,
            report: get("report").map(|text| from_json("report", text)).transpose()?,
        })
    }
}

impl AgentStatus {
    /// Whether this is what the agent of `pod` says, as one of `cr`.
    #[must_use]
    pub fn is_of(&self, cr: &str, pod: &str) -> bool {
        self.cr == cr && self.pod == pod
    }
}

impl DiffReport {
    /// As JSON of at most [`MAX_REPORT_BYTES`]: what does not fit is counted in `more`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let whole = json(self);
        if whole.len() <= MAX_REPORT_BYTES {
            return whole;
        }
        let mut cut = Self { changes: Vec::new(), warnings: Vec::new(), ..self.clone() };
        // Room for the counter and the brackets that come with the first change.
        let mut room = MAX_REPORT_BYTES.saturating_sub(json(&cut).len() + 64);
        for warning in &self.warnings {
            let size = json(warning).len() + 1;
            if size > room / 2 {
                break;
            }
            room -= size;
            cut.warnings.push(warning.clone());
        }
        for change in &self.changes {
            let size = json(change).len() + 1;
            if size > room {
                break;
            }
            room -= size;
            cut.changes.push(change.clone());
        }
        cut.more = self.more + (self.changes.len() - cut.changes.len()) as u64;
        json(&cut)
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn from_json<T: for<'de> Deserialize<'de>>(key: &'static str, text: &str) -> Result<T, ProtocolError> {
    serde_json::from_str(text).map_err(|source| ProtocolError::Json { key, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let report = AgentReport {
            status: Some(AgentStatus {
                sync_status: SyncStatus::Synced,
                synced_commit: Some("a".repeat(40)),
                last_sync_millis: Some(812),
                ..AgentStatus::default()
            }),
            heartbeat: Some("2026-03-01T10:00:00Z".parse().unwrap()),
            report: Some(DiffReport { commit: "a".repeat(40), more: 3, ..DiffReport::default() }),
        };
        assert_eq!(AgentReport::from_data(&report.to_data()).unwrap(), report);
    }

    #[test]
    fn an_agent_that_has_not_spoken_is_no_error_and_nonsense_is_one() {
        assert_eq!(AgentReport::from_data(&BTreeMap::new()).unwrap(), AgentReport::default());
        for (key, value) in [("status", "{"), ("heartbeat", "soon"), ("report", "7")] {
            let data = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert!(AgentReport::from_data(&data).unwrap_err().to_string().contains(key));
        }
    }

    #[test]
    fn a_long_report_is_cut_and_counts_what_is_missing() {
        let changes: Vec<ChangeLine> = (0..10_000)
            .map(|i| ChangeLine {
                path: format!("projects/line/{i:0>60}"),
                action: "add".into(),
                reason: String::new(),
            })
            .collect();
        let report =
            DiffReport { commit: "c".into(), changes, warnings: vec!["w".into()], ..DiffReport::default() };
        let text = report.to_json();
        assert!(text.len() <= MAX_REPORT_BYTES, "{}", text.len());
        let read: DiffReport = serde_json::from_str(&text).unwrap();
        assert_eq!(read.changes.len() as u64 + read.more, 10_000);
        assert!(read.changes.len() > 1000 && read.warnings == ["w"]);
    }
}
