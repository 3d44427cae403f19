//! Exact git commits, fetched safely, as a source for stoker-core.
#![deny(unsafe_code)]

pub mod object_id;
pub mod secret;
mod text;
pub mod url;

pub use object_id::{CommitId, ObjectFormat, ObjectId, ObjectIdError};
pub use secret::Secret;
pub use url::{Protocol, RemoteUrl, UrlError, redact};
