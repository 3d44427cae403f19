//! What parent and child say to each other: one line of JSON each way.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::advertisement::Advertisement;
use crate::credentials::{Access, Credentials};
use crate::error::GitError;
use crate::limits::Limits;
use crate::object_id::CommitId;
use crate::policy::HostPolicy;
use crate::secret::Secret;

/// What the child is to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    /// The URL; consent to an insecure one was given before.
    pub(crate) url: String,
    access: WireAccess,
    pub(crate) policy: HostPolicy,
    pub(crate) limits: Limits,
    /// How long it may take, all in all.
    pub(crate) deadline: Duration,
    pub(crate) task: Task,
}

/// The two things a child can do.
#[derive(Serialize, Deserialize)]
pub(crate) enum Task {
    /// All references; or where they are many (or known to be), those that start with one of the prefixes, if any is
    /// given.
    Advertise {
        prefixes: Vec<String>,
        many: bool,
    },
    Fetch {
        commit: CommitId,
        hint: Option<String>,
        cache: PathBuf,
    },
}

/// What the child has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Advertisement(Advertisement),
    Fetched(FetchReport),
    Failed(GitError),
}

/// What a fetch did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FetchReport {
    /// Bytes of the pack that was transferred; 0 when the commit was there already.
    pub transferred_bytes: u64,
    /// The commit was in the cache; no server was asked.
    pub already_present: bool,
    /// The cache was made anew: for the first time, after too many packs, or because it was damaged.
    pub rebuilt: bool,
    /// A whole history had to be fetched: the server gives out only what is at the tip of a branch or tag
    /// (see `uploadpack.allowAnySHA1InWant` of git).
    pub whole_history: bool,
    /// The most memory that the fetching process had at any time, in bytes; 0 where nobody knows.
    pub peak_memory_bytes: u64,
}

/// [`Access`] on the wire. The only place where a secret is serialized; it goes into a pipe, and nowhere else.
#[derive(Default, Serialize, Deserialize)]
struct WireAccess {
    token: Option<(String, Zeroizing<String>)>,
    ssh_key: Option<Zeroizing<String>>,
    passphrase: Option<Zeroizing<String>>,
    known_hosts: Option<String>,
    ca_pem: Option<String>,
}

impl Request {
    pub(crate) fn new(
        url: String,
        access: &Access,
        policy: HostPolicy,
        limits: Limits,
        deadline: Duration,
        task: Task,
    ) -> Self {
        let expose = |secret: &Secret| Zeroizing::new(secret.expose().to_owned());
        let mut wire = WireAccess {
            known_hosts: access.known_hosts.clone(),
            ca_pem: access.ca_pem.clone(),
            ..WireAccess::default()
        };
        match &access.credentials {
            Credentials::None => {}
            Credentials::Token { username, secret } => wire.token = Some((username.clone(), expose(secret))),
            Credentials::SshKey { private_key, passphrase } => {
                wire.ssh_key = Some(expose(private_key));
                wire.passphrase = passphrase.as_ref().map(expose);
            }
        }
        Self { url, access: wire, policy, limits, deadline, task }
    }

    pub(crate) fn access(&self) -> Access {
        let secret = |text: &Zeroizing<String>| Secret::new(text.as_str());
        let credentials = match (&self.access.token, &self.access.ssh_key) {
            (Some((username, token)), _) => {
                Credentials::Token { username: username.clone(), secret: secret(token) }
            }
            (None, Some(key)) => Credentials::SshKey {
                private_key: secret(key),
                passphrase: self.access.passphrase.as_ref().map(secret),
            },
            (None, None) => Credentials::None,
        };
        Access {
            credentials,
            known_hosts: self.access.known_hosts.clone(),
            ca_pem: self.access.ca_pem.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_survives_the_pipe() {
        for credentials in [
            Credentials::None,
            Credentials::Token { username: "u".into(), secret: "s\"\n".into() },
            Credentials::SshKey { private_key: "k".into(), passphrase: None },
            Credentials::SshKey { private_key: "k".into(), passphrase: Some("p".into()) },
        ] {
            let access = Access { credentials, known_hosts: Some("h".into()), ca_pem: Some("c".into()) };
            let (limits, policy) = (Limits::default(), HostPolicy::default());
            let request = Request::new(
                "u".into(),
                &access,
                policy,
                limits,
                Duration::from_secs(1),
                Task::Advertise { prefixes: vec!["HEAD".into()], many: false },
            );
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'));
            let read: Request = serde_json::from_str(&line).unwrap();
            assert_eq!(read.access(), access);
        }
    }
}
