//! Signatures as `git`, `ssh-keygen` and `gpg` make them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stoker_core::Fault;
use stoker_git::serve::GitHttpServer;
use stoker_git::signature::TrustedKeys;
use stoker_git::{CommitId, GitError, Verification, Verified, VerifyMode};

use crate::support::*;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn trust(files: &[&str]) -> TrustedKeys {
    let mut keys = TrustedKeys::new();
    for file in files {
        keys.add("keys", file.as_bytes()).unwrap();
    }
    keys
}

/// Fetches a commit over http and judges it.
async fn judge(
    plant: &Plant,
    commit: CommitId,
    reference: &str,
    mode: VerifyMode,
    keys: &TrustedKeys,
) -> Result<Verified, GitError> {
    plant.push(&["--all"]);
    plant.push(&["--tags"]);
    crate::support::git(&plant.bare(), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let remote = remote(&format!("file://{}", plant.bare().display()));
    let cache = plant.cache("judge");
    let fetched = client().fetch(&remote, &cache, &stoker_git::Wanted::commit(commit)).await?;
    let verification = Verification { mode, keys: keys.clone() };
    let reference = reference.parse().unwrap();
    client().verify(&remote, &cache, &fetched.source, &reference, &verification, now()).await
}

async fn head(plant: &Plant, commit: CommitId, keys: &TrustedKeys) -> Result<String, (String, String)> {
    match judge(plant, commit, "main", VerifyMode::Head, keys).await {
        Ok(verified) => Ok(verified.commit.unwrap().name),
        Err(error) => Err((error.category().to_string(), error.to_string())),
    }
}

/// The same commit with another message under the same signature, as somebody who can write to the repository makes it.
fn tamper(plant: &Plant, commit: CommitId) -> CommitId {
    let raw = plant.git(&["cat-file", "commit", &commit.to_string()]) + "\n";
    assert!(raw.contains("a change"), "{raw}");
    let mut child = Command::new("git")
        .args(["hash-object", "-t", "commit", "-w", "--stdin"])
        .current_dir(plant.work())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(raw.replace("a change", "a strange").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    plant.git(&["branch", "-f", "tampered", &id]);
    id.parse().unwrap()
}

fn ssh_key(plant: &Plant, name: &str, kind: &str) -> (PathBuf, String) {
    let file = plant.dir.path().join(name);
    let mut command = Command::new("ssh-keygen");
    run(command.args(["-q", "-N", "", "-C", name, "-t", kind, "-f"]).arg(&file));
    let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    (file, public.trim().to_owned())
}

fn ssh_signed(plant: &Plant, key: &Path, arguments: &[&str]) {
    let key = format!("user.signingKey={}", key.display());
    let mut all = vec!["-c", "gpg.format=ssh", "-c", &key];
    all.extend(arguments);
    plant.git(&all);
}

fn ssh_commit(plant: &Plant, key: &Path) -> CommitId {
    ssh_signed(plant, key, &["commit", "-q", "--allow-empty", "-S", "-m", "a change"]);
    plant.id("HEAD")
}

#[tokio::test]
async fn ssh_signatures_of_every_kind_of_key_count_as_ssh_keygen_has_it() {
    let plant = Plant::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (key, public) = ssh_key(&plant, kind, kind);
        let commit = ssh_commit(&plant, &key);
        let allowed = format!("ada@plant.example {public}\n");
        assert_eq!(head(&plant, commit, &trust(&[&allowed])).await, Ok("ada@plant.example".into()), "{kind}");
        let file = plant.dir.path().join("allowed");
        std::fs::write(&file, &allowed).unwrap();
        plant.git(&[
            "-c",
            &format!("gpg.ssh.allowedSignersFile={}", file.display()),
            "verify-commit",
            "HEAD",
        ]);
    }
}

#[tokio::test]
async fn the_five_ways_of_an_ssh_signature_not_to_count_are_told_apart() {
    let plant = Plant::new();
    let (key, public) = ssh_key(&plant, "ada", "ed25519");
    let (_, other) = ssh_key(&plant, "bob", "ed25519");
    let unsigned = plant.id("main");
    let commit = ssh_commit(&plant, &key);
    let tampered = tamper(&plant, commit);
    let good = trust(&[&format!("ada {public}")]);
    for (commit, keys, category, says) in [
        (unsigned, good.clone(), "Unsigned", "it has no signature"),
        (commit, trust(&[&format!("bob {other}")]), "UnknownSigningKey", "SHA256:"),
        (commit, TrustedKeys::new(), "UnknownSigningKey", "not listed"),
        (
            commit,
            trust(&[&format!("ada namespaces=\"file\" {public}")]),
            "UnknownSigningKey",
            "other purposes",
        ),
        (commit, trust(&[&format!("ada cert-authority {public}")]), "UnknownSigningKey", "not listed"),
        (
            commit,
            trust(&[&format!("ada valid-after=\"20990101\" {public}")]),
            "UnknownSigningKey",
            "not valid yet",
        ),
        (
            commit,
            trust(&[&format!("ada valid-before=\"20200101\" {public}")]),
            "SigningKeyExpired",
            "had expired",
        ),
        (tampered, good.clone(), "BadSignature", "what it signed was changed"),
    ] {
        let (found, text) = head(&plant, commit, &keys).await.unwrap_err();
        assert_eq!(found, category, "{text}");
        assert!(text.contains(says) && text.contains(&commit.short()), "{text}");
    }
    let twice = format!("ada valid-before=\"20200101\" {public}\nada2 {public}\n");
    assert_eq!(head(&plant, commit, &trust(&[&twice])).await, Ok("ada2".into()));

    // Made for another purpose: somebody is asked to sign a file that happens to be a commit.
    let payload = plant.dir.path().join("payload");
    let raw = plant.git(&["cat-file", "commit", &unsigned.to_string()]) + "\n";
    std::fs::write(&payload, &raw).unwrap();
    run(Command::new("ssh-keygen").args(["-q", "-Y", "sign", "-n", "file", "-f"]).arg(&key).arg(&payload));
    let signature = std::fs::read_to_string(payload.with_extension("sig")).unwrap();
    let header = format!("\ngpgsig {}\n\n", signature.trim().replace('\n', "\n "));
    std::fs::write(&payload, raw.replacen("\n\n", &header, 1)).unwrap();
    let id = plant.git(&["hash-object", "-t", "commit", "-w", payload.to_str().unwrap()]);
    plant.git(&["branch", "-f", "purpose", &id]);
    let (found, text) = head(&plant, id.parse().unwrap(), &good).await.unwrap_err();
    assert_eq!(found, "BadSignature");
    assert!(text.contains("for the purpose \"file\""), "{text}");
}

/// What OpenSSH wrote before 8.2, and today's does not any more: a signature that is sound, by a listed key, with SHA-1.
#[tokio::test]
async fn an_rsa_signature_with_sha_1_does_not_count() {
    if stoker_testkit::require::program("openssl").is_none() {
        return;
    }
    let plant = Plant::new();
    let key = plant.dir.path().join("rsa");
    run(Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "rsa", "-m", "PEM", "-f"]).arg(&key));
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let unsigned = plant.id("main");
    let raw = plant.git(&["cat-file", "commit", &unsigned.to_string()]) + "\n";

    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let fields = [string(b"git"), string(b""), string(b"sha512")].concat();
    let digest = ring::digest::digest(&ring::digest::SHA512, raw.as_bytes());
    let message = plant.dir.path().join("message");
    std::fs::write(&message, [b"SSHSIG", &fields[..], &string(digest.as_ref())].concat()).unwrap();
    for (algorithm, hash) in [("ssh-rsa", "-sha1"), ("rsa-sha2-512", "-sha512")] {
        let signature = message.with_extension(algorithm);
        let mut sign = Command::new("openssl");
        run(sign.args(["dgst", hash, "-sign"]).arg(&key).arg("-out").arg(&signature).arg(&message));
        let made = [string(algorithm.as_bytes()), string(&std::fs::read(&signature).unwrap())].concat();
        let blob = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
        let all = [b"SSHSIG", &1u32.to_be_bytes()[..], &string(&blob), &fields, &string(&made)].concat();
        let lines: Vec<String> = STANDARD
            .encode(all)
            .as_bytes()
            .chunks(70)
            .map(|line| format!(" {}\n", String::from_utf8_lossy(line)))
            .collect();
        let armour = format!("-----BEGIN SSH SIGNATURE-----\n{} -----END SSH SIGNATURE-----", lines.concat());
        let file = plant.dir.path().join("signed");
        std::fs::write(&file, raw.replacen("\n\n", &format!("\ngpgsig {armour}\n\n"), 1)).unwrap();
        let id = plant.git(&["hash-object", "-t", "commit", "-w", file.to_str().unwrap()]);
        plant.git(&["branch", "-f", "signed", &id]);
        let keys = trust(&[&format!("ada {}", public.trim())]);
        match (algorithm, head(&plant, id.parse().unwrap(), &keys).await) {
            ("ssh-rsa", Err((category, text))) => {
                assert_eq!(category, "BadSignature", "{text}");
                assert!(text.contains("is made by ssh-rsa, which proves nothing any more"), "{text}");
            }
            (_, judged) => {
                assert_eq!(judged, Ok("ada".to_owned()), "{algorithm}: made the same way, it counts")
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_stands_for_its_authority() {
    let plant = Plant::new();
    let (authority, authority_public) = ssh_key(&plant, "authority", "ed25519");
    let (key, _) = ssh_key(&plant, "ada", "ed25519");
    let certify = |principal: &str, validity: &str| {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-I", "id", "-n", principal, "-V", validity, "-s"]).arg(&authority);
        run(command.arg(key.with_extension("pub")));
        // git signs with the certificate when that is what it is given.
        ssh_commit(&plant, &plant.dir.path().join("ada-cert.pub"))
    };
    let _ = std::fs::remove_file(plant.dir.path().join("ada-cert"));
    std::os::unix::fs::symlink(&key, plant.dir.path().join("ada-cert")).unwrap();
    let good = certify("ada@plant.example", "-1d:+1d");
    let trusted = trust(&[&format!("*@plant.example cert-authority,namespaces=\"git\" {authority_public}")]);
    assert_eq!(head(&plant, good, &trusted).await, Ok("ada@plant.example".into()));
    let category = async |commit, keys: &TrustedKeys| head(&plant, commit, keys).await.unwrap_err().0;
    let not_authority = trust(&[&format!("*@plant.example {authority_public}")]);
    assert_eq!(category(good, &not_authority).await, "UnknownSigningKey");
    let stranger = certify("eve@elsewhere.example", "-1d:+1d");
    assert_eq!(category(stranger, &trusted).await, "UnknownSigningKey");
    let expired = certify("ada@plant.example", "-2d:-1d");
    assert_eq!(category(expired, &trusted).await, "SigningKeyExpired");
}

/// A keyring of its own.
struct Gpg {
    home: tempfile::TempDir,
    program: PathBuf,
}

impl Gpg {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::Builder::new().prefix("gpg").tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let program = home.path().join("gpg.sh");
        let script = format!("#!/bin/sh\nexec gpg --homedir {} $GPG_OPTIONS \"$@\"\n", home.path().display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { home, program }
    }

    fn gpg(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        run(command
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""])
            .args(arguments))
    }

    /// Makes a key; returns its fingerprint.
    fn key(&self, who: &str, kind: &str, expires: &str, options: &[&str]) -> String {
        let mut arguments = options.to_vec();
        arguments.extend(["--quick-generate-key", who, kind, "sign", expires]);
        self.gpg(&arguments);
        let listed = self.gpg(&["--with-colons", "--list-keys", &format!("={who}")]);
        listed
            .lines()
            .find_map(|line| line.strip_prefix("fpr:::::::::"))
            .unwrap()
            .trim_end_matches(':')
            .to_owned()
    }

    fn public(&self, key: &str) -> String {
        self.gpg(&["--armor", "--export", key])
    }

    fn signed(&self, plant: &Plant, key: &str, options: &str, arguments: &[&str]) {
        let script = self.home.path().join("with-options.sh");
        let text = format!("#!/bin/sh\nGPG_OPTIONS='{options}' exec {} \"$@\"\n", self.program.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (program, key) = (format!("gpg.program={}", script.display()), format!("user.signingKey={key}"));
        let mut all = vec!["-c", &program, "-c", &key];
        all.extend(arguments);
        plant.git(&all);
    }

    fn commit(&self, plant: &Plant, key: &str, options: &str) -> CommitId {
        self.signed(plant, key, options, &["commit", "-q", "--allow-empty", "-S", "-m", "a change"]);
        plant.id("HEAD")
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent that gpg started for this home alone.
        let _ =
            Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "all"]).status();
    }
}

