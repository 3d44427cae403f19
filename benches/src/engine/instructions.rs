//! How many instructions the engine takes, as valgrind counts them: a number that a busy machine does not change.
//!
//! Compared with what was kept in the repository; another compiler or C library moves the count by a few percent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Bench;
use crate::figure::{Bound, Report};

/// Files in the tree: enough that what is done for each of them outweighs the start of a process.
const FILES: usize = 2_000;
/// How many times the kept count is allowed.
const ALLOWED: f64 = 1.1;

/// What is counted.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that does one sync.
    pub program: PathBuf,
    /// A folder to work in.
    pub folder: PathBuf,
    /// Where the counts are kept: a JSON object of names and numbers.
    pub kept: PathBuf,
    /// Keep what is counted, in place of comparing.
    pub save: bool,
}

/// Counts.
///
/// # Errors
///
/// valgrind is missing, a sync fails, or nothing is kept to compare with.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(stoker_testkit::tools::program("valgrind").is_some(), "valgrind is needed: install it");
    let counted = count(&options.program, &options.folder)?;
    if options.save {
        let text = serde_json::to_string_pretty(&counted)? + "\n";
        std::fs::write(&options.kept, text).with_context(|| format!("writing {}", options.kept.display()))?;
    }
    let text = std::fs::read(&options.kept)
        .with_context(|| format!("reading {}; --save makes it", options.kept.display()))?;
    let kept: BTreeMap<String, u64> = serde_json::from_slice(&text)?;
    let mut report = Report::new("instructions");
    for (name, count) in counted {
        let kept =
            *kept.get(&name).with_context(|| format!("no count of {name} is kept; --save keeps it"))?;
        let (count, kept) = (count as f64 / 1e6, kept as f64 / 1e6);
        let change = (count / kept - 1.0) * 100.0;
        let note = format!("{change:+.1} % to what is kept");
        report.add(name, count, "million", Bound::AtMost((kept * ALLOWED * 1000.0).round() / 1000.0), note);
    }
    Ok(report)
}

fn count(program: &Path, folder: &Path) -> Result<BTreeMap<String, u64>> {
    let work = tempfile::Builder::new().prefix("stoker-bench-").tempdir_in(folder)?;
    let bench = Bench::new(program, work.path(), FILES)?;
    let (data, out) = (work.path().join("data"), work.path().join("counts"));
    std::fs::create_dir(&data)?;
    let mut counted = BTreeMap::new();
    for (name, commit, drift) in [
        ("first_sync", &bench.first, false),
        ("drift_check", &bench.first, true),
        ("unchanged", &bench.elsewhere, false),
        ("ten_files", &bench.ten, false),
    ] {
        counted.insert(name.to_owned(), bench.subject.counted(commit, &data, drift, &out)?);
    }
    Ok(counted)
}
