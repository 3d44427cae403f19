//! `stoker sync`: what goes live, what is said, and with which exit code.

use std::time::Duration;

use serde_json::json;
use stoker_ignition::fake::{Failure, FailureKind};
use stoker_testkit::github::{APP, GithubApi, INSTALLATION, app_key};
use stoker_testkit::gitserver::HttpOptions;
use stoker_testkit::proxy::ForwardProxy;
use stoker_testkit::{require, wait};

use crate::bench::{Bench, VIEW, command};

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_goes_live_confirmed_and_the_next_run_has_nothing_to_do() {
    let (bench, gateway) = Bench::with_gateway().await;
    let (code, report) = bench.report(&["--once"]);
    assert_eq!((code, report["outcome"].as_str()), (0, Some("applied")), "{report}");
    assert_eq!(report["commit"], bench.repo.head().unwrap());
    assert_eq!(report["ref"], "main");
    let count = |what: &str| report["files"][what].as_u64().unwrap();
    let changes = report["changes"].as_array().unwrap().len() as u64;
    assert_eq!(
        count("added") + count("modified"),
        changes,
        "the gateway's own config-mode.json was there before"
    );
    let scans: Vec<_> = report["scans"].as_array().unwrap().iter().map(|s| s["kind"].clone()).collect();
    assert_eq!(scans, ["config", "projects"], "config before projects");
    assert!(gateway.loaded_projects().loaded.contains_key("line"));
    for phase in ["resolve", "fetch", "plan", "apply", "scan", "total"] {
        assert!(report["durationMs"][phase].is_u64(), "{phase}");
    }

    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["outcome"].as_str()), (0, Some("inSync")), "{report}");
    assert_eq!(report["changes"], json!([]));

    let commit = bench.push(VIEW, "{\"custom\": {}}");
    let said = bench.sync(&[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains(&format!("~ {VIEW}")), "{}", said.out);
    assert!(
        said.out.contains(&format!("main ({}) is live: 0 added, 1 modified, 0 deleted", &commit[..7])),
        "{}",
        said.out
    );
    gateway.stop().await;
}

#[test]
fn without_a_gateway_files_alone_are_success() {
    let bench = Bench::new();
    let (code, report) = bench.report(&[]);
    assert_eq!(
        (code, report["outcome"].as_str(), &report["scans"]),
        (0, Some("applied"), &json!([])),
        "{report}"
    );
    assert!(bench.data().join(VIEW).exists());
}

#[test]
fn a_gateway_that_does_not_answer_gets_its_files_and_the_exit_code_says_unconfirmed() {
    let mut bench = Bench::new();
    let key = bench.folder.path().join("api-key");
    std::fs::write(&key, "a:b").unwrap();
    // The discard port: nobody listens.
    bench.config["gateway"] = json!({"url": "http://127.0.0.1:9", "apiKeyFile": key});
    let (code, report) = bench.report(&["--confirm-timeout", "0"]);
    assert_eq!((code, report["outcome"].as_str()), (4, Some("unconfirmed")), "{report}");
    assert!(bench.data().join(VIEW).exists());
    assert!(report["error"]["message"].as_str().unwrap().contains("127.0.0.1:9"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_scans_but_does_not_say_what_it_loaded_has_not_confirmed() {
    let (bench, gateway) = Bench::with_gateway().await;
    for path in ["/data/api/v1/projects", "/data/api/v1/logs", "/data/api/v1/resources"] {
        gateway.fail(Failure { path: path.into(), how: FailureKind::Status(403), times: None });
    }
    for _ in 0..2 {
        let (code, report) = bench.report(&[]);
        assert_eq!((code, report["outcome"].as_str()), (4, Some("unconfirmed")), "{report}");
        assert_eq!(report["error"]["category"], "Unverified", "{report}");
        assert!(report["error"]["message"].as_str().unwrap().contains("403"), "{report}");
    }
    gateway.stop().await;
}

#[test]
fn a_dry_run_names_every_change_and_writes_nothing() {
    let bench = Bench::new();
    let (code, report) = bench.report(&["--dry-run"]);
    assert_eq!((code, report["outcome"].as_str()), (0, Some("dryRun")), "{report}");
    assert!(report["changes"].as_array().unwrap().iter().any(|c| c["path"] == VIEW));
    assert_eq!(std::fs::read_dir(bench.data()).unwrap().count(), 0);
}

#[test]
fn a_broken_file_is_refused_with_its_place_and_nothing_changes() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    let before = bench.live(VIEW);
    bench.push(VIEW, "{\n  \"custom\": {},\n  oops\n}");
    let said = bench.sync(&[]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("view.json is not valid JSON: line 3"), "{}", said.out);
    assert_eq!(bench.live(VIEW), before);
}

#[test]
fn too_many_deletions_are_held_with_their_number() {
    let mut bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    bench.repo.remove("services/gateway/projects").unwrap();
    bench.push("projects/line/project.json", "{\"title\": \"almost empty\"}");
    bench.config["maxDeletes"] = json!({"count": 3, "percent": 100});
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["outcome"].as_str()), (3, Some("held")), "{report}");
    let message = report["error"]["message"].as_str().unwrap();
    assert!(message.contains('3'), "{message}");
    assert!(bench.data().join(VIEW).exists());
}

