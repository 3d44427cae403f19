//! Signatures by SSH keys (`PROTOCOL.sshsig` of OpenSSH).

use ring::digest;
use russh::keys::ssh_key::certificate::{CertType, Certificate};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Algorithm, HashAlg, PublicKey, Signature};
use signature::Verifier;

use super::allowed_signers::AllowedSigner;
use super::{Problem, Refusal, Signer, armour};
use crate::hostkeys::certificate::is_sound;
use crate::text::printable;

/// What the signatures of git are made for.
const NAMESPACE: &str = "git";
const MAGIC: &[u8] = b"SSHSIG";
const CERTIFICATE: &[u8] = b"-cert-v01@openssh.com";

/// The fields of a signature.
struct Fields<'a> {
    key: &'a [u8],
    namespace: &'a [u8],
    reserved: &'a [u8],
    hash: &'a [u8],
    signature: &'a [u8],
}

/// Judges a signature made at `seconds` (since 1970), as the object says.
pub(super) fn judge(
    signers: &[AllowedSigner],
    payload: &[u8],
    signature: &[u8],
    seconds: i64,
) -> Result<Signer, Refusal> {
    // Errors of the parser may quote what it read.
    let bad = |detail: String| Refusal::new(Problem::BadSignature, printable(&detail, 400));
    let bytes = armour::ssh(signature).ok_or_else(|| bad("its SSH signature is not in armour".to_owned()))?;
    let fields = fields(&bytes).ok_or_else(|| bad("its SSH signature cannot be read".to_owned()))?;
    if fields.namespace != NAMESPACE.as_bytes() {
        let found = printable(&String::from_utf8_lossy(fields.namespace), 60);
        return Err(bad(format!("its signature was made for the purpose {found:?}, not for \"git\"")));
    }
    let hash = match fields.hash {
        b"sha512" => &digest::SHA512,
        b"sha256" => &digest::SHA256,
        other => {
            let other = printable(&String::from_utf8_lossy(other), 20);
            return Err(bad(format!("its signature uses the hash {other:?}; only sha256 and sha512 count")));
        }
    };
    let certificate = is_certificate(fields.key);
    let presented = if certificate {
        let certificate = Certificate::from_bytes(fields.key);
        Presented::Certificate(Box::new(
            certificate.map_err(|e| bad(format!("its SSH certificate cannot be read: {e}")))?,
        ))
    } else {
        Presented::Key(
            PublicKey::from_bytes(fields.key)
                .map_err(|e| bad(format!("its SSH key cannot be read: {e}")))?
                .key_data()
                .clone(),
        )
    };
    let signer = presented.signer(signers, seconds)?;
    let unreadable =
        |why: &dyn std::fmt::Display| bad(format!("the signature by {signer} cannot be read: {why}"));
    // Before it is parsed: the parser takes RSA with SHA-1 for a wrong length.
    let name = string(fields.signature).and_then(|(name, _)| std::str::from_utf8(name).ok());
    let algorithm = Algorithm::new(name.unwrap_or_default()).map_err(|e| unreadable(&e))?;
    if !is_sound(&algorithm) {
        return Err(bad(format!(
            "the signature by {signer} is made by {algorithm}, which proves nothing any more"
        )));
    }
    let made = Signature::try_from(fields.signature).map_err(|e| unreadable(&e))?;
    let digest = digest::digest(hash, payload);
    let mut message = MAGIC.to_vec();
    for part in [fields.namespace, fields.reserved, fields.hash, digest.as_ref()] {
        message.extend_from_slice(&(part.len() as u32).to_be_bytes());
        message.extend_from_slice(part);
    }
    if presented.key().verify(&message, &made).is_ok() {
        Ok(signer)
    } else {
        Err(bad(format!("the signature by {signer} does not fit: what it signed was changed")))
    }
}

/// What proves who signed.
enum Presented {
    Key(KeyData),
    Certificate(Box<Certificate>),
}

impl Presented {
    /// What the signature is made with.
    fn key(&self) -> &KeyData {
        match self {
            Self::Key(key) => key,
            Self::Certificate(certificate) => certificate.public_key(),
        }
    }

