//! SSH, through libssh2.
//!
//! The socket is ours, so that the host policy holds; the host key is judged before anything of the credential is sent.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use ssh2::{MethodType, Session};

use super::git::stalled;
use super::{Destination, dial};
use crate::credentials::Credentials;
use crate::error::GitError;
use crate::hostkeys::{HostKey, HostKeyVerdict, KnownHosts, known_hosts_name};
use crate::limits::Limits;
use crate::text::{SERVER_TEXT_CHARS, printable};
use crate::wire::{Connection, Service, Version, connection_error, remote_error};

/// The user when the URL names none: what every forge uses.
const DEFAULT_USER: &str = "git";

// Codes of libssh2 (libssh2.h).
const TIMEOUT: i32 = -9;
const SOCKET_TIMEOUT: i32 = -30;
const FILE: i32 = -16;
const AUTHENTICATION_FAILED: i32 = -18;
const PUBLICKEY_UNVERIFIED: i32 = -19;

/// A git service behind ssh.
pub(super) struct SshConnection {
    reader: BufReader<Stalling>,
    writer: ssh2::Stream,
    stderr: ssh2::Stream,
    _channel: ssh2::Channel,
    url: String,
}

struct Stalling {
    stream: ssh2::Stream,
    line: TcpStream,
    limits: Limits,
}

/// Closes the connection when it is dropped, unless all went well.
///
/// libssh2 takes leave of a server politely, and waits for its answers, once for each channel and once more for the
/// session: with a server that is silent that is several times the patience for one. So this goes before those.
struct HangUp(Option<TcpStream>);

