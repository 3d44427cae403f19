//! `spec.dependsOn` of a profile: who goes first, and what people see of those who wait.

use serde_json::json;
use stoker_k8s::api::SyncStatus;
use stoker_k8s::conditions;
use stoker_k8s::protocol::{AgentStatus, Metadata};
use stoker_testkit::wait;

use crate::bed::{Bed, LIMIT, synced};

/// As the agent of a pod with this profile reports that it did what it was told.
fn done(told: &Metadata, profile: &str) -> AgentStatus {
    AgentStatus { profile_revision: Some(told.profiles[profile].revision.clone()), ..synced(told) }
}

pub(crate) async fn profile_condition(bed: &Bed, profile: &str, type_: &str, status: &str) -> String {
    wait::until(&format!("{type_}={status} of {profile}"), LIMIT, || async {
        let conditions = bed.profiles().get(profile).await?.status.unwrap_or_default().conditions;
        Ok(conditions::find(&conditions, type_).filter(|c| c.status == status).map(|c| c.message.clone()))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn areas_are_held_until_the_site_is_in_step_with_each_new_commit() {
    let Some(bed) = Bed::new().await else { return };
    let mappings = json!([{"source": "a", "destination": "projects"}]);
    bed.apply_profile("site", json!({"mappings": mappings})).await;
    bed.apply_profile("area", json!({"mappings": mappings, "dependsOn": [{"profileName": "site"}]})).await;
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("site-0", true, json!({"stoker.io/sync-profile": "site"})).await;
    bed.pod("area-0", true, json!({"stoker.io/sync-profile": "area"})).await;

    let told = bed.told("plant", "who waits", |m| m.commit.is_some() && m.held("area-0").is_some()).await;
    assert!(told.held("site-0").is_none());
    let hold = told.held("area-0").unwrap();
    assert!(
        hold.message.starts_with("waits for SyncProfile site: 0 of 1 gateways synced"),
        "{}",
        hold.message
    );

    // As the agent says it; people see it at the gateway and at the profile.
    let waiting = AgentStatus {
        sync_status: SyncStatus::Held,
        reason: Some(hold.reason.clone()),
        message: hold.message.clone(),
        target_commit: told.commit.clone(),
        ..AgentStatus::default()
    };
    bed.report("plant", "area-0", waiting).await;
    let said = profile_condition(&bed, "area", conditions::DEPENDENCIES_MET, "False").await;
    assert!(said.contains("1 of 1 gateways are held: waits for SyncProfile site"), "{said}");

    bed.report("plant", "site-0", done(&told, "site")).await;
    let told = bed.told("plant", "the area's turn", |m| m.held("area-0").is_none()).await;
    bed.report("plant", "area-0", done(&told, "area")).await;
    bed.condition("plant", conditions::READY, "True").await;
    profile_condition(&bed, "area", conditions::DEPENDENCIES_MET, "True").await;

    let second = bed.repository.commit("second");
    bed.annotate("plant", json!({"stoker.io/requested-at": "now"})).await;
    let told = bed.told("plant", "the second commit", |m| m.commit.as_deref() == Some(&second)).await;
    assert!(told.held("area-0").is_some(), "held in the very write that brings the commit");
}

#[tokio::test]
async fn profiles_that_wait_for_each_other_are_refused_with_the_way() {
    let Some(bed) = Bed::new().await else { return };
    let mappings = json!([{"source": "a", "destination": "projects"}]);
    let waits = |on: &str| json!({"mappings": mappings, "dependsOn": [{"profileName": on}]});
    bed.apply_profile("a", waits("b")).await;
    bed.apply_profile("b", waits("a")).await;
    bed.apply_stoker("plant", json!({})).await;
    let said = profile_condition(&bed, "a", conditions::ACCEPTED, "False").await;
    assert!(said.contains("a -> b -> a") && said.contains("remove one"), "{said}");
    bed.apply_profile("b", json!({"mappings": mappings})).await;
    profile_condition(&bed, "a", conditions::ACCEPTED, "True").await;
}
