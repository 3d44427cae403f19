//! What a sync costs: `cost FILES [DIRECTORY]` prints times and the peak of memory, for trees that do not exist.

use std::io::Read;
use std::time::Instant;

use stoker_core::{
    ContentId, Engine, Entry, EntryKind, Mapping, NamedEntry, NoObserver, PlanOptions, RelPath, Source,
    SourceError, SyncSpec,
};

/// Folders of two files, made up as they are asked for; the first `changed` folders differ by commit.
struct Folders {
    count: usize,
    changed: usize,
    commit: u64,
}

impl Folders {
    fn commit_of(&self, folder: usize) -> u64 {
        if folder < self.changed { self.commit } else { 0 }
    }

    fn content(&self, folder: usize, name: &str) -> Vec<u8> {
        format!("{{\"folder\": {folder}, \"name\": \"{name}\", \"commit\": {}}}\n", self.commit_of(folder))
            .repeat(if name == "view.txt" { 40 } else { 1 })
            .into_bytes()
    }

    fn file(&self, folder: usize, name: &str) -> Entry {
        let content = self.content(folder, name);
        Entry { kind: EntryKind::File, id: Some(ContentId::of(&content)), size: Some(content.len() as u64) }
    }
}

fn directory(id: &str) -> Entry {
    Entry { kind: EntryKind::Directory, id: Some(ContentId::of(id.as_bytes())), size: None }
}

impl Source for Folders {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        Ok(path.is_root().then(|| directory(&format!("root {} {}", self.changed, self.commit))))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let named = |name: String, entry| NamedEntry { name: name.into_bytes(), entry };
        if path.is_root() {
            let group = |n: usize| directory(&format!("{n} {}", self.commit_of(n * 100)));
            return Ok((0..self.count / 200 + 1).map(|n| named(format!("p{n:04}"), group(n))).collect());
        }
        let number = |text: &str| text[1..].parse::<usize>().unwrap_or_default();
        let parts: Vec<&str> = path.components().collect();
        Ok(match parts.as_slice() {
            [group] => {
                let first = number(group) * 100;
                (first..(first + 100).min(self.count / 2))
                    .map(|n| named(format!("f{n:06}"), directory(&format!("{n} {}", self.commit_of(n)))))
                    .collect()
            }
            [_, folder] => ["resource.json", "view.txt"]
                .iter()
                .map(|name| named((*name).to_owned(), self.file(number(folder), name)))
                .collect(),
            _ => Vec::new(),
        })
    }

    fn open(&self, path: RelPath<'_>, _: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        let parts: Vec<&str> = path.components().collect();
        let [_, folder, name] = parts.as_slice() else {
            return Err(SourceError::Missing { path: path.to_buf() });
        };
        let folder = folder[1..].parse().unwrap_or_default();
        Ok(Box::new(std::io::Cursor::new(self.content(folder, name))))
    }
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("unknown");
    line.trim().to_owned()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).ok_or("usage: cost FILES [DIRECTORY]")?.parse()?;
    let temporary = tempfile::tempdir()?;
    let at = std::env::args().nth(2).map_or_else(|| temporary.path().to_owned(), Into::into);
    let everything = Mapping { source: ".".into(), destination: ".".into(), ..Mapping::default() };
    let spec = SyncSpec { mappings: vec![everything], ..SyncSpec::default() };
    let sync = |label: &str, source: &Folders, revision: &str, check_drift: bool| {
        let began = Instant::now();
        let engine = Engine::open(&at)?;
        let session = engine.begin(true)?;
        let options = PlanOptions { check_drift, ..PlanOptions::default() };
        let plan = session.plan(source, revision, &spec, &options)?;
        let planned = began.elapsed();
        let applied = session.apply(plan, source, &spec, &mut NoObserver)?;
        let (all, memory) = (began.elapsed(), peak_memory());
        let written = applied.changed.len();
        println!(
            "{label:28} {:9.2} ms (plan {:8.2} ms), {written:6} files written, peak memory {memory}",
            all.as_secs_f64() * 1e3,
            planned.as_secs_f64() * 1e3
        );
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    let commit = |changed, commit| Folders { count, changed, commit };
    sync("first sync", &commit(0, 0), "0", false)?;
    for n in 0..3 {
        sync("another commit, same tree", &commit(0, 0), &format!("same {n}"), false)?;
    }
    sync("drift check", &commit(0, 0), "same 2", true)?;
    sync("drift check", &commit(0, 0), "same 2", true)?;
    for n in 1..4 {
        sync("10 files changed", &commit(5, n), &format!("changed {n}"), false)?;
    }
    Ok(())
}
