//! `AgentConfig`: the file that runs the engine without Kubernetes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stoker_core::{Category, Fault, Retry};

use super::git::{TokenScheme, VerifyMode};
use super::profile::SyncProfileSpec;
use super::scalar::Period;
use super::stoker::MaxDeletes;
use super::strict::{UnknownField, unknown_fields};

mod check;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not YAML, or a value of the wrong type.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with line and column.
        message: String,
    },
    /// A field that nobody reads.
    #[error("{file}: {}", .fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    UnknownFields {
        /// The file.
        file: String,
        /// The fields.
        fields: Vec<UnknownField>,
    },
    /// Another kind of document.
    #[error(
        "{file}: apiVersion {api_version:?} and kind {kind:?} are not an agent configuration; write apiVersion: stoker.io/v1alpha1 and kind: AgentConfig"
    )]
    Kind {
        /// The file.
        file: String,
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A value that cannot work.
    #[error("{file}: {field}: {problem}")]
    Value {
        /// The file.
        file: String,
        /// The field.
        field: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl Fault for ConfigError {
    fn category(&self) -> Category {
        Category::new("ConfigInvalid")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// The configuration of an agent that runs without Kubernetes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// `stoker.io/v1alpha1`.
    pub api_version: String,
    /// `AgentConfig`.
    pub kind: String,
    /// Name of the gateway: `{{.GatewayName}}`.
    pub gateway_name: String,
    /// Labels for templates and for `when.podLabels` of mappings.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The repository and the ref to follow.
    pub git: ConfigGit,
    /// What goes where.
    pub profile: SyncProfileSpec,
    /// Template variables; those of the profile win.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    /// Number of the site: `{{.SiteNumber}}`.
    #[serde(default)]
    pub site_number: Option<String>,
    /// Patterns of files that are neither written nor deleted; in place of the default ones.
    #[serde(default = "super::stoker::default_excludes")]
    pub exclude_patterns: Vec<String>,
    /// Deletions that one sync may carry out; more stop it before any write.
    #[serde(default)]
    pub max_deletes: MaxDeletes,
    /// The gateway. Absent: files only, nothing is confirmed.
    #[serde(default)]
    pub gateway: Option<ConfigGateway>,
    /// The gateway's data directory.
    pub data_dir: PathBuf,
    /// Where git objects are kept; `.stoker` in the data directory when absent.
    #[serde(default)]
    pub cache_dir: Option<PathBuf>,
}

/// The repository: as in a Stoker, with files in place of Secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigGit {
    /// `https://`, `ssh://`, `user@host:path` or `file://`.
    pub repo: String,
    /// Branch, tag, full ref name or commit id.
    pub r#ref: String,
    /// How to authenticate.
    #[serde(default)]
    pub auth: Option<ConfigAuth>,
    /// Extra certificate authorities (PEM) for https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The proxy for https, in place of those that the environment names.
    #[serde(default)]
    pub proxy: Option<ConfigProxy>,
    /// Commits are refused that are not signed by a listed key.
    #[serde(default)]
    pub verify: Option<ConfigVerify>,
    /// Allow `http://`.
    #[serde(default)]
    pub allow_insecure: bool,
    /// Time between two look-ups with `--watch`, 5s to 24h (default 60s).
    #[serde(default)]
    pub interval: Option<Period>,
}

/// An HTTP proxy, with its login in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigProxy {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The user name, if it wants a login.
    #[serde(default)]
    pub username_file: Option<PathBuf>,
    /// The password, if it wants a login.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// What has to be signed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigVerify {
    /// `HEAD`, `Tag` or `TagAndHEAD`.
    pub mode: VerifyMode,
    /// Files with OpenPGP public keys in armour, or with lines of `ssh-keygen`'s allowed_signers.
    pub key_files: Vec<PathBuf>,
}

/// A way to authenticate: exactly one member is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigAuth {
    /// An SSH private key.
    #[serde(default)]
    pub ssh_key: Option<ConfigSshKey>,
    /// An access token.
    #[serde(default)]
    pub token: Option<ConfigToken>,
    /// An installation of a GitHub App.
    #[serde(default)]
    pub github_app: Option<ConfigGithubApp>,
}

