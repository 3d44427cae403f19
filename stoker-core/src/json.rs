//! JSON: a strict syntax check, and edits that leave every other byte alone.
//!
//! Programs that read configuration often compare it byte for byte (Ignition signs it). So an edit never re-serialises
//! the document: it replaces exactly the bytes of one value, or adds one member.

use jsonc_parser::cst::{CstInputValue, CstNode, CstRootNode};
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
    let root = CstRootNode::parse(document, &strict).map_err(|e| JsonError::Syntax {
        at: Position::of(document, e.range().start),
        message: e.kind().to_string(),
    })?;
    let missing = |found: String| JsonError::NotThere { path: path.text.clone(), found };
    let (last, above) =
        path.steps.split_last().ok_or(JsonError::Path { path: path.text.clone(), rule: "is empty" })?;
    let mut node = root.value().ok_or_else(|| missing("it is empty".to_owned()))?;
    for step in above {
        node = child(&node, step).ok_or_else(|| missing(describe(&node, step)))?;
    }
    let input = input(value);
    match (&node.as_object(), &node.as_array(), last) {
        (Some(object), _, step) => {
            let name = match step {
                Step::Member(name) => name.clone(),
                Step::Element(index) => index.to_string(),
            };
            match member(object, &name) {
                Some(member) => member.set_value(input),
                None => {
                    object.append(&name, input);
                }
            }
        }
        (_, Some(array), Step::Element(index)) => {
            let elements = array.elements();
            match elements.into_iter().nth(*index) {
                Some(element) => replace(element, input),
                None => return Err(missing(describe(&node, last))),
            }
        }
        _ => return Err(missing(describe(&node, last))),
    }
    Ok(root.to_string())
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

fn member(object: &jsonc_parser::cst::CstObject, name: &str) -> Option<jsonc_parser::cst::CstObjectProp> {
    object.properties().into_iter().find(|p| p.decoded_name().as_deref() == Some(name))
}

fn child(node: &CstNode, step: &Step) -> Option<CstNode> {
    match step {
        Step::Member(name) => member(&node.as_object()?, name)?.value(),
        Step::Element(index) => match node.as_array() {
            Some(array) => array.elements().into_iter().nth(*index),
            None => member(&node.as_object()?, &index.to_string())?.value(),
        },
    }
}

fn describe(node: &CstNode, step: &Step) -> String {
    let kind = if node.as_object().is_some() {
        "an object without it"
    } else if node.as_array().is_some() {
        "an array without it"
    } else {
        "a plain value"
    };
    match step {
        Step::Member(name) => format!("where {name:?} should be there is {kind}"),
        Step::Element(index) => format!("where [{index}] should be there is {kind}"),
    }
}

fn replace(node: CstNode, value: CstInputValue) {
    let _replaced = if let Some(n) = node.as_object() {
        n.replace_with(value)
    } else if let Some(n) = node.as_array() {
        n.replace_with(value)
    } else if let Some(n) = node.as_string_lit() {
        n.replace_with(value)
    } else if let Some(n) = node.as_number_lit() {
        n.replace_with(value)
    } else if let Some(n) = node.as_boolean_lit() {
        n.replace_with(value)
    } else if let Some(n) = node.as_null_keyword() {
        n.replace_with(value)
    } else {
        None
    };
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(b) => CstInputValue::Bool(*b),
        Value::Number(n) => CstInputValue::Number(n.to_string()),
        Value::String(s) => CstInputValue::String(s.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(k, v)| (k.clone(), input(v))).collect())
        }
    }
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
