//! The process that is measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use stoker_core::{Mapping, MaxDeletes, SyncSpec};

/// What one sync took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Opening the commit in the cache.
    pub open_ms: f64,
    /// Opening the directory, its lock, and the plan.
    pub plan_ms: f64,
    /// Carrying it out, durably.
    pub apply_ms: f64,
    /// The CPU time of all that, whatever else the machine did meanwhile.
    pub cpu_ms: f64,
    /// How many paths the plan named.
    pub actions: usize,
    /// The most memory that the process ever had, in MiB.
    pub peak_rss_mib: f64,
}

/// What is synced: everything that the generator makes, where a gateway has it.
pub fn spec() -> SyncSpec {
    let mapping = Mapping {
        origin: "mappings[0]".to_owned(),
        source: "services/gateway/projects".to_owned(),
        destination: "projects".to_owned(),
        ..Mapping::default()
    };
    SyncSpec {
        mappings: vec![mapping],
        excludes: vec!["**/.git/".to_owned(), "**/.gitkeep".to_owned(), "**/.resources/**".to_owned()],
        max_deletes: MaxDeletes { count: u64::MAX, percent: 100 },
        ..SyncSpec::default()
    }
}

/// The program, and the cache that it reads commits from.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The program.
    pub program: PathBuf,
    /// The cache.
    pub cache: PathBuf,
}

impl Subject {
    /// Brings a commit into a directory; the time is that of the whole process, in milliseconds.
    ///
    /// # Errors
    ///
    /// The sync fails.
    pub fn sync(&self, commit: &str, data: &Path, drift: bool) -> Result<(f64, Outcome)> {
        self.run(Command::new(&self.program), commit, data, drift)
    }

    /// The same under strace, which writes to a file.
    ///
    /// # Errors
    ///
    /// The sync or strace fails.
    pub fn traced(&self, commit: &str, data: &Path, drift: bool, to: &Path) -> Result<Outcome> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(to).arg(&self.program);
        Ok(self.run(command, commit, data, drift)?.1)
    }

    /// The same under valgrind, which counts instructions; returns how many there were.
    ///
    /// # Errors
    ///
    /// The sync or valgrind fails.
    pub fn counted(&self, commit: &str, data: &Path, drift: bool, to: &Path) -> Result<u64> {
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--tool=callgrind"]);
        command.arg(format!("--callgrind-out-file={}", to.display())).arg(&self.program);
        self.run(command, commit, data, drift)?;
        let text = std::fs::read_to_string(to).with_context(|| format!("reading {}", to.display()))?;
        let total =
            text.lines().find_map(|line| line.strip_prefix("totals:")).context("valgrind counted nothing")?;
        total.trim().parse().context("valgrind's count is no number")
    }

    fn run(&self, mut command: Command, commit: &str, data: &Path, drift: bool) -> Result<(f64, Outcome)> {
        command.arg(&self.cache).arg(commit).arg(data).args(drift.then_some("drift")).stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output().with_context(|| format!("running {}", self.program.display()))?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        ensure!(
            output.status.success(),
            "the sync failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok((took, serde_json::from_slice(&output.stdout)?))
    }
}
