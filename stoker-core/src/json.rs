//! JSON: a strict syntax check, and edits that leave every other byte alone.
//!
//! Programs that read configuration often compare it byte for byte (Ignition signs it). So an edit never re-serialises
//! the document: it replaces exactly the bytes of one value, or adds one member.

use std::borrow::Cow;

use jsonc_parser::ast::{Object, Value as Ast};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, parse_to_ast};
use serde_json::Value;

use crate::fault::{Category, Fault, Retry};
use crate::template::Position;

/// The deepest nesting that an edit accepts. The syntax check alone has no such limit.
pub const MAX_EDIT_DEPTH: usize = 400;

/// Why a document cannot be read or edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The document is not JSON.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// What is wrong there.
        message: String,
    },
    /// The path to a value cannot be read.
    #[error(
        "JSON path {path:?}: {rule}; write it like settings.hosts[0].name, or as a JSON Pointer like /settings/hosts/0/name"
    )]
    Path {
        /// The path as it was given.
        path: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The path does not fit the document.
    #[error("JSON path {path:?} does not fit the document: {found}")]
    NotThere {
        /// The path as it was given.
        path: String,
        /// What the document has instead.
        found: String,
    },
    /// The document is nested too deeply to be edited.
    #[error("the document is nested deeper than {MAX_EDIT_DEPTH} levels")]
    TooDeep,
}

impl Fault for JsonError {
    fn category(&self) -> Category {
        match self {
            Self::Syntax { .. } | Self::TooDeep => Category::new("ConfigSyntaxError"),
            _ => Category::new("PatchFailed"),
        }
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// Checks that `content` is one complete JSON document in UTF-8.
///
/// # Errors
/// Says where it is not.
pub fn check(content: &[u8]) -> Result<(), JsonError> {
    let text = match std::str::from_utf8(content) {
        Ok(text) => text,
        Err(error) => {
            let valid = String::from_utf8_lossy(&content[..error.valid_up_to()]);
            let at = Position::of(&valid, valid.len());
            return Err(JsonError::Syntax { at, message: "invalid UTF-8".to_owned() });
        }
    };
    // `IgnoredAny` is validated without recursion, so that depth cannot exhaust the stack.
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let full = error.to_string();
            let message = full.rsplit_once(" at line ").map_or(full.as_str(), |(m, _)| m).to_owned();
            let at = Position { line: error.line().max(1), column: error.column().max(1) };
            Err(JsonError::Syntax { at, message })
        }
    }
}

/// A path to a value inside a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Member(String),
    /// An index of an array, or in a JSON Pointer a member that looks like a number.
    Element(usize),
}

impl Step {
    /// The step as the name of a member.
    fn member(&self) -> Cow<'_, str> {
        match self {
            Self::Member(name) => Cow::Borrowed(name),
            Self::Element(index) => Cow::Owned(index.to_string()),
        }
    }
}

