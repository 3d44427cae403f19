//! `stoker sync` from every kind of git server that a configuration may name: `git://` is refused (`misuse.rs`).

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stoker_testkit::gitserver::{Http, HttpOptions, Shelf, Ssh};
use stoker_testkit::require;

use crate::bench::{Bench, VIEW};

/// Two pushes: each is live after one run, and a second run has nothing to do.
fn follow(bench: &mut Bench, name: &str, git: Value, publish: &dyn Fn(&Bench)) {
    let place = bench.folder.path().join(name);
    std::fs::create_dir(&place).unwrap();
    bench.config["dataDir"] = json!(place.join("data"));
    bench.config["cacheDir"] = json!(place.join("cache"));
    bench.config["git"] = git;
    for round in 1..=2 {
        let content = format!("{{\"custom\": {{\"from\": \"{name}, {round}\"}}}}");
        let path = format!("{}/{VIEW}", crate::bench::SERVICE);
        let commit = bench.repo.commit_files("a change", &[(&path, &content)]).unwrap();
        publish(bench);
        std::fs::create_dir_all(place.join("data")).unwrap();
        let (code, report) = bench.report(&[]);
        assert_eq!((code, &report["commit"]), (0, &json!(commit)), "{name}, {round}: {report}");
        assert_eq!(std::fs::read_to_string(place.join("data").join(VIEW)).unwrap(), content, "{name}");
        let (_, report) = bench.report(&[]);
        assert_eq!(report["outcome"], "inSync", "{name}, {round}: {report}");
    }
}

/// Publishes to a server of ours.
fn to(shelf: &Shelf) -> impl Fn(&Bench) {
    |bench| shelf.publish(&bench.repo, "plant.git").unwrap()
}

fn key_file(path: &Path) -> String {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

#[test]
fn over_http_and_https_with_a_token_and_an_authority_of_its_own() {
    let mut bench = Bench::new();
    for (name, options) in [
        ("http", HttpOptions::default()),
        ("http, version 0", HttpOptions::default().version_0()),
        ("https", HttpOptions::default().tls().login("x-access-token", "t0ken")),
    ] {
        let server = Http::start(options.clone()).unwrap();
        let mut git = json!({"repo": server.url("plant.git"), "ref": "main", "allowInsecure": !options.tls});
        if let Some(authority) = server.authority() {
            let (ca, token) = (bench.folder.path().join("ca.crt"), bench.folder.path().join("token"));
            std::fs::write(&ca, authority).unwrap();
            std::fs::write(&token, "t0ken\n").unwrap();
            git["caFile"] = json!(ca);
            git["auth"] = json!({"token": {"file": token}});
        }
        follow(&mut bench, name, git, &to(server.shelf()));
    }
}

#[test]
fn from_a_directory() {
    let mut bench = Bench::new();
    let file = format!("file://{}", bench.git.shelf().path().join("plant.git").display());
    let publish = |bench: &Bench| bench.git.shelf().publish(&bench.repo, "plant.git").unwrap();
    follow(&mut bench, "file", json!({"repo": file, "ref": "main"}), &publish);
}

#[tokio::test]
async fn over_openssh_of_both_versions() {
    let Some(server) = require::ssh().await else { return };
    let mut bench = Bench::new();
    let known = bench.folder.path().join("known_hosts");
    std::fs::write(&known, server.known_hosts().unwrap()).unwrap();
    let git = |server: &Ssh| {
        json!({
            "repo": server.url("plant.git"), "ref": "main",
            "auth": {"sshKey": {"file": server.private_key_path(), "knownHostsFile": known}},
        })
    };
    follow(&mut bench, "OpenSSH", git(&server), &to(server.shelf()));
    let old = Ssh::start_version_0().await.unwrap();
    std::fs::write(&known, old.known_hosts().unwrap()).unwrap();
    follow(&mut bench, "OpenSSH, version 0", git(&old), &to(old.shelf()));
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_forge_over_http_and_ssh() {
    let Some(forge) = require::gitea().await else { return };
    let mut bench = Bench::new();
    let made = forge.create_repo("plant", true).await.unwrap();
    let publish = |bench: &Bench| forge.push(&bench.repo, &made, &["+refs/heads/*"]).unwrap();
    let token = bench.folder.path().join("token");
    std::fs::write(&token, forge.token()).unwrap();
    let git = json!({
        "repo": made.clone_url, "ref": "main", "allowInsecure": true,
        "auth": {"token": {"file": token, "username": forge.user()}},
    });
    follow(&mut bench, "Gitea over http", git, &publish);

    let (key, known) = (bench.folder.path().join("id"), bench.folder.path().join("known_hosts"));
    forge.add_deploy_key(&made, &key_file(&key), false).await.unwrap();
    std::fs::write(&known, forge.known_hosts()).unwrap();
    let git = json!({
        "repo": forge.ssh_url(&made), "ref": "main",
        "auth": {"sshKey": {"file": key, "knownHostsFile": known}},
    });
    follow(&mut bench, "Gitea over ssh", git, &publish);
}
