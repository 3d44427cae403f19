//! Whose report is whose.

use kube::ResourceExt;
use serde_json::json;
use stoker_k8s::agent::report::{Saying, report};
use stoker_k8s::api::SyncStatus;
use stoker_k8s::names;
use stoker_k8s::protocol::{AgentReport, AgentStatus, Metadata};
use stoker_testkit::wait;
use tokio::sync::watch;

use crate::bed::{Bed, LIMIT, data, entry, synced};

/// Says something as the agent of `pod`, by the agent's own code, and waits until that is written or given up.
async fn say(bed: &Bed, cr: &str, pod: &str, told: &Metadata) {
    let (said, saying) = watch::channel(Saying { status: synced(told), report: None });
    drop(said);
    let written = report(bed.agent_maps().await, cr.into(), pod.into(), saying);
    tokio::time::timeout(LIMIT, written).await.expect("the report ends");
}

#[tokio::test]
async fn two_agents_with_one_name_for_their_reports_are_never_taken_for_each_other() {
    let Some(bed) = Bed::new().await else { return };
    let shared = names::status("a", "b-c");
    assert_eq!(shared, names::status("a-b", "c"));
    bed.apply_stoker("a", json!({})).await;
    bed.apply_stoker("a-b", json!({})).await;
    bed.pod("b-c", true, json!({"stoker.io/service-path": "s", "stoker.io/cr-name": "a"})).await;
    let told = bed.told("a", "a commit", |m| m.commit.is_some()).await;
    bed.report("a", "b-c", synced(&told)).await;
    let is = |status| move |e: &stoker_k8s::api::GatewayEntry| e.sync_status == status;
    let until =
        async |cr: &str, pod: &str, what: &str, enough: &dyn Fn(&stoker_k8s::api::GatewayEntry) -> bool| {
            let stoker = bed.until(cr, what, |s| entry(s, pod).is_some_and(enough)).await;
            entry(&stoker, pod).unwrap().clone()
        };
    until("a", "b-c", "synced", &is(SyncStatus::Synced)).await;

    // The second one is told what to do; the first one's object stays as it is.
    bed.pod("c", true, json!({"stoker.io/service-path": "s", "stoker.io/cr-name": "a-b"})).await;
    let collides = until("a-b", "c", "the collision", &is(SyncStatus::Error)).await;
    assert_eq!(collides.reason.as_deref(), Some("StatusNameCollision"));
    for part in ["configmap stoker-status-a-b-c", "is that of pod b-c of Stoker a", "another name"] {
        assert!(collides.message.contains(part), "{}", collides.message);
    }
    let map = bed.maps().get(&shared).await.unwrap();
    assert_eq!(map.labels()["stoker.io/cr-name"], "a");

    // Its agent sees that the object is not its own, although it has the right to write there.
    say(&bed, "a-b", "c", &told).await;
    assert_eq!(bed.maps().get(&shared).await.unwrap().resource_version(), map.resource_version());
    say(&bed, "a", "b-c", &told).await;
    let report = AgentReport::from_data(&data(&bed.maps().get(&shared).await.unwrap())).unwrap();
    assert!(report.status.unwrap().is_of("a", "b-c"));

    // One that does not look is not believed, and what it wrote is nobody's.
    let foreign = AgentStatus { cr: "a-b".into(), pod: "c".into(), ..synced(&told) };
    bed.write_report(&shared, foreign).await;
    let wronged = until("a", "b-c", "not heard", &is(SyncStatus::Error)).await;
    assert!(wronged.message.contains("pod \"c\" of Stoker \"a-b\""), "{}", wronged.message);
    assert_eq!(wronged.synced_commit, None);
    until("a-b", "c", "still colliding", &is(SyncStatus::Error)).await;
    say(&bed, "a", "b-c", &told).await;
    until("a", "b-c", "synced again", &is(SyncStatus::Synced)).await;

    // The name is free when the pod is gone.
    bed.delete_pod("b-c").await;
    wait::until_true("the second one's own object", LIMIT, || async {
        let map = bed.maps().get_opt(&shared).await?;
        Ok(map.is_some_and(|map| map.labels()["stoker.io/cr-name"] == "a-b"))
    })
    .await
    .unwrap();
    bed.report("a-b", "c", synced(&told)).await;
    until("a-b", "c", "synced at last", &is(SyncStatus::Synced)).await;
}
