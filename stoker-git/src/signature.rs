//! Who signed a commit or a tag.
//!
//! ```text
//!  raw object ──▶ Signed::commit ─┬─ payload ────────┐
//!                 Signed::tag     └─ armour ─┬ SSH ──▶ allowed signers ─┐
//!                                            └ PGP ──▶ public keys ─────┴─▶ Signer | Refusal
//! ```
//!
//! Pure functions over the bytes of an object, the keys that are trusted, and the time.
//!
//! # When a key has expired
//!
//! As the tools of each kind of key have it. An SSH key has to be valid (`valid-after`, `valid-before`) at the time that
//! the committer or tagger wrote into the object, as git asks `ssh-keygen` (see `gpg.ssh.allowedSignersFile` in
//! `git-config(1)`): keys can be changed without a new signature on everything old. Whoever holds an old key can also
//! write an old time; take its line out when it must count no more. An OpenPGP key has to be valid now, as for `gpg`, and
//! one that is revoked counts no more at all, whenever and whyever.

mod allowed_signers;
mod armour;
mod object;
mod openpgp;
mod ssh;

use std::fmt;
use std::path::{Path, PathBuf};

use allowed_signers::AllowedSigner;
use object::Format;
pub use object::Signed;

use crate::error::GitError;
pub use crate::error::SignatureProblem as Problem;

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    ssh: Vec<AllowedSigner>,
    openpgp: Vec<openpgp::Key>,
}

/// Whose signature it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signer {
    /// A principal of the allowed signers, or the first user id of the OpenPGP key.
    pub name: String,
    /// The fingerprint of the key: `SHA256:...` for SSH, hexadecimal digits for OpenPGP.
    pub key: String,
}

/// Why an object is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which of the five it is.
    pub problem: Problem,
    /// What exactly, naming the key.
    pub detail: String,
}

/// A file of keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {detail}")]
pub struct KeyFileError {
    /// The file.
    pub file: String,
    /// The line where there is one, and what is wrong.
    pub detail: String,
}

/// More than any list of people who sign.
const MAX_KEYS: usize = 10_000;

impl TrustedKeys {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the keys of a file: OpenPGP public keys in armour, or lines as in the `ALLOWED SIGNERS` of `ssh-keygen(1)`.
    ///
    /// # Errors
    /// When anything in it cannot be used: a key that is passed over would refuse commits without a reason.
    pub fn add(&mut self, file: &str, content: &[u8]) -> Result<(), KeyFileError> {
        let error = |detail: String| KeyFileError { file: file.to_owned(), detail };
        let armoured =
            content.windows(armour::OPENPGP_KEY.len()).any(|w| w == armour::OPENPGP_KEY.as_bytes());
        if armoured {
            self.openpgp.extend(openpgp::keys(content).map_err(error)?);
        } else {
            let text = std::str::from_utf8(content).map_err(|_| error("it is not text".to_owned()))?;
            self.ssh.extend(allowed_signers::parse(text).map_err(error)?);
        }
        if self.len() > MAX_KEYS {
            return Err(error(format!("there are more than {MAX_KEYS} keys")));
        }
        Ok(())
    }

    /// The keys of every file in a directory, such as a mounted Secret has them.
    ///
    /// # Errors
    /// [`GitError::SigningKeysInvalid`] when a file cannot be read or used, or when there is no key at all.
    pub fn read_dir(dir: &Path) -> Result<Self, GitError> {
        let invalid = |detail: String| GitError::SigningKeysInvalid { detail };
        let entries = std::fs::read_dir(dir)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .map_err(|e| invalid(format!("cannot list {}: {e}", dir.display())))?;
        // What starts with two dots is the kubelet's way to swap all files at once.
        let hidden = |path: &Path| path.file_name().is_none_or(|n| n.to_string_lossy().starts_with(".."));
        let mut files: Vec<PathBuf> =
            entries.iter().map(std::fs::DirEntry::path).filter(|p| !hidden(p)).collect();
        files.sort();
        if files.is_empty() {
            return Err(invalid(format!("there is no file of keys in {}", dir.display())));
        }
        Self::read_files(&files)
    }

    /// The keys of these files.
    ///
    /// # Errors
    /// As for [`read_dir`](Self::read_dir).
    pub fn read_files(files: &[PathBuf]) -> Result<Self, GitError> {
        let invalid = |detail: String| GitError::SigningKeysInvalid { detail };
        let mut keys = Self::new();
        for file in files {
            let text = crate::credentials::read(file, "key").map_err(|e| match e {
                GitError::CredentialInvalid { detail } => invalid(detail),
                other => other,
            })?;
            keys.add(&file.display().to_string(), text.expose().as_bytes())
                .map_err(|e| invalid(e.to_string()))?;
        }
        if keys.is_empty() {
            return Err(invalid(format!("there is no key in {}", shown(files))));
        }
        Ok(keys)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ssh.len() + self.openpgp.len()
    }

    /// Whether there is no key at all, so that every signature is by an unknown one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges the signature of an object. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why the signature does not count.
    pub fn judge(&self, signed: &Signed, now: i64) -> Result<Signer, Refusal> {
        let Some(signature) = &signed.signature else {
            return Err(Refusal::new(Problem::Unsigned, "it has no signature"));
        };
        match signed.format {
            Some(Format::Ssh) => ssh::judge(&self.ssh, &signed.payload, signature, signed.seconds),
            Some(Format::OpenPgp) => openpgp::judge(&self.openpgp, &signed.payload, signature, now),
            None => Err(Refusal::new(
                Problem::BadSignature,
                "its signature is neither of SSH nor of OpenPGP; X.509 is not supported",
            )),
        }
    }
}

fn shown(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if names.is_empty() { "an empty list of files".to_owned() } else { names.join(", ") }
}

impl Refusal {
    pub(crate) fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self { problem, detail: detail.into() }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.key)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem.name(), self.detail)
    }
}