impl HangUp {
    fn not(mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

pub(super) fn open(to: &Destination<'_>, service: Service) -> Result<SshConnection, GitError> {
    if let Some(error) = to.wrong_credential() {
        return Err(error);
    }
    let known = known_hosts(to);
    let mut session = Session::new().map_err(|e| failed(to, "cannot start an ssh session", &e))?;
    session.set_timeout(u32::try_from(to.limits.stall_timeout.as_millis()).unwrap_or(u32::MAX));
    session
        .method_pref(MethodType::HostKey, &known.algorithms(to.host(), to.port()).join(","))
        .map_err(|e| failed(to, "cannot choose host keys", &e))?;
    let stream = dial::connect(to)?;
    let line = || stream.try_clone().map_err(|e| connection_error(&to.url.to_string(), e));
    let (early, late, line) = (line()?, line()?, line()?);
    session.set_tcp_stream(stream);
    // Declared after what they must be dropped before.
    let early = HangUp(Some(early));
    session.handshake().map_err(|e| failed(to, "the ssh handshake failed", &e))?;
    check_host_key(to, &known, &session)?;
    authenticate(to, &session)?;
    let mut channel = session.channel_session().map_err(|e| failed(to, "cannot open an ssh channel", &e))?;
    let late = HangUp(Some(late));
    if service.version() == Version::V2 {
        // Most servers refuse foreign variables; then they speak version 0.
        let _ = channel.setenv("GIT_PROTOCOL", "version=2");
    }
    let program = service.program();
    let command = format!("{program} {}", quoted(to.url.path()));
    channel.exec(&command).map_err(|e| failed(to, &format!("the server does not run {program}"), &e))?;
    let _ = (early.not(), late.not());
    let stalling = Stalling { stream: channel.stream(0), line, limits: to.limits.clone() };
    Ok(SshConnection {
        reader: BufReader::with_capacity(1 << 16, stalling),
        writer: channel.stream(0),
        stderr: channel.stderr(),
        _channel: channel,
        url: to.url.to_string(),
    })
}

fn known_hosts(to: &Destination<'_>) -> KnownHosts {
    let own = to.access.known_hosts.as_deref().map(KnownHosts::parse).unwrap_or_default();
    own.or(KnownHosts::builtin(), to.host(), to.port())
}

fn check_host_key(to: &Destination<'_>, known: &KnownHosts, session: &Session) -> Result<(), GitError> {
    let offered = session.host_key().and_then(|(blob, _)| HostKey::from_blob(blob));
    let offered = offered.ok_or_else(|| GitError::Protocol {
        url: to.url.to_string(),
        detail: "the ssh server showed no readable host key".to_owned(),
    })?;
    let host = known_hosts_name(to.host(), to.port());
    let (fingerprint, line) = (offered.fingerprint(), offered.known_hosts_line(to.host(), to.port()));
    match known.judge(to.host(), to.port(), &offered) {
        HostKeyVerdict::Known => Ok(()),
        HostKeyVerdict::Unknown if known.names_authority(to.host(), to.port()) => {
            Err(GitError::HostCertificateUnsupported { host, fingerprint, line })
        }
        HostKeyVerdict::Unknown => Err(GitError::HostKeyUnknown { host, fingerprint, line }),
        HostKeyVerdict::Changed { known } => {
            Err(GitError::HostKeyChanged { host, fingerprint, known: known.join(", "), line })
        }
        HostKeyVerdict::Revoked => Err(GitError::HostKeyRevoked { host, fingerprint }),
    }
}

fn authenticate(to: &Destination<'_>, session: &Session) -> Result<(), GitError> {
    let user = to.url.user().unwrap_or(DEFAULT_USER);
    let url = || to.url.to_string();
    // Asking for the methods is also an attempt without a credential, which a server may accept.
    let methods = session.auth_methods(user).map(str::to_owned).unwrap_or_default();
    if session.authenticated() {
        return Ok(());
    }
    let Credentials::SshKey { private_key, passphrase } = &to.access.credentials else {
        let detail = format!("the ssh user {user:?} needs a key and none is configured");
        return Err(GitError::AuthenticationFailed { url: url(), detail });
    };
    if !methods.is_empty() && !methods.split(',').any(|method| method == "publickey") {
        let methods = printable(&methods, 100);
        let detail = format!("the server takes no keys from {user:?}, only: {methods}");
        return Err(GitError::AuthenticationFailed { url: url(), detail });
    }
    let passphrase = passphrase.as_ref().map(|p| p.expose());
    let keys = keys(private_key.expose());
    let mut unreadable = None;
    for (number, key) in keys.iter().enumerate() {
        let error = match session.userauth_pubkey_memory(user, None, key, passphrase) {
            Ok(()) if session.authenticated() => return Ok(()),
            Ok(()) => {
                let detail = "the server wants more than a key".to_owned();
                return Err(GitError::AuthenticationFailed { url: url(), detail });
            }
            Err(error) => error,
        };
        match error.code() {
            ssh2::ErrorCode::Session(AUTHENTICATION_FAILED | PUBLICKEY_UNVERIFIED) => {}
            ssh2::ErrorCode::Session(FILE) => unreadable = unreadable.or(Some(number + 1)),
            // The server has hung up: it takes only so many attempts.
            _ => return Err(failed(to, "authentication failed", &error)),
        }
    }
    let all = keys.len();
    if let Some(number) = unreadable {
        let which = if all == 1 { "the ssh key".to_owned() } else { format!("ssh key {number} of {all}") };
        let why = if passphrase.is_some() {
            "wrong passphrase"
        } else {
            "it is encrypted and no passphrase is given"
        };
        let detail =
            format!("{which} cannot be read: {why}, or it is not a private key in OpenSSH or PEM form");
        return Err(GitError::CredentialInvalid { detail });
    }
    let which = if all == 1 {
        "does not know this key".to_owned()
    } else {
        format!("knows none of these {all} keys")
    };
    Err(GitError::AuthenticationFailed {
        url: url(),
        detail: format!("the server {which} for the user {user:?}"),
    })
}

/// The keys of a text that has one after another, such as the old and the new one while keys are changed. Each is tried
/// once, in their order.
fn keys(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN ";
    let starts: Vec<usize> = text
        .match_indices(BEGIN)
        .map(|(at, _)| at)
        .filter(|at| text[*at..].lines().next().is_some_and(|l| l.trim_end().ends_with("PRIVATE KEY-----")))
        .collect();
    if starts.len() < 2 {
        return vec![text];
    }
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

fn failed(to: &Destination<'_>, what: &str, error: &ssh2::Error) -> GitError {
    if matches!(error.code(), ssh2::ErrorCode::Session(TIMEOUT | SOCKET_TIMEOUT)) {
        let operation = format!("waiting for the ssh server {}", to.address());
        return GitError::Timeout { operation, limit: to.limits.stall_timeout };
    }
    let detail = format!("{what}: {}", printable(error.message(), SERVER_TEXT_CHARS));
    GitError::Unreachable { host: to.address(), detail }
}

/// One word for the server's shell, whatever is in it.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

impl Connection for SshConnection {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.reader)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        self.writer.write_all(&body).map_err(|e| connection_error(&self.url, e))?;
        Ok(&mut self.reader)
    }

    fn goodbye(&mut self) {
        let _ = self.writer.write_all(b"0000");
    }

    /// Forges explain themselves on standard error (`ERROR: Repository not found.`).
    fn complaint(&mut self) -> Option<GitError> {
        let mut text = Vec::new();
        let _ = (&mut self.stderr).take(4096).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let told: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.chars().any(char::is_alphanumeric)).collect();
        (!told.is_empty()).then(|| remote_error(&self.url, &told.join(" ")))
    }
}

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let _ = self.line.shutdown(Shutdown::Both);
                stalled(&self.limits)
            }
            _ => e,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_apart_where_there_are_several() {
        let key = |name: &str| {
            format!("-----BEGIN {name} PRIVATE KEY-----\nabc\n-----END {name} PRIVATE KEY-----\n")
        };
        let (a, b) = (key("OPENSSH"), key("RSA"));
        assert_eq!(keys(&format!("{a}{b}")), [&*a, &*b]);
        assert_eq!(keys(&a), [&*a]);
        assert_eq!(keys("garbage"), ["garbage"]);
    }

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
