//! Pods created as users create them, on a real API server that calls the real webhook.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use serde_json::{Value, json};
use stoker_k8s::admission::{self, Admission};
use stoker_k8s::api::{AgentImage, Stoker};
use stoker_k8s::certs::{Keeper, Lifetimes, Serving};
use stoker_k8s::inject::{OnUnresolved, Reason, Settings};
use stoker_k8s::roster::{self, Roster, Scope};
use stoker_testkit::tools::Tool;
use stoker_testkit::{Namespace, require, wait};

use crate::cluster::{self, Cluster};
use crate::helm;

const LIMIT: Duration = Duration::from_secs(20);

/// A namespace with a webhook of its own, configured as the chart does.
struct Bed {
    cluster: Cluster,
    namespace: Namespace,
    client: Client,
    hook: String,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Others share the API server; a webhook that nobody answers any more is not for them.
        let (client, hook) = (self.client.clone(), self.hook.clone());
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let api: Api<MutatingWebhookConfiguration> = Api::all(client);
                let _ = api.delete(&hook, &DeleteParams::default()).await;
            });
        });
    }
}

fn settings() -> Settings {
    let image = AgentImage {
        repository: Some("registry.example.com/stoker-agent".to_owned()),
        tag: Some("test".to_owned()),
        ..AgentImage::default()
    };
    Settings { image, ..Settings::default() }
}

async fn bed(settings: Settings) -> Option<Bed> {
    bed_with(settings, Lifetimes::default(), |_| ()).await
}

async fn bed_with(settings: Settings, lifetimes: Lifetimes, change: impl Fn(&mut Value)) -> Option<Bed> {
    let (cluster, helm) = (cluster::get().await?, helm::get().await?);
    let (namespace, client) = (cluster.server.namespace().await.unwrap(), cluster.client());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();

    let objects = helm.objects(&[]);
    let mut configuration = helm::find(&objects, "MutatingWebhookConfiguration", "stoker").clone();
    let hook = format!("stoker-{}", &*namespace);
    configuration["metadata"]["name"] = json!(hook);
    let webhook = &mut configuration["webhooks"][0];
    webhook["clientConfig"] = json!({ "url": format!("https://{address}/mutate") });
    webhook["namespaceSelector"] = json!({ "matchLabels": { "kubernetes.io/metadata.name": &*namespace } });
    change(webhook);
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    hooks.create(&PostParams::default(), &serde_json::from_value(configuration).unwrap()).await.unwrap();

    let names = vec!["127.0.0.1".to_owned()];
    let keeper = Keeper::new(client.clone(), &namespace, "certificate", Some(&hook), names, lifetimes);
    let serving = Serving::new(&keeper.ensure().await.unwrap().0).unwrap();
    tokio::spawn(keeper.run(serving.clone()));

    let roster = Roster::default();
    tokio::spawn(roster::watch(client.clone(), Scope::All, roster.clone()));
    let (events, publishing) = admission::publish(client.clone(), "stoker-webhook", None);
    tokio::spawn(publishing);
    let router = admission::router(Admission::new(client.clone(), roster, Scope::All, settings, events));
    let server = axum_server::from_tcp_rustls(listener, serving.config()).unwrap();
    tokio::spawn(server.serve(router.into_make_service()));
    Some(Bed { cluster, namespace, client, hook })
}

