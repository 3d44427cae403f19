//! Which ssh host is which.
//!
//! A host key is trusted when known_hosts lists it for this host and port, or, for the hosts in
//! [`builtin`](KnownHosts::builtin), when it is one of the keys they publish. Nothing is trusted on first use, unless a
//! program asks for that ([`Git::with_accept_new`](crate::Git::with_accept_new)).
//!
//! What of `sshd(8)`, "SSH_KNOWN_HOSTS FILE FORMAT", is understood: several hosts, patterns, exceptions, ports, hashed
//! hosts, `@revoked` and `@cert-authority`, which trusts the hosts whose keys that authority has signed.

mod builtin;
pub(crate) mod certificate;
pub(crate) mod remembered;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::glob;

/// A public key that an ssh host identifies itself with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostKey {
    algorithm: String,
    blob: Vec<u8>,
}

/// The content of a known_hosts file.
///
/// ```
/// use stoker_git::hostkeys::{HostKeyVerdict, KnownHosts};
/// let known = KnownHosts::builtin();
/// let key = known.keys_of("github.com", 22).next().unwrap();
/// assert_eq!(known.judge("github.com", 22, key), HostKeyVerdict::Known);
/// assert_eq!(known.judge("git.example.com", 22, key), HostKeyVerdict::Unknown);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownHosts {
    entries: Vec<KnownHost>,
    skipped: Vec<SkippedLine>,
}

/// A line of known_hosts that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What known_hosts says of an offered key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostKeyVerdict {
    /// It is listed.
    Known,
    /// Nothing is listed for this host.
    Unknown,
    /// Only other keys are listed for this host.
    Changed {
        /// Their fingerprints.
        known: Vec<String>,
    },
    /// It is listed as `@revoked`, or its certificate's authority is.
    Revoked,
    /// An authority is listed for this host, and no certificate of it was shown that is good for this host and time.
    Uncertified {
        /// What is wanting.
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownHost {
    hosts: HostPattern,
    mark: Mark,
    key: HostKey,
}

/// What a line says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It is a key of the hosts.
    Trusted,
    /// `@revoked`.
    Revoked,
    /// `@cert-authority`: it signs the keys of the hosts.
    Authority,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// `host,*.example.com,!other`.
    Plain(Vec<String>),
    /// `|1|salt|hash`: HMAC-SHA1 of the name (`HashKnownHosts` of OpenSSH).
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
}

impl HostKey {
    /// Reads a key in its wire form (RFC 4253, section 6.6): it starts with the name of its algorithm.
    #[must_use]
    pub fn from_blob(blob: &[u8]) -> Option<Self> {
        let length = u32::from_be_bytes(blob.get(..4)?.try_into().ok()?) as usize;
        let algorithm = std::str::from_utf8(blob.get(4..4usize.checked_add(length)?)?).ok()?;
        if algorithm.is_empty() || !algorithm.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        Some(Self { algorithm: algorithm.to_owned(), blob: blob.to_vec() })
    }

    /// The name of the algorithm, for example `ssh-ed25519`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// `SHA256:...`, as `ssh-keygen -l` prints it and forges publish it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.blob);
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
    }

    /// The line that makes this key known for a host.
    #[must_use]
    pub fn known_hosts_line(&self, host: &str, port: u16) -> String {
        format!("{} {} {}", known_hosts_name(host, port), self.algorithm, STANDARD.encode(&self.blob))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.fingerprint())
    }
}

