//! Tags that a gateway makes at run time are the gateway's, whatever a commit brings.

use crate::line::{Commits, LIMIT, Line};

fn tree(provider: &str, tree: &str) -> String {
    format!("config/resources/core/ignition/{tree}/{provider}/tags.json")
}

fn provider(name: &str) -> String {
    format!("config/resources/core/ignition/tag-provider/{name}/config.json")
}

const MANAGED: &str = r#"{"profile":{"type":"MANAGED"},"settings":{}}"#;
const RESOURCE: &str = r#"{"scope":"G","version":1,"files":["config.json"],"attributes":{}}"#;
const STANDARD: &str = r#"{"profile":{"type":"STANDARD"},"settings":{}}"#;

/// A commit with tags of these providers, and the configuration of those for which it is given.
fn commit(commits: &Commits, number: u32, providers: &[(&str, Option<&str>)], content: &str) -> String {
    let mut files = Vec::new();
    for (name, config) in providers {
        files.push((tree(name, "tag-definition"), content));
        files.push((tree(name, "tag-type-definition"), content));
        if let Some(config) = config {
            files.push((provider(name), config));
            files.push((provider(name).replace("config.json", "resource.json"), RESOURCE));
        }
    }
    // `resources` of the commit becomes `config/resources`.
    let below = |path: &str| path.trim_start_matches("config/").to_owned();
    let files: Vec<(String, &str)> = files.iter().map(|(path, content)| (below(path), *content)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, content)| (path.as_str(), *content)).collect();
    commits.commit(number, &files)
}

#[tokio::test]
async fn tag_trees_of_the_gateways_own_providers_are_left_alone() {
    let commits = Commits::new();
    let first = commit(
        &commits,
        1,
        &[
            ("MQTT Engine", None),
            ("System", Some(STANDARD)),
            ("plc", Some(MANAGED)),
            ("opc", None),
            ("default", Some(STANDARD)),
        ],
        "[]",
    );
    let mut line = Line::new(&commits, &["own-files=off"]).await;
    line.gateway.until_running(LIMIT).await.unwrap();
    // As a gateway with its modules has it: made at run time, and said to be so by the provider.
    line.write(&tree("MQTT Engine", "tag-definition"), "live");
    line.write(&provider("MQTT Engine"), MANAGED);
    line.write(&tree("opc", "tag-definition"), "live");
    line.write(&provider("opc"), MANAGED);
    line.tell(&first, |_| {});
    line.agent().await;
    line.synced(&first).await;
    let has = |line: &Line, name: &str| {
        ["tag-definition", "tag-type-definition"].map(|of| line.read(&tree(name, of)))
    };
    let live = || Some("live".to_owned());
    let brought = || Some("[]".to_owned());
    assert_eq!(has(&line, "MQTT Engine"), [live(), None], "managed in the live directory, and by name");
    assert_eq!(has(&line, "opc"), [live(), None], "managed in the live directory");
    assert_eq!(has(&line, "plc"), [None, None], "managed in the commit");
    assert_eq!(has(&line, "System"), [brought(), brought()], "the commit says that it is in files");
    assert_eq!(has(&line, "default"), [brought(), brought()]);

    // What the module changes meanwhile is no drift.
    line.write(&tree("MQTT Engine", "tag-definition"), "changed by the module");
    line.tell(&first, |told| told.trigger = "look".into());
    line.says("another look", |s| s.status.trigger.as_deref() == Some("look")).await;
    assert_eq!(has(&line, "MQTT Engine")[0].as_deref(), Some("changed by the module"));
    assert_eq!(line.said().status.history.len(), 1);

    // A profile may take a tree back.
    let back = "!config/resources/*/ignition/tag-definition/MQTT Engine/";
    line.tell(&first, |told| {
        told.base.exclude_patterns.push(back.into());
        told.base.revision = "r2".into();
    });
    line.says("the edited profile", |s| s.status.profile_revision.as_deref() == Some("r2")).await;
    assert_eq!(has(&line, "MQTT Engine"), [brought(), None]);
}

#[tokio::test]
async fn a_provider_that_nobody_configures_is_known_by_its_name() {
    let commits = Commits::new();
    let first =
        commit(&commits, 1, &[("MQTT Transmission", None), ("System", None), ("default", None)], "[]");
    let mut line = Line::new(&commits, &["own-files=off"]).await;
    line.tell(&first, |_| {});
    line.agent().await;
    line.synced(&first).await;
    for (name, there) in [("MQTT Transmission", false), ("System", false), ("default", true)] {
        assert_eq!(line.read(&tree(name, "tag-definition")).is_some(), there, "{name}");
    }
}
