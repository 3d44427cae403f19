//! The objects on disk, and what becomes of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stoker_core::{EntryKind, RelPath, Source, SourceError};
use stoker_git::{Cache, CommitSource, GitError, Limits, Remote, Wanted};

use crate::support::*;

fn remote_of(plant: &Plant) -> Remote {
    remote(&format!("file://{}", plant.bare().display()))
}

fn packs(cache: &Cache) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for generation in generations(cache) {
        for entry in fs::read_dir(cache.dir().join(generation).join("objects/pack")).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "pack") {
                found.push(entry.path());
            }
        }
    }
    found
}

fn generations(cache: &Cache) -> Vec<String> {
    let Ok(entries) = fs::read_dir(cache.dir()) else { return Vec::new() };
    let names = entries.flatten().map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.starts_with('g')).collect();
    names.sort();
    names
}

/// Reads every file.
fn read_all(source: &CommitSource, dir: RelPath<'_>) -> Result<usize, SourceError> {
    let mut bytes = 0;
    for named in source.list(dir)? {
        let path = dir.child(std::str::from_utf8(&named.name).unwrap()).unwrap();
        bytes += match named.entry.kind {
            EntryKind::Directory => read_all(source, path.as_path())?,
            _ => {
                let mut file = source.open(path.as_path(), &named.entry.id.unwrap())?;
                std::io::copy(&mut file, &mut std::io::sink()).unwrap() as usize
            }
        };
    }
    Ok(bytes)
}

fn overwrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A7. Damage of every kind: what a reader meets is an error, never other content, and the next fetch repairs it.
#[tokio::test]
async fn a_damaged_cache_is_noticed_and_made_anew() {
    let plant = Plant::new();
    let content = noise(50_000);
    plant.commit(&[("large", &content)], "large");
    plant.push(&["main"]);
    let (git, remote, wanted) = (client(), remote_of(&plant), Wanted::commit(plant.id("main")));
    let damages: [(&str, fn(&Cache)); 9] = [
        ("bytes of the pack changed", |c| overwrite(&packs(c)[0], |b| b[25_000..25_010].fill(0x55))),
        ("the pack cut short", |c| overwrite(&packs(c)[0], |b| b.truncate(20_000))),
        ("the pack emptied", |c| overwrite(&packs(c)[0], Vec::clear)),
        ("the pack gone", |c| fs::remove_file(&packs(c)[0]).unwrap()),
        ("the index changed", |c| overwrite(&packs(c)[0].with_extension("idx"), |b| b[1100..].fill(0))),
        ("the index cut short", |c| overwrite(&packs(c)[0].with_extension("idx"), |b| b.truncate(500))),
        ("objects gone", |c| fs::remove_dir_all(c.dir().join("g1/objects")).unwrap()),
        ("current is garbage", |c| fs::write(c.dir().join("current"), b"\xff../../etc").unwrap()),
        ("current leads nowhere", |c| fs::write(c.dir().join("current"), "g99").unwrap()),
    ];
    for (index, (what, damage)) in damages.into_iter().enumerate() {
        let cache = plant.cache(&index.to_string());
        git.fetch(&remote, &cache, &wanted).await.unwrap();
        damage(&cache);
        // Either it cannot be opened, or reading it fails, or what is read is right.
        let damaged = match cache.commit(&wanted.commit) {
            Ok(Some(source)) => read_all(&source, RelPath::ROOT).is_err(),
            Ok(None) | Err(_) => true,
        };
        assert!(damaged, "{what}: nobody noticed");
        let fetched = git.fetch(&remote, &cache, &wanted).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(fetched.report.rebuilt, "{what}");
        assert!(read_all(&fetched.source, RelPath::ROOT).unwrap() > content.len(), "{what}");
        assert_eq!(generations(&cache).len(), 1, "{what}: the damaged one is gone");
    }
}

/// A8 of `failures.md`.
#[tokio::test]
async fn leftovers_of_a_killed_fetch_are_swept() {
    let plant = Plant::new();
    let (git, remote, cache) = (client(), remote_of(&plant), plant.cache("a"));
    sync(&git, &remote, "main", &cache).await;
    let leftovers = [
        "g1/objects/pack/pack_git2_a1b2c3",
        "g1/objects/pack/pack-0123456789012345678901234567890123456789.idx",
        "g1/objects/pack/pack-0123456789012345678901234567890123456789.idx.lock",
        "g1/refs/stoker/x.lock",
        "g1/refs/stoker/x.new",
        "g7/objects/pack/pack_git2_half",
        "current.new",
    ];
    for leftover in leftovers {
        let path = cache.dir().join(leftover);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "half").unwrap();
    }
    plant.change("2");
    let source = sync(&git, &remote, "main", &cache).await;
    assert_eq!(read(&source, "projects/line/view.json"), "2");
    for leftover in leftovers {
        assert!(!cache.dir().join(leftover).exists(), "{leftover}");
    }
}

