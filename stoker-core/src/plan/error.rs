//! Why there is no plan.

use crate::fault::{Category, Fault, Retry};
use crate::json::JsonError;
use crate::path::{PathError, RelPathBuf};
use crate::pattern::PatternError;
use crate::source::{EntryKind, SourceError};
use crate::spec::{MappingKind, MaxDeletes};
use crate::template::TemplateError;
use crate::transform::ContentError;

/// Why no plan could be made. Nothing has been written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A template in a mapping cannot be rendered.
    #[error("{origin}: {field} {value:?}: {error}")]
    Template {
        /// The mapping.
        origin: String,
        /// Its field.
        field: &'static str,
        /// The value of the field.
        value: String,
        /// What is wrong.
        error: TemplateError,
    },
    /// A path in a mapping breaks a rule.
    #[error("{origin}: {field} {value:?}: {error}")]
    Path {
        /// The mapping.
        origin: String,
        /// Its field.
        field: &'static str,
        /// The value, rendered.
        value: String,
        /// The rule.
        error: PathError,
    },
    /// A JSON path in a patch cannot be read.
    #[error("{origin}: {error}")]
    JsonPath {
        /// The mapping or edit.
        origin: String,
        /// What is wrong.
        error: JsonError,
    },
    /// A pattern cannot be compiled.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A required source is missing.
    #[error("{origin}: source {source_path} does not exist in this revision, and the mapping is required")]
    MissingSource {
        /// The mapping.
        origin: String,
        /// The missing path.
        source_path: RelPathBuf,
    },
    /// The source is a file where a directory was announced, or the reverse.
    #[error("{origin}: source {source_path} is a {}, but the mapping says type: {}", kind_name(*.found), kind_name(*.wanted))]
    WrongKind {
        /// The mapping.
        origin: String,
        /// The path.
        source_path: RelPathBuf,
        /// What the mapping says.
        wanted: MappingKind,
        /// What is there.
        found: MappingKind,
    },
    /// A file is mapped onto the root.
    #[error("{origin}: {source_path} is a file and cannot become the root; name the file in the destination")]
    FileOntoRoot {
        /// The mapping.
        origin: String,
        /// The file.
        source_path: RelPathBuf,
    },
    /// A mapping's destination is protected.
    #[error("{origin}: destination {destination} is never written: {reason}")]
    ProtectedDestination {
        /// The mapping.
        origin: String,
        /// The destination.
        destination: RelPathBuf,
        /// Whose it is.
        reason: String,
    },
    /// An entry of the source is neither a file nor a directory.
    #[error("{origin}: {path} is a {}; only files and directories can be synced, exclude it or remove it", entry_name(*.kind))]
    UnsupportedEntry {
        /// The mapping.
        origin: String,
        /// The entry.
        path: RelPathBuf,
        /// What it is.
        kind: EntryKind,
    },
    /// The name of an entry of the source breaks a rule.
    #[error("{origin}: in {directory}: {error}")]
    Entry {
        /// The mapping.
        origin: String,
        /// The directory in the source.
        directory: RelPathBuf,
        /// The rule.
        error: PathError,
    },
    /// One mapping makes a file where another one needs a directory.
    #[error(
        "{path} is a file by {file} and a directory by {directory}, which brings {below}; exclude one of the two or \
         change a destination"
    )]
    FileAndDirectory {
        /// The path that is both.
        path: RelPathBuf,
        /// The mapping that brings it as a file.
        file: String,
        /// The file below it.
        below: RelPathBuf,
        /// The mapping that brings the file below it.
        directory: String,
    },
    /// Two paths that some file system takes for one.
    #[error("{first} and {second} differ only by letter case or Unicode normalisation; rename one of them")]
    Twins {
        /// One of them.
        first: RelPathBuf,
        /// The other.
        second: RelPathBuf,
    },
    /// One file is larger than allowed.
    #[error("{origin}: {path} has {size} bytes; the limit for one file is {limit}")]
    FileTooLarge {
        /// The mapping that brings it.
        origin: String,
        /// The file.
        path: RelPathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// More files than allowed.
    #[error("more than {limit} files are mapped, the limit of this profile")]
    TooManyFiles {
        /// The limit.
        limit: u64,
    },
    /// More bytes than allowed.
    #[error("{total} bytes are to be written; the limit of this profile is {limit}")]
    TooManyBytes {
        /// The bytes that are mapped, or that they have become on their way.
        total: u64,
        /// The limit.
        limit: u64,
    },
    /// The plan deletes more than the guard allows.
    #[error(
        "the plan deletes {deletes} of {owned} files ({foreign} of others); the guard stops at more than {} files or {} \
         percent",
        .guard.count, .guard.percent
    )]
    MassDeletion {
        /// Files to be deleted.
        deletes: u64,
        /// How many of them the engine did not write.
        foreign: u64,
        /// Files owned, and those to be deleted that are not.
        owned: u64,
        /// The guard.
        guard: MaxDeletes,
        /// The digest an approval names.
        digest: String,
    },
    /// Not enough space for what is to be written.
    #[error(
        "{needed} bytes and {inodes} inodes are needed, but {free} bytes and {free_inodes} inodes are free; the history \
         holds {history} bytes, and too little of it can go because the newest transaction stays; make room on the data \
         volume or enlarge it"
    )]
    InsufficientSpace {
        /// Bytes needed, with a margin.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Inodes needed.
        inodes: u64,
        /// Inodes free.
        free_inodes: u64,
        /// Bytes that the history holds.
        history: u64,
    },
    /// Something of somebody else is in the way of a file or directory that the plan needs.
    #[error(
        "{path} is wanted as a {wanted}, but {found} is there that Stoker did not put there; move it away"
    )]
    InTheWay {
        /// The path.
        path: RelPathBuf,
        /// What is wanted.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The path lies on another file system than the destination.
    #[error(
        "{path} is on another volume than the data directory; files there cannot be replaced atomically, exclude it"
    )]
    OtherVolume {
        /// The path.
        path: RelPathBuf,
    },
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A content cannot go live.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The destination could not be read.
    #[error("cannot read {path} in the destination")]
    Live {
        /// The path.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

fn kind_name(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::Dir => "dir",
        MappingKind::File => "file",
    }
}

