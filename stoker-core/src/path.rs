//! Relative paths that are safe by construction.
//!
//! A [`RelPath`] is a `/`-separated path below some directory. It never climbs out of it, never names git's own
//! directory and fits every file system that a gateway runs on. Check once, at the edge; after that the type is the
//! proof.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// The longest component of a path, in bytes (`NAME_MAX` of Linux file systems).
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Why a text is not a usable relative path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path starts with `/`.
    #[error("path {0:?} is absolute; write it relative to the root, without the leading slash")]
    Absolute(String),
    /// The path is the empty string.
    #[error("path is empty; write \".\" for the root")]
    Empty,
    /// A component is empty (`a//b`).
    #[error("path {0:?} has an empty component (two slashes in a row)")]
    EmptyComponent(String),
    /// A component is `..`.
    #[error("path {0:?} contains \"..\", which would leave the directory")]
    Parent(String),
    /// A component is `.git`, or a name that some file system takes for it.
    #[error("path {path:?} contains {component:?}, a name of git's own directory")]
    Git {
        /// The whole path.
        path: String,
        /// The offending component.
        component: String,
    },
    /// A control character or a NUL.
    #[error("path {0:?} contains a control character")]
    Control(String),
    /// A backslash: a separator on the machines that designers run.
    #[error("path {0:?} contains a backslash; components are separated by \"/\"")]
    Backslash(String),
    /// A component is too long.
    #[error("path {path:?} has a component of {length} bytes; at most {MAX_COMPONENT_BYTES} are possible")]
    ComponentTooLong {
        /// The whole path.
        path: String,
        /// The length of the component, in bytes.
        length: usize,
    },
    /// The path is too long.
    #[error("path of {0} bytes is longer than {MAX_PATH_BYTES}")]
    TooLong(usize),
    /// The bytes are not UTF-8.
    #[error("path {0:?} is not valid UTF-8")]
    NotUtf8(String),
}

/// A borrowed relative path. The empty string is the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath<'a>(&'a str);

/// An owned relative path. Ordered byte by byte, like its text. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPathBuf(Arc<str>);

impl<'a> RelPath<'a> {
    /// The root itself.
    pub const ROOT: RelPath<'static> = RelPath("");

    /// The path as text; the root is the empty string.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether this is the root.
    #[must_use]
    pub const fn is_root(self) -> bool {
        self.0.is_empty()
    }

    /// The components, outermost first. The root has none.
    pub fn components(self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn file_name(self) -> Option<&'a str> {
        self.components().next_back()
    }

    /// The directory that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(RelPath(self.0.rsplit_once('/').map_or("", |(dir, _)| dir)))
    }

    /// All directories above this path, innermost first, without the root.
    pub fn ancestors(self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.parent(), |p| p.parent()).filter(|p| !p.is_root())
    }

    /// Whether this path is `base` or lies below it.
    #[must_use]
    pub fn starts_with(self, base: RelPath<'_>) -> bool {
        self.strip_prefix(base).is_some()
    }

    /// Whether the path lies in `directory`, at any depth.
    pub(crate) fn is_below(self, directory: RelPath<'_>) -> bool {
        self != directory && self.starts_with(directory)
    }

    /// The path relative to `base`; `None` when it does not lie there.
    #[must_use]
    pub fn strip_prefix(self, base: RelPath<'_>) -> Option<Self> {
        if base.is_root() {
            return Some(self);
        }
        match self.0.strip_prefix(base.0)? {
            "" => Some(RelPath("")),
            rest => rest.strip_prefix('/').map(RelPath),
        }
    }

    /// This path with one more component.
    ///
    /// # Errors
    /// When `name` is not a valid component.
    pub fn child(self, name: &str) -> Result<RelPathBuf, PathError> {
        let text = if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) };
        if name.is_empty() || name == "." || name.contains('/') {
            return Err(PathError::EmptyComponent(text));
        }
        check_component(&text, name)?;
        check_length(&text)?;
        Ok(RelPathBuf(text.into()))
    }

    /// This path followed by another one.
    ///
    /// # Errors
    /// When the result is too long.
    pub fn join(self, tail: RelPath<'_>) -> Result<RelPathBuf, PathError> {
        let text = match (self.is_root(), tail.is_root()) {
            (true, _) => tail.0.to_owned(),
            (_, true) => self.0.to_owned(),
            _ => format!("{}/{}", self.0, tail.0),
        };
        check_length(&text)?;
        Ok(RelPathBuf(text.into()))
    }

    /// This path with another end: `kept` bytes of it stay.
    ///
    /// Only the components that are not of this path are checked, so that reading a list of many paths stays cheap.
    pub(crate) fn with_end(self, kept: usize, end: &str) -> Result<RelPathBuf, PathError> {
        let kept = self.0.get(..kept).ok_or_else(|| PathError::NotUtf8(self.0.to_owned()))?;
        let text = [kept, end].concat();
        let checked = kept.rfind('/').map_or(0, |slash| slash + 1);
        for component in text[checked..].split('/') {
            match component {
                // The root.
                "" if text.is_empty() => {}
                "" | "." => return Err(PathError::EmptyComponent(text)),
                _ => check_component(&text, component)?,
            }
        }
        check_length(&text)?;
        Ok(RelPathBuf(text.into()))
    }

    /// The owned form.
    #[must_use]
    pub fn to_buf(self) -> RelPathBuf {
        RelPathBuf(self.0.into())
    }
}

