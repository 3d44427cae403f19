use std::time::Duration;

use serde_json::{Value, json};
use stoker_git::GitError;

use super::*;
use crate::api::FilesChanged;
use crate::conditions::find;
use crate::controller::build::build;
use crate::controller::lookup::Outcome;
use crate::controller::validate::validate;
use crate::controller::worlds::{COMMIT, failed, found, world};
use crate::protocol::AgentStatus;

const OTHER: &str = "2222222222222222222222222222222222222222";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn judge(world: &World) -> StokerStatus {
    let validated = validate(world);
    let objects = build(world, &validated);
    let findings =
        Findings { world, validated: &validated, objects: objects.as_ref(), patience: Patience::default() };
    status(findings, at(1000))
}

fn says(status: SyncStatus, commit: &str) -> AgentStatus {
    AgentStatus {
        sync_status: status,
        synced_commit: Some(commit.to_owned()),
        agent_version: Some("1".into()),
        ..AgentStatus::default()
    }
}

fn synced() -> AgentStatus {
    says(SyncStatus::Synced, COMMIT)
}

fn service() -> Value {
    json!({"stoker.io/service-path": "s"})
}

const NOW: Duration = Duration::ZERO;

fn reason_of(status: &StokerStatus, type_: &str) -> String {
    find(&status.conditions, type_).map_or("-".to_owned(), |c| format!("{} {}", c.status, c.reason))
}

#[test]
fn ready_names_the_one_thing_to_act_on() {
    let one = || world(json!({})).pod("gw-0", true, service());
    let unreachable = || GitError::Unreachable { host: "h".into(), detail: "d".into() };
    let unknown_key = || GitError::HostKeyUnknown {
        unusable: String::new(),
        host: "h".into(),
        fingerprint: "f".into(),
        line: "l".into(),
    };
    let error = |category: &str| AgentStatus {
        sync_status: SyncStatus::Error,
        reason: Some(category.into()),
        message: "line 3".into(),
        ..synced()
    };
    let held = AgentStatus { sync_status: SyncStatus::Held, reason: Some("designer".into()), ..synced() };
    let with_lookup = |world: World, lookup| World { lookup, ..world };
    let cases: Vec<(&str, World, &str, &str)> = vec![
        ("no gateways", world(json!({})), "True NoGateways", "no pod in this namespace"),
        ("synced", one().says("gw-0", synced(), NOW), "True AllSynced", "1/1 synced at 1111111"),
        ("not heard of", one(), "False AgentPending", "0/1 synced; gw-0 Pending"),
        (
            "another commit",
            one().says("gw-0", says(SyncStatus::Synced, OTHER), NOW),
            "False Syncing",
            "wanted commit",
        ),
        (
            "an error",
            one().says("gw-0", error("ConfigSyntaxError"), NOW),
            "False SyncFailed",
            "ConfigSyntaxError: line 3",
        ),
        ("held", one().says("gw-0", held, NOW), "False Held", "gw-0 Held: designer"),
        (
            "silent",
            one().says("gw-0", synced(), Duration::from_secs(180)),
            "False AgentSilent",
            "silent since 1970-01-01T00:00:00Z",
        ),
        ("not silent yet", one().says("gw-0", synced(), Duration::from_secs(179)), "True AllSynced", ""),
        (
            "of another pod",
            one().says_as("gw-0", "old-uid", synced(), NOW),
            "False AgentPending",
            "first report",
        ),
        (
            "no sidecar",
            one().pod("gw-1", false, service()).says("gw-0", synced(), NOW),
            "False MissingSidecar",
            "1 of 2 pods",
        ),
        ("no look-up yet", with_lookup(world(json!({})), None), "False Resolving", "looking up main"),
        (
            "git is away",
            with_lookup(one().says("gw-0", synced(), NOW), Some(failed(unreachable()))),
            "False Unreachable",
            "cannot reach h",
        ),
        (
            "a host key",
            with_lookup(one(), Some(failed(unknown_key()))),
            "False HostKeyUnknown",
            "known_hosts",
        ),
        (
            "paused",
            world(json!({"paused": true})).pod("gw-0", true, service()).says("gw-0", synced(), NOW),
            "False Paused",
            "(1/1 synced)",
        ),
        ("a bad spec", world(json!({"excludePatterns": ["a["]})), "False InvalidSpec", "excludePatterns[0]"),
        (
            "no profile",
            world(json!({})).pod("gw-0", true, json!({"stoker.io/sync-profile": "area"})),
            "False ProfileMissing",
            "SyncProfile area",
        ),
        (
            "a bad profile",
            world(json!({}))
                .pod("gw-0", true, json!({"stoker.io/sync-profile": "area"}))
                .profile("area", json!({"mappings": [{"source": "{{.Nope}}", "destination": "x"}]})),
            "False ProfileInvalid",
            "profile area: mappings[0].source",
        ),
        (
            "a bad profile that nobody names",
            world(json!({}))
                .profile("area", json!({"mappings": [{"source": "{{.Nope}}", "destination": "x"}]})),
            "True NoGateways",
            "",
        ),
    ];
    for (name, world, expected, part) in cases {
        let status = judge(&world);
        assert_eq!(reason_of(&status, conditions::READY), expected, "{name}");
        let message = &find(&status.conditions, conditions::READY).unwrap().message;
        assert!(message.contains(part), "{name}: {message}");
        assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)), "{name}");
        let ready = expected.starts_with("True");
        let (moving, stuck) =
            (reason_of(&status, conditions::RECONCILING), reason_of(&status, conditions::STALLED));
        assert!(!ready || (moving == "-" && stuck == "-"), "{name}: {moving}, {stuck}");
        assert!(moving == "-" || stuck == "-", "{name}: {moving}, {stuck}");
    }
}

