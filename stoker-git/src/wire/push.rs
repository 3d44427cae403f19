//! Moving one branch to a commit that the server has not got.

use std::io::Read;
use std::time::Duration;

use super::greeting::{Capabilities, Greeting};
use super::pktline::{Packet, Packets, line, push, push_flush};
use super::refusal::{refused_push, refused_update};
use super::{Connection, USER_AGENT, connection_error};
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectFormat};

/// What is to be moved, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    /// The full name of the branch.
    pub(crate) reference: String,
    /// What it must be at; `None`: it must not exist.
    pub(crate) expected: Option<CommitId>,
    pub(crate) commit: CommitId,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The branch was there already; nothing was sent.
    Already,
    Now,
}

/// What is kept of a server's chatter: it explains a refusal.
const MAX_CHATTER_BYTES: usize = 8 << 10;

impl Move {
    /// The branch, as people call it.
    pub(crate) fn branch(&self) -> &str {
        self.reference.strip_prefix("refs/heads/").unwrap_or(&self.reference)
    }

    /// Compares what the branch is at with what it must be at.
    ///
    /// # Errors
    /// [`GitError::LeaseLost`].
    pub(crate) fn judge(&self, found: Option<CommitId>, url: &str) -> Result<Option<Moved>, GitError> {
        if found == Some(self.commit) {
            return Ok(Some(Moved::Already));
        }
        if found == self.expected {
            return Ok(None);
        }
        Err(GitError::LeaseLost {
            url: url.to_owned(),
            branch: self.branch().to_owned(),
            expected: self.expected,
            found,
        })
    }
}

/// Pushes `pack` and moves the branch through `connection`, whose greeting was read.
///
/// # Errors
/// Why the server did not do it; see [`refused_update`].
pub(crate) fn run(
    connection: &mut dyn Connection,
    greeting: &Greeting,
    wanted: &Move,
    pack: Vec<u8>,
    url: &str,
) -> Result<Moved, GitError> {
    let Greeting::V0(advertisement, capabilities) = greeting else {
        let detail = "it answers a push in version 2 of the protocol, which has none".to_owned();
        return Err(GitError::Protocol { url: url.to_owned(), detail });
    };
    let format = capabilities.object_format();
    if format != ObjectFormat::Sha1 {
        return Err(GitError::ObjectFormatUnsupported { url: url.to_owned(), format });
    }
    let found = advertisement.get(&wanted.reference).map(|found| found.id);
    if let Some(moved) = wanted.judge(found, url)? {
        connection.goodbye();
        return Ok(moved);
    }
    if !capabilities.has("report-status") {
        let detail = "it does not report what became of a push".to_owned();
        return Err(GitError::Protocol { url: url.to_owned(), detail });
    }
    let sideband = capabilities.has("side-band-64k");
    let mut told = Told::default();
    let read = connection.request(body(capabilities, wanted, sideband, pack)).and_then(|answer| {
        if sideband { read_sideband(answer, url, &mut told) } else { read_plain(answer, url, &mut told) }
    });
    match read {
        // A hook may have spoken before the connection was lost; a connection that ends without a report says nothing.
        Err(error @ GitError::Protocol { .. }) if told.report.is_empty() => {
            return Err(connection.complaint().map_or(error, |complaint| in_a_push(complaint, url)));
        }
        read => read?,
    }
    told.judge(wanted, url)?;
    Ok(Moved::Now)
}

/// What a server said instead of a greeting, in the light of what was wanted.
pub(crate) fn in_a_push(error: GitError, url: &str) -> GitError {
    match error {
        GitError::Remote { message, .. } => {
            refused_push(url, &message).unwrap_or(GitError::Remote { url: url.to_owned(), message })
        }
        GitError::AccessDenied { detail, .. } => GitError::PushDenied { url: url.to_owned(), detail },
        other => other,
    }
}

