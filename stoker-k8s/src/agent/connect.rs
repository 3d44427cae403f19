//! What the agent in a pod talks to: the repository and the gateway that the metadata names, with the credentials that
//! are mounted beside it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use stoker_core::Category;
use stoker_git::signature::TrustedKeys;
use stoker_git::{
    Access, Cache, CommitId, CredentialFiles, CredentialProvider, Git, GitError, GithubAppFile, ProxyFiles,
    Remote, RemoteUrl, Verification, Wanted,
};
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions, GatewayUrl};

use super::watch_metadata::Known;
use super::{Fetch, Fetched, Locate, Obtained, Tree};
use crate::api::TokenScheme;
use crate::gateway_sync::{Failure, GatewaySync};
use crate::inject::contract::{
    GATEWAY_API_KEY, GIT_APP_KEY, GIT_PASSPHRASE, GIT_PROXY_PASSWORD, GIT_PROXY_USERNAME, GIT_SSH_KEY,
    GIT_TOKEN,
};
use crate::protocol::{AuthType, Metadata, Trust};

/// Fetches into a cache, with mounted credentials.
pub struct MountedGit {
    /// How child processes are started, and their limits.
    pub git: Git,
    /// Where objects are kept.
    pub cache: Cache,
    /// The directory of the keys that commits must be signed by.
    pub signing_keys: PathBuf,
}

impl MountedGit {
    /// Refuses a commit that is not signed as the metadata asks for.
    async fn verify(
        &self,
        metadata: &Metadata,
        remote: &Remote,
        source: &stoker_git::CommitSource,
    ) -> Result<(), Failure> {
        let Some(mode) = metadata.verify else { return Ok(()) };
        if !self.signing_keys.is_dir() {
            return Err(Failure {
                category: "CredentialsNotMounted".to_owned(),
                message:
                    "this pod has no keys to verify commits by: it is older than spec.git.verify; restart it"
                        .to_owned(),
                path: None,
            });
        }
        // Read at each use: keys come and go while the pod runs.
        let keys = TrustedKeys::read_dir(&self.signing_keys).map_err(|error| Failure::of(&error))?;
        let reference = metadata.git_ref.parse().map_err(|error| failure(format!("{error}")))?;
        let verification = Verification { mode: mode.into(), keys };
        let now = jiff::Timestamp::now().as_second();
        let verified = self.git.verify(remote, &self.cache, source, &reference, &verification, now).await;
        let verified = verified.map_err(|error| Failure::of(&error))?;
        for (what, signer) in [("commit", verified.commit), ("tag", verified.tag)] {
            if let Some(signer) = signer {
                tracing::debug!(commit = %source.commit(), "the {what} is signed by {signer}");
            }
        }
        Ok(())
    }
}

impl Fetch for MountedGit {
    fn fetch<'a>(
        &'a self,
        known: &'a Known,
        commit: &'a str,
    ) -> Pin<Box<dyn Future<Output = Fetched> + Send + 'a>> {
        Box::pin(async move {
            let metadata =
                known.metadata.as_ref().ok_or_else(|| failure("there is no metadata yet".to_owned()))?;
            let url = if metadata.allow_insecure {
                RemoteUrl::parse_allowing_insecure(&metadata.git_url)
            } else {
                RemoteUrl::parse(&metadata.git_url)
            };
            let url = url.map_err(|error| Failure::of(&error))?;
            let commit: CommitId = commit.parse().map_err(|error| failure(format!("{error}")))?;
            let remote = Remote { url, credentials: Arc::new(PodCredentials::of(metadata)?) };
            let reference = metadata.git_ref.starts_with("refs/").then(|| metadata.git_ref.clone());
            let fetched = self.git.fetch(&remote, &self.cache, &Wanted::through(commit, reference)).await;
            let fetched = fetched.map_err(|error| Failure::of(&error))?;
            self.verify(metadata, &remote, &fetched.source).await?;
            let how = match &fetched.report {
                report if report.already_present => Obtained::Present,
                report if report.rebuilt => Obtained::Cloned,
                _ => Obtained::Fetched,
            };
            Ok(Tree { source: Box::new(fetched.source), how })
        })
    }
}

fn failure(message: String) -> Failure {
    Failure { category: Category::new("MetadataInvalid").to_string(), message, path: None }
}

/// Secrets from files that are mounted, the rest from the metadata.
struct PodCredentials {
    files: CredentialFiles,
    trust: Trust,
}

