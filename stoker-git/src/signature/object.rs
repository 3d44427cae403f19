//! What is signed, and by what, in the bytes of a commit or a tag.

use super::armour;
use crate::object_id::ObjectId;

/// A commit or tag taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What the signature is over.
    pub(super) payload: Vec<u8>,
    /// The signature in its armour; `None` without one.
    pub(super) signature: Option<Vec<u8>>,
    pub(super) format: Option<Format>,
    /// When the committer or tagger says it was, in seconds since 1970.
    pub(super) seconds: i64,
    /// What a tag is of, and its name.
    tag: Option<(ObjectId, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Ssh,
    OpenPgp,
}

/// Larger commits and tags are none that people make. In bytes.
const MAX_OBJECT_BYTES: usize = 1 << 20;

impl Signed {
    /// Takes a commit apart; `None` when it is no commit in the form that git writes.
    #[must_use]
    pub fn commit(raw: &[u8]) -> Option<Self> {
        if raw.len() > MAX_OBJECT_BYTES {
            return None;
        }
        let mut payload = Vec::with_capacity(raw.len());
        let mut signature: Option<Vec<u8>> = None;
        let mut rest = raw;
        let mut within = Within::Header;
        while !rest.is_empty() {
            if rest[0] == b'\n' {
                payload.extend_from_slice(rest);
                break;
            }
            let (line, next) = split_line(rest);
            rest = next;
            within = match (line.strip_prefix(b" "), within) {
                (Some(_), Within::Other) => Within::Other,
                (Some(more), Within::Signature) => {
                    signature.as_mut()?.extend_from_slice(more);
                    Within::Signature
                }
                _ => {
                    if let Some(first) = line.strip_prefix(b"gpgsig ") {
                        // Two would make it a question of taste which one counts.
                        if signature.replace(first.to_vec()).is_some() {
                            return None;
                        }
                        Within::Signature
                    } else if line.starts_with(b"gpgsig-sha256 ") {
                        // Of the same commit in a repository with other ids; as git, in none of the two.
                        Within::Other
                    } else {
                        payload.extend_from_slice(line);
                        Within::Header
                    }
                }
            };
        }
        // The tree that is read is the tree that is signed: both are in the first line.
        if !payload.starts_with(b"tree ") || !raw.starts_with(b"tree ") {
            return None;
        }
        let seconds = time_of(&payload, b"committer ")?;
        Some(Self { format: signature.as_deref().and_then(format), payload, signature, seconds, tag: None })
    }

    /// Takes an annotated tag apart; `None` when it is no tag of a commit in the form that git writes.
    #[must_use]
    pub fn tag(raw: &[u8]) -> Option<Self> {
        if raw.len() > MAX_OBJECT_BYTES {
            return None;
        }
        let mut lines = raw.split(|b| *b == b'\n');
        let object = std::str::from_utf8(lines.next()?.strip_prefix(b"object ")?).ok()?.parse().ok()?;
        if lines.next()? != b"type commit" {
            return None;
        }
        let name = std::str::from_utf8(lines.next()?.strip_prefix(b"tag ")?).ok()?.to_owned();
        // The signature is the end of the message: from the last line that begins one.
        let mut start = None;
        let mut at = 0;
        for line in raw.split_inclusive(|b| *b == b'\n') {
            if [armour::OPENPGP, armour::SSH, armour::X509]
                .iter()
                .any(|mark| line.starts_with(mark.as_bytes()))
            {
                start = Some(at);
            }
            at += line.len();
        }
        let (payload, signature) = match start {
            Some(start) => (raw[..start].to_vec(), Some(raw[start..].to_vec())),
            None => (raw.to_vec(), None),
        };
        // A tag of the first days of git has no tagger.
        let seconds = time_of(&payload, b"tagger ").unwrap_or_default();
        let tag = Some((object, name));
        Some(Self { format: signature.as_deref().and_then(format), payload, signature, seconds, tag })
    }

    /// What a tag is of, and the name that it has in itself; `None` for a commit.
    #[must_use]
    pub fn tagged(&self) -> Option<(&ObjectId, &str)> {
        self.tag.as_ref().map(|(object, name)| (object, &name[..]))
    }
}

#[derive(Clone, Copy)]
enum Within {
    Header,
    Signature,
    Other,
}

/// A line with its end, and what follows.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}

fn format(signature: &[u8]) -> Option<Format> {
    if signature.starts_with(armour::SSH.as_bytes()) {
        Some(Format::Ssh)
    } else if signature.starts_with(armour::OPENPGP.as_bytes()) {
        Some(Format::OpenPgp)
    } else {
        None
    }
}

/// The time in a header such as `committer Ada <ada@example.com> 1700000000 +0100`.
fn time_of(payload: &[u8], header: &[u8]) -> Option<i64> {
    let line = payload
        .split(|b| *b == b'\n')
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(header))?;
    let after = &line[line.iter().rposition(|b| *b == b'>')? + 1..];
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0000\ncommitter C <c@d> 1700000000 +0100\n";

    #[test]
    fn the_signature_is_taken_out_of_a_commit() {
        let raw = format!(
            "{HEAD}gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\nencoding x\n\nsubject\n\ngpgsig no\n"
        );
        let signed = Signed::commit(raw.as_bytes()).unwrap();
        assert_eq!(signed.payload, format!("{HEAD}encoding x\n\nsubject\n\ngpgsig no\n").as_bytes());
        assert_eq!(
            signed.signature.unwrap(),
            b"-----BEGIN SSH SIGNATURE-----\nabc\n-----END SSH SIGNATURE-----\n"
        );
        assert_eq!((signed.format, signed.seconds), (Some(Format::Ssh), 1_700_000_000));
        let plain = Signed::commit(format!("{HEAD}\nx").as_bytes()).unwrap();
        assert_eq!((plain.signature, plain.format), (None, None));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_no_commit() {
        for raw in [
            format!("{HEAD}gpgsig a\ngpgsig b\n\nx"),
            format!("gpgsig a\n{HEAD}\nx"),
            "tree 0\n\nx".to_owned(),
            String::new(),
        ] {
            assert_eq!(Signed::commit(raw.as_bytes()), None, "{raw:?}");
        }
    }

    #[test]
    fn a_tag_ends_with_its_signature() {
        let id = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        let head = format!(
            "object {id}\ntype commit\ntag v1\ntagger T <t@u> 5 +0000\n\nhi\n-----BEGIN PGP SIGNATURE-----\nfake\n"
        );
        let raw = format!("{head}-----BEGIN PGP SIGNATURE-----\nreal\n");
        let signed = Signed::tag(raw.as_bytes()).unwrap();
        assert_eq!(signed.payload, head.as_bytes());
        assert_eq!(signed.signature.as_deref(), Some(&b"-----BEGIN PGP SIGNATURE-----\nreal\n"[..]));
        assert_eq!(signed.tagged(), Some((&id.parse().unwrap(), "v1")));
        assert_eq!(Signed::tag(raw.replace("type commit", "type tag").as_bytes()), None);
    }
}
