//! What changed inside of files, for people and programs.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;
use similar::{DiffOp, TextDiff};

use crate::output::printable;

/// Larger contents are not compared.
pub(crate) const LIMIT: u64 = 1 << 20;
/// Longest value that is printed whole, in characters.
const MAX_VALUE: usize = 160;

/// One side of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    /// There is no file.
    Absent,
    Bytes(Vec<u8>),
    /// Something that cannot be shown.
    Unknown,
}

impl Side {
    pub(crate) fn of(exists: bool, content: Option<Vec<u8>>) -> Self {
        match content {
            Some(content) if content.len() as u64 <= LIMIT => Self::Bytes(content),
            Some(_) => Self::Unknown,
            None if exists => Self::Unknown,
            None => Self::Absent,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Absent => Some(""),
            Self::Bytes(bytes) if !bytes.contains(&0) => std::str::from_utf8(bytes).ok(),
            Self::Bytes(_) | Self::Unknown => None,
        }
    }

    fn size(&self) -> String {
        match self {
            Self::Absent => "nothing".to_owned(),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Unknown => "what cannot be shown (not kept, not a regular file, or over 1 MiB)".to_owned(),
        }
    }
}

/// What is different.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Difference {
    /// The bytes are equal.
    None,
    /// Values of a JSON document.
    Values(Vec<ValueChange>),
    /// Lines of a text, as a unified diff.
    Text(String),
    /// In words: not text, or not available.
    Opaque(String),
}

/// One value of a JSON document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ValueChange {
    /// Where, in the syntax of patches: `a.b[0].c`.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

/// Compares two sides of the file at `path`.
pub(crate) fn difference(path: &str, before: &Side, after: &Side) -> Difference {
    if before == after && *before != Side::Unknown {
        return Difference::None;
    }
    let (Some(old), Some(new)) = (before.text(), after.text()) else {
        return Difference::Opaque(format!("{} → {}", before.size(), after.size()));
    };
    let both = matches!((before, after), (Side::Bytes(_), Side::Bytes(_)));
    if both
        && path.ends_with(".json")
        && let (Ok(old), Ok(new)) = (serde_json::from_str(old), serde_json::from_str(new))
    {
        let mut changes = Vec::new();
        values("", &old, &new, &mut changes);
        if !changes.is_empty() {
            return Difference::Values(changes);
        }
    }
    let diff = TextDiff::from_lines(old, new);
    let hunks = diff.unified_diff().context_radius(3).iter_hunks().map(|hunk| hunk.to_string());
    Difference::Text(hunks.collect())
}

/// What turns `old` into `new`, value by value.
fn values(path: &str, old: &Value, new: &Value, changes: &mut Vec<ValueChange>) {
    let mut one = |path: String, before: Option<&Value>, after: Option<&Value>| {
        changes.push(ValueChange { path, before: before.cloned(), after: after.cloned() });
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = member(path, name);
                match (old.get(name), new.get(name)) {
                    (Some(old), Some(new)) => values(&path, old, new, changes),
                    (old, new) => {
                        changes.push(ValueChange { path, before: old.cloned(), after: new.cloned() });
                    }
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            let texts = |values: &[Value]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
            for op in similar::capture_diff_slices(similar::Algorithm::Myers, &texts(old), &texts(new)) {
                let (was, now) = (op.old_range(), op.new_range());
                if matches!(op, DiffOp::Equal { .. }) {
                    continue;
                }
                let pairs = was.len().min(now.len());
                for (was, now) in was.clone().zip(now.clone()) {
                    values(&format!("{path}[{now}]"), &old[was], &new[now], changes);
                }
                let removed = was.skip(pairs).map(|at| (at, Some(&old[at]), None));
                let added = now.skip(pairs).map(|at| (at, None, Some(&new[at])));
                for (at, before, after) in removed.chain(added) {
                    let path = format!("{path}[{at}]");
                    changes.push(ValueChange { path, before: before.cloned(), after: after.cloned() });
                }
            }
        }
        (old, new) if old != new => one(path.to_owned(), Some(old), Some(new)),
        _ => {}
    }
}

