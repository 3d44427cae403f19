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

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::path::{RelPath, RelPathBuf};
use crate::root::{Cursor, Live, StatId, live_at, open_file};
use crate::state::{Head, ManifestEntry, own_like};

/// One transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(crate) transaction: u64,
    /// What was live before.
    pub(crate) previous: Option<Head>,
    /// What is live after.
    pub(crate) head: Head,
    pub(crate) steps: Vec<Step>,
}

/// One step, in the order they are taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Step {
    MakeDirectory {
        path: RelPathBuf,
    },
    Put {
        path: RelPathBuf,
        slot: u32,
        entry: ManifestEntry,
        before: Option<ManifestEntry>,
    },
    SetMode {
        path: RelPathBuf,
        entry: ManifestEntry,
        before: ManifestEntry,
    },
    Delete {
        path: RelPathBuf,
        slot: u32,
        before: Option<ManifestEntry>,
    },
    RemoveDirectory {
        path: RelPathBuf,
    },
    /// Nothing happens to the file; the manifest learns about it.
    Record {
        path: RelPathBuf,
        entry: ManifestEntry,
        before: Option<ManifestEntry>,
    },
    /// Nothing happens to the file; the manifest forgets about it.
    Forget {
        path: RelPathBuf,
        before: Option<ManifestEntry>,
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
            | Self::Forget { path, .. } => path,
        }
    }

    /// Whether the step touches a file of the destination.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::Record { .. } | Self::Forget { .. })
    }
}

/// Where the steps of one transaction find their files.
#[derive(Debug)]
pub(crate) struct Workshop<'r> {
    pub(crate) stage: OwnedFd,
    pub(crate) history: OwnedFd,
    pub(crate) cursor: Cursor<'r>,
}

