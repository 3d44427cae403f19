//! The three-way table, layers, excludes and protections, transforms, directory swaps.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use stoker_core::{
    ActionKind, ContentId, Entry, FileEdit, Generated, LiveRules, Mapping, NamedEntry, Patch, PlanOptions,
    Protection, Prune, RelPath, RelPathBuf, Source, SourceError, Variables,
};

use crate::world::{Tree, World, expect};

/// Every combination of base, desired and live, with what must be live afterwards.
#[test]
fn three_way_table() {
    let (none, old, new, other) = (None, Some("old"), Some("new"), Some("other"));
    for (base, desired, live, result) in [
        (old, old, old, old),
        (old, new, old, new),
        (old, old, other, old),
        (old, old, none, old),
        (old, new, new, new),
        (old, new, other, new),
        (old, new, none, new),
        (old, none, old, none),
        (old, none, other, none),
        (old, none, none, none),
        (none, new, none, new),
        (none, new, new, new),
        (none, new, other, new),
        (none, none, other, other),
    ] {
        let world = World::new();
        let tree = |content: Option<&str>| {
            let mut tree = Tree::of([("keep", "k")]);
            tree.0.extend(content.map(|c| ("dir/file".to_owned(), c.as_bytes().to_vec())));
            tree
        };
        world.sync(&tree(base), "1");
        match live {
            _ if live == base => {}
            Some(content) => world.write("dir/file", content),
            None => std::fs::remove_file(world.path("dir/file")).unwrap(),
        }
        world.sync(&tree(desired), "2");
        let found = world.files().get("dir/file").cloned();
        assert_eq!(found.as_deref(), result, "base {base:?}, desired {desired:?}, live {live:?}");
        // P4: what existed only here is in the history.
        if live == other && result != other {
            let kept = std::fs::read_dir(world.path(".stoker/history")).unwrap().flat_map(|tx| {
                std::fs::read_dir(tx.unwrap().path())
                    .unwrap()
                    .map(|f| std::fs::read(f.unwrap().path()).unwrap())
            });
            assert!(kept.into_iter().any(|c| c == b"other"), "base {base:?}, desired {desired:?}: lost");
        }
        let again = world.plan(&tree(desired), "2").unwrap();
        assert!(again.is_empty(), "not converged: {:?}", again.actions);
    }
}

#[test]
fn an_unchanged_source_costs_no_listing_and_moves_the_revision() {
    let world = World::new();
    let tree = Tree::of([("a/x", "1"), ("b", "2")]);
    world.sync(&tree, "one");
    struct Closed<'a>(&'a Tree);
    impl stoker_core::Source for Closed<'_> {
        fn entry(&self, path: RelPath<'_>) -> Result<Option<stoker_core::Entry>, stoker_core::SourceError> {
            self.0.entry(path)
        }
        fn list(&self, _: RelPath<'_>) -> Result<Vec<stoker_core::NamedEntry>, stoker_core::SourceError> {
            panic!("listed")
        }
        fn open(
            &self,
            _: RelPath<'_>,
            _: &stoker_core::ContentId,
        ) -> Result<Box<dyn std::io::Read + '_>, stoker_core::SourceError> {
            panic!("opened")
        }
    }
    let applied = world.sync(&Closed(&tree), "two");
    assert_eq!((applied.counts.unchanged, applied.transaction), (2, None));
    assert_eq!(world.engine().head().unwrap().unwrap().revision, "two");
}

#[test]
fn later_layers_win_per_file() {
    let mut world = World::new();
    let map = |s: &str, d: &str| Mapping {
        origin: s.into(),
        source: s.into(),
        destination: d.into(),
        ..Mapping::default()
    };
    world.spec.mappings = vec![map("core", "config"), map("mode", "config"), map("one.txt", "config/b")];
    world.sync(
        &Tree::of([("core/a", "core"), ("core/b", "core"), ("mode/a", "mode"), ("one.txt", "file")]),
        "1",
    );
    assert_eq!(world.files(), expect([("config/a", "mode"), ("config/b", "file")]));
    // The overlay goes away: the layer below shows again.
    world.sync(&Tree::of([("core/a", "core"), ("core/b", "core"), ("one.txt", "file")]), "2");
    // A missing source deletes nothing by itself, but nothing holds the overlay's file any more.
    assert_eq!(world.files(), expect([("config/a", "core"), ("config/b", "file")]));
}

