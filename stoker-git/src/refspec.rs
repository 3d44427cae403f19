//! What a user may write as the wanted state of a repository.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::object_id::CommitId;

/// A branch, a tag, `refs/...`, `HEAD`, or a full or short commit id: what stands in `git.ref`.
///
/// ```
/// use stoker_git::RefSpec;
/// assert!(matches!("main".parse()?, RefSpec::Name(_)));
/// assert!(matches!("refs/heads/main".parse()?, RefSpec::Full(_)));
/// assert!(matches!("HEAD".parse()?, RefSpec::Head));
/// assert!(matches!("4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse()?, RefSpec::Commit(_)));
/// assert!("--upload-pack=id".parse::<RefSpec>().is_err());
/// # Ok::<(), stoker_git::RefError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefSpec {
    /// The default branch of the repository.
    Head,
    /// The short name of a tag or branch; or a short commit id, which only the repository can tell.
    Name(RefName),
    /// A full name under `refs/`.
    Full(RefName),
    /// A full commit id.
    Commit(CommitId),
}

/// A name that git would accept for a reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

/// Why a text is not a reference name. The rules are those of `git check-ref-format`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefError {
    /// Nothing is written.
    #[error("the ref is empty; write a branch, a tag or a commit id")]
    Empty,
    /// Could be taken for an option.
    #[error("ref {0:?} starts with \"-\", which no branch or tag may")]
    Dash(String),
    /// A character that no ref name may have.
    #[error("ref {name:?} contains {character:?}, which no branch or tag may")]
    Character {
        /// The name.
        name: String,
        /// The first offending character.
        character: char,
    },
    /// A sequence that no ref name may have.
    #[error("ref {name:?} contains {sequence:?}, which no branch or tag may")]
    Sequence {
        /// The name.
        name: String,
        /// The offending sequence.
        sequence: &'static str,
    },
    /// A component that starts with a dot or ends with `.lock`, or an empty one.
    #[error(
        "ref {name:?} has the component {component:?}; none may be empty, start with \".\" or end with \".lock\""
    )]
    Component {
        /// The name.
        name: String,
        /// The offending component.
        component: String,
    },
    /// Ends with a dot.
    #[error("ref {0:?} ends with \".\", which no branch or tag may")]
    TrailingDot(String),
    /// Longer than any file system could store.
    #[error("ref of {0} bytes is longer than 255")]
    TooLong(usize),
}

impl stoker_core::Fault for RefError {
    fn category(&self) -> stoker_core::Category {
        stoker_core::Category::new("InvalidRef")
    }

    fn retry(&self) -> stoker_core::Retry {
        stoker_core::Retry::AfterChange
    }
}

/// The longest reference name that is taken, in bytes.
pub const MAX_REF_BYTES: usize = 255;

impl RefName {
    /// Checks a name by the rules of `git check-ref-format`, a single component allowed.
    ///
    /// # Errors
    /// When git would not accept the name.
    pub fn parse(name: &str) -> Result<Self, RefError> {
        let owned = || crate::text::printable(name, 100);
        if name.is_empty() {
            return Err(RefError::Empty);
        }
        if name.len() > MAX_REF_BYTES {
            return Err(RefError::TooLong(name.len()));
        }
        if name.starts_with('-') {
            return Err(RefError::Dash(owned()));
        }
        if let Some(character) = name.chars().find(|c| c.is_control() || " ~^:?*[\\".contains(*c)) {
            return Err(RefError::Character { name: owned(), character });
        }
        for sequence in ["..", "@{"] {
            if name.contains(sequence) {
                return Err(RefError::Sequence { name: owned(), sequence });
            }
        }
        if name == "@" {
            return Err(RefError::Sequence { name: owned(), sequence: "@" });
        }
        for component in name.split('/') {
            if component.is_empty() || component.starts_with('.') || component.ends_with(".lock") {
                return Err(RefError::Component { name: owned(), component: component.to_owned() });
            }
        }
        if name.ends_with('.') {
            return Err(RefError::TrailingDot(owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RefSpec {
    /// The full names that it may stand for, the first that exists being meant; none for a commit id.
    #[must_use]
    pub fn candidates(&self) -> Vec<String> {
        match self {
            Self::Head => vec!["HEAD".to_owned()],
            Self::Name(name) => {
                vec![format!("refs/tags/{name}"), format!("refs/heads/{name}"), format!("refs/{name}")]
            }
            Self::Full(name) => vec![name.to_string()],
            Self::Commit(_) => Vec::new(),
        }
    }
}

impl std::str::FromStr for RefSpec {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "HEAD" {
            return Ok(Self::Head);
        }
        if let Ok(commit) = text.parse() {
            return Ok(Self::Commit(commit));
        }
        let name = RefName::parse(text)?;
        Ok(if text.starts_with("refs/") { Self::Full(name) } else { Self::Name(name) })
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RefSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("HEAD"),
            Self::Name(name) | Self::Full(name) => name.fmt(f),
            Self::Commit(commit) => commit.fmt(f),
        }
    }
}

impl Serialize for RefSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RefSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BAD: &[&str] = &[
        "", "-x", "a b", "a~1", "a^", "a:b", "a?b", "a*", "a[b", "a\\b", "a..b", "a@{b", "@", ".a", "a/.b",
        "a.lock", "a.lock/b", "a/", "/a", "a//b", "a.", "a\u{7f}b", "a\tb", "a\nb", "a\0b",
    ];

    #[test]
    fn bad_names_are_refused_by_name() {
        for bad in BAD {
            let error = bad.parse::<RefSpec>().expect_err(bad);
            assert!(error.to_string().contains("ref"), "{bad:?}: {error}");
        }
        "x".repeat(300).parse::<RefSpec>().unwrap_err();
    }

    #[test]
    fn the_forms_are_told_apart() {
        assert_eq!("HEAD".parse(), Ok(RefSpec::Head));
        for name in ["main", "feature/a-b", "v1.2.3", "größe", "release@2", "0123abc"] {
            assert_eq!(name.parse(), Ok(RefSpec::Name(RefName(name.into()))), "{name}");
        }
        assert!(matches!("refs/pull/1/head".parse(), Ok(RefSpec::Full(_))));
        assert!(matches!("A".repeat(40).parse(), Ok(RefSpec::Commit(_))));
        assert!(matches!("a".repeat(64).parse(), Ok(RefSpec::Commit(_))));
    }

    /// What `git check-ref-format` says of each of these, and of random names.
    fn git_accepts(name: &str) -> bool {
        std::process::Command::new("git")
            .args(["check-ref-format", "--allow-onelevel"])
            .arg(name)
            .status()
            .is_ok_and(|status| status.success())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_rules_are_those_of_git(name in r"[a.@{}/~^ \[\\:?*-]{1,6}|[a-c]{1,3}(\.lock)?(/[a.]{1,2}){0,2}") {
            // git takes a name with a leading dash; as a value in a configuration it is a trap.
            prop_assume!(!name.starts_with('-'));
            prop_assert_eq!(RefName::parse(&name).is_ok(), git_accepts(&name), "{:?}", name);
        }
    }

    #[test]
    fn git_agrees_on_the_table() {
        for bad in BAD.iter().filter(|b| !b.contains('\0') && !b.starts_with('-')) {
            assert!(!git_accepts(bad), "{bad:?}");
        }
    }
}
