//! Confirmed scans: only what the gateway really did counts.

use std::collections::BTreeSet;
use std::time::Duration;

use stoker_core::{Fault, RelPathBuf};
use stoker_ignition::confirm::{
    Backoff, ConfirmOptions, Confirmation, Ended, ScanOutcome, Skip, Subject, Unconfirmed, Verdict, Work,
    confirm, confirm_until,
};
use stoker_ignition::fake::{Event, Failure, FailureKind, GatewayPhase, Load};
use stoker_ignition::rules::{ScanKind, Touched};

use crate::bed::{Bed, KEY, LIMIT, VIEW};

const PROVIDER: &str = "config/resources/core/ignition/tag-provider/edge";

fn work(paths: &[&str]) -> Work {
    let paths: Vec<_> = paths.iter().map(|p| RelPathBuf::parse(p).unwrap()).collect();
    Work::of(Touched::of_written(paths.iter().map(RelPathBuf::as_path)))
}

/// A tag provider and a view that changed together.
fn both(bed: &Bed) -> Work {
    bed.write(&format!("{PROVIDER}/config.json"), r#"{"profile":{"type":"STANDARD"}}"#);
    bed.write(
        &format!("{PROVIDER}/resource.json"),
        r#"{"scope":"G","files":["config.json"],"attributes":{}}"#,
    );
    let view = format!("projects/line/{VIEW}/view.json");
    bed.write(&view, r#"{"root":2}"#);
    work(&[&format!("{PROVIDER}/config.json"), &format!("{PROVIDER}/resource.json"), &view])
}

fn fast() -> Backoff {
    Backoff { first: Duration::from_millis(5), max: Duration::from_millis(50) }
}

async fn until(bed: &Bed, work: &Work) -> Confirmation {
    let never = std::future::pending();
    let (options, backoff) = (ConfirmOptions::default(), fast());
    let run = confirm_until(&bed.client, work, &options, &backoff, Some(LIMIT), never, |_, _| {});
    match run.await {
        Ended::Answered(confirmation) => confirmation,
        Ended::Stopped { last } => panic!("never answered: {last:?}"),
    }
}

fn outcome(confirmation: &Confirmation, kind: ScanKind) -> &ScanOutcome {
    &confirmation.scans.iter().find(|s| s.kind == kind).unwrap().outcome
}

#[tokio::test]
async fn what_changed_is_loaded_config_first_and_verified() {
    let bed = Bed::new(&["scan-time=40ms"]).await;
    let work = both(&bed);
    let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{confirmation:?}");
    assert_eq!(confirmation.summary(), "");
    assert!(confirmation.scans.iter().all(|s| s.duration >= Duration::from_millis(40)), "{confirmation:?}");
    assert!(confirmation.verification.gateway.unwrap().ignition_version.starts_with("8.3"));

    let scans = bed.gateway.scans();
    assert_eq!(scans.iter().map(|s| s.kind).collect::<Vec<_>>(), [ScanKind::Config, ScanKind::Projects]);
    let config_done = scans[0].at_ms + scans[0].duration.as_millis() as i64;
    assert!(scans[1].at_ms >= config_done, "projects were scanned before the config scan was over");
    let Some(Load::Projects(projects)) = &scans[1].load else { panic!("no load") };
    assert!(projects.loaded["line"].resources.contains_key(VIEW));
}

#[tokio::test]
async fn a_half_that_did_not_change_is_not_scanned() {
    let bed = Bed::new(&[]).await;
    let work = work(&["projects/line/project.json"]);
    let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
    assert_eq!(outcome(&confirmation, ScanKind::Config), &ScanOutcome::Skipped(Skip::NothingChanged));
    assert_eq!(confirmation.verdict(), Verdict::Confirmed);
    assert!(bed.gateway.requests().iter().all(|r| !r.path.ends_with("scan/config")));
}

#[tokio::test]
async fn the_end_of_a_scan_that_ran_before_proves_nothing() {
    let bed = Bed::new(&["scan-time=300ms"]).await;
    bed.client.scan(ScanKind::Projects).await.unwrap();
    // The scan that runs has read the files by now; this change comes too late for it.
    tokio::time::sleep(Duration::from_millis(150)).await;
    bed.write("projects/late/project.json", "{}");
    let confirmation =
        confirm(&bed.client, &work(&["projects/late/project.json"]), &ConfirmOptions::default())
            .await
            .unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{}", confirmation.summary());
    let scans = bed.gateway.scans();
    assert!(!scans[0].loaded.contains(&"late".to_owned()));
    assert!(scans[1].loaded.contains(&"late".to_owned()), "confirmed by the wrong scan");
}

#[tokio::test]
async fn a_gateway_without_scan_status_leaves_it_unknown() {
    let bed = Bed::new(&["scan-status=off", "scan-time=100ms"]).await;
    let work = both(&bed);
    let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
    for kind in ScanKind::ALL {
        assert_eq!(outcome(&confirmation, kind), &ScanOutcome::Unconfirmed(Unconfirmed::NoStatus));
    }
    // Both were asked for all the same, and everything turned out to be there.
    let posts = bed.gateway.requests().into_iter().filter(|r| r.method == "POST").count();
    assert_eq!(posts, 2);
    assert_eq!(confirmation.verdict(), Verdict::Unverified, "{}", confirmation.summary());
    assert!(confirmation.summary().contains("no scan status"), "{}", confirmation.summary());

    // What does not turn up within the limit is a problem all the same.
    bed.write("projects/broken/project.json", "{");
    let options = ConfirmOptions { scan_limit: Duration::from_millis(200), ..ConfirmOptions::default() };
    let confirmation =
        confirm(&bed.client, &self::work(&["projects/broken/project.json"]), &options).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Rejected);
}

#[tokio::test]
async fn a_scan_that_does_not_end_in_time_is_unconfirmed_and_projects_wait_for_it() {
    let bed = Bed::new(&["scan-time=10m"]).await;
    let limit = Duration::from_millis(150);
    let options = ConfirmOptions { scan_limit: limit, ..ConfirmOptions::default() };
    let confirmation = confirm(&bed.client, &both(&bed), &options).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Unconfirmed);
    assert_eq!(
        outcome(&confirmation, ScanKind::Config),
        &ScanOutcome::Unconfirmed(Unconfirmed::TooSlow(limit))
    );
    assert_eq!(outcome(&confirmation, ScanKind::Projects), &ScanOutcome::Skipped(Skip::ConfigUnconfirmed));
    assert!(bed.gateway.requests().iter().all(|r| !r.path.ends_with("scan/projects")));
}

