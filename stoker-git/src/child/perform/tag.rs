//! The child's part of fetching an annotated tag.

use std::path::Path;

use super::Work;
use crate::cache::layout;
use crate::cache::objects::{Objects, PackWriter};
use crate::child::message::FetchReport;
use crate::error::GitError;
use crate::local::LocalRepository;
use crate::object_id::ObjectId;
use crate::url::Protocol;
use crate::wire::fetch::{Fetched, Want};

impl Work<'_> {
    pub(super) fn fetch_tag(&self, tag: &ObjectId, dir: &Path) -> Result<FetchReport, GitError> {
        let url = self.url.to_string();
        let lock = layout::lock(dir, self.request.deadline)?;
        let damaged = |detail: String| GitError::CacheCorrupt { path: dir.display().to_string(), detail };
        let usable = lock.usable(&url)?;
        let generation = usable.ok_or_else(|| damaged(format!("it has no commit for the tag {tag}")))?;
        let objects = Objects::open(&generation.objects_dir())?;
        let base = objects
            .repository()
            .odb()
            .map_err(|e| crate::cache::objects::corrupt(&generation.path().display().to_string(), &e))?;
        let mut writer =
            PackWriter::new(&generation, &base, &url, *tag, self.request.limits.max_transfer_bytes)?;
        let fetch = || -> Result<Fetched, GitError> {
            if self.url.protocol() == Protocol::File {
                LocalRepository::open(self.url)?.copy_tag(tag, &mut writer)?;
                writer.finish()?;
                return Ok(Fetched::default());
            }
            let (have, shallow) = (generation.haves(), generation.shallow());
            let patience = self.request.limits.stall_timeout;
            let want = Want { commit: *tag, hint: None, have, shallow, patience };
            let fetched = self.ask(&want, &url, &mut writer)?;
            writer.finish()?;
            Ok(fetched)
        };
        let fetched = fetch().inspect_err(|_| lock.sweep(Some(&generation)))?;
        if Objects::open(&generation.objects_dir())?.raw_tag(tag).is_none() {
            return Err(GitError::CommitNotFound { url, commit: *tag });
        }
        generation
            .hold_tag(tag, &fetched.shallow, &fetched.unshallow)
            .map_err(|e| crate::cache::io_error(generation.path(), &e))?;
        Ok(super::report(&fetched, false))
    }
}