/// How known_hosts writes a host: `host`, or `[host]:port` for a port other than 22.
#[must_use]
pub fn known_hosts_name(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

impl KnownHosts {
    /// The keys that github.com, gitlab.com, bitbucket.org and ssh.dev.azure.com publish.
    #[must_use]
    pub fn builtin() -> Self {
        Self::parse(builtin::KNOWN_HOSTS)
    }

    /// Reads a known_hosts file. Lines that make no sense are skipped and listed, as ssh does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut known = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok(entry) => known.entries.push(entry),
                Err(reason) => known.skipped.push(SkippedLine { line: number + 1, reason }),
            }
        }
        known
    }

    /// The lines that could not be used.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedLine] {
        &self.skipped
    }

    /// Whether there is no usable line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds what `fallback` knows of hosts that are not listed here. Its revocations hold in any case.
    ///
    /// So a user's line for `github.com` replaces the built-in ones: whoever pins a key wants that key.
    #[must_use]
    pub fn or(mut self, fallback: Self, host: &str, port: u16) -> Self {
        let listed = self.keys_of(host, port).next().is_some();
        self.entries
            .extend(fallback.entries.into_iter().filter(|entry| entry.mark == Mark::Revoked || !listed));
        self
    }

    /// The trusted keys of a host.
    pub fn keys_of(&self, host: &str, port: u16) -> impl Iterator<Item = &HostKey> {
        let name = known_hosts_name(host, port).to_ascii_lowercase();
        let trusted = move |e: &&KnownHost| e.mark == Mark::Trusted && e.hosts.matches(&name);
        self.entries.iter().filter(trusted).map(|e| &e.key)
    }

    /// Whether an authority is named that signs the keys of this host.
    #[must_use]
    pub fn names_authority(&self, host: &str, port: u16) -> bool {
        self.of_host(host, port, Mark::Authority).next().is_some()
    }

    /// The keys with a mark that are listed for a host, on this port or on any.
    fn of_host(&self, host: &str, port: u16, mark: Mark) -> impl Iterator<Item = &HostKey> {
        let names = [known_hosts_name(host, port), host.to_owned()].map(|name| name.to_ascii_lowercase());
        let listed = move |e: &&KnownHost| e.mark == mark && names.iter().any(|name| e.hosts.matches(name));
        self.entries.iter().filter(listed).map(|e| &e.key)
    }

    /// What is known of the `key` that `host` offered on `port`.
    #[must_use]
    pub fn judge(&self, host: &str, port: u16, key: &HostKey) -> HostKeyVerdict {
        if self.of_host(host, port, Mark::Revoked).any(|revoked| revoked == key) {
            return HostKeyVerdict::Revoked;
        }
        let known: Vec<&HostKey> = self.keys_of(host, port).collect();
        // As ssh does: a key listed for the host without a port is good on any of its ports.
        if known.contains(&key) || self.keys_of(host, 22).any(|k| k == key) {
            return HostKeyVerdict::Known;
        }
        if known.is_empty() && self.names_authority(host, port) {
            return HostKeyVerdict::Uncertified { why: "it shows a key without a certificate".to_owned() };
        }
        if known.is_empty() {
            return HostKeyVerdict::Unknown;
        }
        let mut known: Vec<String> = known.into_iter().map(HostKey::fingerprint).collect();
        known.sort();
        known.dedup();
        HostKeyVerdict::Changed { known }
    }

    /// The host key algorithms to ask for, best first: those of the known keys, then all others.
    ///
    /// A host has several keys and shows the one that is asked for. Asking for another kind than the listed one would
    /// make an honest host look changed.
    #[must_use]
    pub(crate) fn algorithms(&self, host: &str, port: u16) -> Vec<&'static str> {
        let known: Vec<&str> =
            self.keys_of(host, port).chain(self.keys_of(host, 22)).map(HostKey::algorithm).collect();
        let (mut first, rest): (Vec<_>, Vec<_>) =
            ALGORITHMS.iter().partition(|(_, key_type)| known.contains(key_type));
        first.extend(rest);
        first.into_iter().map(|(algorithm, _)| algorithm).collect()
    }
}

/// Signature algorithms of host keys and the key type each works with, best first. RSA keys sign with SHA-2 (RFC 8332);
/// with SHA-1 as little as ssh(1) takes since 8.8.
const ALGORITHMS: &[(&str, &str)] = &[
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "ssh-rsa"),
    ("rsa-sha2-256", "ssh-rsa"),
];

fn parse_line(line: &str) -> Result<KnownHost, &'static str> {
    let mut fields = line.split_ascii_whitespace();
    let mut hosts = fields.next().ok_or("empty")?;
    let mark = match hosts {
        "@revoked" => Mark::Revoked,
        "@cert-authority" => Mark::Authority,
        marker if marker.starts_with('@') => return Err("unknown marker"),
        _ => Mark::Trusted,
    };
    if mark != Mark::Trusted {
        hosts = fields.next().ok_or("no host after the marker")?;
    }
    let algorithm = fields.next().ok_or("no key type")?;
    let key = fields.next().ok_or("no key")?;
    let blob = STANDARD.decode(key).map_err(|_| "the key is not base64")?;
    let key = HostKey::from_blob(&blob).ok_or("the key is cut short")?;
    if key.algorithm != algorithm {
        return Err("the key is of another type than the line says");
    }
    Ok(KnownHost { hosts: parse_hosts(hosts)?, mark, key })
}

fn parse_hosts(text: &str) -> Result<HostPattern, &'static str> {
    let Some(rest) = text.strip_prefix('|') else {
        return Ok(HostPattern::Plain(text.split(',').map(str::to_ascii_lowercase).collect()));
    };
    let hashed = rest.strip_prefix("1|").and_then(|rest| rest.split_once('|'));
    let (salt, hash) = hashed.ok_or("unknown kind of hashed host")?;
    let decode = |part| STANDARD.decode(part).map_err(|_| "the hashed host is not base64");
    Ok(HostPattern::Hashed { salt: decode(salt)?, hash: decode(hash)? })
}

impl HostPattern {
    /// Whether `name` (lower case, `host` or `[host]:port`) is meant.
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Plain(patterns) => glob::lists(patterns.iter().map(String::as_str), name),
            Self::Hashed { salt, hash } => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
                ring::hmac::verify(&key, name.as_bytes(), hash).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests;
