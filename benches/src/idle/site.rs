//! A cluster with the chart's rights, a repository, a `Stoker` and ten gateway pods.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod as PodObject, Secret, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stoker_k8s::api::{Stoker, SyncStatus};
use stoker_k8s::{conditions, names};
use stoker_testkit::gitserver::{Http, HttpOptions};
use stoker_testkit::leash::{Leash, Process};
use stoker_testkit::repo::Repo;
use stoker_testkit::tools::{self, Tool};
use stoker_testkit::{ApiServer, Namespace, ignition, wait};

use super::pod::{Identity, Pod};
use crate::tree;

/// Name of the `Stoker`.
const CR: &str = "my-sync";
const RELEASE: &str = "stoker";
const RELEASE_NAMESPACE: &str = "stoker-system";
/// Service account of the controller, as the chart names it.
const CONTROLLER: &str = "stoker-controller";
const GIT_USER: &str = "x-access-token";
const GIT_TOKEN: &str = "the-bench-s-git-token";
const API_KEY: &str = "bench:5uper-secret-bench-key";
const SERVICE: &str = "services/gateway";
const LIMIT: Duration = Duration::from_secs(60);

/// Everything that runs. The order of the members is the order in which it ends.
pub(super) struct Site {
    pub(super) pods: Vec<(String, Pod)>,
    pub(super) controller: Process,
    pub(super) leash: Leash,
    pub(super) git: Http,
    pub(super) server: ApiServer,
    pub(super) namespace: Namespace,
    pub(super) commit: String,
    client: Client,
    agent: PathBuf,
}

impl Site {
    /// Starts the API server, the git server and the controller, and makes the objects.
    pub(super) async fn start(
        workspace: &Path,
        controller: &Path,
        agent: &Path,
        files: usize,
    ) -> Result<Self> {
        let server = ApiServer::start().await?;
        let leash = Leash::new("idle")?;
        install_chart(&server, workspace)?;
        let client = server.client()?;
        let namespace = server.namespace().await?;

        let git = Http::start(HttpOptions::default().login(GIT_USER, GIT_TOKEN))?;
        let repo = Repo::new()?;
        repo.write_tree(&ignition::small_site())?;
        tree::write(repo.path(), files)?;
        let commit = repo.commit("the plant")?;
        git.shelf().publish(&repo, "plant.git")?;

        let kubeconfig = server.token_kubeconfig(RELEASE_NAMESPACE, CONTROLLER).await?;
        let mut command = Command::new(controller);
        command
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", "stoker-controller-0")
            .env("POD_NAMESPACE", RELEASE_NAMESPACE)
            .args(["--health-address=127.0.0.1:0", "--receiver-address=127.0.0.1:0"])
            .args([&format!("--lease-name={CONTROLLER}"), "--git-exempt-hosts=127.0.0.1", "--log-json"]);
        let controller = leash.spawn("controller", &mut command)?;
        let agent = agent.to_owned();
        let pods = Vec::new();
        let site = Self { pods, controller, leash, git, server, namespace, commit, client, agent };
        site.secret("git-token", "token", GIT_TOKEN).await?;
        site.secret("ignition-api-key", "apiKey", API_KEY).await?;
        site.stoker().await?;
        Ok(site)
    }

