//! Signatures by OpenPGP keys (RFC 9580).

use std::time::SystemTime;

use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag, Timestamp};

use super::{Problem, Refusal, Signer, armour};
use crate::text::printable;

/// A public key with its subkeys.
#[derive(Debug, Clone)]
pub(super) struct Key {
    key: Box<SignedPublicKey>,
}

/// Reads every armoured key of a file.
pub(super) fn keys(content: &[u8]) -> Result<Vec<Key>, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
    let mut keys = Vec::new();
    // One block may hold several keys, and one file several blocks, with text between them.
    let starts: Vec<usize> = text.match_indices(armour::OPENPGP_KEY).map(|(at, _)| at).collect();
    for (index, start) in starts.iter().enumerate() {
        let block = &text[*start..starts.get(index + 1).copied().unwrap_or(text.len())];
        let unreadable = |e: &dyn std::fmt::Display| {
            format!("key block {} cannot be read: {}", index + 1, printable(&e.to_string(), 200))
        };
        let (found, _) = SignedPublicKey::from_armor_many(block.as_bytes()).map_err(|e| unreadable(&e))?;
        for key in found {
            keys.push(Key { key: Box::new(key.map_err(|e| unreadable(&e))?) });
        }
    }
    if keys.is_empty() {
        return Err("it holds no OpenPGP key".to_owned());
    }
    Ok(keys)
}

/// Judges a signature at the time `now`, in seconds since 1970.
pub(super) fn judge(keys: &[Key], payload: &[u8], signature: &[u8], now: i64) -> Result<Signer, Refusal> {
    let bad = |detail: String| Refusal::new(Problem::BadSignature, detail);
    let (signature, _) = DetachedSignature::from_armor_single(signature).map_err(|e| {
        bad(format!("its OpenPGP signature cannot be read: {}", printable(&e.to_string(), 200)))
    })?;
    let signature = signature.signature;
    if signature.typ() != Some(SignatureType::Binary) {
        return Err(bad("its OpenPGP signature is not one over the bytes of a document".to_owned()));
    }
    if !is_strong(&signature) {
        let hash = signature.hash_alg().map(|h| h.to_string()).unwrap_or_default();
        return Err(bad(format!("its signature uses the hash {hash}, which proves nothing any more")));
    }
    // One key may be listed in several copies, of several ages, and a short id may be that of several keys.
    let named: Vec<_> = keys.iter().filter_map(|key| Some((key, key.made(&signature)?))).collect();
    let Some((first, _)) = named.first() else {
        return Err(Refusal::new(
            Problem::UnknownKey,
            format!("it is signed by the OpenPGP key {}, which is not listed", issuer(&signature)),
        ));
    };
    let mut judged = None;
    for (key, component) in &named {
        let fits = match component {
            Component::Primary => signature.verify(&key.key.primary_key, payload),
            Component::Subkey(subkey) => signature.verify(&subkey.key, payload),
        };
        if fits.is_err() {
            continue;
        }
        let signer = key.signer();
        let fingerprint = key.key.primary_key.fingerprint();
        let mut copies = keys.iter().filter(|copy| copy.key.primary_key.fingerprint() == fingerprint);
        if copies.any(Key::is_revoked) {
            return Err(Refusal::new(Problem::RevokedKey, format!("the OpenPGP key of {signer} is revoked")));
        }
        let result = key.judge(*component, &signature, now, &signer).map(|()| signer);
        // What one copy revokes, no other brings back; where one says "expired", a newer one may know of a later end.
        match (&result, &judged) {
            (Err(why), _) if why.problem == Problem::RevokedKey => return result,
            (_, None) | (Ok(_), Some(Err(_))) => judged = Some(result),
            _ => {}
        }
    }
    judged.unwrap_or_else(|| {
        let signer = first.signer();
        Err(bad(format!("the signature by {signer} does not fit: what it signed was changed")))
    })
}

/// The key that made a signature.
#[derive(Clone, Copy)]
enum Component<'a> {
    Primary,
    Subkey(&'a SignedPublicSubKey),
}

