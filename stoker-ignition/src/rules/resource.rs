//! `resource.json`: the manifest of one resource, and when two of them say the same.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use stoker_core::{Category, Fault, Retry};

/// The names of the manifest file. Tag folders have the second one, which is never signed.
pub const MANIFEST_FILES: [&str; 2] = ["resource.json", "unary-resource.json"];

/// Attributes that a gateway rewrites whenever it notices a change.
const STAMP_PREFIX: &str = "lastModification";
pub(super) const SIGNATURE: &str = "lastModificationSignature";

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a member of another type than gateways write.
    #[error("resource manifest cannot be read: {0}")]
    Syntax(String),
    /// An unknown letter in `scope`.
    #[error("resource manifest has scope {0:?}; known are G, D, C, A and N")]
    Scope(String),
    /// A name in `files` that is not a plain file of the resource.
    #[error("resource manifest lists {0:?}, which is not a file name inside the resource")]
    FileName(String),
}

impl Fault for ManifestError {
    fn category(&self) -> Category {
        Category::new("ConfigSyntaxError")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// A parsed `resource.json`, with what signatures are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceManifest {
    pub(super) scope: i32,
    pub(super) documentation: String,
    pub(super) version: i32,
    pub(super) locked: bool,
    pub(super) restricted: bool,
    pub(super) overridable: bool,
    /// Each attribute but the signature, as compact JSON.
    pub(super) attributes: BTreeMap<String, String>,
    /// The data files of the resource, sorted. A data file that is not listed is ignored by the gateway.
    pub files: Vec<String>,
    /// The stored `lastModificationSignature`.
    pub signature: Option<String>,
    /// Whether there is an `attributes` member at all.
    pub has_attributes: bool,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    documentation: Option<String>,
    #[serde(default)]
    version: Option<i32>,
    #[serde(default)]
    locked: Option<bool>,
    #[serde(default)]
    restricted: Option<bool>,
    #[serde(default)]
    overridable: Option<bool>,
    #[serde(default)]
    files: Option<Vec<String>>,
    #[serde(default, borrow)]
    attributes: Option<BTreeMap<String, &'a RawValue>>,
}

impl ResourceManifest {
    /// Reads the content of a `resource.json`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(content: &[u8]) -> Result<Self, ManifestError> {
        // Structs are read from arrays, too.
        if content.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
            return Err(ManifestError::Syntax("it is an array, not an object".to_owned()));
        }
        let document: Document<'_> =
            serde_json::from_slice(content).map_err(|e| ManifestError::Syntax(e.to_string()))?;
        let scope_text = document.scope.unwrap_or_default();
        let scope = scope_bits(&scope_text).ok_or(ManifestError::Scope(scope_text))?;
        let mut files = document.files.unwrap_or_default();
        if let Some(bad) = files.iter().find(|f| !is_plain_file_name(f)) {
            return Err(ManifestError::FileName(bad.clone()));
        }
        files.sort();
        let has_attributes = document.attributes.is_some();
        let mut attributes: BTreeMap<String, String> = document
            .attributes
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| (name, compact(value.get())))
            .collect();
        let signature = attributes.remove(SIGNATURE).and_then(|s| serde_json::from_str(&s).ok());
        Ok(Self {
            scope,
            documentation: document.documentation.unwrap_or_default(),
            version: document.version.unwrap_or(1),
            locked: document.locked.unwrap_or(false),
            restricted: document.restricted.unwrap_or(false),
            overridable: document.overridable.unwrap_or(true),
            attributes,
            files,
            signature,
            has_attributes,
        })
    }
}

/// A name in `files` is opened below the resource: it must not lead out of it. Slashes occur (nested data files).
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The bits of Ignition's application scope: gateway 1, designer 2, client 4.
fn scope_bits(text: &str) -> Option<i32> {
    text.chars().try_fold(0, |bits, c| {
        Some(
            bits | match c {
                'N' => 0,
                'G' => 1,
                'D' => 2,
                'C' => 4,
                'A' => 7,
                _ => return None,
            },
        )
    })
}

