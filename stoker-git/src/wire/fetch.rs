//! Asking for one commit.

use std::io::Read;
use std::time::Duration;

use super::greeting::{Capabilities, Greeting};
use super::pktline::{Packet, Packets, line, push, push_delimiter, push_flush};
use super::{Connection, PackSink, USER_AGENT, connection_error, remote_error};
use crate::advertisement::{AdvertisedRef, Advertisement};
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectFormat, ObjectId};

/// What to fetch, and what is there already.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) commit: CommitId,
    /// The reference that led to the commit: where its history is looked for when the server gives only whole branches.
    pub(crate) hint: Option<String>,
    /// Commits whose trees are complete here.
    pub(crate) have: Vec<CommitId>,
    /// Commits here whose parents are not.
    pub(crate) shallow: Vec<ObjectId>,
    /// How long one packet may take.
    pub(crate) patience: Duration,
}

/// How it was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// The commits whose parents were left out.
    pub(crate) shallow: Vec<ObjectId>,
    /// The commits whose parents came now.
    pub(crate) unshallow: Vec<ObjectId>,
    /// Bytes of the pack.
    pub(crate) bytes: u64,
    /// Whether a history had to be fetched because the server gives out no commit by its id.
    pub(crate) whole_history: bool,
}

/// Fetches `want` through `connection`, whose greeting was read.
///
/// # Errors
/// [`GitError::CommitNotFound`] when the server does not have it, or what went wrong on the way.
pub(crate) fn run(
    connection: &mut dyn Connection,
    greeting: &Greeting,
    want: &Want,
    url: &str,
    sink: &mut dyn PackSink,
) -> Result<Fetched, GitError> {
    let (capabilities, plan) = match greeting {
        Greeting::V2(capabilities) => {
            (capabilities, Plan::exactly(want.commit, capabilities.value_has("fetch", "shallow")))
        }
        Greeting::V0(advertisement, capabilities) => {
            (capabilities, plan_v0(advertisement, capabilities, want, url)?)
        }
    };
    let format = capabilities.object_format();
    if format != ObjectFormat::Sha1 {
        return Err(GitError::ObjectFormatUnsupported { url: url.to_owned(), format });
    }
    let v2 = matches!(greeting, Greeting::V2(_));
    let body = if v2 { body_v2(capabilities, &plan, want) } else { body_v0(capabilities, &plan, want) };
    let answer = connection.request(body)?;
    let mut fetched = Fetched { whole_history: plan.depth != Some(1), ..Fetched::default() };
    let result = if v2 {
        read_v2(Packets::new(answer, want.patience), url, &mut fetched, sink)
    } else {
        read_v0(Packets::new(answer, want.patience), url, Sideband::of(capabilities), &mut fetched, sink)
    };
    match result {
        Ok(()) => Ok(fetched),
        Err(GitError::Remote { message, .. }) if refuses_commit(&message) => {
            Err(GitError::CommitNotFound { url: url.to_owned(), commit: want.commit })
        }
        Err(error @ GitError::Protocol { .. }) => Err(connection.complaint().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

/// How servers say that they do not have a commit or do not give it: git, JGit.
fn refuses_commit(message: &str) -> bool {
    message.contains("not our ref") || (message.contains("want ") && message.contains("not valid"))
}

/// What is asked for in the end.
struct Plan {
    wants: Vec<ObjectId>,
    /// How many generations of commits; `None` from a server that sends whole histories only.
    depth: Option<u32>,
}

/// A server may itself be a shallow clone, of many branches; nobody has this many.
const MAX_SHALLOW: usize = 1 << 16;

/// All of the history, also where only a part of it is here (`git fetch --unshallow`).
const INFINITE: u32 = 0x7fff_ffff;

impl Plan {
    fn exactly(commit: CommitId, shallow: bool) -> Self {
        Self { wants: vec![commit], depth: shallow.then_some(1) }
    }
}

/// Version 0 gives by default only what it advertised. A commit that is no longer at the tip of anything is then found
/// only by fetching the history of the branch it was on.
fn plan_v0(
    advertisement: &Advertisement,
    capabilities: &Capabilities,
    want: &Want,
    url: &str,
) -> Result<Plan, GitError> {
    let shallow = capabilities.has("shallow");
    // The peeled commit of a tag is reachable from the tag, but was not advertised in its own right.
    let advertised = advertisement.refs.iter().find(|r| r.target() == want.commit);
    let by_id =
        ["allow-reachable-sha1-in-want", "allow-tip-sha1-in-want"].iter().any(|c| capabilities.has(c));
    // The tag object itself, where that is wanted.
    let tip = advertisement.refs.iter().any(|r| r.id == want.commit);
    if by_id || tip || advertised.is_some_and(|r| r.peeled.is_none()) {
        return Ok(Plan::exactly(want.commit, shallow));
    }
    if let Some(tag) = advertised {
        return Ok(Plan { wants: vec![tag.id], depth: shallow.then_some(1) });
    }
    if advertisement.head.as_ref().is_some_and(|head| head.id == want.commit) {
        return Ok(Plan::exactly(want.commit, shallow));
    }
    let hinted = want.hint.as_deref().and_then(|hint| advertisement.get(hint));
    let worth = |r: &&AdvertisedRef| r.name.starts_with("refs/heads/") || r.name.starts_with("refs/tags/");
    let mut wants: Vec<ObjectId> = match hinted {
        Some(hinted) => vec![hinted.id],
        None => advertisement.refs.iter().filter(worth).map(|r| r.id).collect(),
    };
    wants.sort_unstable();
    wants.dedup();
    if wants.is_empty() {
        return Err(GitError::CommitNotFound { url: url.to_owned(), commit: want.commit });
    }
    Ok(Plan { wants, depth: shallow.then_some(INFINITE) })
}

fn body_v2(capabilities: &Capabilities, plan: &Plan, want: &Want) -> Vec<u8> {
    let mut body = Vec::new();
    push(&mut body, "command=fetch");
    if capabilities.has("agent") {
        push(&mut body, &format!("agent={USER_AGENT}"));
    }
    if capabilities.has("object-format") {
        push(&mut body, "object-format=sha1");
    }
    push_delimiter(&mut body);
    for option in ["thin-pack", "ofs-delta", "no-progress"] {
        push(&mut body, option);
    }
    for id in &plan.wants {
        push(&mut body, &format!("want {id}\n"));
    }
    push_depth(&mut body, plan, want);
    push_haves(&mut body, plan, want);
    push(&mut body, "done\n");
    push_flush(&mut body);
    body
}

fn push_depth(body: &mut Vec<u8>, plan: &Plan, want: &Want) {
    let Some(depth) = plan.depth else { return };
    for id in &want.shallow {
        push(body, &format!("shallow {id}\n"));
    }
    push(body, &format!("deepen {depth}\n"));
}

fn push_haves(body: &mut Vec<u8>, plan: &Plan, want: &Want) {
    // Where nothing can be said of missing parents, a `have` would claim the whole history of the commit.
    for id in want.have.iter().filter(|_| plan.depth.is_some()) {
        push(body, &format!("have {id}\n"));
    }
}

fn body_v0(capabilities: &Capabilities, plan: &Plan, want: &Want) -> Vec<u8> {
    let mut options = String::new();
    for option in ["side-band-64k", "side-band", "thin-pack", "ofs-delta", "no-progress"] {
        let superseded = option == "side-band" && capabilities.has("side-band-64k");
        if capabilities.has(option) && !superseded {
            options.push(' ');
            options.push_str(option);
        }
    }
    if capabilities.has("agent") {
        options.push_str(&format!(" agent={USER_AGENT}"));
    }
    let mut body = Vec::new();
    for (index, id) in plan.wants.iter().enumerate() {
        push(&mut body, &format!("want {id}{}\n", if index == 0 { &options[..] } else { "" }));
    }
    push_depth(&mut body, plan, want);
    push_flush(&mut body);
    push_haves(&mut body, plan, want);
    push(&mut body, "done\n");
    body
}

fn read_v2(
    mut packets: Packets<&mut dyn Read>,
    url: &str,
    fetched: &mut Fetched,
    sink: &mut dyn PackSink,
) -> Result<(), GitError> {
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) => {
                if let Some(message) = content.strip_prefix(b"ERR ") {
                    return Err(remote_error_in_fetch(url, &line(message)));
                }
                if line(content) == "packfile" {
                    return read_sideband(&mut packets, url, fetched, sink);
                }
                note_shallow(content, fetched, url)?;
            }
            Packet::Delimiter => {}
            Packet::Flush | Packet::ResponseEnd => {
                let detail = "the answer has no pack".to_owned();
                return Err(GitError::Protocol { url: url.to_owned(), detail });
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sideband {
    Yes,
    No,
}

impl Sideband {
    fn of(capabilities: &Capabilities) -> Self {
        let any = capabilities.has("side-band-64k") || capabilities.has("side-band");
        if any { Self::Yes } else { Self::No }
    }
}

fn read_v0(
    mut packets: Packets<&mut dyn Read>,
    url: &str,
    sideband: Sideband,
    fetched: &mut Fetched,
    sink: &mut dyn PackSink,
) -> Result<(), GitError> {
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) => {
                if let Some(message) = content.strip_prefix(b"ERR ") {
                    return Err(remote_error_in_fetch(url, &line(message)));
                }
                if content.starts_with(b"ACK ") || content.starts_with(b"NAK") {
                    break;
                }
                note_shallow(content, fetched, url)?;
            }
            Packet::Flush => {}
            Packet::Delimiter | Packet::ResponseEnd => {
                let detail = "a packet of version 2 in an answer of version 0".to_owned();
                return Err(GitError::Protocol { url: url.to_owned(), detail });
            }
        }
    }
    if sideband == Sideband::Yes {
        return read_sideband(&mut packets, url, fetched, sink);
    }
    let from = packets.into_inner();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).map_err(|e| connection_error(url, e))?;
        if length == 0 {
            return Ok(());
        }
        fetched.bytes += length as u64;
        sink.write(&buffer[..length])?;
    }
}

