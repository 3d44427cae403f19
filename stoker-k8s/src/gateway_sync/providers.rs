//! Which tag providers there are, on the gateway and in the commit: their configuration says whose their tags are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use stoker_core::{EntryKind, RelPath, RelPathBuf, Source};

use super::mapped::{Placed, read};

/// Where a tag provider is configured (fact sheet, section 2.2). The first `*` is the collection, the second one the
/// provider.
const SHAPE: [&str; 7] = ["config", "resources", "*", "ignition", "tag-provider", "*", "config.json"];
/// Which part is the provider's name.
const NAME: usize = 5;
/// The largest configuration that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Tag providers by name, each with the content of its `config.json`. A name comes as often as it is configured.
pub(super) fn providers(
    data_dir: &Path,
    source: &dyn Source,
    placed: &[Placed<'_>],
) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    live(data_dir.to_owned(), 0, None, &mut found);
    for mapping in placed {
        let parts: Vec<&str> = mapping.destination.as_path().components().collect();
        let fits = parts.iter().zip(SHAPE).all(|(part, shape)| shape == "*" || *part == shape);
        if fits && parts.len() <= SHAPE.len() {
            let name = parts.get(NAME).map(|name| (*name).to_owned());
            committed(source, mapping.source.as_path(), parts.len(), name, &mut found);
        }
    }
    found
}

fn live(path: PathBuf, depth: usize, name: Option<String>, found: &mut Vec<(String, Vec<u8>)>) {
    match SHAPE.get(depth) {
        None => {
            let mut content = Vec::new();
            let read = File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content));
            if let (Ok(_), Some(name)) = (read, name) {
                found.push((name, content));
            }
        }
        Some(&"*") => {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                let Ok(child) = entry.file_name().into_string() else { continue };
                let name = if depth == NAME { Some(child) } else { name.clone() };
                live(entry.path(), depth + 1, name, found);
            }
        }
        Some(part) => live(path.join(part), depth + 1, name, found),
    }
}

fn committed(
    source: &dyn Source,
    path: RelPath<'_>,
    depth: usize,
    name: Option<String>,
    found: &mut Vec<(String, Vec<u8>)>,
) {
    let child = |name: &str| -> Option<RelPathBuf> { path.child(name).ok() };
    match SHAPE.get(depth) {
        None => found.extend(name.zip(read(source, path))),
        Some(&"*") => {
            let is_directory =
                matches!(source.entry(path), Ok(Some(entry)) if entry.kind == EntryKind::Directory);
            for entry in source.list(path).into_iter().filter(|_| is_directory).flatten() {
                let Some(below) = std::str::from_utf8(&entry.name).ok().and_then(child) else { continue };
                let name =
                    if depth == NAME { below.as_path().file_name().map(str::to_owned) } else { name.clone() };
                committed(source, below.as_path(), depth + 1, name, found);
            }
        }
        Some(part) => {
            if let Some(below) = child(part) {
                committed(source, below.as_path(), depth + 1, name, found);
            }
        }
    }
}
