//! What parent and child say to each other: one line of JSON each way.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::advertisement::Advertisement;
use crate::compose::Draft;
use crate::credentials::{Access, Credentials};
use crate::error::GitError;
use crate::github_app::GithubApp;
use crate::limits::Limits;
use crate::object_id::{CommitId, ObjectId};
use crate::policy::HostPolicy;
use crate::proxy::Proxy;
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

/// What a child can do.
#[derive(Serialize, Deserialize)]
pub(crate) enum Task {
    /// All references; or where they are many (or known to be), those that start with one of the prefixes, if any is
    /// given.
    Advertise {
        prefixes: Vec<String>,
        many: bool,
    },
    /// What the credential, a GitHub App, is worth; the URL is that of the API.
    AppToken,
    Fetch {
        commit: CommitId,
        hint: Option<String>,
        cache: PathBuf,
    },
    /// An annotated tag of a commit that is there.
    FetchTag {
        tag: ObjectId,
        cache: PathBuf,
    },
    /// The contents follow the request, one after another, each as long as `lengths` says.
    Push {
        draft: Box<Draft>,
        reference: String,
        expected: Option<CommitId>,
        cache: PathBuf,
        lengths: Vec<u64>,
    },
}

/// What the child has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Advertisement(Advertisement),
    Fetched(FetchReport),
    Pushed(PushReport),
    AppToken { token: WireToken, lasts: Duration },
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

/// A token on its way to the parent, through a pipe.
#[derive(Serialize, Deserialize)]
pub(crate) struct WireToken(Zeroizing<String>);

impl WireToken {
    pub(crate) fn new(token: &Secret) -> Self {
        Self(Zeroizing::new(token.expose().to_owned()))
    }

    pub(crate) fn secret(&self) -> Secret {
        Secret::new(self.0.as_str())
    }
}

impl std::fmt::Debug for WireToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PushReport {
    pub(crate) commit: CommitId,
    pub(crate) tree: ObjectId,
    pub(crate) already_there: bool,
    pub(crate) sent_bytes: u64,
}

/// [`Access`] on the wire. The only place where a secret is serialized; it goes into a pipe, and nowhere else.
#[derive(Default, Serialize, Deserialize)]
struct WireAccess {
    token: Option<(String, Zeroizing<String>)>,
    bearer: Option<Zeroizing<String>>,
    app: Option<WireApp>,
    ssh_key: Option<Zeroizing<String>>,
    passphrase: Option<Zeroizing<String>>,
    known_hosts: Option<String>,
    ca_pem: Option<String>,
    proxy: Option<WireProxy>,
}

#[derive(Serialize, Deserialize)]
struct WireProxy {
    url: String,
    login: Option<(Zeroizing<String>, Zeroizing<String>)>,
}

#[derive(Serialize, Deserialize)]
struct WireApp {
    app_id: u64,
    installation_id: u64,
    private_key: Zeroizing<String>,
    api_base_url: String,
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
            proxy: access.proxy.as_ref().map(|proxy| WireProxy {
                url: proxy.url().to_owned(),
                login: proxy.login().map(|login| (expose(&login.username), expose(&login.password))),
            }),
            ..WireAccess::default()
        };
        match &access.credentials {
            Credentials::None => {}
            Credentials::Token { username, secret } => wire.token = Some((username.clone(), expose(secret))),
            Credentials::Bearer { secret } => wire.bearer = Some(expose(secret)),
            Credentials::GithubApp(app) => {
                wire.app = Some(WireApp {
                    app_id: app.app_id,
                    installation_id: app.installation_id,
                    private_key: expose(&app.private_key),
                    api_base_url: app.api_base_url.clone(),
                });
            }
            Credentials::SshKey { private_key, passphrase } => {
                wire.ssh_key = Some(expose(private_key));
                wire.passphrase = passphrase.as_ref().map(expose);
            }
        }
        Self { url, access: wire, policy, limits, deadline, task }
    }

    /// How many bytes of contents follow, each.
    pub(crate) fn lengths(&self) -> &[u64] {
        match &self.task {
            Task::Push { lengths, .. } => lengths,
            _ => &[],
        }
    }

    /// # Errors
    /// When a parent of another make sent what is no proxy.
    pub(crate) fn access(&self) -> Result<Access, GitError> {
        let secret = |text: &Zeroizing<String>| Secret::new(text.as_str());
        let access = &self.access;
        let credentials = if let Some((username, token)) = &access.token {
            Credentials::Token { username: username.clone(), secret: secret(token) }
        } else if let Some(token) = &access.bearer {
            Credentials::Bearer { secret: secret(token) }
        } else if let Some(app) = &access.app {
            Credentials::GithubApp(GithubApp {
                app_id: app.app_id,
                installation_id: app.installation_id,
                private_key: secret(&app.private_key),
                api_base_url: app.api_base_url.clone(),
            })
        } else if let Some(key) = &access.ssh_key {
            let passphrase = access.passphrase.as_ref().map(secret);
            Credentials::SshKey { private_key: secret(key), passphrase }
        } else {
            Credentials::None
        };
        let proxy = |wire: &WireProxy| {
            let proxy: Proxy = wire.url.parse()?;
            match &wire.login {
                Some((username, password)) => proxy.with_login(secret(username), secret(password)),
                None => Ok(proxy),
            }
        };
        Ok(Access {
            credentials,
            known_hosts: access.known_hosts.clone(),
            ca_pem: access.ca_pem.clone(),
            proxy: access.proxy.as_ref().map(proxy).transpose()?,
        })
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
            Credentials::Bearer { secret: "b".into() },
            Credentials::GithubApp(GithubApp {
                app_id: 1,
                installation_id: 2,
                private_key: "p".into(),
                api_base_url: "u".into(),
            }),
            Credentials::SshKey { private_key: "k".into(), passphrase: None },
            Credentials::SshKey { private_key: "k".into(), passphrase: Some("p".into()) },
        ] {
            let proxy: Proxy = "http://proxy:3128".parse().unwrap();
            let access = Access {
                credentials,
                known_hosts: Some("h".into()),
                ca_pem: Some("c".into()),
                proxy: Some(proxy.with_login("u".into(), "p".into()).unwrap()),
            };
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
            assert_eq!(read.access().unwrap(), access);
        }
    }
}
