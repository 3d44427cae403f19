//! The first hour of an installation, in order: one Helm release serves the whole cluster, so these promises share it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use stoker_e2e::{Installation, Site, VIEW};
use stoker_k8s::api::SyncStatus;
use stoker_testkit::require;

const PATIENCE: Duration = Duration::from_secs(120);

fn view(text: &str) -> String {
    format!(
        "{{\n  \"custom\": {{}},\n  \"root\": {{\n    \"props\": {{\n      \"text\": \"{text}\"\n    }}\n  }}\n}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn from_install_to_a_refused_commit() {
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
}
