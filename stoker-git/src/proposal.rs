//! A change on its way back to git: what to commit, on top of what, and to which branch.

use stoker_core::RelPathBuf;

use crate::commit::Person;
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectId};
use crate::refspec::RefName;

/// One commit that is wanted on a branch.
///
/// Everything that goes into the commit is in here, times included: the same proposal makes the same commit id, wherever
/// and whenever it is pushed. So a push whose answer was lost can be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The commit that is changed, and the only parent of the new one.
    pub base: CommitId,
    /// What to change in it. Every other path stays as it is, to the bit.
    pub edits: Vec<Edit>,
    /// Who wrote the change, and when.
    pub author: Person,
    /// Who made the commit, and when.
    pub committer: Person,
    /// The message, without trailers.
    pub message: String,
    /// Lines such as `Co-authored-by: Ada <ada@example.com>`, below the message: names and values.
    pub trailers: Vec<(String, String)>,
    /// The branch, by its short name; made if it is not there.
    pub branch: RefName,
    /// What the branch must be for the push to go ahead.
    pub lease: Lease,
}

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// From the root of the repository. No [`RelPathBuf`] leads into git's own directory.
    pub path: RelPathBuf,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a path.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A file with this content, new or instead of the file that is there.
    Write {
        /// The whole content.
        content: Vec<u8>,
        /// Whether it is a program.
        executable: bool,
    },
    /// The file is gone, and with it a directory that is empty then: git has none.
    Delete,
}

/// What a branch must be for a push to go ahead: nothing that somebody else pushed meanwhile is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lease {
    /// It does not exist.
    Absent,
    /// It points at this commit.
    At(CommitId),
}

/// A commit that is on its branch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The commit.
    pub commit: CommitId,
    /// Its root tree.
    pub tree: ObjectId,
    /// It was there already: an earlier push of the same proposal had arrived. Nothing was sent.
    pub already_there: bool,
    /// Bytes of the pack that was sent.
    pub sent_bytes: u64,
}

impl Lease {
    /// The commit that the branch must be at.
    #[must_use]
    pub fn commit(&self) -> Option<CommitId> {
        match self {
            Self::Absent => None,
            Self::At(commit) => Some(*commit),
        }
    }
}

impl Proposal {
    /// Bytes of all contents together.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.contents().map(|content| content.len() as u64).sum()
    }

    /// The contents, in the order of the edits.
    pub(crate) fn contents(&self) -> impl Iterator<Item = &[u8]> {
        self.edits.iter().filter_map(|edit| match &edit.change {
            Change::Write { content, .. } => Some(&content[..]),
            Change::Delete => None,
        })
    }

    /// Judges what can be judged without the base.
    ///
    /// # Errors
    /// [`GitError::ProposalInvalid`].
    pub fn check(&self) -> Result<(), GitError> {
        let invalid = |detail: String| Err(GitError::ProposalInvalid { detail });
        if self.edits.is_empty() {
            return invalid("it changes nothing; name at least one path".to_owned());
        }
        if self.edits.iter().any(|edit| edit.path.as_path().is_root()) {
            return invalid("it changes the root of the repository; name a file in it".to_owned());
        }
        if self.message.trim().is_empty() || self.message.contains('\0') {
            return invalid("its message is empty or holds a zero byte; write a sentence".to_owned());
        }
        for (role, person) in [("author", &self.author), ("committer", &self.committer)] {
            for (part, text) in [("name", &person.name), ("address", &person.email)] {
                let odd = |c: char| c.is_control() || matches!(c, '<' | '>');
                // git drops such characters at the ends, and then may be left with nothing.
                if text.trim_matches(|c: char| c.is_whitespace() || ".,:;\"\\'".contains(c)).is_empty()
                    || text.contains(odd)
                {
                    return invalid(format!(
                        "the {part} {text:?} of its {role} is none: write some text without \"<\", \">\" and line ends"
                    ));
                }
            }
            if person.seconds < 0 || person.offset_minutes.abs() >= 24 * 60 {
                let (seconds, offset) = (person.seconds, person.offset_minutes);
                return invalid(format!(
                    "the time of its {role}, {seconds} s since 1970 at {offset} min from UTC, is before 1970 or a day \
                     and more from UTC"
                ));
            }
        }
        for (name, value) in &self.trailers {
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if !is_name || value.trim().is_empty() || value.chars().any(char::is_control) {
                return invalid(format!(
                    "the trailer {name:?}: {value:?} is none: the name takes letters, digits and \"-\", the value one line"
                ));
            }
        }
        Ok(())
    }

    /// The message as it stands in the commit.
    pub(crate) fn full_message(&self) -> String {
        let mut text = self.message.trim().to_owned();
        text.push('\n');
        if !self.trailers.is_empty() {
            text.push('\n');
        }
        for (name, value) in &self.trailers {
            text += &format!("{name}: {}\n", value.trim());
        }
        text
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Contents are files of a plant: they are not for logs.
            Self::Write { content, executable } => {
                write!(f, "Write({} bytes{})", content.len(), if *executable { ", executable" } else { "" })
            }
            Self::Delete => f.write_str("Delete"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal() -> Proposal {
        let ada = Person {
            name: "Ada".into(),
            email: "ada@example.com".into(),
            seconds: 1_700_000_000,
            offset_minutes: 60,
        };
        Proposal {
            base: "4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse().unwrap(),
            edits: vec![Edit { path: RelPathBuf::parse("a/b").unwrap(), change: Change::Delete }],
            author: ada.clone(),
            committer: ada,
            message: "  gone\n\nbecause\n\n".into(),
            trailers: Vec::new(),
            branch: RefName::parse("main").unwrap(),
            lease: Lease::Absent,
        }
    }

    #[test]
    fn the_message_ends_with_its_trailers() {
        let mut proposal = proposal();
        assert_eq!(proposal.full_message(), "gone\n\nbecause\n");
        proposal.trailers =
            vec![("Gateway".into(), "line-1 ".into()), ("Co-authored-by".into(), "B <b@example.com>".into())];
        proposal.check().unwrap();
        assert_eq!(
            proposal.full_message(),
            "gone\n\nbecause\n\nGateway: line-1\nCo-authored-by: B <b@example.com>\n"
        );
    }

    #[test]
    fn what_git_would_mend_or_refuse_is_refused_by_name() {
        type Spoil = fn(&mut Proposal);
        let cases: [(Spoil, &str); 9] = [
            (|p| p.edits.clear(), "changes nothing"),
            (|p| p.message = " \n".into(), "message is empty"),
            (|p| p.message = "a\0b".into(), "zero byte"),
            (|p| p.author.name = " . ".into(), "name \" . \" of its author"),
            (|p| p.committer.email = "a>b".into(), "address \"a>b\" of its committer"),
            (|p| p.author.name = "a\nparent 0".into(), "line ends"),
            (|p| p.author.seconds = -1, "before 1970"),
            (|p| p.trailers = vec![("a b".into(), "c".into())], "the trailer \"a b\""),
            (|p| p.trailers = vec![("a".into(), "c\nSigned-off-by: me".into())], "the trailer \"a\""),
        ];
        for (spoil, says) in cases {
            let mut proposal = proposal();
            spoil(&mut proposal);
            let error = proposal.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_content_is_not_printed() {
        let change = Change::Write { content: b"hunter2".to_vec(), executable: true };
        assert_eq!(format!("{change:?}"), "Write(7 bytes, executable)");
    }
}
