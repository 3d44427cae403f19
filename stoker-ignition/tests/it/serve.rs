//! The fake gateway as a program.

use std::process::Command;

use stoker_ignition::client::{ApiKeySource, Phase};
use stoker_ignition::fake::{Behaviour, Options, serve};

use crate::bed::{KEY, LIMIT, client, data, write};

#[tokio::test]
async fn it_serves_both_schemes_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    write(&data(&dir), "projects/line/project.json", "{}");
    let key = dir.path().join("key");
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let options = Options {
        listen: Some(any),
        tls_listen: Some(any),
        data_dir: data(&dir),
        api_key_file: Some(key.clone()),
        wait_for_data_dir: false,
        behaviour: Behaviour::default(),
    };
    let (send, urls) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(serve(options, |gateway| {
        let _ = send.send([gateway.url(), gateway.https_url()]);
    }));
    let urls = urls.await.unwrap();
    for url in &urls {
        let client = client(url, ApiKeySource::file(&key));
        let deadline = tokio::time::Instant::now() + LIMIT;
        while client.status_ping().await.unwrap().phase() != Phase::Running {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(client.project_names().await.unwrap(), ["line"]);
    }
    // As a kubelet does.
    let us = std::process::id().to_string();
    assert!(Command::new("kill").args(["-TERM", &us]).status().unwrap().success());
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap().unwrap();
    assert!(client(&urls[0], ApiKeySource::None).status_ping().await.is_err());
}

#[tokio::test]
async fn a_test_on_the_other_side_of_a_socket_can_steer_it() {
    let bed = crate::bed::Bed::new(&[]).await;
    let post = |path: &'static str, body: &'static str| raw(bed.gateway.url(), "POST", path, body);
    assert!(post("/fake/switch", "scan-time=1ms\nversion=8.3.9").await.starts_with("HTTP/1.1 204"));
    assert!(post("/fake/switch", "scan-time=soon").await.contains("it takes 20ms|DURATION"));
    assert!(bed.client.gateway_info().await.unwrap().ignition_version.starts_with("8.3.9"));
    post("/fake/designers", r#"[{"user":"ada","project":"line","lastcomm":10}]"#).await;
    assert_eq!(bed.client.designers().await.unwrap().sessions[0].project, "line");
    post("/fake/fail", r#"{"path":"/data/api/v1/designers","status":500,"times":1}"#).await;
    assert!(bed.client.designers().await.is_err());
    assert!(bed.client.designers().await.is_ok());
    post("/fake/key", "").await;
    assert!(bed.client.gateway_info().await.unwrap_err().lacks_right());
    post("/fake/key", KEY).await;
    bed.client.scan(stoker_ignition::rules::ScanKind::Projects).await.unwrap();
    bed.gateway.until_events(LIMIT, |_| (!bed.gateway.scans().is_empty()).then_some(())).await.unwrap();
    let events = raw(bed.gateway.url(), "GET", "/fake/events", "").await;
    assert!(
        events.contains(r#""event":"scan""#) && events.contains(r#""loaded":["base","line"]"#),
        "{events}"
    );
    let loaded = raw(bed.gateway.url(), "GET", "/fake/loaded", "").await;
    assert!(loaded.contains("views/Main"), "{loaded}");
    post("/fake/restart", "").await;
    bed.gateway.until_running(LIMIT).await.unwrap();
    bed.gateway.set("control=off").unwrap();
    assert!(post("/fake/restart", "").await.starts_with("HTTP/1.1 404"));
}

async fn raw(url: String, method: &str, path: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let host = url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
