//! A transform of one's own, as a source around another one: `custom_transform FROM TO` leaves out comment lines of
//! `.conf` files.

use std::io::{Cursor, Read};

use stoker_core::{
    ContentId, DirectorySource, Engine, Entry, Mapping, NamedEntry, RelPath, Source, SourceError, SyncSpec,
};

struct WithoutComments<S>(S);

/// Raised whenever the transform changes: a content id names what comes out, not what goes in.
const VERSION: &[u8] = b"without comments, 1";

fn is_ours(path: RelPath<'_>) -> bool {
    path.file_name().is_some_and(|name| name.ends_with(".conf"))
}

fn renamed(path: RelPath<'_>, entry: Entry) -> Entry {
    match entry.id {
        // The size is known only once it is rendered.
        Some(id) if is_ours(path) => {
            Entry { id: Some(ContentId::of(&[id.as_bytes(), VERSION].concat())), size: None, ..entry }
        }
        _ => entry,
    }
}

impl<S: Source> Source for WithoutComments<S> {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        Ok(self.0.entry(path)?.map(|entry| renamed(path, entry)))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let mut entries = self.0.list(path)?;
        for named in &mut entries {
            if let Ok(below) = path.child(&String::from_utf8_lossy(&named.name)) {
                named.entry = renamed(below.as_path(), named.entry.clone());
            }
        }
        Ok(entries)
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        if !is_ours(path) {
            return self.0.open(path, id);
        }
        let missing = || SourceError::Missing { path: path.to_buf() };
        let inner = self.0.entry(path)?.and_then(|entry| entry.id).ok_or_else(missing)?;
        let mut text = String::new();
        let read = self.0.open(path, &inner)?.read_to_string(&mut text);
        read.map_err(|source| SourceError::Read { path: path.to_buf(), source: Box::new(source) })?;
        let kept: String = text.lines().filter(|l| !l.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
        Ok(Box::new(Cursor::new(kept)))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { return Err("usage: custom_transform FROM TO".into()) };
    let spec = SyncSpec::new().map(Mapping::new(".", "."));
    let applied = Engine::open(to)?.sync(&WithoutComments(DirectorySource::open(from)?), "now", &spec)?;
    println!("{} files changed", applied.changed.len());
    Ok(())
}
