use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::roster::SpecView;

/// A pod as the official `ignition` chart makes it (fact sheet, section 3), after the API server's own defaults.
fn official_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "ignition-gateway-0",
            "generateName": "ignition-gateway-",
            "namespace": "plant",
            "labels": {
                "app.kubernetes.io/name": "ignition", "app.kubernetes.io/instance": "ignition",
                "apps.kubernetes.io/pod-index": "0", "statefulset.kubernetes.io/pod-name": "ignition-gateway-0",
            },
            "annotations": { "stoker.io/inject": "true", "stoker.io/service-path": "services/gateway" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "ignition-gateway",
                "uid": "0b0c", "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": {
            "securityContext": { "runAsUser": 2003, "runAsGroup": 2003, "fsGroup": 2003, "runAsNonRoot": true },
            "initContainers": [{
                "name": "preconfigure", "image": "inductiveautomation/ignition:8.3.4",
                "command": ["/config/scripts/invoke-args.sh"],
                "volumeMounts": [
                    { "name": "data", "mountPath": "/data" },
                    { "name": "config-scripts", "mountPath": "/config/scripts" },
                    { "name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true },
                ],
            }],
            "containers": [{
                "name": "gateway", "image": "inductiveautomation/ignition:8.3.4",
                "command": ["/config/scripts/docker-entrypoint-shim.sh"], "args": ["-n", "ignition", "--"],
                "ports": [{ "name": "http", "containerPort": 8088 }, { "name": "https", "containerPort": 8043 }],
                "resources": { "limits": { "cpu": "1", "memory": "1536Mi" }, "requests": { "cpu": "1", "memory": "1536Mi" } },
                "readinessProbe": { "exec": { "command": ["health-check.sh", "-t", "3"] }, "periodSeconds": 5 },
                "volumeMounts": [
                    { "name": "data", "mountPath": "/usr/local/bin/ignition/data" },
                    { "name": "config-scripts", "mountPath": "/config/scripts" },
                    { "name": "secrets", "mountPath": "/run/secrets/ignition", "readOnly": true },
                    { "name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true },
                ],
            }],
            "volumes": [
                { "name": "data", "persistentVolumeClaim": { "claimName": "data-ignition-gateway-0" } },
                { "name": "config-scripts", "configMap": { "name": "ignition-config-scripts", "defaultMode": 493 } },
                { "name": "secrets", "secret": { "secretName": "ignition-secrets" } },
                { "name": "kube-api-access-x", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
            ],
            "serviceAccountName": "ignition", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "futureField": { "that": ["this", "version", "does", "not", "know"] },
        },
    })
}

fn settings() -> Settings {
    let repository = Some("registry.example.com/stoker-agent".to_owned());
    let tag = Some("1.2.3".to_owned());
    Settings { image: AgentImage { repository, tag, ..AgentImage::default() }, ..Settings::default() }
}

fn stoker_with(name: &str, spec: Value) -> Arc<StokerView> {
    let mut whole = json!({
        "git": { "repo": "https://git.example.com/a.git", "ref": "main" },
        "gateway": { "apiKeySecretRef": { "name": "api-key" } },
    });
    json_patch::merge(&mut whole, &spec);
    let spec: SpecView = serde_json::from_value(whole).unwrap();
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("plant".to_owned()),
        uid: Some("u".to_owned()),
        ..ObjectMeta::default()
    };
    Arc::new(StokerView::new(&metadata, spec, None))
}

fn stoker(name: &str) -> Arc<StokerView> {
    stoker_with(name, json!({}))
}

fn decide_value(pod: &Value, stokers: &[Arc<StokerView>], settings: &Settings) -> Decision {
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    decide(&typed, "plant", Stokers::Known(stokers), settings)
}

fn patched(pod: &Value, decision: &Decision) -> Value {
    let mut after = pod.clone();
    json_patch::patch(&mut after, &decision.patch).unwrap();
    after
}

fn injected(pod: &Value, stokers: &[Arc<StokerView>]) -> Value {
    let decision = decide_value(pod, stokers, &settings());
    assert_eq!(decision.outcome, Outcome::Injected, "{}", decision.message);
    patched(pod, &decision)
}

