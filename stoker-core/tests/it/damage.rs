//! What is left when somebody has damaged the engine's own directory: a refusal by name, never a wrong tree.

use std::os::unix::fs::FileTypeExt;

use stoker_core::{Fault, Past, RollbackError};

use crate::world::{Tree, World};

/// Three transactions over the same files.
fn three() -> World {
    let world = World::new();
    world.sync(&Tree::of([("a", "1"), ("b", "1"), ("d/c", "1")]), "1");
    world.sync(&Tree::of([("a", "2"), ("b", "2")]), "2");
    world.sync(&Tree::of([("a", "3"), ("b", "2")]), "3");
    world
}

fn back(world: &World, to: Option<u64>) -> Result<Past, RollbackError> {
    world.engine().begin(false).unwrap().rollback(to)
}

/// The rollback is refused with this text, and changes nothing: not the files, not the head, not the history.
fn refused(world: &World, to: Option<u64>, category: &str, text: &str) {
    let (files, head) = (world.files(), world.engine().head().unwrap());
    let history = world.engine().history().unwrap();
    let error = back(world, to).unwrap_err();
    assert_eq!(error.category().as_str(), category, "{error}");
    assert!(error.to_string().contains(text), "{error}");
    assert_eq!(world.files(), files);
    assert_eq!((world.engine().head().unwrap(), world.engine().history().unwrap()), (head, history));
    assert_eq!(std::fs::read_dir(world.path(".stoker/stage")).unwrap().count(), 0);
}

/// The files with kept contents of a transaction.
fn kept(world: &World, transaction: u64) -> Vec<std::path::PathBuf> {
    let is_content = |p: &std::path::PathBuf| p.file_name().unwrap().to_str().unwrap().parse::<u32>().is_ok();
    let directory = world.path(&format!(".stoker/history/{transaction}"));
    std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).filter(is_content).collect()
}

#[test]
fn a_rollback_without_the_kept_contents_changes_nothing() {
    let world = three();
    kept(&world, 2).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    refused(&world, Some(2), "HistoryDamaged", "transaction 2 kept of a");
    back(&world, Some(3)).unwrap();
}

#[test]
fn a_rollback_to_altered_contents_changes_nothing() {
    for kept in kept(&three(), 2).iter().map(|path| path.file_name().unwrap().to_owned()) {
        let world = three();
        std::fs::write(world.path(".stoker/history/2").join(&kept), "?").unwrap();
        let name = format!(".stoker/history/2/{}", kept.to_str().unwrap());
        refused(&world, Some(2), "HistoryDamaged", &name);
    }
    // What was not ours when it was replaced is checked just as well.
    let world = three();
    world.write("a", "theirs");
    world.sync(&Tree::of([("a", "3"), ("b", "2")]), "3");
    kept(&world, 4).iter().for_each(|path| std::fs::write(path, "theirS").unwrap());
    refused(&world, None, "HistoryDamaged", "transaction 4 kept of a");
    kept(&world, 4).iter().for_each(|path| std::fs::write(path, "theirs").unwrap());
    back(&world, None).unwrap();
    assert_eq!(world.files().get("a").map(String::as_str), Some("theirs"));
}

#[test]
fn a_rollback_does_not_step_over_a_transaction_that_is_gone() {
    let gone = "transaction 2 is not kept or is damaged";
    let world = three();
    std::fs::remove_dir_all(world.path(".stoker/history/2")).unwrap();
    refused(&world, Some(1), "HistoryDamaged", gone);
    back(&world, Some(3)).unwrap();
    for file in ["journal", "kept"] {
        for content in [None, Some("garbage")] {
            let world = three();
            let path = world.path(".stoker/history/2").join(file);
            content.map_or_else(|| std::fs::remove_file(&path), |c| std::fs::write(&path, c)).unwrap();
            refused(&world, Some(1), "HistoryDamaged", gone);
        }
    }
    // Nor over the newest one.
    let world = three();
    std::fs::remove_dir_all(world.path(".stoker/history/3")).unwrap();
    refused(&world, None, "HistoryDamaged", "transaction 3 is not kept");
    refused(&world, Some(2), "HistoryDamaged", "transaction 3 is not kept");
    refused(&world, Some(7), "HistoryNotKept", "transaction 7 is not kept");
}

