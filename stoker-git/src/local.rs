//! A repository on this machine, for mirrors behind an air gap.
//!
//! There is no server to ask: its objects are read directly, and those of one commit are packed into the cache. That also
//! works at depth 1, which libgit2's own local transport does not know.

mod push;

use std::collections::HashSet;
use std::path::Path;

use git2::{ErrorCode, ObjectType, Odb, Oid, PackBuilder, Repository, RepositoryOpenFlags};

use crate::advertisement::{AdvertisedRef, Advertisement, Head};
use crate::cache::objects::{object_id, oid};
use crate::error::GitError;
use crate::libgit2;
use crate::object_id::{CommitId, ObjectFormat, ObjectId};
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::url::RemoteUrl;
use crate::wire::PackSink;

/// More references than this are many.
const MANY_REFS: usize = 4000;

/// A repository on this machine.
pub(crate) struct LocalRepository {
    repository: Repository,
    url: String,
}

impl LocalRepository {
    pub(crate) fn open(url: &RemoteUrl) -> Result<Self, GitError> {
        libgit2::trust_foreign_owners();
        let flags = RepositoryOpenFlags::NO_SEARCH;
        let no_ceilings: [&str; 0] = [];
        let text = url.to_string();
        match Repository::open_ext(Path::new(url.path()), flags, no_ceilings) {
            Ok(repository) => Ok(Self { repository, url: text }),
            Err(e) if e.code() == ErrorCode::NotFound => Err(GitError::RepositoryNotFound { url: text }),
            Err(e) if e.message().contains("objectformat") || e.message().contains("object format") => {
                Err(GitError::ObjectFormatUnsupported { url: text, format: ObjectFormat::Sha256 })
            }
            Err(e) => Err(failed(&text, &e)),
        }
    }

    /// All references; or where they are many, those that start with one of `prefixes`, if any is given.
    pub(crate) fn advertisement(&self, prefixes: &[String]) -> Result<Advertisement, GitError> {
        let read = || -> Result<Advertisement, git2::Error> {
            // What takes time is not finding a reference but looking at what it points to.
            let some = !prefixes.is_empty() && self.repository.references()?.nth(MANY_REFS).is_some();
            let prefixes = if some { prefixes } else { &[] };
            let asked = |name: &str| prefixes.is_empty() || prefixes.iter().any(|p| name.starts_with(p));
            let mut refs = Vec::new();
            for reference in self.repository.references()? {
                let reference = reference?;
                if !reference.name().is_ok_and(asked) {
                    continue;
                }
                let (Ok(name), Ok(resolved)) = (reference.name(), reference.resolve()) else { continue };
                let Some(id) = resolved.target().and_then(object_id) else { continue };
                let peeled = reference.peel(ObjectType::Any).ok().and_then(|object| {
                    let peeled = if object.kind() == Some(ObjectType::Tag) {
                        object.peel(ObjectType::Commit).ok()?.id()
                    } else {
                        object.id()
                    };
                    object_id(peeled)
                });
                refs.push(AdvertisedRef { name: name.to_owned(), id, peeled: peeled.filter(|p| *p != id) });
            }
            refs.sort_by(|a, b| a.name.cmp(&b.name));
            let head = self.repository.head().ok().and_then(|head| {
                let branch = head.name().ok().filter(|name| *name != "HEAD").map(str::to_owned);
                Some(Head { id: object_id(head.target()?)?, branch })
            });
            let prefixes = prefixes.to_vec();
            Ok(Advertisement { refs, head, object_format: ObjectFormat::Sha1, prefixes })
        };
        read().map_err(|e| failed(&self.url, &e))
    }

    /// Packs the commit with its tree, but for what `target` has.
    pub(crate) fn copy(
        &self,
        commit: &CommitId,
        target: &Odb<'_>,
        sink: &mut dyn PackSink,
    ) -> Result<Vec<ObjectId>, GitError> {
        let failed = |e: git2::Error| failed(&self.url, &e);
        let not_found = || GitError::CommitNotFound { url: self.url.clone(), commit: *commit };
        let found = match self.repository.find_commit(oid(commit).map_err(failed)?) {
            Ok(found) => found,
            Err(e) if e.code() == ErrorCode::NotFound => return Err(not_found()),
            Err(e) => return Err(failed(e)),
        };
        let mut pack = self.repository.packbuilder().map_err(failed)?;
        pack.insert_object(found.id(), None).map_err(failed)?;
        let mut seen = HashSet::new();
        self.add_tree(found.tree_id(), target, &mut seen, &mut pack).map_err(failed)?;
        let mut stopped = None;
        let packed = pack.foreach(|bytes| {
            let written = sink.write(bytes);
            let go_on = written.is_ok();
            stopped = written.err();
            go_on
        });
        match (stopped, packed) {
            (Some(error), _) => Err(error),
            (None, Err(e)) => Err(failed(e)),
            (None, Ok(())) => {
                let shallow = found.parent_count() > 0;
                Ok(if shallow { vec![*commit] } else { Vec::new() })
            }
        }
    }

    /// Packs an annotated tag, without what it is of.
    pub(crate) fn copy_tag(&self, tag: &ObjectId, sink: &mut dyn PackSink) -> Result<(), GitError> {
        let failed = |e: git2::Error| failed(&self.url, &e);
        let mut pack = self.repository.packbuilder().map_err(failed)?;
        pack.insert_object(oid(tag).map_err(failed)?, None).map_err(failed)?;
        let mut bytes = git2::Buf::new();
        pack.write_buf(&mut bytes).map_err(failed)?;
        sink.write(&bytes)
    }

    fn add_tree(
        &self,
        tree: Oid,
        target: &Odb<'_>,
        seen: &mut HashSet<Oid>,
        pack: &mut PackBuilder<'_>,
    ) -> Result<(), git2::Error> {
        // Trees are visited even when the target has them: only whole commits are known to be complete there.
        let mut todo = vec![tree];
        while let Some(tree) = todo.pop() {
            if !seen.insert(tree) {
                continue;
            }
            if !target.exists(tree) {
                pack.insert_object(tree, None)?;
            }
            for entry in &self.repository.find_tree(tree)? {
                match entry.kind() {
                    Some(ObjectType::Tree) => todo.push(entry.id()),
                    Some(ObjectType::Blob) if seen.insert(entry.id()) && !target.exists(entry.id()) => {
                        pack.insert_object(entry.id(), entry.name().ok())?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn failed(url: &str, error: &git2::Error) -> GitError {
    GitError::Remote { url: url.to_owned(), message: printable(error.message(), SERVER_TEXT_CHARS) }
}
