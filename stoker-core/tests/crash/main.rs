//! The crash proof: every promise, at every point where a process can die or the power can go.
//!
//! A program of its own, because it starts itself anew for each point. `cargo xtask crash-proof` runs it alone;
//! `STOKER_CRASH_DEEP=all` interrupts the recovery of every scenario instead of some.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

mod check;
mod kill;
mod model;
mod power;
mod random;
mod reference;
mod scenario;
#[allow(dead_code, unreachable_pub)]
#[path = "../it/world.rs"]
mod world;

use check::Ends;
use kill::Tally;

/// Scenarios whose recovery is interrupted, too, without being asked for all.
const DEEP: [&str; 3] = ["swaps", "rollback", "taken back"];

fn main() -> ExitCode {
    if let Some(name) = std::env::var_os("STOKER_CRASH_CHILD") {
        let data = std::path::PathBuf::from(std::env::var_os("STOKER_CRASH_DATA").unwrap());
        let job = std::env::var("STOKER_CRASH_JOB").unwrap();
        if job == "commit" {
            random::child(std::path::Path::new(&name), &data);
            return ExitCode::SUCCESS;
        }
        let scenario = scenario::ALL.iter().find(|s| *s.name == *name).unwrap();
        if job == "act" {
            scenario.act(&data);
        } else {
            stoker_core::Engine::open(&data).unwrap().begin(true).unwrap();
        }
        return ExitCode::SUCCESS;
    }
    // Run by `cargo test FILTER`: a filter that names something else is not about this program.
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if std::env::args().any(|a| a == "--list")
        || !(filters.is_empty() || filters.iter().any(|f| f.contains("crash")))
    {
        return ExitCode::SUCCESS;
    }
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("strace is needed: apt-get install strace");
        return ExitCode::FAILURE;
    }
    let only_model = std::env::var("STOKER_CRASH_ONLY").is_ok_and(|v| v == "model");
    let all_deep = std::env::var("STOKER_CRASH_DEEP").is_ok_and(|v| v == "all");
    let memory = std::path::Path::new("/dev/shm");
    let scratch = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (mut points, mut wrong) = (0, Vec::new());
    for scenario in scenario::ALL.iter().filter(|_| !only_model) {
        let began = Instant::now();
        let seed = scratch.path().join("seed");
        scenario.prepare(&seed);
        let ends = Ends::of(scenario, &seed, &scratch.path().join("ends"));
        let deep = all_deep || DEEP.contains(&scenario.name);
        let report = |how: &str, tally: &Tally, began: Instant| {
            println!(
                "crash-proof: {:10} {how:16} {:5} points, {:4} of them during recovery, {} violations, {:.1} s",
                scenario.name,
                tally.points,
                tally.during_recovery,
                tally.violations.len(),
                began.elapsed().as_secs_f64()
            );
        };
        let mut all = Vec::new();
        all.push(kill::prove(scenario, &ends, &seed, scratch.path(), deep, true));
        report("killed", &all[0], began);
        if deep {
            let began = Instant::now();
            let tally = kill::prove(scenario, &ends, &seed, scratch.path(), all_deep, false);
            report("killed, slow way", &tally, began);
            all.push(tally);
        }
        let began = Instant::now();
        let tally =
            power::prove(scenario, &ends, &seed, scratch.path(), if all_deep { 20_000 } else { 1_500 });
        report("power cut", &tally, began);
        all.push(tally);
        for tally in all {
            points += tally.points;
            wrong.extend(tally.violations);
        }
        std::fs::remove_dir_all(&seed).unwrap();
    }
    let (steps, disagreements) = random::prove(scratch.path());
    wrong.extend(disagreements);
    for line in wrong.iter().step_by(wrong.len() / 12 + 1) {
        println!("crash-proof: VIOLATION {line}");
    }
    println!("crash-proof: {points} points and {steps} random steps in all, {} violations", wrong.len());
    let failed = usize::from(!wrong.is_empty());
    println!(
        "test result: {}. {} passed; {failed} failed; 0 ignored",
        if failed == 0 { "ok" } else { "FAILED" },
        1 - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