impl Bed {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn stoker(&self, name: &str, spec: Value) {
        let api: Api<Stoker> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut object = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": { "name": name },
            "spec": { "git": { "repo": "https://git.example.com/a.git", "ref": "main" },
                      "gateway": { "apiKeySecretRef": { "name": "api-key" } } },
        });
        json_patch::merge(&mut object["spec"], &spec);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// Waits until the API server calls the webhook and trusts it.
    async fn in_force(&self) {
        let probe: Pod = serde_json::from_value(gateway("probe")).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        wait::until_true("the webhook to be called", LIMIT, || async {
            let pod = self.pods().create(&dry_run, &probe).await?;
            let annotations = pod.metadata.annotations.unwrap_or_default();
            Ok(annotations.contains_key("stoker.io/injected"))
        })
        .await
        .unwrap();
    }

    /// `kubectl create`, as the administrator.
    async fn kubectl(&self, object: &Value) -> (bool, String) {
        let program = require::tool(Tool::Kubectl).await.unwrap();
        let mut child = Command::new(program)
            .arg("--kubeconfig")
            .arg(self.cluster.server.kubeconfig())
            .args(["--namespace", &self.namespace, "create", "--filename", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    async fn create(&self, pod: &Value) -> kube::Result<Value> {
        let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
        Ok(serde_json::to_value(self.pods().create(&PostParams::default(), &pod).await?).unwrap())
    }

    async fn event(&self, reason: &str) -> Event {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        wait::until(&format!("an event {reason}"), LIMIT, || async {
            let events = api.list(&ListParams::default()).await?;
            Ok(events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason)))
        })
        .await
        .unwrap()
    }
}

/// A gateway's pod in the shape of the official chart.
fn gateway(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "annotations": { "stoker.io/inject": "true", "stoker.io/service-path": "services/gw" } },
        "spec": template(),
    })
}

fn template() -> Value {
    json!({
        "automountServiceAccountToken": false,
        "securityContext": { "runAsUser": 2003, "runAsGroup": 2003, "fsGroup": 2003, "runAsNonRoot": true,
                             "seccompProfile": { "type": "RuntimeDefault" } },
        "initContainers": [{
            "name": "preconfigure", "image": "gateway", "securityContext": container_security(),
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }],
        "containers": [{
            "name": "gateway", "image": "gateway", "securityContext": container_security(),
            "ports": [{ "name": "http", "containerPort": 8088 }],
            "volumeMounts": [{ "name": "data", "mountPath": "/usr/local/bin/ignition/data" }],
        }],
        "volumes": [{ "name": "data", "emptyDir": {} }],
    })
}

fn container_security() -> Value {
    json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } })
}

