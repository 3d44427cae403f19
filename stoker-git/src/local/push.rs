//! Pushing into a repository on this machine.
//!
//! No server stands in between, so none of its hooks run and no protection of a branch is known: what the file system
//! allows is allowed.

use std::io::Write;

use git2::ErrorCode;

use super::{LocalRepository, failed};
use crate::cache::objects::{object_id, oid};
use crate::error::GitError;
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::wire::push::{Move, Moved};

impl LocalRepository {
    /// Adds the objects of `pack` and moves the branch.
    pub(crate) fn push(&self, wanted: &Move, pack: &[u8]) -> Result<Moved, GitError> {
        let name = &wanted.reference;
        let words = |e: &git2::Error| printable(e.message(), SERVER_TEXT_CHARS);
        let (url, branch) = (self.url.clone(), wanted.branch().to_owned());
        if !self.repository.is_bare() && self.repository.head().is_ok_and(|head| head.name() == Ok(name)) {
            let message = "the branch is checked out there, and its files would no longer fit it".to_owned();
            return Err(GitError::PushRejected { url, branch, message });
        }
        let found = || match self.repository.find_reference(name) {
            Ok(found) => Ok(found.target().and_then(object_id)),
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(failed(&self.url, &e)),
        };
        if let Some(moved) = wanted.judge(found()?, &self.url)? {
            return Ok(moved);
        }
        let refused = |e: git2::Error| {
            let (url, branch) = (self.url.clone(), wanted.branch().to_owned());
            match e.class() {
                git2::ErrorClass::Os | git2::ErrorClass::Filesystem => {
                    GitError::PushDenied { url, detail: words(&e) }
                }
                _ => GitError::PushRejected { url, branch, message: words(&e) },
            }
        };
        let odb = self.repository.odb().map_err(refused)?;
        let mut writer = odb.packwriter().map_err(refused)?;
        writer.write_all(pack).map_err(|e| {
            let (url, branch) = (self.url.clone(), wanted.branch().to_owned());
            GitError::PushRejected { url, branch, message: printable(&e.to_string(), SERVER_TEXT_CHARS) }
        })?;
        writer.commit().map_err(refused)?;
        let new = oid(&wanted.commit).map_err(refused)?;
        let log = "push by stoker";
        let moved = match &wanted.expected {
            None => self.repository.reference(name, new, false, log),
            Some(old) => {
                let old = oid(old).map_err(refused)?;
                self.repository.reference_matching(name, new, true, old, log)
            }
        };
        match moved {
            Ok(_) => Ok(Moved::Now),
            Err(e) if matches!(e.code(), ErrorCode::Exists | ErrorCode::Modified) => {
                let expected = wanted.expected;
                Err(GitError::LeaseLost { url, branch, expected, found: found()? })
            }
            Err(e) if e.code() == ErrorCode::Locked => {
                Err(GitError::RefLocked { url, branch, message: words(&e) })
            }
            Err(e) => Err(refused(e)),
        }
    }
}
