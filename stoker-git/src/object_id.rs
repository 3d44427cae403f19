//! Names of git objects.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The full id of a git object: 40 hexadecimal digits (SHA-1) or 64 (SHA-256).
///
/// ```
/// use stoker_git::CommitId;
/// let id: CommitId = "4B825DC642CB6EB9A060E54BF8D69288FBEE4904".parse()?;
/// assert_eq!(id.to_string(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
/// assert_eq!(id.short(), "4b825dc");
/// assert!("4b825dc".parse::<CommitId>().is_err());
/// # Ok::<(), stoker_git::ObjectIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    bytes: [u8; 32],
    length: u8,
}

/// The id of a commit.
pub type CommitId = ObjectId;

/// The text is not the full id of a git object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a full object id; write all 40 (or 64) hexadecimal digits")]
pub struct ObjectIdError(String);

/// How a repository names its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ObjectFormat {
    /// 20 bytes, what nearly every repository uses.
    Sha1,
    /// 32 bytes, since git 2.29.
    Sha256,
}

impl fmt::Display for ObjectFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        })
    }
}

impl ObjectId {
    /// Takes the 20 or 32 bytes of an id; `None` for any other length.
    #[must_use]
    pub fn from_bytes(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        if id.len() != 20 && id.len() != 32 {
            return None;
        }
        bytes[..id.len()].copy_from_slice(id);
        Some(Self { bytes, length: id.len() as u8 })
    }

    /// The 20 or 32 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The hash that made the id.
    #[must_use]
    pub fn format(&self) -> ObjectFormat {
        if self.length == 20 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }

    /// The first seven digits, as people say them.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(7);
        text
    }

    /// Whether the hexadecimal form starts with `prefix` (lower case).
    #[must_use]
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.to_string().starts_with(prefix)
    }

    /// Whether this is the id of no object, all zeros.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.as_bytes().iter().all(|b| *b == 0)
    }
}

impl std::str::FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ObjectIdError(text.chars().take(80).collect());
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
            return Err(error());
        }
        let bytes: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect();
        bytes.and_then(|b| Self::from_bytes(&b)).ok_or_else(error)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_full_ids_are_ids() {
        for bad in ["", "abc", &"0".repeat(39), &"0".repeat(41), &"g".repeat(40), &"é".repeat(20)] {
            bad.parse::<ObjectId>().expect_err(bad);
        }
        assert_eq!("0".repeat(64).parse::<ObjectId>().unwrap().format(), ObjectFormat::Sha256);
        assert!("0".repeat(40).parse::<ObjectId>().unwrap().is_zero());
    }

    proptest! {
        #[test]
        fn text_and_bytes_say_the_same(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 20), proptest::collection::vec(any::<u8>(), 32)
        ]) {
            let id = ObjectId::from_bytes(&bytes).unwrap();
            prop_assert_eq!(id.to_string().parse::<ObjectId>().unwrap(), id);
            prop_assert_eq!(id.as_bytes(), &bytes[..]);
            prop_assert!(id.starts_with(&id.short()));
        }
    }
}