impl Key {
    /// The part of this key that a signature says it is made by.
    fn made(&self, signature: &Signature) -> Option<Component<'_>> {
        if names(signature, &self.key.primary_key) {
            return Some(Component::Primary);
        }
        self.key.public_subkeys.iter().find(|subkey| names(signature, &subkey.key)).map(Component::Subkey)
    }

    fn signer(&self) -> Signer {
        let name =
            self.key.details.users.first().map(|user| String::from_utf8_lossy(user.id.id()).into_owned());
        let key = self.key.primary_key.fingerprint().to_string().to_uppercase();
        Signer { name: printable(&name.unwrap_or_else(|| "a key without a name".to_owned()), 200), key }
    }

    fn is_revoked(&self) -> bool {
        let revocations = &self.key.details.revocation_signatures;
        let is_revocation = |s: &Signature| s.typ() == Some(SignatureType::KeyRevocation);
        revocations.iter().any(|s| is_revocation(s) && s.verify_key(&self.key.primary_key).is_ok())
    }

    /// Whether the key, which is not revoked, may be used for this, now.
    fn judge(
        &self,
        component: Component<'_>,
        made: &Signature,
        now: i64,
        signer: &Signer,
    ) -> Result<(), Refusal> {
        let refuse = |problem, detail: String| Err(Refusal::new(problem, detail));
        let primary = &self.key.primary_key;
        let Some(own) = self.self_signature() else {
            let detail = format!("the OpenPGP key of {signer} has no valid signature by itself");
            return refuse(Problem::UnknownKey, detail);
        };
        if has_expired(own, primary.created_at(), now) {
            return refuse(Problem::ExpiredKey, format!("the OpenPGP key of {signer} has expired"));
        }
        let created = match component {
            Component::Primary => {
                if !own.key_flags().sign() {
                    let detail = format!("the OpenPGP key of {signer} is not made for signatures");
                    return refuse(Problem::UnknownKey, detail);
                }
                primary.created_at()
            }
            Component::Subkey(subkey) => {
                self.judge_subkey(subkey, now, signer)?;
                subkey.key.created_at()
            }
        };
        let made_at = made.created();
        if made_at.is_none_or(|at| at < created) {
            let detail = format!("the signature says that it is older than the OpenPGP key of {signer}");
            return refuse(Problem::BadSignature, detail);
        }
        if let (Some(at), Some(lasts)) = (made_at, made.signature_expiration_time())
            && lasts.as_secs() > 0
            && seconds(at) + i64::from(lasts.as_secs()) <= now
        {
            return refuse(
                Problem::ExpiredKey,
                format!("the signature by {signer} was made to expire, and has"),
            );
        }
        Ok(())
    }

    fn judge_subkey(&self, subkey: &SignedPublicSubKey, now: i64, signer: &Signer) -> Result<(), Refusal> {
        let refuse = |problem, detail: String| Err(Refusal::new(problem, detail));
        let primary = &self.key.primary_key;
        let print = subkey.key.fingerprint().to_string().to_uppercase();
        let of_type = |typ| {
            subkey.signatures.iter().filter(move |s| {
                s.typ() == Some(typ) && s.verify_subkey_binding(primary, &subkey.key).is_ok()
            })
        };
        if of_type(SignatureType::SubkeyRevocation).next().is_some() {
            return refuse(Problem::RevokedKey, format!("the subkey {print} of {signer} is revoked"));
        }
        // Both have agreed to it: else anybody could call a stranger's signatures those of their own key.
        let agreed = |s: &&Signature| {
            let back = s.embedded_signature();
            is_strong(s)
                && s.key_flags().sign()
                && back.is_some_and(|b| {
                    is_strong(b) && b.verify_primary_key_binding(&subkey.key, primary).is_ok()
                })
        };
        let newest = of_type(SignatureType::SubkeyBinding).filter(agreed).max_by_key(|s| s.created());
        let Some(binding) = newest else {
            let detail = format!("the subkey {print} of {signer} is not bound to it for signatures");
            return refuse(Problem::UnknownKey, detail);
        };
        if has_expired(binding, subkey.key.created_at(), now) {
            return refuse(Problem::ExpiredKey, format!("the subkey {print} of {signer} has expired"));
        }
        Ok(())
    }

    /// What the key says of itself: the newest of its own signatures.
    fn self_signature(&self) -> Option<&Signature> {
        let (primary, details) = (&self.key.primary_key, &self.key.details);
        let direct = details
            .direct_signatures
            .iter()
            .filter(|s| s.typ() == Some(SignatureType::Key) && s.verify_key(primary).is_ok());
        let users = details.users.iter().flat_map(|user| {
            user.signatures.iter().filter(|s| {
                s.typ() != Some(SignatureType::CertRevocation)
                    && names(s, primary)
                    && s.verify_certification(primary, Tag::UserId, &user.id).is_ok()
            })
        });
        direct.chain(users).max_by_key(|s| s.created())
    }
}

/// Whether a signature says that this key made it.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let prints = signature.issuer_fingerprint();
    if prints.is_empty() {
        return signature.issuer_key_id().contains(&&key.legacy_key_id());
    }
    prints.contains(&&key.fingerprint())
}

fn issuer(signature: &Signature) -> String {
    let print = signature.issuer_fingerprint().first().map(|print| print.to_string());
    let id = || signature.issuer_key_id().first().map(|id| id.to_string());
    print.or_else(id).unwrap_or_else(|| "(it does not say which)".to_owned()).to_uppercase()
}

/// Whether nobody can make two documents with one such signature. SHA-1 and MD5 are broken.
fn is_strong(signature: &Signature) -> bool {
    use HashAlgorithm::{Sha3_256, Sha3_512, Sha256, Sha384, Sha512};
    matches!(signature.hash_alg(), Some(Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512))
}

/// Whether a key that was made then has expired, by what a signature on it says.
fn has_expired(signature: &Signature, created: Timestamp, now: i64) -> bool {
    let lasts = signature.key_expiration_time().map_or(0, |d| d.as_secs());
    lasts > 0 && seconds(created) + i64::from(lasts) <= now
}

fn seconds(time: Timestamp) -> i64 {
    let since = SystemTime::from(time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