#[tokio::test]
async fn openpgp_signatures_count_and_the_five_ways_not_to_are_told_apart() {
    let (plant, gpg) = (Plant::new(), Gpg::new());
    let unsigned = plant.id("main");
    let mut good = None;
    for (who, kind) in [("Ada <ada@plant.example>", "ed25519"), ("Rob <rob@plant.example>", "rsa2048")] {
        let key = gpg.key(who, kind, "never", &[]);
        let commit = gpg.commit(&plant, &key, "");
        let trusted = trust(&[&gpg.public(&key)]);
        let verified =
            judge(&plant, commit, "main", VerifyMode::Head, &trusted).await.unwrap().commit.unwrap();
        assert_eq!((verified.name.as_str(), &verified.key), (who, &key), "{kind}");
        good = Some((key, commit, trusted));
    }
    let (key, commit, trusted) = good.unwrap();
    let tampered = tamper(&plant, commit);
    let other = gpg.key("Bob <bob@plant.example>", "ed25519", "never", &[]);
    let by_other = gpg.commit(&plant, &other, "");
    let weak = gpg.commit(&plant, &key, "--digest-algo SHA1");

    let past = "--faked-system-time 20200101T000000!";
    let old =
        gpg.key("Old <old@plant.example>", "ed25519", "30d", &["--faked-system-time", "20200101T000000!"]);
    let expired = gpg.commit(&plant, &old, past);
    let old_public = gpg.public(&old);

    let gone = gpg.key("Gone <gone@plant.example>", "ed25519", "never", &[]);
    let revoked = gpg.commit(&plant, &gone, "");
    let before = gpg.public(&gone);
    assert_eq!(head(&plant, revoked, &trust(&[&before])).await, Ok("Gone <gone@plant.example>".into()));
    let certificate = gpg.home.path().join(format!("openpgp-revocs.d/{gone}.rev"));
    let text = std::fs::read_to_string(&certificate).unwrap().replace(":-----BEGIN", "-----BEGIN");
    std::fs::write(&certificate, text).unwrap();
    gpg.gpg(&["--import", certificate.to_str().unwrap()]);
    let gone_public = gpg.public(&gone);

    for (commit, keys, category, says) in [
        (unsigned, trusted.clone(), "Unsigned", "it has no signature"),
        (by_other, trusted.clone(), "UnknownSigningKey", &other[..]),
        (tampered, trusted.clone(), "BadSignature", "what it signed was changed"),
        (weak, trusted.clone(), "BadSignature", "SHA1"),
        (expired, trust(&[&old_public]), "SigningKeyExpired", "Old <old@plant.example>"),
        (revoked, trust(&[&gone_public]), "SigningKeyRevoked", "Gone <gone@plant.example>"),
        // An older copy of the key does not know of that, wherever it stands.
        (revoked, trust(&[&before, &gone_public]), "SigningKeyRevoked", "Gone <gone@plant.example>"),
        (revoked, trust(&[&format!("{before}\n{gone_public}")]), "SigningKeyRevoked", "Gone"),
    ] {
        let (found, text) = head(&plant, commit, &keys).await.unwrap_err();
        assert_eq!(found, category, "{text}");
        assert!(text.contains(says), "{text}");
    }
    // Several blocks in one file, and lists of SSH keys beside it.
    let (ssh, public) = ssh_key(&plant, "sam", "ed25519");
    let by_ssh = ssh_commit(&plant, &ssh);
    let all = trust(&[
        &format!("{}\n{gone_public}", gpg.public(&other)),
        &format!("sam {public}"),
        &gpg.public(&key),
    ]);
    for commit in [by_other, by_ssh, gpg.commit(&plant, &key, "")] {
        head(&plant, commit, &all).await.unwrap();
    }
}