#[test]
fn a_path_that_is_a_file_by_one_mapping_and_a_directory_by_another_is_refused_with_both_names() {
    let map = |origin: &str, source: &str, destination: &str| Mapping {
        origin: origin.into(),
        source: source.into(),
        destination: destination.into(),
        ..Mapping::default()
    };
    let (tree, file) = (map("mapping 1", "src", "projects"), map("mapping 2", "f.txt", "projects/p1/f.txt"));
    let source = Tree::of([("src/p1", "a file"), ("src/p0", "x"), ("f.txt", "f")]);
    for mappings in [[tree.clone(), file.clone()], [file, tree]] {
        let mut world = World::new();
        world.spec.mappings = mappings.to_vec();
        use stoker_core::Fault;
        let error = world.plan(&source, "1").unwrap_err();
        assert_eq!(error.category().as_str(), "MappingConflict");
        assert_eq!(
            error.to_string(),
            "projects/p1 is a file by mapping 1 and a directory by mapping 2, which brings projects/p1/f.txt; exclude \
             one of the two or change a destination"
        );
        assert_eq!(world.files(), expect([]));
        world.spec.excludes = vec!["/projects/p1/f.txt".into()];
        world.sync(&source, "1");
        assert_eq!(world.files(), expect([("projects/p0", "x"), ("projects/p1", "a file")]));
    }
}

