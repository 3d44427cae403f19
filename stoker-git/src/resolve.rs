//! From what a user wrote to exactly one commit.
//!
//! A pure function of the server's advertisement. A name is looked up as a tag, then as a branch, then under `refs/`;
//! a name that is both tag and branch means the tag, with a warning. What is none of them and looks like a short
//! commit id is matched against what is advertised: a server tells nothing about other commits.

use serde::{Deserialize, Serialize};

use crate::advertisement::{AdvertisedRef, Advertisement};
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectFormat};
use crate::refspec::RefSpec;

/// One commit, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resolution {
    /// The commit.
    pub commit: CommitId,
    /// What named it.
    pub kind: ResolvedKind,
    /// The full name of the reference; `None` when a commit id was given.
    pub reference: Option<String>,
    /// What a person should know.
    pub warnings: Vec<ResolveWarning>,
}

/// What a name turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ResolvedKind {
    /// A branch, which moves.
    Branch,
    /// A tag, which should not move.
    Tag,
    /// Another reference under `refs/`.
    Other,
    /// A commit id. That the commit exists is known only once it was fetched.
    Commit,
}

/// What resolved, but not without doubt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ResolveWarning {
    /// A branch and a tag have this name.
    #[error("{name:?} is a tag and a branch; the tag is meant; write refs/heads/{name} for the branch")]
    TagAndBranch {
        /// The name.
        name: String,
    },
    /// A commit was given by a few digits.
    #[error("{prefix:?} was taken for the commit {commit}; write all its digits to be sure")]
    AbbreviatedCommit {
        /// What was written.
        prefix: String,
        /// What it was taken for.
        commit: CommitId,
    },
}

/// The fewest digits that are taken for a commit id, as in git.
const MIN_ABBREVIATION: usize = 4;
/// How many near names an error lists.
const MAX_SUGGESTIONS: usize = 3;

/// Finds the commit that `wanted` means in `advertisement`. `url` is for the errors.
///
/// From an advertisement that is not [complete](Advertisement::is_complete) a [`GitError::RefNotFound`] says only that the
/// name is not a reference: near names and short commit ids take all references, see [`is_final`].
///
/// # Errors
/// [`GitError::RefNotFound`] (with near names), [`GitError::CommitAmbiguous`], [`GitError::RepositoryEmpty`] or
/// [`GitError::ObjectFormatUnsupported`].
pub fn resolve(advertisement: &Advertisement, wanted: &RefSpec, url: &str) -> Result<Resolution, GitError> {
    let format = match wanted {
        RefSpec::Commit(commit) => commit.format(),
        _ => advertisement.object_format,
    };
    if format != ObjectFormat::Sha1 {
        return Err(GitError::ObjectFormatUnsupported { url: url.to_owned(), format });
    }
    if let RefSpec::Commit(commit) = wanted {
        return Ok(from_commit(*commit));
    }
    if advertisement.is_empty() {
        return Err(GitError::RepositoryEmpty { url: url.to_owned() });
    }
    let not_found = |near| GitError::RefNotFound { url: url.to_owned(), name: wanted.to_string(), near };
    match wanted {
        RefSpec::Commit(commit) => Ok(from_commit(*commit)),
        RefSpec::Head => {
            let head = advertisement.head.as_ref().ok_or_else(|| not_found(Vec::new()))?;
            Ok(Resolution {
                commit: head.id,
                kind: ResolvedKind::Branch,
                reference: Some(head.branch.clone().unwrap_or_else(|| "HEAD".to_owned())),
                warnings: Vec::new(),
            })
        }
        RefSpec::Full(name) => match advertisement.get(name.as_str()) {
            Some(found) => Ok(from_ref(found, Vec::new())),
            None => Err(not_found(near_names(advertisement, name.as_str(), ""))),
        },
        RefSpec::Name(name) => {
            let name = name.as_str();
            let tag = advertisement.get(&format!("refs/tags/{name}"));
            let branch = advertisement.get(&format!("refs/heads/{name}"));
            match (tag, branch) {
                (Some(tag), Some(_)) => {
                    Ok(from_ref(tag, vec![ResolveWarning::TagAndBranch { name: name.to_owned() }]))
                }
                (Some(found), None) | (None, Some(found)) => Ok(from_ref(found, Vec::new())),
                (None, None) => match advertisement.get(&format!("refs/{name}")) {
                    Some(found) => Ok(from_ref(found, Vec::new())),
                    None => abbreviated(advertisement, name, url)?.map_or_else(
                        || Err(not_found(near_names(advertisement, name, "refs/"))),
                        |commit| Ok(from_abbreviation(name, commit)),
                    ),
                },
            }
        }
    }
}

/// Whether all references of the repository could lead to another result than these did.
#[must_use]
pub fn is_final(advertisement: &Advertisement, result: &Result<Resolution, GitError>) -> bool {
    advertisement.is_complete() || !matches!(result, Err(GitError::RefNotFound { .. }))
}

fn from_commit(commit: CommitId) -> Resolution {
    Resolution { commit, kind: ResolvedKind::Commit, reference: None, warnings: Vec::new() }
}

fn from_abbreviation(prefix: &str, commit: CommitId) -> Resolution {
    let warning = ResolveWarning::AbbreviatedCommit { prefix: prefix.to_owned(), commit };
    Resolution { warnings: vec![warning], ..from_commit(commit) }
}

fn from_ref(found: &AdvertisedRef, warnings: Vec<ResolveWarning>) -> Resolution {
    let kind = match found.name.as_str() {
        name if name.starts_with("refs/heads/") => ResolvedKind::Branch,
        name if name.starts_with("refs/tags/") => ResolvedKind::Tag,
        _ => ResolvedKind::Other,
    };
    Resolution { commit: found.target(), kind, reference: Some(found.name.clone()), warnings }
}

/// The one advertised commit whose id starts with `prefix`.
fn abbreviated(advertisement: &Advertisement, prefix: &str, url: &str) -> Result<Option<CommitId>, GitError> {
    let prefix = prefix.to_ascii_lowercase();
    if prefix.len() < MIN_ABBREVIATION || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut candidates: Vec<CommitId> =
        advertisement.refs.iter().map(AdvertisedRef::target).filter(|id| id.starts_with(&prefix)).collect();
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        _ => {
            candidates.truncate(MAX_SUGGESTIONS);
            Err(GitError::CommitAmbiguous { url: url.to_owned(), prefix, candidates })
        }
    }
}

/// Branches and tags whose names look like `name`, best first, in the form that the user wrote (full or short).
fn near_names(advertisement: &Advertisement, name: &str, cut: &str) -> Vec<String> {
    let short = |full: &str| -> Option<String> {
        if cut.is_empty() {
            return Some(full.to_owned());
        }
        full.strip_prefix("refs/heads/").or_else(|| full.strip_prefix("refs/tags/")).map(str::to_owned)
    };
    let lower = name.to_lowercase();
    let mut near: Vec<(usize, String)> = advertisement
        .refs
        .iter()
        .filter_map(|r| short(&r.name))
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let last = other.rsplit('/').next().unwrap_or_default();
            let distance =
                if other == lower || last == lower { 0 } else { strsim::osa_distance(&other, &lower) };
            // A third of the letters may differ: more is a different word.
            (distance <= 1.max(lower.chars().count() / 3)).then_some((distance, candidate))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests;
