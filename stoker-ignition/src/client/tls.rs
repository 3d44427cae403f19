//! Whom to trust: a self-signed certificate on loopback, a named CA, or what the system trusts. Never more.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::BuilderVerifierExt;

use super::error::SetupError;

/// Whether the host of a URL is this machine, whatever name resolution says.
pub(super) fn is_loopback(url: &Url) -> bool {
    // `host()` would name a type of another crate; the text form is enough.
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            bare.parse::<std::net::IpAddr>().is_ok_and(|ip| match ip {
                std::net::IpAddr::V4(v4) => v4.is_loopback(),
                std::net::IpAddr::V6(v6) => {
                    v6.is_loopback() || v6.to_ipv4_mapped().as_ref().is_some_and(Ipv4Addr::is_loopback)
                }
            })
        }
        None => false,
    }
}

/// The TLS configuration for one gateway.
pub(super) fn config(url: &Url, ca_file: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError::Tls(Box::new(e)))?;
    let loopback = is_loopback(url);
    let trust = match ca_file {
        Some(path) => Trust::Ca(read_ca(path)?),
        None if loopback => Trust::Anyone,
        None => {
            let builder = builder.with_platform_verifier().map_err(|e| SetupError::Tls(Box::new(e)))?;
            return Ok(builder.with_no_client_auth());
        }
    };
    let verifier = GatewayVerifier { provider, trust, any_name: loopback };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn read_ca(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let pem =
        std::fs::read(path).map_err(|source| SetupError::CaUnreadable { path: path.to_owned(), source })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| SetupError::CaMalformed { path: path.to_owned() })?;
    if certificates.is_empty() {
        return Err(SetupError::CaMalformed { path: path.to_owned() });
    }
    Ok(certificates)
}

#[derive(Debug)]
enum Trust {
    /// Loopback: who answers there is in this pod or on this machine.
    Anyone,
    /// These authorities, or exactly these certificates.
    Ca(Vec<CertificateDer<'static>>),
}

#[derive(Debug)]
struct GatewayVerifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
    /// On loopback a gateway shows the name it has for others, never `127.0.0.1`.
    any_name: bool,
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Trust::Ca(trusted) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        // A gateway's default certificate is its own authority: a file that holds it pins it.
        if !trusted.iter().any(|c| c == end_entity) {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(trusted.iter().cloned());
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        if !self.any_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, expected) in [
            ("https://127.0.0.1:8043", true),
            ("https://127.9.9.9", true),
            ("https://localhost:8043", true),
            ("https://LOCALHOST", true),
            ("https://[::1]:8043", true),
            ("https://[::ffff:127.0.0.1]", true),
            ("https://localhost.example.com", false),
            ("https://127.0.0.1.example.com", false),
            ("https://10.0.0.1", false),
            ("https://0.0.0.0", false),
            ("https://gateway", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn an_unusable_ca_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let url = Url::parse("https://gateway.example.com").unwrap();
        let missing = config(&url, Some(&path)).unwrap_err().to_string();
        assert!(missing.contains("ca.crt"), "{missing}");
        std::fs::write(&path, "no certificate").unwrap();
        let malformed = config(&url, Some(&path)).unwrap_err().to_string();
        assert!(malformed.contains("ca.crt") && malformed.contains("PEM"), "{malformed}");
    }
}
