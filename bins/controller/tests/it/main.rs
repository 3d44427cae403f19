//! The controller as the program that ships: real API server, its own service account, a git server with a login.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the failure of its test")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use stoker_k8s::api::Stoker;
use stoker_k8s::conditions;
use stoker_testkit::gitserver::{Http, HttpOptions};
use stoker_testkit::leash::{Leash, Process};
use stoker_testkit::proxy::ForwardProxy;
use stoker_testkit::repo::Repo;
use stoker_testkit::{ApiServer, Namespace, require, wait};

const LIMIT: Duration = Duration::from_secs(30);
const ACCOUNT: &str = "stoker-controller";

struct Bed {
    client: Client,
    namespace: Namespace,
    kubeconfig: PathBuf,
    leash: Leash,
    git: Http,
    repo: Repo,
}

struct Controller {
    process: Process,
    health: String,
    receiver: String,
}

impl Bed {
    async fn new(server: &ApiServer) -> Self {
        let client = server.client().unwrap();
        install(&client).await;
        let namespace = server.namespace().await.unwrap();
        grant(&client, &namespace).await;
        let kubeconfig = server.token_kubeconfig(&namespace, ACCOUNT).await.unwrap();
        let git = Http::start(HttpOptions::default().login("x-access-token", "first-token")).unwrap();
        let repo = Repo::new().unwrap();
        repo.commit_files("first", &[("projects/a/project.json", "{}")]).unwrap();
        git.shelf().publish(&repo, "plant.git").unwrap();
        let bed = Self { client, namespace, kubeconfig, leash: Leash::new("controller").unwrap(), git, repo };
        bed.secret("git-token", "token", "first-token").await;
        bed.secret("hooks", "secret", "It's a Secret to Everybody").await;
        bed.secret("ignition-api-key", "apiKey", "ci:key").await;
        bed
    }

    fn commit(&self, message: &str) -> String {
        let id = self
            .repo
            .commit_files(message, &[("projects/a/project.json", &json!({"m": message}).to_string())]);
        self.git.shelf().publish(&self.repo, "plant.git").unwrap();
        id.unwrap()
    }

    async fn start(&self, name: &str) -> Controller {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stoker-controller"));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("NO_COLOR", "1")
            .args(["--namespaces", &self.namespace, "--lease-namespace", &self.namespace, "--identity", name])
            .args(["--health-address", "127.0.0.1:0", "--receiver-address", "127.0.0.1:0"])
            .args(["--git-exempt-hosts", "127.0.0.1"]);
        let mut process = self.leash.spawn(name, &mut command).unwrap();
        let mut addresses = Vec::new();
        wait::until_true("the controller to listen", LIMIT, || {
            process.check().unwrap();
            let log = std::fs::read_to_string(process.log()).unwrap();
            addresses = log
                .lines()
                .filter(|line| line.contains("listening"))
                .filter_map(|line| {
                    line.split("address=").nth(1)?.split_whitespace().next().map(str::to_owned)
                })
                .collect();
            let found = addresses.len() == 2;
            async move { Ok(found) }
        })
        .await
        .unwrap();
        let (health, receiver) = (addresses[0].clone(), addresses[1].clone());
        wait::until_true("the controller to be ready", LIMIT, || async {
            Ok(reqwest::get(format!("http://{health}/readyz")).await?.status().is_success())
        })
        .await
        .unwrap();
        Controller { process, health, receiver }
    }

    async fn secret(&self, name: &str, key: &str, value: &str) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value},
        });
        api.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(&secret)).await.unwrap();
    }

    async fn apply(&self, spec: Value) {
        let mut full = json!({
            "git": {
                "repo": self.git.url("plant.git"), "ref": "main", "allowInsecure": true,
                "auth": {"token": {"secretRef": {"name": "git-token", "key": "token"}}},
            },
            "gateway": {"apiKeySecretRef": {"name": "ignition-api-key"}},
            "polling": {"enabled": false},
            "webhook": {"secretRef": {"name": "hooks", "key": "secret"}},
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let stoker = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": {"name": "plant"}, "spec": full,
        });
        let api: Api<Stoker> = Api::namespaced(self.client.clone(), &self.namespace);
        api.patch("plant", &PatchParams::apply("person").force(), &Patch::Apply(&stoker)).await.unwrap();
    }

    async fn told(&self, commit: &str) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        wait::until_true(&format!("agents to be told {commit}"), LIMIT, || async {
            let map = api.get_opt("stoker-metadata-plant").await?;
            Ok(map.and_then(|m| m.data).is_some_and(|data| data["commit"] == commit))
        })
        .await
        .unwrap();
    }

    async fn reason(&self, type_: &str, reason: &str) -> String {
        let api: Api<Stoker> = Api::namespaced(self.client.clone(), &self.namespace);
        wait::until(&format!("{type_} to say {reason}"), LIMIT, || async {
            let status = api.get("plant").await?.status.unwrap_or_default();
            let found = conditions::find(&status.conditions, type_);
            Ok(found.filter(|c| c.reason == reason).map(|c| c.message.clone()))
        })
        .await
        .unwrap()
    }
}

