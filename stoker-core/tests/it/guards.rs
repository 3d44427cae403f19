//! What stops a plan, before anything is written.

use stoker_core::{
    Engine, Fault, Limits, Mapping, MappingKind, MaxDeletes, NoObserver, PlanOptions, SyncSpec,
};

use crate::world::{Tree, World, expect};

fn spec(source: &str, destination: &str) -> SyncSpec {
    let mapping = Mapping {
        origin: "mapping 1".into(),
        source: source.into(),
        destination: destination.into(),
        required: true,
        ..Mapping::default()
    };
    SyncSpec {
        mappings: vec![mapping],
        max_deletes: MaxDeletes { count: 200, percent: 100 },
        ..SyncSpec::default()
    }
}

/// Each broken input: refused by its category, with a message that names the thing, and nothing written.
#[test]
fn broken_inputs_are_refused_by_name() {
    let tree = Tree::of([
        ("ok/a.json", "{}"),
        ("bad/view.json", "{\n  \"a\": 1,\n}"),
        ("big/x", "0123456789"),
        ("twins/View", ""),
        ("twins/view", ""),
        ("twindirs/A/x", ""),
        ("twindirs/a/y", ""),
        ("lfs/jar", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("file", "1"),
        ("braces/t.txt", "{{.Nope}}"),
        ("bomb/t.txt", "{{.Long}}{{.Long}}{{.Long}}{{.Long}}{{.Long}}"),
    ]);
    let with = |f: &dyn Fn(&mut SyncSpec), source: &str, destination: &str| {
        let mut spec = spec(source, destination);
        f(&mut spec);
        spec
    };
    let plain = |source: &str, destination: &str| spec(source, destination);
    let protected = |s: &mut SyncSpec| {
        s.protections = vec![stoker_core::Protection {
            pattern: "config/local/**".into(),
            reason: "the gateway's own".into(),
        }];
    };
    for (spec, category, says) in [
        (plain("nope", "x"), "SourceMissing", "source nope does not exist"),
        (plain("ok", "../x"), "InvalidPath", "destination \"../x\""),
        (plain("ok", "/etc"), "InvalidPath", "absolute"),
        (plain("ok", "a/.git"), "InvalidPath", "git's own"),
        (plain("ok", "{{.Nope}}"), "TemplateError", "no variable .Nope"),
        (plain("ok", ".stoker/x"), "ProtectedPath", "Stoker's own state"),
        (with(&protected, "ok", "config/local/x"), "ProtectedPath", "the gateway's own"),
        (
            with(&|s| s.mappings[0].kind = Some(MappingKind::File), "ok", "x"),
            "MappingTypeMismatch",
            "ok is a dir",
        ),
        (plain("file", "."), "MappingTypeMismatch", "cannot become the root"),
        (plain("twins", "x"), "AmbiguousPaths", "x/View and x/view"),
        (plain("twindirs", "x"), "AmbiguousPaths", "x/A and x/a"),
        (plain("bad", "x"), "ConfigSyntaxError", "x/view.json is not valid JSON: line 3, column 1"),
        (plain("lfs", "x"), "UnsupportedEntry", "x/jar is a Git LFS pointer"),
        (
            with(&|s| s.mappings[0].template = true, "braces", "x"),
            "TemplateError",
            "x/t.txt: line 1, column 1",
        ),
        (with(&|s| s.excludes = vec!["a/[".into()], "ok", "x"), "InvalidPattern", "a/["),
        (
            with(&|s| s.limits = Limits { max_file_bytes: 5, ..Limits::default() }, "big", "x"),
            "FileTooLarge",
            "10 bytes",
        ),
        (
            with(&|s| s.mappings[0].max_file_bytes = Some(9), "big", "x"),
            "FileTooLarge",
            "mapping 1: x/x has 10 bytes; the limit for one file is 9",
        ),
        (
            with(
                &|s| {
                    s.mappings[0].template = true;
                    s.variables = stoker_core::Variables::new().text("Long", "y".repeat(100));
                    s.limits = Limits { max_file_bytes: 400, ..Limits::default() };
                },
                "bomb",
                "x",
            ),
            "TemplateError",
            "x/t.txt: the rendered text is larger than 400 bytes",
        ),
        (
            with(
                &|s| {
                    s.mappings[0].template = true;
                    s.variables = stoker_core::Variables::new().text("Long", "y".repeat(100));
                    s.limits = Limits { max_total_bytes: 400, ..Limits::default() };
                },
                "bomb",
                "x",
            ),
            "LimitExceeded",
            "the limit of this profile",
        ),
        (
            with(&|s| s.limits = Limits { max_files: 1, ..Limits::default() }, "twindirs", "x"),
            "LimitExceeded",
            "more than 1 files",
        ),
        (
            with(&|s| s.limits = Limits { max_total_bytes: 9, ..Limits::default() }, "big", "x"),
            "LimitExceeded",
            "10 bytes",
        ),
    ] {
        let mut world = World::new();
        world.write("theirs", "t");
        world.sync(&Tree::of([("old", "1")]), "1");
        world.spec = spec;
        let engine = world.engine();
        let options = PlanOptions::default();
        let preview = engine.preview(&tree, "2", &world.spec, &options).expect_err(says);
        assert_eq!(preview.category().as_str(), category, "{preview}");
        assert!(preview.to_string().contains(says), "{preview}");
        let session = engine.begin(false).unwrap();
        if let Ok(plan) = session.plan(&tree, "2", &world.spec, &options) {
            let error = session.apply(plan, &tree, &world.spec, &mut NoObserver).expect_err(says);
            assert_eq!(error.category().as_str(), category, "{error}");
        }
        assert_eq!(world.files(), expect([("theirs", "t"), ("old", "1")]), "{category}");
        assert_eq!(std::fs::read_dir(world.path(".stoker/stage")).unwrap().count(), 0);
    }
}

#[test]
fn links_and_submodules_in_the_source_are_refused() {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("d")).unwrap();
    std::os::unix::fs::symlink("/etc", source.path().join("d/link")).unwrap();
    let mut world = World::new();
    let directory = stoker_core::DirectorySource::open(source.path()).unwrap();
    let error = world.plan(&directory, "1").unwrap_err();
    assert_eq!(
        error.to_string(),
        ": d/link is a symbolic link; only files and directories can be synced, exclude it or remove it"
    );
    world.spec.excludes = vec!["link".into()];
    assert!(world.plan(&directory, "1").unwrap().is_empty());
    world.spec = spec("d/link/passwd", "x");
    assert_eq!(world.plan(&directory, "1").unwrap_err().category().as_str(), "SourceMissing");
}

