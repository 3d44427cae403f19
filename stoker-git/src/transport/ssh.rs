//! SSH, through russh.
//!
//! The socket is ours, so that the host policy holds; the host key is judged before anything of the credential is sent.
//!
//! ```text
//! dial ─▶ handshake ─▶ Gate judges the host ─▶ login ─▶ exec git-upload-pack '<path>' ─▶ SshConnection
//! ```

mod key;
mod login;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::keys::PublicKeyOrCertificate;
use russh::keys::ssh_key::Algorithm;
use russh::{Channel, ChannelMsg, Disconnect, client};
use tokio::runtime::Runtime;

use super::git::stalled;
use super::{Destination, dial};
use crate::error::GitError;
use crate::hostkeys::{HostKey, HostKeyVerdict, KnownHosts, known_hosts_name};
use crate::limits::Limits;
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::wire::{Connection, Service, Version, connection_error, remote_error};

/// How long taking leave may take. Nothing depends on it.
const LEAVE: Duration = Duration::from_secs(1);
/// What is sent at once; silence while it goes is what the patience is for.
const CHUNK: usize = 32 << 10;
/// What a server may say on standard error.
const MAX_COMPLAINT: usize = 4096;
/// What is heard out of a server that has something to complain of: its messages are of up to 32 KiB.
const MAX_MESSAGES: usize = 64;

/// A git service behind ssh.
pub(super) struct SshConnection {
    line: BufReader<Line>,
    url: String,
}

/// The channel to the program on the other side. What it holds runs only while something is waited for.
struct Line {
    channel: Channel<client::Msg>,
    session: client::Handle<Gate>,
    // After what runs on it.
    runtime: Runtime,
    chunk: Vec<u8>,
    at: usize,
    complaint: Vec<u8>,
    /// The program has said all it had to say.
    over: bool,
    limits: Limits,
}

/// Lets the right host pass.
struct Gate {
    known: KnownHosts,
    host: String,
    port: u16,
    url: String,
}

/// Why a session ended.
#[derive(Debug)]
enum Stop {
    Host(GitError),
    Ssh(russh::Error),
}

pub(super) fn open(to: &Destination<'_>, service: Service) -> Result<SshConnection, GitError> {
    if let Some(error) = to.wrong_credential() {
        return Err(error);
    }
    let unreachable = |e: io::Error| GitError::Unreachable { host: to.address(), detail: e.to_string() };
    let stream = dial::connect(to)?;
    let runtime = to.runtime()?;
    stream.set_nonblocking(true).map_err(unreachable)?;
    let (channel, session) = runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).map_err(unreachable)?;
        let mut session = meet(to, stream).await?;
        login::authenticate(to, &mut session).await?;
        let channel = start(to, service, &session).await?;
        Ok((channel, session))
    })?;
    let line = Line {
        channel,
        session,
        runtime,
        chunk: Vec::new(),
        at: 0,
        complaint: Vec::new(),
        over: false,
        limits: to.limits.clone(),
    };
    Ok(SshConnection { line: BufReader::with_capacity(1 << 16, line), url: to.url.to_string() })
}

/// Agrees on keys with the host, if it is the right one.
async fn meet(to: &Destination<'_>, stream: tokio::net::TcpStream) -> Result<client::Handle<Gate>, GitError> {
    let own = to.access.known_hosts.as_deref().map(KnownHosts::parse).unwrap_or_default();
    let known = own.or(KnownHosts::builtin(), to.host(), to.port());
    let config = client::Config { preferred: preferred(&known, to), ..client::Config::default() };
    let gate = Gate { known, host: to.host().to_owned(), port: to.port(), url: to.url.to_string() };
    let connecting = client::connect_stream(Arc::new(config), stream, gate);
    within(to, "the ssh handshake failed", connecting).await
}

/// The kinds of host keys that are known first; certificates only of hosts whose authority is known.
fn preferred(known: &KnownHosts, to: &Destination<'_>) -> russh::Preferred {
    let names = known.algorithms(to.host(), to.port());
    let key: Vec<Algorithm> = names.into_iter().filter_map(|name| name.parse().ok()).collect();
    let certificates = if known.names_authority(to.host(), to.port()) {
        key.iter().filter(|algorithm| !matches!(algorithm, Algorithm::Rsa { hash: None })).cloned().collect()
    } else {
        Vec::new()
    };
    russh::Preferred {
        key: Cow::Owned(key),
        host_key_certificates: Cow::Owned(certificates),
        ..russh::Preferred::DEFAULT
    }
}

/// Starts the program on the other side.
async fn start(
    to: &Destination<'_>,
    service: Service,
    session: &client::Handle<Gate>,
) -> Result<Channel<client::Msg>, GitError> {
    let program = service.program();
    let mut channel = within(to, "cannot open an ssh channel", session.channel_open_session()).await?;
    let starting = async {
        if service.version() == Version::V2 {
            // Most servers refuse foreign variables; then they speak version 0.
            channel.set_env(false, "GIT_PROTOCOL", "version=2").await?;
        }
        channel.exec(true, format!("{program} {}", quoted(to.url.path()))).await?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => return Err(russh::Error::RequestDenied),
                Some(_) => {}
                None => return Err(russh::Error::Disconnect),
            }
        }
    };
    within(to, &format!("the server does not run {program}"), starting).await?;
    Ok(channel)
}

