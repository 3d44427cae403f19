//! One bare repository of a cache.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::io_error;
use super::layout::{open_lock, replace};
use super::objects::Objects;
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectId};

/// One bare repository of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generation {
    path: PathBuf,
    name: String,
}

/// How many commits a server is told of: the newest one alone already spares nearly everything.
const MAX_HAVES: usize = 8;
/// How many commits stay listed; their objects stay anyway until the generation goes.
const MAX_HELD: usize = 64;
/// Where commits are noted whose trees are whole.
pub(super) const COMMITS: &str = "refs/stoker";
/// Where annotated tags are noted.
pub(super) const TAGS: &str = "refs/stoker-tags";

impl Generation {
    /// The generation with this name; `None` when it is no name of one.
    pub(crate) fn named(dir: &Path, name: &str) -> Option<Self> {
        let digits = name.strip_prefix('g')?;
        if digits.is_empty() || digits.len() > 18 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self { path: dir.join(name), name: name.to_owned() })
    }

    /// Makes an empty bare repository.
    pub(crate) fn create(dir: &Path, number: u64) -> io::Result<Self> {
        let name = format!("g{number}");
        let path = dir.join(&name);
        for sub in ["objects/pack", "objects/info", COMMITS, "refs/heads"] {
            std::fs::create_dir_all(path.join(sub))?;
        }
        std::fs::write(path.join("HEAD"), "ref: refs/heads/none\n")?;
        std::fs::write(path.join("config"), "[core]\n\trepositoryformatversion = 0\n\tbare = true\n")?;
        Ok(Self { path, name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn number(&self) -> Option<u64> {
        self.name.strip_prefix('g')?.parse().ok()
    }

    pub(crate) fn objects_dir(&self) -> PathBuf {
        self.path.join("objects")
    }

    pub(crate) fn pack_dir(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    fn reference(&self, commit: &CommitId) -> PathBuf {
        self.path.join(COMMITS).join(commit.to_string())
    }

    /// Whether the whole tree of this commit is here.
    pub(crate) fn holds(&self, commit: &CommitId) -> bool {
        self.reference(commit).exists()
    }

    /// Notes that the whole tree of `commit` is here, and which commits lack their parents.
    pub(crate) fn hold(
        &self,
        commit: &CommitId,
        shallow: &[ObjectId],
        unshallow: &[ObjectId],
    ) -> io::Result<()> {
        self.note_shallow(shallow, unshallow)?;
        replace(&self.reference(commit), format!("{commit}\n").as_bytes())?;
        for old in self.held().iter().skip(MAX_HELD) {
            let _ = std::fs::remove_file(self.reference(old));
        }
        Ok(())
    }

    /// Notes that an annotated tag is here.
    pub(crate) fn hold_tag(
        &self,
        tag: &ObjectId,
        shallow: &[ObjectId],
        unshallow: &[ObjectId],
    ) -> io::Result<()> {
        self.note_shallow(shallow, unshallow)?;
        let dir = self.path.join(TAGS);
        std::fs::create_dir_all(&dir)?;
        replace(&dir.join(tag.to_string()), format!("{tag}\n").as_bytes())?;
        for old in named_ids(&dir).iter().skip(MAX_HELD) {
            let _ = std::fs::remove_file(dir.join(old.to_string()));
        }
        Ok(())
    }

    /// The annotated tags that are here, newest first.
    #[cfg(feature = "signatures")]
    pub(crate) fn tags(&self) -> Vec<ObjectId> {
        named_ids(&self.path.join(TAGS))
    }

    fn note_shallow(&self, shallow: &[ObjectId], unshallow: &[ObjectId]) -> io::Result<()> {
        let mut all = self.shallow();
        all.extend(shallow);
        all.retain(|id| !unshallow.contains(id));
        all.sort_unstable();
        all.dedup();
        let text: String = all.iter().map(|id| format!("{id}\n")).collect();
        replace(&self.path.join("shallow"), text.as_bytes())
    }

    /// The commits whose parents are not here.
    pub(crate) fn shallow(&self) -> Vec<ObjectId> {
        let text = std::fs::read_to_string(self.path.join("shallow")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The commits whose trees are complete here, newest first.
    fn held(&self) -> Vec<CommitId> {
        named_ids(&self.path.join(COMMITS))
    }

    /// What a server is told that is here.
    pub(crate) fn haves(&self) -> Vec<CommitId> {
        let mut held = self.held();
        held.truncate(MAX_HAVES);
        held
    }

    /// Whether there are so many packs that each look-up costs.
    pub(crate) fn is_crowded(&self, max_packs: usize) -> bool {
        self.pack_sizes().len() >= max_packs
    }

    /// Whether another pack like the last would make all of them more than twice of what one fetch brings.
    pub(crate) fn is_outgrown(&self) -> bool {
        let sizes = self.pack_sizes();
        let (total, largest) = (sizes.iter().sum::<u64>(), sizes.iter().max().copied().unwrap_or_default());
        let next = sizes.last().copied().unwrap_or_default();
        sizes.len() > 1 && total + next > 2 * largest + (1 << 20)
    }

    /// Oldest first.
    fn pack_sizes(&self) -> Vec<u64> {
        let metadata = self.packs().into_iter().filter_map(|path| path.metadata().ok());
        let mut sizes: Vec<_> =
            metadata.filter_map(|meta| Some((meta.modified().ok()?, meta.len()))).collect();
        sizes.sort_unstable();
        sizes.into_iter().map(|(_, size)| size).collect()
    }

    pub(super) fn packs(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.pack_dir()) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "pack")).collect()
    }

    /// Whether its newest commit can be read: the cheap part of a check, done before each fetch.
    pub(crate) fn is_sound(&self) -> bool {
        let Ok(objects) = Objects::open(&self.objects_dir()) else { return false };
        self.held().first().is_some_and(|newest| objects.root_tree(newest).is_ok())
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_mark().exists()
    }

    /// The file whose existence makes the next fetch start anew.
    pub(crate) fn suspect_mark(&self) -> PathBuf {
        self.path.join("suspect")
    }

    /// Keeps the generation from being removed; `None` when it is being removed right now, or gone.
    pub(crate) fn lease(&self) -> Result<Option<File>, GitError> {
        let file = match open_lock(&self.path.join("in-use")) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&self.path, &e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(io_error(&self.path, &e.into())),
        }
    }

    pub(super) fn remove_unless_in_use(&self) {
        if let Ok(file) = open_lock(&self.path.join("in-use"))
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }

    /// Removes it even though this process has just made it.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }

    /// Removes what an interrupted fetch left: temporary packs, indexes without a pack, half-written references.
    pub(super) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.pack_dir()) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if !is_finished_pack(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
        for dir in [self.path.join(COMMITS), self.path.join(TAGS), self.path.clone()] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for entry in entries.flatten() {
                if entry.path().extension().is_some_and(|e| e == "new" || e == "lock") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// The ids that files of a directory are named by, newest first.
fn named_ids(dir: &Path) -> Vec<ObjectId> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse::<ObjectId>().ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, id))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().rev().map(|(_, id)| id).collect()
}

fn is_finished_pack(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let named = stem.strip_prefix("pack-").is_some_and(|id| id.parse::<ObjectId>().is_ok());
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    named
        && matches!(extension, "pack" | "idx")
        && path.with_extension("pack").exists()
        && path.with_extension("idx").exists()
}
