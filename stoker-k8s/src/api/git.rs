//! Where commits come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stoker_git::credentials::DEFAULT_TOKEN_USERNAME;

use super::schema::cel;

/// A key of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A repository, the ref that gateways follow, and how to get in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    transform = cel(
        "!self.repo.startsWith('http://') || (has(self.allowInsecure) && self.allowInsecure)",
        "http:// is neither secret nor authentic: write https://, or set git.allowInsecure: true",
    ),
    transform = cel(
        "!has(self.auth) || !has(self.auth.token) || self.repo.matches('^https?://')",
        "auth.token works for https:// repositories only: write an https:// URL, or use auth.sshKey",
    ),
    transform = cel(
        "!has(self.auth) || !has(self.auth.githubApp) || self.repo.matches('^https?://')",
        "auth.githubApp works for https:// repositories only: write an https:// URL, or use auth.sshKey",
    ),
    transform = cel(
        "!has(self.auth) || !has(self.auth.githubApp) || !has(self.auth.githubApp.apiBaseURL) || \
         self.auth.githubApp.apiBaseURL.startsWith('https://') || (has(self.allowInsecure) && self.allowInsecure)",
        "auth.githubApp.apiBaseURL: the key of an app is worth more than http:// can keep: write https://, or set git.allowInsecure: true",
    ),
    transform = cel(
        "!has(self.auth) || !has(self.auth.sshKey) || !self.repo.matches('^(https?|file)://')",
        "auth.sshKey works for ssh repositories only: write ssh://git@host/path or git@host:path, or use auth.token",
    ),
    transform = cel(
        "!has(self.caSecretRef) || self.repo.startsWith('https://')",
        "caSecretRef works for https:// repositories only: remove it",
    ),
    transform = cel(
        "!has(self.proxy) || self.repo.matches('^https?://')",
        "proxy works for https:// repositories only: remove it, or write an https:// URL",
    ),
)]
pub struct GitSpec {
    /// Repository: https://host/path, ssh://user@host/path, user@host:path, or file:///path for a mirror on a volume.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "self.matches('^(https?|ssh|file)://[^\\\\s]+$') || self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*@[^\\\\s:/@]+:[^\\\\s]+$')",
        "write the repository as https://host/path, ssh://user@host/path, user@host:path or file:///path",
    ))]
    #[schemars(transform = cel(
        "!self.matches('^https?://[^/]*@')",
        "repo holds a user or a password: remove it and name a Secret in git.auth.token",
    ))]
    #[schemars(transform = cel(
        "!self.matches('^ssh://[^/]*:[^/@]*@')",
        "repo holds a password: remove it and name a key in git.auth.sshKey",
    ))]
    #[schemars(transform = cel(
        "!self.matches('[?#]')",
        "the URL of a repository has neither a query nor a fragment: cut it at ? or #",
    ))]
    pub repo: String,
    /// Branch, tag, full ref name (refs/...), or commit id. A name that is both a branch and a tag means the tag.
    #[schemars(length(min = 1, max = 255))]
    #[schemars(transform = cel(
        "!self.startsWith('-')",
        "a ref never starts with a dash: write the name of a branch or tag, refs/... or a commit id",
    ))]
    #[schemars(transform = cel(
        "!self.matches('[\\\\x00-\\\\x20\\\\x7f~^:?*\\\\[\\\\\\\\]') && !self.contains('..') && !self.contains('@{') && \
         !self.contains('//') && !self.startsWith('/') && !self.endsWith('/') && !self.endsWith('.') && !self.endsWith('.lock')",
        "not a ref name that git allows: write the name of a branch or tag, refs/... or a commit id",
    ))]
    pub r#ref: String,
    /// How to authenticate: exactly one of sshKey, token and githubApp. Absent for a public repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<GitAuth>,
    /// Extra certificate authorities (PEM) for https: for the server, and for a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The proxy between controller or agents and an https repository, and the API of a GitHub App. It is in force for every
    /// host, in place of those that HTTPS_PROXY and the like name; NO_PROXY does not matter then. Refused for ssh and file
    /// repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<GitProxy>,
    /// Commits are refused that are not signed by a listed key: nothing of them is written to any gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<GitVerify>,
    /// Allow http://, where anyone on the way can read and change what is fetched: for a test bed only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitProxy {
    /// http://HOST:PORT, or https://HOST:PORT for one that is itself spoken to over TLS. Without a login: see secretRef.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "!self.contains('@')",
        "the URL of the proxy holds a user or a password: remove it and name a Secret in proxy.secretRef",
    ))]
    #[schemars(transform = cel(
        "self.contains('@') || self.matches('^https?://([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\]):[0-9]{1,5}/?$')",
        "write the proxy as http://HOST:PORT or https://HOST:PORT",
    ))]
    pub url: String,
    /// The login (basic authentication), if the proxy wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ProxyLoginRef>,
}

