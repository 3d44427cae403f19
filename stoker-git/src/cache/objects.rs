//! The object database of a generation, and packs on their way into it.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use git2::{Indexer, ObjectType, Odb, OdbLookupFlags, Oid, Repository};

use super::generation::Generation;
use crate::error::GitError;
use crate::libgit2;
use crate::object_id::{CommitId, ObjectId};
use crate::wire::PackSink;

/// The objects below one directory. Reads nothing else: no configuration, no references.
pub(crate) struct Objects {
    repository: Repository,
    path: String,
}

/// How deep directories may nest. The deepest path is 4,096 bytes long, so this is generous.
const MAX_DEPTH: usize = 2048;

/// In bytes.
const MAX_TAG_BYTES: usize = 1 << 20;

impl Objects {
    pub(crate) fn open(objects_dir: &Path) -> Result<Self, GitError> {
        libgit2::set_up();
        let path = objects_dir.display().to_string();
        let open = || -> Result<Repository, git2::Error> {
            let odb = Odb::new()?;
            // The only way that git2 offers to open a bare objects directory; reading is all that is needed of it.
            odb.add_disk_alternate(&path)?;
            Repository::from_odb(odb)
        };
        let repository = open().map_err(|e| corrupt(&path, &e))?;
        Ok(Self { repository, path })
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where they are, for errors.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn into_repository(self) -> Repository {
        self.repository
    }

    /// Whether this commit is here, with or without its tree.
    pub(crate) fn has(&self, commit: &CommitId) -> bool {
        oid(commit).is_ok_and(|id| self.repository.find_commit(id).is_ok())
    }

    /// A tag as git stores it; `None` when it is not here, or larger than any that people make.
    pub(crate) fn raw_tag(&self, tag: &ObjectId) -> Option<Vec<u8>> {
        let (odb, id) = (self.repository.odb().ok()?, oid(tag).ok()?);
        let (size, kind) = odb.read_header(id).ok()?;
        if kind != ObjectType::Tag || size > MAX_TAG_BYTES {
            return None;
        }
        Some(odb.read(id).ok()?.data().to_vec())
    }

    /// The tree of a commit.
    pub(crate) fn root_tree(&self, commit: &CommitId) -> Result<Oid, GitError> {
        let read = || self.repository.find_commit(oid(commit)?).map(|c| c.tree_id());
        read().map_err(|e| corrupt(&self.path, &e))
    }

    /// Checks that every tree and file of `commit` is here. Subtrees that `known` has too are taken as complete.
    pub(crate) fn verify(&self, commit: &CommitId, known: Option<&CommitId>) -> Result<(), GitError> {
        let new = self.root_tree(commit)?;
        let old = known.and_then(|known| self.root_tree(known).ok());
        let odb = self.repository.odb().map_err(|e| corrupt(&self.path, &e))?;
        let mut seen = HashSet::new();
        self.verify_tree(&odb, new, old, &mut seen, 0)
    }

    fn verify_tree(
        &self,
        odb: &Odb<'_>,
        new: Oid,
        old: Option<Oid>,
        seen: &mut HashSet<Oid>,
        depth: usize,
    ) -> Result<(), GitError> {
        if old == Some(new) || !seen.insert(new) {
            return Ok(());
        }
        let failed = |detail: String| GitError::CacheCorrupt { path: self.path.clone(), detail };
        if depth > MAX_DEPTH {
            return Err(failed(format!("directories nest deeper than {MAX_DEPTH}")));
        }
        let tree = self.repository.find_tree(new).map_err(|e| corrupt(&self.path, &e))?;
        let old = old.and_then(|old| self.repository.find_tree(old).ok());
        for entry in &tree {
            let before = old.as_ref().and_then(|old| old.get_name_bytes(entry.name_bytes())).map(|e| e.id());
            match entry.kind() {
                Some(ObjectType::Tree) => self.verify_tree(odb, entry.id(), before, seen, depth + 1)?,
                Some(ObjectType::Blob) => {
                    let known = before == Some(entry.id());
                    if !known && !odb.exists_ext(entry.id(), OdbLookupFlags::NO_REFRESH) {
                        return Err(failed(format!("file object {} is missing", entry.id())));
                    }
                }
                // A submodule's commit is in another repository.
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes one pack into a generation.
pub(crate) struct PackWriter<'a> {
    indexer: Option<Indexer<'a>>,
    written: u64,
    limit: u64,
    url: &'a str,
    commit: CommitId,
    cache: String,
}

impl<'a> PackWriter<'a> {
    /// `base` resolves the deltas of a thin pack.
    pub(crate) fn new(
        generation: &Generation,
        base: &'a Odb<'a>,
        url: &'a str,
        commit: CommitId,
        limit: u64,
    ) -> Result<Self, GitError> {
        let cache = generation.path().display().to_string();
        let indexer = Indexer::new(Some(base), &generation.pack_dir(), 0, false)
            .map_err(|e| writing_failed(&cache, url, &e))?;
        Ok(Self { indexer: Some(indexer), written: 0, limit, url, commit, cache })
    }

    /// How many bytes came.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Finishes the pack.
    pub(crate) fn finish(mut self) -> Result<(), GitError> {
        match self.indexer.take() {
            Some(indexer) => {
                indexer.commit().map(|_| ()).map_err(|e| writing_failed(&self.cache, self.url, &e))
            }
            None => Ok(()),
        }
    }
}

impl PackSink for PackWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), GitError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            return Err(GitError::RepositoryTooLarge {
                url: self.url.to_owned(),
                commit: self.commit,
                limit_bytes: self.limit,
            });
        }
        let Some(indexer) = &mut self.indexer else { return Ok(()) };
        indexer.write_all(bytes).map_err(|e| {
            match e.get_ref().and_then(|e| e.downcast_ref::<git2::Error>()) {
                Some(error) => writing_failed(&self.cache, self.url, error),
                None => super::io_error(Path::new(&self.cache), &e),
            }
        })
    }
}

/// An id as libgit2 has it.
pub(crate) fn oid(id: &ObjectId) -> Result<Oid, git2::Error> {
    Oid::from_bytes(id.as_bytes())
}

/// An id as we have it.
pub(crate) fn object_id(oid: Oid) -> Option<ObjectId> {
    ObjectId::from_bytes(oid.as_bytes())
}

/// An error while reading what should be here.
pub(crate) fn corrupt(path: &str, error: &git2::Error) -> GitError {
    GitError::CacheCorrupt { path: path.to_owned(), detail: crate::text::printable(error.message(), 300) }
}

/// An error while writing: the disk's fault, or the fault of what was sent.
fn writing_failed(cache: &str, url: &str, error: &git2::Error) -> GitError {
    let detail = crate::text::printable(error.message(), 300);
    let path = cache.to_owned();
    match error.class() {
        git2::ErrorClass::Os | git2::ErrorClass::Filesystem if error.message().contains("No space left") => {
            GitError::CacheFull { path }
        }
        git2::ErrorClass::Os | git2::ErrorClass::Filesystem | git2::ErrorClass::NoMemory => {
            GitError::CacheUnusable { path, detail }
        }
        _ => GitError::Protocol { url: url.to_owned(), detail: format!("the pack is damaged: {detail}") },
    }
}
