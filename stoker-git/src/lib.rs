//! Exact git commits, fetched safely, as a source for stoker-core.
//!
//! From a URL, a reference and a credential to a commit whose tree can be read, and from a change back to a commit on a
//! branch, with bounded time, memory, disk and blast radius. Nothing is ever checked out.
//!
//! ```text
//!  RemoteUrl ─┐                         ┌────────── child process ──────────┐
//!  RefSpec ───┼▶ Git::resolve ─request─▶│ http · ssh · git:// · file        │◀──▶ git server
//!  Access ────┘      │        ◀─answer──│ wire protocol v0, v2              │
//!                    ▼                  │                                   │
//!               Resolution              │                                   │
//!                    │                  │                                   │
//!                    ▼                  │                                   │
//!               Git::fetch ───request──▶│ one commit, depth 1 ─▶ pack ──────┼──▶ Cache
//!                    │        ◀─answer──│ verified as complete              │      │
//!                    ▼                  └───────────────────────────────────┘      │
//!               CommitSource ◀──── trees and files, one at a time, checked by id ──┤
//!                                                                                  │
//!  Proposal ───▶ Git::push ────request──▶ one commit, made in memory ◀─────────────┘
//!                    │        ◀─answer──  moved to by lease: report-status
//!                    ▼
//!                 Pushed
//! ```
//!
//! # A program that uses it
//!
//! ```no_run
//! use stoker_core::{RelPath, Source};
//! use stoker_git::{Access, Cache, ChildCommand, Git, Remote, RemoteUrl, Wanted};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     stoker_git::child::run_if_child(); // first of all: this program is its own child
//!
//!     let git = Git::new(ChildCommand::current_exe());
//!     let remote = Remote::new(RemoteUrl::parse("https://git.example.com/plant.git")?, Access::default());
//!     let resolved = git.resolve_blocking(&remote, &"main".parse()?)?;
//!     let fetched = git.fetch_blocking(&remote, &Cache::new("/var/cache/plant"), &Wanted::from(&resolved))?;
//!     for entry in fetched.source.list(RelPath::ROOT)? {
//!         println!("{}", String::from_utf8_lossy(&entry.name));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What holds
//!
//! - **Exactly that commit.** A fetch asks for an id and checks that it came, with every tree and file. Objects are
//!   hashed again whenever they are read.
//! - **Bounded.** Every operation ends within its deadline ([`Limits`]), one that is silent or trickles earlier; the child
//!   dies with its parent, with its deadline, and when a future is dropped. The size is limited while it is transferred.
//! - **Nothing half done.** Whatever dies whenever: what was in the [`Cache`] stays readable, and the next fetch cleans
//!   up or starts anew.
//! - **Secrets in pipes only.** Not in arguments, environment, files, logs or errors. Redirects to other hosts are
//!   refused; host keys are trusted on first use only where a program asks for it ([`Git::with_accept_new`]); addresses
//!   can be forbidden ([`HostPolicy`]).
//! - **Little traffic.** Few references come in one round trip; of many only those that matter are asked for. Many that
//!   follow one repository share requests ([`SharedRefs`]).
//! - **Errors that say what to do** ([`GitError`]), each with a category fit for a condition.
//!
//! # Assumptions
//!
//! - Unix. The cache is on a local file system with working `flock`, and is not written by anybody else.
//! - Repositories use SHA-1 object ids. SHA-256 ones are refused by name.
//! - libgit2 (its object database only) keeps some options process-wide: this crate empties its configuration search
//!   paths and bounds its caches. A program that uses git2 for other things in the same process shares these.
//!
//! # Features
//!
//! - `serve`: a git server on loopback for demos and tests.
//! - `in-process`: lets a test harness, whose `main` is not its own, do without the child. Not for production.
//! - `signatures`: who signed a commit or tag, by SSH or OpenPGP keys ([`signature`]).
#![deny(unsafe_code)]
// The example shows where in `main` the call belongs.
#![allow(clippy::needless_doctest_main)]

pub mod advertisement;
pub mod cache;
pub mod child;
pub mod client;
pub mod commit;
mod compose;
pub mod credentials;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod github_app;
mod glob;
pub mod hostkeys;
mod libgit2;
pub mod limits;
mod local;
pub mod object_id;
pub mod policy;
pub mod proposal;
mod proxy;
pub mod refspec;
pub mod resolve;
pub mod secret;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shared;
#[cfg(feature = "signatures")]
pub mod signature;
mod text;
mod transport;
pub mod tree;
pub mod url;
mod wire;

pub use advertisement::{AdvertisedRef, Advertisement, Head};
pub use cache::Cache;
pub use child::ChildCommand;
pub use child::message::FetchReport;
pub use client::{Fetched, Git, Remote, Wanted};
#[cfg(feature = "signatures")]
pub use client::{Verification, Verified, VerifyMode};
pub use commit::{CommitInfo, Person};
pub use credentials::{Access, CredentialFiles, CredentialProvider, Credentials, GithubAppFile, ProxyFiles};
pub use error::{GitError, SignatureProblem};
pub use github_app::GithubApp;
pub use limits::Limits;
pub use object_id::{CommitId, ObjectFormat, ObjectId, ObjectIdError};
pub use policy::HostPolicy;
pub use proposal::{Change, Edit, Lease, Proposal, Pushed};
pub use proxy::Proxy;
pub use refspec::{RefError, RefName, RefSpec};
pub use resolve::{Resolution, ResolveWarning, ResolvedKind};
pub use secret::Secret;
pub use shared::{AskRefs, SharedRefs};
pub use tree::CommitSource;
pub use url::{Protocol, RemoteUrl, UrlError, redact};
