//! Where desired content comes from: a read-only tree of paths with content ids.
//!
//! A source is a snapshot. Asking twice gives the same answer; a source that cannot promise that (a plain directory
//! somebody edits meanwhile) makes the engine fail the transaction, never mix two states.

use std::fmt;
use std::io::Read;

use crate::fault::{Category, Fault, Retry};
use crate::path::{RelPath, RelPathBuf};

/// Names a content: equal ids mean equal bytes. Different ids may still hold equal bytes.
///
/// Up to 32 bytes: a git object id (SHA-1 or SHA-256) or a digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId {
    bytes: [u8; 32],
    length: u8,
}

impl ContentId {
    /// Takes 1 to 32 bytes.
    ///
    /// Returns `None` for any other length.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        if id.is_empty() || id.len() > bytes.len() {
            return None;
        }
        bytes[..id.len()].copy_from_slice(id);
        Some(Self { bytes, length: id.len() as u8 })
    }

    /// The BLAKE3 digest of some bytes, as an id.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        blake3::hash(content).into()
    }

    /// The bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads the hexadecimal form that `Display` prints.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if !text.is_ascii() || !text.len().is_multiple_of(2) {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect();
        Self::new(&bytes?)
    }
}

impl From<blake3::Hash> for ContentId {
    fn from(hash: blake3::Hash) -> Self {
        Self { bytes: *hash.as_bytes(), length: 32 }
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for ContentId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(self.as_bytes())
        }
    }
}

impl<'de> serde::Deserialize<'de> for ContentId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_string(IdVisitor)
        } else {
            deserializer.deserialize_byte_buf(IdVisitor)
        }
    }
}

/// Takes the text or the bytes as they are read: there may be no whole to borrow from.
struct IdVisitor;

impl serde::de::Visitor<'_> for IdVisitor {
    type Value = ContentId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a content id of 1 to 32 bytes")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ContentId, E> {
        ContentId::from_hex(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<ContentId, E> {
        ContentId::new(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }
}

/// What an entry of a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A regular file with the executable bit.
    Executable,
    /// A symbolic link. Never followed.
    Symlink,
    /// A git submodule.
    Submodule,
    /// Anything else (a device, a socket, a FIFO).
    Other,
}

/// One entry of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Files: the content id. Directories: the tree id, when the source has one; equal tree ids mean equal subtrees.
    pub id: Option<ContentId>,
    /// The size of a file in bytes, when the source knows it without reading the file.
    pub size: Option<u64>,
}

/// A named entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEntry {
    /// The name, as the source has it: not yet checked against the rules of [`RelPath`].
    pub name: Vec<u8>,
    /// What it is.
    pub entry: Entry,
}

/// Why a source could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The content or directory could not be read.
    #[error("cannot read {path} from the source")]
    Read {
        /// What was read.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The entry is not (or no longer) there.
    #[error("{path} is not in the source")]
    Missing {
        /// What was asked for.
        path: RelPathBuf,
    },
    /// The source changed while it was read.
    #[error("{path} changed while it was read; the source must stand still during a sync")]
    Changed {
        /// What changed.
        path: RelPathBuf,
    },
    /// A file is larger than the source can hand out.
    #[error("{path} has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// The file.
        path: RelPathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Fault for SourceError {
    fn category(&self) -> Category {
        match self {
            Self::TooLarge { .. } => Category::new("FileTooLarge"),
            _ => Category::new("SourceUnreadable"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::TooLarge { .. } => Retry::AfterChange,
            _ => Retry::Backoff,
        }
    }
}

/// A read-only tree of files.
///
/// Guarantees an implementation gives: it is a snapshot; it never follows symbolic links; `list` names every entry of
/// a directory exactly once, in any order.
pub trait Source {
    /// The entry at `path`; `None` when nothing is there. The root is always a directory.
    ///
    /// # Errors
    /// When the source cannot be read.
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError>;

    /// The entries of the directory at `path`, which `entry` has called a directory.
    ///
    /// # Errors
    /// When the source cannot be read.
    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError>;

    /// Opens the file at `path` whose content id is `id`, for reading from its start.
    ///
    /// # Errors
    /// When the content cannot be read, is too large to be handed out, or is not `id` any more.
    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn Read + '_>, SourceError>;
}
