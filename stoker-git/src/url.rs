//! Where a repository is.

use std::fmt;

use serde::{Serialize, Serializer};

/// Where a repository is, checked and in one spelling.
///
/// Holds no secret: a password in the text is refused, so the whole of it may be printed.
///
/// ```
/// use stoker_git::RemoteUrl;
/// let url = RemoteUrl::parse("git@github.com:plant/ignition.git")?;
/// assert_eq!((url.host(), url.user()), (Some("github.com"), Some("git")));
/// assert_eq!(RemoteUrl::parse("HTTPS://Git.Example.COM:443/a/b.git/")?.to_string(), "https://git.example.com/a/b.git");
/// assert!(RemoteUrl::parse("https://user:password@git.example.com/a").is_err());
/// assert!(RemoteUrl::parse("http://git.example.com/a").is_err());
/// assert!(RemoteUrl::parse_allowing_insecure("http://git.example.com/a").is_ok());
/// # Ok::<(), stoker_git::UrlError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteUrl {
    protocol: Protocol,
    user: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: String,
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Smart HTTP over TLS.
    Https,
    /// Smart HTTP in the clear: only by consent.
    Http,
    /// SSH; written `ssh://user@host/path` or `user@host:path`.
    Ssh,
    /// The unauthenticated git protocol: only by consent.
    Git,
    /// A repository on this machine, for mirrors behind an air gap.
    File,
}

/// Why a text is not the URL of a repository. What it quotes carries no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Nothing is written.
    #[error("the repository URL is empty; write https://host/path, ssh://user@host/path or user@host:path")]
    Empty,
    /// Not one of the forms.
    #[error(
        "{0:?} is not a repository URL; write https://host/path, ssh://user@host/path, user@host:path or file:///path"
    )]
    Malformed(String),
    /// A scheme that is not supported.
    #[error(
        "scheme {scheme:?} of {url:?} is not supported; write https://, ssh://, user@host:path or file://"
    )]
    Scheme {
        /// The URL, redacted.
        url: String,
        /// The scheme.
        scheme: String,
    },
    /// An unencrypted transport without consent.
    #[error(
        "{url:?} is unencrypted and unauthenticated; write https:// or ssh://, or consent with allowInsecure"
    )]
    Insecure {
        /// The URL, redacted.
        url: String,
    },
    /// A user or password in an http URL.
    #[error(
        "{url:?} has a user name or password in it; write the URL without it and put the credential in a Secret"
    )]
    Userinfo {
        /// The URL, redacted.
        url: String,
    },
    /// A password in an ssh URL.
    #[error("{url:?} has a password in it; SSH works with keys here")]
    Password {
        /// The URL, redacted.
        url: String,
    },
    /// A query or fragment: no forge needs one, and tokens hide there.
    #[error("{url:?} has a query or fragment; write only scheme, host and path")]
    Query {
        /// The URL, redacted.
        url: String,
    },
    /// A part that a command line could take for an option.
    #[error("{part} {value:?} starts with \"-\", which a program could take for an option")]
    Dash {
        /// Which part.
        part: &'static str,
        /// Its value.
        value: String,
    },
    /// A host name with characters no host name has.
    #[error("host {0:?} is not a host name or address")]
    Host(String),
    /// There is no repository path.
    #[error("{url:?} names no repository; write the path after the host")]
    NoPath {
        /// The URL, redacted.
        url: String,
    },
    /// A space or control character.
    #[error("{url:?} contains a space or control character")]
    Control {
        /// The URL, redacted.
        url: String,
    },
}

impl stoker_core::Fault for UrlError {
    fn category(&self) -> stoker_core::Category {
        stoker_core::Category::new("InvalidURL")
    }

    fn retry(&self) -> stoker_core::Retry {
        stoker_core::Retry::AfterChange
    }
}

