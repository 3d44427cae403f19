//! A plain directory as a source, for development and for tools that unpack elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use crate::path::RelPath;
use crate::source::{ContentId, Entry, EntryKind, NamedEntry, Source, SourceError};

/// A directory on disk.
///
/// A content id is made from the file's identity (device, inode, size, times), so that listing reads no file. The
/// directory must stand still during a sync: a file that changed between listing and opening is an error. A `.git`
/// directory is not content and does not appear.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    root: PathBuf,
}

impl DirectorySource {
    /// Takes the directory at `root`.
    ///
    /// # Errors
    /// When there is no directory.
    pub fn open(root: impl AsRef<Path>) -> io::Result<Self> {
        let root = root.as_ref().canonicalize()?;
        if !root.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", root.display()),
            ));
        }
        Ok(Self { root })
    }

    fn locate(&self, path: RelPath<'_>) -> PathBuf {
        self.root.join(path.as_str())
    }
}

impl Source for DirectorySource {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        // A symlink on the way would lead out of the tree: each component is looked at by itself.
        let mut above = path.ancestors().collect::<Vec<_>>();
        above.reverse();
        for directory in above {
            match stat(&self.locate(directory)) {
                Ok(s) if kind_of(&s) == EntryKind::Directory => {}
                Ok(_) => return Ok(None),
                Err(e) => return absent_or(e, path),
            }
        }
        match stat(&self.locate(path)) {
            Ok(s) => Ok(Some(entry_of(&s))),
            Err(e) => absent_or(e, path),
        }
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let directory = self.locate(path);
        let mut entries = Vec::new();
        for found in std::fs::read_dir(&directory).map_err(|e| unreadable(path, e))? {
            let name = found.map_err(|e| unreadable(path, e))?.file_name();
            if name == ".git" {
                continue;
            }
            let s = stat(&directory.join(&name)).map_err(|e| unreadable(path, e))?;
            entries.push(NamedEntry { name: name.as_bytes().to_vec(), entry: entry_of(&s) });
        }
        Ok(entries)
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, self.locate(path), flags, Mode::empty())
            .map_err(|e| unreadable(path, e.into()))?;
        let now = rustix::fs::fstat(&fd).map_err(|e| unreadable(path, e.into()))?;
        if identity(&now) != *id {
            return Err(SourceError::Changed { path: path.to_buf() });
        }
        Ok(Box::new(File::from(fd)))
    }
}

fn stat(path: &Path) -> io::Result<Stat> {
    Ok(rustix::fs::statat(CWD, OsStr::new(path), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn kind_of(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Directory,
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => EntryKind::Executable,
        FileType::RegularFile => EntryKind::File,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

fn entry_of(stat: &Stat) -> Entry {
    let kind = kind_of(stat);
    match kind {
        EntryKind::File | EntryKind::Executable => {
            Entry { kind, id: Some(identity(stat)), size: u64::try_from(stat.st_size).ok() }
        }
        _ => Entry { kind, id: None, size: None },
    }
}

fn identity(stat: &Stat) -> ContentId {
    let text = format!(
        "{}:{}:{}:{}.{}:{}.{}",
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec
    );
    ContentId::of(text.as_bytes())
}

fn absent_or(error: io::Error, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
        _ => Err(unreadable(path, error)),
    }
}

fn unreadable(path: RelPath<'_>, error: io::Error) -> SourceError {
    SourceError::Read { path: path.to_buf(), source: Box::new(error) }
}
