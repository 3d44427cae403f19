//! Any tree and spec against any live directory: a plan touches only what is its own, is the same when made again, and
//! once applied there is nothing left to do.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stoker_core::{
    ContentId, Engine, Entry, EntryKind, Mapping, MaxDeletes, NamedEntry, NoObserver, PatternSet,
    PlanOptions, Protection, RelPath, RelPathBuf, Source, SourceError, SyncSpec, Variables,
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    first: Vec<(Place<'a>, Kind, &'a str)>,
    second: Vec<(Place<'a>, Kind, &'a str)>,
    live: Vec<(Place<'a>, &'a str)>,
    edits: Vec<(Place<'a>, Option<&'a str>)>,
    mappings: Vec<(Place<'a>, Place<'a>, bool)>,
    excludes: Vec<&'a str>,
    protected: Option<&'a str>,
}

/// Mostly names that meet each other; now and then any text.
#[derive(Debug, Arbitrary, Clone)]
enum Place<'a> {
    Root,
    Named(Vec<Name>),
    Any(&'a str),
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Name {
    A,
    B,
    UpperA,
    Json,
    Gateway,
    Stoker,
    Umlaut,
    Decomposed,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Kind {
    File,
    Executable,
    Symlink,
    Submodule,
}

impl Place<'_> {
    fn text(&self) -> String {
        match self {
            Self::Root => ".".to_owned(),
            Self::Any(text) => (*text).to_owned(),
            Self::Named(names) => {
                let names: Vec<&str> = names.iter().take(4).map(|name| name.text()).collect();
                if names.is_empty() { ".".to_owned() } else { names.join("/") }
            }
        }
    }
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::UpperA => "A",
            Self::Json => "c.json",
            Self::Gateway => "{{.Gateway}}",
            Self::Stoker => ".stoker",
            Self::Umlaut => "\u{e4}",
            Self::Decomposed => "a\u{308}",
        }
    }
}

/// A tree in memory; a path that lies below a file is left out.
#[derive(Debug, Default)]
struct Tree(BTreeMap<String, (Kind, Vec<u8>)>);

impl Tree {
    fn of(entries: &[(Place<'_>, Kind, &str)]) -> Self {
        let mut tree = Self::default();
        for (place, kind, content) in entries.iter().take(12) {
            let Ok(path) = RelPathBuf::parse(&place.text()) else { continue };
            let path = path.as_path();
            let inside = format!("{path}/");
            let free = !path.is_root()
                && path.ancestors().all(|above| !tree.0.contains_key(above.as_str()))
                && !tree.0.keys().any(|other| other.starts_with(&inside));
            if free {
                tree.0.insert(path.as_str().to_owned(), (*kind, content.as_bytes().to_vec()));
            }
        }
        tree
    }

    fn below(&self, path: RelPath<'_>) -> impl Iterator<Item = &str> {
        let prefix = if path.is_root() { String::new() } else { format!("{path}/") };
        self.0.keys().filter_map(move |other| other.strip_prefix(&prefix))
    }
}

impl Source for Tree {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        if let Some((kind, content)) = self.0.get(path.as_str()) {
            let kind = match kind {
                Kind::File => EntryKind::File,
                Kind::Executable => EntryKind::Executable,
                Kind::Symlink => EntryKind::Symlink,
                Kind::Submodule => EntryKind::Submodule,
            };
            let id = Some(ContentId::of(content));
            return Ok(Some(Entry { kind, id, size: Some(content.len() as u64) }));
        }
        let directory = path.is_root() || self.below(path).next().is_some();
        let all: Vec<_> = self
            .below(path)
            .map(|rest| (rest, path.join(RelPathBuf::parse(rest).unwrap().as_path())))
            .collect();
        let listing: Vec<_> =
            all.iter().map(|(rest, full)| (rest, full.as_ref().ok().map(|f| &self.0[f.as_str()]))).collect();
        let id = Some(ContentId::of(format!("{listing:?}").as_bytes()));
        Ok(directory.then_some(Entry { kind: EntryKind::Directory, id, size: None }))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let mut names: Vec<&str> =
            self.below(path).map(|rest| rest.split('/').next().unwrap_or_default()).collect();
        names.sort_unstable();
        names.dedup();
        let entry = |name: &str| {
            let child = path.child(name).expect("its own name");
            let entry = self.entry(child.as_path())?.expect("its own entry");
            Ok(NamedEntry { name: name.as_bytes().to_vec(), entry })
        };
        names.into_iter().map(entry).collect()
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn std::io::Read + '_>, SourceError> {
        let (_, content) = self.0.get(path.as_str()).ok_or(SourceError::Missing { path: path.to_buf() })?;
        assert_eq!(ContentId::of(content), *id);
        Ok(Box::new(content.as_slice()))
    }
}

/// Where nothing is written to a disk, if there is such a place.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

fn write(root: &Path, path: &RelPathBuf, content: &str) {
    let target = root.join(path.as_str());
    if let Some(parent) = target.parent() {
        // A file may be in the way; then there is none.
        let _ = std::fs::create_dir_all(parent);
    }
    let _ = std::fs::write(target, content);
}

/// Every file but the engine's own.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, below: &str, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(root.join(below)).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("text");
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if path == ".stoker" {
                continue;
            }
            if entry.path().is_dir() {
                walk(root, &path, all);
            } else {
                all.insert(path, std::fs::read(entry.path()).expect("a file"));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, "", &mut all);
    all
}

