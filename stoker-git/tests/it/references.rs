//! References: very many, none, moving, gone; and servers that know less than today's.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use stoker_core::{RelPath, Source};
use stoker_git::serve::{GitBackend, GitHttpServer};
use stoker_git::{Git, GitError, Limits, RefSpec, ResolveWarning, Wanted};

use crate::relay::{Breaking, Fate, Habits, VERSION_0};
use crate::support::*;

fn spec(text: &str) -> RefSpec {
    text.parse().unwrap()
}

/// As many references as a busy monorepo with a branch for each change.
const MANY: usize = 50_000;

/// A plant with very many branches, and an annotated tag.
pub(crate) fn crowded() -> Plant {
    let plant = Plant::new();
    plant.git(&["tag", "-a", "v1", "-m", "one"]);
    plant.push(&["v1"]);
    let (commit, tag) = (plant.id("main"), plant.git(&["rev-parse", "v1"]));
    let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    writeln!(packed, "{commit} refs/heads/main").unwrap();
    for n in 0..MANY {
        writeln!(packed, "{commit} refs/heads/user/somebody/change-{n:05}").unwrap();
    }
    writeln!(packed, "{tag} refs/tags/v1\n^{commit}").unwrap();
    let bare = plant.bare();
    let _ = std::fs::remove_file(bare.join("refs/heads/main"));
    let _ = std::fs::remove_file(bare.join("refs/tags/v1"));
    std::fs::write(bare.join("packed-refs"), packed).unwrap();
    plant
}

/// The address space is bounded: what the child holds of the references is a fraction of it.
fn in_little_memory() -> Git {
    let mut limits = Limits::default();
    limits.child_memory_bytes = 384 << 20;
    client().with_limits(limits)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_thousand_references_only_those_that_matter_go_over_the_wire() {
    let plant = crowded();
    let commit = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (_daemon, daemon) = crate::daemon::start(&plant);
    for (scheme, upstream) in [("http", server.address().port()), ("git", url_of(&daemon).port().unwrap())] {
        let relay = Breaking::before(upstream, Fate::Pass);
        let remote = remote(&format!("{scheme}://127.0.0.1:{}/plant.git", relay.port));
        let git = in_little_memory();
        let passed = || relay.passed.swap(0, Ordering::SeqCst);

        let whole = git.advertisement(&remote).await.unwrap();
        assert!(whole.is_complete() && whole.refs.len() == MANY + 2, "{scheme}");
        let all = passed();
        assert!(all > 3_000_000, "{scheme}: {all} bytes");

        // The first time it turns out on the way that there are many; then it is known.
        let resolved = git.resolve(&remote, &spec("main")).await.unwrap();
        assert_eq!((resolved.commit, resolved.reference.as_deref()), (commit, Some("refs/heads/main")));
        let first = passed();
        let start = Instant::now();
        let wanted = ["main", "v1", "HEAD", "user/somebody/change-31415", "refs/heads/main"];
        for name in wanted {
            assert_eq!(git.resolve(&remote, &spec(name)).await.unwrap().commit, commit, "{scheme} {name}");
            let bytes = passed();
            assert!(bytes < 4_000, "{scheme} {name}: {bytes} bytes");
        }
        println!("{scheme}: all {all} bytes, first {first}; five by name in {:?}", start.elapsed());
        // Several at once, which those that were not asked for are not among.
        let specs = wanted.map(spec);
        let some = git.advertisement_for(&remote, &specs).await.unwrap();
        assert!(!some.is_complete() && some.refs.len() == 3, "{scheme}: {:?}", some.refs);
        assert!(specs.iter().all(|s| some.covers(s)) && !some.covers(&spec("other")));
        assert_eq!(some.get("refs/tags/v1").unwrap().target(), commit);
        assert_eq!(some.head.unwrap().branch.as_deref(), Some("refs/heads/main"));
        passed();

        // A mistake is worth asking for all of them: the near name, and the short id.
        let error = git.resolve(&remote, &spec("mian")).await.unwrap_err();
        assert!(error.to_string().ends_with("did you mean \"main\"?"), "{scheme}: {error}");
        assert!(passed() > all, "{scheme}");
        let short = git.resolve(&remote, &spec(&commit.short())).await.unwrap();
        assert!(matches!(short.warnings[..], [ResolveWarning::AbbreviatedCommit { .. }]), "{scheme}");
        let fetched = git.fetch(&remote, &plant.cache(scheme), &Wanted::from(&resolved)).await.unwrap();
        assert_eq!(read(&fetched.source, "README.md"), "plant\n");
    }
    let file = remote(&format!("file://{}", plant.bare().display()));
    let some = in_little_memory().advertisement_for(&file, &[spec("main"), spec("v1")]).await.unwrap();
    assert_eq!((some.is_complete(), some.refs.len()), (false, 2));
    assert_eq!(some.get("refs/tags/v1").unwrap().target(), commit);
}

/// A server that takes no wishes tells everything, which is as good.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_references_of_an_old_server() {
    let plant = crowded();
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let habits = Habits { client: Some(VERSION_0), ..Habits::default() };
    let relay = Breaking::with(url_of(&daemon).port().unwrap(), habits);
    let remote = remote(&format!("git://127.0.0.1:{}/plant.git", relay.port));
    let git = in_little_memory();
    assert_eq!(git.resolve(&remote, &spec("main")).await.unwrap().commit, plant.id("main"));
    let error = git.resolve(&remote, &spec("mian")).await.unwrap_err();
    assert!(error.to_string().ends_with("did you mean \"main\"?"), "{error}");
}

