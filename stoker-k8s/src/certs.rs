//! The certificate that the webhook serves, and how the API server comes to trust it.
//!
//! ```text
//! own:    Secret (authority + certificate) ◀─ Keeper ─▶ caBundle of the MutatingWebhookConfiguration
//!                                               │
//! files:  cert-manager / existing Secret ──▶ Files
//!                                               ▼
//!                                            Serving (RustlsConfig; open connections live on)
//! ```
//!
//! # Guarantees
//!
//! - A certificate is served only after the API server was told to trust its authority. A new authority is announced
//!   [`Lifetimes::overlap`] before anything signed by it is served, so a renewal loses no request.
//! - Replicas agree: all of them serve what the Secret holds, and the API server's optimistic locking decides which
//!   of two renewals counts.
//! - What cannot be used (a half-written file, a key that does not fit) is reported, and the old certificate stays.

mod files;
mod keeper;
mod material;
mod plan;
mod serving;

pub use files::Files;
pub use keeper::Keeper;
pub use material::{Authority, Material, Pair};
pub use plan::{Action, Lifetimes, assess, perform};
pub use serving::Serving;
use stoker_core::{Category, Fault, Retry};

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A certificate or key cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A certificate or key cannot be read.
    #[error("{what} is not usable: {problem}")]
    Unusable {
        /// What it is, and where it comes from.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The API server refused.
    #[error("cannot {doing}")]
    Api {
        /// What was tried.
        doing: String,
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// The API server takes too long.
    #[error("the API server takes too long with secret {secret}")]
    Timeout {
        /// Name of the Secret.
        secret: String,
    },
    /// Several writers, time and again.
    #[error("secret {secret} changed at each of {attempts} attempts to renew the certificate in it")]
    Contended {
        /// Name of the Secret.
        secret: String,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Fault for CertError {
    fn category(&self) -> Category {
        Category::new("CertificateUnusable")
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// Describes the metrics of this module to the installed recorder.
pub fn describe_metrics() {
    metrics::describe_gauge!(
        "stoker_webhook_certificate_expiry_timestamp_seconds",
        metrics::Unit::Seconds,
        "When the certificate that is served expires, as Unix time"
    );
    metrics::describe_counter!(
        "stoker_webhook_certificate_loads_total",
        "Certificates taken into service or refused, by result (ok, error)"
    );
}