/// The same JSON without white space between tokens and with no needless escapes; members keep their order.
fn compact(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = string_end(rest);
            let (token, after) = rest.split_at(end);
            match serde_json::from_str::<String>(token).and_then(|s| serde_json::to_string(&s)) {
                Ok(plain) => text.push_str(&plain),
                Err(_) => text.push_str(token),
            }
            rest = after;
        } else {
            if !c.is_ascii_whitespace() {
                text.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    text
}

/// The length of the JSON string that `text` starts with, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether two `resource.json` say the same, apart from who changed them last, when, and the signature over it.
///
/// Gateways rewrite these attributes on their own; comparing bytes would copy the file back for ever. Key order and
/// formatting do not matter. Two files that are not JSON are the same only when their bytes are.
///
/// ```
/// use stoker_ignition::rules::same_but_for_stamp;
/// let git = br#"{"scope":"G","files":["view.json"],"attributes":{}}"#;
/// let live = br#"{"scope":"G","files":["view.json"],"attributes":{"lastModification":{"actor":"external"}}}"#;
/// assert!(same_but_for_stamp(git, live));
/// assert!(!same_but_for_stamp(git, br#"{"scope":"A","files":["view.json"]}"#));
/// ```
#[must_use]
pub fn same_but_for_stamp(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (without_stamp(a), without_stamp(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn without_stamp(content: &[u8]) -> Option<Value> {
    let mut document: Value = serde_json::from_slice(content).ok()?;
    let members = document.as_object_mut()?;
    match members.get_mut("attributes") {
        Some(Value::Object(attributes)) => attributes.retain(|name, _| !name.starts_with(STAMP_PREFIX)),
        Some(_) => {}
        None => {
            members.insert("attributes".to_owned(), Value::Object(serde_json::Map::new()));
        }
    }
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMPED: &str = r#"{
  "scope": "G",
  "version": 1,
  "files": ["view.json", "thumbnail.png"],
  "attributes": {
    "lastModificationSignature": "ab",
    "lastModification": {"actor": "ada", "timestamp": "2026-01-19T06:17:09Z"},
    "uuid": "1"
  }
}"#;

    #[test]
    fn the_manifest_is_read_as_gateways_write_it() {
        let manifest = ResourceManifest::parse(STAMPED.as_bytes()).unwrap();
        assert_eq!(manifest.files, ["thumbnail.png", "view.json"]);
        assert_eq!(manifest.signature.as_deref(), Some("ab"));
        assert_eq!(
            manifest.attributes["lastModification"],
            r#"{"actor":"ada","timestamp":"2026-01-19T06:17:09Z"}"#
        );
        assert!(manifest.has_attributes);
        for bad in [
            "",
            "[]",
            r#"{"scope":"X"}"#,
            r#"{"files":["../x"]}"#,
            r#"{"files":["/etc/x"]}"#,
            r#"{"version":"1"}"#,
        ] {
            assert!(ResourceManifest::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_stamp_may_differ() {
        let other_stamp =
            STAMPED.replace("\"ab\"", "\"cd\"").replace("ada", "external").replace("06:17", "07:18");
        assert!(same_but_for_stamp(STAMPED.as_bytes(), other_stamp.as_bytes()));
        for (from, to) in [
            ("\"uuid\": \"1\"", "\"uuid\": \"2\""),
            ("\"version\": 1", "\"version\": 2"),
            ("thumbnail.png", "x"),
        ] {
            assert!(!same_but_for_stamp(STAMPED.as_bytes(), STAMPED.replace(from, to).as_bytes()), "{from}");
        }
        assert!(!same_but_for_stamp(STAMPED.as_bytes(), b"{"));
        assert!(same_but_for_stamp(b"not json", b"not json"));
        assert!(!same_but_for_stamp(b"not json", b"not json "));
        assert!(!same_but_for_stamp(b"[1]", b"[1] "));
    }

    #[test]
    fn compacting_keeps_order_and_resolves_escapes() {
        assert_eq!(
            compact("{ \"b\" : \"a\\u003d \\\" b\",\n\t\"a\" : [ 1.0, 2 ] }"),
            "{\"b\":\"a= \\\" b\",\"a\":[1.0,2]}"
        );
    }

    proptest! {
        #[test]
        fn sameness_is_symmetric_and_ignores_any_stamp(actor in "\\PC{0,8}", version in 0i32..3, other in 0i32..3) {
            let with = |v: i32, actor: &str| serde_json::json!({
                "scope": "G", "version": v, "attributes": {"lastModification": {"actor": actor}}
            }).to_string().into_bytes();
            let (a, b) = (with(version, &actor), with(other, ""));
            prop_assert_eq!(same_but_for_stamp(&a, &b), version == other);
            prop_assert_eq!(same_but_for_stamp(&b, &a), version == other);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,60}") {
            let _ = ResourceManifest::parse(text.as_bytes());
            compact(&text);
        }
    }
}
