//! A host key is trusted only when a line lists it; no line takes another key's revocation away.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_git::hostkeys::{HostKey, HostKeyVerdict, KnownHosts};

// A host and a port in the first line, then the file.
fuzz_target!(|input: &str| {
    let (first, text) = input.split_once('\n').unwrap_or_default();
    let (host, port) = first.rsplit_once(' ').unwrap_or((first, "22"));
    let Ok(port) = port.parse() else { return };
    let known = KnownHosts::parse(text);
    assert!(known.skipped().iter().all(|line| line.line >= 1 && line.line <= text.lines().count()));

    let stranger = HostKey::from_blob(b"\0\0\0\x0bssh-ed25519\0\0\0\x04evil").expect("a key");
    if !text.contains("AAAAC3NzaC1lZDI1NTE5AAAABGV2aWw") {
        assert_ne!(known.judge(host, port, &stranger), HostKeyVerdict::Known);
    }
    let keys: Vec<HostKey> = known.keys_of(host, port).cloned().collect();
    for key in &keys {
        let verdict = known.judge(host, port, key);
        assert!(matches!(verdict, HostKeyVerdict::Known | HostKeyVerdict::Revoked), "{verdict:?}");
        if verdict == HostKeyVerdict::Revoked {
            assert!(text.contains("@revoked"));
        }
    }
    // The line that a key is written as makes exactly that key known, for names that can stand in such a file.
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    if plain {
        let written = KnownHosts::parse(&stranger.known_hosts_line(host, port));
        assert_eq!(written.judge(host, port, &stranger), HostKeyVerdict::Known);
        for key in keys.iter().filter(|key| **key != stranger) {
            assert!(matches!(written.judge(host, port, key), HostKeyVerdict::Changed { .. }));
        }
    }
    // Built-in keys never replace a user's own.
    let both = known.clone().or(KnownHosts::builtin(), host, port);
    for key in &keys {
        assert_eq!(both.judge(host, port, key), known.judge(host, port, key));
    }
});
