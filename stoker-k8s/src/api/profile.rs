//! `SyncProfile`: what goes where, for one gateway role.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::ByteSize;
use super::schema::{
    atomic, cel, keyed_by, null_is_absent, nullable, patch_values, pod_labels, strings, vars,
};

/// What goes where, for one gateway role.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "stoker.io",
    version = "v1alpha1",
    kind = "SyncProfile",
    plural = "syncprofiles",
    shortname = "sp",
    category = "stoker-io",
    namespaced,
    status = "SyncProfileStatus",
    derive = "PartialEq",
    doc = "SyncProfile says which files of a repository go where on the gateways of one role.",
    printcolumn(
        name = "Mappings",
        type_ = "string",
        json_path = ".spec.mappings[*].destination",
        priority = 1
    ),
    printcolumn(name = "Gateways", type_ = "integer", json_path = ".status.gatewayCount"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].message"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SyncProfileSpec {
    /// What to copy, in order: a later mapping wins where two write the same file.
    #[schemars(length(min = 1), transform = atomic(128))]
    pub mappings: Vec<Mapping>,
    /// Profiles whose mappings come before those of this one and after the shared mappings of the Stoker. Their mappings
    /// only, and those that they list themselves: an included profile cannot include others.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = nullable, transform = atomic(16))]
    #[schemars(transform = cel(
        "self.all(i, self.exists_one(j, j.name == i.name))",
        "a profile is included twice: write each name once",
    ))]
    pub include_mappings_from: Vec<Include>,
    /// Resources of one deployment mode, on top of the mappings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_mode: Option<DeploymentMode>,
    /// Patterns of files that are neither written nor deleted, in addition to those of the Stoker.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = nullable, transform = strings(128, 512), transform = pattern_rule())]
    pub exclude_patterns: Vec<String>,
    /// Template variables; they win over the Stoker's.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "vars")]
    pub vars: BTreeMap<String, String>,
    /// Profiles whose gateways go to a new commit first: those of this one are held until all of theirs are in step.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = nullable, transform = atomic(16))]
    pub depends_on: Vec<Dependency>,
    /// How often the gateway is checked for drift, in seconds (default 30).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 3600))]
    pub sync_period: Option<u32>,
    /// What to do when a designer session is open; wins over the Stoker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub designer_session_policy: Option<DesignerSessionPolicy>,
    /// Report what a sync would change, and change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Hold the gateways of this profile as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Bounds on what this profile may bring.
    #[serde(default)]
    pub limits: Limits,
    /// What happens to files that the repository does not have: Owned deletes those that Stoker wrote, Mirror also all
    /// others below the destination of a directory mapping but the gateway's own, Never deletes nothing.
    #[serde(default)]
    pub prune: Prune,
}

/// Patterns that can never mean what their author hopes for.
pub(crate) fn pattern_rule() -> impl schemars::transform::Transform {
    cel(
        "self.all(p, !p.contains('//') && !p.matches('(^|/)\\\\.\\\\.(/|$)'))",
        "patterns match paths below the data directory: write them without .. and without empty parts, like **/tmp/ \
         or projects/*/test.json",
    )
}

/// One mapping: a file or directory of the repository and its place on the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(
    "!has(self.type) || self.type != 'dir' || !has(self.patches) || self.patches.all(p, has(p.file))",
    "a mapping of type dir needs patches[].file: write which file below the destination to patch",
))]
#[schemars(transform = cel(
    "!has(self.type) || self.type != 'file' || !has(self.filePattern)",
    "filePattern selects files of a directory: remove it, or write type: dir",
))]
pub struct Mapping {
    /// Path in the repository, relative to its root. May hold template variables.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "!self.startsWith('/') && !self.contains('\\\\') && !self.matches('(^|/)\\\\.\\\\.(/|$)')",
        "write source relative to the root of the repository, like services/area/projects: no leading slash, no .., \
         no backslash",
    ))]
    #[schemars(transform = cel("!self.matches('(^|/)\\\\.git(/|$)')", "git's own directory cannot be mapped"))]
    pub source: String,
    /// Path in the gateway's data directory, relative to it; `.` is the directory itself. May hold template variables.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "!self.startsWith('/') && !self.contains('\\\\') && !self.matches('(^|/)\\\\.\\\\.(/|$)')",
        "write destination relative to the data directory, like projects or config/resources/core: no leading slash, \
         no .., no backslash",
    ))]
    #[schemars(transform = cel(
        "!self.matches('(^|/)(\\\\.git|\\\\.resources)(/|$)') && !self.matches('^(\\\\./)*(\\\\.stoker|config/local|\
         config/resources/local|config/ignition|var|db|metricsdb|logs|jar-cache|autobackup|certificate-activation)(/|$)')",
        "this part of the data directory belongs to the gateway: write a destination like projects or \
         config/resources/core",
    ))]
    pub destination: String,
    /// dir or file. Taken from the repository when absent, checked when given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MappingType>,
    /// A missing source is an error. Otherwise the mapping is skipped and deletes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Render template variables in the contents, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Values to set in JSON files on their way.
    #[serde(default, deserialize_with = "null_is_absent", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = nullable, transform = atomic(32))]
    pub patches: Vec<Patch>,
    /// Which files of a directory are taken: a pattern below the mapping's destination, like `*.json` or `views/**`.
    /// All when absent. May hold template variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[schemars(transform = cel(
        "!self.startsWith('!') && !self.contains('//') && !self.matches('(^|/)\\\\.\\\\.(/|$)')",
        "write which files to take, like *.json or views/**: no leading !, no .., no empty parts; leave files out by \
         excludePatterns",
    ))]
    pub file_pattern: Option<String>,
    /// The largest file that this mapping may bring, 1 to 256Mi (default 64Mi). A larger one stops the sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = cel(
        "self.matches('^0*[1-9]') && !self.matches('[GT]')",
        "write a size from 1 to 256Mi, like 10Mi",
    ))]
    pub max_size: Option<ByteSize>,
    /// For which gateways the mapping is there; for all when absent. Where it is not there, what it brought is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// For which gateways a mapping is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct When {
    /// Labels that the gateway's pod must have, all of them. Read while the gateway runs: a label that changes is
    /// followed without a restart.
    #[schemars(schema_with = "pod_labels")]
    pub pod_labels: BTreeMap<String, String>,
}