#[tokio::test]
async fn a_subkey_signs_for_its_key_until_it_is_revoked() {
    let (plant, gpg) = (Plant::new(), Gpg::new());
    let who = "Ada <ada@plant.example>";
    gpg.gpg(&["--quick-generate-key", who, "ed25519", "cert", "never"]);
    let listed = gpg.gpg(&["--with-colons", "--list-keys", &format!("={who}")]);
    let key =
        listed.lines().find_map(|line| line.strip_prefix("fpr:::::::::")).unwrap().trim_end_matches(':');
    gpg.gpg(&["--quick-add-key", key, "ed25519", "sign", "never"]);
    let commit = gpg.commit(&plant, key, "");
    assert_eq!(head(&plant, commit, &trust(&[&gpg.public(key)])).await, Ok(who.into()));

    let script = gpg.home.path().join("commands");
    std::fs::write(&script, "key 1\nrevkey\ny\n0\n\ny\nsave\n").unwrap();
    let mut edit = Command::new(&gpg.program);
    edit.args(["--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "", "--command-file"]);
    run(edit.arg(&script).args(["--edit-key", key]));
    let (found, text) = head(&plant, commit, &trust(&[&gpg.public(key)])).await.unwrap_err();
    assert_eq!(found, "SigningKeyRevoked", "{text}");
}

#[tokio::test]
async fn each_mode_asks_for_what_it_says() {
    let plant = Plant::new();
    let (key, public) = ssh_key(&plant, "ada", "ed25519");
    let trusted = trust(&[&format!("ada {public}")]);
    let unsigned = plant.id("main");
    ssh_signed(&plant, &key, &["tag", "-s", "-m", "one", "v1"]);
    plant.git(&["tag", "light"]);
    plant.git(&["tag", "-a", "-m", "two", "plain"]);
    let signed = ssh_commit(&plant, &key);
    ssh_signed(&plant, &key, &["tag", "-s", "-m", "three", "v2"]);
    plant.git(&["tag", "-a", "-m", "four", "plain2"]);
    // An old signed tag shown under a new name.
    plant.git(&["update-ref", "refs/tags/v3", "refs/tags/v2"]);
    plant.push(&["--all"]);
    plant.push(&["--tags"]);

    let server = GitHttpServer::start(plant.root()).await.unwrap();
    for url in [server.url("plant.git"), format!("file://{}", plant.bare().display())] {
        let (remote, cache) =
            (remote(&url), plant.cache(if url.starts_with("http") { "http" } else { "file" }));
        let judge = async |commit: CommitId, reference: &str, mode| {
            let fetched =
                client().fetch(&remote, &cache, &stoker_git::Wanted::commit(commit)).await.unwrap().source;
            let verification = Verification { mode, keys: trusted.clone() };
            let reference = reference.parse().unwrap();
            let verified = client().verify(&remote, &cache, &fetched, &reference, &verification, now()).await;
            verified
                .map(|v| (v.commit.is_some(), v.tag.is_some()))
                .map_err(|e| (e.category().to_string(), e.to_string()))
        };
        use VerifyMode::{Head, Tag, TagAndHead};
        for (commit, reference, mode, expected) in [
            (signed, "v2", Head, Ok((true, false))),
            (signed, "v2", Tag, Ok((false, true))),
            (signed, "refs/tags/v2", TagAndHead, Ok((true, true))),
            (signed, "plain2", Head, Ok((true, false))),
            (signed, "plain2", TagAndHead, Err(("Unsigned", "tag plain2"))),
            // A signed tag on top of a commit that is not.
            (unsigned, "v1", Head, Err(("Unsigned", "commit"))),
            (unsigned, "v1", Tag, Ok((false, true))),
            (unsigned, "v1", TagAndHead, Err(("Unsigned", "commit"))),
            (unsigned, "plain", Tag, Err(("Unsigned", "tag plain"))),
            (unsigned, "light", Tag, Err(("Unsigned", "lightweight"))),
            (unsigned, "main", Tag, Err(("Unsigned", "no such tag"))),
            (signed, "refs/heads/main", Tag, Err(("Unsigned", "is no tag"))),
            (signed, &signed.to_string(), Tag, Err(("Unsigned", "is no tag"))),
            (unsigned, "v2", Tag, Err(("BadSignature", "it is of commit"))),
            (signed, "v3", Tag, Err(("BadSignature", "another name"))),
        ] {
            match (judge(commit, reference, mode).await, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{reference} {mode:?}"),
                (Err((category, text)), Err((expected, says))) => {
                    assert_eq!(category, expected, "{reference} {mode:?}: {text}");
                    assert!(text.contains(says), "{reference} {mode:?}: {text}");
                }
                (found, _) => panic!("{reference} {mode:?}: {found:?}"),
            }
        }
        // What was asked for once is here; and a tag that is signed later is looked at again.
        let before = server.backend().requests();
        judge(signed, "v2", Tag).await.unwrap();
        assert_eq!(server.backend().requests(), before);
        crate::support::git(&cache.dir().join("g1"), &["fsck", "--full"]);
    }
    let (remote, cache) = (remote(&server.url("plant.git")), plant.cache("http"));
    plant.git(&["checkout", "-q", &unsigned.to_string()]);
    ssh_signed(&plant, &key, &["tag", "-f", "-s", "-m", "now", "plain"]);
    plant.push(&["refs/tags/plain"]);
    let fetched =
        client().fetch(&remote, &cache, &stoker_git::Wanted::commit(unsigned)).await.unwrap().source;
    let verification = Verification { mode: VerifyMode::Tag, keys: trusted };
    let reference = "plain".parse().unwrap();
    client().verify(&remote, &cache, &fetched, &reference, &verification, now()).await.unwrap();
}
