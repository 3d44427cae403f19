//! What can go wrong between a URL and a commit.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stoker_core::{Category, Fault, Retry};

use crate::object_id::{CommitId, ObjectFormat};

/// Why a repository could not be asked, or a commit not be fetched.
///
/// Crosses the process boundary between the fetching child and its parent, hence serializable. No variant carries a
/// secret: URLs are redacted by construction, and what servers said is shortened, escaped and scrubbed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GitError {
    /// The server did not accept the credential, or wants one and there is none.
    #[error("{url} refused the credential: {detail}")]
    AuthenticationFailed {
        /// The repository.
        url: String,
        /// What was tried, and what to do.
        detail: String,
    },
    /// The credential was understood, but may not read this repository.
    #[error("{url} does not allow reading with this credential: {detail}")]
    AccessDenied {
        /// The repository.
        url: String,
        /// What the server said.
        detail: String,
    },
    /// The credential itself is unusable: an unreadable file, a key that cannot be parsed, a wrong passphrase.
    #[error("the credential cannot be used: {detail}")]
    CredentialInvalid {
        /// Which one, and why.
        detail: String,
    },
    /// No known key for this ssh host.
    #[error(
        "the ssh host key of {host} is not known; it offered {fingerprint}; if that is right, add to known_hosts: {line}"
    )]
    HostKeyUnknown {
        /// The host, as known_hosts writes it.
        host: String,
        /// `SHA256:...`, as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// The known_hosts line for the offered key.
        line: String,
    },
    /// known_hosts trusts an authority for this ssh host, whose certificates are not understood, and no key of its own.
    #[error(
        "known_hosts names only an authority (@cert-authority) for {host}, and host certificates are not supported; the host offered {fingerprint}; if that is right, add to known_hosts: {line}"
    )]
    HostCertificateUnsupported {
        /// The host, as known_hosts writes it.
        host: String,
        /// The fingerprint of the key that was offered.
        fingerprint: String,
        /// The known_hosts line for that key.
        line: String,
    },
    /// The host offered another key than the known ones: a new key, or somebody in between.
    #[error(
        "the ssh host key of {host} has CHANGED: it offered {fingerprint}, known are {known}; if the host really has a new key, replace the line in known_hosts by: {line}"
    )]
    HostKeyChanged {
        /// The host, as known_hosts writes it.
        host: String,
        /// The fingerprint that was offered.
        fingerprint: String,
        /// The fingerprints that are known.
        known: String,
        /// The known_hosts line for the offered key.
        line: String,
    },
    /// The host offered a key that known_hosts marks `@revoked`.
    #[error(
        "the ssh host key {fingerprint} that {host} offered is marked @revoked in known_hosts; do not trust this host until its owner explains it"
    )]
    HostKeyRevoked {
        /// The host, as known_hosts writes it.
        host: String,
        /// The fingerprint that was offered.
        fingerprint: String,
    },
    /// There is no such repository, or the credential may not even see it.
    #[error(
        "repository {url} not found; check the path, and that the credential may read it (forges answer the same for both)"
    )]
    RepositoryNotFound {
        /// The repository.
        url: String,
    },
    /// No connection.
    #[error("cannot reach {host}: {detail}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The cause.
        detail: String,
    },
    /// The host policy forbids this address.
    #[error("{host} is at {address}, which is {rule}; the host policy forbids connecting there")]
    HostForbidden {
        /// The host.
        host: String,
        /// The address it resolves to.
        address: String,
        /// What forbids it.
        rule: String,
    },
    /// The server sent us to another host, where no credential of ours must go.
    #[error("{url} redirects to {target}; if that is where the repository is, write that URL")]
    RedirectRefused {
        /// The repository.
        url: String,
        /// Where to, redacted.
        target: String,
    },
    /// It took too long.
    #[error("{operation} did not finish within {limit:?}")]
    Timeout {
        /// What was being done.
        operation: String,
        /// The bound.
        limit: Duration,
    },
    /// There is no such branch or tag.
    #[error("no branch or tag {name:?} in {url}{}", suggestion(near))]
    RefNotFound {
        /// The repository.
        url: String,
        /// What was asked for.
        name: String,
        /// Names that look alike, best first.
        near: Vec<String>,
    },
    /// A short commit id that fits several advertised commits.
    #[error("commit {prefix:?} is ambiguous in {url}: {candidates:?}; write more digits")]
    CommitAmbiguous {
        /// The repository.
        url: String,
        /// What was asked for.
        prefix: String,
        /// Some of the commits it may mean.
        candidates: Vec<CommitId>,
    },
    /// The server does not have this commit, or does not hand it out.
    #[error("commit {commit} is not in {url} (any more): was the history rewritten?")]
    CommitNotFound {
        /// The repository.
        url: String,
        /// What was asked for.
        commit: CommitId,
    },
    /// There is not a single commit.
    #[error("repository {url} is empty; push a first commit")]
    RepositoryEmpty {
        /// The repository.
        url: String,
    },
    /// The server's certificate is not trusted.
    #[error("the TLS certificate of {host} is not trusted: {detail}")]
    TlsUntrusted {
        /// Host and port.
        host: String,
        /// The verifier's reason.
        detail: String,
    },
    /// The repository is larger than allowed.
    #[error(
        "commit {commit} of {url} needs more than {limit_bytes} bytes; raise the size limit or make the repository smaller"
    )]
    RepositoryTooLarge {
        /// The repository.
        url: String,
        /// What was asked for.
        commit: CommitId,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// Too many requests.
    #[error("{url} limits the rate of requests{}", after(retry_after))]
    RateLimited {
        /// The repository.
        url: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The server has a problem of its own.
    #[error("{url} answered with status {status}{}", after(retry_after))]
    ServerError {
        /// The repository.
        url: String,
        /// The HTTP status.
        status: u16,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// What came is not the git protocol, or ended early.
    #[error("{url} does not speak git properly: {detail}")]
    Protocol {
        /// The repository.
        url: String,
        /// What came instead.
        detail: String,
    },
    /// The server reported an error of its own in the git protocol.
    #[error("{url} said: {message}")]
    Remote {
        /// The repository.
        url: String,
        /// Its words, shortened and escaped.
        message: String,
    },
    /// Objects named by a hash that is not supported.
    #[error("repository {url} uses the {format} object format, which is not supported yet; only sha1 is")]
    ObjectFormatUnsupported {
        /// The repository.
        url: String,
        /// Its format.
        format: ObjectFormat,
    },
    /// Objects in the cache are missing or damaged. The next fetch rebuilds it.
    #[error("the git cache {path} is damaged: {detail}")]
    CacheCorrupt {
        /// The cache.
        path: String,
        /// What was found.
        detail: String,
    },
    /// Another process fetches into this cache.
    #[error("the git cache {path} is in use by another fetch, for longer than {waited:?}")]
    CacheBusy {
        /// The cache.
        path: String,
        /// How long this one waited.
        waited: Duration,
    },
    /// The cache's disk is full.
    #[error("no space left for the git cache {path}")]
    CacheFull {
        /// The cache.
        path: String,
    },
    /// The cache's directory cannot be written or read.
    #[error("cannot use the git cache {path}: {detail}")]
    CacheUnusable {
        /// The cache.
        path: String,
        /// The cause.
        detail: String,
    },
    /// The child process could not be started, or died without an answer.
    #[error("the fetching process failed: {detail}")]
    ChildFailed {
        /// How it ended.
        detail: String,
    },
}

impl Fault for GitError {
    fn category(&self) -> Category {
        Category::new(match self {
            Self::AuthenticationFailed { .. } => "AuthenticationFailed",
            Self::AccessDenied { .. } => "AccessDenied",
            Self::CredentialInvalid { .. } => "CredentialInvalid",
            Self::HostKeyUnknown { .. } | Self::HostCertificateUnsupported { .. } => "HostKeyUnknown",
            Self::HostKeyChanged { .. } => "HostKeyChanged",
            Self::HostKeyRevoked { .. } => "HostKeyRevoked",
            Self::RepositoryNotFound { .. } => "RepositoryNotFound",
            Self::Unreachable { .. } => "Unreachable",
            Self::HostForbidden { .. } => "HostForbidden",
            Self::RedirectRefused { .. } => "RedirectRefused",
            Self::Timeout { .. } => "Timeout",
            Self::RefNotFound { .. } | Self::CommitAmbiguous { .. } => "RefNotFound",
            Self::CommitNotFound { .. } => "CommitNotFound",
            Self::RepositoryEmpty { .. } => "RepositoryEmpty",
            Self::TlsUntrusted { .. } => "TLSUntrusted",
            Self::RepositoryTooLarge { .. } => "RepositoryTooLarge",
            Self::RateLimited { .. } => "RateLimited",
            Self::ServerError { .. } | Self::Remote { .. } => "ServerError",
            Self::Protocol { .. } => "ProtocolError",
            Self::ObjectFormatUnsupported { .. } => "ObjectFormatUnsupported",
            Self::CacheCorrupt { .. } => "CacheCorrupt",
            Self::CacheBusy { .. } => "CacheBusy",
            Self::CacheFull { .. } => "InsufficientSpace",
            Self::CacheUnusable { .. } => "CacheUnusable",
            Self::ChildFailed { .. } => "FetchProcessFailed",
        })
    }

    /// Most causes pass by themselves or are repaired on the other side without our input changing (a key is
    /// registered, a repository created, a branch pushed): back off. Only what our own input causes waits for a change.
    fn retry(&self) -> Retry {
        match self {
            Self::HostKeyUnknown { .. }
            | Self::HostCertificateUnsupported { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostForbidden { .. }
            | Self::RedirectRefused { .. }
            | Self::CommitAmbiguous { .. }
            | Self::RepositoryTooLarge { .. }
            | Self::ObjectFormatUnsupported { .. } => Retry::AfterChange,
            _ => Retry::Backoff,
        }
    }
}

impl GitError {
    /// When the server wants to be asked again, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerError { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same error with every secret in its free texts replaced.
    pub(crate) fn scrubbed(self, secrets: &[&str]) -> Self {
        if secrets.is_empty() {
            return self;
        }
        let Ok(text) = serde_json::to_string(&self) else { return self };
        let clean = crate::text::scrub(&text, secrets);
        if clean == text {
            return self;
        }
        let detail = || "the details are withheld: they contained a secret".to_owned();
        serde_json::from_str(&clean).unwrap_or_else(|_| Self::ChildFailed { detail: detail() })
    }
}

fn suggestion(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean {one:?}?"),
        several => format!("; did you mean one of {several:?}?"),
    }
}

fn after(retry_after: &Option<Duration>) -> String {
    retry_after.map(|d| format!("; it wants to be asked again in {} s", d.as_secs())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_near_names_are_in_the_sentence() {
        let error = |near: &[&str]| GitError::RefNotFound {
            url: "https://h/a".into(),
            name: "mian".into(),
            near: near.iter().map(|n| (*n).to_owned()).collect(),
        };
        assert_eq!(
            error(&["main"]).to_string(),
            "no branch or tag \"mian\" in https://h/a; did you mean \"main\"?"
        );
        assert_eq!(error(&[]).to_string(), "no branch or tag \"mian\" in https://h/a");
    }

    #[test]
    fn a_secret_that_slipped_in_does_not_get_out() {
        let leaky = GitError::Remote { url: "https://h/a".into(), message: "bad token hunter2".into() };
        let clean = leaky.scrubbed(&["hunter2"]);
        assert_eq!(clean.to_string(), "https://h/a said: bad token ***");
        let intact = GitError::RepositoryEmpty { url: "https://h/a".into() };
        assert_eq!(intact.clone().scrubbed(&["hunter2"]), intact);
    }
}
