//! The fake gateway as a program: what `stoker fake-gateway` and its container image run.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Behaviour, FakeError, FakeGateway};

/// How to serve a fake gateway.
///
/// | member | switch of `stoker fake-gateway` | meaning |
/// |---|---|---|
/// | `listen` | `--listen ADDR` | plain http, such as `0.0.0.0:8088` |
/// | `tls_listen` | `--tls-listen ADDR` | https with a self-signed certificate, such as `0.0.0.0:8043` |
/// | `data_dir` | `--data-dir DIR` | the data directory to load |
/// | `api_key_file` | `--api-key-file FILE` | `name:secret`, read at every request; while it is missing every key is refused |
/// | `wait_for_data_dir` | `--wait-for-data-dir` | stay STARTING until the directory exists |
/// | `behaviour` | `--set NAME=VALUE` (repeated) | see [`super::SWITCHES`] |
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen for plain http.
    pub listen: Option<SocketAddr>,
    /// Where to listen for https.
    pub tls_listen: Option<SocketAddr>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The file with the key that callers must show. Keys that lie in the data directory as resources work as well.
    pub api_key_file: Option<PathBuf>,
    /// Whether to wait for the data directory instead of starting on an empty one.
    pub wait_for_data_dir: bool,
    /// How it behaves.
    pub behaviour: Behaviour,
}

/// Serves until SIGTERM or SIGINT. `ready` is called once, when it listens.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(options: Options, ready: impl FnOnce(&FakeGateway)) -> Result<(), FakeError> {
    // Installed first: as process 1 of a container nothing else ends this program.
    let mut terminate = signal(SignalKind::terminate()).map_err(FakeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(FakeError::Signal)?;
    let mut builder = FakeGateway::builder(options.data_dir)
        .behaviour(options.behaviour)
        .wait_for_data_dir(options.wait_for_data_dir)
        .http(options.listen)
        .https(options.tls_listen);
    if let Some(file) = options.api_key_file {
        builder = builder.api_key_file(file);
    }
    let gateway = builder.start().await?;
    ready(&gateway);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("fake gateway stops");
    gateway.stop().await;
    Ok(())
}
