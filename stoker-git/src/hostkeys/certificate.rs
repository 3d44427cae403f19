//! Host keys that an authority has signed (`PROTOCOL.certkeys` of OpenSSH).

use jiff::Timestamp;
use russh::keys::PublicKey;
use russh::keys::ssh_key::certificate::{CertType, Certificate};
use russh::keys::ssh_key::{Algorithm, EcdsaCurve, HashAlg};

use super::{HostKey, HostKeyVerdict, KnownHosts, Mark};
use crate::text::printable;

impl KnownHosts {
    /// What is known of a `key` that `host` showed in a certificate, at `now` (seconds since 1970).
    ///
    /// As to ssh: a certificate that does not do is as if there were none, so the key may still be listed itself.
    pub(crate) fn judge_certificate(
        &self,
        host: &str,
        port: u16,
        key: &HostKey,
        certificate: &Certificate,
        now: u64,
    ) -> HostKeyVerdict {
        let authority = PublicKey::from(certificate.signature_key().clone()).to_bytes();
        let authority = authority.ok().and_then(|blob| HostKey::from_blob(&blob));
        let marked = |mark| self.of_host(host, port, mark).any(|listed| Some(listed) == authority.as_ref());
        if marked(Mark::Revoked) {
            return HostKeyVerdict::Revoked;
        }
        let why = if marked(Mark::Authority) {
            flaw(certificate, &host.to_ascii_lowercase(), now)
        } else {
            let authority = authority.map_or_else(|| "unreadable".to_owned(), |key| key.fingerprint());
            Some(format!("its certificate is of the authority {authority}, which is not listed for it"))
        };
        match (self.judge(host, port, key), why) {
            (HostKeyVerdict::Revoked, _) => HostKeyVerdict::Revoked,
            (_, None) => HostKeyVerdict::Known,
            (HostKeyVerdict::Unknown | HostKeyVerdict::Uncertified { .. }, Some(why)) => {
                HostKeyVerdict::Uncertified { why }
            }
            (verdict, Some(_)) => verdict,
        }
    }
}

/// What is wrong with a certificate of a trusted authority.
fn flaw(certificate: &Certificate, host: &str, now: u64) -> Option<String> {
    // The authority's word first: until then everything in the certificate is anybody's.
    if !is_sound(&certificate.signature().algorithm()) || certificate.verify_signature().is_err() {
        return Some("its certificate was not made by the authority that it names".to_owned());
    }
    if certificate.cert_type() != CertType::Host {
        return Some("its certificate is one for people, not for hosts".to_owned());
    }
    if let Some((option, _)) = certificate.critical_options().iter().next() {
        return Some(format!("its certificate has the option {:?}, which is unknown", printable(option, 60)));
    }
    let principals = certificate.valid_principals();
    if !principals.is_empty() && !principals.iter().any(|name| name == host) {
        let principals = printable(&principals.join(", "), 200);
        return Some(format!("its certificate is for {principals}, not for {host}"));
    }
    let time = |seconds: u64| {
        let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.map_or_else(|| format!("second {seconds}"), |time| time.to_string())
    };
    if now < certificate.valid_after() {
        return Some(format!("its certificate is not valid before {}", time(certificate.valid_after())));
    }
    if now >= certificate.valid_before() {
        return Some(format!("its certificate has expired at {}", time(certificate.valid_before())));
    }
    None
}

/// The kinds of signatures that prove something: no DSA, and no RSA with SHA-1.
pub(crate) fn is_sound(algorithm: &Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Ed25519
            | Algorithm::SkEd25519
            | Algorithm::SkEcdsaSha2NistP256
            | Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 | EcdsaCurve::NistP384 | EcdsaCurve::NistP521 }
            | Algorithm::Rsa { hash: Some(HashAlg::Sha256 | HashAlg::Sha512) }
    )
}
