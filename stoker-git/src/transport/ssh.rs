//! SSH, through russh.
//!
//! The socket is ours, so that the host policy holds; the host key is judged before anything of the credential is sent.
//!
//! ```text
//! dial ─▶ handshake ─▶ Gate judges the host ─▶ login ─▶ exec git-upload-pack '<path>' ─▶ SshConnection
//! ```

mod key;
mod line;
mod login;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::client::{DisconnectReason, GexParams};
use russh::keys::PublicKeyOrCertificate;
use russh::{Preferred, cipher, client, kex, mac};
use tokio::net::TcpStream;

use super::{Destination, dial};
use crate::error::GitError;
use crate::hostkeys::{HostKey, HostKeyVerdict, KnownHosts, known_hosts_name};
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::wire::Service;
pub(super) use line::SshConnection;

/// What ssh(1) offers by default, as far as there is an implementation: older servers have little of it.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_GEX_SHA256,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::AES_128_CTR,
    cipher::AES_192_CTR,
    cipher::AES_256_CTR,
];
const MACS: &[mac::Name] = &[
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256,
    mac::HMAC_SHA512,
    mac::HMAC_SHA1_ETM,
    mac::HMAC_SHA1,
];
/// Bits of the groups of `diffie-hellman-group-exchange`: at least, best, at most.
const GROUP_BITS: (usize, usize, usize) = (2048, 3072, 8192);

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
    /// The server took leave, with these words.
    Farewell(String),
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
    let line = runtime.block_on(async {
        let stream = TcpStream::from_std(stream).map_err(unreachable)?;
        let mut session = meet(to, stream).await?;
        login::authenticate(to, &mut session).await?;
        line::start(to, service, session).await
    })?;
    Ok(SshConnection::new(to, line, runtime))
}

/// Agrees on keys with the host, if it is the right one.
async fn meet(to: &Destination<'_>, stream: TcpStream) -> Result<client::Handle<Gate>, GitError> {
    let own = to.access.known_hosts.as_deref().map(KnownHosts::parse).unwrap_or_default();
    let known = own.or(KnownHosts::builtin(), to.host(), to.port());
    // The kinds of host keys that are known first; certificates only of hosts whose authority is known.
    let names = known.algorithms(to.host(), to.port());
    let key: Vec<_> = names.into_iter().filter_map(|name| name.parse().ok()).collect();
    let certified = known.names_authority(to.host(), to.port());
    let preferred = Preferred {
        kex: Cow::Borrowed(KEX),
        host_key_certificates: Cow::Owned(if certified { key.clone() } else { Vec::new() }),
        key: Cow::Owned(key),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        ..Preferred::DEFAULT
    };
    let (least, best, most) = GROUP_BITS;
    let gex = GexParams::new(least, best, most).unwrap_or_default();
    let config = client::Config { preferred, gex, ..client::Config::default() };
    let gate = Gate { known, host: to.host().to_owned(), port: to.port(), url: to.url.to_string() };
    let connecting = client::connect_stream(Arc::new(config), stream, gate);
    within(to, "the ssh handshake failed", connecting).await
}

/// Waits, though not for ever.
async fn patiently<T>(to: &Destination<'_>, work: impl Future<Output = T>) -> Result<T, GitError> {
    let limit = to.limits.stall_timeout;
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let operation = format!("waiting for the ssh server {}", to.address());
        GitError::Timeout { operation, limit }
    })
}

async fn within<T, E: Into<Stop>>(
    to: &Destination<'_>,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, GitError> {
    patiently(to, work).await?.map_err(|stop| stop.into().meaning(&to.address(), what))
}

impl Stop {
    fn meaning(self, address: &str, what: &str) -> GitError {
        match self {
            Self::Host(error) => error,
            stop => {
                let detail = printable(&format!("{what}: {stop}"), SERVER_TEXT_CHARS);
                GitError::Unreachable { host: address.to_owned(), detail }
            }
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::Farewell(words) if words.is_empty() => f.write_str("the server hung up"),
            Self::Farewell(words) => write!(f, "the server hung up and said: {words}"),
            Self::Ssh(error) => error.fmt(f),
        }
    }
}

impl From<russh::Error> for Stop {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
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
            HostKeyVerdict::Unknown => {
                let skipped = self.known.skipped().first();
                let unusable = skipped.map(|skipped| {
                    format!(" (line {} of known_hosts cannot be used: {})", skipped.line, skipped.reason)
                });
                let unusable = unusable.unwrap_or_default();
                Err(GitError::HostKeyUnknown { unusable, host, fingerprint, line })
            }
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

    async fn disconnected(&mut self, reason: DisconnectReason<Stop>) -> Result<(), Stop> {
        Err(match reason {
            DisconnectReason::ReceivedDisconnect(farewell) => {
                Stop::Farewell(printable(&farewell.message, SERVER_TEXT_CHARS))
            }
            DisconnectReason::Error(stop) => stop,
        })
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}
