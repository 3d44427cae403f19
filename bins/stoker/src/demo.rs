//! `stoker demo`: the main job in a minute, on real parts, without Kubernetes.
//!
//! A repository is made and served over smart HTTP on loopback; each gateway is a stand-in (`stoker fake-gateway`) that
//! reads a real data directory, and an agent keeps it in step. Pushes, fetches and files are real; the scans and
//! confirmations are those of the stand-in.

mod repository;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use similar::TextDiff;
use stoker_core::Engine;
use stoker_git::serve::GitHttpServer;
use stoker_ignition::fake::FakeGateway;
use stoker_k8s::api::AgentConfig;
use stoker_k8s::gateway_sync::{Outcome, SyncReport};

use crate::cli;
use crate::output::short;
use crate::standalone::{CONFIRM_PATIENCE, Standalone};
use repository::{BROKEN_VIEW, Repository, VIEW, VIEW_CHANGED, VIEW_PATH};

const KEY: &str = "demo:5uper-secret-demo-key";
const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// One gateway of the demo.
struct Line {
    name: String,
    data: PathBuf,
    gateway: FakeGateway,
    agent: Standalone,
}

pub(crate) async fn run(args: cli::Demo) -> Result<u8> {
    let folder = tempfile::Builder::new().prefix("stoker-demo-").tempdir()?;
    let root = folder.path().to_owned();
    println!(
        "Stoker keeps Ignition gateways (SCADA servers of factories and water plants) in step with git."
    );
    println!(
        "Everything below really happens, in {}, with one exception: no Ignition runs here.",
        root.display()
    );
    println!(
        "The gateways are stand-ins (stoker fake-gateway): they read their data directory and answer as a gateway does.\n"
    );

    heading("1", "A repository, as a team of Ignition developers has it");
    let repository = Repository::create(&root)?;
    let first = repository.push("a conveyor screen and its tags")?;
    let server = GitHttpServer::start(repository.served()).await?;
    let url = server.url("plant.git");
    println!("   {} files, served at {url}; commit {}", repository.files()?, short(&first));

    heading("2", &format!("{} with an agent each", gateways(args.gateways)));
    let mut lines = Vec::new();
    for number in 1..=args.gateways {
        lines.push(line(&root, number, &url).await?);
    }
    for line in &lines {
        println!(
            "   {} answers at {}, its data directory is {}",
            line.name,
            line.gateway.url(),
            line.data.display()
        );
    }

    heading("3", "The first sync: files, then the gateway's own word that it loaded them");
    let pushed = Instant::now();
    sync_all(&lines, pushed, Outcome::Applied).await?;
    loaded(&lines)?;

    heading("4", "Somebody pushes a change");
    repository.write(VIEW_PATH, VIEW_CHANGED)?;
    let second = repository.push("show the speed in metres per second")?;
    let pushed = Instant::now();
    println!("   pushed {}", short(&second));
    sync_all(&lines, pushed, Outcome::Applied).await?;
    let live = std::fs::read_to_string(live_view(&lines[0]))?;
    println!("   what changed on every gateway, in {VIEW_PATH}:");
    print_diff(VIEW, &live);

    heading("5", "Somebody pushes a broken file");
    repository.write(VIEW_PATH, BROKEN_VIEW)?;
    let broken = repository.push("oops")?;
    println!("   pushed {}, in which a closing brace is missing", short(&broken));
    for line in &lines {
        let report = line.agent.sync(false, true).await;
        let Some(failure) = report.error.filter(|_| report.outcome == Outcome::Failed) else {
            bail!("{}: the broken commit was not refused", line.name);
        };
        println!("   {} refuses it: {} ({})", line.name, failure.message, failure.category);
        let untouched = std::fs::read_to_string(live_view(line))? == live;
        let running = Engine::open(&line.data)?.head()?.is_some_and(|h| h.revision == second);
        if !untouched || !running {
            bail!("{}: the broken commit left a trace", line.name);
        }
    }
    println!("   every gateway still runs {}, byte for byte", short(&second));

    heading("6", "Going back (what stoker rollback does)");
    for line in &lines {
        let began = Instant::now();
        let past = Engine::open(&line.data)?.begin(false)?.rollback(None)?;
        let took = began.elapsed();
        if std::fs::read_to_string(live_view(line))? != VIEW {
            bail!("{}: the rollback did not restore the file", line.name);
        }
        println!(
            "   {} is back at {} in {} ms (files changed: {})",
            line.name,
            short(&past.to),
            took.as_millis(),
            past.changes.len()
        );
    }

    println!(
        "\nThat was all: git in, gateway confirmed, nothing broken goes live, every step can be undone."
    );
    println!(
        "Next: docs/quick-start.md for a Kubernetes cluster, or `stoker sync --help` for a plain machine."
    );
    for line in lines {
        line.gateway.stop().await;
    }
    if args.keep {
        println!("Kept: {}", folder.keep().display());
    }
    Ok(0)
}

