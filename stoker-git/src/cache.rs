//! Objects on disk, between two fetches.
//!
//! ```text
//! <dir>/lock            held by whoever fetches; released by the kernel when they die
//! <dir>/origin          the URL that everything here came from
//! <dir>/current         the name of the generation in use
//! <dir>/g7/             a bare repository: plain git can look into it
//!       ├ objects/pack/ one pack per fetch
//!       ├ refs/stoker/  one reference per commit whose tree is complete here
//!       ├ refs/stoker-tags/  one per annotated tag that was asked for
//!       ├ in-use        shared lock of every reader
//!       └ suspect       left by a reader that met a damaged object
//! ```
//!
//! A generation is only ever added to. When its packs are too many, they are folded into a new one; when they are too
//! large for what they hold, or it is suspect, the next fetch starts a new one from nothing. Then `current` is switched,
//! and the old one goes when its last reader has. So a fetch that dies anywhere leaves what was there, and leftovers
//! that the next fetch sweeps.

mod fold;
pub(crate) mod generation;
pub(crate) mod layout;
pub(crate) mod objects;

use std::path::{Path, PathBuf};

use crate::error::GitError;
use crate::object_id::CommitId;
#[cfg(feature = "signatures")]
use crate::object_id::ObjectId;
use crate::tree::CommitSource;

/// A directory that caches the objects of one repository.
///
/// Several processes may share it: one fetches at a time, any number read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in this directory, which the first fetch creates.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A commit that was fetched; `None` when it is not here. No network.
    ///
    /// What it returns keeps its objects from being cleaned up until it is dropped.
    ///
    /// # Errors
    /// [`GitError::CacheUnusable`] or [`GitError::CacheCorrupt`]; the next fetch repairs the latter.
    pub fn commit(&self, commit: &CommitId) -> Result<Option<CommitSource>, GitError> {
        // The generation may be switched between looking it up and locking it.
        for _ in 0..5 {
            let Some(generation) = layout::current(&self.dir)? else { return Ok(None) };
            let Some(lease) = generation.lease()? else { continue };
            if layout::current(&self.dir)?.as_ref() != Some(&generation) {
                continue;
            }
            if generation.is_suspect() || !generation.holds(commit) {
                return Ok(None);
            }
            return CommitSource::open(&generation, commit, lease).map(Some);
        }
        Ok(None)
    }

    /// The annotated tags that were fetched, as git stores them. No network.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit).
    #[cfg(feature = "signatures")]
    pub(crate) fn tags(&self) -> Result<Vec<(ObjectId, Vec<u8>)>, GitError> {
        let Some(generation) = layout::current(&self.dir)? else { return Ok(Vec::new()) };
        let Some(_lease) = generation.lease()? else { return Ok(Vec::new()) };
        let objects = objects::Objects::open(&generation.objects_dir())?;
        Ok(generation.tags().into_iter().filter_map(|tag| Some((tag, objects.raw_tag(&tag)?))).collect())
    }

    /// How much disk it uses, in bytes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        fn size(dir: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => size(&entry.path()),
                    Ok(meta) => meta.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        size(&self.dir)
    }
}

/// An I/O error of the cache.
pub(crate) fn io_error(path: &Path, error: &std::io::Error) -> GitError {
    let path = path.display().to_string();
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => GitError::CacheFull { path },
        _ => GitError::CacheUnusable { path, detail: error.to_string() },
    }
}
