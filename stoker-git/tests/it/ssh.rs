//! OpenSSH.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::StreamExt;
use stoker_core::Fault;
use stoker_git::{Access, Credentials, GitError, RefSpec, Remote, Secret, Wanted};

use crate::support::*;

/// An `sshd` of the current user on loopback.
pub(crate) struct Sshd {
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    user: String,
    _server: Server,
}

impl Sshd {
    /// `options` are lines of sshd_config; every key in `<dir>/client-*.pub` may log in.
    pub(crate) fn start(plant: &Plant, host_keys: &[&str], options: &[&str]) -> Self {
        let dir = plant.dir.path().join("ssh");
        std::fs::create_dir_all(&dir).unwrap();
        let (port, user) = (free_port(), run("id", &["-un"]));
        let mut config = vec![
            format!("ListenAddress 127.0.0.1:{port}"),
            format!("AuthorizedKeysFile {}/authorized_keys", dir.display()),
            format!("PidFile {}/pid", dir.display()),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "PasswordAuthentication no".into(),
            "KbdInteractiveAuthentication no".into(),
            "PermitRootLogin prohibit-password".into(),
            "MaxStartups 100".into(),
        ];
        for kind in host_keys {
            keygen(&dir.join(format!("host-{kind}")), kind, "", &[]);
            config.push(format!("HostKey {}/host-{kind}", dir.display()));
        }
        config.extend(options.iter().map(|o| (*o).to_owned()));
        std::fs::write(dir.join("config"), config.join("\n") + "\n").unwrap();
        std::fs::write(dir.join("authorized_keys"), "").unwrap();
        // Where sshd wants to lock up its unprivileged half; the package's service makes it at boot.
        if user == "root" {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(dir.join("config")).stderr(Stdio::null());
        let server = Server::start(&mut command, port);
        Self { port, dir, user, _server: server }
    }

    /// Makes a key and lets it in.
    pub(crate) fn client_key(&self, name: &str, kind: &str, passphrase: &str, format: &[&str]) -> Secret {
        let file = self.dir.join(name);
        keygen(&file, kind, passphrase, format);
        let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let list = self.dir.join("authorized_keys");
        let all = std::fs::read_to_string(&list).unwrap();
        std::fs::write(list, all + &public).unwrap();
        Secret::new(std::fs::read_to_string(file).unwrap())
    }

    pub(crate) fn known_hosts(&self) -> String {
        let mut lines = String::new();
        for entry in std::fs::read_dir(&self.dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("host-") && name.ends_with(".pub") {
                let public = std::fs::read_to_string(entry.path()).unwrap();
                lines += &format!("[127.0.0.1]:{} {public}", self.port);
            }
        }
        lines
    }

    pub(crate) fn url(&self, path: &Path) -> String {
        format!("ssh://{}@127.0.0.1:{}{}", self.user, self.port, path.display())
    }

    pub(crate) fn remote(
        &self,
        path: &Path,
        key: Option<(&Secret, Option<&str>)>,
        known_hosts: &str,
    ) -> Remote {
        let credentials = match key {
            Some((key, passphrase)) => {
                Credentials::SshKey { private_key: key.clone(), passphrase: passphrase.map(Secret::from) }
            }
            None => Credentials::None,
        };
        let access = Access { credentials, known_hosts: Some(known_hosts.to_owned()), ..Access::default() };
        Remote::new(url_of(&self.url(path)), access)
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keygen(file: &Path, kind: &str, passphrase: &str, format: &[&str]) {
    let mut arguments = vec!["-q", "-t", kind, "-N", passphrase, "-f", file.to_str().unwrap()];
    if kind == "rsa" && !format.contains(&"-b") {
        arguments.extend(["-b", "2048"]);
    }
    arguments.extend(format);
    run("ssh-keygen", &arguments);
}

fn main_branch() -> RefSpec {
    "main".parse().unwrap()
}

/// Every kind of key × every form of file × with and without a passphrase. The server takes SHA-2 signatures only.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_in_every_form_opens_the_door() {
    let plant = Plant::new();
    let sha2 = "PubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512";
    let sshd = Sshd::start(&plant, &["ed25519"], &[sha2]);
    let known = sshd.known_hosts();
    let mut cells = Vec::new();
    for (kind, bits) in
        [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")]
    {
        // What ssh-keygen writes of these keys; of an ed25519 key it writes OpenSSH's own form whatever is asked for.
        let forms: &[&str] = if kind == "ed25519" { &["RFC4716"] } else { &["RFC4716", "PEM", "PKCS8"] };
        for form in forms {
            for passphrase in ["", "open sesame"] {
                let name = format!("client-{kind}{bits}-{form}-{}", passphrase.len());
                let bits = if bits.is_empty() { vec![] } else { vec!["-b", bits] };
                let format = [&bits[..], &["-m", form]].concat();
                let key = sshd.client_key(&name, kind, passphrase, &format);
                let remote = sshd.remote(
                    &plant.bare(),
                    Some((&key, Some(passphrase).filter(|p| !p.is_empty()))),
                    &known,
                );
                cells.push((name, remote));
            }
        }
    }
    let count = cells.len();
    let failures: Vec<String> = futures::stream::iter(cells)
        .map(|(name, remote)| async move {
            client().resolve(&remote, &main_branch()).await.err().map(|e| format!("{name}: {e}"))
        })
        .buffer_unordered(4)
        .filter_map(|failure| async { failure })
        .collect()
        .await;
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(count, 26);
}

#[tokio::test]
async fn keys_that_open_nothing_say_why() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let known = sshd.known_hosts();
    let locked = sshd.client_key("client-locked", "ed25519", "open sesame", &[]);
    let stranger = plant.dir.path().join("stranger");
    keygen(&stranger, "ed25519", "", &[]);
    let stranger = Secret::new(std::fs::read_to_string(stranger).unwrap());
    let garbage =
        Secret::from("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    for (key, category, says) in [
        (Some((&stranger, None)), "AuthenticationFailed", "does not know this key"),
        (None, "AuthenticationFailed", "needs a key"),
        (Some((&locked, Some("open barley"))), "CredentialInvalid", "wrong passphrase"),
        (Some((&locked, None)), "CredentialInvalid", "no passphrase is given"),
        (Some((&garbage, None)), "CredentialInvalid", "not a private key"),
    ] {
        let remote = sshd.remote(&plant.bare(), key, &known);
        let error = client().resolve(&remote, &main_branch()).await.unwrap_err();
        assert_eq!(error.category().as_str(), category, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let access = Access { credentials: token("t"), known_hosts: Some(known), ..Access::default() };
    let remote = Remote::new(url_of(&sshd.url(&plant.bare())), access);
    let error = client().resolve(&remote, &main_branch()).await.unwrap_err();
    assert!(error.to_string().contains("use an ssh key"), "{error}");
}

#[tokio::test]
async fn an_unknown_a_changed_and_a_revoked_host_key_are_three_things() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let (git, wanted) = (client(), main_branch());
    let resolve = |known: String| {
        let remote = sshd.remote(&plant.bare(), Some((&key, None)), &known);
        let (git, wanted) = (git.clone(), wanted.clone());
        async move { git.resolve(&remote, &wanted).await }
    };

    let error = resolve(String::new()).await.unwrap_err();
    let GitError::HostKeyUnknown { host, fingerprint, line, .. } = &error else { panic!("{error}") };
    assert_eq!(*host, format!("[127.0.0.1]:{}", sshd.port));
    let listed = run("ssh-keygen", &["-lf", sshd.dir.join("host-ed25519.pub").to_str().unwrap()]);
    assert!(listed.contains(fingerprint.as_str()), "{listed} {fingerprint}");
    let error =
        resolve(std::fs::read_to_string(sshd.dir.join("host-ed25519.pub")).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("(line 1 of known_hosts cannot be used: "), "{error}");
    // The line that the error offers is the line that helps.
    resolve(line.clone()).await.unwrap();

    let other = plant.dir.path().join("other");
    keygen(&other, "ed25519", "", &[]);
    let public = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let stale = format!("[127.0.0.1]:{} {public}", sshd.port);
    let error = resolve(stale.clone()).await.unwrap_err();
    assert!(matches!(&error, GitError::HostKeyChanged { line: offered, .. } if offered == line), "{error}");
    resolve(format!("{stale}{line}")).await.unwrap();

    let error = resolve(format!("{line}\n@revoked {line}")).await.unwrap_err();
    assert!(matches!(error, GitError::HostKeyRevoked { .. }), "{error}");
}

/// A server whose host key an authority has signed.
struct Certified {
    sshd: Sshd,
    key: Secret,
    /// Public keys, as their files have them.
    authority: String,
    host: String,
}

impl Certified {
    fn start(plant: &Plant, kind: &str, authority_kind: &str, sign: &[&str]) -> Self {
        let dir = plant.dir.path().join("ssh");
        let (authority, host) = (plant.dir.path().join("ca"), dir.join("host-certified"));
        std::fs::create_dir_all(&dir).unwrap();
        keygen(&authority, authority_kind, "", &[]);
        keygen(&host, kind, "", &[]);
        let public = |file: &Path| std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let (signer, signed) = (authority.to_str().unwrap(), host.with_extension("pub"));
        let common = ["-q", "-s", signer, "-I", "host", "-h"];
        run("ssh-keygen", &[&common[..], sign, &[signed.to_str().unwrap()]].concat());
        // The server reads the certificate when it starts.
        let lines =
            [format!("HostKey {}", host.display()), format!("HostCertificate {}-cert.pub", host.display())];
        let sshd = Sshd::start(plant, &[], &[&lines[0], &lines[1]]);
        let key = sshd.client_key("client", "ed25519", "", &[]);
        Self { sshd, key, authority: public(&authority), host: public(&host) }
    }

    /// Whether OpenSSH's own client is content with the host.
    fn content_ssh(&self, known_hosts: &str) -> bool {
        let file = self.sshd.dir.join("known_hosts");
        std::fs::write(&file, known_hosts).unwrap();
        let listing = format!("UserKnownHostsFile={}", file.display());
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "GlobalKnownHostsFile=none",
            "-o",
            &listing,
            "-p",
        ]);
        ssh.args([&self.sshd.port.to_string(), "-i"]).arg(self.sshd.dir.join("client"));
        ssh.args([&format!("{}@127.0.0.1", self.sshd.user), "true"]).stderr(Stdio::null());
        ssh.status().unwrap().success()
    }

    async fn resolve(&self, plant: &Plant, git: &stoker_git::Git, known_hosts: &str) -> Result<(), GitError> {
        let remote = self.sshd.remote(&plant.bare(), Some((&self.key, None)), known_hosts);
        git.resolve(&remote, &main_branch()).await.map(|_| ())
    }
}

/// What OpenSSH's own client makes of a host's certificate is what is made of it here.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_makes_a_host_known_where_it_does_so_for_ssh() {
    const GOOD: &[&str] = &["-n", "127.0.0.1"];
    const BY_HOST: &str = "@cert-authority [127.0.0.1]:<port> <ca>";
    // Host key, authority's key, how it is signed, known_hosts, what is said in the refusal.
    let cells: &[(&str, &str, &[&str], &str, Option<&str>)] = &[
        ("ed25519", "ed25519", GOOD, BY_HOST, None),
        ("ecdsa", "rsa", GOOD, BY_HOST, None),
        ("rsa", "ecdsa", GOOD, BY_HOST, None),
        // A line without a port means every port, a certificate without names every host; its names are no patterns.
        ("ed25519", "ed25519", &["-n", "elsewhere,127.0.0.1"], "@cert-authority 127.0.* <ca>", None),
        ("ed25519", "ed25519", &[], BY_HOST, None),
        ("ed25519", "ed25519", &["-n", "127.0.0.?"], BY_HOST, Some("is for 127.0.0.?, not for 127.0.0.1")),
        ("ed25519", "ed25519", &["-n", "elsewhere"], BY_HOST, Some("is for elsewhere, not for 127.0.0.1")),
        ("ed25519", "ed25519", &["-n", "127.0.0.1", "-V", "20200101:20210101"], BY_HOST, Some("has expired")),
        (
            "ed25519",
            "ed25519",
            &["-n", "127.0.0.1", "-V", "20900101:20910101"],
            BY_HOST,
            Some("not valid before"),
        ),
        ("ed25519", "ed25519", &["-n", "127.0.0.1", "-O", "critical:x=y"], BY_HOST, Some("the option \"x\"")),
        ("ed25519", "rsa", &["-n", "127.0.0.1", "-t", "ssh-rsa"], BY_HOST, Some("was not made by")),
        // Another authority; one that is named for another host; one that is revoked.
        (
            "ed25519",
            "ed25519",
            GOOD,
            "@cert-authority [127.0.0.1]:<port> <host>",
            Some("which is not listed"),
        ),
        ("ed25519", "ed25519", GOOD, "@cert-authority other.example <ca>", Some("is not known")),
        (
            "ed25519",
            "ed25519",
            GOOD,
            "@cert-authority [127.0.0.1]:<port> <ca>@revoked * <ca>",
            Some("revoked"),
        ),
        (
            "ed25519",
            "ed25519",
            GOOD,
            "@cert-authority [127.0.0.1]:<port> <ca>@revoked * <host>",
            Some("revoked"),
        ),
        // The key itself is listed, whatever its certificate says; or another one is.
        ("ed25519", "ed25519", &["-n", "elsewhere"], "@cert-authority * <ca>[127.0.0.1]:<port> <host>", None),
        ("ed25519", "ed25519", GOOD, "[127.0.0.1]:<port> <host>", None),
        ("ed25519", "ed25519", GOOD, "[127.0.0.1]:<port> <ca>", Some("CHANGED")),
    ];
    let judged = futures::stream::iter(cells).map(|(kind, authority, sign, known, says)| async move {
        let plant = Plant::new();
        let host = Certified::start(&plant, kind, authority, sign);
        let known = known
            .replace("<port>", &host.sshd.port.to_string())
            .replace("<ca>", &host.authority)
            .replace("<host>", &host.host);
        let name = format!("{kind} {authority} {sign:?} {known}");
        assert_eq!(host.content_ssh(&known), says.is_none(), "ssh: {name}");
        match (host.resolve(&plant, &client(), &known).await, says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) if error.to_string().contains(says) => {}
            (judged, _) => panic!("{name}: {judged:?}"),
        }
    });
    judged.buffer_unordered(4).collect::<Vec<()>>().await;
}

