//! A signature counts for what was signed and nothing else, and only by a key that is listed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_git::signature::{Problem, Signed, TrustedKeys};

const MARK: &[u8] = b"=====\n";

// A file of keys, then a commit or a tag.
fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) else { return };
    let (file, object) = (&bytes[..at], &bytes[at + MARK.len()..]);
    let mut keys = TrustedKeys::new();
    if let Err(error) = keys.add("keys", file) {
        assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
    }
    let is_tag = object.starts_with(b"object ");
    let parse = |raw: &[u8]| if is_tag { Signed::tag(raw) } else { Signed::commit(raw) };
    let Some(signed) = parse(object) else { return };
    match keys.judge(&signed, 1_800_000_000) {
        Ok(signer) => {
            assert!(!keys.is_empty());
            assert!(!signer.to_string().chars().any(char::is_control), "{signer:?}");
            // A word more in the message is another message. That of a tag is before its signature.
            let mut other = object.to_vec();
            let end = other.windows(2).position(|w| w == b"\n\n").expect("a message") + 2;
            other.insert(end, b'x');
            if let Some(other) = parse(&other) {
                let refusal = keys.judge(&other, 1_800_000_000).expect_err("it was changed");
                assert!(matches!(refusal.problem, Problem::BadSignature | Problem::Unsigned), "{refusal}");
            }
            let nobody = TrustedKeys::new().judge(&signed, 1_800_000_000).expect_err("nobody is trusted");
            assert_eq!(nobody.problem, Problem::UnknownKey);
        }
        Err(refusal) => {
            assert!(!refusal.to_string().chars().any(char::is_control), "{refusal:?}");
        }
    }
});
