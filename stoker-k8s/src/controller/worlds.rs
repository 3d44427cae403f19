//! Worlds for tests of the pure phases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stoker_git::{GitError, Resolution};

use super::dereference::{Heard, World};
use super::lookup::{LookupError, Outcome};
use super::request::{Request, decide};
use super::slim::{GatewayPod, MetadataMap, StatusMap};
use crate::api::{Stoker, SyncProfile};
use crate::protocol::{AgentReport, AgentStatus, Trust};

pub(super) const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A world with a resolved ref and nothing else.
pub(super) fn world(spec: Value) -> World {
    let mut full = json!({
        "git": {"repo": "https://git.example.com/plant.git", "ref": "main"},
        "gateway": {"apiKeySecretRef": {"name": "k"}},
    });
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    let stoker: Stoker = serde_json::from_value(json!({
        "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker",
        "metadata": {
            "name": "plant", "namespace": "site", "uid": "cr-uid", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": full,
    }))
    .unwrap();
    let request = Request::default();
    let decision = decide(&stoker.spec.git.r#ref, &request, None, None);
    World {
        stoker: Arc::new(stoker),
        profiles: Vec::new(),
        pods: Vec::new(),
        reports: BTreeMap::new(),
        metadata: None,
        role_digest: None,
        binding_digest: None,
        request,
        decision,
        lookup: Some(found(COMMIT)),
        next_lookup: None,
    }
}

pub(super) fn found(commit: &str) -> Outcome {
    let resolution: Resolution = serde_json::from_value(
        json!({"commit": commit, "kind": "Branch", "reference": "refs/heads/main", "warnings": []}),
    )
    .unwrap();
    Outcome {
        result: Ok(resolution),
        trust: Trust::default(),
        trigger: None,
        at: Timestamp::UNIX_EPOCH,
        problems: Vec::new(),
    }
}

pub(super) fn failed(error: GitError) -> Outcome {
    Outcome { result: Err(LookupError::Git(error)), ..found(COMMIT) }
}

impl World {
    pub(super) fn pod(mut self, name: &str, sidecar: bool, annotations: Value) -> Self {
        let labels = if sidecar { json!({"stoker.io/agent": "true"}) } else { json!({}) };
        let pod: GatewayPod = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "site", "uid": format!("{name}-uid"),
                "labels": labels, "annotations": annotations,
            },
            "spec": {"serviceAccountName": "gateways"},
        }))
        .unwrap();
        self.pods.push(Arc::new(pod));
        self
    }

    pub(super) fn profile(mut self, name: &str, spec: Value) -> Self {
        let profile: SyncProfile = serde_json::from_value(json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "SyncProfile",
            "metadata": {"name": name, "namespace": "site", "generation": 1}, "spec": spec,
        }))
        .unwrap();
        self.profiles.push(Arc::new(profile));
        self
    }

    /// What the agent of `pod` says, and for how long it has been silent since.
    pub(super) fn says(self, pod: &str, status: AgentStatus, silent_for: Duration) -> Self {
        self.says_as(pod, &format!("{pod}-uid"), status, silent_for)
    }

    pub(super) fn says_as(
        mut self,
        pod: &str,
        owner: &str,
        status: AgentStatus,
        silent_for: Duration,
    ) -> Self {
        let status = AgentStatus { cr: "plant".into(), pod: pod.into(), ..status };
        let report =
            AgentReport { status: Some(status), heartbeat: Some(Timestamp::UNIX_EPOCH), report: None };
        let name = crate::names::status("plant", pod);
        let map: StatusMap = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "site", "uid": "map-uid", "labels": {"stoker.io/cr-name": "plant"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": owner}],
            },
            "data": report.to_data(),
        }))
        .unwrap();
        self.reports.insert(
            name,
            Heard { map: Arc::new(map), silent_for, owner_is_there: owner == format!("{pod}-uid") },
        );
        self
    }

    /// As it is after `objects` were written.
    pub(super) fn after(mut self, objects: &super::build::Objects) -> Self {
        self.metadata = objects.metadata_map.clone().map(|map: MetadataMap| Arc::new(map));
        self
    }

    pub(super) fn with_spec(mut self, change: impl FnOnce(&mut crate::api::StokerSpec)) -> Self {
        change(&mut Arc::make_mut(&mut self.stoker).spec);
        self
    }
}
