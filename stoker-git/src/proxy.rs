//! The HTTP proxy of one repository.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper_util::client::proxy::matcher::Matcher;

use crate::error::GitError;
use crate::secret::Secret;
use crate::url::{Protocol, RemoteUrl, redact};

/// A proxy that every request for a repository goes through, those for tokens of a GitHub App included.
///
/// It is in force in place of the variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, for every host.
///
/// ```
/// use stoker_git::Proxy;
///
/// let proxy: Proxy = "http://proxy.example.com:3128".parse()?;
/// let proxy = proxy.with_login("plant".into(), "secret".into())?;
/// assert_eq!(proxy.url(), "http://proxy.example.com:3128");
/// assert!("http://plant:secret@proxy.example.com:3128".parse::<Proxy>().is_err());
/// # Ok::<(), stoker_git::GitError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    url: String,
    host: String,
    login: Option<Login>,
}

/// A login at a proxy: the user name, which is kept as carefully as the password, and the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) username: Secret,
    pub(crate) password: Secret,
}

impl Proxy {
    /// The same proxy, with a login (basic authentication).
    ///
    /// # Errors
    /// [`GitError::ProxyInvalid`] when one of the two is empty or has control characters, or the user name a colon.
    pub fn with_login(self, username: Secret, password: Secret) -> Result<Self, GitError> {
        for (what, secret) in [("user name", &username), ("password", &password)] {
            if secret.is_empty() {
                return Err(self.invalid(&format!("its {what} is empty")));
            }
            if secret.expose().chars().any(char::is_control) {
                return Err(self.invalid(&format!("its {what} has a line end or another control character")));
            }
        }
        if username.expose().contains(':') {
            return Err(self.invalid("its user name has a colon, which basic authentication cannot carry"));
        }
        Ok(Self { login: Some(Login { username, password }), ..self })
    }

    /// Where it is: `http://HOST:PORT` or `https://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its host, a literal IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }

    pub(crate) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    fn invalid(&self, what: &str) -> GitError {
        GitError::ProxyInvalid { detail: format!("{}: {what}", self.url) }
    }
}

impl FromStr for Proxy {
    type Err = GitError;

    /// Reads `http://HOST:PORT` or `https://HOST:PORT`. The port is not optional: what others take for it without one
    /// differs (80, 443, 1080, 3128).
    fn from_str(text: &str) -> Result<Self, GitError> {
        let invalid = |what: &str| GitError::ProxyInvalid { detail: format!("{:?} {what}", redact(text)) };
        let form = "is no proxy; write http://HOST:PORT or https://HOST:PORT";
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid(form))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if !matches!(scheme, "http" | "https") || authority.contains(['/', '?', '#', '\\']) {
            return Err(invalid(form));
        }
        if authority.contains('@') {
            return Err(invalid(
                "holds a user name or password; write the URL without it and give the login apart",
            ));
        }
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) {
            return Err(invalid(NO_PORT));
        }
        let parsed = url::Url::parse(text).map_err(|_| invalid(form))?;
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid(form))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { url: format!("{scheme}://{authority}"), host, login: None })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// The proxy that requests go through, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    /// Without the login.
    url: String,
    login: bool,
    environment: bool,
}

impl InForce {
    pub(crate) fn configured(proxy: &Proxy) -> Self {
        Self { url: proxy.url.clone(), login: proxy.login.is_some(), environment: false }
    }

    /// What the HTTP client makes of the environment; it reads the same variables by the same code.
    ///
    /// # Errors
    /// When a variable is set and makes no sense: the client would pass it over, and go where it must not.
    pub(crate) fn of_environment(to: &RemoteUrl) -> Result<Option<Self>, GitError> {
        let Some(uri) = to.to_string().parse::<http::Uri>().ok().filter(|_| !to.host().is_none_or(is_local))
        else {
            return Ok(None);
        };
        // Of two spellings the first that is set counts, also when it is empty.
        let set = |name| Some((name, std::env::var_os(name)?.to_string_lossy().into_owned()));
        let first = |names: [&'static str; 2]| names.into_iter().find_map(set);
        let own = match to.protocol() {
            Protocol::Https => first(["HTTPS_PROXY", "https_proxy"]),
            _ => first(["HTTP_PROXY", "http_proxy"]),
        };
        let given = |found: &(&str, String)| !found.1.is_empty();
        let Some((name, value)) =
            own.filter(given).or_else(|| first(["ALL_PROXY", "all_proxy"]).filter(given))
        else {
            return Ok(None);
        };
        let exempt = first(["NO_PROXY", "no_proxy"]).map(|(_, hosts)| hosts).unwrap_or_default();
        let any = Matcher::builder().all("http://any.invalid:1").no(exempt).build();
        if any.intercept(&uri).is_none() {
            return Ok(None);
        }
        let invalid = |what: &str| GitError::ProxyInvalid { detail: format!("the variable {name} {what}") };
        judge_variable(&value).map_err(&invalid)?;
        // As a CGI program one does not believe in HTTP_PROXY: a client may have set it.
        let Some(found) = Matcher::from_env().intercept(&uri) else {
            return if std::env::var_os("REQUEST_METHOD").is_some() {
                Ok(None)
            } else {
                Err(invalid(NO_PROXY_URL))
            };
        };
        let (Some(scheme), Some(host)) = (found.uri().scheme_str(), found.uri().host()) else {
            return Err(invalid(NO_PROXY_URL));
        };
        let port = found.uri().port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Some(Self {
            url: format!("{scheme}://{host}{port}"),
            login: found.basic_auth().is_some() || found.raw_auth().is_some(),
            environment: true,
        }))
    }

