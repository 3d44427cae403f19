//! What the engine costs, against the tools that people use in its place, on the same tree in the same run.
//!
//! ```text
//!  generator ─▶ git repository ─┬─▶ cache ─▶ stoker-engine-subject ─▶ data directory   (a process for each sync)
//!                               └─▶ git checkout ─▶ rsync -a ─▶ another directory      (the peer, in turn with ours)
//! ```
//!
//! The commit is in the cache and in the peer's repository before anything is measured: fetching is another matter.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use stoker_git::{Access, Cache, ChildCommand, Git, Remote, RemoteUrl, Wanted};
use stoker_testkit::repo::Repo;

use crate::figure::{Bound, Report, max, median};
use crate::process;
use crate::tree::{self, View};

mod calls;
pub mod instructions;
pub mod subject;

use calls::Calls;
use subject::{Outcome, Subject};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that does one sync.
    pub program: PathBuf,
    /// Folders to work in, one a file system.
    pub folders: Vec<PathBuf>,
    /// How often each pair is run; the median counts.
    pub rounds: usize,
    /// Whether the tree of 100,000 files is measured as well.
    pub large: bool,
}

/// A repository, and the commits in the cache.
struct Bench {
    subject: Subject,
    repo: Repo,
    first: String,
    /// A commit that changes nothing that is mapped.
    elsewhere: String,
    /// A commit that changes ten files.
    ten: String,
}

/// Measures.
///
/// # Errors
///
/// A part (git, rsync, strace) is missing, or a sync fails.
pub fn run(options: &Options) -> Result<Report> {
    for program in ["git", "rsync", "strace"] {
        ensure!(stoker_testkit::tools::program(program).is_some(), "{program} is needed: install it");
    }
    let mut report = Report::new("engine");
    let note = "processes that want to run; above the number of cores, times say little and ratios some";
    report.add("machine_load_before", process::load()?, "processes", Bound::None, note);
    let sizes: &[usize] = if options.large { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000] };
    for folder in &options.folders {
        // Nothing is removed before all is measured: ext4 takes several times as long to make a file while it walks around
        // the inodes of those that were removed in the last minutes.
        let whole = tempfile::Builder::new().prefix("stoker-bench-").tempdir_in(folder)?;
        let (mut growth, mut kept) = (Vec::new(), Vec::new());
        for &files in sizes {
            eprintln!("{files} files in {}.", folder.display());
            let work = whole.path().join(files.to_string());
            std::fs::create_dir(&work)?;
            let bench = Bench::new(&options.program, &work, files)?;
            let suffix = format!("{}_{files}", file_system(folder)?);
            let measured = bench.measure(&work, options.rounds, files, &suffix, &mut report)?;
            growth.push((files, measured));
            kept.push(bench);
        }
        per_file(&growth, &file_system(folder)?, options.large, &mut report);
    }
    Ok(report)
}

/// What grows with the number of files.
#[derive(Debug, Clone, Copy)]
struct Measured {
    first_ms: f64,
    drift_ms: f64,
    peak_mib: f64,
}

impl Bench {
    fn new(program: &Path, work: &Path, files: usize) -> Result<Self> {
        let repo = Repo::new()?;
        let bytes = tree::write(repo.path(), files)?;
        eprintln!("  {:.1} MB.", bytes as f64 / 1e6);
        let first = repo.commit("first")?;
        let elsewhere = repo.commit_files("elsewhere", &[("docs/readme.md", "not mapped")])?;
        for number in 0..10 {
            View::new(number * (files / 20), 1).write(&repo.path().join(tree::ROOT))?;
        }
        let ten = repo.commit("ten files")?;
        let cache = work.join("cache");
        let git = Git::new(ChildCommand::executable(program));
        let remote = Remote::new(RemoteUrl::parse(&repo.file_url())?, Access::default());
        for commit in [&first, &elsewhere, &ten] {
            git.fetch_blocking(&remote, &Cache::new(&cache), &Wanted::commit(commit.parse()?))?;
        }
        let subject = Subject { program: program.to_owned(), cache };
        Ok(Self { subject, repo, first, elsewhere, ten })
    }

