//! What the real API server says to valid and invalid resources: the place where their author looks.

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, Request};
use kube::discovery::Scope;
use serde_json::{Value, json};
use stoker_k8s::api::{Stoker, SyncProfile, crds};

use crate::cluster;

/// The smallest `Stoker` that the documentation shows, with changes by JSON pointer.
fn stoker(changes: &[(&str, Value)]) -> Value {
    let mut object = json!({
        "apiVersion": "stoker.io/v1alpha1",
        "kind": "Stoker",
        "metadata": {"name": "case"},
        "spec": {
            "git": {"repo": "https://git.example.com/plant.git", "ref": "main"},
            "gateway": {"apiKeySecretRef": {"name": "ignition-api-key", "key": "apiKey"}},
        },
    });
    set_all(&mut object["spec"], changes);
    object
}

fn profile(changes: &[(&str, Value)]) -> Value {
    let mut object = json!({
        "apiVersion": "stoker.io/v1alpha1",
        "kind": "SyncProfile",
        "metadata": {"name": "case"},
        "spec": {"mappings": [{"source": "services/area/projects", "destination": "projects"}]},
    });
    set_all(&mut object["spec"], changes);
    object
}

fn set_all(spec: &mut Value, changes: &[(&str, Value)]) {
    for (path, value) in changes {
        let mut at = &mut *spec;
        for step in path.split('/') {
            at = match step.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[step],
            };
        }
        *at = value.clone();
    }
}

