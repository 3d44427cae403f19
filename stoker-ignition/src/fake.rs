//! A fake gateway: a data directory on one side, the gateway's REST API on the other.
//!
//! No real gateway can be had for tests. This one behaves as the documents and live observations say that an Ignition
//! 8.3 gateway does; where these contradict each other, a [switch](SWITCHES) chooses.
//!
//! ```text
//!   data directory                        fake gateway                           caller
//!  ┌────────────────────┐  start, scan   ┌──────────────────────┐   http(s)     ┌──────────┐
//!  │ projects/<p>/...   │ ─────────────▶ │ what is loaded       │ ◀──────────── │ agent,   │
//!  │ config/resources/  │                │ scans, locks, phase  │   key needed  │ test,    │
//!  │ .resources, db, …  │ ◀───────────── │ designers, log       │ ────────────▶ │ browser  │
//!  └────────────────────┘ own files,     └──────────┬───────────┘   as Jetty    └──────────┘
//!                         restamps                  └─▶ events(): what it saw, for assertions
//! ```
//!
//! - Loads projects with a valid `project.json` and collections with a `config-mode.json`; a filled collection without
//!   one faults the start. Malformed or incomplete resources are skipped with a log line, and a scan still answers 200.
//! - A scan's POST answers with the old snapshot, finishes later, and releases the scan lock, whoever holds it.
//! - Errors are Jetty's HTML, unknown routes JSON 404; 503 while starting, 302 to `/welcome` while not commissioned.
//! - A project scan restamps resources that changed outside (actor `external`, new 8.3 signature).
//! - At start it makes its own caches and databases in the data directory.
//! - As the backup of a pair it takes over projects, core and modes, and overwrites what others put there.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use stoker_ignition::fake::FakeGateway;
//!
//! let data = tempfile::tempdir()?;
//! std::fs::create_dir_all(data.path().join("projects/line"))?;
//! std::fs::write(data.path().join("projects/line/project.json"), r#"{"title":"Line 1"}"#)?;
//!
//! let gateway = FakeGateway::builder(data.path()).api_key("ci:secret").switch("scan-time=5ms")?.start().await?;
//! gateway.until_running(Duration::from_secs(5)).await?;
//! assert_eq!(gateway.loaded_projects().loaded["line"].title, "Line 1");
//! # Ok(()) }
//! ```
//!
//! While switch `control` is on, these routes steer it from outside (they need no key):
//!
//! | route | body | does |
//! |---|---|---|
//! | `GET /fake/events` | | what happened, see [`Event`] |
//! | `GET /fake/loaded` | | every project, collection and resource that is loaded, with hashes |
//! | `GET /fake/behaviour` | | the switches as they stand |
//! | `POST /fake/switch` | `NAME=VALUE` lines | sets switches |
//! | `POST /fake/restart` | | restarts |
//! | `POST /fake/key` | `name:secret`, or nothing | the key from now on, or none |
//! | `POST /fake/designers` | JSON list | the open Designers |
//! | `POST /fake/fail` | `{"path","status","times"}` | makes calls fail |

mod behaviour;
mod control;
mod core;
mod data;
mod events;
mod lists;
mod own_files;
mod replica;
mod routes;
mod scan;
mod serve;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinHandle;

pub use behaviour::{Behaviour, LockBusy, Permission, PlainHttpRefusal, SWITCHES, Switch, SwitchError};
pub use core::GatewayPhase;
pub use data::{Half, LoadedCollection, LoadedProject, LoadedResource, Skipped};
pub use events::{BootEvent, Event, Load, LockEvent, LockOutcome, RequestEvent, ScanEvent, Trigger};
pub use routes::{Failure, FailureKind};
pub use serve::{Options, serve};

use crate::rules::{Designer, ScanKind};
use core::{Core, KeySource};

