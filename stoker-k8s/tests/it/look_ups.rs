//! Many `Stoker`s of one repository on a real API server: how often its git server is asked.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use stoker_k8s::protocol::Metadata;
use stoker_testkit::wait;

use crate::bed::Bed;

const STOKERS: usize = 100;
/// For what a busy machine takes to write that many objects.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many agents have been told each commit.
async fn told(bed: &Bed) -> kube::Result<BTreeMap<String, usize>> {
    let mut commits = BTreeMap::new();
    let maps: Vec<ConfigMap> = bed.maps().list(&ListParams::default()).await?.items;
    for map in maps.iter().filter(|map| map.name_any().starts_with("stoker-metadata-")) {
        let metadata = Metadata::from_data(&map.data.clone().unwrap_or_default()).unwrap();
        *commits.entry(metadata.commit.unwrap_or_default()).or_default() += 1;
    }
    Ok(commits)
}

async fn all_are_told(bed: &Bed, commit: &str) {
    wait::until_true(&format!("{STOKERS} agents to be told {commit}"), PATIENCE, || async {
        Ok(told(bed).await?.get(commit) == Some(&STOKERS))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_stokers_of_one_repository_are_one_request_an_interval() {
    let Some(bed) = Bed::new().await else { return };
    let requests = || bed.git.requests.load(Ordering::SeqCst);
    let interval = Duration::from_secs(30);
    let start = Instant::now();
    futures::stream::iter(0..STOKERS)
        .for_each_concurrent(8, |number| {
            let bed = &bed;
            async move {
                let polling = json!({"polling": {"enabled": true, "interval": "30s"}});
                bed.apply_stoker(&format!("plant-{number}"), polling).await;
            }
        })
        .await;
    all_are_told(&bed, &bed.repository.git(&["rev-parse", "HEAD"])).await;
    let took = start.elapsed();
    // While they are made one by one, each may use what is at most five seconds old; then an interval is one request.
    let most = |time: Duration| 1 + time.as_secs() as usize / 5 + 1;
    println!("{STOKERS} were made in {took:.1?}: {} requests", requests());
    assert!(requests() <= most(took), "{} requests in {took:?}", requests());

    // One of them is told of a push. The others see at once that there is something new, and nobody asks again.
    let before = requests();
    let polled = start.elapsed();
    let second = bed.repository.commit("second");
    bed.annotate("plant-7", json!({"stoker.io/requested-at": "2026-03-01T10:00:00Z"})).await;
    all_are_told(&bed, &second).await;
    let asked = requests() - before;
    println!("one was triggered, all followed within {:.1?}: {asked} requests", start.elapsed() - polled);
    // A poll may fall into this time.
    let polls = 1 + ((start.elapsed() - polled).as_secs() / (interval.as_secs() * 9 / 10)) as usize;
    assert!((1..=1 + polls).contains(&asked), "{asked} requests");
    println!("all in {:.1?}", start.elapsed());
}
