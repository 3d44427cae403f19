//! The Helm chart: rendered, judged by a real API server, installed, upgraded and uninstalled.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use stoker_k8s::certs::{Keeper, Lifetimes, Serving};
use stoker_k8s::roster::{self, Roster, Scope};
use stoker_testkit::tools::Tool;
use stoker_testkit::{require, wait};

use crate::helm::{self, Helm, KUBERNETES};

const LIMIT: Duration = Duration::from_secs(20);

/// Values that make every branch of the templates.
const VARIANTS: [&[&str]; 4] = [
    &[],
    &[
        "namespaces={plant-a,plant-b}",
        "receiver.ingress.enabled=true",
        "receiver.ingress.host=hooks.example.com",
        "receiver.ingress.tlsSecretName=tls",
        "webhook.failurePolicy=Fail",
        "webhook.onUnresolved=Deny",
        "git.exemptHosts={git.local}",
        "git.knownHosts=git.example.com ssh-ed25519 AAAA",
        "controller.replicas=1",
        "receiver.service.type=NodePort",
        "receiver.service.nodePort=30080",
        "crds.install=false",
    ],
    &[
        "webhook.certificate.mode=existingSecret",
        "webhook.certificate.existingSecret.name=mine",
        "webhook.certificate.existingSecret.caBundle=YQ==",
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
        "imagePullSecrets[0].name=pull",
        "controller.priorityClassName=system-cluster-critical",
        "controller.extraArgs={--a}",
        "webhook.nodeSelector.a=b",
        "webhook.podAnnotations.c=d",
        "agent.image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "uninstall.releaseFinalizers=false",
        "rbac.aggregateToUserRoles=false",
        "serviceAccount.annotations.e=f",
    ],
    &["webhook.certificate.mode=certManager", "receiver.enabled=false", "crds.keep=false"],
];

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() {
    let Some(helm) = helm::get().await else { return };
    let chart = helm.chart.to_string_lossy().into_owned();
    for settings in VARIANTS {
        let mut arguments = vec!["lint", "--strict", "--kube-version", KUBERNETES, &chart];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        helm.run(&arguments).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
        assert!(!helm.objects(settings).is_empty());
    }
}

#[tokio::test]
async fn a_value_that_nobody_reads_is_refused() {
    let Some(helm) = helm::get().await else { return };
    for (setting, says) in [
        ("controler.replicas=3", "controler"),
        ("webhook.failurePolicy=Maybe", "failurePolicy"),
        ("webhook.certificate.mode=magic", "mode"),
        ("namespaces={Plant_A}", "namespaces"),
        ("agent.image.digest=latest", "digest"),
        ("webhook.certificate.mode=existingSecret", "existingSecret.name is needed"),
        ("receiver.ingress.enabled=true", "receiver.ingress.host is needed"),
    ] {
        let said = helm.template(&[setting]).unwrap_err();
        assert!(said.contains(says), "{setting}: {said}");
    }
}

#[tokio::test]
async fn an_api_server_accepts_every_variant() {
    let (Some(server), Some(helm)) = (require::api_server().await, helm::get().await) else { return };
    let Some(kubectl) = require::tool(Tool::Kubectl).await else { return };
    let namespace = server.namespace().await.unwrap();
    for settings in VARIANTS {
        let mut objects = helm.objects(settings);
        // Nobody here knows cert-manager.
        objects.retain(|object| !object["apiVersion"].as_str().unwrap().starts_with("cert-manager.io"));
        for object in &mut objects {
            if object["metadata"]["namespace"].is_string() {
                object["metadata"]["namespace"] = json!(&*namespace);
            }
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), list.to_string()).unwrap();
        let output = Command::new(&kubectl)
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args([
                "apply",
                "--server-side",
                "--force-conflicts",
                "--dry-run=server",
                "--validate=strict",
                "--filename",
            ])
            .arg(file.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("Warning"), "{settings:?}: {said}");
    }
}

/// Rules of all roles that the chart makes, with the role's kind and name.
fn rules(objects: &[Value]) -> Vec<(String, Value)> {
    let roles = objects.iter().filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole");
    roles
        .flat_map(|role| {
            let name =
                format!("{}/{}", role["kind"].as_str().unwrap(), role["metadata"]["name"].as_str().unwrap());
            let rules = role["rules"].as_array().unwrap().clone();
            rules.into_iter().map(move |rule| (name.clone(), rule))
        })
        .collect()
}

fn has(rule: &Value, list: &str, word: &str) -> bool {
    rule[list].as_array().into_iter().flatten().any(|w| w == word)
}

