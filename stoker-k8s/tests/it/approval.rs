//! The deletion guard, and how a person lets one commit pass it.

use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;
use stoker_k8s::api::SyncStatus;
use stoker_k8s::protocol::{AgentStatus, Approval};
use stoker_testkit::wait;

use crate::bed::{Bed, LIMIT, synced};
use crate::line::{Commits, Line, PROJECT};

fn of(commit: &str) -> Option<Approval> {
    Some(Approval { commit: commit.to_owned(), by: "ada".to_owned() })
}

#[tokio::test]
async fn many_deletions_wait_for_a_word_about_exactly_this_commit() {
    let commits = Commits::new();
    let files = ["a", "b", "c"].map(|name| format!("projects/{name}/project.json"));
    let all: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), PROJECT)).collect();
    let (first, second) = (commits.commit(1, &all), commits.commit(2, &all[..1]));
    let mut line = Line::new(&commits, &[]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    line.synced(&first).await;

    line.tell(&second, |_| {});
    let held = line.says("held", |s| s.status.sync_status == SyncStatus::Held).await;
    assert_eq!(held.status.reason.as_deref(), Some("MassDeletionBlocked"));
    let message = &held.status.message;
    for part in [
        "deletes 2 of the 3 files that Stoker wrote here",
        "at most 200 files or 50 percent",
        &format!("kubectl annotate stoker line --overwrite stoker.io/approved-commit={second}"),
        "raise spec.deployment.maxDeletes",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("plan"), "nothing that nobody can approve: {message}");

    // The word for another commit is none for this one.
    line.tell(&second, |told| (told.approval, told.trigger) = (of(&first), "again".into()));
    commits.fetches(1).await;
    assert!(files.iter().all(|file| line.read(file).is_some()));
    line.tell(&second, |told| told.approval = of(&second));
    let said = line.synced(&second).await;
    assert_eq!(files.iter().filter(|file| line.read(file).is_some()).count(), 1);
    let warnings = said.report.unwrap().warnings;
    assert!(
        warnings.contains(&"ada has approved that this commit deletes 2 files".to_owned()),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn an_approval_on_the_stoker_reaches_the_agents_and_the_block_is_an_event() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    assert_eq!(told.approval, None);
    let blocked = AgentStatus {
        sync_status: SyncStatus::Held,
        reason: Some("MassDeletionBlocked".into()),
        message: "this sync deletes 300 of the 400 files".into(),
        ..synced(&told)
    };
    bed.report("plant", "gw-0", blocked).await;
    let events: Api<Event> = Api::namespaced(bed.client.clone(), &bed.namespace);
    wait::until_true("the event", LIMIT, || async {
        let all = events.list(&ListParams::default()).await?.items;
        Ok(all.iter().any(|e| {
            e.reason.as_deref() == Some("MassDeletionBlocked")
                && e.type_.as_deref() == Some("Warning")
                && e.note.as_deref().is_some_and(|n| n.contains("300 of the 400"))
        }))
    })
    .await
    .unwrap();

    let commit = told.commit.unwrap();
    let annotations = json!({"stoker.io/approved-commit": commit, "stoker.io/approved-by": "ada"});
    bed.annotate("plant", annotations).await;
    let told = bed.told("plant", "the approval", |m| m.approval.is_some()).await;
    assert_eq!(told.approval, of(&commit));
    bed.annotate("plant", json!({"stoker.io/approved-commit": null})).await;
    bed.told("plant", "that it was taken back", |m| m.approval.is_none()).await;
}
