//! What a configuration says that cannot work: judged once, for `stoker sync` and `stoker validate` alike.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use stoker_core::chain;
use stoker_git::credentials::DEFAULT_TOKEN_USERNAME;
use stoker_git::{GitError, Protocol, Proxy, RefSpec, RemoteUrl, UrlError};
use stoker_ignition::client::GatewayUrl;

use super::super::git::TokenScheme;
use super::{AgentConfig, ConfigGateway, ConfigGit};

/// A field, and what is wrong with it.
type Wrong = (&'static str, String);

const EMPTY_FILE: &str = "empty; write the path of a file, like /etc/stoker/key";

pub(super) fn check(config: &AgentConfig) -> Result<(), Wrong> {
    if config.gateway_name.is_empty() {
        return Err(("gatewayName", "empty; write a name like line-1".to_owned()));
    }
    git(&config.git)?;
    if config.profile.mappings.is_empty() {
        return Err(("profile.mappings", "empty; write at least one {source, destination}".to_owned()));
    }
    if let Some(seconds) = config.profile.sync_period
        && !(5..=3600).contains(&seconds)
    {
        let problem = format!("{seconds} is not a number of seconds between 5 and 3600; write one like 30");
        return Err(("profile.syncPeriod", problem));
    }
    config.gateway.as_ref().map_or(Ok(()), gateway)?;
    directories(&config.data_dir, config.cache_dir.as_deref())
}

fn git(git: &ConfigGit) -> Result<(), Wrong> {
    let url = repository(git).map_err(|problem| ("git.repo", problem))?;
    git.r#ref
        .parse::<RefSpec>()
        .map_err(|e| ("git.ref", format!("{}; write a branch, a tag, refs/... or a commit id", chain(&e))))?;
    if let Some(interval) = git.interval
        && !(Duration::from_secs(5)..=Duration::from_secs(24 * 3600)).contains(&interval.0)
    {
        return Err(("git.interval", format!("{interval}: write an interval between 5s and 24h, like 60s")));
    }
    if let Some(verify) = &git.verify
        && (verify.key_files.is_empty() || verify.key_files.iter().any(|file| file.as_os_str().is_empty()))
    {
        let problem =
            "write at least one file of public keys, like /etc/stoker/allowed_signers, or leave verify out";
        return Err(("git.verify.keyFiles", problem.to_owned()));
    }
    proxy(git, url.protocol())?;
    authentication(git, url.protocol())
}

/// The address of the repository, by the parser that the fetch uses.
fn repository(git: &ConfigGit) -> Result<RemoteUrl, String> {
    let url = RemoteUrl::parse_allowing_insecure(&git.repo).map_err(|error| match error {
        // There are no Secrets here.
        UrlError::Userinfo { url } => format!(
            "{url:?} holds a user name or password; write the URL without it and name a file in git.auth.token"
        ),
        UrlError::Password { url } => {
            format!("{url:?} holds a password; write the URL without it and name a key file in git.auth.sshKey")
        }
        other => chain(&other),
    })?;
    match url.protocol() {
        Protocol::Http if !git.allow_insecure => Err(format!(
            "{:?}: http:// is neither secret nor authentic; write https:// or set git.allowInsecure: true",
            url.to_string()
        )),
        Protocol::Git => Err(format!(
            "{:?}: git:// is neither secret nor authentic; write https:// or ssh://",
            url.to_string()
        )),
        _ => Ok(url),
    }
}

fn proxy(git: &ConfigGit, protocol: Protocol) -> Result<(), Wrong> {
    let Some(proxy) = &git.proxy else { return Ok(()) };
    if !matches!(protocol, Protocol::Https | Protocol::Http) {
        let problem = "works for https:// repositories only: remove it, or write an https:// URL";
        return Err(("git.proxy", problem.to_owned()));
    }
    if let Err(error) = proxy.url.parse::<Proxy>() {
        let problem = match error {
            GitError::ProxyInvalid { detail } => detail,
            other => chain(&other),
        };
        return Err(("git.proxy.url", problem));
    }
    match (&proxy.username_file, &proxy.password_file) {
        (None, None) => Ok(()),
        (Some(username), Some(password)) => {
            if [username, password].iter().any(|file| file.as_os_str().is_empty()) {
                return Err(("git.proxy", format!("the name of a file is {EMPTY_FILE}")));
            }
            Ok(())
        }
        _ => Err(("git.proxy", "write both usernameFile and passwordFile, or neither".to_owned())),
    }
}

fn authentication(git: &ConfigGit, protocol: Protocol) -> Result<(), Wrong> {
    let https = matches!(protocol, Protocol::Https | Protocol::Http);
    if let Some(ca) = &git.ca_file {
        if ca.as_os_str().is_empty() {
            return Err(("git.caFile", EMPTY_FILE.to_owned()));
        }
        if protocol != Protocol::Https {
            return Err(("git.caFile", "works for https:// repositories only: remove it".to_owned()));
        }
    }
    let Some(auth) = &git.auth else { return Ok(()) };
    let (files, wrong): (Vec<Option<&PathBuf>>, _) = match (&auth.ssh_key, &auth.token, &auth.github_app) {
        (Some(key), None, None) => (
            vec![Some(&key.file), key.known_hosts_file.as_ref(), key.passphrase_file.as_ref()],
            (protocol != Protocol::Ssh).then_some(
                "sshKey works for ssh repositories only: write ssh://git@host/path or git@host:path, or use token",
            ),
        ),
        (None, None, Some(app)) => (
            vec![Some(&app.private_key_file)],
            match app.api_base_url.as_deref() {
                _ if !https => Some(
                    "githubApp works for https:// repositories only: write an https:// URL, or use sshKey",
                ),
                Some(url) if !url.starts_with("https://") && !git.allow_insecure => Some(
                    "githubApp.apiBaseURL: write https://HOST/api/v3, or leave it out for github.com",
                ),
                _ => None,
            },
        ),
        (None, Some(token), None) => (
            vec![Some(&token.file)],
            if !https {
                Some("token works for https:// repositories only: write an https:// URL, or use sshKey")
            } else if token.scheme == TokenScheme::Bearer && token.username != DEFAULT_TOKEN_USERNAME {
                Some("a bearer token goes without a user name: remove token.username, or write scheme: Basic")
            } else {
                None
            },
        ),
        _ => {
            let problem = "write exactly one of sshKey, token and githubApp, or leave auth out";
            return Err(("git.auth", problem.to_owned()));
        }
    };
    if files.into_iter().flatten().any(|file| file.as_os_str().is_empty()) {
        return Err(("git.auth", format!("the name of a file is {EMPTY_FILE}")));
    }
    wrong.map_or(Ok(()), |rule| Err(("git.auth", rule.to_owned())))
}

fn gateway(gateway: &ConfigGateway) -> Result<(), Wrong> {
    gateway.url.parse::<GatewayUrl>().map_err(|e| {
        // What the parser cannot read it does not quote.
        let shown = stoker_git::redact(&gateway.url);
        let rule = chain(&e).replace("gateway URL \"…\"", &format!("gateway URL {shown:?}"));
        ("gateway.url", rule)
    })?;
    if gateway.api_key_file.as_os_str().is_empty() {
        return Err(("gateway.apiKeyFile", EMPTY_FILE.to_owned()));
    }
    Ok(())
}

fn directories(data: &Path, cache: Option<&Path>) -> Result<(), Wrong> {
    if data.as_os_str().is_empty() {
        let problem = "empty; write the gateway's data directory, like /usr/local/bin/ignition/data";
        return Err(("dataDir", problem.to_owned()));
    }
    let Some(cache) = cache else { return Ok(()) };
    if cache.as_os_str().is_empty() {
        let problem = "empty; write a directory like /var/cache/stoker, or leave it out";
        return Err(("cacheDir", problem.to_owned()));
    }
    let (data, plain) = (without_dots(data), without_dots(cache));
    let Ok(inner) = plain.strip_prefix(&data) else { return Ok(()) };
    let mut parts = inner.components().map(Component::as_os_str);
    // Anything else in there belongs to the gateway, or to the engine's own state.
    if parts.next() == Some(OsStr::new(stoker_core::STATE_DIRECTORY)) && parts.next().is_some() {
        return Ok(());
    }
    let problem = format!(
        "{} is inside dataDir, where the gateway's files are; write a directory outside, like /var/cache/stoker, or \
         leave it out",
        cache.display()
    );
    Err(("cacheDir", problem))
}

/// The path without `.` and `..`, as it is written: nothing is looked up, so that a check needs no such directory.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some_and(|name| name != "..") => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::AgentConfig;
    use serde_json::{Value, json};

    /// A good configuration with one value put at a JSON pointer, and what is said to it.
    fn with(pointer: &str, value: Value) -> Result<AgentConfig, String> {
        let mut config = json!({
            "apiVersion": "stoker.io/v1alpha1",
            "kind": "AgentConfig",
            "gatewayName": "line-1",
            "git": {"repo": "https://git.example.com/x", "ref": "main"},
            "profile": {"mappings": [{"source": "projects", "destination": "projects"}]},
            "gateway": {"url": "http://127.0.0.1:8088", "apiKeyFile": "/k"},
            "dataDir": "/data",
        });
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        AgentConfig::parse("gateway.yaml", &config.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_a_sync_would_refuse_is_refused_at_once() {
        let repo =
            |url: &str, auth: Value| json!({"repo": url, "ref": "main", "auth": auth, "allowInsecure": true});
        let (token, key) = (json!({"token": {"file": "/t"}}), json!({"sshKey": {"file": "/k"}}));
        let app = json!({"githubApp": {"appId": 1, "installationId": 2, "privateKeyFile": "/k"}});
        let long = "x".repeat(256);
        for (pointer, value, words) in [
            (
                "/git/interval",
                json!("0s"),
                "git.interval: 0s: write an interval between 5s and 24h, like 60s",
            ),
            ("/git/interval", json!("25h"), "between 5s and 24h"),
            (
                "/profile/syncPeriod",
                json!(1),
                "profile.syncPeriod: 1 is not a number of seconds between 5 and 3600",
            ),
            ("/profile/syncPeriod", json!(3601), "between 5 and 3600"),
            ("/git/repo", json!("ext::sh -c id"), "git.repo"),
            ("/git/repo", json!("ext::id"), "git.repo: \"ext::id\" is not a repository URL; write https://"),
            ("/git/repo", json!("ftp://h/x"), "write https://"),
            ("/git/repo", json!("git://h/x"), "write https://"),
            ("/git", repo("git://h/x", Value::Null), "write https://"),
            ("/git/repo", json!("ssh://-oProxyCommand=id/x"), "starts with \"-\""),
            ("/git/repo", json!("https://u:pa55@h/x"), "git.auth.token"),
            ("/git/repo", json!("ssh://u:pa55@h/x"), "git.auth.sshKey"),
            ("/git/repo", json!("/srv/x.git"), "file:///path"),
            ("/git/repo", json!(""), "git.repo"),
            ("/git/ref", json!("ma in"), "git.ref: ref \"ma in\" contains ' '"),
            ("/git/ref", json!("main~1"), "contains '~'"),
            ("/git/ref", json!("refs/heads/../x"), "contains \"..\""),
            ("/git/ref", json!("*"), "write a branch, a tag"),
            ("/git/ref", json!(long), "longer than 255"),
            ("/git", repo("https://h/x", key.clone()), "git.auth: sshKey works for ssh repositories only"),
            (
                "/git",
                repo("ssh://h/x", token.clone()),
                "git.auth: token works for https:// repositories only",
            ),
            (
                "/git",
                repo("ssh://h/x", app.clone()),
                "git.auth: githubApp works for https:// repositories only",
            ),
            (
                "/git",
                json!({"repo": "https://h/x", "ref": "main", "auth": {"githubApp": {
                    "appId": 1, "installationId": 2, "privateKeyFile": "/k", "apiBaseURL": "http://h/api/v3",
                }}}),
                "git.auth: githubApp.apiBaseURL: write https://",
            ),
            ("/git", repo("file:///x", token), "git.auth: token works"),
            ("/git", repo("file:///x", key), "git.auth: sshKey works"),
            (
                "/git",
                repo("https://h/x", json!({"token": {"file": ""}})),
                "git.auth: the name of a file is empty",
            ),
            (
                "/git",
                json!({"repo": "ssh://h/x", "ref": "main", "caFile": "/c"}),
                "git.caFile: works for https://",
            ),
            (
                "/git",
                repo("https://h/x", json!({"token": {"file": "/t", "username": "u", "scheme": "Bearer"}})),
                "git.auth: a bearer token goes without a user name",
            ),
            (
                "/git",
                json!({"repo": "ssh://h/x", "ref": "main", "proxy": {"url": "http://p:3128"}}),
                "git.proxy: works for https://",
            ),
            (
                "/git/proxy",
                json!({"url": "p:3128"}),
                "git.proxy.url: \"p:3128\" is no proxy; write http://HOST:PORT",
            ),
            ("/git/proxy", json!({"url": "http://p"}), "git.proxy.url: \"http://p\" has no port"),
            ("/git/proxy", json!({"url": "http://u:pa55@p:3128"}), "give the login apart"),
            (
                "/git/proxy",
                json!({"url": "http://p:3128", "usernameFile": "/u"}),
                "git.proxy: write both usernameFile and passwordFile",
            ),
            (
                "/gateway/url",
                json!("http://127.0.0.1:80888"),
                "gateway.url: gateway URL \"http://127.0.0.1:80888\"",
            ),
            ("/gateway/url", json!("http://127.0.0.1:0"), "gateway.url"),
            ("/gateway/url", json!("http://u:pa55@127.0.0.1"), "gateway.url"),
            ("/gateway/url", json!("u:pa55@127.0.0.1"), "gateway.url"),
            ("/gateway/apiKeyFile", json!(""), "gateway.apiKeyFile: empty"),
            ("/dataDir", json!(""), "dataDir: empty"),
            ("/cacheDir", json!(""), "cacheDir: empty"),
            ("/cacheDir", json!("/data"), "cacheDir: /data is inside dataDir"),
            ("/cacheDir", json!("/data/../data/./projects"), "is inside dataDir"),
            ("/cacheDir", json!("/data/.stoker"), "is inside dataDir"),
        ] {
            let error = with(pointer, value.clone()).expect_err(words);
            assert!(
                error.starts_with("gateway.yaml: ") && error.contains(words),
                "{pointer} {value}: {error}"
            );
            assert!(!error.contains("pa55"), "{error}");
        }
    }

    #[test]
    fn what_a_sync_takes_is_taken() {
        for (pointer, value) in [
            ("/git/proxy", json!({"url": "http://p:3128", "usernameFile": "/u", "passwordFile": "/p"})),
            ("/git/proxy", json!({"url": "https://[fd00::1]:3128"})),
            ("/git/auth", json!({"token": {"file": "/t", "scheme": "Bearer"}})),
            ("/git/interval", json!("5s")),
            ("/git/interval", json!("24h")),
            ("/profile/syncPeriod", json!(5)),
            ("/profile/syncPeriod", json!(3600)),
            ("/git/repo", json!("git@h:x")),
            ("/git/repo", json!("file:///srv/x.git")),
            ("/git/ref", json!("refs/pull/1/head")),
            ("/gateway/url", json!("https://gw.example.com/")),
            ("/cacheDir", json!("/data/.stoker/git")),
            ("/cacheDir", json!("/data/../cache")),
            ("/cacheDir", json!("/database")),
        ] {
            with(pointer, value.clone()).unwrap_or_else(|e| panic!("{pointer} {value}: {e}"));
        }
    }
}
