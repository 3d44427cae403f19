//! Who may go to the wanted commit now: gateways whose profile depends on another one wait for its gateways. Pure.

use std::collections::BTreeMap;

use super::validate::{Gateway, Report, Validated};
use crate::api::SyncStatus;
use crate::conditions::cap;
use crate::protocol::{AgentStatus, Hold, Metadata, Rollout};

/// Longest word on a hold.
const MAX_MESSAGE: usize = 512;

/// Who waits for whom at the commit of `metadata`.
///
/// Who has gone is not called back: a gateway that is at the commit stays free when one that goes before it restarts.
pub(super) fn rollout(validated: &Validated, metadata: &Metadata) -> Rollout {
    let Some(commit) = metadata.commit.as_deref() else { return Rollout::default() };
    let mut held = BTreeMap::new();
    for gateway in validated.gateways.iter().filter(|gateway| !is_at(gateway, metadata)) {
        let profile = gateway.annotations.sync_profile.as_ref().and_then(|name| metadata.profiles.get(name));
        let before = profile.map(|profile| profile.depends_on.as_slice()).unwrap_or_default();
        let waits: Vec<String> =
            before.iter().filter_map(|name| waits_for(name, validated, metadata, commit)).collect();
        if !waits.is_empty() {
            let message = cap(format!("waits for {}", waits.join("; and for ")), MAX_MESSAGE);
            held.insert(gateway.pod_name.clone(), Hold { reason: Hold::DEPENDENCY.to_owned(), message });
        }
    }
    Rollout { held }
}

/// What is still to come of the gateways of a profile, if anything.
fn waits_for(name: &str, validated: &Validated, metadata: &Metadata, commit: &str) -> Option<String> {
    if validated.profiles.get(name).and_then(|verdict| verdict.in_force()).is_none() {
        return Some(format!("SyncProfile {name}, which does not exist or was never valid"));
    }
    let theirs: Vec<&Gateway> =
        validated.gateways.iter().filter(|g| g.annotations.sync_profile.as_deref() == Some(name)).collect();
    let missing: Vec<&str> =
        theirs.iter().filter(|g| !is_at(g, metadata)).map(|g| g.pod_name.as_str()).collect();
    let first = missing.first()?;
    let synced = theirs.len() - missing.len();
    let short = commit.get(..7).unwrap_or(commit);
    Some(format!(
        "SyncProfile {name}: {synced} of {} gateways synced at {short}, {first} is not",
        theirs.len()
    ))
}

/// What of a report is not yet what is wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Commit,
    Profile,
}

/// Whether the report of a gateway is of the very commit and profile that are wanted now.
pub(super) fn behind(gateway: &Gateway, status: &AgentStatus, metadata: &Metadata) -> Option<Behind> {
    if metadata.commit.is_none() || status.synced_commit != metadata.commit {
        return Some(Behind::Commit);
    }
    let wanted = match &gateway.annotations.sync_profile {
        Some(name) => metadata.profiles.get(name),
        None => Some(&metadata.base),
    };
    let edited = matches!((wanted, &status.profile_revision), (Some(wanted), Some(revision)) if wanted.revision != *revision);
    edited.then_some(Behind::Profile)
}

fn is_at(gateway: &Gateway, metadata: &Metadata) -> bool {
    let Report::Heard { report, .. } = &gateway.report else { return false };
    report.status.as_ref().is_some_and(|status| {
        status.sync_status == SyncStatus::Synced && behind(gateway, status, metadata).is_none()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::controller::build::build;
    use crate::controller::dereference::World;
    use crate::controller::validate::validate;
    use crate::controller::worlds::{COMMIT, world};

    fn plant() -> World {
        let mapping = json!([{"source": "a", "destination": "projects"}]);
        let named = |name: &str| json!({"stoker.io/sync-profile": name});
        world(json!({}))
            .profile("site", json!({"mappings": mapping}))
            .profile("area", json!({"mappings": mapping, "dependsOn": [{"profileName": "site"}]}))
            .pod("area-0", true, named("area"))
            .pod("site-0", true, named("site"))
            .pod("site-1", true, named("site"))
    }

    fn held(world: &World) -> BTreeMap<String, Hold> {
        build(world, &validate(world)).unwrap().metadata.unwrap().rollout.held
    }

    /// As an agent reports that it has done what the metadata of this world asks for.
    fn synced(world: &World, profile: &str) -> AgentStatus {
        let metadata = build(world, &validate(world)).unwrap().metadata.unwrap();
        AgentStatus {
            sync_status: SyncStatus::Synced,
            synced_commit: Some(COMMIT.to_owned()),
            profile_revision: Some(metadata.profiles[profile].revision.clone()),
            ..AgentStatus::default()
        }
    }

    #[test]
    fn a_gateway_waits_for_every_gateway_that_goes_first() {
        let none = plant();
        let word = &held(&none)["area-0"];
        assert_eq!(word.reason, "dependency");
        assert_eq!(
            word.message,
            format!("waits for SyncProfile site: 0 of 2 gateways synced at {}, site-0 is not", &COMMIT[..7])
        );
        let one = plant().says("site-0", synced(&none, "site"), Duration::ZERO);
        assert!(held(&one)["area-0"].message.contains("1 of 2 gateways synced"));
        let old = AgentStatus { synced_commit: Some("9".repeat(40)), ..synced(&none, "site") };
        assert!(
            held(&one.clone().says("site-1", old, Duration::ZERO)).contains_key("area-0"),
            "the commit before does not count"
        );
        let both = one.says("site-1", synced(&none, "site"), Duration::ZERO);
        assert_eq!(held(&both), BTreeMap::new());
    }

    #[test]
    fn who_has_gone_is_not_called_back() {
        let none = plant();
        let gone = plant().says("area-0", synced(&none, "area"), Duration::ZERO);
        assert_eq!(held(&gone), BTreeMap::new());
    }

    #[test]
    fn a_profile_without_gateways_holds_nobody_and_one_that_is_not_there_everybody() {
        let mapping = json!([{"source": "a", "destination": "projects"}]);
        let area = |on: &str| {
            world(json!({}))
                .profile("area", json!({"mappings": mapping, "dependsOn": [{"profileName": on}]}))
                .profile("empty", json!({"mappings": mapping}))
                .pod("area-0", true, json!({"stoker.io/sync-profile": "area"}))
        };
        assert_eq!(held(&area("empty")), BTreeMap::new());
        assert!(held(&area("nobody"))["area-0"].message.contains("SyncProfile nobody, which does not exist"));
    }

    #[test]
    fn a_circle_is_refused_and_what_was_in_force_stays() {
        let mapping = json!([{"source": "a", "destination": "projects"}]);
        let depends = |on: &str| json!({"mappings": mapping, "dependsOn": [{"profileName": on}]});
        let circle = world(json!({})).profile("a", depends("b")).profile("b", depends("a"));
        let validated = validate(&circle);
        for name in ["a", "b"] {
            let verdict = &validated.profiles[name];
            assert!(verdict.in_force().is_none(), "{verdict:?}");
        }
    }
}