#[test]
fn a_patch_that_names_no_file_is_told_whenever_the_mapping_is_looked_at() {
    let patch = |file: Option<&str>| Patch {
        file: file.map(str::to_owned),
        set: [("a".to_owned(), serde_json::json!(1))].into(),
    };
    let mut world = World::new();
    world.spec.mappings = vec![
        Mapping {
            origin: "mapping 1".into(),
            source: "src".into(),
            destination: "config".into(),
            patches: vec![
                patch(Some("**/x.json")),
                patch(Some("{{.Name}}.json")),
                patch(Some("deep/*.json")),
            ],
            ..Mapping::default()
        },
        Mapping {
            origin: "mapping 2".into(),
            source: "f.txt".into(),
            destination: "f.txt".into(),
            patches: vec![patch(None)],
            ..Mapping::default()
        },
    ];
    world.spec.variables = Variables::new().text("Name", "y");
    let expected = [
        r#"mapping 1: patches[1].file "y.json" matches no file of this mapping; nothing is patched"#,
        r#"mapping 2: patches[0].file "*.json" matches no file of this mapping; nothing is patched"#,
    ];
    let warned = |world: &World, tree: &Tree, revision: &str| -> Vec<String> {
        world.plan(tree, revision).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let mut tree =
        Tree::of([("src/x.json", "{}"), ("src/deep/z.json", "{}"), ("src/a", "1"), ("f.txt", "f")]);
    assert_eq!(warned(&world, &tree, "1"), expected);
    world.sync(&tree, "1");
    // The directory with the patched file is not listed again; what was patched there counts all the same.
    tree.0.insert("src/a".into(), b"2".to_vec());
    assert_eq!(warned(&world, &tree, "2"), expected);
    tree.0.insert("src/y.json".into(), b"{}".to_vec());
    assert_eq!(warned(&world, &tree, "3"), expected[1..]);
}

#[test]
fn excluded_and_protected_paths_are_untouched_whatever_the_source_says() {
    let mut world = World::new();
    world.spec.excludes = vec!["**/.gitkeep".into(), "local/".into(), "!local/ours.txt".into()];
    world.spec.protections =
        vec![Protection { pattern: "**/.resources/".into(), reason: "the gateway's cache".into() }];
    for path in ["local/theirs", "p/.resources/cache", "foreign"] {
        world.write(path, "theirs");
    }
    let hostile = Tree::of([
        ("local/theirs", "ours"),
        ("local/ours.txt", "ours"),
        ("p/.resources/cache", "ours"),
        ("p/view", "ours"),
        ("p/.gitkeep", ""),
        (".stoker/lock", "ours"),
    ]);
    let applied = world.sync(&hostile, "1");
    let theirs = [("local/theirs", "theirs"), ("p/.resources/cache", "theirs"), ("foreign", "theirs")];
    let mut expected = expect(theirs);
    expected.extend(expect([("local/ours.txt", "ours"), ("p/view", "ours")]));
    assert_eq!(world.files(), expected);
    assert_eq!(applied.counts.added, 2);
    world.sync(&Tree::of([("p/other", "x")]), "2");
    let mut expected = expect(theirs);
    expected.extend(expect([("p/other", "x")]));
    assert_eq!(world.files(), expected);
    assert_ne!(std::fs::read(world.path(".stoker/lock")).unwrap(), b"ours");
}

#[test]
fn a_path_that_becomes_excluded_is_left_as_it_is() {
    let mut world = World::new();
    world.sync(&Tree::of([("a", "1"), ("b", "1")]), "1");
    world.spec.excludes = vec!["a".into()];
    world.sync(&Tree::of([("a", "2"), ("b", "2")]), "2");
    assert_eq!(world.files(), expect([("a", "1"), ("b", "2")]));
    world.sync(&Tree::of([("b", "3")]), "3");
    assert_eq!(world.files(), expect([("a", "1"), ("b", "3")]));
}

#[test]
fn a_missing_optional_source_deletes_nothing() {
    let mut world = World::new();
    let map = |s: &str| Mapping { source: s.into(), destination: s.into(), ..Mapping::default() };
    world.spec.mappings = vec![map("a"), map("b")];
    world.sync(&Tree::of([("a/x", "1"), ("b/x", "1")]), "1");
    let plan = world.plan(&Tree::of([("b/y", "2")]), "2").unwrap();
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    world.sync(&Tree::of([("b/y", "2")]), "2");
    assert_eq!(world.files(), expect([("a/x", "1"), ("b/y", "2")]));
}

#[test]
fn prune_never_keeps_what_vanished() {
    let mut world = World::new();
    world.spec.prune = Prune::Never;
    world.sync(&Tree::of([("a", "1"), ("b", "1")]), "1");
    world.sync(&Tree::of([("b", "2")]), "2");
    assert_eq!(world.files(), expect([("a", "1"), ("b", "2")]));
}

#[test]
fn files_and_directories_swap_places_and_empty_directories_go() {
    let world = World::new();
    let first = Tree::of([("a", "file"), ("d/x/1", "1"), ("d/x/2", "2"), ("e/f/g", "deep")]);
    let second = Tree::of([("a/b/c", "dir"), ("d", "file")]);
    world.sync(&first, "1");
    world.sync(&second, "2");
    assert_eq!(world.files(), expect([("a/b/c", "dir"), ("d", "file")]));
    assert!(!world.path("e").exists());
    world.sync(&first, "3");
    assert_eq!(world.files(), expect([("a", "file"), ("d/x/1", "1"), ("d/x/2", "2"), ("e/f/g", "deep")]));
}

#[test]
fn a_directory_with_foreign_files_is_never_replaced_by_a_file() {
    let world = World::new();
    world.sync(&Tree::of([("d/ours", "1")]), "1");
    world.write("d/theirs", "t");
    let error = world.plan(&Tree::of([("d", "file")]), "2").unwrap_err();
    assert!(error.to_string().contains("d is wanted as a file"), "{error}");
    world.write("file", "theirs");
    let error = world.plan(&Tree::of([("file/x", "1")]), "2").unwrap_err();
    assert!(error.to_string().contains("file is wanted as a directory"), "{error}");
    assert_eq!(world.files(), expect([("d/ours", "1"), ("d/theirs", "t"), ("file", "theirs")]));
}

#[test]
fn directories_of_others_stay_when_our_files_go() {
    let world = World::new();
    world.write("shared/theirs", "t");
    std::fs::create_dir(world.path("empty")).unwrap();
    world.sync(&Tree::of([("shared/ours", "1"), ("empty/ours", "1"), ("mine/x", "1")]), "1");
    world.sync(&Tree::of([("other", "1")]), "2");
    assert!(world.path("empty").is_dir() && world.path("shared").is_dir() && !world.path("mine").exists());
}

#[test]
fn modes_follow_the_source_and_keep_the_rest() {
    let world = World::new();
    world.sync(&Tree::of([("run.sh", "1"), ("plain", "1")]), "1");
    assert_eq!(world.files(), expect([("run.sh", "x:1"), ("plain", "1")]));
    std::fs::set_permissions(world.path("plain"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::set_permissions(world.path("run.sh"), std::fs::Permissions::from_mode(0o600)).unwrap();
    world.sync(&Tree::of([("run.sh", "1"), ("plain", "2")]), "2");
    let mode = |path: &str| world.path(path).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("plain"), mode("run.sh")), (0o640, 0o700));
}

/// P7: a link planted in the destination leads nowhere.
#[test]
fn symlinks_in_the_destination_are_never_followed() {
    let world = World::new();
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("file"), "canary").unwrap();
    world.sync(&Tree::of([("d/file", "1"), ("x", "1")]), "1");
    std::fs::remove_dir_all(world.path("d")).unwrap();
    symlink(canary.path(), world.path("d")).unwrap();
    let error = world.plan(&Tree::of([("d/file", "2"), ("x", "2")]), "2").unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    std::fs::remove_file(world.path("d")).unwrap();
    std::fs::remove_file(world.path("x")).unwrap();
    symlink(canary.path().join("file"), world.path("x")).unwrap();
    world.sync(&Tree::of([("d/file", "2"), ("x", "2")]), "2");
    assert_eq!(world.files(), expect([("d/file", "2"), ("x", "2")]));
    assert_eq!(std::fs::read_to_string(canary.path().join("file")).unwrap(), "canary");
    std::fs::remove_dir_all(world.path(".stoker")).unwrap();
    symlink(canary.path(), world.path(".stoker")).unwrap();
    assert!(world.engine().begin(false).is_err());
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1);
}

