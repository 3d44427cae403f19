//! The plan: what a sync would change, and why. A value; making it writes nothing.

use std::fmt;

use serde::Serialize;

use crate::fault::{Category, Fault, Retry};
use crate::json::JsonError;
use crate::path::{PathError, RelPathBuf};
use crate::pattern::PatternError;
use crate::root::LiveFile;
use crate::source::{EntryKind, Source, SourceError};
use crate::spec::{MappingKind, MaxDeletes, SyncSpec};
use crate::state::{Head, Manifest, ManifestEntry};
use crate::template::TemplateError;
use crate::transform::{ContentError, Transform};

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
    /// Two paths that some file system takes for one.
    #[error("{first} and {second} differ only by letter case or Unicode normalisation; rename one of them")]
    Twins {
        /// One of them.
        first: RelPathBuf,
        /// The other.
        second: RelPathBuf,
    },
    /// One file is larger than allowed.
    #[error("{path} has {size} bytes; the limit for one file is {limit}")]
    FileTooLarge {
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
    #[error("{total} bytes are mapped; the limit of this profile is {limit}")]
    TooManyBytes {
        /// The bytes that are mapped.
        total: u64,
        /// The limit.
        limit: u64,
    },
    /// The plan deletes more than the guard allows.
    #[error(
        "the plan deletes {deletes} of {owned} owned files; the guard stops at more than {} files or {} percent; approve plan {digest} or raise maxDeletes",
        .guard.count, .guard.percent
    )]
    MassDeletion {
        /// Files to be deleted.
        deletes: u64,
        /// Files owned.
        owned: u64,
        /// The guard.
        guard: MaxDeletes,
        /// The digest an approval names.
        digest: String,
    },
    /// Not enough space for what is to be written.
    #[error(
        "{needed} bytes and {inodes} inodes are needed, but {free} bytes and {free_inodes} inodes are free"
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

/// Something a person should know that does not stop the sync.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// An optional source is missing: its mapping is skipped and deletes nothing.
    MissingSource {
        /// The mapping.
        origin: String,
        /// The missing path.
        source_path: RelPathBuf,
    },
    /// A mapping brings a path that is protected; it is left out.
    Protected {
        /// The path in the destination.
        path: RelPathBuf,
        /// The mapping.
        origin: String,
    },
    /// The manifest was lost or damaged; equal files are adopted, nothing is rewritten.
    ManifestRebuilt,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingSource { origin, source_path } => {
                write!(
                    f,
                    "{origin}: source {source_path} does not exist in this revision; the mapping is skipped and deletes nothing"
                )
            }
            Self::Protected { path, origin } => write!(f, "{origin}: {path} is protected and left out"),
            Self::ManifestRebuilt => f.write_str(
                "the manifest was lost or damaged and is rebuilt; equal files are adopted as they are",
            ),
        }
    }
}

/// What happens to one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionKind {
    /// A new file.
    Create,
    /// New content for a file as it was left.
    Update,
    /// The file was changed or deleted in the destination; what is wanted is put back.
    Restore,
    /// A file of somebody else has the place; it is kept in history and replaced.
    Overwrite,
    /// The file is there already as wanted; from now on it is owned.
    Adopt,
    /// Only the executable bit changes.
    SetMode,
    /// The file vanished from the source.
    Delete,
    /// The file is gone, or excluded now: it is no longer owned, and nothing is done.
    Forget,
}

