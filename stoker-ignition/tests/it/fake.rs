//! The fake gateway against the facts it stands for.

use std::time::Duration;

use stoker_core::Fault;
use stoker_ignition::client::{ApiKeySource, LockAnswer, Phase};
use stoker_ignition::fake::{Event, FakeError, FakeGateway, GatewayPhase, LockOutcome, Trigger};
use stoker_ignition::rules::{Formula, ResourceManifest, ResourceType, ScanKind, same_but_for_stamp, verify};

use crate::bed::{Bed, KEY, LIMIT, VIEW, client, data, write};

async fn scanned(bed: &Bed, count: usize) {
    let enough = |_: &[Event]| (bed.gateway.scans().len() >= count).then_some(());
    bed.gateway.until_events(LIMIT, enough).await.unwrap();
}

#[tokio::test]
async fn nothing_changes_for_the_gateway_until_it_scans() {
    let bed = Bed::new(&[]).await;
    bed.write("projects/new/project.json", r#"{"title":"New"}"#);
    bed.write("config/resources/core/ignition/tag-provider/edge/config.json", "{}");
    bed.write(
        "config/resources/core/ignition/tag-provider/edge/resource.json",
        r#"{"files":["config.json"]}"#,
    );
    assert_eq!(bed.client.project_names().await.unwrap(), ["base", "line"]);
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, 1).await;
    assert_eq!(bed.client.project_names().await.unwrap(), ["base", "line", "new"]);
    let of = ResourceType { module: "ignition".into(), name: "tag-provider".into() };
    assert_eq!(bed.client.resource_names(&of).await.unwrap().len(), 1, "the config half was not scanned");
    bed.client.scan(ScanKind::Config).await.unwrap();
    scanned(&bed, 2).await;
    assert_eq!(bed.client.resource_names(&of).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_project_scan_restamps_what_changed_outside() {
    let bed = Bed::new(&[]).await;
    let manifest = format!("projects/line/{VIEW}/resource.json");
    let git = bed.read(&manifest);
    bed.write(&format!("projects/line/{VIEW}/view.json"), r#"{"root":1}"#);
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, 1).await;
    assert_eq!(bed.gateway.scans()[0].restamped, std::slice::from_ref(&manifest));
    let live = bed.read(&manifest);
    assert!(live.contains("\"external\""), "{live}");
    assert!(same_but_for_stamp(git.as_bytes(), live.as_bytes()));
    let parsed = ResourceManifest::parse(live.as_bytes()).unwrap();
    let view = data(&bed.dir).join(format!("projects/line/{VIEW}/view.json"));
    assert_eq!(verify(&parsed, |_| std::fs::File::open(&view)).unwrap(), Some(Formula::V83));

    // A second scan finds nothing to do, also after git's bytes were put back only by name.
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, 2).await;
    assert!(bed.gateway.scans()[1].restamped.is_empty());

    bed.gateway.set("restamp=off").unwrap();
    bed.write(&manifest, &git);
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, 3).await;
    assert_eq!(bed.read(&manifest), git);
}

#[tokio::test]
async fn a_malformed_resource_is_skipped_and_logged_while_the_scan_answers_200() {
    let bed = Bed::new(&[]).await;
    bed.write(&format!("projects/line/{VIEW}/view.json"), "{\"root\":");
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, 1).await;
    let skipped = &bed.gateway.scans()[0].skipped;
    assert_eq!(skipped[0].path, format!("projects/line/{VIEW}"));
    let lines = bed.client.logs_since(0, stoker_ignition::client::LogLevel::Warn, 10).await.unwrap();
    assert!(lines.iter().any(|l| l.message.contains(VIEW)), "{lines:?}");
    assert!(bed.gateway.loaded_projects().loaded["line"].resources.is_empty());
}

