//! The plan: what a sync would change, and why. A value; making it writes nothing.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::history::Held;
use crate::layer::Layer;
use crate::path::{PathError, RelPath, RelPathBuf};
use crate::root::LiveFile;
use crate::source::{ContentId, Source, SourceError};
use crate::spec::SyncSpec;
use crate::state::{Digest, Head, Manifest, ManifestEntry};
use crate::transform::{ContentError, Transform, produce};

mod error;
mod printed;

pub use error::PlanError;

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
    /// A patch of a mapping names no file that the mapping brings.
    IdlePatch {
        /// The mapping.
        origin: String,
        /// The number of the patch, from 0.
        patch: usize,
        /// Its pattern.
        file: String,
    },
    /// Two mappings bring the same files; the later one wins.
    Overlap {
        /// The first path that both bring.
        path: RelPathBuf,
        /// How many paths both bring.
        files: u64,
        /// The mapping that loses.
        loses: String,
        /// The mapping that wins.
        wins: String,
    },
    /// The policy left files as somebody else made them, and a person has to decide.
    Conflicts {
        /// The first of them.
        path: RelPathBuf,
        /// How many.
        files: u64,
    },
    /// The manifest was lost or damaged; equal files are adopted, nothing is rewritten.
    ManifestRebuilt,
    /// A transaction is under way or was interrupted, so that a preview sees the directory half way.
    UnderWay,
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
            Self::IdlePatch { origin, patch, file } => {
                write!(
                    f,
                    "{origin}: patches[{patch}].file {file:?} matches no file of this mapping; nothing is patched"
                )
            }
            Self::Overlap { path, files, loses, wins } => {
                let more = if *files > 1 { format!(" and {} more", files - 1) } else { String::new() };
                write!(f, "{path}{more} is brought by {loses} and by {wins}; the latter wins")
            }
            Self::Conflicts { path, files } => {
                let more = if *files > 1 { format!(" and {} more", files - 1) } else { String::new() };
                write!(
                    f,
                    "{path}{more} was changed here and stays as it is; bring the source in step or remove the change"
                )
            }
            Self::UnderWay => f.write_str(
                "a sync is under way here or was interrupted; this is compared with a directory half way: what is \
                 called changed or deleted here may be the work of that sync, which the next one completes",
            ),
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
    /// Somebody else changed the file, and the policy leaves it so.
    Keep,
}

impl ActionKind {
    /// Whether the action changes something in the destination.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Adopt | Self::Forget | Self::Keep)
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
            Self::Keep => "keep",
        }
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One path of the plan. Small: a first sync has one for every file.
#[derive(Debug, Clone)]
pub struct Action {
    /// The path in the destination.
    pub path: RelPathBuf,
    /// What happens to it.
    pub kind: ActionKind,
    /// Why, in words.
    pub reason: &'static str,
    /// The exclude pattern, protection or policy that decided, where one did.
    pub rule: Option<Box<str>>,
    /// The mapping that brings it; none for what vanished from the source.
    pub mapping: Option<u32>,
    pub(crate) write: Option<Write>,
    pub(crate) base: Option<Box<ManifestEntry>>,
    pub(crate) live: Option<Box<LiveFile>>,
    pub(crate) found: Found,
}

impl Action {
    /// What the comparison found at the path.
    #[must_use]
    pub const fn found(&self) -> Found {
        self.found
    }
}

/// What the comparison found in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Found {
    /// Nothing.
    Absent,
    /// The file as the engine left it.
    AsWritten,
    /// A file that is what the source wants, though the engine did not write it.
    AsWanted,
    /// A file with any other content.
    Other,
    /// A directory.
    Directory,
    /// A symbolic link, socket, device or FIFO.
    Special,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) id: ContentId,
    pub(crate) size: Option<u64>,
    pub(crate) executable: bool,
    pub(crate) transform: u32,
    /// Known when the plan had to look at the content already.
    pub(crate) digest: Option<Box<Digest>>,
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
    /// Where the file at `path` comes from, which layer `number` brings, or beyond the layers, a generated file is.
    pub(crate) fn of(path: RelPath<'_>, number: u32, layers: &[Layer]) -> Result<Self, PathError> {
        let number = number as usize;
        Ok(match layers.get(number) {
            Some(layer) => Self::Source(layer.source_of(path)?),
            None => Self::Generated(number - layers.len()),
        })
    }

    /// Opens the content.
    pub(crate) fn open<'a>(
        &self,
        id: &ContentId,
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
    /// Those of them that the policy leaves as they are.
    pub kept: u64,
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
    pub(crate) layers: Vec<Layer>,
    pub(crate) transforms: Vec<Transform>,
    /// The key of each transform.
    pub(crate) keys: Vec<[u8; 16]>,
    pub(crate) digest: String,
    /// Directories of others that a mirror leaves empty.
    pub(crate) emptied: BTreeSet<RelPathBuf>,
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

