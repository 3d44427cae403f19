//! A crash-safe, journalled, three-way directory sync engine.
#![forbid(unsafe_code)]

pub mod fault;
pub mod json;
pub mod path;
pub mod pattern;
pub mod source;
pub mod template;

pub use fault::{Category, Fault, Retry, chain};
pub use path::{PathError, RelPath, RelPathBuf};
pub use pattern::{PatternError, PatternSet};
pub use source::{ContentId, Entry, EntryKind, NamedEntry, Source, SourceError};
