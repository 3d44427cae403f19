//! Servers that break, and children that die.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stoker_core::Fault;
use stoker_git::serve::GitHttpServer;
use stoker_git::{ChildCommand, GitError, Wanted};

use crate::relay::{Breaking, Fate};
use crate::support::*;

/// A6. Every way in which a connection can end early: an error in time, nothing harmed, and all well afterwards.
#[tokio::test]
async fn a_connection_cut_anywhere_harms_nothing() {
    let plant = Plant::new();
    let old = plant.id("main");
    plant.commit(&[("more", &noise(30_000))], "more");
    plant.push(&["main"]);
    let wanted = Wanted::through(plant.id("main"), Some("refs/heads/main".into()));
    let http = GitHttpServer::start(plant.root()).await.unwrap();
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let daemon_port = url_of(&daemon).port().unwrap();

    for (scheme, upstream) in [("http", http.address().port()), ("git", daemon_port)] {
        let direct = remote(&format!("{scheme}://127.0.0.1:{upstream}/plant.git"));
        let through = |proxy: &Breaking| remote(&format!("{scheme}://127.0.0.1:{}/plant.git", proxy.port));
        // A cache belongs to the URL it came from; this makes one with the older commit pass for the proxy's.
        let prepared = async |proxy: &Breaking, name: String| {
            let cache = plant.cache(&name);
            client().fetch(&direct, &cache, &Wanted::commit(old)).await.unwrap();
            std::fs::write(cache.dir().join("origin"), through(proxy).url.to_string()).unwrap();
            cache
        };
        let whole = Breaking::before(upstream, Fate::Cut(usize::MAX));
        let cache = prepared(&whole, format!("{scheme}-whole")).await;
        client().fetch(&through(&whole), &cache, &wanted).await.unwrap();
        let length = whole.passed.load(Ordering::SeqCst);
        assert!(length > 25_000, "{length}");

        let points: Vec<usize> = [0, 1, 3, 4, 5, 60, 200, 300, 400, 500, 700]
            .into_iter()
            .chain((1..8).map(|i| length * i / 8))
            // Not closer to the end: how the server splits the pack differs by some hundred bytes from run to run.
            .chain([length - 500])
            .collect();
        for after in points {
            let proxy = Breaking::before(upstream, Fate::Cut(after));
            let cache = prepared(&proxy, format!("{scheme}-{after}")).await;
            let result = client().with_limits(impatient()).fetch(&through(&proxy), &cache, &wanted).await;
            let error = result.map(|_| ()).expect_err(&format!("{scheme} cut after {after} of {length}"));
            let expected = ["ProtocolError", "Unreachable"];
            assert!(expected.contains(&error.category().as_str()), "{scheme} {after}: {error}");
            let kept = cache.commit(&old).unwrap().expect("the old commit is kept");
            assert_eq!(read(&kept, "projects/line/view.json"), "{\"v\": 1}\n");
            assert!(cache.commit(&wanted.commit).unwrap().is_none());

            std::fs::write(cache.dir().join("origin"), direct.url.to_string()).unwrap();
            let fetched = client().fetch(&direct, &cache, &wanted).await.unwrap();
            assert_eq!(read(&fetched.source, "more").len(), 30_000);
        }
    }
}

