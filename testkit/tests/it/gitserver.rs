use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stoker_testkit::gitserver::{Daemon, Fault, Http, HttpOptions, KeyKind};
use stoker_testkit::{Repo, ignition, require};

/// A git of its own, without the user's configuration.
fn git(arguments: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    let output = Command::new("git")
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn published(shelf: &stoker_testkit::gitserver::Shelf) -> (Repo, String) {
    let repo = Repo::new().unwrap();
    repo.write_tree(&ignition::small_site()).unwrap();
    let commit = repo.commit("a site").unwrap();
    shelf.publish(&repo, "plant/ignition.git").unwrap();
    (repo, commit)
}

#[test]
fn a_repository_has_the_same_ids_wherever_it_is_made() {
    let ids = || {
        let repo = Repo::new().unwrap();
        repo.commit_files("one", &[("a/b.txt", "1")]).unwrap();
        let tag = repo.annotated_tag("v1", "first").unwrap();
        repo.switch("work").unwrap().remove("a").unwrap();
        (repo.commit("two").unwrap(), tag)
    };
    assert_eq!(ids(), ids());
}

#[test]
fn http_asks_for_the_login_counts_requests_and_takes_pushes() {
    let server = Http::start(HttpOptions::default().login("x-access-token", "secret")).unwrap();
    let (repo, commit) = published(server.shelf());
    let refused = git(&["ls-remote", &server.url("plant/ignition.git")], &[]).unwrap_err();
    assert!(refused.contains("could not read Username"), "{refused}");

    let url = server.url_with_login("plant/ignition.git");
    let heads = git(&["ls-remote", &url], &[]).unwrap();
    assert!(heads.contains(&commit), "{heads}");
    let requests = server.requests();
    assert_eq!((requests.first().unwrap().status, requests.last().unwrap().status), (401, 200));
    assert_eq!(requests.last().unwrap().user.as_deref(), Some("x-access-token"));

    let next = repo.commit_files("two", &[("new.txt", "2")]).unwrap();
    repo.push(&url, &["main"]).unwrap();
    assert!(git(&["ls-remote", &url], &[]).unwrap().contains(&next));
    let clone = Repo::clone_of(&url).unwrap();
    assert_eq!(clone.head().unwrap(), next);
}

#[test]
fn https_is_trusted_by_those_who_know_its_authority() {
    let server = Http::start(HttpOptions::default().tls()).unwrap();
    let (_repo, commit) = published(server.shelf());
    let url = server.url("plant/ignition.git");
    let refused = git(&["ls-remote", &url], &[]).unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), server.authority().unwrap()).unwrap();
    let heads = git(&["ls-remote", &url], &[("GIT_SSL_CAINFO", file.path().to_str().unwrap())]).unwrap();
    assert!(heads.contains(&commit), "{heads}");
}

#[test]
fn faults_are_real_ones_on_the_wire() {
    let server = Http::start(HttpOptions::default()).unwrap();
    published(server.shelf());
    let url = server.url("plant/ignition.git");

    server.set_fault(Fault::Refuse(503, Some(7)));
    assert!(git(&["ls-remote", &url], &[]).unwrap_err().contains("503"));
    server.set_fault(Fault::CutAfter(10));
    assert!(git(&["ls-remote", &url], &[]).is_err());
    server.set_fault(Fault::Trickle(200));
    let start = Instant::now();
    git(&["ls-remote", &url], &[]).unwrap();
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    server.set_fault(Fault::Stall);
    // git itself gives up on a connection below this speed.
    let slow = [("GIT_HTTP_LOW_SPEED_LIMIT", "1"), ("GIT_HTTP_LOW_SPEED_TIME", "1")];
    assert!(git(&["ls-remote", &url], &slow).is_err());
    server.set_fault(Fault::None);
    git(&["ls-remote", &url], &[]).unwrap();
}

#[tokio::test]
async fn the_daemon_serves_without_a_login() {
    if require::program("git").is_none() {
        return;
    }
    let server = Daemon::start().await.unwrap();
    let (_repo, commit) = published(server.shelf());
    assert!(git(&["ls-remote", &server.url("plant/ignition.git")], &[]).unwrap().contains(&commit));
}

#[tokio::test]
async fn ssh_lets_known_keys_in_and_shows_its_host_keys() {
    let Some(server) = require::ssh().await else { return };
    let (repo, commit) = published(server.shelf());
    let known = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(known.path(), server.known_hosts().unwrap()).unwrap();
    let ssh = |key: &Path| {
        format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={}",
            key.display(),
            known.path().display()
        )
    };
    let url = server.url("plant/ignition.git");
    let own = ssh(&server.private_key_path());
    assert!(git(&["ls-remote", &url], &[("GIT_SSH_COMMAND", &own)]).unwrap().contains(&commit));
    let next = repo.commit_files("two", &[("new.txt", "2")]).unwrap();
    repo.git(["-c", &format!("core.sshCommand={own}"), "push", &url, "main"]).unwrap();
    let added = server.add_key("rsa", KeyKind::Rsa, "").unwrap();
    assert!(git(&["ls-remote", &url], &[("GIT_SSH_COMMAND", &ssh(&added))]).unwrap().contains(&next));

    server.revoke_all_keys().unwrap();
    let refused = git(&["ls-remote", &url], &[("GIT_SSH_COMMAND", &own)]).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
    server.change_host_keys().await.unwrap();
    let refused = git(&["ls-remote", &url], &[("GIT_SSH_COMMAND", &own)]).unwrap_err();
    assert!(refused.contains("HOST IDENTIFICATION HAS CHANGED"), "{refused}");
}
