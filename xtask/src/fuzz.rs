//! `cargo xtask fuzz`: libFuzzer on a stable compiler, with nothing to install.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cluster::{target_folder, workspace};

/// What `cargo fuzz` passes, less the sanitizer, which needs a nightly compiler.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1";

/// Feed the parsers and the planner with inputs that libFuzzer makes up; fails when one breaks a property
///
/// The inputs start from `fuzz/corpus/<target>`, and those found on the way are kept below the target folder.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Targets, such as core_json; all of them if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,

    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// The seed of the inputs, so that a run can be repeated; another one each time if none is given
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    seed: u32,

    /// Run one target on this input only
    #[arg(long, value_name = "FILE", conflicts_with = "seconds")]
    input: Option<PathBuf>,

    /// Name the targets
    #[arg(long, conflicts_with_all = ["targets", "input"])]
    list: bool,
}

/// How one target ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ended {
    executions: u64,
    corpus: u64,
    /// The input that broke a property.
    reproducer: Option<String>,
    /// The line that says which.
    says: Option<String>,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let known = known()?;
        if self.list {
            known.iter().for_each(|target| println!("{target}"));
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(stranger) = self.targets.iter().find(|target| !known.contains(target)) {
            bail!("there is no target `{stranger}`; known are {}", known.join(", "));
        }
        let targets = if self.targets.is_empty() { known } else { self.targets };
        let began = Instant::now();
        eprintln!("Building {} targets.", targets.len());
        let programs = build(&targets)?;
        eprintln!("Built in {:.0} s.", began.elapsed().as_secs_f64());
        if let Some(input) = &self.input {
            let [target] = &targets[..] else { bail!("--input goes with one target") };
            let status = Command::new(programs.join(target)).arg(input).status()?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let mut failed = Vec::new();
        for target in &targets {
            let ended = fuzz(&programs, target, self.seconds, self.seed)?;
            let result = if ended.reproducer.is_some() { "BROKEN" } else { "ok" };
            println!("{target:<16} {:>10} executions {:>6} inputs  {result}", ended.executions, ended.corpus);
            if let Some(reproducer) = ended.reproducer {
                println!("   {}", ended.says.unwrap_or_default());
                println!("   input: {reproducer}");
                println!("   again: cargo xtask fuzz {target} --input {reproducer}");
                failed.push(target);
            }
        }
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The targets, by their files.
fn known() -> Result<Vec<String>> {
    let folder = workspace().join("fuzz/fuzz_targets");
    let mut known = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        known.extend(name.filter(|_| path.extension().is_some_and(|e| e == "rs")).map(str::to_owned));
    }
    known.sort();
    Ok(known)
}

fn build(targets: &[String]) -> Result<PathBuf> {
    let (host, folder) = (host()?, target_folder().join("fuzz"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace().join("fuzz"))
        .args(["build", "--quiet", "--locked", "--release"])
        // With a target named, build scripts and macros are compiled without the flags.
        .args(["--target", &host])
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    for target in targets {
        command.args(["--bin", target]);
    }
    if !targets.iter().any(|target| target.starts_with("hook_")) {
        command.arg("--no-default-features");
    }
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "cargo build of the fuzz targets ended with {status}");
    Ok(folder.join(host).join("release"))
}

/// What the compiler calls this machine.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

fn fuzz(programs: &Path, target: &str, seconds: u64, seed: u32) -> Result<Ended> {
    let found = target_folder().join("fuzz/corpus").join(target);
    let artifacts = workspace().join("fuzz/artifacts").join(target);
    for folder in [&found, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut command = Command::new(programs.join(target));
    command
        // New inputs go to the first folder; the second holds those that were written by hand.
        .args([&found, &workspace().join("fuzz/corpus").join(target)])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([
            &format!("-max_total_time={seconds}"),
            // For libFuzzer 0 means any.
            &format!("-seed={seed}"),
            "-print_final_stats=1",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("running {target}"))?;
    let output = child.stderr.take().context("its output was asked for")?;
    let mut ended = Ended::default();
    let mut last = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        ended.read(&line);
        last.push(line);
        if last.len() > 20 {
            last.remove(0);
        }
    }
    let status = child.wait()?;
    if !status.success() && ended.reproducer.is_none() {
        bail!("{target} ended with {status}:\n{}", last.join("\n"));
    }
    Ok(ended)
}

impl Ended {
    /// Takes what a line of libFuzzer says.
    fn read(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = number.trim().parse().unwrap_or_default();
        } else if let Some((_, rest)) = line.split_once(" corp: ") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            self.corpus = digits.parse().unwrap_or(self.corpus);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.reproducer = Some(path.trim().to_owned());
        } else if self.says.is_none() && line.contains("ERROR: libFuzzer") {
            self.says = Some(line.trim_start_matches('=').trim().to_owned());
        } else if line.contains(" panicked at ") {
            self.says = Some(line.to_owned());
        } else if let Some(says) = self.says.as_mut().filter(|says| says.ends_with(':')) {
            // The message of a panic is in the line after its place.
            says.push(' ');
            says.push_str(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_is_read() {
        let mut ended = Ended::default();
        for line in [
            "#12\tNEW    cov: 80 ft: 81 corp: 7/90b lim: 4 exec/s: 0 rss: 30Mb L: 3/4 MS: 1 CopyPart-",
            "thread '<unnamed>' panicked at fuzz_targets/core_json.rs:10:5:",
            "the result parses",
            "==9== ERROR: libFuzzer: deadly signal",
            "artifact_prefix='a/'; Test unit written to a/crash-12",
            "stat::number_of_executed_units: 4711",
        ] {
            ended.read(line);
        }
        assert_eq!((ended.executions, ended.corpus), (4711, 7));
        assert_eq!(ended.reproducer.as_deref(), Some("a/crash-12"));
        assert_eq!(
            ended.says.as_deref(),
            Some("thread '<unnamed>' panicked at fuzz_targets/core_json.rs:10:5: the result parses")
        );
    }

    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let manifest = std::fs::read_to_string(workspace().join("fuzz/Cargo.toml")).unwrap();
        for target in known().unwrap() {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
            let seeds = std::fs::read_dir(workspace().join("fuzz/corpus").join(&target));
            assert!(seeds.is_ok_and(|mut seeds| seeds.next().is_some()), "{target} has no seeds");
        }
    }
}
