//! P1 and P2: a real process, killed at each of its write-side system calls in turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::files;

/// System calls that change the file system.
const WRITES: &str =
    "mkdirat,renameat,renameat2,unlinkat,linkat,fchmod,fchownat,fsync,fdatasync,syncfs,write,openat,flock";

fn example() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap().join("examples/sync_directory");
    assert!(built.exists(), "{} is built together with the tests", built.display());
    built
}

fn lay(root: &Path, tree: &[(&str, &str)]) {
    for (path, content) in tree {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn sync(from: &Path, to: &Path) {
    let out = Command::new(example()).arg(from).arg(to).arg("r").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The owned files of `found`, without what belongs to somebody else.
fn owned(mut found: BTreeMap<String, String>) -> BTreeMap<String, String> {
    assert_eq!(found.remove("logs/theirs").as_deref(), Some("t"));
    assert_eq!(found.remove("foreign").as_deref(), Some("f"));
    found
}

/// A1: update, create, delete, a swap of file and directory, an emptied directory.
#[test]
fn killed_at_every_step_the_files_are_old_or_new_and_a_restart_converges() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        panic!("strace is needed: apt-get install strace");
    }
    let old: &[(&str, &str)] =
        &[("a", "old a"), ("b/c", "old c"), ("swap", "old file"), ("e/f/g", "old g"), ("same", "s")];
    let new: &[(&str, &str)] =
        &[("a", "new a"), ("b/c", "new c"), ("swap/in", "new in"), ("h/i", "new i"), ("same", "s")];
    let sources = tempfile::tempdir().unwrap();
    let (first, second) = (sources.path().join("1"), sources.path().join("2"));
    lay(&first, old);
    lay(&second, new);
    let (old, new) = (files(&first), files(&second));
    let seed = tempfile::tempdir().unwrap();
    let seed = seed.path().join("data");
    lay(&seed, &[("logs/theirs", "t"), ("foreign", "f")]);
    sync(&first, &seed);

    let mut points = 0;
    for n in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let copied =
            Command::new("cp").args(["-a".as_ref(), seed.as_os_str(), data.as_os_str()]).status().unwrap();
        assert!(copied.success());
        let killed = !Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject={WRITES}:signal=KILL:when={n}"))
            .arg(example())
            .args([&second, &data])
            .arg("r")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success();
        if !killed {
            break;
        }
        points += 1;
        for (path, content) in owned(files(&data)) {
            let known = old.get(&path) == Some(&content) || new.get(&path) == Some(&content);
            assert!(known, "killed at call {n}: {path} holds {content:?}");
        }
        sync(&second, &data);
        assert_eq!(owned(files(&data)), new, "restarted after call {n}");
        assert_eq!(std::fs::read_dir(data.join(".stoker/stage")).unwrap().count(), 0, "call {n}");
        let left: Vec<_> =
            std::fs::read_dir(data.join(".stoker")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(
            left.len() <= 5 + usize::from(left.iter().any(|n| n == "seen")),
            "lock, head, manifest, stage, history; found {left:?}"
        );
        assert!(!data.join("e").exists(), "call {n}: an empty directory is left");
    }
    println!("{points} crash points");
    assert!(points > 60, "only {points} crash points");
}
