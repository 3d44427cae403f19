//! A proxy of the environment that wants a login.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use stoker_git::{ChildCommand, Git, GitError, RefSpec};

use crate::support::*;

const CANARY: &str = "canary-proxy-77";

/// A client whose child sees these variables.
fn client_with(plant: &Plant, name: &str, variables: &[(&str, &str)]) -> Git {
    let script = plant.dir.path().join(name);
    let exports: String =
        variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let real = env!("CARGO_BIN_EXE_stoker-git-child");
    std::fs::write(&script, format!("#!/bin/sh\n{exports}exec {real} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    Git::new(ChildCommand::executable(script))
}

/// A proxy that lets nobody through.
async fn proxy() -> (String, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = seen.clone();
    let answer = axum::routing::any(move |headers: HeaderMap| {
        log.lock().unwrap().push(headers);
        async { (StatusCode::PROXY_AUTHENTICATION_REQUIRED, "who are you?") }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    (address, seen)
}

#[tokio::test]
async fn a_login_of_a_proxy_reaches_the_proxy_and_no_error() {
    let plant = Plant::new();
    let (address, seen) = proxy().await;
    let wanted: RefSpec = "main".parse().unwrap();
    let url = format!("http://ada:{CANARY}@{address}");
    let dead = format!("http://ada:{CANARY}@127.0.0.1:{}", free_port());
    for (name, proxy, repository) in [
        ("http", &url, "http://git.example.invalid/plant.git"),
        ("https", &url, "https://git.example.invalid/plant.git"),
        ("dead", &dead, "https://git.example.invalid/plant.git"),
        ("dead-http", &dead, "http://git.example.invalid/plant.git"),
    ] {
        let variables =
            [("HTTP_PROXY", &**proxy), ("http_proxy", &**proxy), ("HTTPS_PROXY", &**proxy), ("NO_PROXY", "")];
        let git = client_with(&plant, name, &variables);
        let error = git.resolve(&remote(repository), &wanted).await.unwrap_err();
        assert!(matches!(error, GitError::Unreachable { .. }), "{name}: {error}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{name}: {error}");
        if name == "http" {
            assert!(error.to_string().contains("proxy"), "{error}");
        }
    }
    use base64::Engine;
    let login = base64::engine::general_purpose::STANDARD.encode(format!("ada:{CANARY}"));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for headers in seen.iter() {
        assert_eq!(headers["proxy-authorization"], format!("Basic {login}"));
        assert!(!headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn hosts_that_are_exempt_from_the_proxy_are_asked_directly() {
    let plant = Plant::new();
    let (address, seen) = proxy().await;
    let url = format!("http://{address}");
    let variables =
        [("HTTP_PROXY", &*url), ("http_proxy", &*url), ("NO_PROXY", ".example.invalid,10.0.0.0/8")];
    let git = client_with(&plant, "exempt", &variables);
    let repository = remote("http://git.example.invalid/plant.git");
    let error = git.resolve(&repository, &"main".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("cannot resolve the name"), "{error}");
    assert!(seen.lock().unwrap().is_empty());
}
