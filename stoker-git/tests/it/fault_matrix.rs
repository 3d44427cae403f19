//! Every way in which a server can fail × every protocol: bounded in time, with a reason of its own, and stoppable (A6 of
//! `failures.md`).

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use futures::StreamExt;
use stoker_core::Fault as _;
use stoker_git::{Access, Credentials, GitError, Limits, Remote, Wanted};
use stoker_testkit::gitserver::{Daemon, Http, HttpOptions, Shelf, Ssh};
use stoker_testkit::{Repo, require};

use crate::relay::{Breaking, Fate, Habits};
use crate::support::*;

/// Nearly all of a cell's time is waiting.
const AT_ONCE: usize = 12;
/// No more than a busy machine needs for what works.
const STALL: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(6);
/// What the deadline may take on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.resolve_deadline = DEADLINE;
    limits.fetch_deadline = DEADLINE;
    limits.connect_timeout = STALL;
    limits.stall_timeout = STALL;
    limits
}

/// What is asked of the server that fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    Refs,
    Commit,
}

/// One fault at one server.
struct Cell {
    name: String,
    remote: Remote,
    relay: Breaking,
    ask: Ask,
    /// The category of the error, and what it says.
    expected: (&'static [&'static str], &'static str),
    /// Whether it lasts: then it is also stopped in the middle.
    lasts: bool,
}

/// A server for `scheme`, and what a client needs there.
struct Upstream {
    scheme: &'static str,
    user: String,
    path: String,
    port: u16,
    access: Access,
}

impl Upstream {
    fn cell(
        &self,
        name: &str,
        fate: Fate,
        ask: Ask,
        expected: (&'static [&'static str], &'static str),
    ) -> Cell {
        let relay = Breaking::with(self.port, Habits { fate, ..Habits::default() });
        let url = format!("{}://{}127.0.0.1:{}{}", self.scheme, self.user, relay.port, self.path);
        Cell {
            name: format!("{}, {name}, {ask:?}", self.scheme),
            remote: Remote::new(url_of(&url), self.access.clone()),
            relay,
            ask,
            expected,
            lasts: matches!(fate, Fate::Stall(_) | Fate::Drip(..)),
        }
    }
}

const NAME: &str = "plant.git";

/// A server that answers whatever is asked with these bytes and then keeps the connection.
fn saying(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(bytes);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    port
}

