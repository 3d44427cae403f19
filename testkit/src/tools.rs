//! Where the programs come from that tests run on.
//!
//! Each is looked for in this order: an environment variable that names a ready binary, the cache folder
//! (`STOKER_TOOLS`, else `stoker/tools` in the user's cache folder), a build from the Go modules pinned in
//! `testkit/go`. A build is kept in the cache under the module's version and a fingerprint of its `go.mod`,
//! `go.sum` and flags, so that a change of a pin builds anew and nothing stale is ever run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

mod build;
mod catalogue;

pub use catalogue::{DEBIAN_PACKAGES, DebianPackage, Tool};

/// What a machine lacks, in a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a tool came to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An environment variable names it.
    Environment,
    /// It was built before.
    Cache,
    /// It was built just now, in this time.
    Built(Duration),
}

/// A program that is ready to run.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Which one it is.
    pub tool: Tool,
    /// The executable file.
    pub path: PathBuf,
    /// Where it came from.
    pub origin: Origin,
}

/// Makes a tool ready, which may build it, and returns its executable.
///
/// # Errors
///
/// The environment names a file that does not exist, or the build fails (no Go, no network).
pub fn obtain(tool: Tool) -> Result<PathBuf> {
    let mut ready = obtain_all(&[tool])?;
    ready.pop().map(|ready| ready.path).context("a tool asked for is a tool returned")
}

/// Makes several tools ready and returns them in the order given; those of one module are built together.
///
/// # Errors
///
/// As [`obtain`].
pub fn obtain_all(tools: &[Tool]) -> Result<Vec<Ready>> {
    let mut found: Vec<Option<Ready>> = Vec::with_capacity(tools.len());
    for &tool in tools {
        found.push(find(tool)?);
    }
    let missing: Vec<Tool> =
        tools.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(tool, _)| *tool).collect();
    let mut built = build::build(&missing)?;
    tools
        .iter()
        .zip(found)
        .map(|(tool, found)| {
            found
                .or_else(|| {
                    built.iter().position(|ready| ready.tool == *tool).map(|at| built.swap_remove(at))
                })
                .with_context(|| format!("{} was not built", tool.name()))
        })
        .collect()
}

/// Finds a tool that is ready now, without building it.
///
/// # Errors
///
/// An environment variable names a file that does not exist.
pub fn find(tool: Tool) -> Result<Option<Ready>> {
    if let Some((variable, path)) = named_by_environment(tool) {
        if !path.is_file() {
            bail!("{variable} names {}, which is not a file", path.display());
        }
        return Ok(Some(Ready { tool, path, origin: Origin::Environment }));
    }
    let path = cached_path(tool)?;
    Ok(path.is_file().then_some(Ready { tool, path, origin: Origin::Cache }))
}

/// Says why a tool cannot be made ready on this machine, if so.
pub fn missing(tool: Tool) -> Option<Missing> {
    match find(tool) {
        Ok(Some(_)) => None,
        Err(error) => Some(Missing(error.to_string())),
        Ok(None) if program("go").is_some() => None,
        Ok(None) => Some(Missing(format!(
            "{} is not built and there is no Go to build it: install Go, or set {}",
            tool.name(),
            tool.variable()
        ))),
    }
}

/// A program of the operating system, looked up in `PATH` and the folders for administrators.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/go/bin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The folder that built tools are kept in.
///
/// # Errors
///
/// Neither `STOKER_TOOLS`, `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("STOKER_TOOLS")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("stoker/tools")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/stoker/tools")))
        .context("no folder for built tools: set STOKER_TOOLS to one")
}

/// The pinned version of a tool, such as `v1.36.3`.
///
/// # Errors
///
/// Its `go.mod` cannot be read.
pub fn version(tool: Tool) -> Result<String> {
    tool.module().version()
}

/// Everything that a build of this tool's module leaves beside its binaries, such as Gitea's templates.
///
/// # Errors
///
/// As [`cache_dir`].
pub fn data_dir(tool: Tool) -> Result<PathBuf> {
    Ok(module_dir(tool)?.join("data"))
}

fn named_by_environment(tool: Tool) -> Option<(String, PathBuf)> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set(&tool.variable()) {
        return Some((tool.variable(), path.into()));
    }
    if !tool.is_envtest_asset() {
        return None;
    }
    set("KUBEBUILDER_ASSETS").map(|dir| ("KUBEBUILDER_ASSETS".into(), Path::new(&dir).join(tool.name())))
}

fn cached_path(tool: Tool) -> Result<PathBuf> {
    Ok(module_dir(tool)?.join(OsStr::new(tool.name())))
}

fn module_dir(tool: Tool) -> Result<PathBuf> {
    let module = tool.module();
    Ok(cache_dir()?.join(format!("{}-{}-{}", module.name, module.version()?, module.fingerprint()?)))
}
