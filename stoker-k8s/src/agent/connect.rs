//! What the agent in a pod talks to: the repository and the gateway that the metadata names, with the credentials that
//! are mounted beside it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use stoker_core::Category;
use stoker_git::{Cache, CommitId, CredentialFiles, Git, Remote, RemoteUrl, Wanted};
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions, GatewayUrl};

use super::watch_metadata::Known;
use super::{Fetch, Fetched, Locate, Obtained, Tree};
use crate::gateway_sync::{Failure, GatewaySync};
use crate::inject::contract::{
    GATEWAY_API_KEY, GIT_CA, GIT_KNOWN_HOSTS, GIT_PASSPHRASE, GIT_SSH_KEY, GIT_TOKEN,
};
use crate::protocol::{AuthType, Metadata};

/// Fetches into a cache, with mounted credentials.
pub struct MountedGit {
    /// How child processes are started, and their limits.
    pub git: Git,
    /// Where objects are kept.
    pub cache: Cache,
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
            let remote = Remote { url, credentials: Arc::new(mounted(metadata)) };
            let reference = metadata.git_ref.starts_with("refs/").then(|| metadata.git_ref.clone());
            let fetched = self.git.fetch(&remote, &self.cache, &Wanted::through(commit, reference)).await;
            let fetched = fetched.map_err(|error| Failure::of(&error))?;
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

/// The credential files that the way of authentication calls for. Optional ones count when they are there.
fn mounted(metadata: &Metadata) -> CredentialFiles {
    let optional = |path: &str| Some(PathBuf::from(path)).filter(|p| p.exists());
    let mut files = CredentialFiles { ca: optional(GIT_CA), ..CredentialFiles::default() };
    match metadata.auth_type {
        AuthType::Token => {
            files.token = Some(GIT_TOKEN.into());
            files.username.clone_from(&metadata.git_username);
        }
        AuthType::Ssh => {
            files.ssh_key = Some(GIT_SSH_KEY.into());
            files.passphrase = optional(GIT_PASSPHRASE);
            files.known_hosts = optional(GIT_KNOWN_HOSTS);
        }
        AuthType::None => {}
    }
    files
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