fn gateways(number: u16) -> String {
    if number == 1 { "1 stand-in gateway".to_owned() } else { format!("{number} stand-in gateways") }
}

fn heading(number: &str, text: &str) {
    println!("\n{number}. {text}");
}

fn live_view(line: &Line) -> PathBuf {
    line.data.join(VIEW_PATH.trim_start_matches("services/line/"))
}

async fn line(root: &Path, number: u16, url: &str) -> Result<Line> {
    let name = format!("line-{number}");
    let folder = root.join(&name);
    let data = folder.join("data");
    std::fs::create_dir_all(&data)?;
    let key = folder.join("api-key");
    std::fs::write(&key, KEY)?;
    let gateway = FakeGateway::builder(&data).api_key(KEY).start().await?;
    gateway.until_running(BOOT_LIMIT).await?;
    let config = json!({
        "apiVersion": "stoker.io/v1alpha1",
        "kind": "AgentConfig",
        "gatewayName": name,
        "git": { "repo": url, "ref": "main", "allowInsecure": true },
        "profile": { "mappings": [
            { "source": "services/line/projects", "destination": "projects", "required": true },
            { "source": "services/line/config/resources/core", "destination": "config/resources/core" },
        ]},
        "gateway": { "url": gateway.url(), "apiKeyFile": key },
        "dataDir": data,
        "cacheDir": folder.join("cache"),
    });
    let config = AgentConfig::parse("the demo's configuration", &config.to_string())?;
    Ok(Line { agent: Standalone::of(config, CONFIRM_PATIENCE)?, name, data, gateway })
}

async fn sync_all(lines: &[Line], pushed: Instant, expected: Outcome) -> Result<()> {
    let reports = futures::future::join_all(lines.iter().map(|line| async move {
        let report = line.agent.sync(false, false).await;
        (line, report, pushed.elapsed())
    }));
    for (line, report, live) in reports.await {
        if report.outcome != expected {
            let error = report.error.map_or_else(String::new, |e| e.message);
            bail!("{}: {:?} instead of {expected:?} {error}", line.name, report.outcome);
        }
        println!("   {}", timeline(&line.name, &report, live));
    }
    Ok(())
}

fn timeline(name: &str, report: &SyncReport, live: Duration) -> String {
    let d = report.duration_ms;
    let scans: Vec<&str> = report.scans.iter().map(|s| s.kind.as_str()).collect();
    format!(
        "{name}: resolved {} ms, fetched {} ms, compared {} ms, written {} ms (files: {}), {} scan confirmed {} ms; live after {} ms",
        d.resolve,
        d.fetch,
        d.plan,
        d.apply,
        report.files.added + report.files.modified + report.files.deleted,
        scans.join(" and "),
        d.scan,
        live.as_millis()
    )
}

/// What the gateways themselves say they run.
fn loaded(lines: &[Line]) -> Result<()> {
    for line in lines {
        let projects = line.gateway.loaded_projects();
        let names: Vec<&str> = projects.loaded.keys().map(String::as_str).collect();
        if names != ["conveyor"] {
            bail!("{} runs {names:?} instead of the project conveyor", line.name);
        }
        println!("   {} says: it runs project {}", line.name, names.join(", "));
    }
    Ok(())
}

fn print_diff(before: &str, after: &str) {
    let diff = TextDiff::from_lines(before, after);
    for hunk in diff.unified_diff().context_radius(1).iter_hunks() {
        for line in hunk.to_string().lines().filter(|l| !l.starts_with('\\')) {
            println!("      {line}");
        }
    }
}

/// Runs git with nothing of the user's configuration.
fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new("git")
        .current_dir(folder)
        .args([
            "-c",
            "user.name=Demo",
            "-c",
            "user.email=demo@example.invalid",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .context("git is needed for the demo: apt-get install git")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