/// A Secret in the same namespace with the keys username and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyLoginRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl ProxyLoginRef {
    /// The user name.
    #[must_use]
    pub fn username(&self) -> SecretKeyRef {
        SecretKeyRef { name: self.name.clone(), key: "username".to_owned() }
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> SecretKeyRef {
        SecretKeyRef { name: self.name.clone(), key: "password".to_owned() }
    }
}

/// What has to be signed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitVerify {
    /// What has to be signed: the commit (HEAD), the annotated tag that ref names (Tag), or both (TagAndHEAD).
    pub mode: VerifyMode,
    /// The keys.
    pub secret_ref: VerifyKeysRef,
}

/// What has to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyMode {
    /// The commit.
    #[serde(rename = "HEAD")]
    Head,
    /// The annotated tag that the ref names.
    Tag,
    /// Both.
    #[serde(rename = "TagAndHEAD")]
    TagAndHead,
}

/// A Secret in the same namespace. Each of its keys holds OpenPGP public keys in armour, or lines of an allowed_signers
/// file of ssh-keygen: who, then the SSH public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyKeysRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl VerifyMode {
    pub(crate) const ALL: [Self; 3] = [Self::Head, Self::Tag, Self::TagAndHead];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Tag => "Tag",
            Self::TagAndHead => "TagAndHEAD",
        }
    }
}

impl From<VerifyMode> for stoker_git::VerifyMode {
    fn from(mode: VerifyMode) -> Self {
        match mode {
            VerifyMode::Head => Self::Head,
            VerifyMode::Tag => Self::Tag,
            VerifyMode::TagAndHead => Self::TagAndHead,
        }
    }
}

/// A way to authenticate: exactly one member is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(
    "[has(self.sshKey), has(self.token), has(self.githubApp)].filter(given, given).size() == 1",
    "write exactly one of auth.sshKey, auth.token and auth.githubApp, or leave auth out for a public repository",
))]
pub struct GitAuth {
    /// An SSH private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_key: Option<SshKeyAuth>,
    /// An access token (or password) over https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenAuth>,
    /// An installation of a GitHub App, over https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub github_app: Option<GithubAppAuth>,
}

/// An installation of a GitHub App.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GithubAppAuth {
    /// Number of the app, from its settings.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub app_id: u64,
    /// Number of its installation, from the URL of the installation's settings.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub installation_id: u64,
    /// The app's private key, in PEM.
    pub private_key_secret_ref: SecretKeyRef,
    /// The API of a GitHub Enterprise Server, https://HOST/api/v3. Absent for github.com.
    #[serde(default, rename = "apiBaseURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(transform = cel(
        "self.matches('^https?://[^\\\\s@?#]+$')",
        "write the API as https://HOST/api/v3, or leave apiBaseURL out for github.com",
    ))]
    pub api_base_url: Option<String>,
}

/// An SSH private key and the hosts it may be offered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshKeyAuth {
    /// The private key.
    pub secret_ref: SecretKeyRef,
    /// Host keys to trust, in the format of known_hosts. The keys of github.com, gitlab.com, bitbucket.org and
    /// ssh.dev.azure.com are built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<KnownHosts>,
    /// Passphrase of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_secret_ref: Option<SecretKeyRef>,
}

/// Host keys to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KnownHosts {
    /// Where the known_hosts lines are.
    pub secret_ref: SecretKeyRef,
}

/// An access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(
    "self.scheme != 'Bearer' || self.username == 'x-access-token'",
    "a bearer token goes without a user name: remove token.username, or write scheme: Basic",
))]
pub struct TokenAuth {
    /// The token.
    pub secret_ref: SecretKeyRef,
    /// User name that goes with it, if the scheme is Basic.
    #[serde(default = "default_username")]
    #[schemars(length(min = 1, max = 128))]
    pub username: String,
    /// How it is sent: as the password of basic authentication (Basic), which every forge takes, or alone in
    /// "Authorization: Bearer" (Bearer), for servers behind a gateway that wants it so.
    #[serde(default)]
    pub scheme: TokenScheme,
}

/// How a token is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TokenScheme {
    /// As the password of basic authentication.
    #[default]
    Basic,
    /// In a header `Authorization: Bearer`.
    Bearer,
}

impl TokenScheme {
    pub(crate) const ALL: [Self; 2] = [Self::Basic, Self::Bearer];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
        }
    }
}

pub(super) fn default_username() -> String {
    DEFAULT_TOKEN_USERNAME.to_owned()
}
