//! A redundant pair: projects, `core` and the modes are the master's to give, `external` is each node's own.

use stoker_core::Engine;
use stoker_ignition::fake::Event;
use stoker_k8s::agent::start::Start;
use stoker_k8s::api::SyncStatus;

use crate::line::{Commits, LIMIT, Line, PROJECT};

const VIEW: &str = "projects/line/com.inductiveautomation.perspective/views/Main/view.json";
const PROVIDER: &str = "config/resources/core/ignition/tag-provider/edge/config.json";
const DATABASE: &str = "config/resources/external/ignition/database-connection/db/config.json";
const SETTINGS: &str = r#"<properties><entry key="redundancy.noderole">Backup</entry></properties>"#;
const NOTE: &str = "backup: projects, core and modes come from the master";

/// A commit with something of each kind; `content` is in all of it.
fn commit(commits: &Commits, number: u32, content: &str) -> String {
    let json = format!(r#"{{"text":"{content}"}}"#);
    let resource = r#"{"scope":"G","version":1,"files":["config.json"],"attributes":{}}"#;
    let of = |path: &str| path.replace("config/resources", "resources");
    let (provider, database) = (of(PROVIDER), of(DATABASE));
    let beside = |path: &str| path.replace("config.json", "resource.json");
    commits.commit(
        number,
        &[
            ("projects/line/project.json", PROJECT),
            (VIEW, &json),
            (&VIEW.replace("view.json", "resource.json"), &resource.replace("config.json", "view.json")),
            (&provider, r#"{"profile":{"type":"STANDARD"}}"#),
            (&beside(&provider), resource),
            (&database, &json),
            (&beside(&database), resource),
        ],
    )
}

async fn pair(commits: &Commits) -> (Line, Line) {
    let master = Line::new(commits, &["role=Master"]).await;
    let from = format!("replicate-from={}", master.data().display());
    let backup = Line::new(commits, &["role=Backup", &from]).await;
    for line in [&master, &backup] {
        line.gateway.until_running(LIMIT).await.unwrap();
    }
    (master, backup)
}

/// The files that Stoker wrote there.
fn owned(line: &Line) -> Vec<String> {
    let owned = Engine::open(line.data()).unwrap().owned().unwrap();
    owned.iter().map(ToString::to_string).collect()
}

fn transactions(line: &Line) -> usize {
    Engine::open(line.data()).unwrap().history().unwrap().len()
}

#[tokio::test]
async fn each_node_gets_what_is_its_own_and_nobody_fights() {
    let commits = Commits::new();
    let (mut master, mut backup) = pair(&commits).await;
    let first = commit(&commits, 1, "one");
    for line in [&mut master, &mut backup] {
        line.tell(&first, |_| {});
        line.agent().await;
    }
    let said = master.synced(&first).await;
    assert!(!said.status.message.contains("backup"), "{}", said.status.message);
    assert_eq!(owned(&master).len(), 8, "with a config-mode.json for external: {:?}", owned(&master));
    let said = backup.synced(&first).await;
    assert!(said.status.message.ends_with(NOTE), "{}", said.status.message);
    assert!(owned(&backup).iter().all(|path| path.starts_with("config/resources/external/")));
    assert_eq!(owned(&backup).len(), 3);
    let taken_over = |_: &[Event]| (backup.read(VIEW) == master.read(VIEW)).then_some(());
    backup.gateway.until_events(LIMIT, taken_over).await.unwrap();

    // Somebody writes on the backup. Its master takes that back, not the agent; and looking costs no request.
    let asked = backup.gateway.requests().len();
    backup.write(VIEW, "{}");
    let lost = |_: &[Event]| (backup.read(VIEW) == master.read(VIEW)).then_some(());
    backup.gateway.until_events(LIMIT, lost).await.unwrap();
    commits.fetches(4).await;
    assert_eq!(transactions(&backup), 1);
    assert_eq!(backup.gateway.requests().len(), asked);
    assert_eq!(backup.said().status.sync_status, SyncStatus::Synced);

    // What is its own the agent puts back.
    backup.write(DATABASE, "{}");
    backup.tell(&first, |told| told.trigger = "look".into());
    backup
        .says("restored", |s| s.status.history.len() == 2 && s.status.sync_status == SyncStatus::Synced)
        .await;
    assert_eq!(backup.read(DATABASE), master.read(DATABASE));

    let second = commit(&commits, 2, "two");
    for line in [&mut master, &mut backup] {
        line.tell(&second, |_| {});
    }
    master.synced(&second).await;
    backup.synced(&second).await;
    assert!(backup.read(DATABASE).unwrap().contains("two"));
    let taken_over = |_: &[Event]| backup.read(VIEW).is_some_and(|view| view.contains("two")).then_some(());
    backup.gateway.until_events(LIMIT, taken_over).await.unwrap();
    assert_eq!(transactions(&backup), 3);
    assert!(owned(&backup).iter().all(|path| path.starts_with("config/resources/external/")));
}

#[tokio::test]
async fn before_the_gateway_runs_its_settings_say_what_it_is() {
    let commits = Commits::new();
    let first = commit(&commits, 1, "one");
    for (settings, all) in [(Some(SETTINGS), false), (None, true)] {
        let mut line = Line::new(&commits, &["role=Backup"]).await;
        if let Some(text) = settings {
            line.write("redundancy.xml", text);
        }
        line.url = Some("http://127.0.0.1:1".into());
        line.tell(&first, |_| {});
        line.agent().await;
        let go = line.start.wait_for(|start| matches!(start, Start::Go(_)));
        tokio::time::timeout(LIMIT, go).await.expect("the gateway may start").unwrap();
        assert!(line.read(DATABASE).is_some());
        assert_eq!(line.read(VIEW).is_some(), all, "{settings:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_became_a_backup_keeps_what_a_commit_deletes() {
    let commits = Commits::new();
    let first = commit(&commits, 1, "one");
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    line.synced(&first).await;
    line.gateway.set("role=Backup").unwrap();
    let second = commits.commit(2, &[("resources/external/readme.txt", "x")]);
    let all_may_go = |told: &mut stoker_k8s::protocol::Metadata| told.base.max_deletes.percent = 100;
    line.tell(&second, all_may_go);
    line.synced(&second).await;
    assert!(line.read(VIEW).is_some() && line.read(PROVIDER).is_some());
    assert!(line.read(DATABASE).is_none(), "external is its own, deletions included");

    // And back: what the commit has not is not this agent's to delete any more, what it has is.
    line.gateway.set("role=Independent").unwrap();
    let third = commit(&commits, 3, "three");
    line.tell(&third, all_may_go);
    line.synced(&third).await;
    assert!(line.read(VIEW).unwrap().contains("three"));
    assert_eq!(owned(&line).len(), 8);
}

#[tokio::test]
async fn a_backup_is_synced_when_it_has_what_its_master_has_as_far_as_it_tells() {
    let commits = Commits::new();
    let (_master, mut backup) = pair(&commits).await;
    backup.gateway.set("peer=gone").unwrap();
    let first = commit(&commits, 1, "one");
    backup.tell(&first, |_| {});
    backup.agent().await;
    let said = backup.says("waiting", |s| s.status.reason.as_deref() == Some("MasterDisconnected")).await;
    assert_eq!(said.status.sync_status, SyncStatus::Syncing);
    assert!(!backup.gateway.scans().is_empty(), "external is loaded all the same");
    backup.gateway.set("peer=connected").unwrap();
    backup.synced(&first).await;

    // A backup that takes no request for a scan cannot tell.
    backup.gateway.set("permission=read").unwrap();
    let second = commit(&commits, 2, "two");
    backup.tell(&second, |_| {});
    let said = backup.synced(&second).await;
    assert!(said.status.message.starts_with("unverified: "), "{}", said.status.message);
    assert!(said.status.message.ends_with(NOTE), "{}", said.status.message);
}
