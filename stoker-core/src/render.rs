//! One file as a sync would write it.

use crate::layer::{self, Boundaries, Layer};
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{From, PlanError, largest};
use crate::source::{Entry, Source};
use crate::spec::SyncSpec;
use crate::transform::produce;

/// A file as a sync would write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The mapping that brings it, as it was written down.
    pub mapping: String,
    /// Where it is in the source; `None` for a generated file.
    pub source: Option<RelPathBuf>,
    /// Whether it is executable.
    pub executable: bool,
    /// Its bytes, after all transforms.
    pub content: Vec<u8>,
}

/// The file that a sync of `source` would write to `path`; `None` when no mapping brings one.
///
/// Looks at no destination: what a policy would leave as it is there is rendered all the same.
///
/// # Errors
/// When the spec and the source do not go together, or the content cannot be made.
pub fn render(
    source: &dyn Source,
    spec: &SyncSpec,
    path: RelPath<'_>,
) -> Result<Option<Rendered>, PlanError> {
    let layers: Vec<Layer> =
        spec.mappings.iter().map(|m| Layer::resolve(m, &spec.variables)).collect::<Result<_, _>>()?;
    let roots: Vec<Option<Entry>> =
        layers.iter().map(|l| source.entry(l.source.as_path())).collect::<Result<_, _>>()?;
    let boundaries = Boundaries::new(spec)?;
    let desired = layer::list(source, &layers, &roots, &boundaries, spec, None, &mut Vec::new())?;
    let Some(wanted) = desired.files.get(path.as_str()) else { return Ok(None) };
    let from = From::of(path, wanted.layer, &layers).map_err(|error| PlanError::Entry {
        origin: String::new(),
        directory: path.parent().unwrap_or(RelPath::ROOT).to_buf(),
        error,
    })?;
    let limit = largest(Some(wanted.layer), &layers, spec);
    let mapping = match &from {
        From::Source(_) => layers[wanted.layer as usize].origin.clone(),
        From::Generated(number) => spec.generated[*number].origin.clone(),
    };
    let transform = &desired.transforms[wanted.transform as usize];
    let mut content = Vec::new();
    let mut reader = from.open(&wanted.id, source, spec)?;
    let mut keep = |bytes: &[u8]| {
        content.extend_from_slice(bytes);
        Ok(())
    };
    let written = produce(path, &mut reader, wanted.size, transform, &spec.variables, limit, &mut keep)?;
    written.map_err(|source| PlanError::Live { path: path.to_buf(), source })?;
    let source = match from {
        From::Source(path) => Some(path),
        From::Generated(_) => None,
    };
    Ok(Some(Rendered { mapping, source, executable: wanted.executable, content }))
}