/// A11: an emptied source deletes nothing beyond the guard, until somebody approves exactly this plan.
#[test]
fn mass_deletion_needs_an_approval_that_names_the_plan() {
    let mut world = World::new();
    let files: Vec<(String, String)> = (0..10).map(|n| (format!("f{n}"), "1".to_owned())).collect();
    let full = Tree(files.iter().map(|(p, c)| (p.clone(), c.clone().into_bytes())).collect());
    world.sync(&full, "1");
    world.spec.max_deletes = MaxDeletes { count: 200, percent: 50 };
    let rest = Tree(full.0.iter().take(4).map(|(p, c)| (p.clone(), c.clone())).collect());
    let error = world.plan(&rest, "2").unwrap_err();
    assert!(error.is_held() && error.to_string().contains("deletes 6 of 10 files (0 of others)"), "{error}");
    assert_eq!(world.files().len(), 10);
    // What can approve it is the caller's to say.
    assert!(error.to_string().ends_with("more than 200 files or 50 percent"), "{error}");
    let stoker_core::PlanError::MassDeletion { digest, .. } = error else { panic!("{error}") };
    let engine = world.engine();
    let session = engine.begin(false).unwrap();
    let wrong = PlanOptions { approved: Some("0123".into()), ..PlanOptions::default() };
    assert!(session.plan(&rest, "2", &world.spec, &wrong).is_err());
    let approved = PlanOptions { approved: Some(digest), ..PlanOptions::default() };
    let plan = session.plan(&rest, "2", &world.spec, &approved).unwrap();
    session.apply(plan, &rest, &world.spec, &mut NoObserver).unwrap();
    assert_eq!(world.files().len(), 4);
}

/// A5: two agents on one data directory.
#[test]
fn the_second_one_waits() {
    let world = World::new();
    let engine = world.engine();
    let session = engine.begin(false).unwrap();
    let error = Engine::open(world.directory.path()).unwrap().begin(false).unwrap_err();
    assert_eq!(error.category().as_str(), "Locked");
    // But not for ever, and it says for whom.
    let engine = Engine::open(world.directory.path()).unwrap();
    let began = std::time::Instant::now();
    let error =
        engine.with_patience(std::time::Duration::from_millis(120)).begin(true).map(|_| ()).unwrap_err();
    assert!(began.elapsed() >= std::time::Duration::from_millis(120));
    assert_eq!(
        (error.category().as_str(), error.retry()),
        ("DataDirectoryBusy", stoker_core::Retry::Backoff)
    );
    let who = format!("in use by process {} (", std::process::id());
    assert!(error.to_string().contains(&who) && error.to_string().contains(".stoker/lock"), "{error}");
    let path = world.directory.path().to_owned();
    let waiting =
        std::thread::spawn(move || Engine::open(path).unwrap().begin(true).map(|s| s.recovered()).is_ok());
    drop(session);
    assert!(waiting.join().unwrap());
}

/// The observer's no, at the last moment, leaves everything as it was.
#[test]
fn an_observer_can_stop_before_the_commit_point() {
    struct No;
    impl stoker_core::Observer for No {
        fn before_commit(
            &mut self,
            changes: &stoker_core::Changes<'_>,
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            assert_eq!(changes.paths().map(|p| p.to_string()).collect::<Vec<_>>(), ["a"]);
            Err("the gateway is busy".into())
        }
    }
    let world = World::new();
    world.sync(&Tree::of([("a", "1")]), "1");
    let (engine, tree) = (world.engine(), Tree::of([("a", "2")]));
    let session = engine.begin(false).unwrap();
    let plan = session.plan(&tree, "2", &world.spec, &PlanOptions::default()).unwrap();
    let error = session.apply(plan, &tree, &world.spec, &mut No).unwrap_err();
    assert!(stoker_core::chain(&error).contains("the gateway is busy"));
    assert_eq!(world.files(), expect([("a", "1")]));
    assert_eq!(engine.head().unwrap().unwrap().revision, "1");
}