/// A value, and what the answer must contain: nothing for a valid one.
type Case = (Value, &'static str);

fn git(repo: &str) -> Value {
    stoker(&[("git/repo", json!(repo))])
}

fn proxy(url: &str) -> Value {
    stoker(&[("git/proxy", json!({"url": url}))])
}

fn git_ref(name: &str) -> Value {
    stoker(&[("git/ref", json!(name))])
}

fn token() -> Value {
    json!({"token": {"secretRef": {"name": "git", "key": "token"}}})
}

fn ssh() -> Value {
    json!({"sshKey": {"secretRef": {"name": "git", "key": "ssh-privatekey"}}})
}

fn app() -> Value {
    json!({"githubApp": {
        "appId": 12, "installationId": 34, "privateKeySecretRef": {"name": "git", "key": "private-key.pem"},
    }})
}

fn stokers() -> Vec<Case> {
    let secret = || json!({"name": "s", "key": "k"});
    let long = |n: usize| "x".repeat(n);
    vec![
        (stoker(&[]), ""),
        // The repository.
        (git("https://github.com/org/repo"), ""),
        (git("ssh://git@git.example.com:2222/plant/app.git"), ""),
        (git("git@github.com:myorg/my-ignition-app.git"), ""),
        (git("file:///mirror/app.git"), ""),
        (git("http://git.example.com/app.git"), "git.allowInsecure: true"),
        (
            stoker(&[("git/repo", json!("http://10.0.0.7:3000/a.git")), ("git/allowInsecure", json!(true))]),
            "",
        ),
        (git("ftp://git.example.com/app.git"), "write the repository as https://host/path"),
        (git("/srv/app.git"), "write the repository as https://host/path"),
        (git("--upload-pack=id"), "write the repository as https://host/path"),
        (git("https://user:hunter2@git.example.com/app.git"), "name a Secret in git.auth.token"),
        (git("ssh://git:hunter2@git.example.com/app.git"), "name a key in git.auth.sshKey"),
        (git("https://git.example.com/a.git?x=1"), "neither a query nor a fragment"),
        (git(""), "should be at least 1 chars long"),
        (git(&format!("https://h/{}", long(1100))), "may not be more than 1024"),
        // The ref.
        (git_ref("v1.2.3"), ""),
        (git_ref("refs/heads/feature/x"), ""),
        (git_ref("0123456789abcdef0123456789abcdef01234567"), ""),
        (git_ref("-rf"), "never starts with a dash"),
        (git_ref("a..b"), "not a ref name"),
        (git_ref("a b"), "not a ref name"),
        (git_ref("a\\b"), "not a ref name"),
        (git_ref("a[b"), "not a ref name"),
        (git_ref("a\u{7}b"), "not a ref name"),
        (git_ref("main.lock"), "not a ref name"),
        (git_ref("@{upstream}"), "not a ref name"),
        (git_ref(""), "should be at least 1 chars long"),
        (git_ref(&long(300)), "may not be more than 255"),
        // Who gets in.
        (stoker(&[("git/auth", token())]), ""),
        (stoker(&[("git/auth", ssh()), ("git/repo", json!("git@github.com:a/b.git"))]), ""),
        (
            stoker(&[
                ("git/repo", json!("git@git.example.com:a/b.git")),
                ("git/auth", ssh()),
                ("git/auth/sshKey/knownHosts", json!({"secretRef": secret()})),
                ("git/auth/sshKey/passphraseSecretRef", secret()),
            ]),
            "",
        ),
        (stoker(&[("git/auth", json!({}))]), "exactly one of auth.sshKey, auth.token and auth.githubApp"),
        (
            stoker(&[("git/auth", json!({"token": token()["token"], "sshKey": ssh()["sshKey"]}))]),
            "exactly one of auth.sshKey, auth.token and auth.githubApp",
        ),
        (stoker(&[("git/auth", ssh())]), "auth.sshKey works for ssh repositories only"),
        (
            stoker(&[("git/auth", token()), ("git/repo", json!("git@github.com:a/b.git"))]),
            "auth.token works for https:// repositories only",
        ),
        (stoker(&[("git/auth", app())]), ""),
        (
            stoker(&[
                ("git/auth", app()),
                ("git/auth/githubApp/apiBaseURL", json!("https://ghe.example.com/api/v3")),
            ]),
            "",
        ),
        (
            stoker(&[
                ("git/auth", app()),
                ("git/auth/githubApp/apiBaseURL", json!("http://ghe.example.com/api/v3")),
            ]),
            "write https://, or set git.allowInsecure: true",
        ),
        (
            stoker(&[
                ("git/auth", app()),
                ("git/auth/githubApp/apiBaseURL", json!("https://u:p@ghe.example.com")),
            ]),
            "write the API as https://HOST/api/v3",
        ),
        (
            stoker(&[("git/auth", app()), ("git/repo", json!("git@github.com:a/b.git"))]),
            "auth.githubApp works for https:// repositories only",
        ),
        (
            stoker(&[("git/auth", json!({"token": token()["token"], "githubApp": app()["githubApp"]}))]),
            "exactly one of auth.sshKey, auth.token and auth.githubApp",
        ),
        (
            stoker(&[("git/auth", app()), ("git/auth/githubApp/appId", json!(0))]),
            "greater than or equal to 1",
        ),
        (stoker(&[("git/auth", json!({"githubApp": {"appId": 1}}))]), "installationId"),
        // Whose commits.
        (stoker(&[("git/verify", json!({"mode": "HEAD", "secretRef": {"name": "keys"}}))]), ""),
        (stoker(&[("git/verify", json!({"mode": "TagAndHEAD", "secretRef": {"name": "keys"}}))]), ""),
        (stoker(&[("git/verify", json!({"mode": "head", "secretRef": {"name": "keys"}}))]), "\"HEAD\""),
        (stoker(&[("git/verify", json!({"mode": "Tag"}))]), "secretRef"),
        (stoker(&[("git/verify", json!({"secretRef": {"name": "keys"}}))]), "mode"),
        (
            stoker(&[("git/verify", json!({"mode": "Tag", "secretRef": {"name": ""}}))]),
            "should be at least 1 chars long",
        ),
        (
            stoker(&[("git/auth", json!({"token": {"secretRef": {"name": "git"}}}))]),
            "secretRef.key: Required value",
        ),
        (stoker(&[("git/caSecretRef", secret())]), ""),
        (
            stoker(&[("git/caSecretRef", secret()), ("git/repo", json!("git@github.com:a/b.git"))]),
            "caSecretRef works for https:// repositories only",
        ),
        (stoker(&[("git/auth", token()), ("git/auth/token/scheme", json!("Bearer"))]), ""),
        (stoker(&[("git/auth", token()), ("git/auth/token/scheme", json!("bearer"))]), "\"Bearer\""),
        (
            stoker(&[
                ("git/auth", token()),
                ("git/auth/token/scheme", json!("Bearer")),
                ("git/auth/token/username", json!("ada")),
            ]),
            "a bearer token goes without a user name",
        ),
        // The way there.
        (proxy("http://proxy.example.com:3128"), ""),
        (proxy("https://10.0.0.7:443/"), ""),
        (proxy("http://[fd00::1]:3128"), ""),
        (stoker(&[("git/proxy", json!({"url": "http://proxy:3128", "secretRef": {"name": "proxy"}}))]), ""),
        (
            stoker(&[("git/proxy", json!({"url": "http://proxy:3128", "secretRef": {"name": ""}}))]),
            "should be at least 1 chars long",
        ),
        (stoker(&[("git/proxy", json!({"secretRef": {"name": "proxy"}}))]), "url"),
        (proxy("http://ada:hunter2@proxy:3128"), "name a Secret in proxy.secretRef"),
        (proxy("proxy:3128"), "write the proxy as http://HOST:PORT"),
        (proxy("http://proxy"), "write the proxy as http://HOST:PORT"),
        (proxy("socks5://proxy:1080"), "write the proxy as http://HOST:PORT"),
        (proxy("http://proxy:3128/x"), "write the proxy as http://HOST:PORT"),
        (
            stoker(&[
                ("git/proxy", json!({"url": "http://proxy:3128"})),
                ("git/repo", json!("git@github.com:a/b.git")),
            ]),
            "proxy works for https:// repositories only",
        ),
        (
            stoker(&[
                ("git/proxy", json!({"url": "http://proxy:3128"})),
                ("git/repo", json!("file:///mirror/app.git")),
            ]),
            "proxy works for https:// repositories only",
        ),
        // Polling and deliveries.
        (stoker(&[("polling", json!({"interval": "5s"}))]), ""),
        (stoker(&[("polling", json!({"interval": "24h", "enabled": false}))]), ""),
        (stoker(&[("polling", json!({"interval": "1s"}))]), "between 5s and 24h"),
        (stoker(&[("polling", json!({"interval": "25h"}))]), "between 5s and 24h"),
        (stoker(&[("polling", json!({"interval": "1ns"}))]), "write a duration like"),
        (stoker(&[("polling", json!({"interval": "1000000000h"}))]), "write a duration like"),
        (stoker(&[("polling", json!({"interval": 60}))]), "must be of type string"),
        (stoker(&[("webhook", json!({"secretRef": secret(), "allowedRefs": ["v*", "release/**"]}))]), ""),
        (stoker(&[("webhook", json!({"enabled": false}))]), ""),
        (stoker(&[("webhook", json!({"allowedRefs": [""]}))]), "at least 1 chars long"),
        // The gateway.
        (stoker(&[("gateway/port", json!(8088)), ("gateway/tls", json!(false))]), ""),
        (stoker(&[("gateway/port", json!(0))]), "greater than or equal to 1"),
        (stoker(&[("gateway/port", json!(65536))]), "less than or equal to 65535"),
        (stoker(&[("gateway", json!({}))]), "apiKeySecretRef: Required value"),
        (stoker(&[("gateway/apiKeySecretRef", json!({"name": "ignition-api-key"}))]), ""),
        // The rest.
        (stoker(&[("vars", json!({"region": "emea", "a.b/c": ""})), ("siteNumber", json!("12"))]), ""),
        (stoker(&[("vars", json!({"": "x"}))]), "a variable's name has 1 to 128 characters"),
        (stoker(&[("vars", json!({"a\"b": "x"}))]), "a variable's name has 1 to 128 characters"),
        (stoker(&[("vars", json!({"n": 7}))]), "must be of type string"),
        (
            stoker(&[(
                "vars",
                (0..200).map(|n| (format!("v{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into(),
            )]),
            "must have at most 128 items",
        ),
        (
            stoker(&[("shared", json!({"mappings": [{"source": "shared/icons", "destination": "icons"}]}))]),
            "",
        ),
        (stoker(&[("shared", json!({"mappings": []}))]), "should have at least 1 items"),
        (stoker(&[("excludePatterns", json!(["**/tmp/", "!keep", "projects/*/x"]))]), ""),
        (stoker(&[("excludePatterns", json!(["../x"]))]), "patterns match paths below the data directory"),
        (stoker(&[("excludePatterns", json!([""]))]), "at least 1 chars long"),
        (stoker(&[("ignition", json!({"designerSessionPolicy": "wait", "designerWaitTimeout": "10m"}))]), ""),
        (
            stoker(&[("ignition", json!({"designerSessionPolicy": "shout"}))]),
            "supported values: \"wait\", \"proceed\", \"fail\"",
        ),
        (stoker(&[("ignition", json!({"designerWaitTimeout": "48h"}))]), "at most 24h"),
        (stoker(&[("ignition", json!({"systemNameTemplate": "site{{.SiteNumber}}"}))]), ""),
        (stoker(&[("paused", json!(true))]), ""),
        (stoker(&[("paused", json!("yes"))]), "must be of type boolean"),
        (
            stoker(&[(
                "agent",
                json!({
                    "image": {"repository": "registry.example.com/agent", "tag": "1", "pullPolicy": "Never"},
                    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "128Mi", "cpu": 1}},
                    "startup": {"timeout": "30s", "onTimeout": "Block"}, "repoSizeLimit": "512Mi",
                }),
            )]),
            "",
        ),
        (stoker(&[("agent", json!({"image": {"digest": "sha256:abc"}}))]), "sha256: and 64 hex digits"),
        (
            stoker(&[("agent", json!({"resources": {"limits": {"memory": "lots"}}}))]),
            "write quantities as Kubernetes does",
        ),
        (stoker(&[("agent", json!({"startup": {"timeout": "2h"}}))]), "between 1s and 1h"),
        (stoker(&[("agent", json!({"repoSizeLimit": "2 GB"}))]), "write a size like"),
        (stoker(&[("deployment", json!({"maxDeletes": {"count": 0, "percent": 100}}))]), ""),
        (stoker(&[("deployment", json!({"maxDeletes": {"percent": 101}}))]), "less than or equal to 100"),
        (stoker(&[("bidirectional", json!({"enabled": true}))]), "unknown field \"spec.bidirectional\""),
        // What templating tools leave behind.
        (
            stoker(&[
                ("git/auth", Value::Null),
                ("siteNumber", Value::Null),
                ("agent", json!({"image": null})),
            ]),
            "",
        ),
    ]
}

fn mapping(extra: Value) -> Value {
    let mut mapping = json!({"source": "a", "destination": "projects"});
    for (key, value) in extra.as_object().unwrap() {
        mapping[key] = value.clone();
    }
    profile(&[("mappings", json!([mapping]))])
}

fn profiles() -> Vec<Case> {
    vec![
        (profile(&[]), ""),
        // Example 4 of the documentation.
        (
            profile(&[
                (
                    "mappings",
                    json!([
                        {"source": "services/area/projects", "destination": "projects"},
                        {"source": "services/area/config/resources/core", "destination": "config/resources/core"},
                        {
                            "source": "shared/tags/{{.Vars.provider}}",
                            "destination": "config/resources/core/ignition/tag-definition/{{.Vars.provider}}",
                        },
                    ]),
                ),
                (
                    "deploymentMode",
                    json!({"name": "prd-cloud", "source": "services/area/config/resources/prd-cloud"}),
                ),
                ("vars", json!({"provider": "default"})),
            ]),
            "",
        ),
        (profile(&[("mappings", json!([]))]), "should have at least 1 items"),
        (profile(&[("mappings", json!([{"source": "a"}]))]), "destination: Required value"),
        (
            profile(&[("mappings", Value::Array(vec![json!({"source": "a", "destination": "b"}); 129]))]),
            "must have at most 128 items",
        ),
        (mapping(json!({"destination": "."})), ""),
        (mapping(json!({"destination": "./projects/"})), ""),
        (mapping(json!({"destination": "/etc"})), "write destination relative to the data directory"),
        (mapping(json!({"destination": "../x"})), "write destination relative to the data directory"),
        (mapping(json!({"destination": "a\\b"})), "write destination relative to the data directory"),
        (mapping(json!({"destination": "config/local/x"})), "belongs to the gateway"),
        (mapping(json!({"destination": "config/resources/local"})), "belongs to the gateway"),
        (mapping(json!({"destination": "./.stoker"})), "belongs to the gateway"),
        (mapping(json!({"destination": "projects/.resources/x"})), "belongs to the gateway"),
        (mapping(json!({"destination": "variables"})), ""),
        (mapping(json!({"source": "/abs"})), "relative to the root of the repository"),
        (mapping(json!({"source": "a/../../b"})), "relative to the root of the repository"),
        (mapping(json!({"source": ".git/config"})), "git's own directory cannot be mapped"),
        (mapping(json!({"source": ".github/x"})), ""),
        (mapping(json!({"source": "x".repeat(1100)})), "may not be more than 1024"),
        (mapping(json!({"type": "dir", "required": true, "template": true})), ""),
        (mapping(json!({"type": "link"})), "supported values: \"dir\", \"file\""),
        (mapping(json!({"type": "file", "patches": [{"set": {"a.b": 1, "c": {"d": [null, "x"]}}}]})), ""),
        (mapping(json!({"type": "dir", "patches": [{"file": "**/config.json", "set": {"/a/0": "x"}}]})), ""),
        (mapping(json!({"type": "dir", "patches": [{"set": {"a": 1}}]})), "needs patches[].file"),
        (mapping(json!({"patches": [{"file": "x", "set": {}}]})), "should have at least 1 properties"),
        (mapping(json!({"filePattern": "**/*.json", "maxSize": "10Mi"})), ""),
        (mapping(json!({"filePattern": "views/{{.Vars.line}}/", "type": "dir", "maxSize": "1"})), ""),
        (mapping(json!({"filePattern": ""})), "at least 1 chars long"),
        (mapping(json!({"filePattern": "!x"})), "write which files to take"),
        (mapping(json!({"filePattern": "a/../../x"})), "write which files to take"),
        (mapping(json!({"filePattern": "a//x"})), "write which files to take"),
        (mapping(json!({"filePattern": "x".repeat(513)})), "may not be more than 512"),
        (mapping(json!({"filePattern": "*", "type": "file"})), "filePattern selects files of a directory"),
        (mapping(json!({"maxSize": "0"})), "write a size from 1 to 256Mi"),
        (mapping(json!({"maxSize": "00Mi"})), "write a size from 1 to 256Mi"),
        (mapping(json!({"maxSize": "1Gi"})), "write a size from 1 to 256Mi"),
        (mapping(json!({"maxSize": "10 MB"})), "write a size like"),
        (mapping(json!({"maxSize": 10})), "must be of type string"),
        (mapping(json!({"when": {"podLabels": {"role": "edge", "example.com/site": ""}}})), ""),
        (mapping(json!({"when": {}})), "when.podLabels: Required value"),
        (mapping(json!({"when": {"podLabels": {}}})), "should have at least 1 properties"),
        (mapping(json!({"when": {"podLabels": {"": "x"}}})), "write it like role or example.com/role"),
        (mapping(json!({"when": {"podLabels": {"role": "x".repeat(64)}}})), "may not be more than 63"),
        (mapping(json!({"when": {"podLabels": {"role": 1}}})), "must be of type string"),
        (
            mapping(
                json!({"when": {"podLabels": (0..17).map(|n| (format!("l{n}"), json!("x"))).collect::<serde_json::Map<_, _>>()}}),
            ),
            "must have at most 16 items",
        ),
        (mapping(json!({"when": {"namespace": "x", "podLabels": {"a": "b"}}})), "unknown field"),
        (profile(&[("deploymentMode", json!({"name": "prd", "source": "m", "strategy": "Native"}))]), ""),
        (
            profile(&[("deploymentMode", json!({"name": "core", "source": "m"}))]),
            "write the name of a deployment mode",
        ),
        (
            profile(&[("deploymentMode", json!({"name": "a/b", "source": "m"}))]),
            "write the name of a deployment mode",
        ),
        (profile(&[("syncPeriod", json!(5))]), ""),
        (profile(&[("syncPeriod", json!(4))]), "greater than or equal to 5"),
        (profile(&[("syncPeriod", json!(3601))]), "less than or equal to 3600"),
        (profile(&[("limits", json!({"maxFiles": 10, "maxTotalSize": "1Gi"}))]), ""),
        (profile(&[("limits", json!({"maxFiles": 0}))]), "greater than or equal to 1"),
        (profile(&[("prune", json!("Never")), ("dryRun", json!(true)), ("paused", json!(true))]), ""),
        (profile(&[("prune", json!("Mirror"))]), ""),
        (profile(&[("prune", json!("All"))]), "supported values: \"Owned\", \"Mirror\", \"Never\""),
        (profile(&[("dependsOn", json!([{"profileName": "site"}]))]), ""),
        (profile(&[("dependsOn", json!([{"profileName": "site", "condition": "Synced"}]))]), ""),
        (
            profile(&[("dependsOn", json!([{"profileName": "site", "condition": "Ready"}]))]),
            "supported values: \"Synced\"",
        ),
        (profile(&[("dependsOn", json!([{"profileName": ""}]))]), "at least 1 chars long"),
        (profile(&[("dependsOn", json!(["site"]))]), "must be of type object"),
        (profile(&[("includeMappingsFrom", json!([{"name": "base"}, {"name": "tags"}]))]), ""),
        (profile(&[("includeMappingsFrom", Value::Null)]), ""),
        (profile(&[("includeMappingsFrom", json!([{"name": "a"}, {"name": "a"}]))]), "write each name once"),
        (profile(&[("includeMappingsFrom", json!([{"name": ""}]))]), "at least 1 chars long"),
        (profile(&[("includeMappingsFrom", json!([{}]))]), "name: Required value"),
        (profile(&[("includeMappingsFrom", json!(["base"]))]), "must be of type object"),
        (
            profile(&[("includeMappingsFrom", (0..17).map(|n| json!({"name": format!("p{n}")})).collect())]),
            "must have at most 16 items",
        ),
        (profile(&[("designerSessionPolicy", json!("fail"))]), ""),
        (profile(&[("vars", Value::Null), ("excludePatterns", Value::Null), ("limits", Value::Null)]), ""),
        (mapping(json!({"patches": null})), ""),
    ]
}

/// Asks as `kubectl create` does: unknown fields are errors. Nothing is stored.
async fn create_strictly(client: &Client, url: &str, object: &Value) -> kube::Result<Value> {
    let body = serde_json::to_vec(object).unwrap();
    let mut request = Request::new(url).create(&PostParams::default(), body).unwrap();
    *request.uri_mut() = format!("{url}?dryRun=All&fieldValidation=Strict").parse().unwrap();
    client.request(request).await
}

#[tokio::test]
async fn valid_specs_are_taken_and_invalid_ones_are_answered_with_the_remedy() {
    let Some(cluster) = cluster::get().await else { return };
    let namespace = cluster.server.namespace().await.unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (resource, cases) in
        [(ApiResource::erase::<Stoker>(&()), stokers()), (ApiResource::erase::<SyncProfile>(&()), profiles())]
    {
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), &namespace, &resource);
        for (object, expected) in cases {
            count += 1;
            let answer = match create_strictly(&cluster.client(), api.resource_url(), &object).await {
                Ok(_) => String::new(),
                Err(kube::Error::Api(status)) => status.message.clone(),
                Err(other) => panic!("{other}"),
            };
            let fits = if expected.is_empty() { answer.is_empty() } else { answer.contains(expected) };
            if !fits {
                wrong.push(format!("{}\n  expected {expected:?}\n  answered {answer:?}", object["spec"]));
            }
        }
    }
    assert!(count >= 60, "{count}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whatever the API server took can be read back as the type.
#[tokio::test]
async fn what_is_stored_can_be_read() {
    let Some(cluster) = cluster::get().await else { return };
    let namespace = cluster.server.namespace().await.unwrap();
    let (stoker_api, profile_api): (Api<Stoker>, Api<SyncProfile>) =
        (Api::namespaced(cluster.client(), &namespace), Api::namespaced(cluster.client(), &namespace));
    for (object, _) in stokers().into_iter().filter(|(_, expected)| expected.is_empty()) {
        let object = serde_json::to_vec(&object).unwrap();
        stoker_api.delete("case", &DeleteParams::default()).await.ok();
        let request =
            Request::new(stoker_api.resource_url()).create(&PostParams::default(), object.clone()).unwrap();
        cluster
            .client()
            .request::<Stoker>(request)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", String::from_utf8_lossy(&object)));
    }
    for (object, _) in profiles().into_iter().filter(|(_, expected)| expected.is_empty()) {
        let object = serde_json::to_vec(&object).unwrap();
        profile_api.delete("case", &DeleteParams::default()).await.ok();
        let request =
            Request::new(profile_api.resource_url()).create(&PostParams::default(), object.clone()).unwrap();
        cluster
            .client()
            .request::<SyncProfile>(request)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", String::from_utf8_lossy(&object)));
    }
}

#[tokio::test]
async fn defaults_are_written_down_and_the_names_are_short() {
    let Some(cluster) = cluster::get().await else { return };
    let namespace = cluster.server.namespace().await.unwrap();
    let api: Api<Stoker> = Api::namespaced(cluster.client(), &namespace);
    let written: Stoker =
        api.patch("case", &PatchParams::apply("t"), &Patch::Apply(&stoker(&[]))).await.unwrap();
    let spec = serde_json::to_value(&written.spec).unwrap();
    assert_eq!(spec["polling"], json!({"enabled": true, "interval": "1m"}));
    assert_eq!(spec["excludePatterns"], json!(["**/.git/", "**/.gitkeep", "**/.resources/**"]));
    assert_eq!(spec["gateway"]["port"], 8043);
    assert_eq!(spec["deployment"]["maxDeletes"], json!({"count": 200, "percent": 50}));

    let discovery = kube::Discovery::new(cluster.client()).filter(&["stoker.io"]).run().await.unwrap();
    let (_, stoker) =
        discovery.groups().flat_map(|g| g.recommended_resources()).find(|(r, _)| r.kind == "Stoker").unwrap();
    assert_eq!(stoker.scope, Scope::Namespaced);
    let names: Vec<_> = crds().into_iter().map(|crd| crd.spec.names).collect();
    assert_eq!(names[0].short_names.as_deref(), Some(&["stk".to_owned()][..]));
    assert_eq!(names[1].short_names.as_deref(), Some(&["sp".to_owned()][..]));
    assert!(names.iter().all(|n| n.categories.as_deref() == Some(&["stoker-io".to_owned()][..])));
}
