//! Smart HTTP, as forges speak it.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use stoker_core::{Fault, Retry};
use stoker_git::serve::GitHttpServer;
use stoker_git::{CredentialFiles, GitError, RefSpec, Remote, ResolveWarning, ResolvedKind, Wanted};

use crate::support::*;

#[tokio::test]
async fn a_branch_is_resolved_in_one_request_and_fetched_in_two() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote) = (client(), remote(&server.url("plant.git")));

    let resolved = git.resolve(&remote, &"main".parse().unwrap()).await.unwrap();
    assert_eq!(resolved.commit, plant.id("main"));
    assert_eq!(server.backend().requests(), 1);

    let cache = plant.cache("a");
    let fetched = git.fetch(&remote, &cache, &Wanted::from(&resolved)).await.unwrap();
    assert_eq!(server.backend().requests(), 3);
    assert!(fetched.report.rebuilt && !fetched.report.already_present && !fetched.report.whole_history);
    assert_eq!(read(&fetched.source, "projects/line/view.json"), "{\"v\": 1}\n");
    let info = fetched.source.info();
    assert_eq!((info.subject.as_str(), info.author.name.as_str()), ("first commit", "Ada"));
    assert_eq!((info.author.seconds, info.author.offset_minutes), (1_714_972_089, 120));

    let again = git.fetch(&remote, &cache, &Wanted::from(&resolved)).await.unwrap();
    assert!(again.report.already_present);
    assert_eq!(server.backend().requests(), 3, "what is there is not asked for");
}

#[tokio::test]
async fn only_the_one_commit_is_fetched_and_later_only_what_changed() {
    let plant = Plant::new();
    let big = noise(200_000);
    plant.commit(&[("old.txt", &format!("{big}{big}"))], "big");
    plant.commit(&[("old.txt", "small"), ("kept.txt", &big)], "small again");
    let history = plant.change("{\"v\": 2}");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote, cache) = (client(), remote(&server.url("plant.git")), plant.cache("a"));

    let first = sync(&git, &remote, "main", &cache).await;
    assert_eq!(first.commit(), history);
    let generation = cache.dir().join("g1");
    let objects = crate::support::git(&generation, &["rev-list", "--objects", "--all"]).lines().count();
    let trees_and_files = plant.git(&["ls-tree", "-r", "-t", "HEAD"]).lines().count() + 2;
    assert_eq!(objects, trees_and_files, "one commit, its trees and files, no history");

    let change = plant.change("{\"v\": 3}");
    let fetched = git.fetch(&remote, &cache, &Wanted::commit(change)).await.unwrap();
    assert!(fetched.report.transferred_bytes < 2000, "{:?}", fetched.report);
    assert!(!fetched.report.rebuilt);
    assert_eq!(read(&fetched.source, "projects/line/view.json"), "{\"v\": 3}");
    assert_eq!(read(&fetched.source, "kept.txt").len(), big.len());
    assert_eq!(read(&first, "projects/line/view.json"), "{\"v\": 2}", "the first is still there");
    crate::support::git(&generation, &["fsck", "--full", "--strict"]);
}

#[tokio::test]
async fn refs_of_every_kind_lead_to_their_commit() {
    let plant = Plant::new();
    let first = plant.id("main");
    plant.git(&["tag", "-a", "v1", "-m", "one"]);
    plant.git(&["tag", "both"]);
    let second = plant.change("2");
    plant.git(&["branch", "both"]);
    plant.push(&["refs/tags/v1", "refs/tags/both", "refs/heads/both", "HEAD:refs/pull/7/head"]);
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote) = (client(), remote(&server.url("plant.git")));

    for (written, commit, kind) in [
        ("main", second, ResolvedKind::Branch),
        ("HEAD", second, ResolvedKind::Branch),
        ("v1", first, ResolvedKind::Tag),
        ("refs/pull/7/head", second, ResolvedKind::Other),
        ("both", first, ResolvedKind::Tag),
        ("refs/heads/both", second, ResolvedKind::Branch),
        (&second.short(), second, ResolvedKind::Commit),
        (&first.to_string(), first, ResolvedKind::Commit),
    ] {
        let wanted: RefSpec = written.parse().unwrap();
        let resolved = git.resolve(&remote, &wanted).await.unwrap();
        assert_eq!((resolved.commit, resolved.kind), (commit, kind), "{written}");
        let warned = resolved.warnings.contains(&ResolveWarning::TagAndBranch { name: "both".into() });
        assert_eq!(warned, written == "both", "{written}");
        // Each of them can be fetched, into a cache of its own.
        let cache = plant.cache(&written.replace('/', "-"));
        let fetched = git.fetch(&remote, &cache, &Wanted::from(&resolved)).await.unwrap();
        assert_eq!(fetched.source.commit(), commit, "{written}");
    }

    let error = git.resolve(&remote, &"mian".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"main\"?"), "{error}");
    assert_eq!(error.category().as_str(), "RefNotFound");
}

