//! A crash-safe, journalled, three-way directory sync engine.
//!
//! ```text
//!  Source (a tree of paths            SyncSpec (mappings, excludes,
//!  with content ids)                  protections, guards)
//!        │                                  │
//!        └───────────────┬──────────────────┘
//!                        ▼
//!   manifest ───▶ Session::plan ◀─── the live directory (stat only)
//!   (what was            │
//!    written last)       ▼
//!                      Plan: a value; every action with its reason
//!                        │
//!                        ▼
//!                 Session::apply ── stage ▶ journal ▶ rename ▶ finish
//!                        │
//!                        ▼
//!         the live directory          .stoker/ (lock, head, manifest, history)
//! ```
//!
//! The destination belongs to a running program that may read, write and delete in it at any moment. The engine
//! replaces what it wrote itself, keeps everything it replaces, and touches nothing else.
//!
//! # Guarantees
//!
//! - Killed or powered off at any moment, the owned files are those of the old revision or those of the new one after
//!   the next [`Engine::begin`], and nothing else is left behind.
//! - At every moment a path holds its complete old or its complete new content.
//! - Files that the engine did not write, excluded and protected ones are never changed. One that stands where a file
//!   is wanted is kept in the history before it is replaced.
//! - A transaction that fails leaves the old revision live.
//! - Nothing outside the destination is opened for writing, whatever symbolic links there are.
//!
//! # Caveats
//!
//! - Linux only: it relies on `renameat2`, descriptors of directories and `flock`.
//! - A file that somebody replaces between the last look and the rename is kept in history, not merged.
//! - Where a file system cannot exchange two names (NFS, some FUSE; see [`Abilities`]), a directory that becomes a file,
//!   or a file that becomes a directory, is absent for the moment between two renames. Elsewhere it never is.
//! - Files on another volume mounted inside the destination are refused by name.
//!
//! # Example
//!
//! ```
//! use stoker_core::{DirectorySource, Engine, Mapping, SyncSpec};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # std::fs::create_dir_all(from.path().join("site"))?;
//! std::fs::write(from.path().join("site/index.html"), "hello")?;
//! let spec = SyncSpec::new().map(Mapping::new("site", ".").required()).exclude("logs/");
//! let applied = Engine::open(to.path())?.sync(&DirectorySource::open(from.path())?, "first", &spec)?;
//! assert_eq!(applied.counts.added, 1);
//! assert_eq!(std::fs::read_to_string(to.path().join("index.html"))?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! To look at a plan before it is carried out, or to hold it: [`Engine::begin`], [`Session::plan`], [`Session::apply`].
//!
//! # Features
//!
//! - `archive`, off by default: all owned files into one `tar.zst` (`Session::export`), and such a file as a source
//!   (`ArchiveSource`). Brings in a C library, Zstandard.
#![forbid(unsafe_code)]

mod apply;
#[cfg(feature = "archive")]
mod archive;
mod compare;
mod directory;
mod engine;
pub mod fault;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod giving_back;
mod history;
mod journal;
pub mod json;
mod layer;
mod lock;
mod needed;
pub mod path;
mod path_map;
pub mod pattern;
mod plan;
mod render;
mod root;
mod sealed;
pub mod source;
pub mod spec;
mod state;
pub mod template;
mod transform;
mod way;

pub use apply::{Applied, ApplyError, Changes, NoObserver, Observer};
#[cfg(feature = "archive")]
pub use archive::{ArchiveError, ArchiveHeader, ArchiveSource};
pub use compare::{ExactBytes, LiveRules, PlanOptions};
pub use directory::DirectorySource;
pub use engine::{Engine, OpenError, Session, SyncError};
pub use fault::{Category, Fault, Retry, chain};
pub use history::{
    Cause, HistoryError, Past, PastChange, PastContent, Retention, RollbackError, net_changes,
};
pub use journal::Abilities;
pub use path::{PathError, RelPath, RelPathBuf};
pub use pattern::{PatternError, PatternSet};
pub use plan::{Action, ActionKind, Counts, Found, Plan, PlanError, Warning};
pub use render::{Rendered, render};
pub use source::{ContentId, Entry, EntryKind, NamedEntry, Source, SourceError};
pub use spec::{
    FileEdit, Generated, Limits, Mapping, MappingKind, MaxDeletes, Patch, PathPolicy, Policy, Protection,
    Prune, SyncSpec,
};
pub use state::{Head, STATE_DIRECTORY};
pub use template::{Template, TemplateError, Variables};
pub use transform::ContentError;