/// Why a fake gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FakeError {
    /// The address cannot be listened on.
    #[error("fake gateway cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be made or read.
    #[error("fake gateway has no usable certificate: {0}")]
    Certificate(String),
    /// Signals cannot be received.
    #[error("fake gateway cannot receive signals")]
    Signal(#[source] io::Error),
    /// It faulted.
    #[error("fake gateway faulted: {}", .0.join("; "))]
    Faulted(Vec<String>),
    /// Something did not happen in time.
    #[error("fake gateway: {what} did not happen within {} ms", within.as_millis())]
    TooSlow {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
}

/// A fake gateway that has not started.
#[derive(Debug)]
pub struct Builder {
    data_dir: PathBuf,
    behaviour: Behaviour,
    key: KeySource,
    wait_for_data_dir: bool,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    certificate: Option<(String, String)>,
}

impl Builder {
    /// The one key that it knows, `name:secret`.
    #[must_use]
    pub fn api_key(mut self, key: &str) -> Self {
        self.key = KeySource::Fixed(Some(key.to_owned()));
        self
    }

    /// The file with that key, read at every request.
    #[must_use]
    pub fn api_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = KeySource::File(path.into());
        self
    }

    /// Replaces all switches.
    #[must_use]
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Sets one switch, `NAME=VALUE`; see [`SWITCHES`].
    ///
    /// # Errors
    /// When there is no such switch or value.
    pub fn switch(mut self, text: &str) -> Result<Self, SwitchError> {
        self.behaviour.set(text)?;
        Ok(self)
    }

    /// Whether to stay STARTING until the data directory exists.
    #[must_use]
    pub const fn wait_for_data_dir(mut self, wait: bool) -> Self {
        self.wait_for_data_dir = wait;
        self
    }

    /// Where to listen for plain http; a free loopback port unless told otherwise.
    #[must_use]
    pub const fn http(mut self, address: Option<SocketAddr>) -> Self {
        self.http = address;
        self
    }

    /// Where to listen for https; a free loopback port unless told otherwise.
    #[must_use]
    pub const fn https(mut self, address: Option<SocketAddr>) -> Self {
        self.https = address;
        self
    }

    /// The certificate and key to show, as PEM; otherwise a self-signed one for `fake-gateway`.
    #[must_use]
    pub fn certificate(mut self, certificate_pem: &str, key_pem: &str) -> Self {
        self.certificate = Some((certificate_pem.to_owned(), key_pem.to_owned()));
        self
    }

    /// Listens and begins to start. Answers come at once; it is RUNNING after `boot-time`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(self) -> Result<FakeGateway, FakeError> {
        let core = Core::new(self.data_dir, self.behaviour, self.key);
        let handle = axum_server::Handle::new();
        let (certificate_pem, key_pem) = match self.certificate {
            Some(given) => given,
            None => self_signed()?,
        };
        let mut tasks = Vec::new();
        let mut http = None;
        if let Some(address) = self.http {
            let (listener, bound) = listen(address)?;
            http = Some(bound);
            let server =
                axum_server::from_tcp(listener).map_err(|source| FakeError::Listen { address, source })?;
            let app = router(&core, false);
            tasks.push(tokio::spawn(report_end(server.handle(handle.clone()).serve(app))));
        }
        let mut https = None;
        if let Some(address) = self.https {
            let (listener, bound) = listen(address)?;
            https = Some(bound);
            let acceptor = RustlsAcceptor::new(tls(&certificate_pem, &key_pem)?);
            let server =
                axum_server::from_tcp(listener).map_err(|source| FakeError::Listen { address, source })?;
            let app = router(&core, true);
            tasks.push(tokio::spawn(report_end(server.acceptor(acceptor).handle(handle.clone()).serve(app))));
        }
        for kind in ScanKind::ALL {
            tasks.push(tokio::spawn(Arc::clone(&core).scanner(kind)));
        }
        tasks.push(tokio::spawn(Arc::clone(&core).churn()));
        tasks.push(tokio::spawn(Arc::clone(&core).follow()));
        core.restart(self.wait_for_data_dir);
        Ok(FakeGateway { core, handle, tasks, http, https, certificate_pem })
    }
}

type App = axum::extract::connect_info::IntoMakeServiceWithConnectInfo<axum::Router, SocketAddr>;

fn router(core: &Arc<Core>, https: bool) -> App {
    let server = routes::Server { core: Arc::clone(core), https };
    axum::Router::new().fallback(routes::handle).with_state(server).into_make_service_with_connect_info()
}

