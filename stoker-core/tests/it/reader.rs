//! P2, seen by somebody who reads all the time.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::world::{Tree, World};

/// Large enough that a write takes several system calls, and telling which commit it is from.
fn content(path: &str, commit: usize) -> String {
    format!("{path} of commit {commit}\n").repeat(3000)
}

fn is_whole(path: &str, bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let first = text.lines().next().unwrap_or_default();
    let commit = first.rsplit(' ').next().and_then(|n| n.parse().ok());
    commit.is_some_and(|commit| text == content(path, commit))
}

/// A reader that hammers every path during many transactions never sees absence, half a file or a mix of two; a
/// path that is a file in one commit and a directory in the next is always one of both.
#[test]
fn a_concurrent_reader_sees_old_or_new_and_never_nothing() {
    let world = World::new();
    let steady = ["a", "d/b", "d/e/c", "r/manifest", "r/view"];
    let tree = |commit: usize| {
        let mut files: BTreeMap<String, Vec<u8>> =
            steady.iter().map(|p| ((*p).to_owned(), content(p, commit).into_bytes())).collect();
        let swapping = if commit.is_multiple_of(2) { "swap" } else { "swap/in/deep" };
        files.insert(swapping.to_owned(), content(swapping, commit).into_bytes());
        Tree(files)
    };
    world.sync(&tree(0), "0");
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let root: &Path = world.directory.path();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for path in steady {
                        let found = std::fs::read(root.join(path));
                        let bytes = found.unwrap_or_else(|e| panic!("{path} is absent: {e}"));
                        assert!(is_whole(path, &bytes), "{path} is neither old nor new");
                    }
                    match std::fs::read(root.join("swap")) {
                        Ok(bytes) => assert!(is_whole("swap", &bytes), "swap is neither old nor new"),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::IsADirectory, "swap is absent: {e}"),
                    }
                    match std::fs::read(root.join("swap/in/deep")) {
                        Ok(bytes) => assert!(is_whole("swap/in/deep", &bytes), "swap/in/deep is a mix"),
                        // `swap` is the file.
                        Err(e) => {
                            assert!(matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound), "{e}")
                        }
                    }
                    reads.fetch_add(7, Ordering::Relaxed);
                }
            });
        }
        for commit in 1..=50 {
            world.sync(&tree(commit), &commit.to_string());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 1000, "the reader has not read enough to tell");
}

/// The directory that takes the place of a file is complete from its first moment on.
#[test]
fn a_directory_appears_with_everything_in_it() {
    let world = World::new();
    let file = Tree::of([("swap", "file")]);
    let names: Vec<String> = (0..40).map(|n| format!("swap/{}/{n}", n % 5)).collect();
    let directory = Tree(names.iter().map(|n| (n.clone(), n.clone().into_bytes())).collect());
    world.sync(&file, "0");
    let stop = AtomicBool::new(false);
    let top = world.path("swap");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Ok(opened) = std::fs::File::open(&top) else { panic!("swap is absent") };
                let inode = opened.metadata().unwrap().ino();
                if !opened.metadata().unwrap().is_dir() {
                    continue;
                }
                let below = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
                let complete = names.iter().all(|n| below.join(n.strip_prefix("swap/").unwrap()).exists());
                // It is emptied only after it has lost its place.
                let in_place = top.metadata().unwrap().ino() == inode;
                assert!(complete || !in_place, "a directory that is not complete");
            }
        });
        for n in 0..30 {
            world.sync(if n % 2 == 0 { &directory } else { &file }, &n.to_string());
        }
        stop.store(true, Ordering::Relaxed);
    });
}
