//! The child's part of a push.

use std::path::Path;

use super::{Work, endless};
use crate::cache::layout;
use crate::cache::objects::Objects;
use crate::child::message::PushReport;
use crate::compose::{Draft, compose};
use crate::error::GitError;
use crate::local::LocalRepository;
use crate::object_id::CommitId;
use crate::transport;
use crate::url::Protocol;
use crate::wire::greeting::Bounds;
use crate::wire::push::{Move, Moved, in_a_push};
use crate::wire::{self, Service};

impl Work<'_> {
    pub(super) fn push(
        &self,
        draft: &Draft,
        reference: &str,
        expected: Option<CommitId>,
        dir: &Path,
        contents: Vec<Vec<u8>>,
    ) -> Result<PushReport, GitError> {
        let url = self.url.to_string();
        let gone = || GitError::CacheCorrupt {
            path: dir.display().to_string(),
            detail: format!("commit {} was fetched and is not there", draft.base),
        };
        let generation = layout::current(dir)?.filter(|g| g.holds(&draft.base)).ok_or_else(gone)?;
        // The base stays until the push is over.
        let _lease = generation.lease()?.ok_or_else(gone)?;
        let composed = compose(Objects::open(&generation.objects_dir())?, draft, contents)?;
        let wanted = Move { reference: reference.to_owned(), expected, commit: composed.commit };
        let size = composed.pack.len() as u64;
        let moved = if self.url.protocol() == Protocol::File {
            LocalRepository::open(self.url)?.push(&wanted, &composed.pack)?
        } else {
            self.push_to_server(&wanted, composed.pack, &url)?
        };
        let already_there = moved == Moved::Already;
        Ok(PushReport {
            commit: composed.commit,
            tree: composed.tree,
            already_there,
            sent_bytes: if already_there { 0 } else { size },
        })
    }

    fn push_to_server(&self, wanted: &Move, pack: Vec<u8>, url: &str) -> Result<Moved, GitError> {
        let mut connection = transport::open(&self.destination(), Service::ReceivePack)?;
        let bounds = Bounds::none(self.request.limits.stall_timeout);
        let greeting = self.listen(&mut *connection, bounds).map_err(|error| in_a_push(error, url))?;
        let greeting = greeting.ok_or_else(|| endless(url))?;
        wire::push::run(&mut *connection, &greeting, wanted, pack, url)
    }
}