async fn report_end(server: impl Future<Output = io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(%error, "fake gateway stopped listening");
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), FakeError> {
    let failed = |source| FakeError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn self_signed() -> Result<(String, String), FakeError> {
    let made = rcgen::generate_simple_self_signed(vec!["fake-gateway".to_owned()])
        .map_err(|e| FakeError::Certificate(e.to_string()))?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

fn tls(certificate_pem: &str, key_pem: &str) -> Result<RustlsConfig, FakeError> {
    let unusable = |e: &dyn fmt::Display| FakeError::Certificate(e.to_string());
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| unusable(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| unusable(&e))?;
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// Two scanners, the churn, the follower: after the listeners in the list of tasks.
const BACKGROUND_TASKS: usize = 4;

/// A fake gateway that listens. It stops when this is dropped.
pub struct FakeGateway {
    core: Arc<Core>,
    handle: axum_server::Handle<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    certificate_pem: String,
}

impl fmt::Debug for FakeGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { core, http, https, .. } = self;
        f.debug_struct("FakeGateway")
            .field("data_dir", &core.data_dir)
            .field("http", http)
            .field("https", https)
            .finish_non_exhaustive()
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl FakeGateway {
    /// A gateway on this data directory: http and https on free loopback ports, no key, default behaviour.
    #[must_use]
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Builder {
            data_dir: data_dir.into(),
            behaviour: Behaviour::default(),
            key: KeySource::Fixed(None),
            wait_for_data_dir: false,
            http: Some(any),
            https: Some(any),
            certificate: None,
        }
    }

    /// `http://address:port`; empty when it does not listen for plain http.
    #[must_use]
    pub fn url(&self) -> String {
        self.http.map(|a| format!("http://{a}")).unwrap_or_default()
    }

    /// `https://address:port`; empty when it does not listen for https.
    #[must_use]
    pub fn https_url(&self) -> String {
        self.https.map(|a| format!("https://{a}")).unwrap_or_default()
    }

    /// The certificate that it shows, as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// How far it is.
    #[must_use]
    pub fn phase(&self) -> GatewayPhase {
        self.core.read(|s| s.phase.clone())
    }

    /// Waits until it is up.
    ///
    /// # Errors
    /// When it faulted, or took too long.
    pub async fn until_running(&self, limit: Duration) -> Result<(), FakeError> {
        let done = |g: &Self| match g.phase() {
            GatewayPhase::Starting => None,
            GatewayPhase::Running => Some(Ok(())),
            GatewayPhase::Faulted(faults) => Some(Err(FakeError::Faulted(faults))),
        };
        self.until("start", limit, done).await?
    }

    /// Waits until its events satisfy `condition`, and gives what that found.
    ///
    /// # Errors
    /// When that took too long.
    pub async fn until_events<T>(
        &self,
        limit: Duration,
        mut condition: impl FnMut(&[Event]) -> Option<T>,
    ) -> Result<T, FakeError> {
        self.until("the expected event", limit, |g| condition(&g.events())).await
    }

    async fn until<T>(
        &self,
        what: &'static str,
        within: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, FakeError> {
        let mut version = self.core.version.subscribe();
        let wait = async {
            loop {
                version.borrow_and_update();
                if let Some(found) = look(self) {
                    return found;
                }
                core::pause(&mut version, None).await;
            }
        };
        tokio::time::timeout(within, wait).await.map_err(|_| FakeError::TooSlow { what, within })
    }

    /// Goes down and comes up again after `boot-time`, with everything read anew. The port stays open.
    pub fn restart(&self) {
        self.core.restart(false);
    }

    /// Changes the key that it knows; `None` = it has lost its key.
    pub fn set_key(&self, key: Option<&str>) {
        self.core.change(|s| s.key = KeySource::Fixed(key.map(ToOwned::to_owned)));
    }

    /// Sets one switch while it runs, `NAME=VALUE`; see [`SWITCHES`].
    ///
    /// # Errors
    /// When there is no such switch or value.
    pub fn set(&self, switch: &str) -> Result<(), SwitchError> {
        self.core.change(|s| s.behaviour.set(switch))
    }

    /// Sets the open Designers.
    pub fn set_designers(&self, designers: Vec<Designer>) {
        self.core.change(|s| s.designers = designers);
    }

    /// Makes calls fail.
    pub fn fail(&self, failure: Failure) {
        self.core.change(|s| s.injected.push(failure));
    }

    /// Lets all calls work again.
    pub fn clear_failures(&self) {
        self.core.change(|s| s.injected.clear());
    }

    /// Writes a line to the gateway's log.
    pub fn log_warning(&self, message: &str) {
        self.core.change(|s| s.log("WARN", "fake.test", message.to_owned()));
    }

    /// What happened so far, oldest first; the newest 5,000 events.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.core.read(|s| s.journal.list())
    }

    /// The scans so far, oldest first.
    #[must_use]
    pub fn scans(&self) -> Vec<ScanEvent> {
        let scan = |e| if let Event::Scan(scan) = e { Some(scan) } else { None };
        self.events().into_iter().filter_map(scan).collect()
    }

    /// The requests so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestEvent> {
        let request = |e| if let Event::Request(request) = e { Some(request) } else { None };
        self.events().into_iter().filter_map(request).collect()
    }

    /// The projects as they are loaded now (not as they lie on disk).
    #[must_use]
    pub fn loaded_projects(&self) -> Arc<Half<LoadedProject>> {
        self.core.read(|s| Arc::clone(&s.projects))
    }

    /// The configuration as it is loaded now (not as it lies on disk).
    #[must_use]
    pub fn loaded_config(&self) -> Arc<Half<LoadedCollection>> {
        self.core.read(|s| Arc::clone(&s.config))
    }

    /// Stops listening, lets running answers finish for up to a second.
    pub async fn stop(mut self) {
        self.handle.graceful_shutdown(Some(Duration::from_secs(1)));
        for task in self.tasks.split_off(self.tasks.len().saturating_sub(BACKGROUND_TASKS)) {
            task.abort();
        }
        for listener in std::mem::take(&mut self.tasks) {
            let _ = listener.await;
        }
    }
}
