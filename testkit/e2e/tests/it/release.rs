//! What a platform engineer does to the release while gateways run. On a node of its own: the release is cluster-wide.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stoker_e2e::{Blueprint, Installation, Site, VIEW, view};
use stoker_testkit::{require, wait};

use crate::bed::{PATIENCE, started};

/// What must not change while nobody touches the pod.
fn identity(pod: &Pod) -> (Option<String>, Vec<(String, Option<String>, i32)>) {
    let status = pod.status.clone().unwrap_or_default();
    let all = [status.init_container_statuses, status.container_statuses];
    let all = all.into_iter().flatten().flatten();
    (pod.uid(), all.map(|c| (c.name, c.container_id, c.restart_count)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_state_and_an_uninstall_leaves_gateways_running() {
    let Some(node) = require::own_node().await else { return };
    if !require::images(&node).await {
        return;
    }
    let Some(forge) = require::gitea_in(&node).await else { return };
    let installation = Installation::install(&node).unwrap();
    let site = Site::build(&installation, &forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let running = identity(&site.pod_now("gw-0").await.unwrap());
    let commit = site.clone.head().unwrap();

    installation.upgrade(&["logLevel=debug", "controller.replicas=1", "webhook.replicas=1"]).unwrap();
    assert_eq!(identity(&site.pod_now("gw-0").await.unwrap()), running, "the gateway's pod is not touched");
    let gateway = &site.gateways_now().await.unwrap()["gw-0"];
    assert_eq!(gateway.synced_commit.as_deref(), Some(&*commit));
    let pushed = site.push(VIEW, &view("after the upgrade")).await.unwrap();
    site.follow(&pushed, PATIENCE).await.unwrap();

    installation.uninstall().unwrap();
    assert_eq!(identity(&site.pod_now("gw-0").await.unwrap()), running);
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("after the upgrade"));
    assert!(site.kubectl(&["get", "stokers"]).unwrap().contains(stoker_e2e::CR), "resources are the user's");

    // A gateway starts without Stoker, on the files that it has.
    site.kubectl(&["delete", "pod", "gw-0"]).unwrap();
    wait::until_true("the gateway to run without a sidecar", PATIENCE, || async {
        let pod = site.pod_now("gw-0").await?;
        let sidecars = pod.spec.and_then(|s| s.init_containers).unwrap_or_default();
        let ready = pod.status.and_then(|s| s.container_statuses).unwrap_or_default().iter().all(|c| c.ready);
        Ok(ready && sidecars.iter().all(|c| c.name != "stoker-agent"))
    })
    .await
    .unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("after the upgrade"));

    // Nobody is there to take a finalizer off, and none is left.
    site.kubectl(&["delete", "stoker", stoker_e2e::CR, "--timeout=30s"]).unwrap();
    assert!(site.data_of("gw-0").join(VIEW).exists(), "files stay");

    // And back: the new installation takes up the directory as it stands.
    Installation::install(&node).unwrap();
    site.apply_objects().unwrap();
    site.kubectl(&["delete", "pod", "gw-0"]).unwrap();
    started(&site).await;
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("after the upgrade"));
}
