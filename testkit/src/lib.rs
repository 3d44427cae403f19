//! The real parts that tests run on.
//!
//! Nothing in here is a mock but [`github`], which cannot be run here. [`ApiServer`] is the real API server; the git servers and the forge are the ones that
//! people run. Each is a process that cannot outlive the test that started it (see [`leash`]), and each is
//! obtained, built if need be, by [`tools`].
//!
//! A test asks for what it needs through [`require`], which is the one place where a test is left out because the
//! machine lacks something:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let Some(server) = stoker_testkit::require::api_server().await else { return Ok(()) };
//! let namespace = server.namespace().await?;
//! let client = server.client()?;
//! # Ok(()) }
//! ```

pub mod access;
pub mod api_server;
mod control_plane;
pub mod gitea;
pub mod github;
pub mod gitserver;
pub mod ignition;
pub mod images;
pub mod leash;
pub mod namespace;
pub mod node;
pub mod pki;
pub mod place;
pub mod proxy;
pub mod repo;
pub mod require;
pub mod tools;
pub mod wait;

pub use api_server::ApiServer;
pub use namespace::Namespace;
pub use node::Node;
pub use repo::Repo;

use tools::Tool;

/// What an [`ApiServer`] runs.
pub const LEVEL_1: &[Tool] = &[Tool::Etcd, Tool::KubeApiserver, Tool::KubeControllerManager];

/// Settles process-wide choices; every entry of this crate calls it, and calling it again does nothing.
pub fn init() {
    // Fails when a provider is installed already, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes tools ready without blocking the runtime: a build takes minutes.
pub(crate) async fn tools_ready(wanted: &'static [Tool]) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || tools::obtain_all(wanted)).await??;
    Ok(())
}
