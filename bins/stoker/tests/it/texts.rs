//! What people read: no claim that nothing has borne out.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, KEY, VIEW, command, stoker};

#[test]
fn without_a_gateway_nothing_is_called_live() {
    let bench = Bench::new();
    let said = bench.sync(&[]);
    let commit = &bench.repo.head().unwrap()[..7];
    assert!(said.out.contains(&format!("files of main ({commit}) are in place: ")), "{}", said.out);
    assert!(said.out.contains("; no gateway is configured, so nothing confirmed them"), "{}", said.out);
    assert!(!said.out.contains("is live"), "{}", said.out);
}

#[test]
fn a_refused_commit_is_named_and_so_is_what_stays_live() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    let live = bench.repo.head().unwrap();
    let broken = bench.push(VIEW, "{ oops");
    let said = bench.sync(&[]);
    assert_eq!(said.code, 1);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with(&format!("main ({}) cannot be applied: ", &broken[..7])), "{}", said.out);
    assert_eq!(lines[1..], [format!("{} stays live", &live[..7])], "{}", said.out);
}

#[test]
fn drift_that_is_put_back_says_where_the_changed_content_went() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    std::fs::write(bench.data().join(VIEW), "{\"by\": \"hand\"}").unwrap();
    let said = bench.sync(&[]);
    let line = format!(
        "  ! {VIEW} was changed on the gateway and is put back; the changed content is kept in .stoker/history\n"
    );
    assert!(said.out.contains(&line), "{}", said.out);
    std::fs::remove_file(bench.data().join(VIEW)).unwrap();
    let said = bench.sync(&[]);
    assert!(
        said.out.contains(&format!("  ! {VIEW} was deleted on the gateway and is put back\n")),
        "{}",
        said.out
    );
}

#[test]
fn the_way_back_from_a_repair_of_drift_is_not_called_the_commit() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    std::fs::write(bench.data().join(VIEW), "{\"theirs\": true}").unwrap();
    assert_eq!(bench.sync(&[]).code, 0);
    let back = stoker(&["rollback", "--data-dir", bench.data().to_str().unwrap()]);
    assert!(
        back.out.starts_with("Undid from transaction 2 on, a repair of drift: files are again as"),
        "{}",
        back.out
    );
    assert_eq!(bench.live(VIEW), "{\"theirs\": true}");
}

#[test]
fn the_same_failure_is_said_once_while_watching() {
    let mut bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    bench.push(VIEW, "{ oops");
    bench.config["git"]["interval"] = json!("5s");
    bench.config["profile"]["syncPeriod"] = json!(5);
    let file = bench.file();
    let mut watch = command(&["sync", "--watch", "--config", file.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(13));
    let pid = rustix::process::Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut out = String::new();
    std::io::Read::read_to_string(&mut watch.stdout.take().unwrap(), &mut out).unwrap();
    watch.wait().unwrap();
    assert_eq!(out.matches("cannot be applied").count(), 1, "{out}");
}

#[test]
fn a_gateway_that_accepts_and_never_answers_is_given_up_in_time() {
    let mut bench = Bench::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let key = bench.folder.path().join("api-key");
    std::fs::write(&key, KEY).unwrap();
    bench.config["gateway"] = json!({"url": url, "apiKeyFile": key});
    // The first sync may spend time before it: on the role, on designers, on the scan lock.
    bench.sync(&["--confirm-timeout", "0"]);
    let began = Instant::now();
    let said = bench.sync(&["--confirm-timeout", "3", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, report["outcome"].as_str()), (4, Some("unconfirmed")), "{report}");
    let scan = report["durationMs"]["scan"].as_u64().unwrap();
    assert!((2900..4500).contains(&scan), "{report}");
    let message = report["error"]["message"].as_str().unwrap();
    // The last request and the whole confirmation have the same limit; either may be the one that is told.
    let limits = ["within 3 s", "within 3000 ms"];
    assert!(message.contains(&url) && limits.iter().any(|limit| message.contains(limit)), "{message}");
    let told = format!("waiting for the gateway at {url} to confirm, for up to 3 s");
    assert_eq!(said.err.matches(&told).count(), 1, "{}", said.err);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_key_file_is_what_is_reported() {
    let (bench, gateway) = Bench::with_gateway().await;
    let key = bench.folder.path().join("api-key");
    for (make, category) in [("no colon", "ApiKeyInvalid"), ("", "ApiKeyUnreadable")] {
        if make.is_empty() {
            std::fs::remove_file(&key).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
        } else {
            std::fs::write(&key, make).unwrap();
        }
        let (code, report) = bench.report(&["--confirm-timeout", "1"]);
        assert_eq!((code, report["error"]["category"].as_str()), (4, Some(category)), "{report}");
        assert!(report["error"]["message"].as_str().unwrap().contains(key.to_str().unwrap()), "{report}");
    }
    gateway.stop().await;
}

#[test]
fn going_back_warns_of_a_sync_and_makes_nothing_elsewhere() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    let data = bench.data();
    let said = stoker(&["rollback", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("stop it, or set git.ref first"), "{}", said.err);

    let other = tempfile::tempdir().unwrap();
    let other_name = other.path().to_str().unwrap();
    let said = stoker(&["rollback", "--data-dir", other_name]);
    assert!(
        said.code == 2 && said.err.contains(other_name) && said.err.contains("no history"),
        "{}",
        said.err
    );
    assert_eq!(stoker(&["history", "--data-dir", other_name]).code, 0);
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
}
