//! Refusing what is not signed.

use super::{Git, Remote, block_on, unexpected};
use crate::cache::Cache;
use crate::child::message::{Answer, Task};
use crate::error::{GitError, SignatureProblem};
use crate::object_id::{CommitId, ObjectId};
use crate::refspec::RefSpec;
use crate::signature::{Refusal, Signed, Signer, TrustedKeys};
use crate::tree::CommitSource;

/// What has to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerifyMode {
    /// The commit.
    Head,
    /// The annotated tag that the reference names.
    Tag,
    /// Both.
    TagAndHead,
}

/// What has to be signed, and by whom.
#[derive(Debug, Clone)]
pub struct Verification {
    /// What has to be signed.
    pub mode: VerifyMode,
    /// By whom.
    pub keys: TrustedKeys,
}

/// Who signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The commit, where that had to be signed.
    pub commit: Option<Signer>,
    /// The tag, where that had to be signed.
    pub tag: Option<Signer>,
}

impl Git {
    /// Judges the signature of a commit that was fetched, or of the tag that leads to it, or of both.
    ///
    /// `reference` is what the user wrote; only a tag can be signed besides the commit. A tag is asked for once: it is in
    /// the cache then. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// [`GitError::SignatureRefused`], or why the tag cannot be fetched.
    pub async fn verify(
        &self,
        remote: &Remote,
        cache: &Cache,
        source: &CommitSource,
        reference: &RefSpec,
        verification: &Verification,
        now: i64,
    ) -> Result<Verified, GitError> {
        let url = remote.url.to_string();
        let mut verified = Verified::default();
        if verification.mode != VerifyMode::Tag {
            let object = format!("commit {}", source.commit().short());
            let raw = source.raw_commit()?;
            let signer = judge(&raw, Signed::commit, &verification.keys, now);
            verified.commit = Some(signer.map_err(|why| refused(&url, object, why))?);
        }
        if verification.mode != VerifyMode::Head {
            let object = |name: &str| format!("tag {}", crate::text::printable(name, 100));
            let name = tag_name(reference).ok_or_else(|| {
                let detail =
                    format!("{:?} is no tag; write refs/tags/... or the name of one", reference.to_string());
                let why = Refusal::new(SignatureProblem::Unsigned, detail);
                refused(&url, format!("commit {}", source.commit().short()), why)
            })?;
            let commit = source.commit();
            let judge = |raw: &[u8]| judge(raw, Signed::tag, &verification.keys, now);
            let held = tags_of(cache, name, &commit)?;
            let signer = match held.iter().find_map(|(_, raw)| judge(raw).ok()) {
                Some(signer) => Ok(signer),
                // The tag may have been signed since: what the repository has now is what counts.
                None => match self.tag(remote, cache, name, &commit).await? {
                    Ok(raw) => judge(&raw),
                    Err(why) => Err(why),
                },
            };
            verified.tag = Some(signer.map_err(|why| refused(&url, object(name), why))?);
        }
        Ok(verified)
    }

    /// [`verify`](Self::verify) for callers without a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn verify_blocking(
        &self,
        remote: &Remote,
        cache: &Cache,
        source: &CommitSource,
        reference: &RefSpec,
        verification: &Verification,
        now: i64,
    ) -> Result<Verified, GitError> {
        block_on(self.verify(remote, cache, source, reference, verification, now))
    }

    /// The annotated tag of this name that is of this commit, as git stores it; or why there is none.
    async fn tag(
        &self,
        remote: &Remote,
        cache: &Cache,
        name: &str,
        commit: &CommitId,
    ) -> Result<Result<Vec<u8>, Refusal>, GitError> {
        let refuse = |problem, detail: String| Ok(Err(Refusal::new(problem, detail)));
        let advertisement = self.advertisement(remote).await?;
        let Some(found) = advertisement.get(&format!("refs/tags/{name}")) else {
            return refuse(SignatureProblem::Unsigned, "there is no such tag in the repository".to_owned());
        };
        if found.target() != *commit {
            let (is, wanted) = (found.target().short(), commit.short());
            return refuse(SignatureProblem::BadSignature, format!("it is of commit {is}, not of {wanted}"));
        }
        if found.peeled.is_none() {
            let detail = "it is a lightweight tag, which has nothing to sign; make it with `git tag -s`";
            return refuse(SignatureProblem::Unsigned, detail.to_owned());
        }
        let held = || -> Result<Option<Vec<u8>>, GitError> {
            let tags = tags_of(cache, name, commit)?;
            Ok(tags.into_iter().find(|(id, _)| *id == found.id).map(|(_, raw)| raw))
        };
        if let Some(raw) = held()? {
            return Ok(Ok(raw));
        }
        let dir = std::path::absolute(cache.dir()).map_err(|e| crate::cache::io_error(cache.dir(), &e))?;
        let task = || Task::FetchTag { tag: found.id, cache: dir.clone() };
        match self.run(remote, task, &[], "fetching a tag from", self.limits.fetch_deadline).await? {
            Answer::Fetched(_) => {}
            other => return Err(unexpected(&other)),
        }
        match held()? {
            Some(raw) => Ok(Ok(raw)),
            None => refuse(
                SignatureProblem::BadSignature,
                "the tag object behind it has another name, or is not of this commit itself".to_owned(),
            ),
        }
    }
}

/// The name of the tag that a reference may mean.
fn tag_name(reference: &RefSpec) -> Option<&str> {
    match reference {
        RefSpec::Name(name) => Some(name.as_str()),
        RefSpec::Full(name) => name.as_str().strip_prefix("refs/tags/"),
        RefSpec::Head | RefSpec::Commit(_) => None,
    }
}

/// The tags that were fetched before. What they say of themselves counts: under another name, an old tag could be shown
/// for a new one.
fn tags_of(cache: &Cache, name: &str, commit: &CommitId) -> Result<Vec<(ObjectId, Vec<u8>)>, GitError> {
    let is_it = |raw: &[u8]| Signed::tag(raw).is_some_and(|tag| tag.tagged() == Some((commit, name)));
    Ok(cache.tags()?.into_iter().filter(|(_, raw)| is_it(raw)).collect())
}

/// Judges an object that anybody may have written: a panic in a parser is a refusal, too.
fn judge(
    raw: &[u8],
    parse: impl Fn(&[u8]) -> Option<Signed> + std::panic::RefUnwindSafe,
    keys: &TrustedKeys,
    now: i64,
) -> Result<Signer, Refusal> {
    let bad = |detail: &str| Refusal::new(SignatureProblem::BadSignature, detail);
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let signed = parse(raw).ok_or_else(|| bad("it is not in the form that git writes"))?;
        keys.judge(&signed, now)
    }));
    judged.unwrap_or_else(|_| Err(bad("reading its signature failed")))
}

fn refused(url: &str, object: String, why: Refusal) -> GitError {
    GitError::SignatureRefused { url: url.to_owned(), object, problem: why.problem, detail: why.detail }
}
