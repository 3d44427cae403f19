//! The process that is measured.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What one round of following took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What the ref meant.
    pub commit: String,
    /// Asking for the ref.
    pub poll_ms: f64,
    /// From the question to the content of the file.
    pub total_ms: f64,
    /// The size of the pack.
    pub transferred_bytes: u64,
    /// Whether the cache was made anew.
    pub rebuilt: bool,
    /// The most memory that the process ever had, in MiB.
    pub peak_rss_mib: f64,
    /// The most memory that the child which fetched had, in MiB; 0 when nothing was fetched.
    pub child_peak_rss_mib: f64,
}

/// A process that follows a branch, one round at a time.
#[derive(Debug)]
pub struct Follower {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// Asks once, in a process of its own; the time is that of the whole process, in milliseconds.
///
/// # Errors
///
/// The repository cannot be asked.
pub fn poll(program: &Path, url: &str) -> Result<f64> {
    timed(Command::new(program).args(["poll", url, "main"]))
}

/// How long a command takes, in milliseconds.
///
/// # Errors
///
/// It ends with another code than 0; the text is what it says.
pub fn timed(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().context("running a program")?;
    let took = began.elapsed();
    let name = command.get_program().display();
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(took.as_secs_f64() * 1000.0)
}

impl Follower {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The program cannot be run.
    pub fn start(program: &Path, url: &str, cache: &Path, file: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["follow", url, "main"]).arg(cache).arg(file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().context("its output was asked for")?);
        Ok(Self { child, to, from })
    }

    /// One round.
    ///
    /// # Errors
    ///
    /// It could not follow; it says why on standard error.
    pub fn round(&mut self) -> Result<Round> {
        self.to.as_mut().context("it was not ended")?.write_all(b"\n")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        serde_json::from_str(&line).context("the follower ended")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.to.take());
        let _ = self.child.wait();
    }
}

/// A working copy of git's own, at depth 1, for the peer.
#[derive(Debug)]
pub struct WorkingCopy {
    path: PathBuf,
    url: String,
}

impl WorkingCopy {
    /// Clones.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn new(path: PathBuf, url: &str) -> Result<Self> {
        let copy = Self { path, url: url.to_owned() };
        timed(git().args(["clone", "--quiet", "--depth", "1", "--branch", "main", url]).arg(&copy.path))?;
        Ok(copy)
    }

    /// Fetches the branch and checks it out, as a script does; in milliseconds.
    ///
    /// # Errors
    ///
    /// git refuses.
    pub fn update(&self) -> Result<f64> {
        let run = |arguments: &[&str]| timed(git().current_dir(&self.path).args(arguments));
        let fetched = run(&["fetch", "--quiet", "--depth", "1", &self.url, "main"])?;
        Ok(fetched + run(&["checkout", "--quiet", "--force", "FETCH_HEAD"])?)
    }
}

/// git without the user's configuration.
pub fn git() -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0");
    // Clones clean up after themselves now and then, in the background: not while others are measured.
    command.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command
}
