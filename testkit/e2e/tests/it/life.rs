//! The life of an installation, in order: one Helm release serves the whole cluster, so these promises share it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use stoker_e2e::{CR, Installation, Site, VIEW};
use stoker_k8s::api::SyncStatus;
use stoker_testkit::{require, wait};

const PATIENCE: Duration = Duration::from_secs(120);

fn view(text: &str) -> String {
    format!(
        "{{\n  \"custom\": {{}},\n  \"root\": {{\n    \"props\": {{\n      \"text\": \"{text}\"\n    }}\n  }}\n}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn from_install_to_uninstall() {
    // A node of its own: the release is cluster-wide, and other tests bring theirs.
    let Some(node) = require::own_node().await else { return };
    if !require::images(&node).await {
        return;
    }
    let Some(forge) = require::gitea_in(&node).await else { return };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stoker");
    let installation = Installation::install(&node, &chart).unwrap();
    let site = Site::build(&installation, forge, 2).await.unwrap();
    site.follow(&site.head().unwrap(), PATIENCE).await.unwrap();

    the_gateway_started_after_its_first_sync(&site).await;
    a_push_is_live_everywhere(&site).await;
    a_broken_commit_harms_nothing(&site).await;
    a_deleted_pod_comes_back_on_its_last_good_files(&site).await;
    the_controller_may_restart(&site, &node).await;
    an_upgrade_keeps_what_is_known(&site, &node, &chart).await;
    a_deleted_stoker_and_an_uninstalled_release_leave_the_files(site, installation).await;
}

/// Injection as the kubelet sees it: a native sidecar after the chart's own init container.
async fn the_gateway_started_after_its_first_sync(site: &Site<'_>) {
    let pods: Api<Pod> = Api::namespaced(site.client(), &site.namespace);
    let pod = pods.get("gw-0").await.unwrap();
    let (spec, status) = (pod.spec.unwrap(), pod.status.unwrap());
    let names: Vec<_> =
        spec.init_containers.unwrap().into_iter().map(|c| (c.name, c.restart_policy)).collect();
    let expected =
        [("preconfigure".to_owned(), None), ("stoker-agent".to_owned(), Some("Always".to_owned()))];
    assert_eq!(names, expected);
    let agent =
        status.init_container_statuses.unwrap().into_iter().find(|s| s.name == "stoker-agent").unwrap();
    assert_eq!(agent.started, Some(true), "the startup probe passed");
    let running = status.container_statuses.unwrap()[0].state.clone().unwrap().running.unwrap();
    let written = std::fs::metadata(site.data_of(0).join(VIEW)).unwrap().modified().unwrap();
    let started = running.started_at.unwrap().0.as_second();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(written <= started.unsigned_abs(), "the files were there before the gateway");
}

async fn a_push_is_live_everywhere(site: &Site<'_>) {
    let content = view("pushed");
    let pushed = site.push(VIEW, &content).await.unwrap();
    let timeline = site.follow(&pushed, PATIENCE).await.unwrap();
    site.until_delivered(&pushed, PATIENCE).await.unwrap();
    for replica in 0..2 {
        assert_eq!(std::fs::read_to_string(site.data_of(replica).join(VIEW)).unwrap(), content);
    }
    println!("push to Ready: {:?}", timeline.ready);
}

async fn a_broken_commit_harms_nothing(site: &Site<'_>) {
    let before = std::fs::read_to_string(site.data_of(0).join(VIEW)).unwrap();
    let broken = site.push(VIEW, "{\"custom\": ").await.unwrap();
    let messages = site.until_all(SyncStatus::Error, &broken.commit, PATIENCE).await.unwrap();
    for (pod, message) in messages {
        assert!(message.contains("view.json is not valid JSON: line 1"), "{pod}: {message}");
    }
    for replica in 0..2 {
        assert_eq!(std::fs::read_to_string(site.data_of(replica).join(VIEW)).unwrap(), before);
    }
    let mended = site.push(VIEW, &view("mended")).await.unwrap();
    site.follow(&mended, PATIENCE).await.unwrap();
}

async fn a_deleted_pod_comes_back_on_its_last_good_files(site: &Site<'_>) {
    site.kubectl(&["delete", "pod", "gw-1", "--wait=true"]).unwrap();
    site.kubectl(&["wait", "--for=create", "pod/gw-1", "--timeout=60s"]).unwrap();
    site.kubectl(&["wait", "--for=condition=Ready", "pod/gw-1", "--timeout=60s"]).unwrap();
    site.follow(&site.head().unwrap(), PATIENCE).await.unwrap();
}

async fn the_controller_may_restart(site: &Site<'_>, node: &stoker_testkit::Node) {
    let all = [
        "kubectl",
        "delete",
        "pods",
        "--namespace",
        "stoker-system",
        "--selector",
        "app.kubernetes.io/component=controller",
        "--wait=true",
    ];
    node.exec(&all).unwrap();
    node.exec(&[
        "kubectl",
        "rollout",
        "status",
        "deployment/stoker-controller",
        "--namespace",
        "stoker-system",
        "--timeout=90s",
    ])
    .unwrap();
    let pushed = site.push(VIEW, &view("after the restart")).await.unwrap();
    site.follow(&pushed, PATIENCE).await.unwrap();
}

async fn an_upgrade_keeps_what_is_known(site: &Site<'_>, node: &stoker_testkit::Node, chart: &Path) {
    let before = site.stoker_now().await.unwrap().status.unwrap();
    Installation::install(node, chart).unwrap();
    let after = site.stoker_now().await.unwrap().status.unwrap();
    assert_eq!(before.last_sync_commit, after.last_sync_commit);
    let pushed = site.push(VIEW, &view("after the upgrade")).await.unwrap();
    site.follow(&pushed, PATIENCE).await.unwrap();
}

async fn a_deleted_stoker_and_an_uninstalled_release_leave_the_files(
    site: Site<'_>,
    installation: Installation<'_>,
) {
    let live = std::fs::read_to_string(site.data_of(0).join(VIEW)).unwrap();
    site.kubectl(&["delete", "stoker", CR, "--wait=true", "--timeout=60s"]).unwrap();
    installation.uninstall().unwrap();
    wait::until_true("the gateways to run on", Duration::from_secs(30), || async {
        let phases = site.kubectl(&["get", "pods", "--output", "jsonpath={.items[*].status.phase}"])?;
        Ok(phases == "Running Running")
    })
    .await
    .unwrap();
    for replica in 0..2 {
        assert_eq!(std::fs::read_to_string(site.data_of(replica).join(VIEW)).unwrap(), live);
    }
}