impl RemoteUrl {
    /// Reads a URL; `http://` and `git://` are refused.
    ///
    /// # Errors
    /// When the text is not the URL of a repository, or an unencrypted one, or contains a credential.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::parse_allowing_insecure(text)?;
        if url.is_insecure() {
            return Err(UrlError::Insecure { url: url.to_string() });
        }
        Ok(url)
    }

    /// Reads a URL, `http://` and `git://` included. Credentials inside it are refused all the same.
    ///
    /// # Errors
    /// When the text is not the URL of a repository or contains a credential.
    pub fn parse_allowing_insecure(text: &str) -> Result<Self, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(UrlError::Control { url: redact(text) });
        }
        if text.starts_with('-') {
            return Err(UrlError::Dash { part: "repository URL", value: redact(text) });
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::parse_scp(text);
        };
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "https" => Protocol::Https,
            "http" => Protocol::Http,
            "ssh" | "git+ssh" | "ssh+git" => Protocol::Ssh,
            "git" => Protocol::Git,
            "file" => Protocol::File,
            other => return Err(UrlError::Scheme { url: redact(text), scheme: other.to_owned() }),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query { url: redact(text) });
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if protocol == Protocol::File {
            return Self::file(text, authority, path);
        }
        let (userinfo, address) =
            authority.rsplit_once('@').map_or((None, authority), |(user, address)| (Some(user), address));
        let user = match (protocol, userinfo) {
            (_, None) => None,
            (Protocol::Ssh, Some(user)) if user.contains(':') => {
                return Err(UrlError::Password { url: redact(text) });
            }
            (Protocol::Ssh, Some(user)) => Some(checked("user", user, text)?),
            (_, Some(_)) => return Err(UrlError::Userinfo { url: redact(text) }),
        };
        let (host, port) = match split_port(address) {
            Some(place) => place,
            // `user:pass/word@host`: the password ends what looks like the host.
            None if path.contains('@') => return Err(UrlError::Userinfo { url: redact(text) }),
            None => return Err(UrlError::Host(redact(address))),
        };
        let host = checked_host(host)?;
        let path = clean_path(protocol, path).ok_or_else(|| UrlError::NoPath { url: redact(text) })?;
        if path.trim_start_matches('/').starts_with('-') {
            return Err(UrlError::Dash { part: "path", value: path });
        }
        let port = port.filter(|p| Some(*p) != protocol.default_port());
        Ok(Self { protocol, user, host: Some(host), port, path })
    }

    fn parse_scp(text: &str) -> Result<Self, UrlError> {
        let malformed = || UrlError::Malformed(redact(text));
        // The colon that ends the host comes before any slash, and outside of an address in brackets.
        if text.contains(":[") {
            return Err(malformed());
        }
        let first = &text[..text.find(':').unwrap_or(text.len())];
        let start = first.rfind('@').map_or(0, |at| at + 1);
        // A bracket further on is the path's.
        let bracket = text[start..].starts_with('[');
        let from = if bracket { start + text[start..].find(']').ok_or_else(malformed)? } else { 0 };
        let colon = from + text[from..].find(':').ok_or_else(malformed)?;
        let (authority, path) = (&text[..colon], &text[colon + 1..]);
        if path.contains(['?', '#']) {
            return Err(UrlError::Query { url: redact(text) });
        }
        if authority.contains('/') || authority.is_empty() {
            return Err(malformed());
        }
        // `user:password@host:path`, where the first colon is not the host's.
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if first.split_once('@').is_some_and(|(password, host)| !password.is_empty() && host.contains(':')) {
            return Err(UrlError::Password { url: redact(text) });
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(checked("user", user, text)?), host),
            None => (None, authority),
        };
        let host = checked_host(host)?;
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Err(UrlError::NoPath { url: redact(text) });
        }
        if path.trim_start_matches('/').starts_with('-') {
            return Err(UrlError::Dash { part: "path", value: path.to_owned() });
        }
        // `host:22/path` and `C:\path` are written by people who mean something else.
        // And `ext::command` would be one of git's remote helpers.
        if path.contains('\\') || path.starts_with(':') {
            return Err(malformed());
        }
        let path = path.strip_prefix("/~").map_or_else(|| path.to_owned(), |rest| format!("~{rest}"));
        Ok(Self { protocol: Protocol::Ssh, user, host: Some(host), port: None, path })
    }

    fn file(text: &str, authority: &str, path: &str) -> Result<Self, UrlError> {
        if !authority.is_empty() && !authority.eq_ignore_ascii_case("localhost") {
            return Err(UrlError::Malformed(redact(text)));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.is_empty() {
            return Err(UrlError::NoPath { url: redact(text) });
        }
        if parts.contains(&"..") {
            return Err(UrlError::Malformed(redact(text)));
        }
        let path = format!("/{}", parts.join("/"));
        if parts[0].starts_with('-') {
            return Err(UrlError::Dash { part: "path", value: path });
        }
        Ok(Self { protocol: Protocol::File, user: None, host: None, port: None, path })
    }

    /// How the repository is reached.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The user of an ssh URL.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The host, in lower case and without the brackets of an address; `None` for `file://`.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The port that is connected to; `None` for `file://`.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port.or(self.protocol.default_port())
    }

    /// The path of the repository on its host. For ssh a path without a leading `/` is relative to the user's home.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether anyone on the way can read and change what is fetched.
    #[must_use]
    pub fn is_insecure(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Git)
    }

    /// `host` or `host:port`, the latter only where the port is not the protocol's own.
    #[must_use]
    pub(crate) fn authority(&self) -> String {
        let host = self.host.as_deref().unwrap_or_default();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        self.port.map_or(host.clone(), |port| format!("{host}:{port}"))
    }
}

