//! What the injected container and the agent in it promise each other.
//!
//! The webhook that injects and the agent that is injected may be of different versions: a `Stoker` can name another
//! agent image, and a pod keeps its agent while the webhook is upgraded. So what this module names is only ever added
//! to. An agent ignores nothing it is told: an unknown flag is an error, therefore a new flag goes to agents that know
//! it, and everything here has its meaning from version 1 on.
//!
//! ```text
//! stoker-agent --cr=my-sync --namespace=plant-a --pod=$(STOKER_POD_NAME) --pod-uid=$(STOKER_POD_UID)
//!              --health-port=8687 --startup-timeout-seconds=300 --on-startup-timeout=UseLastGood
//!              --cache-limit-bytes=2147483648
//!
//! /data                                          the gateway's data directory, read and write
//! /data/...                                      whatever the gateway has mounted below its data directory
//! /var/cache/stoker                              git objects and scratch space, an emptyDir with a size limit
//! /etc/stoker/podinfo/{annotations,labels}       of the pod, live (downward API)
//! /etc/stoker/git/{token,github-app-key.pem,ssh-privatekey,passphrase,proxy-username,proxy-password}
//!                                                as far as the Stoker names them
//! /etc/stoker/gateway/api-key                    the gateway's API key
//! /var/run/secrets/kubernetes.io/serviceaccount/{token,ca.crt,namespace}  the agent's own projected token
//! ```
//!
//! All else of the file system is read-only. Every credential file may be missing (the Secret does not exist yet, or
//! lacks the key: a pod must start without it) and may appear or change at any time; read it at each use. The files are
//! never mounted by `subPath`, so changes do arrive.
//!
//! Flags name who the agent is, and what is fixed when the pod is created or must be known while the API server is
//! away. Everything else comes from the ConfigMap `stoker-metadata-<cr>`.

/// Name of the injected container. When the pod has one of this name already, ours is `stoker-agent-2` and so on.
pub const CONTAINER: &str = "stoker-agent";
/// First part of every name that injection gives to a volume.
pub const VOLUME_PREFIX: &str = "stoker-";

/// Flag with the name of the `Stoker`.
pub const FLAG_CR: &str = "--cr";
/// Flag with the namespace of the pod, which is the namespace of the `Stoker`.
pub const FLAG_NAMESPACE: &str = "--namespace";
/// Flag with the name of the pod.
pub const FLAG_POD: &str = "--pod";
/// Flag with the UID of the pod: a StatefulSet gives the name of a deleted pod to the next one, but never its UID.
pub const FLAG_POD_UID: &str = "--pod-uid";
/// Flag with the TCP port on which the agent answers `/startupz`, `/livez` and `/metrics`.
///
/// The kubelet asks the pod's address, so the agent listens on all of them and not on the loopback only.
pub const FLAG_HEALTH_PORT: &str = "--health-port";
/// Flag with `spec.agent.startup.timeout`, in whole seconds: it must be known when the API server is unreachable.
pub const FLAG_STARTUP_TIMEOUT_SECONDS: &str = "--startup-timeout-seconds";
/// Flag with `spec.agent.startup.onTimeout`: `UseLastGood` or `Block`.
pub const FLAG_ON_STARTUP_TIMEOUT: &str = "--on-startup-timeout";
/// Flag with the size limit of [`CACHE_DIR`] in bytes. The kubelet evicts the whole pod when the limit is passed, so
/// the agent stays well below it.
pub const FLAG_CACHE_LIMIT_BYTES: &str = "--cache-limit-bytes";

/// Environment variable with the name of the pod (downward API; a pod made from `generateName` has none at admission).
pub const ENV_POD_NAME: &str = "STOKER_POD_NAME";
/// Environment variable with the UID of the pod.
pub const ENV_POD_UID: &str = "STOKER_POD_UID";

/// Where the gateway's data directory is mounted in the agent.
pub const DATA_DIR: &str = "/data";
/// Git objects and scratch space.
pub const CACHE_DIR: &str = "/var/cache/stoker";
/// Directory of the pod's annotations and labels.
pub const PODINFO_DIR: &str = "/etc/stoker/podinfo";
/// The pod's annotations: one `key="value"` per line, values quoted as Go does; [`super::podinfo::parse`] reads it.
pub const PODINFO_ANNOTATIONS: &str = "/etc/stoker/podinfo/annotations";
/// The pod's labels, in the same format.
pub const PODINFO_LABELS: &str = "/etc/stoker/podinfo/labels";
/// Directory of the secrets that the agent needs to reach the repository. Not mounted when it needs none. Host keys and
/// authorities are no secrets: the metadata ConfigMap tells them.
pub const GIT_DIR: &str = "/etc/stoker/git";
/// Access token (`spec.git.auth.token`).
pub const GIT_TOKEN: &str = "/etc/stoker/git/token";
/// Private key of the GitHub App (`spec.git.auth.githubApp`).
pub const GIT_APP_KEY: &str = "/etc/stoker/git/github-app-key.pem";
/// SSH private key (`spec.git.auth.sshKey`).
pub const GIT_SSH_KEY: &str = "/etc/stoker/git/ssh-privatekey";
/// Passphrase of the SSH private key (`spec.git.auth.sshKey.passphraseSecretRef`).
pub const GIT_PASSPHRASE: &str = "/etc/stoker/git/passphrase";
/// User name at the proxy (`spec.git.proxy.secretRef`, key `username`).
pub const GIT_PROXY_USERNAME: &str = "/etc/stoker/git/proxy-username";
/// Password at the proxy (`spec.git.proxy.secretRef`, key `password`).
pub const GIT_PROXY_PASSWORD: &str = "/etc/stoker/git/proxy-password";
/// Directory of the keys that commits must be signed by (`spec.git.verify`), one or more in each file. Not mounted when
/// none have to be.
pub const SIGNING_KEYS_DIR: &str = "/etc/stoker/signing-keys";
/// Directory of what the agent needs to talk to its gateway.
pub const GATEWAY_DIR: &str = "/etc/stoker/gateway";
/// The gateway's API key, `name:secret` (`spec.gateway.apiKeySecretRef`).
pub const GATEWAY_API_KEY: &str = "/etc/stoker/gateway/api-key";
/// The agent's own service account token, the cluster's certificate authority and the namespace.
///
/// It is the place where every in-cluster client looks (`kube::Config::incluster`), and where the API server would
/// otherwise mount a second token. It exists even when the pod says `automountServiceAccountToken: false`.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Name of the container port of the health endpoints.
pub const HEALTH_PORT_NAME: &str = "stoker-health";
/// Default of [`FLAG_HEALTH_PORT`]; when a container of the pod declares this port, the next free one is taken.
pub const HEALTH_PORT: u16 = 8687;
/// `200` once the gateway may start: after the first sync is applied, or when the startup policy says so.
pub const PATH_STARTUP: &str = "/startupz";
/// `200` as long as the process makes progress, whatever git, the API server or the gateway do.
pub const PATH_LIVE: &str = "/livez";
/// Metrics in the Prometheus text format.
pub const PATH_METRICS: &str = "/metrics";

/// User and group of the agent image, in force where neither the pod nor the gateway's container names one.
///
/// They are those of the official `ignition` image, so files belong to the gateway.
pub const IMAGE_UID: i64 = 2003;

/// Where a gateway's data directory is, unless the annotation `stoker.io/data-path` names another place.
pub const GATEWAY_DATA_PATH: &str = "/usr/local/bin/ignition/data";
/// Name of the gateway's container in the official chart: it decides when several mount a data directory.
pub const GATEWAY_CONTAINER: &str = "gateway";
