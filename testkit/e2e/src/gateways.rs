//! Gateways in the shape of the official chart, with the fake gateway in the gateway's place.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The user of the official gateway image.
pub const GATEWAY_USER: u32 = 2003;

/// Gateways of one role: a StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Name of the StatefulSet; its pods are `<name>-0` and so on.
    pub name: String,
    /// How many pods.
    pub replicas: usize,
    /// How many volumes there are, for as many pods at most.
    pub volumes: usize,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

impl Role {
    /// One gateway that asks for the sidecar.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            replicas: 1,
            volumes: 1,
            annotations: BTreeMap::from([("stoker.io/inject".to_owned(), "true".to_owned())]),
            labels: BTreeMap::from([("app.kubernetes.io/name".to_owned(), name.to_owned())]),
        }
    }

    /// So many pods.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self.volumes = self.volumes.max(replicas);
        self
    }

    /// Volumes for so many pods, for a role that is scaled up later.
    #[must_use]
    pub fn volumes(mut self, volumes: usize) -> Self {
        self.volumes = volumes.max(self.replicas);
        self
    }

    /// An annotation `stoker.io/<name>` of the pods.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(format!("stoker.io/{name}"), value.to_owned());
        self
    }

    /// The names of its pods.
    pub fn pods(&self) -> impl Iterator<Item = String> {
        (0..self.replicas).map(|number| format!("{}-{number}", self.name))
    }

    /// The StatefulSet.
    pub(crate) fn stateful_set(&self) -> Value {
        let image = format!("ghcr.io/stoker-io/fake-gateway:{}", env!("CARGO_PKG_VERSION"));
        let data = json!({"name": "data", "mountPath": "/usr/local/bin/ignition/data"});
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": {
                "serviceName": self.name,
                "replicas": self.replicas,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": self.labels},
                "template": {
                    "metadata": {"labels": self.labels, "annotations": self.annotations},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": GATEWAY_USER, "runAsGroup": GATEWAY_USER, "fsGroup": GATEWAY_USER,
                        },
                        "initContainers": [{
                            "name": "preconfigure", "image": image, "imagePullPolicy": "Never",
                            "args": ["--list-switches"],
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        }],
                        "containers": [{
                            "name": "gateway", "image": image, "imagePullPolicy": "Never",
                            "args": [
                                "--listen=0.0.0.0:8088", "--tls-listen=0.0.0.0:8043",
                                "--data-dir=/usr/local/bin/ignition/data", "--api-key-file=/run/secrets/key/apiKey",
                            ],
                            "readinessProbe": {"httpGet": {"path": "/StatusPing", "port": 8088}, "periodSeconds": 1},
                            "volumeMounts": [data, {"name": "key", "mountPath": "/run/secrets/key", "readOnly": true}],
                        }],
                        "volumes": [{"name": "key", "secret": {"secretName": "ignition-api-key"}}],
                    },
                },
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "3Gi"}}},
                }],
            },
        })
    }
}

/// A directory of this machine as the volume of pod `<role>-<replica>`.
pub(crate) fn volume(namespace: &str, pod: &str, folder: &std::path::Path) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": format!("{namespace}-{pod}")},
        "spec": {
            "capacity": {"storage": "3Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": format!("data-{pod}")},
            "hostPath": {"path": folder},
        },
    })
}
