//! The rows of `failures.md` that happen to an engine, made for real.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use stoker_core::{
    ApplyError, Changes, ContentId, Engine, Entry, EntryKind, Fault, Limits, Mapping, MaxDeletes, NamedEntry,
    NoObserver, Observer, PlanOptions, RelPath, Retry, Source, SourceError, SyncSpec,
};

use crate::volume::{Volume, on};
use crate::world::{Tree, World, expect, files};

type Stop = Box<dyn std::error::Error + Send + Sync>;

fn spec() -> SyncSpec {
    let everything = Mapping { source: ".".into(), destination: ".".into(), ..Mapping::default() };
    let max_deletes = MaxDeletes { count: 1000, percent: 100 };
    SyncSpec { mappings: vec![everything], max_deletes, ..SyncSpec::default() }
}

fn sync(root: &Path, tree: &Tree, observer: &mut dyn Observer) -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open(root)?;
    let session = engine.begin(true)?;
    let plan =
        session.plan(tree, "r", &spec(), &PlanOptions { check_drift: true, ..PlanOptions::default() })?;
    session.apply(plan, tree, &spec(), observer)?;
    Ok(())
}

/// Two commits that differ in everything: updates, new directories, a swap each way, deletions.
fn two_commits() -> (Tree, Tree) {
    let big = |c: char| c.to_string().repeat(20_000);
    let tree = |paths: &[&str], c: char| {
        Tree(paths.iter().map(|p| ((*p).to_owned(), big(c).into_bytes())).collect())
    };
    let old = tree(&["a", "b", "d/x", "d/y", "s", "e/f/g"], 'o');
    (old, tree(&["a", "b", "d", "s/t/u", "n/m/l", "n/m/k"], 'n'))
}

/// Takes all space but some, while it lives.
struct Filler(PathBuf);

