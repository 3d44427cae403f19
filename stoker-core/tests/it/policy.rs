//! Who wins, what is mirrored, what a plan says about it.

use stoker_core::{ActionKind, Mapping, PathPolicy, Policy, Prune, Warning};

use crate::world::{Tree, World, expect};

/// A14: whatever both sides did to a file, each policy leaves what it promises, and nothing that existed only here is
/// lost.
#[test]
fn each_policy_decides_every_meeting_of_two_changes() {
    let (none, old, new, other) = (None, Some("old"), Some("new"), Some("other"));
    let policies = [Policy::SourceWins, Policy::DestinationWins, Policy::Manual, Policy::Report];
    for (desired, live, source_wins, else_wins) in [
        (old, other, old, other),
        (old, none, old, none),
        (new, old, new, new),
        (new, new, new, new),
        (new, other, new, other),
        (new, none, new, none),
        (none, old, none, none),
        (none, other, none, other),
        (none, none, none, none),
    ] {
        for policy in policies {
            for by_path in [false, true] {
                let mut world = World::new();
                let tree = |content: Option<&str>| {
                    let mut tree = Tree::of([("keep", "k")]);
                    tree.0.extend(content.map(|c| ("d/file".to_owned(), c.as_bytes().to_vec())));
                    tree
                };
                world.sync(&tree(old), "1");
                if by_path {
                    world.spec.path_policies = vec![PathPolicy { pattern: "d/".into(), policy }];
                } else {
                    world.spec.policy = policy;
                }
                match live {
                    _ if live == old => {}
                    Some(content) => world.write("d/file", content),
                    None => std::fs::remove_file(world.path("d/file")).unwrap(),
                }
                let applied = world.sync(&tree(desired), "2");
                let says = format!("{policy:?}, desired {desired:?}, live {live:?}");
                let expected = if policy == Policy::SourceWins { source_wins } else { else_wins };
                assert_eq!(world.files().get("d/file").map(String::as_str), expected, "{says}");
                let plan = world.plan(&tree(desired), "2").unwrap();
                assert!(plan.is_empty(), "{says}: not converged: {:?}", plan.actions);
                let kept = plan.actions.iter().filter(|a| a.kind == ActionKind::Keep).count();
                assert_eq!(kept as u64, applied.counts.kept, "{says}: a kept change is reported every time");
                let warned = plan.warnings.iter().any(|w| matches!(w, Warning::Conflicts { .. }));
                assert_eq!(warned, policy == Policy::Manual && kept > 0, "{says}");
                if live == other && expected != other {
                    assert!(world.is_in_history("other"), "{says}: lost");
                }
            }
        }
    }
}

#[test]
fn a_mirror_deletes_what_the_source_does_not_have_but_nothing_protected_excluded_or_outside() {
    let mut world = World::new();
    world.spec.mappings =
        vec![Mapping { source: "site".into(), destination: "site".into(), ..Mapping::default() }];
    world.spec.prune = Prune::Mirror;
    world.spec.excludes = vec!["*.log".into(), "site/cache/".into(), "!site/cache/ours".into()];
    world.spec.protections =
        vec![stoker_core::Protection { pattern: "site/own/".into(), reason: "the program's".into() }];
    for path in
        ["outside", "site/x.log", "site/cache/y", "site/own/z", "site/deep/er/gone", "site/ours/extra"]
    {
        world.write(path, path);
    }
    std::os::unix::fs::symlink("nowhere", world.path("site/link")).unwrap();
    let tree = Tree::of([("site/ours/a", "1"), ("site/cache/ours", "c")]);
    world.sync(&tree, "1");
    let stays = [("outside", "outside"), ("site/x.log", "site/x.log"), ("site/cache/y", "site/cache/y")];
    let mut expected = expect(stays);
    expected.extend(expect([("site/own/z", "site/own/z"), ("site/ours/a", "1"), ("site/cache/ours", "c")]));
    assert_eq!(world.files(), expected);
    assert!(!world.path("site/deep").exists(), "directories in which nothing stays go, too");
    assert!(world.is_in_history("site/deep/er/gone") && world.is_in_history("site/ours/extra"));
    // It looks again although neither the source nor any owned file changed.
    world.write("site/ours/extra", "again");
    assert_eq!(world.plan(&tree, "1").unwrap().counts.deleted, 1);
    // And all of it, the link included, comes back.
    world.engine().begin(false).unwrap().rollback(None).unwrap();
    assert_eq!(world.files().get("site/deep/er/gone").map(String::as_str), Some("site/deep/er/gone"));
    assert_eq!(world.files().get("site/link").map(String::as_str), Some("symlink"));
}

