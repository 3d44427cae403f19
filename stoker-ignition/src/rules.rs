//! What an Ignition data directory means: pure rules, without IO and without a gateway.
//!
//! ```text
//!  paths of a plan ──▶ protection   never written, never deleted, never compared
//!                  ──▶ excludes     left alone unless a profile takes them back
//!                  ──▶ collection   config-mode.json that a plan would leave missing
//!                  ──▶ touched      scan halves, projects, resource types
//!                                      │
//!  designers, parent chain ────────────┴──▶ designer   proceed, warn or hold
//!  resource.json, file contents ──────────▶ signature, resource   restamped or really changed
//! ```
//!
//! ```
//! use stoker_core::RelPathBuf;
//! use stoker_ignition::rules::{protected, Touched};
//!
//! let seed = RelPathBuf::parse("projects/.resources/ab12")?;
//! assert!(protected(seed.as_path()).is_some());
//!
//! let view = RelPathBuf::parse("projects/line/com.inductiveautomation.perspective/views/Main/view.json")?;
//! let touched = Touched::of_written([view.as_path()]);
//! assert!(touched.need().projects && !touched.need().config);
//! assert!(touched.projects.contains("line"));
//! # Ok::<(), stoker_core::PathError>(())
//! ```

pub mod collection;
pub mod designer;
pub mod excludes;
pub mod protection;
pub mod resource;
pub mod signature;
pub mod touched;

pub use collection::{CONFIG_MODE_FILE, config_mode_json, missing_config_modes};
pub use designer::{Designer, DesignerPolicy, Gate, ProjectTree, gate};
pub use excludes::{DEFAULT_EXCLUDES, Exclude, TagProviderOwner, tag_provider_owner, tag_tree_patterns};
pub use protection::{
    MIRROR_KEEPS, PROTECTED, Protection, ProtectionTable, Unprotect, UnprotectError, protected,
};
pub use resource::{MANIFEST_FILES, ManifestError, ResourceManifest, same_but_for_stamp};
pub use signature::{Formula, RestampError, Stamp, restamp, sign, verify};
pub use touched::{ResourceType, ScanKind, ScanNeed, Touched};
