//! The git wire protocol, as far as reading, and moving one branch, needs it.
//!
//! ```text
//!   Connection (http, ssh, git://)
//!      │ greeting()                       ┌ v0: every reference ─▶ Advertisement
//!      ├──────────────▶ greeting::read ───┤
//!      │                                  └ v2: capabilities
//!      │ request(wants, haves)
//!      ├──────────────▶ fetch::run ──side-band──▶ PackSink
//!      └──────────────▶ push::run ──report-status──▶ Moved
//! ```
//!
//! Asking for references uses version 0: one round trip brings them all. Where they turn out to be many, version 2 is
//! used instead, in which a server can be asked for some of them ([`ls_refs`]). Fetching asks for version 2, in which a
//! server hands out any commit by its id, and takes version 0 where that is what the server speaks. Pushing
//! has version 0 only. Sources of the facts: git's
//! `gitprotocol-pack(5)`, `gitprotocol-v2(5)`, `gitprotocol-http(5)`.

pub(crate) mod fetch;
pub(crate) mod greeting;
pub(crate) mod ls_refs;
pub(crate) mod pktline;
pub(crate) mod push;
mod refusal;

use std::io::{self, Read};

use crate::error::GitError;
use crate::text::{SERVER_TEXT_CHARS, printable};

/// How we introduce ourselves. Servers look for the leading `git/`.
pub(crate) const USER_AGENT: &str = concat!("git/2.0-stoker-", env!("CARGO_PKG_VERSION"));

/// The version of the protocol that is asked for; a server may answer with an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V0,
    V2,
}

/// What is wanted of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// To give objects.
    UploadPack(Version),
    /// To take objects; there is only version 0 of this.
    ReceivePack,
}

impl Service {
    /// The program that does it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::UploadPack(_) => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    pub(crate) fn version(self) -> Version {
        match self {
            Self::UploadPack(version) => version,
            Self::ReceivePack => Version::V0,
        }
    }
}

/// A [`Service`] on the other side.
pub(crate) trait Connection {
    /// What the server says first.
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError>;

    /// Sends one request; what is read is the answer.
    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError>;

    /// Says goodbye after the greeting, where the server would take silence for a broken connection.
    fn goodbye(&mut self) {}

    /// What the server says beside the protocol once it has hung up (the standard error of an ssh command).
    fn complaint(&mut self) -> Option<GitError> {
        None
    }
}

/// Where the bytes of a pack go.
pub(crate) trait PackSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), GitError>;
}

/// An I/O error of a connection as what it means. Connections put their own errors inside.
pub(crate) fn connection_error(url: &str, error: io::Error) -> GitError {
    let kind = error.kind();
    match error.downcast::<GitError>() {
        Ok(inner) => inner,
        Err(error) => match kind {
            io::ErrorKind::UnexpectedEof => GitError::Protocol {
                url: url.to_owned(),
                detail: "the connection ended in the middle".to_owned(),
            },
            io::ErrorKind::InvalidData => GitError::Protocol {
                url: url.to_owned(),
                detail: printable(&error.to_string(), SERVER_TEXT_CHARS),
            },
            _ => GitError::Unreachable {
                host: url.to_owned(),
                detail: printable(&error.to_string(), SERVER_TEXT_CHARS),
            },
        },
    }
}

/// The meaning of an `ERR` packet or of what a server wrote to the user.
pub(crate) fn remote_error(url: &str, message: &str) -> GitError {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let url = url.to_owned();
    if says(&[
        "not found",
        "does not exist",
        "not exported",
        "does not appear to be a git repository",
        "no such",
    ]) {
        GitError::RepositoryNotFound { url }
    } else if says(&["access denied", "permission", "not authorized", "unauthorized", "could not read from"])
    {
        GitError::AccessDenied { url, detail: printable(message, SERVER_TEXT_CHARS) }
    } else {
        GitError::Remote { url, message: printable(message, SERVER_TEXT_CHARS) }
    }
}
