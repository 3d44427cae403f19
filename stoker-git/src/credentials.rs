//! What proves to a server who is asking.
//!
//! Secrets rotate: a Kubernetes Secret volume is swapped under a running agent, an installation token lives an hour. So
//! nothing is kept: a [`CredentialProvider`] is asked for [`Access`] at each use, and asked again, once, when a server
//! refuses what it gave.

use std::path::{Path, PathBuf};

use crate::error::GitError;
use crate::github_app::{DEFAULT_API_BASE_URL, GithubApp};
use crate::proxy::Proxy;
use crate::secret::Secret;

/// A credential for one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// None: a public repository.
    #[default]
    None,
    /// HTTP basic authentication: how every forge takes its tokens.
    Token {
        /// The user name. Forges ignore it or want a fixed word; `x-access-token` suits GitHub, `oauth2` GitLab.
        username: String,
        /// The token or password.
        secret: Secret,
    },
    /// A token in a header of its own, `Authorization: Bearer`: for servers behind a gateway that wants it so.
    Bearer {
        /// The token.
        secret: Secret,
    },
    /// An installation of a GitHub App: exchanged for a token when it is used.
    GithubApp(GithubApp),
    /// An ssh key.
    SshKey {
        /// The private key, in OpenSSH or PEM form; or several, one after another, which are tried in this order, each
        /// once.
        private_key: Secret,
        /// What decrypts the private key.
        passphrase: Option<Secret>,
    },
}

/// The user name that is sent with a token when none is given.
pub const DEFAULT_TOKEN_USERNAME: &str = "x-access-token";

/// Everything private to one use of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The credential.
    pub credentials: Credentials,
    /// Lines of known_hosts, in addition to the built-in ones.
    pub known_hosts: Option<String>,
    /// Extra certificate authorities for https, in PEM: for the server, for a proxy that is spoken to over https, and for
    /// one that breaks connections open.
    pub ca_pem: Option<String>,
    /// The proxy for `https://` and `http://`, in place of those that the environment names. Other URLs are refused.
    pub proxy: Option<Proxy>,
}

/// Gives access when it is needed.
pub trait CredentialProvider: Send + Sync {
    /// The current access.
    ///
    /// # Errors
    /// [`GitError::CredentialInvalid`] when there is none now, naming what is missing and never its content.
    fn load(&self) -> Result<Access, GitError>;
}

impl CredentialProvider for Access {
    fn load(&self) -> Result<Access, GitError> {
        Ok(self.clone())
    }
}

/// An installation of a GitHub App, and the file of the app's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubAppFile {
    /// The number of the app.
    pub app_id: u64,
    /// The number of its installation.
    pub installation_id: u64,
    /// The file with the app's private key, in PEM.
    pub private_key: PathBuf,
    /// The API; [`DEFAULT_API_BASE_URL`] when absent.
    pub api_base_url: Option<String>,
}

/// A proxy, and the files of the login at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyFiles {
    /// Where it is: `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The files with the user name and with the password, when it wants a login.
    pub login: Option<(PathBuf, PathBuf)>,
}

/// Access from files, read again at each use. At most one of `token`, `github_app` and `ssh_key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// A file with a token.
    pub token: Option<PathBuf>,
    /// The user name for the token; [`DEFAULT_TOKEN_USERNAME`] when absent.
    pub username: Option<String>,
    /// Sends the token as `Authorization: Bearer`, without a user name.
    pub bearer: bool,
    /// A GitHub App.
    pub github_app: Option<GithubAppFile>,
    /// A file with a private ssh key.
    pub ssh_key: Option<PathBuf>,
    /// A file with the passphrase of the key.
    pub passphrase: Option<PathBuf>,
    /// A known_hosts file.
    pub known_hosts: Option<PathBuf>,
    /// A file with extra certificate authorities, in PEM.
    pub ca: Option<PathBuf>,
    /// A proxy.
    pub proxy: Option<ProxyFiles>,
}

