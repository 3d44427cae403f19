//! Whom a commit concerns: projects through their parents, those that it brings included.

use stoker_ignition::rules::Designer;
use stoker_k8s::api::{DesignerSessionPolicy, SyncStatus};

use crate::line::{Commits, Line, PROJECT};

const BASE: &str = r#"{"title":"Base","enabled":true,"inheritable":true,"parent":""}"#;

fn child() -> String {
    PROJECT.replace(r#""parent":"""#, r#""parent":"base""#)
}

#[tokio::test]
async fn a_parent_that_the_commit_itself_brings_counts() {
    let commits = Commits::new();
    let base = ("projects/base/project.json", BASE);
    let (line_file, new_file) = ("projects/line/project.json", "projects/new/project.json");
    let child = child();
    let first = commits.commit(1, &[base, (line_file, PROJECT)]);
    let becomes_child = commits.commit(2, &[base, (line_file, &child)]);
    let adds_child = commits.commit(3, &[base, (line_file, PROJECT), (new_file, &child)]);
    let alone = commits.commit(4, &[base, (line_file, &PROJECT.replace("Line", "Other"))]);
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    line.synced(&first).await;

    let ada = Designer { user: "ada".into(), project: "base".into(), ..Designer::default() };
    line.gateway.set_designers(vec![ada]);
    let patient = |told: &mut stoker_k8s::protocol::Metadata| {
        told.base.designer_session_policy = DesignerSessionPolicy::Wait;
    };
    for commit in [&becomes_child, &adds_child] {
        line.tell(commit, patient);
        let said = line
            .says("held", |s| {
                s.status.sync_status == SyncStatus::Held && s.status.target_commit.as_deref() == Some(commit)
            })
            .await;
        assert!(said.status.message.contains("ada on base"), "{}", said.status.message);
        assert_eq!((line.read(line_file).as_deref(), line.read(new_file)), (Some(PROJECT), None));
    }
    // Who edits something else is in nobody's way.
    line.tell(&alone, patient);
    line.synced(&alone).await;
    line.tell(&becomes_child, patient);
    line.says("held", |s| s.status.sync_status == SyncStatus::Held).await;
    line.gateway.set_designers(Vec::new());
    line.synced(&becomes_child).await;
}

#[tokio::test]
async fn a_project_that_loses_its_parent_is_noticed_although_nobody_touched_it() {
    let commits = Commits::new();
    let (base, line_file) = (("projects/base/project.json", BASE), "projects/line/project.json");
    let child = child();
    let first = commits.commit(1, &[base, (line_file, &child)]);
    let orphans = commits.commit(2, &[(line_file, &child)]);
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    let said = line.synced(&first).await;
    assert_eq!(said.status.projects_synced, ["base", "line"]);
    line.tell(&orphans, |told| told.base.max_deletes.percent = 100);
    let said = line.says("rejected", |s| s.status.sync_status == SyncStatus::Error).await;
    assert!(
        said.status.message.contains("project line: its parent \"base\" is missing"),
        "{}",
        said.status.message
    );
}