impl RelPathBuf {
    /// Reads a path as people write it: `projects`, `projects/` and `./projects` are the same, `.` is the root.
    ///
    /// ```
    /// use stoker_core::RelPathBuf;
    /// assert_eq!(RelPathBuf::parse("./projects/")?, RelPathBuf::parse("projects")?);
    /// assert!(RelPathBuf::parse("../etc").is_err());
    /// # Ok::<(), stoker_core::PathError>(())
    /// ```
    ///
    /// # Errors
    /// When the text breaks one of the rules that [`PathError`] lists.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.to_owned()));
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let mut clean = String::with_capacity(trimmed.len());
        for component in trimmed.split('/') {
            match component {
                "" => return Err(PathError::EmptyComponent(text.to_owned())),
                "." => continue,
                _ => check_component(text, component)?,
            }
            if !clean.is_empty() {
                clean.push('/');
            }
            clean.push_str(component);
        }
        check_length(&clean)?;
        Ok(Self(clean.into()))
    }

    /// The borrowed form.
    #[must_use]
    pub fn as_path(&self) -> RelPath<'_> {
        RelPath(&self.0)
    }

    /// The path as text; the root is the empty string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_length(text: &str) -> Result<(), PathError> {
    if text.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong(text.len()));
    }
    Ok(())
}

/// Judges one component of `whole`; the caller has handled the empty one and `.`.
fn check_component(whole: &str, component: &str) -> Result<(), PathError> {
    if component == ".." {
        return Err(PathError::Parent(whole.to_owned()));
    }
    if component.chars().any(char::is_control) {
        return Err(PathError::Control(whole.to_owned()));
    }
    if component.contains('\\') {
        return Err(PathError::Backslash(whole.to_owned()));
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(PathError::ComponentTooLong { path: whole.to_owned(), length: component.len() });
    }
    if is_git_name(component) {
        return Err(PathError::Git { path: whole.to_owned(), component: component.to_owned() });
    }
    Ok(())
}

/// Whether some file system would open git's own directory under this name.
///
/// The variants are those that git itself refuses: letter case (case-insensitive file systems), trailing dots and
/// spaces and the short name `git~1` (NTFS), code points that HFS+ ignores, and NTFS stream suffixes
/// (git's `verify_path`, `is_ntfs_dotgit` and `is_hfs_dotgit`).
fn is_git_name(component: &str) -> bool {
    let visible: Cow<'_, str> = if component.is_ascii() {
        component.into()
    } else {
        component.chars().filter(|c| !is_ignored_by_hfs(*c)).collect()
    };
    let base = visible.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    base.eq_ignore_ascii_case(".git") || base.eq_ignore_ascii_case("git~1")
}