#[test]
fn a_mirror_is_stopped_by_the_guard_of_deletions() {
    let mut world = World::new();
    world.spec.prune = Prune::Mirror;
    world.spec.max_deletes = stoker_core::MaxDeletes { count: 200, percent: 50 };
    for n in 0..3 {
        world.write(&format!("theirs{n}"), "t");
    }
    let error = world.plan(&Tree::of([("ours", "1")]), "1").unwrap_err();
    assert!(error.is_held(), "{error}");
}

#[test]
fn a_mirror_of_a_pattern_deletes_what_the_pattern_would_take_and_a_narrower_mapping_has_its_own() {
    let mut world = World::new();
    let map = |source: &str, destination: &str, pattern: Option<&str>| Mapping {
        source: source.into(),
        destination: destination.into(),
        file_pattern: pattern.map(str::to_owned),
        ..Mapping::default()
    };
    world.spec.prune = Prune::Mirror;
    world.spec.mappings = vec![map("look", "themes", Some("*.css")), map("plain", "themes/plain", None)];
    for path in ["themes/theirs.css", "themes/theirs.txt", "themes/deep/theirs.css", "themes/plain/x.txt"] {
        world.write(path, path);
    }
    world.sync(&Tree::of([("look/a.css", "a"), ("look/a.txt", "a"), ("plain/b.txt", "b")]), "1");
    let expected =
        [("themes/a.css", "a"), ("themes/plain/b.txt", "b"), ("themes/theirs.txt", "themes/theirs.txt")];
    assert_eq!(world.files(), expect(expected));
    assert!(!world.path("themes/deep").exists());
}

#[test]
fn a_mirror_from_above_leaves_the_programs_own_and_one_straight_into_it_does_not() {
    let mut world = World::new();
    world.spec.prune = Prune::Mirror;
    world.spec.mirror_keeps = vec!["/*".into(), "!/site".into(), "/site/*/unit.json".into()];
    let theirs = ["modules/x/y", "top.txt", "site/a/unit.json", "site/a/old", "site/unit.json"];
    theirs.iter().for_each(|path| world.write(path, path));
    let tree = Tree::of([("site/a/new", "n"), ("modules/ours", "m")]);
    world.sync(&tree, "1");
    let mut expected = expect(["modules/x/y", "top.txt", "site/a/unit.json"].map(|path| (path, path)));
    expected.extend(expect([("site/a/new", "n"), ("modules/ours", "m")]));
    assert_eq!(world.files(), expected);
    // What was brought there goes with its source all the same.
    world.sync(&Tree::of([("site/a/new", "n")]), "2");
    expected.remove("modules/ours");
    assert_eq!(world.files(), expected);
    let straight = Mapping { source: "m".into(), destination: "modules".into(), ..Mapping::default() };
    world.spec.mappings.push(straight);
    world.sync(&Tree::of([("site/a/new", "n"), ("m/z", "z")]), "3");
    assert_eq!(world.files().keys().filter(|path| path.starts_with("modules/")).count(), 1);
}

#[test]
fn what_a_directory_needs_stays_until_nothing_else_is_there() {
    for prune in [Prune::Owned, Prune::Mirror] {
        let mut world = World::new();
        world.spec.prune = prune;
        world.spec.needed_while_filled = vec!["/sets/*/set.json".into()];
        world.spec.excludes = vec!["own/".into()];
        world.write("sets/a/own/key", "k");
        let full = Tree::of([
            ("keep", "k"),
            ("sets/a/set.json", "{}"),
            ("sets/a/x", "x"),
            ("sets/b/set.json", "{}"),
        ]);
        world.sync(&full, "1");
        let less = Tree::of([("keep", "k")]);
        world.sync(&less, "2");
        let left = expect([("keep", "k"), ("sets/a/own/key", "k"), ("sets/a/set.json", "{}")]);
        assert_eq!(world.files(), left, "{prune:?}");
        assert!(world.plan(&less, "2").unwrap().is_empty(), "{prune:?}: settled");
        std::fs::remove_file(world.path("sets/a/own/key")).unwrap();
        world.sync(&Tree::of([("keep", "3")]), "3");
        assert_eq!(
            world.files(),
            expect([("keep", "3")]),
            "{prune:?}: still ours, and goes with the last file"
        );
    }
}