/// The refusal has the line that helps; and a client that accepts new keys does not take this for one.
#[tokio::test]
async fn a_host_whose_certificate_does_not_do_is_no_new_host() {
    let plant = Plant::new();
    let host = Certified::start(&plant, "ed25519", "ed25519", &["-n", "elsewhere"]);
    let known = format!("@cert-authority [127.0.0.1]:{} {}", host.sshd.port, host.authority);
    let remembered = plant.dir.path().join("remembered");
    for git in [client(), client().with_accept_new(&remembered)] {
        let error = host.resolve(&plant, &git, &known).await.unwrap_err();
        let GitError::HostCertificateRefused { line, .. } = &error else { panic!("{error}") };
        assert_eq!(error.category().as_str(), "HostKeyUnknown");
        assert!(error.to_string().contains("@cert-authority"), "{error}");
        host.resolve(&plant, &git, &format!("{known}{line}")).await.unwrap();
    }
    assert!(!remembered.exists());

    // A host that has no certificate at all.
    let plain = Plant::new();
    let sshd = Sshd::start(&plain, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let known = format!("@cert-authority [127.0.0.1]:{} {}", sshd.port, host.authority);
    let remote = sshd.remote(&plain.bare(), Some((&key, None)), &known);
    let error = client().resolve(&remote, &main_branch()).await.unwrap_err();
    assert!(error.to_string().contains("shows a key without a certificate"), "{error}");
}

#[tokio::test]
async fn only_a_client_that_is_told_to_trusts_a_host_on_first_use() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let file = plant.dir.path().join("remembered");
    let trusting = client().with_accept_new(&file);
    let remote = |known: &str| sshd.remote(&plant.bare(), Some((&key, None)), known);

    let error = client().resolve(&remote(""), &main_branch()).await.unwrap_err();
    assert!(matches!(error, GitError::HostKeyUnknown { .. }), "{error}");
    // A key that is known, or revoked, is nothing new.
    let known = sshd.known_hosts();
    trusting.resolve(&remote(&known), &main_branch()).await.unwrap();
    let error = trusting.resolve(&remote(&format!("@revoked {known}")), &main_branch()).await.unwrap_err();
    assert!(matches!(error, GitError::HostKeyRevoked { .. }), "{error}");
    assert!(!file.exists());

    let source = sync(&trusting, &remote(""), "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
    let words = |text: &str| text.split_whitespace().take(3).map(str::to_owned).collect::<Vec<_>>();
    let remembered = std::fs::read_to_string(&file).unwrap();
    assert_eq!((words(&remembered), remembered.lines().count()), (words(&known), 1));
    trusting.resolve(&remote(""), &main_branch()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), remembered, "once is enough");

    // Somebody else at the same address.
    let other = plant.dir.path().join("other");
    keygen(&other, "ed25519", "", &[]);
    let public = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    std::fs::write(&file, format!("[127.0.0.1]:{} {public}", sshd.port)).unwrap();
    let error = trusting.resolve(&remote(""), &main_branch()).await.unwrap_err();
    assert!(matches!(error, GitError::HostKeyChanged { .. }), "{error}");
    // What cannot be remembered is not trusted.
    let nowhere = client().with_accept_new(plant.dir.path().join("no/such/folder"));
    let error = nowhere.resolve(&remote(""), &main_branch()).await.unwrap_err();
    assert!(error.to_string().contains("remembered host keys"), "{error}");
}

