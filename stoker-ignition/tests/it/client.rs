//! The client against every answer that a gateway has.

use std::time::Duration;

use stoker_core::{Fault, Retry, chain};
use stoker_ignition::client::{
    ApiKeySource, GatewayClient, GatewayError, GatewayOptions, LockAnswer, LogLevel, Phase,
};
use stoker_ignition::fake::{Failure, FailureKind};
use stoker_ignition::rules::{Designer, ResourceType, ScanKind};

use crate::bed::{Bed, KEY, LIMIT, client};

fn category(error: &GatewayError) -> &'static str {
    error.category().as_str()
}

#[tokio::test]
async fn a_healthy_gateway_answers_every_call() {
    let bed = Bed::new(&["version=8.3.7", "deployment-mode=prd"]).await;
    let c = &bed.client;
    assert_eq!(c.status_ping().await.unwrap().phase(), Phase::Running);
    assert_eq!(c.gwinfo().await.unwrap().version(), Some("8.3.7"));
    let info = c.gateway_info().await.unwrap();
    assert_eq!(
        (info.ignition_version.as_str(), info.deployment_mode.as_str()),
        ("8.3.7 (b2026042713)", "prd")
    );
    let projects = c.projects_list().await.unwrap();
    assert_eq!(projects.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["base", "line"]);
    assert!(projects.iter().all(|p| !p.invalid_parent));
    assert_eq!(c.project_names().await.unwrap(), ["base", "line"]);
    let of = ResourceType { module: "ignition".into(), name: "tag-provider".into() };
    let names = c.resource_names(&of).await.unwrap();
    assert_eq!((names[0].name.as_str(), names[0].modes[0].as_str()), ("default", "core"));
    assert_eq!(c.redundancy().await.unwrap().role, "Independent");
    bed.gateway.set_designers(vec![Designer {
        user: "ada".into(),
        project: "line".into(),
        ..Designer::default()
    }]);
    let designers = c.designers().await.unwrap();
    assert_eq!(designers.sessions[0].user, "ada");
    assert!(designers.gateway_now_ms > 1_700_000_000_000);
    bed.gateway.log_warning("something odd");
    let lines = c.logs_since(0, LogLevel::Warn, 100).await.unwrap();
    assert!(lines.iter().any(|l| l.message == "something odd" && l.level == "WARN"), "{lines:?}");
    assert!(lines.iter().all(|l| l.level != "INFO"));
}

#[tokio::test]
async fn every_refusal_has_its_own_error() {
    let bed = Bed::new(&[]).await;
    for (status, expected, retry) in [
        (400, "GatewayRefused", Retry::AfterChange),
        (401, "GatewayUnauthorized", Retry::Backoff),
        (403, "GatewayForbidden", Retry::Backoff),
        (404, "GatewayNotFound", Retry::Backoff),
        (422, "GatewayRefused", Retry::AfterChange),
        (500, "GatewayFailed", Retry::Backoff),
        (502, "GatewayFailed", Retry::Backoff),
        (503, "GatewayStarting", Retry::Backoff),
        (204, "GatewayUnexpectedAnswer", Retry::Backoff),
        (307, "GatewayUnexpectedAnswer", Retry::Backoff),
    ] {
        bed.gateway.fail(Failure { path: "/data".into(), how: FailureKind::Status(status), times: Some(1) });
        let error = bed.client.gateway_info().await.expect_err("a refusal");
        assert_eq!((category(&error), error.retry()), (expected, retry), "{status}: {error}");
        assert!(error.to_string().contains("/data/api/v1/gateway-info"), "{error}");
    }
}

#[tokio::test]
async fn html_and_half_a_document_are_no_answers() {
    let bed = Bed::new(&[]).await;
    for how in [FailureKind::Html, FailureKind::BrokenJson] {
        bed.gateway.fail(Failure { path: "/data".into(), how, times: Some(1) });
        let error = bed.client.projects_list().await.expect_err("no answer");
        assert_eq!(category(&error), "GatewayUnexpectedAnswer", "{error}");
    }
    bed.gateway.fail(Failure { path: "/StatusPing".into(), how: FailureKind::Html, times: Some(1) });
    assert_eq!(category(&bed.client.status_ping().await.unwrap_err()), "GatewayUnexpectedAnswer");
}

#[tokio::test]
async fn a_gateway_that_hangs_or_is_gone_is_told_apart() {
    let bed = Bed::new(&[]).await;
    bed.gateway.fail(Failure { path: "/data".into(), how: FailureKind::Hang, times: None });
    let options =
        GatewayOptions::new(bed.gateway.url().parse().unwrap()).request_timeout(Duration::from_millis(200));
    let hasty = GatewayClient::new(options).unwrap();
    let error = hasty.gateway_info().await.unwrap_err();
    assert_eq!(category(&error), "GatewayTimeout", "{error}");
    let url = bed.gateway.url();
    bed.gateway.stop().await;
    let error = client(&url, ApiKeySource::None).status_ping().await.unwrap_err();
    assert_eq!(category(&error), "GatewayUnreachable", "{error}");
    assert!(error.is_not_ready());
}

#[tokio::test]
async fn starting_and_uncommissioned_are_states_not_failures() {
    let bed = Bed::starting(&["boot-time=10m"]).await;
    assert_eq!(bed.client.status_ping().await.unwrap().phase(), Phase::Starting);
    let error = bed.client.gateway_info().await.unwrap_err();
    assert!(matches!(error, GatewayError::Starting { .. }), "{error}");

    let bed = Bed::new(&["commissioned=off"]).await;
    assert_eq!(bed.client.status_ping().await.unwrap().phase(), Phase::Commissioning);
    assert_eq!(bed.client.gwinfo().await.unwrap().context_status(), "NEEDS_COMMISSIONING");
    for error in
        [bed.client.scan(ScanKind::Projects).await.unwrap_err(), bed.client.gateway_info().await.unwrap_err()]
    {
        assert!(matches!(error, GatewayError::NotCommissioned { .. }), "{error}");
        assert!(error.is_not_ready());
    }
    assert!(bed.gateway.requests().iter().all(|r| r.path != "/welcome"), "the redirect was followed");
}

