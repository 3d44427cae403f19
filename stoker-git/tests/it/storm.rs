//! Pushes faster than they can be followed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stoker_git::serve::GitHttpServer;
use stoker_git::{Cache, CommitId, GitError, Wanted};

use crate::cache::SmallDisk;
use crate::support::*;

const PUSHES: usize = 200;

/// A repository of two megabytes, and commits on top that each change one file of thirty; not pushed yet.
fn prepared() -> (Plant, Vec<CommitId>) {
    let plant = Plant::new();
    let mut script = String::new();
    let content = noise(3_000_000);
    writeln!(script, "commit refs/heads/next\ncommitter A <a@b> 1700000000 +0000\ndata 1\nx").unwrap();
    for (number, part) in content.as_bytes().chunks(100_000).enumerate() {
        let part = std::str::from_utf8(part).unwrap();
        writeln!(script, "M 100644 inline part-{number}\ndata {}\n{part}", part.len()).unwrap();
    }
    for number in 0..PUSHES {
        let text = format!("{number}\n{}", &content[number * 100..number * 100 + 60_000]);
        writeln!(
            script,
            "commit refs/heads/next\ncommitter A <a@b> {} +0000\ndata 1\nx",
            1_700_000_001 + number
        )
        .unwrap();
        writeln!(script, "M 100644 inline part-{}\ndata {}\n{text}", number % 30, text.len()).unwrap();
    }
    plant.import(script);
    let list = git(&plant.bare(), &["rev-list", "--reverse", "next"]);
    let commits = list.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    git(&plant.bare(), &["branch", "-D", "next"]);
    (plant, commits)
}

fn push(bare: &Path, commit: &CommitId) {
    let reference = bare.join("refs/heads/main");
    std::fs::write(reference.with_extension("lock"), format!("{commit}\n")).unwrap();
    std::fs::rename(reference.with_extension("lock"), reference).unwrap();
}

/// Every commit is followed that is still the newest when the one before is there; some fetches are killed on the way.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_pushes_the_newest_wins_and_the_cache_stays_small() {
    let (plant, commits) = prepared();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote, cache) = (client(), remote(&server.url("plant.git")), plant.cache("a"));
    push(&plant.bare(), &commits[0]);
    sync(&git, &remote, "main", &cache).await;
    let once = cache.disk_bytes();
    assert!(once > 2_000_000, "{once}");

    let pushed = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let pusher = {
        let (pushed, commits, bare) = (pushed.clone(), commits.clone(), plant.bare());
        tokio::spawn(async move {
            for (number, commit) in commits.iter().enumerate() {
                push(&bare, commit);
                pushed.store(number, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        })
    };
    let (mut last, mut fetched, mut killed, mut most) = (0, 0, 0, 0);
    while last < PUSHES - 1 {
        let known = pushed.load(Ordering::SeqCst);
        let resolved = git.resolve(&remote, &"main".parse().unwrap()).await.unwrap();
        let at = commits.iter().position(|commit| *commit == resolved.commit).unwrap();
        assert!(
            at >= known.max(last),
            "what was pushed before the question is in the answer: {at}, {known}, {last}"
        );
        if at == last && fetched > 0 {
            continue;
        }
        let wanted = Wanted::from(&resolved);
        if at % 7 == 3 {
            // Its child is killed somewhere on the way; nothing of that is seen afterwards.
            let time = Duration::from_millis(1 + (at as u64 * 13) % 40);
            killed +=
                usize::from(tokio::time::timeout(time, git.fetch(&remote, &cache, &wanted)).await.is_err());
        }
        let source = git.fetch(&remote, &cache, &wanted).await.unwrap().source;
        assert!(read(&source, &format!("part-{}", at % 30)).starts_with(&format!("{at}\n")));
        (last, fetched) = (at, fetched + 1);
        most = most.max(cache.disk_bytes());
    }
    pusher.await.unwrap();
    println!(
        "{PUSHES} pushes in {:.1?}: {fetched} fetched, {killed} killed on the way, cache at most {:.2} times the first",
        start.elapsed(),
        most as f64 / once as f64
    );
    assert!(fetched >= 10 && killed >= 1, "{fetched} fetched, {killed} killed");
    // Packs are allowed a megabyte on top, which matters for small repositories only.
    assert!(most < 2 * once + (1 << 20), "{most} of {once}");
    assert_eq!(sync(&git, &remote, "main", &cache).await.commit(), commits[PUSHES - 1]);
}

/// A disk that fills up while a newer commit comes: named, and the commit that is there stays readable.
#[tokio::test]
async fn a_disk_that_fills_up_takes_nothing_away() {
    let plant = Plant::new();
    let old = plant.commit(&[("large", &noise(700_000))], "fits");
    let new = plant.commit(&[("larger", &noise(3_000_000))], "does not fit");
    plant.git(&["rm", "-q", "larger"]);
    let small = plant.commit(&[("note", "small again")], "fits");
    plant.push(&["main"]);
    let Some(disk) = SmallDisk::new(2 << 20) else { return };
    let cache = Cache::new(disk.0.path().join("cache"));
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    let (git, remote) = (client(), remote(&server.url("plant.git")));
    let kept = git.fetch(&remote, &cache, &Wanted::commit(old)).await.unwrap().source;
    for _ in 0..2 {
        let error = git.fetch(&remote, &cache, &Wanted::commit(new)).await.unwrap_err();
        assert!(matches!(error, GitError::CacheFull { .. }), "{error}");
        assert_eq!(read(&kept, "large").len(), 700_000);
        assert!(cache.commit(&old).unwrap().is_some());
    }
    let source = git.fetch(&remote, &cache, &Wanted::commit(small)).await.unwrap().source;
    assert_eq!(read(&source, "note"), "small again");
}
