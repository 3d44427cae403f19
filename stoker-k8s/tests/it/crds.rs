//! The definitions that the chart ships.

use std::path::Path;

use stoker_k8s::api;

#[test]
fn the_chart_ships_the_current_definitions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/stoker/files/crds");
    for (file, expected) in api::crds_yaml() {
        let shipped = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
        assert!(
            shipped == expected,
            "{file} is stale: run `cargo run -p stoker-controller -- crds charts/stoker/files/crds`"
        );
    }
}

#[test]
fn every_list_map_and_text_of_a_spec_is_bounded() {
    fn walk(schema: &serde_json::Value, path: &str, unbounded: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        match schema["type"].as_str() {
            Some("array") if !has("maxItems") => unbounded.push(path.to_owned()),
            Some("string") if !has("maxLength") && !has("enum") && !has("format") => {
                unbounded.push(path.to_owned())
            }
            Some("object") if has("additionalProperties") && !has("maxProperties") => {
                unbounded.push(path.to_owned())
            }
            Some("integer") if !(has("minimum") && has("maximum")) => unbounded.push(path.to_owned()),
            _ => {}
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(inner, &format!("{path}.{name}"), unbounded);
        }
        for key in ["items", "additionalProperties"] {
            if has(key) {
                walk(&schema[key], &format!("{path}[]"), unbounded);
            }
        }
    }
    let mut unbounded = Vec::new();
    for crd in api::crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(
            &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
            &kind,
            &mut unbounded,
        );
    }
    assert_eq!(unbounded, Vec::<String>::new());
}
