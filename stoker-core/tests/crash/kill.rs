//! A real process, killed (SIGKILL, by strace) as it enters each of its write-side system calls in turn.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{Ends, copy, violations};
use crate::scenario::Scenario;

/// System calls that can change a file system. Of `openat`, only those that create or truncate count.
pub(crate) const CALLS: &str = "mkdirat,renameat,renameat2,unlinkat,linkat,symlinkat,fchmod,fchmodat,fchownat,fsync,fdatasync,syncfs,write,pwrite64,ftruncate,copy_file_range,sendfile,openat";

/// Points tried and violations found.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) points: usize,
    pub(crate) during_recovery: usize,
    pub(crate) violations: Vec<String>,
}

/// What the child does.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub(crate) recover: bool,
    /// Whether the file system can exchange two names.
    pub(crate) exchange: bool,
}

pub(crate) fn child(scenario: &Scenario, job: Job, data: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", &format!("trace={CALLS}")]);
    if !job.exchange {
        // As on a file system without `RENAME_EXCHANGE` and `RENAME_NOREPLACE`.
        command.args(["-e", "inject=renameat2:error=EINVAL"]);
    }
    command.env("STOKER_CRASH_CHILD", scenario.name).env("STOKER_CRASH_DATA", data);
    command.env("STOKER_CRASH_JOB", if job.recover { "recover" } else { "act" });
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// One call of a process: the `nth` of its name. strace counts each name by itself.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    nth: usize,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.nth)
    }
}

/// The calls of a child that change something, in order.
fn write_side(scenario: &Scenario, job: Job, data: &Path) -> Vec<Call> {
    let log = data.with_extension("log");
    let status = child(scenario, job, data).arg("-o").arg(&log).arg(this()).status().unwrap();
    assert!(status.success(), "{}: the child fails without being killed", scenario.name);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        // `PID name(arguments) = result`
        let Some((name, arguments)) =
            line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split_once('(')
        else {
            continue;
        };
        let nth = counts.entry(name).or_default();
        *nth += 1;
        if name == "renameat2" && !job.exchange {
            continue;
        }
        if name != "openat" || ["O_CREAT", "O_TRUNC"].iter().any(|flag| arguments.contains(flag)) {
            calls.push(Call { name: name.to_owned(), nth: *nth });
        }
    }
    calls
}

/// Kills the child as it enters a call.
fn kill(scenario: &Scenario, job: Job, data: &Path, call: &Call) {
    let inject = format!("inject={}:signal=KILL:when={}", call.name, call.nth);
    let status =
        child(scenario, job, data).args(["-o", "/dev/null", "-e", &inject]).arg(this()).status().unwrap();
    assert!(!status.success(), "{}: the child was to be killed at {call:?}, and was not", scenario.name);
}

pub(crate) fn this() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Tries every crash point of a scenario, and every crash point of the recovery from each of them that left a journal.
pub(crate) fn prove(
    scenario: &Scenario,
    ends: &Ends,
    seed: &Path,
    scratch: &Path,
    deep: bool,
    exchange: bool,
) -> Tally {
    let act = Job { recover: false, exchange };
    let data = scratch.join("count");
    copy(seed, &data);
    let calls = write_side(scenario, act, &data);
    std::fs::remove_dir_all(&data).unwrap();
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (tally, next, calls) = (&tally, &next, &calls);
            scope.spawn(move || {
                while let Some(n) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = point(scenario, ends, seed, &scratch.join(worker.to_string()), n, deep, act);
                    let mut all = tally.lock().unwrap();
                    all.points += one.points;
                    all.during_recovery += one.during_recovery;
                    all.violations.extend(one.violations);
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

fn point(
    scenario: &Scenario,
    ends: &Ends,
    seed: &Path,
    scratch: &Path,
    n: &Call,
    deep: bool,
    act: Job,
) -> Tally {
    let mut tally = Tally { points: 1, ..Tally::default() };
    let (killed, data) = (scratch.join("killed"), scratch.join("data"));
    copy(seed, &killed);
    kill(scenario, act, &killed, n);
    let name = scenario.name;
    if deep && killed.join(".stoker/journal").exists() {
        copy(&killed, &data);
        let calls = write_side(scenario, Job { recover: true, ..act }, &data);
        std::fs::remove_dir_all(&data).unwrap();
        for m in calls {
            copy(&killed, &data);
            kill(scenario, Job { recover: true, ..act }, &data, &m);
            tally.points += 1;
            tally.during_recovery += 1;
            let wrong = violations(scenario, ends, &data, true);
            tally.violations.extend(wrong.iter().map(|w| format!("{name}, {n}, in its recovery {m}: {w}")));
            std::fs::remove_dir_all(&data).unwrap();
        }
    }
    let wrong = violations(scenario, ends, &killed, true);
    tally.violations.extend(wrong.iter().map(|w| format!("{name}, {n}: {w}")));
    std::fs::remove_dir_all(&killed).unwrap();
    tally
}
