use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use stoker_testkit::images::Image;
use stoker_testkit::tools::{self, Tool};
use stoker_testkit::{Node, require, wait};

/// An image whose only program is kubectl: a client of the API server and, as `kubectl proxy`, a server.
const IMAGE: &str = "stoker.test/kubectl:1";

fn load_kubectl(node: &Node) {
    let kubectl = tools::obtain(Tool::Kubectl).unwrap();
    node.load(&Image::new(IMAGE).entrypoint(["/kubectl"]).user(65532).copy("/kubectl", 0o755, kubectl))
        .unwrap();
}

async fn allow_reading(client: &Client, namespace: &str) {
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }))
    .unwrap();
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &binding).await.unwrap();
}

async fn phase(pods: &Api<Pod>, name: &str, wanted: &str) {
    wait::until_true(&format!("pod {name} to be {wanted}"), Duration::from_secs(60), || async {
        let status = pods.get(name).await?.status.unwrap_or_default();
        Ok(status.phase.as_deref() == Some(wanted))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn pods_reach_the_api_server_and_each_other_by_services_and_tests_reach_both() {
    let Some(node) = require::node().await else { return };
    load_kubectl(node);
    let (client, namespace) = (node.client().unwrap(), node.namespace().await.unwrap());
    allow_reading(&client, &namespace).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let server: Pod = serde_json::from_value(json!({
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {"containers": [{
            "name": "server", "image": IMAGE, "imagePullPolicy": "Never",
            "args": ["proxy", "--address=0.0.0.0", "--accept-hosts=.*"],
        }]},
    }))
    .unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8001}]},
    }))
    .unwrap();
    let services: Api<Service> = Api::namespaced(client, &namespace);
    pods.create(&PostParams::default(), &server).await.unwrap();
    let service = services.create(&PostParams::default(), &service).await.unwrap();
    let address = service.spec.unwrap().cluster_ip.unwrap();
    phase(&pods, "server", "Running").await;

    // From here to the Service, to the pod, to the API server as the pod's account, and back.
    let text = wait::until("the Service to answer", Duration::from_secs(20), || async {
        let answer =
            get(&format!("{address}:80"), &format!("/api/v1/namespaces/{namespace}/pods/server")).await?;
        Ok(answer.contains("200 OK").then_some(answer))
    })
    .await
    .unwrap();
    assert!(text.contains("\"kind\":\"Pod\""), "{text}");

    let other: Pod = serde_json::from_value(json!({
        "metadata": {"name": "client"},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "client", "image": IMAGE, "imagePullPolicy": "Never",
            "args": ["get", "--raw", "/version", "--server", format!("http://{address}")],
        }]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &other).await.unwrap();
    phase(&pods, "client", "Succeeded").await;
    let said = node.exec(&["kubectl", "logs", "--namespace", &namespace, "client"]).unwrap();
    assert!(
        said.contains(&format!("\"gitVersion\": \"{}\"", tools::version(Tool::Kubelet).unwrap())),
        "{said}"
    );
}

