//! Certificates: self-signed on loopback, a named CA, and nothing else.

use stoker_core::Fault;
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
use stoker_ignition::fake::FakeGateway;

use crate::bed::{Bed, client};

#[tokio::test]
async fn a_self_signed_certificate_is_accepted_on_loopback() {
    let bed = Bed::new(&[]).await;
    let https = bed.gateway.https_url();
    client(&https, ApiKeySource::None).status_ping().await.unwrap();
    let by_name = https.replace("127.0.0.1", "localhost");
    client(&by_name, ApiKeySource::None).status_ping().await.unwrap();
}

#[tokio::test]
async fn a_named_certificate_is_held_to_even_on_loopback() {
    let bed = Bed::new(&[]).await;
    let file = bed.dir.path().join("ca.crt");
    let pinned = || {
        let options = GatewayOptions::new(bed.gateway.https_url().parse().unwrap());
        GatewayClient::new(options.ca_file(Some(file.clone()))).unwrap()
    };
    std::fs::write(&file, bed.gateway.certificate_pem()).unwrap();
    pinned().status_ping().await.unwrap();

    let other = Bed::new(&[]).await;
    std::fs::write(&file, other.gateway.certificate_pem()).unwrap();
    let error = pinned().status_ping().await.unwrap_err();
    assert_eq!(error.category().as_str(), "GatewayCertificateUntrusted", "{error}");
}

#[tokio::test]
async fn a_certificate_signed_by_the_named_authority_is_accepted_whatever_its_name() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["gateway.plant.example".to_owned()]).unwrap();
    let leaf_pem = leaf.signed_by(&key, &issuer).unwrap().pem();

    let dir = tempfile::tempdir().unwrap();
    let builder = FakeGateway::builder(dir.path()).certificate(&leaf_pem, &key.serialize_pem());
    let gateway = builder.start().await.unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, authority_pem).unwrap();
    let options = GatewayOptions::new(gateway.https_url().parse().unwrap()).ca_file(Some(file));
    GatewayClient::new(options).unwrap().status_ping().await.unwrap();
}
