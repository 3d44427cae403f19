//! Deliveries over HTTP, to a receiver that writes to a real API server with the rights that the chart gives it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sha2::Sha256;
use stoker_k8s::api::Stoker;
use stoker_k8s::receiver::{self, ReceiverState, Settings};
use stoker_k8s::roster::{self, Roster, Scope};
use stoker_testkit::{Namespace, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{self, Cluster};
use crate::helm;

const LIMIT: Duration = Duration::from_secs(20);
const KEY: &str = "correct horse battery staple";
const OLD_KEY: &str = "the one before";
const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";

struct Bed {
    cluster: Cluster,
    namespace: Namespace,
    client: Client,
    roster: Roster,
    address: SocketAddr,
    http: reqwest::Client,
}

/// An answer: status, and the JSON in it.
type Said = (StatusCode, Value);

/// Whether the receiver's roster follows the API server, or stays empty as if its watch were late.
enum Watch {
    Follows,
    Lags,
}

async fn bed(settings: Settings) -> Option<Bed> {
    bed_with(Watch::Follows, settings).await
}

async fn bed_with(watch: Watch, settings: Settings) -> Option<Bed> {
    let (cluster, helm) = (cluster::get().await?, helm::get().await?);
    let (namespace, admin) = (cluster.server.namespace().await.unwrap(), cluster.client());
    // The controller's rights, as the chart gives them, in this namespace.
    let limited = format!("namespaces={{{}}}", &*namespace);
    let objects = helm.objects(&[&limited]);
    let role = helm::find(&objects, "Role", "-controller").clone();
    let mut binding = helm::find(&objects, "RoleBinding", "-controller").clone();
    binding["subjects"] = json!([{ "kind": "ServiceAccount", "name": "default", "namespace": &*namespace }]);
    let roles: Api<Role> = Api::namespaced(admin.clone(), &namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), &namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let client = cluster.server.token_client(&namespace, "default").await.unwrap();

    let (roster, scope) = (Roster::default(), Scope::Namespaces(vec![namespace.to_string()]));
    match watch {
        Watch::Follows => drop(tokio::spawn(roster::watch(client.clone(), scope.clone(), roster.clone()))),
        Watch::Lags => roster.complete(),
    }
    let address = serve(ReceiverState::new(client, roster.clone(), scope, &settings)).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let bed = Bed { cluster, namespace, client: admin, roster, address, http };
    bed.secret("hook", &[("key", KEY), ("key.previous", OLD_KEY)]).await;
    Some(bed)
}

async fn serve(state: ReceiverState) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, receiver::router(state)).await });
    address
}

impl Bed {
    async fn secret(&self, name: &str, entries: &[(&str, &str)]) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data: BTreeMap<String, ByteString> = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        secret.metadata.name = Some(name.to_owned());
        if api.get_opt(name).await.unwrap().is_some() {
            api.replace(name, &PostParams::default(), &secret).await.unwrap();
        } else {
            api.create(&PostParams::default(), &secret).await.unwrap();
        }
    }

    fn stokers(&self) -> Api<Stoker> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A `Stoker` that follows `main` and takes deliveries, known to the receiver when this returns.
    async fn stoker(&self, name: &str, spec: Value) {
        self.create(name, spec).await;
        wait::until_true("the Stoker to be known", LIMIT, || async {
            Ok(self.roster.is_complete() && self.roster.get(&self.namespace, name).is_some())
        })
        .await
        .unwrap();
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut object = json!({
            "apiVersion": "stoker.io/v1alpha1", "kind": "Stoker", "metadata": { "name": name },
            "spec": { "git": { "repo": "https://git.example.com/a.git", "ref": "main" },
                      "gateway": { "apiKeySecretRef": { "name": "api-key" } },
                      "webhook": { "secretRef": { "name": "hook", "key": "key" } } },
        });
        json_patch::merge(&mut object["spec"], &spec);
        self.stokers()
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .unwrap();
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/v1/namespaces/{}/stokers/{name}/webhook", self.address, &*self.namespace)
    }

    async fn post(&self, url: &str, headers: &[(&str, String)], body: impl Into<reqwest::Body>) -> Said {
        let mut request = self.http.post(url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// As GitHub does.
    async fn github(&self, name: &str, event: &str, delivery: &str, body: &Value) -> Said {
        let body = body.to_string();
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("x-github-event", event.to_owned()),
            ("x-github-delivery", delivery.to_owned()),
            ("x-hub-signature-256", format!("sha256={}", sign(KEY, body.as_bytes()))),
        ];
        self.post(&self.url(name), &headers, body).await
    }

    async fn annotations(&self, name: &str) -> BTreeMap<String, String> {
        self.stokers().get_metadata(name).await.unwrap().metadata.annotations.unwrap_or_default()
    }

    async fn version(&self, name: &str) -> String {
        self.stokers().get_metadata(name).await.unwrap().metadata.resource_version.unwrap()
    }
}