fn agent(pod: &Value) -> &Value {
    pod["spec"]["initContainers"].as_array().unwrap().last().unwrap()
}

fn mount<'a>(container: &'a Value, path: &str) -> Option<&'a Value> {
    container["volumeMounts"].as_array()?.iter().find(|m| m["mountPath"] == path)
}

fn volume<'a>(pod: &'a Value, container: &Value, path: &str) -> &'a Value {
    let name = &mount(container, path).unwrap_or_else(|| panic!("nothing at {path}"))["name"];
    pod["spec"]["volumes"].as_array().unwrap().iter().find(|v| &v["name"] == name).unwrap()
}

/// The pod without what the decision added: must be what the user wrote.
fn without_ours(before: &Value, after: &Value) -> Value {
    let mut rest = after.clone();
    for list in ["initContainers", "volumes"] {
        match before["spec"][list].as_array() {
            Some(old) => rest["spec"][list].as_array_mut().unwrap().truncate(old.len()),
            None => drop(rest["spec"].as_object_mut().unwrap().remove(list)),
        }
    }
    for (map, keys) in [
        ("annotations", vec!["stoker.io/injected", "stoker.io/cr-name"]),
        ("labels", vec!["stoker.io/agent"]),
    ] {
        for key in keys {
            if before["metadata"][map].get(key).is_none() {
                rest["metadata"][map].as_object_mut().unwrap().remove(key);
            }
        }
        if before["metadata"].get(map).is_none() {
            rest["metadata"].as_object_mut().unwrap().remove(map);
        }
    }
    rest
}

