//! How to reach an API server, and as whom.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

/// An address, a certificate authority and a bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// Such as `https://127.0.0.1:6443`.
    pub server: String,
    /// The authority that signed the server's certificate, in PEM.
    pub authority: String,
    /// Says who is asking.
    pub token: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Access {
    /// The same server, asked by another.
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// A client configuration; requests have no time limit of their own.
    ///
    /// # Errors
    ///
    /// The address or the certificate cannot be parsed.
    pub fn config(&self) -> Result<Config> {
        let mut config = Config::new(self.server.parse()?);
        let certificate = CertificateDer::from_pem_slice(self.authority.as_bytes())
            .map_err(|error| anyhow::anyhow!("the authority of {}: {error}", self.server))?;
        config.root_cert = Some(vec![certificate.to_vec()]);
        config.auth_info = AuthInfo { token: Some(self.token.clone().into()), ..AuthInfo::default() };
        Ok(config)
    }

    /// A client. It lives in the runtime that calls this: each test makes its own.
    ///
    /// # Errors
    ///
    /// As [`Access::config`].
    pub fn client(&self) -> Result<Client> {
        crate::init();
        Ok(Client::try_from(self.config()?)?)
    }

    /// The text of a kubeconfig file (JSON, which is YAML).
    pub fn kubeconfig(&self) -> String {
        let authority = ByteString(self.authority.clone().into_bytes());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stoker-test",
            "clusters": [{"name": "stoker-test", "cluster": {"server": self.server, "certificate-authority-data": authority}}],
            "users": [{"name": "stoker-test", "user": {"token": self.token}}],
            "contexts": [{"name": "stoker-test", "context": {"cluster": "stoker-test", "user": "stoker-test"}}],
        });
        format!("{config:#}\n")
    }

    /// Reads a kubeconfig file that [`Access::kubeconfig`] wrote.
    ///
    /// # Errors
    ///
    /// The file is absent or of another shape.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let config: Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        let text = |pointer: &str| {
            let found = config.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            found.with_context(|| format!("{} has no {pointer}", path.display()))
        };
        let authority: ByteString =
            serde_json::from_value(json!(text("/clusters/0/cluster/certificate-authority-data")?))?;
        Ok(Self {
            server: text("/clusters/0/cluster/server")?,
            authority: String::from_utf8(authority.0)?,
            token: text("/users/0/user/token")?,
        })
    }

    /// The same server, asked by a service account with a fresh token of its own, valid for an hour.
    ///
    /// # Errors
    ///
    /// The server refuses: there is no such account.
    pub async fn as_service_account(&self, namespace: &str, name: &str) -> Result<Self> {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, namespace);
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token for service account {namespace}/{name}"))?;
        let token = answer.status.context("the server answered without a token")?.token;
        Ok(self.with_token(token))
    }
}