#[tokio::test]
async fn few_references_are_one_round_trip_and_stay_one() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote) = (client(), remote(&server.url("plant.git")));
    for round in 1..=3 {
        git.resolve(&remote, &spec("main")).await.unwrap();
        assert_eq!(server.backend().requests(), round);
    }
    git.resolve(&remote, &spec("mian")).await.unwrap_err();
    assert_eq!(server.backend().requests(), 4, "all references were known: no second question");
    git.resolve(&remote, &spec(&"1".repeat(40))).await.unwrap();
    assert_eq!(server.backend().requests(), 4, "a commit id needs nobody");
}

#[tokio::test]
async fn empty_and_sha256_repositories_are_named_at_every_door() {
    for (init, category) in
        [(&[][..], "RepositoryEmpty"), (&["--object-format=sha256"], "ObjectFormatUnsupported")]
    {
        let plant = Plant::empty_with(init);
        if !init.is_empty() {
            plant.git(&["commit", "-q", "--allow-empty", "-m", "modern"]);
            plant.push(&["main"]);
        }
        let server = GitHttpServer::start(plant.root()).await.unwrap();
        let (_daemon, daemon) = crate::daemon::start(&plant);
        let file = format!("file://{}", plant.bare().display());
        for url in [server.url("plant.git"), daemon, file] {
            for name in ["main", "HEAD", "refs/heads/main"] {
                let error = client().resolve(&remote(&url), &spec(name)).await.unwrap_err();
                assert_eq!(stoker_core::Fault::category(&error).as_str(), category, "{url} {name}: {error}");
            }
        }
    }
    let error = client().resolve(&remote("https://h.invalid/a"), &spec(&"a".repeat(64))).await.unwrap_err();
    assert!(matches!(error, GitError::ObjectFormatUnsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_default_branch_that_is_renamed_is_followed_by_head_and_missed_by_name() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let file = format!("file://{}", plant.bare().display());
    for (at, url) in [server.url("plant.git"), file].into_iter().enumerate() {
        let (git, remote) = (client(), remote(&url));
        let (old, new) = (["main", "trunk"][at], ["trunk", "main"][at]);
        let before = git.resolve(&remote, &spec("HEAD")).await.unwrap();
        assert_eq!(before.reference, Some(format!("refs/heads/{old}")));
        crate::support::git(&plant.bare(), &["branch", "-m", old, new]);
        let after = git.resolve(&remote, &spec("HEAD")).await.unwrap();
        assert_eq!((after.commit, after.reference), (before.commit, Some(format!("refs/heads/{new}"))));
        let error = git.resolve(&remote, &spec(old)).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("no branch or tag {old:?}")), "{error}");
    }
}

#[tokio::test]
async fn a_reference_that_comes_late_is_found_and_one_that_goes_is_named() {
    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote) = (client(), remote(&server.url("plant.git")));
    let error = git.resolve(&remote, &spec("hotfix")).await.unwrap_err();
    assert!(matches!(error, GitError::RefNotFound { .. }), "{error}");
    plant.git(&["checkout", "-q", "-b", "hotfix"]);
    let hotfix = plant.change("hot");
    plant.push(&["hotfix"]);
    let resolved = git.resolve(&remote, &spec("hotfix")).await.unwrap();
    assert_eq!(resolved.commit, hotfix);

    // Deleted between the look-up and the fetch: the commit is still there, and was asked for by its id.
    crate::support::git(&plant.bare(), &["branch", "-D", "hotfix"]);
    git.fetch(&remote, &plant.cache("a"), &Wanted::from(&resolved)).await.unwrap();
    // And collected.
    crate::support::git(&plant.bare(), &["reflog", "expire", "--expire=now", "--all"]);
    crate::support::git(&plant.bare(), &["gc", "-q", "--prune=now"]);
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let habits = Habits { client: Some(VERSION_0), ..Habits::default() };
    let port = |url: &str| url_of(url).port().unwrap();
    let old_daemon = Breaking::with(port(&daemon), habits);
    let old_http = Breaking::with(server.address().port(), habits);
    for (at, url) in [
        server.url("plant.git"),
        format!("http://127.0.0.1:{}/plant.git", old_http.port),
        format!("git://127.0.0.1:{}/plant.git", old_daemon.port),
        daemon,
        format!("file://{}", plant.bare().display()),
    ]
    .into_iter()
    .enumerate()
    {
        let cache = plant.cache(&format!("gone-{at}"));
        let error =
            git.fetch(&crate::support::remote(&url), &cache, &Wanted::from(&resolved)).await.unwrap_err();
        assert!(
            matches!(error, GitError::CommitNotFound { commit, .. } if commit == hotfix),
            "{url}: {error}"
        );
    }
    // The cache that had it still does.
    assert!(plant.cache("a").commit(&hotfix).unwrap().is_some());
}

