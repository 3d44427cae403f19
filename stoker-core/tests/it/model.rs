//! Random commits and random edits on the gateway, against the table of the design written as a few lines.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::world::{Tree, World};

type Files = BTreeMap<String, String>;

fn tree() -> impl Strategy<Value = Files> {
    let path = prop::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/a", "s/a", "s/t/b"]);
    prop::collection::btree_map(path.prop_map(str::to_owned), "[xy]{0,2}", 0..6)
}

fn edits() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let path = prop::sample::select(vec!["a", "d/a", "d/e/a", "theirs", "s/theirs", "s/t/b"]);
    prop::collection::vec((path.prop_map(str::to_owned), prop::option::of("[xyz]{0,2}")), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After each sync: everything wanted is there, everything foreign is untouched, nothing else is left.
    #[test]
    fn syncs_like_the_model(steps in prop::collection::vec((edits(), tree()), 1..6)) {
        let world = World::new();
        let mut owned: Files = Files::new();
        let mut live: Files = Files::new();
        for (n, (edits, wanted)) in steps.into_iter().enumerate() {
            for (path, content) in edits {
                match content {
                    Some(content) => {
                        world.write(&path, &content);
                        live.insert(path, content);
                    }
                    None => {
                        let _ = std::fs::remove_file(world.path(&path));
                        live.remove(&path);
                    }
                }
            }
            let source = Tree(wanted.iter().map(|(p, c)| (p.clone(), c.clone().into_bytes())).collect());
            world.sync(&source, &n.to_string());
            live.retain(|path, _| !owned.contains_key(path) || wanted.contains_key(path));
            live.extend(wanted.clone());
            owned = wanted;
            prop_assert_eq!(&world.files(), &live);
            prop_assert!(world.plan(&source, "x").unwrap().is_empty());
        }
    }
}