    /// Makes a gateway's pod object and starts what would run in it.
    pub(super) async fn gateway(&mut self, number: usize) -> Result<()> {
        let name = format!("gw-{number}");
        let accounts: Api<ServiceAccount> = self.api();
        let account = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        accounts.create(&PostParams::default(), &account).await?;
        let object = self.pod_object(&name).await?;
        let status = names::status(CR, &name);
        let maps: Api<ConfigMap> = self.api();
        wait::until(&format!("the controller to make {status}"), LIMIT, || async {
            Ok(maps.get_opt(&status).await?)
        })
        .await
        .with_context(|| self.controller.last_lines(10))?;

        let access = self.server.access().as_service_account(&self.namespace, &name).await?;
        let quoted = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
        };
        let identity = Identity {
            cr: CR.to_owned(),
            namespace: self.namespace.to_string(),
            pod: name.clone(),
            uid: object.uid().unwrap_or_default(),
            token: access.token.clone(),
            authority: access.authority.clone(),
            git_token: GIT_TOKEN.to_owned(),
            api_key: API_KEY.to_owned(),
            annotations: quoted(object.annotations()),
            labels: quoted(object.labels()),
        };
        let api_server = address(&access.server)?;
        let git_server = address(&self.git.url(""))?;
        let pod = Pod::start(&self.leash, &self.agent, &identity, api_server, git_server).await?;
        self.pods.push((name, pod));
        Ok(())
    }

    /// Waits until the `Stoker` is Ready and every gateway is Synced at the commit, and sees that it is true.
    pub(super) async fn until_ready(&mut self, limit: Duration) -> Result<()> {
        let stokers: Api<Stoker> = self.api();
        let outcome = wait::until_true("the Stoker to be Ready with all gateways Synced", limit, || async {
            let status = stokers.get(CR).await?.status.unwrap_or_default();
            let synced = |gateway: &&stoker_k8s::api::GatewayEntry| {
                gateway.sync_status == SyncStatus::Synced
                    && gateway.synced_commit.as_deref() == Some(self.commit.as_str())
            };
            let synced = status.discovered_gateways.iter().filter(synced).count();
            Ok(synced == self.pods.len() && conditions::is_true(&status.conditions, conditions::READY))
        })
        .await;
        if let Err(error) = outcome {
            let status = stokers.get(CR).await?.status.unwrap_or_default();
            let status = serde_json::to_string_pretty(&status)?;
            let agent = self.pods.first().map(|(_, pod)| pod.agent.last_lines(10)).unwrap_or_default();
            let controller = self.controller.last_lines(10);
            return Err(error.context(format!("{status}\n── agent\n{agent}\n── controller\n{controller}")));
        }
        for (name, pod) in &mut self.pods {
            pod.check("projects/line/project.json").with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// The users whose requests are counted: the controller, then the gateways in their order.
    pub(super) fn users(&self) -> Vec<String> {
        let account = |namespace: &str, name: &str| format!("system:serviceaccount:{namespace}:{name}");
        let gateways = self.pods.iter().map(|(name, _)| account(&self.namespace, name));
        std::iter::once(account(RELEASE_NAMESPACE, CONTROLLER)).chain(gateways).collect()
    }

    async fn secret(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value},
        });
        self.apply::<Secret>(name, secret).await
    }

    async fn stoker(&self) -> Result<()> {
        let stoker = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": {"name": CR},
            "spec": {
                "git": {
                    "repo": self.git.url("plant.git"), "ref": "main", "allowInsecure": true,
                    "auth": {"token": {"secretRef": {"name": "git-token", "key": "token"}, "username": GIT_USER}},
                },
                "gateway": {"apiKeySecretRef": {"name": "ignition-api-key"}},
            },
        });
        self.apply::<Stoker>(CR, stoker).await
    }

    /// A pod as admission leaves it, with the status that a kubelet would write.
    async fn pod_object(&self, name: &str) -> Result<PodObject> {
        let pods: Api<PodObject> = self.api();
        let pod = json!({
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/name": "ignition", "stoker.io/agent": "true"},
                "annotations": {
                    "stoker.io/inject": "true", "stoker.io/injected": "true", "stoker.io/cr-name": CR,
                    "stoker.io/service-path": SERVICE,
                },
            },
            "spec": {
                "serviceAccountName": name,
                "initContainers": [{"name": "stoker-agent", "image": "stoker-agent", "restartPolicy": "Always"}],
                "containers": [{"name": "gateway", "image": "inductiveautomation/ignition"}],
            },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"status": {"phase": "Running", "conditions": ready}});
        Ok(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?)
    }

    async fn apply<K>(&self, name: &str, object: Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let parameters = PatchParams::apply("benches").force();
        api.patch(name, &parameters, &Patch::Apply(&object)).await.with_context(|| name.to_owned())?;
        Ok(())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Installs the chart, so that the rights are those that it gives. Its pods never run: there is no node.
fn install_chart(server: &ApiServer, workspace: &Path) -> Result<()> {
    let mut command = Command::new(tools::obtain(Tool::Helm)?);
    command
        .args(["install", RELEASE])
        .arg(workspace.join("charts/stoker"))
        .args(["--namespace", RELEASE_NAMESPACE, "--create-namespace"])
        // Pods come as admission leaves them.
        .args(["--set", "webhook.enabled=false", "--set", "controller.replicas=1"])
        .arg("--kubeconfig")
        .arg(server.kubeconfig());
    let output = command.output().context("running helm")?;
    ensure!(output.status.success(), "helm install: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn address(url: &str) -> Result<SocketAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.parse().with_context(|| format!("{url} has no address and port"))
}