impl Filler {
    fn leaving(root: &Path, bytes: u64) -> Self {
        let path = root.join(".filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(bytes)).unwrap();
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// Fills the volume at a moment of the transaction.
struct FullAt<'a> {
    root: &'a Path,
    /// The number of staged files at which it becomes full; none for the moment before the commit point.
    file: Option<usize>,
    left: u64,
    filler: Option<Filler>,
}

impl Observer for FullAt<'_> {
    fn staged(&mut self, done: usize, _: usize) {
        if self.file == Some(done) {
            self.filler = Some(Filler::leaving(self.root, self.left));
        }
    }

    fn before_commit(&mut self, _: &Changes<'_>) -> Result<(), Stop> {
        if self.file.is_none() {
            self.filler = Some(Filler::leaving(self.root, self.left));
        }
        Ok(())
    }
}

fn without_filler(root: &Path) -> BTreeMap<String, String> {
    let mut found = files(root);
    found.remove(".filler");
    found
}

/// A3: the disk is full when the sync begins: refused before anything is written, with what is needed and what is free.
#[test]
fn a3_a_full_disk_is_said_before_anything_is_written() {
    let Some(root) =
        on(&Volume::Memory("size=1m"), "faults::a3_a_full_disk_is_said_before_anything_is_written")
    else {
        return;
    };
    let (old, new) = two_commits();
    sync(&root, &old, &mut NoObserver).unwrap();
    let before = files(&root);
    let filler = Filler::leaving(&root, 100_000);
    let engine = Engine::open(&root).unwrap();
    let error = engine.begin(true).unwrap().plan(&new, "r", &spec(), &PlanOptions::default()).unwrap_err();
    assert_eq!(error.category().as_str(), "InsufficientSpace");
    assert_eq!(error.retry(), Retry::Backoff);
    assert!(error.to_string().contains("bytes and") && error.to_string().contains("are free"), "{error}");
    assert_eq!(without_filler(&root), before);
    drop(filler);
    sync(&root, &new, &mut NoObserver).unwrap();
}

/// A3: the disk becomes full at byte N of file M, or after the last, at any moment up to the end.
#[test]
fn a3_a_disk_that_becomes_full_leaves_the_old_commit_live() {
    let test = "faults::a3_a_disk_that_becomes_full_leaves_the_old_commit_live";
    let Some(root) = on(&Volume::Memory("size=4m"), test) else { return };
    let (old, new) = two_commits();
    let mut failed = 0;
    for file in [Some(1), Some(3), Some(5), None] {
        for pages in 0..12 {
            sync(&root, &old, &mut NoObserver).unwrap();
            let before = files(&root);
            let mut full = FullAt { root: &root, file, left: pages * 4096, filler: None };
            let result = sync(&root, &new, &mut full);
            drop(full);
            let after = files(&root);
            match &result {
                Ok(()) => assert_eq!(after.len(), 6),
                Err(error) => {
                    failed += 1;
                    let error = error.downcast_ref::<ApplyError>().unwrap();
                    if matches!(error, ApplyError::Interrupted { .. }) {
                        // All files are new; only the note of it found no space.
                        assert_ne!(after, before);
                    } else {
                        assert_eq!(error.category().as_str(), "InsufficientSpace", "{error}");
                        assert_eq!(after, before, "full at file {file:?}, {pages} pages left");
                    }
                }
            }
            // Space is back.
            sync(&root, &new, &mut NoObserver).unwrap();
            assert_eq!(std::fs::read_dir(root.join(".stoker/stage")).unwrap().count(), 0);
        }
    }
    assert!(failed > 20, "only {failed} syncs met a full disk");
}

/// A3: no inodes are left, at any moment after the commit point.
#[test]
fn a3_a_volume_without_inodes_leaves_the_old_commit_live() {
    struct Eat<'a>(&'a Path, usize);
    impl Observer for Eat<'_> {
        fn before_commit(&mut self, _: &Changes<'_>) -> Result<(), Stop> {
            let eaten = self.0.join("logs");
            let mut n = 0;
            while File::create(eaten.join(n.to_string())).is_ok() {
                n += 1;
            }
            (0..self.1.min(n)).for_each(|n| std::fs::remove_file(eaten.join(n.to_string())).unwrap());
            Ok(())
        }
    }
    let test = "faults::a3_a_volume_without_inodes_leaves_the_old_commit_live";
    let Some(root) = on(&Volume::Memory("size=4m,nr_inodes=300"), test) else { return };
    let (old, new) = two_commits();
    let ours = |root: &Path| {
        let mut found = files(root);
        found.retain(|path, _| !path.starts_with("logs/"));
        found
    };
    let mut failed = 0;
    for left in 0..12 {
        std::fs::create_dir_all(root.join("logs")).unwrap();
        sync(&root, &old, &mut NoObserver).unwrap();
        let before = ours(&root);
        let result = sync(&root, &new, &mut Eat(&root, left));
        let after = ours(&root);
        std::fs::remove_dir_all(root.join("logs")).unwrap();
        if let Err(error) = result {
            failed += 1;
            let interrupted = error.to_string().contains("completed at the next start");
            assert!(interrupted || after == before, "{left} inodes left: {error}");
        }
        sync(&root, &new, &mut NoObserver).unwrap();
    }
    assert!(failed > 3, "only {failed} syncs ran out of inodes");
}

