//! A GitHub App: an API that hands out tokens for proofs by the app's key, and a git server that demands those tokens.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use stoker_core::Fault;
use stoker_git::serve::{GitBackend, GitHttpServer};
use stoker_git::{
    Access, Credentials, Git, GitError, GithubApp, GithubAppFile, HostPolicy, Remote, RemoteUrl, Secret,
};
use stoker_testkit::github::{APP, GithubApi, INSTALLATION, app_key};
use stoker_testkit::proxy::ForwardProxy;

use crate::support::*;

/// The API, in front of a git server's login.
struct Api(GithubApi);

impl std::ops::Deref for Api {
    type Target = GithubApi;
    fn deref(&self) -> &GithubApi {
        &self.0
    }
}

impl Api {
    fn start(git: GitBackend, keys: &[&Path]) -> Self {
        let demand = move |token: &str| git.set_login(Some(("x-access-token", token.into())));
        Self(GithubApi::start(keys, demand).unwrap())
    }

    fn app(&self, key: &Path) -> GithubApp {
        GithubApp {
            app_id: APP,
            installation_id: INSTALLATION,
            private_key: Secret::new(std::fs::read_to_string(key).unwrap()),
            api_base_url: self.url().to_owned(),
        }
    }
}

fn key(dir: &Path, name: &str, form: &str) -> PathBuf {
    app_key(dir, name, form).unwrap()
}

fn remote_for(server: &GitHttpServer, app: GithubApp) -> Remote {
    remote_as(&server.url("plant.git"), Credentials::GithubApp(app))
}

async fn resolve(git: &Git, remote: &Remote) -> Result<(), GitError> {
    git.resolve(remote, &"main".parse().unwrap()).await.map(|_| ())
}

#[tokio::test]
async fn an_app_gets_in_with_keys_of_both_forms_and_asks_once() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    for form in ["PEM", "PKCS8"] {
        let key = key(plant.dir.path(), form, form);
        let api = Api::start(server.backend(), &[&key]);
        let (git, remote) = (client(), remote_for(&server, api.app(&key)));
        let source = sync(&git, &remote, "main", &plant.cache(form)).await;
        assert_eq!(read(&source, "README.md"), "plant\n");
        resolve(&git.clone(), &remote).await.unwrap();
        assert_eq!(api.given(), 1, "one token for a look, a fetch and another look");
    }
}

#[tokio::test]
async fn several_who_ask_at_once_share_one_token() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let key = key(plant.dir.path(), "key", "PEM");
    let api = Api::start(server.backend(), &[&key]);
    let (git, remote) = (client(), remote_for(&server, api.app(&key)));
    let (a, b, c) = tokio::join!(resolve(&git, &remote), resolve(&git, &remote), resolve(&git, &remote));
    a.and(b).and(c).unwrap();
    assert_eq!(api.given(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_and_when_it_is_withdrawn() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let key = key(plant.dir.path(), "key", "PEM");
    let api = Api::start(server.backend(), &[&key]);
    let (git, remote) = (client(), remote_for(&server, api.app(&key)));
    api.set_lifetime(2);
    resolve(&git, &remote).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1600)).await;
    api.set_lifetime(3600);
    resolve(&git, &remote).await.unwrap();
    assert_eq!(api.given(), 2, "before the end of the first");
    resolve(&git, &remote).await.unwrap();
    assert_eq!(api.given(), 2);

    server.backend().set_login(Some(("x-access-token", "another".into())));
    resolve(&git, &remote).await.unwrap();
    assert_eq!(api.given(), 3, "the git server did not take the kept one any more");
}

/// C10: two resources that name the same app never share a token, so that a wrong key gets in nowhere.
#[tokio::test]
async fn whoever_names_the_app_without_its_key_gets_nothing_of_it() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (good, bad) = (key(plant.dir.path(), "good", "PEM"), key(plant.dir.path(), "bad", "PEM"));
    let api = Api::start(server.backend(), &[&good]);
    let git = client();
    resolve(&git, &remote_for(&server, api.app(&good))).await.unwrap();
    let error = resolve(&git, &remote_for(&server, api.app(&bad))).await.unwrap_err();
    assert_eq!(error.category().as_str(), "AuthenticationFailed", "{error}");
    assert!(error.to_string().contains("is the private key one of this app?"), "{error}");
    assert_eq!(api.given(), 1);
}

#[tokio::test]
async fn what_the_api_refuses_is_told_apart_and_its_words_are_not_repeated() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let key = key(plant.dir.path(), "key", "PEM");
    let api = Api::start(server.backend(), &[&key]);
    let git = client();
    let fails = async |app: GithubApp| resolve(&git, &remote_for(&server, app)).await.unwrap_err();

    let error = fails(GithubApp { installation_id: 1, ..api.app(&key) }).await;
    assert_eq!(error.category().as_str(), "CredentialInvalid", "{error}");
    assert!(error.to_string().contains("has no installation 1"), "{error}");
    api.set_ahead(-300);
    let error = fails(api.app(&key)).await;
    assert_eq!(error.category().as_str(), "ClockWrong", "{error}");
    assert!(error.to_string().contains("s ahead of"), "{error}");
    api.set_ahead(0);

    for (status, headers, category) in [
        (403, &[][..], "AccessDenied"),
        (403, &[("x-ratelimit-remaining", "0")][..], "RateLimited"),
        (429, &[("retry-after", "7")], "RateLimited"),
        (500, &[], "ServerError"),
        (418, &[], "ProtocolError"),
        (200, &[], "ProtocolError"),
        (302, &[("location", "http://127.0.0.1:1/steal?token=hunter2")], "RedirectRefused"),
    ] {
        api.answer(status, headers);
        let error = fails(api.app(&key)).await;
        assert_eq!(error.category().as_str(), category, "{status}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("Bearer") && !shown.contains("eyJ") && !shown.contains("hunter2"), "{shown}");
    }
}

