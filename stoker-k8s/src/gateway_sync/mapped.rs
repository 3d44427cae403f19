//! Where in a commit the files of the data directory come from. What cannot be resolved here the plan refuses by name.

use std::io::Read;

use stoker_core::{EntryKind, RelPath, RelPathBuf, Source, Template, Variables};

use crate::compile::CompiledMapping;

/// The longest path that a template may render to, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// The largest file that is looked into, in bytes.
const MAX_LOOK_BYTES: u64 = 256 * 1024;

/// A mapping with its paths rendered.
#[derive(Debug, Clone)]
pub(super) struct Placed<'a> {
    pub(super) mapping: &'a CompiledMapping,
    pub(super) source: RelPathBuf,
    pub(super) destination: RelPathBuf,
}

/// The mappings of a profile that can be rendered, later ones last.
pub(super) fn placed<'a>(mappings: &'a [CompiledMapping], variables: &Variables) -> Vec<Placed<'a>> {
    let path = |template: &str| {
        let text = Template::parse(template).and_then(|t| t.render(variables, MAX_PATH_BYTES)).ok()?;
        RelPathBuf::parse(&text).ok()
    };
    mappings
        .iter()
        .filter_map(|mapping| {
            let (source, destination) = (path(&mapping.source)?, path(&mapping.destination)?);
            Some(Placed { mapping, source, destination })
        })
        .collect()
}

impl Placed<'_> {
    /// The content that this mapping brings to `path`, templates rendered where they can be; `None` when it brings
    /// none, or none that is worth a look.
    pub(super) fn content(
        &self,
        path: RelPath<'_>,
        source: &dyn Source,
        variables: &Variables,
    ) -> Option<Vec<u8>> {
        let below = path.strip_prefix(self.destination.as_path())?;
        let content = read(source, self.source.as_path().join(below).ok()?.as_path())?;
        if !self.mapping.template {
            return Some(content);
        }
        let rendered = std::str::from_utf8(&content)
            .ok()
            .and_then(|text| Template::parse(text).and_then(|t| t.render(variables, content.len() * 4)).ok());
        Some(rendered.map_or(content, String::into_bytes))
    }
}

/// A small file of a commit.
pub(super) fn read(source: &dyn Source, path: RelPath<'_>) -> Option<Vec<u8>> {
    let entry = source.entry(path).ok()??;
    let small = entry.size.is_none_or(|size| size <= MAX_LOOK_BYTES);
    if !small || !matches!(entry.kind, EntryKind::File | EntryKind::Executable) {
        return None;
    }
    let mut content = Vec::new();
    source.open(path, &entry.id?).ok()?.take(MAX_LOOK_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}
