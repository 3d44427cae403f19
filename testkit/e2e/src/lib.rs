//! The whole product on a real node: chart, forge, gateways, a push, a bad push. `cargo xtask tour` prints it, the
//! end-to-end tests assert on it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use stoker_k8s::annotations::REQUESTED_AT;
use stoker_k8s::api::{Stoker, SyncStatus};
use stoker_k8s::conditions;
use stoker_k8s::protocol::{AgentReport, Metadata};
use tokio::sync::mpsc;

use stoker_testkit::gitea::{ForgeRepo, Gitea};
use stoker_testkit::node::Node;
use stoker_testkit::repo::Repo;
use stoker_testkit::{Namespace, ignition, wait};

/// Name of the `Stoker`.
pub const CR: &str = "my-sync";
/// The release and its namespace.
const RELEASE: &str = "stoker";
const RELEASE_NAMESPACE: &str = "stoker-system";
const API_KEY: &str = "tour:5uper-secret-tour-key";
const HOOK_SECRET: &str = "the tour's webhook secret";
/// The user of the official gateway image.
const GATEWAY_USER: u32 = 2003;
/// The view that the tour edits.
pub const VIEW: &str = "projects/line/com.inductiveautomation.perspective/views/overview/main/view.json";
const SERVICE: &str = "services/gateway";

/// The chart, installed.
pub struct Installation<'n> {
    node: &'n Node,
}

/// Gateways in a namespace, kept in step with a repository on a forge.
pub struct Site<'n> {
    node: &'n Node,
    /// The forge.
    pub forge: Gitea,
    /// The repository on the forge.
    pub remote: ForgeRepo,
    /// The developer's clone.
    pub clone: Repo,
    /// Where it all lives.
    pub namespace: Namespace,
    /// The gateways' data directories, on this machine.
    pub data: tempfile::TempDir,
    client: Client,
    replicas: usize,
}

/// A push that has just begun.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The commit.
    pub commit: String,
    /// When it began.
    pub at: Instant,
    requested_before: Option<String>,
}

/// When a pushed commit got how far, since the push began.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// The forge's delivery is on the `Stoker`.
    pub delivered: Option<Duration>,
    /// The commit is in the metadata that agents watch.
    pub resolved: Option<Duration>,
    /// Per gateway: the files are in place.
    pub applied: BTreeMap<String, Duration>,
    /// Per gateway: it has confirmed the scan.
    pub confirmed: BTreeMap<String, Duration>,
    /// Per gateway: what its agent says each phase took, in milliseconds.
    pub phases: BTreeMap<String, BTreeMap<String, u64>>,
    /// The `Stoker` is Ready at this commit.
    pub ready: Option<Duration>,
}

impl<'n> Installation<'n> {
    /// Installs the chart at `chart` with Helm, with images that are in the node already.
    ///
    /// # Errors
    ///
    /// Helm fails, or a pod does not become ready.
    pub fn install(node: &'n Node, chart: &Path) -> Result<Self> {
        let chart = chart.canonicalize()?.display().to_string();
        let never = ["--set", "image.pullPolicy=Never", "--set", "agent.image.pullPolicy=Never"];
        let mut words =
            vec!["helm", "upgrade", "--install", RELEASE, &chart, "--namespace", RELEASE_NAMESPACE];
        words.extend(["--create-namespace", "--wait", "--timeout", "120s"]);
        words.extend(never);
        node.exec(&words)?;
        Ok(Self { node })
    }

    /// Takes the release away again; CRDs stay, as the chart's default is.
    ///
    /// # Errors
    ///
    /// Helm fails.
    pub fn uninstall(self) -> Result<()> {
        self.node.exec(&["helm", "uninstall", RELEASE, "--namespace", RELEASE_NAMESPACE, "--wait"])?;
        Ok(())
    }

    /// The receiver's address inside the cluster.
    ///
    /// # Errors
    ///
    /// There is no such Service.
    pub async fn receiver(&self) -> Result<String> {
        let services: Api<Service> = Api::namespaced(self.node.client()?, RELEASE_NAMESPACE);
        let spec = services.get("stoker-receiver").await?.spec.unwrap_or_default();
        let port = spec.ports.unwrap_or_default().first().map_or(80, |p| p.port);
        Ok(format!("http://{}:{port}", spec.cluster_ip.context("the receiver has no address")?))
    }
}

