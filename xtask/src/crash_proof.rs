//! `cargo xtask crash-proof`: the engine, interrupted at every point.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::cluster::{target_folder, workspace};

/// Kill the engine at each of its write-side system calls, cut the power in every order; print points and violations
#[derive(Debug, Args)]
pub(crate) struct CrashProof {
    /// Interrupt the recovery of every scenario, and try many more states of the disk (about ten minutes)
    #[arg(long)]
    all: bool,
}

impl CrashProof {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(workspace()).args(["test", "--package", "stoker-core", "--test", "crash"]);
        command.env("CARGO_TARGET_DIR", target_folder());
        if self.all {
            command.env("STOKER_CRASH_DEEP", "all");
        }
        let status = command.status().context("running cargo")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
