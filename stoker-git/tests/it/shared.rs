//! One request for all who want to know, on a git server that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use stoker_core::Fault;
use stoker_git::serve::{GitBackend, GitHttpServer};
use stoker_git::shared::{Freshness, Viewpoint};
use stoker_git::{Access, Credentials, GitError, RefSpec, SharedRefs};

use crate::support::*;

const RESOURCES: usize = 1000;

fn spec(text: &str) -> RefSpec {
    text.parse().unwrap()
}

/// What was seen this long ago is good enough.
fn ago(time: Duration) -> Freshness {
    Freshness::since(Instant::now().checked_sub(time).unwrap())
}

fn now() -> Freshness {
    Freshness::since(Instant::now())
}

/// Resources that each ask now and then, in no order; how often each asks, and how old an answer may be for it.
async fn poll(refs: &Arc<SharedRefs>, url: &str, interval: Duration, rounds: u32) -> Vec<Duration> {
    let tasks = (0..RESOURCES).map(|number| {
        let (refs, url) = (Arc::clone(refs), url_of(url));
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for round in 0..rounds {
                // From 0.9 to 1.1 of the interval, another each time.
                let share = (number * 7919 + round as usize * 104_729) % 1000;
                let pause = interval.mul_f64(0.9 + 0.2 * share as f64 / 1000.0);
                let asked = Instant::now();
                let (access, wanted) = (Access::default(), spec(["main", "v1"][number % 2]));
                refs.resolve(&url, &access, &wanted, ago(interval.mul_f64(0.9))).await.result.unwrap();
                slowest = slowest.max(asked.elapsed());
                tokio::time::sleep(pause).await;
            }
            slowest
        })
    });
    futures::future::join_all(tasks.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_resources_cost_one_request_an_interval_and_a_trigger_one_more() {
    let plant = Plant::new();
    plant.git(&["tag", "v1"]);
    plant.push(&["v1"]);
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let url = server.url("plant.git");
    let requests = || server.backend().requests();
    let refs = SharedRefs::new(client());

    let (interval, rounds) = (Duration::from_secs(1), 4);
    let start = Instant::now();
    poll(&refs, &url, interval, rounds).await;
    // The first to ask in each interval does so after nine tenths of it, at the earliest.
    let most = (start.elapsed().as_secs_f64() / interval.mul_f64(0.9).as_secs_f64()).ceil() as u64 + 1;
    println!("{RESOURCES} resources, {rounds} rounds: {} requests, at most {most}", requests());
    assert!((u64::from(rounds) - 1..=most).contains(&requests()), "{} requests, at most {most}", requests());

    // One is triggered: one request, at once, and it finds what was pushed.
    let before = requests();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let commit = plant.change("2");
    let pushed = Instant::now();
    let seen = refs.resolve(&url_of(&url), &Access::default(), &spec("main"), Freshness::since(pushed)).await;
    assert_eq!((seen.result.unwrap().commit, seen.is_news), (commit, true));
    assert_eq!(requests() - before, 1);
    // Those who see the same from there are content with it.
    let other = refs.resolve(&url_of(&url), &Access::default(), &spec("v1"), Freshness::since(pushed)).await;
    assert_eq!((other.viewpoint, other.is_news), (seen.viewpoint, false));
    assert_eq!(requests() - before, 1);

    // All are triggered by one push, spread over a second: the first is asked for at once, the others share.
    let before = requests();
    plant.change("3");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tasks = (0..RESOURCES).map(|number| {
        let (refs, url) = (Arc::clone(&refs), url_of(&url));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(number as u64)).await;
            refs.resolve(&url, &Access::default(), &spec("main"), now()).await.result.unwrap().commit
        })
    });
    let newest = plant.id("main");
    for found in futures::future::join_all(tasks.collect::<Vec<_>>()).await {
        assert_eq!(found.unwrap(), newest);
    }
    assert!(
        requests() - before <= 5,
        "{} requests for {RESOURCES} triggers in a second",
        requests() - before
    );

    // Another credential is another question.
    let before = requests();
    let someone = Access { credentials: token("t"), ..Access::default() };
    let seen = refs.resolve(&url_of(&url), &someone, &spec("main"), ago(interval)).await;
    assert!(seen.result.is_ok() && seen.viewpoint != other.viewpoint);
    assert_eq!(requests() - before, 1);
    // A commit id is no question.
    refs.resolve(&url_of(&url), &someone, &spec(&commit.to_string()), now()).await.result.unwrap();
    assert_eq!(requests() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_pushed_a_moment_ago_is_not_denied() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (url, refs) = (url_of(&server.url("plant.git")), SharedRefs::new(client()));
    let minute = Duration::from_secs(60);
    refs.resolve(&url, &Access::default(), &spec("main"), ago(minute)).await.result.unwrap();
    plant.git(&["branch", "hotfix"]);
    plant.push(&["hotfix"]);
    // A minute-old answer would be good enough, but it lacks the branch.
    let first = || Freshness { denied_since: Instant::now(), ..ago(minute) };
    refs.resolve(&url, &Access::default(), &spec("main"), first()).await.result.unwrap();
    assert_eq!(server.backend().requests(), 1);
    refs.resolve(&url, &Access::default(), &spec("hotfix"), first()).await.result.unwrap();
    assert_eq!(server.backend().requests(), 2);
    let error = refs.resolve(&url, &Access::default(), &spec("hotfxi"), first()).await.result.unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"hotfix\"?"), "{error}");
    assert_eq!(server.backend().requests(), 3);
    // A thousand that make the same mistake and are patient cost nothing.
    for _ in 0..1000 {
        refs.resolve(&url, &Access::default(), &spec("hotfxi"), ago(minute)).await.result.unwrap_err();
    }
    assert_eq!(server.backend().requests(), 3);
}

