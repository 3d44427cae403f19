//! `git daemon`: no login, no encryption.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Shelf;
use crate::control_plane::free_ports;
use crate::leash::{Leash, Process};
use crate::{repo, wait};

/// A `git://` server.
#[derive(Debug)]
pub struct Daemon {
    address: SocketAddr,
    shelf: Shelf,
    // In this order: the process ends before the leash deletes its files.
    _process: Process,
    _leash: Leash,
}

impl Daemon {
    /// Starts one on loopback.
    ///
    /// # Errors
    ///
    /// git cannot be run.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one at an address of this machine.
    ///
    /// # Errors
    ///
    /// As [`Daemon::start`].
    pub async fn start_at(address: IpAddr) -> Result<Self> {
        let (leash, shelf) = (Leash::new("git-daemon")?, Shelf::new()?);
        let [port] = free_ports()?;
        let address = SocketAddr::new(address, port);
        let mut command = repo::git();
        command
            .args(["daemon", "--export-all", "--reuseaddr", "--informative-errors"])
            .args([format!("--listen={}", address.ip()), format!("--port={port}")])
            .arg(format!("--base-path={}", shelf.path().display()));
        let mut process = leash.spawn("git-daemon", &mut command)?;
        wait::until_accepting(&mut process, address, Duration::from_secs(10)).await.context("git daemon")?;
        Ok(Self { address, shelf, _process: process, _leash: leash })
    }

    /// What it serves.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The URL of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("git://{}/{name}", self.address)
    }
}
