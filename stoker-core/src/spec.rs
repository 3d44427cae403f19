//! What a sync should do: mappings, excludes, protections, guards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::path::RelPathBuf;
use crate::template::Variables;

/// Everything that decides, together with a source, what the destination should hold.
///
/// A plain value: the same spec and the same source give the same plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncSpec {
    /// What goes where. Later mappings win per file.
    pub mappings: Vec<Mapping>,
    /// The values that templates can name.
    pub variables: Variables,
    /// Patterns of paths that are neither written nor deleted; see [`crate::pattern`].
    pub excludes: Vec<String>,
    /// Paths that belong to somebody else, whatever a mapping or an exclude says.
    pub protections: Vec<Protection>,
    /// Edits to single files after their mapping's own transforms.
    pub edits: Vec<FileEdit>,
    /// Files that the destination needs and no mapping may bring.
    #[serde(default)]
    pub generated: Vec<Generated>,
    /// File names that become visible last within their directory, such as a manifest that lists its siblings.
    pub last_in_directory: Vec<String>,
    /// What happens to owned files that vanished from the source.
    pub prune: Prune,
    /// Patterns of what [`Prune::Mirror`] leaves to the program beside the engine. Judged below the destination of a
    /// mapping: one straight into such a place is mirrored all the same.
    #[serde(default)]
    pub mirror_keeps: Vec<String>,
    /// Patterns of files that their directory needs as long as it holds any other file: they are deleted together with
    /// all the rest of it, or not at all.
    #[serde(default)]
    pub needed_while_filled: Vec<String>,
    /// What happens to owned files that somebody else changed in the destination.
    #[serde(default)]
    pub policy: Policy,
    /// Other policies for some paths; the last pattern that matches decides.
    #[serde(default)]
    pub path_policies: Vec<PathPolicy>,
    /// The largest tree that is accepted.
    pub limits: Limits,
    /// The most deletions that one sync performs without an approval.
    pub max_deletes: MaxDeletes,
}

/// One mapping from the source to the destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// Where the mapping was written down, for messages: `profile area, mapping 2`.
    pub origin: String,
    /// The path in the source; a template.
    pub source: String,
    /// The path in the destination; a template.
    pub destination: String,
    /// What the source must be; taken from the source when absent.
    #[serde(default)]
    pub kind: Option<MappingKind>,
    /// Whether a missing source is an error. Otherwise the mapping is skipped and deletes nothing.
    #[serde(default)]
    pub required: bool,
    /// Which files of a directory, as a pattern relative to the mapping's destination; a template. All when absent.
    #[serde(default)]
    pub file_pattern: Option<String>,
    /// The largest file of this mapping, in bytes, in place of [`Limits::max_file_bytes`].
    #[serde(default)]
    pub max_file_bytes: Option<u64>,
    /// Whether file contents are templates.
    #[serde(default)]
    pub template: bool,
    /// Edits of JSON files, after templating.
    #[serde(default)]
    pub patches: Vec<Patch>,
}

impl SyncSpec {
    /// A spec without mappings, with every default.
    ///
    /// ```
    /// use stoker_core::{Mapping, Prune, SyncSpec};
    /// let spec = SyncSpec::new()
    ///     .map(Mapping::new("site", ".").required())
    ///     .map(Mapping::new("hosts/{{Host}}", "conf").template().files("*.conf"))
    ///     .exclude("logs/")
    ///     .protect("data/", "the program's own data")
    ///     .prune(Prune::Owned);
    /// assert_eq!(spec.mappings.len(), 2);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a mapping; it wins over the earlier ones. Without an origin, messages call it `mapping N`.
    #[must_use]
    pub fn map(mut self, mut mapping: Mapping) -> Self {
        if mapping.origin.is_empty() {
            mapping.origin = format!("mapping {}", self.mappings.len() + 1);
        }
        self.mappings.push(mapping);
        self
    }

    /// With the values that templates can name.
    #[must_use]
    pub fn variables(mut self, variables: Variables) -> Self {
        self.variables = variables;
        self
    }

    /// Adds a pattern of paths that are neither written nor deleted.
    #[must_use]
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.excludes.push(pattern.into());
        self
    }

    /// Adds a pattern of paths that belong to somebody else, whatever a mapping or an exclude says.
    #[must_use]
    pub fn protect(mut self, pattern: impl Into<String>, reason: impl Into<String>) -> Self {
        self.protections.push(Protection { pattern: pattern.into(), reason: reason.into() });
        self
    }

    /// With this treatment of owned files that vanished from the source.
    #[must_use]
    pub const fn prune(mut self, prune: Prune) -> Self {
        self.prune = prune;
        self
    }

    /// With this treatment of owned files that somebody else changed.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// With another policy for some paths; the last pattern that matches decides.
    #[must_use]
    pub fn policy_for(mut self, pattern: impl Into<String>, policy: Policy) -> Self {
        self.path_policies.push(PathPolicy { pattern: pattern.into(), policy });
        self
    }

    /// With this most deletions that one sync performs without an approval.
    #[must_use]
    pub const fn max_deletes(mut self, count: u64, percent: u8) -> Self {
        self.max_deletes = MaxDeletes { count, percent };
        self
    }
}