#[tokio::test]
async fn many_packs_are_folded_without_asking_for_what_is_here_and_readers_do_not_notice() {
    const NOISE: usize = 300_000;
    let plant = Plant::new();
    let mut commits = vec![plant.commit(&[("large", &noise(NOISE))], "large")];
    plant.push(&["main"]);
    let mut limits = Limits::default();
    limits.max_packs = 3;
    let (git, remote, cache) = (client().with_limits(limits), remote_of(&plant), plant.cache("a"));
    let first = sync(&git, &remote, "main", &cache).await;
    for round in 2..=20 {
        // Every third content was there before: its objects are in several packs.
        commits.push(plant.change(&(round % 3).to_string()));
        let resolved = git.resolve(&remote, &"main".parse().unwrap()).await.unwrap();
        let fetched = git.fetch(&remote, &cache, &Wanted::from(&resolved)).await.unwrap();
        assert_eq!(read(&fetched.source, "projects/line/view.json"), (round % 3).to_string());
        assert!(!fetched.report.rebuilt && fetched.report.transferred_bytes < 10_000, "{:?}", fetched.report);
        // The first generation's, which is still read, and the current one's.
        assert!(packs(&cache).len() <= 3 + 3, "{:?}", packs(&cache));
    }
    assert_eq!(read(&first, "projects/line/view.json"), "{\"v\": 1}\n");
    drop(first);
    commits.push(plant.change("last"));
    sync(&git, &remote, "main", &cache).await;
    let [generation] = &generations(&cache)[..] else { panic!("{:?}", generations(&cache)) };
    // Every commit is here yet, the newest first, and git finds nothing to complain about.
    for commit in &commits {
        let source = cache.commit(commit).unwrap().unwrap();
        assert_eq!(read_all(&source, RelPath::ROOT).unwrap() / NOISE, 1);
    }
    super::support::git(&cache.dir().join(generation), &["fsck", "--strict"]);
}

/// Nothing is lost when packs cannot be folded: everything is fetched anew.
#[tokio::test]
async fn packs_that_cannot_be_folded_are_fetched_anew() {
    let plant = Plant::new();
    let mut limits = Limits::default();
    limits.max_packs = 2;
    let (git, remote, cache) = (client().with_limits(limits), remote_of(&plant), plant.cache("a"));
    sync(&git, &remote, "main", &cache).await;
    plant.change("2");
    sync(&git, &remote, "main", &cache).await;
    // The smaller pack loses an object; the newest commit, which is looked at before each fetch, stays.
    let smallest = packs(&cache).into_iter().min_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    overwrite(&smallest, |bytes| {
        let end = bytes.len() - 22;
        bytes[end - 1] ^= 0xff;
    });
    plant.change("3");
    let source = sync(&git, &remote, "main", &cache).await;
    assert_eq!(read(&source, "projects/line/view.json"), "3");
    read_all(&source, RelPath::ROOT).unwrap();
}

/// A8. A fold that was killed on the way, for want of memory or time, is not begun again; and what would take much of
/// either is fetched instead.
#[tokio::test]
async fn a_fold_that_was_killed_or_would_be_large_is_a_fetch() {
    for (what, content) in [("killed", noise(1000)), ("large", "[0, 0, 0, 0]\n".repeat(1_000_000))] {
        let plant = Plant::new();
        plant.commit(&[("first", &noise(300_000))], "1");
        plant.push(&["main"]);
        let mut limits = Limits::default();
        limits.max_packs = 2;
        let (git, remote, cache) = (client().with_limits(limits), remote_of(&plant), plant.cache("a"));
        sync(&git, &remote, "main", &cache).await;
        plant.commit(&[("a", &content)], "2");
        plant.push(&["main"]);
        sync(&git, &remote, "main", &cache).await;
        if what == "killed" {
            fs::write(cache.dir().join("g1/fold-begun"), "").unwrap();
        }
        let commit = plant.change("3");
        let fetched = git.fetch(&remote, &cache, &Wanted::commit(commit)).await.unwrap();
        assert!(fetched.report.rebuilt, "{what}");
        assert_eq!(read(&fetched.source, "projects/line/view.json"), "3", "{what}");
        assert_eq!(packs(&cache).len(), 1, "{what}");
    }
}

