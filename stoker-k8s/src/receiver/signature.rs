//! Whether a delivery is signed with a key that we know: raw bytes and headers in, yes or no out.

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq;

/// How far the time of a Standard Webhooks signature may be from ours.
pub const TIMESTAMP_WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// Most signatures in one `webhook-signature` header, and most of its bytes.
const MAX_STANDARD: usize = 8;
const MAX_HEADER_BYTES: usize = 2048;

/// Why a delivery is not authentic. For tests and logs; senders never see which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No header with a signature that counts. SHA-1 does not.
    #[error("the delivery carries no signature of a known kind")]
    Missing,
    /// A header that should hold a signature holds something else.
    #[error("the delivery carries a malformed signature")]
    Malformed,
    /// Signed too long ago, or in the future.
    #[error("the delivery was signed at another time")]
    Stale,
    /// Signed with another key, or changed on its way.
    #[error("a signature does not fit")]
    Mismatch,
}

/// A key that deliveries may be signed with.
#[derive(Clone)]
pub struct Key {
    raw: Vec<u8>,
    /// For Standard Webhooks, where a secret may be written as `whsec_` and base64.
    standard: Vec<u8>,
}

impl Key {
    /// Makes a key of a secret's content; space around it is not part of it.
    ///
    /// A key made of nothing verifies nothing, see [`Key::is_empty`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let raw = secret.trim_ascii().to_vec();
        let encoded = raw.strip_prefix(b"whsec_").and_then(|text| BASE64.decode(text).ok());
        Self { standard: encoded.unwrap_or_else(|| raw.clone()), raw }
    }

    /// Whether there is nothing in it: everybody knows such a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty() || self.standard.is_empty()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The signatures that a delivery carries. Each of them has to be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// HMAC-SHA256 over the body.
    sha256: Vec<Vec<u8>>,
    /// HMAC-SHA512 over the body.
    sha512: Vec<Vec<u8>>,
    standard: Option<Standard>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Standard {
    /// `{id}.{timestamp}.`, which is signed before the body.
    prefix: Vec<u8>,
    /// Of which one has to be right: a sender that rotates its key signs with both.
    any_of: Vec<Vec<u8>>,
}

/// Headers with the plain hex digits of an HMAC-SHA256.
const PLAIN_HEX: [&str; 3] = ["x-forgejo-signature", "x-gitea-signature", "x-gogs-signature"];

impl Signatures {
    /// Reads the headers, at the time `now`.
    ///
    /// # Errors
    /// When there is no signature that counts, or one that is none, or one of another time.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Result<Self, VerifyError> {
        let mut found = Self { sha256: Vec::new(), sha512: Vec::new(), standard: None };
        for name in PLAIN_HEX {
            if let Some(text) = single(headers, name)? {
                found.sha256.push(hex(text, 32)?);
            }
        }
        for name in ["x-hub-signature-256", "x-signature"] {
            let Some(text) = single(headers, name)? else { continue };
            match text.split_once('=') {
                Some(("sha256", digits)) => found.sha256.push(hex(digits, 32)?),
                Some(("sha512", digits)) if name == "x-signature" => found.sha512.push(hex(digits, 64)?),
                _ => return Err(VerifyError::Malformed),
            }
        }
        found.standard = standard(headers, now)?;
        let any = !found.sha256.is_empty() || !found.sha512.is_empty() || found.standard.is_some();
        if any { Ok(found) } else { Err(VerifyError::Missing) }
    }

    /// Checks that one and the same of `keys` made all signatures over `body`.
    ///
    /// The time depends on the length of the body and the number of keys only.
    ///
    /// # Errors
    /// [`VerifyError::Mismatch`] when none did.
    pub fn verify(&self, body: &[u8], keys: &[Key]) -> Result<(), VerifyError> {
        let mut verified = subtle::Choice::from(0);
        for key in keys.iter().filter(|key| !key.is_empty()) {
            verified |= self.fits(body, key);
        }
        if bool::from(verified) { Ok(()) } else { Err(VerifyError::Mismatch) }
    }

    fn fits(&self, body: &[u8], key: &Key) -> subtle::Choice {
        let mut all = subtle::Choice::from(1);
        if !self.sha256.is_empty() {
            let digest = sha256(&key.raw, &[body]);
            all = self.sha256.iter().fold(all, |all, claimed| all & digest.ct_eq(claimed));
        }
        if !self.sha512.is_empty() {
            let digest = sha512(&key.raw, body);
            all = self.sha512.iter().fold(all, |all, claimed| all & digest.ct_eq(claimed));
        }
        if let Some(standard) = &self.standard {
            let digest = sha256(&key.standard, &[&standard.prefix, body]);
            let none = subtle::Choice::from(0);
            all &= standard.any_of.iter().fold(none, |any, claimed| any | digest.ct_eq(claimed));
        }
        all
    }
}

