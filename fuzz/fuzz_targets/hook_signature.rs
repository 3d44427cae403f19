//! No headers verify a body that the key did not sign, and those that the key made do.
#![no_main]

use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use stoker_k8s::receiver::{Key, Signatures, VerifyError};

const NAMES: [&str; 8] = [
    "x-hub-signature-256",
    "x-signature",
    "x-gitea-signature",
    "x-forgejo-signature",
    "x-gogs-signature",
    "webhook-signature",
    "webhook-id",
    "webhook-timestamp",
];

// Headers, one a line, an empty line, the secret in one line, then the body.
fuzz_target!(|input: &str| {
    let Some((head, rest)) = input.split_once("\n\n") else { return };
    let (secret, body) = rest.split_once('\n').unwrap_or((rest, ""));
    let (secret, body) = (secret.as_bytes(), body.as_bytes());
    let now = Timestamp::from_second(1_614_265_330).expect("a time");
    let mut headers = HeaderMap::new();
    for line in head.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        let Some(name) = NAMES.iter().find(|known| **known == name) else { continue };
        let Ok(value) = HeaderValue::from_str(value) else { continue };
        headers.append(HeaderName::from_static(name), value);
    }
    // Nobody knows this one.
    let unknown = Key::new(b"\x7f 0c1d2e3f-unguessable-by-mutation-9a8b7c6d");
    let read = Signatures::read(&headers, now);
    if let Ok(signatures) = &read {
        assert_eq!(signatures.verify(body, &[unknown]), Err(VerifyError::Mismatch));
        assert_eq!(signatures.verify(body, &[]), Err(VerifyError::Mismatch));
        assert_eq!(
            signatures.verify(body, &[Key::new(b" \n"), Key::new(b"whsec_")]),
            Err(VerifyError::Mismatch)
        );
    }

    // As GitHub signs.
    let raw = secret.trim_ascii();
    let key = Key::new(secret);
    if key.is_empty() {
        return;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(raw).expect("any length");
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut signed = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("sha256={digits}")).expect("ASCII");
    signed.insert("x-hub-signature-256", value);
    let signatures = Signatures::read(&signed, now).expect("a signature");
    let keys = [Key::new(b"the previous one"), key];
    assert_eq!(signatures.verify(body, &keys), Ok(()));
    let mut longer = body.to_vec();
    longer.push(b'x');
    assert_eq!(signatures.verify(&longer, &keys), Err(VerifyError::Mismatch));
});
