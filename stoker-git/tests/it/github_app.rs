//! A GitHub App: an API that hands out tokens for proofs by the app's key, and a git server that demands those tokens.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as Segment, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use stoker_core::Fault;
use stoker_git::serve::{GitBackend, GitHttpServer};
use stoker_git::{
    Access, Credentials, Git, GitError, GithubApp, GithubAppFile, HostPolicy, Remote, RemoteUrl, Secret,
};

use crate::support::*;

const APP: u64 = 123_456;
const INSTALLATION: u64 = 98_765;

/// GitHub's API as far as an app needs it, in front of a git server's login.
struct Api {
    url: String,
    state: Arc<ApiState>,
}

struct ApiState {
    /// The public keys of the app, as DER.
    keys: Mutex<Vec<Vec<u8>>>,
    git: GitBackend,
    lasts: Mutex<i64>,
    given: Mutex<Vec<String>>,
    /// What it answers instead.
    instead: Mutex<Option<(u16, Vec<(&'static str, String)>)>>,
    /// How far its clock is ahead of ours, in seconds.
    ahead: Mutex<i64>,
}

impl Api {
    async fn start(git: GitBackend, keys: &[&Path]) -> Self {
        let state = Arc::new(ApiState {
            keys: Mutex::new(keys.iter().map(|key| public_der(key)).collect()),
            git,
            lasts: Mutex::new(3600),
            given: Mutex::default(),
            instead: Mutex::default(),
            ahead: Mutex::new(0),
        });
        let app = Router::new()
            .route("/api/v3/app/installations/{id}/access_tokens", post(give))
            .with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/v3", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    fn app(&self, key: &Path) -> GithubApp {
        GithubApp {
            app_id: APP,
            installation_id: INSTALLATION,
            private_key: Secret::new(std::fs::read_to_string(key).unwrap()),
            api_base_url: self.url.clone(),
        }
    }

    fn given(&self) -> usize {
        self.state.given.lock().unwrap().len()
    }

    fn answer(&self, status: u16, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        *self.state.instead.lock().unwrap() = Some((status, headers));
    }
}

async fn give(State(api): State<Arc<ApiState>>, Segment(id): Segment<u64>, headers: HeaderMap) -> Response {
    let now = jiff::Timestamp::now().as_second() + *api.ahead.lock().unwrap();
    let date = jiff::Timestamp::from_second(now).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
    let echo = headers["authorization"].to_str().unwrap().to_owned();
    if let Some((status, more)) = api.instead.lock().unwrap().clone() {
        let mut response = (StatusCode::from_u16(status).unwrap(), echo).into_response();
        for (name, value) in more {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        return response;
    }
    let refuse = |status: StatusCode| (status, [("date", date.clone())], echo.clone()).into_response();
    let jwt = echo.strip_prefix("Bearer ").unwrap();
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let signed = api.keys.lock().unwrap().iter().any(|key| {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
            .verify(message.as_bytes(), &signature)
            .is_ok()
    });
    let part = |n: usize| -> serde_json::Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(message.split('.').nth(n).unwrap()).unwrap()).unwrap()
    };
    let (header, claims) = (part(0), part(1));
    let (issued, expires) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    let issuer = APP.to_string();
    let valid = header["alg"] == "RS256" && claims["iss"].as_str() == Some(&issuer) && issued <= now;
    if !signed || !valid || expires <= now || expires > now + 600 {
        return refuse(StatusCode::UNAUTHORIZED);
    }
    if id != INSTALLATION {
        return refuse(StatusCode::NOT_FOUND);
    }
    let mut given = api.given.lock().unwrap();
    let token = format!("ghs_token{}", given.len() + 1);
    given.push(token.clone());
    api.git.set_login(Some(("x-access-token", token.as_str().into())));
    let until = jiff::Timestamp::from_second(now + *api.lasts.lock().unwrap()).unwrap();
    let body = Json(serde_json::json!({"token": token, "expires_at": until.to_string()}));
    (StatusCode::CREATED, [("date", date)], body).into_response()
}

/// A private key, in the form `PEM` (PKCS#1) or `PKCS8`.
fn key(dir: &Path, name: &str, form: &str) -> std::path::PathBuf {
    let file = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", form, "-f"])
        .arg(&file)
        .status();
    assert!(made.unwrap().success());
    file
}

fn public_der(private: &Path) -> Vec<u8> {
    let output = Command::new("ssh-keygen").args(["-e", "-m", "PEM", "-f"]).arg(private).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
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
        let api = Api::start(server.backend(), &[&key]).await;
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
    let api = Api::start(server.backend(), &[&key]).await;
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
    let api = Api::start(server.backend(), &[&key]).await;
    let (git, remote) = (client(), remote_for(&server, api.app(&key)));
    *api.state.lasts.lock().unwrap() = 2;
    resolve(&git, &remote).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1600)).await;
    *api.state.lasts.lock().unwrap() = 3600;
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
    let api = Api::start(server.backend(), &[&good]).await;
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
    let api = Api::start(server.backend(), &[&key]).await;
    let git = client();
    let fails = async |app: GithubApp| resolve(&git, &remote_for(&server, app)).await.unwrap_err();

    let error = fails(GithubApp { installation_id: 1, ..api.app(&key) }).await;
    assert_eq!(error.category().as_str(), "CredentialInvalid", "{error}");
    assert!(error.to_string().contains("has no installation 1"), "{error}");
    *api.state.ahead.lock().unwrap() = -300;
    let error = fails(api.app(&key)).await;
    assert_eq!(error.category().as_str(), "ClockWrong", "{error}");
    assert!(error.to_string().contains("s ahead of"), "{error}");
    *api.state.ahead.lock().unwrap() = 0;

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
    let api = Api::start(server.backend(), &[&key]).await;
    let policy = HostPolicy::for_cluster().exempt(["localhost".to_owned()]);
    let url = server.url("plant.git").replace("127.0.0.1", "localhost");
    for base in [api.url.clone(), "http://169.254.169.254/api/v3".to_owned()] {
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

#[tokio::test]
async fn a_key_rotated_on_disk_is_taken_up_without_a_failure() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (old, new) = (key(plant.dir.path(), "old", "PEM"), key(plant.dir.path(), "new", "PKCS8"));
    let api = Api::start(server.backend(), &[&new]).await;
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
        api_base_url: Some(api.url.clone()),
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
