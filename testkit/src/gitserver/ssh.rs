//! OpenSSH's server, reduced to git.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::Shelf;
use crate::control_plane::free_ports;
use crate::leash::{Leash, Process};
use crate::tools::{self, Missing};
use crate::wait;

/// A kind of key that `ssh-keygen` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the algorithms")]
pub enum KeyKind {
    Ed25519,
    Ecdsa,
    Rsa,
}

/// A git server over ssh with host keys and client keys of its own.
#[derive(Debug)]
pub struct Ssh {
    address: SocketAddr,
    user: String,
    shelf: Shelf,
    // In this order: the process ends before the leash deletes its files.
    process: Mutex<Process>,
    leash: Leash,
}

impl Ssh {
    /// Starts one on loopback with host keys of all kinds and one client key that may enter.
    ///
    /// # Errors
    ///
    /// `sshd` or `ssh-keygen` is absent or refuses.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one at an address of this machine.
    ///
    /// # Errors
    ///
    /// As [`Ssh::start`].
    pub async fn start_at(address: IpAddr) -> Result<Self> {
        Self::start_with(address, "AcceptEnv GIT_PROTOCOL\n").await
    }

    /// Starts one that passes no version of git's protocol on, as a server does that nobody has configured for git: it
    /// speaks version 0.
    ///
    /// # Errors
    ///
    /// As [`Ssh::start`].
    pub async fn start_version_0() -> Result<Self> {
        Self::start_with(Ipv4Addr::LOCALHOST.into(), "").await
    }

    async fn start_with(address: IpAddr, lines: &str) -> Result<Self> {
        let (leash, shelf) = (Leash::new("sshd")?, Shelf::new()?);
        let [port] = free_ports()?;
        let address = SocketAddr::new(address, port);
        let folder = leash.folder();
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
            make_key(&folder.join(format!("host_{}", kind.name())), kind, "")?;
        }
        make_key(&folder.join("client"), KeyKind::Ed25519, "")?;
        std::fs::copy(folder.join("client.pub"), folder.join("authorized_keys"))?;
        write_configuration(folder, address, shelf.path(), lines)?;
        let process = Mutex::new(spawn(&leash, address).await?);
        Ok(Self { address, user: user_name()?, shelf, process, leash })
    }

    /// What it serves.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The URL of a repository, such as `ssh://user@127.0.0.1:2222/plant/ignition.git`.
    pub fn url(&self, name: &str) -> String {
        format!("ssh://{}@{}/{name}", self.user, self.address)
    }

    /// The private key that may enter, in OpenSSH's format.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn private_key(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.private_key_path())?)
    }

    /// The file of [`Ssh::private_key`].
    pub fn private_key_path(&self) -> PathBuf {
        self.leash.folder().join("client")
    }

    /// Makes another client key that may enter and returns its file; with a passphrase unless that is empty.
    ///
    /// # Errors
    ///
    /// `ssh-keygen` refuses.
    pub fn add_key(&self, name: &str, kind: KeyKind, passphrase: &str) -> Result<PathBuf> {
        let folder = self.leash.folder();
        let path = folder.join(format!("client_{name}"));
        make_key(&path, kind, passphrase)?;
        let mut all = std::fs::read_to_string(folder.join("authorized_keys"))?;
        all.push_str(&std::fs::read_to_string(path.with_extension("pub"))?);
        std::fs::write(folder.join("authorized_keys"), all)?;
        Ok(path)
    }

    /// Lets nobody in any more, as when a key is revoked.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn revoke_all_keys(&self) -> Result<()> {
        Ok(std::fs::write(self.leash.folder().join("authorized_keys"), "")?)
    }

    /// The lines of a `known_hosts` file for this server, one for each kind of host key.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub fn known_hosts(&self) -> Result<String> {
        let mut lines = String::new();
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
            let path = self.leash.folder().join(format!("host_{}.pub", kind.name()));
            let text = std::fs::read_to_string(&path)?;
            let mut words = text.split_whitespace();
            let (Some(algorithm), Some(key)) = (words.next(), words.next()) else {
                bail!("{} holds no key", path.display())
            };
            writeln!(lines, "[{}]:{} {algorithm} {key}", self.address.ip(), self.address.port())?;
        }
        Ok(lines)
    }

    /// Replaces the host keys, as a server set up anew has others, and starts again at the same port.
    ///
    /// # Errors
    ///
    /// As [`Ssh::start`].
    pub async fn change_host_keys(&self) -> Result<()> {
        self.locked()?.kill()?;
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
            make_key(&self.leash.folder().join(format!("host_{}", kind.name())), kind, "")?;
        }
        let process = spawn(&self.leash, self.address).await?;
        *self.locked()? = process;
        Ok(())
    }

    fn locked(&self) -> Result<std::sync::MutexGuard<'_, Process>> {
        self.process.lock().map_err(|_| anyhow!("another thread panicked while it held sshd"))
    }
}