    /// The error for a proxy that answers with status 407.
    pub(crate) fn wants_login(&self) -> GitError {
        let detail = match (self.login, self.environment) {
            (true, _) => {
                "refuses the login that it is given: status 407; are the user name and the password right?"
            }
            (false, false) => "wants a login, and none is configured: status 407",
            (false, true) => {
                "wants a login: status 407; write it into the variable that names the proxy, as user:password@"
            }
        };
        GitError::ProxyRefused { proxy: self.url.clone(), detail: detail.to_owned() }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

const NO_PORT: &str = "has no port from 1 to 65535; write http://HOST:PORT or https://HOST:PORT";
const NO_PROXY_URL: &str = "is no URL of a proxy; write http://HOST:PORT or https://HOST:PORT";

/// What is wrong with the value of a variable that names a proxy. It may hold a password, so nothing of it is repeated.
fn judge_variable(value: &str) -> Result<(), &'static str> {
    let rest = match value.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            rest
        }
        Some(_) => return Err(NO_PROXY_URL),
        None => value,
    };
    let (login, place) = rest.rsplit_once('@').map_or(("", rest), |(login, place)| (login, place));
    if login.contains(|c: char| c.is_control() || c.is_whitespace() || "@/?#\\\"".contains(c)) {
        return Err(
            "has a login with a character that has to be written as % and its code: %40 for @, %2F for /, %23 \
                    for #, %3F for ?, %5C for \\, %20 for a blank",
        );
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    let port = place.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(NO_PORT);
    }
    let parsed = url::Url::parse(&format!("http://{place}")).ok();
    match parsed.filter(|url| url.host_str().is_some_and(|host| !host.is_empty()) && url.path() == "/") {
        Some(url) if url.query().is_none() && url.fragment().is_none() => Ok(()),
        _ => Err(NO_PROXY_URL),
    }
}

/// A proxy of the environment is for the way out, never for this machine.
pub(crate) fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_scheme_a_host_and_a_port() {
        for (text, host) in [
            ("http://proxy.example.com:3128", "proxy.example.com"),
            ("https://proxy:443/", "proxy"),
            ("http://10.0.0.7:80", "10.0.0.7"),
            ("http://[fd00::1]:8080", "fd00::1"),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!((proxy.url(), proxy.host()), (text.trim_end_matches('/'), host));
        }
        for (text, words) in [
            ("proxy:3128", "write http://HOST:PORT"),
            ("socks5://proxy:1080", "write http://HOST:PORT"),
            ("http://proxy", "has no port"),
            ("http://proxy:0", "has no port"),
            ("http://proxy:99999", "has no port"),
            ("http://:3128", "write http://HOST:PORT"),
            ("http://proxy:3128/path", "write http://HOST:PORT"),
            ("http://proxy:3128?x=1", "write http://HOST:PORT"),
            ("http://pro xy:3128", "write http://HOST:PORT"),
            ("http://ada:hunter2@proxy:3128", "give the login apart"),
            ("http://ada:a/hunter2@proxy:3128", "write http://HOST:PORT"),
            ("http://ada:a#hunter2@proxy:3128", "write http://HOST:PORT"),
            ("http://ada:a@hunter2/b@proxy:3128", "write http://HOST:PORT"),
            ("", "write http://HOST:PORT"),
        ] {
            let error = text.parse::<Proxy>().unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_variable_that_the_client_would_pass_over_is_refused() {
        for good in [
            "http://proxy:3128",
            "https://proxy:3128/",
            "HTTP://proxy",
            "proxy:3128",
            "http://ada:p%40ss@proxy:3128",
            "http://[fd00::1]:8080",
            "http://[fd00::1]",
        ] {
            assert_eq!(judge_variable(good), Ok(()), "{good}");
            let found =
                Matcher::builder().all(good).build().intercept(&"https://git.example.com".parse().unwrap());
            assert!(found.is_some(), "{good}");
        }
        for (bad, says) in [
            ("http//proxy:3128", "is no URL"),
            ("socks5://proxy:1080", "is no URL"),
            ("http://proxy:3128 ", "has no port"),
            ("\"http://proxy:3128\"", "is no URL"),
            ("http://proxy:port", "has no port"),
            ("http://proxy:99999", "has no port"),
            ("http://proxy:0", "has no port"),
            ("http://proxy:3128/path", "has no port"),
            ("http://", "is no URL"),
            ("http://PLANT\\ada:x@proxy:3128", "%5C for"),
            ("http://ada:a b@proxy:3128", "%20 for"),
            ("http://ada:a/b@proxy:3128", "%2F for"),
            ("http://ada:a#b@proxy:3128", "%23 for"),
            ("http://ada:a@b@proxy:3128", "%40 for"),
        ] {
            let why = judge_variable(bad).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }

    #[test]
    fn a_login_that_cannot_be_carried_is_refused_and_not_shown() {
        let proxy: Proxy = "http://proxy:3128".parse().unwrap();
        let with =
            |username: &str, password: &str| proxy.clone().with_login(username.into(), password.into());
        for (username, password, words) in [
            ("", "hunter2", "its user name is empty"),
            ("ada", "", "its password is empty"),
            ("ada", "hunter2\n", "its password has a line end"),
            ("hunter2:x", "y", "its user name has a colon"),
        ] {
            let error = with(username, password).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
        }
        let shown = format!("{:?}", with("plant-user", "hunter2").unwrap());
        assert!(!shown.contains("plant-user") && !shown.contains("hunter2"), "{shown}");
    }
}
