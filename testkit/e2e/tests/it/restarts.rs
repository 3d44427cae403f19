//! Parts that end and come back: nothing is lost, and the gateway does not notice.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus};
use kube::{Api, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use stoker_e2e::{Blueprint, CR, Site, VIEW, view};
use stoker_k8s::conditions;
use stoker_testkit::{require, wait};

use crate::bed::{PATIENCE, bed, started};

/// The kubelet's word on a container of a pod, the sidecar or the gateway.
async fn container(site: &Site<'_>, pod: &str, name: &str) -> anyhow::Result<ContainerStatus> {
    let status = site.pod_now(pod).await?.status.unwrap_or_default();
    let all = [status.init_container_statuses, status.container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    all.find(|c| c.name == name).ok_or_else(|| anyhow::anyhow!("{pod} has no container {name} yet"))
}

/// The processes of a container, by its id in their control groups.
fn processes(container: &ContainerStatus) -> Vec<Pid> {
    let id = container.container_id.clone().unwrap().replace("containerd://", "");
    let of = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
        groups.contains(&id).then_some(pid)
    };
    std::fs::read_dir(Path::new("/proc")).unwrap().filter_map(|entry| of(entry.ok()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_comes_back_and_the_gateway_runs_on() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let gateway = container(&site, "gw-0", "gateway").await.unwrap();
    let agent = container(&site, "gw-0", "stoker-agent").await.unwrap();

    let running = processes(&agent);
    assert!(!running.is_empty(), "{:?} has no process", agent.container_id);
    for pid in running {
        // One may have ended with its parent.
        let _ = kill_process(pid, Signal::KILL);
    }
    wait::until_true("the kubelet to restart the agent", PATIENCE, || async {
        let now = container(&site, "gw-0", "stoker-agent").await?;
        Ok(now.restart_count == agent.restart_count + 1 && now.started == Some(true))
    })
    .await
    .unwrap();
    let pushed = site.push(VIEW, &view("after the kill")).await.unwrap();
    site.follow(&pushed, PATIENCE).await.unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("after the kill"));
    let now = container(&site, "gw-0", "gateway").await.unwrap();
    assert_eq!((now.container_id, now.restart_count), (gateway.container_id, gateway.restart_count));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_while_no_controller_runs_is_live_when_one_does() {
    let Some(bed) = bed().await else { return };
    let _alone = bed.calm.write().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let scale = |replicas: &str| {
        bed.installation
            .kubectl(&["scale", "deployment", "stoker-controller", "--replicas", replicas])
            .unwrap();
    };
    scale("0");
    let left = [
        "wait",
        "pod",
        "--selector",
        "app.kubernetes.io/component=controller",
        "--for=delete",
        "--timeout=60s",
    ];
    bed.installation.kubectl(&left).unwrap();
    let pushed = site.push(VIEW, &view("nobody listens")).await.unwrap();
    scale("2");
    site.follow(&pushed, PATIENCE).await.unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("nobody listens"));
    bed.installation
        .kubectl(&["rollout", "status", "deployment", "stoker-controller", "--timeout=60s"])
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_pod_starts_on_its_own_files_and_is_never_taken_for_the_old_one() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let (old, before) = (site.pod_now("gw-0").await.unwrap().metadata.uid, ready_since(&site).await.unwrap());
    site.kubectl(&["delete", "pod", "gw-0", "--wait=false"]).unwrap();
    wait::until_true("the new pod to be in step", PATIENCE, || async {
        let pod = site.pod_now("gw-0").await?;
        Ok(pod.metadata.uid != old && ready_since(&site).await.is_some_and(|since| since != before))
    })
    .await
    .unwrap();
    // Ready went away in between, and what is read now is the new pod's own word.
    let maps: Api<ConfigMap> = Api::namespaced(site.client(), &site.namespace);
    let map = maps.get(&stoker_k8s::names::status(CR, "gw-0")).await.unwrap();
    let new = site.pod_now("gw-0").await.unwrap().metadata.uid.unwrap();
    assert_eq!(map.owner_references()[0].uid, new);
    assert_eq!(site.gateways_now().await.unwrap().len(), 1);
}

/// Since when the `Stoker` is Ready.
async fn ready_since(site: &Site<'_>) -> Option<jiff::Timestamp> {
    let status = site.stoker_now().await.ok()?.status?;
    let ready = conditions::find(&status.conditions, conditions::READY)?;
    (ready.status == "True").then_some(ready.last_transition_time.0)
}

/// A plant must be able to restart a gateway whatever is broken around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_synced_before_starts_without_its_git_server() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    // A forge of its own, so that it may die.
    let Some(forge) = require::gitea_in(bed.installation.node()).await else { return };
    let site = Site::build(&bed.installation, &forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let first = site.clone.head().unwrap();
    let before = site.read("gw-0", VIEW).unwrap();
    forge.kill().unwrap();
    let old = container(&site, "gw-0", "gateway").await.unwrap();
    site.kubectl(&["delete", "pod", "gw-0"]).unwrap();
    wait::until_true("the gateway to start again", PATIENCE, || async {
        let now = container(&site, "gw-0", "gateway").await?;
        Ok(now.ready && now.container_id != old.container_id)
    })
    .await
    .unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), before);
    let gateway = &site.gateways_now().await.unwrap()["gw-0"];
    assert_eq!(gateway.target_commit.as_deref(), Some(&*first));
}
