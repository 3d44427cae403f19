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

#[test]
fn how_old_an_answer_may_be() {
    let (minute, now) = (Some(Duration::from_secs(60)), Instant::now() + Duration::from_secs(3600));
    let ages = |state: State, trigger| {
        let freshness = state.freshness(trigger, minute, now);
        [freshness.seen_since, freshness.denied_since].map(|moment| (now - moment).as_secs())
    };
    assert_eq!(ages(State::default(), None), [5, 0]);
    assert_eq!(ages(state(Ok(()), Some("t1"), None), Some("t1")), [54, 54]);
    assert_eq!(ages(state(Ok(()), Some("t1"), None), Some("t2")), [0, 0]);
    let failed = State { failures: 3, ..state(Err(unreachable()), None, None) };
    assert_eq!(ages(failed, None), [10, 10]);
}