/// Waits, though not for ever.
async fn within<T, E: Into<Stop>>(
    to: &Destination<'_>,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, GitError> {
    let limit = to.limits.stall_timeout;
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(stop)) => Err(match stop.into() {
            Stop::Host(error) => error,
            Stop::Ssh(error) => {
                let detail = printable(&format!("{what}: {error}"), SERVER_TEXT_CHARS);
                GitError::Unreachable { host: to.address(), detail }
            }
        }),
        Err(_) => {
            let operation = format!("waiting for the ssh server {}", to.address());
            Err(GitError::Timeout { operation, limit })
        }
    }
}

/// One word for the server's shell, whatever is in it.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

impl Gate {
    fn judge(&self, offered: &PublicKeyOrCertificate) -> Result<(), GitError> {
        let key = offered.public_key().to_bytes().ok().and_then(|blob| HostKey::from_blob(&blob));
        let key = key.ok_or_else(|| GitError::Protocol {
            url: self.url.clone(),
            detail: "the ssh server showed no readable host key".to_owned(),
        })?;
        let verdict = match offered.certificate() {
            Some(certificate) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                self.known.judge_certificate(&self.host, self.port, &key, certificate, now)
            }
            None => self.known.judge(&self.host, self.port, &key),
        };
        let host = known_hosts_name(&self.host, self.port);
        let (fingerprint, line) = (key.fingerprint(), key.known_hosts_line(&self.host, self.port));
        match verdict {
            HostKeyVerdict::Known => Ok(()),
            HostKeyVerdict::Uncertified { why } => {
                Err(GitError::HostCertificateRefused { host, why, fingerprint, line })
            }
            HostKeyVerdict::Unknown => Err(GitError::HostKeyUnknown { host, fingerprint, line }),
            HostKeyVerdict::Changed { known } => {
                Err(GitError::HostKeyChanged { host, fingerprint, known: known.join(", "), line })
            }
            HostKeyVerdict::Revoked => Err(GitError::HostKeyRevoked { host, fingerprint }),
        }
    }
}

impl client::Handler for Gate {
    type Error = Stop;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Stop> {
        self.judge(offered).map(|()| true).map_err(Stop::Host)
    }
}

impl From<russh::Error> for Stop {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl Line {
    /// Takes one message; `None` when there are no more.
    fn hear(&mut self) -> io::Result<Option<ChannelMsg>> {
        let message = self
            .runtime
            .block_on(async { tokio::time::timeout(self.limits.stall_timeout, self.channel.wait()).await })
            .map_err(|_| stalled(&self.limits))?;
        match &message {
            // Both directions may end apart, but nothing is said after the end of this one.
            Some(ChannelMsg::Close) => self.over = true,
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                let room = MAX_COMPLAINT - self.complaint.len();
                self.complaint.extend_from_slice(&data[..data.len().min(room)]);
            }
            None if !self.over => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        Ok(message)
    }

    fn say(&mut self, words: &[u8]) -> io::Result<()> {
        for chunk in words.chunks(CHUNK) {
            let said =
                async { tokio::time::timeout(self.limits.stall_timeout, self.channel.data(chunk)).await };
            self.runtime.block_on(said).map_err(|_| stalled(&self.limits))?.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.over {
                return Ok(0);
            }
            match self.hear()? {
                Some(ChannelMsg::Data { data }) => (self.chunk, self.at) = (data.into(), 0),
                Some(ChannelMsg::Eof) | None => return Ok(0),
                Some(_) => {}
            }
        }
        let rest = &self.chunk[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

impl Connection for SshConnection {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.line)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        self.line.get_mut().say(&body).map_err(|e| connection_error(&self.url, e))?;
        Ok(&mut self.line)
    }

    fn goodbye(&mut self) {
        let line = self.line.get_mut();
        let leaving = async {
            let _ = line.channel.data(&b"0000"[..]).await;
            let _ = line.session.disconnect(Disconnect::ByApplication, "", "").await;
            let _ = (&mut line.session).await;
        };
        let _ = line.runtime.block_on(async { tokio::time::timeout(LEAVE, leaving).await });
    }

    /// Forges explain themselves on standard error (`ERROR: Repository not found.`).
    fn complaint(&mut self) -> Option<GitError> {
        let line = self.line.get_mut();
        for _ in 0..MAX_MESSAGES {
            if line.over || !matches!(line.hear(), Ok(Some(_))) {
                break;
            }
        }
        let text = String::from_utf8_lossy(&line.complaint);
        let told: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.chars().any(char::is_alphanumeric)).collect();
        (!told.is_empty()).then(|| remote_error(&self.url, &told.join(" ")))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_any_shell() {
        let nasty = "a b'; touch /tmp/x; echo '$(id)`id`\"\\";
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(nasty))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), nasty);
    }
}