/// An installation of a GitHub App, with the app's key in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigGithubApp {
    /// Number of the app.
    pub app_id: u64,
    /// Number of its installation.
    pub installation_id: u64,
    /// The app's private key, in PEM.
    pub private_key_file: PathBuf,
    /// The API of a GitHub Enterprise Server, `https://HOST/api/v3`.
    #[serde(default, rename = "apiBaseURL")]
    pub api_base_url: Option<String>,
}

/// An SSH private key in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSshKey {
    /// The private key.
    pub file: PathBuf,
    /// Host keys to trust, in addition to the built-in ones.
    #[serde(default)]
    pub known_hosts_file: Option<PathBuf>,
    /// Passphrase of the private key.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
}

/// An access token in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigToken {
    /// The token.
    pub file: PathBuf,
    /// User name that goes with it.
    #[serde(default = "super::git::default_username")]
    pub username: String,
    /// `Basic` or `Bearer`.
    #[serde(default)]
    pub scheme: TokenScheme,
}

/// The gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigGateway {
    /// Its address, like `http://127.0.0.1:8088`.
    pub url: String,
    /// File with the API key, `name:secret`; read again at every use.
    pub api_key_file: PathBuf,
}

impl AgentConfig {
    /// Reads a configuration; `file` is the name that errors carry.
    ///
    /// # Errors
    /// When it is not an agent configuration, with the place and what to write instead.
    pub fn parse(file: &str, yaml: &str) -> Result<Self, ConfigError> {
        // Without the lines around the place: somebody may have written a secret where the name of a file belongs.
        let syntax = |e: &serde_saphyr::Error| ConfigError::Syntax {
            file: file.to_owned(),
            message: e.without_snippet().to_string(),
        };
        let value: serde_json::Value = serde_saphyr::from_str(yaml).map_err(|e| syntax(&e))?;
        let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version != super::API_VERSION || kind != "AgentConfig" {
            return Err(ConfigError::Kind { file: file.to_owned(), api_version, kind });
        }
        let fields = unknown_fields::<Self>(&value);
        if !fields.is_empty() {
            return Err(ConfigError::UnknownFields { file: file.to_owned(), fields });
        }
        // Parsed once more from the text, because only this way errors carry line and column.
        let config: Self = serde_saphyr::from_str(yaml).map_err(|e| syntax(&e))?;
        check::check(&config).map_err(|(field, problem)| ConfigError::Value {
            file: file.to_owned(),
            field,
            problem,
        })?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion: stoker.io/v1alpha1
kind: AgentConfig
gatewayName: line-1
labels: {site: plant-a}
git:
  repo: https://git.example.com/plant/ignition.git
  ref: main
  auth: {token: {file: /etc/stoker/token}}
profile:
  mappings: [{source: gateways/line-1/projects, destination: projects}]
vars: {region: emea}
excludePatterns: []
gateway: {url: "http://127.0.0.1:8088", apiKeyFile: /etc/stoker/key}
dataDir: /usr/local/bin/ignition/data
cacheDir: /var/cache/stoker
"#;

    #[test]
    fn the_documented_file_is_read() {
        let config = AgentConfig::parse("gateway.yaml", GOOD).unwrap();
        assert_eq!(config.gateway_name, "line-1");
        assert_eq!(config.profile.limits.max_files, 100_000);
        assert_eq!(config.git.auth.unwrap().token.unwrap().username, "x-access-token");
    }

    #[test]
    fn mistakes_are_answered_with_their_place_and_the_remedy() {
        for (from, to, expected) in [
            ("dataDir:", "datadir:", "did you mean dataDir?"),
            ("source:", "scource:", "profile.mappings[0].scource; did you mean source?"),
            (
                "kind: AgentConfig",
                "kind: Stoker",
                "write apiVersion: stoker.io/v1alpha1 and kind: AgentConfig",
            ),
            ("labels: {site: plant-a}", "labels: {site: plant-a", "gateway.yaml: "),
            ("https://git", "http://git", "git.allowInsecure"),
            ("ref: main", "ref: -x", "git.ref"),
            ("token: {file: /etc/stoker/token}", "", "exactly one of sshKey, token and githubApp"),
            ("[{source: gateways/line-1/projects, destination: projects}]", "[]", "at least one"),
            ("gatewayName: line-1", "gatewayName: ''", "gatewayName"),
            ("[{source: gateways/line-1/projects, destination: projects}]", "7", "line 11"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = AgentConfig::parse("gateway.yaml", &text).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
