//! Gateways in a namespace, kept in step with a repository on a forge.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stoker_k8s::annotations::REQUESTED_AT;
use stoker_k8s::api::{GatewayEntry, Stoker, SyncStatus};
use stoker_testkit::gitea::{ForgeRepo, Gitea};
use stoker_testkit::ignition::Tree;
use stoker_testkit::node::Node;
use stoker_testkit::repo::Repo;
use stoker_testkit::{Namespace, ignition, wait};
use tokio::sync::mpsc;

use crate::gateways::{GATEWAY_USER, Role, volume};
use crate::installation::Installation;
use crate::timeline::{Followed, Timeline};
use crate::{CR, SERVICE};

/// What gateways accept as their API key.
pub const API_KEY: &str = "tour:5uper-secret-tour-key";
/// What the forge signs its deliveries with.
pub const HOOK_SECRET: &str = "the tour's webhook secret";
/// Longest time for the steps of building.
const PATIENCE: Duration = Duration::from_secs(60);
/// Stands in the examples for the repository; a site puts its own there.
const PLACEHOLDER: &str = "https://git.example.com/plant/ignition.git";

/// What a site is made of.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The repository's first commit.
    pub tree: Tree,
    /// The `Stoker` first, and what belongs to it.
    pub objects: Vec<Value>,
    /// The gateways.
    pub roles: Vec<Role>,
}

/// A site that runs.
pub struct Site<'n> {
    node: &'n Node,
    forge: &'n Gitea,
    /// The repository on the forge.
    pub remote: ForgeRepo,
    /// The developer's clone.
    pub clone: Repo,
    /// Where it all lives.
    pub namespace: Namespace,
    /// The gateways.
    pub roles: Vec<Role>,
    cr: String,
    objects: Vec<Value>,
    /// The gateways' data directories, on this machine.
    data: tempfile::TempDir,
    client: Client,
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

impl Pushed {
    /// As if this commit had been pushed this moment.
    #[must_use]
    pub fn now(commit: &str) -> Self {
        Self { commit: commit.to_owned(), at: Instant::now(), requested_before: None }
    }
}

impl Blueprint {
    /// One service in the two-tier layout and so many gateways `gw` that follow it; polling is too slow to matter.
    #[must_use]
    pub fn walking(replicas: usize) -> Self {
        let stoker = json!({
            "apiVersion": "stoker.io/v1alpha1",
            "kind": "Stoker",
            "metadata": {"name": CR},
            "spec": {
                "git": {
                    "repo": PLACEHOLDER,
                    "ref": "main",
                    "auth": {"token": {"secretRef": {"name": "git-token", "key": "token"}}},
                },
                "gateway": {"apiKeySecretRef": {"name": "ignition-api-key"}},
            },
        });
        Self {
            tree: ignition::small_site(),
            objects: vec![stoker],
            roles: vec![Role::new("gw").replicas(replicas).annotation("service-path", SERVICE)],
        }
    }

    /// The objects of a file of `docs/examples`, as written; gateways are added by [`Blueprint::role`].
    ///
    /// # Errors
    ///
    /// It cannot be read or is not YAML.
    pub fn example(file: &str, tree: Tree) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let objects = serde_saphyr::from_multiple(&text).with_context(|| format!("reading {file}"))?;
        Ok(Self { tree, objects, roles: Vec::new() })
    }

    /// Adds gateways of a role.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }
}

impl<'n> Site<'n> {
    /// Makes the repository, the objects and the gateways.
    ///
    /// # Errors
    ///
    /// Something does not start.
    pub async fn build(
        installation: &Installation<'n>,
        forge: &'n Gitea,
        blueprint: Blueprint,
    ) -> Result<Self> {
        let node = installation.node();
        let namespace = node.namespace().await?;
        let name = namespace.to_string();
        let remote = forge.create_repo(&name, true).await?;
        let clone = Repo::new()?;
        clone.write_tree(&blueprint.tree)?;
        clone.commit("the plant")?;

        let stoker = blueprint.objects.first().context("a site has a Stoker")?;
        let cr = stoker["metadata"]["name"].as_str().context("the Stoker has a name")?.to_owned();
        let hook = format!("{}/v1/namespaces/{name}/stokers/{cr}/webhook", installation.receiver().await?);
        forge.create_webhook(&remote, &hook, HOOK_SECRET, &["push"]).await?;

        let data = tempfile::Builder::new().prefix("stoker-site-").tempdir()?;
        let client = node.client()?;
        let Blueprint { objects, roles, .. } = blueprint;
        let mut site =
            Self { node, forge, remote, clone, namespace, roles, cr, objects: Vec::new(), data, client };
        site.objects = objects.into_iter().map(|object| site.adapt(object)).collect();
        site.apply(&site.secrets())?;
        site.apply_objects()?;
        // The first push comes last, and its delivery is waited for: it must not be taken for that of a later one.
        wait::until("the controller to know the Stoker", PATIENCE, || async {
            Ok(site.stoker_now().await?.status)
        })
        .await?;
        let first = site.push_clone().await?;
        wait::until_true("the first delivery", PATIENCE, || async {
            Ok(site.requested_at().await? != first.requested_before)
        })
        .await?;
        let volumes = site.volumes()?;
        site.apply(&volumes)?;
        site.apply(&site.roles.iter().map(Role::stateful_set).collect::<Vec<_>>())?;
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

    /// Applies the `Stoker` and what belongs to it as at the beginning.
    ///
    /// # Errors
    ///
    /// What kubectl says.
    pub fn apply_objects(&self) -> Result<String> {
        self.apply(&self.objects)
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

    /// The data directory of a gateway's pod.
    #[must_use]
    pub fn data_of(&self, pod: &str) -> PathBuf {
        self.data.path().join(pod)
    }

    /// A file of a gateway's data directory.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&self, pod: &str, path: &str) -> Result<String> {
        let full = self.data_of(pod).join(path);
        std::fs::read_to_string(&full).with_context(|| format!("reading {}", full.display()))
    }

    /// The pods that there should be.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        self.roles.iter().flat_map(Role::pods).collect()
    }

