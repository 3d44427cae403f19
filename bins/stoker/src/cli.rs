//! The arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Keeps Ignition gateways in step with git.
#[derive(Debug, Parser)]
#[command(name = "stoker", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See a push go live, a bad commit refused and a rollback, in a minute
    #[command(after_help = "Example: stoker demo --gateways 3")]
    Demo(Demo),
    /// Bring a gateway to what a ref means now, without Kubernetes
    #[command(after_help = "Example: stoker sync --config gateway.yaml --watch")]
    Sync(Sync),
    /// Show what a sync would change in a data directory, and why
    #[command(after_help = "Example: stoker diff --config gateway.yaml --commit feature/new-line")]
    Diff(Diff),
    /// Print a file as a sync would write it
    #[command(after_help = "Example: stoker render --config gateway.yaml projects/line/project.json")]
    Render(Render),
    /// Check Stoker, SyncProfile and AgentConfig files, offline
    #[command(after_help = "Example: stoker validate stoker.yaml profiles/*.yaml")]
    Validate(Validate),
    /// List the transactions that a data directory keeps, or show what some of them changed
    #[command(after_help = "Examples:
  stoker history --data-dir /usr/local/bin/ignition/data          # the list
  stoker history --data-dir /usr/local/bin/ignition/data 12       # what transaction 12 changed
  stoker history --data-dir /usr/local/bin/ignition/data 9..12    # what changed from after 9 to after 12")]
    History(History),
    /// Go back to before a transaction
    #[command(after_help = "Example: stoker rollback --data-dir /usr/local/bin/ignition/data --to 12")]
    Rollback(Rollback),
    /// Serve a data directory as an Ignition gateway would, for tests and trials
    #[command(
        after_help = "Example: stoker fake-gateway --listen 127.0.0.1:8088 --data-dir ./data --api-key-file key"
    )]
    FakeGateway(fake::FakeGateway),
    /// Print a completion script for a shell
    #[command(after_help = "Example: stoker completions bash > /etc/bash_completion.d/stoker")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

use crate::fake_gateway as fake;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep the folder with the repository and the data directories
    #[arg(long)]
    pub(crate) keep: bool,
    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) gateways: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The agent configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Once, and end with an exit code that says how it went (the default)
    #[arg(long, conflicts_with = "watch")]
    pub(crate) once: bool,
    /// For ever, until SIGTERM
    #[arg(long)]
    pub(crate) watch: bool,
    /// Say what would change; write nothing outside cacheDir
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait for the gateway's confirmation, in seconds; 0 asks once
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) confirm_timeout: u64,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The agent configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The commit, branch or tag to compare with, in place of the configuration's git.ref
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
    /// The files alone, without what changes in them
    #[arg(long)]
    pub(crate) name_only: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Render {
    /// The agent configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The commit, branch or tag to read, in place of the configuration's git.ref
    #[arg(long, value_name = "COMMIT")]
    pub(crate) commit: Option<String>,
    /// The file, relative to the data directory
    pub(crate) path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// YAML files; "-" for standard input
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The gateway's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// A transaction, or two with ".." between them
    #[arg(value_name = "N | A..B", value_parser = transactions)]
    pub(crate) transactions: Option<(u64, u64)>,
    /// The files alone, without what changed in them
    #[arg(long, requires = "transactions")]
    pub(crate) name_only: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `12` is all after 11 up to 12; `9..12` all after 9 up to 12.
fn transactions(text: &str) -> Result<(u64, u64), String> {
    let number =
        |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not the number of a transaction"));
    match text.split_once("..") {
        None => match number(text)? {
            0 => Err("transactions are counted from 1".to_owned()),
            to => Ok((to - 1, to)),
        },
        Some((after, to)) => match (number(after)?, number(to)?) {
            (after, to) if after < to => Ok((after, to)),
            (after, to) => Err(format!("{after} is not before {to}; write the older one first")),
        },
    }
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The gateway's data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The transaction to go back to before; the newest when absent
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Tables for people, or one JSON object for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "stoker", &mut std::io::stdout());
}