/// Within a fetch the repository is known to exist; "not found" then is about the commit.
fn remote_error_in_fetch(url: &str, message: &str) -> GitError {
    if refuses_commit(message) {
        let message = crate::text::printable(message, crate::text::SERVER_TEXT_CHARS);
        return GitError::Remote { url: url.to_owned(), message };
    }
    remote_error(url, message)
}

fn note_shallow(content: &[u8], fetched: &mut Fetched, url: &str) -> Result<(), GitError> {
    let text = line(content);
    if let Some(id) = text.strip_prefix("shallow ").and_then(|id| id.parse().ok()) {
        fetched.shallow.push(id);
    } else if let Some(id) = text.strip_prefix("unshallow ").and_then(|id| id.parse().ok()) {
        fetched.unshallow.push(id);
    }
    if fetched.shallow.len() + fetched.unshallow.len() > MAX_SHALLOW {
        let detail = format!("it names more than {MAX_SHALLOW} commits without their parents");
        return Err(GitError::Protocol { url: url.to_owned(), detail });
    }
    Ok(())
}

/// Channel 1 is the pack, 2 is chatter, 3 is the server's last words.
fn read_sideband(
    packets: &mut Packets<&mut dyn Read>,
    url: &str,
    fetched: &mut Fetched,
    sink: &mut dyn PackSink,
) -> Result<(), GitError> {
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data([1, pack @ ..]) => {
                fetched.bytes += pack.len() as u64;
                sink.write(pack)?;
            }
            Packet::Data([2, ..] | []) => {}
            Packet::Data([3, message @ ..]) => return Err(remote_error_in_fetch(url, &line(message))),
            Packet::Data(content) => {
                if let Some(message) = content.strip_prefix(b"ERR ") {
                    return Err(remote_error_in_fetch(url, &line(message)));
                }
                let detail = format!("side band {} in the pack", content[0]);
                return Err(GitError::Protocol { url: url.to_owned(), detail });
            }
            Packet::Flush | Packet::ResponseEnd => return Ok(()),
            Packet::Delimiter => {}
        }
    }
}
