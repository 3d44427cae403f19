//! Whom to trust over https.

use std::sync::Arc;

use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stoker_core::Fault;
use stoker_git::serve::GitBackend;
use stoker_git::{Access, CredentialFiles, Remote};

use crate::support::*;

/// A certificate authority and an https server with a certificate of it, for `localhost`.
async fn https(plant: &Plant) -> (String, String) {
    let (port, ca) = answering(GitBackend::new(plant.root()).router()).await;
    (format!("https://localhost:{port}/plant.git"), ca)
}

/// The same with anything behind it: its port, and the authority.
pub(crate) async fn answering(app: axum::Router) -> (u16, String) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();

    let mut server =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = RustlsConfig::from_config(Arc::new(server));
    let app = app.into_make_service();
    tokio::spawn(axum_server::from_tcp_rustls(listener, config).unwrap().serve(app));
    (port, ca.pem())
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_configured_and_nowhere_else() {
    let plant = Plant::new();
    let (url, ca) = https(&plant).await;
    let wanted = "main".parse().unwrap();
    let git = client();

    let error = git.resolve(&remote(&url), &wanted).await.unwrap_err();
    assert_eq!(error.category().as_str(), "TLSUntrusted", "{error}");
    assert!(error.to_string().contains("localhost"), "{error}");

    let trusting = |ca: &str, url: &str| {
        Remote::new(url_of(url), Access { ca_pem: Some(ca.to_owned()), ..Access::default() })
    };
    let source = sync(&git, &trusting(&ca, &url), "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");

    let elsewhere = url.replace("localhost", "127.0.0.1");
    let error = git.resolve(&trusting(&ca, &elsewhere), &wanted).await.unwrap_err();
    assert_eq!(error.category().as_str(), "TLSUntrusted", "the certificate is for another name: {error}");

    let (_, other) = https(&plant).await;
    let error = git.resolve(&trusting(&other, &url), &wanted).await.unwrap_err();
    assert_eq!(error.category().as_str(), "TLSUntrusted", "another authority: {error}");
}

#[tokio::test]
async fn a_ca_file_is_read_at_each_use_and_checked() {
    let plant = Plant::new();
    let (url, ca) = https(&plant).await;
    let file = plant.dir.path().join("ca.pem");
    let files = CredentialFiles { ca: Some(file.clone()), ..CredentialFiles::default() };
    let remote = Remote::with_provider(url_of(&url), Arc::new(files));
    let wanted = "main".parse().unwrap();
    for (content, works) in [("no certificate", false), (ca.as_str(), true), ("", false)] {
        std::fs::write(&file, content).unwrap();
        let result = client().resolve(&remote, &wanted).await;
        match result {
            Ok(_) => assert!(works, "{content:?}"),
            Err(error) => assert!(!works && error.to_string().contains("holds no certificate"), "{error}"),
        }
    }
}

#[tokio::test]
async fn https_to_a_server_without_tls_fails_by_name() {
    let plant = Plant::new();
    let server = stoker_git::serve::GitHttpServer::start(plant.root()).await.unwrap();
    let url = server.url("plant.git").replace("http:", "https:");
    let error = client().resolve(&remote(&url), &"main".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.category().as_str(), "Unreachable", "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
}
