//! Taking the steps of a transaction, and taking them back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::journal::renames::{is_unable, link_or_copy, rename_new};
use crate::journal::{Step, digest_at, exists, with_executable};
use crate::path::RelPath;
use crate::root::{Cursor, Live, live_at, open_file};
use crate::state::{ManifestEntry, own_like};

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
            Step::DirectoryForFile { .. } | Step::FileForDirectory { .. } => self.swap(step, false),
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
            Step::DirectoryForFile { .. } | Step::FileForDirectory { .. } => self.swap(step, true),
            _ => self.perform(step),
        }
    }

    /// Takes a step back, whatever state it is in. Afterwards it can be redone.
    pub(crate) fn undo(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::MakeDirectory { path } => self.remove_directory(path.as_path()),
            Step::RemoveDirectory { path } => self.make_directory(path.as_path()),
            Step::SetMode { path, entry, .. } => self.set_mode(path.as_path(), !entry.executable),
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
            Step::DirectoryForFile { .. } | Step::FileForDirectory { .. } => self.unswap(step),
        }
    }

    pub(super) fn place<'p>(&mut self, path: RelPath<'p>) -> io::Result<(std::rc::Rc<OwnedFd>, &'p str)> {
        let parent = self.cursor.parent(path)?.ok_or(io::ErrorKind::NotFound)?;
        Ok((parent, path.file_name().unwrap_or_default()))
    }

    pub(super) fn make_directory(&mut self, path: RelPath<'_>) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        let made = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777));
        self.cursor.grown();
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

    pub(super) fn put(&mut self, path: RelPath<'_>, slot: &str) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        match live_at(parent.as_fd(), name)? {
            Live::Directory => {
                return Err(io::Error::new(
                    io::ErrorKind::IsADirectory,
                    "a directory has appeared in the place of a file",
                ));
            }
            Live::Absent => match rename_new(self.stage.as_fd(), slot, parent.as_fd(), name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            },
            Live::File(_) | Live::Special => {}
        }
        match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => self.keep(slot),
            // Keep the old content first, then rename over it.
            Err(e) if is_unable(e) => {
                link_or_copy(parent.as_fd(), name, self.history.as_fd(), slot)?;
                Ok(rustix::fs::renameat(&self.stage, slot, &parent, name)?)
            }
            // It went away in between.
            Err(Errno::NOENT) => rename_new(self.stage.as_fd(), slot, parent.as_fd(), name),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves the old content, exchanged into the stage, to the history.
    pub(super) fn keep(&self, slot: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.stage, slot, &self.history, slot)?)
    }

    pub(super) fn unput(&mut self, path: RelPath<'_>, slot: &str, entry: &ManifestEntry) -> io::Result<()> {
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
            Err(e) if is_unable(e) => {
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

    pub(super) fn slot_state(&self, slot: &str, entry: &ManifestEntry) -> io::Result<SlotState> {
        if !exists(self.stage.as_fd(), slot)? {
            return Ok(SlotState::Gone);
        }
        let new = digest_at(self.stage.as_fd(), slot)? == Some(entry.digest);
        Ok(if new { SlotState::New } else { SlotState::Old })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    New,
    Old,
    Gone,
}
