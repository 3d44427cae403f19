//! What the TLS server uses right now.

use std::sync::Arc;

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::material::facts;
use super::{CertError, Pair};

/// A certificate in service. Replacing it touches no open connection.
#[derive(Clone)]
pub struct Serving {
    config: RustlsConfig,
}

impl Serving {
    /// Starts with `pair`.
    ///
    /// # Errors
    /// When the certificate or the key cannot be read, or they do not belong together.
    pub fn new(pair: &Pair) -> Result<Self, CertError> {
        let serving = Self { config: RustlsConfig::from_config(server_config(pair)?) };
        note(pair);
        Ok(serving)
    }

    /// Serves `pair` from now on.
    ///
    /// # Errors
    /// As for [`Serving::new`]; then the old one stays.
    pub fn replace(&self, pair: &Pair) -> Result<(), CertError> {
        match server_config(pair) {
            Ok(config) => {
                self.config.reload_from_config(config);
                note(pair);
                Ok(())
            }
            Err(error) => {
                metrics::counter!("stoker_webhook_certificate_loads_total", "result" => "error").increment(1);
                Err(error)
            }
        }
    }

    /// For `axum_server::bind_rustls`.
    #[must_use]
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }
}

/// Whether a server can use this pair.
pub(super) fn fits(pair: &Pair) -> bool {
    server_config(pair).is_ok()
}

fn note(pair: &Pair) {
    metrics::counter!("stoker_webhook_certificate_loads_total", "result" => "ok").increment(1);
    if let Some(facts) = facts(&pair.cert) {
        let expiry = facts.not_after.as_second();
        metrics::gauge!("stoker_webhook_certificate_expiry_timestamp_seconds").set(expiry as f64);
        tracing::info!(expires = %facts.not_after, names = facts.names.join(","), "certificate in service");
    }
}

fn server_config(pair: &Pair) -> Result<Arc<ServerConfig>, CertError> {
    let unusable = |what: &str, problem: &dyn std::fmt::Display| CertError::Unusable {
        what: what.to_owned(),
        problem: problem.to_string(),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pair.cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| unusable("the certificate", &e))?;
    if chain.is_empty() {
        return Err(unusable("the certificate", &"no PEM block CERTIFICATE in it"));
    }
    let key =
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|e| unusable("the private key", &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| unusable("the certificate with its key", &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