#[tokio::test]
async fn the_key_is_read_at_every_request_and_shown_nowhere() {
    let bed = Bed::new(&[]).await;
    bed.client.gateway_info().await.unwrap();

    // Rotated on the gateway first, then in the file: no new client is needed.
    bed.gateway.set_key(Some("ci:other-s3cret"));
    let error = bed.client.gateway_info().await.unwrap_err();
    assert!(matches!(error, GatewayError::Unauthorized { sent_key: true, .. }), "{error}");
    bed.set_key_file("ci:other-s3cret");
    bed.client.gateway_info().await.unwrap();

    for (content, expected) in [("", "ApiKeyInvalid"), ("only-s3cret", "ApiKeyInvalid")] {
        bed.set_key_file(content);
        let error = bed.client.gateway_info().await.unwrap_err();
        assert_eq!(category(&error), expected);
        assert!(!format!("{error:?} {}", chain(&error)).contains("s3cret"), "{error:?}");
    }
    std::fs::remove_file(bed.dir.path().join("key")).unwrap();
    assert_eq!(category(&bed.client.gateway_info().await.unwrap_err()), "ApiKeyUnreadable");
    // What needs no key works without one.
    bed.client.status_ping().await.unwrap();

    bed.set_key_file(KEY);
    bed.gateway.set_key(None);
    let error = bed.client.scan(ScanKind::Config).await.unwrap_err();
    let shown = format!("{:?} {error:?} {}", bed.client, chain(&error));
    assert!(!shown.contains("s3cret"), "{shown}");

    let none = client(&bed.gateway.url(), ApiKeySource::None);
    let error = none.gateway_info().await.unwrap_err().to_string();
    assert!(error.contains("no API key is configured"), "{error}");
}

#[tokio::test]
async fn plain_http_with_a_secure_key_gets_a_hint_under_both_readings() {
    for (reading, expected) in [("403", "GatewayForbidden"), ("401", "GatewayUnauthorized")] {
        let refusal = format!("plain-http-refusal={reading}");
        let bed = Bed::new(&["secure-channel-required=on", &refusal]).await;
        let error = bed.client.gateway_info().await.unwrap_err();
        assert_eq!(category(&error), expected);
        assert!(error.to_string().contains("use https"), "{error}");
        let https = client(&bed.gateway.https_url(), ApiKeySource::file(bed.dir.path().join("key")));
        https.gateway_info().await.unwrap();
    }
}

#[tokio::test]
async fn a_key_without_the_right_may_read_but_not_scan() {
    let bed = Bed::new(&["permission=read"]).await;
    bed.client.projects_list().await.unwrap();
    let error = bed.client.scan(ScanKind::Projects).await.unwrap_err();
    assert!(matches!(error, GatewayError::Forbidden { .. }) && error.lacks_right(), "{error}");
    assert!(error.to_string().contains("Write"), "{error}");
    bed.gateway.set("permission=none").unwrap();
    assert!(bed.client.projects_list().await.unwrap_err().lacks_right());
}

#[tokio::test]
async fn a_missing_scan_status_is_unknown_and_no_error() {
    let bed = Bed::new(&["scan-status=off", "scan-lock=off"]).await;
    assert_eq!(bed.client.scan_status(ScanKind::Config).await.unwrap(), None);
    assert_eq!(bed.client.scan_lock_status(ScanKind::Config).await.unwrap(), None);
    let second = Duration::from_secs(1);
    let answer = bed.client.scan_lock(ScanKind::Config, Duration::ZERO, second).await.unwrap();
    assert_eq!(answer, LockAnswer::NoRoute);
}

#[tokio::test]
async fn a_scans_answer_is_a_receipt_with_the_old_state() {
    let bed = Bed::new(&["scan-time=300ms"]).await;
    let before = bed.client.scan_status(ScanKind::Projects).await.unwrap().unwrap();
    let receipt = bed.client.scan(ScanKind::Projects).await.unwrap();
    assert!(receipt.scan_active);
    assert_eq!(receipt.last_scan_timestamp, before.last_scan_timestamp);
    assert!(!receipt.finished_since(&before));
    bed.gateway.until_events(LIMIT, |_| (!bed.gateway.scans().is_empty()).then_some(())).await.unwrap();
    let after = bed.client.scan_status(ScanKind::Projects).await.unwrap().unwrap();
    assert!(after.finished_since(&before) && after.last_scan_duration >= 300, "{after:?}");
}

#[tokio::test]
async fn a_query_that_the_gateway_does_not_know_is_not_taken_for_an_empty_list() {
    // What a gateway does with an undeclared parameter, told from outside the client.
    let bed = Bed::new(&[]).await;
    let url = format!("{}/data/api/v1/projects/names?zzz=1", bed.gateway.url());
    let answer: serde_json::Value = serde_json::from_str(&raw_get(&url).await).unwrap();
    assert_eq!(answer["items"].as_array().unwrap().len(), 0);
    assert_eq!(
        (answer["metadata"]["total"].as_u64(), answer["metadata"]["matching"].as_u64()),
        (Some(2), Some(0))
    );
}

async fn raw_get(url: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Ignition-API-Token: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