fn sign(key: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn push(git_ref: &str) -> Value {
    json!({ "ref": git_ref, "before": "0".repeat(40), "after": COMMIT, "deleted": false,
            "repository": { "full_name": "o/r", "default_branch": "main" }, "commits": [{ "id": COMMIT }] })
}

/// Standard Webhooks headers for a body.
fn standard(id: &str, at: Timestamp, body: &str) -> Vec<(&'static str, String)> {
    let signed = format!("{id}.{}.{body}", at.as_second());
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let signature = format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()));
    let time = at.as_second().to_string();
    vec![("webhook-id", id.to_owned()), ("webhook-timestamp", time), ("webhook-signature", signature)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_stands_on_the_stoker_when_the_forge_gets_its_answer() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let (status, said) = bed.github("s", "ping", "d-0", &json!({ "zen": "x" })).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::OK, &json!("pong")));

    let (status, said) = bed.github("s", "push", "d-1", &push("refs/heads/main")).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")));
    let annotations = bed.annotations("s").await;
    assert_eq!(annotations["stoker.io/requested-at"], said["requestedAt"].as_str().unwrap());
    assert_eq!(annotations["stoker.io/requested-by"], "github/d-1");
    assert!(!annotations.contains_key("stoker.io/requested-ref"));
    let at: Timestamp = annotations["stoker.io/requested-at"].parse().unwrap();
    assert!(Timestamp::now().duration_since(at).as_secs() < 20);

    // Redelivered by hand: handled already.
    let (status, said) = bed.github("s", "push", "d-1", &push("refs/heads/main")).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::ACCEPTED, &json!("duplicate")));
    // Another push is another request.
    bed.github("s", "push", "d-2", &push("refs/heads/main")).await;
    let later = bed.annotations("s").await;
    assert_ne!(later["stoker.io/requested-at"], annotations["stoker.io/requested-at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_forge_of_the_family_is_understood_in_json_and_as_a_form() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let json = push("refs/heads/main").to_string();
    let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &json).finish();
    let mut number = 0;
    for (media, body) in [("application/json", json), ("application/x-www-form-urlencoded", form)] {
        let digest = sign(KEY, body.as_bytes());
        let common = |delivery: &str| {
            vec![
                ("content-type", media.to_owned()),
                ("x-github-event", "push".to_owned()),
                ("x-github-delivery", delivery.to_owned()),
                ("x-hub-signature-256", format!("sha256={digest}")),
                // Weak, and not looked at.
                ("x-hub-signature", "sha1=0000000000000000000000000000000000000000".to_owned()),
            ]
        };
        let gogs = ["x-gogs-event", "x-gogs-delivery", "x-gogs-signature"];
        let gitea = ["x-gitea-event", "x-gitea-delivery", "x-gitea-signature"];
        let forgejo = ["x-forgejo-event", "x-forgejo-delivery", "x-forgejo-signature"];
        for (source, names) in [
            ("github", vec![]),
            ("gogs", vec![gogs]),
            ("gitea", vec![gogs, gitea]),
            ("forgejo", vec![gogs, gitea, forgejo]),
        ] {
            number += 1;
            let delivery = format!("d-{number}");
            let mut headers = common(&delivery);
            for [event, id, signature] in names {
                headers.extend([
                    (event, "push".to_owned()),
                    (id, delivery.clone()),
                    (signature, digest.clone()),
                ]);
            }
            let (status, said) = bed.post(&bed.url("s"), &headers, body.clone()).await;
            assert_eq!(
                (status, &said["outcome"]),
                (StatusCode::ACCEPTED, &json!("accepted")),
                "{source} {media} {said}"
            );
            assert_eq!(bed.annotations("s").await["stoker.io/requested-by"], format!("{source}/{delivery}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_concern_the_stoker_is_ignored_with_a_reason_and_writes_nothing() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let before = bed.version("s").await;
    let deleted = json!({ "ref": "refs/heads/main", "after": "0".repeat(40), "deleted": true });
    let release = json!({ "action": "published", "release": { "tag_name": "v1", "draft": true } });
    for (event, body, says) in [
        ("push", push("refs/heads/feature"), "\"feature\" was pushed"),
        ("push", push("refs/tags/v1"), "\"v1\" was pushed"),
        ("push", deleted, "deleted"),
        ("release", release, "release"),
        ("create", json!({ "ref": "main", "ref_type": "branch" }), "create"),
    ] {
        let (status, said) = bed.github("s", event, "d", &body).await;
        assert_eq!((status, &said["outcome"]), (StatusCode::ACCEPTED, &json!("ignored")), "{said}");
        assert!(said["reason"].as_str().unwrap().contains(says), "{said}");
    }
    assert_eq!(bed.version("s").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_from_answers_or_from_time() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    bed.stoker("disabled", json!({ "webhook": { "enabled": false } })).await;
    bed.stoker("no-secret", json!({ "webhook": { "secretRef": null } })).await;
    bed.stoker("missing-secret", json!({ "webhook": { "secretRef": { "name": "nowhere" } } })).await;
    bed.stoker("missing-key", json!({ "webhook": { "secretRef": { "key": "nothing" } } })).await;
    let before = bed.version("s").await;
    let body = push("refs/heads/main").to_string();
    let event = ("x-github-event", "push".to_owned());
    let by = |key: &str| {
        vec![event.clone(), ("x-hub-signature-256", format!("sha256={}", sign(key, body.as_bytes())))]
    };
    let elsewhere = format!("http://{}/v1/namespaces/nowhere/stokers/s/webhook", bed.address);
    let cases = [
        ("wrong key", bed.url("s"), by("wrong")),
        ("no signature", bed.url("s"), vec![event.clone()]),
        ("sha1", bed.url("s"), vec![event.clone(), ("x-hub-signature", "sha1=00".to_owned())]),
        ("malformed", bed.url("s"), vec![event.clone(), ("x-hub-signature-256", "sha256=zz".to_owned())]),
        ("unknown name", bed.url("unknown"), by(KEY)),
        ("unknown namespace", elsewhere, by(KEY)),
        ("disabled", bed.url("disabled"), by(KEY)),
        ("no secret", bed.url("no-secret"), by(KEY)),
        ("missing secret", bed.url("missing-secret"), by(KEY)),
        ("missing key", bed.url("missing-key"), by(KEY)),
        ("empty key", bed.url("missing-key"), by("")),
    ];
    let mut answers = Vec::new();
    for (what, url, headers) in &cases {
        let mut request = bed.http.post(url).body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let start = Instant::now();
        let response = request.send().await.unwrap();
        let took = start.elapsed();
        assert!(took >= Settings::default().refusal_delay, "{what}: {took:?}");
        let headers: HeaderMap = response
            .headers()
            .iter()
            .filter(|(n, _)| *n != "date")
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        answers.push((response.status(), headers, response.bytes().await.unwrap()));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    for (answer, (what, ..)) in answers.iter().zip(&cases) {
        assert_eq!(answer, &answers[0], "{what}");
    }
    // Nor by holding back the last byte until the delay is over, which then would show how long the judging takes.
    for name in ["s", "unknown"] {
        let mut slow = tokio::net::TcpStream::connect(bed.address).await.unwrap();
        let url = bed.url(name);
        let path = &url[url.find("/v1").unwrap()..];
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\nx-signature: sha256={}\r\n\r\n{{",
            sign("wrong", b"{}")
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Settings::default().refusal_delay * 2).await;
        let start = Instant::now();
        slow.write_all(b"}").await.unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(start.elapsed() >= Settings::default().refusal_delay, "{name}: {:?}", start.elapsed());
    }
    assert_eq!(bed.version("s").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_of_a_rotation_are_taken_and_new_ones_are_found() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let body = push("refs/heads/main").to_string();
    let send = |key: &'static str, delivery: &'static str| {
        let headers = [
            ("x-gitea-event", "push".to_owned()),
            ("x-gitea-delivery", delivery.to_owned()),
            ("x-gitea-signature", sign(key, body.as_bytes())),
        ];
        let (bed, body) = (&bed, body.clone());
        async move { bed.post(&bed.url("s"), &headers, body).await.0 }
    };
    assert_eq!(send(KEY, "1").await, StatusCode::ACCEPTED);
    assert_eq!(send(OLD_KEY, "2").await, StatusCode::ACCEPTED);
    bed.secret("hook", &[("key", "brand new"), ("key.previous", KEY)]).await;
    wait::until_true("the new key", LIMIT, || async {
        Ok(send("brand new", "3").await == StatusCode::ACCEPTED)
    })
    .await
    .unwrap();
    assert_eq!(send(KEY, "4").await, StatusCode::ACCEPTED);
    assert_eq!(send(OLD_KEY, "5").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_answered_with_the_reason() {
    let small = Settings { max_body_bytes: 64 << 10, max_buffered_bytes: 1 << 20, ..Settings::default() };
    let Some(bed) = bed(small).await else { return };
    bed.stoker("s", json!({})).await;
    let before = bed.version("s").await;
    let signed = |body: &[u8]| {
        vec![
            ("x-github-event", "push".to_owned()),
            ("x-hub-signature-256", format!("sha256={}", sign(KEY, body))),
            ("content-type", "application/json".to_owned()),
        ]
    };
    let large = vec![b' '; 100 << 10];
    let deep = format!("{{\"ref\":\"refs/heads/main\",\"x\":{}", "[".repeat(10_000)).into_bytes();
    for (body, expected, says) in [
        (large, StatusCode::PAYLOAD_TOO_LARGE, "65536 bytes"),
        (b"{\"ref\": \"refs/heads/ma".to_vec(), StatusCode::BAD_REQUEST, "EOF"),
        (
            b"{\"ref\": \"a\", \"ref\": \"refs/heads/main\"}".to_vec(),
            StatusCode::BAD_REQUEST,
            "duplicate field",
        ),
        (b"{\"ref\": \"\xff\"}".to_vec(), StatusCode::BAD_REQUEST, "UTF-8"),
        (b"[]".to_vec(), StatusCode::BAD_REQUEST, "JSON object"),
        (deep, StatusCode::BAD_REQUEST, "not what a push holds"),
    ] {
        let (status, said) = bed.post(&bed.url("s"), &signed(&body), body).await;
        assert_eq!((status, &said["outcome"]), (expected, &json!("invalid")), "{said}");
        assert!(said["reason"].as_str().unwrap().contains(says), "{said}");
    }
    let mut zipped = signed(b"{}");
    zipped.push(("content-encoding", "gzip".to_owned()));
    assert_eq!(bed.post(&bed.url("s"), &zipped, "{}").await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut xml = signed(b"{}");
    xml[2].1 = "text/xml".to_owned();
    assert_eq!(bed.post(&bed.url("s"), &xml, "{}").await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // A sender that announces less than it sends, one that announces nothing and never stops, and one that hangs up.
    let mut endless = tokio::net::TcpStream::connect(bed.address).await.unwrap();
    let path = format!("/v1/namespaces/{}/stokers/s/webhook", &*bed.namespace);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-github-event: push\r\nx-hub-signature-256: sha256={}\r\ntransfer-encoding: chunked\r\n\r\n",
        sign(KEY, b"")
    );
    endless.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..200 {
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        if endless.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer).await;
    assert!(
        String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(bed.version("s").await, before);
    // And it still works.
    assert_eq!(bed.github("s", "push", "d", &push("refs/heads/main")).await.0, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_requests_a_ref_that_is_allowed_and_no_other() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({ "webhook": { "allowedRefs": ["v*"] } })).await;
    let send = |id: &'static str, at: Timestamp, body: &'static str| {
        let bed = &bed;
        async move { bed.post(&bed.url("s"), &standard(id, at, body), body).await }
    };
    let now = Timestamp::now();
    let (status, said) = send("m-1", now, r#"{"ref": "v1.4.0"}"#).await;
    assert_eq!((status, &said["requestedRef"]), (StatusCode::ACCEPTED, &json!("v1.4.0")));
    let annotations = bed.annotations("s").await;
    assert_eq!(annotations["stoker.io/requested-ref"], "v1.4.0");
    assert_eq!(annotations["stoker.io/requested-by"], "generic/m-1");

    let (status, said) = send("m-2", now, r#"{"ref": "feature"}"#).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    assert!(said["reason"].as_str().unwrap().contains("allowedRefs"), "{said}");
    assert_eq!(send("m-3", now, r#"{"ref": "--upload-pack=x"}"#).await.0, StatusCode::FORBIDDEN);
    // Replayed later, with its own signature.
    let old = now - jiff::SignedDuration::from_mins(6);
    assert_eq!(send("m-1", old, r#"{"ref": "v1.4.0"}"#).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(send("m-1", now, r#"{"ref": "v1.4.0"}"#).await.1["outcome"], "duplicate");
    // A plain signature of the body is enough for a plain request, and takes no requested ref back.
    let headers = [("x-signature", format!("sha256={}", sign(KEY, b"{}")))];
    let (status, said) = bed.post(&bed.url("s"), &headers, "{}").await;
    assert_eq!((status, &said["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")));
    assert_eq!(bed.annotations("s").await["stoker.io/requested-ref"], "v1.4.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_does_not_revive_a_request_that_a_newer_edit_ended() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({ "webhook": { "allowedRefs": ["v*"] } })).await;
    let headers = standard("m-1", Timestamp::now(), r#"{"ref": "v2"}"#);
    let (_, said) = bed.post(&bed.url("s"), &headers, r#"{"ref": "v2"}"#).await;
    // What the controller writes once somebody has edited spec.git.ref.
    let record = json!({ "status": { "conditions": [], "requestedRef": {
        "at": said["requestedAt"], "ref": "v2", "specRef": "main", "superseded": true } } });
    bed.stokers().patch_status("s", &PatchParams::default(), &Patch::Merge(record)).await.unwrap();
    wait::until_true("the edit to be known", LIMIT, || async {
        Ok(bed.roster.get(&bed.namespace, "s").is_some_and(|view| view.seen_request.is_some()))
    })
    .await
    .unwrap();
    let (_, said) = bed.github("s", "push", "d-1", &push("refs/heads/main")).await;
    assert_eq!(said["outcome"], "accepted");
    assert!(!bed.annotations("s").await.contains_key("stoker.io/requested-ref"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_deliveries_at_once_become_a_few_writes() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let deliveries = (0..1000).map(|n| {
        let bed = &bed;
        async move { bed.github("s", "push", &format!("d-{n}"), &push("refs/heads/main")).await }
    });
    let answers = futures::future::join_all(deliveries).await;
    assert!(
        answers.iter().all(|(status, said)| *status == StatusCode::ACCEPTED && said["outcome"] == "accepted")
    );
    let at = &bed.annotations("s").await["stoker.io/requested-at"];
    let newest = answers.iter().map(|(_, said)| said["requestedAt"].as_str().unwrap()).max().unwrap();
    assert_eq!(newest, at);
    let user = format!("system:serviceaccount:{}:default", &*bed.namespace);
    let patches = || {
        let requests = bed.cluster.server.requests_of(&user).unwrap();
        requests
            .iter()
            .filter(|request| request.verb == "patch" && request.stage == "ResponseComplete")
            .count()
    };
    let distinct =
        answers.iter().map(|(_, said)| &said["requestedAt"]).collect::<std::collections::HashSet<_>>();
    // The log is written a little later than the answer.
    wait::until_true("the audit log", LIMIT, || async { Ok(patches() == distinct.len()) }).await.unwrap();
    assert!(patches() <= 200, "{}", patches());
    let secrets = bed.cluster.server.requests_of(&user).unwrap();
    let reads = secrets.iter().filter(|request| request.request_uri.contains("/secrets/")).count();
    assert!(reads <= 64, "{reads}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_taken_for_a_stoker_that_the_watch_has_not_shown_yet() {
    let Some(bed) = bed_with(Watch::Lags, Settings::default()).await else { return };
    bed.create("s", json!({})).await;
    let (status, said) = bed.github("s", "push", "d-1", &push("refs/heads/main")).await;
    assert_eq!((status, &said["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")));
    assert_eq!(bed.annotations("s").await["stoker.io/requested-by"], "github/d-1");

    // What is no name, or of no namespace that is looked after, gets into no request: `s?pretty` would find `s` itself.
    for name in ["s%2Fstatus", "..%2Fstokers%2Fs", "s%3Fpretty", "S"] {
        assert_eq!(
            bed.github(name, "push", "d-2", &push("refs/heads/main")).await.0,
            StatusCode::UNAUTHORIZED,
            "{name}"
        );
    }
    let elsewhere = format!("http://{}/v1/namespaces/kube-system/stokers/s/webhook", bed.address);
    let signature = ("x-hub-signature-256", format!("sha256={}", sign(KEY, b"{}")));
    assert_eq!(bed.post(&elsewhere, &[signature], "{}").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bed.github("t", "push", "d-3", &push("refs/heads/main")).await.0, StatusCode::UNAUTHORIZED);
    let user = format!("system:serviceaccount:{}:default", &*bed.namespace);
    let looked_up = || {
        let requests = bed.cluster.server.requests_of(&user).unwrap();
        let reads = requests.iter().filter(|r| r.verb == "get" && r.stage == "ResponseComplete");
        let stokers =
            reads.filter_map(|r| r.request_uri.split_once("/stokers/").map(|(_, name)| name.to_owned()));
        stokers.collect::<Vec<_>>()
    };
    // The log is written a little later than the answer.
    wait::until_true("the audit log", LIMIT, || async { Ok(looked_up().contains(&"t".to_owned())) })
        .await
        .unwrap();
    assert_eq!(looked_up(), ["s", "t"]);

    // Strangers who try out names cannot make the API server work at their pace.
    let start = Instant::now();
    let tries = (0..100).map(|n| {
        let bed = &bed;
        async move { bed.github(&format!("s-{n}"), "push", "d-4", &push("refs/heads/main")).await.0 }
    });
    for status in futures::future::join_all(tries).await {
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let allowed = 2 + 10 + 2 * (start.elapsed().as_secs() as usize + 1);
    wait::until_true("the audit log", LIMIT, || async { Ok(looked_up().len() >= 10) }).await.unwrap();
    assert!(looked_up().len() <= allowed, "{:?}", looked_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_not_accepted_and_may_come_again() {
    let Some(bed) = bed(Settings::default()).await else { return };
    bed.stoker("s", json!({})).await;
    let bindings: Api<RoleBinding> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let binding = bindings.list(&kube::api::ListParams::default()).await.unwrap().items.remove(0);
    // Once the secret is known, the right to write goes.
    assert_eq!(bed.github("s", "push", "d-0", &push("refs/heads/main")).await.0, StatusCode::ACCEPTED);
    let name = binding.metadata.name.clone().unwrap();
    bindings.delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
    // The API server's authorizer learns of it a moment later.
    let number = AtomicU32::new(0);
    let refused = wait::until("a refusal", LIMIT, || async {
        let delivery = format!("d-{}", number.fetch_add(1, Ordering::SeqCst) + 1);
        let (status, said) = bed.github("s", "push", &delivery, &push("refs/heads/main")).await;
        let refused = status == StatusCode::SERVICE_UNAVAILABLE && said["outcome"] == "unavailable";
        Ok(refused.then_some(delivery))
    })
    .await
    .unwrap();
    let mut back = binding;
    back.metadata = kube::api::ObjectMeta { name: back.metadata.name, ..Default::default() };
    bindings.create(&PostParams::default(), &back).await.unwrap();
    wait::until_true("the same delivery to be taken", LIMIT, || async {
        let (_, said) = bed.github("s", "push", &refused, &push("refs/heads/main")).await;
        Ok(said["outcome"] == "accepted")
    })
    .await
    .unwrap();
}
