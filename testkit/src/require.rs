//! What a test needs from the machine, and what happens when it is not there.
//!
//! A test that cannot run here is left out, visibly: a line goes to standard error and to the file that
//! `STOKER_TEST_SKIPS` names, from which `cargo xtask test` makes its summary (with `CI=true`, a failure). What the
//! machine could do but does not, such as a server that fails to start, is a failure of the test.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;

use crate::api_server::{ApiServer, SHARED_API_SERVER};
use crate::gitea::{self, Gitea};
use crate::gitserver::{self, Ssh};
use crate::node::{self, Node, SHARED_NODE};
use crate::tools::{self, Missing, Tool};

/// Names the file that tests left out are recorded in, one `test<TAB>reason` a line.
pub const SKIPS: &str = "STOKER_TEST_SKIPS";

/// Names the folder with the archives of the product's images, which [`crate::Node::shared`] has loaded.
pub const IMAGES: &str = "STOKER_TEST_IMAGES";

/// The shared API server, or `None` where there is none and none can be built.
///
/// # Panics
///
/// It should start here and does not.
pub async fn api_server() -> Option<&'static ApiServer> {
    let lacking = if shared(SHARED_API_SERVER) { None } else { lacking_for_level_1() };
    available("the API server", lacking, ApiServer::shared()).await
}

/// An API server for this test alone, or `None` as for [`api_server`].
///
/// # Panics
///
/// It should start here and does not.
pub async fn own_api_server() -> Option<ApiServer> {
    available("an API server", lacking_for_level_1(), ApiServer::start()).await
}

/// The shared node, or `None` where there is none and none can run (not root, not Linux).
///
/// # Panics
///
/// It should start here and does not.
pub async fn node() -> Option<&'static Node> {
    let lacking = if shared(SHARED_NODE) { None } else { node::lacking() };
    available("the node", lacking, Node::shared()).await
}

/// A node for this test alone, or `None` as for [`node()`].
///
/// # Panics
///
/// It should start here and does not.
pub async fn own_node() -> Option<Node> {
    available("a node", node::lacking(), Node::start()).await
}

/// Whether the product's images are in the node, as `ghcr.io/stoker-io/<name>:<version>`, pull policy `Never`.
///
/// They are where `cargo xtask test` has assembled them; a plain `cargo test` builds no images.
///
/// # Panics
///
/// An archive cannot be loaded.
pub async fn images(node: &Node) -> bool {
    let Some(folder) = std::env::var_os(IMAGES).filter(|folder| !folder.is_empty()) else {
        skip(&Missing(format!("needs the images: use `cargo xtask test`, or set {IMAGES}")));
        return false;
    };
    // Who shares a node has loaded them; a node of this process is new.
    let load = async {
        if node.is_own() {
            node.load_images(std::path::Path::new(&folder))?;
        }
        Ok(())
    };
    available("the images", None, load).await.is_some()
}

/// A Gitea for this test alone, on loopback, or `None` where it cannot run.
///
/// # Panics
///
/// It should start here and does not.
pub async fn gitea() -> Option<Gitea> {
    available("Gitea", gitea::lacking(), Gitea::start()).await
}

/// A Gitea in the network of a node, or `None` where it cannot run.
///
/// # Panics
///
/// It should start here and does not.
pub async fn gitea_in(node: &Node) -> Option<Gitea> {
    available("Gitea", gitea::lacking(), Gitea::start_in(node)).await
}

/// A git server over ssh for this test alone, or `None` where OpenSSH's server cannot serve.
///
/// # Panics
///
/// It should start here and does not.
pub async fn ssh() -> Option<Ssh> {
    available("sshd", gitserver::lacking_for_ssh(), Ssh::start()).await
}

/// A built tool such as Helm.
///
/// # Panics
///
/// It should build here and does not.
pub async fn tool(tool: Tool) -> Option<PathBuf> {
    let build = async move { tokio::task::spawn_blocking(move || tools::obtain(tool)).await? };
    available(tool.name(), tools::missing(tool), build).await
}

/// A program of the operating system such as `sshd`.
pub fn program(name: &str) -> Option<PathBuf> {
    let found = tools::program(name);
    if found.is_none() {
        skip(&Missing(format!("there is no `{name}` on this machine")));
    }
    found
}

/// Whether this process is root, for what only root can do.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&Missing("needs root".into()));
    }
    root
}

/// Records that the running test is left out.
pub fn skip(why: &Missing) {
    let thread = std::thread::current();
    let line = format!("{}\t{why}\n", thread.name().unwrap_or("?"));
    let _ = write!(std::io::stderr(), "left out: {line}");
    if let Some(path) = std::env::var_os(SKIPS).filter(|path| !path.is_empty()) {
        // One write of a short line: tests append at the same time.
        let file = File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

pub(crate) fn lacking_for_level_1() -> Option<Missing> {
    crate::LEVEL_1.iter().find_map(|tool| tools::missing(*tool))
}

pub(crate) fn shared(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|path| !path.is_empty() && path != node::NO_NODE)
}

#[allow(clippy::panic, reason = "a part that should start and does not fails the test that asked for it")]
pub(crate) async fn available<T>(
    what: &str,
    lacking: Option<Missing>,
    start: impl Future<Output = Result<T>>,
) -> Option<T> {
    if let Some(missing) = lacking {
        skip(&missing);
        return None;
    }
    match start.await {
        Ok(value) => Some(value),
        Err(error) => panic!("{what} does not start: {error:#}"),
    }
}
