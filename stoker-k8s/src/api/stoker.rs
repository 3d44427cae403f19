//! `Stoker`: where the configuration of one namespace's gateways comes from.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::git::{GitSpec, SecretKeyRef};
use super::profile::{DesignerSessionPolicy, Mapping, pattern_rule};
use super::scalar::{ByteSize, Period};
use super::schema::{atomic, cel, null_is_absent, nullable, quantities, strings, vars};
use super::status::StokerStatus;

/// Where the configuration of one namespace's gateways comes from.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "stoker.io",
    version = "v1alpha1",
    kind = "Stoker",
    plural = "stokers",
    shortname = "stk",
    category = "stoker-io",
    namespaced,
    status = "StokerStatus",
    derive = "PartialEq",
    doc = "Stoker keeps the Ignition gateways of a namespace in step with a git repository.",
    printcolumn(name = "Ref", type_ = "string", json_path = ".status.lastSyncRef"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.shortCommit"),
    printcolumn(name = "Gateways", type_ = "string", json_path = ".status.gatewaySummary"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Last Sync", type_ = "date", json_path = ".status.lastSyncTime", priority = 1),
    printcolumn(name = "Repo", type_ = "string", json_path = ".spec.git.repo", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct StokerSpec {
    /// The repository and the ref that the gateways follow.
    pub git: GitSpec,
    /// How agents reach their gateway.
    pub gateway: GatewaySpec,
    /// How often the ref is looked up, beside deliveries.
    #[serde(default)]
    pub polling: Polling,
    /// Who may trigger this resource from outside.
    #[serde(default)]
    pub webhook: WebhookSpec,
    /// Template variables for all gateways.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "vars")]
    pub vars: BTreeMap<String, String>,
    /// Number of the site: `{{.SiteNumber}}` in templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub site_number: Option<String>,
    /// What every gateway gets, before its profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// Patterns of files that are neither written nor deleted. The built-in protections hold whatever is written here.
    #[serde(default = "default_excludes")]
    #[schemars(transform = strings(128, 512), transform = pattern_rule())]
    pub exclude_patterns: Vec<String>,
    /// How the gateways are treated.
    #[serde(default)]
    pub ignition: IgnitionSpec,
    /// Emergency stop: no gateway of this resource is written. Running gateways and starting pods are not disturbed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The sidecar.
    #[serde(default)]
    pub agent: AgentSpec,
    /// Guards.
    #[serde(default)]
    pub deployment: DeploymentSpec,
}

/// The patterns that apply unless a Stoker lists its own.
#[must_use]
pub fn default_excludes() -> Vec<String> {
    ["**/.git/", "**/.gitkeep", "**/.resources/**"].map(str::to_owned).to_vec()
}

/// How agents reach their gateway: over the pod's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Port of the gateway's web server.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Whether that port speaks https. A self-signed certificate is accepted on the loopback.
    #[serde(default = "default_true")]
    pub tls: bool,
    /// The gateway's API key, `name:secret`.
    pub api_key_secret_ref: ApiKeyRef,
}

/// A Secret with an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[serde(default = "default_api_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// How often the ref is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Polling {
    /// Off: only deliveries and edits lead to a look-up.
    pub enabled: bool,
    /// Time between two look-ups, 5s to 24h.
    #[schemars(transform = cel(
        "duration(self) >= duration('5s') && duration(self) <= duration('24h')",
        "write an interval between 5s and 24h, like 60s",
    ))]
    pub interval: Period,
}

impl Default for Polling {
    fn default() -> Self {
        Self { enabled: true, interval: Period::seconds(60) }
    }
}

/// Who may trigger this resource from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookSpec {
    /// Off: every delivery for this resource is refused.
    pub enabled: bool,
    /// Secret that signs deliveries (HMAC). During a rotation the key with the suffix .previous is accepted, too.
    /// Without it every delivery is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Patterns of refs that a delivery may request. Empty: deliveries trigger a look-up and choose nothing.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = nullable, transform = strings(64, 255))]
    pub allowed_refs: Vec<String>,
}

impl Default for WebhookSpec {
    fn default() -> Self {
        Self { enabled: true, secret_ref: None, allowed_refs: Vec::new() }
    }
}

/// What every gateway gets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shared {
    /// Mappings before those of the profile or the service.
    #[schemars(length(min = 1), transform = atomic(64))]
    pub mappings: Vec<Mapping>,
}

/// How the gateways are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IgnitionSpec {
    /// What to do when a designer session is open.
    pub designer_session_policy: DesignerSessionPolicy,
    /// Longest wait for designers to leave, at most 24h.
    #[schemars(transform = cel("duration(self) <= duration('24h')", "write a wait of at most 24h, like 5m"))]
    pub designer_wait_timeout: Period,
    /// Set systemName of every gateway to this template, like `site{{.SiteNumber}}-{{.GatewayName}}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub system_name_template: Option<String>,
}

impl Default for IgnitionSpec {
    fn default() -> Self {
        Self {
            designer_session_policy: DesignerSessionPolicy::default(),
            designer_wait_timeout: Period::seconds(300),
            system_name_template: None,
        }
    }
}

/// The sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSpec {
    /// Its image; what is absent comes from the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<AgentImage>,
    /// Its resources; what is absent comes from the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<AgentResources>,
    /// How long a gateway's start may wait for it.
    pub startup: Startup,
    /// Size limit of its git cache.
    pub repo_size_limit: ByteSize,
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self { image: None, resources: None, startup: Startup::default(), repo_size_limit: ByteSize(2 << 30) }
    }
}

/// A container image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentImage {
    /// Repository, like `registry.example.com/stoker-agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub repository: Option<String>,
    /// Tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tag: Option<String>,
    /// Digest; wins over the tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[schemars(transform = cel("self.matches('^sha256:[0-9a-f]{64}$')", "write a digest as sha256: and 64 hex digits"))]
    pub digest: Option<String>,
    /// When the image is pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

/// Requests and limits of the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentResources {
    /// What it is promised.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    #[serde(deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// How long a gateway's start may wait for the first sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Startup {
    /// Longest wait, 1s to 1h.
    #[schemars(transform = cel(
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
        "write a timeout between 1s and 1h, like 5m",
    ))]
    pub timeout: Period,
    /// After that: start on the last good data, or keep waiting.
    pub on_timeout: OnTimeout,
}

impl Default for Startup {
    fn default() -> Self {
        Self { timeout: Period::seconds(300), on_timeout: OnTimeout::default() }
    }
}

/// What happens when the first sync takes longer than the timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnTimeout {
    /// The gateway starts on what its data directory holds.
    #[default]
    UseLastGood,
    /// The gateway waits.
    Block,
}

/// Guards of a sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// Deletions that one sync may carry out; more stop it before any write.
    pub max_deletes: MaxDeletes,
}

/// Deletions that one sync may carry out: whichever bound is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MaxDeletes {
    /// Most files.
    #[schemars(range(min = 0, max = 10_000_000))]
    pub count: u64,
    /// Most files, as a percentage of those that Stoker wrote.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u8,
}

impl Default for MaxDeletes {
    fn default() -> Self {
        Self { count: 200, percent: 50 }
    }
}

fn default_port() -> u16 {
    8043
}

fn default_true() -> bool {
    true
}

fn default_api_key() -> String {
    "apiKey".to_owned()
}
