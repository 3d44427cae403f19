//! What following a repository costs, against git's own client, on the same server in the same run.
//!
//! ```text
//!  git http-backend ─┬─▶ stoker-git-subject: poll, follow      (in turn)
//!                    └─▶ git ls-remote; git fetch, git checkout
//!  git daemon ───────▶ stoker-git-subject with a large repository: memory
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use stoker_testkit::gitserver::{Daemon, Http, HttpOptions};
use stoker_testkit::repo::Repo;

use crate::figure::{Bound, Report, max, median};
use crate::process;
use crate::tree::{self, View};

pub mod subject;

use subject::{Follower, WorkingCopy, git, poll, timed};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that follows.
    pub program: PathBuf,
    /// How often each pair is run; the median counts.
    pub rounds: usize,
    /// How often a push is followed for the slowest of a hundred.
    pub pushes: usize,
    /// Whether the large repository has 1 GiB instead of 100 MiB.
    pub large: bool,
}

const NAME: &str = "plant.git";
const FILES: usize = 10_000;

/// Measures.
///
/// # Errors
///
/// git is missing, or something cannot be fetched.
pub async fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("git");
    let note = "processes that want to run; above the number of cores, times say little and ratios some";
    report.add("machine_load_before", process::load()?, "processes", Bound::None, note);
    let work = tempfile::Builder::new().prefix("stoker-bench-").tempdir()?;
    follow(options, work.path(), &mut report)?;
    memory(options, work.path(), &mut report).await?;
    report.add("machine_load_after", process::load()?, "processes", Bound::None, "");
    Ok(report)
}