impl<'n> Site<'n> {
    /// A forge with a repository, a `Stoker`, and `replicas` gateways in the official chart's shape.
    ///
    /// # Errors
    ///
    /// Something does not start.
    pub async fn build(installation: &Installation<'n>, forge: Gitea, replicas: usize) -> Result<Self> {
        let node = installation.node;
        let client = node.client()?;
        let remote = forge.create_repo("plant", true).await?;
        let clone = Repo::new()?;
        clone.write_tree(&ignition::small_site())?;
        clone.commit("the plant")?;
        forge.push(&clone, &remote, &["HEAD:refs/heads/main"])?;

        let namespace = node.namespace().await?;
        let name = namespace.to_string();
        let hook = format!("{}/v1/namespaces/{name}/stokers/{CR}/webhook", installation.receiver().await?);
        forge.create_webhook(&remote, &hook, HOOK_SECRET, &["push"]).await?;

        let data = tempfile::Builder::new().prefix("stoker-site-").tempdir()?;
        let site = Self { node, forge, remote, clone, namespace, data, client, replicas };
        site.apply(&site.secrets())?;
        site.apply(&[site.stoker()])?;
        let volumes = (0..replicas).map(|n| site.volume(n)).collect::<Result<Vec<_>>>()?;
        site.apply(&volumes)?;
        site.apply(&[site.gateways()])?;
        Ok(site)
    }

