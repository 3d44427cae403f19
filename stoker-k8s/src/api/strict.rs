//! Fields that nobody reads, found by the schema, with the name that was probably meant.

use std::fmt;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

/// A field that the schema does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it is, like `profile.mappings[0].sorce`.
    pub path: String,
    /// Its name.
    pub name: String,
    /// The known field with the most similar name, if one is similar.
    pub nearest: Option<String>,
    /// The known fields at that place.
    pub known: Vec<String>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field {}", self.path)?;
        match &self.nearest {
            Some(name) => write!(f, "; did you mean {name}?"),
            None => write!(f, "; known here: {}", self.known.join(", ")),
        }
    }
}

/// All fields of `value` that the schema of `T` does not know.
///
/// ```
/// use stoker_k8s::api::{SyncProfileSpec, unknown_fields};
/// let found = unknown_fields::<SyncProfileSpec>(&serde_json::json!({"maping": []}));
/// assert_eq!(found[0].to_string(), "unknown field maping; did you mean mappings?");
/// ```
#[must_use]
pub fn unknown_fields<T: JsonSchema>(value: &Value) -> Vec<UnknownField> {
    let schema = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>();
    let mut found = Vec::new();
    walk(schema.as_value(), value, "", &mut found);
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<UnknownField>) {
    // Optional members are written as `anyOf: [schema, null]`.
    if let Some(Value::Array(variants)) = schema.get("anyOf") {
        for variant in variants {
            walk(variant, value, path, found);
        }
        return;
    }
    match value {
        Value::Object(object) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties").filter(|a| a.is_object());
            for (name, inner) in object {
                let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match (properties.and_then(|p| p.get(name)), additional) {
                    (Some(schema), _) | (None, Some(schema)) => walk(schema, inner, &place, found),
                    (None, None) => {
                        if let Some(properties) = properties {
                            let known: Vec<String> = properties.keys().cloned().collect();
                            let nearest = nearest(name, &known);
                            found.push(UnknownField { path: place, name: name.clone(), nearest, known });
                        }
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// The known name with the fewest edits, when a third of the letters or fewer differ.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().max(name.len()).div_ceil(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate.clone())
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{StokerSpec, SyncProfileSpec};

    #[test]
    fn a_misspelt_field_is_named_with_its_place_and_its_neighbour() {
        let value = json!({
            "git": {"repo": "x", "ref": "y", "auth": {"sshkey": {}}},
            "gateway": {"apiKeySecretReff": {"name": "k"}},
            "shared": {"mappings": [{"sorce": "a", "destination": "b"}]},
            "vars": {"anything": "goes"},
            "bidirectional": {},
        });
        let found: Vec<String> =
            unknown_fields::<StokerSpec>(&value).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.contains(&"unknown field git.auth.sshkey; did you mean sshKey?".to_owned()));
        assert!(
            found.contains(
                &"unknown field gateway.apiKeySecretReff; did you mean apiKeySecretRef?".to_owned()
            )
        );
        assert!(found.contains(&"unknown field shared.mappings[0].sorce; did you mean source?".to_owned()));
        assert!(found.iter().any(|f| f.starts_with("unknown field bidirectional; known here:")), "{found:?}");
    }

    #[test]
    fn free_values_are_not_searched() {
        let value = json!({
            "mappings": [{"source": "a", "destination": "b", "patches": [{"set": {"x.y": {"any": ["thing"]}}}]}],
        });
        assert_eq!(unknown_fields::<SyncProfileSpec>(&value), []);
    }
}
