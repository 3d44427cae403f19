//! One sync by the engine alone, in a process of its own, so that its memory and its system calls are its own.
//!
//! `stoker-engine-subject CACHE COMMIT DATA [drift]` brings a commit that is in the cache into a directory and prints
//! what each part took.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use stoker_benches::engine::subject::{Outcome, spec};
use stoker_benches::process::{own_cpu_ms, peak_rss_mib};
use stoker_core::{Engine, NoObserver, PlanOptions};
use stoker_git::Cache;

fn main() -> ExitCode {
    // Commits are brought into the cache by a child process of this very program.
    stoker_git::child::run_if_child();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(outcome) => {
            println!("{}", serde_json::json!(outcome));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<Outcome> {
    let [cache, commit, data, rest @ ..] = arguments else {
        anyhow::bail!("usage: CACHE COMMIT DATA [drift]")
    };
    let check_drift = rest.iter().any(|word| word == "drift");
    let spec = spec();
    let cpu = own_cpu_ms();
    let began = Instant::now();
    let source = Cache::new(cache).commit(&commit.parse()?)?.context("the commit is not in the cache")?;
    let opened = began.elapsed();

    let began = Instant::now();
    let engine = Engine::open(data)?;
    let session = engine.begin(true)?;
    let plan =
        session.plan(&source, commit, &spec, &PlanOptions { check_drift, ..PlanOptions::default() })?;
    let planned = began.elapsed();

    let began = Instant::now();
    let actions = plan.actions.len();
    session.apply(plan, &source, &spec, &mut NoObserver)?;
    let applied = began.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    Ok(Outcome {
        open_ms: ms(opened),
        plan_ms: ms(planned),
        apply_ms: ms(applied),
        cpu_ms: own_cpu_ms() - cpu,
        actions,
        peak_rss_mib: peak_rss_mib()?,
    })
}