/// A repository of many files, and time.
fn follow(options: &Options, work: &Path, report: &mut Report) -> Result<()> {
    let repo = Repo::new()?;
    tree::write(repo.path(), FILES)?;
    repo.commit("first")?;
    let server = Http::start(HttpOptions::default())?;
    server.shelf().publish(&repo, NAME)?;
    let url = server.url(NAME);
    let bare = server.shelf().path().join(NAME);
    let program = &options.program;
    eprintln!("{FILES} files at {url}.");

    // A poll that finds nothing new, in turn with git ls-remote: whole processes.
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    let mut round_trips = (0.0, 0.0);
    for _ in 0..options.rounds * 2 {
        server.forget_requests();
        ours.push(poll(program, &url)?);
        round_trips.0 = server.requests().len() as f64;
        server.forget_requests();
        peer.push(timed(git().args(["ls-remote", &url, "main"]))?);
        round_trips.1 = server.requests().len() as f64;
    }
    report.add("poll", median(&ours), "ms", Bound::None, "the whole process, and its child");
    report.add("poll_peer", median(&peer), "ms", Bound::None, "git ls-remote URL main");
    let ratio = median(&ours) / median(&peer);
    report.add("poll_ratio", ratio, "ratio", Bound::AtMost(1.0), "ours / peer");
    report.add("poll_round_trips", round_trips.0, "requests", Bound::AtMost(1.0), "counted by the server");
    report.add("poll_round_trips_peer", round_trips.1, "requests", Bound::None, "counted by the server");

    // A commit that changes one file, in turn with git fetch and git checkout.
    let copy = WorkingCopy::new(work.join("copy"), &url)?;
    let file = format!("{}/{}/view.json", tree::ROOT, View::new(0, 0).path);
    let mut follower = Follower::start(program, &url, &work.join("cache"), &file)?;
    let first = follower.round()?;
    ensure!(first.commit == repo.head()?, "it follows another commit than was pushed");
    let change = |number: u32| -> Result<String> {
        View::new(0, number + 1).write(&repo.path().join(tree::ROOT))?;
        let commit = repo.commit(&format!("change {number}"))?;
        repo.push(bare.to_str().context("a path of text")?, &["+main"])?;
        Ok(commit)
    };
    let (mut ours, mut peer, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..options.rounds * 2 {
        let commit = change(u32::try_from(number)?)?;
        // The first of a pair finds the server's disk cache colder.
        if number % 2 == 0 {
            peer.push(copy.update()?);
        }
        let round = follower.round()?;
        ensure!(round.commit == commit, "it follows another commit than was pushed");
        ours.push(round.total_ms - round.poll_ms);
        bytes.push(round.transferred_bytes as f64);
        if number % 2 == 1 {
            peer.push(copy.update()?);
        }
    }
    report.add(
        "fetch_one_file",
        median(&ours),
        "ms",
        Bound::None,
        "a child process, to the content of the file",
    );
    report.add("fetch_one_file_peer", median(&peer), "ms", Bound::None, "git fetch --depth 1, git checkout");
    let ratio = median(&ours) / median(&peer);
    report.add("fetch_one_file_ratio", ratio, "ratio", Bound::AtMost(0.7), "ours / peer");
    report.add("fetch_one_file_bytes", median(&bytes), "bytes", Bound::None, "of the pack");

    // From the end of a push to the content of the file: looked up and fetched.
    let (mut all, mut polls) = (Vec::new(), Vec::new());
    for number in 0..options.pushes {
        change(1000 + u32::try_from(number)?)?;
        let round = follower.round()?;
        all.push(round.total_ms);
        polls.push(round.poll_ms);
    }
    all.sort_by(f64::total_cmp);
    let slow = all[(all.len() * 99).div_ceil(100).saturating_sub(1)];
    report.add("push_to_readable_median", median(&all), "ms", Bound::None, "looked up, fetched, read");
    let note = format!("of {} pushes on loopback", all.len());
    report.add("push_to_readable_p99", slow, "ms", Bound::AtMost(300.0), note);
    report.add("poll_of_a_running_process", median(&polls), "ms", Bound::None, "with its child");
    Ok(())
}

/// A large repository, and memory.
async fn memory(options: &Options, work: &Path, report: &mut Report) -> Result<()> {
    let mib = if options.large { 1024 } else { 100 };
    let server = Daemon::start().await?;
    let bare = server.shelf().create(NAME)?;
    eprintln!("{mib} MiB at {}.", server.url(NAME));
    import(&bare, mib)?;
    let mut follower = Follower::start(&options.program, &server.url(NAME), &work.join("large"), "small")?;
    let round = follower.round()?;
    let mean = |what: &str| format!("{what}, fetching {mib} MiB that do not compress");
    let fetched = round.transferred_bytes as f64 / f64::from(1 << 20);
    report.add("large_fetched", fetched, "MiB", Bound::None, "the pack");
    report.add("large_took", round.total_ms, "ms", Bound::None, "");
    report.add(
        "large_rss",
        round.peak_rss_mib,
        "MiB",
        Bound::None,
        mean("the peak of the process that asks"),
    );
    report.add(
        "large_rss_child",
        round.child_peak_rss_mib,
        "MiB",
        Bound::None,
        mean("the peak of its child"),
    );
    let sum = max(&[round.peak_rss_mib]) + round.child_peak_rss_mib;
    report.add("large_rss_sum", sum, "MiB", Bound::AtMost(48.0), mean("both peaks together"));
    Ok(())
}

/// Commits files of 1 MiB of noise, and a small one.
fn import(bare: &Path, mib: usize) -> Result<()> {
    let mut command = git();
    // Nothing is gained by looking for deltas and compressing; the server would do it again for each client.
    command.args([
        "-c",
        "core.compression=0",
        "-c",
        "fastimport.unpackLimit=0",
        "fast-import",
        "--quiet",
        "--depth=0",
    ]);
    let mut import = command.current_dir(bare).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut to = std::io::BufWriter::new(import.stdin.take().context("its input was asked for")?);
    writeln!(to, "commit refs/heads/main\ncommitter A <a@b> 1700000000 +0000\ndata 1\nx")?;
    writeln!(to, "M 100644 inline small\ndata 2\nx\n")?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..mib {
        writeln!(to, "M 100644 inline noise/{number}\ndata {}", 1 << 20)?;
        for _ in 0..(1 << 20) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            to.write_all(&state.to_le_bytes())?;
        }
        writeln!(to)?;
    }
    to.flush()?;
    drop(to);
    ensure!(import.wait()?.success(), "git fast-import ended with an error");
    Ok(())
}
