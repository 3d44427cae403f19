use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use stoker_testkit::{require, wait};

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_no_more() {
    let Some(server) = require::api_server().await else { return };
    let namespace = server.namespace().await.unwrap();
    let admin = server.client().unwrap();
    let post = PostParams::default();
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "reader"}})).unwrap();
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }))
    .unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": &*namespace}],
    }))
    .unwrap();
    Api::namespaced(admin.clone(), &namespace).create(&post, &account).await.unwrap();
    Api::namespaced(admin.clone(), &namespace).create(&post, &role).await.unwrap();
    Api::namespaced(admin.clone(), &namespace).create(&post, &binding).await.unwrap();

    let reader = server.token_client(&namespace, "reader").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(reader.clone(), &namespace);
    // The authorizer learns of a new role by a watch.
    wait::until("the role to be in force", Duration::from_secs(10), || async {
        Ok(Some(maps.list(&ListParams::default()).await?))
    })
    .await
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(reader, &namespace);
    let refused = pods.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");

    let user = format!("system:serviceaccount:{namespace}:reader");
    let requests = server.requests_of(&user).unwrap();
    assert!(requests.iter().any(|request| request.request_uri.ends_with("/pods?")), "{requests:?}");
}

#[tokio::test]
async fn controllers_run_so_that_a_stateful_set_makes_its_pods() {
    let Some(server) = require::api_server().await else { return };
    let namespace = server.namespace().await.unwrap();
    let client = server.client().unwrap();
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": {"name": "gateway"},
        "spec": {
            "replicas": 2,
            "serviceName": "gateway",
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "gateway"}},
            "template": {
                "metadata": {"labels": {"app": "gateway"}},
                "spec": {"containers": [{"name": "gateway", "image": "none"}]},
            },
        },
    }))
    .unwrap();
    Api::namespaced(client.clone(), &namespace).create(&PostParams::default(), &set).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    wait::until_true("two pods", Duration::from_secs(20), || async {
        Ok(pods.list(&ListParams::default()).await?.items.len() == 2)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_was_stored_is_there_after_the_api_server_was_killed() {
    let Some(server) = require::own_api_server().await else { return };
    let client = server.client().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();

    server.kill().unwrap();
    let away = tokio::time::timeout(Duration::from_secs(2), maps.get("kept")).await;
    assert!(!matches!(away, Ok(Ok(_))), "a killed server answered");
    server.resume().await.unwrap();
    assert_eq!(maps.get("kept").await.unwrap().metadata.name.as_deref(), Some("kept"));
}
