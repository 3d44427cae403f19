//! From a design to the JSON patch that carries it out.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

use super::container::Agent;
use super::contract;
use crate::annotations;

/// Whether the pod has the sidecar already, from us or from another version; then the names of the init containers
/// that come after it and mount the data volume.
pub(super) fn injected<'a>(
    annotations: &BTreeMap<String, String>,
    spec: &'a PodSpec,
) -> Option<Vec<&'a str>> {
    if annotations.get(annotations::INJECTED).map(String::as_str) != Some("true") {
        return None;
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let at = init.iter().position(is_ours)?;
    let data = mounts(&init[at]).find(|(_, path)| *path == contract::DATA_DIR).map(|(volume, _)| volume);
    let late =
        init[at + 1..].iter().filter(|c| data.is_some() && mounts(c).any(|(volume, _)| Some(volume) == data));
    Some(late.map(|container| container.name.as_str()).collect())
}

fn is_ours(container: &Container) -> bool {
    let suffix = container.name.strip_prefix(contract::CONTAINER);
    let named = suffix.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    named && container.restart_policy.as_deref() == Some("Always")
}

fn mounts(container: &Container) -> impl Iterator<Item = (&str, &str)> {
    container.volume_mounts.iter().flatten().map(|mount| (mount.name.as_str(), mount.mount_path.as_str()))
}

/// The patch that adds `agent` to `pod` and marks it.
pub(super) fn build(pod: &Pod, stoker: &str, agent: Agent) -> Patch {
    let metadata = &pod.metadata;
    let mut operations = Vec::new();
    let marks = [(annotations::CR_NAME, stoker), (annotations::INJECTED, "true")];
    let label = [(annotations::AGENT_LABEL, "true")];
    put_all(&mut operations, ["metadata", "annotations"], metadata.annotations.as_ref(), &marks);
    put_all(&mut operations, ["metadata", "labels"], metadata.labels.as_ref(), &label);
    let spec = pod.spec.as_ref();
    append(&mut operations, ["spec", "volumes"], spec.is_some_and(|s| s.volumes.is_some()), agent.volumes);
    // Last: after whatever prepares the data volume, and after proxies that the network needs.
    let has_init = spec.is_some_and(|s| s.init_containers.is_some());
    append(&mut operations, ["spec", "initContainers"], has_init, vec![agent.container]);
    Patch(operations)
}

fn put_all(
    operations: &mut Vec<PatchOperation>,
    path: [&str; 2],
    present: Option<&BTreeMap<String, String>>,
    wanted: &[(&str, &str)],
) {
    let Some(present) = present else {
        let map: serde_json::Map<String, Value> =
            wanted.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        operations.push(add(&path, Value::Object(map)));
        return;
    };
    for (key, value) in wanted {
        if present.get(*key).map(String::as_str) != Some(value) {
            operations.push(add(&[path[0], path[1], key], json!(value)));
        }
    }
}

fn append(operations: &mut Vec<PatchOperation>, path: [&str; 2], present: bool, items: Vec<Value>) {
    if present {
        operations.extend(items.into_iter().map(|item| add(&[path[0], path[1], "-"], item)));
    } else {
        operations.push(add(&path, Value::Array(items)));
    }
}

fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}
