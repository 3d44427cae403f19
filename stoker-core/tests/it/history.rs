//! The way back.

use proptest::prelude::*;
use stoker_core::{ActionKind, Cause, Fault, PastContent, Retention};

use crate::world::{Tree, World, expect};

#[test]
fn rollback_restores_exactly_what_was_there() {
    let world = World::new();
    world.write("b", "theirs");
    let states = [
        Tree::of([("a", "1"), ("d/x", "1"), ("run.sh", "1")]),
        Tree::of([("a", "2"), ("b", "ours"), ("d", "file"), ("run.sh", "1")]),
        Tree::of([("b", "ours2"), ("n/m", "new")]),
    ];
    let mut seen = vec![world.files()];
    for (n, tree) in states.iter().enumerate() {
        world.sync(tree, &n.to_string());
        seen.push(world.files());
    }
    for target in [3, 2, 1] {
        let past = world.engine().begin(false).unwrap().rollback(Some(target)).unwrap();
        assert_eq!(world.files(), seen[target as usize - 1], "before transaction {target}");
        // And forward again, by rolling the rollback back.
        world.engine().begin(false).unwrap().rollback(Some(past.transaction)).unwrap();
        assert_eq!(world.files(), seen[3], "forward from {target}");
    }
    // A sync after a rollback brings the commit again.
    world.engine().begin(false).unwrap().rollback(Some(2)).unwrap();
    world.sync(&states[2], "2");
    assert_eq!(world.files(), seen[3]);
}

#[test]
fn the_way_back_over_several_transactions_ends_before_the_oldest() {
    let world = World::new();
    // Adopted, together with something that is written; then made executable; then changed.
    world.write("a.sh", "1");
    world.sync(&Tree::of([("a", "1"), ("m", "1")]), "0");
    std::fs::rename(world.path("a.sh"), world.path("b.sh")).unwrap();
    let before = world.files();
    world.sync(&Tree::of([("a", "2"), ("m", "1"), ("b.sh", "1")]), "1");
    world.sync(&Tree::of([("a", "2"), ("m", "2"), ("b.sh", "2")]), "2");
    assert_ne!(world.files(), before);
    world.engine().begin(false).unwrap().rollback(Some(2)).unwrap();
    assert_eq!(world.files(), before);
    assert!(!world.engine().owned().unwrap().iter().any(|path| path.as_str() == "b.sh"));
}

#[test]
fn the_way_back_leaves_alone_what_others_made_since() {
    let world = World::new();
    world.sync(&Tree::of([("k", "1"), ("d/a", "1")]), "1");
    std::fs::remove_file(world.path("d/a")).unwrap();
    world.sync(&Tree::of([("k", "2")]), "2");
    world.write("d/a", "theirs");
    world.engine().begin(false).unwrap().rollback(Some(2)).unwrap();
    assert_eq!(world.files(), expect([("k", "1"), ("d/a", "theirs")]));
    // A directory of others in the place of a file that would have to come back.
    std::fs::remove_file(world.path("k")).unwrap();
    world.write("k/theirs", "x");
    let error = world.engine().begin(false).unwrap().rollback(Some(2)).unwrap_err();
    assert_eq!(error.category().as_str(), "PathInTheWay");
    assert!(error.to_string().starts_with("k is wanted as a file, but a directory with files is there"));
    assert_eq!(world.files(), expect([("k/theirs", "x"), ("d/a", "theirs")]));
}

#[test]
fn the_way_back_leaves_alone_what_the_engine_was_told_to_let_go() {
    let mut world = World::new();
    world.sync(&Tree::of([("k", "1"), ("d/x", "1"), ("d/y", "1")]), "1");
    world.sync(&Tree::of([("k", "2"), ("d/x", "2"), ("d/y", "2")]), "2");
    world.spec.excludes = vec!["d/x".into()];
    world.sync(&Tree::of([("k", "3"), ("d/x", "3"), ("d/y", "2")]), "3");
    // Without a transaction: there is nothing to write.
    world.spec.excludes = vec!["d/".into()];
    world.sync(&Tree::of([("k", "3"), ("d/x", "3"), ("d/y", "3")]), "3");
    world.write("d/x", "local");
    world.write("d/y", "local");
    for target in [2, 1] {
        world.engine().begin(false).unwrap().rollback(Some(target)).unwrap();
        assert_eq!([&world.files()["d/x"], &world.files()["d/y"]], ["local"; 2], "before {target}");
    }
    assert!(!world.files().contains_key("k"), "the rest is undone");
}

#[test]
fn the_way_back_leaves_what_others_files_need_by_now() {
    let mut world = World::new();
    world.spec.needed_while_filled = vec!["/sets/*/set.json".into()];
    world.sync(&Tree::of([("k", "1")]), "1");
    let sets = [("k", "2"), ("sets/a/set.json", "{}"), ("sets/a/x", "x"), ("sets/b/set.json", "{}")];
    world.sync(&Tree::of(sets), "2");
    world.write("sets/a/theirs", "t");
    world.engine().begin(false).unwrap().rollback(Some(2)).unwrap();
    assert_eq!(world.files(), expect([("k", "1"), ("sets/a/set.json", "{}"), ("sets/a/theirs", "t")]));
    // It is still ours, and goes when nothing needs it any more.
    assert!(world.engine().owned().unwrap().iter().any(|path| path.as_str() == "sets/a/set.json"));
    std::fs::remove_file(world.path("sets/a/theirs")).unwrap();
    world.sync(&Tree::of([("k", "3")]), "3");
    assert_eq!(world.files(), expect([("k", "3")]));
}