impl Protocol {
    /// The port that the protocol has by default.
    #[must_use]
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Https => Some(443),
            Self::Http => Some(80),
            Self::Ssh => Some(22),
            Self::Git => Some(9418),
            Self::File => None,
        }
    }

    /// The scheme, as written in a URL.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
            Self::File => "file",
        }
    }
}

/// The URL in its one spelling. Two spellings of one place print the same.
impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
        // A path from a home directory may hold what has a meaning in the short form, such as brackets and colons.
        let short = self.protocol == Protocol::Ssh && !self.path.starts_with(['/', '~']);
        if short && self.port.is_none() {
            return write!(f, "{user}{}:{}", self.authority(), self.path);
        }
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        write!(f, "{}://{user}{}{slash}{}", self.protocol.scheme(), self.authority(), self.path)
    }
}

impl std::str::FromStr for RemoteUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for RemoteUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A URL-like text without what could be a credential: user information, query and fragment.
///
/// ```
/// assert_eq!(stoker_git::redact("https://u:p@host/a?token=x"), "https://***@host/a?***");
/// ```
#[must_use]
pub fn redact(text: &str) -> String {
    let is_scheme = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let (start, is_url) = match text.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => (scheme.len() + 3, true),
        _ => (0, false),
    };
    // What stands before the last @ may be a login, its password with any character: it counts as one if there is something
    // of a login before the path. The user of `git@host:path` is no secret; anything with a colon might be.
    let authority = &text[start..start + text[start..].find(['/', '?', '#']).unwrap_or(text.len() - start)];
    let login = text[start..].rfind('@').map(|at| start + at).filter(|at| match is_url {
        true => authority.contains([':', '@']),
        false => text[..*at].contains(':'),
    });
    let (shown, rest) = match login {
        Some(at) => (format!("{}***", &text[..start]), &text[at..]),
        None => (String::new(), text),
    };
    let rest = match rest.find(['?', '#']) {
        Some(at) => format!("{}***", &rest[..=at]),
        None => rest.to_owned(),
    };
    crate::text::printable(&format!("{shown}{rest}"), 300)
}

fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some("") | None if rest.len() <= 1 => Some((host, None)),
            Some(port) => Some((host, Some(port.parse().ok().filter(|p| *p > 0)?))),
            None => None,
        };
    }
    match address.split_once(':') {
        Some((host, "")) => Some((host, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok().filter(|p| *p > 0)?))),
        None => Some((address, None)),
    }
}

fn checked_host(host: &str) -> Result<String, UrlError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if bare.starts_with('-') {
        return Err(UrlError::Dash { part: "host", value: bare.to_owned() });
    }
    if let Ok(address) = bare.parse::<std::net::Ipv6Addr>() {
        return Ok(address.to_string());
    }
    let bad = || UrlError::Host(crate::text::printable(bare, 300));
    if bare.is_empty() || bare.contains(':') {
        return Err(bad());
    }
    // The rules of the web for names (IDNA) and for odd spellings of addresses (`0x7f.1`): every later check of the
    // host sees what the resolver will see.
    let host = url::Host::parse(bare).map_err(|_| bad())?.to_string().to_ascii_lowercase();
    // Other characters, such as the full-width one, become a dash by these rules.
    if host.starts_with('-') {
        return Err(UrlError::Dash { part: "host", value: host });
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(bad());
    }
    Ok(host)
}

fn checked(part: &'static str, value: &str, text: &str) -> Result<String, UrlError> {
    if value.starts_with('-') {
        return Err(UrlError::Dash { part, value: value.to_owned() });
    }
    if value.contains(':') {
        return Err(UrlError::Password { url: redact(text) });
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+$~@".contains(&b)) {
        return Err(UrlError::Malformed(redact(text)));
    }
    Ok(value.to_owned())
}

/// The path in one spelling; `None` when there is none.
fn clean_path(protocol: Protocol, path: &str) -> Option<String> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return None;
    }
    if matches!(protocol, Protocol::Https | Protocol::Http) {
        // Dot segments and odd characters as every HTTP client writes them, to which a backslash is a slash.
        let segments: Vec<&str> = path.split(['/', '\\']).filter(|segment| !segment.is_empty()).collect();
        let parsed = url::Url::parse(&format!("http://host/{}", segments.join("/"))).ok()?;
        let path = parsed.path().trim_end_matches('/');
        return (!path.is_empty()).then(|| path.to_owned());
    }
    // ssh and git send the path as it is; `/~user/x` is the form for home directories.
    Some(path.strip_prefix("/~").map_or_else(|| path.to_owned(), |rest| format!("~{rest}")))
}

#[cfg(test)]
mod tests;
