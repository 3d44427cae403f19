//! What one sync did, for people and programs. The JSON form is part of the command line's contract.

use serde::Serialize;
use stoker_core::{Counts, Fault, Plan};

/// How a sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Everything was as it should be already.
    InSync,
    /// Files changed, and the gateway confirmed them (or there is no gateway to ask).
    Applied,
    /// Nothing was written, on request.
    DryRun,
    /// A guard, a pause or a designer stopped it.
    Held,
    /// It failed; what was live is live.
    Failed,
    /// Files are as they should be, but the gateway has not confirmed that it loaded them.
    Unconfirmed,
}

impl Outcome {
    /// The exit code of the command line.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::InSync | Self::Applied | Self::DryRun => 0,
            Self::Failed => 1,
            Self::Held => 3,
            Self::Unconfirmed => 4,
        }
    }
}

/// What one sync did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncReport {
    /// The commit that was to go live; empty when it could not be resolved.
    pub commit: String,
    /// The ref it was resolved from.
    pub r#ref: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How many files.
    pub files: Counts,
    /// Which files, and why.
    pub changes: Vec<Change>,
    /// The projects that the change touched.
    pub projects: Vec<String>,
    /// What the gateway was asked to load.
    pub scans: Vec<Scan>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub duration_ms: Durations,
    /// How many Designers were open, if that was asked.
    #[serde(skip)]
    pub designers: Option<usize>,
    /// What went wrong or holds it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// One changed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The path in the data directory.
    pub path: String,
    /// `create`, `update`, `restore`, `overwrite`, `adopt`, `setMode`, `delete` or `forget`.
    pub action: &'static str,
    /// Why: the mapping, and what the comparison found.
    pub reason: String,
    /// Whether the file is written or deleted.
    #[serde(skip)]
    pub writes: bool,
}

/// One scan of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    /// `config` or `projects`.
    pub kind: String,
    /// How it ended, in words.
    pub outcome: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Milliseconds per phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Durations {
    /// Ref to commit.
    pub resolve: u64,
    /// Commit to the local cache.
    pub fetch: u64,
    /// Comparing.
    pub plan: u64,
    /// Writing.
    pub apply: u64,
    /// The gateway loading it.
    pub scan: u64,
    /// All of it.
    pub total: u64,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The stable class.
    pub category: String,
    /// In words.
    pub message: String,
    /// The path it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl Failure {
    /// Describes an error with its causes.
    pub fn of(error: &(impl Fault + 'static)) -> Self {
        Self { category: error.category().to_string(), message: stoker_core::chain(error), path: None }
    }

    /// With the path it is about.
    #[must_use]
    pub fn at(self, path: Option<&stoker_core::RelPathBuf>) -> Self {
        Self { path: path.map(ToString::to_string), ..self }
    }
}

impl SyncReport {
    /// A report that nothing has been said in yet.
    #[must_use]
    pub fn new(commit: &str, git_ref: &str) -> Self {
        Self {
            commit: commit.to_owned(),
            r#ref: git_ref.to_owned(),
            outcome: Outcome::InSync,
            files: Counts::default(),
            changes: Vec::new(),
            projects: Vec::new(),
            scans: Vec::new(),
            warnings: Vec::new(),
            duration_ms: Durations::default(),
            designers: None,
            error: None,
        }
    }

    /// The report of something that went wrong.
    #[must_use]
    pub fn ended(mut self, outcome: Outcome, failure: Failure) -> Self {
        self.outcome = outcome;
        self.error = Some(failure);
        self
    }

    /// Takes over what a plan says.
    pub(crate) fn take(&mut self, plan: &Plan) {
        self.files = plan.counts;
        self.warnings.extend(plan.warnings.iter().map(ToString::to_string));
        self.changes = plan
            .actions
            .iter()
            .map(|action| Change {
                path: action.path.to_string(),
                action: action.kind.as_str(),
                writes: action.kind.writes(),
                reason: match plan.mapping_of(action).filter(|m| !m.is_empty()) {
                    Some(mapping) => format!("{}; {mapping}", action.reason),
                    None => action.reason.to_owned(),
                },
            })
            .collect();
    }
}
