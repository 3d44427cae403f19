//! Exact git commits, fetched safely, as a source for stoker-core.
#![deny(unsafe_code)]

pub mod advertisement;
pub mod credentials;
pub mod error;
pub mod hostkeys;
pub mod limits;
pub mod object_id;
pub mod policy;
pub mod refspec;
pub mod resolve;
pub mod secret;
mod text;
pub mod url;

pub use advertisement::{AdvertisedRef, Advertisement, Head};
pub use credentials::{Access, CredentialFiles, CredentialProvider, Credentials};
pub use error::GitError;
pub use limits::Limits;
pub use object_id::{CommitId, ObjectFormat, ObjectId, ObjectIdError};
pub use policy::HostPolicy;
pub use refspec::{RefError, RefName, RefSpec};
pub use resolve::{Resolution, ResolveWarning, ResolvedKind};
pub use secret::Secret;
pub use url::{Protocol, RemoteUrl, UrlError, redact};