    /// Who that is, at that time.
    fn signer(&self, signers: &[AllowedSigner], seconds: i64) -> Result<Signer, Refusal> {
        match self {
            Self::Key(key) => signer_with(signers, key, seconds),
            Self::Certificate(certificate) => certified(signers, certificate, seconds),
        }
    }
}

fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn signer_with(signers: &[AllowedSigner], key: &KeyData, seconds: i64) -> Result<Signer, Refusal> {
    let print = fingerprint(key);
    let mut refusal = Refusal::new(
        Problem::UnknownKey,
        format!("it is signed by the SSH key {print}, which is not listed"),
    );
    for line in signers.iter().filter(|line| !line.authority && line.key == *key) {
        match usable(line, &print, seconds) {
            Ok(()) => return Ok(Signer { name: line.principals.clone(), key: print }),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

/// Whether a line that names the key allows its use at that time.
fn usable(line: &AllowedSigner, print: &str, seconds: i64) -> Result<(), Refusal> {
    let who = &line.principals;
    if !line.allows(NAMESPACE) {
        let detail = format!("the SSH key {print} of {who} is listed for other purposes than \"git\"");
        return Err(Refusal::new(Problem::UnknownKey, detail));
    }
    if line.valid_after.is_some_and(|after| seconds < after) {
        let detail =
            format!("the SSH key {print} of {who} was not valid yet when this was signed, as it says");
        return Err(Refusal::new(Problem::UnknownKey, detail));
    }
    if line.valid_before.is_some_and(|before| seconds >= before) {
        let detail = format!("the SSH key {print} of {who} had expired when this was signed, as it says");
        return Err(Refusal::new(Problem::ExpiredKey, detail));
    }
    Ok(())
}

fn certified(signers: &[AllowedSigner], certificate: &Certificate, seconds: i64) -> Result<Signer, Refusal> {
    let print = fingerprint(certificate.public_key());
    let authority = fingerprint(certificate.signature_key());
    let bad = |detail: String| Err(Refusal::new(Problem::BadSignature, detail));
    let lines = signers.iter().filter(|line| line.authority && line.key == *certificate.signature_key());
    let mut refusal = Refusal::new(
        Problem::UnknownKey,
        format!("the SSH key {print} has a certificate of the authority {authority}, which is not listed"),
    );
    for line in lines {
        // The authority's word first: until then everything in the certificate is anybody's.
        if !is_sound(&certificate.signature().algorithm()) || certificate.verify_signature().is_err() {
            return bad(format!(
                "the certificate of the SSH key {print} was not made by the authority {authority}"
            ));
        }
        if certificate.cert_type() != CertType::User || certificate.critical_options().iter().next().is_some()
        {
            return bad(format!(
                "the certificate of the SSH key {print} is not one for people, or is restricted"
            ));
        }
        let Some(name) = certificate.valid_principals().iter().find(|name| line.is(name)) else {
            let detail =
                format!("the certificate of the SSH key {print} is for none of {:?}", line.principals);
            refusal = Refusal::new(Problem::UnknownKey, detail);
            continue;
        };
        if let Err(why) = usable(line, &authority, seconds) {
            refusal = why;
            continue;
        }
        let seconds = u64::try_from(seconds).unwrap_or_default();
        if seconds < certificate.valid_after() {
            let detail =
                format!("the certificate of the SSH key {print} was not valid yet when this was signed");
            return Err(Refusal::new(Problem::UnknownKey, detail));
        }
        if seconds >= certificate.valid_before() {
            let detail = format!("the certificate of the SSH key {print} had expired when this was signed");
            return Err(Refusal::new(Problem::ExpiredKey, detail));
        }
        return Ok(Signer { name: printable(name, 200), key: print });
    }
    Err(refusal)
}

fn is_certificate(key: &[u8]) -> bool {
    string(key).is_some_and(|(algorithm, _)| algorithm.ends_with(CERTIFICATE))
}

fn fields(bytes: &[u8]) -> Option<Fields<'_>> {
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&1u32.to_be_bytes())?;
    let (key, rest) = string(rest)?;
    let (namespace, rest) = string(rest)?;
    let (reserved, rest) = string(rest)?;
    let (hash, rest) = string(rest)?;
    let (signature, rest) = string(rest)?;
    rest.is_empty().then_some(Fields { key, namespace, reserved, hash, signature })
}

/// A string with its length before it, and the rest.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}