fn entry_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory => "directory",
        EntryKind::File | EntryKind::Executable => "file",
        EntryKind::Symlink => "symbolic link",
        EntryKind::Submodule => "submodule",
        EntryKind::Other => "special file",
    }
}

impl PlanError {
    /// The path it is about, when it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&RelPathBuf> {
        match self {
            Self::MissingSource { source_path, .. }
            | Self::WrongKind { source_path, .. }
            | Self::FileOntoRoot { source_path, .. } => Some(source_path),
            Self::ProtectedDestination { destination, .. } => Some(destination),
            Self::UnsupportedEntry { path, .. }
            | Self::FileTooLarge { path, .. }
            | Self::FileAndDirectory { path, .. }
            | Self::InTheWay { path, .. }
            | Self::OtherVolume { path }
            | Self::Live { path, .. } => Some(path),
            Self::Entry { directory, .. } => Some(directory),
            Self::Twins { second, .. } => Some(second),
            Self::Content(error) => error.path(),
            _ => None,
        }
    }

    /// Whether a guard stopped the plan, rather than a mistake or a failure.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::MassDeletion { .. })
    }
}

impl Fault for PlanError {
    fn category(&self) -> Category {
        match self {
            Self::Template { .. } => Category::new("TemplateError"),
            Self::Path { .. } | Self::Entry { .. } => Category::new("InvalidPath"),
            Self::JsonPath { .. } => Category::new("PatchFailed"),
            Self::Pattern(error) => error.category(),
            Self::MissingSource { .. } => Category::new("SourceMissing"),
            Self::WrongKind { .. } | Self::FileOntoRoot { .. } => Category::new("MappingTypeMismatch"),
            Self::ProtectedDestination { .. } => Category::new("ProtectedPath"),
            Self::UnsupportedEntry { .. } => Category::new("UnsupportedEntry"),
            Self::FileAndDirectory { .. } => Category::new("MappingConflict"),
            Self::Twins { .. } => Category::new("AmbiguousPaths"),
            Self::FileTooLarge { .. } => Category::new("FileTooLarge"),
            Self::TooManyFiles { .. } | Self::TooManyBytes { .. } => Category::new("LimitExceeded"),
            Self::MassDeletion { .. } => Category::new("MassDeletionBlocked"),
            Self::InsufficientSpace { .. } => Category::new("InsufficientSpace"),
            Self::InTheWay { .. } => Category::new("PathInTheWay"),
            Self::OtherVolume { .. } => Category::new("UnsupportedVolume"),
            Self::Source(error) => error.category(),
            Self::Content(error) => error.category(),
            Self::Live { .. } => Category::new("DestinationUnreadable"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::InsufficientSpace { .. } | Self::Live { .. } | Self::InTheWay { .. } => Retry::Backoff,
            Self::Source(error) => error.retry(),
            Self::Content(error) => error.retry(),
            _ => Retry::AfterChange,
        }
    }
}
