//! What renames a file system can do, and what is done where it cannot.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::journal::exists;
use crate::root::open_file;

/// What a file system can do. Where it cannot, a slower way keeps the same promises, but for one: without an exchange, a
/// path whose file becomes a directory, or the reverse, is absent for the moment between two renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Abilities {
    /// Two names can be exchanged in one step (`renameat2`, `RENAME_EXCHANGE`).
    pub exchange: bool,
    /// A rename can refuse to replace (`RENAME_NOREPLACE`).
    pub no_replace: bool,
    /// A file can have two names.
    pub hard_links: bool,
}

impl Abilities {
    /// Tries everything once, in an empty directory on the file system in question.
    pub(crate) fn probe(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for name in ["probe.a", "probe.b"] {
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        }
        let able = |result: Result<(), Errno>| match result {
            Err(e) if is_unable(e) => Ok(false),
            Err(e) => Err(e),
            Ok(()) => Ok(true),
        };
        let rename = |to, how| rustix::fs::renameat_with(directory, "probe.a", directory, to, how);
        let exchange = able(rename("probe.b", RenameFlags::EXCHANGE));
        let no_replace = able(rename("probe.c", RenameFlags::NOREPLACE));
        let hard_links =
            match rustix::fs::linkat(directory, "probe.b", directory, "probe.d", AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(e) if cannot_link(e) => Ok(false),
                Err(e) => Err(e),
            };
        for name in ["probe.a", "probe.b", "probe.c", "probe.d"] {
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Self { exchange: exchange?, no_replace: no_replace?, hard_links: hard_links? })
    }
}

/// Whether an error of `renameat2` says that the file system or kernel does not know the flag.
pub(super) const fn is_unable(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
}

const fn cannot_link(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK)
}

/// Renames without replacing; `AlreadyExists` when something has the name.
pub(super) fn rename_new(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> io::Result<()> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(e) if is_unable(e) => {
            if exists(to, new)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(rustix::fs::renameat(from, old, to, new)?)
        }
        other => Ok(other?),
    }
}

/// Keeps a file under a second name: by a hard link, or by a copy where there are none.
pub(super) fn link_or_copy(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> io::Result<()> {
    if exists(to, new)? {
        rustix::fs::unlinkat(to, new, AtFlags::empty())?;
    }
    match rustix::fs::linkat(from, old, to, new, AtFlags::empty()) {
        Err(e) if cannot_link(e) => {
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
