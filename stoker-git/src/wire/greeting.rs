//! What a server says first.

use std::io::Read;
use std::time::Duration;

use super::pktline::{Packet, Packets, line};
use super::{connection_error, remote_error};
use crate::advertisement::{AdvertisedRef, Advertisement, Head};
use crate::error::GitError;
use crate::object_id::{ObjectFormat, ObjectId};

/// The greeting, by the version of the protocol that the server chose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    V0(Advertisement, Capabilities),
    V2(Capabilities),
}

/// What a server can do: `name` or `name=value`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities(Vec<String>);

/// More references than any forge shows: a bound on memory.
pub(super) const MAX_REFS: usize = 1_000_000;

impl Capabilities {
    fn parse(text: &str) -> Self {
        Self(text.split(' ').filter(|c| !c.is_empty()).map(str::to_owned).collect())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|c| c == name) || self.values(name).next().is_some()
    }

    /// The values of a capability, which may come several times.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |c| c.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether a value of `name` contains this word.
    pub(crate) fn value_has(&self, name: &str, word: &str) -> bool {
        self.values(name).any(|value| value.split(' ').any(|w| w == word))
    }

    /// How the repository names its objects; a server that says nothing uses SHA-1.
    pub(crate) fn object_format(&self) -> ObjectFormat {
        if self.value_has("object-format", "sha256") { ObjectFormat::Sha256 } else { ObjectFormat::Sha1 }
    }
}

/// How long and how much is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long one packet may take.
    pub(crate) patience: Duration,
    /// How many bytes; where there are more, the rest is left unread.
    pub(crate) most_bytes: usize,
}

impl Bounds {
    /// Everything, however long it is.
    pub(crate) fn none(patience: Duration) -> Self {
        Self { patience, most_bytes: usize::MAX }
    }
}

/// Reads a greeting up to its end; `None` when it is longer than allowed.
///
/// # Errors
/// [`GitError::Protocol`] when this is not git, or the error that the server reports.
pub(crate) fn read(from: &mut dyn Read, url: &str, bounds: Bounds) -> Result<Option<Greeting>, GitError> {
    let mut packets = Packets::new(from, bounds.patience);
    let mut bytes = 0;
    let protocol = |detail: &str| GitError::Protocol { url: url.to_owned(), detail: detail.to_owned() };
    let mut refs: Vec<AdvertisedRef> = Vec::new();
    let mut head_id = None;
    let mut capabilities: Option<Capabilities> = None;
    let (mut first, mut announced) = (true, false);
    loop {
        let content = match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) => content,
            // Smart HTTP puts a line of its own and a flush in front of the references.
            Packet::Flush if announced => {
                (first, announced) = (false, false);
                continue;
            }
            // Over a stream this is all that some say of an empty repository.
            Packet::Flush => break,
            _ => return Err(protocol("a section ends among the references")),
        };
        bytes += content.len();
        if bytes > bounds.most_bytes {
            return Ok(None);
        }
        if let Some(message) = content.strip_prefix(b"ERR ") {
            return Err(remote_error(url, &line(message)));
        }
        if first && content.starts_with(b"# service=") {
            announced = true;
            continue;
        }
        first = false;
        if capabilities.is_none() && line(content) == "version 2" {
            return read_v2(packets, url).map(|capabilities| Some(Greeting::V2(capabilities)));
        }
        if line(content) == "version 1" || content.starts_with(b"shallow ") {
            continue;
        }
        let (text, rest) = match content.iter().position(|b| *b == 0) {
            Some(at) => (&content[..at], Some(&content[at + 1..])),
            None => (content, None),
        };
        if capabilities.is_none() {
            capabilities = Some(Capabilities::parse(&line(rest.unwrap_or_default())));
        }
        // A name that is not text cannot be asked for; nobody's configuration can hold it.
        let Ok(text) = std::str::from_utf8(text.strip_suffix(b"\n").unwrap_or(text)) else { continue };
        let (id, name) = text.split_once(' ').ok_or_else(|| protocol("a line without a reference"))?;
        let id: ObjectId = id.parse().map_err(|_| protocol("a reference without an object id"))?;
        if name == "HEAD" {
            head_id = Some(id);
        } else if let Some(tag) = name.strip_suffix("^{}") {
            if let Some(last) = refs.last_mut().filter(|last| last.name == tag) {
                last.peeled = Some(id);
            }
        } else if name.starts_with("refs/") {
            if refs.len() == MAX_REFS {
                return Err(protocol("more than a million references"));
            }
            refs.push(AdvertisedRef { name: name.to_owned(), id, peeled: None });
        }
    }
    let capabilities = capabilities.unwrap_or_default();
    let branch =
        capabilities.values("symref").find_map(|value| value.strip_prefix("HEAD:")).map(str::to_owned);
    let head = head_id.map(|id| Head { id, branch });
    let advertisement = Advertisement::complete(refs, head, capabilities.object_format());
    Ok(Some(Greeting::V0(advertisement, capabilities)))
}