/// A7 of `failures.md`.
#[tokio::test]
async fn a_flipped_bit_never_becomes_content() {
    let plant = Plant::new();
    let content = noise(3000);
    plant.commit(&[("more", &content)], "more");
    plant.push(&["main"]);
    let wanted = Wanted::through(plant.id("main"), Some("refs/heads/main".into()));
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let upstream = url_of(&daemon).port().unwrap();
    let (mut refused, mut fine) = (0, 0);
    for at in (0..3600).step_by(97) {
        let proxy = Breaking::before(upstream, Fate::Flip(at));
        let url = format!("git://127.0.0.1:{}/plant.git", proxy.port);
        let cache = plant.cache(&at.to_string());
        match client().with_limits(impatient()).fetch(&remote(&url), &cache, &wanted).await {
            Ok(fetched) => {
                assert_eq!(read(&fetched.source, "more"), content, "byte {at}");
                fine += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 25, "{refused} refused, {fine} without consequence");
}

#[tokio::test]
async fn a_dropped_fetch_is_gone_at_once() {
    let plant = Plant::new();
    plant.commit(&[("more", &noise(30_000))], "more");
    plant.push(&["main"]);
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let proxy = Breaking::before(url_of(&daemon).port().unwrap(), Fate::Stall(20_000));
    let remote = remote(&format!("git://127.0.0.1:{}/plant.git", proxy.port));
    let (cache, wanted) = (plant.cache("a"), Wanted::commit(plant.id("main")));
    let task = {
        let (remote, cache, wanted) = (remote.clone(), cache.clone(), wanted.clone());
        tokio::spawn(async move { client().fetch(&remote, &cache, &wanted).await })
    };
    eventually("the fetch is in the middle", || proxy.passed.load(Ordering::SeqCst) >= 20_000).await;
    let start = Instant::now();
    task.abort();
    eventually("the connection is closed", || proxy.open.load(Ordering::SeqCst) == 0).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // What it left is no obstacle, and is cleaned up.
    let next = url_of(&daemon).to_string();
    let fetched = client().fetch(&crate::support::remote(&next), &cache, &wanted).await.unwrap();
    assert_eq!(read(&fetched.source, "more").len(), 30_000);
    let left: Vec<_> = std::fs::read_dir(cache.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('g'))
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A child that writes down its process id and the request it gets.
pub(crate) fn recording_child(plant: &Plant) -> (ChildCommand, std::path::PathBuf) {
    let (script, pid) = (plant.dir.path().join("child.sh"), plant.dir.path().join("child.pid"));
    let real = env!("CARGO_BIN_EXE_stoker-git-child");
    std::fs::write(&script, format!("#!/bin/sh\necho $$ > {}\nexec {real} \"$@\"\n", pid.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (ChildCommand::executable(script), pid)
}

/// A8 of `failures.md`.
#[tokio::test]
async fn a_child_that_is_killed_is_an_error_and_no_more() {
    let plant = Plant::new();
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let proxy = Breaking::before(url_of(&daemon).port().unwrap(), Fate::Stall(100));
    let url = format!("git://127.0.0.1:{}/plant.git", proxy.port);
    let (child, pid) = recording_child(&plant);
    let (cache, wanted) = (plant.cache("a"), Wanted::commit(plant.id("main")));
    let task = {
        let (cache, wanted) = (cache.clone(), wanted.clone());
        tokio::spawn(async move { stoker_git::Git::new(child).fetch(&remote(&url), &cache, &wanted).await })
    };
    eventually("the fetch is in the middle", || proxy.passed.load(Ordering::SeqCst) >= 100).await;
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, GitError::ChildFailed { .. }), "{error}");
    assert!(error.to_string().contains("signal 9"), "{error}");
    client().fetch(&remote(&daemon), &cache, &wanted).await.unwrap();
}

#[tokio::test]
async fn a_child_does_not_outlive_its_parent() {
    let plant = Plant::new();
    let (_daemon, daemon) = crate::daemon::start(&plant);
    let proxy = Breaking::before(url_of(&daemon).port().unwrap(), Fate::Stall(0));
    let url = format!("git://127.0.0.1:{}/plant.git", proxy.port);
    // Learn what a parent says to its child.
    let (script, request) = (plant.dir.path().join("spy.sh"), plant.dir.path().join("request"));
    std::fs::write(
        &script,
        format!("#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\" > {}\n", request.display()),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let spy = stoker_git::Git::new(ChildCommand::executable(script));
    spy.resolve(&remote(&url), &"main".parse().unwrap()).await.unwrap_err();

    let mut child = Command::new(env!("CARGO_BIN_EXE_stoker-git-child"))
        .arg("__stoker-git-child")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&std::fs::read(request).unwrap()).unwrap();
    eventually("the child has connected", || proxy.open.load(Ordering::SeqCst) == 1).await;
    assert!(child.try_wait().unwrap().is_none());
    let start = Instant::now();
    drop(stdin);
    eventually("the child ends", || child.try_wait().unwrap().is_some()).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn programs_that_are_no_child_are_told_apart() {
    let plant = Plant::new();
    let remote = remote(&format!("file://{}", plant.bare().display()));
    for (program, says) in
        [("/bin/true", "no answer"), ("/bin/false", "exit code 1"), ("/no/such/program", "cannot start")]
    {
        let git = stoker_git::Git::new(ChildCommand::executable(program));
        let error = git.resolve(&remote, &"main".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(says), "{program}: {error}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_stoker-git-child")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