impl PodCredentials {
    /// What the way of authentication calls for.
    fn of(metadata: &Metadata) -> Result<Self, Failure> {
        let mut files = CredentialFiles::default();
        match metadata.auth_type {
            AuthType::Token => {
                files.token = Some(mounted(GIT_TOKEN, "token", AUTH)?);
                files.username.clone_from(&metadata.git_username);
                files.bearer = metadata.token_scheme == TokenScheme::Bearer;
            }
            AuthType::Ssh => {
                files.ssh_key = Some(mounted(GIT_SSH_KEY, "ssh key", AUTH)?);
                files.passphrase = Some(PathBuf::from(GIT_PASSPHRASE)).filter(|p| p.exists());
            }
            AuthType::GithubApp => {
                let app = metadata
                    .github_app
                    .as_ref()
                    .ok_or_else(|| failure("it names no installation of a GitHub App".to_owned()))?;
                files.github_app = Some(GithubAppFile {
                    app_id: app.app_id,
                    installation_id: app.installation_id,
                    private_key: mounted(GIT_APP_KEY, "private key of a GitHub App", AUTH)?,
                    api_base_url: app.api_base_url.clone(),
                });
            }
            AuthType::None => {}
        }
        if let Some(proxy) = &metadata.proxy {
            let file = |path, what| mounted(path, what, "spec.git.proxy.secretRef");
            let login = if proxy.login {
                let username = file(GIT_PROXY_USERNAME, "user name for the proxy")?;
                Some((username, file(GIT_PROXY_PASSWORD, "password for the proxy")?))
            } else {
                None
            };
            files.proxy = Some(ProxyFiles { url: proxy.url.clone(), login });
        }
        Ok(Self { files, trust: metadata.trust.clone() })
    }
}

impl CredentialProvider for PodCredentials {
    fn load(&self) -> Result<Access, GitError> {
        let Trust { known_hosts, ca_pem } = self.trust.clone();
        Ok(Access { known_hosts, ca_pem, ..self.files.load()? })
    }
}

const AUTH: &str = "spec.git.auth";

/// A file of a Secret, which must be there: volumes are fixed when a pod is created.
fn mounted(path: &str, what: &str, field: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(path);
    if path.exists() {
        return Ok(path);
    }
    Err(Failure {
        category: "CredentialsNotMounted".to_owned(),
        message: format!(
            "this pod has no {what}: the Secret that {field} names or its key is missing, or the pod is older than that setting; make the Secret, and restart the pod if it is older"
        ),
        path: None,
    })
}

/// The gateway in the same pod.
pub struct PodGateway {
    data_dir: PathBuf,
    client: Mutex<Option<((u16, bool), GatewayClient)>>,
}

impl PodGateway {
    /// The gateway that runs on this data directory.
    #[must_use]
    pub const fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, client: Mutex::new(None) }
    }
}

impl Locate for PodGateway {
    fn locate(&self, known: &Known) -> Result<GatewaySync, Failure> {
        let Some(metadata) = &known.metadata else {
            return Ok(GatewaySync::new(self.data_dir.clone(), None));
        };
        let place = (metadata.gateway_port, metadata.gateway_tls);
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match &*kept {
            Some((at, client)) if *at == place => client.clone(),
            _ => {
                let url = GatewayUrl::loopback(place.0, place.1)
                    .ok_or_else(|| failure(format!("port {} is not a gateway's", place.0)))?;
                let options = GatewayOptions::new(url).api_key(ApiKeySource::file(GATEWAY_API_KEY));
                let client = GatewayClient::new(options).map_err(|error| Failure::of(&error))?;
                *kept = Some((place, client.clone()));
                client
            }
        };
        Ok(GatewaySync::new(self.data_dir.clone(), Some(client)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_the_metadata_calls_for_is_taken_and_a_login_that_is_not_mounted_is_named() {
        let with = |more: &[(&str, &str)]| {
            let startup = r#"{"timeoutSeconds": 300, "onTimeout": "UseLastGood"}"#;
            let base = serde_json::to_string(&crate::compile::CompiledProfile::default()).unwrap();
            let all = [
                ("protocol", "1"),
                ("ref", "main"),
                ("commit", ""),
                ("trigger", ""),
                ("paused", "false"),
                ("gitURL", "https://git.example.com/plant.git"),
                ("authType", "none"),
                ("gatewayPort", "8043"),
                ("gatewayTLS", "true"),
                ("startup", startup),
                ("base", &base),
                ("profiles", "{}"),
            ];
            let data: BTreeMap<String, String> =
                all.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            PodCredentials::of(&Metadata::from_data(&data).unwrap()).map(|credentials| credentials.files)
        };
        assert_eq!(with(&[]).ok().unwrap(), CredentialFiles::default());
        let open = with(&[("gitProxy", r#"{"url": "http://proxy:3128"}"#)]).ok().unwrap();
        assert_eq!(open.proxy, Some(ProxyFiles { url: "http://proxy:3128".to_owned(), login: None }));
        let Err(missing) = with(&[("gitProxy", r#"{"url": "http://proxy:3128", "login": true}"#)]) else {
            panic!("no login is mounted here")
        };
        assert_eq!(missing.category, "CredentialsNotMounted");
        let message = missing.message;
        assert!(
            message.contains("no user name for the proxy: the Secret that spec.git.proxy.secretRef"),
            "{message}"
        );
    }
}