/// C11: the key is shown to no address that the policy forbids, and to nobody in the clear.
#[tokio::test]
async fn the_api_is_under_the_host_policy() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let key = key(plant.dir.path(), "key", "PEM");
    let api = Api::start(server.backend(), &[&key]);
    let policy = HostPolicy::for_cluster().exempt(["localhost".to_owned()]);
    let url = server.url("plant.git").replace("127.0.0.1", "localhost");
    for base in [api.url().to_owned(), "http://169.254.169.254/api/v3".to_owned()] {
        let app = GithubApp { api_base_url: base, ..api.app(&key) };
        let git = client().with_policy(policy.clone());
        let error = resolve(&git, &remote_as(&url, Credentials::GithubApp(app))).await.unwrap_err();
        assert!(matches!(error, GitError::HostForbidden { .. }), "{error}");
    }
    let access = Access { credentials: Credentials::GithubApp(api.app(&key)), ..Access::default() };
    let secure =
        Remote::new(RemoteUrl::parse("https://git.example.invalid/plant.git").unwrap(), access.clone());
    let error = resolve(&client(), &secure).await.unwrap_err();
    assert!(error.to_string().contains("apiBaseURL"), "no http for an https repository: {error}");
    let over_ssh = Remote::new(RemoteUrl::parse("ssh://git@127.0.0.1/plant.git").unwrap(), access);
    let error = resolve(&client(), &over_ssh).await.unwrap_err();
    assert!(error.to_string().contains("write an https URL"), "{error}");
    assert_eq!(api.given(), 0);
}

/// The proxy of a resource stands between it and the API, too.
#[tokio::test]
async fn a_token_is_asked_for_through_the_proxy() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let key = key(plant.dir.path(), "key", "PEM");
    let api = Api::start(server.backend(), &[&key]);
    let address = api.url().split('/').nth(2).unwrap().parse().unwrap();
    let proxy = ForwardProxy::start(address, Some(("ada", "hunter2"))).unwrap();
    let app = GithubApp { api_base_url: "http://api.example.invalid/api/v3".to_owned(), ..api.app(&key) };
    let through = |password: &str| {
        let proxy: stoker_git::Proxy = proxy.url().parse().unwrap();
        let proxy = Some(proxy.with_login("ada".into(), password.into()).unwrap());
        let access = Access { credentials: Credentials::GithubApp(app.clone()), proxy, ..Access::default() };
        Remote::new(url_of("http://git.example.invalid/plant.git"), access)
    };
    let error = resolve(&client(), &through("wrong")).await.unwrap_err();
    assert_eq!(error.category().as_str(), "ProxyAuthenticationFailed", "{error}");
    assert_eq!(api.given(), 0);
    // Behind this proxy is the API alone, which has no repositories.
    let error = resolve(&client(), &through("hunter2")).await.unwrap_err();
    assert_eq!(error.category().as_str(), "RepositoryNotFound", "{error}");
    assert_eq!(api.given(), 1);
    let seen: Vec<_> = proxy.seen().into_iter().filter(|seen| seen.admitted).collect();
    let token =
        format!("POST http://api.example.invalid/api/v3/app/installations/{INSTALLATION}/access_tokens ");
    assert!(seen[0].request.starts_with(&token), "{seen:?}");
    assert!(seen[1].request.starts_with("GET http://git.example.invalid/plant.git/"), "{seen:?}");
}

#[tokio::test]
async fn a_key_rotated_on_disk_is_taken_up_without_a_failure() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (old, new) = (key(plant.dir.path(), "old", "PEM"), key(plant.dir.path(), "new", "PKCS8"));
    let api = Api::start(server.backend(), &[&new]);
    let file = plant.dir.path().join("mounted");
    std::fs::copy(&old, &file).unwrap();
    /// Swaps the key between the first reading of it and its use.
    struct Swapping(stoker_git::CredentialFiles, std::path::PathBuf, std::path::PathBuf);
    impl stoker_git::CredentialProvider for Swapping {
        fn load(&self) -> Result<Access, GitError> {
            let access = self.0.load();
            std::fs::copy(&self.2, &self.1).unwrap();
            access
        }
    }
    let app = GithubAppFile {
        app_id: APP,
        installation_id: INSTALLATION,
        private_key: file.clone(),
        api_base_url: Some(api.url().to_owned()),
    };
    let files = stoker_git::CredentialFiles { github_app: Some(app), ..Default::default() };
    let provider = Arc::new(Swapping(files, file, new));
    let remote = Remote::with_provider(url_of(&server.url("plant.git")), provider);
    resolve(&client(), &remote).await.unwrap();
    assert_eq!(api.given(), 1);
}

#[tokio::test]
async fn a_bearer_token_goes_in_a_header_of_its_own() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    let handler = axum::routing::any(move |headers: HeaderMap| {
        log.lock().unwrap().push(headers["authorization"].to_str().unwrap().to_owned());
        async { StatusCode::UNAUTHORIZED }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
    let remote = remote_as(&url, Credentials::Bearer { secret: "abc.def".into() });
    let error = resolve(&client(), &remote).await.unwrap_err();
    assert_eq!(seen.lock().unwrap()[0], "Bearer abc.def");
    assert!(error.to_string().contains("bearer token") && !error.to_string().contains("abc.def"), "{error}");
}