/// A forge with a limit of requests answers 429 for a while, then serves again.
#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_asks_for_patience_is_not_asked_before() {
    let plant = Plant::new();
    let (asked, limited) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
    let (counter, left) = (asked.clone(), limited.clone());
    let app = GitBackend::new(plant.root()).router().layer(from_fn(move |request: Request, next: Next| {
        let (counter, left) = (counter.clone(), left.clone());
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let refuse = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            if refuse {
                return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response();
            }
            next.run(request).await
        }
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url_of(&format!("http://{}/plant.git", listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let refs = SharedRefs::new(client());
    let hurry = || async { refs.resolve(&url, &Access::default(), &spec("main"), now()).await.result };
    let start = Instant::now();
    let error = hurry().await.unwrap_err();
    assert_eq!(error.category().as_str(), "RateLimited", "{error}");
    // Whoever asks meanwhile, a thousand times and in a hurry, gets the same answer.
    while start.elapsed() < Duration::from_millis(1800) {
        let errors = futures::future::join_all((0..100).map(|_| hurry())).await;
        assert!(errors.iter().all(|e| matches!(e, Err(GitError::RateLimited { .. }))));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::sleep_until((start + Duration::from_millis(2600)).into()).await;
    hurry().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// A host that accepts and never answers, with more repositories than there are slots; and a proxy that does so, on the
/// way to the very host that others wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_delays_no_other() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let black_hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = black_hole.local_addr().unwrap().port();
    let refs = SharedRefs::new(client());
    let lost: Vec<_> = (0..50)
        .map(|n| {
            let refs = Arc::clone(&refs);
            // Another name than that of the host that works.
            let url = url_of(&format!("http://localhost:{port}/{n}.git"));
            let proxy = format!("http://localhost:{port}").parse().unwrap();
            let (url, access) = match n % 2 {
                0 => (url, Access::default()),
                _ => (
                    url_of(&server.url(&format!("{n}.git"))),
                    Access { proxy: Some(proxy), ..Access::default() },
                ),
            };
            tokio::spawn(async move {
                refs.resolve(&url, &access, &spec("main"), now()).await;
            })
        })
        .collect();
    let _held = black_hole.accept().unwrap();
    for n in 0..20 {
        let start = Instant::now();
        let url = url_of(&server.url("plant.git"));
        // Each with a credential of its own, so that each is a request.
        let access = Access { credentials: token(&format!("t{n}")), ..Access::default() };
        refs.resolve(&url, &access, &spec("main"), now()).await.result.unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{n}: {:?}", start.elapsed());
    }
    assert!(lost.iter().all(|task| !task.is_finished()));
    lost.iter().for_each(tokio::task::JoinHandle::abort);
}

/// With many references only the names that somebody wants are asked for, all in one request.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_references_all_wanted_ones_are_asked_for_together() {
    let plant = crate::references::crowded();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (url, refs) = (url_of(&server.url("plant.git")), SharedRefs::new(client()));
    let names: Vec<RefSpec> = (0..100).map(|n| spec(&format!("user/somebody/change-{n:05}"))).collect();
    let all = |freshness| {
        let asked = names.iter().map(|name| {
            let (refs, url) = (&refs, &url);
            async move { refs.resolve(url, &Access::default(), name, freshness).await.result.unwrap() }
        });
        futures::future::join_all(asked)
    };
    all(now()).await;
    let first = server.backend().requests();
    let before = server.backend().sent_bytes();
    all(now()).await;
    let bytes = server.backend().sent_bytes() - before;
    assert!(server.backend().requests() - first <= 2, "one question in two round trips");
    assert!(bytes < 40_000, "{bytes} bytes for 100 of 50,000 references");
    let error = refs.resolve(&url, &Access::default(), &spec("mian"), now()).await.result.unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"main\"?"), "{error}");
    let asked = server.backend().requests();
    let again = refs.resolve(&url, &Access::default(), &spec("mian"), ago(Duration::from_secs(60))).await;
    assert!(again.result.is_err());
    assert_eq!(server.backend().requests(), asked, "the same mistake is not looked into again");
}

/// C10: who names the same GitHub App without its key gets no answer that the key was needed for.
#[test]
fn another_credential_is_another_viewpoint() {
    let url = url_of("https://github.com/plant/a.git");
    let app = |installation_id: u64, key: &str| {
        Credentials::GithubApp(stoker_git::GithubApp {
            app_id: 12,
            installation_id,
            private_key: key.into(),
            api_base_url: "https://api.github.com".into(),
        })
    };
    let key = |text: &str| Credentials::SshKey { private_key: text.into(), passphrase: None };
    let bearer = Credentials::Bearer { secret: "a".into() };
    let all = [
        app(34, "a"),
        app(34, "b"),
        app(35, "a"),
        bearer,
        token("a"),
        token("b"),
        key("a"),
        Credentials::None,
    ];
    let viewpoints: std::collections::HashSet<_> = all
        .into_iter()
        .map(|credentials| Viewpoint::of(&url, &Access { credentials, ..Access::default() }))
        .collect();
    assert_eq!(viewpoints.len(), 8);
    let proxied = |url: &str, login: Option<(&str, &str)>| {
        let proxy: stoker_git::Proxy = url.parse().unwrap();
        let proxy = match login {
            Some((username, password)) => proxy.with_login(username.into(), password.into()).unwrap(),
            None => proxy,
        };
        Viewpoint::of(
            &url_of("https://github.com/plant/a.git"),
            &Access { proxy: Some(proxy), ..Access::default() },
        )
    };
    let ways = std::collections::HashSet::from([
        Viewpoint::of(&url, &Access::default()),
        proxied("http://a:1", None),
        proxied("http://a:2", None),
        proxied("http://a:1", Some(("u", "p"))),
        proxied("http://a:1", Some(("u", "q"))),
        proxied("http://a:1", Some(("v", "p"))),
    ]);
    assert_eq!(ways.len(), 6, "another proxy, or another login there");
}
