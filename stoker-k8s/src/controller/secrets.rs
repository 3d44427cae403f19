//! Secrets: read by name, when they are used, and never kept.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::api::Api;
use kube::{Client, Error};
use stoker_core::{Category, Fault, Retry};
use stoker_git::github_app::DEFAULT_API_BASE_URL;
use stoker_git::{Access, Credentials, GithubApp, Proxy, Secret};

use crate::api::{GitProxy, GitSpec, SecretKeyRef, TokenScheme};
use crate::conditions::reason;
use crate::controller::lookup::LookupError;

/// Why a Secret cannot be used. Never holds what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// There is no such Secret.
    #[error("secret {0} does not exist in this namespace; create it, or correct the reference")]
    Missing(String),
    /// It lacks the key.
    #[error("secret {name} has no key {key}; it has: {}", known(.has))]
    KeyMissing {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
        /// The keys that it has.
        has: Vec<String>,
    },
    /// The key holds nothing.
    #[error("secret {name}, key {key} is empty")]
    Empty {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The key holds something that is no text.
    #[error("secret {name}, key {key} is not text")]
    NotText {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The API server does not let us read it, or did not answer.
    #[error("secret {name} cannot be read: {detail}")]
    Unreadable {
        /// The Secret.
        name: String,
        /// What the API server said.
        detail: String,
    },
}

fn known(keys: &[String]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}

impl Fault for SecretError {
    fn category(&self) -> Category {
        match self {
            Self::Unreadable { .. } => Category::new("SecretUnreadable"),
            _ => Category::new(reason::SECRET_MISSING),
        }
    }

    /// Secrets are not watched: one that appears is seen at the next look-up.
    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// The text in one key of a Secret.
///
/// # Errors
/// When the Secret, the key or a text in it is missing.
pub async fn read(client: &Client, namespace: &str, at: &SecretKeyRef) -> Result<Secret, SecretError> {
    let (name, key) = (at.name.clone(), at.key.clone());
    let api: Api<SecretObject> = Api::namespaced(client.clone(), namespace);
    let found = match tokio::time::timeout(TIMEOUT, api.get(&name)).await {
        Err(_) => {
            return Err(SecretError::Unreadable {
                name,
                detail: "the api server did not answer in time".into(),
            });
        }
        Ok(Err(Error::Api(status))) if status.code == 404 => return Err(SecretError::Missing(name)),
        Ok(Err(error)) => return Err(SecretError::Unreadable { name, detail: stoker_core::chain(&error) }),
        Ok(Ok(found)) => found,
    };
    let data = found.data.unwrap_or_default();
    let Some(value) = data.get(&key) else {
        return Err(SecretError::KeyMissing { name, key, has: data.into_keys().take(20).collect() });
    };
    match std::str::from_utf8(&value.0) {
        Ok(text) if text.trim().is_empty() => Err(SecretError::Empty { name, key }),
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(SecretError::NotText { name, key }),
    }
}

/// The same, without the line end that editors add.
async fn line(client: &Client, namespace: &str, at: &SecretKeyRef) -> Result<Secret, SecretError> {
    Ok(Secret::new(read(client, namespace, at).await?.expose().trim_end_matches(['\r', '\n'])))
}

/// Everything private that a look-up of `git` needs.
///
/// # Errors
/// When one of the Secrets, or the proxy, cannot be used.
pub(super) async fn access(client: &Client, namespace: &str, git: &GitSpec) -> Result<Access, LookupError> {
    let mut access = Access::default();
    if let Some(token) = git.auth.as_ref().and_then(|auth| auth.token.as_ref()) {
        let secret = read(client, namespace, &token.secret_ref).await?;
        let secret = Secret::new(secret.expose().trim());
        access.credentials = match token.scheme {
            TokenScheme::Basic => Credentials::Token { username: token.username.clone(), secret },
            TokenScheme::Bearer => Credentials::Bearer { secret },
        };
    }
    if let Some(app) = git.auth.as_ref().and_then(|auth| auth.github_app.as_ref()) {
        access.credentials = Credentials::GithubApp(GithubApp {
            app_id: app.app_id,
            installation_id: app.installation_id,
            private_key: read(client, namespace, &app.private_key_secret_ref).await?,
            api_base_url: app.api_base_url.clone().unwrap_or_else(|| DEFAULT_API_BASE_URL.to_owned()),
        });
    }
    if let Some(ssh) = git.auth.as_ref().and_then(|auth| auth.ssh_key.as_ref()) {
        let key = read(client, namespace, &ssh.secret_ref).await?;
        let passphrase = match &ssh.passphrase_secret_ref {
            Some(at) => Some(line(client, namespace, at).await?),
            None => None,
        };
        // Keys that went through a Secret lost their last newline or got Windows line ends.
        let private_key = Secret::new(format!("{}\n", key.expose().replace("\r\n", "\n").trim()));
        access.credentials = Credentials::SshKey { private_key, passphrase };
        if let Some(known) = &ssh.known_hosts {
            access.known_hosts = Some(read(client, namespace, &known.secret_ref).await?.expose().to_owned());
        }
    }
    if let Some(at) = &git.ca_secret_ref {
        access.ca_pem = Some(read(client, namespace, at).await?.expose().to_owned());
    }
    if let Some(GitProxy { url, secret_ref }) = &git.proxy {
        let proxy: Proxy = url.parse()?;
        access.proxy = Some(match secret_ref {
            Some(login) => proxy.with_login(
                line(client, namespace, &login.username()).await?,
                line(client, namespace, &login.password()).await?,
            )?,
            None => proxy,
        });
    }
    Ok(access)
}
