//! What an agent says, beside a gateway that does what gateways do.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusBuilder;
use stoker_ignition::fake::{Failure, FailureKind};
use stoker_ignition::rules::{Designer, config_mode_json};
use stoker_k8s::agent::measure;
use stoker_k8s::api::{Mapping, Prune, SyncStatus, When};
use stoker_k8s::protocol::Metadata;

use crate::line::{Commits, LIMIT, Line, PROJECT};

fn forbid(path: &str) -> Failure {
    Failure { path: format!("/data/api/v1/{path}"), how: FailureKind::Status(403), times: None }
}

#[tokio::test]
async fn what_the_gateway_could_not_tell_stays_unverified_until_it_can() {
    let commits = Commits::new();
    let first = commits.commit(1, &[("projects/line/project.json", PROJECT)]);
    let mut line = Line::new(&commits, &[]).await;
    line.gateway.fail(forbid("logs"));
    line.tell(&first, |_| {});
    line.agent().await;
    let unverified = |said: &str| said.starts_with("unverified: log not verified");
    let said = line.synced(&first).await;
    assert!(unverified(&said.status.message), "{}", said.status.message);
    assert_eq!(said.status.last_scan_result.as_deref(), Some("Unverified"));
    assert_eq!(said.status.last_sync_time, None, "the gateway has confirmed nothing");

    // A look at the files later nothing is known better, and the gateway is not bothered again.
    let scans = line.gateway.scans().len();
    commits.fetches(2).await;
    assert!(unverified(&line.said().status.message), "{}", line.said().status.message);
    assert_eq!(line.gateway.scans().len(), scans);

    // Nor is it after a restart of the agent, although it may ask again then.
    line.agent().await;
    let said = line.synced(&first).await;
    assert!(unverified(&said.status.message), "{}", said.status.message);

    // Somebody gives the key the right, and asks.
    line.gateway.clear_failures();
    line.tell(&first, |told| told.trigger = "again".into());
    let said = line.says("confirmed", |s| s.status.last_sync_time.is_some()).await;
    assert_eq!(said.status.message, "in step, confirmed by the gateway");
    assert_eq!(said.status.last_scan_result.as_deref(), Some("Confirmed"));
    assert_eq!(said.status.projects_synced, ["line"]);
}

#[tokio::test]
async fn files_that_were_there_already_are_not_in_step_before_the_gateway_says_so() {
    let commits = Commits::new();
    let first = commits.commit(1, &[("projects/line/project.json", PROJECT)]);
    let mut line = Line::new(&commits, &["commissioned=off"]).await;
    line.write("projects/line/project.json", PROJECT);
    line.tell(&first, |_| {});
    line.agent().await;
    let said = line.says("waiting", |s| s.status.reason.as_deref() == Some("GatewayNotCommissioned")).await;
    assert_eq!(said.status.sync_status, SyncStatus::Syncing);
    line.gateway.set("commissioned=on").unwrap();
    line.synced(&first).await;
    assert!(line.gateway.loaded_projects().loaded.contains_key("line"));
}

