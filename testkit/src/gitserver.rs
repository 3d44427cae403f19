//! Servers of git repositories as people run them: smart http(s), ssh, `git://`.
//!
//! Each serves the bare repositories of a folder of its own and gives out URLs and what a client needs to trust
//! and to be trusted. Pods reach one that was started at [`crate::Node::host_address`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::repo::{self, Repo};

mod daemon;
mod http;
mod ssh;

pub use daemon::Daemon;
pub use http::{Fault, Http, HttpOptions, HttpRequest};
pub(crate) use ssh::lacking as lacking_for_ssh;
pub use ssh::{KeyKind, Ssh};

/// The bare repositories that a server serves.
#[derive(Debug)]
pub struct Shelf {
    folder: TempDir,
}

impl Shelf {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("stoker-shelf-").tempdir()? })
    }

    /// The folder that holds the repositories.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an empty bare repository, such as `plant/ignition.git`, that can be fetched by commit id and pushed to
    /// as forges allow it.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn create(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let parent = path.parent().context("a repository has a name")?;
        std::fs::create_dir_all(parent)?;
        let run = |arguments: &[&str]| repo::run(repo::git().current_dir(parent).args(arguments));
        let text = path.to_str().context("the temporary folder is UTF-8")?;
        run(&["init", "--quiet", "--bare", "--initial-branch=main", text])?;
        for (key, value) in [
            ("http.receivepack", "true"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("uploadpack.allowFilter", "true"),
        ] {
            run(&["-C", text, "config", key, value])?;
        }
        Ok(path)
    }

    /// Puts all branches and tags of a repository on the shelf, made if need be; what is gone here goes there.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn publish(&self, repo: &Repo, name: &str) -> Result<()> {
        let path = self.path().join(name);
        if !path.exists() {
            self.create(name)?;
        }
        let path = path.to_str().context("the temporary folder is UTF-8")?;
        repo.push(path, &["--prune", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])
    }
}