/// A4: the volume turns read-only in the middle, as ext4 does at an I/O error.
#[test]
fn a4_a_volume_that_turns_read_only_stops_the_sync_and_heals() {
    struct Break<'a>(&'a Path, Option<usize>);
    impl Break<'_> {
        fn now(&self) {
            let source =
                std::process::Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.0).output().unwrap();
            let device = String::from_utf8(source.stdout).unwrap().trim().replace("/dev/", "");
            std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").unwrap();
        }
    }
    impl Observer for Break<'_> {
        fn staged(&mut self, done: usize, _: usize) {
            if self.1 == Some(done) {
                self.now();
            }
        }
        fn before_commit(&mut self, _: &Changes<'_>) -> Result<(), Stop> {
            if self.1.is_none() {
                self.now();
            }
            Ok(())
        }
    }
    let test = "faults::a4_a_volume_that_turns_read_only_stops_the_sync_and_heals";
    let Some(root) = on(&Volume::Ext4, test) else { return };
    let (old, new) = two_commits();
    for moment in [Some(1), Some(4), None] {
        sync(&root, &old, &mut NoObserver).unwrap();
        let before = files(&root);
        let error = sync(&root, &new, &mut Break(&root, moment)).unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
        assert_eq!(files(&root), before, "at {moment:?}");
        // It stays so: a word, not a crash.
        let error = Engine::open(&root).unwrap().begin(true).unwrap_err();
        assert_eq!(error.category().as_str(), "VolumeReadOnly", "{error}");
        assert!(Engine::open(&root).unwrap().head().unwrap().is_some(), "what is live can still be told");
        let image = root.with_extension("img");
        let fixed = std::process::Command::new("sh")
            .args(["-c", "umount \"$0\" && { e2fsck -fy \"$1\" >/dev/null 2>&1 || true; } && mount -o loop,errors=remount-ro \"$1\" \"$0\""])
            .arg(&root)
            .arg(image)
            .status();
        assert!(fixed.unwrap().success());
        sync(&root, &new, &mut NoObserver).unwrap();
        assert_ne!(files(&root), before);
    }
}

/// A5: two processes on one directory. The lock of one that is killed is released by the kernel.
#[test]
fn a5_the_lock_is_held_by_a_descriptor_and_dies_with_it() {
    let world = World::new();
    world.sync(&Tree::of([("a", "1")]), "1");
    let lock = world.path(".stoker/lock");
    let mut holder = std::process::Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo held; exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut held).unwrap();
    let error = world.engine().begin(false).unwrap_err();
    assert_eq!((error.category().as_str(), error.retry()), ("Locked", Retry::Backoff));
    let path = world.directory.path().to_owned();
    let waiting = std::thread::spawn(move || {
        Engine::open(path).unwrap().begin(true).unwrap();
    });
    // `flock` and its child share the descriptor: both must go.
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.id())).unwrap();
    for pid in child.split_whitespace() {
        std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    waiting.join().unwrap();
}

/// A8: whatever a killed process has left in the state directory, the next start heals it.
#[test]
fn a8_leftovers_of_a_killed_process_are_no_obstacle() {
    let world = World::new();
    world.sync(&Tree::of([("a", "1")]), "1");
    for (name, content) in [
        ("lock", "12345"),
        ("journal.new", "half"),
        ("manifest.new", ""),
        ("head.new", "{"),
        ("seen", ""),
        ("stage/7", "staged"),
        ("stage/8.aside/deep/file", "aside"),
        ("stage/probe.a", ""),
        ("history/2/1", "kept by a transaction without a journal"),
    ] {
        world.write(&format!(".stoker/{name}"), content);
    }
    world.sync(&Tree::of([("a", "2")]), "2");
    assert_eq!(world.files(), expect([("a", "2")]));
    assert_eq!(std::fs::read_dir(world.path(".stoker/stage")).unwrap().count(), 0);
    let damaged = ["head", "manifest", "journal"];
    for (n, name) in damaged.iter().enumerate() {
        world.write(&format!(".stoker/{name}"), "\0\0\0\0");
        world.sync(&Tree::of([("a", &n.to_string())]), "3");
        assert_eq!(world.files(), expect([("a", &n.to_string())]), "damaged {name}");
    }
    let numbers: Vec<u64> = world.engine().history().unwrap().iter().map(|p| p.transaction).collect();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]) && numbers.len() == 5, "{numbers:?}");
}

/// A source whose one file is said to be huge, and that must not be read.
struct Huge(u64);