    /// Applies objects as a user does: with kubectl.
    ///
    /// # Errors
    ///
    /// What kubectl says.
    pub fn apply(&self, objects: &[Value]) -> Result<String> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut command = self.node.command("kubectl");
        command.args(["apply", "--namespace", &self.namespace.to_string(), "--filename", "-"]);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        process.stdin.take().context("kubectl reads no input")?.write_all(list.to_string().as_bytes())?;
        let output = process.wait_with_output()?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "kubectl apply: {text}");
        Ok(text)
    }

    /// Runs kubectl in the site's namespace.
    ///
    /// # Errors
    ///
    /// What kubectl says.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        let namespace = self.namespace.to_string();
        let mut all = vec!["kubectl", "--namespace", &namespace];
        all.extend(words);
        self.node.exec(&all)
    }

    /// The cluster's administrator.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The data directory of a gateway.
    #[must_use]
    pub fn data_of(&self, replica: usize) -> PathBuf {
        self.data.path().join(format!("gw-{replica}"))
    }

    /// Commits and pushes one file.
    ///
    /// # Errors
    ///
    /// git fails.
    pub async fn push(&self, path: &str, content: &str) -> Result<Pushed> {
        let commit = self.clone.commit_files("a change", &[(&format!("{SERVICE}/{path}"), content)])?;
        let requested_before = self.requested_at().await?;
        let at = Instant::now();
        self.forge.push(&self.clone, &self.remote, &["HEAD:refs/heads/main"])?;
        Ok(Pushed { commit, at, requested_before })
    }

    /// What is on the forge now, as if it had been pushed this moment.
    ///
    /// # Errors
    ///
    /// git fails.
    pub fn head(&self) -> Result<Pushed> {
        Ok(Pushed { commit: self.clone.head()?, at: Instant::now(), requested_before: None })
    }

    /// Follows a commit until the `Stoker` is Ready at it.
    ///
    /// # Errors
    ///
    /// It is not within `limit`; the error says how far it got.
    pub async fn follow(&self, pushed: &Pushed, limit: Duration) -> Result<Timeline> {
        let (commit, since) = (pushed.commit.as_str(), pushed.at);
        let namespace = self.namespace.to_string();
        let (sender, mut seen) = mpsc::unbounded_channel();
        let stokers =
            watcher(Api::<Stoker>::namespaced(self.client.clone(), &namespace), watcher::Config::default());
        let maps = watcher(
            Api::<ConfigMap>::namespaced(self.client.clone(), &namespace),
            watcher::Config::default(),
        );
        let watching = async {
            let mut stokers = std::pin::pin!(stokers.default_backoff().applied_objects());
            let mut maps = std::pin::pin!(maps.default_backoff().applied_objects());
            loop {
                let what = tokio::select! {
                    Some(stoker) = stokers.next() => stoker.map(|s| Seen::Stoker(Box::new(s))),
                    Some(map) = maps.next() => map.map(|m| Seen::Map(Box::new(m))),
                    else => return,
                };
                if let Ok(what) = what {
                    let _ = sender.send((what, since.elapsed()));
                }
            }
        };
        let mut timeline = Timeline::default();
        let before = &pushed.requested_before;
        let reading = async {
            while let Some((what, at)) = seen.recv().await {
                match what {
                    Seen::Stoker(stoker) => {
                        timeline.stoker(&stoker, commit, before.as_deref(), self.replicas, at)
                    }
                    Seen::Map(map) => timeline.map(&map, commit, at),
                }
                if timeline.ready.is_some() {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(limit, async {
            tokio::select! {
                () = watching => {}
                () = reading => {}
            }
        });
        if ended.await.is_err() {
            let state = self.kubectl(&["get", "stokers", "--output", "yaml"]).unwrap_or_default();
            bail!("{commit} is not live after {} s: {timeline:?}\n{state}", limit.as_secs());
        }
        Ok(timeline)
    }

    /// Waits until the forge's delivery of a push is on the `Stoker`.
    ///
    /// # Errors
    ///
    /// It is not within `limit`.
    pub async fn until_delivered(&self, pushed: &Pushed, limit: Duration) -> Result<()> {
        wait::until_true("the forge's delivery", limit, || async {
            let now = self.requested_at().await?;
            Ok(now.is_some() && now != pushed.requested_before)
        })
        .await
    }

    async fn requested_at(&self) -> Result<Option<String>> {
        let stoker = self.stoker_now().await?;
        Ok(stoker.metadata.annotations.unwrap_or_default().get(REQUESTED_AT).cloned())
    }

    /// The `Stoker` as it stands.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn stoker_now(&self) -> Result<Stoker> {
        Ok(Api::namespaced(self.client.clone(), &self.namespace).get(CR).await?)
    }

    /// Waits until every gateway reports a status, and returns their messages by pod.
    ///
    /// # Errors
    ///
    /// They do not within `limit`.
    pub async fn until_all(
        &self,
        status: SyncStatus,
        commit: &str,
        limit: Duration,
    ) -> Result<BTreeMap<String, String>> {
        wait::until(&format!("{} gateways to be {}", self.replicas, status.as_str()), limit, || async {
            let gateways = self.stoker_now().await?.status.unwrap_or_default().discovered_gateways;
            let matching: BTreeMap<_, _> = gateways
                .into_iter()
                .filter(|g| g.sync_status == status && g.target_commit.as_deref() == Some(commit))
                .map(|g| (g.pod_name, g.message))
                .collect();
            Ok((matching.len() == self.replicas).then_some(matching))
        })
        .await
    }

    fn secrets(&self) -> Vec<Value> {
        let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        vec![
            secret("git-token", json!({"token": self.forge.token()})),
            secret("ignition-api-key", json!({"apiKey": API_KEY})),
            secret("hook", json!({"key": HOOK_SECRET})),
        ]
    }

    fn stoker(&self) -> Value {
        json!({
            "apiVersion": "stoker.io/v1alpha1",
            "kind": "Stoker",
            "metadata": {"name": CR},
            "spec": {
                "git": {
                    "repo": self.remote.clone_url,
                    "ref": "main",
                    "allowInsecure": true,
                    "auth": {"token": {"secretRef": {"name": "git-token", "key": "token"}, "username": self.forge.user()}},
                },
                "gateway": {"apiKeySecretRef": {"name": "ignition-api-key"}},
                "webhook": {"secretRef": {"name": "hook", "key": "key"}},
                // Long enough that nothing in a test can be polling's work.
                "polling": {"interval": "1h"},
            },
        })
    }

    /// A directory of this machine as the volume of one gateway.
    fn volume(&self, replica: usize) -> Result<Value> {
        let folder = self.data_of(replica);
        std::fs::create_dir_all(&folder)?;
        for path in [self.data.path(), &folder] {
            chown(path, Some(GATEWAY_USER), Some(GATEWAY_USER))?;
        }
        let namespace = self.namespace.to_string();
        Ok(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": format!("{namespace}-{replica}")},
            "spec": {
                "capacity": {"storage": "3Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": format!("data-gw-{replica}")},
                "hostPath": {"path": folder},
            },
        }))
    }

    /// The official chart's StatefulSet, with the fake gateway in the gateway's place.
    fn gateways(&self) -> Value {
        let image = format!("ghcr.io/stoker-io/fake-gateway:{}", env!("CARGO_PKG_VERSION"));
        let data = json!({"name": "data", "mountPath": "/usr/local/bin/ignition/data"});
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "gw", "labels": {"app.kubernetes.io/name": "ignition"}},
            "spec": {
                "serviceName": "gw",
                "replicas": self.replicas,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app.kubernetes.io/name": "ignition"}},
                "template": {
                    "metadata": {
                        "labels": {"app.kubernetes.io/name": "ignition"},
                        "annotations": {"stoker.io/inject": "true", "stoker.io/service-path": SERVICE},
                    },
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

enum Seen {
    Stoker(Box<Stoker>),
    Map(Box<ConfigMap>),
}

impl Timeline {
    fn stoker(&mut self, stoker: &Stoker, commit: &str, before: Option<&str>, replicas: usize, at: Duration) {
        let requested = stoker.metadata.annotations.as_ref().and_then(|a| a.get(REQUESTED_AT));
        if requested.is_some() && requested.map(String::as_str) != before {
            self.delivered.get_or_insert(at);
        }
        let status = stoker.status.clone().unwrap_or_default();
        let synced =
            status.discovered_gateways.iter().filter(|g| g.synced_commit.as_deref() == Some(commit)).count();
        let ready = conditions::is_true(&status.conditions, conditions::READY);
        if ready && synced == replicas && status.last_sync_commit.as_deref() == Some(commit) {
            self.ready.get_or_insert(at);
        }
    }

    fn map(&mut self, map: &ConfigMap, commit: &str, at: Duration) {
        let data = map.data.clone().unwrap_or_default();
        if let Ok(metadata) = Metadata::from_data(&data)
            && metadata.commit.as_deref() == Some(commit)
        {
            self.resolved.get_or_insert(at);
        }
        let name = map.metadata.name.clone().unwrap_or_default();
        let Some(pod) = name.strip_prefix(&format!("stoker-status-{CR}-")) else { return };
        let Ok(AgentReport { status: Some(status), .. }) = AgentReport::from_data(&data) else { return };
        if status.target_commit.as_deref() != Some(commit) {
            return;
        }
        if status.reason.as_deref() == Some("Confirming") || status.sync_status == SyncStatus::Synced {
            self.applied.entry(pod.to_owned()).or_insert(at);
        }
        if status.sync_status == SyncStatus::Synced {
            self.confirmed.entry(pod.to_owned()).or_insert(at);
            self.phases.insert(pod.to_owned(), status.phase_millis);
        }
    }

    /// The timeline as lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let ms = |at: Option<Duration>| at.map_or("not seen".to_owned(), |d| format!("{} ms", d.as_millis()));
        let mut lines = vec![format!("delivery stored on the Stoker   {}", ms(self.delivered))];
        lines.push(format!("ref resolved, agents told       {}", ms(self.resolved)));
        for (pod, at) in &self.confirmed {
            let phase =
                |name: &str| self.phases.get(pod).and_then(|p| p.get(name)).copied().unwrap_or_default();
            lines.push(format!(
                "{pod}: files in place           {} (fetch {} ms, plan {} ms, apply {} ms)",
                ms(self.applied.get(pod).copied()),
                phase("fetch"),
                phase("plan"),
                phase("apply")
            ));
            lines.push(format!(
                "{pod}: scan confirmed           {} (scan {} ms)",
                ms(Some(*at)),
                phase("scan")
            ));
        }
        lines.push(format!("Ready=True                      {}", ms(self.ready)));
        lines
    }
}
