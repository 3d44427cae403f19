//! `spec.includeMappingsFrom` of a profile: whose mappings it takes over, and what happens when it cannot.

use serde_json::{Value, json};
use stoker_k8s::conditions;
use stoker_k8s::protocol::Metadata;

use crate::bed::Bed;
use crate::dependencies::profile_condition;

fn sources(told: &Metadata, profile: &str) -> Vec<String> {
    let profile = told.profiles.get(profile);
    profile.into_iter().flat_map(|p| &p.mappings).map(|m| m.source.clone()).collect()
}

fn maps(source: &str) -> Value {
    json!([{"source": source, "destination": "projects"}])
}

#[tokio::test]
async fn an_included_profile_is_followed_and_one_that_cannot_be_used_changes_nothing() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_profile("library", json!({"mappings": maps("lib/one")})).await;
    let area = json!({"mappings": maps("own"), "includeMappingsFrom": [{"name": "library"}]});
    bed.apply_profile("area", area.clone()).await;
    bed.apply_stoker("plant", json!({"shared": {"mappings": maps("shared")}})).await;
    let told =
        bed.told("plant", "the mappings", |m| sources(m, "area") == ["shared", "lib/one", "own"]).await;
    profile_condition(&bed, "area", conditions::ACCEPTED, "True").await;
    let first = told.profiles["area"].revision.clone();

    bed.apply_profile("library", json!({"mappings": maps("lib/two")})).await;
    let two = ["shared", "lib/two", "own"];
    let told = bed.told("plant", "the change", |m| sources(m, "area") == two).await;
    assert_ne!(told.profiles["area"].revision, first, "agents see that it is another one");

    // Each way to break it is told, and the last good version stays in force.
    for (library, said) in [
        (
            json!({"mappings": [{"source": "a{{.Nope}}", "destination": "projects"}]}),
            "there is no variable .Nope",
        ),
        (
            json!({"mappings": maps("lib/three"), "includeMappingsFrom": [{"name": "area"}]}),
            "SyncProfile library includes others itself (area)",
        ),
    ] {
        bed.apply_profile("library", library).await;
        let message = profile_condition(&bed, "area", conditions::ACCEPTED, "False").await;
        assert!(message.contains("includeMappingsFrom[0]: ") && message.contains(said), "{message}");
        assert!(message.ends_with("the last accepted version stays in force"), "{message}");
        let told = bed.told("plant", "what is in force", |m| m.profiles.contains_key("area")).await;
        assert_eq!(sources(&told, "area"), two);
        bed.apply_profile("library", json!({"mappings": maps("lib/two")})).await;
        profile_condition(&bed, "area", conditions::ACCEPTED, "True").await;
    }
    bed.profiles().delete("library", &kube::api::DeleteParams::default()).await.unwrap();
    let message = profile_condition(&bed, "area", conditions::ACCEPTED, "False").await;
    assert!(message.contains("there is no SyncProfile library in this namespace"), "{message}");
    let told = bed.told("plant", "without the library", |m| !m.profiles.contains_key("library")).await;
    assert_eq!(sources(&told, "area"), two);
}