#[tokio::test]
async fn rights_are_the_least() {
    let Some(helm) = helm::get().await else { return };
    for settings in VARIANTS {
        let objects = helm.objects(settings);
        for (name, rule) in rules(&objects) {
            for list in ["apiGroups", "resources", "verbs"] {
                assert!(!has(&rule, list, "*"), "{name}: {rule}");
            }
            for verb in ["escalate", "bind", "impersonate"] {
                assert!(!has(&rule, "verbs", verb), "{name}: {rule}");
            }
            if has(&rule, "resources", "secrets") && rule["resourceNames"].is_null() {
                assert_eq!(rule["verbs"], json!(["get"]), "{name}: {rule}");
            }
        }
    }
    // Limited to namespaces, nothing is left in the whole cluster but the webhook's own entry, and what users get.
    let objects = helm.objects(VARIANTS[1]);
    for (name, rule) in rules(&objects).iter().filter(|(name, _)| name.starts_with("ClusterRole/")) {
        let own = rule["resourceNames"] == json!(["stoker"])
            && has(rule, "resources", "mutatingwebhookconfigurations");
        let users = name.ends_with("-view") || name.ends_with("-edit");
        assert!(own || users, "{name}: {rule}");
    }
    let users: Vec<_> = objects.iter().filter(|o| o["kind"] == "ClusterRoleBinding").collect();
    assert_eq!(users.len(), 1, "the one of the certificate: {users:?}");
}

#[tokio::test]
async fn every_pod_passes_the_restricted_standard() {
    let (Some(server), Some(helm)) = (require::api_server().await, helm::get().await) else { return };
    let client = server.client().unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let plain = server.namespace().await.unwrap();
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    let patch = kube::api::Patch::Merge(label);
    namespaces.patch(&plain, &kube::api::PatchParams::default(), &patch).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, &plain);
    for settings in VARIANTS {
        let objects = helm.objects(settings);
        let mut count = 0;
        for object in objects.iter().filter(|o| o["kind"] == "Deployment" || o["kind"] == "Job") {
            let mut spec = object["spec"]["template"]["spec"].clone();
            spec["serviceAccountName"] = json!("default");
            spec.as_object_mut().unwrap().remove("priorityClassName");
            let name = object["metadata"]["name"].as_str().unwrap();
            let pod = json!({ "metadata": { "name": name }, "spec": spec });
            let dry_run = PostParams { dry_run: true, ..PostParams::default() };
            pods.create(&dry_run, &serde_json::from_value(pod).unwrap()).await.unwrap();
            count += 1;
        }
        assert!(count >= 2, "{settings:?}");
    }
}

#[tokio::test]
async fn every_value_is_described_and_checked() {
    let Some(helm) = helm::get().await else { return };
    let read = |name: &str| std::fs::read_to_string(helm.chart.join(name)).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let readme = read("README.md");
    let rows: BTreeSet<(String, String)> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| {
            let (path, rest) = row.split_once("` | `")?;
            let (default, meaning) = rest.split_once("` | ")?;
            assert!(meaning.len() > 8, "{path}");
            Some((path.to_owned(), default.to_owned()))
        })
        .collect();
    let mut expected = BTreeSet::new();
    walk("", &values, &schema, &mut expected);
    // Defaults are compared by value: the order of keys and the spaces between them are nothing to argue about.
    let parsed = |rows: &BTreeSet<(String, String)>| -> Vec<(String, Value)> {
        rows.iter()
            .map(|(path, text)| (path.clone(), serde_json::from_str(text).unwrap_or(Value::Null)))
            .collect()
    };
    assert_eq!(parsed(&rows), parsed(&expected), "README.md of the chart is stale");
}