impl Source for Huge {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        Ok(path.is_root().then_some(Entry { kind: EntryKind::Directory, id: None, size: None }))
    }
    fn list(&self, _: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let entry = Entry { kind: EntryKind::File, id: Some(ContentId::of(b"huge")), size: Some(self.0) };
        Ok(vec![NamedEntry { name: b"huge.bin".to_vec(), entry }])
    }
    fn open(&self, path: RelPath<'_>, _: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        panic!("{path} was read")
    }
}

/// A source with one entry of any name.
struct Named(Vec<u8>, EntryKind);

impl Source for Named {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        Ok(path.is_root().then_some(Entry { kind: EntryKind::Directory, id: None, size: None }))
    }
    fn list(&self, _: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let entry = Entry { kind: self.1, id: Some(ContentId::of(b"x")), size: Some(1) };
        Ok(vec![NamedEntry { name: self.0.clone(), entry }])
    }
    fn open(&self, _: RelPath<'_>, _: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        Ok(Box::new(&b"x"[..]))
    }
}

/// A10: names and kinds that a repository can hold and a destination must not: refused before any write, by name.
#[test]
fn a10_hostile_entries_are_refused_by_name_and_touch_nothing() {
    let world = World::new();
    world.sync(&Tree::of([("a", "1")]), "1");
    let long = vec![b'x'; 256];
    for name in [
        &b".."[..],
        b"../x",
        b"/etc/passwd",
        b"a/b",
        b".git",
        b".GIT",
        b"git~1",
        b".git ",
        b"nul\0",
        b"tab\t",
        b"back\\slash",
        b"\xff\xfe",
        b"",
        b".",
        &long,
    ] {
        let error = world.plan(&Named(name.to_vec(), EntryKind::File), "2").unwrap_err();
        assert_eq!(error.category().as_str(), "InvalidPath", "{name:?}: {error}");
    }
    for kind in [EntryKind::Symlink, EntryKind::Submodule, EntryKind::Other] {
        let error = world.plan(&Named(b"link".to_vec(), kind), "2").unwrap_err();
        assert_eq!(error.category().as_str(), "UnsupportedEntry", "{error}");
        assert!(error.to_string().contains("link is a "), "{error}");
    }
    let error = world.plan(&Huge(1 << 30), "2").unwrap_err();
    assert_eq!(error.category().as_str(), "FileTooLarge", "refused by what the source says of it");
    assert!(
        error.to_string().contains("huge.bin has 1073741824 bytes; the limit for one file is 67108864"),
        "{error}"
    );
    assert_eq!(world.files(), expect([("a", "1")]));
}

/// A10: 100,000 files in one directory are just many; one more than the limit is refused.
#[test]
fn a10_a_hundred_thousand_files_in_one_directory() {
    struct Many(usize);
    impl Source for Many {
        fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
            Ok(path.is_root().then_some(Entry { kind: EntryKind::Directory, id: None, size: None }))
        }
        fn list(&self, _: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
            let entry = Entry { kind: EntryKind::File, id: Some(ContentId::of(b"x")), size: Some(1) };
            Ok((0..self.0)
                .map(|n| NamedEntry { name: format!("f{n}").into_bytes(), entry: entry.clone() })
                .collect())
        }
        fn open(&self, _: RelPath<'_>, _: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
            Ok(Box::new(&b"x"[..]))
        }
    }
    let world = World::new();
    assert_eq!(world.plan(&Many(100_000), "1").unwrap().counts.added, 100_000);
    let error = world.plan(&Many(100_001), "1").unwrap_err();
    assert_eq!(error.category().as_str(), "LimitExceeded");
}

