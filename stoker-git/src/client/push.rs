//! Bringing a commit to a repository.

use super::{Git, Remote, Wanted, block_on, unexpected};
use crate::cache::Cache;
use crate::child::message::{Answer, Task};
use crate::compose::Draft;
use crate::error::GitError;
use crate::proposal::{Proposal, Pushed};

impl Git {
    /// Makes one commit on top of `proposal.base` and moves a branch to it, unless the branch is not what
    /// `proposal.lease` says. The base is fetched if `cache` has not got it; nothing is added to the cache by the push.
    ///
    /// A push that is repeated, because its answer was lost, finds its commit there and succeeds.
    ///
    /// # Errors
    /// [`GitError::ProposalInvalid`], [`GitError::LeaseLost`], [`GitError::NonFastForward`],
    /// [`GitError::BranchProtected`], [`GitError::HookDeclined`], [`GitError::PushDenied`], [`GitError::RefLocked`],
    /// [`GitError::PushRejected`], or why the repository cannot be reached, within
    /// [`Limits::push_deadline`](crate::Limits::push_deadline).
    pub async fn push(
        &self,
        remote: &Remote,
        cache: &Cache,
        proposal: &Proposal,
    ) -> Result<Pushed, GitError> {
        proposal.check()?;
        let (bytes, limit) = (proposal.content_bytes(), self.limits.max_push_bytes);
        if bytes > limit {
            let detail =
                format!("its files have {bytes} bytes, and no more than {limit} may be pushed at once");
            return Err(GitError::ProposalInvalid { detail });
        }
        self.fetch(remote, cache, &Wanted::commit(proposal.base)).await?;
        let dir = std::path::absolute(cache.dir()).map_err(|e| crate::cache::io_error(cache.dir(), &e))?;
        let contents: Vec<&[u8]> = proposal.contents().collect();
        let task = || Task::Push {
            draft: Box::new(Draft::of(proposal)),
            reference: format!("refs/heads/{}", proposal.branch),
            expected: proposal.lease.commit(),
            cache: dir.clone(),
            lengths: contents.iter().map(|content| content.len() as u64).collect(),
        };
        match self.run(remote, task, &contents, "pushing to", self.limits.push_deadline).await? {
            Answer::Pushed(report) => Ok(Pushed {
                commit: report.commit,
                tree: report.tree,
                already_there: report.already_there,
                sent_bytes: report.sent_bytes,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// [`push`](Self::push) for callers without a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn push_blocking(
        &self,
        remote: &Remote,
        cache: &Cache,
        proposal: &Proposal,
    ) -> Result<Pushed, GitError> {
        block_on(self.push(remote, cache, proposal))
    }
}
