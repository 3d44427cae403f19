//! A file and a directory change places. See the table in [`crate::journal`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::journal::renames::{is_unable, rename_new};
use crate::journal::workshop::{SlotState, Workshop};
use crate::journal::{Step, exists};
use crate::path::RelPath;
use crate::root::{Live, descend, live_at};
use crate::state::{ManifestEntry, names, own_like};

impl Workshop<'_> {
    /// Takes a swap, for the first time or (`again`) whatever state a crash has left it in.
    ///
    /// Fails when somebody else has put something into the way; the transaction is then taken back.
    pub(super) fn swap(&mut self, step: &Step, again: bool) -> io::Result<()> {
        let result = match step {
            Step::DirectoryForFile { path, slot, inside, .. } => {
                self.directory_for_file(path.as_path(), &slot.to_string(), inside, again)
            }
            Step::FileForDirectory { path, slot, entry, inside, .. } => {
                self.file_for_directory(path.as_path(), &slot.to_string(), entry, inside)
            }
            _ => Ok(()),
        };
        self.cursor.reset();
        result
    }

    /// Takes a swap back, whatever state it is in. Afterwards it can be taken again.
    pub(super) fn unswap(&mut self, step: &Step) -> io::Result<()> {
        let result = match step {
            Step::DirectoryForFile { path, slot, inside, .. } => {
                self.file_again(path.as_path(), &slot.to_string(), inside)
            }
            Step::FileForDirectory { path, slot, entry, inside, .. } => {
                self.directory_again(path.as_path(), &slot.to_string(), entry, inside)
            }
            _ => Ok(()),
        };
        self.cursor.reset();
        result
    }

    fn directory_for_file(
        &mut self,
        path: RelPath<'_>,
        slot: &str,
        inside: &[Step],
        again: bool,
    ) -> io::Result<()> {
        if live_at(self.stage.as_fd(), &aside(slot))? == Live::Directory {
            // It was being taken back, the slow way.
            if exists(self.stage.as_fd(), slot)? {
                self.keep(slot)?;
            }
            rustix::fs::renameat(&self.stage, aside(slot), &self.stage, slot)?;
        }
        let staged = live_at(self.stage.as_fd(), slot)?;
        if matches!(staged, Live::File(_) | Live::Special) {
            self.keep(slot)?;
            return self.fill(inside);
        }
        if staged == Live::Absent && !self.any_staged(inside)? {
            return Ok(());
        }
        let (parent, name) = self.place(path)?;
        if again && live_at(parent.as_fd(), name)? == Live::Directory {
            if staged == Live::Directory {
                self.disassemble(path, slot, slot, inside)?;
            }
            return self.fill(inside);
        }
        self.assemble(path, slot, inside, parent.as_fd())?;
        match live_at(parent.as_fd(), name)? {
            Live::Absent => rename_new(self.stage.as_fd(), slot, parent.as_fd(), name),
            Live::File(_) | Live::Special => {
                match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
                    Ok(()) => self.keep(slot),
                    Err(e) if is_unable(e) => {
                        rustix::fs::renameat(&parent, name, &self.history, slot)?;
                        rename_new(self.stage.as_fd(), slot, parent.as_fd(), name)
                    }
                    Err(e) => Err(e.into()),
                }
            }
            Live::Directory => Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "a directory has appeared in the place of a file",
            )),
        }
    }

    /// Brings what is still staged into a directory that has its place already. A power cut may keep the exchange and
    /// lose what happened inside before.
    fn fill(&mut self, inside: &[Step]) -> io::Result<()> {
        self.cursor.reset();
        if !self.any_staged(inside)? {
            return Ok(());
        }
        for step in inside {
            match step {
                Step::MakeDirectory { path } => self.make_directory(path.as_path())?,
                Step::Put { path, slot, .. } if exists(self.stage.as_fd(), &slot.to_string())? => {
                    self.put(path.as_path(), &slot.to_string())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn file_again(&mut self, path: RelPath<'_>, slot: &str, inside: &[Step]) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        if live_at(self.stage.as_fd(), &aside(slot))? == Live::Directory {
            if exists(self.stage.as_fd(), slot)? {
                rename_new(self.stage.as_fd(), slot, parent.as_fd(), name)?;
            }
            rustix::fs::renameat(&self.stage, aside(slot), &self.stage, slot)?;
            return self.disassemble(path, slot, slot, inside);
        }
        let staged = live_at(self.stage.as_fd(), slot)?;
        let kept = exists(self.history.as_fd(), slot)?;
        if staged == Live::Directory {
            if kept {
                rename_new(self.history.as_fd(), slot, parent.as_fd(), name)?;
            }
            return self.disassemble(path, slot, slot, inside);
        }
        if staged == Live::Absent && self.any_staged(inside)? {
            return Ok(());
        }
        if staged == Live::Absent && kept {
            rustix::fs::renameat(&self.history, slot, &self.stage, slot)?;
        }
        if !exists(self.stage.as_fd(), slot)? {
            // There was no file when the directory came.
            match rustix::fs::renameat(&parent, name, &self.stage, slot) {
                Ok(()) => return self.disassemble(path, slot, slot, inside),
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(e) if is_unable(e) => {
                let aside = aside(slot);
                rustix::fs::renameat(&parent, name, &self.stage, &aside)?;
                rename_new(self.stage.as_fd(), slot, parent.as_fd(), name)?;
                rustix::fs::renameat(&self.stage, &aside, &self.stage, slot)?;
            }
            Err(Errno::NOENT) => return rename_new(self.stage.as_fd(), slot, parent.as_fd(), name),
            Err(e) => return Err(e.into()),
        }
        self.disassemble(path, slot, slot, inside)
    }

    fn file_for_directory(
        &mut self,
        path: RelPath<'_>,
        slot: &str,
        entry: &ManifestEntry,
        inside: &[Step],
    ) -> io::Result<()> {
        if matches!(live_at(self.stage.as_fd(), &aside(slot))?, Live::File(_) | Live::Special) {
            // It was being taken back, the slow way.
            let (parent, name) = self.place(path)?;
            if live_at(parent.as_fd(), name)? == Live::Absent {
                rename_new(self.stage.as_fd(), &aside(slot), parent.as_fd(), name)?;
            } else {
                rustix::fs::renameat(&self.stage, aside(slot), &self.stage, slot)?;
            }
        }
        if matches!(live_at(self.stage.as_fd(), slot)?, Live::File(_) | Live::Special) {
            let (parent, name) = self.place(path)?;
            if live_at(parent.as_fd(), name)? == Live::Directory {
                only_known(parent.as_fd(), name, path, inside)?;
                match rustix::fs::renameat_with(&self.stage, slot, &parent, name, RenameFlags::EXCHANGE) {
                    Ok(()) => {}
                    Err(e) if is_unable(e) => {
                        rustix::fs::renameat(&parent, name, &self.stage, aside(slot))?;
                        rename_new(self.stage.as_fd(), slot, parent.as_fd(), name)?;
                    }
                    Err(e) => return Err(e.into()),
                }
            } else {
                // The directory is aside already, or somebody else removed it.
                match self.slot_state(slot, entry)? {
                    SlotState::New => self.put(path, slot)?,
                    SlotState::Old => self.keep(slot)?,
                    SlotState::Gone => {}
                }
            }
        }
        for old in [slot.to_owned(), aside(slot)] {
            if live_at(self.stage.as_fd(), &old)? == Live::Directory {
                self.empty(path, &old, inside)?;
            }
        }
        Ok(())
    }

    fn directory_again(
        &mut self,
        path: RelPath<'_>,
        slot: &str,
        entry: &ManifestEntry,
        inside: &[Step],
    ) -> io::Result<()> {
        if matches!(live_at(self.stage.as_fd(), &aside(slot))?, Live::File(_) | Live::Special) {
            let (parent, name) = self.place(path)?;
            if live_at(self.stage.as_fd(), slot)? == Live::Directory {
                rename_new(self.stage.as_fd(), slot, parent.as_fd(), name)?;
            }
            return Ok(rustix::fs::renameat(&self.stage, aside(slot), &self.stage, slot)?);
        }
        let is_directory =
            |name: &str| Ok::<_, io::Error>(live_at(self.stage.as_fd(), name)? == Live::Directory);
        let old = if is_directory(slot)? {
            slot.to_owned()
        } else if is_directory(&aside(slot))? {
            aside(slot)
        } else if exists(self.stage.as_fd(), slot)? {
            return self.unput(path, slot, entry);
        } else if exists(self.history.as_fd(), slot)? {
            // It was a file that was replaced.
            return self.unput(path, slot, entry);
        } else {
            rustix::fs::mkdirat(&self.stage, slot, Mode::from_raw_mode(0o777))?;
            slot.to_owned()
        };
        let (parent, name) = self.place(path)?;
        let top = descend(self.stage.as_fd(), [old.as_str()])?;
        own_like(parent.as_fd(), self.stage.as_fd(), &old)?;
        // Removed innermost first, so made in reverse.
        for step in inside.iter().rev() {
            if let Step::RemoveDirectory { path: below } = step
                && let Some((above, last)) = split(below.as_path(), path)
            {
                let above = descend(top.as_fd(), above.components())?;
                make(above.as_fd(), last, parent.as_fd())?;
            }
        }
        for step in inside {
            if let Step::Delete { path: below, slot: kept, .. } = step
                && let Some((above, last)) = split(below.as_path(), path)
                && exists(self.history.as_fd(), &kept.to_string())?
            {
                let above = descend(top.as_fd(), above.components())?;
                rustix::fs::renameat(&self.history, kept.to_string(), &above, last)?;
            }
        }
        match rustix::fs::renameat_with(&self.stage, &old, &parent, name, RenameFlags::EXCHANGE) {
            Ok(()) if old != slot => Ok(rustix::fs::renameat(&self.stage, &old, &self.stage, slot)?),
            Ok(()) => Ok(()),
            Err(e) if is_unable(e) => {
                let back = if old == slot { aside(slot) } else { slot.to_owned() };
                if !exists(self.stage.as_fd(), &back)? {
                    rustix::fs::renameat(&parent, name, &self.stage, &back)?;
                }
                rename_new(self.stage.as_fd(), &old, parent.as_fd(), name)?;
                if back != slot {
                    rustix::fs::renameat(&self.stage, &back, &self.stage, slot)?;
                }
                Ok(())
            }
            Err(Errno::NOENT) => rename_new(self.stage.as_fd(), &old, parent.as_fd(), name),
            Err(e) => Err(e.into()),
        }
    }

    fn any_staged(&self, inside: &[Step]) -> io::Result<bool> {
        for step in inside {
            if let Step::Put { slot, .. } = step
                && exists(self.stage.as_fd(), &slot.to_string())?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Builds the new directory in the stage, from the files staged for it.
    fn assemble(
        &self,
        path: RelPath<'_>,
        slot: &str,
        inside: &[Step],
        like: BorrowedFd<'_>,
    ) -> io::Result<()> {
        make(self.stage.as_fd(), slot, like)?;
        let top = descend(self.stage.as_fd(), [slot])?;
        for step in inside {
            let Some((above, last)) = split(step.path().as_path(), path) else { continue };
            let above = descend(top.as_fd(), above.components())?;
            match step {
                Step::MakeDirectory { .. } => make(above.as_fd(), last, like)?,
                Step::Put { slot: from, .. } => {
                    match rustix::fs::renameat(&self.stage, from.to_string(), &above, last) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the new directory apart again. What somebody else has put into it is kept in the history.
    fn disassemble(&self, path: RelPath<'_>, slot: &str, from: &str, inside: &[Step]) -> io::Result<()> {
        let top = descend(self.stage.as_fd(), [from])?;
        for step in inside {
            if let Step::Put { path: below, slot: to, .. } = step
                && let Some((above, last)) = split(below.as_path(), path)
                && let Ok(above) = descend(top.as_fd(), above.components())
            {
                match rustix::fs::renameat(&above, last, &self.stage, to.to_string()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        let directories = inside.iter().rev().filter(|s| matches!(s, Step::MakeDirectory { .. }));
        for step in directories {
            if let Some((above, last)) = split(step.path().as_path(), path)
                && let Ok(above) = descend(top.as_fd(), above.components())
            {
                remove(above.as_fd(), last)?;
            }
        }
        if !remove(self.stage.as_fd(), from)? {
            rustix::fs::renameat(&self.stage, from, &self.history, rest(slot))?;
        }
        Ok(())
    }

    /// Moves the files of the old directory to the history, and removes it.
    fn empty(&self, path: RelPath<'_>, old: &str, inside: &[Step]) -> io::Result<()> {
        let top = descend(self.stage.as_fd(), [old])?;
        for step in inside {
            let Some((above, last)) = split(step.path().as_path(), path) else { continue };
            let Ok(above) = descend(top.as_fd(), above.components()) else { continue };
            match step {
                Step::Delete { slot: to, .. } => {
                    match rustix::fs::renameat(&above, last, &self.history, to.to_string()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Step::RemoveDirectory { .. } => {
                    remove(above.as_fd(), last)?;
                }
                _ => {}
            }
        }
        if !remove(self.stage.as_fd(), old)? {
            return Err(io::Error::new(
                io::ErrorKind::DirectoryNotEmpty,
                "files have appeared in a directory that a file replaces",
            ));
        }
        Ok(())
    }
}

/// The name in the stage of what was moved aside where names cannot be exchanged.
fn aside(slot: &str) -> String {
    format!("{slot}.aside")
}

/// The name in the history of what somebody else had in a directory that is gone.
fn rest(slot: &str) -> String {
    format!("{slot}.rest")
}

/// `path` relative to `top`, as the directory that holds it and its name there; `None` for `top` itself.
fn split<'p>(path: RelPath<'p>, top: RelPath<'_>) -> Option<(RelPath<'p>, &'p str)> {
    let below = path.strip_prefix(top)?;
    Some((below.parent()?, below.file_name()?))
}

fn make(parent: BorrowedFd<'_>, name: &str, like: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        Ok(()) => own_like(like, parent, name),
        Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes a directory; says whether it is gone, rather than not empty.
fn remove(parent: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Checks that the directory holds nothing but what the steps delete.
fn only_known(parent: BorrowedFd<'_>, name: &str, path: RelPath<'_>, inside: &[Step]) -> io::Result<()> {
    let directory: OwnedFd = descend(parent, [name])?;
    for entry in names(&directory)? {
        let below = path.child(&entry).map_err(io::Error::other)?;
        let known = inside.iter().any(|step| step.path() == &below);
        match live_at(directory.as_fd(), &entry)? {
            Live::Directory => only_known(directory.as_fd(), &entry, below.as_path(), inside)?,
            Live::Absent => {}
            _ if known => {}
            _ => {
                let text = format!("{below} has appeared in a directory that a file replaces");
                return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, text));
            }
        }
    }
    Ok(())
}
