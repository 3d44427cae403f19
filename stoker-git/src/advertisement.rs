//! What a server says it has.

use serde::{Deserialize, Serialize};

use crate::object_id::{ObjectFormat, ObjectId};

/// The references of a repository at one moment, as the server advertised them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertisement {
    /// The references, in the server's order.
    pub refs: Vec<AdvertisedRef>,
    /// What `HEAD` points at; `None` in an empty repository or when the server does not say.
    pub head: Option<Head>,
    /// How the repository names its objects.
    pub object_format: ObjectFormat,
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
        Self { refs: Vec::new(), head: None, object_format: ObjectFormat::Sha1 }
    }

    /// The reference with this full name.
    #[must_use]
    pub fn get(&self, full_name: &str) -> Option<&AdvertisedRef> {
        self.refs.iter().find(|r| r.name == full_name)
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.head.is_none()
    }
}

impl AdvertisedRef {
    /// What it stands for: the peeled object of an annotated tag, else what it points at.
    #[must_use]
    pub fn target(&self) -> ObjectId {
        self.peeled.unwrap_or(self.id)
    }
}
