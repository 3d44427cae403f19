//! A new commit, from objects alone: nothing is checked out, and nothing is written to the disk.
//!
//! The new objects are made in memory, in front of the cache's own. Of the base only the directories on the way to what
//! changes are read, so that the cost follows the change; whatever is not on that way keeps its id.

use std::collections::BTreeMap;

use git2::{Buf, ObjectType, Odb, Oid, Repository, Signature, Time, Tree};
use serde::{Deserialize, Serialize};

use crate::cache::objects::{Objects, corrupt, object_id, oid};
use crate::commit::Person;
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectId};
use crate::proposal::{Change, Proposal};

/// A [`Proposal`] on its way to the child; the contents follow on their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Draft {
    pub(crate) base: CommitId,
    pub(crate) edits: Vec<DraftEdit>,
    pub(crate) author: Person,
    pub(crate) committer: Person,
    pub(crate) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DraftEdit {
    path: String,
    /// Whether the file is a program; `None` to delete it.
    write: Option<bool>,
}

/// A commit that was made.
pub(crate) struct Composed {
    pub(crate) commit: CommitId,
    pub(crate) tree: ObjectId,
    /// What the base has not got, as a pack.
    pub(crate) pack: Vec<u8>,
}

impl Draft {
    pub(crate) fn of(proposal: &Proposal) -> Self {
        let edit = |edit: &crate::proposal::Edit| DraftEdit {
            path: edit.path.as_str().to_owned(),
            write: match edit.change {
                Change::Write { executable, .. } => Some(executable),
                Change::Delete => None,
            },
        };
        Self {
            base: proposal.base,
            edits: proposal.edits.iter().map(edit).collect(),
            author: proposal.author.clone(),
            committer: proposal.committer.clone(),
            message: proposal.full_message(),
        }
    }
}

/// What happens at one place of the tree.
#[derive(Default)]
struct Node {
    /// Of the file here: `None` where there is no edit; the new blob and its mode, or its removal.
    edit: Option<Option<(Oid, i32)>>,
    below: BTreeMap<String, Node>,
}

const FILE: i32 = 0o100_644;
const PROGRAM: i32 = 0o100_755;
const DIRECTORY: i32 = 0o040_000;

/// Makes the commit. `contents` has one entry for each edit that writes.
///
/// # Errors
/// [`GitError::ProposalInvalid`] when an edit does not fit the base.
pub(crate) fn compose(objects: Objects, draft: &Draft, contents: Vec<Vec<u8>>) -> Result<Composed, GitError> {
    let path = objects.path().to_owned();
    let failed = |e: git2::Error| corrupt(&path, &e);
    let repository = objects.into_repository();
    let odb = repository.odb().map_err(failed)?;
    // In front of the disk, where nothing is written.
    odb.add_new_mempack_backend(i32::MAX).map_err(failed)?;
    let mut made = Made { odb: &odb, repository: &repository, new: Vec::new() };

    let root = made.plan(draft, contents).map_err(|e| e.named(&path))?;
    let base = repository.find_commit(oid(&draft.base).map_err(failed)?).map_err(failed)?;
    let old = base.tree().map_err(failed)?;
    let tree = made.tree(Some(&old), &root, "").map_err(|e| e.named(&path))?;
    let tree = match tree {
        Some(tree) => tree,
        None => {
            let empty = odb.write(ObjectType::Tree, b"").map_err(failed)?;
            made.note(empty);
            empty
        }
    };
    if tree == old.id() {
        return Err(invalid(format!("its edits leave {} as it is", draft.base.short())));
    }
    let buffer = {
        let tree = repository.find_tree(tree).map_err(failed)?;
        let (author, committer) =
            (signature(&draft.author).map_err(failed)?, signature(&draft.committer).map_err(failed)?);
        repository
            .commit_create_buffer(&author, &committer, &draft.message, &tree, &[&base])
            .map_err(failed)?
    };
    let commit = odb.write(ObjectType::Commit, &buffer).map_err(failed)?;
    made.note(commit);

    let mut pack = repository.packbuilder().map_err(failed)?;
    pack.set_threads(1);
    for id in &made.new {
        pack.insert_object(*id, None).map_err(failed)?;
    }
    let mut bytes = Buf::new();
    pack.write_buf(&mut bytes).map_err(failed)?;
    let odd = || GitError::ChildFailed { detail: "an odd object id".to_owned() };
    Ok(Composed {
        commit: object_id(commit).ok_or_else(odd)?,
        tree: object_id(tree).ok_or_else(odd)?,
        pack: bytes.to_vec(),
    })
}