    fn measure(
        &self,
        work: &Path,
        rounds: usize,
        files: usize,
        suffix: &str,
        report: &mut Report,
    ) -> Result<Measured> {
        let standard = files == 10_000;
        let bound = |most: f64| if standard { Bound::AtMost(most) } else { Bound::None };
        let (mut checkout, mut theirs) = (PathBuf::new(), PathBuf::new());

        // First sync, in turn with checkout and rsync.
        let (mut ours, mut peer, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds.div_ceil(2) {
            let data = work.join(format!("first-{round}"));
            std::fs::create_dir(&data)?;
            let (took, outcome) = self.subject.sync(&self.first, &data, false)?;
            ours.push(took);
            peaks.push(outcome.peak_rss_mib);
            (checkout, theirs) =
                (work.join(format!("checkout-{round}")), work.join(format!("theirs-{round}")));
            std::fs::create_dir(&checkout)?;
            std::fs::create_dir(&theirs)?;
            let began = Instant::now();
            self.peer_checkout(&self.first, &checkout)?;
            rsync(&checkout, &theirs)?;
            run_quietly(Command::new("sync").arg("-f").arg(&theirs))?;
            peer.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        let first_ms = median(&ours);
        report.add(format!("first_sync_{suffix}"), first_ms, "ms", Bound::None, "the whole process");
        report.add(
            format!("first_sync_peer_{suffix}"),
            median(&peer),
            "ms",
            Bound::None,
            "git checkout, rsync -a, sync -f",
        );
        let ratio = first_ms / median(&peer);
        report.add(format!("first_sync_ratio_{suffix}"), ratio, "ratio", bound(1.0), "ours / peer");
        let peak_mib = max(&peaks);
        let most = match files {
            10_000 => Bound::AtMost(32.0),
            100_000 => Bound::AtMost(64.0),
            _ => Bound::None,
        };
        report.add(format!("peak_rss_{suffix}"), peak_mib, "MiB", most, "of the first sync");

        // Drift check of what has not changed, in turn with rsync.
        let data = work.join("data");
        std::fs::create_dir(&data)?;
        self.subject.sync(&self.first, &data, false)?;
        let (mut ours, mut peer, mut inside, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (took, outcome) = self.subject.sync(&self.first, &data, true)?;
            ensure!(outcome.actions == 0, "the drift check found {} changes", outcome.actions);
            ours.push(took);
            inside.push(outcome.plan_ms);
            cpu.push(outcome.cpu_ms);
            let began = Instant::now();
            rsync(&checkout, &theirs)?;
            peer.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        let drift_ms = median(&ours);
        report.add(format!("drift_check_{suffix}"), drift_ms, "ms", bound(100.0), "the whole process");
        report.add(
            format!("drift_check_plan_{suffix}"),
            median(&inside),
            "ms",
            Bound::None,
            "the plan alone",
        );
        report.add(format!("drift_check_peer_{suffix}"), median(&peer), "ms", Bound::None, "rsync -a");
        let ratio = drift_ms / median(&peer);
        report.add(format!("drift_check_ratio_{suffix}"), ratio, "ratio", bound(0.5), "ours / peer");
        report.add(format!("drift_check_cpu_{suffix}"), median(&cpu), "ms", Bound::None, "CPU time");
        let trace = work.join("trace");
        self.subject.traced(&self.first, &data, true, &trace)?;
        let opened = Calls::read(&trace, &data)?.opened as f64;
        report.add(format!("drift_check_opened_{suffix}"), opened, "files", Bound::AtMost(0.0), "by strace");

        // A new commit that changes nothing mapped, there and back.
        let mut plans = Vec::new();
        let mut whole = Vec::new();
        for round in 0..rounds {
            let commit = if round % 2 == 0 { &self.elsewhere } else { &self.first };
            let (_, outcome) = self.subject.sync(commit, &data, false)?;
            ensure!(outcome.actions == 0, "a commit elsewhere changed {} paths", outcome.actions);
            plans.push(outcome.plan_ms);
            whole.push(outcome.plan_ms + outcome.apply_ms);
        }
        report.add(
            format!("unchanged_plan_{suffix}"),
            median(&plans),
            "ms",
            Bound::AtMost(1.0),
            "nothing is listed",
        );
        report.add(
            format!("unchanged_total_{suffix}"),
            median(&whole),
            "ms",
            Bound::None,
            "with the durable note of the commit",
        );

        // Ten changed files, there and back.
        self.subject.sync(&self.first, &data, false)?;
        let (mut times, mut cpu) = (Vec::new(), Vec::new());
        for round in 0..rounds * 2 {
            let commit = if round % 2 == 0 { &self.ten } else { &self.first };
            let (_, outcome) = self.subject.sync(commit, &data, false)?;
            ensure!(outcome.actions == 10, "ten changed files are {} actions", outcome.actions);
            times.push(outcome.live_ms());
            cpu.push(outcome.cpu_ms);
        }
        let note = "commit object to live and durable";
        report.add(format!("ten_files_{suffix}"), median(&times), "ms", bound(50.0), note);
        report.add(format!("ten_files_cpu_{suffix}"), median(&cpu), "ms", Bound::None, "CPU time");
        self.subject.traced(&self.ten, &data, false, &trace)?;
        let calls = Calls::read(&trace, &data)?.writing as f64 / 10.0;
        report.add(
            format!("ten_files_calls_{suffix}"),
            calls,
            "calls",
            bound(15.0),
            "that write, a file, by strace",
        );
        Ok(Measured { first_ms, drift_ms, peak_mib })
    }

    fn peer_checkout(&self, commit: &str, to: &Path) -> Result<()> {
        let mut command = Command::new("git");
        command
            .arg(format!("--git-dir={}", self.repo.path().join(".git").display()))
            .arg(format!("--work-tree={}", to.display()))
            .env("GIT_INDEX_FILE", to.with_extension("index"))
            .args(["checkout", "--force", "--quiet", commit, "--", "services"]);
        let _ = std::fs::remove_file(to.with_extension("index"));
        run_quietly(&mut command)
    }
}

impl Outcome {
    fn live_ms(&self) -> f64 {
        self.open_ms + self.plan_ms + self.apply_ms
    }
}

/// Time and memory a file: what is added between two sizes, against the smallest.
fn per_file(growth: &[(usize, Measured)], suffix: &str, large: bool, report: &mut Report) {
    let [(few, small), .., (many, big)] = growth else { return };
    let (few, many) = (*few as f64, *many as f64);
    let bound = if large { Bound::AtMost(1.2) } else { Bound::None };
    let note = format!("a file at {many} files, to a file at {few}");
    let ratio = |small: f64, big: f64| (big / many) / (small / few);
    report.add(
        format!("growth_first_sync_{suffix}"),
        ratio(small.first_ms, big.first_ms),
        "ratio",
        bound,
        &note,
    );
    report.add(
        format!("growth_drift_check_{suffix}"),
        ratio(small.drift_ms, big.drift_ms),
        "ratio",
        bound,
        &note,
    );
    report.add(format!("growth_memory_{suffix}"), ratio(small.peak_mib, big.peak_mib), "ratio", bound, &note);
}

/// As people keep a directory in step with a checkout.
fn rsync(from: &Path, to: &Path) -> Result<()> {
    let source = format!("{}/services/gateway/projects/", from.display());
    run_quietly(Command::new("rsync").args(["-a", "--delete", &source]).arg(to))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The kind of file system, such as `ext2` (which stands for ext2, ext3 and ext4) or `tmpfs`.
fn file_system(folder: &Path) -> Result<String> {
    let output = Command::new("stat").args(["--file-system", "--format=%T"]).arg(folder).output()?;
    let name = String::from_utf8(output.stdout)?;
    Ok(name.trim().split('/').next().unwrap_or("unknown").to_owned())
}
