//! Kubernetes objects, reduced to what the controller reads.
//!
//! A typed Pod costs about 70 KB in a cache, a typed ConfigMap whatever people put into it. These cost a few hundred
//! bytes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

use crate::annotations::{AGENT_LABEL, APP_NAME_LABEL, INJECT};

/// A pod, reduced.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = "Pod")]
pub struct GatewayPod {
    /// Name, labels and annotations of ours, owner, times.
    pub metadata: ObjectMeta,
    /// What is read of its spec.
    #[serde(default)]
    pub spec: GatewayPodSpec,
    /// What is read of its status.
    #[serde(default)]
    pub status: GatewayPodStatus,
}

/// What is read of a pod's spec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayPodSpec {
    /// The service account it runs as.
    pub service_account_name: Option<String>,
}

/// What is read of a pod's status.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayPodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: Option<String>,
}

/// A ConfigMap of ours.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = "ConfigMap")]
pub struct MetadataMap {
    /// Name, labels, owner.
    pub metadata: ObjectMeta,
    /// The data.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

/// The ConfigMap in which an agent reports, without the long part.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = "ConfigMap")]
pub struct StatusMap {
    /// Name, labels, owner.
    pub metadata: ObjectMeta,
    /// What is read of the data.
    #[serde(default)]
    pub data: StatusData,
}

/// What is read of an agent's report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusData {
    /// Where the agent stands, as JSON.
    pub status: Option<String>,
    /// When it last spoke.
    pub heartbeat: Option<String>,
}

impl GatewayPod {
    /// Whether the pod asks for a sidecar or has one.
    #[must_use]
    pub fn concerns_us(&self) -> bool {
        self.has_agent() || self.annotations().get(INJECT).is_some_and(|v| v == "true")
    }

    /// Whether the pod has a sidecar.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.metadata.labels.as_ref().and_then(|l| l.get(AGENT_LABEL)).is_some_and(|v| v == "true")
    }

    /// Whether the pod is there to stay: neither going away nor finished.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && !matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// The annotations.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata.annotations.as_ref().unwrap_or(&NONE)
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// Drops what is never read.
    pub(crate) fn slim(&mut self) {
        slim_meta(&mut self.metadata);
        self.metadata.owner_references = None;
        if let Some(annotations) = &mut self.metadata.annotations {
            annotations.retain(|key, _| key.starts_with("stoker.io/"));
        }
        if let Some(labels) = &mut self.metadata.labels {
            labels.retain(|key, _| key.starts_with("stoker.io/") || key == APP_NAME_LABEL);
        }
    }
}

/// Drops what is never read of any object's metadata.
pub(crate) fn slim_meta(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.generate_name = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key != "kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_shrinks_to_what_is_read() {
        let mut pod: GatewayPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "gw-0",
                "labels": {"stoker.io/agent": "true", "app.kubernetes.io/name": "gw", "pod-template-hash": "x"},
                "annotations": {"stoker.io/service-path": "s", "huge": "x".repeat(100_000)},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {"serviceAccountName": "gw", "containers": [{"name": "a", "image": "b"}]},
            "status": {"phase": "Running", "containerStatuses": []},
        }))
        .unwrap();
        pod.slim();
        assert!(pod.has_agent() && pod.concerns_us() && pod.is_live());
        assert!(serde_json::to_string(&pod).unwrap().len() < 300);
        pod.status.phase = Some("Failed".into());
        assert!(!pod.is_live());
    }

    #[test]
    fn the_long_part_of_a_report_is_not_kept() {
        let map: StatusMap = serde_json::from_value(json!({
            "metadata": {"name": "x"},
            "data": {"status": "{}", "heartbeat": "2026-01-01T00:00:00Z", "report": "x".repeat(200_000)},
        }))
        .unwrap();
        assert!(serde_json::to_string(&map).unwrap().len() < 200);
    }
}