#[test]
fn what_a_directory_needs_goes_when_a_file_takes_its_place() {
    let mut world = World::new();
    world.spec.needed_while_filled = vec!["/sets/*/set.json".into()];
    world.sync(&Tree::of([("keep", "k"), ("sets/a/set.json", "{}"), ("sets/a/x", "x")]), "1");
    world.sync(&Tree::of([("keep", "k"), ("sets/a", "file")]), "2");
    assert_eq!(world.files(), expect([("keep", "k"), ("sets/a", "file")]));
    world.engine().begin(false).unwrap().rollback(None).unwrap();
    assert_eq!(world.files().len(), 3);
}

#[test]
fn two_mappings_on_one_path_are_named_and_a_pattern_selects_files() {
    let mut world = World::new();
    let map = |origin: &str, source: &str, pattern: Option<&str>| Mapping {
        origin: origin.into(),
        source: source.into(),
        destination: "x".into(),
        file_pattern: pattern.map(str::to_owned),
        ..Mapping::default()
    };
    world.spec.mappings = vec![
        map("mapping 1", "base", None),
        map("mapping 2", "over", Some("**/*.json")),
        map("mapping 3", "over", Some("{{.Only}}")),
    ];
    world.spec.variables = stoker_core::Variables::new().text("Only", "c.txt");
    let tree = Tree::of([
        ("base/a.json", "1"),
        ("base/b/a.json", "1"),
        ("base/c.txt", "1"),
        ("over/a.json", "2"),
        ("over/b/a.json", "2"),
        ("over/c.txt", "2"),
        ("over/d.txt", "2"),
    ]);
    let plan = world.plan(&tree, "1").unwrap();
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "x/a.json and 1 more is brought by mapping 1 and by mapping 2; the latter wins",
            "x/c.txt is brought by mapping 1 and by mapping 3; the latter wins",
        ]
    );
    world.sync(&tree, "1");
    assert_eq!(world.files(), expect([("x/a.json", "2"), ("x/b/a.json", "2"), ("x/c.txt", "2")]));
}

/// P6: the plan is a value that programs can read, the same for the same inputs, with the reason of every action.
#[test]
fn a_plan_says_why_for_every_action_and_says_the_same_again() {
    let mut world = World::new();
    world.spec.mappings[0].origin = "everything".into();
    world.spec.path_policies = vec![PathPolicy { pattern: "kept".into(), policy: Policy::DestinationWins }];
    world.sync(&Tree::of([("a", "1"), ("gone", "1"), ("kept", "1"), ("skip", "1")]), "1");
    world.write("a", "theirs");
    world.write("kept", "theirs");
    world.spec.excludes = vec!["skip".into()];
    let tree = Tree::of([("a", "2"), ("kept", "1"), ("new", "1")]);
    let plan = world.plan(&tree, "2").unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json, serde_json::to_value(world.plan(&tree, "2").unwrap()).unwrap());
    assert_eq!((json["from"].as_str(), json["to"].as_str()), (Some("1"), Some("2")));
    assert_eq!(json["digest"].as_str(), Some(plan.digest()));
    let said: Vec<_> = json["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| {
            assert!(!a["reason"].as_str().unwrap().is_empty());
            let text = |v: &serde_json::Value| v.as_str().unwrap_or("-").to_owned();
            let sides = ["base", "desired"].map(|side| if a[side].is_null() { "-" } else { "+" }).concat();
            [
                text(&a["path"]),
                text(&a["action"]),
                text(&a["mapping"]),
                text(&a["rule"]),
                sides,
                text(&a["live"]["found"]),
            ]
            .join("|")
        })
        .collect();
    assert_eq!(
        said,
        [
            "a|overwrite|everything|-|++|other",
            "gone|delete|-|-|+-|asWritten",
            "kept|keep|everything|policy gatewayWins of kept|++|other",
            "new|create|everything|-|-+|absent",
            "skip|forget|-|excluded by skip|+-|other",
        ]
    );
    assert!(plan.to_string().starts_with("overwrite a (changed here and in the source"), "{plan}");
}
