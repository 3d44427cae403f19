//! What a server says it has.
//!
//! A repository with few references tells all of them in one round trip. One with many is asked only for the names that
//! matter (`ref-prefix` of `gitprotocol-v2(5)`), and its advertisement says so: what is not in it may exist all the same.

use serde::{Deserialize, Serialize};

use crate::object_id::{ObjectFormat, ObjectId};
use crate::refspec::RefSpec;

/// The references of a repository at one moment, as the server advertised them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertisement {
    /// The references, in the server's order.
    pub refs: Vec<AdvertisedRef>,
    /// What `HEAD` points at; `None` in an empty repository or when the server does not say.
    pub head: Option<Head>,
    /// How the repository names its objects.
    pub object_format: ObjectFormat,
    /// What was asked for, as beginnings of full names; empty when everything was.
    #[serde(default)]
    pub prefixes: Vec<String>,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedRef {
    /// The full name, for example `refs/heads/main`.
    pub name: String,
    /// What it points at: a commit, or the tag object of an annotated tag.
    pub id: ObjectId,
    /// What an annotated tag stands for, in the end.
    pub peeled: Option<ObjectId>,
}

/// The repository's `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The commit.
    pub id: ObjectId,
    /// The branch that it points at, when the server says so.
    pub branch: Option<String>,
}

impl Advertisement {
    /// That of an empty repository.
    pub(crate) fn none() -> Self {
        Self::complete(Vec::new(), None, ObjectFormat::Sha1)
    }

    /// One with all references of a repository.
    #[must_use]
    pub fn complete(refs: Vec<AdvertisedRef>, head: Option<Head>, object_format: ObjectFormat) -> Self {
        Self { refs, head, object_format, prefixes: Vec::new() }
    }

    /// Whether it has all references of the repository.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Whether it tells what `wanted` means, if that exists.
    #[must_use]
    pub fn covers(&self, wanted: &RefSpec) -> bool {
        let asked = |name: &String| self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        self.is_complete() || wanted.candidates().iter().all(asked)
    }

    /// The reference with this full name.
    #[must_use]
    pub fn get(&self, full_name: &str) -> Option<&AdvertisedRef> {
        self.refs.iter().find(|r| r.name == full_name)
    }

    /// Whether there is nothing at all; of one that is not complete nobody knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_complete() && self.refs.is_empty() && self.head.is_none()
    }
}

impl AdvertisedRef {
    /// What it stands for: the peeled object of an annotated tag, else what it points at.
    #[must_use]
    pub fn target(&self) -> ObjectId {
        self.peeled.unwrap_or(self.id)
    }
}
