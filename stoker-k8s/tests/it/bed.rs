//! A controller that runs as its real service account, beside a repository and whatever pods a test makes.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stoker_git::shared::Asking;
use stoker_git::{
    Access, AdvertisedRef, Advertisement, AskRefs, GitError, ObjectFormat, RefSpec, RemoteUrl, SharedRefs,
};
use stoker_k8s::api::{GatewayEntry, Stoker, SyncProfile, SyncStatus};
use stoker_k8s::conditions;
use stoker_k8s::controller::{self, Patience, Scope, Settings};
use stoker_k8s::protocol::{AgentReport, AgentStatus, Metadata};
use stoker_testkit::{ApiServer, Namespace, wait};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{self, Cluster};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
const ACCOUNT: &str = "stoker-controller";

/// Asks with the git of this machine, and counts.
pub(crate) struct Git {
    pub(crate) requests: AtomicUsize,
    /// What it was given last to get in with.
    pub(crate) offered: Mutex<Option<Access>>,
}

impl AskRefs for Git {
    fn ask<'a>(&'a self, url: &'a RemoteUrl, access: &'a Access, _: &'a [RefSpec]) -> Asking<'a> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::SeqCst);
            *self.offered.lock().unwrap() = Some(access.clone());
            let output = tokio::process::Command::new("git")
                .args(["ls-remote", "--refs", url.path()])
                .output()
                .await
                .unwrap();
            if !output.status.success() {
                return Err(GitError::RepositoryNotFound { url: url.to_string() });
            }
            let refs = String::from_utf8(output.stdout)
                .unwrap()
                .lines()
                .filter_map(|line| line.split_once('\t'))
                .map(|(id, name)| AdvertisedRef { name: name.into(), id: id.parse().unwrap(), peeled: None })
                .collect();
            Ok(Advertisement::complete(refs, None, ObjectFormat::Sha1))
        })
    }
}