#[test]
fn templates_patches_and_edits_in_paths_and_contents() {
    let mut world = World::new();
    world.spec.variables = Variables::new().text("GatewayName", "line-1").map("Vars", [("provider", "edge")]);
    world.spec.mappings = vec![Mapping {
        source: "tags".into(),
        destination: "tags/{{.Vars.provider}}".into(),
        template: true,
        patches: vec![Patch {
            file: Some("*.json".into()),
            set: [("name".to_owned(), "{{.GatewayName}}!".into())].into(),
        }],
        ..Mapping::default()
    }];
    world.spec.edits = vec![FileEdit {
        origin: "system name".into(),
        path: "tags/edge/system.json".into(),
        set: [("extra".to_owned(), 1.into())].into(),
    }];
    let tree = Tree::of([
        ("tags/a.json", "{\n  \"name\": \"x\",\n  \"p\": \"{{.Vars.provider}}\"\n}"),
        ("tags/b.txt", "{{GatewayName}}"),
        ("tags/system.json", "{\"name\": 0}"),
    ]);
    world.sync(&tree, "1");
    assert_eq!(
        world.files(),
        expect([
            ("tags/edge/a.json", "{\n  \"name\": \"line-1!\",\n  \"p\": \"edge\"\n}"),
            ("tags/edge/b.txt", "line-1"),
            ("tags/edge/system.json", "{\"name\": \"line-1!\", \"extra\": 1}"),
        ])
    );
    assert!(world.plan(&tree, "2").unwrap().is_empty());
    world.spec.variables = Variables::new().text("GatewayName", "line-2").map("Vars", [("provider", "edge")]);
    let plan = world.plan(&tree, "2").unwrap();
    assert_eq!(plan.counts.modified, 3);
    assert!(plan.actions.iter().all(|a| a.kind == ActionKind::Update));
}