impl Controller {
    /// Asks it to end, and returns how long that took.
    async fn terminate(mut self) -> (Duration, Option<i32>) {
        let started = Instant::now();
        let pid = i32::try_from(self.process.pid()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let status = wait::until("the controller to end", LIMIT, || {
            let exited = self.process.exited().unwrap();
            async move { Ok(exited) }
        })
        .await
        .unwrap();
        (started.elapsed(), status.code())
    }

    async fn metrics(&self) -> String {
        reqwest::get(format!("http://{}/metrics", self.health)).await.unwrap().text().await.unwrap()
    }
}

async fn install(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in stoker_k8s::api::crds() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
        wait::until_true(&format!("{name} to be served"), LIMIT, || async {
            let conditions = api.get(&name).await?.status.and_then(|s| s.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"))
        })
        .await
        .unwrap();
    }
}

async fn grant(client: &Client, namespace: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| {
        json!({
            "apiGroups": [group], "resources": resources, "verbs": verbs,
        })
    };
    let role = json!({"metadata": {"name": ACCOUNT}, "rules": [
        rule("stoker.io", &["stokers", "syncprofiles"], &["get", "list", "watch"]),
        rule("stoker.io", &["stokers", "stokers/status", "syncprofiles/status"], &["patch"]),
        rule("", &["pods"], &["get", "list", "watch"]),
        rule("", &["configmaps"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule("", &["secrets"], &["get"]),
        rule(
            "rbac.authorization.k8s.io",
            &["roles", "rolebindings"],
            &["get", "list", "watch", "create", "patch", "delete"],
        ),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
    ]});
    let roles: Api<Role> = Api::namespaced(client.clone(), namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let binding = json!({
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

/// The signature of a delivery, by OpenSSL: not by the code that checks it.
fn signature(secret: &str, body: &str, folder: &std::path::Path) -> String {
    let file = folder.join("body");
    std::fs::write(&file, body).unwrap();
    let output =
        Command::new("openssl").args(["dgst", "-sha256", "-hmac", secret, "-r"]).arg(&file).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_delivery_becomes_a_commit_and_secrets_are_read_when_they_are_used() {
    let Some(server) = require::api_server().await else { return };
    if require::program("openssl").is_none() {
        return;
    }
    let bed = Bed::new(server).await;
    let first = bed.repo.head().unwrap();
    let controller = bed.start("one").await;
    bed.apply(json!({})).await;
    bed.told(&first).await;
    bed.reason(conditions::WEBHOOK_READY, "Succeeded").await;

    let second = bed.commit("second");
    let body = json!({"ref": "refs/heads/main", "after": second, "repository": {"full_name": "org/plant"}})
        .to_string();
    let url =
        format!("http://{}/v1/namespaces/{}/stokers/plant/webhook", controller.receiver, &*bed.namespace);
    let deliver = |signature: String| {
        reqwest::Client::new()
            .post(&url)
            .header("x-github-event", "push")
            .header("x-github-delivery", "72d3162e")
            .header("x-hub-signature-256", format!("sha256={signature}"))
            .header("content-type", "application/json")
            .body(body.clone())
            .send()
    };
    assert_eq!(deliver("0".repeat(64)).await.unwrap().status(), 401);
    let answer = deliver(signature("It's a Secret to Everybody", &body, bed.leash.folder())).await.unwrap();
    assert_eq!(answer.status(), 202);
    bed.told(&second).await;

    // The token is rotated: refused, then read anew.
    bed.git.set_login(Some(("x-access-token", "second-token")));
    let third = bed.commit("third");
    let trigger = |at: &'static str| {
        let api: Api<Stoker> = Api::namespaced(bed.client.clone(), &bed.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"stoker.io/requested-at": at}}}));
        async move { api.patch("plant", &PatchParams::default(), &patch).await.unwrap() }
    };
    trigger("by hand").await;
    let message = bed.reason(conditions::REF_RESOLVED, "AuthenticationFailed").await;
    assert!(!message.contains("first-token"), "{message}");
    bed.secret("git-token", "token", "second-token").await;
    trigger("by hand again").await;
    bed.told(&third).await;

    let metrics = controller.metrics().await;
    for name in [
        "stoker_reconcile_total",
        "stoker_git_requests_total",
        "stoker_webhook_received_total",
        "stoker_cr_ready",
    ] {
        assert!(metrics.contains(&format!("# TYPE {name}")), "{name} is not in\n{metrics}");
    }
    let log = std::fs::read_to_string(controller.process.log()).unwrap();
    assert!(!log.contains("first-token") && !log.contains("second-token") && !log.contains("Everybody"));

    let (took, code) = controller.terminate().await;
    assert!(took < Duration::from_secs(5) && code == Some(0), "{took:?} {code:?}");
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let holder = leases.get("stoker-controller").await.unwrap().spec.unwrap().holder_identity;
    assert_eq!(holder.unwrap_or_default(), "", "the next one need not wait");
}

#[tokio::test]
async fn the_proxy_of_a_stoker_is_used_and_its_login_follows_the_secret() {
    let Some(server) = require::api_server().await else { return };
    let bed = Bed::new(server).await;
    let git = bed.git.url("").split('/').nth(2).unwrap().parse().unwrap();
    let proxy = ForwardProxy::start(git, Some(("ada", "first-secret"))).unwrap();
    let login = |password: &'static str| {
        let api: Api<Secret> = Api::namespaced(bed.client.clone(), &bed.namespace);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "proxy"},
            "stringData": {"username": "ada\n", "password": format!("{password}\n")},
        });
        async move {
            let how = PatchParams::apply("tests").force();
            api.patch("proxy", &how, &Patch::Apply(&secret)).await.unwrap();
        }
    };
    login("first-secret").await;
    let controller = bed.start("one").await;
    // Nobody knows the host but the proxy.
    let spec = json!({"git": {
        "repo": "http://git.example.invalid/plant.git", "ref": "main", "allowInsecure": true,
        "auth": {"token": {"secretRef": {"name": "git-token", "key": "token"}}},
        "proxy": {"url": proxy.url(), "secretRef": {"name": "proxy"}},
    }});
    bed.apply(spec).await;
    bed.told(&bed.repo.head().unwrap()).await;

    proxy.set_login(Some(("ada", "second-secret")));
    let second = bed.commit("second");
    let trigger = |at: &'static str| {
        let api: Api<Stoker> = Api::namespaced(bed.client.clone(), &bed.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"stoker.io/requested-at": at}}}));
        async move { api.patch("plant", &PatchParams::default(), &patch).await.unwrap() }
    };
    trigger("by hand").await;
    let message = bed.reason(conditions::REF_RESOLVED, "ProxyAuthenticationFailed").await;
    assert!(message.contains(&proxy.url()) && !message.contains("secret"), "{message}");
    login("second-secret").await;
    trigger("by hand again").await;
    bed.told(&second).await;
    let log = std::fs::read_to_string(controller.process.log()).unwrap();
    assert!(!log.contains("first-secret") && !log.contains("second-secret"), "{log}");
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_by_the_next() {
    let Some(server) = require::api_server().await else { return };
    let bed = Bed::new(server).await;
    let mut first = bed.start("one").await;
    bed.apply(json!({})).await;
    bed.told(&bed.repo.head().unwrap()).await;
    let second = bed.start("two").await;
    first.process.kill().unwrap();
    let commit = bed.commit("after the death");
    let api: Api<Stoker> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"stoker.io/requested-at": "now"}}}));
    api.patch("plant", &PatchParams::default(), &patch).await.unwrap();
    bed.told(&commit).await;
    drop(second);
}

