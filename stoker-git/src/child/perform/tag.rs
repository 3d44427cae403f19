//! The child's part of fetching an annotated tag.

use std::path::Path;

use super::Work;
use crate::cache::layout;
use crate::cache::objects::Objects;
use crate::child::message::FetchReport;
use crate::error::GitError;
use crate::object_id::ObjectId;
use crate::wire::fetch::Fetched;

impl Work<'_> {
    pub(super) fn fetch_tag(&self, tag: &ObjectId, dir: &Path) -> Result<FetchReport, GitError> {
        let url = self.url.to_string();
        let lock = layout::lock(dir, self.request.deadline)?;
        let damaged = |detail: String| GitError::CacheCorrupt { path: dir.display().to_string(), detail };
        let usable = lock.usable(&url)?;
        let generation = usable.ok_or_else(|| damaged(format!("it has no commit for the tag {tag}")))?;
        let fetched = self
            .receive(&generation, tag, None, |mirror, _, writer| {
                mirror.copy_tag(tag, writer)?;
                Ok(Fetched::default())
            })
            .inspect_err(|_| lock.sweep(Some(&generation)))?;
        if Objects::open(&generation.objects_dir())?.raw_tag(tag).is_none() {
            return Err(GitError::CommitNotFound { url, commit: *tag });
        }
        generation
            .hold_tag(tag, &fetched.shallow, &fetched.unshallow)
            .map_err(|e| crate::cache::io_error(generation.path(), &e))?;
        Ok(super::report(&fetched, false))
    }
}
