use std::time::Duration;

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use stoker_testkit::pki::Authority;
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

#[tokio::test]
async fn a_webhook_of_the_test_itself_is_asked_at_a_loopback_url() {
    let Some(server) = require::api_server().await else { return };
    let namespace = server.namespace().await.unwrap();
    let client = server.client().unwrap();
    let authority = Authority::new("webhook-test").unwrap();
    let identity = authority.server(&["127.0.0.1".into()]).unwrap();
    let config =
        RustlsConfig::from_pem(identity.certificate.into_bytes(), identity.key.into_bytes()).await.unwrap();
    let refuse = |review: axum::Json<Value>| async move {
        axum::Json(json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": false, "status": {"message": "not today"}},
        }))
    };
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let router = Router::new().fallback(refuse);
    let served = axum_server::from_tcp_rustls(listener, config).unwrap();
    tokio::spawn(served.serve(router.into_make_service()));

    let webhook: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": &*namespace},
        "webhooks": [{
            "name": "test.stoker.io",
            "clientConfig": {"url": url, "caBundle": ByteString(authority.certificate().into_bytes())},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": &*namespace}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        }],
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &webhook).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let mut map = ConfigMap::default();
    map.metadata.generate_name = Some("refused-".into());
    // The API server learns of a new webhook by a watch.
    let refusal = wait::until("the webhook to be asked", Duration::from_secs(15), || async {
        Ok(maps.create(&PostParams::default(), &map).await.err())
    })
    .await
    .unwrap();
    assert!(refusal.to_string().contains("not today"), "{refusal}");
}