/// A11: a source directory that became a link, was emptied, or holds only a `.gitkeep`: nothing beyond the guard goes.
#[test]
fn a11_a_source_that_is_suddenly_empty_deletes_nothing_unasked() {
    let source = tempfile::tempdir().unwrap();
    let site = source.path().join("site");
    let mut world = World::new();
    world.spec.mappings =
        vec![Mapping { source: "site".into(), destination: "site".into(), ..Mapping::default() }];
    world.spec.max_deletes = MaxDeletes::default();
    world.spec.excludes = vec![".gitkeep".into()];
    std::fs::create_dir(&site).unwrap();
    (0..20).for_each(|n| std::fs::write(site.join(n.to_string()), "1").unwrap());
    let open = || stoker_core::DirectorySource::open(source.path()).unwrap();
    world.sync(&open(), "1");
    let before = world.files();
    (0..20).for_each(|n| std::fs::remove_file(site.join(n.to_string())).unwrap());
    let emptied = world.plan(&open(), "2").unwrap_err();
    assert!(emptied.is_held() && emptied.to_string().contains("deletes 20 of 20"), "{emptied}");
    std::fs::write(site.join(".gitkeep"), "").unwrap();
    assert!(world.plan(&open(), "2").unwrap_err().is_held());
    std::fs::remove_dir_all(&site).unwrap();
    assert!(world.plan(&open(), "2").unwrap().is_empty(), "a missing source deletes nothing");
    std::os::unix::fs::symlink("/etc", &site).unwrap();
    assert_eq!(world.plan(&open(), "2").unwrap_err().category().as_str(), "UnsupportedEntry");
    assert_eq!(world.files(), before);
}