/// More than any key, token or CA bundle has: a wrong path must not read a disk into memory.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl CredentialProvider for CredentialFiles {
    fn load(&self) -> Result<Access, GitError> {
        let credentials = match (&self.token, &self.ssh_key, &self.github_app) {
            (None, None, Some(app)) => Credentials::GithubApp(GithubApp {
                app_id: app.app_id,
                installation_id: app.installation_id,
                private_key: read(&app.private_key, "private key")?,
                api_base_url: app.api_base_url.clone().unwrap_or_else(|| DEFAULT_API_BASE_URL.to_owned()),
            }),
            (Some(token), None, None) => {
                // Editors and `echo` end a file with a newline that no token has.
                let text = read(token, "token")?;
                let secret = Secret::new(text.expose().trim());
                check_token(token, &secret)?;
                if self.bearer {
                    return self.with(Credentials::Bearer { secret });
                }
                let username = self.username.clone().unwrap_or_else(|| DEFAULT_TOKEN_USERNAME.to_owned());
                Credentials::Token { username, secret }
            }
            (None, Some(key), None) => {
                let text = read(key, "ssh key")?;
                // Keys that went through a Secret lost their last newline or got Windows line ends.
                let private_key = Secret::new(format!("{}\n", text.expose().replace("\r\n", "\n").trim()));
                let passphrase = match &self.passphrase {
                    Some(file) => {
                        Some(Secret::new(read(file, "passphrase")?.expose().trim_end_matches(['\r', '\n'])))
                    }
                    None => None,
                };
                Credentials::SshKey { private_key, passphrase }
            }
            (None, None, None) => Credentials::None,
            _ => {
                let detail = "more than one of a token, an ssh key and a GitHub App is given; give one";
                return Err(invalid(detail.to_owned()));
            }
        };
        self.with(credentials)
    }
}

impl CredentialFiles {
    fn with(&self, credentials: Credentials) -> Result<Access, GitError> {
        let public = |file: &Option<PathBuf>, what| {
            file.as_deref().map(|file| read(file, what).map(|text| text.expose().to_owned())).transpose()
        };
        Ok(Access {
            credentials,
            known_hosts: public(&self.known_hosts, "known_hosts")?,
            ca_pem: public(&self.ca, "CA bundle")?,
            proxy: self.proxy.as_ref().map(ProxyFiles::load).transpose()?,
        })
    }
}

impl ProxyFiles {
    fn load(&self) -> Result<Proxy, GitError> {
        let proxy: Proxy = self.url.parse()?;
        let Some((username, password)) = &self.login else { return Ok(proxy) };
        let line = |file, what| {
            // Editors and `echo` end a file with a newline that is not meant.
            Ok(Secret::new(read(file, what)?.expose().trim_end_matches(['\r', '\n'])))
        };
        proxy.with_login(line(username, "proxy user name")?, line(password, "proxy password")?)
    }
}

impl Access {
    /// Every secret in it, for scrubbing texts.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        let mut secrets = match &self.credentials {
            Credentials::None => Vec::new(),
            Credentials::Token { secret, .. } | Credentials::Bearer { secret } => vec![secret.expose()],
            Credentials::GithubApp(app) => vec![app.private_key.expose()],
            Credentials::SshKey { private_key, passphrase } => {
                std::iter::once(private_key).chain(passphrase).map(Secret::expose).collect()
            }
        };
        secrets.extend(self.proxy.as_ref().and_then(Proxy::login).map(|login| login.password.expose()));
        secrets
    }
}

fn check_token(file: &Path, secret: &Secret) -> Result<(), GitError> {
    if secret.is_empty() {
        return Err(invalid(format!("the token file {} is empty", file.display())));
    }
    if secret.expose().chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid(format!("the token file {} holds more than one word", file.display())));
    }
    Ok(())
}