/// The one value of a header; several would leave open which of them counts.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, VerifyError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.len() <= MAX_HEADER_BYTES => {
            value.to_str().map(|text| Some(text.trim())).map_err(|_| VerifyError::Malformed)
        }
        _ => Err(VerifyError::Malformed),
    }
}

fn standard(headers: &HeaderMap, now: Timestamp) -> Result<Option<Standard>, VerifyError> {
    let Some(list) = single(headers, "webhook-signature")? else { return Ok(None) };
    let id = single(headers, "webhook-id")?.ok_or(VerifyError::Malformed)?;
    let time = single(headers, "webhook-timestamp")?.ok_or(VerifyError::Malformed)?;
    let seconds: i64 = time.parse().map_err(|_| VerifyError::Malformed)?;
    let signed_at = Timestamp::from_second(seconds).map_err(|_| VerifyError::Malformed)?;
    if now.duration_since(signed_at).abs() > TIMESTAMP_WINDOW {
        return Err(VerifyError::Stale);
    }
    // Other versions (asymmetric ones) may stand beside the one that a shared secret can check.
    let any_of: Vec<Vec<u8>> = list
        .split_ascii_whitespace()
        .take(MAX_STANDARD)
        .filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok())
        .collect();
    if any_of.is_empty() || id.is_empty() {
        return Err(VerifyError::Malformed);
    }
    Ok(Some(Standard { prefix: format!("{id}.{time}.").into_bytes(), any_of }))
}