/// The path of a member, in the syntax of patches where its name allows that.
fn member(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && !name.contains(['.', '[', ']', '/', '"']);
    match (plain, path.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{path}.{name}"),
        (false, _) => format!("{path}[{name:?}]"),
    }
}

/// Prints changed files, one directory after the other.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    directory: Option<String>,
    out: String,
}

impl Tree {
    /// Adds a file. Paths come in order.
    pub(crate) fn add(&mut self, path: &str, mark: char, note: &str, difference: Option<&Difference>) {
        let (directory, name) = path.rsplit_once('/').map_or(("", path), |(above, name)| (above, name));
        if self.directory.as_deref() != Some(directory) {
            let shown = if directory.is_empty() { ".".to_owned() } else { format!("{directory}/") };
            let _ = writeln!(self.out, "{}", printable(&shown));
            self.directory = Some(directory.to_owned());
        }
        let note = if note.is_empty() { String::new() } else { format!("   ({note})") };
        let _ = writeln!(self.out, "  {mark} {}{}", printable(name), printable(&note));
        match difference {
            None | Some(Difference::None) => {}
            Some(Difference::Opaque(words)) => {
                let _ = writeln!(self.out, "      {words}");
            }
            Some(Difference::Text(text)) => {
                for line in text.lines().filter(|line| !line.starts_with('\\')) {
                    let line = line.replace('\t', "    ");
                    let _ = writeln!(self.out, "      {}", printable(&line));
                }
            }
            Some(Difference::Values(changes)) => {
                for ValueChange { path, before, after } in changes {
                    let at = if path.is_empty() { String::new() } else { format!("{}: ", printable(path)) };
                    let _ = match (before, after) {
                        (Some(before), Some(after)) => {
                            writeln!(self.out, "      {at}{} → {}", short(before), short(after))
                        }
                        (None, Some(after)) => writeln!(self.out, "      + {at}{}", short(after)),
                        (before, None) => {
                            let before = before.as_ref().map(short).unwrap_or_default();
                            writeln!(self.out, "      - {at}{before}")
                        }
                    };
                }
            }
        }
    }

    /// What was added.
    pub(crate) fn text(self) -> String {
        self.out
    }
}

fn short(value: &Value) -> String {
    let text = printable(&value.to_string());
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(text: &str) -> Side {
        Side::Bytes(text.as_bytes().to_vec())
    }

    fn printed(path: &str, before: &Side, after: &Side) -> String {
        let mut tree = Tree::default();
        tree.add(path, '~', "why", Some(&difference(path, before, after)));
        tree.text()
    }

    #[test]
    fn json_is_compared_by_value_and_lists_by_what_moved() {
        let old = r#"{"a": {"b.c": 1, "d": [1, 2, {"x": 1}, 4]}, "gone": null}"#;
        let new = r#"{"new": "t", "a": {"d": [0, 1, 2, {"x": 2}, 4], "b.c": 2}}"#;
        assert_eq!(
            printed("p/q/v.json", &side(old), &side(new)),
            "p/q/\n  ~ v.json   (why)\n      a[\"b.c\"]: 1 → 2\n      + a.d[0]: 0\n      a.d[3].x: 1 → 2\n      - gone: null\n      + new: \"t\"\n"
        );
    }

    #[test]
    fn text_that_only_looks_different_as_json_is_compared_by_line() {
        let shown = printed("v.json", &side("{\"a\":1}\n"), &side("{\"a\": 1}\n"));
        assert_eq!(shown, ".\n  ~ v.json   (why)\n      @@ -1 +1 @@\n      -{\"a\":1}\n      +{\"a\": 1}\n");
    }

    #[test]
    fn what_is_no_text_is_told_by_its_size_and_nothing_drives_the_terminal() {
        assert!(printed("a", &side("\0"), &Side::Absent).contains("1 bytes → nothing"));
        assert!(printed("a", &Side::Unknown, &Side::Unknown).contains("cannot be shown"));
        assert!(!printed("a", &Side::Absent, &side("\u{1b}[2J\n")).contains('\u{1b}'));
        assert_eq!(difference("a", &side("x"), &side("x")), Difference::None);
    }
}