#[test]
fn a_wrong_token_an_unknown_branch_and_a_dead_server_are_told_apart_and_harm_nothing() {
    let mut bench = Bench::with(HttpOptions::default().login("x-access-token", "good-token"));
    let token = bench.folder.path().join("token");
    bench.config["git"]["auth"] = json!({"token": {"file": token}});
    std::fs::write(&token, "good-token").unwrap();
    assert_eq!(bench.sync(&[]).code, 0);
    let before = bench.live(VIEW);

    std::fs::write(&token, "bad-token").unwrap();
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("AuthenticationFailed")), "{report}");
    assert!(!report.to_string().contains("bad-token"));

    std::fs::write(&token, "good-token").unwrap();
    bench.config["git"]["ref"] = json!("mian");
    let (code, report) = bench.report(&[]);
    let message = report["error"]["message"].as_str().unwrap();
    assert!(code == 1 && message.contains("\"mian\"") && message.contains("main"), "{message}");

    bench.config["git"]["ref"] = json!("main");
    bench.config["git"]["repo"] = json!("http://127.0.0.1:9/plant.git");
    let (code, report) = bench.report(&[]);
    let message = report["error"]["message"].as_str().unwrap();
    assert!(code == 1 && message.contains("127.0.0.1:9"), "{report}");
    assert_eq!(bench.live(VIEW), before);
}

#[test]
fn an_app_gets_in_and_its_key_is_read_at_each_use() {
    // The first token that the API hands out, and no other.
    let mut bench = Bench::with(HttpOptions::default().login("x-access-token", "ghs_token1"));
    let folder = bench.folder.path().to_owned();
    let (good, bad) =
        (app_key(&folder, "good.pem", "PEM").unwrap(), app_key(&folder, "bad.pem", "PKCS8").unwrap());
    let api = GithubApi::start(&[&good], |_| {}).unwrap();
    let key = folder.join("key.pem");
    bench.config["git"]["auth"] = json!({"githubApp": {
        "appId": APP, "installationId": INSTALLATION, "privateKeyFile": key, "apiBaseURL": api.url(),
    }});

    std::fs::copy(&bad, &key).unwrap();
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("AuthenticationFailed")), "{report}");
    assert!(!bench.data().join(VIEW).exists());

    std::fs::copy(&good, &key).unwrap();
    assert_eq!(bench.sync(&[]).code, 0);
    assert!(bench.data().join(VIEW).exists());
    assert_eq!(api.given(), 1, "one for the look-up and the fetch");
}