#[test]
fn a_lost_head_takes_no_numbers_and_no_history_with_it() {
    let beyond =
        format!(r#"{{"revision":"x","spec":"","sources":{{}},"transaction":{},"files":2,"at":0}}"#, u64::MAX);
    for damage in [None, Some("garbage"), Some(""), Some(beyond.as_str())] {
        let world = three();
        let head = world.path(".stoker/head");
        let lose =
            || damage.map_or_else(|| std::fs::remove_file(&head), |c| std::fs::write(&head, c)).unwrap();
        lose();
        std::fs::create_dir(world.path(&format!(".stoker/history/{}", u64::MAX))).unwrap();
        let before = world.files();
        let kept = world.engine().history().unwrap();
        assert_eq!(kept.len(), 3);
        // Without a change of a file, and with one.
        world.sync(&Tree::of([("a", "3"), ("b", "2")]), "3");
        assert_eq!(world.engine().head().unwrap().unwrap().transaction, 3);
        lose();
        let applied = world.sync(&Tree::of([("a", "4"), ("b", "2")]), "4");
        assert_eq!(applied.transaction, Some(4), "after {damage:?}");
        assert_eq!(world.engine().history().unwrap()[..3], kept);
        assert_eq!(back(&world, None).unwrap().transaction, 5);
        assert_eq!(world.files(), before);
        lose();
        back(&world, None).unwrap();
        assert_eq!(world.files().get("a").map(String::as_str), Some("4"));
        back(&world, Some(2)).unwrap();
        assert_eq!(world.files().len(), 3);
    }
}

#[test]
fn what_is_not_a_file_comes_back_as_what_it_was() {
    let fifo = |path: &std::path::Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let world = three();
    let tree = Tree::of([("a", "3"), ("b", "2"), ("c", "1")]);
    world.sync(&tree, "4");
    ["a", "b", "c"].iter().for_each(|path| std::fs::remove_file(world.path(path)).unwrap());
    fifo(&world.path("a"));
    std::os::unix::fs::symlink("nowhere/at all", world.path("b")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("c")).unwrap();
    world.sync(&tree, "4");
    let restored = world.files();
    assert_eq!(restored.len(), 3);
    back(&world, None).unwrap();
    let kind = |path| std::fs::symlink_metadata(world.path(path)).unwrap().file_type();
    assert!(kind("a").is_fifo() && kind("c").is_socket());
    assert_eq!(std::fs::read_link(world.path("b")).unwrap().to_str(), Some("nowhere/at all"));
    // And forward again, and once more by a sync.
    back(&world, None).unwrap();
    assert_eq!(world.files(), restored);
    back(&world, None).unwrap();
    world.sync(&tree, "4");
    assert_eq!(world.files(), restored);
}

#[test]
fn a_stray_file_in_the_history_is_stepped_over() {
    let world = three();
    world.write(".stoker/history/4", "stray");
    let applied = world.sync(&Tree::of([("a", "5")]), "5");
    assert_eq!(applied.transaction, Some(5));
    assert_eq!(std::fs::read_to_string(world.path(".stoker/history/4")).unwrap(), "stray");
    back(&world, Some(2)).unwrap();
    assert_eq!(world.files().get("d/c").map(String::as_str), Some("1"));
    // Where none can be stepped over, its name and what to do is said.
    std::fs::rename(world.path(".stoker/history"), world.path("kept")).unwrap();
    world.write(".stoker/history", "stray");
    let error = stoker_core::chain(&world.engine().begin(false).unwrap_err());
    assert!(error.contains(".stoker/history is in the place of a directory; move it away"), "{error}");
}

#[test]
fn an_empty_directory_in_the_place_of_a_file_goes() {
    for (tree, deep) in [("3", false), ("3", true), ("4", false), ("4", true)] {
        let world = three();
        std::fs::remove_file(world.path("a")).unwrap();
        std::fs::create_dir_all(world.path(if deep { "a/x/y" } else { "a" })).unwrap();
        world.sync(&Tree::of([("a", tree), ("b", "2")]), tree);
        assert_eq!(world.files().get("a").map(String::as_str), Some(tree));
        back(&world, None).unwrap();
        assert_eq!(world.files().get("a"), None);
        // In the way of a rollback.
        std::fs::create_dir_all(world.path("a")).unwrap();
        std::fs::remove_file(world.path("b")).unwrap();
        std::fs::create_dir_all(world.path("b/x")).unwrap();
        back(&world, None).unwrap();
        back(&world, Some(2)).unwrap();
        assert_eq!(world.files().get("b").map(String::as_str), Some("1"));
    }
}

#[test]
fn a_directory_that_holds_a_name_no_source_can_bring_is_in_the_way() {
    use std::os::unix::ffi::OsStrExt;
    let world = three();
    std::fs::remove_file(world.path("a")).unwrap();
    std::fs::create_dir(world.path("a")).unwrap();
    std::fs::write(world.path("a").join(std::ffi::OsStr::from_bytes(b"\xff")), "theirs").unwrap();
    let error = world.plan(&Tree::of([("a", "3"), ("b", "2")]), "3").unwrap_err();
    assert_eq!(error.category().as_str(), "PathInTheWay");
    assert!(
        error.to_string().contains("a directory with files") && error.to_string().contains("move it away")
    );
}

#[test]
fn what_was_being_dropped_from_the_history_when_a_crash_came_is_gone_as_a_whole() {
    let world = three();
    // The state between the two steps of dropping a transaction.
    std::fs::rename(world.path(".stoker/history/1"), world.path(".stoker/stage/dropped.1")).unwrap();
    std::fs::remove_file(world.path(".stoker/stage/dropped.1/journal")).unwrap();
    drop(world.engine().begin(false).unwrap());
    assert_eq!(std::fs::read_dir(world.path(".stoker/stage")).unwrap().count(), 0);
    refused(&world, Some(1), "HistoryNotKept", "transaction 1 is not kept; there are 2, 3");
    back(&world, Some(2)).unwrap();
}
