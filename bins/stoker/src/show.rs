//! What changed inside of files, for people and programs.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use similar::{DiffOp, TextDiff};

use crate::output::visible;

/// Larger contents are not compared.
pub(crate) const LIMIT: u64 = 1 << 20;
/// How long the shortest difference is looked for; after that a longer one, as true, is shown.
const PATIENCE: Duration = Duration::from_millis(300);
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
            Self::Unknown => {
                "what cannot be shown (changed since and not kept, no regular file, or over 1 MiB)".to_owned()
            }
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
        && let (Some(old), Some(new)) = (document(old), document(new))
    {
        let mut changes = Vec::new();
        values("", &old, &new, &mut changes);
        if !changes.is_empty() {
            return Difference::Values(changes);
        }
    }
    // A line ends with a line feed and with nothing else, as it does for git.
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let diff = TextDiff::configure().newline_terminated(true).timeout(PATIENCE).diff_slices(&old, &new);
    let hunks = diff.unified_diff().context_radius(3).iter_hunks().map(|hunk| hunk.to_string());
    Difference::Text(hunks.collect())
}

/// A document, if its values are all that is in it: a number that no `f64` holds, or a name that is there twice, would be
/// lost on the way.
fn document(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    let (mut in_text, mut escaped) = (false, false);
    let mut bytes: Vec<u8> = text
        .bytes()
        .filter(|byte| {
            let here = in_text;
            match byte {
                b'"' if !escaped => in_text = !in_text,
                _ => {}
            }
            escaped = in_text && !escaped && *byte == b'\\';
            here || !byte.is_ascii_whitespace()
        })
        .collect();
    // The order of members says nothing.
    let mut again = serde_json::to_vec(&value).ok()?;
    bytes.sort_unstable();
    again.sort_unstable();
    (bytes == again).then_some(value)
}

/// What turns `old` into `new`, value by value.
fn values(path: &str, old: &Value, new: &Value, changes: &mut Vec<ValueChange>) {
    let changed = |changes: &mut Vec<ValueChange>, path, before: Option<&Value>, after: Option<&Value>| {
        changes.push(ValueChange { path, before: before.cloned(), after: after.cloned() });
    };
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = member(path, name);
                match (old.get(name), new.get(name)) {
                    (Some(old), Some(new)) => values(&path, old, new, changes),
                    (old, new) => changed(changes, path, old, new),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            let texts = |values: &[Value]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (old_texts, new_texts) = (texts(old), texts(new));
            let deadline = Some(Instant::now() + PATIENCE);
            let myers = similar::Algorithm::Myers;
            for op in similar::capture_diff_slices_deadline(myers, &old_texts, &new_texts, deadline) {
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
                    changed(changes, format!("{path}[{at}]"), before, after);
                }
            }
        }
        (old, new) if old != new => changed(changes, path.to_owned(), Some(old), Some(new)),
        _ => {}
    }
}

