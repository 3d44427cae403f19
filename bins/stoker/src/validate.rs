//! Checks files offline, with the same rules as the API server and the controller: schema, CEL, paths, templates,
//! patterns, protections.

mod rules;

use std::collections::BTreeMap;

use anyhow::Result;
use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::Value;
use stoker_k8s::api::{AgentConfig, Stoker, SyncProfile, SyncProfileSpec};
use stoker_k8s::compile::{self, Problems};

use crate::{cli, input, output};

pub(crate) fn run(args: &cli::Validate) -> Result<u8> {
    let (mut bad, mut out) = (0, String::new());
    for file in &args.files {
        let name = output::printable(&file.display().to_string());
        // The other files are looked at all the same.
        let mut refused = |why: &str| {
            out.push_str(&format!("{name}: {}\n", output::printable(why)));
            bad += 1;
        };
        let read = if file.as_os_str() == "-" { input::standard() } else { input::file(file) };
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                refused(&error);
                continue;
            }
        };
        let documents = match documents(&text) {
            Ok(documents) if documents.is_empty() => {
                refused("no document in it; write a Stoker, SyncProfile or AgentConfig");
                continue;
            }
            Ok(documents) => documents,
            Err(error) => {
                refused(&format!("not valid YAML: {error}"));
                continue;
            }
        };
        let profiles = profiles(&documents);
        for (number, document) in documents.iter().enumerate() {
            let place =
                if documents.len() > 1 { format!("{name}, document {}", number + 1) } else { name.clone() };
            let (what, problems) = check(&name, &text, document, &profiles);
            let what = output::printable(&what);
            if problems.is_empty() {
                out.push_str(&format!("{place}: {what} is valid\n"));
            } else {
                bad += 1;
                for problem in problems {
                    out.push_str(&format!("{place}: {what}: {}\n", output::printable(&problem)));
                }
            }
        }
    }
    output::print(&out)?;
    Ok(if bad == 0 { 0 } else { 2 })
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| anyhow::anyhow!("{}", e.without_snippet()))?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// The profiles among some documents, as far as they can be read.
fn profiles(documents: &[Value]) -> BTreeMap<String, SyncProfileSpec> {
    let profiles = documents.iter().filter(|document| document["kind"] == "SyncProfile");
    let profiles =
        profiles.filter_map(|document| serde_json::from_value::<SyncProfile>(document.clone()).ok());
    profiles.filter_map(|profile| Some((profile.metadata.name?, profile.spec))).collect()
}

/// What a document is, and everything that is wrong with it; `others` are the profiles of the same file.
fn check(
    file: &str,
    text: &str,
    document: &Value,
    others: &BTreeMap<String, SyncProfileSpec>,
) -> (String, Vec<String>) {
    let string = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = string("/kind");
    let what = format!("{kind} {}", string("/metadata/name")).trim().to_owned();
    let problems = match (string("/apiVersion"), kind) {
        ("stoker.io/v1alpha1", "Stoker") => {
            resource::<Stoker>(document, |stoker| compile::base(&stoker.spec, 1).map(drop))
        }
        ("stoker.io/v1alpha1", "SyncProfile") => resource::<SyncProfile>(document, |profile| {
            // A Stoker's variables are not known here, so what a profile leaves to them is not judged; nor is a
            // profile that it includes and that is not in this file.
            let (name, mut spec) = (string("/metadata/name"), profile.spec.clone());
            compile::profile_alone(name, &spec)?;
            spec.include_mappings_from.retain(|i| i.name == name || others.contains_key(&i.name));
            let others = others.iter().map(|(name, spec)| (name.clone(), spec)).collect();
            compile::includes(name, &spec, &others)
        }),
        ("stoker.io/v1alpha1", "AgentConfig") => match AgentConfig::parse(file, text) {
            Err(error) => vec![stoker_core::chain(&error)],
            Ok(config) => listed(compile::config(&config).map(drop)),
        },
        (version, kind) => vec![format!(
            "apiVersion {version:?}, kind {kind:?} is not one of Stoker's; they are stoker.io/v1alpha1 Stoker, SyncProfile and AgentConfig"
        )],
    };
    (if what.is_empty() { "document".to_owned() } else { what }, problems)
}

fn resource<K>(document: &Value, compile: impl FnOnce(&K) -> Result<(), Problems>) -> Vec<String>
where
    K: CustomResourceExt + for<'de> Deserialize<'de>,
{
    let crd = K::crd();
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref()?.open_api_v3_schema.clone());
    let schema = serde_json::to_value(schema).unwrap_or_default();
    let mut problems: Vec<String> = rules::unknown(&schema, document);
    problems.extend(rules::schema(&schema, document));
    problems.extend(rules::cel(&schema, document));
    if problems.is_empty() {
        match serde_json::from_value::<K>(document.clone()) {
            Ok(object) => problems.extend(listed(compile(&object))),
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems
}

fn listed(result: Result<(), Problems>) -> Vec<String> {
    result.err().map(|Problems(all)| all.iter().map(ToString::to_string).collect()).unwrap_or_default()
}
