//! Smart http: `git http-backend` behind a small server that checks a password, counts, and misbehaves on request.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine;
use futures::stream::{self, StreamExt};
use tokio::io::AsyncWriteExt;

use super::Shelf;
use crate::pki::Authority;
use crate::repo;

/// Larger than any pack a test pushes.
const LARGEST_REQUEST: usize = 256 << 20;

/// What a server asks of its clients, and where it is.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// An address of this machine.
    pub address: IpAddr,
    /// User and password; without, everybody may read and write.
    pub login: Option<(String, String)>,
    /// Whether to serve https, with a certificate of an authority that nobody knows.
    pub tls: bool,
    /// Whether newer versions of git's protocol than 0 are unknown, as to an old server or behind a proxy that drops
    /// the header.
    pub version_0: bool,
}

/// How the server misbehaves, from the next request on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// It accepts and never answers.
    Stall,
    /// It closes the connection after this many bytes of the answer's body.
    CutAfter(usize),
    /// It sends the body at this many bytes a second.
    Trickle(u32),
    /// It answers with this status, and `Retry-After` in seconds if there is one.
    Refuse(u16, Option<u32>),
}

/// One request that the server got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// Path and query, such as `/plant.git/info/refs?service=git-upload-pack`.
    pub target: String,
    /// What was answered; 0 if nothing was.
    pub status: u16,
    /// The user who logged in, if one did.
    pub user: Option<String>,
}

/// A git server over http or https, in a thread of its own.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    authority: Option<String>,
    shelf: Shelf,
    shared: Arc<Shared>,
    handle: Handle<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    version_0: bool,
    login: Mutex<Option<(String, String)>>,
    fault: Mutex<Fault>,
    requests: Mutex<Vec<HttpRequest>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), login: None, tls: false, version_0: false }
    }
}

impl HttpOptions {
    /// Requires this user and password.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Serves https.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Speaks no newer version of git's protocol than 0.
    #[must_use]
    pub fn version_0(mut self) -> Self {
        self.version_0 = true;
        self
    }
}