/// The program beside us restamps files; that is not drift.
#[test]
fn equivalent_content_is_not_drift() {
    struct IgnoreDigits;
    impl LiveRules for IgnoreDigits {
        fn equivalent(&self, _: RelPath<'_>, ours: &[u8], live: &[u8]) -> bool {
            let strip =
                |bytes: &[u8]| bytes.iter().copied().filter(|b| !b.is_ascii_digit()).collect::<Vec<_>>();
            strip(ours) == strip(live)
        }
    }
    let world = World::new();
    let tree = Tree::of([("stamped", "a1"), ("other", "b1")]);
    world.sync(&tree, "1");
    world.write("stamped", "a2");
    let engine = world.engine().with_rules(IgnoreDigits);
    let session = engine.begin(false).unwrap();
    let options = PlanOptions { check_drift: true, ..PlanOptions::default() };
    let plan = session.plan(&tree, "1", &world.spec, &options).unwrap();
    assert!(plan.is_empty(), "{:?}", plan.actions);
    session.apply(plan, &tree, &world.spec, &mut stoker_core::NoObserver).unwrap();
    assert_eq!(world.files(), expect([("stamped", "a2"), ("other", "b1")]));
    let next = Tree::of([("stamped", "c1"), ("other", "b1")]);
    let plan = session.plan(&next, "2", &world.spec, &options).unwrap();
    assert_eq!(plan.actions[0].kind, ActionKind::Update, "a real change still goes through");
}

/// A source that counts which directories are listed.
struct Counted<'a>(&'a Tree, std::cell::RefCell<Vec<String>>);

impl Source for Counted<'_> {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        self.0.entry(path)
    }
    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        self.1.borrow_mut().push(path.to_string());
        self.0.list(path)
    }
    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn std::io::Read + '_>, SourceError> {
        self.0.open(path, id)
    }
}

/// Cost follows the change: what has the same tree id and looks as it was left is not listed; but drift in it is found,
/// after a rollback all of it is, and twins across the border of old and new are.
#[test]
fn unchanged_subtrees_are_not_listed() {
    let mut world = World::new();
    let map = |s: &str| Mapping { source: s.into(), destination: s.into(), ..Mapping::default() };
    world.spec.mappings = vec![map("p"), map("q")];
    let old = Tree::of([("p/a/b/1", "1"), ("p/a/c/1", "1"), ("p/d/1", "1"), ("q/e/1", "1")]);
    let new = Tree::of([("p/a/b/1", "2"), ("p/a/c/1", "1"), ("p/d/1", "1"), ("q/e/1", "1")]);
    let listed = |world: &World, tree: &Tree, revision: &str| {
        let counted = Counted(tree, Default::default());
        world.sync(&counted, revision);
        counted.1.into_inner()
    };
    assert_eq!(listed(&world, &old, "1"), ["p", "p/a", "p/a/b", "p/a/c", "p/d", "q", "q/e"]);
    assert_eq!(listed(&world, &new, "2"), ["p", "p/a", "p/a/b"]);
    assert_eq!(world.plan(&new, "2").unwrap().counts.unchanged, 4);
    world.write("p/d/1", "theirs");
    assert_eq!(listed(&world, &new, "3"), ["p", "p/d"]);
    assert_eq!(world.files()["p/d/1"], "1");
    let error =
        world.plan(&Tree::of([("p/a/b/1", "2"), ("p/a/c/1", "1"), ("p/D/x", ""), ("p/d/1", "1")]), "4");
    assert_eq!(
        error.unwrap_err().to_string().split(';').next(),
        Some("p/D and p/d differ only by letter case or Unicode normalisation")
    );
    world.engine().begin(false).unwrap().rollback(Some(2)).unwrap();
    assert_eq!(world.files()["p/a/b/1"], "1");
    assert_eq!(listed(&world, &new, "2").len(), 7);
    assert_eq!(world.files()["p/a/b/1"], "2");
}