/// Adds the leaves of `values` with their defaults; each must be a property of the schema, which allows no other.
fn walk(path: &str, values: &Value, schema: &Value, leaves: &mut BTreeSet<(String, String)>) {
    let resources = path.ends_with("resources");
    match values.as_object() {
        Some(map) if !map.is_empty() && !resources => {
            assert_eq!(schema["additionalProperties"], false, "{path:?} takes whatever is written");
            for (key, value) in map {
                let inner = &schema["properties"][key];
                assert!(inner.is_object(), "{path}.{key} is not in values.schema.json");
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, inner, leaves);
            }
        }
        _ => drop(leaves.insert((path.to_owned(), values.to_string()))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn install_upgrade_and_uninstall_keep_what_must_be_kept() {
    let Some(helm) = helm::get().await else { return };
    let Some(server) = require::own_api_server().await else { return };
    let client = server.client().unwrap();
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let chart = helm.chart.to_string_lossy().into_owned();
    let run = |helm: &Helm, arguments: &[&str]| {
        let common = ["--kubeconfig", &kubeconfig, "--namespace", "stoker-system"];
        helm.run(&[arguments, &common].concat()).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    // No pod runs here, so hooks that are pods never end.
    let notes = run(&helm, &["install", "stoker", &chart, "--create-namespace", "--no-hooks"]);
    assert!(notes.contains("kubectl get stokers"), "{notes}");

    // The webhook, as its real service account.
    let webhook = server.token_client("stoker-system", "stoker-webhook").await.unwrap();
    let names = vec!["stoker-webhook.stoker-system.svc".to_owned()];
    let secret = "stoker-webhook-certificate";
    let keeper =
        Keeper::new(webhook.clone(), "stoker-system", secret, Some("stoker"), names, Lifetimes::default());
    let (pair, _) = keeper.ensure().await.unwrap();
    let serving = Serving::new(&pair).unwrap();
    let keeping = tokio::spawn(keeper.clone().run(serving));
    let roster = Roster::default();
    let watching = tokio::spawn(roster::watch(webhook, Scope::All, roster.clone()));
    wait::until_true("the roster", LIMIT, || async { Ok(roster.is_complete()) }).await.unwrap();
    let before = material(&client, secret).await;
    assert!(trusts(&client, &before).await);

    // A Stoker of a user outlives everything.
    let stokers: Api<stoker_k8s::api::Stoker> = Api::namespaced(client.clone(), "default");
    let stoker = json!({ "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": { "name": "s" },
        "spec": { "git": { "repo": "https://git.example.com/a.git", "ref": "main" },
                  "gateway": { "apiKeySecretRef": { "name": "k" } } } });
    stokers.create(&PostParams::default(), &serde_json::from_value(stoker).unwrap()).await.unwrap();
    wait::until_true("the Stoker to be known", LIMIT, || async { Ok(roster.get("default", "s").is_some()) })
        .await
        .unwrap();

    run(&helm, &["upgrade", "stoker", &chart, "--no-hooks", "--set", "logLevel=debug"]);
    assert_eq!(material(&client, secret).await, before, "an upgrade changes no certificate");
    assert!(trusts(&client, &before).await);

    // Somebody takes the trust away: it is back before anybody notices.
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let patch = json!([{ "op": "remove", "path": "/webhooks/0/clientConfig/caBundle" }]);
    let patch = kube::api::Patch::Json::<()>(serde_json::from_value(patch).unwrap());
    hooks.patch("stoker", &kube::api::PatchParams::default(), &patch).await.unwrap();
    wait::until_true("the trust to be back", LIMIT, || async { Ok(trusts(&client, &before).await) })
        .await
        .unwrap();
    // Somebody empties the Secret: everything is new, and trusted.
    let patch = kube::api::Patch::Json::<()>(
        serde_json::from_value(json!([{ "op": "remove", "path": "/data" }])).unwrap(),
    );
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "stoker-system");
    secrets.patch(secret, &kube::api::PatchParams::default(), &patch).await.unwrap();
    wait::until_true("a new certificate that is trusted", LIMIT, || async {
        let now = material(&client, secret).await;
        Ok(now.is_some() && now != before && trusts(&client, &now).await)
    })
    .await
    .unwrap();
    // Other replicas that come to the same conclusion at the same time agree in the end.
    secrets.patch(secret, &kube::api::PatchParams::default(), &patch).await.unwrap();
    let replicas = futures::future::join_all((0..4).map(|_| keeper.ensure())).await;
    let pairs: Vec<_> = replicas.into_iter().map(|replica| replica.unwrap().0).collect();
    let last = keeper.ensure().await.unwrap().0;
    assert!(pairs.iter().all(|pair| *pair == last));

    keeping.abort();
    watching.abort();
    run(&helm, &["uninstall", "stoker", "--no-hooks"]);
    assert!(stokers.get("s").await.is_ok(), "the definitions and their objects stay");
    assert!(hooks.get_opt("stoker").await.unwrap().is_none());
    assert!(secrets.get_opt(secret).await.unwrap().is_none());
    // And the next installation takes them over.
    run(&helm, &["install", "stoker", &chart, "--no-hooks"]);
    assert!(stokers.get("s").await.is_ok());
}

async fn material(client: &Client, secret: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let api: Api<Secret> = Api::namespaced(client.clone(), "stoker-system");
    let data = api.get(secret).await.unwrap().data?;
    Some((data.get("ca.crt")?.0.clone(), data.get("tls.crt")?.0.clone()))
}

/// Whether the API server trusts the authority.
async fn trusts(client: &Client, material: &Option<(Vec<u8>, Vec<u8>)>) -> bool {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = api.get("stoker").await.unwrap();
    let bundle = configuration.webhooks.unwrap()[0].client_config.ca_bundle.clone().unwrap_or_default();
    material.as_ref().is_some_and(|(authority, _)| bundle.0.starts_with(authority))
}
