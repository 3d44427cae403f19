//! The address of a gateway.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use super::error::SetupError;

/// Scheme, host and port of a gateway; nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayUrl(Url);

impl GatewayUrl {
    /// A gateway in the same pod or on the same machine.
    #[must_use]
    pub fn loopback(port: u16, https: bool) -> Option<Self> {
        format!("{}://127.0.0.1:{port}", if https { "https" } else { "http" }).parse().ok()
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    pub(super) const fn as_url(&self) -> &Url {
        &self.0
    }

    /// The URL of a path, each segment escaped.
    pub(super) fn at(&self, path: &[&str]) -> Url {
        let mut url = self.0.clone();
        // Only a URL that cannot have a path would refuse; the scheme rules that out.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(path);
        }
        url
    }

    /// Whether a `Location` is the welcome page of a gateway that is not commissioned.
    pub(super) fn leads_to_welcome(&self, location: &str) -> bool {
        self.0.join(location).is_ok_and(|to| to.path_segments().and_then(|mut s| s.next()) == Some("welcome"))
    }
}

impl FromStr for GatewayUrl {
    type Err = SetupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Ok(url) = Url::parse(text) else {
            // What cannot be parsed may hold a password at any place.
            return Err(SetupError::Url { url: "…".to_owned(), rule: "cannot be read" });
        };
        let mut shown = url.clone();
        let _ = shown.set_password(None);
        let _ = shown.set_username("");
        let refused = |rule| Err(SetupError::Url { url: shown.to_string(), rule });
        if !matches!(url.scheme(), "http" | "https") {
            // `user:password@host` reads as a scheme and an opaque rest.
            return Err(SetupError::Url {
                url: "…".to_owned(),
                rule: "starts neither with http:// nor https://",
            });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused("holds a user name or password, which belong into the API key file");
        }
        if url.host_str().is_none_or(str::is_empty) {
            return refused("has no host");
        }
        if url.port() == Some(0) {
            return refused("has port 0, on which nothing listens");
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return refused("has more than scheme, host and port");
        }
        Ok(Self(url))
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_host_and_port() {
        for fine in ["http://127.0.0.1:8088", "https://gw.example.com/", "https://[::1]:8043"] {
            let url: GatewayUrl = fine.parse().unwrap();
            assert_eq!(url.to_string(), fine.trim_end_matches('/'));
        }
        for bad in [
            "",
            "gateway",
            "ftp://x",
            "https://x/path",
            "https://x:0",
            "https://x:80888",
            "https://x?a=b",
            "https://x#a",
            "https://u:s3cret@x",
            "http://:s3cret@",
            "u:s3cret@x",
            "https://s3cret@x",
        ] {
            let error = bad.parse::<GatewayUrl>().expect_err(bad).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn segments_are_escaped() {
        let url: GatewayUrl = "http://127.0.0.1:8088".parse().unwrap();
        assert_eq!(url.at(&["a b", "c/d", "é"]).path(), "/a%20b/c%2Fd/%C3%A9");
        assert_eq!(url.at(&["StatusPing"]).as_str(), "http://127.0.0.1:8088/StatusPing");
        assert!(url.leads_to_welcome("/welcome") && url.leads_to_welcome("http://127.0.0.1:8088/welcome?x"));
        assert!(!url.leads_to_welcome("/login") && !url.leads_to_welcome(""));
    }

    #[test]
    fn loopback_has_a_short_form() {
        assert_eq!(GatewayUrl::loopback(8043, true).unwrap().to_string(), "https://127.0.0.1:8043");
    }
}