/// The lease is renewed every two seconds; nothing else may come of it.
#[tokio::test]
async fn a_leader_that_stays_one_asks_git_no_more() {
    let Some(server) = require::api_server().await else { return };
    let bed = Bed::new(server).await;
    let _controller = bed.start("one").await;
    bed.apply(json!({})).await;
    bed.told(&bed.repo.head().unwrap()).await;
    bed.reason(conditions::REF_RESOLVED, "Succeeded").await;
    let asked = bed.git.requests().len();
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), &bed.namespace);
    for _ in 0..3 {
        let renewed = || async {
            let lease = leases.get("stoker-controller").await?;
            Ok::<_, kube::Error>(lease.spec.and_then(|spec| spec.renew_time))
        };
        let before = renewed().await.unwrap();
        wait::until_true("the lease to be renewed", LIMIT, || async { Ok(renewed().await? != before) })
            .await
            .unwrap();
    }
    assert_eq!(bed.git.requests().len(), asked);
}

#[tokio::test]
async fn a_repository_at_a_forbidden_address_is_never_asked() {
    let Some(server) = require::api_server().await else { return };
    let bed = Bed::new(server).await;
    let _controller = bed.start("one").await;
    // The cloud's metadata service.
    let git = json!({"git": {"repo": "https://169.254.169.254/latest/meta-data", "ref": "main"}});
    bed.apply(git).await;
    let message = bed.reason(conditions::REF_RESOLVED, "HostForbidden").await;
    assert!(message.contains("link-local"), "{message}");
    bed.reason(conditions::STALLED, "HostForbidden").await;
}

#[test]
fn the_definitions_are_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_stoker-controller")).arg("crds").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success()
            && text.contains("name: stokers.stoker.io")
            && text.contains("syncprofiles.stoker.io")
    );
}
