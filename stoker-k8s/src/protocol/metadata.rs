//! `stoker-metadata-<cr>`: what the agents of one `Stoker` are told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PROTOCOL, ProtocolError};
use crate::api::{OnTimeout, TokenScheme, VerifyMode};
use crate::compile::CompiledProfile;
use crate::conditions::cap;

/// What the agents of one `Stoker` are told.
///
/// [`Metadata::to_data`] and [`Metadata::from_data`] are inverse.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// The ref that `commit` was resolved from.
    pub git_ref: String,
    /// The commit to run: 40 hex digits. Absent until the ref has been resolved once.
    pub commit: Option<String>,
    /// Changes when a sync was asked for, even to the same commit (RFC 3339).
    pub trigger: String,
    /// Nothing may be written.
    pub paused: bool,
    /// The repository.
    pub git_url: String,
    /// How to get in.
    pub auth_type: AuthType,
    /// User name that goes with a token.
    pub git_username: Option<String>,
    /// How a token is sent.
    pub token_scheme: TokenScheme,
    /// The installation of a GitHub App.
    pub github_app: Option<AppInstallation>,
    /// The proxy on the way to the repository.
    pub proxy: Option<ProxyAddress>,
    /// `http://` and credentials in the URL are allowed.
    pub allow_insecure: bool,
    /// What of a commit has to be signed before it is taken; the keys are mounted.
    pub verify: Option<VerifyMode>,
    /// Whom to take for the git server.
    pub trust: Trust,
    /// Port of the gateway on the loopback.
    pub gateway_port: u16,
    /// Whether that port speaks https.
    pub gateway_tls: bool,
    /// How long a gateway's start may wait.
    pub startup: StartupPolicy,
    /// What holds for every gateway, and all that two-tier gateways have beside their annotations.
    pub base: CompiledProfile,
    /// The profiles, by name.
    pub profiles: BTreeMap<String, CompiledProfile>,
    /// Who may go to `commit` now.
    pub rollout: Rollout,
    /// A commit that may delete more than the guard allows.
    pub approval: Option<Approval>,
}

/// A person's word that what a commit deletes is meant, however much it is. It holds for that commit alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Approval {
    /// The commit, as the person wrote it: only the full id names one.
    pub commit: String,
    /// Who it was; empty when the person did not say.
    pub by: String,
}

/// By what a git server proves who it is. Nothing of it is secret, so that agents are told it and follow each change,
/// which a mounted Secret of another name would not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Lines of known_hosts, in addition to the built-in ones.
    pub known_hosts: Option<String>,
    /// Extra certificate authorities for https, in PEM.
    pub ca_pem: Option<String>,
}

/// How agents get into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthType {
    /// No credential.
    None,
    /// An SSH key.
    Ssh,
    /// A token over https.
    Token,
    /// An installation of a GitHub App.
    GithubApp,
}

/// Which installation of which app; the key is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppInstallation {
    /// The number of the app.
    pub app_id: u64,
    /// The number of its installation.
    pub installation_id: u64,
    /// The API, when it is not that of github.com.
    #[serde(default, rename = "apiBaseURL", skip_serializing_if = "Option::is_none")]
    pub api_base_url: Option<String>,
}

/// Which proxy; the login is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyAddress {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// Whether it wants a login.
    #[serde(default)]
    pub login: bool,
}

impl AuthType {
    const ALL: [Self; 4] = [Self::None, Self::Ssh, Self::Token, Self::GithubApp];

    /// As the ConfigMap has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ssh => "ssh",
            Self::Token => "token",
            Self::GithubApp => "githubApp",
        }
    }
}

/// How long a gateway's start may wait for the first sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupPolicy {
    /// Longest wait in seconds.
    pub timeout_seconds: u64,
    /// After that.
    pub on_timeout: OnTimeout,
}

/// Who may go to the commit now. Everybody who is not held may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Why a pod is held, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, Hold>,
}

/// Why a pod has to wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// One word, such as [`Hold::DEPENDENCY`].
    pub reason: String,
    /// For people: for whom it waits.
    pub message: String,
}