impl Mapping {
    /// A plain mapping of `source` to `destination`.
    #[must_use]
    pub fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            kind: None,
            required: false,
            template: false,
            patches: Vec::new(),
            file_pattern: None,
            max_size: None,
            when: None,
        }
    }
}

/// Values to set in one JSON file, or in those that a pattern names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Patch {
    /// Pattern of files below the mapping's destination; absent in a mapping of one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub file: Option<String>,
    /// Values by JSON path. Texts may hold template variables.
    #[schemars(schema_with = "patch_values")]
    pub set: BTreeMap<String, serde_json::Value>,
}

/// What a mapping's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MappingType {
    /// A directory and all below it.
    Dir,
    /// One file.
    File,
}

/// Resources of one deployment mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentMode {
    /// Name of the mode.
    #[schemars(length(min = 1, max = 128))]
    #[schemars(transform = cel(
        "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$') && !(self in ['core', 'external', 'local', 'system'])",
        "write the name of a deployment mode: letters, digits, dashes; not core, external, local or system",
    ))]
    pub name: String,
    /// Path of the mode's resources in the repository. May hold template variables.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "!self.startsWith('/') && !self.contains('\\\\') && !self.matches('(^|/)(\\\\.\\\\.|\\\\.git)(/|$)')",
        "write source relative to the root of the repository: no leading slash, no .., no backslash",
    ))]
    pub source: String,
    /// Overlay merges the resources onto config/resources/core; Native writes them to the mode's own collection.
    #[serde(default)]
    pub strategy: ModeStrategy,
}

/// A profile whose mappings are taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Include {
    /// Name of the `SyncProfile`, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A profile whose gateways go first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Name of the `SyncProfile`, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub profile_name: String,
    /// What its gateways have to be.
    #[serde(default)]
    pub condition: DependencyCondition,
}

/// What the gateways of a dependency have to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DependencyCondition {
    /// At the wanted commit, confirmed.
    #[default]
    Synced,
}

/// Where the resources of a deployment mode go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModeStrategy {
    /// Onto `config/resources/core`.
    #[default]
    Overlay,
    /// Into the mode's own collection.
    Native,
}

/// What to do when a designer session is open on a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DesignerSessionPolicy {
    /// Hold until the session ends.
    Wait,
    /// Sync all the same, with a warning.
    #[default]
    Proceed,
    /// Refuse.
    Fail,
}

/// What happens to files that the repository does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Prune {
    /// Those that Stoker wrote are deleted.
    #[default]
    Owned,
    /// All below the destination of a directory mapping are deleted, but protected and excluded ones and what the
    /// gateway makes itself.
    Mirror,
    /// Nothing is deleted.
    Never,
}

/// Bounds on what a profile may bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Most files.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_files: u64,
    /// Most bytes.
    pub max_total_size: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_files: 100_000, max_total_size: ByteSize(2 << 30) }
    }
}

/// What is known about a profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SyncProfileStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Gateway pods that name this profile.
    pub gateway_count: u32,
    /// What the last dry run would have changed, summed over the gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run_diff: Option<DryRunDiff>,
    /// Accepted, DependenciesMet, DryRunCompleted.
    #[schemars(transform = keyed_by("type", 16))]
    pub conditions: Vec<Condition>,
}

/// What a dry run would have changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DryRunDiff {
    /// Files that would be new.
    pub files_added: u64,
    /// Files that would change.
    pub files_modified: u64,
    /// Files that would go.
    pub files_deleted: u64,
    /// When the newest of these dry runs ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_evaluated: Option<Time>,
}