/// I7 of `failures.md`.
#[tokio::test]
async fn a_cache_does_not_outgrow_twice_its_repository() {
    let plant = Plant::new();
    plant.commit(&[("large", &noise(1_500_000))], "large");
    plant.push(&["main"]);
    let (git, remote, cache) = (client(), remote_of(&plant), plant.cache("a"));
    sync(&git, &remote, "main", &cache).await;
    let once = cache.disk_bytes();
    for round in 0..6 {
        let content: String =
            noise(1_600_000).chars().skip(round * 100).collect::<String>().replace('a', &round.to_string());
        plant.commit(&[("large", &content)], "again");
        plant.push(&["main"]);
        sync(&git, &remote, "main", &cache).await;
        let now = cache.disk_bytes();
        assert!(now < 2 * once + (1 << 20) + (64 << 10), "round {round}: {now} of {once}");
    }
}

#[tokio::test]
async fn two_fetches_into_one_cache_take_turns() {
    let plant = Plant::new();
    let first = plant.id("main");
    let second = plant.change("2");
    let (remote, cache) = (remote_of(&plant), plant.cache("a"));
    let fetch = |commit| {
        let (git, remote, cache) = (client(), remote.clone(), cache.clone());
        tokio::spawn(async move { git.fetch(&remote, &cache, &Wanted::commit(commit)).await })
    };
    let all = [first, second, first, second].map(fetch);
    for task in all {
        task.await.unwrap().unwrap();
    }
    assert_eq!(generations(&cache), ["g1"]);
}

#[tokio::test]
async fn a_cache_that_stays_locked_is_busy() {
    let plant = Plant::new();
    let cache = plant.cache("a");
    fs::create_dir_all(cache.dir()).unwrap();
    let lock = File::create(cache.dir().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut limits = Limits::default();
    limits.fetch_deadline = Duration::from_millis(400);
    let git = client().with_limits(limits);
    let (remote, wanted) = (remote_of(&plant), Wanted::commit(plant.id("main")));
    let error = git.fetch(&remote, &cache, &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::CacheBusy { .. } | GitError::Timeout { .. }), "{error}");
    drop(lock);
    client().fetch(&remote, &cache, &wanted).await.unwrap();
}

#[tokio::test]
async fn a_cache_of_another_repository_is_not_believed() {
    let (plant, other) = (Plant::new(), Plant::new());
    let commit = plant.change("secret of one tenant");
    let cache = plant.cache("a");
    sync(&client(), &remote_of(&plant), "main", &cache).await;
    let error = client().fetch(&remote_of(&other), &cache, &Wanted::commit(commit)).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. }), "{error}");
    assert_eq!(read(&sync(&client(), &remote_of(&other), "main", &cache).await, "README.md"), "plant\n");
}

/// A tmpfs of this size, until dropped.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs, which this test needs (root)");
            eprintln!("left out: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_left_usable() {
    let plant = Plant::new();
    let small = plant.id("main");
    plant.commit(&[("large", &noise(2_000_000))], "large");
    plant.push(&["main"]);
    let Some(disk) = SmallDisk::new(1 << 20) else { return };
    let cache = Cache::new(disk.0.path().join("cache"));
    let (daemon, url) = crate::daemon::start(&plant);
    for remote in [remote(&url), remote_of(&plant)] {
        let error = client().fetch(&remote, &cache, &Wanted::commit(plant.id("main"))).await.unwrap_err();
        assert!(matches!(error, GitError::CacheFull { .. }), "{error}");
        assert!(cache.disk_bytes() < 10_000, "what was begun is cleaned up: {}", cache.disk_bytes());
        let fetched = client().fetch(&remote, &cache, &Wanted::commit(small)).await.unwrap();
        assert_eq!(read(&fetched.source, "README.md"), "plant\n");
    }
    drop(daemon);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let plant = Plant::new();
    let file = plant.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = Cache::new(file.join("cache"));
    let error =
        client().fetch(&remote_of(&plant), &cache, &Wanted::commit(plant.id("main"))).await.unwrap_err();
    assert!(matches!(error, GitError::CacheUnusable { .. }), "{error}");
}