/// A web server that answers everything in one way.
async fn answering(answer: impl IntoResponse + Clone + Send + Sync + 'static) -> u16 {
    let handler = axum::routing::any(move || {
        let answer = answer.clone();
        async move { answer }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    port
}

fn plain(port: u16) -> Upstream {
    Upstream {
        scheme: "http",
        user: String::new(),
        path: format!("/{NAME}"),
        port,
        access: Access { credentials: token("hunter2"), ..Access::default() },
    }
}

/// The same repository behind every protocol: a commit with 200 kB of content.
struct Servers {
    upstreams: Vec<Upstream>,
    commit: stoker_git::CommitId,
    _alive: (Http, Http, Daemon, Option<Ssh>),
}

async fn servers() -> Servers {
    let repo = Repo::new().unwrap();
    repo.commit_files("first", &[("README.md", "plant\n"), ("noise", &noise(200_000))]).unwrap();
    let commit = repo.head().unwrap().parse().unwrap();
    let publish = |shelf: &Shelf| shelf.publish(&repo, NAME).unwrap();
    let http = Http::start(HttpOptions::default()).unwrap();
    let https = Http::start(HttpOptions::default().tls()).unwrap();
    let daemon = Daemon::start().await.unwrap();
    let ssh = require::ssh().await;
    let mut upstreams = Vec::new();
    let mut add = |scheme, url: &str, access| {
        let url = url_of(url);
        let user = url.user().map(|user| format!("{user}@")).unwrap_or_default();
        let path = format!("/{}", url.path().trim_start_matches('/'));
        upstreams.push(Upstream { scheme, user, path, port: url.port().unwrap(), access });
    };
    publish(http.shelf());
    add("http", &http.url(NAME), Access::default());
    publish(https.shelf());
    let ca_pem = https.authority().map(str::to_owned);
    add("https", &https.url(NAME), Access { ca_pem, ..Access::default() });
    publish(daemon.shelf());
    add("git", &daemon.url(NAME), Access::default());
    if let Some(ssh) = &ssh {
        publish(ssh.shelf());
        // Without its port a line serves the relay's too.
        let known = ssh.known_hosts().unwrap();
        let known: String =
            known.lines().map(|l| format!("127.0.0.1 {}\n", l.split_once(' ').unwrap().1)).collect();
        let credentials =
            Credentials::SshKey { private_key: ssh.private_key().unwrap().into(), passphrase: None };
        add("ssh", &ssh.url(NAME), Access { credentials, known_hosts: Some(known), ..Access::default() });
    }
    Servers { upstreams, commit, _alive: (http, https, daemon, ssh) }
}

/// What fails on the way, the same for every protocol.
fn of_the_connection(upstream: &Upstream) -> Vec<Cell> {
    // To the limits of this test what a byte a second is to the default ones.
    let pause = Duration::from_millis(100);
    let encrypted = matches!(upstream.scheme, "https" | "ssh");
    let silent: (&[&str], &str) = (&["Timeout", "Unreachable"], "");
    let cut: (&[&str], &str) = (&["ProtocolError", "Unreachable"], "");
    let mut cells = Vec::new();
    for ask in [Ask::Refs, Ask::Commit] {
        cells.push(upstream.cell("never answers", Fate::Stall(0), ask, silent));
        // With TLS and ssh this is the handshake and the banner.
        cells.push(upstream.cell("a trickle from the first byte on", Fate::Drip(0, pause), ask, silent));
        cells.push(upstream.cell("cut at once", Fate::Cut(0), ask, cut));
        cells.push(upstream.cell("cut after a byte", Fate::Cut(1), ask, cut));
    }
    // Far in the pack, whatever encryption adds before it.
    let pack = 60_000;
    let middle = |name, fate, expected| upstream.cell(name, fate, Ask::Commit, expected);
    cells.push(middle("silence in the pack", Fate::Stall(pack), (&["Timeout"], "to say something")));
    // Encryption comes in records, which are silence until they are whole.
    let slow = if encrypted { "" } else { "bytes came" };
    cells.push(middle("a trickle in the pack", Fate::Drip(pack, pause), (&["Timeout"], slow)));
    cells.push(middle("cut in the pack", Fate::Cut(pack), cut));
    // The pack's own hash, or that of the encryption.
    cells.push(middle("a bit of the pack flipped", Fate::Flip(pack), cut));
    if encrypted {
        cells.push(upstream.cell(
            "a bit of the handshake flipped",
            Fate::Flip(150),
            Ask::Refs,
            (&["Unreachable", "TLSUntrusted", "Timeout", "ProtocolError"], ""),
        ));
    }
    cells
}

/// What only web servers do.
async fn of_the_web(upstreams: &[Upstream]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let silence = saying(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 500\r\n\r\n");
    let half = saying(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nContent-Length: 500\r\n\r\n001e# serv");
    let header = saying(b"HTTP/1.1 200 OK\r\nContent-Ty");
    for (name, port) in
        [("silent after the header", silence), ("silent in a packet", half), ("silent in the header", header)]
    {
        let mut cell = plain(port).cell(name, Fate::Pass, Ask::Refs, (&["Timeout"], "waiting for"));
        cell.lasts = true;
        cells.push(cell);
    }
    let no_http = saying(b"220 smtp.example.com ESMTP\r\n");
    cells.push(plain(no_http).cell(
        "no web server",
        Fate::Pass,
        Ask::Refs,
        (&["Unreachable"], "invalid HTTP"),
    ));

    for (status, retry_after, category, says) in [
        (401, None, "AuthenticationFailed", "status 401"),
        (403, None, "AccessDenied", "status 403"),
        (403, Some("60"), "RateLimited", "in 60 s"),
        (404, None, "RepositoryNotFound", "not found"),
        (418, None, "ProtocolError", "status 418"),
        (429, None, "RateLimited", "limits the rate"),
        (429, Some("7"), "RateLimited", "in 7 s"),
        (429, Some("Sun, 06 Nov 2033 08:49:37 GMT"), "RateLimited", "in 120 s"),
        (500, None, "ServerError", "status 500"),
        (503, Some("120"), "ServerError", "in 120 s"),
        (503, Some("Sun, 06 Nov 2033 08:47:38 GMT"), "ServerError", "in 1 s"),
        (503, Some("99999999999"), "ServerError", "in 86400 s"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("date", "Sun, 06 Nov 2033 08:47:37 GMT".parse().unwrap());
        if let Some(value) = retry_after {
            headers.insert("retry-after", value.parse().unwrap());
        }
        let port = answering((StatusCode::from_u16(status).unwrap(), headers, "secret words")).await;
        let category: &'static [&'static str] = Box::leak(Box::new([category]));
        cells.push(plain(port).cell(
            &format!("status {status} {retry_after:?}"),
            Fate::Pass,
            Ask::Refs,
            (category, says),
        ));
    }
    let page = answering(axum::response::Html("<html>secret words</html>")).await;
    cells.push(plain(page).cell("a page", Fate::Pass, Ask::Refs, (&["ProtocolError"], "text/html")));

    let refs = "info/refs?service=git-upload-pack";
    let moved = |to: String| (StatusCode::FOUND, [("location", to)]);
    let other = answering("").await;
    for (name, to, expected) in [
        (
            "redirect to another host",
            format!("http://git.invalid/{NAME}/{refs}&t=hunter3"),
            (&["RedirectRefused"][..], "git.invalid"),
        ),
        (
            "redirect to another port",
            format!("http://127.0.0.1:{other}/{NAME}/{refs}"),
            (&["RedirectRefused"], "redirects to"),
        ),
        ("redirect in circles", format!("/{NAME}/{refs}"), (&["ProtocolError"], "in circles")),
        ("redirect to a page", "/login?next=x".to_owned(), (&["RedirectRefused"], "/login")),
        ("redirect to nowhere", String::new(), (&["RedirectRefused", "ProtocolError"], "")),
        ("redirect to a file", "file:///etc/passwd".to_owned(), (&["RedirectRefused"], "file:///etc/passwd")),
    ] {
        cells.push(plain(answering(moved(to)).await).cell(name, Fate::Pass, Ask::Refs, expected));
    }
    // From https to http, on the same host. A TLS server of our own, for the answer is a fixed one.
    let https = upstreams.iter().find(|upstream| upstream.scheme == "https").unwrap();
    let (port, ca) =
        crate::tls::answering(axum::Router::new().fallback(move |uri: axum::http::Uri| async move {
            (StatusCode::FOUND, [("location", format!("http://localhost:1{uri}"))])
        }))
        .await;
    let access = Access { ca_pem: Some(ca), ..https.access.clone() };
    let downgrade = Upstream { scheme: "https", user: String::new(), path: format!("/{NAME}"), port, access };
    let mut cell =
        downgrade.cell("redirect to http", Fate::Pass, Ask::Refs, (&["RedirectRefused"], "http://localhost"));
    let url = cell.remote.url.to_string().replace("127.0.0.1", "localhost");
    cell.remote = Remote::new(url_of(&url), downgrade.access.clone());
    cells.push(cell);
    cells
}

async fn run(cell: &Cell, commit: stoker_git::CommitId, dir: &std::path::Path) -> Result<(), GitError> {
    let git = client().with_limits(limits());
    match cell.ask {
        Ask::Refs => git.resolve(&cell.remote, &"main".parse().unwrap()).await.map(|_| ()),
        Ask::Commit => {
            git.fetch(&cell.remote, &stoker_git::Cache::new(dir), &Wanted::commit(commit)).await.map(|_| ())
        }
    }
}

/// The fault happens, the error comes in time and is the right one.
async fn check(cell: &Cell, commit: stoker_git::CommitId, dir: &std::path::Path) -> Result<(), String> {
    let start = Instant::now();
    let error = match run(cell, commit, dir).await {
        Ok(()) => return Err("nothing failed".to_owned()),
        Err(error) => error,
    };
    let (took, text) = (start.elapsed(), error.to_string());
    let (categories, says) = cell.expected;
    if took > BOUND {
        return Err(format!("took {took:?}: {text}"));
    }
    if !categories.contains(&error.category().as_str()) || !text.contains(says) {
        return Err(format!("expected {:?}, was {}: {text}", cell.expected, error.category()));
    }
    if ["secret words", "hunter"].iter().any(|word| text.contains(word)) {
        return Err(format!("it repeats what is nobody's business: {text}"));
    }
    let left = stoker_git::Cache::new(dir).disk_bytes();
    if left > 2000 { Err(format!("{left} bytes are left in the cache")) } else { Ok(()) }
}

/// Whoever drops the future is rid of the child, and of its connection, within a second.
async fn check_stop(cell: &Cell, commit: stoker_git::CommitId, dir: &std::path::Path) -> Result<(), String> {
    let open = || cell.relay.open.load(Ordering::SeqCst);
    {
        let mut running = std::pin::pin!(run(cell, commit, dir));
        let connected = async {
            while open() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = connected => {}
            result = &mut running => return Err(format!("ended before it was stopped: {result:?}")),
        }
    }
    let start = Instant::now();
    while open() > 0 {
        if start.elapsed() > Duration::from_secs(1) {
            return Err("it holds its connection for more than a second after it was stopped".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_server_is_bounded_named_and_stoppable() {
    let servers = servers().await;
    let mut cells = of_the_web(&servers.upstreams).await;
    cells.extend(servers.upstreams.iter().flat_map(of_the_connection));
    let (count, commit, dir) = (cells.len(), servers.commit, tempfile::tempdir().unwrap());
    let (dir, start) = (&dir, Instant::now());
    let failures: Vec<String> = futures::stream::iter(cells.into_iter().enumerate())
        .map(|(number, cell)| async move {
            let cache = |what| dir.path().join(format!("{what}-{number}"));
            let mut result = Ok(());
            if cell.lasts {
                result = check_stop(&cell, commit, &cache("stopped")).await;
            }
            result = result.and(check(&cell, commit, &cache("whole")).await);
            result.err().map(|e| format!("{}: {e}", cell.name))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(|failure| async { failure })
        .collect()
        .await;
    println!("{count} faults in {:.1?}", start.elapsed());
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn by_default_no_silence_and_no_look_up_lasts_longer_than_half_a_minute() {
    let limits = Limits::default();
    for limit in [limits.resolve_deadline, limits.stall_timeout, limits.connect_timeout] {
        assert!(limit <= Duration::from_secs(30));
    }
}
