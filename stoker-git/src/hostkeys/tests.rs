use super::*;
use std::path::Path;
use std::process::Command;

/// What the forges publish, as fingerprints.
const PUBLISHED: &[(&str, &[&str])] = &[
    (
        "github.com",
        &[
            "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
            "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
            "SHA256:uNiVztksCsDhcc0u9e8BujQXVUpKZIDTMczCvj3tD2s",
        ],
    ),
    (
        "gitlab.com",
        &[
            "SHA256:HbW3g8zUjNSksFbqTiUWPWg2Bq1x8xdGUrliXFzSnUw",
            "SHA256:ROQFvPThGrW4RuWLoL9tq9I9zJ42fK4XywyRtbOz/EQ",
            "SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8",
        ],
    ),
    (
        "bitbucket.org",
        &[
            "SHA256:46OSHA1Rmj8E8ERTC6xkNcmGOw9oFxYr0WF6zWW8l1E",
            "SHA256:FC73VB6C4OQLSCrjEayhMp9UMxS97caD/Yyi2bhW/J0",
            "SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM",
        ],
    ),
    ("ssh.dev.azure.com", &["SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og"]),
];

#[test]
fn the_built_in_keys_are_the_published_ones() {
    let known = KnownHosts::builtin();
    assert_eq!(known.skipped(), []);
    let mut listed = 0;
    for (host, fingerprints) in PUBLISHED {
        let mut found: Vec<String> = known.keys_of(host, 22).map(HostKey::fingerprint).collect();
        found.sort();
        assert_eq!(found, *fingerprints, "{host}");
        listed += found.len();
    }
    assert_eq!(listed, known.entries.len(), "nothing else is built in");
    assert_eq!(known.keys_of("ssh.github.com", 443).count(), 3);
    assert_eq!(known.keys_of("ssh.github.com", 22).count(), 0);
}

fn keygen(dir: &Path, name: &str, kind: &str) -> HostKey {
    let file = dir.join(name);
    let status =
        Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&file).status().unwrap();
    assert!(status.success());
    let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    let blob = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
    HostKey::from_blob(&blob).unwrap()
}

#[test]
fn unknown_changed_and_revoked_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (keygen(dir.path(), "old", "ed25519"), keygen(dir.path(), "new", "ed25519"));
    let line = |key: &HostKey| key.known_hosts_line("git.example.com", 2222);
    assert!(line(&old).starts_with("[git.example.com]:2222 ssh-ed25519 AAAA"), "{}", line(&old));

    let known = KnownHosts::parse(&format!("# a comment\n\n{} a comment\n", line(&old)));
    assert_eq!(known.judge("Git.Example.com", 2222, &old), HostKeyVerdict::Known);
    assert_eq!(known.judge("git.example.com", 22, &old), HostKeyVerdict::Unknown);
    assert_eq!(known.judge("other.example.com", 2222, &old), HostKeyVerdict::Unknown);
    let changed = HostKeyVerdict::Changed { known: vec![old.fingerprint()] };
    assert_eq!(known.judge("git.example.com", 2222, &new), changed);

    let revoked = KnownHosts::parse(&format!("{}\n@revoked {}", line(&old), line(&old)));
    assert_eq!(revoked.judge("git.example.com", 2222, &old), HostKeyVerdict::Revoked);
    let everywhere = KnownHosts::parse(&format!(
        "@revoked * {}",
        old.known_hosts_line("x", 22).split_once(' ').unwrap().1
    ));
    assert_eq!(everywhere.judge("git.example.com", 2222, &old), HostKeyVerdict::Revoked);
}

#[test]
fn a_line_without_a_port_serves_every_port_but_accuses_on_none() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (keygen(dir.path(), "old", "ed25519"), keygen(dir.path(), "new", "ed25519"));
    let known = KnownHosts::parse(&old.known_hosts_line("h", 22));
    assert_eq!(known.judge("h", 2222, &old), HostKeyVerdict::Known);
    assert_eq!(known.judge("h", 2222, &new), HostKeyVerdict::Unknown);
}

