//! Connections to `git-upload-pack` and `git-receive-pack` on another machine.

mod dial;
mod git;
mod http;
mod ssh;

use crate::credentials::{Access, Credentials};
use crate::error::GitError;
use crate::limits::Limits;
use crate::policy::HostPolicy;
use crate::proxy::InForce;
use crate::url::{Protocol, RemoteUrl};
use crate::wire::{Connection, Service};

pub(crate) use http::app_token::{Given as AppToken, exchange as app_token};

/// Everything a connection needs to know.
pub(crate) struct Destination<'a> {
    pub(crate) url: &'a RemoteUrl,
    pub(crate) access: &'a Access,
    pub(crate) limits: &'a Limits,
    pub(crate) policy: &'a HostPolicy,
}

/// Connects.
///
/// # Errors
/// When the host cannot be reached, is not who it should be, or refuses us.
pub(crate) fn open(to: &Destination<'_>, service: Service) -> Result<Box<dyn Connection>, GitError> {
    match to.url.protocol() {
        Protocol::Https | Protocol::Http => Ok(Box::new(http::open(to, service)?)),
        Protocol::Ssh => Ok(Box::new(ssh::open(to, service)?)),
        Protocol::Git => Ok(Box::new(git::open(to, service)?)),
        Protocol::File => Err(GitError::Protocol {
            url: to.url.to_string(),
            detail: "a local repository is read directly".to_owned(),
        }),
    }
}

impl Destination<'_> {
    /// What runs only while one waits for it.
    fn runtime(&self) -> Result<tokio::runtime::Runtime, GitError> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| GitError::Unreachable { host: self.address(), detail: e.to_string() })
    }

    fn host(&self) -> &str {
        self.url.host().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.url.port().unwrap_or_default()
    }

    /// The proxy that is in force: the one that was configured, or else the environment's.
    fn proxy(&self) -> Result<Option<InForce>, GitError> {
        match &self.access.proxy {
            Some(proxy) => Ok(Some(InForce::configured(proxy))),
            None => InForce::of_environment(self.url),
        }
    }

    /// `host:port`, for errors.
    fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    /// A credential of a kind that this protocol cannot carry is a mistake to point out, not to ignore.
    fn wrong_credential(&self) -> Option<GitError> {
        let detail = match (&self.access.credentials, self.url.protocol()) {
            (Credentials::SshKey { .. }, Protocol::Ssh) | (Credentials::None, _) => return None,
            (
                Credentials::Token { .. } | Credentials::Bearer { .. } | Credentials::GithubApp(_),
                Protocol::Https | Protocol::Http,
            ) => return None,
            (Credentials::SshKey { .. }, protocol) => {
                format!(
                    "an ssh key does not work with {}://; write an ssh URL or use a token",
                    protocol.scheme()
                )
            }
            (Credentials::GithubApp(_), protocol) => {
                format!("a GitHub App does not work with {}://; write an https URL", protocol.scheme())
            }
            (Credentials::Token { .. } | Credentials::Bearer { .. }, protocol) => {
                format!(
                    "a token does not work with {}://; write an https URL or use an ssh key",
                    protocol.scheme()
                )
            }
        };
        Some(GitError::CredentialInvalid { detail })
    }
}
