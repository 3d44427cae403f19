//! The scan lock around the moment in which files change.

use std::time::{Duration, Instant};

use stoker_ignition::client::LockAnswer;
use stoker_ignition::confirm::{BlockingLock, LockOptions, LockOutcome, NoLock, lock};
use stoker_ignition::rules::{ScanKind, ScanNeed};

use crate::bed::{Bed, LIMIT};

fn options(budget_ms: u64) -> LockOptions {
    LockOptions { budget: Duration::from_millis(budget_ms), ..LockOptions::default() }
}

async fn is_locked(bed: &Bed, kind: ScanKind) -> bool {
    bed.client.scan_lock_status(kind).await.unwrap().is_some()
}

#[tokio::test]
async fn both_halves_are_locked_config_first_and_each_scan_releases_its_own() {
    let bed = Bed::new(&[]).await;
    let LockOutcome::Held(held) = lock(&bed.client, ScanNeed::BOTH, &options(1000)).await else {
        panic!("no lock")
    };
    assert_eq!(held.kinds(), [ScanKind::Config, ScanKind::Projects]);
    assert!(held.remaining() > Duration::from_secs(20));
    bed.client.scan(ScanKind::Config).await.unwrap();
    assert!(!is_locked(&bed, ScanKind::Config).await);
    assert!(is_locked(&bed, ScanKind::Projects).await);
    held.give_back(&bed.client).await;
    assert!(!is_locked(&bed, ScanKind::Projects).await);
}

#[tokio::test]
async fn a_lock_of_somebody_else_is_waited_for_within_the_budget() {
    for reading in ["lock-busy=409", "lock-busy=408"] {
        let bed = Bed::new(&[reading]).await;
        let projects = ScanNeed { projects: true, config: false };
        let (now, second) = (Duration::ZERO, Duration::from_secs(1));
        let theirs = bed.client.scan_lock(ScanKind::Projects, now, second).await.unwrap();
        assert!(matches!(theirs, LockAnswer::Held(_)));
        let began = Instant::now();
        let busy = lock(&bed.client, projects, &options(300)).await;
        assert!(matches!(busy, LockOutcome::Busy(ScanKind::Projects)), "{reading}: {busy:?}");
        assert!(began.elapsed() < second, "{reading}: longer than the budget");
        let held = lock(&bed.client, projects, &options(10_000)).await;
        assert!(matches!(held, LockOutcome::Held(_)), "{reading}: {held:?}");
    }
}

#[tokio::test]
async fn when_the_second_lock_is_busy_the_first_is_given_back() {
    let bed = Bed::new(&[]).await;
    let minute = Duration::from_secs(60);
    bed.client.scan_lock(ScanKind::Projects, Duration::ZERO, minute).await.unwrap();
    let busy = lock(&bed.client, ScanNeed::BOTH, &options(0)).await;
    assert!(matches!(busy, LockOutcome::Busy(ScanKind::Projects)), "{busy:?}");
    assert!(!is_locked(&bed, ScanKind::Config).await);
    assert!(is_locked(&bed, ScanKind::Projects).await, "the lock of somebody else stays");
}

#[tokio::test]
async fn without_a_gateway_a_route_or_a_right_there_is_no_lock_and_no_waiting() {
    let bed = Bed::new(&[]).await;
    let began = Instant::now();
    let nothing = lock(&bed.client, ScanNeed::default(), &options(60_000)).await;
    assert!(matches!(nothing, LockOutcome::Without(NoLock::NothingToScan)), "{nothing:?}");
    bed.gateway.set("scan-lock=off").unwrap();
    let old = lock(&bed.client, ScanNeed::BOTH, &options(60_000)).await;
    assert!(matches!(old, LockOutcome::Without(NoLock::NoRoute)), "{old:?}");
    bed.gateway.set("scan-lock=on").unwrap();
    bed.gateway.set_key(None);
    let stranger = lock(&bed.client, ScanNeed::BOTH, &options(60_000)).await;
    assert!(matches!(stranger, LockOutcome::Without(NoLock::Gateway(_))), "{stranger:?}");
    bed.gateway.set("boot-time=10m").unwrap();
    bed.gateway.restart();
    let starting = lock(&bed.client, ScanNeed::BOTH, &options(60_000)).await;
    assert!(matches!(starting, LockOutcome::Without(NoLock::Gateway(_))), "{starting:?}");
    bed.gateway.stop().await;
    let gone = lock(&bed.client, ScanNeed::BOTH, &options(60_000)).await;
    assert!(matches!(gone, LockOutcome::Without(NoLock::Gateway(_))), "{gone:?}");
    assert!(began.elapsed() < LIMIT);
}

#[tokio::test]
async fn a_blocking_caller_can_lock_too() {
    let bed = Bed::new(&[]).await;
    let blocking = BlockingLock::new(bed.client.clone(), tokio::runtime::Handle::current(), options(1000));
    let outcome = tokio::task::spawn_blocking(move || {
        let outcome = blocking.lock(ScanNeed::BOTH);
        if let LockOutcome::Held(held) = &outcome {
            blocking.give_back(held.clone());
        }
        outcome
    });
    assert!(matches!(outcome.await.unwrap(), LockOutcome::Held(_)));
    assert!(!is_locked(&bed, ScanKind::Config).await);
}