impl Hold {
    /// The gateways of another profile go first.
    pub const DEPENDENCY: &'static str = "dependency";
}

impl Metadata {
    /// As the data of a ConfigMap.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, value: String| data.insert(key.to_owned(), value);
        put("protocol", PROTOCOL.to_string());
        put("ref", self.git_ref.clone());
        put("commit", self.commit.clone().unwrap_or_default());
        put("trigger", self.trigger.clone());
        put("paused", self.paused.to_string());
        put("gitURL", self.git_url.clone());
        put("authType", self.auth_type.as_str().to_owned());
        put("gitUsername", self.git_username.clone().unwrap_or_default());
        if let Some(app) = &self.github_app {
            put("githubApp", json(app));
        }
        if self.token_scheme != TokenScheme::default() {
            put("tokenScheme", self.token_scheme.as_str().to_owned());
        }
        if let Some(proxy) = &self.proxy {
            put("gitProxy", json(proxy));
        }
        put("allowInsecure", self.allow_insecure.to_string());
        if let Some(verify) = &self.verify {
            put("verify", verify.as_str().to_owned());
        }
        put("knownHosts", self.trust.known_hosts.clone().unwrap_or_default());
        put("gitCA", self.trust.ca_pem.clone().unwrap_or_default());
        put("gatewayPort", self.gateway_port.to_string());
        put("gatewayTLS", self.gateway_tls.to_string());
        put("startup", json(&self.startup));
        put("base", json(&self.base));
        put("profiles", json(&self.profiles));
        put("rollout", json(&self.rollout));
        if let Some(approval) = &self.approval {
            put("approval", json(approval));
        }
        data
    }

    /// From the data of a ConfigMap.
    ///
    /// # Errors
    /// When a key is missing or unusable, or another version wrote it.
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, ProtocolError> {
        let get = |key: &'static str| data.get(key).map(String::as_str).ok_or(ProtocolError::Missing(key));
        let found = get("protocol")?;
        if found != PROTOCOL.to_string() {
            return Err(ProtocolError::Version { found: found.to_owned() });
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let auth = get("authType")?;
        Ok(Self {
            git_ref: get("ref")?.to_owned(),
            commit: some(get("commit")?),
            trigger: get("trigger")?.to_owned(),
            paused: parse("paused", get("paused")?)?,
            git_url: get("gitURL")?.to_owned(),
            auth_type: AuthType::ALL
                .into_iter()
                .find(|a| a.as_str() == auth)
                .ok_or_else(|| ProtocolError::Value { key: "authType", value: cap(auth.to_owned(), 80) })?,
            git_username: data.get("gitUsername").and_then(|text| some(text)),
            github_app: data.get("githubApp").map(|text| from_json("githubApp", text)).transpose()?,
            token_scheme: data
                .get("tokenScheme")
                .map(|text| token_scheme(text))
                .transpose()?
                .unwrap_or_default(),
            proxy: data.get("gitProxy").map(|text| from_json("gitProxy", text)).transpose()?,
            trust: Trust {
                known_hosts: data.get("knownHosts").and_then(|text| some(text)),
                ca_pem: data.get("gitCA").and_then(|text| some(text)),
            },
            allow_insecure: parse(
                "allowInsecure",
                data.get("allowInsecure").map_or("false", String::as_str),
            )?,
            verify: data.get("verify").map(|mode| verify_mode(mode)).transpose()?,
            gateway_port: parse("gatewayPort", get("gatewayPort")?)?,
            gateway_tls: parse("gatewayTLS", get("gatewayTLS")?)?,
            startup: from_json("startup", get("startup")?)?,
            base: from_json("base", get("base")?)?,
            profiles: from_json("profiles", get("profiles")?)?,
            rollout: from_json("rollout", data.get("rollout").map_or("{}", String::as_str))?,
            approval: data.get("approval").map(|text| from_json("approval", text)).transpose()?,
        })
    }

    /// Why the pod of this name is held, if it is.
    #[must_use]
    pub fn held(&self, pod: &str) -> Option<&Hold> {
        self.rollout.held.get(pod)
    }
}

