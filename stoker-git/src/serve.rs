//! A git server on loopback, for demos and tests: smart HTTP over `git http-backend`.
//!
//! Needs the `git` program. Not for production: it has no TLS and trusts whoever has an account on this machine.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use stoker_git::serve::GitHttpServer;
//! // Serves every bare repository below the directory.
//! let server = GitHttpServer::start("/tmp/repositories").await?;
//! println!("git clone {}", server.url("plant.git"));
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::secret::Secret;

/// A git server on loopback. It stops when it is dropped.
#[derive(Debug)]
pub struct GitHttpServer {
    address: SocketAddr,
    backend: Arc<Backend>,
    _stop: oneshot::Sender<()>,
}

/// What answers the requests; the server's, or behind a listener of your own through [`GitBackend::router`].
#[derive(Debug, Clone)]
pub struct GitBackend(Arc<Backend>);

#[derive(Debug)]
struct Backend {
    root: PathBuf,
    login: Mutex<Option<(String, Secret)>>,
    requests: AtomicU64,
    sent_bytes: AtomicU64,
}

impl GitHttpServer {
    /// Serves the repositories below `root` on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(root: impl Into<PathBuf>) -> io::Result<Self> {
        let backend = GitBackend::new(root);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let app = backend.router();
        tokio::spawn(async move {
            let server = axum::serve(listener, app);
            tokio::select! {
                _ = server => {}
                _ = stopped => {}
            }
        });
        Ok(Self { address, backend: backend.0, _stop: stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a repository, by its path below the root.
    #[must_use]
    pub fn url(&self, repository: &str) -> String {
        format!("http://{}/{repository}", self.address)
    }

    /// The backend, to change its login or read its counters.
    #[must_use]
    pub fn backend(&self) -> GitBackend {
        GitBackend(self.backend.clone())
    }
}

impl GitBackend {
    /// Answers for the repositories below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Backend {
            root: root.into(),
            login: Mutex::new(None),
            requests: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }))
    }

    /// The routes, for a listener of your own (with TLS, for example).
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.0.clone())
    }

    /// From now on asks for this user name and password; `None` for neither. Whoever is logged in may push.
    pub fn set_login(&self, login: Option<(&str, Secret)>) {
        let login = login.map(|(user, password)| (user.to_owned(), password));
        *self.0.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
    }

    /// How many requests came, refused ones included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// How many bytes of content were sent.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.load(Ordering::Relaxed)
    }
}

async fn answer(State(backend): State<Arc<Backend>>, request: Request) -> Response {
    backend.requests.fetch_add(1, Ordering::Relaxed);
    let user = match backend.judge(request.headers()) {
        Ok(user) => user,
        Err(refusal) => return refusal,
    };
    match run(&backend, user, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("git http-backend: {error}\n")).into_response(),
    }
}

impl Backend {
    /// The user that is logged in, if anybody has to be.
    #[allow(clippy::result_large_err)]
    fn judge(&self, headers: &HeaderMap) -> Result<Option<String>, Response> {
        let Some((user, password)) = self.login.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Ok(None);
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
            .and_then(|encoded| String::from_utf8(STANDARD.decode(encoded).ok()?).ok())
            .map(Secret::from);
        let wanted = Secret::from(format!("{user}:{}", password.expose()));
        if given == Some(wanted) {
            return Ok(Some(user));
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")];
        Err((StatusCode::UNAUTHORIZED, challenge, "who are you?\n").into_response())
    }
}

/// Runs `git http-backend` for one request (RFC 3875).
async fn run(backend: &Arc<Backend>, user: Option<String>, request: Request) -> io::Result<Response> {
    let (parts, body) = request.into_parts();
    let mut command = Command::new(program());
    command
        .env("GIT_PROJECT_ROOT", absolute(&backend.root)?)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    for (variable, name) in [
        ("CONTENT_TYPE", header::CONTENT_TYPE),
        ("CONTENT_LENGTH", header::CONTENT_LENGTH),
        ("HTTP_CONTENT_ENCODING", header::CONTENT_ENCODING),
        ("GIT_PROTOCOL", HeaderName::from_static("git-protocol")),
    ] {
        if let Some(value) = parts.headers.get(name).and_then(|value| value.to_str().ok()) {
            command.env(variable, value);
        }
    }
    if let Some(user) = user {
        command.env("REMOTE_USER", user);
    }
    let mut child = command.spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(io::Error::other("no pipes"));
    };
    tokio::spawn(async move {
        let mut body = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
        // A backend that has read enough hangs up.
        let _ = tokio::io::copy(&mut body, &mut stdin).await;
    });
    let mut stdout = BufReader::new(stdout);
    let (status, headers) = read_headers(&mut stdout).await?;
    let counter = backend.clone();
    let content = ReaderStream::new(stdout).inspect_ok(move |chunk| {
        counter.sent_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        // The child lives as long as its answer is read.
        let _ = &child;
    });
    let mut response = Response::new(Body::from_stream(content));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// `git http-backend` itself: `git` would start it as a process of its own, which nobody then ends.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let output = std::process::Command::new("git").arg("--exec-path").output();
        let dir = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        Path::new(&dir).join("git-http-backend")
    })
}

fn absolute(root: &Path) -> io::Result<PathBuf> {
    std::path::absolute(root)
}

/// The header block of a CGI answer.
async fn read_headers(from: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<(StatusCode, HeaderMap)> {
    let mut headers = HeaderMap::new();
    let mut status = StatusCode::OK;
    let mut from = from.take(64 << 10);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            status = code.parse().map_err(|_| io::ErrorKind::InvalidData)?;
        } else {
            let name: HeaderName = name.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            headers.append(name, HeaderValue::from_str(value).map_err(|_| io::ErrorKind::InvalidData)?);
        }
    }
}