/// A15: files are there, the gateway is not ready; then it is. Nothing is asked of it before.
#[tokio::test]
async fn a_gateway_that_starts_is_asked_once_it_is_up_and_not_before() {
    let bed = Bed::starting(&["boot-time=300ms"]).await;
    let work = both(&bed);
    let confirmation = until(&bed, &work).await;
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{}", confirmation.summary());
    let events = bed.gateway.events();
    let boot = events.iter().position(|e| matches!(e, Event::Boot(_))).unwrap();
    let early = |e: &Event| matches!(e, Event::Request(r) if r.path != "/StatusPing");
    assert!(!events[..boot].iter().any(early), "{:?}", &events[..boot]);
}

#[tokio::test]
async fn commissioning_and_a_key_that_is_not_known_yet_are_waited_out() {
    let bed = Bed::new(&["commissioned=off"]).await;
    bed.gateway.set_key(None);
    let work = both(&bed);
    let options = ConfirmOptions::default();
    let first = confirm(&bed.client, &work, &options).await.unwrap_err();
    assert_eq!(first.category().as_str(), "GatewayNotCommissioned");
    let mut seen = Vec::new();
    let (never, backoff) = (std::future::pending(), fast());
    let ended = confirm_until(&bed.client, &work, &options, &backoff, Some(LIMIT), never, |attempt, _| {
        seen.push(attempt.as_ref().unwrap_err().category().as_str());
        match seen.len() {
            2 => bed.gateway.set("commissioned=on").unwrap(),
            4 => bed.gateway.set_key(Some(KEY)),
            _ => {}
        }
    });
    let Ended::Answered(confirmation) = ended.await else { panic!("never answered") };
    assert_eq!(confirmation.verdict(), Verdict::Confirmed);
    assert_eq!(
        seen,
        ["GatewayNotCommissioned", "GatewayNotCommissioned", "GatewayUnauthorized", "GatewayUnauthorized"]
    );
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_scan_ends_confirmed_under_both_readings() {
    for remembers in ["timestamp-at-boot=on", "timestamp-at-boot=off"] {
        let bed = Bed::new(&["scan-time=300ms", "boot-time=100ms", remembers]).await;
        let work = both(&bed);
        let restart = async {
            let asked = |e: &[Event]| {
                e.iter().any(|e| matches!(e, Event::Request(r) if r.method == "POST")).then_some(())
            };
            bed.gateway.until_events(LIMIT, asked).await.unwrap();
            bed.gateway.restart();
        };
        let (confirmation, ()) = tokio::join!(until(&bed, &work), restart);
        assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{remembers}: {}", confirmation.summary());
        assert_eq!(bed.gateway.phase(), GatewayPhase::Running);
        let loaded = bed.gateway.loaded_config();
        assert!(loaded.loaded["core"].resources.contains_key("ignition/tag-provider/edge"));
    }
}

#[tokio::test]
async fn a_confirmed_half_is_not_scanned_again_by_the_next_attempt() {
    let bed = Bed::new(&[]).await;
    let work = both(&bed);
    let refuse =
        Failure { path: "/data/api/v1/scan/projects".into(), how: FailureKind::Status(500), times: Some(3) };
    bed.gateway.fail(refuse);
    let confirmation = until(&bed, &work).await;
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{}", confirmation.summary());
    let config = bed.gateway.scans().iter().filter(|s| s.kind == ScanKind::Config).count();
    assert_eq!(config, 1);
}

#[tokio::test]
async fn a_key_that_may_not_scan_leaves_it_unconfirmed_with_the_reason() {
    let bed = Bed::new(&["permission=read"]).await;
    let confirmation = confirm(&bed.client, &both(&bed), &ConfirmOptions::default()).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Unconfirmed);
    let ScanOutcome::Unconfirmed(Unconfirmed::Failed { category, message }) =
        outcome(&confirmation, ScanKind::Config)
    else {
        panic!("{confirmation:?}")
    };
    assert_eq!(category.as_str(), "GatewayForbidden");
    assert!(message.contains("Write"), "{message}");
}

