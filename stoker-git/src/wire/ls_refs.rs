//! Asking a server of version 2 for some of its references.

use std::time::Duration;

use super::greeting::Capabilities;
use super::pktline::{Packet, Packets, line, push, push_delimiter, push_flush};
use super::{Connection, USER_AGENT, connection_error, remote_error};
use crate::advertisement::{AdvertisedRef, Advertisement, Head};
use crate::error::GitError;
use crate::object_id::ObjectId;

/// Asks for the references whose full names start with one of `prefixes`. The greeting was read.
///
/// # Errors
/// What the server reports, or [`GitError::Protocol`] when its answer makes no sense.
pub(crate) fn run(
    connection: &mut dyn Connection,
    capabilities: &Capabilities,
    prefixes: &[String],
    url: &str,
    patience: Duration,
) -> Result<Advertisement, GitError> {
    let protocol = |detail: String| GitError::Protocol { url: url.to_owned(), detail };
    if !capabilities.has("ls-refs") {
        return Err(protocol("it does not list references".to_owned()));
    }
    let mut body = Vec::new();
    push(&mut body, "command=ls-refs\n");
    if capabilities.has("agent") {
        push(&mut body, &format!("agent={USER_AGENT}"));
    }
    let object_format = capabilities.object_format();
    if capabilities.has("object-format") {
        push(&mut body, &format!("object-format={object_format}"));
    }
    push_delimiter(&mut body);
    push(&mut body, "peel\n");
    push(&mut body, "symrefs\n");
    for prefix in prefixes {
        push(&mut body, &format!("ref-prefix {prefix}\n"));
    }
    push_flush(&mut body);

    let mut packets = Packets::new(connection.request(body)?, patience);
    let (mut refs, mut head) = (Vec::new(), None);
    loop {
        let content = match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) => content,
            Packet::Flush | Packet::ResponseEnd => break,
            Packet::Delimiter => return Err(protocol("a section ends among the references".to_owned())),
        };
        if let Some(message) = content.strip_prefix(b"ERR ") {
            return Err(remote_error(url, &line(message)));
        }
        // A name that is not text cannot be asked for; nobody's configuration can hold it.
        let Ok(text) = std::str::from_utf8(content.strip_suffix(b"\n").unwrap_or(content)) else { continue };
        let mut words = text.split(' ');
        let (Some(id), Some(name)) = (words.next(), words.next()) else {
            return Err(protocol("a line without a reference".to_owned()));
        };
        if id == "unborn" {
            continue;
        }
        let id: ObjectId = id.parse().map_err(|_| protocol("a reference without an object id".to_owned()))?;
        let (mut peeled, mut target) = (None, None);
        for word in words {
            if let Some(id) = word.strip_prefix("peeled:") {
                peeled = id.parse().ok();
            } else if let Some(name) = word.strip_prefix("symref-target:") {
                target = Some(name.to_owned());
            }
        }
        if name == "HEAD" {
            head = Some(Head { id, branch: target });
        } else if refs.len() == super::greeting::MAX_REFS {
            return Err(protocol("more than a million references".to_owned()));
        } else if name.starts_with("refs/") {
            refs.push(AdvertisedRef { name: name.to_owned(), id, peeled });
        }
    }
    Ok(Advertisement { refs, head, object_format, prefixes: prefixes.to_vec() })
}
