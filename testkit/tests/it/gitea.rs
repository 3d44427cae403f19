use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use stoker_testkit::gitea::Gitea;
use stoker_testkit::{Repo, ignition, require};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_push_to_the_forge_is_delivered_and_a_pull_request_can_be_merged() {
    let Some(forge) = require::gitea().await else { return };
    push_and_merge(&forge, "127.0.0.1").await;
}

#[tokio::test]
async fn a_forge_in_the_network_of_a_node_reaches_this_machine() {
    let Some(node) = require::node().await else { return };
    let Some(forge) = require::gitea_in(node).await else { return };
    assert!(forge.url().contains(&node.address().to_string()));
    push_and_merge(&forge, &node.host_address().to_string()).await;
}

async fn push_and_merge(forge: &Gitea, here: &str) {
    let (sender, mut deliveries) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind((here, 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let receive = |State(sender): State<mpsc::UnboundedSender<(HeaderMap, Value)>>,
                   headers: HeaderMap,
                   body: axum::Json<Value>| async move {
        let _ = sender.send((headers, body.0));
    };
    let router = Router::new().fallback(receive).with_state(sender);
    tokio::spawn(async move { axum::serve(listener, router).await });

    let to = forge.create_repo("ignition", true).await.unwrap();
    forge.create_webhook(&to, &url, "a secret", &["push"]).await.unwrap();
    let repo = Repo::new().unwrap();
    repo.write_tree(&ignition::small_site()).unwrap();
    let commit = repo.commit("a site").unwrap();
    forge.push(&repo, &to, &["main"]).unwrap();
    let (headers, body) = next(&mut deliveries).await;
    assert_eq!((&body["after"], &body["ref"]), (&json!(commit), &json!("refs/heads/main")));
    assert!(
        headers.contains_key("x-hub-signature-256") && headers.contains_key("x-gitea-delivery"),
        "{headers:?}"
    );

    repo.switch("change").unwrap().commit_files("change", &[("new.txt", "1")]).unwrap();
    forge.push(&repo, &to, &["change"]).unwrap();
    next(&mut deliveries).await;
    let pulls = format!("repos/{}/pulls", to.full_name);
    let pull = json!({"head": "change", "base": "main", "title": "A change"});
    let pull = forge.api(Method::POST, &pulls, Some(&pull)).await.unwrap();
    let merge = format!("{pulls}/{}/merge", pull["number"]);
    stoker_testkit::wait::until("the pull request to be mergeable", Duration::from_secs(10), || async {
        Ok(Some(forge.api(Method::POST, &merge, Some(&json!({"Do": "squash"}))).await?))
    })
    .await
    .unwrap();
    let (_, body) = next(&mut deliveries).await;
    assert_eq!((&body["before"], &body["ref"]), (&json!(commit), &json!("refs/heads/main")));
}

async fn next(deliveries: &mut mpsc::UnboundedReceiver<(HeaderMap, Value)>) -> (HeaderMap, Value) {
    tokio::time::timeout(Duration::from_secs(20), deliveries.recv()).await.unwrap().unwrap()
}
