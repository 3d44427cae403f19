use serde_json::json;
use stoker_git::GitError;

use super::*;
use crate::api::SyncStatus;
use crate::controller::validate::validate;
use crate::controller::worlds::{COMMIT, failed, found, world};
use crate::protocol::AgentStatus;

fn built(world: &World) -> Objects {
    build(world, &validate(world)).unwrap()
}

fn service() -> serde_json::Value {
    json!({"stoker.io/service-path": "s"})
}

#[test]
fn rights_name_exactly_what_an_agent_needs() {
    let alone = built(&world(json!({}))).role.rules.unwrap();
    assert_eq!(alone.len(), 1, "a rule without names would mean every ConfigMap");
    let objects = built(&world(json!({})).pod("gw-0", true, service()).pod("gw-1", false, service()));
    let rules: Vec<_> =
        objects.role.rules.unwrap().into_iter().map(|r| (r.verbs, r.resource_names.unwrap())).collect();
    let verbs = |verbs: &[&str]| verbs.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        rules,
        [
            (verbs(&["get", "watch"]), vec!["stoker-metadata-plant".to_owned()]),
            (verbs(&["get", "patch"]), vec!["stoker-status-plant-gw-0".to_owned()]),
        ]
    );
    let subjects = objects.binding.subjects.unwrap();
    assert_eq!((subjects.len(), subjects[0].name.as_str()), (1, "gateways"));
    assert_eq!(objects.status_maps.len(), 1);
    let owner = &objects.status_maps[0].metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Pod", "gw-0-uid"));
}

#[test]
fn the_same_world_builds_the_same_objects_and_a_change_shows_in_the_digest() {
    let one = world(json!({})).pod("gw-0", true, service());
    let digest = |objects: &Objects| objects.role.metadata.annotations.clone();
    let (first, again) = (built(&one), built(&one));
    assert_eq!(digest(&first), digest(&again));
    assert_ne!(digest(&first), digest(&built(&one.clone().pod("gw-1", true, service()))));
    assert_eq!(first.metadata_map.unwrap().data, again.metadata_map.unwrap().data);
}

#[test]
fn a_commit_and_its_repository_change_together_or_not_at_all() {
    let first = built(&world(json!({})));
    let before = first.metadata.clone().unwrap();
    assert_eq!(before.commit.as_deref(), Some(COMMIT));

    let edited = world(json!({})).after(&first).with_spec(|spec| {
        spec.git.repo = "https://elsewhere.example.com/a.git".into();
        spec.git.r#ref = "next".into();
    });
    let lost =
        World { lookup: Some(failed(GitError::RepositoryNotFound { url: "u".into() })), ..edited.clone() };
    assert_eq!(built(&lost).metadata.unwrap(), before);
    let waiting = World { lookup: None, ..edited.clone() };
    assert_eq!(built(&waiting).metadata.unwrap(), before);
    let moved = built(&World { lookup: Some(found(&"3".repeat(40))), ..edited }).metadata.unwrap();
    assert_eq!(moved.git_url, "https://elsewhere.example.com/a.git");
    assert_eq!(moved.commit, Some("3".repeat(40)));

    // Before the first answer there is a repository and no commit: agents wait.
    let none = built(&World { lookup: None, ..world(json!({})) }).metadata.unwrap();
    assert_eq!((none.commit, none.git_ref.as_str()), (None, "main"));
}

#[test]
fn a_bad_spec_freezes_everything_but_the_emergency_stop() {
    let good = world(json!({"vars": {"a": "1"}}))
        .profile("p", json!({"mappings": [{"source": "a", "destination": "b"}]}));
    let first = built(&good);
    let before = first.metadata.clone().unwrap();
    let bad = World { lookup: Some(found(&"3".repeat(40))), ..good.after(&first) }.with_spec(|spec| {
        spec.exclude_patterns = vec!["a[".into()];
        spec.paused = true;
    });
    let now = built(&bad).metadata.unwrap();
    assert!(now.paused);
    assert_eq!(Metadata { paused: false, ..now }, before);
    // Nothing was ever said: nothing can be kept.
    assert!(built(&world(json!({"excludePatterns": ["a["]}))).metadata_map.is_none());
}

#[test]
fn profiles_that_no_pod_names_give_way_when_there_are_too_many() {
    let mapping = |n: usize| json!({"source": format!("{}{n}", "s/".repeat(450)), "destination": format!("{}d", "d/".repeat(450))});
    let big = || json!({"mappings": (0..128).map(mapping).collect::<Vec<_>>()});
    let named = json!({"stoker.io/sync-profile": "p0"});
    let mut full = world(json!({})).pod("gw-0", true, named.clone());
    for n in 0..5 {
        full = full.profile(&format!("p{n}"), big());
    }
    let metadata = built(&full).metadata.unwrap();
    assert_eq!(metadata.profiles.keys().collect::<Vec<_>>(), ["p0"]);
    for n in 1..5 {
        full = full.pod(&format!("gw-{n}"), true, json!({"stoker.io/sync-profile": format!("p{n}")}));
    }
    let error = build(&full, &validate(&full)).unwrap_err();
    assert!(error.to_string().contains("use fewer or shorter mappings"), "{error}");
}

#[test]
fn a_report_of_an_earlier_pod_is_deleted_before_a_new_one_is_made() {
    let status = AgentStatus { sync_status: SyncStatus::Synced, ..AgentStatus::default() };
    let old = world(json!({})).pod("gw-0", true, service()).says_as(
        "gw-0",
        "old",
        status.clone(),
        Default::default(),
    );
    let objects = built(&old);
    assert_eq!(objects.outdated, [("stoker-status-plant-gw-0".to_owned(), "map-uid".to_owned())]);
    assert_eq!(objects.status_maps.len(), 1);
    let current = world(json!({})).pod("gw-0", true, service()).says("gw-0", status, Default::default());
    let objects = built(&current);
    assert!(objects.outdated.is_empty() && objects.status_maps.is_empty());
}

#[test]
fn a_revision_depends_on_what_a_profile_says_and_on_nothing_else() {
    let profile = |change: serde_json::Value| {
        let mut spec = json!({"mappings": [{"source": "a", "destination": "b"}]});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        built(&world(json!({})).profile("p", spec)).metadata.unwrap().profiles["p"].clone()
    };
    let plain = profile(json!({}));
    assert_eq!(plain.revision.len(), 12);
    assert_eq!(plain.revision, profile(json!({})).revision);
    assert_ne!(plain.revision, profile(json!({"syncPeriod": 60})).revision);
    // A profile that is written again as it was read keeps its revision.
    assert_eq!(plain.clone().with_revision(), plain);
}