fn is_ignored_by_hfs(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

impl fmt::Display for RelPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { self.0 })
    }
}

impl fmt::Debug for RelPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for RelPathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().fmt(f)
    }
}

impl fmt::Debug for RelPathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Maps keyed by owned paths answer for borrowed text: both order byte by byte.
impl Borrow<str> for RelPathBuf {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RelPathBuf {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for RelPathBuf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

impl<'de> Deserialize<'de> for RelPathBuf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_are_equal() {
        let path = RelPathBuf::parse("projects/line").unwrap();
        for same in ["projects/line/", "./projects/line", "projects/./line", "./projects/line/"] {
            assert_eq!(RelPathBuf::parse(same).unwrap(), path, "{same}");
        }
        for root in [".", "./", "./."] {
            assert!(RelPathBuf::parse(root).unwrap().as_path().is_root(), "{root}");
        }
    }

    #[test]
    fn every_rule_refuses_with_the_path_in_its_message() {
        let long = "x".repeat(256);
        for bad in [
            "/etc",
            "a//b",
            "..",
            "a/../b",
            ".git",
            "a/.GIT/config",
            "a/git~1",
            ".git.",
            ".git ",
            ".g\u{200c}it",
            ".git::$INDEX_ALLOCATION",
            "a\\b",
            "a\u{0}b",
            "a\nb",
            "a/b//",
            long.as_str(),
        ] {
            let error = RelPathBuf::parse(bad).expect_err(bad);
            assert!(error.to_string().contains("path"), "{error}");
        }
        assert_eq!(RelPathBuf::parse(""), Err(PathError::Empty));
        assert!(matches!(RelPathBuf::parse(&"a/".repeat(2100)), Err(PathError::TooLong(_))));
        for fine in [".gitkeep", ".github/x", "MQTT Engine/Zähler 1", "a b", "git", "...", ".gitignore"] {
            RelPathBuf::parse(fine).unwrap();
        }
    }

    proptest! {
        /// What the type accepts can never leave the directory, and survives a round trip.
        #[test]
        fn accepted_paths_stay_inside(text in r"[a./\\ \x00é~:]{0,12}|\PC{0,20}") {
            if let Ok(path) = RelPathBuf::parse(&text) {
                for c in path.as_path().components() {
                    prop_assert!(c != ".." && c != "." && !c.is_empty() && !c.contains(['/', '\\', '\0']));
                }
                prop_assert!(!path.as_str().starts_with('/'));
                prop_assert_eq!(RelPathBuf::parse(&path.to_string()).unwrap(), path);
            }
        }

        /// A path made from another one is judged as if it were read as a whole.
        #[test]
        fn another_end_makes_a_path_or_none(
            start in "[a-c]{1,2}(/[a-c]{1,2}){0,2}", kept in 0..9usize, end in r"[ab./\~g]{0,6}|\.?git|\.\./a"
        ) {
            let start = RelPathBuf::parse(&start).unwrap();
            let Some(whole) = start.as_str().get(..kept).map(|kept| format!("{kept}{end}")) else { return Ok(()) };
            let read = RelPathBuf::parse(&whole).ok().filter(|path| path.as_str() == whole);
            let read = if whole.is_empty() { Some(RelPathBuf::default()) } else { read };
            prop_assert_eq!(start.as_path().with_end(kept, &end).ok(), read);
        }

        #[test]
        fn prefix_and_join_are_inverse(a in "[a-c]{1,2}(/[a-c]{1,2}){0,2}", b in "[a-c]{1,2}(/[a-c]{1,2}){0,2}") {
            let (a, b) = (RelPathBuf::parse(&a).unwrap(), RelPathBuf::parse(&b).unwrap());
            let joined = a.as_path().join(b.as_path()).unwrap();
            prop_assert_eq!(joined.as_path().strip_prefix(a.as_path()), Some(b.as_path()));
            prop_assert!(joined.as_path().starts_with(a.as_path()));
        }
    }
}