impl ActionKind {
    /// Whether the action changes something in the destination.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Adopt | Self::Forget)
    }

    /// The word for people: `create`, `update`, …
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Restore => "restore",
            Self::Overwrite => "overwrite",
            Self::Adopt => "adopt",
            Self::SetMode => "setMode",
            Self::Delete => "delete",
            Self::Forget => "forget",
        }
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One path of the plan.
#[derive(Debug, Clone)]
pub struct Action {
    /// The path in the destination.
    pub path: RelPathBuf,
    /// What happens to it.
    pub kind: ActionKind,
    /// Why, in words.
    pub reason: &'static str,
    /// The mapping that brings it; none for what vanished from the source.
    pub mapping: Option<u32>,
    pub(crate) write: Option<Write>,
    pub(crate) base: Option<ManifestEntry>,
    pub(crate) live: Option<LiveFile>,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) id: crate::source::ContentId,
    pub(crate) from: From,
    pub(crate) size: Option<u64>,
    pub(crate) executable: bool,
    pub(crate) transform: u32,
    pub(crate) key: [u8; 16],
    /// Known when the plan had to look at the content already.
    pub(crate) digest: Option<[u8; 32]>,
}

/// Where a content comes from.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// The path in the source.
    Source(RelPathBuf),
    /// The number of the generated file.
    Generated(usize),
}

impl From {
    /// Opens the content.
    pub(crate) fn open<'a>(
        &self,
        id: &crate::source::ContentId,
        source: &'a dyn Source,
        spec: &'a SyncSpec,
    ) -> Result<Box<dyn std::io::Read + 'a>, SourceError> {
        match self {
            Self::Source(path) => source.open(path.as_path(), id),
            Self::Generated(number) => {
                Ok(Box::new(spec.generated.get(*number).map_or(&[][..], |g| g.content.as_bytes())))
            }
        }
    }
}

/// How many paths of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// New files.
    pub added: u64,
    /// Changed files, restored ones included.
    pub modified: u64,
    /// Deleted files.
    pub deleted: u64,
    /// Files that stay as they are.
    pub unchanged: u64,
    /// Files that were there already as wanted.
    pub adopted: u64,
    /// Owned files that somebody else changed.
    pub drifted: u64,
}

/// What a sync would change, and why.
#[derive(Debug)]
pub struct Plan {
    /// What happens, by path.
    pub actions: Vec<Action>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// How many paths of each kind.
    pub counts: Counts,
    /// The revision that is live now.
    pub from: Option<String>,
    /// The revision that is wanted.
    pub to: String,
    /// Where each mapping was written down, by its number.
    pub mappings: Vec<String>,
    pub(crate) manifest: Manifest,
    pub(crate) head: Head,
    pub(crate) previous: Option<Head>,
    pub(crate) transforms: Vec<Transform>,
    pub(crate) digest: String,
    pub(crate) deletes_allowed: bool,
    pub(crate) need: Need,
    /// The mapped sources are what they were: nothing was listed.
    pub(crate) unlisted: bool,
}

/// What the writes of a plan need.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Need {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Plan {
    /// Names exactly this set of changes; an approval of a mass deletion names it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether applying the plan changes no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.actions.iter().any(|a| a.kind.writes())
    }

    /// The mapping that brings an action's file, as it was written down.
    #[must_use]
    pub fn mapping_of(&self, action: &Action) -> Option<&str> {
        self.mappings.get(usize::try_from(action.mapping?).ok()?).map(String::as_str)
    }
}

impl Plan {
    /// Reads everything that would be written, through its transforms and checks, and throws it away.
    pub(crate) fn check_contents(&self, source: &dyn Source, spec: &SyncSpec) -> Result<(), PlanError> {
        for action in self.actions.iter().filter(|a| a.kind.writes()) {
            let Some(write) = &action.write else { continue };
            let mut reader = write.from.open(&write.id, source, spec)?;
            let transform = &self.transforms[write.transform as usize];
            let limit = spec.limits.max_file_bytes;
            let path = action.path.as_path();
            let sink = &mut |_: &[u8]| Ok(());
            let written = crate::transform::produce(
                path,
                &mut reader,
                write.size,
                transform,
                &spec.variables,
                limit,
                sink,
            )?;
            written.map_err(|source| PlanError::Live { path: action.path.clone(), source })?;
        }
        Ok(())
    }
}