/// Version 0 over http is two requests. When the branch moves on between them, git still gives what was at its tip.
#[tokio::test]
async fn a_branch_that_moves_between_two_requests_of_one_fetch_is_followed() {
    let plant = Plant::new();
    let first = plant.id("main");
    let moved = Arc::new(AtomicBool::new(false));
    let (done, work) = (moved.clone(), plant.work());
    let app =
        GitBackend::new(plant.root()).router().layer(from_fn(move |mut request: Request, next: Next| {
            request.headers_mut().remove("git-protocol");
            if request.method() == "POST" && !done.swap(true, Ordering::SeqCst) {
                git(&work, &["commit", "-q", "--allow-empty", "-m", "in between"]);
                git(&work, &["push", "-q", "../root/plant.git", "main"]);
            }
            next.run(request)
        }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let wanted = Wanted::through(first, Some("refs/heads/main".into()));
    let fetched = client().fetch(&remote(&url), &plant.cache("a"), &wanted).await.unwrap();
    assert!(moved.load(Ordering::SeqCst));
    assert_eq!((fetched.source.commit(), fetched.report.whole_history), (first, false));
}

/// A server without shallow clones, in both versions: it sends more than is needed, and all is well.
#[tokio::test]
async fn a_server_that_knows_no_shallow_clones_sends_whole_histories() {
    let plant = Plant::new();
    let first = plant.id("main");
    plant.change("2");
    let third = plant.change("3");
    let (_daemon, daemon) = crate::daemon::start(&plant);
    for version in [Some(VERSION_0), None] {
        let habits = Habits { client: version, server: Some(("shallow", "shellac")), ..Habits::default() };
        let relay = Breaking::with(url_of(&daemon).port().unwrap(), habits);
        let remote = remote(&format!("git://127.0.0.1:{}/plant.git", relay.port));
        let cache = plant.cache(&format!("{}", relay.port));
        let fetch = |commit| {
            let (remote, cache) = (remote.clone(), cache.clone());
            async move { client().fetch(&remote, &cache, &Wanted::commit(commit)).await.unwrap() }
        };
        let fetched = fetch(third).await;
        assert!(fetched.report.whole_history, "{version:?}");
        assert_eq!(read(&fetched.source, "projects/line/view.json"), "3");
        // What came with the history is complete as well; asking for it again is one more fetch, no error.
        assert_eq!(
            read(&fetch(first).await.source, "projects/line/view.json"),
            "{\"v\": 1}\n",
            "{version:?}"
        );
        crate::support::git(&cache.dir().join("g1"), &["fsck", "--full", "--strict"]);
    }
}

/// The absolute times are hints; the bound is far above them and far below quadratic behaviour.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_hundred_thousand_files_is_fetched_and_listed() {
    const FILES: usize = 100_000;
    let plant = Plant::empty();
    let mut script = String::from("blob\nmark :1\ndata 2\nx\n\n");
    script += "commit refs/heads/main\ncommitter A <a@b> 1700000000 +0000\ndata 1\nx\n";
    (0..FILES).for_each(|n| writeln!(script, "M 100644 :1 flat/view-{n:06}.json").unwrap());
    script += "commit refs/heads/main\ncommitter A <a@b> 1700000001 +0000\ndata 1\ny\n";
    script += "M 100644 inline flat/view-050000.json\ndata 3\nnew\n";
    plant.import(script);
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote, cache) = (in_little_memory(), remote(&server.url("plant.git")), plant.cache("a"));
    let start = Instant::now();
    let before = git.resolve(&remote, &spec("main")).await.unwrap().commit;
    let parent = crate::support::git(&plant.bare(), &["rev-parse", "main^"]).parse().unwrap();
    let first = git.fetch(&remote, &cache, &Wanted::commit(parent)).await.unwrap();
    let once = start.elapsed();
    let second = git.fetch(&remote, &cache, &Wanted::commit(before)).await.unwrap();
    let again = start.elapsed() - once;
    assert!(second.report.transferred_bytes < first.report.transferred_bytes / 20, "{:?}", second.report);
    let flat = RelPath::ROOT.child("flat").unwrap();
    let listed = second.source.list(flat.as_path()).unwrap();
    assert_eq!(listed.len(), FILES);
    assert_eq!(read(&second.source, "flat/view-050000.json"), "new");
    assert_eq!(read(&first.source, "flat/view-050000.json"), "x\n");
    let took = start.elapsed();
    println!("100,000 files in one directory: fetched in {once:?}, a change in {again:?}, all in {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}
