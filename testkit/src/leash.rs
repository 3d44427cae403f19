//! Processes that cannot outlive the one that started them.
//!
//! A test may end by a panic, by Ctrl-C, or by `kill -9`; in none of these may a server or a file of it stay
//! behind. So each group of servers has a keeper, a small shell process that holds the reading end of a pipe:
//!
//! ```text
//! test process ──pipe──▶ keeper ──on end of file──▶ kill -9 the process group, delete the folder
//!      └─starts──▶ anchor (leads the group), servers (join it)
//! ```
//!
//! The kernel closes the pipe however the owner ends. A parent-death signal would not do: it follows the *thread*
//! that started a process, and a test's thread ends long before the servers that later tests share.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Ends the group `$1`, then removes the folder `$2` and the control groups named `$3`, if any.
///
/// Removal is tried for a while: a process killed a moment ago may hold a file or a control group yet.
const KEEPER: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
kill -s KILL -- "-$1" 2>/dev/null
tries=0
while [ $tries -lt 100 ]; do
  left=
  if [ -n "$3" ]; then
    for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
      [ -d "$root/$3" ] || continue
      find "$root/$3" -depth -type d -exec rmdir {} + 2>/dev/null || left=1
    done
  fi
  [ -z "$2" ] || rm -rf -- "$2" 2>/dev/null || left=1
  [ -n "$left" ] || exit 0
  tries=$((tries + 1))
  sleep 0.1
done
exit 1
"#;

/// A process group and a folder that vanish with their owner.
#[derive(Debug)]
pub struct Leash {
    keeper: Child,
    anchor: Child,
    folder: PathBuf,
}

/// A program that runs on a leash; its output goes to a file in the leash's folder.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Leash {
    /// Makes a fresh folder `stoker-<label>-…` in the system's temporary folder and a keeper for it.
    ///
    /// With `STOKER_TEST_KEEP` set the folder stays, for reading the logs; its processes end all the same.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or `sh` and `sleep` cannot be run.
    pub fn new(label: &str) -> Result<Self> {
        Self::with_control_group(label, None)
    }

    /// As [`Leash::new`]; the control groups of this name, in every hierarchy, are removed at the end as well.
    ///
    /// # Errors
    ///
    /// As [`Leash::new`].
    pub fn with_control_group(label: &str, control_group: Option<&str>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("stoker-{label}-")).tempdir()?.keep();
        std::fs::create_dir(folder.join("logs"))?;
        let mut anchor = Command::new("sleep");
        anchor.arg("2147483647").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let anchor = anchor.process_group(0).spawn().context("running sleep")?;
        let kept = std::env::var_os("STOKER_TEST_KEEP").is_some();
        let removed = if kept { Path::new("") } else { &*folder };
        let mut keeper = Command::new("sh");
        keeper
            .args(["-c", KEEPER, "stoker-keeper"])
            .arg(anchor.id().to_string())
            .arg(removed)
            .arg(control_group.unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let keeper = keeper.spawn().context("running sh")?;
        Ok(Self { keeper, anchor, folder })
    }

    /// The folder that is deleted at the end.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a program in the group, its output appended to `logs/<name>.log` in the folder.
    ///
    /// # Errors
    ///
    /// The program cannot be run.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        let log = self.folder.join("logs").join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(i32::try_from(self.anchor.id())?)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        Ok(Process { name: name.to_owned(), child, log })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Waiting makes the end visible: what follows may count processes or reuse a name.
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(self.keeper.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.anchor.wait();
    }
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds what it printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// The operating system refuses to say.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Fails if the program has ended, with the last lines that it printed.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(anyhow::anyhow!("{} ended ({status}):\n{}", self.name, self.last_lines(15))),
        }
    }

    /// The last lines that it printed, long ones cut.
    pub fn last_lines(&self, count: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<String> = text.lines().map(|line| line.chars().take(400).collect()).collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Ends it hard and waits until it is gone.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            // What entered other namespaces is the child of an nsenter that waits for it.
            for pid in children(self.child.id()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The file goes with the leash, and a failure that comes once in a hundred runs is not had again.
            eprintln!("── the last lines of {}\n{}", self.name, self.last_lines(200));
        }
        let _ = self.kill();
    }
}

fn children(parent: u32) -> Vec<rustix::process::Pid> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)).collect()
}
