//! Certificates and keys as they lie in a Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::CertError;

/// Backdating of certificates, for clocks that differ.
pub(super) const BACKDATED_SECONDS: i64 = 3600;

/// A certificate (chain) and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, followed by intermediate ones if there are any.
    pub cert: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// A certificate authority.
pub type Authority = Pair;

/// What the Secret of the webhook holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// The authority that signed `leaf`.
    pub authority: Authority,
    /// The authority that will sign the next but is only announced yet.
    pub next: Option<Authority>,
    /// Certificate of the authority before: a replica may still serve what it signed.
    pub previous: Option<String>,
    /// What is served.
    pub leaf: Pair,
}

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CERT: &str = "ca-next.crt";
const NEXT_KEY: &str = "ca-next.key";
const PREVIOUS: &str = "ca-previous.crt";
const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";

impl Material {
    /// Reads the data of a Secret; `None` when something is missing.
    #[must_use]
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text =
            |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().filter(|text| !text.is_empty());
        let pair = |cert: &str, key: &str| Some(Pair { cert: text(cert)?, key: text(key)? });
        Some(Self {
            authority: pair(CA_CERT, CA_KEY)?,
            next: pair(NEXT_CERT, NEXT_KEY),
            previous: text(PREVIOUS),
            leaf: pair(CERT, KEY)?,
        })
    }

    /// As the data of a Secret.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let next = self.next.as_ref();
        [
            (CA_CERT, Some(&self.authority.cert)),
            (CA_KEY, Some(&self.authority.key)),
            (NEXT_CERT, next.map(|n| &n.cert)),
            (NEXT_KEY, next.map(|n| &n.key)),
            (PREVIOUS, self.previous.as_ref()),
            (CERT, Some(&self.leaf.cert)),
            (KEY, Some(&self.leaf.key)),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some((key.to_owned(), ByteString(text?.clone().into_bytes()))))
        .collect()
    }

    /// Every authority that the API server shall trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.cert.as_str());
        [Some(self.authority.cert.as_str()), next, self.previous.as_deref()].into_iter().flatten().collect()
    }
}

/// What a certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// DNS names and addresses, as text.
    pub(super) names: Vec<String>,
}

/// Reads the first certificate of `pem`; `None` when there is none.
pub(super) fn facts(pem: &str) -> Option<Facts> {
    with_certificate(pem, |certificate| {
        let validity = certificate.validity();
        let names = certificate.subject_alternative_name().ok().flatten();
        let names =
            names.map(|san| san.value.general_names.iter().filter_map(name).collect()).unwrap_or_default();
        Some(Facts {
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
            names,
        })
    })?
}

/// Whether `authority` signed `leaf`.
pub(super) fn is_signed_by(leaf: &str, authority: &str) -> bool {
    let verified = with_certificate(leaf, |leaf| {
        with_certificate(authority, |authority| {
            leaf.issuer() == authority.subject()
                && leaf.verify_signature(Some(authority.public_key())).is_ok()
        })
    });
    verified.flatten().unwrap_or(false)
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(read(&certificate))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress([a, b, c, d]) => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
        GeneralName::IPAddress(bytes) => {
            let bytes: [u8; 16] = (*bytes).try_into().ok()?;
            Some(std::net::Ipv6Addr::from(bytes).to_string())
        }
        _ => None,
    }
}

/// Makes an authority that is valid from an hour before `now` until `not_after`.
pub(super) fn new_authority(now: Timestamp, not_after: Timestamp) -> Result<Authority, CertError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // Distinct names: a verifier that tries authorities by name then never tries the wrong one.
    params.distinguished_name = distinguished(&format!("stoker webhook authority {}", now.as_second()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, now, not_after);
    let cert = params.self_signed(&key)?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

/// Makes a certificate for `names`, signed by `authority`, valid until `not_after`.
pub(super) fn new_leaf(
    authority: &Authority,
    names: &[String],
    now: Timestamp,
    not_after: Timestamp,
) -> Result<Pair, CertError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.cert, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = distinguished("stoker webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, now, not_after);
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn validity(params: &mut CertificateParams, now: Timestamp, not_after: Timestamp) {
    let backdated = now - jiff::SignedDuration::from_secs(BACKDATED_SECONDS);
    params.not_before = std::time::SystemTime::from(backdated).into();
    params.not_after = std::time::SystemTime::from(not_after).into();
}