/// A9 of `failures.md`.
#[tokio::test]
async fn a_forced_push_takes_nothing_away_and_a_vanished_commit_is_named() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote, cache) = (client(), remote(&server.url("plant.git")), plant.cache("a"));
    let old = sync(&git, &remote, "main", &cache).await.commit();

    plant.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "rewritten"]);
    plant.push(&["main"]);
    let new = sync(&git, &remote, "main", &cache).await.commit();
    assert_ne!(old, new);

    // Still in the server's object store: fetched by its id. Gone from there: said so.
    let elsewhere = plant.cache("b");
    git.fetch(&remote, &elsewhere, &Wanted::commit(old)).await.unwrap();
    crate::support::git(&plant.bare(), &["reflog", "expire", "--expire=now", "--all"]);
    crate::support::git(&plant.bare(), &["gc", "-q", "--prune=now"]);
    let error = git.fetch(&remote, &plant.cache("c"), &Wanted::commit(old)).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { commit, .. } if commit == old), "{error}");
    assert!(git.fetch(&remote, &cache, &Wanted::commit(old)).await.unwrap().report.already_present);
}

#[tokio::test]
async fn credentials_are_told_right_from_wrong_and_none() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "hunter2".into())));
    let url = server.url("plant.git");
    let (git, wanted) = (client(), "main".parse().unwrap());

    git.resolve(&remote_as(&url, token("hunter2")), &wanted).await.unwrap();
    sync(&git, &remote_as(&url, token("hunter2")), "main", &plant.cache("a")).await;
    for (remote, says) in
        [(remote_as(&url, token("wrong")), "is the token right"), (remote(&url), "none is configured")]
    {
        let error = git.resolve(&remote, &wanted).await.unwrap_err();
        assert_eq!(error.category().as_str(), "AuthenticationFailed");
        assert!(error.to_string().contains(says), "{error}");
    }
    let key = stoker_git::Credentials::SshKey { private_key: "k".into(), passphrase: None };
    let error = git.resolve(&remote_as(&url, key), &wanted).await.unwrap_err();
    assert!(error.to_string().contains("use a token"), "{error}");
}

/// A17 of `failures.md`.
#[tokio::test]
async fn a_token_rotated_on_disk_is_taken_up_without_a_failure() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let file = plant.dir.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let files = CredentialFiles { token: Some(file.clone()), ..CredentialFiles::default() };
    let git = client();
    let wanted = "main".parse().unwrap();
    server.backend().set_login(Some(("x-access-token", "first".into())));
    let remote = Remote::with_provider(url_of(&server.url("plant.git")), Arc::new(files.clone()));
    git.resolve(&remote, &wanted).await.unwrap();

    std::fs::write(&file, "second\n").unwrap();
    server.backend().set_login(Some(("x-access-token", "second".into())));
    git.resolve(&remote, &wanted).await.unwrap();

    // The Secret is swapped between our reading it and the server's judging it.
    struct Swapping(CredentialFiles, std::path::PathBuf);
    impl stoker_git::CredentialProvider for Swapping {
        fn load(&self) -> Result<stoker_git::Access, GitError> {
            let access = self.0.load();
            std::fs::write(&self.1, "third").unwrap();
            access
        }
    }
    server.backend().set_login(Some(("x-access-token", "third".into())));
    let before = server.backend().requests();
    let swapping = Remote::with_provider(url_of(&server.url("plant.git")), Arc::new(Swapping(files, file)));
    git.resolve(&swapping, &wanted).await.unwrap();
    assert_eq!(server.backend().requests() - before, 2, "refused once, then accepted");
}

#[tokio::test]
async fn a_repository_that_is_not_there_empty_or_of_another_kind() {
    let plant = Plant::empty();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, wanted) = (client(), "main".parse().unwrap());
    let error = git.resolve(&remote(&server.url("plant.git")), &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryEmpty { .. }), "{error}");
    let error = git.resolve(&remote(&server.url("other.git")), &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff, "it may be created any moment");

    let modern = Plant::empty_with(&["--object-format=sha256"]);
    let commit = modern.commit(&[("a", "b")], "c");
    modern.push(&["main"]);
    let server = GitHttpServer::start(modern.root()).await.unwrap();
    let remote = remote(&server.url("plant.git"));
    let error = git.resolve(&remote, &wanted).await.unwrap_err();
    assert!(error.to_string().contains("sha256 object format"), "{error}");
    let error = git.fetch(&remote, &modern.cache("a"), &Wanted::commit(commit)).await.unwrap_err();
    assert!(matches!(error, GitError::ObjectFormatUnsupported { .. }), "{error}");
}