    /// Commits and pushes one file of the service of [`Blueprint::walking`].
    ///
    /// # Errors
    ///
    /// git fails.
    pub async fn push(&self, path: &str, content: &str) -> Result<Pushed> {
        self.push_files(&[(&format!("{SERVICE}/{path}"), content)]).await
    }

    /// Commits and pushes files, by their path in the repository.
    ///
    /// # Errors
    ///
    /// git fails.
    pub async fn push_files(&self, files: &[(&str, &str)]) -> Result<Pushed> {
        self.clone.commit_files("a change", files)?;
        self.push_clone().await
    }

    /// Pushes the branch of the clone to `main`.
    async fn push_clone(&self) -> Result<Pushed> {
        let commit = self.clone.head()?;
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
        Ok(Pushed::now(&self.clone.head()?))
    }

    /// Follows a commit until the `Stoker` is Ready at it, with every gateway of the site and no other.
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
        let followed = Followed {
            commit,
            cr: &self.cr,
            requested_before: pushed.requested_before.as_deref(),
            gateways: self.pods().len(),
        };
        let reading = async {
            while let Some((what, at)) = seen.recv().await {
                match what {
                    Seen::Stoker(stoker) => timeline.stoker(&stoker, &followed, at),
                    Seen::Map(map) => timeline.map(&map, &followed, at),
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
            let state = self.kubectl(&["get", "stokers,pods", "--output", "yaml"]).unwrap_or_default();
            bail!("{commit} is not live after {} s: {timeline:?}\n{state}", limit.as_secs());
        }
        Ok(timeline)
    }

    async fn requested_at(&self) -> Result<Option<String>> {
        Ok(self.stoker_now().await?.annotations().get(REQUESTED_AT).cloned())
    }

    /// The `Stoker` as it stands.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn stoker_now(&self) -> Result<Stoker> {
        Ok(Api::namespaced(self.client.clone(), &self.namespace).get(&self.cr).await?)
    }

    /// The gateways of the `Stoker`'s status, by pod.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn gateways_now(&self) -> Result<BTreeMap<String, GatewayEntry>> {
        let gateways = self.stoker_now().await?.status.unwrap_or_default().discovered_gateways;
        Ok(gateways.into_iter().map(|gateway| (gateway.pod_name.clone(), gateway)).collect())
    }

    /// A pod as it stands.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn pod_now(&self, name: &str) -> Result<Pod> {
        Ok(Api::namespaced(self.client.clone(), &self.namespace).get(name).await?)
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
        let count = self.pods().len();
        wait::until(&format!("{count} gateways to be {}", status.as_str()), limit, || async {
            let matching: BTreeMap<_, _> = self
                .gateways_now()
                .await?
                .into_iter()
                .filter(|(_, g)| g.sync_status == status && g.target_commit.as_deref() == Some(commit))
                .map(|(pod, gateway)| (pod, gateway.message))
                .collect();
            Ok((matching.len() == count).then_some(matching))
        })
        .await
    }

    /// Scales a role, as `kubectl scale` does.
    ///
    /// # Errors
    ///
    /// There is no such role, or kubectl refuses.
    pub fn scale(&mut self, role: &str, replicas: usize) -> Result<()> {
        let known = self.roles.iter_mut().find(|known| known.name == role).context("no such role")?;
        ensure!(replicas <= known.volumes, "there are {} volumes", known.volumes);
        known.replicas = replicas;
        self.kubectl(&["scale", "statefulset", role, &format!("--replicas={replicas}")])?;
        Ok(())
    }

    fn secrets(&self) -> Vec<Value> {
        let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        vec![
            secret("git-token", json!({"token": self.forge.token()})),
            secret("ignition-api-key", json!({"apiKey": API_KEY})),
            secret("stoker-webhook", json!({"key": HOOK_SECRET})),
        ]
    }

    /// Puts this site's repository and webhook secret into a `Stoker`; all else stays as written.
    fn adapt(&self, mut object: Value) -> Value {
        if object["kind"] != "Stoker" {
            return object;
        }
        let spec = &mut object["spec"];
        if spec["git"]["repo"] == PLACEHOLDER {
            spec["git"]["repo"] = json!(self.remote.clone_url);
            spec["git"]["allowInsecure"] = json!(true);
            spec["git"]["auth"]["token"]["username"] = json!(self.forge.user());
        }
        spec["webhook"]["secretRef"] = json!({"name": "stoker-webhook", "key": "key"});
        // Long enough that nothing in a test can be polling's work.
        spec["polling"] = json!({"interval": "1h"});
        object
    }

    /// Directories of this machine as the gateways' volumes.
    fn volumes(&self) -> Result<Vec<Value>> {
        let namespace = self.namespace.to_string();
        chown(self.data.path(), Some(GATEWAY_USER), Some(GATEWAY_USER))?;
        let pods =
            self.roles.iter().flat_map(|role| role.clone().replicas(role.volumes).pods().collect::<Vec<_>>());
        pods.map(|pod| {
            let folder = self.data_of(&pod);
            std::fs::create_dir_all(&folder)?;
            chown(&folder, Some(GATEWAY_USER), Some(GATEWAY_USER))?;
            Ok(volume(&namespace, &pod, &folder))
        })
        .collect()
    }
}

enum Seen {
    Stoker(Box<Stoker>),
    Map(Box<ConfigMap>),
}