#[tokio::test]
async fn a_key_that_may_scan_but_not_look_is_unverified_not_rejected() {
    let bed = Bed::new(&[]).await;
    for path in
        ["/data/api/v1/projects", "/data/api/v1/logs", "/data/api/v1/gateway-info", "/data/api/v1/resources"]
    {
        bed.gateway.fail(Failure { path: path.into(), how: FailureKind::Status(403), times: None });
    }
    let confirmation = confirm(&bed.client, &both(&bed), &ConfirmOptions::default()).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Unverified, "{confirmation:?}");
    let what: BTreeSet<_> = confirmation.verification.unverified.iter().map(|u| u.what.as_str()).collect();
    assert_eq!(what, ["gateway", "projects", "ignition/tag-provider", "log"].into());
}

#[tokio::test]
async fn what_the_gateway_did_not_take_is_named() {
    let bed = Bed::new(&[]).await;
    bed.write("projects/orphan/project.json", r#"{"parent":"gone"}"#);
    bed.write("projects/broken/project.json", "{");
    bed.write(&format!("projects/line/{VIEW}/view.json"), "{\"root\":");
    bed.write(&format!("{PROVIDER}/resource.json"), r#"{"files":["config.json"]}"#);
    let view = format!("projects/line/{VIEW}/view.json");
    let provider = format!("{PROVIDER}/resource.json");
    let work = work(&["projects/orphan/project.json", "projects/broken/project.json", &view, &provider]);
    let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Rejected);
    let subjects: BTreeSet<_> =
        confirmation.verification.problems.iter().map(|p| p.subject.clone()).collect();
    let expected = BTreeSet::from([
        Subject::Project("broken".into()),
        Subject::Project("orphan".into()),
        Subject::Folder(format!("projects/line/{VIEW}")),
        Subject::Folder(PROVIDER.into()),
        Subject::Resource("ignition/tag-provider/edge".into()),
    ]);
    assert_eq!(subjects, expected, "{}", confirmation.summary());
}

#[tokio::test]
async fn log_lines_about_something_else_are_notes_and_old_ones_are_nobodys() {
    let bed = Bed::new(&["scan-time=100ms"]).await;
    bed.gateway.log_warning("an old complaint");
    let work = both(&bed);
    let complain = async {
        let asked = |e: &[Event]| e.iter().any(|e| matches!(e, Event::Scan(_))).then_some(());
        bed.gateway.until_events(LIMIT, asked).await.unwrap();
        bed.gateway.log_warning("a device does not answer");
    };
    let options = ConfirmOptions::default();
    let (confirmation, ()) = tokio::join!(confirm(&bed.client, &work, &options), complain);
    let confirmation = confirmation.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{}", confirmation.summary());
    let notes: Vec<_> = confirmation.verification.notes.iter().map(|l| l.message.as_str()).collect();
    assert_eq!(notes, ["a device does not answer"]);
}

#[tokio::test]
async fn a_base_project_is_there_although_the_list_has_runnable_ones_only() {
    let bed = Bed::new(&["projects-list=runnable"]).await;
    let work = work(&["projects/base/project.json", "projects/line/project.json"]);
    let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
    assert_eq!(confirmation.verdict(), Verdict::Confirmed, "{}", confirmation.summary());
}

#[tokio::test]
async fn a_resource_with_a_wrong_signature_is_missed_where_the_gateway_skips_it_silently() {
    for (reading, verdict) in [("ignored", Verdict::Confirmed), ("enforced", Verdict::Rejected)] {
        let switch = format!("config-signature={reading}");
        let bed = Bed::new(&[&switch]).await;
        let work = both(&bed);
        bed.write(
            &format!("{PROVIDER}/resource.json"),
            r#"{"scope":"G","files":["config.json"],"attributes":{"lastModificationSignature":"00"}}"#,
        );
        let confirmation = confirm(&bed.client, &work, &ConfirmOptions::default()).await.unwrap();
        assert_eq!(confirmation.verdict(), verdict, "{reading}: {}", confirmation.summary());
    }
}

#[tokio::test]
async fn cancelling_and_a_limit_end_the_waiting_with_what_is_known() {
    let bed = Bed::starting(&["boot-time=10m"]).await;
    let work = both(&bed);
    let options = ConfirmOptions::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let cancel = async {
        let _ = stopped.await;
    };
    let backoff = fast();
    let ended = confirm_until(&bed.client, &work, &options, &backoff, None, cancel, |_, _| {
        let _ = stop.take().map(|s| s.send(()));
    });
    let Ended::Stopped { last: Some(Err(not_ready)) } = ended.await else { panic!("answered") };
    assert_eq!(not_ready.category().as_str(), "GatewayStarting");

    let limit = Some(Duration::from_millis(100));
    let never = std::future::pending();
    let ended = confirm_until(&bed.client, &work, &options, &backoff, limit, never, |_, _| {}).await;
    assert!(matches!(ended, Ended::Stopped { last: Some(Err(_)) }), "{ended:?}");
}
