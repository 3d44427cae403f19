//! The volumes that the agent brings along.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::contract;
use crate::api::SecretKeyRef;
use crate::roster::StokerView;

/// A volume and where the agent mounts it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mounted {
    /// What it is for: its name is `stoker-` and this, with a number when the pod has such a volume already.
    pub(super) purpose: &'static str,
    /// Its source, as in a pod's `volumes`, without the name.
    pub(super) source: Value,
    /// Where the agent sees it.
    pub(super) mount_path: &'static str,
    /// Whether the agent may write to it.
    pub(super) writable: bool,
}

/// The volumes for the agent of `stoker`; credential files get `secret_mode`.
pub(super) fn plan(stoker: &StokerView, secret_mode: i32) -> Vec<Mounted> {
    let spec = &stoker.spec;
    let read_only =
        |purpose, mount_path, source: Value| Mounted { purpose, source, mount_path, writable: false };
    let api_key = &spec.gateway.api_key_secret_ref;
    let mut volumes = vec![
        Mounted {
            purpose: "cache",
            source: json!({ "emptyDir": { "sizeLimit": spec.agent.repo_size_limit.0.to_string() } }),
            mount_path: contract::CACHE_DIR,
            writable: true,
        },
        read_only(
            "podinfo",
            contract::PODINFO_DIR,
            json!({ "downwardAPI": { "items": [
                { "path": file_name(contract::PODINFO_ANNOTATIONS), "fieldRef": { "fieldPath": "metadata.annotations" } },
                { "path": file_name(contract::PODINFO_LABELS), "fieldRef": { "fieldPath": "metadata.labels" } },
            ] } }),
        ),
        read_only("identity", contract::SERVICE_ACCOUNT_DIR, identity(secret_mode)),
        read_only(
            "gateway",
            contract::GATEWAY_DIR,
            projected(secret_mode, &[secret(&api_key.name, &api_key.key, contract::GATEWAY_API_KEY)]),
        ),
    ];
    let git = git_sources(stoker);
    if !git.is_empty() {
        volumes.push(read_only("git", contract::GIT_DIR, projected(secret_mode, &git)));
    }
    if let Some(verify) = &spec.git.verify {
        // Whole, so that a key that is added later comes without a restart. Public keys are no secret, and the Secret is
        // where Flux has them.
        let keys = json!({ "secret": { "secretName": verify.secret_ref.name, "optional": true, "defaultMode": 0o444 } });
        volumes.push(read_only("signing-keys", contract::SIGNING_KEYS_DIR, keys));
    }
    volumes
}

/// A name for each volume that no other volume of the pod has.
pub(super) fn names(spec: &PodSpec, volumes: &[Mounted]) -> Vec<String> {
    let taken: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    volumes.iter().map(|v| free(&format!("{}{}", contract::VOLUME_PREFIX, v.purpose), &taken)).collect()
}

/// `wanted`, or the first of `wanted-2`, `wanted-3` and so on that is not taken.
pub(super) fn free(wanted: &str, taken: &[&str]) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains(&name.as_str()) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

fn git_sources(stoker: &StokerView) -> Vec<Value> {
    let git = &stoker.spec.git;
    let from = |reference: &SecretKeyRef, file| secret(&reference.name, &reference.key, file);
    let mut sources = Vec::new();
    if let Some(auth) = &git.auth {
        if let Some(ssh) = &auth.ssh_key {
            sources.push(from(&ssh.secret_ref, contract::GIT_SSH_KEY));
            sources.extend(ssh.passphrase_secret_ref.iter().map(|r| from(r, contract::GIT_PASSPHRASE)));
        }
        sources.extend(
            auth.github_app.iter().map(|app| from(&app.private_key_secret_ref, contract::GIT_APP_KEY)),
        );
        sources.extend(auth.token.iter().map(|token| from(&token.secret_ref, contract::GIT_TOKEN)));
    }
    if let Some(login) = git.proxy.as_ref().and_then(|proxy| proxy.secret_ref.as_ref()) {
        sources.push(from(&login.username(), contract::GIT_PROXY_USERNAME));
        sources.push(from(&login.password(), contract::GIT_PROXY_PASSWORD));
    }
    sources
}

/// One key of a Secret as one file. Optional: a pod never waits for a Secret that is not there yet.
fn secret(name: &str, key: &str, file: &str) -> Value {
    json!({ "secret": { "name": name, "optional": true, "items": [{ "key": key, "path": file_name(file) }] } })
}

fn projected(mode: i32, sources: &[Value]) -> Value {
    json!({ "projected": { "defaultMode": mode, "sources": sources } })
}

/// What the API server mounts by itself, unless the pod or its service account says that it should not.
fn identity(mode: i32) -> Value {
    let authority = json!({ "configMap": {
        "name": "kube-root-ca.crt", "optional": true, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } });
    let namespace = json!({ "downwardAPI": {
        "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } });
    let token = json!({ "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } });
    projected(mode, &[token, authority, namespace])
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
