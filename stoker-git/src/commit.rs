//! What a commit says of itself.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::object_id::{CommitId, ObjectId};

/// What a commit says of itself. Its texts are anybody's words: escape them before a terminal sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommitInfo {
    /// Its id.
    pub id: CommitId,
    /// The id of its root tree: equal trees are equal in every byte.
    pub tree: ObjectId,
    /// The parents; what they hold was not fetched.
    pub parents: Vec<CommitId>,
    /// Who wrote the change.
    pub author: Person,
    /// Who made the commit.
    pub committer: Person,
    /// The first line of the message, at most 200 characters.
    pub subject: String,
}

/// A name and a moment in a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The mail address.
    pub email: String,
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Where the clock stood, in minutes east of UTC.
    pub offset_minutes: i32,
}

impl Person {
    /// The moment; a time before 1970 becomes 1970.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.seconds).unwrap_or_default())
    }

    fn new(signature: &git2::Signature<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            name: text(signature.name_bytes()),
            email: text(signature.email_bytes()),
            seconds: signature.when().seconds(),
            offset_minutes: signature.when().offset_minutes(),
        }
    }
}

/// How much of a subject is kept.
const MAX_SUBJECT_CHARS: usize = 200;

impl CommitInfo {
    pub(crate) fn read(commit: &git2::Commit<'_>) -> Option<Self> {
        let id = |oid: git2::Oid| ObjectId::from_bytes(oid.as_bytes());
        let message = String::from_utf8_lossy(commit.message_bytes());
        let subject = message.trim_start().lines().next().unwrap_or_default().trim_end();
        Some(Self {
            id: id(commit.id())?,
            tree: id(commit.tree_id())?,
            parents: commit.parent_ids().filter_map(id).collect(),
            author: Person::new(&commit.author()),
            committer: Person::new(&commit.committer()),
            subject: subject.chars().take(MAX_SUBJECT_CHARS).collect(),
        })
    }
}
