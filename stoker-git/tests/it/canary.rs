//! A secret that must appear nowhere.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoker_git::serve::GitHttpServer;
use stoker_git::{Access, Credentials, Git, GitError, Limits, Remote, Wanted};

use crate::faults::recording_child;
use crate::support::*;

const CANARY: &str = "canary-7d1f0c55";

/// Every file below a directory whose content has the canary.
fn infected(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(infected(&path));
        } else if fs::read(&path).is_ok_and(|bytes| contains(&bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

/// Collects what is logged at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_token_and_a_key_are_in_no_error_log_or_file() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", CANARY.into())));
    let url = server.url("plant.git");
    let mut shown = String::new();
    let mut show = |what: &dyn std::fmt::Debug, error: &GitError| {
        shown += &format!("{what:?}\n{error}\n{error:?}\n{}\n", stoker_core::chain(error));
    };

    // It works, and then fails in many ways.
    let good = remote_as(&url, token(CANARY));
    let cache = plant.cache("a");
    sync(&client(), &good, "main", &cache).await;
    server.backend().set_login(Some(("x-access-token", "another".into())));
    let wanted = "main".parse().unwrap();
    show(&good, &client().resolve(&good, &wanted).await.unwrap_err());
    let key = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----\n");
    let key = Credentials::SshKey { private_key: key.into(), passphrase: Some(CANARY.into()) };
    let mut limits = Limits::default();
    limits.resolve_deadline = Duration::from_secs(3);
    limits.stall_timeout = Duration::from_secs(1);
    let impatient = client().with_limits(limits);
    for (url, credentials) in [
        (url.clone(), key.clone()),
        (url.replace("http://", "https://"), token(CANARY)),
        (url.replace("http://", "ssh://"), key),
        (url.replace("http://", "ssh://"), token(CANARY)),
        (server.url("nope.git"), token(CANARY)),
    ] {
        let access = Access { credentials, known_hosts: None, ca_pem: None };
        let remote = Remote::new(url_of(&url), access.clone());
        show(&(&remote, &access), &impatient.resolve(&remote, &wanted).await.unwrap_err());
    }
    // A server that sends the token back.
    let echo = echoing().await;
    show(&(), &client().resolve(&remote_as(&echo, token(CANARY)), &wanted).await.unwrap_err());

    assert!(!contains(shown.as_bytes()), "{shown}");
    assert!(shown.contains("said: bad token ***"), "{shown}");
    let log = log.0.lock().unwrap();
    assert!(!log.is_empty());
    assert!(!contains(&log), "{}", String::from_utf8_lossy(&log));
    assert_eq!(infected(plant.dir.path()), Vec::<String>::new());
}

/// A git server that answers with an error that repeats the password.
async fn echoing() -> String {
    use axum::http::HeaderMap;
    use base64::Engine;
    let handler = axum::routing::any(|headers: HeaderMap| async move {
        let basic = headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        let login = base64::engine::general_purpose::STANDARD.decode(basic).unwrap();
        let password = String::from_utf8(login).unwrap().split_once(':').unwrap().1.to_owned();
        let message = format!("ERR bad token {password}");
        let body = format!("{:04x}{message}", message.len() + 4);
        ([("content-type", "application/x-git-upload-pack-advertisement")], body)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    url
}

#[tokio::test]
async fn a_child_has_no_secret_in_its_arguments_or_environment_and_is_bounded() {
    let plant = Plant::new();
    // Accepts and says nothing, so that the child stays to be looked at.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", silent.local_addr().unwrap());
    let (child, pid) = recording_child(&plant);
    let task = tokio::spawn(async move {
        let wanted = Wanted::commit("0123456789012345678901234567890123456789".parse().unwrap());
        let cache = stoker_git::Cache::new("/nonexistent");
        let git = Git::new(child);
        let resolved = git.resolve(&remote_as(&url, token(CANARY)), &"main".parse().unwrap()).await;
        (wanted, cache, resolved.map(|_| ()))
    });
    let (connection, _) = silent.accept().await.unwrap();
    connection.readable().await.unwrap();
    let proc = Path::new("/proc").join(fs::read_to_string(pid).unwrap().trim());
    let arguments = fs::read(proc.join("cmdline")).unwrap();
    assert!(arguments.ends_with(b"\0__stoker-git-child\0"), "{arguments:?}");
    assert!(!contains(&arguments));
    let environment = fs::read(proc.join("environ")).unwrap_or_default();
    assert!(!contains(&environment));
    assert!(!environment.windows(5).any(|w| w == b"HOME="), "nothing is inherited but the way out");
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max address space"), (1u64 << 30).to_string());
    assert_eq!(limit("Max core file size"), "0");
    task.abort();
}