impl KeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

/// Why sshd cannot serve git on this machine, if so.
pub(crate) fn lacking() -> Option<Missing> {
    for program in ["sshd", "ssh-keygen"] {
        if tools::program(program).is_none() {
            return Some(Missing(format!("there is no `{program}` on this machine")));
        }
    }
    // sshd runs even a forced command by the user's login shell.
    let user = user_name().ok()?;
    let account = Command::new("getent").args(["passwd", &user]).output().ok()?;
    let account = String::from_utf8_lossy(&account.stdout).trim().to_owned();
    (account.ends_with("/nologin") || account.ends_with("/false"))
        .then(|| Missing(format!("sshd lets {user} do nothing: the account has no login shell")))
}

async fn spawn(leash: &Leash, address: SocketAddr) -> Result<Process> {
    // sshd insists on its absolute path: it runs itself again for each connection.
    let sshd = tools::program("sshd").context("there is no sshd")?;
    if rustix::process::geteuid().is_root() {
        // Where sshd, started by root, shuts itself in; the package's service makes it as well.
        std::fs::create_dir_all("/run/sshd")?;
    }
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f"]).arg(leash.folder().join("sshd_config"));
    let mut process = leash.spawn("sshd", &mut command)?;
    wait::until_accepting(&mut process, address, Duration::from_secs(10)).await?;
    Ok(process)
}

fn make_key(path: &Path, kind: KeyKind, passphrase: &str) -> Result<()> {
    for old in [path.to_owned(), path.with_extension("pub")] {
        let _ = std::fs::remove_file(old);
    }
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind.name(), "-N", passphrase, "-C", "stoker-test", "-f"])
        .arg(path)
        .output()
        .context("running ssh-keygen")?;
    if !output.status.success() {
        bail!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn write_configuration(folder: &Path, address: SocketAddr, shelf: &Path, lines: &str) -> Result<()> {
    // Whatever a client asks for, it gets git's own restricted shell, and paths start at the shelf.
    let script = format!(
        "#!/bin/sh\ncd '{}' || exit 1\nexec git shell -c \"$(printf %s \"$SSH_ORIGINAL_COMMAND\" | sed \"s# '/# '#\")\"\n",
        shelf.display()
    );
    let command = folder.join("git-only");
    std::fs::write(&command, script)?;
    let mut config = format!(
        "Port {}\nListenAddress {}\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin yes\nAllowTcpForwarding no\nX11Forwarding no\n\
         {lines}PrintMotd no\nMaxStartups 200\nAuthorizedKeysFile {}\nForceCommand sh {}\n",
        address.port(),
        address.ip(),
        folder.join("authorized_keys").display(),
        command.display()
    );
    for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
        writeln!(config, "HostKey {}", folder.join(format!("host_{}", kind.name())).display())?;
    }
    std::fs::write(folder.join("sshd_config"), config)?;
    Ok(())
}

/// Only the user who runs the tests can log in: sshd cannot become another without being root.
fn user_name() -> Result<String> {
    let output = Command::new("id").arg("-un").output().context("running id")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
