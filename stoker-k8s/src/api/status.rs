//! What is known about a `Stoker` and its gateways.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{atomic, keyed_by};

/// Most gateways listed in one status; the rest is summarised, so that the object stays under 1 MiB.
pub const MAX_LISTED_GATEWAYS: usize = 500;
/// Most entries in a gateway's history.
pub const MAX_HISTORY: usize = 10;

/// What is known about a `Stoker` and its gateways.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StokerStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the look-up of the ref stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ref_resolution_status: Option<RefResolution>,
    /// The ref that the gateways are told to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_ref: Option<String>,
    /// The commit that the gateways are told to run: 40 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_commit: Option<String>,
    /// The first seven digits of `lastSyncCommit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_commit: Option<String>,
    /// When a gateway last confirmed a sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,
    /// The last value of the annotation `stoker.io/requested-at` that was acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handled_trigger: Option<String>,
    /// The last request for another ref, and whether it is still in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_ref: Option<RequestedRef>,
    /// The last delivery of a forge or pipeline that was accepted. What was refused or ignored is in the receiver's
    /// metrics and log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_delivery: Option<LastDelivery>,
    /// How many gateways run `lastSyncCommit`, like `4/5 synced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_summary: Option<String>,
    /// The gateway pods, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = keyed_by("podName", MAX_LISTED_GATEWAYS as u32))]
    pub discovered_gateways: Vec<GatewayEntry>,
    /// Gateways that `discoveredGateways` leaves out, because the list would be too long.
    #[serde(skip_serializing_if = "is_zero")]
    pub gateways_not_listed: u32,
    /// RefResolved, ProfilesValid, AllGatewaysSynced, SidecarInjected, AgentsReady, SSHHostKeyVerification, WebhookReady, Paused,
    /// Ready, Reconciling, Stalled.
    #[schemars(transform = keyed_by("type", 32))]
    pub conditions: Vec<Condition>,
}

/// Where the look-up of a ref stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RefResolution {
    /// Not yet tried.
    NotResolved,
    /// Being tried for the first time.
    Resolving,
    /// The commit is known.
    Resolved,
    /// The last try failed.
    Error,
}

/// A delivery that was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastDelivery {
    /// What the sender calls it; a redelivery has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The kind of sender: forgejo, gitea, gogs, github or generic.
    pub source: String,
    /// `Accepted`: the ref was or will be looked up because of it.
    pub outcome: String,
    /// When it was accepted (the receiver's clock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// A request for another ref than the spec's, by a delivery or by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestedRef {
    /// The value of the annotation `stoker.io/requested-at`.
    pub at: String,
    /// The ref that was asked for.
    pub r#ref: String,
    /// `spec.git.ref` when the request was first seen: an edit of it ends the request.
    pub spec_ref: String,
    /// Whether a newer edit of `spec.git.ref` has ended it.
    #[serde(default)]
    pub superseded: bool,
}

/// One gateway pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayEntry {
    /// Name of the gateway; replicas may share it.
    pub name: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// The `SyncProfile` that the pod names, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The directory that the pod names by stoker.io/service-path, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_path: Option<String>,
    /// Where its sync stands.
    pub sync_status: SyncStatus,
    /// Why, when it is Held, Error or Syncing: one word, such as paused or ConfigSyntaxError.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The commit it is told to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_commit: Option<String>,
    /// The commit it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_commit: Option<String>,
    /// The ref it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_ref: Option<String>,
    /// When it last confirmed a sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_time: Option<Time>,
    /// How long that sync took, from the start of the fetch to the confirmed scan, like `1s250ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync_duration: Option<String>,
    /// What that sync changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_changed: Option<FilesChanged>,
    /// Projects that the gateway confirmed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = atomic(256))]
    pub projects_synced: Vec<String>,
    /// What the gateway answered to the last scan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scan_result: Option<String>,
    /// Version of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// What a person should know.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The last syncs, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = atomic(MAX_HISTORY as u32))]
    pub history: Vec<HistoryEntry>,
}

/// Where the sync of a gateway stands.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum SyncStatus {
    /// Nothing was reported yet.
    #[default]
    Pending,
    /// On its way to the target commit.
    Syncing,
    /// The target commit is live, and the gateway confirmed it.
    Synced,
    /// Held back on purpose; the reason says by what.
    Held,
    /// The last try failed; the gateway runs what it ran before.
    Error,
    /// The agent has fallen silent.
    Stale,
    /// The pod asks for a sidecar and has none.
    MissingSidecar,
}

impl SyncStatus {
    /// Every value.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Syncing,
        Self::Synced,
        Self::Held,
        Self::Error,
        Self::Stale,
        Self::MissingSidecar,
    ];

    /// The name, as in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Syncing => "Syncing",
            Self::Synced => "Synced",
            Self::Held => "Held",
            Self::Error => "Error",
            Self::Stale => "Stale",
            Self::MissingSidecar => "MissingSidecar",
        }
    }
}

/// Files that a sync changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FilesChanged {
    /// New files.
    pub added: u64,
    /// Changed files.
    pub modified: u64,
    /// Deleted files.
    pub deleted: u64,
}

/// One past sync of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The commit.
    pub commit: String,
    /// The ref it was reached by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#ref: Option<String>,
    /// When the sync ended.
    pub at: Time,
    /// Applied, DriftRestored, or the reason of the failure.
    pub result: String,
    /// What it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_changed: Option<FilesChanged>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