#[test]
fn the_way_leads_through_the_proxy_with_a_login_from_files() {
    let mut bench = Bench::new();
    let folder = bench.folder.path().to_owned();
    let address = bench.git.url("").split('/').nth(2).unwrap().parse().unwrap();
    let proxy = ForwardProxy::start(address, Some(("ada", "5uper-secret"))).unwrap();
    let (username, password) = (folder.join("username"), folder.join("password"));
    std::fs::write(&username, "ada\n").unwrap();
    std::fs::write(&password, "wr0ng-secret\n").unwrap();
    // Nobody knows the host but the proxy.
    bench.config["git"]["repo"] = json!("http://git.example.invalid/plant.git");
    bench.config["git"]["proxy"] =
        json!({"url": proxy.url(), "usernameFile": username, "passwordFile": password});
    let (code, report) = bench.report(&[]);
    let category = report["error"]["category"].as_str();
    assert_eq!((code, category), (1, Some("ProxyAuthenticationFailed")), "{report}");
    assert!(!report.to_string().contains("wr0ng-secret"), "{report}");

    std::fs::write(&password, "5uper-secret\n").unwrap();
    assert_eq!(bench.sync(&[]).code, 0);
    assert!(bench.data().join(VIEW).exists());
}

#[test]
fn a_bearer_token_is_sent_as_one() {
    let mut bench = Bench::new();
    let token = bench.folder.path().join("token");
    std::fs::write(&token, "abc.def\n").unwrap();
    bench.config["git"]["auth"] = json!({"token": {"file": token, "scheme": "Bearer"}});
    let address = bench.git.url("").split('/').nth(2).unwrap().parse().unwrap();
    let proxy = ForwardProxy::start(address, None).unwrap();
    bench.config["git"]["proxy"] = json!({"url": proxy.url()});
    assert_eq!(bench.sync(&[]).code, 0);
    let seen = proxy.seen();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|seen| seen.head.contains("authorization: Bearer abc.def\r\n")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_server_must_show_the_key_that_is_known() {
    let Some(ssh) = require::ssh().await else { return };
    let mut bench = Bench::new();
    ssh.shelf().publish(&bench.repo, "plant.git").unwrap();
    let known = bench.folder.path().join("known_hosts");
    bench.config["git"] = json!({
        "repo": ssh.url("plant.git"), "ref": "main",
        "auth": {"sshKey": {"file": ssh.private_key_path(), "knownHostsFile": known}},
    });
    std::fs::write(&known, "").unwrap();
    let (code, report) = bench.report(&[]);
    let message = report["error"]["message"].as_str().unwrap();
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("HostKeyUnknown")), "{report}");
    let line = ssh.known_hosts().unwrap();
    assert!(line.lines().any(|line| message.contains(line)), "{message}");

    std::fs::write(&known, line).unwrap();
    assert_eq!(bench.sync(&[]).code, 0);
    ssh.change_host_keys().await.unwrap();
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("HostKeyChanged")), "{report}");
}

