//! The way back.

use stoker_core::{Fault, Retention};

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