fn body(capabilities: &Capabilities, wanted: &Move, sideband: bool, pack: Vec<u8>) -> Vec<u8> {
    let mut options = String::from(" report-status");
    if sideband {
        options += " side-band-64k";
    }
    if capabilities.has("object-format") {
        options += " object-format=sha1";
    }
    if capabilities.has("agent") {
        options += &format!(" agent={USER_AGENT}");
    }
    let old = wanted.expected.map_or_else(|| "0".repeat(40), |commit| commit.to_string());
    let mut body = Vec::with_capacity(pack.len() + 400);
    push(&mut body, &format!("{old} {} {}\0{options}", wanted.commit, wanted.reference));
    push_flush(&mut body);
    body.extend_from_slice(&pack);
    body
}

/// What the server said.
#[derive(Debug, Default)]
struct Told {
    /// The lines of its report.
    report: Vec<String>,
    /// What its hooks had to say.
    chatter: Vec<u8>,
}

impl Told {
    fn chat(&mut self, text: &[u8]) {
        let room = MAX_CHATTER_BYTES.saturating_sub(self.chatter.len());
        self.chatter.extend_from_slice(&text[..text.len().min(room)]);
    }

    fn judge(&self, wanted: &Move, url: &str) -> Result<(), GitError> {
        let chatter = String::from_utf8_lossy(&self.chatter);
        let refused = |reason: &str| Err(refused_update(url, wanted, reason, &chatter));
        let unpacked = self.report.iter().find_map(|line| line.strip_prefix("unpack "));
        let branch = self.report.iter().find_map(|line| {
            let (word, rest) = line.split_once(' ')?;
            let (name, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            (matches!(word, "ok" | "ng") && name == wanted.reference).then_some((word == "ok", reason))
        });
        match (unpacked, branch) {
            (Some("ok"), Some((true, _))) => Ok(()),
            // The reason for one branch says more than the reason for the pack.
            (_, Some((false, reason))) if reason != "unpacker error" => refused(reason),
            (Some(reason), _) if reason != "ok" => refused(&format!("the pack was not taken: {reason}")),
            (_, Some((false, reason))) => refused(reason),
            _ => {
                let detail = "it did not say what became of the push".to_owned();
                Err(GitError::Protocol { url: url.to_owned(), detail })
            }
        }
    }
}

/// Hooks take their time before a server reports; the deadline of the push is what bounds it.
const HOOKS: Duration = Duration::MAX;
/// The longest report that makes sense for one branch.
const MAX_REPORT_BYTES: usize = 64 << 10;

fn read_sideband(answer: &mut dyn Read, url: &str, told: &mut Told) -> Result<(), GitError> {
    let mut packets = Packets::new(answer, HOOKS);
    let mut report = Vec::new();
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data([1, bytes @ ..]) => {
                report.extend_from_slice(bytes);
                if report.len() > MAX_REPORT_BYTES {
                    let detail = "its report of a push has no end".to_owned();
                    return Err(GitError::Protocol { url: url.to_owned(), detail });
                }
            }
            Packet::Data([2, text @ ..]) => told.chat(text),
            Packet::Data([3, message @ ..]) => return Err(super::remote_error(url, &line(message))),
            Packet::Data(content) => match content.strip_prefix(b"ERR ") {
                Some(message) => return Err(super::remote_error(url, &line(message))),
                None => {
                    let detail = format!("side band {:?} in its report of a push", content.first());
                    return Err(GitError::Protocol { url: url.to_owned(), detail });
                }
            },
            Packet::Flush | Packet::ResponseEnd => break,
            Packet::Delimiter => {}
        }
    }
    read_plain(&mut &report[..], url, told)
}

fn read_plain(answer: &mut dyn Read, url: &str, told: &mut Told) -> Result<(), GitError> {
    let mut packets = Packets::new(answer, HOOKS);
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) => {
                if let Some(message) = content.strip_prefix(b"ERR ") {
                    return Err(super::remote_error(url, &line(message)));
                }
                if told.report.len() == 100 {
                    let detail = "its report of a push is about other branches too".to_owned();
                    return Err(GitError::Protocol { url: url.to_owned(), detail });
                }
                told.report.push(line(content).into_owned());
            }
            Packet::Flush => return Ok(()),
            Packet::Delimiter | Packet::ResponseEnd => {
                let detail = "a packet of version 2 in its report of a push".to_owned();
                return Err(GitError::Protocol { url: url.to_owned(), detail });
            }
        }
    }
}

#[cfg(test)]
mod tests;