pub(crate) fn read(file: &Path, what: &str) -> Result<Secret, GitError> {
    use std::io::Read;
    let cannot = |reason: &dyn std::fmt::Display| {
        invalid(format!("cannot read the {what} file {}: {reason}", file.display()))
    };
    // Looked at before it is opened: opening a pipe waits for a writer. Links are followed, as a Secret volume has them.
    if !std::fs::metadata(file).map_err(|e| cannot(&e))?.is_file() {
        return Err(cannot(&"it is not a regular file"));
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    std::fs::File::open(file)
        .and_then(|f| f.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .map_err(|e| cannot(&e))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(cannot(&"it is larger than 1 MiB"));
    }
    Ok(Secret::new(std::mem::take(&mut *text)))
}

fn invalid(detail: String) -> GitError {
    GitError::CredentialInvalid { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_at_each_use() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let files = CredentialFiles { token: Some(file.clone()), ..Default::default() };
        let missing = files.load().unwrap_err().to_string();
        assert!(missing.contains("token file") && missing.contains("No such file"), "{missing}");
        for token in ["first", "second"] {
            std::fs::write(&file, format!("{token}\n")).unwrap();
            let expected = Credentials::Token { username: "x-access-token".into(), secret: token.into() };
            assert_eq!(files.load().unwrap().credentials, expected);
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(files.load().unwrap_err().to_string().contains("is empty"));
        std::fs::write(&file, "hunter2 hunter3").unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(error.contains("more than one word") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn only_regular_files_are_read_also_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for file in [pipe, link.clone(), "/dev/zero".into(), dir.path().to_owned()] {
            let files = CredentialFiles { known_hosts: Some(file.clone()), ..Default::default() };
            let error = files.load().unwrap_err().to_string();
            assert!(
                error.contains("not a regular file") && error.contains(file.to_str().unwrap()),
                "{error}"
            );
        }
        std::fs::remove_file(&link).unwrap();
        std::fs::write(dir.path().join("..data"), "token").unwrap();
        std::os::unix::fs::symlink("..data", &link).unwrap();
        CredentialFiles { token: Some(link), ..Default::default() }.load().unwrap();
    }

    #[test]
    fn keys_survive_what_secrets_do_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let (key, passphrase) = (dir.path().join("key"), dir.path().join("pass"));
        std::fs::write(&key, "-----BEGIN X-----\r\nabc\r\n-----END X-----").unwrap();
        std::fs::write(&passphrase, " two words \n").unwrap();
        let files =
            CredentialFiles { ssh_key: Some(key), passphrase: Some(passphrase), ..Default::default() };
        let expected = Credentials::SshKey {
            private_key: "-----BEGIN X-----\nabc\n-----END X-----\n".into(),
            passphrase: Some(" two words ".into()),
        };
        let access = files.load().unwrap();
        assert_eq!(access.credentials, expected);
        assert!(!format!("{access:?}").contains("abc"));
        assert_eq!(access.secrets().len(), 2);
    }

    #[test]
    fn the_login_at_a_proxy_is_read_at_each_use() {
        let dir = tempfile::tempdir().unwrap();
        let (username, password) = (dir.path().join("username"), dir.path().join("password"));
        let login = Some((username.clone(), password.clone()));
        let proxy = Some(ProxyFiles { url: "http://proxy:3128".into(), login });
        let files = CredentialFiles { proxy, ..Default::default() };
        std::fs::write(&username, "ada\n").unwrap();
        let missing = files.load().unwrap_err().to_string();
        assert!(missing.contains("proxy password file") && missing.contains("No such file"), "{missing}");
        for text in ["hunter2", "hunter3"] {
            std::fs::write(&password, format!("{text}\r\n")).unwrap();
            let access = files.load().unwrap();
            let login = access.proxy.as_ref().unwrap().login().unwrap();
            assert_eq!((login.username.expose(), login.password.expose()), ("ada", text));
            assert_eq!(access.secrets(), [text]);
        }
    }

    #[test]
    fn two_credentials_are_one_too_many() {
        let files =
            CredentialFiles { token: Some("/a".into()), ssh_key: Some("/b".into()), ..Default::default() };
        assert!(files.load().unwrap_err().to_string().contains("give one"));
    }
}