fn init_names(pod: &Value) -> Vec<&str> {
    pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_its_agent_and_is_otherwise_as_it_was_written() {
    let Some(bed) = bed(settings()).await else { return };
    let auth = json!({ "git": { "auth": { "token": { "secretRef": { "name": "token", "key": "t" } } } } });
    bed.stoker("my-sync", auth).await;
    bed.in_force().await;
    let (created, said) = bed.kubectl(&gateway("gw-0")).await;
    assert!(created && !said.contains("Warning"), "{said}");
    let mut pod = serde_json::to_value(bed.pods().get("gw-0").await.unwrap()).unwrap();
    assert_eq!(init_names(&pod), ["preconfigure", "stoker-agent"]);
    assert_eq!(pod["metadata"]["annotations"]["stoker.io/cr-name"], "my-sync");
    assert_eq!(pod["metadata"]["labels"]["stoker.io/agent"], "true");

    // The same pod without the annotation is what the API server makes of it alone.
    let mut plain = gateway("gw-1");
    plain["metadata"]["annotations"] = json!({});
    let plain = bed.create(&plain).await.unwrap();
    pod["spec"]["initContainers"].as_array_mut().unwrap().pop();
    pod["spec"]["volumes"].as_array_mut().unwrap().truncate(1);
    assert_eq!(pod["spec"], plain["spec"]);

    let event = bed.event("Injected").await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Stoker"), Some("my-sync")));
    assert!(event.note.unwrap().contains("gw-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_sets_pods_are_injected() {
    let Some(bed) = bed(settings()).await else { return };
    bed.stoker("s", json!({})).await;
    bed.in_force().await;
    let labels = json!({ "app": "gw" });
    let set = json!({
        "metadata": { "name": "gw" },
        "spec": { "serviceName": "gw", "replicas": 2, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels, "annotations": { "stoker.io/inject": "true" } }, "spec": template() } },
    });
    let sets: Api<StatefulSet> = Api::namespaced(bed.client.clone(), &bed.namespace);
    sets.create(&PostParams::default(), &serde_json::from_value(set).unwrap()).await.unwrap();
    let pods = wait::until("two pods with agents", LIMIT, || async {
        let pods = bed.pods().list(&ListParams::default().labels("stoker.io/agent=true")).await?;
        Ok((pods.items.len() == 2).then_some(pods.items))
    })
    .await
    .unwrap();
    for pod in pods {
        assert!(init_names(&serde_json::to_value(pod).unwrap()).contains(&"stoker-agent"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stoker_kubectl_prints_a_warning_and_the_owner_gets_an_event() {
    let Some(bed) = bed(settings()).await else { return };
    bed.stoker("one", json!({})).await;
    bed.in_force().await;
    bed.stoker("two", json!({})).await;
    let owner: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(bed.client.clone(), &bed.namespace);
    let made = json!({ "metadata": { "name": "owner" } });
    let owner = owner.create(&PostParams::default(), &serde_json::from_value(made).unwrap()).await.unwrap();
    let mut pod = gateway("gw-0");
    pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.metadata.uid, "controller": true }]);
    let (created, said) = wait::until("the second Stoker to be known", LIMIT, || async {
        let (created, said) = bed.kubectl(&pod).await;
        if !said.contains("Warning") {
            let _ = bed.pods().delete("gw-0", &DeleteParams::default().grace_period(0)).await;
            return Ok(None);
        }
        Ok(Some((created, said)))
    })
    .await
    .unwrap();
    assert!(created && said.contains("Warning: stoker: no sidecar:") && said.contains("one, two"), "{said}");
    let event = bed.event("InjectionSkipped").await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.uid), (Some("ConfigMap"), owner.metadata.uid));
    assert_eq!(event.type_.as_deref(), Some("Warning"));

    let named = {
        let mut pod = gateway("gw-named");
        pod["metadata"]["annotations"]["stoker.io/cr-name"] = json!("two");
        bed.create(&pod).await.unwrap()
    };
    assert_eq!(init_names(&named), ["preconfigure", "stoker-agent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_refuses_what_nobody_would_keep_in_step() {
    let deny = Settings { on_unresolved: OnUnresolved::Deny, ..settings() };
    let Some(bed) = bed(deny).await else { return };
    let said = wait::until("a refusal", LIMIT, || async {
        let (created, said) = bed.kubectl(&gateway("gw-0")).await;
        if created {
            let _ = bed.pods().delete("gw-0", &DeleteParams::default().grace_period(0)).await;
        }
        Ok((!created).then_some(said))
    })
    .await
    .unwrap();
    assert!(
        said.contains("denied the request: no sidecar: namespace") && said.contains("has no Stoker"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stoker_and_its_pod_may_be_created_in_one_go() {
    let Some(bed) = bed(settings()).await else { return };
    // Until the webhook is in force, with a Stoker that then goes.
    bed.stoker("first", json!({})).await;
    bed.in_force().await;
    let stokers: Api<Stoker> = Api::namespaced(bed.client.clone(), &bed.namespace);
    for n in 0..10 {
        let (old, new) = (if n == 0 { "first".to_owned() } else { format!("s-{n}") }, format!("s-{}", n + 1));
        stokers.delete(&old, &DeleteParams::default()).await.unwrap();
        bed.stoker(&new, json!({})).await;
        let pod = bed.create(&gateway(&format!("gw-{n}"))).await.unwrap();
        // The watch may lag behind; the answer does not.
        let name = &pod["metadata"]["annotations"]["stoker.io/cr-name"];
        assert!(*name == new || *name == old, "{pod}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_answered_and_leaves_nothing_behind() {
    let Some(bed) = bed(settings()).await else { return };
    bed.stoker("s", json!({})).await;
    bed.in_force().await;
    // In force was found out by dry runs.
    bed.create(&gateway("gw-0")).await.unwrap();
    bed.event("Injected").await;
    let api: Api<Event> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let events = api.list(&ListParams::default()).await.unwrap().items;
    let ours = events.iter().filter(|e| e.reporting_controller.as_deref() == Some("stoker-webhook"));
    assert_eq!(ours.count(), 1, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_namespace_accepts_every_pod_that_it_accepted_before() {
    let Some(bed) = bed(settings()).await else { return };
    let namespaces: Api<NamespaceObject> = Api::all(bed.client.clone());
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    namespaces.patch(&bed.namespace, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    bed.stoker("s", json!({})).await;
    bed.in_force().await;
    let by_pod = bed.create(&gateway("by-pod")).await.unwrap();
    assert_eq!(init_names(&by_pod), ["preconfigure", "stoker-agent"]);
    // Nothing said for the whole pod, all of it by each container.
    let mut pod = gateway("by-container");
    pod["spec"]["securityContext"] = json!({});
    for list in ["initContainers", "containers"] {
        let context = &mut pod["spec"][list][0]["securityContext"];
        context["runAsNonRoot"] = json!(true);
        context["runAsUser"] = json!(2003);
        context["seccompProfile"] = json!({ "type": "RuntimeDefault" });
    }
    let by_container = bed.create(&pod).await.unwrap();
    assert_eq!(init_names(&by_container), ["preconfigure", "stoker-agent"]);
    // And the standard is in force.
    pod["metadata"]["name"] = json!("root");
    pod["spec"]["containers"][0]["securityContext"] = json!({});
    assert!(bed.create(&pod).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_rejected_because_of_us() {
    let Some(bed) = bed(settings()).await else { return };
    let resources =
        json!({ "agent": { "resources": { "requests": { "memory": "1Gi" }, "limits": { "cpu": "1" } } } });
    bed.stoker("s", json!({})).await;
    bed.stoker("resources", resources).await;
    let everything = json!({ "agent": { "image": { "digest": format!("sha256:{}", "a".repeat(64)), "pullPolicy": "Always" },
        "startup": { "timeout": "1h", "onTimeout": "Block" }, "repoSizeLimit": "64Mi" },
        "git": { "repo": "git@git.example.com:a.git", "auth": { "sshKey": { "secretRef": { "name": "a", "key": "k" },
            "knownHosts": { "secretRef": { "name": "a", "key": "known" } }, "passphraseSecretRef": { "name": "b", "key": "p" } } } } });
    bed.stoker("everything", everything).await;

    let limits = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    type Change = Box<dyn Fn(&mut Value) + Send>;
    let cases: Vec<(&str, Change)> = vec![
        ("plain", Box::new(|_| ())),
        (
            "resources",
            Box::new(|pod| pod["metadata"]["annotations"]["stoker.io/cr-name"] = json!("resources")),
        ),
        (
            "everything",
            Box::new(|pod| pod["metadata"]["annotations"]["stoker.io/cr-name"] = json!("everything")),
        ),
        ("root", Box::new(|pod| pod["spec"]["securityContext"] = json!({ "runAsUser": 0 }))),
        ("nobody", Box::new(|pod| pod["spec"]["securityContext"] = json!({}))),
        ("host-network", Box::new(|pod| pod["spec"]["hostNetwork"] = json!(true))),
        ("automount", Box::new(|pod| pod["spec"]["automountServiceAccountToken"] = json!(true))),
        ("guaranteed", {
            let limits = limits.clone();
            Box::new(move |pod| {
                for list in ["initContainers", "containers"] {
                    pod["spec"][list][0]["resources"] = limits.clone();
                }
            })
        }),
        ("pod-resources", {
            let limits = limits.clone();
            Box::new(move |pod| {
                pod["spec"]["resources"] = limits.clone();
                pod["spec"]["containers"][0]["resources"] = limits.clone();
            })
        }),
        (
            "names-taken",
            Box::new(|pod| {
                let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
                volumes.extend(
                    ["cache", "podinfo", "identity", "gateway", "git"]
                        .map(|name| json!({ "name": format!("stoker-{name}"), "emptyDir": {} })),
                );
                let other = json!({ "name": "stoker-agent", "image": "x", "ports": [{ "name": "stoker-health", "containerPort": 8687 }] });
                pod["spec"]["containers"].as_array_mut().unwrap().push(other);
            }),
        ),
        (
            "sub-path",
            Box::new(|pod| {
                pod["spec"]["containers"][0]["volumeMounts"][0] = json!({ "name": "data",
                "mountPath": "/usr/local/bin/ignition/data", "subPathExpr": "$(POD)" });
                pod["spec"]["containers"][0]["env"] =
                    json!([{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
            }),
        ),
        (
            "nested-mounts",
            Box::new(|pod| {
                let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
                mounts.push(json!({ "name": "tls", "mountPath": "/usr/local/bin/ignition/data/local/tls", "readOnly": true }));
                mounts.push(json!({ "name": "tls", "mountPath": "/usr/local/bin/ignition/data/one.txt", "subPath": "one.txt" }));
                pod["spec"]["volumes"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({ "name": "tls", "secret": { "secretName": "tls" } }));
            }),
        ),
        (
            "no-init-containers",
            Box::new(|pod| drop(pod["spec"].as_object_mut().unwrap().remove("initContainers"))),
        ),
        ("job", Box::new(|pod| pod["spec"]["restartPolicy"] = json!("Never"))),
        ("big", Box::new(|pod| pod["metadata"]["annotations"]["big"] = json!("x".repeat(200_000)))),
    ];
    // With several Stokers, the probe has to name one.
    let probe = {
        let mut pod = gateway("probe");
        pod["metadata"]["annotations"]["stoker.io/cr-name"] = json!("s");
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    wait::until_true("the webhook to be called", LIMIT, || async {
        Ok(bed.pods().create(&dry_run, &probe).await?.metadata.labels.is_some())
    })
    .await
    .unwrap();

    for (name, change) in cases {
        let mut pod = gateway(name);
        pod["metadata"]["annotations"]["stoker.io/cr-name"] = json!("s");
        change(&mut pod);
        let created = bed.create(&pod).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let agents = init_names(&created).into_iter().filter(|n| n.starts_with("stoker-agent")).count();
        assert_eq!(agents, 1, "{name}");
        if name == "guaranteed" {
            assert_eq!(created["status"]["qosClass"], "Guaranteed");
        }
        // What is stored can be stored again: a user who re-creates a pod from what kubectl shows.
        let mut again = created;
        again["metadata"] = json!({ "name": format!("{name}-again"), "annotations": again["metadata"]["annotations"],
            "labels": again["metadata"]["labels"] });
        again.as_object_mut().unwrap().remove("status");
        let again = bed.create(&again).await.unwrap_or_else(|error| panic!("{name}, again: {error}"));
        assert_eq!(
            init_names(&again).into_iter().filter(|n| n.starts_with("stoker-agent")).count(),
            1,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_injectors_before_and_after_get_along() {
    let Some(bed) = bed(settings()).await else { return };
    bed.stoker("s", json!({})).await;
    // Another webhook, called before ours and after it, that adds an init container with the data volume.
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let foreign = axum::Router::new().route(
        "/mutate",
        axum::routing::post(move |body: axum::Json<AdmissionReview<Pod>>| {
            let calls = Arc::clone(&counter);
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                let request: AdmissionRequest<Pod> = body.0.try_into().unwrap();
                let pod = request.object.as_ref().unwrap();
                let there = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == "foreign");
                let mut response = kube::core::admission::AdmissionResponse::from(&request);
                if !there {
                    let container = json!({ "name": "foreign", "image": "x", "securityContext": container_security(),
                        "volumeMounts": [{ "name": "data", "mountPath": "/d" }] });
                    let patch = json!([{ "op": "add", "path": "/spec/initContainers/-", "value": container }]);
                    response = response.with_patch(serde_json::from_value(patch).unwrap()).unwrap();
                }
                axum::Json(response.into_review())
            }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    // Called after ours, in the order of names.
    let hook = format!("{}-zz", bed.hook);
    let configuration = json!({ "metadata": { "name": hook }, "webhooks": [{
        "name": "foreign.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded", "clientConfig": { "url": format!("https://{address}/mutate") },
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": &*bed.namespace } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }] }] });
    let hooks: Api<MutatingWebhookConfiguration> = Api::all(bed.client.clone());
    hooks.create(&PostParams::default(), &serde_json::from_value(configuration).unwrap()).await.unwrap();
    let keeper =
        Keeper::new(bed.client.clone(), &bed.namespace, "foreign", Some(&hook), names, Lifetimes::default());
    let serving = Serving::new(&keeper.ensure().await.unwrap().0).unwrap();
    tokio::spawn(
        axum_server::from_tcp_rustls(listener, serving.config()).unwrap().serve(foreign.into_make_service()),
    );
    bed.in_force().await;
    wait::until_true("the other webhook", LIMIT, || async {
        let probe = PostParams { dry_run: true, ..PostParams::default() };
        bed.pods().create(&probe, &serde_json::from_value(gateway("probe"))?).await?;
        Ok(calls.load(Ordering::SeqCst) > 0)
    })
    .await
    .unwrap();

    let (created, said) = bed.kubectl(&gateway("gw-0")).await;
    hooks.delete(&hook, &DeleteParams::default()).await.unwrap();
    assert!(created, "{said}");
    // Called again because of what the other did, we change nothing and say what is odd.
    assert!(said.contains("\"foreign\" comes after the agent"), "{said}");
    let pod = serde_json::to_value(bed.pods().get("gw-0").await.unwrap()).unwrap();
    assert_eq!(init_names(&pod), ["preconfigure", "stoker-agent", "foreign"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_change_without_a_failed_request() {
    // A pod that needs the webhook and does not get it is an error that the loop below sees.
    let lifetimes = Lifetimes {
        authority: SignedDuration::from_secs(12),
        leaf: SignedDuration::from_secs(6),
        overlap: SignedDuration::from_millis(1500),
    };
    let fail = |webhook: &mut Value| webhook["failurePolicy"] = json!("Fail");
    let Some(bed) = bed_with(settings(), lifetimes, fail).await else { return };
    bed.stoker("s", json!({})).await;
    bed.in_force().await;
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let served = || async {
        let data = secrets.get("certificate").await.unwrap().data.unwrap();
        (data["tls.crt"].clone(), data["ca.crt"].clone())
    };
    let (leaf, authority) = served().await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (pods, stop) = (bed.pods(), Arc::clone(&stop));
            tokio::spawn(async move {
                let dry_run = PostParams { dry_run: true, ..PostParams::default() };
                let pod: Pod = serde_json::from_value(gateway("load")).unwrap();
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    let created = pods.create(&dry_run, &pod).await.unwrap();
                    assert!(created.metadata.annotations.unwrap().contains_key("stoker.io/injected"));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let rotated = wait::until_true("another authority", Duration::from_secs(30), || async {
        let (new_leaf, new_authority) = served().await;
        Ok(new_leaf != leaf && new_authority != authority)
    });
    rotated.await.unwrap();
    // And a while with the new one.
    let (_, second) = served().await;
    let leaf_of_second = served().await.0;
    wait::until_true("another certificate", Duration::from_secs(30), || async {
        let (leaf, authority) = served().await;
        Ok(leaf != leaf_of_second || authority != second)
    })
    .await
    .unwrap();
    stop.store(true, Ordering::SeqCst);
    let mut requests = 0;
    for worker in load {
        requests += worker.await.unwrap();
    }
    assert!(requests > 100, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_says_nothing_delays_no_pod_for_long() {
    let Some(cluster) = cluster::get().await else { return };
    let namespace = cluster.server.namespace().await.unwrap();
    // No right to read anything, and a roster that was never filled.
    let client = cluster.server.token_client(&namespace, "default").await.unwrap();
    let (events, _) = admission::publish(client.clone(), "stoker-webhook", None);
    let review = json!({ "uid": "1", "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" }, "operation": "CREATE", "userInfo": {},
        "name": "gw-0", "namespace": &*namespace, "object": gateway("gw-0") });
    let request: AdmissionRequest<Pod> = serde_json::from_value(review).unwrap();
    let admission = Admission::new(client, Roster::default(), Scope::All, settings(), events.clone());
    let decision = admission.decide(&request).await;
    assert_eq!(decision.reason, Reason::StokersUnknown);
    assert!(decision.patch.0.is_empty() && decision.warnings[0].contains("cannot be read"), "{decision:?}");

    // One that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let client = Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap();
    let admission = Admission::new(client, Roster::default(), Scope::All, settings(), events);
    let start = std::time::Instant::now();
    let decision = admission.decide(&request).await;
    assert_eq!(decision.reason, Reason::StokersUnknown);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