#[tokio::test]
async fn a_host_with_several_keys_is_asked_for_the_known_one() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519", "ecdsa", "rsa"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let all = sshd.known_hosts();
    assert_eq!(all.lines().count(), 3);
    for line in all.lines() {
        let remote = sshd.remote(&plant.bare(), Some((&key, None)), line);
        client().resolve(&remote, &main_branch()).await.unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_named() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let remote = sshd.remote(&plant.root().join("it's;not$(here)"), Some((&key, None)), &sshd.known_hosts());
    let error = client().resolve(&remote, &main_branch()).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
}

/// A plain sshd passes no `GIT_PROTOCOL` on, so git speaks version 0: only what is advertised is given out by its id.
#[tokio::test]
async fn a_server_of_version_0_gives_an_older_commit_with_its_history() {
    let plant = Plant::new();
    let first = plant.id("main");
    let second = plant.change("2");
    plant.git(&["tag", "-a", "v2", "-m", "two"]);
    let third = plant.change("3");
    plant.push(&["v2"]);
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let remote = sshd.remote(&plant.bare(), Some((&key, None)), &sshd.known_hosts());
    let (git, cache) = (client(), plant.cache("a"));

    for (commit, reference, whole_history) in [
        (third, Some("refs/heads/main"), false),
        // The tag is advertised, and what it stands for comes with it.
        (second, Some("refs/tags/v2"), false),
        (first, Some("refs/heads/main"), true),
    ] {
        let wanted = Wanted::through(commit, reference.map(str::to_owned));
        let fetched = git.fetch(&remote, &cache, &wanted).await.unwrap();
        assert_eq!(fetched.report.whole_history, whole_history, "{reference:?}");
        assert_eq!(fetched.source.commit(), commit);
        // Without knowing where it came from, too.
        let elsewhere = plant.cache(&commit.short());
        git.fetch(&remote, &elsewhere, &Wanted::commit(commit)).await.unwrap();
    }
    crate::support::git(&cache.dir().join("g1"), &["fsck", "--full", "--strict"]);

    let unknown = "0123456789012345678901234567890123456789".parse().unwrap();
    let error = git.fetch(&remote, &cache, &Wanted::commit(unknown)).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_passes_the_version_on_gives_any_commit() {
    let plant = Plant::new();
    let first = plant.id("main");
    plant.change("2");
    let sshd = Sshd::start(&plant, &["ed25519"], &["AcceptEnv GIT_PROTOCOL"]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let remote = sshd.remote(&plant.bare(), Some((&key, None)), &sshd.known_hosts());
    let fetched = client().fetch(&remote, &plant.cache("a"), &Wanted::commit(first)).await.unwrap();
    assert!(!fetched.report.whole_history);
}

#[tokio::test]
async fn of_several_keys_each_is_tried_once_in_order() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &["MaxAuthTries 4"]);
    let known = sshd.known_hosts();
    let stranger = |name: &str| {
        let file = plant.dir.path().join(name);
        keygen(&file, "ed25519", "", &[]);
        std::fs::read_to_string(file).unwrap()
    };
    let (one, two) = (stranger("one"), stranger("two"));
    let right = sshd.client_key("client", "ecdsa", "", &[]);
    let right = right.expose();
    let resolve = async |keys: String| {
        let remote = sshd.remote(&plant.bare(), Some((&keys.into(), None)), &known);
        client().resolve(&remote, &main_branch()).await.map(|_| ())
    };
    resolve(format!("{one}{right}")).await.unwrap();
    resolve(format!("{right}{one}")).await.unwrap();
    resolve(format!("{one}{two}{right}")).await.unwrap();
    let garbage = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    resolve(format!("{garbage}{right}")).await.unwrap();

    let error = resolve(format!("{one}{two}")).await.unwrap_err();
    assert_eq!(error.category().as_str(), "AuthenticationFailed", "{error}");
    assert!(error.to_string().contains("knows none of these 2 keys"), "{error}");
    let error = resolve(format!("{one}{garbage}")).await.unwrap_err();
    assert_eq!(error.category().as_str(), "CredentialInvalid", "{error}");
    assert!(error.to_string().contains("ssh key 2 of 2 cannot be read"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_on_a_stranger_refuses_the_key_and_is_no_broken_network() {
    let stranger = |plant: &Plant| {
        let file = plant.dir.path().join("stranger");
        keygen(&file, "ed25519", "", &[]);
        std::fs::read_to_string(file).unwrap()
    };
    for (option, says) in [
        ("MaxAuthTries 1", "Too many authentication failures"),
        ("PubkeyAuthentication no", "takes no keys from"),
    ] {
        let plant = Plant::new();
        let sshd = Sshd::start(&plant, &["ed25519"], &[option]);
        let keys = Secret::from(stranger(&plant).repeat(3));
        let remote = sshd.remote(&plant.bare(), Some((&keys, None)), &sshd.known_hosts());
        let error = client().resolve(&remote, &main_branch()).await.unwrap_err();
        assert_eq!(error.category().as_str(), "AuthenticationFailed", "{option}: {error}");
        assert!(error.to_string().contains(says), "{option}: {error}");
    }
}

#[tokio::test]
async fn a_key_rotated_on_disk_is_taken_up_without_a_failure() {
    let plant = Plant::new();
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let (file, old) = (plant.dir.path().join("mounted"), plant.dir.path().join("old"));
    keygen(&old, "ed25519", "", &[]);
    std::fs::copy(&old, &file).unwrap();
    let new = sshd.client_key("client", "ed25519", "", &[]);
    /// The Secret is swapped between our reading it and the server's judging it.
    struct Swapping(stoker_git::CredentialFiles, PathBuf, Secret);
    impl stoker_git::CredentialProvider for Swapping {
        fn load(&self) -> Result<Access, GitError> {
            let access = self.0.load();
            std::fs::write(&self.1, self.2.expose()).unwrap();
            access
        }
    }
    let hosts = plant.dir.path().join("known_hosts");
    std::fs::write(&hosts, sshd.known_hosts()).unwrap();
    let files = stoker_git::CredentialFiles {
        ssh_key: Some(file.clone()),
        known_hosts: Some(hosts),
        ..Default::default()
    };
    let provider = std::sync::Arc::new(Swapping(files, file, new));
    let remote = Remote::with_provider(url_of(&sshd.url(&plant.bare())), provider);
    client().resolve(&remote, &main_branch()).await.unwrap();
}