#[test]
fn the_official_charts_pod_gets_a_native_sidecar_after_preconfigure() {
    let before = official_pod();
    let after = injected(&before, &[stoker("my-sync")]);
    let names: Vec<_> =
        after["spec"]["initContainers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["preconfigure", "stoker-agent"]);
    let agent = agent(&after);
    assert_eq!(agent["restartPolicy"], "Always");
    assert_eq!(agent["image"], "registry.example.com/stoker-agent:1.2.3");
    assert_eq!(mount(agent, "/data").unwrap()["name"], "data");
    assert_eq!(
        agent["args"],
        json!([
            "--cr=my-sync",
            "--namespace=plant",
            "--pod=$(STOKER_POD_NAME)",
            "--pod-uid=$(STOKER_POD_UID)",
            "--health-port=8687",
            "--startup-timeout-seconds=300",
            "--on-startup-timeout=UseLastGood",
            "--cache-limit-bytes=2147483648",
        ])
    );
    assert_eq!(agent["startupProbe"]["httpGet"], json!({ "path": "/startupz", "port": "stoker-health" }));
    assert!(agent["startupProbe"]["failureThreshold"].as_u64().unwrap() > 300);
    assert_eq!(agent["livenessProbe"]["httpGet"]["path"], "/livez");
    assert!(agent.get("readinessProbe").is_none(), "it would take the gateway out of its Service");
    assert_eq!(after["metadata"]["annotations"]["stoker.io/injected"], "true");
    assert_eq!(after["metadata"]["annotations"]["stoker.io/cr-name"], "my-sync");
    assert_eq!(after["metadata"]["labels"]["stoker.io/agent"], "true");
    assert_eq!(without_ours(&before, &after), before);
}

#[test]
fn the_agent_runs_as_the_pods_user_and_passes_the_restricted_standard() {
    let after = injected(&official_pod(), &[stoker("a")]);
    assert_eq!(
        agent(&after)["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    // User and the promise not to be root may be said by the gateway's container alone.
    let mut pod = official_pod();
    pod["spec"]["securityContext"] = json!({});
    pod["spec"]["containers"][0]["securityContext"] = json!({
        "runAsUser": 2003, "runAsGroup": 2003, "runAsNonRoot": true, "seLinuxOptions": { "level": "s0:c1,c2" } });
    let after = injected(&pod, &[stoker("a")]);
    let context = &agent(&after)["securityContext"];
    assert_eq!((&context["runAsUser"], &context["runAsNonRoot"]), (&json!(2003), &json!(true)));
    assert_eq!(context["seLinuxOptions"]["level"], "s0:c1,c2");
}

#[test]
fn the_agent_has_its_own_token_and_nobody_else_sees_its_secrets() {
    let mut pod = official_pod();
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    let spec = json!({ "git": {
        "auth": { "sshKey": {
            "secretRef": { "name": "ssh", "key": "id" },
            "knownHosts": { "secretRef": { "name": "hosts", "key": "known" } },
            "passphraseSecretRef": { "name": "ssh", "key": "pass" },
        } },
        "caSecretRef": { "name": "ca", "key": "bundle" },
    } });
    let after = injected(&pod, &[stoker_with("a", spec)]);
    let agent = agent(&after);
    let identity = volume(&after, agent, contract::SERVICE_ACCOUNT_DIR);
    assert_eq!(identity["projected"]["sources"][0]["serviceAccountToken"]["path"], "token");

    let git = volume(&after, agent, contract::GIT_DIR);
    let files: Vec<(&str, &str, &str, bool)> = git["projected"]["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| &source["secret"])
        .map(|secret| {
            let (item, text) =
                (&secret["items"][0], |v: &'_ Value| v.as_str().unwrap().to_owned().leak() as &str);
            (text(&secret["name"]), text(&item["key"]), text(&item["path"]), secret["optional"] == true)
        })
        .collect();
    // Host keys and authorities come with the metadata: they may change while the pod runs.
    assert_eq!(files, [("ssh", "id", "ssh-privatekey", true), ("ssh", "pass", "passphrase", true)]);
    assert_eq!(git["projected"]["defaultMode"], 0o400);
    let key = volume(&after, agent, contract::GATEWAY_DIR);
    assert_eq!(
        key["projected"]["sources"][0]["secret"]["items"][0],
        json!({ "key": "apiKey", "path": "api-key" })
    );

    let ours: BTreeSet<&str> = after["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|v| v["name"].as_str())
        .filter(|name| name.starts_with("stoker-"))
        .collect();
    let all = after["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .chain(&after["spec"]["initContainers"].as_array().unwrap()[..1]);
    for container in all {
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(!ours.contains(mount["name"].as_str().unwrap()), "{mount}");
        }
    }
    for mounted in agent["volumeMounts"].as_array().unwrap() {
        let writable = mounted["readOnly"] != true;
        let path = mounted["mountPath"].as_str().unwrap();
        assert_eq!(writable, [contract::DATA_DIR, contract::CACHE_DIR].contains(&path), "{path}");
        assert!(mounted.get("subPath").is_none(), "a subPath mount never sees a rotated Secret");
    }
    assert!(!agent["env"].to_string().contains("secret"), "{}", agent["env"]);
}

#[test]
fn the_key_of_an_app_comes_as_a_file() {
    let spec = json!({ "git": { "auth": { "githubApp": {
        "appId": 12, "installationId": 34, "privateKeySecretRef": { "name": "app", "key": "pem" } } } } });
    let after = injected(&official_pod(), &[stoker_with("a", spec)]);
    let git = volume(&after, agent(&after), contract::GIT_DIR);
    let secret = &git["projected"]["sources"][0]["secret"];
    assert_eq!(secret["name"], "app");
    assert_eq!(secret["items"], json!([{ "key": "pem", "path": "github-app-key.pem" }]));
    assert_eq!(format!("{}/github-app-key.pem", contract::GIT_DIR), contract::GIT_APP_KEY);
}

#[test]
fn the_login_at_a_proxy_comes_as_two_files() {
    let proxy = json!({ "url": "http://proxy:3128", "secretRef": { "name": "proxy" } });
    let after = injected(&official_pod(), &[stoker_with("a", json!({ "git": { "proxy": proxy } }))]);
    let git = volume(&after, agent(&after), contract::GIT_DIR);
    for (source, key, path) in
        [(0, "username", contract::GIT_PROXY_USERNAME), (1, "password", contract::GIT_PROXY_PASSWORD)]
    {
        let secret = &git["projected"]["sources"][source]["secret"];
        assert_eq!((&secret["name"], &secret["optional"]), (&json!("proxy"), &json!(true)));
        assert_eq!(format!("{}/{}", contract::GIT_DIR, secret["items"][0]["path"].as_str().unwrap()), path);
        assert_eq!(secret["items"][0]["key"], key);
    }
    let open = json!({ "git": { "proxy": { "url": "http://proxy:3128" } } });
    let after = injected(&official_pod(), &[stoker_with("a", open)]);
    assert!(!agent(&after).to_string().contains(contract::GIT_DIR), "nothing to mount");
}

#[test]
fn the_keys_that_commits_must_be_signed_by_come_as_a_whole() {
    let spec = json!({ "git": { "verify": { "mode": "HEAD", "secretRef": { "name": "signers" } } } });
    let after = injected(&official_pod(), &[stoker_with("a", spec)]);
    let keys = volume(&after, agent(&after), contract::SIGNING_KEYS_DIR);
    let expected = json!({ "secretName": "signers", "optional": true, "defaultMode": 0o444 });
    assert_eq!(keys["secret"], expected, "every key of it, and those that are added later");
    let without = injected(&official_pod(), &[stoker("a")]);
    assert!(!agent(&without).to_string().contains(contract::SIGNING_KEYS_DIR));
}

#[test]
fn credentials_can_be_read_whoever_the_agent_runs_as() {
    let mode = |context: Value| {
        let mut pod = official_pod();
        pod["spec"]["securityContext"] = context;
        let after = injected(&pod, &[stoker("a")]);
        volume(&after, agent(&after), contract::GATEWAY_DIR)["projected"]["defaultMode"].as_i64().unwrap()
    };
    assert_eq!(
        mode(json!({ "runAsUser": 2003, "fsGroup": 2003 })),
        0o400,
        "the kubelet adds the group's right"
    );
    assert_eq!(mode(json!({ "runAsUser": 0 })), 0o400, "root owns them");
    assert_eq!(mode(json!({ "runAsUser": 2003 })), 0o444, "nobody else mounts them");
    assert_eq!(mode(json!({})), 0o444);
}

#[test]
fn a_paused_stoker_and_a_missing_profile_do_not_keep_the_sidecar_out() {
    let mut pod = official_pod();
    pod["metadata"]["annotations"]["stoker.io/sync-profile"] = json!("does-not-exist");
    let decision = decide_value(&pod, &[stoker_with("a", json!({ "paused": true }))], &settings());
    assert_eq!(decision.outcome, Outcome::Injected);
    assert!(decision.warnings.iter().any(|w| w.contains("paused")), "{:?}", decision.warnings);
}

#[test]
fn without_a_stoker_the_pod_is_admitted_and_told_why() {
    let mut named = official_pod();
    named["metadata"]["annotations"]["stoker.io/cr-name"] = json!("b");
    let (one, two) = (vec![stoker("a")], vec![stoker("a"), stoker("c")]);
    let deny = Settings { on_unresolved: OnUnresolved::Deny, ..settings() };
    for (pod, stokers, reason, says) in [
        (official_pod(), &vec![], Reason::NoStoker, "create one"),
        (official_pod(), &two, Reason::SeveralStokers, "a, c"),
        (named.clone(), &one, Reason::StokerNotFound, "\"b\""),
    ] {
        let decision = decide_value(&pod, stokers, &settings());
        assert_eq!((decision.outcome, decision.reason), (Outcome::Skipped, reason));
        assert!(decision.patch.0.is_empty());
        assert!(decision.warnings[0].contains(says), "{}", decision.warnings[0]);
        let decision = decide_value(&pod, stokers, &deny);
        assert_eq!((decision.outcome, decision.reason), (Outcome::Refused, reason));
        assert!(decision.message.contains(says), "{}", decision.message);
    }
    let pod: Pod = serde_json::from_value(official_pod()).unwrap();
    let unknown = decide(&pod, "plant", Stokers::Unknown, &settings());
    assert_eq!((unknown.outcome, unknown.reason), (Outcome::Skipped, Reason::StokersUnknown));
    // Where nobody looks after the namespace, refusing would be none of our business.
    let outside = decide(&pod, "plant", Stokers::OutOfScope, &deny);
    assert_eq!((outside.outcome, outside.reason), (Outcome::Skipped, Reason::NamespaceNotWatched));
}

#[test]
fn the_one_stoker_is_found_by_itself_and_written_back() {
    let leaving = {
        let mut view = (*stoker("old")).clone();
        view.deleting = true;
        Arc::new(view)
    };
    let after = injected(&official_pod(), &[leaving, stoker("new")]);
    assert_eq!(after["metadata"]["annotations"]["stoker.io/cr-name"], "new");
    let mut named = official_pod();
    named["metadata"]["annotations"]["stoker.io/cr-name"] = json!("b");
    let decision = decide_value(&named, &[stoker("a"), stoker("b")], &settings());
    assert_eq!(decision.stoker.as_ref().unwrap().name, "b");
    assert!(!serde_json::to_string(&decision.patch).unwrap().contains("cr-name"), "it is there already");
}

#[test]
fn the_data_volume_is_found_where_it_is() {
    let find = |pod: &Value| {
        let after = injected(pod, &[stoker("a")]);
        mount(agent(&after), "/data").unwrap().clone()
    };
    // With subPath, and by another spelling of the same path.
    let mut pod = official_pod();
    pod["spec"]["containers"][0]["volumeMounts"][0] =
        json!({ "name": "data", "mountPath": "/usr/local/bin//ignition/data/", "subPath": "gw/data" });
    assert_eq!(find(&pod), json!({ "name": "data", "mountPath": "/data", "subPath": "gw/data" }));
    // Elsewhere, by annotation.
    let mut pod = official_pod();
    pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/opt/data");
    pod["metadata"]["annotations"]["stoker.io/data-path"] = json!("/opt/data/");
    assert_eq!(find(&pod)["name"], "data");
    // In several containers: the gateway's, wherever it stands.
    let mut pod = official_pod();
    let other = json!({ "name": "backup", "image": "b", "volumeMounts": [
        { "name": "config-scripts", "mountPath": "/usr/local/bin/ignition/data" }] });
    pod["spec"]["containers"].as_array_mut().unwrap().insert(0, other);
    assert_eq!(find(&pod)["name"], "data");
    // In several containers that mean the same, none called gateway.
    let mut pod = official_pod();
    pod["spec"]["containers"][0]["name"] = json!("ignition");
    let mut second = pod["spec"]["containers"][0].clone();
    second["name"] = json!("log-shipper");
    pod["spec"]["containers"].as_array_mut().unwrap().push(second);
    assert_eq!(find(&pod)["name"], "data");
}

#[test]
fn a_sub_path_by_expression_gets_its_variables() {
    let mut pod = official_pod();
    pod["spec"]["containers"][0]["volumeMounts"][0]["subPathExpr"] = json!("$(SITE)/$(POD)");
    pod["spec"]["containers"][0]["env"] = json!([
        { "name": "SITE", "value": "north" },
        { "name": "UNUSED", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
        { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
    ]);
    let after = injected(&pod, &[stoker("a")]);
    let env: Vec<_> =
        agent(&after)["env"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(env, ["STOKER_POD_NAME", "STOKER_POD_UID", "SITE", "POD"]);
    assert_eq!(mount(agent(&after), "/data").unwrap()["subPathExpr"], "$(SITE)/$(POD)");

    pod["spec"]["containers"][0]["env"][0] =
        json!({ "name": "SITE", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } });
    let decision = decide_value(&pod, &[stoker("a")], &settings());
    assert_eq!((decision.outcome, decision.reason), (Outcome::Skipped, Reason::UnusableDataVolume));
}

#[test]
fn what_the_gateway_mounts_below_its_data_directory_is_what_the_agent_sees() {
    let mut pod = official_pod();
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
    mounts.push(
        json!({ "name": "data", "mountPath": "/usr/local/bin/ignition/data/projects", "subPath": "p" }),
    );
    mounts.push(json!({ "name": "secrets", "mountPath": "/usr/local/bin/ignition/data/local/tls" }));
    mounts.push(json!({ "name": "secrets", "mountPath": "/usr/local/bin/ignition/database" }));
    let after = injected(&pod, &[stoker("a")]);
    let seen = |path| mount(agent(&after), path).cloned();
    assert_eq!(seen("/data/projects").unwrap()["subPath"], "p");
    assert_eq!(seen("/data/local/tls").unwrap()["readOnly"], true);
    assert_eq!(agent(&after)["volumeMounts"].to_string().matches("\"secrets\"").count(), 1);
}

#[test]
fn pods_that_cannot_be_helped_are_told_precisely() {
    let change = |f: &dyn Fn(&mut Value)| {
        let mut pod = official_pod();
        f(&mut pod);
        let decision = decide_value(&pod, &[stoker("a")], &settings());
        assert_eq!(decision.outcome, Outcome::Skipped, "{}", decision.message);
        assert!(decision.patch.0.is_empty() && decision.warnings.len() == 1);
        (decision.reason, decision.warnings[0].clone())
    };
    let (reason, text) =
        change(&|pod| drop(pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().remove(0)));
    assert_eq!(reason, Reason::NoDataVolume);
    assert!(text.contains("/usr/local/bin/ignition/data") && text.contains("stoker.io/data-path"), "{text}");
    let (reason, text) = change(&|pod| {
        pod["spec"]["containers"][0]["name"] = json!("one");
        let mut other = pod["spec"]["containers"][0].clone();
        other["name"] = json!("two");
        other["volumeMounts"][0]["subPath"] = json!("x");
        pod["spec"]["containers"].as_array_mut().unwrap().push(other);
    });
    assert_eq!(reason, Reason::AmbiguousDataVolume);
    assert!(text.contains("one, two"), "{text}");
    let (reason, text) = change(&|pod| pod["metadata"]["annotations"]["stoker.io/data-path"] = json!("data"));
    assert_eq!(reason, Reason::InvalidDataPath);
    assert!(text.contains("\"data\""), "{text}");
    let (reason, _) =
        change(&|pod| pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] = json!(true));
    assert_eq!(reason, Reason::UnusableDataVolume);
    let (reason, _) =
        change(&|pod| pod["spec"]["volumes"][0] = json!({ "name": "data", "configMap": { "name": "x" } }));
    assert_eq!(reason, Reason::UnusableDataVolume);
    let (reason, _) = change(&|pod| pod["spec"]["os"] = json!({ "name": "windows" }));
    assert_eq!(reason, Reason::UnsupportedPod);
    let (reason, _) =
        change(&|pod| pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x"));
    assert_eq!(reason, Reason::UnsupportedPod);
}

#[test]
fn root_and_unnamed_users_work_with_a_precise_warning() {
    for (context, says) in [(json!({ "runAsUser": 0 }), "root"), (json!({}), "runAsUser")] {
        let mut pod = official_pod();
        pod["spec"]["securityContext"] = context;
        let decision = decide_value(&pod, &[stoker("a")], &settings());
        assert_eq!(decision.outcome, Outcome::Injected);
        assert!(decision.warnings.iter().any(|w| w.contains(says)), "{:?}", decision.warnings);
    }
    assert_eq!(decide_value(&official_pod(), &[stoker("a")], &settings()).warnings, Vec::<String>::new());
}

#[test]
fn mistakes_in_annotations_are_named() {
    let mut pod = official_pod();
    pod["metadata"]["annotations"]["stoker.io/sevice-path"] = json!("x");
    pod["metadata"]["annotations"]["stoker.io/sync-period"] = json!("soon");
    let warnings = decide_value(&pod, &[stoker("a")], &settings()).warnings;
    assert!(warnings.iter().any(|w| w.contains("stoker.io/sevice-path")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("\"soon\"")), "{warnings:?}");
}

#[test]
fn names_that_are_taken_are_not_taken_over() {
    let mut pod = official_pod();
    pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "stoker-agent", "image": "foreign" }));
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "stoker-agent-2", "image": "foreign",
        "ports": [{ "name": "stoker-health", "containerPort": 8687 }] }));
    for name in ["stoker-cache", "stoker-git", "stoker-cache-2"] {
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({ "name": name, "emptyDir": {} }));
    }
    let after = injected(&pod, &[stoker("a")]);
    assert_eq!(agent(&after)["name"], "stoker-agent-3");
    assert_eq!(mount(agent(&after), contract::CACHE_DIR).unwrap()["name"], "stoker-cache-3");
    assert_eq!(agent(&after)["ports"][0]["containerPort"], 8688);
    assert_eq!(without_ours(&pod, &after), pod);
    // And it is recognised among the foreign ones.
    let again = decide_value(&after, &[stoker("a")], &settings());
    assert_eq!((again.outcome, again.patch.0.len()), (Outcome::Unchanged, 0));
}

#[test]
fn the_git_cache_cannot_fill_the_node() {
    let after =
        injected(&official_pod(), &[stoker_with("a", json!({ "agent": { "repoSizeLimit": "64Mi" } }))]);
    assert_eq!(volume(&after, agent(&after), contract::CACHE_DIR)["emptyDir"]["sizeLimit"], "67108864");
    assert!(agent(&after)["args"].to_string().contains("--cache-limit-bytes=67108864"));
}

#[test]
fn a_pod_of_another_version_is_left_alone_and_a_late_neighbour_is_named() {
    let mut pod = official_pod();
    pod["metadata"]["annotations"]["stoker.io/injected"] = json!("true");
    let theirs = json!({ "name": "stoker-agent", "image": "old:0.0.1", "restartPolicy": "Always",
        "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init.push(theirs);
    init.push(
        json!({ "name": "late", "image": "x", "volumeMounts": [{ "name": "data", "mountPath": "/d" }] }),
    );
    init.push(json!({ "name": "harmless", "image": "x" }));
    let decision = decide_value(&pod, &[], &settings());
    assert_eq!((decision.outcome, decision.reason), (Outcome::Unchanged, Reason::AlreadyInjected));
    assert_eq!(decision.warnings.len(), 1);
    assert!(decision.warnings[0].contains("\"late\""), "{:?}", decision.warnings);
    // Annotations copied from a running pod into a template make no sidecar.
    pod["spec"]["initContainers"].as_array_mut().unwrap().truncate(1);
    assert_eq!(decide_value(&pod, &[stoker("a")], &settings()).outcome, Outcome::Injected);
}

#[test]
fn a_pod_that_does_not_ask_is_none_of_our_business() {
    let mut pod = official_pod();
    for value in [json!("false"), json!("")] {
        pod["metadata"]["annotations"]["stoker.io/inject"] = value;
        assert_eq!(decide_value(&pod, &[stoker("a")], &settings()).reason, Reason::NotRequested);
    }
    pod["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(decide_value(&pod, &[], &settings()).outcome, Outcome::Unchanged);
}

#[test]
fn warnings_fit_into_what_the_api_server_passes_on() {
    assert_eq!(warning("short"), "stoker: short");
    let long = warning(&"ü".repeat(400));
    assert_eq!(long.chars().count(), MAX_WARNING);
    assert!(long.ends_with('…'));
}

const NAMES: [&str; 5] = ["data", "stoker-agent", "stoker-cache", "stoker-identity", "other"];

prop_compose! {
    fn any_mount()(name in proptest::sample::select(NAMES.to_vec()),
                   path in proptest::sample::select(vec!["/usr/local/bin/ignition/data", "/usr/local/bin/ignition/data/projects",
                       "/data", "/var/cache/stoker", "/x"]),
                   sub in proptest::option::of("[a-z]{1,3}"), read_only in any::<bool>()) -> Value {
        let mut mount = json!({ "name": name, "mountPath": path, "readOnly": read_only });
        if let Some(sub) = sub { mount["subPath"] = json!(sub); }
        mount
    }
}

fn any_containers(most: usize) -> impl Strategy<Value = Vec<Value>> {
    let container = (
        proptest::collection::vec(any_mount(), 0..4),
        proptest::option::of(8686u16..8690),
        proptest::option::of(proptest::sample::select(vec![0i64, 2003])),
        any::<bool>(),
    )
        .prop_map(|(mounts, port, user, limited)| {
            let mut seen = BTreeSet::new();
            let mounts: Vec<_> = mounts
                .into_iter()
                .filter(|m| seen.insert(m["mountPath"].as_str().unwrap().to_owned()))
                .collect();
            let mut c = json!({ "image": "i", "volumeMounts": mounts });
            if let Some(port) = port {
                c["ports"] = json!([{ "containerPort": port, "name": "stoker-health" }]);
            }
            if let Some(user) = user {
                c["securityContext"] = json!({ "runAsUser": user });
            }
            if limited {
                c["resources"] = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
            }
            c
        });
    proptest::collection::vec(container, 0..=most)
}

prop_compose! {
    fn any_pod()(mut containers in any_containers(3), init in any_containers(3), volumes in proptest::sample::subsequence(NAMES.to_vec(), 0..=5),
                 labels in any::<bool>(), injected in any::<bool>(), gateway in any::<bool>(), has_init in any::<bool>()) -> Value {
        if containers.is_empty() { containers.push(json!({ "image": "i" })); }
        let names = ["gateway", "stoker-agent", "stoker-agent-2"];
        for (c, name) in containers.iter_mut().zip(names) { c["name"] = json!(name); }
        if !gateway { containers[0]["name"] = json!("main"); }
        let mut init = init;
        for (c, name) in init.iter_mut().zip(["preconfigure", "stoker-agent-3", "late"]) { c["name"] = json!(name); }
        let volumes: Vec<_> = volumes.iter().map(|name| json!({ "name": name, "emptyDir": {} })).collect();
        let mut pod = json!({
            "metadata": { "name": "p", "annotations": { "stoker.io/inject": "true", "foreign/ä": "ü" } },
            "spec": { "containers": containers, "volumes": volumes, "unknown": [1, null] },
        });
        if labels { pod["metadata"]["labels"] = json!({ "a": "b" }); }
        if injected { pod["metadata"]["annotations"]["stoker.io/injected"] = json!("true"); }
        if has_init { pod["spec"]["initContainers"] = json!(init); }
        pod
    }
}

fn all_unique<'a>(names: impl Iterator<Item = &'a Value>) -> bool {
    let mut seen = BTreeSet::new();
    names.map(|name| name.as_str().unwrap().to_owned()).all(|name| seen.insert(name))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the pod: it is left whole, stays acceptable, and a second call changes nothing.
    #[test]
    fn every_pod_is_left_whole(pod in any_pod()) {
        let stokers = [stoker_with("s", json!({ "git": { "auth": { "token": { "secretRef": { "name": "t", "key": "k" } } } } }))];
        let decision = decide_value(&pod, &stokers, &settings());
        let after = patched(&pod, &decision);
        prop_assert!(decision.warnings.iter().all(|w| w.chars().count() <= MAX_WARNING));
        if decision.outcome != Outcome::Injected {
            prop_assert_eq!(&after, &pod);
            return Ok(());
        }
        prop_assert_eq!(&without_ours(&pod, &after), &pod);
        let (containers, init) = (after["spec"]["containers"].as_array().unwrap(), after["spec"]["initContainers"].as_array().unwrap());
        prop_assert!(all_unique(containers.iter().chain(init).map(|c| &c["name"])));
        let volumes = after["spec"]["volumes"].as_array().unwrap();
        prop_assert!(all_unique(volumes.iter().map(|v| &v["name"])));
        let agent = init.last().unwrap();
        let mounts = agent["volumeMounts"].as_array().unwrap();
        prop_assert!(all_unique(mounts.iter().map(|m| &m["mountPath"])));
        // Ours are always there; a volume that the pod itself forgot is not for us to invent.
        for mount in mounts.iter().filter(|m| !m["mountPath"].as_str().unwrap().starts_with("/data")) {
            prop_assert!(volumes.iter().any(|v| v["name"] == mount["name"]));
        }
        let port = &agent["ports"][0]["containerPort"];
        let declared = format!("\"containerPort\":{port}");
        prop_assert!(!pod.to_string().contains(&declared));
        let again = decide_value(&after, &stokers, &settings());
        prop_assert_eq!(again.outcome, Outcome::Unchanged);
        prop_assert!(again.patch.0.is_empty());
    }
}
