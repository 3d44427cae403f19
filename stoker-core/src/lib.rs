//! A crash-safe, journalled, three-way directory sync engine.
#![forbid(unsafe_code)]

pub mod fault;
pub mod path;
pub mod source;

pub use fault::{Category, Fault, Retry, chain};
pub use path::{PathError, RelPath, RelPathBuf};
pub use source::{ContentId, Entry, EntryKind, NamedEntry, Source, SourceError};