#[test]
fn what_waiting_cannot_mend_is_stalled_and_the_rest_is_not() {
    let stalled = |error| {
        let world = World { lookup: Some(failed(error)), ..world(json!({})) };
        reason_of(&judge(&world), conditions::STALLED)
    };
    let changed = GitError::HostKeyRevoked { host: "h".into(), fingerprint: "f".into() };
    assert_eq!(stalled(changed), "True HostKeyRevoked");
    assert_eq!(stalled(GitError::RepositoryNotFound { url: "u".into() }), "-");
    let bad = judge(&world(json!({"shared": {"mappings": [{"source": "..", "destination": "x"}]}})));
    assert_eq!(reason_of(&bad, conditions::STALLED), "True InvalidSpec");
    let waiting = judge(&world(json!({})).pod("gw-0", true, service()));
    assert_eq!(reason_of(&waiting, conditions::RECONCILING), "True AgentPending");
}

#[test]
fn the_same_findings_make_the_same_status_at_any_time() {
    let mut world = world(json!({})).pod("gw-0", true, service()).pod("gw-1", false, service()).says(
        "gw-0",
        synced(),
        NOW,
    );
    let first = judge(&world);
    world.stoker = {
        let mut stoker = (*world.stoker).clone();
        stoker.status = Some(first.clone());
        stoker.into()
    };
    let validated = validate(&world);
    let objects = build(&world, &validated);
    let findings = Findings {
        world: &world,
        validated: &validated,
        objects: objects.as_ref(),
        patience: Patience::default(),
    };
    assert_eq!(status(findings, at(9_999_999)), first);
    assert!(transitions(&first, &first).is_empty());
    // And it survives the way through the API server.
    let read: StokerStatus = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
    assert_eq!(read, first);
}

#[test]
fn an_agent_cannot_say_more_than_fits_or_what_is_not_its_to_say() {
    let long = "x".repeat(100_000);
    let status = AgentStatus {
        sync_status: SyncStatus::MissingSidecar,
        reason: Some(long.clone()),
        message: long.clone(),
        synced_commit: Some(long.clone()),
        projects_synced: vec![long.clone(); 1000],
        history: (0..100)
            .map(|_| crate::api::HistoryEntry {
                commit: long.clone(),
                r#ref: Some(long.clone()),
                at: Time(at(1)),
                result: long.clone(),
                files_changed: None,
            })
            .collect(),
        ..AgentStatus::default()
    };
    let status = judge(&world(json!({})).pod("gw-0", true, service()).says("gw-0", status, NOW));
    let entry = &status.discovered_gateways[0];
    assert_eq!(entry.sync_status, SyncStatus::Pending);
    assert!(entry.message.len() <= 1024 && entry.history.len() == 10 && entry.projects_synced.len() == 256);
    assert!(serde_json::to_string(entry).unwrap().len() < 100_000);
}