impl Mapping {
    /// From a path in the source to a path in the destination; `.` is all of it. Both are templates.
    #[must_use]
    pub fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self { source: source.into(), destination: destination.into(), ..Self::default() }
    }

    /// Called so in messages.
    #[must_use]
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// A missing source is an error.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// File contents are templates.
    #[must_use]
    pub const fn template(mut self) -> Self {
        self.template = true;
        self
    }

    /// Only files that match a pattern, relative to the destination.
    #[must_use]
    pub fn files(mut self, pattern: impl Into<String>) -> Self {
        self.file_pattern = Some(pattern.into());
        self
    }

    /// Sets one value in the JSON files that match a pattern, relative to the destination.
    #[must_use]
    pub fn set(
        mut self,
        files: impl Into<String>,
        path: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        let set = BTreeMap::from([(path.into(), value.into())]);
        self.patches.push(Patch { file: Some(files.into()), set });
        self
    }
}

/// What a mapping's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MappingKind {
    /// A directory and everything below it.
    Dir,
    /// One file.
    File,
}

/// Values to set in JSON files of a mapping.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// Which files, as a pattern relative to the mapping's destination; a template. All `*.json` when absent.
    #[serde(default)]
    pub file: Option<String>,
    /// JSON path to value. Strings are templates.
    pub set: BTreeMap<String, serde_json::Value>,
}

/// Values to set in one file of the destination, when a mapping brings that file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileEdit {
    /// Where the edit was asked for, for messages.
    pub origin: String,
    /// The file, relative to the destination directory.
    pub path: String,
    /// JSON path to value. Strings are templates.
    pub set: BTreeMap<String, serde_json::Value>,
}

/// A file that is made up when a directory gets files and no mapping brings it.
///
/// Where something is at its path already that the engine did not write, that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// Why it is needed, for messages.
    pub origin: String,
    /// The directory; the file is wanted only when the source brings files below it.
    pub needed_by: RelPathBuf,
    /// The file.
    pub path: RelPathBuf,
    /// Its content.
    pub content: String,
}

/// A path pattern that is never written, never deleted and never part of a diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// The pattern; see [`crate::pattern`].
    pub pattern: String,
    /// Whose it is, for messages.
    pub reason: String,
}

/// What happens to owned files that vanished from the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prune {
    /// They are deleted; files that this engine did not write stay.
    #[default]
    Owned,
    /// They are deleted, and so is everything else below the destination of a directory mapping that the source does
    /// not have, unless it is protected, excluded, in [`SyncSpec::mirror_keeps`], or not selected by the mapping's file
    /// pattern. What is deleted is kept in history first.
    Mirror,
    /// They stay.
    Never,
}

/// What happens to an owned file that somebody else changed or deleted in the destination.
///
/// Whatever the policy: what is there and equal to what is wanted is adopted, and no content is ever lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Policy {
    /// The source's content goes live; what was there is kept in history first.
    #[default]
    #[serde(rename = "gitWins")]
    SourceWins,
    /// The destination's content stays, also when the source changed or deleted the file.
    #[serde(rename = "gatewayWins")]
    DestinationWins,
    /// The destination's content stays and is reported as a conflict that a person has to resolve.
    #[serde(rename = "manual")]
    Manual,
    /// The destination's content stays and is reported as drift.
    #[serde(rename = "report")]
    Report,
}

impl Policy {
    /// The word of the configuration: `gitWins`, `gatewayWins`, `manual` or `report`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceWins => "gitWins",
            Self::DestinationWins => "gatewayWins",
            Self::Manual => "manual",
            Self::Report => "report",
        }
    }
}

/// A policy for some paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPolicy {
    /// Which paths; see [`crate::pattern`].
    pub pattern: String,
    /// What holds for them.
    pub policy: Policy,
}

/// The largest tree that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Files in the desired state.
    pub max_files: u64,
    /// Bytes in the desired state, and bytes that one sync writes after templates have grown them.
    pub max_total_bytes: u64,
    /// Bytes of one file, before and after its transforms. Refused before it is read, where the source knows sizes.
    pub max_file_bytes: u64,
}

impl Default for Limits {
    /// 100,000 files, 2 GiB, 64 MiB a file.
    fn default() -> Self {
        Self { max_files: 100_000, max_total_bytes: 2 << 30, max_file_bytes: 64 << 20 }
    }
}

/// The most deletions that one sync performs without an approval: more than `count`, or more than `percent` of the
/// owned files, stop the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxDeletes {
    /// Files.
    pub count: u64,
    /// Percent of the owned files, 0 to 100.
    pub percent: u8,
}

impl Default for MaxDeletes {
    /// 200 files, 50 percent.
    fn default() -> Self {
        Self { count: 200, percent: 50 }
    }
}