/// Why an edit cannot be made.
enum Trouble {
    Invalid(String),
    Git(git2::Error),
}

impl Trouble {
    fn named(self, path: &str) -> GitError {
        match self {
            Self::Invalid(detail) => invalid(detail),
            Self::Git(error) => corrupt(path, &error),
        }
    }
}

impl From<git2::Error> for Trouble {
    fn from(error: git2::Error) -> Self {
        Self::Git(error)
    }
}

struct Made<'a> {
    odb: &'a Odb<'a>,
    repository: &'a Repository,
    /// The objects that the base has not got.
    new: Vec<Oid>,
}

impl Made<'_> {
    /// Notes an object that the base has not got at this place. The cache may have it of another commit, but whether the
    /// server still has that one is not known.
    fn note(&mut self, id: Oid) {
        if !self.new.contains(&id) {
            self.new.push(id);
        }
    }

    /// The edits as a tree.
    fn plan(&mut self, draft: &Draft, contents: Vec<Vec<u8>>) -> Result<Node, Trouble> {
        let mut root = Node::default();
        let mut contents = contents.into_iter();
        for edit in &draft.edits {
            let mut node = &mut root;
            for component in edit.path.split('/') {
                node = node.below.entry(component.to_owned()).or_default();
            }
            if node.edit.is_some() {
                return Err(Trouble::Invalid(format!("{:?} is in it twice", edit.path)));
            }
            node.edit = Some(match edit.write {
                None => None,
                Some(executable) => {
                    let content =
                        contents.next().ok_or_else(|| Trouble::Invalid("a content is missing".to_owned()))?;
                    let id = self.odb.write(ObjectType::Blob, &content)?;
                    Some((id, if executable { PROGRAM } else { FILE }))
                }
            });
        }
        Ok(root)
    }

    /// The directory with the edits made; `None` when nothing is left in it.
    fn tree(&mut self, old: Option<&Tree<'_>>, node: &Node, at: &str) -> Result<Option<Oid>, Trouble> {
        let mut builder = self.repository.treebuilder(old)?;
        for (name, child) in &node.below {
            let path = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            let found = match old.map(|old| old.get_name(name)) {
                Some(Some(entry)) => Some((entry.id(), entry.filemode())),
                _ => None,
            };
            match self.place(found, child, &path)? {
                Some((id, mode)) => {
                    builder.insert(name, id, mode)?;
                }
                None if found.is_some() => builder.remove(name)?,
                None => {}
            }
        }
        if builder.is_empty() {
            return Ok(None);
        }
        let id = builder.write()?;
        if old.is_none_or(|old| old.id() != id) {
            self.note(id);
        }
        Ok(Some(id))
    }

    /// What is at a path once the edits there and below are made.
    fn place(
        &mut self,
        found: Option<(Oid, i32)>,
        node: &Node,
        path: &str,
    ) -> Result<Option<(Oid, i32)>, Trouble> {
        let refuse = |what: &str| Err(Trouble::Invalid(format!("{path:?} {what}")));
        let is_file = |mode: i32| mode & 0o170_000 == 0o100_000;
        let mut kept = found;
        if let Some(edit) = &node.edit {
            match (found, edit) {
                (None, None) => return refuse("is to be deleted and is not in the base"),
                (Some((_, DIRECTORY)), _) => {
                    return refuse("is a directory in the base; name the files in it");
                }
                (Some((_, mode)), Some(_)) if !is_file(mode) => {
                    return refuse(
                        "is a symbolic link or submodule in the base; delete it in a commit of its own",
                    );
                }
                _ => {}
            }
            kept = *edit;
            if let Some((id, _)) = *edit
                && found.is_none_or(|(old, _)| old != id)
            {
                self.note(id);
            }
        }
        if node.below.is_empty() {
            return Ok(kept);
        }
        let below = match kept {
            None => None,
            Some((id, DIRECTORY)) => Some(self.repository.find_tree(id)?),
            Some(_) if node.edit.is_some() => return refuse("is both a file and a directory in it"),
            Some(_) => return refuse("is no directory in the base; delete it to make one"),
        };
        Ok(self.tree(below.as_ref(), node, path)?.map(|id| (id, DIRECTORY)))
    }
}

fn signature(person: &Person) -> Result<Signature<'static>, git2::Error> {
    Signature::new(&person.name, &person.email, &Time::new(person.seconds, person.offset_minutes))
}

fn invalid(detail: String) -> GitError {
    GitError::ProposalInvalid { detail }
}