/// A mode that this version does not know is an error, not a reason to ask for less.
fn verify_mode(text: &str) -> Result<VerifyMode, ProtocolError> {
    let known = VerifyMode::ALL.into_iter().find(|mode| mode.as_str() == text);
    known.ok_or_else(|| ProtocolError::Value { key: "verify", value: cap(text.to_owned(), 80) })
}

fn token_scheme(text: &str) -> Result<TokenScheme, ProtocolError> {
    let known = TokenScheme::ALL.into_iter().find(|scheme| scheme.as_str() == text);
    known.ok_or_else(|| ProtocolError::Value { key: "tokenScheme", value: cap(text.to_owned(), 80) })
}

fn json<T: Serialize>(value: &T) -> String {
    // Maps with text keys and plain structs: nothing that JSON could refuse.
    serde_json::to_string(value).unwrap_or_default()
}

fn from_json<T: for<'de> Deserialize<'de>>(key: &'static str, text: &str) -> Result<T, ProtocolError> {
    serde_json::from_str(text).map_err(|source| ProtocolError::Json { key, source })
}

fn parse<T: std::str::FromStr>(key: &'static str, text: &str) -> Result<T, ProtocolError> {
    text.parse().map_err(|_| ProtocolError::Value { key, value: cap(text.to_owned(), 80) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Mapping;

    fn example() -> Metadata {
        let mut profile = CompiledProfile::default();
        profile.push("profile area, mappings[0]", Mapping::new("services/area/projects", "projects"));
        Metadata {
            git_ref: "main".into(),
            commit: Some("0123456789012345678901234567890123456789".into()),
            trigger: "2026-03-01T10:00:00Z".into(),
            paused: false,
            git_url: "git@github.com:myorg/my-ignition-app.git".into(),
            auth_type: AuthType::Ssh,
            git_username: None,
            token_scheme: TokenScheme::Bearer,
            github_app: Some(AppInstallation { app_id: 12, installation_id: 34, api_base_url: None }),
            proxy: Some(ProxyAddress { url: "http://proxy:3128".into(), login: true }),
            allow_insecure: false,
            verify: Some(VerifyMode::TagAndHead),
            trust: Trust { known_hosts: Some("git.example.com ssh-ed25519 AAAA".into()), ca_pem: None },
            gateway_port: 8043,
            gateway_tls: true,
            startup: StartupPolicy { timeout_seconds: 300, on_timeout: OnTimeout::UseLastGood },
            base: CompiledProfile::default(),
            profiles: BTreeMap::from([("area".into(), profile)]),
            rollout: Rollout {
                held: BTreeMap::from([(
                    "gw-1".into(),
                    Hold { reason: Hold::DEPENDENCY.into(), message: "waits for SyncProfile site".into() },
                )]),
            },
            approval: Some(Approval { commit: "0123".into(), by: "ada".into() }),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let metadata = example();
        assert_eq!(Metadata::from_data(&metadata.to_data()).unwrap(), metadata);
        assert_eq!(metadata.held("gw-1").unwrap().message, "waits for SyncProfile site");
        assert_eq!(metadata.held("gw-0"), None);
    }

    #[test]
    fn unknown_keys_are_left_alone_and_bad_ones_are_named() {
        let good = example().to_data();
        let with = |key: &str, value: &str| {
            let mut data = good.clone();
            data.insert(key.to_owned(), value.to_owned());
            Metadata::from_data(&data)
        };
        assert!(with("from-the-future", "x").is_ok());
        for (key, value) in [
            ("paused", "maybe"),
            ("gatewayPort", "99999"),
            ("profiles", "[]"),
            ("authType", "magic"),
            ("tokenScheme", "Digest"),
            ("gitProxy", "http://proxy:3128"),
            ("protocol", "2"),
        ] {
            let error = with(key, value).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut data = good.clone();
        data.remove("commit");
        assert_eq!(Metadata::from_data(&data).unwrap_err().to_string(), "configmap key commit is missing");
        assert_eq!(with("commit", "").unwrap().commit, None);
    }
}
