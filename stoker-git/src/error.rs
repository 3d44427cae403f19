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
    /// The proxy that was configured is none, or cannot serve this repository.
    #[error("the proxy cannot be used: {detail}")]
    ProxyInvalid {
        /// What is wrong with it, and what to write instead.
        detail: String,
    },
    /// The proxy, configured or of the environment, wants a login, or another one.
    #[error("the proxy {proxy} {detail}")]
    ProxyRefused {
        /// The proxy.
        proxy: String,
        /// What it said, and what to do.
        detail: String,
    },
    /// The clocks differ too much for a proof that holds for minutes.
    #[error(
        "{url} takes no proof of this machine, whose clock is {} that of the server; set the clock",
        skew(ahead_seconds)
    )]
    ClockWrong {
        /// Where it was shown.
        url: String,
        /// How far this machine's clock is ahead of the server's, in seconds; negative when it is behind.
        ahead_seconds: i64,
    },
    /// No known key for this ssh host.
    #[error(
        "the ssh host key of {host} is not known{unusable}; it offered {fingerprint}; if that is right, add to known_hosts: {line}"
    )]
    HostKeyUnknown {
        /// The first line of known_hosts that makes no sense, in words; empty if there is none.
        unusable: String,
        /// The host, as known_hosts writes it.
        host: String,
        /// `SHA256:...`, as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// The known_hosts line for the offered key.
        line: String,
    },
    /// known_hosts trusts an authority for this ssh host, and the host has no certificate of it that does.
    #[error(
        "known_hosts trusts an authority (@cert-authority) for {host}, but {why}; the host offered {fingerprint}; if that is right all the same, add to known_hosts: {line}"
    )]
    HostCertificateRefused {
        /// The host, as known_hosts writes it.
        host: String,
        /// What is wanting.
        why: String,
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
    #[error("no branch or tag {name:?} in {url}{}", suggestion(name, near))]
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
    /// What is to be pushed cannot be made into a commit.
    #[error("the change cannot be committed: {detail}")]
    ProposalInvalid {
        /// What is wrong with it.
        detail: String,
    },
    /// The credential may read and not write.
    #[error(
        "{url} does not allow pushing with this credential: {detail}; give it the right to write, or use another"
    )]
    PushDenied {
        /// The repository.
        url: String,
        /// What the server said.
        detail: String,
    },
    /// The forge lets nobody, or not us, push to this branch.
    #[error(
        "branch {branch} of {url} is protected: {message}; name a branch that may be pushed to, or exempt this credential"
    )]
    BranchProtected {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The server's words, shortened and escaped.
        message: String,
    },
    /// A hook on the server said no.
    #[error("a hook of {url} declined the push to {branch}: {message}")]
    HookDeclined {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The server's words, shortened and escaped.
        message: String,
    },
    /// The branch is not what it was thought to be: somebody pushed meanwhile.
    #[error(
        "branch {branch} of {url} is {} and was expected to be {}: somebody else pushed; look at it again",
        state(found),
        state(expected)
    )]
    LeaseLost {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The commit that it was expected to be at; `None`: not to exist.
        expected: Option<CommitId>,
        /// The commit that it is at; `None`: it does not exist.
        found: Option<CommitId>,
    },
    /// The new commit does not descend from what the branch is at, and the server takes no other.
    #[error(
        "{url} takes only commits that descend from what branch {branch} is at ({message}); propose one on top of it, or \
         use another branch"
    )]
    NonFastForward {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The server's words, shortened and escaped.
        message: String,
    },
    /// The server could not take hold of the branch; another push may be under way.
    #[error("{url} could not update branch {branch} just now: {message}")]
    RefLocked {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The server's words, shortened and escaped.
        message: String,
    },
    /// The server did not take the push, for another reason.
    #[error("{url} rejected the push to {branch}: {message}")]
    PushRejected {
        /// The repository.
        url: String,
        /// The branch.
        branch: String,
        /// The server's words, shortened and escaped.
        message: String,
    },
    /// A commit or tag is not signed by a key that is trusted.
    #[error("{object} of {url} is refused ({}): {detail}", problem.name())]
    SignatureRefused {
        /// The repository.
        url: String,
        /// Such as `commit 4b825dc` or `tag v1`.
        object: String,
        /// Which of the five it is.
        problem: SignatureProblem,
        /// What exactly, naming the key.
        detail: String,
    },
    /// The keys that signatures are judged by cannot be used.
    #[error("the keys that commits must be signed by cannot be used: {detail}")]
    SigningKeysInvalid {
        /// The file, and what is wrong with it.
        detail: String,
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

/// The five ways in which a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SignatureProblem {
    /// There is none.
    Unsigned,
    /// It is by a key that is not listed, or not for this use.
    UnknownKey,
    /// It does not fit the object, cannot be read, or is made in a way that proves nothing.
    BadSignature,
    /// Its key has expired.
    ExpiredKey,
    /// Its key is revoked.
    RevokedKey,
}

