//! The Stoker controller.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "stoker-controller", version, about)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Write the custom resource definitions to a folder, or print them.
    #[command(hide = true)]
    Crds {
        /// The folder.
        folder: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Some(Command::Crds { folder }) => crds(folder),
        None => Ok(()),
    }
}

fn crds(folder: Option<PathBuf>) -> anyhow::Result<()> {
    for (file, yaml) in stoker_k8s::api::crds_yaml() {
        match &folder {
            Some(folder) => {
                let path = folder.join(file);
                std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => print!("---\n{yaml}"),
        }
    }
    Ok(())
}
