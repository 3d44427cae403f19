//! Exact git commits, fetched safely, as a source for stoker-core.
#![deny(unsafe_code)]
// The example shows where in `main` the call belongs.
#![allow(clippy::needless_doctest_main)]

pub mod advertisement;
pub mod cache;
pub mod child;
pub mod client;
pub mod commit;
pub mod credentials;
pub mod error;
pub mod hostkeys;
mod libgit2;
pub mod limits;
mod local;
pub mod object_id;
pub mod policy;
pub mod refspec;
pub mod resolve;
pub mod secret;
#[cfg(feature = "serve")]
pub mod serve;
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
pub use commit::{CommitInfo, Person};
pub use credentials::{Access, CredentialFiles, CredentialProvider, Credentials};
pub use error::GitError;
pub use limits::Limits;
pub use object_id::{CommitId, ObjectFormat, ObjectId, ObjectIdError};
pub use policy::HostPolicy;
pub use refspec::{RefError, RefName, RefSpec};
pub use resolve::{Resolution, ResolveWarning, ResolvedKind};
pub use secret::Secret;
pub use tree::CommitSource;
pub use url::{Protocol, RemoteUrl, UrlError, redact};