fuzz_target!(|input: Input<'_>| {
    let directory = directory();
    let root = directory.path();
    for (place, content) in input.live.iter().take(8) {
        let Ok(path) = RelPathBuf::parse(&place.text()) else { continue };
        // What lies in there is the engine's own, and a damaged one is another target's affair.
        if !path.as_path().is_root() && path.as_path().components().next() != Some(".stoker") {
            write(root, &path, content);
        }
    }
    let mappings = input.mappings.iter().take(4).enumerate();
    let spec = SyncSpec {
        mappings: mappings
            .map(|(number, (source, destination, template))| Mapping {
                origin: format!("mappings[{number}]"),
                source: source.text(),
                destination: destination.text(),
                template: *template,
                ..Mapping::default()
            })
            .collect(),
        variables: Variables::new().text("Gateway", "a"),
        excludes: input.excludes.iter().take(4).map(|&pattern| pattern.to_owned()).collect(),
        protections: input
            .protected
            .iter()
            .map(|&pattern| Protection { pattern: pattern.to_owned(), reason: "theirs".to_owned() })
            .collect(),
        max_deletes: MaxDeletes { count: 1000, percent: 100 },
        ..SyncSpec::default()
    };
    let excludes = PatternSet::new(&spec.excludes).ok();
    let protections = PatternSet::new(spec.protections.iter().map(|p| &p.pattern)).ok();
    let engine = Engine::open(root).expect("a directory");
    let options = PlanOptions { check_drift: true, ..PlanOptions::default() };

    for (number, entries) in [&input.first, &input.second].into_iter().enumerate() {
        let source = Tree::of(entries);
        let revision = number.to_string();
        let before = files(root);
        let session = engine.begin(false).expect("nobody else is here");
        let again = session.plan(&source, &revision, &spec, &options);
        let Ok(plan) = session.plan(&source, &revision, &spec, &options) else {
            assert!(again.is_err(), "planned once, refused once");
            assert_eq!(files(root), before, "a refused plan wrote");
            continue;
        };
        let again = again.expect("refused once, planned once");
        assert_eq!(plan.digest(), again.digest());
        assert_eq!(files(root), before, "planning wrote");
        let mut last = None;
        for action in &plan.actions {
            let path = action.path.as_path();
            assert!(path.components().next() != Some(".stoker") && !path.is_root(), "{path}");
            assert!(last < Some(path), "{path} is out of order");
            last = Some(path);
            if action.kind.writes() {
                assert!(
                    !excludes.as_ref().is_some_and(|set| set.excludes(path, false)),
                    "{path} is excluded"
                );
                let theirs = protections.as_ref().is_some_and(|set| set.excludes(path, false));
                assert!(!theirs, "{path} is protected");
            }
        }
        let touched: Vec<String> = plan
            .actions
            .iter()
            .filter(|action| action.kind.writes())
            .map(|action| action.path.as_str().to_owned())
            .collect();
        let applied = session.apply(plan, &source, &spec, &mut NoObserver);
        let after = files(root);
        for (path, content) in &before {
            if applied.is_err() || !touched.contains(path) {
                assert_eq!(after.get(path), Some(content), "{path} changed ({:?})", applied.as_ref().err());
            }
        }
        let Ok(_) = applied else {
            assert_eq!(after, before, "a failed transaction left something");
            continue;
        };
        assert!(after.keys().all(|path| before.contains_key(path) || touched.contains(path)));
        let left = session.plan(&source, &revision, &spec, &options).expect("planned before");
        assert!(left.is_empty(), "left to do: {:?}", left.actions);
        drop(session);
        let owned = engine.owned().expect("readable");
        assert!(owned.iter().all(|path| after.contains_key(path.as_str())));

        // Whoever runs there changes something, but leaves the engine's directory alone.
        for (place, content) in input.edits.iter().take(4) {
            let Ok(path) = RelPathBuf::parse(&place.text()) else { continue };
            if path.as_path().is_root() || path.as_path().components().next() == Some(".stoker") {
                continue;
            }
            match content {
                Some(content) => write(root, &path, content),
                None => {
                    let _ = std::fs::remove_file(root.join(path.as_str()));
                }
            }
        }
    }
});
