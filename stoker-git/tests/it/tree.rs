//! A commit as a source of files.

use std::time::{Duration, Instant};

use stoker_core::{ContentId, EntryKind, RelPath, RelPathBuf, Source, SourceError};
use stoker_git::CommitSource;

use crate::support::*;

fn path(text: &str) -> RelPathBuf {
    RelPathBuf::parse(text).unwrap()
}

async fn fetched(plant: &Plant) -> CommitSource {
    sync(&client(), &remote(&format!("file://{}", plant.bare().display())), "main", &plant.cache("tree"))
        .await
}

#[test]
fn a_source_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<CommitSource>();
    shared::<stoker_git::Git>();
    shared::<stoker_git::Remote>();
}

#[tokio::test]
async fn entries_are_classified_and_measured() {
    let plant = Plant::new();
    plant.commit(&[("run.sh", "#!/bin/sh\n"), ("data/größe 1.txt", "ä"), ("data/empty", "")], "files");
    plant.git(&["update-index", "--chmod=+x", "run.sh"]);
    std::os::unix::fs::symlink("/etc/passwd", plant.work().join("link")).unwrap();
    plant.git(&["add", "link"]);
    let submodule = "0123456789012345678901234567890123456789";
    plant.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{submodule},module")]);
    plant.git(&["commit", "-q", "-m", "special"]);
    plant.push(&["main"]);
    let source = fetched(&plant).await;

    let mut found: Vec<(String, EntryKind, Option<u64>)> = source
        .list(RelPath::ROOT)
        .unwrap()
        .into_iter()
        .map(|e| (String::from_utf8(e.name).unwrap(), e.entry.kind, e.entry.size))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("README.md", EntryKind::File, Some(6)),
        ("data", EntryKind::Directory, None),
        ("link", EntryKind::Symlink, None),
        ("module", EntryKind::Submodule, None),
        ("projects", EntryKind::Directory, None),
        ("run.sh", EntryKind::Executable, Some(10)),
    ];
    let expected: Vec<_> = expected.map(|(n, k, s)| (n.to_owned(), k, s)).into();
    assert_eq!(found, expected);
    for (name, kind, size) in expected {
        let entry = source.entry(path(&name).as_path()).unwrap().unwrap();
        assert_eq!((entry.kind, entry.size), (kind, size), "{name}");
    }
    let root = source.entry(RelPath::ROOT).unwrap().unwrap();
    assert_eq!(root.kind, EntryKind::Directory);
    assert_eq!(root.id.unwrap().to_string(), plant.git(&["rev-parse", "HEAD^{tree}"]));
    let file = source.entry(path("data/größe 1.txt").as_path()).unwrap().unwrap();
    assert_eq!((file.kind, file.size), (EntryKind::File, Some(2)));
    assert_eq!(read(&source, "data/größe 1.txt"), "ä");
    assert_eq!(read(&source, "data/empty"), "");
}

#[tokio::test]
async fn what_is_not_there_is_not_there() {
    let plant = Plant::new();
    let source = fetched(&plant).await;
    for absent in ["nope", "projects/nope/x", "README.md/x"] {
        assert_eq!(source.entry(path(absent).as_path()).unwrap(), None, "{absent}");
    }
    for no_directory in ["nope", "README.md"] {
        let error = source.list(path(no_directory).as_path()).unwrap_err();
        assert!(matches!(error, SourceError::Missing { .. }), "{no_directory}: {error}");
    }
    let readme = path("README.md");
    let tree = source.entry(path("projects").as_path()).unwrap().unwrap().id.unwrap();
    for id in [ContentId::of(b"x"), ContentId::new(&[1; 20]).unwrap(), tree] {
        let error = source.open(readme.as_path(), &id).map(|_| ()).unwrap_err();
        assert!(matches!(error, SourceError::Missing { .. }), "{error}");
    }
    // Nothing of this was damage: the cache stays in use.
    let again = fetched(&plant).await;
    assert_eq!(read(&again, "README.md"), "plant\n");
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_before_it_is_read() {
    let plant = Plant::new();
    plant.commit(&[("big", &noise(1000))], "big");
    plant.push(&["main"]);
    let source = fetched(&plant).await.with_max_blob_bytes(999);
    let big = path("big");
    let entry = source.entry(big.as_path()).unwrap().unwrap();
    let error = source.open(big.as_path(), &entry.id.unwrap()).map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { size: 1000, limit: 999, .. }), "{error}");
    read(&source.with_max_blob_bytes(1000), "big");
}

/// The absolute time is a hint on a busy machine; the bound is far above it and far below quadratic behaviour.
#[tokio::test]
async fn ten_thousand_files_are_listed_and_read_in_a_moment() {
    let plant = Plant::new();
    let mut script = String::from("commit refs/heads/main\ncommitter A <a@b> 1700000000 +0000\ndata 1\nx\n");
    for i in 0..10_000 {
        let content = format!("{{\"file\": {i}}}");
        script += &format!("M 100644 inline d{}/sub/f{i}.json\ndata {}\n{content}\n", i % 50, content.len());
    }
    for i in 0..10_000 {
        script += &format!("M 100644 inline flat/f{i}.json\ndata 1\nx\n");
    }
    plant.import(script);
    let source = fetched(&plant).await;

    fn walk(source: &CommitSource, dir: RelPath<'_>, files: &mut Vec<(RelPathBuf, ContentId)>) {
        for named in source.list(dir).unwrap() {
            let path = dir.child(std::str::from_utf8(&named.name).unwrap()).unwrap();
            match named.entry.kind {
                EntryKind::Directory => walk(source, path.as_path(), files),
                _ => files.push((path, named.entry.id.unwrap())),
            }
        }
    }
    let start = Instant::now();
    let mut files = Vec::new();
    walk(&source, RelPath::ROOT, &mut files);
    let listed = start.elapsed();
    assert_eq!(files.len(), 20_000);
    for (path, _) in files.iter().step_by(7) {
        assert!(source.entry(path.as_path()).unwrap().is_some());
    }
    let looked_up = start.elapsed() - listed;
    for (path, id) in &files {
        std::io::copy(&mut source.open(path.as_path(), id).unwrap(), &mut std::io::sink()).unwrap();
    }
    let read = start.elapsed() - listed - looked_up;
    println!(
        "20,000 files: listed with sizes in {listed:?}, 2,858 looked up in {looked_up:?}, read in {read:?}"
    );
    assert!(listed + looked_up + read < Duration::from_secs(10), "{listed:?} {looked_up:?} {read:?}");
}