#[test]
fn a_lost_manifest_is_rebuilt_without_rewriting() {
    let world = World::new();
    let tree = Tree::of([("a", "1"), ("b", "2")]);
    world.sync(&tree, "1");
    let inode = world.path("a").metadata().unwrap().ino();
    std::fs::write(world.path(".stoker/manifest"), "damaged").unwrap();
    let applied = world.sync(&tree, "1");
    assert_eq!((applied.counts.adopted, applied.counts.modified, applied.transaction), (2, 0, None));
    assert_eq!(world.path("a").metadata().unwrap().ino(), inode);
    assert!(world.plan(&tree, "1").unwrap().actions.is_empty());
}

#[test]
fn a_generated_file_completes_a_directory_unless_somebody_else_did() {
    let mut world = World::new();
    let generated = |directory: &str| Generated {
        origin: "collection".into(),
        needed_by: RelPathBuf::parse(directory).unwrap(),
        path: RelPathBuf::parse(&format!("{directory}/mode.json")).unwrap(),
        content: "{}".into(),
    };
    world.spec.generated = vec![generated("r/a"), generated("r/b"), generated("r/c"), generated("r/d")];
    world.write("r/b/mode.json", "theirs");
    let tree = Tree::of([
        ("r/a/x", "1"),
        ("r/a.b/x", "1"),
        ("r/b/x", "1"),
        ("r/c/mode.json", "[]"),
        ("r/dd/x", "1"),
    ]);
    world.sync(&tree, "1");
    let mut expected =
        expect([("r/a/mode.json", "{}"), ("r/b/mode.json", "theirs"), ("r/c/mode.json", "[]")]);
    expected.extend(expect([("r/a/x", "1"), ("r/a.b/x", "1"), ("r/b/x", "1"), ("r/dd/x", "1")]));
    assert_eq!(world.files(), expected);
    assert!(world.plan(&tree, "1").unwrap().is_empty());
    world.sync(&Tree::of([("r/b/x", "1")]), "2");
    assert_eq!(world.files(), expect([("r/b/mode.json", "theirs"), ("r/b/x", "1")]));
}

#[test]
fn what_is_rendered_is_what_a_sync_writes() {
    let mut world = World::new();
    world.spec.variables = Variables::new().text("Site", "north");
    world.spec.mappings[0].template = true;
    world.spec.mappings[0].patches =
        vec![Patch { file: Some("*.json".into()), set: [("name".to_owned(), "{{Site}}".into())].into() }];
    world.spec.generated = vec![Generated {
        origin: "made up".into(),
        needed_by: RelPathBuf::parse("d").unwrap(),
        path: RelPathBuf::parse("d/mode").unwrap(),
        content: "m".into(),
    }];
    world.spec.excludes = vec!["skipped".into()];
    let tree = Tree::of([("d/a.json", "{\"name\": 1}"), ("b", "{{Site}}"), ("run.sh", ""), ("skipped", "")]);
    let rendered = |path: &str| {
        let path = RelPathBuf::parse(path).unwrap();
        stoker_core::render(&tree, &world.spec, path.as_path()).unwrap()
    };
    let plan = world.plan(&tree, "1").unwrap();
    let planned: BTreeMap<String, Vec<u8>> = plan
        .actions
        .iter()
        .map(|action| (action.path.to_string(), plan.written(action, &tree, &world.spec).unwrap().unwrap()))
        .collect();
    world.sync(&tree, "1");
    let live = world.files();
    assert_eq!(live.len(), 4);
    for (path, content) in &live {
        let rendered = rendered(path).unwrap();
        let mark = if rendered.executable { "x:" } else { "" };
        assert_eq!(format!("{mark}{}", String::from_utf8_lossy(&rendered.content)), *content, "{path}");
        assert_eq!(planned[path], rendered.content);
        assert_eq!(rendered.source.is_none(), rendered.mapping == "made up");
    }
    assert_eq!((rendered("skipped"), rendered("nowhere")), (None, None));
}
