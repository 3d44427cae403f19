//! The Stoker command line: the engine without Kubernetes, and a look at what it does.
//!
//! Exit codes, everywhere: 0 done and confirmed, 1 failed, 2 wrong usage or configuration, 3 held, 4 files applied but
//! not confirmed by the gateway.

mod cli;
mod demo;
mod diff;
mod fake_gateway;
mod history;
mod input;
mod output;
mod show;
mod standalone;
mod sync;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // Fetches run in a child process of this very binary.
    stoker_git::child::run_if_child();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    output::log_to_stderr(cli.verbose);
    let result = match cli.command {
        Command::Demo(args) => output::runtime().and_then(|rt| rt.block_on(demo::run(args))),
        Command::Sync(args) => output::runtime().and_then(|rt| rt.block_on(sync::run(args))),
        Command::Diff(args) => output::runtime().and_then(|rt| rt.block_on(diff::run(&args))),
        Command::Render(args) => output::runtime().and_then(|rt| rt.block_on(diff::render(&args))),
        Command::Validate(args) => validate::run(&args),
        Command::History(args) => history::run(&args),
        Command::Rollback(args) => history::rollback(&args),
        Command::FakeGateway(args) => output::runtime().and_then(|rt| rt.block_on(fake_gateway::run(args))),
        Command::Completions { shell } => {
            cli::completions(shell);
            Ok(0)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("stoker: {}", output::printable(&format!("{error:#}")));
            ExitCode::from(output::exit_code_of(&error))
        }
    }
}