fn read_v2(mut packets: Packets<&mut dyn Read>, url: &str) -> Result<Capabilities, GitError> {
    let mut capabilities = Vec::new();
    loop {
        match packets.next().map_err(|e| connection_error(url, e))? {
            Packet::Data(content) if capabilities.len() < 1000 => {
                capabilities.push(line(content).into_owned());
            }
            Packet::Flush => return Ok(Capabilities(capabilities)),
            _ => {
                let detail = "a strange list of capabilities".to_owned();
                return Err(GitError::Protocol { url: url.to_owned(), detail });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pktline::{push, push_flush};
    use super::*;
    use proptest::prelude::*;

    fn id(digit: char) -> ObjectId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            if line.is_empty() { push_flush(&mut bytes) } else { push(&mut bytes, line) }
        }
        bytes
    }

    fn parse(lines: &[&str]) -> Result<Greeting, GitError> {
        Ok(parse_bytes(&packets(lines))?.unwrap())
    }

    fn parse_bytes(bytes: &[u8]) -> Result<Option<Greeting>, GitError> {
        read(&mut &*bytes, "u", Bounds::none(Duration::MAX))
    }

    #[test]
    fn a_greeting_that_is_too_long_is_left_unread() {
        let bytes = packets(&[&format!("{} refs/heads/main\0", id('a')), &"x".repeat(500), ""]);
        let bounds = Bounds { patience: Duration::MAX, most_bytes: 200 };
        assert_eq!(read(&mut &bytes[..], "u", bounds), Ok(None));
    }

    #[test]
    fn references_of_version_0_over_http_and_over_a_stream() {
        let head =
            format!("{} HEAD\0multi_ack side-band-64k symref=HEAD:refs/heads/main agent=git/2", id('a'));
        let main = format!("{} refs/heads/main\n", id('a'));
        let tag = format!("{} refs/tags/v1\n", id('b'));
        let peeled = format!("{} refs/tags/v1^{{}}\n", id('c'));
        for prefix in [&["# service=git-upload-pack\n", ""][..], &[], &["version 1\n"]] {
            let mut lines = prefix.to_vec();
            lines.extend([&head[..], &main, &tag, &peeled, ""]);
            let Greeting::V0(found, capabilities) = parse(&lines).unwrap() else { panic!("version 0") };
            assert_eq!(found.head, Some(Head { id: id('a'), branch: Some("refs/heads/main".into()) }));
            assert_eq!(found.refs.len(), 2);
            assert_eq!(found.get("refs/tags/v1").unwrap().target(), id('c'));
            assert!(capabilities.has("side-band-64k") && !capabilities.has("side-band"));
            assert!(capabilities.has("agent"));
        }
    }

    #[test]
    fn an_empty_repository_and_a_sha256_one() {
        let none = format!("{} capabilities^{{}}\0object-format=sha256", "0".repeat(64));
        let Greeting::V0(found, _) = parse(&[&none, ""]).unwrap() else { panic!("version 0") };
        assert!(found.is_empty());
        assert_eq!(found.object_format, ObjectFormat::Sha256);
        for lines in [&["# service=git-upload-pack\n", "", ""][..], &[""]] {
            let Greeting::V0(found, _) = parse(lines).unwrap() else { panic!("version 0") };
            assert!(found.is_empty());
        }
    }

    #[test]
    fn capabilities_of_version_2() {
        let lines = [
            "# service=git-upload-pack\n",
            "",
            "version 2\n",
            "ls-refs=unborn\n",
            "fetch=shallow filter\n",
            "",
        ];
        for lines in [&lines[..], &lines[2..]] {
            let Greeting::V2(capabilities) = parse(lines).unwrap() else { panic!("version 2") };
            assert!(
                capabilities.value_has("fetch", "shallow")
                    && !capabilities.value_has("fetch", "sideband-all")
            );
        }
    }

    #[test]
    fn errors_of_the_server_are_understood() {
        let missing = parse(&["ERR Repository not found.\n"]).unwrap_err();
        assert!(matches!(missing, GitError::RepositoryNotFound { .. }), "{missing}");
        let denied = parse(&["ERR access denied or repository not exported: /x"]).unwrap_err();
        assert!(
            matches!(denied, GitError::RepositoryNotFound { .. }),
            "git daemon says both in one: {denied}"
        );
        let other = parse(&["ERR out of \x1b[31mcheese"]).unwrap_err();
        assert_eq!(other.to_string(), "u said: out of \\u{1b}[31mcheese");
        let html = parse_bytes(b"<html>").unwrap_err();
        assert!(matches!(html, GitError::Protocol { .. }), "{html}");
        let cut = parse_bytes(b"00").unwrap_err();
        assert!(cut.to_string().contains("ended in the middle"), "{cut}");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(lines in proptest::collection::vec(r"[0-9a-f]{40} refs/[a-z^{}/]{0,9}(\x00[a-z= :-]{0,20})?|\PC{0,12}|", 0..8)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let _ = parse(&lines);
        }
    }
}