#[tokio::test]
async fn a_collection_without_its_mode_file_faults_the_next_start_only() {
    let bed = Bed::new(&[]).await;
    bed.write("config/resources/external/ignition/tag-provider/x/resource.json", r#"{"files":[]}"#);
    bed.client.scan(ScanKind::Config).await.unwrap();
    scanned(&bed, 1).await;
    assert_eq!(bed.gateway.phase(), GatewayPhase::Running);
    bed.gateway.restart();
    let fault = bed.gateway.until_running(LIMIT).await.unwrap_err();
    assert!(matches!(&fault, FakeError::Faulted(f) if f[0].contains("exists but is not empty")), "{fault}");
    assert_eq!(bed.client.status_ping().await.unwrap().state, "FAULTED");
    bed.write(
        "config/resources/external/config-mode.json",
        &stoker_ignition::rules::config_mode_json("external"),
    );
    bed.gateway.restart();
    bed.gateway.until_running(LIMIT).await.unwrap();
}

#[tokio::test]
async fn the_scan_lock_is_exclusive_expires_and_is_released_by_any_scan() {
    let bed = Bed::new(&[]).await;
    let (now, minute, second) = (Duration::ZERO, Duration::from_secs(60), Duration::from_secs(1));
    let kind = ScanKind::Projects;
    assert_eq!(bed.client.scan_lock_status(kind).await.unwrap(), None);
    let LockAnswer::Held(lock) = bed.client.scan_lock(kind, now, minute).await.unwrap() else {
        panic!("not held")
    };
    assert_eq!(lock.actor, "api-token:ci:127.0.0.1");
    assert!(lock.remaining <= minute && lock.remaining >= Duration::from_secs(50), "{lock:?}");
    assert!(bed.client.scan_lock_status(kind).await.unwrap().is_some());
    assert_eq!(bed.client.scan_lock(kind, now, minute).await.unwrap(), LockAnswer::Busy);
    // The other half has a lock of its own.
    assert!(matches!(
        bed.client.scan_lock(ScanKind::Config, now, second).await.unwrap(),
        LockAnswer::Held(_)
    ));

    bed.client.scan(kind).await.unwrap();
    assert_eq!(bed.client.scan_lock_status(kind).await.unwrap(), None, "released when the scan is triggered");
    let released = |e: &Event| matches!(e, Event::Lock(l) if l.outcome == LockOutcome::Released);
    assert!(bed.gateway.events().iter().any(released));

    // 408 after the acquire timeout, under the other reading; the lock that expires lets the waiting one in.
    bed.gateway.set("lock-busy=408").unwrap();
    assert!(matches!(bed.client.scan_lock(kind, second * 5, second).await.unwrap(), LockAnswer::Held(_)));
    assert_eq!(bed.client.scan_lock(kind, now, second).await.unwrap(), LockAnswer::Busy);
    assert!(matches!(bed.client.scan_lock(kind, second * 10, second).await.unwrap(), LockAnswer::Held(_)));
}

#[tokio::test]
async fn the_periodic_scan_waits_for_the_lock() {
    let bed = Bed::new(&["periodic-project-scan=30ms", "scan-time=1ms"]).await;
    scanned(&bed, 2).await;
    assert!(
        bed.gateway.scans().iter().all(|s| s.trigger == Trigger::Periodic && s.kind == ScanKind::Projects)
    );
    let hold = Duration::from_secs(2);
    let held = bed.client.scan_lock(ScanKind::Projects, Duration::from_secs(5), hold).await.unwrap();
    assert!(matches!(held, LockAnswer::Held(_)));
    let scans = bed.gateway.scans().len();
    bed.write("projects/half/project.json", "{");
    bed.write("projects/half/project.json", "{}");
    assert_eq!(bed.gateway.scans().len(), scans, "no scan saw the half-written file");
    bed.client.scan(ScanKind::Projects).await.unwrap();
    scanned(&bed, scans + 1).await;
    let next = &bed.gateway.scans()[scans];
    assert!(next.skipped.is_empty() && next.loaded.contains(&"half".to_owned()), "{next:?}");
}

#[tokio::test]
async fn a_restart_answers_503_and_reads_everything_anew() {
    let bed = Bed::new(&["boot-time=200ms"]).await;
    bed.write("projects/new/project.json", "{}");
    let before = bed.client.scan_status(ScanKind::Projects).await.unwrap().unwrap();
    bed.gateway.restart();
    assert_eq!(bed.client.gateway_info().await.unwrap_err().category().as_str(), "GatewayStarting");
    assert_eq!(bed.client.status_ping().await.unwrap().phase(), Phase::Starting);
    bed.gateway.until_running(LIMIT).await.unwrap();
    assert!(bed.gateway.loaded_projects().loaded.contains_key("new"));
    let after = bed.client.scan_status(ScanKind::Projects).await.unwrap().unwrap();
    assert!(after.finished_since(&before));

    bed.gateway.set("timestamp-at-boot=off").unwrap();
    bed.gateway.restart();
    bed.gateway.until_running(LIMIT).await.unwrap();
    let forgetful = bed.client.scan_status(ScanKind::Projects).await.unwrap().unwrap();
    assert!(!forgetful.finished_since(&after), "{forgetful:?}");
}

#[tokio::test]
async fn it_makes_its_own_files_and_never_loads_its_cache() {
    let bed = Bed::new(&["churn=5ms"]).await;
    for own in [
        "projects/.resources/digests.json",
        "config/ignition/tags/valueStore.idb",
        "config/local/ignition/gateway-network/uuid.txt",
        "db/config.idb",
        "config/resources/core/com.inductiveautomation.opcua/one-time/resource.json",
        "config/resources/core/ignition/tag-type-definition/default/unary-resource.json",
        "commissioning.json",
    ] {
        assert!(bed.exists(own), "{own}");
        let path = stoker_core::RelPathBuf::parse(own).unwrap();
        let excluded =
            stoker_core::PatternSet::new(stoker_ignition::rules::DEFAULT_EXCLUDES.iter().map(|e| e.pattern))
                .unwrap()
                .excludes(path.as_path(), false);
        let unary = own.ends_with("unary-resource.json");
        let protected = stoker_ignition::rules::protected(path.as_path()).is_some();
        assert!(protected || excluded || unary, "{own} would be compared with git");
    }
    assert_eq!(bed.client.project_names().await.unwrap(), ["base", "line"]);
    let wal = data(&bed.dir).join("config/ignition/tags/valueStore.idb-wal");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !wal.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while wal.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_key_in_the_data_directory_is_known_after_a_start() {
    let bed = Bed::new(&[]).await;
    // base64url("0123456789abcdef") and base64url(sha256("0123456789abcdef")).
    let secret = "MDEyMzQ1Njc4OWFiY2RlZg";
    let hash = "n59REfeyengfHx3d5evC3St5a_xzZcnCi1SOVkF2kp8";
    bed.set_key_file(&format!("boot:{secret}"));
    assert!(bed.client.gateway_info().await.unwrap_err().lacks_right());
    let token = "config/resources/local/ignition/api-token/boot";
    bed.write("config/resources/local/config-mode.json", &stoker_ignition::rules::config_mode_json("local"));
    bed.write(&format!("{token}/resource.json"), r#"{"files":["config.json"],"attributes":{}}"#);
    bed.write(
        &format!("{token}/config.json"),
        &format!(r#"{{"profile":{{"type":"basic-token","secureChannelRequired":false}},"settings":{{"tokenHash":"{hash}"}}}}"#),
    );
    bed.gateway.restart();
    bed.gateway.until_running(LIMIT).await.unwrap();
    bed.client.gateway_info().await.unwrap();
}

#[tokio::test]
async fn it_waits_for_a_data_directory_that_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let gateway =
        FakeGateway::builder(data(&dir)).api_key_file(&key).wait_for_data_dir(true).start().await.unwrap();
    let client = client(&gateway.url(), ApiKeySource::file(&key));
    assert_eq!(client.status_ping().await.unwrap().phase(), Phase::Starting);
    write(&data(&dir), "projects/late/project.json", "{}");
    gateway.until_running(LIMIT).await.unwrap();
    std::fs::write(&key, KEY).unwrap();
    assert_eq!(client.project_names().await.unwrap(), ["late"]);
}

#[tokio::test]
async fn runnable_only_is_the_other_reading_of_the_project_list() {
    let bed = Bed::new(&["projects-list=runnable"]).await;
    let names: Vec<_> = bed.client.projects_list().await.unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["line"]);
    assert_eq!(bed.client.project_names().await.unwrap(), ["base", "line"]);
}

#[tokio::test]
async fn a_backup_takes_over_from_its_master_and_loses_what_others_write() {
    let master = Bed::new(&["role=Master"]).await;
    let from = format!("replicate-from={}", data(&master.dir).display());
    let backup = Bed::new(&["role=Backup", &from]).await;
    assert_eq!(backup.client.redundancy().await.unwrap().role, "Backup");
    backup.write("projects/foreign/project.json", "{}");
    backup.write("projects/line/project.json", r#"{"title":"written on the backup"}"#);
    backup.write("config/resources/external/config-mode.json", "{}");
    master.write("projects/new/project.json", "{}");
    let same = |_: &[Event]| {
        let names: Vec<_> = backup.gateway.loaded_projects().loaded.keys().cloned().collect();
        (names == ["base", "line", "new"] && !backup.exists("projects/foreign")).then_some(())
    };
    backup.gateway.until_events(LIMIT, same).await.unwrap();
    assert_eq!(backup.read("projects/line/project.json"), master.read("projects/line/project.json"));
    assert!(backup.exists("config/resources/external/config-mode.json"), "external is each node's own");
    assert!(backup.client.redundancy().await.unwrap().last_sync_timestamp > 0);
}