impl Workshop<'_> {
    /// Takes a step for the first time.
    pub(crate) fn perform(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::MakeDirectory { path } => self.make_directory(path.as_path()),
            Step::RemoveDirectory { path } => self.remove_directory(path.as_path()),
            Step::Put { path, slot, .. } => self.put(path.as_path(), &slot.to_string()),
            Step::Delete { path, slot, .. } => self.delete(path.as_path(), &slot.to_string()),
            Step::SetMode { path, entry, .. } => self.set_mode(path.as_path(), entry.executable),
            Step::Record { .. } | Step::Forget { .. } => Ok(()),
        }
    }

    /// Takes a step that may have been taken already, wholly or half.
    pub(crate) fn redo(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Put { path, slot, entry, .. } => {
                let slot = slot.to_string();
                match self.slot_state(&slot, entry)? {
                    SlotState::Gone => Ok(()),
                    SlotState::New => self.put(path.as_path(), &slot),
                    SlotState::Old => self.keep(&slot),
                }
            }
            Step::Delete { path, slot, .. } => {
                if exists(self.history.as_fd(), &slot.to_string())? {
                    return Ok(());
                }
                self.delete(path.as_path(), &slot.to_string())
            }
            _ => self.perform(step),
        }
    }

    /// Takes a step back, whatever state it is in. Afterwards it can be redone.
    pub(crate) fn undo(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::MakeDirectory { path } => self.remove_directory(path.as_path()),
            Step::RemoveDirectory { path } => self.make_directory(path.as_path()),
            Step::SetMode { path, before, .. } => self.set_mode(path.as_path(), before.executable),
            Step::Put { path, slot, entry, .. } => self.unput(path.as_path(), &slot.to_string(), entry),
            Step::Delete { path, slot, .. } => {
                let slot = slot.to_string();
                if !exists(self.history.as_fd(), &slot)? {
                    return Ok(());
                }
                let (parent, name) = self.place(path.as_path())?;
                match rename_new(self.history.as_fd(), &slot, parent.as_fd(), name) {
                    // Somebody has written the path anew since; both contents stay.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    other => other,
                }
            }
            Step::Record { .. } | Step::Forget { .. } => Ok(()),
        }
    }

    fn place<'p>(&mut self, path: RelPath<'p>) -> io::Result<(std::rc::Rc<OwnedFd>, &'p str)> {
        let parent = self.cursor.parent(path)?.ok_or(io::ErrorKind::NotFound)?;
        Ok((parent, path.file_name().unwrap_or_default()))
    }

    fn make_directory(&mut self, path: RelPath<'_>) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        let made = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777));
        self.cursor.reset();
        match made {
            Ok(()) => own_like(parent.as_fd(), parent.as_fd(), name),
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn remove_directory(&mut self, path: RelPath<'_>) -> io::Result<()> {
        let Some(parent) = self.cursor.parent(path)? else { return Ok(()) };
        let removed = rustix::fs::unlinkat(&parent, path.file_name().unwrap_or_default(), AtFlags::REMOVEDIR);
        self.cursor.reset();
        match removed {
            // Somebody else's files are in it: it stays.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn put(&mut self, path: RelPath<'_>, slot: &str) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        if live_at(parent.as_fd(), name)? == Live::Directory {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "a directory has appeared in the place of a file",
            ));
        }
        match rename_new(self.stage.as_fd(), slot, parent.as_fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
        match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => self.keep(slot),
            // The file system cannot exchange (NFS, some FUSE): keep the old content first, then rename over it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                link_or_copy(parent.as_fd(), name, self.history.as_fd(), slot)?;
                Ok(rustix::fs::renameat(&self.stage, slot, &parent, name)?)
            }
            // It went away in between.
            Err(Errno::NOENT) => rename_new(self.stage.as_fd(), slot, parent.as_fd(), name),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves the old content, exchanged into the stage, to the history.
    fn keep(&self, slot: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.stage, slot, &self.history, slot)?)
    }

    fn unput(&mut self, path: RelPath<'_>, slot: &str, entry: &ManifestEntry) -> io::Result<()> {
        let state = self.slot_state(slot, entry)?;
        let kept = exists(self.history.as_fd(), slot)?;
        if state == SlotState::New {
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        if state == SlotState::Gone && !kept {
            // The file was new.
            return match rustix::fs::renameat(&parent, name, &self.stage, slot) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(e) => Err(e.into()),
            };
        }
        if state == SlotState::Gone {
            rustix::fs::renameat(&self.history, slot, &self.stage, slot)?;
        }
        match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::renameat(&self.stage, slot, &self.history, slot)?;
                link_or_copy(parent.as_fd(), name, self.stage.as_fd(), slot)?;
                Ok(rustix::fs::renameat(&self.history, slot, &parent, name)?)
            }
            Err(Errno::NOENT) => rename_new(self.stage.as_fd(), slot, parent.as_fd(), name),
            Err(e) => Err(e.into()),
        }
    }

    fn delete(&mut self, path: RelPath<'_>, slot: &str) -> io::Result<()> {
        let Some(parent) = self.cursor.parent(path)? else { return Ok(()) };
        let name = path.file_name().unwrap_or_default();
        if live_at(parent.as_fd(), name)? == Live::Directory {
            return Ok(());
        }
        match rustix::fs::renameat(&parent, name, &self.history, slot) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn set_mode(&mut self, path: RelPath<'_>, executable: bool) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        let file = match open_file(parent.as_fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mode = rustix::fs::fstat(&file)?.st_mode & 0o7777;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(with_executable(mode, executable)))?)
    }

    fn slot_state(&self, slot: &str, entry: &ManifestEntry) -> io::Result<SlotState> {
        if !exists(self.stage.as_fd(), slot)? {
            return Ok(SlotState::Gone);
        }
        let new = match open_file(self.stage.as_fd(), slot) {
            Ok(file) => digest_of(file)? == entry.digest,
            // A symbolic link was exchanged into the stage.
            Err(_) => false,
        };
        Ok(if new { SlotState::New } else { SlotState::Old })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotState {
    New,
    Old,
    Gone,
}

/// A file's mode with the executable bit of whoever may read it.
pub(crate) fn with_executable(mode: u32, executable: bool) -> u32 {
    if executable { mode | ((mode & 0o444) >> 2) } else { mode & !0o111 }
}

pub(crate) fn digest_of(mut file: File) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file)?;
    Ok(*hasher.finalize().as_bytes())
}

pub(crate) fn exists(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    Ok(live_at(directory, name)? != Live::Absent)
}

/// Renames without replacing; `AlreadyExists` when something has the name.
fn rename_new(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> io::Result<()> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if exists(to, new)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(rustix::fs::renameat(from, old, to, new)?)
        }
        other => Ok(other?),
    }
}

/// Keeps a file under a second name: by a hard link, or by a copy where there are none.
fn link_or_copy(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> io::Result<()> {
    if exists(to, new)? {
        rustix::fs::unlinkat(to, new, AtFlags::empty())?;
    }
    match rustix::fs::linkat(from, old, to, new, AtFlags::empty()) {
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK) => {
            let mut source = open_file(from, old)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = rustix::fs::fstat(&source)?.st_mode & 0o7777;
            let mut copy = File::from(rustix::fs::openat(to, new, flags, Mode::from_raw_mode(mode))?);
            io::copy(&mut source, &mut copy)?;
            copy.sync_data()
        }
        other => Ok(other?),
    }
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
