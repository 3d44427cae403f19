//! The HTTP client: trust, proxies, addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::super::{Destination, dial};
use crate::error::GitError;
use crate::limits::Limits;
use crate::policy::HostPolicy;
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::url::Protocol;

/// A client for one destination.
pub(super) fn build(to: &Destination<'_>) -> Result<Client, GitError> {
    let host = to.host().to_owned();
    // A literal address is not resolved, so the resolver below does not see it.
    if let Ok(address) = host.parse::<IpAddr>()
        && let Some(error) = dial::forbidden(to.policy, &host, address)
    {
        return Err(error);
    }
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls(to)?)
        .redirect(redirect::Policy::none())
        .connect_timeout(to.limits.connect_timeout)
        .dns_resolver(Arc::new(Resolver { host: host.clone(), policy: to.policy.clone() }));
    // A proxy is for the way out, never for this machine.
    if is_local(&host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| GitError::Unreachable {
        host: to.address(),
        detail: format!("cannot set up the HTTP client: {}", deepest(&e)),
    })
}

fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The system's certificate authorities and those of the resource.
fn tls(to: &Destination<'_>) -> Result<rustls::ClientConfig, GitError> {
    let mut roots = rustls::RootCertStore::empty();
    if to.url.protocol() == Protocol::Https {
        // What cannot be read is left out; a connection that needed it says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = &to.access.ca_pem {
        let invalid =
            |detail: String| GitError::CredentialInvalid { detail: format!("the CA bundle {detail}") };
        let mut added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|e| invalid(format!("is not PEM: {e}")))?;
            roots.add(certificate).map_err(|e| invalid(format!("holds an unusable certificate: {e}")))?;
            added += 1;
        }
        if added == 0 {
            return Err(invalid("holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| GitError::Unreachable { host: to.address(), detail: e.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Resolves names and drops the addresses that the policy forbids: the rest is what gets connected to.
struct Resolver {
    host: String,
    policy: HostPolicy,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        // A proxy's own name comes here too; whoever configures a proxy wants it used.
        let policy = name.eq_ignore_ascii_case(&self.host).then(|| self.policy.clone());
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = match policy {
                Some(policy) => dial::allowed(&policy, &name, addresses)?,
                None => addresses,
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// What an error of the client means. Its own text may hold URLs; only its innermost cause is shown.
pub(super) fn meaning(error: &reqwest::Error, address: &str, limits: &Limits) -> GitError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(known) = current.downcast_ref::<GitError>() {
            return known.clone();
        }
        if let Some(error) = current.downcast_ref::<rustls::Error>() {
            let detail = printable(&error.to_string(), SERVER_TEXT_CHARS);
            return match error {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    GitError::TlsUntrusted { host: address.to_owned(), detail }
                }
                _ => GitError::Unreachable { host: address.to_owned(), detail: format!("TLS: {detail}") },
            };
        }
        cause = inner(current);
    }
    let detail = if error.is_timeout() {
        format!("no connection within {:?}", limits.connect_timeout)
    } else if error.is_dns() {
        format!("cannot resolve the name: {}", deepest(error))
    } else {
        deepest(error)
    };
    GitError::Unreachable { host: address.to_owned(), detail }
}

/// The next error inwards. An I/O error's `source` skips the error that it wraps.
fn inner<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = inner(deepest) {
        deepest = next;
    }
    printable(&deepest.to_string(), SERVER_TEXT_CHARS)
}
