//! Proxies: of the environment, and of a resource.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use stoker_core::Fault;
use stoker_git::serve::GitHttpServer;
use stoker_git::{
    Access, ChildCommand, CredentialFiles, CredentialProvider, Git, GitError, HostPolicy, ProxyFiles,
    RefSpec, Remote,
};
use stoker_testkit::proxy::ForwardProxy;

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
        let expected = if proxy == &dead { "Unreachable" } else { "ProxyAuthenticationFailed" };
        assert_eq!(error.category().as_str(), expected, "{name}: {error}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{name}: {error}");
        let place = proxy.split('@').next_back().unwrap();
        assert!(error.to_string().contains(&format!("the proxy http://{place}")), "{name}: {error}");
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

/// A client would pass it over in silence, and go directly where it must not.
#[tokio::test]
async fn a_variable_that_names_no_proxy_is_refused_and_not_shown() {
    let plant = Plant::new();
    let resolve = async |name: &str, variables: &[(&str, &str)]| {
        let git = client_with(&plant, name, variables);
        let remote = remote("https://git.example.invalid/plant.git");
        git.resolve(&remote, &"main".parse().unwrap()).await.unwrap_err()
    };
    let backslash = format!("http://PLANT\\ada:{CANARY}@127.0.0.1:9");
    let error = resolve("backslash", &[("HTTPS_PROXY", &backslash), ("NO_PROXY", "")]).await;
    assert_eq!(error.category().as_str(), "ProxyInvalid", "{error}");
    assert!(error.to_string().contains("the variable HTTPS_PROXY has a login"), "{error}");
    assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
    // What does not matter for this host is not judged.
    let exempt = [("HTTPS_PROXY", &*backslash), ("NO_PROXY", ".example.invalid")];
    let error = resolve("exempt-https", &exempt).await;
    assert!(error.to_string().contains("cannot resolve the name"), "{error}");
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

fn through(proxy: &ForwardProxy, login: Option<(&str, &str)>) -> Access {
    let url: stoker_git::Proxy = proxy.url().parse().unwrap();
    let proxy = match login {
        Some((username, password)) => url.with_login(username.into(), password.into()).unwrap(),
        None => url,
    };
    Access { proxy: Some(proxy), ..Access::default() }
}

/// The server behind a URL of this machine.
fn address(url: &str) -> std::net::SocketAddr {
    url.split('/').nth(2).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_proxy_of_the_resource_is_used_for_http_and_its_login_is_for_the_proxy_alone() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "good".into())));
    let proxy = ForwardProxy::start(address(&server.url("")), Some(("ada", CANARY))).unwrap();
    let access = Access { credentials: token("good"), ..through(&proxy, Some(("ada", CANARY))) };
    // The environment's are dead, and exempt the host.
    let dead = format!("http://127.0.0.1:{}", free_port());
    let variables = [("HTTP_PROXY", &*dead), ("http_proxy", &*dead), ("NO_PROXY", ".example.invalid")];
    let git = client_with(&plant, "own", &variables);
    let remote = Remote::new(url_of("http://git.example.invalid/plant.git"), access);
    let source = sync(&git, &remote, "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
    let seen = proxy.seen();
    assert!(seen.len() >= 2 && seen.iter().all(|seen| seen.admitted), "{seen:?}");
    assert!(seen[0].request.starts_with("GET http://git.example.invalid/plant.git/info/refs"), "{seen:?}");
}

#[tokio::test]
async fn a_proxy_of_the_resource_tunnels_https_and_sees_nothing_of_it() {
    let plant = Plant::new();
    let backend = stoker_git::serve::GitBackend::new(plant.root());
    backend.set_login(Some(("x-access-token", "good".into())));
    let (port, ca) = crate::tls::answering(backend.router()).await;
    let proxy = ForwardProxy::start(([127, 0, 0, 1], port).into(), Some(("ada", CANARY))).unwrap();
    let access =
        Access { credentials: token("good"), ca_pem: Some(ca), ..through(&proxy, Some(("ada", CANARY))) };
    // This host, too: what somebody wrote is what is meant.
    let remote = Remote::new(url_of("https://localhost:7/plant.git"), access);
    let source = sync(&client(), &remote, "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    for seen in seen {
        assert_eq!(seen.request, "CONNECT localhost:7 HTTP/1.1");
        assert!(seen.admitted && !seen.head.to_lowercase().contains("\nauthorization"), "{}", seen.head);
    }
}

