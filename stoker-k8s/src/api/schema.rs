//! What the schema says beyond the types: bounds and CEL rules with a message for people.

use schemars::transform::Transform;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// Adds the CEL rule `rule`; `message` is what `kubectl` prints when it does not hold.
pub(crate) fn cel(rule: &'static str, message: &'static str) -> impl Transform {
    move |schema: &mut Schema| {
        let rules = schema.ensure_object().entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(json!({ "rule": rule, "message": message }));
        }
    }
}

/// A list of strings, each at most `chars` long.
pub(crate) fn strings(items: u32, chars: u32) -> impl Transform {
    move |schema: &mut Schema| {
        schema.insert("maxItems".into(), items.into());
        schema.insert("items".into(), json!({ "type": "string", "minLength": 1, "maxLength": chars }));
    }
}

/// A list of objects that belong together: server-side apply replaces it as a whole.
pub(crate) fn atomic(items: u32) -> impl Transform {
    move |schema: &mut Schema| {
        schema.insert("maxItems".into(), items.into());
        schema.insert("x-kubernetes-list-type".into(), "atomic".into());
    }
}

/// A list that server-side apply merges by the value of `key`.
pub(crate) fn keyed_by(key: &'static str, items: u32) -> impl Transform {
    move |schema: &mut Schema| {
        schema.insert("maxItems".into(), items.into());
        schema.insert("x-kubernetes-list-type".into(), "map".into());
        schema.insert("x-kubernetes-list-map-keys".into(), json!([key]));
    }
}

/// Takes `null` for absent: server-side apply leaves it behind where the last entry was removed, and templating tools
/// where a value is empty.
pub(crate) fn null_is_absent<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Allows `null`; the field is read by [`null_is_absent`].
pub(crate) fn nullable(schema: &mut Schema) {
    schema.insert("nullable".into(), true.into());
}

/// Template variables: at most 128, names fit for `{{.Vars.name}}` or `{{index .Vars "name"}}`.
pub(crate) fn vars(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 128,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, k.size() > 0 && k.size() <= 128 && !k.contains('\"') && !k.contains('}'))",
            "message": "a variable's name has 1 to 128 characters and neither a quote nor a brace: write it like \
                        area or site.name",
        }],
    })
}

/// Values to set in a JSON file, by path: any JSON value.
pub(crate) fn patch_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 64,
        "additionalProperties": { "x-kubernetes-preserve-unknown-fields": true },
    })
}

/// Labels that a pod must have. Names are judged further when the profile is compiled: a rule on each would cost more
/// than the API server grants.
pub(crate) fn pod_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, k.size() > 0 && k.size() <= 317)",
            "message": "a label's name has 1 to 317 characters: write it like role or example.com/role",
        }],
    })
}

/// Quantities of resources by name.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "maxProperties": 8,
        "additionalProperties": { "x-kubernetes-int-or-string": true },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, isQuantity(string(self[k])))",
            "message": "write quantities as Kubernetes does: 10m, 32Mi, 1",
        }],
    })
}