/// A12: a mode alone changes without a new content, in one transaction with a swap of file and directory.
#[test]
fn a12_modes_and_swaps_in_one_transaction() {
    let world = World::new();
    world.sync(&Tree::of([("run.sh", "1"), ("s", "file"), ("d/x", "1")]), "1");
    std::fs::set_permissions(world.path("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let applied = world.sync(&Tree::of([("run.sh", "1"), ("s/t", "dir"), ("d", "file")]), "2");
    assert_eq!(world.files(), expect([("run.sh", "x:1"), ("s/t", "dir"), ("d", "file")]));
    assert_eq!(world.engine().history().unwrap().len(), 2, "one transaction each: {applied:?}");
}

/// A13: expansion to a gigabyte is stopped at the cap, not by the memory.
#[test]
fn a13_expansion_stops_at_the_cap() {
    let mut world = World::new();
    world.spec.mappings[0].template = true;
    world.spec.variables = stoker_core::Variables::new().text("Big", "x".repeat(1 << 20));
    let bomb = Tree([("bomb.txt".to_owned(), "{{.Big}}".repeat(1024).into_bytes())].into());
    let engine = world.engine();
    let error = engine.preview(&bomb, "1", &world.spec, &PlanOptions::default()).unwrap_err();
    assert!(error.to_string().contains("bomb.txt") && error.to_string().contains("67108864"), "{error}");
    world.spec.limits = Limits { max_file_bytes: 4 << 20, max_total_bytes: 8 << 20, ..Limits::default() };
    let many = (0..4).map(|n| (format!("{n}.txt"), "{{.Big}}{{.Big}}{{.Big}}".as_bytes().to_vec()));
    let many = Tree(many.collect());
    let session = engine.begin(false).unwrap();
    let plan = session.plan(&many, "1", &world.spec, &PlanOptions::default()).unwrap();
    let error = session.apply(plan, &many, &world.spec, &mut NoObserver).unwrap_err();
    assert_eq!(error.category().as_str(), "LimitExceeded", "{error}");
    assert_eq!(world.files(), expect([]));
}

/// A18: a caller that wants to stop is heard until the commit point, and leaves nothing behind.
#[test]
fn a18_a_cancelled_sync_leaves_the_old_commit_and_no_traces() {
    struct StopAfter(usize, std::cell::Cell<usize>);
    impl Observer for StopAfter {
        fn staged(&mut self, done: usize, _: usize) {
            self.1.set(done);
        }
        fn cancelled(&self) -> bool {
            self.1.get() >= self.0
        }
    }
    let world = World::new();
    let (old, new) = two_commits();
    world.sync(&old, "1");
    let before = world.files();
    for after in 0..6 {
        let engine = world.engine();
        let session = engine.begin(false).unwrap();
        let plan = session.plan(&new, "2", &world.spec, &PlanOptions::default()).unwrap();
        let error =
            session.apply(plan, &new, &world.spec, &mut StopAfter(after, Default::default())).unwrap_err();
        assert_eq!(error.category().as_str(), "Stopped");
        assert_eq!(world.files(), before, "stopped after {after} files");
        assert_eq!(std::fs::read_dir(world.path(".stoker/stage")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(world.path(".stoker/history")).unwrap().count(), 1);
    }
    world.sync(&new, "2");
}

/// A3: what is kept makes room for what is new, and says what it holds where it cannot.
#[test]
fn a3_the_history_never_blocks_a_sync() {
    let Some(root) = on(&Volume::Memory("size=6m"), "faults::a3_the_history_never_blocks_a_sync") else {
        return;
    };
    let commit = |n: u8, files: usize| {
        Tree((0..files).map(|f| (format!("project/{f}"), vec![n + f as u8; 200_000])).collect())
    };
    let kept = || Engine::open(&root).unwrap().history().unwrap();
    for n in 1..10 {
        sync(&root, &commit(n, 6), &mut NoObserver).unwrap();
        assert_eq!(kept().last().unwrap().transaction, u64::from(n));
        assert!(kept().len() >= 2.min(usize::from(n)), "no more goes than is needed: {:?}", kept());
    }
    // The newest can still be taken back.
    let before = files(&root);
    sync(&root, &commit(10, 6), &mut NoObserver).unwrap();
    Engine::open(&root).unwrap().begin(true).unwrap().rollback(None).unwrap();
    assert_eq!(files(&root), before);
    let last = kept().last().cloned();
    let error = sync(&root, &commit(11, 29), &mut NoObserver).unwrap_err().to_string();
    let held: u64 =
        error.split("the history holds ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1_200_000..6_000_000).contains(&held), "{error}");
    assert_eq!((files(&root), kept().last().cloned()), (before, last));
    // The estimate may be wrong: content that grows on its way fails once, and makes room for the next try.
    let count = kept().len();
    let filler = Filler::leaving(&root, 0);
    drop(filler);
    let mut full = FullAt { root: &root, file: Some(1), left: 4096, filler: None };
    let error = sync(&root, &commit(12, 6), &mut full).unwrap_err().to_string();
    assert!(error.contains("the history holds "), "{error}");
    drop(full);
    assert!(kept().len() < count.max(2));
    sync(&root, &commit(12, 6), &mut NoObserver).unwrap();
}

/// A3: a transaction that was committed and found no space for its end takes it from the history, not from somebody else.
#[test]
fn a3_an_interrupted_transaction_is_completed_although_the_volume_stays_full() {
    let test = "faults::a3_an_interrupted_transaction_is_completed_although_the_volume_stays_full";
    let Some(root) = on(&Volume::Memory("size=4m"), test) else { return };
    let (old, new) = two_commits();
    let mut completed = 0;
    for pages in 0..12 {
        for tree in [&new, &old, &new, &old] {
            sync(&root, tree, &mut NoObserver).unwrap();
        }
        let mut full = FullAt { root: &root, file: None, left: pages * 4096, filler: None };
        let result = sync(&root, &new, &mut full);
        let interrupted = result
            .is_err_and(|e| matches!(e.downcast_ref::<ApplyError>(), Some(ApplyError::Interrupted { .. })));
        if interrupted {
            completed += 1;
            let engine = Engine::open(&root).unwrap();
            let newest = engine.begin(true).unwrap().recovered().unwrap();
            assert_eq!(without_filler(&root).len(), 6);
            assert_eq!(engine.history().unwrap().last().unwrap().transaction, newest);
        }
        drop(full);
    }
    assert!(completed > 0, "no transaction was interrupted");
}
