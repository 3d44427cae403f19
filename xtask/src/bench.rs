//! `cargo xtask bench`: what Stoker costs.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use stoker_benches::{Report, engine, git, idle};

use crate::cluster::{target_folder, workspace};

/// Measure what Stoker costs, on the released programs; fails when a bound is broken
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Memory, requests and CPU time of a controller and ten gateways while nothing happens (root on Linux)
    Idle(Idle),
    /// Time, memory and system calls of the engine on large trees, in turn with git checkout and rsync
    Engine(Engine),
    /// Instructions of the engine under valgrind, against the counts kept in `benches/instructions.json`
    Instructions(Instructions),
    /// Time and memory of following a repository, in turn with git's own client
    Git(Git),
}

#[derive(Debug, Args)]
pub(crate) struct Instructions {
    /// Keep what is counted, in place of comparing: after a change that is worth its instructions
    #[arg(long)]
    save: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Git {
    /// How often each pair is run; the median counts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,

    /// How many pushes are followed for the slowest of a hundred
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pushes: u16,

    /// Fetch a repository of 1 GiB instead of 100 MiB
    #[arg(long)]
    large: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Engine {
    /// How often each pair is run; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,

    /// Measure 100,000 files as well
    #[arg(long)]
    large: bool,

    /// A folder to work in; repeat for more file systems. The target folder and /dev/shm if none is named
    #[arg(long = "in", value_name = "DIR")]
    folders: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// How long to watch
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// How many gateways there are
    #[arg(long, default_value_t = 10)]
    gateways: usize,

    /// How many files of views each gateway is given
    #[arg(long, default_value_t = 1000)]
    files: usize,

    /// The cargo profile of the programs; images ship `dist`
    #[arg(long, default_value = "release")]
    profile: String,

    /// Measure the programs in this folder, such as those of an earlier commit, instead of building them
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    programs: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let report = match self {
            Self::Idle(idle) => idle.run()?,
            Self::Engine(engine) => engine.run()?,
            Self::Instructions(instructions) => instructions.run()?,
            Self::Git(git) => git.run()?,
        };
        report.print()?;
        let broken = report.broken();
        for sentence in &broken {
            eprintln!("broken: {sentence}");
        }
        Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Idle {
    fn run(self) -> Result<Report> {
        if let Some(missing) = idle::lacking() {
            anyhow::bail!("{missing}");
        }
        let folder = match &self.programs {
            Some(folder) => {
                folder.canonicalize().with_context(|| format!("--programs {}", folder.display()))?
            }
            None => build(&self.profile, &["stoker-controller", "stoker-agent"])?,
        };
        let options = idle::Options {
            workspace: workspace(),
            controller: folder.join("stoker-controller"),
            agent: folder.join("stoker-agent"),
            gateways: self.gateways,
            files: self.files,
            window: Duration::from_secs(self.seconds),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(idle::run(&options))
    }
}

impl Instructions {
    fn run(self) -> Result<Report> {
        let programs = build("release", &["stoker-benches"])?;
        let folder = target_folder().join("bench");
        std::fs::create_dir_all(&folder)?;
        engine::instructions::run(&engine::instructions::Options {
            program: programs.join("stoker-engine-subject"),
            folder,
            kept: workspace().join("benches/instructions.json"),
            save: self.save,
        })
    }
}

impl Engine {
    fn run(self) -> Result<Report> {
        let folder = build("release", &["stoker-benches"])?;
        let mut folders = self.folders;
        if folders.is_empty() {
            let here = target_folder().join("bench");
            std::fs::create_dir_all(&here)?;
            folders.push(here);
            folders.extend(Some(PathBuf::from("/dev/shm")).filter(|memory| memory.is_dir()));
        }
        engine::run(&engine::Options {
            program: folder.join("stoker-engine-subject"),
            folders,
            rounds: self.rounds.into(),
            large: self.large,
        })
    }
}

impl Git {
    fn run(self) -> Result<Report> {
        let folder = build("release", &["stoker-benches"])?;
        let options = git::Options {
            program: folder.join("stoker-git-subject"),
            rounds: self.rounds.into(),
            pushes: self.pushes.into(),
            large: self.large,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(git::run(&options))
    }
}

/// Builds packages with a profile and returns the folder of their programs.
fn build(profile: &str, packages: &[&str]) -> Result<PathBuf> {
    eprintln!("Building {} (profile {profile}).", packages.join(", "));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.env("CARGO_TARGET_DIR", target_folder()).status().context("running cargo")?;
    ensure!(status.success(), "cargo build ended with {status}");
    Ok(target_folder().join(profile))
}