#[tokio::test]
async fn the_time_of_a_sync_is_the_gateways_word_and_its_length_includes_that() {
    const SCAN: Duration = Duration::from_millis(300);
    let commits = Commits::new();
    let first = commits.commit(1, &[("projects/line/project.json", PROJECT)]);
    let mut line = Line::new(&commits, &["commissioned=off", "scan-time=300ms"]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    let said = line.says("waiting", |s| s.status.reason.as_deref() == Some("GatewayNotCommissioned")).await;
    assert!(line.read("projects/line/project.json").is_some(), "files do not wait for the gateway");
    assert_eq!((said.status.last_sync_time, said.status.last_sync_millis), (None, None));

    let (waited, began) = (Instant::now(), Timestamp::now());
    line.gateway.set("commissioned=on").unwrap();
    let said = line.synced(&first).await.status;
    let at = said.last_sync_time.clone().unwrap().0;
    assert!(at >= began && at <= Timestamp::now(), "{at}");
    let took = Duration::from_millis(said.last_sync_millis.unwrap());
    assert!(took >= SCAN && took <= waited.elapsed() + Duration::from_secs(30), "{took:?}");
    assert!(said.phase_millis["scan"] >= 300, "{:?}", said.phase_millis);

    // A new agent knows when that was; a commit that changes nothing here is no sync.
    line.agent().await;
    assert_eq!(line.synced(&first).await.status.last_sync_time.unwrap().0, at);
    let second = commits.commit(2, &[("projects/line/project.json", PROJECT), ("elsewhere/a.txt", "a")]);
    line.tell(&second, |_| {});
    assert_eq!(line.synced(&second).await.status.last_sync_time.unwrap().0, at);
}

#[tokio::test]
async fn a_rejection_stays_what_the_agent_says_while_it_asks_again() {
    let commits = Commits::new();
    let orphan = PROJECT.replace(r#""parent":"""#, r#""parent":"nobody""#);
    let first = commits.commit(1, &[("projects/line/project.json", &orphan)]);
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    let said = line.says("rejected", |s| s.status.sync_status == SyncStatus::Error).await;
    assert!(said.status.message.contains("its parent \"nobody\" is missing"), "{}", said.status.message);
    let scans = line.gateway.scans().len();
    let settled = line.said();
    tokio::select! {
        () = commits.fetches(2) => {}
        _ = line.says("anything else", |s| *s != settled) => panic!("{:#?}", line.said().status),
    }
    assert!(line.gateway.scans().len() > scans, "the gateway is asked again");

    let second = commits.commit(2, &[("projects/line/project.json", PROJECT)]);
    line.tell(&second, |_| {});
    line.synced(&second).await;
}

#[tokio::test]
async fn another_commit_does_not_wait_for_the_one_that_failed() {
    let commits = Commits::new();
    let first = commits.commit(1, &[("projects/line/project.json", "{")]);
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    let said = line.says("failed", |s| s.status.sync_status == SyncStatus::Error).await;
    assert_eq!(said.status.reason.as_deref(), Some("ConfigSyntaxError"));
    let second = commits.commit(2, &[("projects/line/project.json", PROJECT)]);
    line.tell(&second, |_| {});
    line.synced(&second).await;
}

#[tokio::test]
async fn a_sync_can_be_seen_in_the_metrics() {
    let recorder = PrometheusBuilder::new().set_buckets(&measure::BUCKETS).unwrap().build_recorder();
    let served = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    measure::describe_metrics();
    let commits = Commits::new();
    let (first, broken) = (
        commits.commit(1, &[("projects/line/project.json", PROJECT), ("projects/line/a.txt", "a")]),
        commits.commit(2, &[("projects/line/project.json", "{")]),
    );
    let mut line = Line::new(&commits, &[]).await;
    let ada = Designer { user: "ada".into(), project: "line".into(), ..Designer::default() };
    line.gateway.set_designers(vec![ada]);
    line.tell(&first, |_| {});
    line.agent().await;
    let at = line.synced(&first).await.status.last_sync_time.unwrap().0.as_second();
    line.write("projects/line/a.txt", "drift");
    line.tell(&first, |told| told.trigger = "look".into());
    line.says("restored", |s| s.status.history.len() == 2 && s.status.sync_status == SyncStatus::Synced)
        .await;
    line.tell(&broken, |_| {});
    line.says("failed", |s| s.status.sync_status == SyncStatus::Error).await;

    let text = served.render();
    let value = |series: &str| -> f64 {
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value(r#"stoker_sync_total{result="confirmed"}"#), 2.0);
    assert_eq!(value(r#"stoker_sync_total{result="failed"}"#), 1.0);
    assert_eq!(value(r#"stoker_files_changed_total{change="added"}"#), 2.0);
    assert_eq!(value(r#"stoker_files_changed_total{change="modified"}"#), 1.0);
    assert_eq!(value("stoker_drift_files"), 1.0);
    assert_eq!(value("stoker_designer_sessions"), 1.0);
    assert!(value("stoker_last_sync_timestamp_seconds") >= at as f64);
    for phase in ["fetch", "plan", "apply", "scan", "total"] {
        assert_eq!(value(&format!("stoker_sync_duration_seconds_count{{phase=\"{phase}\"}}")), 2.0);
    }
    assert!(value(r#"stoker_scan_api_duration_seconds_count{scan="projects"}"#) >= 2.0);
    assert!(value(r#"stoker_agent_clone_duration_seconds_count{operation="fetch"}"#) >= 2.0);
    assert!(text.contains("# HELP stoker_drift_files ") && text.contains("le=\"0.005\""));
    let series = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).count();
    assert!(series < 150, "{series} series: an agent must stay small");
}

#[tokio::test]
async fn a_mapping_brings_the_files_of_its_pattern_and_refuses_larger_ones_than_it_may_bring() {
    let commits = Commits::new();
    let theme = |content: &str| -> String { format!("/* {content} */") };
    let first = commits.commit(
        1,
        &[
            ("projects/line/project.json", PROJECT),
            ("look/dark.css", &theme("dark")),
            ("look/deep/light.css", &theme("light")),
            ("look/README.md", "for people"),
        ],
    );
    let large = theme(&"x".repeat(1024));
    let second = commits.commit(2, &[("projects/line/project.json", PROJECT), ("look/dark.css", &large)]);
    let mut line = Line::new(&commits, &[]).await;
    let themes = |told: &mut Metadata, pattern: &str| {
        let mut mapping = Mapping::new("look", "themes");
        mapping.file_pattern = Some(pattern.to_owned());
        mapping.max_size = Some("1Ki".parse().unwrap());
        told.base.push("shared.mappings[2]", mapping);
    };
    line.tell(&first, |told| themes(told, "**/*.css"));
    line.agent().await;
    line.synced(&first).await;
    assert_eq!(line.read("themes/dark.css").as_deref(), Some("/* dark */"));
    assert!(line.read("themes/deep/light.css").is_some());
    assert_eq!(line.read("themes/README.md"), None, "not in the pattern");

    line.tell(&second, |told| themes(told, "**/*.css"));
    let said = line.says("refused", |s| s.status.sync_status == SyncStatus::Error).await;
    assert_eq!(said.status.reason.as_deref(), Some("FileTooLarge"));
    let expected = "shared.mappings[2]: themes/dark.css has 1030 bytes; the limit for one file is 1024";
    assert!(said.status.message.contains(expected), "{}", said.status.message);
    assert_eq!(line.read("themes/dark.css").as_deref(), Some("/* dark */"), "what is live stays");

    // What the pattern does not take any more goes, as if the commit did not have it.
    line.tell(&first, |told| themes(told, "dark.css"));
    line.says("narrower", |s| s.status.sync_status == SyncStatus::Synced && s.status.synced_commit.is_some())
        .await;
    assert!(line.read("themes/dark.css").is_some() && line.read("themes/deep/light.css").is_none());
}

#[tokio::test]
async fn a_mapping_comes_and_goes_with_the_labels_of_the_pod() {
    let commits = Commits::new();
    let first =
        commits.commit(1, &[("projects/line/project.json", PROJECT), ("edge/dark.css", "/* edge */")]);
    let mut line = Line::new(&commits, &[]).await;
    line.label(&[("role", "core"), ("site", "north")]);
    line.tell(&first, |told| {
        let mut mapping = Mapping::new("edge", "themes");
        let pod_labels =
            [("role", "edge"), ("site", "north")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        mapping.when = Some(When { pod_labels });
        told.base.push("shared.mappings[2]", mapping);
    });
    line.agent().await;
    line.synced(&first).await;
    assert_eq!(line.read("themes/dark.css"), None, "one label of two is not enough");

    line.label(&[("role", "edge"), ("site", "north")]);
    line.says("the mapping", |s| s.status.history.len() == 2).await;
    assert_eq!(line.read("themes/dark.css").as_deref(), Some("/* edge */"));
    line.write("themes/theirs.css", "theirs");

    line.label(&[("site", "north")]);
    line.says("gone", |s| s.status.history.len() == 3).await;
    assert_eq!(line.read("themes/dark.css"), None);
    assert_eq!(line.read("themes/theirs.css").as_deref(), Some("theirs"), "what we did not write stays");
    assert!(line.read("projects/line/project.json").is_some());
}

/// What a gateway makes itself, wherever a mirror reaches.
const THEIRS: [&str; 14] = [
    "config/com.inductiveautomation.opcua/trust/store.json",
    "config/ignition/keys/root.json",
    "config/local/ignition/uuid.txt",
    "config/resources/core/config-mode.json",
    "config/resources/core/ignition/security-properties/config.json",
    "config/resources/core/ignition/tag-definition/System/tags.json",
    "config/resources/core/ignition/user-source/default/users.json",
    "config/resources/core/valueStore.idb",
    "config/resources/dev/config-mode.json",
    "config/resources/dev/ignition/tag-definition/System/tags.json",
    "config/resources/local/config-mode.json",
    "config/resources/local/ignition/api-token/ci/config.json",
    "lost+found/x",
    "projects/.resources/ab12",
];

#[tokio::test]
async fn a_mirror_of_the_whole_directory_deletes_what_people_made_and_nothing_of_the_gateways_own() {
    let commits = Commits::new();
    let device = "data/config/resources/core/ignition/opc-ua-device/ours";
    let manifest = r#"{"scope":"G","version":1,"files":["config.json"],"attributes":{}}"#;
    let (config, resource) = (format!("{device}/config.json"), format!("{device}/resource.json"));
    let first = commits.commit(
        1,
        &[
            ("data/projects/line/project.json", PROJECT),
            (config.as_str(), "{}"),
            (resource.as_str(), manifest),
        ],
    );
    let mut line = Line::new(&commits, &[]).await;
    line.gateway.until_running(LIMIT).await.unwrap();
    for path in THEIRS {
        let collection =
            path.strip_prefix("config/resources/").and_then(|p| p.strip_suffix("/config-mode.json"));
        line.write(path, &collection.map_or("{}".to_owned(), config_mode_json));
    }
    let made = [
        "config/resources/core/ignition/opc-ua-device/theirs/config.json",
        "config/resources/dev/ignition/opc-ua-device/theirs/config.json",
        "projects/made-here/project.json",
    ];
    made.iter().for_each(|path| line.write(path, PROJECT));
    line.tell(&first, |told| {
        told.base.mappings.clear();
        told.base.push("shared.mappings[0]", Mapping::new("data", "."));
        told.base.prune = Prune::Mirror;
    });
    line.agent().await;
    // Nothing is ours yet, so these are all that count.
    let said = line.says("the guard", |s| s.status.reason.as_deref() == Some("MassDeletionBlocked")).await;
    assert!(said.status.message.contains("3 files that Stoker did not write"), "{}", said.status.message);
    assert!(made.iter().all(|path| line.read(path).is_some()));

    line.known.send_modify(|known| {
        let metadata = known.metadata.as_mut().unwrap();
        metadata.base.max_deletes.percent = 100;
    });
    line.synced(&first).await;
    for path in made {
        assert_eq!(line.read(path), None, "{path}");
    }
    for path in THEIRS {
        assert!(line.read(path).is_some(), "{path}");
    }
    line.gateway.restart();
    line.gateway.until_running(LIMIT).await.unwrap();

    // It goes on looking: what somebody makes later goes at the next look at the files.
    line.write(made[0], "{}");
    line.says("mirrored again", |s| s.status.history.len() == 2).await;
    assert_eq!(line.read(made[0]), None);
}
