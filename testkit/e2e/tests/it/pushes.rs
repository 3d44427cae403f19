//! What a push does to gateways, and what it never does.

use k8s_openapi::api::core::v1::Pod;
use stoker_e2e::{Blueprint, Role, Site, VIEW, view};
use stoker_k8s::api::SyncStatus;

use crate::bed::{PATIENCE, bed, started};

/// Injection as the kubelet sees it: a native sidecar after the chart's own init container, before the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_after_its_first_sync() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;

    let Pod { spec, status, .. } = site.pod_now("gw-0").await.unwrap();
    let containers = spec.unwrap().init_containers.unwrap();
    let names: Vec<_> = containers.into_iter().map(|c| (c.name, c.restart_policy)).collect();
    let expected =
        [("preconfigure".to_owned(), None), ("stoker-agent".to_owned(), Some("Always".to_owned()))];
    assert_eq!(names, expected);
    let status = status.unwrap();
    let agent =
        status.init_container_statuses.unwrap().into_iter().find(|s| s.name == "stoker-agent").unwrap();
    assert_eq!(agent.started, Some(true), "the startup probe passed");
    let running = status.container_statuses.unwrap()[0].state.clone().unwrap().running.unwrap();
    let written = std::fs::metadata(site.data_of("gw-0").join(VIEW)).unwrap().modified().unwrap();
    let started = running.started_at.unwrap().0.as_second();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(written <= started.unsigned_abs(), "the files were there before the gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_push_is_delivered_and_live_everywhere() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(2)).await.unwrap();
    started(&site).await;
    for text in ["first", "second", "third"] {
        let pushed = site.push(VIEW, &view(text)).await.unwrap();
        let timeline = site.follow(&pushed, PATIENCE).await.unwrap();
        assert!(
            timeline.delivered.is_some(),
            "{text}: live without the forge's delivery: {timeline:?}\n{:?}\n{}",
            site.stoker_now().await.unwrap().metadata.annotations,
            bed.installation.logs()
        );
        for pod in site.pods() {
            assert_eq!(site.read(&pod, VIEW).unwrap(), view(text));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_commit_harms_nothing_and_the_next_one_heals() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let site = Site::build(&bed.installation, &bed.forge, Blueprint::walking(1)).await.unwrap();
    started(&site).await;
    let before = site.read("gw-0", VIEW).unwrap();
    let good = site.clone.head().unwrap();

    let broken = site.push(VIEW, "{\"custom\": ").await.unwrap();
    let messages = site.until_all(SyncStatus::Error, &broken.commit, PATIENCE).await.unwrap();
    let message = &messages["gw-0"];
    assert!(message.contains("view.json is not valid JSON: line 1"), "{message}");
    assert_eq!(site.read("gw-0", VIEW).unwrap(), before);
    let gateway = &site.gateways_now().await.unwrap()["gw-0"];
    assert_eq!(gateway.synced_commit.as_deref(), Some(&*good), "what it still runs is said");
    let shown = site.kubectl(&["get", "stokers"]).unwrap();
    assert!(shown.contains("0/1 synced") && shown.contains("False"), "{shown}");

    let healed = site.push(VIEW, &view("healed")).await.unwrap();
    site.follow(&healed, PATIENCE).await.unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("healed"));
}

/// What is on the gateway and not in git stays; what git takes away goes; what somebody edits by hand is put back.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_git_brought_is_changed_or_deleted() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let mut blueprint = Blueprint::walking(0);
    blueprint.roles =
        vec![Role::new("gw").annotation("service-path", stoker_e2e::SERVICE).annotation("sync-period", "5")];
    let site = Site::build(&bed.installation, &bed.forge, blueprint).await.unwrap();
    started(&site).await;
    let data = site.data_of("gw-0");
    let foreign = data.join("projects/made-in-the-designer/project.json");
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "{\"title\": \"mine\"}").unwrap();

    let query = "projects/line/ignition/named-query/Shift Report";
    assert!(data.join(query).is_dir());
    site.clone.remove(&format!("{}/{query}", stoker_e2e::SERVICE)).unwrap();
    let pushed = site.push(VIEW, &view("less")).await.unwrap();
    site.follow(&pushed, PATIENCE).await.unwrap();
    assert!(!data.join(query).exists(), "deleted in git");
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "{\"title\": \"mine\"}");

    std::fs::write(data.join(VIEW), "{\"edited\": \"by hand\"}").unwrap();
    stoker_testkit::wait::until_true("the edit to be put back", PATIENCE, || async {
        Ok(site.read("gw-0", VIEW)? == view("less"))
    })
    .await
    .unwrap();
}