#[test]
fn a_commit_that_nobody_trusted_has_signed_writes_nothing() {
    let mut bench = Bench::new();
    let key = bench.folder.path().join("ada");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let signers = bench.folder.path().join("allowed_signers");
    std::fs::write(&signers, format!("ada@plant.example {public}")).unwrap();
    bench.config["git"]["verify"] = json!({"mode": "HEAD", "keyFiles": [signers]});

    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("Unsigned")), "{report}");
    let message = report["error"]["message"].as_str().unwrap();
    let head = bench.repo.head().unwrap();
    assert!(message.contains(&head[..7]) && message.contains("it has no signature"), "{message}");
    assert!(std::fs::read_dir(bench.data()).unwrap().next().is_none(), "nothing is written");

    let signing = format!("user.signingKey={}", key.display());
    let commit =
        ["-c", "gpg.format=ssh", "-c", &signing, "commit", "--quiet", "--allow-empty", "-S", "-m", "signed"];
    bench.repo.git(commit).unwrap();
    bench.git.shelf().publish(&bench.repo, "plant.git").unwrap();
    assert_eq!(bench.sync(&[]).code, 0);

    // Asked for a signed tag, a branch is not enough; and the files stay.
    bench.config["git"]["verify"]["mode"] = json!("Tag");
    let before = bench.live(VIEW);
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("Unsigned")), "{report}");
    bench.repo.git(["-c", "gpg.format=ssh", "-c", &signing, "tag", "-s", "-m", "one", "v1"]).unwrap();
    bench.git.shelf().publish(&bench.repo, "plant.git").unwrap();
    bench.config["git"]["ref"] = json!("v1");
    assert_eq!(bench.sync(&[]).code, 0);

    std::fs::write(&signers, "").unwrap();
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("SigningKeysInvalid")), "{report}");
    bench.config["git"]["verify"]["keyFiles"] = json!([]);
    let said = bench.sync(&[]);
    assert!(said.code == 2 && said.err.contains("git.verify.keyFiles"), "{}", said.err);
    assert_eq!(bench.live(VIEW), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_follows_pushes_until_it_is_asked_to_stop() {
    let mut bench = Bench::new();
    bench.config["git"]["interval"] = json!("5s");
    bench.config["profile"]["syncPeriod"] = json!(5);
    let file = bench.file();
    let mut child = command(&["sync", "--watch", "--config", file.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let limit = Duration::from_secs(60);
    wait::until_true("the first sync", limit, || async { Ok(bench.data().join(VIEW).exists()) })
        .await
        .unwrap();
    bench.push(VIEW, "{\"second\": true}");
    wait::until_true("the push", limit, || async { Ok(bench.live(VIEW) == "{\"second\": true}") })
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn history_lists_what_was_replaced_and_rollback_restores_it() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    let before = bench.live(VIEW);
    bench.push(VIEW, "{\"second\": true}");
    assert_eq!(bench.sync(&[]).code, 0);
    let data = bench.data();
    let data = data.to_str().unwrap();
    let listed = crate::bench::stoker(&["history", "--data-dir", data, "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["transactions"].as_array().unwrap().len(), 2);
    let back = crate::bench::stoker(&["rollback", "--data-dir", data]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!(bench.live(VIEW), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rollback_takes_away_is_not_missed_by_the_next_sync() {
    let (mut bench, gateway) = Bench::with_gateway().await;
    assert_eq!(bench.sync(&[]).code, 0);
    let good = bench.repo.head().unwrap();
    bench
        .push("projects/two/project.json", "{\"title\": \"Two\", \"enabled\": true, \"inheritable\": false}");
    let connection = "config/resources/core/ignition/database-connection/db2";
    bench.push(&format!("{connection}/config.json"), "{}");
    bench.push(
        &format!("{connection}/resource.json"),
        "{\"scope\": \"A\", \"version\": 1, \"files\": [\"config.json\"]}",
    );
    let (code, report) = bench.report(&[]);
    assert_eq!(code, 0, "{report}");
    assert!(gateway.loaded_projects().loaded.contains_key("two"));
    for _ in 0..2 {
        // Back, and forward again by a rollback of the rollback.
        let back = crate::bench::stoker(&["rollback", "--data-dir", bench.data().to_str().unwrap()]);
        assert_eq!(back.code, 0, "{}", back.err);
        let there = bench.data().join("projects/two").exists();
        bench.config["git"]["ref"] = json!(if there { bench.repo.head().unwrap() } else { good.clone() });
        let (code, report) = bench.report(&[]);
        assert_eq!((code, report["changes"].as_array().map(Vec::len)), (0, Some(0)), "{report}");
        assert_eq!(gateway.loaded_projects().loaded.contains_key("two"), there);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_to_is_loaded_by_the_next_sync_that_stays_there() {
    let (mut bench, gateway) = Bench::with_gateway().await;
    assert_eq!(bench.sync(&[]).code, 0);
    let good = bench.repo.head().unwrap();
    bench.push(VIEW, "{\"custom\": {\"bad\": true}}");
    assert_eq!(bench.sync(&[]).code, 0);
    let back = crate::bench::stoker(&["rollback", "--data-dir", bench.data().to_str().unwrap()]);
    assert_eq!(back.code, 0, "{}", back.err);
    bench.config["git"]["ref"] = json!(good);
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["changes"].as_array().map(Vec::len)), (0, Some(0)), "{report}");
    assert_eq!(report["scans"][0]["kind"], "projects", "{report}");
    let (_, report) = bench.report(&[]);
    assert_eq!(
        (report["outcome"].as_str(), &report["scans"]),
        (Some("inSync"), &json!([])),
        "once: {report}"
    );
    gateway.stop().await;
}