impl SignatureProblem {
    /// A stable name, for the reason of a condition.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "Unsigned",
            Self::UnknownKey => "UnknownSigningKey",
            Self::BadSignature => "BadSignature",
            Self::ExpiredKey => "SigningKeyExpired",
            Self::RevokedKey => "SigningKeyRevoked",
        }
    }
}

impl Fault for GitError {
    fn category(&self) -> Category {
        Category::new(match self {
            Self::AuthenticationFailed { .. } => "AuthenticationFailed",
            Self::AccessDenied { .. } => "AccessDenied",
            Self::CredentialInvalid { .. } => "CredentialInvalid",
            Self::ProxyInvalid { .. } => "ProxyInvalid",
            Self::ProxyRefused { .. } => "ProxyAuthenticationFailed",
            Self::ClockWrong { .. } => "ClockWrong",
            Self::HostKeyUnknown { .. } | Self::HostCertificateRefused { .. } => "HostKeyUnknown",
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
            Self::ProposalInvalid { .. } => "ProposalInvalid",
            Self::PushDenied { .. } => "PushDenied",
            Self::BranchProtected { .. } => "BranchProtected",
            Self::HookDeclined { .. } => "HookDeclined",
            Self::LeaseLost { .. } => "LeaseLost",
            Self::NonFastForward { .. } => "NonFastForward",
            Self::RefLocked { .. } => "RefLocked",
            Self::PushRejected { .. } => "PushRejected",
            Self::SignatureRefused { problem, .. } => problem.name(),
            Self::SigningKeysInvalid { .. } => "SigningKeysInvalid",
            Self::CacheCorrupt { .. } => "CacheCorrupt",
            Self::CacheBusy { .. } => "CacheBusy",
            Self::CacheFull { .. } => "InsufficientSpace",
            Self::CacheUnusable { .. } => "CacheUnusable",
            Self::ChildFailed { .. } => "FetchProcessFailed",
        })
    }

    /// Most causes pass by themselves or are repaired on the other side without our input changing (a key is
    /// registered, a repository created, a branch pushed, a protection lifted): back off. Only what our own input causes waits for a change.
    fn retry(&self) -> Retry {
        match self {
            Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostForbidden { .. }
            | Self::RedirectRefused { .. }
            | Self::CommitAmbiguous { .. }
            | Self::RepositoryTooLarge { .. }
            | Self::ProposalInvalid { .. }
            | Self::LeaseLost { .. }
            | Self::NonFastForward { .. }
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

fn skew(ahead_seconds: &i64) -> String {
    let word = if *ahead_seconds > 0 { "ahead of" } else { "behind" };
    format!("{} s {word}", ahead_seconds.unsigned_abs())
}

fn state(commit: &Option<CommitId>) -> String {
    commit.map_or_else(|| "absent".to_owned(), |commit| format!("at {}", commit.short()))
}

fn suggestion(name: &str, near: &[String]) -> String {
    let is_short_id = (4..40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
    match near {
        [] if is_short_id => {
            "; a commit that is at the tip of nothing is named by all 40 digits of its id".to_owned()
        }
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
        let named = |name: &str, near: &[&str]| GitError::RefNotFound {
            url: "https://h/a".into(),
            name: name.into(),
            near: near.iter().map(|n| (*n).to_owned()).collect(),
        };
        let error = |near| named("mian", near);
        assert!(named("d49aa9e", &[]).to_string().ends_with("named by all 40 digits of its id"));
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