#[test]
fn a_file_hashed_by_ssh_keygen_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key", "ecdsa");
    let file = dir.path().join("known_hosts");
    std::fs::write(
        &file,
        format!("{}\n{}\n", key.known_hosts_line("a.example", 22), key.known_hosts_line("b.example", 8022)),
    )
    .unwrap();
    let output = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
    assert!(output.status.success());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    let known = KnownHosts::parse(&text);
    assert_eq!(known.judge("a.example", 22, &key), HostKeyVerdict::Known);
    assert_eq!(known.judge("b.example", 8022, &key), HostKeyVerdict::Known);
    assert_eq!(known.judge("c.example", 22, &key), HostKeyVerdict::Unknown);
}

#[test]
fn patterns_and_exceptions() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key", "ed25519");
    let known = KnownHosts::parse(&key.known_hosts_line("*.example.com,!bad.example.com,[10.0.0.?]:22", 22));
    for (host, expected) in [
        ("a.example.com", HostKeyVerdict::Known),
        ("a.b.example.com", HostKeyVerdict::Known),
        ("bad.example.com", HostKeyVerdict::Unknown),
        ("example.com", HostKeyVerdict::Unknown),
    ] {
        assert_eq!(known.judge(host, 22, &key), expected, "{host}");
    }
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abcd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("**a", "bca", true),
    ] {
        assert_eq!(glob::lists([pattern], text), expected, "{pattern} {text}");
    }
}

#[test]
fn unusable_lines_are_skipped_and_said() {
    let good = KnownHosts::builtin();
    let key = good.keys_of("github.com", 22).next().unwrap().known_hosts_line("h", 22);
    let text = format!(
        "{key}\nh\nh ssh-ed25519\nh ssh-ed25519 !!!\nh ssh-rsa {}\n@cert-authority {key}\n@what {key}\n|2|a|b ssh-ed25519 AAAA\nh x AAAA",
        key.rsplit(' ').next().unwrap()
    );
    let known = KnownHosts::parse(&text);
    assert_eq!(known.entries.len(), 2);
    assert_eq!(known.skipped().iter().map(|s| s.line).collect::<Vec<_>>(), [2, 3, 4, 5, 7, 8, 9]);
}

#[test]
fn without_a_certificate_an_authority_makes_no_host_known() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "ca", "ed25519");
    let line = key.known_hosts_line("x", 22);
    let ca = |hosts: &str| {
        KnownHosts::parse(&format!("@cert-authority {hosts} {}", line.split_once(' ').unwrap().1))
    };
    let known = ca("*.example.com,[git.example.net]:2222");
    let uncertified = |verdict| matches!(verdict, HostKeyVerdict::Uncertified { .. });
    assert!(uncertified(known.judge("git.example.com", 22, &key)));
    assert_eq!(known.judge("example.org", 22, &key), HostKeyVerdict::Unknown);
    assert!(known.names_authority("git.example.com", 22) && known.names_authority("Git.example.com", 2222));
    assert!(known.names_authority("git.example.net", 2222) && !known.names_authority("git.example.net", 22));
    assert!(!known.names_authority("example.org", 22));
    assert!(!KnownHosts::parse(&line).names_authority("x", 22));
}

#[test]
fn a_users_line_replaces_the_built_in_ones() {
    let dir = tempfile::tempdir().unwrap();
    let own = keygen(dir.path(), "own", "ed25519");
    let mine = || KnownHosts::parse(&own.known_hosts_line("github.com", 22));
    let builtin = KnownHosts::builtin();
    let official = builtin.keys_of("github.com", 22).next().unwrap();
    let merged = mine().or(KnownHosts::builtin(), "github.com", 22);
    assert!(matches!(merged.judge("github.com", 22, official), HostKeyVerdict::Changed { .. }));
    let other = mine().or(KnownHosts::builtin(), "gitlab.com", 22);
    assert_eq!(other.keys_of("gitlab.com", 22).count(), 3);
}

#[test]
fn the_known_kind_of_key_is_asked_for_first() {
    let known = KnownHosts::builtin();
    let order = |host: &str, port| known.algorithms(host, port);
    assert_eq!(order("ssh.dev.azure.com", 22)[..2], ["rsa-sha2-512", "rsa-sha2-256"]);
    assert_eq!(order("nobody.example", 22)[0], "ssh-ed25519");
    assert_eq!(order("ssh.dev.azure.com", 22).len(), ALGORITHMS.len());
}