impl JsonPath {
    /// Reads `a.b[0].c`, or a JSON Pointer (RFC 6901) when it starts with `/`.
    ///
    /// # Errors
    /// When the text is empty or has an empty or unfinished step.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let fail = |rule| JsonError::Path { path: text.to_owned(), rule };
        let mut steps = Vec::new();
        if let Some(pointer) = text.strip_prefix('/') {
            for token in pointer.split('/') {
                let name = token.replace("~1", "/").replace("~0", "~");
                steps.push(match name.parse() {
                    Ok(index) if name == "0" || !name.starts_with(['0', '+']) => Step::Element(index),
                    _ => Step::Member(name),
                });
            }
            return Ok(Self { text: text.to_owned(), steps });
        }
        for segment in text.split('.') {
            let (name, mut indexes) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
            if !name.is_empty() {
                steps.push(Step::Member(name.to_owned()));
            } else if indexes.is_empty() {
                return Err(fail("has an empty step"));
            }
            while let Some(rest) = indexes.strip_prefix('[') {
                let (index, rest) = rest.split_once(']').ok_or_else(|| fail("has \"[\" without \"]\""))?;
                steps.push(Step::Element(
                    index.parse().map_err(|_| fail("has an index that is not a number"))?,
                ));
                indexes = rest;
            }
            if !indexes.is_empty() {
                return Err(fail("has text after \"]\""));
            }
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Sets one value, leaving every byte outside of it as it was. A missing last member is added to its object.
///
/// ```
/// use stoker_core::json::{JsonPath, set};
/// let edited = set("{\n  \"a\": 1,\n  \"b\": \"\\u003d\"\n}", &JsonPath::parse("a")?, &2.into())?;
/// assert_eq!(edited, "{\n  \"a\": 2,\n  \"b\": \"\\u003d\"\n}");
/// # Ok::<(), stoker_core::json::JsonError>(())
/// ```
///
/// # Errors
/// When the document is not JSON or the path does not lead anywhere.
pub fn set(document: &str, path: &JsonPath, value: &Value) -> Result<String, JsonError> {
    check(document.as_bytes())?;
    if depth(document) > MAX_EDIT_DEPTH {
        return Err(JsonError::TooDeep);
    }
    let strict = jsonc_parser::ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(document, &CollectOptions::default(), &strict).map_err(|e| {
        JsonError::Syntax { at: Position::of(document, e.range().start), message: e.kind().to_string() }
    })?;
    let missing = |found: String| JsonError::NotThere { path: path.text.clone(), found };
    let (last, above) =
        path.steps.split_last().ok_or(JsonError::Path { path: path.text.clone(), rule: "is empty" })?;
    let mut node = parsed.value.as_ref().ok_or_else(|| missing("it is empty".to_owned()))?;
    for step in above {
        node = child(node, step).ok_or_else(|| missing(describe(node, step)))?;
    }
    let (start, end, text) = match (child(node, last), node) {
        (Some(old), _) => {
            let text = value_text(document, indent(document, old.range().start), value);
            (old.range().start, old.range().end, text)
        }
        (None, Ast::Object(object)) => member_text(document, object, last, value),
        (None, _) => return Err(missing(describe(node, last))),
    };
    Ok(format!("{}{text}{}", &document[..start], &document[end..]))
}

fn depth(document: &str) -> usize {
    let (mut now, mut max, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in document.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                max = max.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    max
}

fn child<'n, 'd>(node: &'n Ast<'d>, step: &Step) -> Option<&'n Ast<'d>> {
    match (node, step) {
        (Ast::Array(array), Step::Element(index)) => array.elements.get(*index),
        (Ast::Object(object), step) => {
            let name = step.member();
            object.properties.iter().find(|p| p.name.as_str() == name).map(|p| &p.value)
        }
        _ => None,
    }
}

fn describe(node: &Ast<'_>, step: &Step) -> String {
    let kind = match node {
        Ast::Object(_) => "an object without it",
        Ast::Array(_) => "an array without it",
        _ => "a plain value",
    };
    match step {
        Step::Member(name) => format!("where {name:?} should be there is {kind}"),
        Step::Element(index) => format!("where [{index}] should be there is {kind}"),
    }
}

/// The white space at the start of the line that holds byte `at`.
fn indent(document: &str, at: usize) -> &str {
    let line = &document[document[..at].rfind('\n').map_or(0, |n| n + 1)..at];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// A value as it is written at byte `at`: objects and arrays indented like their surroundings.
fn value_text(document: &str, indent: &str, value: &Value) -> String {
    let pretty = document.contains('\n') && (value.is_object() || value.is_array());
    if pretty { format!("{value:#}").replace('\n', &format!("\n{indent}")) } else { value.to_string() }
}

/// Where and how a new last member of an object is written: as [`set`] would write it once it is there.
fn member_text(document: &str, object: &Object<'_>, step: &Step, value: &Value) -> (usize, usize, String) {
    let name = Value::String(step.member().into_owned());
    let Some((first, last)) = object.properties.first().zip(object.properties.last()) else {
        let value = value_text(document, indent(document, object.range.start), value);
        return (object.range.start, object.range.end, format!("{{{name}: {value}}}"));
    };
    let lead = &document[object.range.start + 1..first.range.start];
    let (lead, indent) = if lead.contains('\n') {
        (lead, indent(lead, lead.len()))
    } else {
        (" ", indent(document, last.range.end))
    };
    let text = format!(",{lead}{name}: {}", value_text(document, indent, value));
    (last.range.end, last.range.end, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn edit(document: &str, path: &str, value: Value) -> Result<String, JsonError> {
        set(document, &JsonPath::parse(path)?, &value)
    }

    const SYSTEM: &str = "{\n  \"systemName\": \"old\",\n  \"homepageNotes\": \"a \\u003d b\",\n  \"list\": [\n    {\"x\": 1},\n    2\n  ]\n}";

    #[test]
    fn only_the_value_changes() {
        assert_eq!(
            edit(SYSTEM, "systemName", json!("site1")).unwrap(),
            SYSTEM.replace("\"old\"", "\"site1\"")
        );
        assert_eq!(edit(SYSTEM, "list[0].x", json!(7)).unwrap(), SYSTEM.replace("\"x\": 1", "\"x\": 7"));
        assert_eq!(edit(SYSTEM, "/list/1", json!(true)).unwrap(), SYSTEM.replace("    2", "    true"));
        let added = edit(SYSTEM, "fresh", json!("new")).unwrap();
        assert!(added.starts_with(SYSTEM.trim_end_matches("\n}")), "{added}");
        assert_eq!(serde_json::from_str::<Value>(&added).unwrap()["fresh"], json!("new"));
    }

    /// Found by fuzzing: a member was added with the indentation of the object's first line, and set with that of its own.
    #[test]
    fn setting_what_is_there_changes_nothing() {
        for document in
            ["{\"a\": 1,\n  \"b\": 2}", "{\n  \"a\": 1\n}", "{\"a\": {},\n  \"c\": {}}", "{\n}", "{ }"]
        {
            for path in ["new", "c.new"] {
                let value = json!({"x": [1]});
                let Ok(once) = edit(document, path, value.clone()) else { continue };
                assert_eq!(edit(&once, path, value).unwrap(), once, "{document}");
            }
        }
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        let value = "a\"b\\c\nd\te";
        let edited = edit("{\"k\": 1}", "k", json!(value)).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&edited).unwrap()["k"], json!(value));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(edit(SYSTEM, "homepageNotes.x", json!(1)), Err(JsonError::NotThere { .. })));
        assert!(matches!(edit(SYSTEM, "nothing.x", json!(1)), Err(JsonError::NotThere { .. })));
        assert!(matches!(edit(SYSTEM, "list[9]", json!(1)), Err(JsonError::NotThere { .. })));
        for bad in ["", "a..b", "a[", "a[x]", "a[0]b", "."] {
            assert!(matches!(JsonPath::parse(bad), Err(JsonError::Path { .. })), "{bad}");
        }
        assert_eq!(
            check(b"{\n  \"a\": 1,\n}").unwrap_err().to_string(),
            "line 3, column 1: key must be a string"
        );
        for bad in [&b"{\"a\":1}x"[..], b"", b"{a:1}", b"[1,]", b"\xff", b"\"\xff\"", b"// c\n1", b"NaN"] {
            assert!(check(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        check(deep.as_bytes()).unwrap();
        assert_eq!(edit(&deep, "a", json!(1)), Err(JsonError::TooDeep));
        let fine = format!("{}{}", "[".repeat(MAX_EDIT_DEPTH - 1), "]".repeat(MAX_EDIT_DEPTH - 1));
        edit(&format!("{{\"a\":{fine}}}"), "b", json!(1)).unwrap();
    }

    proptest! {
        /// Setting a value sets exactly that value, whatever the document looks like.
        #[test]
        fn set_then_read(keys in proptest::collection::btree_map("[a-z\"\\\\é ]{1,4}", "\\PC{0,6}", 1..5), value in "\\PC{0,8}") {
            let document = serde_json::to_string_pretty(&keys).unwrap();
            for key in keys.keys() {
                let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                let edited = edit(&document, &pointer, json!(value)).unwrap();
                let mut expected = keys.clone();
                expected.insert(key.clone(), value.clone());
                prop_assert_eq!(serde_json::from_str::<std::collections::BTreeMap<String, String>>(&edited).unwrap(), expected);
            }
        }

        #[test]
        fn no_input_panics(document in "[\\[\\]{}:,\"a0-9 .e\\\\-]{0,30}", path in "[a.\\[\\]0/]{0,8}") {
            let _ = edit(&document, &path, json!({"a": [1]}));
        }
    }
}
