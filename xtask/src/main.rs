//! Developer commands: `cargo xtask --help`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cluster;
mod crash_proof;
mod fuzz;
mod images;
mod test;
mod tools;
mod tour;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Stoker", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Tools(tools::Tools),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    CrashProof(crash_proof::CrashProof),
    Images(images::Images),
    #[command(subcommand)]
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Test(test::Test),
    Tour(tour::Tour),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Tools(tools) => tools.run().map(|()| ExitCode::SUCCESS),
        Command::Cluster(cluster) => cluster.run(),
        Command::Bench(bench) => bench.run(),
        Command::CrashProof(proof) => proof.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Images(images) => images.run().map(|()| ExitCode::SUCCESS),
        Command::Test(test) => test.run(),
        Command::Tour(tour) => tour.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
