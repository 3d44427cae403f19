use std::sync::atomic::{AtomicUsize, Ordering};

use stoker_git::AdvertisedRef;

use super::*;

fn unreachable() -> LookupError {
    GitError::Unreachable { host: "h:22".into(), detail: "refused".into() }.into()
}

fn limited(seconds: u64) -> GitError {
    GitError::RateLimited { url: "https://h/a".into(), retry_after: Some(Duration::from_secs(seconds)) }
}

fn state(result: Result<(), LookupError>, trigger: Option<&str>, next: Option<Instant>) -> State {
    let commit = "1".repeat(40).parse().unwrap();
    let resolution: Resolution = serde_json::from_value(serde_json::json!({
        "commit": stoker_git::CommitId::to_string(&commit), "kind": "Branch", "reference": "refs/heads/main", "warnings": [],
    }))
    .unwrap();
    let outcome = Outcome {
        result: result.map(|()| resolution),
        trust: Trust::default(),
        trigger: trigger.map(str::to_owned),
        at: Timestamp::UNIX_EPOCH,
        problems: Vec::new(),
    };
    State { outcome: Some(outcome), next, ..State::default() }
}

#[test]
fn a_look_up_is_due_by_time_or_by_a_new_trigger() {
    let now = Instant::now();
    let later = Some(now + Duration::from_secs(60));
    assert!(State::default().due(None, now));
    assert!(!state(Ok(()), None, later).due(None, now));
    assert!(state(Ok(()), None, Some(now)).due(None, now));
    assert!(!state(Ok(()), None, None).due(None, now), "polling is off");
    assert!(state(Ok(()), None, None).due(Some("t1"), now));
    assert!(!state(Ok(()), Some("t1"), later).due(Some("t1"), now));
    assert!(state(Ok(()), Some("t1"), later).due(Some("t2"), now));
    assert!(state(Err(unreachable()), Some("t1"), later).due(Some("t2"), now), "a person may hurry us");
    assert!(!state(Err(limited(60).into()), Some("t1"), later).due(Some("t2"), now), "but not the server");
}

#[test]
fn failures_are_repeated_ever_more_slowly_and_as_the_server_asks() {
    let interval = Some(Duration::from_secs(60));
    let secs = |d: Option<Duration>| d.unwrap().as_secs();
    assert!((54..=66).contains(&secs(next(&Ok(()), 0, interval, 0.5))));
    assert_eq!(next(&Ok(()), 0, None, 0.5), None);
    let waits: Vec<u64> = (1..12)
        .map(|n| secs(next::<()>(&Err(unreachable()), n, Some(Duration::from_secs(5)), 0.5)))
        .collect();
    assert_eq!(waits[0], 5);
    assert!(waits.is_sorted() && *waits.last().unwrap() == 600, "{waits:?}");
    assert!(secs(next::<()>(&Err(limited(300).into()), 1, interval, 0.0)) >= 300);
    let spread: std::collections::BTreeSet<u64> =
        (0..10).map(|n| secs(next::<()>(&Err(unreachable()), 8, interval, f64::from(n) / 10.0))).collect();
    assert!(spread.len() > 5, "{spread:?}");
}

struct Slow {
    requests: AtomicUsize,
    answer: Result<(), GitError>,
}

impl Remote for Slow {
    fn advertise<'a>(
        &'a self,
        _: &'a RemoteUrl,
        _: &'a Access,
    ) -> BoxFuture<'a, Result<Advertisement, GitError>> {
        Box::pin(async {
            self.requests.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.answer.clone()?;
            let main = AdvertisedRef {
                name: "refs/heads/main".into(),
                id: "2".repeat(40).parse().unwrap(),
                peeled: None,
            };
            Ok(Advertisement::complete(vec![main], None, ObjectFormat::Sha1))
        })
    }
}

fn remotes(answer: Result<(), GitError>) -> (Arc<Remotes>, Arc<Slow>) {
    let slow = Arc::new(Slow { requests: AtomicUsize::new(0), answer });
    (Remotes::new(Arc::clone(&slow) as Arc<dyn Remote>), slow)
}

#[tokio::test]
async fn a_thousand_askers_are_one_request_per_repository_and_credential() {
    let (remotes, slow) = remotes(Ok(()));
    let url = RemoteUrl::parse("https://git.example.com/a.git").unwrap();
    let with = |token: &str| Access {
        credentials: Credentials::Token { username: "u".into(), secret: token.into() },
        ..Access::default()
    };
    let (a, b, now) = (with("a"), with("b"), Instant::now());
    let asked = (0..1000).map(|n| remotes.advertise(&url, if n % 2 == 0 { &a } else { &b }, now));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(slow.requests.load(Ordering::SeqCst), 2);
    // Whoever was triggered later gets an answer of their own.
    remotes.advertise(&url, &a, Instant::now()).await.unwrap();
    assert_eq!(slow.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_server_that_asks_for_patience_is_not_asked_again() {
    let (remotes, slow) = remotes(Err(limited(60)));
    let url = RemoteUrl::parse("https://git.example.com/a.git").unwrap();
    for _ in 0..10 {
        remotes.advertise(&url, &Access::default(), Instant::now()).await.unwrap_err();
    }
    assert_eq!(slow.requests.load(Ordering::SeqCst), 1);
}
