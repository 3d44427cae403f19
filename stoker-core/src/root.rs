//! The destination directory, opened once, and every path resolved beneath it.
//!
//! A gateway, or whoever has access to its volume, may put symbolic links anywhere. Nothing here follows one: paths
//! are resolved from the directory's descriptor, by the kernel where it can (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, Linux 5.6), else component by component with `O_NOFOLLOW`.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::path::{RelPath, RelPathBuf};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The identity of a file's state: equal identities mean that nobody touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StatId {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
}

/// What is at a path of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    Absent,
    File(LiveFile),
    Directory,
    /// A symbolic link, socket, device or FIFO.
    Special,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveFile {
    pub(crate) id: StatId,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: u64,
}

/// An open directory tree.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    device: u64,
    kernel_resolves: AtomicBool,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // The directory itself may be reached through symlinks: it is what the user named.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let device = rustix::fs::fstat(&fd)?.st_dev;
        Ok(Self { fd, path: path.to_owned(), device, kernel_resolves: AtomicBool::new(true) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens the directory at `path`.
    pub(crate) fn directory(&self, path: RelPath<'_>) -> io::Result<OwnedFd> {
        if path.is_root() {
            return self.fd.try_clone();
        }
        if self.kernel_resolves.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.fd, path.as_str(), DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => self.kernel_resolves.store(false, Ordering::Relaxed),
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        self.directory_by_component(path)
    }

    /// As [`Root::directory`]; `None` when there is none that can be reached through directories alone.
    fn directory_if_any(&self, path: RelPath<'_>) -> io::Result<Option<OwnedFd>> {
        match self.directory(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            // `O_NOFOLLOW | O_DIRECTORY` answers `ENOTDIR` for a link in the last place, `openat2` answers `ELOOP`.
            Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn directory_by_component(&self, path: RelPath<'_>) -> io::Result<OwnedFd> {
        descend(self.fd.as_fd(), path.components())
    }

    /// The bytes of the regular file at `path`, if there is one of at most `limit` bytes.
    pub(crate) fn bytes(&self, path: RelPath<'_>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        match (self.cursor().parent(path)?, path.file_name()) {
            (Some(parent), Some(name)) => bytes_at(parent.as_fd(), name, limit),
            _ => Ok(None),
        }
    }

    /// A cursor that keeps the last directory open, for visits in path order.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { root: self, at: None, missing: None }
    }
}

/// Resolves paths and remembers the directory of the last one.
#[derive(Debug)]
pub(crate) struct Cursor<'r> {
    root: &'r Root,
    at: Option<(RelPathBuf, Rc<OwnedFd>)>,
    /// The outermost directory that the last missing one lacks: a first sync asks for thousands below it.
    missing: Option<RelPathBuf>,
}

impl Cursor<'_> {
    /// The directory that holds `path`; `None` when it does not exist.
    pub(crate) fn parent(&mut self, path: RelPath<'_>) -> io::Result<Option<Rc<OwnedFd>>> {
        let parent = path.parent().unwrap_or(RelPath::ROOT);
        if let Some((at, fd)) = &self.at
            && at.as_path() == parent
        {
            return Ok(Some(fd.clone()));
        }
        if self.missing.as_ref().is_some_and(|missing| parent.starts_with(missing.as_path())) {
            return Ok(None);
        }
        if let Some(fd) = self.root.directory_if_any(parent)? {
            let fd = Rc::new(fd);
            self.at = Some((parent.to_buf(), fd.clone()));
            return Ok(Some(fd));
        }
        let mut missing = parent;
        for above in parent.ancestors() {
            if self.root.directory_if_any(above)?.is_some() {
                break;
            }
            missing = above;
        }
        self.missing = Some(missing.to_buf());
        Ok(None)
    }

    /// The innermost directory above `path` that exists.
    pub(crate) fn innermost(&mut self, path: RelPath<'_>) -> io::Result<Rc<OwnedFd>> {
        let mut path = path.to_buf();
        loop {
            if let Some(parent) = self.parent(path.as_path())? {
                return Ok(parent);
            }
            path = self.missing.clone().unwrap_or_default();
        }
    }

    /// What is at `path`.
    pub(crate) fn live(&mut self, path: RelPath<'_>) -> io::Result<Live> {
        let Some(parent) = self.parent(path)? else { return Ok(Live::Absent) };
        let Some(name) = path.file_name() else { return Ok(Live::Directory) };
        live_at(parent.as_fd(), name)
    }

    /// Forgets what it knows, after directories were moved or removed.
    pub(crate) fn reset(&mut self) {
        self.at = None;
        self.missing = None;
    }

    /// Forgets what is missing, after a directory was made.
    pub(crate) fn grown(&mut self) {
        self.missing = None;
    }
}

/// Opens a directory below another one, component by component and through no link.
pub(crate) fn descend<'c>(
    from: BorrowedFd<'_>,
    components: impl IntoIterator<Item = &'c str>,
) -> io::Result<OwnedFd> {
    let mut at = from.try_clone_to_owned()?;
    for component in components {
        at = rustix::fs::openat(&at, component, DIRECTORY, Mode::empty())?;
    }
    Ok(at)
}

pub(crate) fn live_at(parent: BorrowedFd<'_>, name: &str) -> io::Result<Live> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Live::File(live_file(&stat)),
            FileType::Directory => Live::Directory,
            _ => Live::Special,
        }),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Live::Absent),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn live_file(stat: &Stat) -> LiveFile {
    let nanos = |seconds: i64, nanos: u64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos as i64);
    LiveFile {
        id: StatId {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        device: stat.st_dev,
    }
}

/// The bytes of a regular file of at most `limit` bytes.
pub(crate) fn bytes_at(parent: BorrowedFd<'_>, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Live::File(_) = live_at(parent, name)? else { return Ok(None) };
    let mut bytes = Vec::new();
    open_file(parent, name)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Opens a regular file for reading, never through a link.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &str) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
}