/// I7 of `failures.md`.
#[tokio::test]
async fn the_size_limit_holds_during_the_transfer() {
    let plant = Plant::new();
    let noise = noise(100_000);
    plant.commit(&[("noise", noise.as_str())], "large");
    plant.push(&["main"]);
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let mut limits = stoker_git::Limits::default();
    limits.max_transfer_bytes = 20_000;
    let (git, remote, cache) =
        (client().with_limits(limits), remote(&server.url("plant.git")), plant.cache("a"));
    let error = git.fetch(&remote, &cache, &Wanted::commit(plant.id("main"))).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryTooLarge { limit_bytes: 20_000, .. }), "{error}");
    assert!(cache.disk_bytes() < 2000, "nothing is left: {}", cache.disk_bytes());
}

/// A web server that answers everything in one way.
async fn answering(
    answer: impl IntoResponse + Clone + Send + Sync + 'static,
) -> (String, Arc<std::sync::Mutex<Vec<HeaderMap>>>) {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    let handler = any(move |headers: HeaderMap| {
        log.lock().unwrap().push(headers);
        let answer = answer.clone();
        async move { answer }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    (format!("http://{address}/plant.git"), seen)
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed() {
    let plant = Plant::new();
    let backend = stoker_git::serve::GitBackend::new(plant.root());
    backend.set_login(Some(("x-access-token", "hunter2".into())));
    let moved = any(|uri: axum::http::Uri| async move {
        let to = uri.to_string().replace("/old/", "/plant.git/");
        (StatusCode::MOVED_PERMANENTLY, [("location", to)])
    });
    let app = backend.router().route("/old/{*rest}", moved);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/old", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let source = sync(&client(), &remote_as(&url, token("hunter2")), "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
}

#[tokio::test]
async fn forbidden_addresses_are_not_connected_to() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let git = client().with_policy(stoker_git::HostPolicy::for_cluster());
    let port = server.address().port();
    for url in [
        format!("http://127.0.0.1:{port}/plant.git"),
        format!("http://localhost:{port}/plant.git"),
        format!("http://[::ffff:127.0.0.1]:{port}/plant.git"),
        format!("http://0x7f000001:{port}/plant.git"),
        format!("git://localhost:{port}/plant.git"),
        format!("ssh://localhost:{port}/plant.git"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let error = git.resolve(&remote(&url), &"main".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, GitError::HostForbidden { .. }), "{url}: {error}");
    }
    assert_eq!(server.backend().requests(), 0);
    let exempt = stoker_git::HostPolicy::for_cluster().exempt(["localhost".to_owned()]);
    let git = client().with_policy(exempt);
    git.resolve(&remote(&format!("http://localhost:{port}/plant.git")), &"main".parse().unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_for_the_way_out_only() {
    let (proxy, seen) = answering((StatusCode::NOT_FOUND, "")).await;
    let proxy = proxy.trim_end_matches("/plant.git");
    let plant = Plant::new();
    let script = plant.dir.path().join("proxied.sh");
    let real = env!("CARGO_BIN_EXE_stoker-git-child");
    let text = format!("#!/bin/sh\nexport HTTP_PROXY={proxy} http_proxy={proxy}\nexec {real} \"$@\"\n");
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let git = stoker_git::Git::new(stoker_git::ChildCommand::executable(script));
    let wanted = "main".parse().unwrap();

    let outside = remote("http://git.example.invalid/plant.git");
    let error = git.resolve(&outside, &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
    assert_eq!(seen.lock().unwrap()[0]["host"], "git.example.invalid");

    let server = GitHttpServer::start(plant.root()).await.unwrap();
    for url in [server.url("plant.git"), server.url("plant.git").replace("127.0.0.1", "localhost")] {
        git.resolve(&remote(&url), &wanted).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_test_harness_can_do_without_the_child() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let git = stoker_git::Git::new(stoker_git::ChildCommand::in_process());
    let source = sync(&git, &remote(&server.url("plant.git")), "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
}

#[test]
fn the_blocking_form_works_with_and_without_a_runtime() {
    let plant = Plant::new();
    let url = format!("file://{}", plant.bare().display());
    let run = || {
        let resolved = client().resolve_blocking(&remote(&url), &"main".parse().unwrap()).unwrap();
        client().fetch_blocking(&remote(&url), &plant.cache("a"), &Wanted::from(&resolved)).unwrap();
    };
    run();
    tokio::runtime::Runtime::new().unwrap().block_on(async { run() });
}
