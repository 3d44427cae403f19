//! Small git repositories, made by the real git.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::ignition::Tree;

/// A repository with a working tree, on branch `main`.
///
/// Nothing of the user's git configuration is seen, and times are counted from a fixed day: the same steps give
/// the same commit ids on every machine.
#[derive(Debug)]
pub struct Repo {
    path: PathBuf,
    _folder: Option<TempDir>,
}

/// 2026-01-01T00:00:00Z; each commit is a minute after the one before.
const FIRST_COMMIT: u64 = 1_767_225_600;

impl Repo {
    /// An empty repository in a temporary folder.
    ///
    /// # Errors
    ///
    /// git cannot be run.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stoker-repo-").tempdir()?;
        let repo = Self { path: folder.path().to_owned(), _folder: Some(folder) };
        repo.git(["init", "--quiet", "--initial-branch=main"])?;
        Ok(repo)
    }

    /// A working copy of a repository that a server has.
    ///
    /// # Errors
    ///
    /// git cannot clone it.
    pub fn clone_of(url: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stoker-repo-").tempdir()?;
        let repo = Self { path: folder.path().to_owned(), _folder: Some(folder) };
        repo.git(["clone", "--quiet", url, "."])?;
        Ok(repo)
    }

    /// The working tree.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The URL that reaches it without a server.
    pub fn file_url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Writes a file into the working tree, with the folders above it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<&Self> {
        let target = self.path.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, content).with_context(|| format!("writing {}", target.display()))?;
        Ok(self)
    }

    /// Writes all files of a tree.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write_tree(&self, tree: &Tree) -> Result<&Self> {
        tree.write(&self.path)?;
        Ok(self)
    }

    /// Removes a file or a folder from the working tree.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub fn remove(&self, path: &str) -> Result<&Self> {
        let target = self.path.join(path);
        let removed = match target.is_dir() && !target.is_symlink() {
            true => std::fs::remove_dir_all(&target),
            false => std::fs::remove_file(&target),
        };
        removed.with_context(|| format!("removing {}", target.display()))?;
        Ok(self)
    }

    /// Commits everything that has changed, an empty change too, and returns the commit's id.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(["add", "--all"])?;
        self.git(["commit", "--quiet", "--allow-empty", "--message", message])?;
        self.head()
    }

    /// Writes these files and commits them.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or git refuses.
    pub fn commit_files(&self, message: &str, files: &[(&str, &str)]) -> Result<String> {
        for (path, content) in files {
            self.write(path, content)?;
        }
        self.commit(message)
    }

    /// The id of the current commit.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn head(&self) -> Result<String> {
        self.git(["rev-parse", "HEAD"])
    }

    /// Switches to a branch, made here if it does not exist.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn switch(&self, branch: &str) -> Result<&Self> {
        let exists = self.git(["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}")]).is_ok();
        let create: &[&str] = if exists { &[] } else { &["--create"] };
        self.git(["switch", "--quiet"].iter().chain(create).chain([&branch]))?;
        Ok(self)
    }

    /// Puts a lightweight tag on the current commit, moving it if it exists.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn tag(&self, name: &str) -> Result<&Self> {
        self.git(["tag", "--force", name])?;
        Ok(self)
    }

    /// Puts an annotated tag on the current commit, moving it if it exists; returns the id of the tag object.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn annotated_tag(&self, name: &str, message: &str) -> Result<String> {
        self.git(["tag", "--force", "--annotate", "--message", message, name])?;
        self.git(["rev-parse", &format!("refs/tags/{name}")])
    }

    /// Pushes to a URL; a refspec such as `main`, `+main` or `:main` as git knows it.
    ///
    /// # Errors
    ///
    /// The server refuses.
    pub fn push(&self, url: &str, refspecs: &[&str]) -> Result<()> {
        self.git(["push", "--quiet", url].iter().chain(refspecs))?;
        Ok(())
    }

    /// Runs git in the working tree and returns what it prints, trimmed.
    ///
    /// # Errors
    ///
    /// git ends with another code than 0; the text is what it says.
    pub fn git<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = git();
        command.current_dir(&self.path).args(arguments);
        let commits = match command.get_args().any(|argument| argument == "commit" || argument == "tag") {
            true => self.git(["rev-list", "--all", "--count"])?.parse().unwrap_or(0),
            false => 0u64,
        };
        let date = format!("{} +0000", FIRST_COMMIT + 60 * commits);
        command.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        run(&mut command)
    }
}

/// A git that sees nothing of the user's configuration and never asks.
pub(crate) fn git() -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "Ada Plant")
        .env("GIT_AUTHOR_EMAIL", "ada@plant.example")
        .env("GIT_COMMITTER_NAME", "Ada Plant")
        .env("GIT_COMMITTER_EMAIL", "ada@plant.example")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("running git")?;
    if !output.status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("`git {}` ended with {}: {}", arguments.join(" "), output.status, error.trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
