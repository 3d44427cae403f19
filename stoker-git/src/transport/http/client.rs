//! The HTTP client: trust, proxies, addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderValue;
use reqwest::{Client, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::super::{Destination, dial};
use crate::error::GitError;
use crate::limits::Limits;
use crate::policy::HostPolicy;
use crate::proxy::{InForce, Proxy, is_local};
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::url::Protocol;

/// A client for one destination.
pub(super) fn build(to: &Destination<'_>) -> Result<Client, GitError> {
    let host = to.host().to_owned();
    let proxy = to.access.proxy.as_ref();
    // Literal addresses are not resolved, so the resolver below does not see them.
    for host in std::iter::once(&*host).chain(proxy.map(Proxy::host)) {
        if let Ok(address) = host.parse::<IpAddr>()
            && let Some(error) = dial::forbidden(to.policy, host, address)
        {
            return Err(error);
        }
    }
    let judged = [host.clone()].into_iter().chain(proxy.map(|proxy| proxy.host().to_owned())).collect();
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls(to)?)
        .redirect(redirect::Policy::none())
        .connect_timeout(to.limits.connect_timeout)
        .dns_resolver(Arc::new(Resolver { judged, policy: to.policy.clone() }));
    if let Some(proxy) = proxy {
        // Those of the environment are not looked at then.
        builder = builder.proxy(configured(proxy)?);
    } else if is_local(&host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| GitError::Unreachable {
        host: to.address(),
        detail: format!("cannot set up the HTTP client: {}", deepest(&e)),
    })
}

fn configured(proxy: &Proxy) -> Result<reqwest::Proxy, GitError> {
    let invalid = |detail: &str| GitError::ProxyInvalid { detail: format!("{proxy}: {detail}") };
    let built = reqwest::Proxy::all(proxy.url()).map_err(|_| invalid("it is no URL of a proxy"))?;
    let Some(login) = proxy.login() else { return Ok(built) };
    let login = Zeroizing::new(format!("{}:{}", login.username.expose(), login.password.expose()));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(login.as_bytes())));
    // Not within the URL, which others print.
    let mut value = HeaderValue::from_str(&value).map_err(|_| invalid("its login cannot be sent"))?;
    value.set_sensitive(true);
    Ok(built.custom_http_auth(value))
}

/// The system's certificate authorities and those of the resource.
fn tls(to: &Destination<'_>) -> Result<rustls::ClientConfig, GitError> {
    let mut roots = rustls::RootCertStore::empty();
    if to.url.protocol() == Protocol::Https || to.access.proxy.as_ref().is_some_and(Proxy::is_https) {
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
    /// The hosts that somebody wrote into a resource.
    judged: Vec<String>,
    policy: HostPolicy,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        // The name of a proxy of the environment comes here too; whoever sets up this machine wants it used.
        let judged = self.judged.iter().any(|host| name.eq_ignore_ascii_case(host));
        let policy = judged.then(|| self.policy.clone());
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
pub(super) fn meaning(
    error: &reqwest::Error,
    address: &str,
    proxy: Option<&InForce>,
    limits: &Limits,
) -> GitError {
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
    let text = deepest(error);
    if let Some(proxy) = proxy.filter(|_| text.ends_with(WANTS_LOGIN)) {
        return proxy.wants_login();
    }
    let detail = if error.is_timeout() {
        format!("no connection within {:?}", limits.connect_timeout)
    } else if error.is_dns() {
        format!("cannot resolve the name: {text}")
    } else if text.ends_with(NO_TUNNEL) {
        "it refuses to connect there, or is no proxy: its answer to CONNECT is not status 200".to_owned()
    } else {
        text
    };
    let detail = match proxy {
        Some(proxy) => format!("through the proxy {proxy}: {detail}"),
        None => detail,
    };
    GitError::Unreachable { host: address.to_owned(), detail }
}

/// What hyper-util's error says when a proxy answers a `CONNECT` with status 407.
const WANTS_LOGIN: &str = "proxy authorization required";
/// What it says of any other status.
const NO_TUNNEL: &str = "tunnel error: unsuccessful";

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