#[tokio::test]
async fn a_native_sidecar_holds_back_the_pod_until_its_startup_probe_passes() {
    let Some(node) = require::node().await else { return };
    load_kubectl(node);
    let (client, namespace) = (node.client().unwrap(), node.namespace().await.unwrap());
    let proxy = |port: u16| {
        json!([
            "proxy",
            format!("--port={port}"),
            "--address=0.0.0.0",
            "--accept-hosts=.*",
            "--accept-paths=.*",
            "--reject-paths=^/nothing$",
            "--www=/",
            "--www-prefix=/static/"
        ])
    };
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": {"name": "gateway"},
        "spec": {
            "replicas": 1, "serviceName": "gateway",
            "selector": {"matchLabels": {"app": "gateway"}},
            "template": {
                "metadata": {"labels": {"app": "gateway"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": {"runAsUser": 2003, "runAsGroup": 2003, "fsGroup": 2003, "runAsNonRoot": true},
                    "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "10Mi"}}],
                    "initContainers": [{
                        "name": "sidecar", "image": IMAGE, "imagePullPolicy": "Never", "restartPolicy": "Always",
                        "args": proxy(8001),
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        "startupProbe": {"httpGet": {"path": "/static/data/", "port": 8001}, "periodSeconds": 1},
                    }],
                    "containers": [{
                        "name": "gateway", "image": IMAGE, "imagePullPolicy": "Never", "args": proxy(8002),
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                },
            },
        },
    }))
    .unwrap();
    let start = Instant::now();
    Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &set).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    phase(&pods, "gateway-0", "Running").await;
    println!("running after {:.1} s", start.elapsed().as_secs_f64());
    let status = pods.get("gateway-0").await.unwrap().status.unwrap();
    let sidecar = &status.init_container_statuses.unwrap()[0];
    assert_eq!((sidecar.ready, sidecar.started), (true, Some(true)));
}

#[tokio::test]
async fn an_image_holds_a_program_of_this_machine_with_what_it_loads() {
    let Some(node) = require::node().await else { return };
    let Some(program) = require::program("id") else { return };
    let name = "stoker.test/id:1";
    let image = Image::new(name).entrypoint(["/bin/id"]).user(65532).program("/bin/id", &program).unwrap();
    node.load(&image).unwrap();
    let namespace = node.namespace().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(node.client().unwrap(), &namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "id"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "id", "image": name, "imagePullPolicy": "Never"}]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    phase(&pods, "id", "Succeeded").await;
    let said = node.exec(&["kubectl", "logs", "--namespace", &namespace, "id"]).unwrap();
    assert!(said.starts_with("uid=65532"), "{said}");
}

#[tokio::test]
async fn the_products_images_start() {
    let Some(node) = require::node().await else { return };
    if !require::images(node).await {
        return;
    }
    let namespace = node.namespace().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(node.client().unwrap(), &namespace);
    for name in ["stoker-controller", "stoker"] {
        let image = format!("ghcr.io/stoker-io/{name}:{}", env!("CARGO_PKG_VERSION"));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": true},
                "containers": [{"name": "it", "image": image, "imagePullPolicy": "Never", "args": ["--version"]}],
            },
        }))
        .unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
        phase(&pods, name, "Succeeded").await;
    }
}

#[tokio::test]
async fn two_nodes_live_side_by_side_and_nothing_of_a_node_is_left() {
    let Some(shared) = require::node().await else { return };
    let Some(own) = require::own_node().await else { return };
    assert_ne!(shared.address(), own.address());
    for node in [shared, &own] {
        node.exec(&["kubectl", "get", "node", "node"]).unwrap();
    }
    let folder = own.logs().parent().unwrap().to_owned();
    let (namespace, address) = (own.netns(), own.address());
    assert!(namespace.exists() && interface_with(&own.host_address().to_string()));
    let host = own.host_address().to_string();
    drop(own);
    assert!(!namespace.exists() && !folder.exists(), "{}", folder.display());
    // The kernel takes a network namespace apart a moment after its last process.
    wait::until_true(&format!("the link to {address} to vanish"), Duration::from_secs(10), || async {
        Ok(!interface_with(&host))
    })
    .await
    .unwrap();
    let groups = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .chain(std::fs::read_dir("/sys/fs/cgroup/memory").into_iter().flatten());
    let mine = format!("stoker-node-{}-", std::process::id());
    let left: Vec<_> = groups
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with(&mine))
        .collect();
    // The shared node may be this process's own, and is alive.
    assert!(left.len() <= 1, "{left:?}");
    assert!(Path::new(&shared.netns()).exists());
}

fn interface_with(address: &str) -> bool {
    let output = std::process::Command::new("ip").args(["-4", "addr"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().contains(&format!("inet {address}/"))
}

async fn get(server: &str, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
