//! `git daemon`.

use std::process::{Command, Stdio};

use stoker_core::Fault;
use stoker_git::{GitError, Wanted};

use crate::support::*;

pub(crate) fn start(plant: &Plant) -> (Server, String) {
    start_with(plant, &[])
}

pub(crate) fn start_with(plant: &Plant, options: &[&str]) -> (Server, String) {
    let port = free_port();
    // Not through `git`, which would start it as a process of its own that nobody ends.
    let exec_path = git(&plant.root(), &["--exec-path"]);
    let mut command = Command::new(format!("{exec_path}/git-daemon"));
    command
        .args(["--export-all", "--listen=127.0.0.1", "--informative-errors"])
        .arg(format!("--base-path={}", plant.root().display()))
        .arg(format!("--port={port}"))
        .args(options)
        .stderr(Stdio::null());
    (Server::start(&mut command, port), format!("git://127.0.0.1:{port}/plant.git"))
}

#[tokio::test]
async fn a_daemon_is_read_by_branch_and_by_commit() {
    let plant = Plant::new();
    let first = plant.id("main");
    plant.change("2");
    let (_server, url) = start(&plant);
    let (git, remote) = (client(), remote(&url));
    let cache = plant.cache("a");
    assert_eq!(read(&sync(&git, &remote, "main", &cache).await, "projects/line/view.json"), "2");
    // Not at the tip of anything: version 2 of the protocol gives it by its id.
    let fetched = git.fetch(&remote, &cache, &Wanted::commit(first)).await.unwrap();
    assert!(!fetched.report.whole_history);
    assert_eq!(read(&fetched.source, "projects/line/view.json"), "{\"v\": 1}\n");
}

#[tokio::test]
async fn a_daemon_without_the_repository_or_the_commit() {
    let plant = Plant::new();
    let (_server, url) = start(&plant);
    let git = client();
    let error =
        git.resolve(&remote(&url.replace("plant", "other")), &"main".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.category().as_str(), "RepositoryNotFound", "{error}");
    let nowhere = "0123456789012345678901234567890123456789".parse().unwrap();
    let error = git.fetch(&remote(&url), &plant.cache("a"), &Wanted::commit(nowhere)).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. }), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let url = format!("git://127.0.0.1:{}/plant.git", free_port());
    let error = client().resolve(&remote(&url), &"main".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.category().as_str(), "Unreachable", "{error}");
    let error = client()
        .resolve(&remote("git://no-such-host.invalid/plant.git"), &"main".parse().unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("resolve the name"), "{error}");
}
