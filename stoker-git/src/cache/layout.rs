//! Which generation is current, and who may write.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::generation::Generation;
use super::{fold, io_error};
use crate::error::GitError;

/// The right to change a cache, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct WriteLock {
    dir: PathBuf,
    _file: File,
}

/// The generation in use.
pub(crate) fn current(dir: &Path) -> Result<Option<Generation>, GitError> {
    match std::fs::read_to_string(dir.join("current")) {
        Ok(name) => Ok(Generation::named(dir, name.trim())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        // Bytes that are no text: written by nobody here.
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(None),
        Err(e) => Err(io_error(dir, &e)),
    }
}

/// Whether everything in the cache came from this URL.
pub(crate) fn is_from(dir: &Path, url: &str) -> bool {
    std::fs::read_to_string(dir.join("origin")).is_ok_and(|origin| origin == url)
}

/// Waits for the right to change the cache.
///
/// # Errors
/// [`GitError::CacheBusy`] when somebody else has it for longer than `patience`.
pub(crate) fn lock(dir: &Path, patience: Duration) -> Result<WriteLock, GitError> {
    let failed = |e: io::Error| io_error(dir, &e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    if let Some(foreign) = foreign(dir).map_err(failed)? {
        return Err(GitError::CacheUnusable {
            path: dir.display().to_string(),
            detail: format!(
                "it is not empty and not a git cache of Stoker: it has {foreign:?}; name an empty directory, or one that \
                 does not exist yet"
            ),
        });
    }
    let file = open_lock(&dir.join("lock")).map_err(failed)?;
    let start = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(WriteLock { dir: dir.to_owned(), _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(e) => return Err(failed(e.into())),
        }
        if start.elapsed() >= patience {
            return Err(GitError::CacheBusy { path: dir.display().to_string(), waited: patience });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What shows that a directory belongs to somebody else, whose files a sweep could take for leftovers.
///
/// A fetch that was interrupted at its very beginning leaves less than a whole cache, and the root of a volume has a
/// `lost+found`.
fn foreign(dir: &Path) -> io::Result<Option<String>> {
    if dir.join("origin").is_file() {
        return Ok(None);
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = matches!(&*name, "lock" | "origin.new" | "current" | "current.new" | "lost+found");
        if !known && Generation::named(dir, &name).is_none() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Opens a file to lock on; what is in it does not matter.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

impl WriteLock {
    /// The generation to go on with: current, undamaged and from this URL. Anything else is swept away.
    pub(crate) fn usable(&self, url: &str) -> Result<Option<Generation>, GitError> {
        let usable =
            current(&self.dir)?.filter(|g| is_from(&self.dir, url) && !g.is_suspect() && g.is_sound());
        self.sweep(usable.as_ref());
        if usable.is_none() {
            // Readers must not take a damaged generation, or one of another repository, for the current one.
            remove_if_there(&self.dir.join("current")).map_err(|e| io_error(&self.dir, &e))?;
            replace(&self.dir.join("origin"), url.as_bytes()).map_err(|e| io_error(&self.dir, &e))?;
        }
        Ok(usable)
    }

    /// A fresh generation beside the current one.
    pub(crate) fn create(&self) -> Result<Generation, GitError> {
        let last = self.generations().iter().filter_map(Generation::number).max().unwrap_or_default();
        Generation::create(&self.dir, last + 1).map_err(|e| io_error(&self.dir, &e))
    }

    /// Goes on with the same commits in fewer packs; `None` if that is too much work, or impossible.
    pub(crate) fn fold(&self, crowded: &Generation) -> Option<Generation> {
        let new = self.create().ok()?;
        match fold::fold(crowded, &new).and_then(|()| self.switch(&new)) {
            Ok(()) => Some(new),
            Err(_) => {
                new.remove();
                None
            }
        }
    }

    /// Makes `generation` the current one and cleans up the others.
    pub(crate) fn switch(&self, generation: &Generation) -> Result<(), GitError> {
        replace(&self.dir.join("current"), generation.name().as_bytes())
            .map_err(|e| io_error(&self.dir, &e))?;
        self.sweep(Some(generation));
        Ok(())
    }

    /// Removes what interrupted fetches left, and generations that nobody uses.
    pub(crate) fn sweep(&self, keep: Option<&Generation>) {
        for generation in self.generations() {
            if keep == Some(&generation) {
                generation.sweep();
            } else {
                generation.remove_unless_in_use();
            }
        }
        if let Ok(entries) = std::fs::read_dir(&self.dir) {
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().ends_with(".new") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    fn generations(&self) -> Vec<Generation> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| Generation::named(&self.dir, &entry.file_name().to_string_lossy()))
            .collect()
    }
}

/// Replaces a small file as a whole.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.new"), "mine").unwrap();
        let error = lock(dir.path(), Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("\"notes.new\"; name an empty directory"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is made in it");
    }

    #[test]
    fn a_cache_that_is_new_begun_or_whole_is_taken() {
        // Another test may start a program at this very moment, which has our lock until it is itself.
        const PATIENCE: Duration = Duration::from_secs(5);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        drop(lock(dir.path(), PATIENCE).unwrap());
        std::fs::write(dir.path().join("origin.new"), "https://h").unwrap();
        drop(lock(dir.path(), PATIENCE).unwrap().usable("https://h/a").unwrap());
        // What somebody left in a cache does not make it unusable.
        std::fs::write(dir.path().join("README"), "do not delete").unwrap();
        lock(dir.path(), PATIENCE).unwrap();
        lock(&dir.path().join("below/new"), PATIENCE).unwrap();
    }
}