impl Http {
    /// Starts a server; it listens when this returns and ends when the value goes.
    ///
    /// # Errors
    ///
    /// The address is not one of this machine.
    pub fn start(options: HttpOptions) -> Result<Self> {
        crate::init();
        let shelf = Shelf::new()?;
        let listener = TcpListener::bind((options.address, 0)).context("binding the git server")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let identity = match options.tls {
            false => None,
            true => {
                let authority = Authority::new("stoker-test-git")?;
                let names = [address.ip().to_string(), "localhost".to_owned()];
                Some((authority.certificate(), authority.server(&names)?))
            }
        };
        let shared = Arc::new(Shared {
            folder: shelf.path().to_owned(),
            version_0: options.version_0,
            login: Mutex::new(options.login),
            fault: Mutex::default(),
            requests: Mutex::default(),
        });
        let handle = Handle::new();
        let (router, for_thread) =
            (Router::new().fallback(answer).with_state(shared.clone()), handle.clone());
        let authority = identity.as_ref().map(|(authority, _)| authority.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // A thread of its own: the runtime of the test that started it may end before the server does.
        let thread = std::thread::Builder::new().name("git-http".into()).spawn(move || {
            runtime.block_on(async move {
                let service = router.into_make_service();
                let served = match identity {
                    None => match axum_server::from_tcp(listener) {
                        Ok(server) => server.handle(for_thread).serve(service).await,
                        Err(error) => Err(error),
                    },
                    Some((_, identity)) => {
                        let (certificate, key) =
                            (identity.certificate.into_bytes(), identity.key.into_bytes());
                        match RustlsConfig::from_pem(certificate, key).await {
                            Ok(config) => match axum_server::from_tcp_rustls(listener, config) {
                                Ok(server) => server.handle(for_thread).serve(service).await,
                                Err(error) => Err(error),
                            },
                            Err(error) => Err(error),
                        }
                    }
                };
                if let Err(error) = served {
                    eprintln!("the git server at {address} ended: {error}");
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { address, authority, shelf, shared, handle, thread: Some(thread) })
    }

    /// What it serves.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The URL of a repository, without a login.
    pub fn url(&self, name: &str) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/{name}", self.address)
    }

    /// The URL with the login in it, as only a test would write it.
    pub fn url_with_login(&self, name: &str) -> String {
        let url = self.url(name);
        match &*lock(&self.shared.login) {
            None => url,
            Some((user, password)) => url.replacen("://", &format!("://{user}:{password}@"), 1),
        }
    }

    /// The authority that a client must trust, in PEM, if it serves https.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Changes the login, as when a token is rotated.
    pub fn set_login(&self, login: Option<(&str, &str)>) {
        *lock(&self.shared.login) = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
    }

    /// Misbehaves from the next request on.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&self.shared.fault) = fault;
    }

    /// Every request so far, oldest first, those refused too.
    pub fn requests(&self) -> Vec<HttpRequest> {
        lock(&self.shared.requests).clone()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        lock(&self.shared.requests).clear();
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Shared>>, mut request: Request) -> Result<Response, Infallible> {
    if shared.version_0 {
        request.headers_mut().remove("git-protocol");
    }
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let user = user_of(request.headers(), &lock(&shared.login));
    let mut record = HttpRequest {
        method: request.method().to_string(),
        target,
        status: 0,
        user: user.clone().ok().flatten(),
    };
    let fault = lock(&shared.fault).clone();
    let number = {
        let mut requests = lock(&shared.requests);
        requests.push(record.clone());
        requests.len() - 1
    };
    if fault == Fault::Stall {
        std::future::pending::<()>().await;
    }
    let response = match (&fault, user) {
        (Fault::Refuse(status, retry_after), _) => refusal(*status, *retry_after),
        (_, Err(())) => plain(StatusCode::UNAUTHORIZED, "who are you?"),
        (_, Ok(user)) => backend(&shared.folder, user, request)
            .await
            .unwrap_or_else(|error| plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}"))),
    };
    record.status = response.status().as_u16();
    if let Some(entry) = lock(&shared.requests).get_mut(number) {
        *entry = record;
    }
    Ok(spoil(response, fault))
}

/// The user, if the login is right; `None` where none is needed.
fn user_of(headers: &HeaderMap, login: &Option<(String, String)>) -> Result<Option<String>, ()> {
    let Some((user, password)) = login else { return Ok(None) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or(())?;
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    if given == format!("Basic {expected}") { Ok(Some(user.clone())) } else { Err(()) }
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        let challenge = header::HeaderValue::from_static("Basic realm=\"git\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn refusal(status: u16, retry_after: Option<u32>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = plain(status, "not now");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Runs `git http-backend` as a web server runs a CGI program (RFC 3875; `man git-http-backend`).
async fn backend(folder: &Path, user: Option<String>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST_REQUEST).await?;
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut command = tokio::process::Command::from(repo::git());
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", text("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("GIT_PROTOCOL", text("git-protocol"))
        .env("REMOTE_USER", user.unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("running git http-backend")?;
    let mut input = child.stdin.take().context("standard input was asked for")?;
    let feed = async move {
        // It may answer without reading all: a refused push closes early.
        let _ = input.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    parse(Bytes::from(output.stdout), &parts.method)
        .with_context(|| format!("git http-backend: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A CGI answer: header lines, an empty line, the body.
fn parse(output: Bytes, method: &Method) -> Result<Response> {
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").context("no header")?;
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(':').with_context(|| format!("a header line {line:?}"))?;
        match name.eq_ignore_ascii_case("status") {
            true => response = response.status(value.split_whitespace().next().unwrap_or("500")),
            false => response = response.header(name, value.trim()),
        }
    }
    let body = if method == Method::HEAD { Bytes::new() } else { output.slice(end + 4..) };
    Ok(response.body(Body::from(body))?)
}

fn spoil(response: Response, fault: Fault) -> Response {
    let (parts, body) = response.into_parts();
    let body = match fault {
        Fault::CutAfter(bytes) => {
            let whole = stream::once(axum::body::to_bytes(body, usize::MAX));
            Body::from_stream(whole.flat_map(move |whole| {
                let start =
                    whole.map(|whole| whole.slice(..bytes.min(whole.len()))).map_err(|error| anyhow!(error));
                // An error in the stream closes the connection in the middle of the answer.
                stream::iter([start, Err(anyhow!("cut"))])
            }))
        }
        Fault::Trickle(bytes_a_second) => {
            let (size, pause) = portions(bytes_a_second);
            let whole = stream::once(axum::body::to_bytes(body, usize::MAX));
            Body::from_stream(whole.flat_map(move |whole| {
                let whole = whole.unwrap_or_default();
                let portions: Vec<Bytes> = (0..whole.len())
                    .step_by(size)
                    .map(|at| whole.slice(at..whole.len().min(at + size)))
                    .collect();
                stream::iter(portions).then(move |portion| async move {
                    tokio::time::sleep(pause).await;
                    Ok::<_, Infallible>(portion)
                })
            }))
        }
        _ => body,
    };
    Response::from_parts(parts, body)
}

/// Ten portions a second, or one byte at a time if that is too many.
fn portions(bytes_a_second: u32) -> (usize, Duration) {
    let rate = bytes_a_second.max(1);
    let size = (rate / 10).max(1);
    (size as usize, Duration::from_secs_f64(f64::from(size) / f64::from(rate)))
}
