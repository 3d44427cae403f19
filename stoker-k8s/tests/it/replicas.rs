//! Several controllers, none, and an API server that goes away.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use stoker_k8s::conditions;
use stoker_k8s::controller::{Election, LeaseSettings, Settings, release_all};
use stoker_testkit::{require, wait};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bed::{Bed, LIMIT, synced};

/// Takes part in the election of `namespace` under `identity`.
struct Candidate {
    leads: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Candidate {
    fn new(client: Client, namespace: &str, identity: &str) -> Self {
        let settings = LeaseSettings {
            duration: Duration::from_secs(3),
            deadline: Duration::from_secs(2),
            period: Duration::from_millis(200),
            ..LeaseSettings::new(namespace, "stoker-controller", identity)
        };
        let (lead, leads) = watch::channel(false);
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(Election::new(client, settings).run(lead, stopping));
        Self { leads, stop, task }
    }

    async fn becomes(&mut self, leader: bool) {
        tokio::time::timeout(LIMIT, self.leads.wait_for(|leads| *leads == leader)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn one_replica_leads_and_the_next_takes_over_when_it_resigns_or_dies() {
    let Some(bed) = Bed::empty().await else { return };
    let client = bed.controller_client().await;
    let mut a = Candidate::new(client.clone(), &bed.namespace, "a");
    a.becomes(true).await;
    let mut b = Candidate::new(client.clone(), &bed.namespace, "b");

    // It gives the Lease back: the other need not wait for it to expire.
    let started = std::time::Instant::now();
    a.stop.send_replace(true);
    b.becomes(true).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    tokio::time::timeout(LIMIT, a.task).await.unwrap().unwrap();

    // It dies: the other waits until it has seen nothing new for the whole duration.
    let mut c = Candidate::new(client.clone(), &bed.namespace, "c");
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), &bed.namespace);
    b.task.abort();
    let started = std::time::Instant::now();
    // Whatever the dead one's clock said is of no interest.
    let late = Patch::Merge(json!({"spec": {"renewTime": "2199-01-01T00:00:00.000000Z"}}));
    leases.patch("stoker-controller", &PatchParams::default(), &late).await.unwrap();
    c.becomes(true).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
    let lease = leases.get("stoker-controller").await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("c"), Some(3)));
}

#[tokio::test]
async fn a_leader_that_stays_one_is_no_news() {
    let Some(bed) = Bed::empty().await else { return };
    let mut leader = Candidate::new(bed.controller_client().await, &bed.namespace, "a");
    leader.becomes(true).await;
    leader.leads.mark_unchanged();
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), &bed.namespace);
    for _ in 0..3 {
        let before = leases.get("stoker-controller").await.unwrap().metadata.resource_version;
        wait::until_true("the Lease to be renewed", LIMIT, || async {
            Ok(leases.get("stoker-controller").await?.metadata.resource_version != before)
        })
        .await
        .unwrap();
    }
    assert!(!leader.leads.has_changed().unwrap(), "everything would be looked at afresh");
}

#[tokio::test]
async fn a_replica_that_does_not_lead_writes_nothing_and_takes_over_at_once() {
    let Some(mut bed) = Bed::empty().await else { return };
    let (lead, leads) = watch::channel(false);
    bed.start(Settings::default(), leads).await;
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    // Time enough for a pass, if there was one.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let user = bed.controller_user();
    let writes = bed
        .cluster
        .server
        .requests_of(&user)
        .unwrap()
        .into_iter()
        .filter(|r| ["create", "patch", "update", "delete"].contains(&r.verb.as_str()));
    assert_eq!(writes.map(|r| r.request_uri).collect::<Vec<_>>(), Vec::<String>::new());
    lead.send_replace(true);
    bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_finds_its_work_done() {
    let Some(mut bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;
    bed.stop().await;
    let before = bed.stokers().get("plant").await.unwrap();
    let map = bed.maps().get("stoker-metadata-plant").await.unwrap();

    let (_, leads) = watch::channel(true);
    let count = bed.git.requests.load(std::sync::atomic::Ordering::SeqCst);
    bed.start(Settings::default(), leads).await;
    wait::until_true("a look-up", LIMIT, || async {
        Ok(bed.git.requests.load(std::sync::atomic::Ordering::SeqCst) > count)
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let after = bed.stokers().get("plant").await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version);
    let same = bed.maps().get("stoker-metadata-plant").await.unwrap();
    assert_eq!(same.metadata.resource_version, map.metadata.resource_version);
}

#[tokio::test]
async fn without_a_controller_nothing_is_held_for_ever() {
    let Some(mut bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.stop().await;
    bed.stokers().delete("plant", &DeleteParams::default()).await.unwrap();
    assert!(bed.stokers().get_opt("plant").await.unwrap().is_some(), "its finalizer holds it");
    let names = [bed.namespace.to_string()];
    let released = release_all(&bed.controller_client().await, Some(&names)).await.unwrap();
    assert_eq!(released, 1);
    wait::until_true("it to be gone with what it owns", LIMIT, || async {
        Ok(bed.stokers().get_opt("plant").await?.is_none()
            && bed.maps().get_opt("stoker-metadata-plant").await?.is_none())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_deleted_namespace_is_not_held_up() {
    let Some(mut bed) = Bed::empty().await else { return };
    let (_, leads) = watch::channel(true);
    // Its own account would go with the namespace, which in a cluster it lives outside of.
    bed.start_as(bed.client.clone(), Settings::default(), leads).await;
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    let namespaces: Api<Namespace> = Api::all(bed.client.clone());
    bed.delete_pod("gw-0").await;
    namespaces.delete(&bed.namespace, &DeleteParams::default()).await.unwrap();
    wait::until_true("the Stoker to go", LIMIT, || async {
        Ok(bed.stokers().get_opt("plant").await?.is_none())
    })
    .await
    .unwrap();
    wait::until_true("the namespace to go", 2 * LIMIT, || async {
        Ok(namespaces.get_opt(&bed.namespace).await?.is_none())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_api_server_that_went_away_is_found_again() {
    let Some(server) = require::own_api_server().await else { return };
    let server = Box::leak(Box::new(server));
    let bed = Bed::on(server).await;
    bed.apply_stoker("plant", json!({})).await;
    bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    server.kill().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.resume().await.unwrap();
    let second = bed.repository.commit("second");
    bed.annotate("plant", json!({"stoker.io/requested-at": "after"})).await;
    bed.told("plant", "the second commit", |m| m.commit.as_deref() == Some(&second)).await;
}
