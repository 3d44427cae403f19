//! The controller on a real API server, as its real service account.

use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Client, ResourceExt};
use serde_json::json;
use stoker_git::Credentials;
use stoker_k8s::api::{SyncStatus, TokenScheme, VerifyMode};
use stoker_k8s::conditions;
use stoker_k8s::protocol::{AgentStatus, AuthType};
use stoker_testkit::wait;

use crate::bed::{Bed, LIMIT, data, entry, impatient, synced};

fn code<T: std::fmt::Debug>(answer: kube::Result<T>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_commit_reaches_the_agents_and_ready_waits_for_their_word() {
    let Some(bed) = Bed::new().await else { return };
    let first = bed.repository.git(&["rev-parse", "HEAD"]);
    bed.apply_stoker("plant", json!({"siteNumber": "12"})).await;
    bed.pod(
        "gw-0",
        true,
        json!({"stoker.io/service-path": "services/site", "stoker.io/gateway-name": "site"}),
    )
    .await;

    let told = bed.told("plant", "the first commit", |m| m.commit.as_deref() == Some(&first)).await;
    assert_eq!((told.git_ref.as_str(), told.git_url.as_str()), ("main", bed.repository.url().as_str()));
    assert_eq!((told.paused, told.gateway_port, told.gateway_tls), (false, 8043, true));
    assert_eq!(told.base.site_number.as_deref(), Some("12"));
    let (reason, message) = bed.condition("plant", conditions::READY, "False").await;
    assert!(message.contains("0/1 synced"), "{reason}: {message}");

    bed.report("plant", "gw-0", synced(&told)).await;
    let (_, message) = bed.condition("plant", conditions::READY, "True").await;
    assert_eq!(message, format!("1/1 synced at {}", &first[..7]));
    let stoker = bed.stokers().get("plant").await.unwrap();
    let status = stoker.status.clone().unwrap();
    assert_eq!(status.last_sync_commit.as_deref(), Some(first.as_str()));
    assert_eq!(status.gateway_summary.as_deref(), Some("1/1 synced"));
    let gateway = entry(&stoker, "gw-0").unwrap();
    assert_eq!((gateway.name.as_str(), gateway.service_path.as_deref()), ("site", Some("services/site")));
    assert_eq!(gateway.last_sync_duration.as_deref(), Some("812ms"));

    // What `kubectl get stokers` shows.
    let mut request = Request::new(bed.stokers().resource_url()).list(&ListParams::default()).unwrap();
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1".parse().unwrap();
    request.headers_mut().insert("accept", table);
    let table: serde_json::Value = bed.client.request(request).await.unwrap();
    let columns: Vec<&str> = (table["columnDefinitions"].as_array().unwrap().iter())
        .filter(|c| c["priority"] == 0)
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Ref", "Commit", "Gateways", "Ready", "Status", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        cells.as_array().unwrap()[..5],
        json!(["plant", "main", first[..7], "1/1 synced", "True"]).as_array().unwrap()[..]
    );

    // A delivery: the next commit is wanted, and Ready says so until the gateway has it.
    let second = bed.repository.commit("second");
    bed.annotate("plant", json!({"stoker.io/requested-at": "2026-03-01T10:00:00Z"})).await;
    let told = bed.told("plant", "the second commit", |m| m.commit.as_deref() == Some(&second)).await;
    assert_eq!(told.trigger, "2026-03-01T10:00:00Z");
    bed.condition("plant", conditions::READY, "False").await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;
    let status = bed.stokers().get("plant").await.unwrap().status.unwrap();
    assert_eq!(status.last_handled_trigger.as_deref(), Some("2026-03-01T10:00:00Z"));

    let events: Api<Event> = Api::namespaced(bed.client.clone(), &bed.namespace);
    wait::until_true("the events", LIMIT, || async {
        let reasons: Vec<String> =
            events.list(&ListParams::default()).await?.items.into_iter().filter_map(|e| e.reason).collect();
        Ok(["RefResolved", "RefUpdated", "GatewayDiscovered", "SyncCompleted"]
            .iter()
            .all(|wanted| reasons.iter().any(|r| r == wanted)))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_can_read_one_object_and_write_its_own_status() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;

    let other: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    bed.maps().create(&PostParams::default(), &other).await.unwrap();
    let agent: Client = bed.cluster.server.token_client(&bed.namespace, "default").await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(agent.clone(), &bed.namespace);
    let secrets: Api<Secret> = Api::namespaced(agent.clone(), &bed.namespace);
    assert_eq!(code(maps.get("stoker-metadata-plant").await), 200);
    let patch = Patch::Merge(json!({"data": {"commit": "evil"}}));
    assert_eq!(code(maps.patch("stoker-metadata-plant", &PatchParams::default(), &patch).await), 403);
    assert_eq!(code(maps.get("other").await), 403);
    assert_eq!(code(maps.list(&ListParams::default()).await), 403);
    assert_eq!(code(secrets.get("ignition-api-key").await), 403);
    assert_eq!(code(maps.delete("stoker-status-plant-gw-0", &DeleteParams::default()).await), 403);

    let roles: Api<Role> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let role = roles.get("stoker-agent-plant").await.unwrap();
    let names: Vec<_> = role.rules.unwrap().into_iter().flat_map(|r| r.resource_names.unwrap()).collect();
    assert_eq!(names, ["stoker-metadata-plant", "stoker-status-plant-gw-0"]);
    // Whoever takes the Role away finds it back.
    roles.delete("stoker-agent-plant", &DeleteParams::default()).await.unwrap();
    wait::until_true("the Role to be back", LIMIT, || async {
        Ok(roles.get_opt("stoker-agent-plant").await?.is_some())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_ref_that_is_not_there_is_named_and_the_gateways_keep_what_they_have() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;

    bed.apply_stoker("plant", json!({"git": {"ref": "mian"}})).await;
    let (reason, message) = bed.condition("plant", conditions::REF_RESOLVED, "False").await;
    assert_eq!(reason, "RefNotFound");
    assert!(message.contains("did you mean \"main\"?"), "{message}");
    let (reason, _) = bed.condition("plant", conditions::READY, "False").await;
    assert_eq!(reason, "RefNotFound");
    assert_eq!(bed.told("plant", "anything", |_| true).await.commit, told.commit);

    // Another repository that is not there: the old URL stays together with the old commit.
    bed.apply_stoker("plant", json!({"git": {"repo": "file:///nowhere/x.git", "ref": "main"}})).await;
    bed.until("plant", "repository not found", |s| {
        let status = s.status.as_ref().unwrap();
        conditions::find(&status.conditions, conditions::REF_RESOLVED).unwrap().reason == "RepositoryNotFound"
    })
    .await;
    let now = bed.told("plant", "anything", |_| true).await;
    assert_eq!((now.git_url, now.commit, now.git_ref), (told.git_url, told.commit, "main".to_owned()));
}

#[tokio::test]
async fn a_missing_secret_is_named_in_a_condition() {
    let Some(bed) = Bed::new().await else { return };
    let token = json!({"token": {"secretRef": {"name": "git-token", "key": "token"}}});
    bed.apply_stoker(
        "plant",
        json!({
            "git": {"repo": "https://git.example.com/a.git", "auth": token},
            "webhook": {"secretRef": {"name": "hooks", "key": "secret"}},
        }),
    )
    .await;
    let (reason, message) = bed.condition("plant", conditions::REF_RESOLVED, "False").await;
    assert_eq!(reason, "SecretMissing");
    assert!(message.contains("secret git-token does not exist"), "{message}");
    let (reason, message) = bed.condition("plant", conditions::WEBHOOK_READY, "False").await;
    assert!(
        reason == "SecretMissing" && message.contains("secret hooks does not exist"),
        "{reason}: {message}"
    );

    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let secret = serde_json::from_value(json!({
        "metadata": {"name": "git-token"}, "stringData": {"tokn": "hunter2"},
    }))
    .unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    bed.annotate("plant", json!({"stoker.io/requested-at": "again"})).await;
    let stoker = bed
        .until("plant", "the key to be named", |s| {
            conditions::find(&s.status.as_ref().unwrap().conditions, conditions::REF_RESOLVED)
                .is_some_and(|c| c.message.contains("has no key token; it has: tokn"))
        })
        .await;
    let text = serde_json::to_string(&stoker).unwrap();
    assert!(!text.contains("hunter2"), "a secret in the status");
}

#[tokio::test]
async fn an_app_is_taken_along_and_agents_are_told_which_one_but_not_its_key() {
    let Some(bed) = Bed::new().await else { return };
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let secret = json!({"metadata": {"name": "app"}, "stringData": {"pem": "-----BEGIN-----\nhunter2\n"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let repo = bed.repository.url().replace("file://", "https://git.example.com");
    let app = json!({
        "appId": 12, "installationId": 34, "privateKeySecretRef": {"name": "app", "key": "pem"},
        "apiBaseURL": "https://ghe.example.com/api/v3",
    });
    let verify = json!({"mode": "TagAndHEAD", "secretRef": {"name": "signers"}});
    bed.apply_stoker("plant", json!({"git": {"repo": repo, "auth": {"githubApp": app}, "verify": verify}}))
        .await;

    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    assert_eq!(told.auth_type, AuthType::GithubApp);
    let named = told.github_app.clone().unwrap();
    assert_eq!((named.app_id, named.installation_id), (12, 34));
    assert_eq!(named.api_base_url.as_deref(), Some("https://ghe.example.com/api/v3"));
    assert_eq!(told.verify, Some(VerifyMode::TagAndHead));
    assert!(!format!("{:?}", told.to_data()).contains("hunter2"));
    let offered = bed.git.offered.lock().unwrap().clone().unwrap();
    let Credentials::GithubApp(offered) = offered.credentials else { panic!("{offered:?}") };
    assert_eq!((offered.app_id, offered.installation_id), (12, 34));
    assert_eq!(offered.api_base_url, "https://ghe.example.com/api/v3");
    assert_eq!(offered.private_key.expose(), "-----BEGIN-----\nhunter2\n");
}

#[tokio::test]
async fn a_bearer_token_goes_through_the_proxy_and_agents_are_told_of_both_but_no_secret() {
    let Some(bed) = Bed::new().await else { return };
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let repo = bed.repository.url().replace("file://", "https://git.example.com");
    let git = json!({
        "repo": repo,
        "auth": {"token": {"secretRef": {"name": "git", "key": "token"}, "scheme": "Bearer"}},
        "proxy": {"url": "http://proxy.example.com:3128", "secretRef": {"name": "proxy"}},
    });
    let make = |name: &str, data: serde_json::Value| {
        let secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": data})).unwrap();
        let secrets = secrets.clone();
        async move { secrets.create(&PostParams::default(), &secret).await.unwrap() }
    };
    make("git", json!({"token": "hunter2"})).await;
    make("proxy", json!({"username": "plant\n", "pasword": "hunter3"})).await;
    bed.apply_stoker("plant", json!({"git": git})).await;
    let stoker = bed
        .until("plant", "the key to be named", |s| {
            let status = s.status.as_ref();
            status.and_then(|s| conditions::find(&s.conditions, conditions::REF_RESOLVED)).is_some_and(|c| {
                c.message.contains("secret proxy has no key password; it has: pasword, username")
            })
        })
        .await;
    assert!(!serde_json::to_string(&stoker).unwrap().contains("hunter"), "a secret in the status");

    let patch = kube::api::Patch::Merge(json!({"stringData": {"password": "hunter3\n"}}));
    secrets.patch("proxy", &kube::api::PatchParams::default(), &patch).await.unwrap();
    bed.annotate("plant", json!({"stoker.io/requested-at": "again"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    assert_eq!((told.auth_type, told.token_scheme), (AuthType::Token, TokenScheme::Bearer));
    let proxy = told.proxy.clone().unwrap();
    assert_eq!((&*proxy.url, proxy.login), ("http://proxy.example.com:3128", true));
    assert!(!format!("{:?}", told.to_data()).contains("hunter"));
    let offered = bed.git.offered.lock().unwrap().clone().unwrap();
    assert_eq!(offered.credentials, Credentials::Bearer { secret: "hunter2".into() });
    let proxy: stoker_git::Proxy = "http://proxy.example.com:3128".parse().unwrap();
    assert_eq!(offered.proxy, Some(proxy.with_login("plant".into(), "hunter3".into()).unwrap()));
}

#[tokio::test]
async fn an_invalid_edit_of_a_profile_leaves_the_last_accepted_one_in_force() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    let good = json!({
        "mappings": [{"source": "services/{{.Vars.area}}", "destination": "projects"}], "vars": {"area": "a"},
    });
    bed.apply_profile("area", good.clone()).await;
    bed.pod("gw-0", true, json!({"stoker.io/sync-profile": "area"})).await;
    let told =
        bed.told("plant", "the profile", |m| m.commit.is_some() && m.profiles.contains_key("area")).await;
    let accepted = |status: &'static str| {
        let bed = &bed;
        async move {
            wait::until("the profile to be judged", LIMIT, || async {
                let profile = bed.profiles().get("area").await?;
                let found = profile
                    .status
                    .as_ref()
                    .and_then(|s| conditions::find(&s.conditions, "Accepted").cloned());
                Ok(found
                    .filter(|c| c.status == status && c.observed_generation == profile.metadata.generation))
            })
            .await
            .unwrap()
        }
    };
    assert_eq!(accepted("True").await.message, "in force for 1 gateway");

    let mut status = synced(&told);
    status.profile_revision = Some(told.profiles["area"].revision.clone());
    bed.report("plant", "gw-0", status.clone()).await;
    bed.condition("plant", conditions::READY, "True").await;

    let mut bad = good.clone();
    bad["vars"] = json!({});
    bed.apply_profile("area", bad).await;
    let condition = accepted("False").await;
    assert!(
        condition.message.contains("mappings[0].source: there is no variable .Vars.area"),
        "{}",
        condition.message
    );
    let (reason, message) = bed.condition("plant", conditions::READY, "False").await;
    assert_eq!(reason, "ProfileInvalid", "{message}");
    assert_eq!(bed.told("plant", "anything", |_| true).await.profiles, told.profiles);

    // A good edit: Ready waits until the agent has followed it, although the commit is the same.
    let mut better = good;
    better["syncPeriod"] = json!(60);
    bed.apply_profile("area", better).await;
    let told = bed.told("plant", "the edit", |m| m.profiles["area"].sync_period == 60).await;
    let (_, message) = bed.condition("plant", conditions::ALL_GATEWAYS_SYNCED, "False").await;
    assert!(message.contains("has not yet reported the edited profile"), "{message}");
    status.profile_revision = Some(told.profiles["area"].revision.clone());
    bed.report("plant", "gw-0", status).await;
    bed.condition("plant", conditions::READY, "True").await;

    // Deleted: nobody is told about it any more, and the Stoker says what is missing.
    bed.profiles().delete("area", &DeleteParams::default()).await.unwrap();
    bed.told("plant", "that it is gone", |m| m.profiles.is_empty()).await;
    let (reason, message) = bed.condition("plant", conditions::PROFILES_VALID, "False").await;
    assert!(reason == "ProfileMissing" && message.contains("no SyncProfile area"), "{message}");
}

#[tokio::test]
async fn pods_count_from_the_moment_they_exist_until_they_go() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    for pod in ["gw-0", "gw-1", "gw-2"] {
        bed.pod(pod, true, json!({"stoker.io/service-path": "s", "stoker.io/gateway-name": "shared"})).await;
    }
    // Admitted while the webhook was down.
    bed.pod("gw-3", false, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    let stoker = bed
        .until("plant", "one of four", |s| {
            s.status.as_ref().is_some_and(|s| s.gateway_summary.as_deref() == Some("1/4 synced"))
        })
        .await;
    let status = |pod| entry(&stoker, pod).unwrap().sync_status;
    assert_eq!((status("gw-1"), status("gw-3")), (SyncStatus::Pending, SyncStatus::MissingSidecar));
    let (reason, message) = bed.condition("plant", conditions::READY, "False").await;
    assert!(
        reason == "MissingSidecar" && message.contains("gw-3") && message.contains("1/4 synced"),
        "{message}"
    );

    // Finished and deleted pods do not count.
    for pod in ["gw-1", "gw-3"] {
        bed.delete_pod(pod).await;
    }
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    bed.pods().patch_status("gw-2", &PatchParams::default(), &failed).await.unwrap();
    let (_, message) = bed.condition("plant", conditions::READY, "True").await;
    assert!(message.starts_with("1/1 synced"), "{message}");
}

#[tokio::test]
async fn a_pod_made_anew_under_the_same_name_is_not_taken_for_the_old_one() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;

    bed.delete_pod("gw-0").await;
    let uid = bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await.metadata.uid.unwrap();
    let (_, message) = bed.condition("plant", conditions::READY, "False").await;
    assert!(message.contains("waiting for the agent's first report"), "{message}");
    wait::until_true("an empty report of the new pod", LIMIT, || async {
        let map = bed.maps().get_opt("stoker-status-plant-gw-0").await?;
        Ok(map.is_some_and(|m| m.owner_references().iter().all(|o| o.uid == uid) && data(&m).is_empty()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_silent_agent_turns_stale_and_comes_back() {
    let Some(bed) = Bed::with(impatient()).await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;
    let (reason, message) = bed.condition("plant", conditions::READY, "False").await;
    assert!(reason == "AgentSilent" && message.contains("gw-0 Stale"), "{reason}: {message}");
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;
}

#[tokio::test]
async fn the_newer_of_a_requested_ref_and_an_edit_wins() {
    let Some(bed) = Bed::new().await else { return };
    let main = bed.repository.git(&["rev-parse", "HEAD"]);
    bed.repository.git(&["tag", "v1"]);
    bed.repository.git(&["checkout", "--quiet", "-b", "next"]);
    let next = bed.repository.commit("next");
    bed.apply_stoker("plant", json!({})).await;
    bed.told("plant", "main", |m| m.commit.as_deref() == Some(&main)).await;

    let at = jiff::Timestamp::now() + Duration::from_secs(5);
    bed.annotate(
        "plant",
        json!({"stoker.io/requested-at": at.to_string(), "stoker.io/requested-ref": "next"}),
    )
    .await;
    bed.told("plant", "the request", |m| m.commit.as_deref() == Some(&next) && m.git_ref == "next").await;
    bed.until("plant", "the request on record", |s| {
        s.status
            .as_ref()
            .and_then(|s| s.requested_ref.as_ref())
            .is_some_and(|r| r.r#ref == "next" && !r.superseded)
    })
    .await;
    bed.apply_stoker("plant", json!({"git": {"ref": "v1"}})).await;
    bed.told("plant", "the edit", |m| m.git_ref == "v1" && m.commit.as_deref() == Some(&main)).await;
    // Back to what the spec was when the request came: the request stays ended.
    bed.apply_stoker("plant", json!({"git": {"ref": "main"}})).await;
    bed.told("plant", "the second edit", |m| m.git_ref == "main").await;
}

#[tokio::test]
async fn a_pause_is_told_at_once_and_even_when_nothing_else_can_be() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    // A shared mapping that CEL cannot judge, and the emergency stop in the same breath.
    let bad = json!({"mappings": [{"source": "{{.Nope}}", "destination": "projects"}]});
    bed.apply_stoker("plant", json!({"paused": true, "shared": bad})).await;
    let paused = bed.told("plant", "the pause", |m| m.paused).await;
    assert_eq!((paused.base, paused.commit), (told.base, told.commit));
    let (reason, message) = bed.condition("plant", conditions::STALLED, "True").await;
    assert!(reason == "InvalidSpec" && message.contains("shared.mappings[0].source"), "{reason}: {message}");
    bed.condition("plant", conditions::PAUSED, "True").await;

    bed.apply_stoker("plant", json!({})).await;
    let object = bed.stokers().get("plant").await.unwrap();
    assert!(!object.spec.paused);
    bed.told("plant", "the end of the pause", |m| !m.paused).await;
    bed.until("plant", "no pause any more", |s| {
        conditions::find(&s.status.as_ref().unwrap().conditions, conditions::PAUSED).is_none()
    })
    .await;
}

#[tokio::test]
async fn a_deleted_stoker_goes_with_all_it_made() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.stokers().delete("plant", &DeleteParams::default()).await.unwrap();
    wait::until_true("everything to be gone", LIMIT, || async {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=stoker");
        let roles: Api<Role> = Api::namespaced(bed.client.clone(), &bed.namespace);
        Ok(bed.stokers().get_opt("plant").await?.is_none()
            && bed.maps().list(&ours).await?.items.is_empty()
            && roles.list(&ours).await?.items.is_empty())
    })
    .await
    .unwrap();
    assert!(bed.pods().get_opt("gw-0").await.unwrap().is_some());
}

#[tokio::test]
async fn two_stokers_share_a_namespace_and_each_has_the_pods_that_name_it() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("one", json!({})).await;
    bed.apply_stoker("two", json!({})).await;
    bed.pod("a", true, json!({"stoker.io/cr-name": "one", "stoker.io/service-path": "s"})).await;
    bed.pod("b", true, json!({"stoker.io/cr-name": "two", "stoker.io/service-path": "s"})).await;
    bed.pod("nobodys", true, json!({"stoker.io/service-path": "s"})).await;
    for (cr, pod) in [("one", "a"), ("two", "b")] {
        let stoker = bed.until(cr, "its one pod", |s| entry(s, pod).is_some()).await;
        assert_eq!(stoker.status.unwrap().discovered_gateways.len(), 1);
    }
}

#[tokio::test]
async fn flapping_pods_cost_no_git_request() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({"polling": {"enabled": true, "interval": "1h"}})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    bed.report("plant", "gw-0", synced(&told)).await;
    bed.condition("plant", conditions::READY, "True").await;
    let before = bed.git.requests.load(Ordering::SeqCst);
    for n in 0..50 {
        let phase = if n % 2 == 0 { "Running" } else { "Pending" };
        let patch = Patch::Merge(json!({"status": {"phase": phase}}));
        bed.pods().patch_status("gw-0", &PatchParams::default(), &patch).await.unwrap();
    }
    bed.report("plant", "gw-0", AgentStatus { message: "after the storm".into(), ..synced(&told) }).await;
    bed.until("plant", "the last report", |s| {
        entry(s, "gw-0").is_some_and(|e| e.message == "after the storm")
    })
    .await;
    assert_eq!(bed.git.requests.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_polled_branch_is_followed_without_a_delivery() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({"polling": {"enabled": true, "interval": "5s"}})).await;
    bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    let second = bed.repository.commit("second");
    bed.told("plant", "the second commit", |m| m.commit.as_deref() == Some(&second)).await;
}

#[tokio::test]
async fn idle_means_no_request_but_watches() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    bed.pod("gw-0", true, json!({"stoker.io/service-path": "s"})).await;
    let told = bed.told("plant", "a commit", |m| m.commit.is_some()).await;
    let status = synced(&told);
    bed.report("plant", "gw-0", status.clone()).await;
    bed.condition("plant", conditions::READY, "True").await;
    let requests = || {
        let user = bed.controller_user();
        let all = bed.cluster.server.requests_of(&user).unwrap();
        all.into_iter()
            .filter(|r| r.verb != "watch")
            .map(|r| format!("{} {}", r.verb, r.request_uri))
            .collect::<Vec<_>>()
    };
    // Until the last pass that the report caused is over.
    let mut before = requests();
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let now = requests();
        if now.len() == before.len() {
            break;
        }
        before = now;
    }
    // Heartbeats alone cause nothing either.
    for _ in 0..3 {
        bed.report("plant", "gw-0", status.clone()).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = requests();
    assert_eq!(after[before.len()..], Vec::<String>::new());
}

#[tokio::test]
async fn the_last_accepted_delivery_is_named_and_a_request_by_hand_is_none() {
    let Some(bed) = Bed::new().await else { return };
    bed.apply_stoker("plant", json!({})).await;
    let delivered = "2026-03-01T10:00:00Z";
    // As the receiver writes it.
    let annotations = json!({"stoker.io/requested-at": delivered, "stoker.io/requested-by": "github/d-1"});
    bed.annotate("plant", annotations).await;
    let noted = async |what: &str, trigger: &str| {
        let handled = |s: &stoker_k8s::api::Stoker| {
            s.status.as_ref().is_some_and(|s| s.last_handled_trigger.as_deref() == Some(trigger))
        };
        bed.until("plant", what, handled).await.status.unwrap().last_delivery.unwrap()
    };
    let last = noted("the delivery", delivered).await;
    assert_eq!(
        (last.source.as_str(), last.id.as_deref(), last.outcome.as_str()),
        ("github", Some("d-1"), "Accepted")
    );
    assert_eq!(last.at.as_ref().unwrap().0.to_string(), delivered);

    bed.annotate("plant", json!({"stoker.io/requested-at": "by hand"})).await;
    assert_eq!(noted("sync now", "by hand").await, last);
    bed.annotate("plant", json!({"stoker.io/requested-at": "again", "stoker.io/requested-by": "ada"})).await;
    assert_eq!(noted("sync now, by name", "again").await, last);
}
