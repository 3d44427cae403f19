//! Two directories and an engine between them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stoker_core::{
    Applied, ContentId, Engine, Entry, EntryKind, Mapping, NamedEntry, NoObserver, Plan, PlanOptions,
    RelPath, Source, SourceError, SyncSpec,
};

/// A tree in memory: what a git commit is, without git. Executable files end in `.sh`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Vec<u8>>);

impl Tree {
    pub(crate) fn of<const N: usize>(files: [(&str, &str); N]) -> Self {
        Self(files.into_iter().map(|(p, c)| (p.to_owned(), c.as_bytes().to_vec())).collect())
    }

    fn below(&self, path: RelPath<'_>) -> impl Iterator<Item = (&str, &Vec<u8>)> {
        let prefix = if path.is_root() { String::new() } else { format!("{path}/") };
        self.0.iter().filter_map(move |(p, c)| Some((p.strip_prefix(&prefix)?, c)))
    }

    fn tree_id(&self, path: RelPath<'_>) -> ContentId {
        let listing: Vec<_> = self.below(path).map(|(p, c)| (p.to_owned(), c.clone())).collect();
        ContentId::of(format!("{listing:?}").as_bytes())
    }
}

impl Source for Tree {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        if let Some(content) = self.0.get(path.as_str()) {
            let kind = if path.as_str().ends_with(".sh") { EntryKind::Executable } else { EntryKind::File };
            return Ok(Some(Entry {
                kind,
                id: Some(ContentId::of(content)),
                size: Some(content.len() as u64),
            }));
        }
        let directory = path.is_root() || self.below(path).next().is_some();
        Ok(directory.then(|| Entry { kind: EntryKind::Directory, id: Some(self.tree_id(path)), size: None }))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let mut names: Vec<String> =
            self.below(path).map(|(p, _)| p.split('/').next().unwrap_or_default().to_owned()).collect();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let child = path.child(&name).unwrap();
                Ok(NamedEntry { name: name.into_bytes(), entry: self.entry(child.as_path())?.unwrap() })
            })
            .collect()
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn std::io::Read + '_>, SourceError> {
        let content = self.0.get(path.as_str()).ok_or(SourceError::Missing { path: path.to_buf() })?;
        assert_eq!(ContentId::of(content), *id);
        Ok(Box::new(content.as_slice()))
    }
}

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) spec: SyncSpec,
}

impl World {
    pub(crate) fn new() -> Self {
        let everything = Mapping { source: ".".into(), destination: ".".into(), ..Mapping::default() };
        let max_deletes = stoker_core::MaxDeletes { count: 1000, percent: 100 };
        let spec = SyncSpec { mappings: vec![everything], max_deletes, ..SyncSpec::default() };
        Self { directory: tempfile::tempdir().unwrap(), spec }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::open(self.directory.path()).unwrap()
    }

    pub(crate) fn plan(&self, source: &dyn Source, revision: &str) -> Result<Plan, stoker_core::PlanError> {
        let options = PlanOptions { check_drift: true, ..PlanOptions::default() };
        self.engine().begin(false).unwrap().plan(source, revision, &self.spec, &options)
    }

    pub(crate) fn sync(&self, source: &dyn Source, revision: &str) -> Applied {
        let engine = self.engine();
        let session = engine.begin(false).unwrap();
        let options = PlanOptions { check_drift: true, ..PlanOptions::default() };
        let plan = session.plan(source, revision, &self.spec, &options).unwrap();
        session.apply(plan, source, &self.spec, &mut NoObserver).unwrap()
    }

    /// Whether some transaction has kept exactly this content.
    pub(crate) fn is_in_history(&self, content: &str) -> bool {
        std::fs::read_dir(self.path(".stoker/history"))
            .unwrap()
            .flat_map(|tx| std::fs::read_dir(tx.unwrap().path()).unwrap())
            .any(|kept| std::fs::read(kept.unwrap().path()).is_ok_and(|c| c == content.as_bytes()))
    }

    /// All files but the engine's own, with an `x` before the content of executable ones.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        files(self.directory.path())
    }
}

pub(crate) fn files(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk(root, "", &mut all);
    all
}

fn walk(root: &Path, below: &str, all: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if path == ".stoker" {
            continue;
        }
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.is_dir() {
            walk(root, &path, all);
        } else if meta.is_symlink() {
            all.insert(path, "symlink".to_owned());
        } else if !meta.is_file() {
            all.insert(path, "special".to_owned());
        } else {
            let mark = if meta.permissions().mode() & 0o100 != 0 { "x:" } else { "" };
            let content = std::fs::read(entry.path()).unwrap();
            all.insert(path, format!("{mark}{}", String::from_utf8_lossy(&content)));
        }
    }
}

pub(crate) fn expect<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
    files.into_iter().map(|(p, c)| (p.to_owned(), c.to_owned())).collect()
}