#[test]
fn history_is_bounded_and_says_what_is_kept() {
    let world = World::new();
    for n in 0..8 {
        let engine = world.engine().with_retention(Retention { count: 3, bytes: 1 << 20 });
        let session = engine.begin(false).unwrap();
        let tree = Tree::of([("a", ["x", "yy"][n % 2])]);
        let plan =
            session.plan(&tree, &n.to_string(), &world.spec, &stoker_core::PlanOptions::default()).unwrap();
        session.apply(plan, &tree, &world.spec, &mut stoker_core::NoObserver).unwrap();
    }
    let engine = world.engine();
    let kept: Vec<u64> = engine.history().unwrap().iter().map(|p| p.transaction).collect();
    assert_eq!(kept, [6, 7, 8]);
    let error = engine.begin(false).unwrap().rollback(Some(2)).unwrap_err();
    assert_eq!(error.to_string(), "transaction 2 is not kept; there are 6, 7, 8");
    assert_eq!(error.category().as_str(), "HistoryNotKept");
    assert_eq!(world.files(), expect([("a", "yy")]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_changed_between_any_two_transactions_is_what_the_directory_showed(
        steps in proptest::collection::vec((0..3_u8, proptest::collection::btree_map("[abc]|d/[xy]", "[1-3]", 0..5)), 1..7),
    ) {
        let world = World::new();
        let (mut seen, mut overwritten) = (vec![world.files()], Vec::new());
        for (number, (how, tree)) in steps.into_iter().enumerate() {
            let tree = Tree(tree.into_iter().map(|(path, content)| (path, content.into_bytes())).collect());
            match how {
                // Somebody works on the gateway in between; the next sync finds it.
                0 => {
                    world.write("a", "theirs");
                    overwritten.push(seen.len() - 1);
                }
                1 if seen.len() > 1 => drop(world.engine().begin(false).unwrap().rollback(None).unwrap()),
                _ => drop(world.sync(&tree, &number.to_string())),
            }
            let newest = world.engine().history().unwrap().last().map_or(0, |past| past.transaction);
            if newest as usize == seen.len() {
                seen.push(world.files());
            }
        }
        let (engine, live) = (world.engine(), world.files());
        let content = |of: &Option<PastContent>| {
            let bytes = of.as_ref().and_then(|content| engine.past_content(content, 1 << 20).unwrap());
            bytes.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for to in 1..seen.len() {
            for after in 0..to {
                let shown = engine.past_changes(after as u64, to as u64).unwrap();
                for change in &shown {
                    let path = change.path.as_str();
                    // Foreign work between two transactions is part of what the later one found.
                    let (before, now) = (content(&change.before), content(&change.after));
                    prop_assert!(before.as_ref() == seen[after].get(path) || before.as_deref() == Some("theirs"));
                    // What somebody else has overwritten was never the engine's to keep; it is there if it was put back.
                    let back = live.get(path) == seen[to].get(path);
                    let foreign = (!back && overwritten.iter().any(|state| *state >= to))
                        || seen[to].get(path).is_some_and(|now| now == "theirs");
                    let lost = now.is_none() && path == "a" && foreign;
                    prop_assert!(now.as_ref() == seen[to].get(path) || lost, "{path}: {now:?}");
                }
                let changed = |path: &str| seen[after].get(path) != seen[to].get(path);
                let named = |path: &str| shown.iter().any(|change| change.path.as_str() == path);
                for path in seen[after].keys().chain(seen[to].keys()).filter(|path| changed(path)) {
                    prop_assert!(named(path) || seen[to].get(path).is_some_and(|now| now == "theirs"), "{path}");
                }
            }
        }
    }
}

#[test]
fn a_transaction_says_what_it_was_for() {
    let world = World::new();
    let tree = Tree::of([("a", "1")]);
    world.sync(&tree, "1");
    world.write("a", "theirs");
    world.sync(&tree, "1");
    world.engine().begin(false).unwrap().rollback(Some(1)).unwrap();
    world.sync(&tree, "1");
    let causes: Vec<Cause> = world.engine().history().unwrap().iter().map(|past| past.cause).collect();
    assert_eq!(causes, [Cause::Sync, Cause::Drift, Cause::Rollback, Cause::Sync]);
    let error = world.engine().past_changes(3, 9).unwrap_err();
    assert_eq!(error.to_string(), "transaction 9 is not kept; there are 1, 2, 3, 4");
}

#[test]
fn what_replaced_somebody_elses_file_is_no_new_file() {
    let world = World::new();
    world.write("u", "mine");
    world.sync(&Tree::of([("u", "git"), ("k", "1")]), "1");
    world.sync(&Tree::of([("k", "1")]), "2");
    let engine = world.engine();
    let kinds = |after, to| -> Vec<_> {
        let changes = engine.past_changes(after, to).unwrap();
        changes.iter().map(|change| (change.path.to_string(), change.kind)).collect()
    };
    assert_eq!(kinds(0, 1), [("k".to_owned(), ActionKind::Create), ("u".to_owned(), ActionKind::Update)]);
    // It was there before and is not any more.
    assert_eq!(kinds(0, 2), [("k".to_owned(), ActionKind::Create), ("u".to_owned(), ActionKind::Delete)]);
    // Without its record a transaction knows only what it expected; it does not invent an empty file.
    std::fs::remove_file(world.path(".stoker/history/2/kept")).unwrap();
    let change = &engine.past_changes(1, 2).unwrap()[0];
    let before = engine.past_content(change.before.as_ref().unwrap(), 100).unwrap();
    assert_eq!(before.as_deref(), Some(&b"git"[..]));
}
