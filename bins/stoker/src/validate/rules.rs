//! A CRD's own schema and CEL rules, evaluated without an API server.

use std::sync::Arc;

use cel::{Context, Env, Value as CelValue};
use serde_json::Value;

/// Fields that the schema does not know. The API server drops them with a warning, or refuses them.
pub(super) fn unknown(schema: &Value, document: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for part in ["spec"] {
        if let (Some(schema), Some(value)) =
            (schema.pointer(&format!("/properties/{part}")), document.get(part))
        {
            unknown_below(schema, value, part, &mut problems);
        }
    }
    problems
}

fn unknown_below(schema: &Value, value: &Value, place: &str, problems: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties");
            for (name, value) in members {
                let place = format!("{place}.{name}");
                match (properties.and_then(|p| p.get(name)), additional) {
                    (Some(schema), _) | (None, Some(schema)) => {
                        unknown_below(schema, value, &place, problems)
                    }
                    (None, None) if schema.get("x-kubernetes-preserve-unknown-fields").is_some() => {}
                    (None, None) => {
                        let known: Vec<&str> =
                            properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                        problems.push(format!(
                            "{place}: there is no such field; there are: {}",
                            known.join(", ")
                        ));
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, value) in items.iter().enumerate() {
                    unknown_below(schema, value, &format!("{place}[{index}]"), problems);
                }
            }
        }
        _ => {}
    }
}

/// What breaks the structural schema: types, bounds, required fields.
pub(super) fn schema(schema: &Value, document: &Value) -> Vec<String> {
    let mut schema = schema.clone();
    nullable(&mut schema);
    let validator = match jsonschema::validator_for(&schema) {
        Ok(validator) => validator,
        Err(error) => return vec![format!("the schema cannot be read: {error}")],
    };
    validator
        .iter_errors(document)
        .map(|error| {
            let place = error.instance_path().to_string().replace('/', ".");
            format!("{}: {error}", place.trim_start_matches('.'))
        })
        .collect()
}

/// OpenAPI 3.0 says `nullable`, JSON Schema says a second type.
fn nullable(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("nullable") == Some(&Value::Bool(true))
                && let Some(kind) = members.get("type").and_then(Value::as_str).map(str::to_owned)
            {
                members.insert("type".to_owned(), serde_json::json!([kind, "null"]));
            }
            members.values_mut().for_each(nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(nullable),
        _ => {}
    }
}

/// The `x-kubernetes-validations` that fail, in the words of the CRD.
pub(super) fn cel(schema: &Value, document: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let env = Arc::new(Env::stdlib());
    cel_below(&env, schema, document, "", &mut problems);
    problems
}

fn cel_below(env: &Arc<Env>, schema: &Value, value: &Value, place: &str, problems: &mut Vec<String>) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
        match evaluate(env, text("rule"), &with_defaults(schema, value)) {
            Ok(true) => {}
            Ok(false) => {
                // As the API server does: a short value is named, a whole object is not.
                let value =
                    if value.is_object() || value.is_array() { String::new() } else { format!("{value}: ") };
                problems.push(format!("{}: {value}{}", place.trim_start_matches('.'), text("message")));
            }
            // A rule on a value of the wrong type; the schema has said so already.
            Err(error) => tracing::debug!(rule = text("rule"), %error, "rule not evaluated"),
        }
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let below = schema
                    .pointer(&format!("/properties/{name}"))
                    .or_else(|| schema.get("additionalProperties"));
                if let Some(schema) = below {
                    cel_below(env, schema, value, &format!("{place}.{name}"), problems);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, value) in items.iter().enumerate() {
                    cel_below(env, schema, value, &format!("{place}[{index}]"), problems);
                }
            }
        }
        _ => {}
    }
}

/// The value as the API server stores it: defaults filled in.
fn with_defaults(schema: &Value, value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let mut members = members.clone();
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        match (members.get(name), schema.get("default")) {
            (Some(value), _) => {
                let filled = with_defaults(schema, value);
                members.insert(name.clone(), filled);
            }
            (None, Some(default)) => {
                members.insert(name.clone(), default.clone());
            }
            (None, None) => {}
        }
    }
    Value::Object(members)
}

fn evaluate(env: &Arc<Env>, rule: &str, value: &Value) -> Result<bool, String> {
    let program = env.compile(rule).map_err(|e| e.to_string())?;
    let mut context = Context::with_env(env.clone());
    context.add_variable("self", value).map_err(|e| e.to_string())?;
    // Kubernetes' own addition to CEL.
    context.add_function("isQuantity", |text: Arc<String>| is_quantity(&text)).map_err(|e| e.to_string())?;
    match program.execute(&context).map_err(|e| e.to_string())? {
        CelValue::Bool(answer) => Ok(answer),
        other => Err(format!("{other:?} is not a truth value")),
    }
}

/// A Kubernetes quantity: a decimal number with an SI or binary suffix.
fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[number.len()..];
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.parse::<f64>().is_ok() && suffixes.contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Every rule of the CRDs compiles here, so that none is skipped in silence.
    #[test]
    fn every_rule_of_the_resources_can_be_evaluated() {
        fn walk(schema: &Value, rules: &mut Vec<String>) {
            match schema {
                Value::Object(members) => {
                    if let Some(Value::Array(found)) = members.get("x-kubernetes-validations") {
                        rules.extend(found.iter().filter_map(|r| r["rule"].as_str().map(str::to_owned)));
                    }
                    members.values().for_each(|v| walk(v, rules));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, rules)),
                _ => {}
            }
        }
        let mut rules = Vec::new();
        for crd in stoker_k8s::api::crds() {
            walk(&serde_json::to_value(crd).unwrap(), &mut rules);
        }
        assert!(rules.len() > 20, "{}", rules.len());
        let env = Arc::new(Env::stdlib());
        for rule in rules {
            env.compile(&rule).unwrap_or_else(|e| panic!("{rule}: {e}"));
        }
    }

    #[test]
    fn rules_see_defaults_and_report_their_own_message() {
        let schema = json!({
            "type": "object",
            "properties": {
                "port": {"type": "integer", "default": 8043, "x-kubernetes-validations": [{"rule": "self > 0", "message": "positive"}]},
                "wait": {"type": "string", "x-kubernetes-validations": [
                    {"rule": "duration(self) <= duration('24h')", "message": "at most a day"}]},
            },
            "x-kubernetes-validations": [{"rule": "has(self.port) && self.port < 9000", "message": "below 9000"}],
        });
        assert!(cel(&schema, &json!({})).is_empty());
        assert_eq!(cel(&schema, &json!({"port": -1})), ["port: -1: positive"]);
        assert_eq!(
            cel(&schema, &json!({"port": 9001, "wait": "25h"})),
            [": below 9000", "wait: \"25h\": at most a day"]
        );
    }
}