#[test]
fn a_status_fits_into_an_object_with_any_number_of_gateways() {
    let mut big = world(json!({}));
    let history: Vec<_> = (0..10)
        .map(|n| crate::api::HistoryEntry {
            commit: COMMIT.into(),
            r#ref: Some("main".into()),
            at: Time(at(n)),
            result: "Applied".into(),
            files_changed: Some(FilesChanged { added: 1, modified: 2, deleted: 3 }),
        })
        .collect();
    for n in 0..500 {
        let pod = format!("gateway-{n:04}");
        let projects_synced = (0..20).map(|p| format!("project-{p}")).collect();
        let status =
            AgentStatus { history: history.clone(), projects_synced, message: "m".repeat(200), ..synced() };
        big = big.pod(&pod, true, service());
        if n != 499 {
            big = big.says(&pod, status, NOW);
        }
    }
    let status = judge(&big);
    assert!(serde_json::to_string(&status).unwrap().len() <= MAX_STATUS_BYTES);
    assert_eq!((status.discovered_gateways.len(), status.gateways_not_listed), (500, 0));
    for n in 500..700 {
        big = big.pod(&format!("gateway-{n:04}"), true, service());
    }
    let status = judge(&big);
    assert_eq!((status.discovered_gateways.len(), status.gateways_not_listed), (MAX_LISTED_GATEWAYS, 200));
    assert_eq!(status.gateway_summary.as_deref(), Some("499/700 synced"));
    let pending = status.discovered_gateways.iter().filter(|e| e.sync_status == SyncStatus::Pending).count();
    assert_eq!(pending, 201, "those that need a person are listed first");
}

#[test]
fn what_changes_is_told_once() {
    let reasons = |old: &StokerStatus, new: &StokerStatus| {
        transitions(old, new).into_iter().map(|n| n.reason).collect::<Vec<_>>()
    };
    let none = StokerStatus::default();
    let waiting = judge(&world(json!({})).pod("gw-0", true, service()));
    assert_eq!(reasons(&none, &waiting), ["RefResolved", "GatewayDiscovered"]);
    let done = judge(&world(json!({})).pod("gw-0", true, service()).says("gw-0", synced(), NOW));
    assert_eq!(reasons(&waiting, &done), ["SyncCompleted"]);
    let blocked =
        AgentStatus { sync_status: SyncStatus::Held, reason: Some("MassDeletionBlocked".into()), ..synced() };
    let moved = World { lookup: Some(found(OTHER)), ..world(json!({})) }
        .pod("gw-0", true, service())
        .says("gw-0", blocked, NOW);
    let stopped = judge(&moved);
    assert_eq!(reasons(&done, &stopped), ["RefUpdated", "MassDeletionBlocked"]);
    let paused = judge(&moved.with_spec(|spec| spec.paused = true));
    assert_eq!(reasons(&stopped, &paused), ["Paused"]);
    assert_eq!(reasons(&paused, &stopped), ["Resumed"]);
    let lost = World {
        lookup: Some(failed(GitError::RepositoryEmpty { url: "u".into() })),
        ..world(json!({})).pod("gw-0", false, service())
    };
    assert_eq!(reasons(&done, &judge(&lost)), ["RefResolutionFailed", "MissingSidecar"]);
}

#[test]
fn a_name_that_is_tag_and_branch_is_a_warning_once() {
    let resolution = json!({
        "commit": COMMIT, "kind": "Tag", "reference": "refs/tags/v1",
        "warnings": [{"TagAndBranch": {"name": "v1"}}],
    });
    let lookup = Some(Outcome { result: Ok(serde_json::from_value(resolution).unwrap()), ..found(COMMIT) });
    let status = judge(&World { lookup, ..world(json!({})) });
    assert_eq!(reason_of(&status, conditions::REF_RESOLVED), "True SucceededWithWarnings");
    let notes = transitions(&StokerStatus::default(), &status);
    assert!(notes[0].warning && notes[0].message.contains("the tag is meant"), "{notes:?}");
    assert_eq!(transitions(&status, &status), []);
}

#[test]
fn annotations_that_have_no_effect_are_said_to_have_none() {
    let annotations = json!({
        "stoker.io/service-path": "s", "stoker.io/ref-override": "next", "stoker.io/sync-period": "soon",
    });
    let status = judge(&world(json!({})).pod("gw-0", true, annotations).says("gw-0", synced(), NOW));
    let message = &status.discovered_gateways[0].message;
    assert!(
        message.contains("ref-override is not followed") && message.contains("between 5 and 3600"),
        "{message}"
    );
}