impl Need {
    /// With a margin for the journal, the manifest and directories. Nothing for nothing.
    pub(crate) const fn with_margin(self) -> Held {
        if self.inodes == 0 {
            return Held { bytes: 0, inodes: 0 };
        }
        let bytes = self.bytes + self.bytes / 20 + self.inodes * 256 + (32 << 10);
        Held { bytes, inodes: self.inodes + 6 }
    }
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
    /// The bytes that an action of this plan writes; `None` for one that writes no content.
    ///
    /// `source` and `spec` are those that the plan was made from.
    ///
    /// # Errors
    /// When the content cannot be made.
    pub fn written(
        &self,
        action: &Action,
        source: &dyn Source,
        spec: &SyncSpec,
    ) -> Result<Option<Vec<u8>>, ContentError> {
        let Some(write) = action.write.as_ref().filter(|_| action.kind.writes()) else { return Ok(None) };
        let mut content = Vec::new();
        let mut keep = |bytes: &[u8]| {
            content.extend_from_slice(bytes);
            Ok(())
        };
        // Memory takes whatever it is given.
        let _ = self.content(action, write, source, spec, &mut keep)?;
        Ok(Some(content))
    }

    /// Reads everything that would be written, through its transforms and checks, and throws it away. What comes out as
    /// it was left is not written, and does not stay in the plan.
    pub(crate) fn check_contents(&mut self, source: &dyn Source, spec: &SyncSpec) -> Result<(), PlanError> {
        let limit = spec.limits.max_total_bytes;
        let mut total = 0;
        let mut same = BTreeSet::new();
        for action in self.actions.iter().filter(|a| a.kind.writes()) {
            let Some(write) = &action.write else { continue };
            let mut hasher = blake3::Hasher::new();
            let written = self.content(action, write, source, spec, &mut |bytes| {
                total += bytes.len() as u64;
                hasher.update(bytes);
                Ok(())
            })?;
            let as_left = action.base.as_ref().is_some_and(|base| {
                base.digest == *hasher.finalize().as_bytes() && base.executable == write.executable
            });
            if action.kind == ActionKind::Update && as_left {
                same.insert(action.path.clone());
            }
            written.map_err(|source| PlanError::Live { path: action.path.clone(), source })?;
            if total > limit {
                return Err(PlanError::TooManyBytes { total, limit });
            }
        }
        self.actions.retain(|action| !same.contains(&action.path));
        self.counts.modified -= same.len() as u64;
        self.counts.unchanged += same.len() as u64;
        Ok(())
    }

    /// Hands the bytes of one write to `sink`, checked and transformed.
    pub(crate) fn content(
        &self,
        action: &Action,
        write: &Write,
        source: &dyn Source,
        spec: &SyncSpec,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, ContentError> {
        let path = action.path.as_path();
        let from = self.from(action).ok_or_else(|| SourceError::Missing { path: path.to_buf() })?;
        let mut reader = from.open(&write.id, source, spec)?;
        let transform = &self.transforms[write.transform as usize];
        let limit = largest(action.mapping, &self.layers, spec);
        produce(path, &mut reader, write.size, transform, &spec.variables, limit, sink)
    }

    /// Where the content of an action comes from.
    pub(crate) fn from(&self, action: &Action) -> Option<From> {
        From::of(action.path.as_path(), action.mapping?, &self.layers).ok()
    }

    /// What is done to a content on the way; zero for nothing.
    pub(crate) fn key(&self, write: &Write) -> [u8; 16] {
        self.keys[write.transform as usize]
    }
}

/// The largest file that is accepted from a mapping, in bytes.
pub(crate) fn largest(mapping: Option<u32>, layers: &[Layer], spec: &SyncSpec) -> u64 {
    let layer = mapping.and_then(|number| layers.get(number as usize));
    layer.map_or(spec.limits.max_file_bytes, |layer| layer.max_file_bytes(spec))
}
