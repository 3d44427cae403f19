//! A fetch from a server that says anything: packets that can be read are sent, and every byte of a pack is counted.
#![no_main]

use libfuzzer_sys::fuzz_target;

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

// The greeting, then the answer.
fuzz_target!(|bytes: &[u8]| {
    let mark = b"=====\n";
    let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) else { return };
    let input = (&bytes[..at], &bytes[at + mark.len()..]);
    let commit = COMMIT.parse().expect("a commit id");
    match stoker_git::fuzz::exchange(input.0, input.1, commit) {
        Ok(exchange) => {
            assert_eq!(exchange.pack.len() as u64, exchange.counted);
            assert!(exchange.pack.len() <= input.1.len());
            assert!(packets(&exchange.request), "{:?}", String::from_utf8_lossy(&exchange.request));
            // What is asked for is what was wanted, or something the server has itself offered.
            assert!(exchange.request.windows(5).any(|window| window == b"want "));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
});

/// Whether bytes are a sequence of whole packets.
fn packets(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(length) = rest.get(..4).and_then(|digits| std::str::from_utf8(digits).ok()) else {
            return false;
        };
        let Ok(length) = usize::from_str_radix(length, 16) else { return false };
        let Some(tail) = rest.get(length.max(4)..) else { return false };
        rest = tail;
    }
    true
}