#[tokio::test]
async fn a_proxy_is_spoken_to_over_https_if_it_is_one() {
    let plant = Plant::new();
    let backend = stoker_git::serve::GitBackend::new(plant.root());
    // A server that takes requests for other hosts is a proxy.
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let log = seen.clone();
    let app = backend.router().layer(axum::middleware::from_fn(
        move |request: axum::extract::Request, next: axum::middleware::Next| {
            log.lock().unwrap().push(request.headers().clone());
            next.run(request)
        },
    ));
    let (port, ca) = crate::tls::answering(app).await;
    let proxy: stoker_git::Proxy = format!("https://localhost:{port}").parse().unwrap();
    let proxy = proxy.with_login("ada".into(), CANARY.into()).unwrap();
    let access = |ca_pem| Access { proxy: Some(proxy.clone()), ca_pem, ..Access::default() };
    let url = url_of("http://git.example.invalid/plant.git");
    let source =
        sync(&client(), &Remote::new(url.clone(), access(Some(ca))), "main", &plant.cache("a")).await;
    assert_eq!(read(&source, "README.md"), "plant\n");
    assert!(seen.lock().unwrap().iter().all(|headers| headers.contains_key("proxy-authorization")));
    let error =
        client().resolve(&Remote::new(url, access(None)), &"main".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, GitError::TlsUntrusted { .. }), "{error}");
}

#[tokio::test]
async fn a_login_that_a_proxy_refuses_is_read_again_and_then_named_but_not_shown() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let proxy = ForwardProxy::start(address(&server.url("")), Some(("ada", "new-password"))).unwrap();
    let wanted: RefSpec = "main".parse().unwrap();
    for url in ["http://git.example.invalid/plant.git", "https://git.example.invalid/plant.git"] {
        for login in [None, Some(("ada", CANARY))] {
            let remote = Remote::new(url_of(url), through(&proxy, login));
            let error = client().resolve(&remote, &wanted).await.unwrap_err();
            assert_eq!(error.category().as_str(), "ProxyAuthenticationFailed", "{error}");
            let shown = format!("{error} {error:?} {remote:?}");
            assert!(shown.contains(&proxy.url()) && !shown.contains(CANARY), "{shown}");
            let says = if login.is_some() { "refuses the login" } else { "none is configured" };
            assert!(shown.contains(says), "{shown}");
        }
    }

    /// Swaps the password between the first reading of it and its use.
    struct Swapping(CredentialFiles, std::path::PathBuf);
    impl CredentialProvider for Swapping {
        fn load(&self) -> Result<Access, GitError> {
            let access = self.0.load();
            std::fs::write(&self.1, "new-password\n").unwrap();
            access
        }
    }
    let (username, password) = (plant.dir.path().join("username"), plant.dir.path().join("password"));
    std::fs::write(&username, "ada\n").unwrap();
    for url in ["http://git.example.invalid/plant.git", "http://git.example.invalid:8080/plant.git"] {
        std::fs::write(&password, "old-password\n").unwrap();
        let files = ProxyFiles { url: proxy.url(), login: Some((username.clone(), password.clone())) };
        let files = CredentialFiles { proxy: Some(files), ..CredentialFiles::default() };
        let provider = Arc::new(Swapping(files, password.clone()));
        let remote = Remote::with_provider(url_of(url), provider);
        client().resolve(&remote, &wanted).await.unwrap();
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_serve_is_named() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let proxy = ForwardProxy::start(address(&server.url("")), None).unwrap();
    let wanted: RefSpec = "main".parse().unwrap();
    let fails = async |git: Git, url: &str, access: Access| {
        git.resolve(&Remote::new(url_of(url), access), &wanted).await.unwrap_err()
    };
    let file = format!("file://{}", plant.bare().display());
    for url in ["ssh://git@git.example.invalid/plant.git", "git://git.example.invalid/plant.git", &*file] {
        let error = fails(client(), url, through(&proxy, None)).await;
        assert_eq!(error.category().as_str(), "ProxyInvalid", "{error}");
        assert!(error.to_string().contains("write an https URL, or no proxy"), "{error}");
    }
    let dead = format!("http://127.0.0.1:{}", free_port());
    let nowhere = Access { proxy: Some(dead.parse().unwrap()), ..Access::default() };
    for url in ["http://git.example.invalid/plant.git", "https://git.example.invalid/plant.git"] {
        let error = fails(client(), url, nowhere.clone()).await;
        assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&dead), "{error}");
    }
    // A server that is no proxy, or one that lets nobody there.
    let refusing = Router::new().fallback(|| async { StatusCode::FORBIDDEN });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, refusing).await });
    let access = Access { proxy: Some(place.parse().unwrap()), ..Access::default() };
    let error = fails(client(), "https://git.example.invalid/plant.git", access).await.to_string();
    assert!(error.contains(&place) && error.contains("refuses to connect there"), "{error}");
    // Where a resource of somebody else may not reach, its proxy may not be either.
    let strict = client().with_policy(HostPolicy::for_cluster());
    for host in ["127.0.0.1", "localhost", "169.254.169.254"] {
        let access =
            Access { proxy: Some(format!("http://{host}:80").parse().unwrap()), ..Access::default() };
        let error = fails(strict.clone(), "https://git.example.invalid/plant.git", access).await;
        assert!(matches!(error, GitError::HostForbidden { .. }), "{host}: {error}");
    }
    assert!(proxy.seen().is_empty());
}
