//! The journal: every step of a transaction, written down before the first is taken.
//!
//! Each step can be performed, performed again after a crash, and undone; which of its states it is in can always be
//! read off the disk:
//!
//! | step | not yet | half way | done |
//! |---|---|---|---|
//! | put | `stage/N` holds the new content | `stage/N` holds the old content (exchanged) | no `stage/N`; the old content, if any, is `history/TX/N` |
//! | delete | no `history/TX/N` | - | `history/TX/N` holds the file |
//! | make, remove directory, set mode | repeating them changes nothing | | |
//! | directory for file | `stage/N` is absent or the directory, being filled | `stage/N` is the old file (exchanged) | neither `stage/N` nor any staged file of it |
//! | file for directory | `stage/N` is the new file | `stage/N` is the old directory (exchanged), being emptied | no `stage/N` |
//!
//! A file and a directory that change places are exchanged in one system call, with the whole new directory ready: the
//! path is never absent. Where the file system cannot exchange (NFS, some FUSE), the old one is moved aside first, and
//! the path is absent for the moment between two renames.

use std::borrow::Cow;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};

use crate::history::Cause;
use crate::path::RelPathBuf;
use crate::root::{Live, StatId, live_at, open_file};
use crate::spec::SyncSpec;
use crate::state::{Digest, Head, ManifestEntry};

mod renames;
mod swap;
mod workshop;

pub use renames::Abilities;
pub(crate) use workshop::Workshop;

/// One transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) transaction: u64,
    /// What was live before.
    pub(crate) previous: Option<Head>,
    /// What is live after.
    pub(crate) head: Head,
    pub(crate) cause: Cause,
    /// What held within directories, so that the way back keeps to it.
    pub(crate) order: DirectoryOrder,
    pub(crate) steps: Vec<Step>,
}

/// The part of a [`SyncSpec`] that says which files of a directory come last and go last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DirectoryOrder {
    pub(crate) last_in_directory: Vec<String>,
    pub(crate) needed_while_filled: Vec<String>,
}

impl DirectoryOrder {
    pub(crate) fn of(spec: &SyncSpec) -> Self {
        Self {
            last_in_directory: spec.last_in_directory.clone(),
            needed_while_filled: spec.needed_while_filled.clone(),
        }
    }
}

impl Journal {
    /// What the transaction does to single paths, in order.
    pub(crate) fn plain_steps(&self) -> impl DoubleEndedIterator<Item = Cow<'_, Step>> {
        self.steps.iter().flat_map(Step::plain)
    }
}

/// One step, in the order they are taken. Small: a first sync has one for every file and directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    MakeDirectory {
        path: RelPathBuf,
    },
    Put {
        path: RelPathBuf,
        slot: u32,
        entry: Box<ManifestEntry>,
        before: Option<Box<ManifestEntry>>,
    },
    /// The executable bit becomes that of `entry`, and was the other one.
    SetMode {
        path: RelPathBuf,
        entry: Box<ManifestEntry>,
        before: Option<Box<ManifestEntry>>,
    },
    Delete {
        path: RelPathBuf,
        slot: u32,
        before: Option<Box<ManifestEntry>>,
    },
    RemoveDirectory {
        path: RelPathBuf,
    },
    /// Nothing happens to the file; the manifest learns about it.
    Record {
        path: RelPathBuf,
        entry: Box<ManifestEntry>,
        before: Option<Box<ManifestEntry>>,
    },
    /// Nothing happens to the file; the manifest forgets about it.
    Forget {
        path: RelPathBuf,
        before: Option<Box<ManifestEntry>>,
    },
    /// A directory takes the place of a file: `inside` makes directories, outermost first, and puts files.
    DirectoryForFile {
        path: RelPathBuf,
        slot: u32,
        before: Option<Box<ManifestEntry>>,
        inside: Box<[Step]>,
    },
    /// A file takes the place of a directory: `inside` deletes files and removes directories, innermost first.
    FileForDirectory {
        path: RelPathBuf,
        slot: u32,
        entry: Box<ManifestEntry>,
        before: Option<Box<ManifestEntry>>,
        inside: Box<[Step]>,
    },
}

impl Step {
    pub(crate) fn path(&self) -> &RelPathBuf {
        match self {
            Self::MakeDirectory { path }
            | Self::Put { path, .. }
            | Self::SetMode { path, .. }
            | Self::Delete { path, .. }
            | Self::RemoveDirectory { path }
            | Self::Record { path, .. }
            | Self::Forget { path, .. }
            | Self::DirectoryForFile { path, .. }
            | Self::FileForDirectory { path, .. } => path,
        }
    }

    /// The step as what it does to single paths.
    pub(crate) fn plain(&self) -> impl DoubleEndedIterator<Item = Cow<'_, Self>> {
        let (first, inside, last) = match self {
            Self::DirectoryForFile { path, slot, before, inside } => {
                let (path, before) = (path.clone(), before.clone());
                (Some(Self::Delete { path, slot: *slot, before }), &inside[..], None)
            }
            Self::FileForDirectory { path, slot, entry, before, inside } => {
                let (path, entry, before) = (path.clone(), entry.clone(), before.clone());
                (None, &inside[..], Some(Self::Put { path, slot: *slot, entry, before }))
            }
            step => (None, std::slice::from_ref(step), None),
        };
        let owned = |step: Option<Self>| step.into_iter().map(Cow::Owned);
        owned(first).chain(inside.iter().map(Cow::Borrowed)).chain(owned(last))
    }

    /// As [`Step::plain`].
    pub(crate) fn into_plain(self) -> impl Iterator<Item = Self> {
        let (first, inside, last) = match self {
            Self::DirectoryForFile { path, slot, before, inside } => {
                (Some(Self::Delete { path, slot, before }), inside, None)
            }
            Self::FileForDirectory { path, slot, entry, before, inside } => {
                (None, inside, Some(Self::Put { path, slot, entry, before }))
            }
            step => (Some(step), Box::default(), None),
        };
        first.into_iter().chain(inside).chain(last)
    }

    /// Whether the step touches a file of the destination.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::Record { .. } | Self::Forget { .. })
    }
}

/// A file's mode with the executable bit of whoever may read it.
pub(crate) fn with_executable(mode: u32, executable: bool) -> u32 {
    if executable { mode | ((mode & 0o444) >> 2) } else { mode & !0o111 }
}

/// The digest of what a name holds: of a file's bytes, of a link's target, of what kind of special file it is. `None` for
/// a directory, and for nothing.
pub(crate) fn digest_at(directory: BorrowedFd<'_>, name: &str) -> io::Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    match live_at(directory, name)? {
        Live::File(_) => {
            hasher.update_reader(&mut open_file(directory, name)?)?;
        }
        Live::Special => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
                hasher.update(b"link to ").update(target.as_bytes());
            } else {
                let what = format!("special file {:o} {}", stat.st_mode & 0o170_000, stat.st_rdev);
                hasher.update(what.as_bytes());
            }
        }
        Live::Absent | Live::Directory => return Ok(None),
    }
    Ok(Some(*hasher.finalize().as_bytes()))
}

pub(crate) fn exists(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    Ok(live_at(directory, name)? != Live::Absent)
}

/// The identity to remember for a file that was just put: only if it is still the very file that was staged.
pub(crate) fn remembered(live: Live, staged: StatId) -> StatId {
    match live {
        Live::File(file)
            if file.id.inode == staged.inode
                && file.id.size == staged.size
                && file.id.mtime_ns == staged.mtime_ns =>
        {
            file.id
        }
        _ => StatId::default(),
    }
}