fn hex(digits: &str, bytes: usize) -> Result<Vec<u8>, VerifyError> {
    let digits = digits.as_bytes();
    if digits.len() != bytes * 2 {
        return Err(VerifyError::Malformed);
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits
        .chunks(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect::<Option<_>>()
        .ok_or(VerifyError::Malformed)
}

fn sha256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    // HMAC takes keys of any length; the error type is for algorithms that do not.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn sha512(key: &[u8], body: &[u8]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha512>::new_from_slice(key) else { return Vec::new() };
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// GitHub's own example.
    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const DIGEST: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    /// The example of the Standard Webhooks reference implementations.
    const STANDARD_SECRET: &[u8] = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const STANDARD_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const STANDARD_TIME: &str = "1614265330";
    const STANDARD_BODY: &[u8] = br#"{"test": 2432232314}"#;
    const STANDARD_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (k.parse::<axum::http::HeaderName>().unwrap(), v.parse().unwrap()))
            .collect()
    }

    fn check(pairs: &[(&str, &str)], body: &[u8], secrets: &[&[u8]]) -> Result<(), VerifyError> {
        let keys: Vec<Key> = secrets.iter().map(|secret| Key::new(secret)).collect();
        let now = Timestamp::from_second(1_614_265_330 + 200).unwrap();
        Signatures::read(&headers(pairs), now)?.verify(body, &keys)
    }

    #[test]
    fn githubs_example_verifies_in_every_dialect() {
        let (prefixed, upper) = (format!("sha256={DIGEST}"), DIGEST.to_uppercase());
        for pair in [
            ("x-hub-signature-256", prefixed.as_str()),
            ("x-signature", &prefixed),
            ("x-gitea-signature", DIGEST),
            ("x-forgejo-signature", DIGEST),
            ("x-gogs-signature", &upper),
        ] {
            assert_eq!(check(&[pair], BODY, &[SECRET]), Ok(()), "{pair:?}");
            assert_eq!(check(&[pair], b"Hello, World?", &[SECRET]), Err(VerifyError::Mismatch), "{pair:?}");
            assert_eq!(check(&[pair], BODY, &[b"other"]), Err(VerifyError::Mismatch), "{pair:?}");
        }
    }

    #[test]
    fn both_secrets_of_a_rotation_count_and_a_newline_does_not() {
        let pair = [("x-gitea-signature", DIGEST)];
        assert_eq!(check(&pair, BODY, &[b"new", b"It's a Secret to Everybody\n"]), Ok(()));
        assert_eq!(check(&pair, BODY, &[b"new", b"newer"]), Err(VerifyError::Mismatch));
        assert_eq!(check(&pair, BODY, &[]), Err(VerifyError::Mismatch));
    }

    #[test]
    fn an_empty_secret_signs_nothing() {
        let digest: String = sha256(b"", &[BODY]).iter().map(|b| format!("{b:02x}")).collect();
        for empty in [b"".as_slice(), b" \n", b"whsec_"] {
            assert_eq!(check(&[("x-gitea-signature", &digest)], BODY, &[empty]), Err(VerifyError::Mismatch));
        }
    }

    #[test]
    fn a_wrong_signature_is_not_rescued_by_another() {
        let (good, bad) = (format!("sha256={DIGEST}"), "0".repeat(64));
        let both = [("x-hub-signature-256", good.as_str()), ("x-gitea-signature", bad.as_str())];
        assert_eq!(check(&both, BODY, &[SECRET]), Err(VerifyError::Mismatch));
        let both = [("x-hub-signature-256", good.as_str()), ("x-gitea-signature", "what")];
        assert_eq!(check(&both, BODY, &[SECRET]), Err(VerifyError::Malformed));
        let twice = [("x-gitea-signature", DIGEST), ("x-gitea-signature", bad.as_str())];
        let mut map = headers(&twice[..1]);
        map.append("x-gitea-signature", bad.parse().unwrap());
        assert_eq!(Signatures::read(&map, Timestamp::UNIX_EPOCH), Err(VerifyError::Malformed));
    }

    #[test]
    fn sha1_and_no_signature_are_nothing() {
        assert_eq!(check(&[], BODY, &[SECRET]), Err(VerifyError::Missing));
        let old = [("x-hub-signature", "sha1=4d1ea0ef9e5c6d2d3c7d7b0d0d0e0e6b6d1b1f1e")];
        assert_eq!(check(&old, BODY, &[SECRET]), Err(VerifyError::Missing));
        let weak = [("x-signature", "sha1=4d1ea0ef9e5c6d2d3c7d7b0d0d0e0e6b6d1b1f1e")];
        assert_eq!(check(&weak, BODY, &[SECRET]), Err(VerifyError::Malformed));
    }

    #[test]
    fn sha512_verifies() {
        let digest: String = sha512(SECRET, BODY).iter().map(|b| format!("{b:02x}")).collect();
        let value = format!("sha512={digest}");
        assert_eq!(check(&[("x-signature", &value)], BODY, &[SECRET]), Ok(()));
        assert_eq!(check(&[("x-hub-signature-256", &value)], BODY, &[SECRET]), Err(VerifyError::Malformed));
    }

    #[test]
    fn standard_webhooks_example_verifies_within_its_time() {
        let example = |time: &'static str, signature: &'static str| {
            [("webhook-id", STANDARD_ID), ("webhook-timestamp", time), ("webhook-signature", signature)]
        };
        let check = |pairs: &[(&str, &str)]| check(pairs, STANDARD_BODY, &[b"other", STANDARD_SECRET]);
        assert_eq!(check(&example(STANDARD_TIME, STANDARD_SIGNATURE)), Ok(()));
        // The time is signed, too; and an old delivery is none.
        assert_eq!(check(&example("1614265331", STANDARD_SIGNATURE)), Err(VerifyError::Mismatch));
        assert_eq!(check(&example("1614265000", STANDARD_SIGNATURE)), Err(VerifyError::Stale));
        assert_eq!(check(&example("99999999999999999", STANDARD_SIGNATURE)), Err(VerifyError::Malformed));
        // One of several is enough, other versions are passed over.
        let list = "v1a,AAAA v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(check(&example(STANDARD_TIME, list)), Ok(()));
        assert_eq!(check(&example(STANDARD_TIME, "v2,AAAA")), Err(VerifyError::Malformed));
        assert_eq!(check(&example(STANDARD_TIME, STANDARD_SIGNATURE)[1..]), Err(VerifyError::Malformed));
    }

    proptest! {
        #[test]
        fn whatever_headers_say_nothing_unsigned_passes(
            name in proptest::sample::select(vec!["x-hub-signature-256", "x-signature", "x-gitea-signature", "webhook-signature"]),
            value in "[ -~]{0,120}", body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let pairs = [(name, value.as_str()), ("webhook-id", "a"), ("webhook-timestamp", STANDARD_TIME)];
            prop_assert!(check(&pairs, &body, &[SECRET]).is_err());
        }
    }
}
