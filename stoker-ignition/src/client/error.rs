//! What a gateway can answer instead of what was asked for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use stoker_core::{Category, Fault, Retry};

use super::key::KeyError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The URL is not one of a gateway.
    #[error("gateway URL {url:?} {rule}; write it like https://127.0.0.1:8043")]
    Url {
        /// The URL, without a password that it may have held.
        url: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The CA file cannot be read.
    #[error("CA file {} cannot be read", path.display())]
    CaUnreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The CA file holds no certificate.
    #[error("CA file {} holds no usable certificate; it must be PEM text", path.display())]
    CaMalformed {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] Cause),
}

impl Fault for SetupError {
    fn category(&self) -> Category {
        match self {
            Self::Url { .. } => Category::new("GatewayUrlInvalid"),
            Self::CaUnreadable { .. } | Self::CaMalformed { .. } => Category::new("GatewayCaInvalid"),
            Self::Tls(_) => Category::new("GatewayTlsUnavailable"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::CaUnreadable { .. } => Retry::Backoff,
            Self::Tls(_) => Retry::Never,
            _ => Retry::AfterChange,
        }
    }
}

/// Why a gateway did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// No connection.
    #[error("gateway cannot be reached ({request})")]
    Unreachable {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// No answer in time.
    #[error("gateway did not answer within {} ms ({request})", after.as_millis())]
    Timeout {
        /// Method and path.
        request: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The gateway's certificate is not trusted.
    #[error(
        "gateway shows a certificate that is not trusted ({request}); name the CA that signed it, a self-signed one is accepted on loopback only"
    )]
    CertificateUntrusted {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The key file is unusable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// 401: the key is missing or not known to the gateway (yet).
    #[error("gateway does not know the API key (401 to {request}){}", hint_401(*plain_http, *sent_key))]
    Unauthorized {
        /// Method and path.
        request: String,
        /// Whether the call came over plain http.
        plain_http: bool,
        /// Whether a key was sent at all.
        sent_key: bool,
    },
    /// 403: the key is known but may not do this.
    #[error(
        "gateway refuses the API key for this call (403 to {request}): its security level must be in the gateway's Read and Write permission lists{}",
        hint_403(*plain_http)
    )]
    Forbidden {
        /// Method and path.
        request: String,
        /// Whether the call came over plain http.
        plain_http: bool,
    },
    /// 302 to `/welcome`: the gateway waits for its first set-up.
    #[error("gateway is not commissioned yet ({request} leads to its welcome page)")]
    NotCommissioned {
        /// Method and path.
        request: String,
    },
    /// 503: the gateway is starting.
    #[error("gateway is starting (503 to {request})")]
    Starting {
        /// Method and path.
        request: String,
    },
    /// 404: the route or the thing is not there.
    #[error("gateway has no {request} (404)")]
    NotFound {
        /// Method and path.
        request: String,
    },
    /// The request was understood and refused: 400, 405, 409, 422 and the like.
    #[error("gateway refuses {request} with status {status}{}", quoted(message))]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// What the gateway says, shortened; empty when it says nothing usable.
        message: String,
    },
    /// 5xx other than 503.
    #[error("gateway failed with status {status} at {request}")]
    ServerFailed {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that no gateway should give: another program, a proxy, or a version that this one does not know.
    #[error("gateway gave an unexpected answer to {request}: {found}")]
    UnexpectedAnswer {
        /// Method and path.
        request: String,
        /// What came instead of what was expected.
        found: String,
    },
}

fn hint_401(plain_http: bool, sent_key: bool) -> &'static str {
    match (sent_key, plain_http) {
        (false, _) => "; no API key is configured",
        (true, true) => {
            "; over plain http that is also the answer for a key that requires a secure channel: use https, or switch that off for the key"
        }
        (true, false) => "; a new key is known after a restart or a scan of the gateway",
    }
}

fn hint_403(plain_http: bool) -> &'static str {
    if plain_http { ", or the key requires a secure channel: use https" } else { "" }
}

fn quoted(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message:?}") }
}

impl GatewayError {
    /// Whether the gateway is merely not ready: starting, restarting, not commissioned, not reachable, or not yet
    /// aware of the key. Such a call is repeated; nothing is wrong with what was synced.
    #[must_use]
    pub const fn is_not_ready(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Timeout { .. }
                | Self::Starting { .. }
                | Self::NotCommissioned { .. }
                | Self::Unauthorized { .. }
        )
    }

    /// Whether this side has no usable key: the call was not made, and no other call can be.
    #[must_use]
    pub const fn lacks_key(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// Whether the key is not known, or lacks the right for this call.
    #[must_use]
    pub const fn lacks_right(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Forbidden { .. })
    }
}

impl Fault for GatewayError {
    fn category(&self) -> Category {
        match self {
            Self::Unreachable { .. } => Category::new("GatewayUnreachable"),
            Self::Timeout { .. } => Category::new("GatewayTimeout"),
            Self::CertificateUntrusted { .. } => Category::new("GatewayCertificateUntrusted"),
            Self::Key(e) => e.category(),
            Self::Unauthorized { .. } => Category::new("GatewayUnauthorized"),
            Self::Forbidden { .. } => Category::new("GatewayForbidden"),
            Self::NotCommissioned { .. } => Category::new("GatewayNotCommissioned"),
            Self::Starting { .. } => Category::new("GatewayStarting"),
            Self::NotFound { .. } => Category::new("GatewayNotFound"),
            Self::Refused { .. } => Category::new("GatewayRefused"),
            Self::ServerFailed { .. } => Category::new("GatewayFailed"),
            Self::UnexpectedAnswer { .. } => Category::new("GatewayUnexpectedAnswer"),
        }
    }

    /// People mend these on the gateway (a key, a permission, a certificate), where no change of ours shows it: so
    /// nearly all are worth another try.
    fn retry(&self) -> Retry {
        match self {
            Self::Refused { .. } => Retry::AfterChange,
            _ => Retry::Backoff,
        }
    }
}