/// The path of a member, in the syntax of patches where its name allows that.
fn member(path: &str, name: &str) -> String {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ".[]/\"".contains(c);
    let plain = !name.is_empty() && !name.contains(odd);
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
            let _ = writeln!(self.out, "{}", visible(&shown));
            self.directory = Some(directory.to_owned());
        }
        let note = if note.is_empty() { String::new() } else { format!("   ({note})") };
        let _ = writeln!(self.out, "  {mark} {}{}", visible(name), visible(&note));
        match difference {
            None | Some(Difference::None) => {}
            Some(Difference::Opaque(words)) => {
                let _ = writeln!(self.out, "      {words}");
            }
            Some(Difference::Text(text)) => {
                for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                    let line = line.replace('\t', "    ");
                    let _ = writeln!(self.out, "      {}", visible(&line));
                }
            }
            Some(Difference::Values(changes)) => {
                for ValueChange { path, before, after } in changes {
                    let at = if path.is_empty() { String::new() } else { format!("{}: ", visible(path)) };
                    let words =
                        |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
                    let (old, new) = (words(before), words(after));
                    let from =
                        if before.is_some() && after.is_some() { first_difference(&old, &new) } else { 0 };
                    let (old, new) = (short(&old, from), short(&new, from));
                    let _ = match (before, after) {
                        (Some(_), Some(_)) => writeln!(self.out, "      {at}{old} → {new}"),
                        (None, _) => writeln!(self.out, "      + {at}{new}"),
                        (Some(_), None) => writeln!(self.out, "      - {at}{old}"),
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

/// Where two texts begin to differ, in characters.
fn first_difference(old: &str, new: &str) -> usize {
    old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count()
}

/// A value, or when it is long, the part around character `from`.
fn short(text: &str, from: usize) -> String {
    let length = text.chars().count();
    if length <= MAX_VALUE {
        return visible(text);
    }
    let skip = from.saturating_sub(MAX_VALUE / 4).min(length - MAX_VALUE);
    let part: String = text.chars().skip(skip).take(MAX_VALUE).collect();
    let (before, after) = (if skip > 0 { "…" } else { "" }, if skip + MAX_VALUE < length { "…" } else { "" });
    format!("{before}{}{after} ({} bytes)", visible(&part), text.len())
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
    fn what_values_would_hide_is_compared_by_line() {
        let shown = printed("v.json", &side("{\"a\":1}\n"), &side("{\"a\": 1}\n"));
        assert_eq!(shown, ".\n  ~ v.json   (why)\n      @@ -1 +1 @@\n      -{\"a\":1}\n      +{\"a\": 1}\n");
        for (old, new) in [
            ("{\"big\":10000000000000000000001,\"x\":1}", "{\"big\":10000000000000000000002,\"x\":2}"),
            ("{\"f\":0.1,\"x\":1}", "{\"f\":0.10000000000000000001,\"x\":2}"),
            ("{\"d\":1,\"d\":2,\"x\":1}", "{\"d\":7,\"d\":2,\"x\":2}"),
        ] {
            assert!(matches!(difference("v.json", &side(old), &side(new)), Difference::Text(_)), "{old}");
        }
        for (old, new) in [("a\r\nb\r\n", "a\nb\n"), ("a \n", "a\n"), ("a", "a\n"), ("a\rb\n", "a\r\rb\n")] {
            let shown = printed("t", &side(old), &side(new));
            let of = |mark: char| {
                let lines = shown.lines().skip(2).filter_map(|l| l.trim_start().strip_prefix(mark));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert!(of('-') != of('+') || shown.contains("No newline"), "{shown}");
        }
    }

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let long = |end: &str| side(&format!("{{\"a\":\"{}{end}\"}}", "x".repeat(400)));
        let shown = printed("v.json", &long("1"), &long("2"));
        let (old, new) = shown.lines().last().unwrap().split_once(" → ").unwrap();
        assert!(old.contains("x1\"") && new.contains("x2\""), "{shown}");
    }

    #[test]
    fn a_large_text_of_which_nothing_is_the_same_takes_no_minutes() {
        let lines = |seed: u64| {
            let numbers = (0..40_000_u64).map(|n| (n * (seed + 7919) % 1009 * (n + seed)) % 997);
            numbers.map(|n| n.to_string()).collect::<Vec<_>>()
        };
        let began = Instant::now();
        let (old, new) = (lines(1).join("\n"), lines(2).join("\n"));
        assert!(matches!(difference("t", &side(&old), &side(&new)), Difference::Text(_)));
        let (old, new) = (format!("[{}]", lines(1).join(",")), format!("[{}]", lines(2).join(",")));
        assert!(matches!(difference("v.json", &side(&old), &side(&new)), Difference::Values(_)));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_no_text_is_told_by_its_size_and_nothing_drives_the_terminal() {
        assert!(printed("a", &side("\0"), &Side::Absent).contains("1 bytes → nothing"));
        assert!(printed("a", &Side::Unknown, &Side::Unknown).contains("cannot be shown"));
        assert!(!printed("a", &Side::Absent, &side("\u{1b}[2J\u{202e}\n")).contains(['\u{1b}', '\u{202e}']));
        let forged = printed("v.json", &side("{\"a: 1 → 2\\n  b\":1}"), &side("{\"a: 1 → 2\\n  b\":2}"));
        assert_eq!(forged.lines().count(), 3, "{forged}");
        assert_eq!(difference("a", &side("x"), &side("x")), Difference::None);
    }
}