/// A repository that commits can be pushed to.
pub(crate) struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    pub(crate) fn new() -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit("first");
        repository
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    /// Commits to the branch that is checked out and returns the id.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// What the chart grants the controller.
fn rules() -> Value {
    json!([
        {"apiGroups": ["stoker.io"], "resources": ["stokers", "syncprofiles"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["stoker.io"], "resources": ["stokers"], "verbs": ["patch"]},
        {"apiGroups": ["stoker.io"], "resources": ["stokers/status", "syncprofiles/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": [""], "resources": ["configmaps"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        },
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {
            "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        },
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ])
}

/// A running controller.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A namespace with a repository and a controller.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Namespace,
    pub(crate) repository: Repository,
    pub(crate) git: Arc<Git>,
    pub(crate) client: Client,
    running: Vec<Running>,
}

impl Bed {
    /// A namespace, a repository and a controller that leads.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Option<Self> {
        let mut bed = Self::empty().await?;
        let (_, leads) = watch::channel(true);
        bed.start(settings, leads).await;
        Some(bed)
    }

    /// On an API server of its own.
    pub(crate) async fn on(server: &'static ApiServer) -> Self {
        cluster::install(&server.client().unwrap()).await;
        let mut bed = Self::within(Cluster { server }).await;
        let (_, leads) = watch::channel(true);
        bed.start(Settings::default(), leads).await;
        bed
    }

    /// Without a controller.
    pub(crate) async fn empty() -> Option<Self> {
        Some(Self::within(cluster::get().await?).await)
    }

    async fn within(cluster: Cluster) -> Self {
        let namespace = cluster.server.namespace().await.unwrap();
        let client = cluster.client();
        grant(&client, &namespace).await;
        let git = Arc::new(Git { requests: AtomicUsize::new(0), offered: Mutex::default() });
        Self { cluster, namespace, repository: Repository::new(), git, client, running: Vec::new() }
    }

    /// The user name of the controller.
    pub(crate) fn controller_user(&self) -> String {
        format!("system:serviceaccount:{}:{ACCOUNT}", &*self.namespace)
    }

    /// Starts a controller as its service account.
    pub(crate) async fn start(&mut self, settings: Settings, leads: watch::Receiver<bool>) {
        let client = self.controller_client().await;
        self.start_as(client, settings, leads).await;
    }

    pub(crate) async fn start_as(
        &mut self,
        client: Client,
        settings: Settings,
        leads: watch::Receiver<bool>,
    ) {
        let settings = Settings { scope: Scope::Namespace(self.namespace.to_string()), ..settings };
        let (stop, stopping) = watch::channel(false);
        let (ready, mut filled) = watch::channel(false);
        let refs = SharedRefs::new(Arc::clone(&self.git));
        let task =
            tokio::spawn(controller::run(client.clone(), client, refs, settings, leads, ready, stopping));
        tokio::time::timeout(LIMIT, filled.wait_for(|f| *f)).await.expect("caches are filled").unwrap();
        self.running.push(Running { stop, task });
    }

    pub(crate) async fn controller_client(&self) -> Client {
        self.cluster.server.token_client(&self.namespace, ACCOUNT).await.unwrap()
    }

    /// Ends all controllers, and sees that they do end.
    pub(crate) async fn stop(&mut self) {
        for running in self.running.drain(..) {
            let _ = running.stop.send(true);
            tokio::time::timeout(LIMIT, running.task).await.expect("the controller stops").unwrap();
        }
    }

    pub(crate) fn stokers(&self) -> Api<Stoker> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn profiles(&self) -> Api<SyncProfile> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a `Stoker` that follows `main`, with changes to its spec.
    pub(crate) async fn apply_stoker(&self, name: &str, changes: Value) -> Stoker {
        let mut spec = json!({
            "git": {"repo": self.repository.url(), "ref": "main"},
            "gateway": {"apiKeySecretRef": {"name": "ignition-api-key"}},
            "polling": {"enabled": false},
        });
        for (key, value) in changes.as_object().unwrap() {
            match (value, &mut spec[key]) {
                (Value::Object(new), Value::Object(old)) => old.extend(new.clone()),
                (value, slot) => *slot = value.clone(),
            }
        }
        let object = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": {"name": name}, "spec": spec,
        });
        self.stokers()
            .patch(name, &PatchParams::apply("person").force(), &Patch::Apply(&object))
            .await
            .unwrap()
    }

    pub(crate) async fn apply_profile(&self, name: &str, spec: Value) -> SyncProfile {
        let object = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "SyncProfile", "metadata": {"name": name}, "spec": spec,
        });
        self.profiles()
            .patch(name, &PatchParams::apply("person").force(), &Patch::Apply(&object))
            .await
            .unwrap()
    }

    /// Sets annotations of a `Stoker`, as a receiver or a person does.
    pub(crate) async fn annotate(&self, name: &str, annotations: Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.stokers().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Makes a gateway pod, with or without the marks of an injected sidecar.
    pub(crate) async fn pod(&self, name: &str, sidecar: bool, annotations: Value) -> Pod {
        let mut all = json!({"stoker.io/inject": "true"});
        all.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
        let labels = if sidecar { json!({"stoker.io/agent": "true"}) } else { json!({}) };
        let pod = json!({
            "metadata": {"name": name, "annotations": all, "labels": labels},
            "spec": {"containers": [{"name": "gateway", "image": "ignition"}]},
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// What the agents of `cr` are told, once `enough`.
    pub(crate) async fn told(&self, cr: &str, what: &str, enough: impl Fn(&Metadata) -> bool) -> Metadata {
        let name = stoker_k8s::names::metadata(cr);
        wait::until(&format!("agents to be told {what}"), LIMIT, || async {
            let Some(map) = self.maps().get_opt(&name).await? else { return Ok(None) };
            Ok(Some(Metadata::from_data(&map.data.unwrap_or_default())?).filter(|m| enough(m)))
        })
        .await
        .unwrap()
    }

    /// Reports as the agent of `pod`, as soon as its ConfigMap is there.
    pub(crate) async fn report(&self, cr: &str, pod: &str, status: AgentStatus) {
        let uid = self.pods().get(pod).await.unwrap().metadata.uid;
        let name = stoker_k8s::names::status(cr, pod);
        wait::until_true(&format!("{name} of this very pod"), LIMIT, || async {
            let map = self.maps().get_opt(&name).await?;
            Ok(map.is_some_and(|map| map.owner_references().iter().any(|o| Some(&o.uid) == uid.as_ref())))
        })
        .await
        .unwrap();
        self.write_report(&name, AgentStatus { cr: cr.into(), pod: pod.into(), ..status }).await;
    }

    /// Writes into a status ConfigMap as an agent, whosever it is.
    pub(crate) async fn write_report(&self, name: &str, status: AgentStatus) {
        let maps = self.agent_maps().await;
        let report =
            AgentReport { status: Some(status), heartbeat: Some(jiff::Timestamp::now()), report: None };
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": report.to_data()});
        // The agent's rights follow its pod: they may be a moment behind.
        wait::until_true("the agent to be let in", LIMIT, || async {
            maps.patch(name, &PatchParams::apply("stoker-agent").force(), &Patch::Apply(&map)).await?;
            Ok(true)
        })
        .await
        .unwrap();
    }

    /// ConfigMaps, with the rights of agents.
    pub(crate) async fn agent_maps(&self) -> Api<ConfigMap> {
        let agent = self.cluster.server.token_client(&self.namespace, "default").await.unwrap();
        Api::namespaced(agent, &self.namespace)
    }

    /// The `Stoker`, once its status is as `enough` says.
    pub(crate) async fn until(&self, cr: &str, what: &str, enough: impl Fn(&Stoker) -> bool) -> Stoker {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let stoker = self.stokers().get(cr).await.unwrap();
            if enough(&stoker) {
                return stoker;
            }
            // What is there is worth more than the bare fact that time is up.
            assert!(std::time::Instant::now() < deadline, "{cr}: {what}: {:#?}", stoker.status);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The `Stoker`, once this condition has this status.
    pub(crate) async fn condition(&self, cr: &str, type_: &str, status: &str) -> (String, String) {
        let stoker = self
            .until(cr, &format!("{type_}={status}"), |s| {
                s.status
                    .as_ref()
                    .and_then(|s| conditions::find(&s.conditions, type_))
                    .is_some_and(|c| c.status == status)
            })
            .await;
        let status = stoker.status.unwrap();
        let found = conditions::find(&status.conditions, type_).unwrap();
        assert!(found.observed_generation.is_some());
        (found.reason.clone(), found.message.clone())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for running in &self.running {
            running.task.abort();
        }
    }
}

/// A report of an agent that runs `commit`.
pub(crate) fn synced(told: &Metadata) -> AgentStatus {
    AgentStatus {
        sync_status: SyncStatus::Synced,
        synced_commit: told.commit.clone(),
        synced_ref: Some(told.git_ref.clone()),
        target_commit: told.commit.clone(),
        last_sync_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now())),
        last_sync_millis: Some(812),
        profile_revision: Some(told.base.revision.clone()),
        agent_version: Some("0.1.0".into()),
        ..AgentStatus::default()
    }
}

pub(crate) fn entry<'a>(stoker: &'a Stoker, pod: &str) -> Option<&'a GatewayEntry> {
    stoker.status.as_ref()?.discovered_gateways.iter().find(|e| e.pod_name == pod)
}

async fn grant(client: &Client, namespace: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": ACCOUNT}, "rules": rules(),
    });
    roles.patch(ACCOUNT, &PatchParams::apply("tests").force(), &Patch::Apply(&role)).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let binding = json!({
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
    });
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

/// Settings with an agent's silence noticed soon.
pub(crate) fn impatient() -> Settings {
    Settings { patience: Patience(Duration::from_secs(2)), ..Settings::default() }
}

/// The data of a ConfigMap.
pub(crate) fn data(map: &ConfigMap) -> BTreeMap<String, String> {
    map.data.clone().unwrap_or_default()
}
