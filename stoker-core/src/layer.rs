//! From mappings to the desired state: templates resolved, sources listed, excludes and protections applied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::json::JsonPath;
use crate::path::{PathError, RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::pattern::{PatternSet, RuleIndex};
use crate::plan::{PlanError, Warning};
use crate::source::{ContentId, Entry, EntryKind, Source};
use crate::spec::{Mapping, MappingKind, SyncSpec};
use crate::state::{Manifest, STATE_DIRECTORY, is_own};
use crate::template::{Template, Variables};
use crate::transform::Transform;

mod clashes;

use clashes::{files_and_directories, twins};

/// The longest path or value that a template may render to, in bytes.
const MAX_RENDERED_BYTES: usize = 64 << 10;

/// One mapping after its templates were resolved.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) origin: String,
    pub(crate) source: RelPathBuf,
    pub(crate) destination: RelPathBuf,
    pub(crate) kind: Option<MappingKind>,
    pub(crate) required: bool,
    file_pattern: Option<PatternSet>,
    max_file_bytes: Option<u64>,
    template: bool,
    patches: Vec<FilePatch>,
}

/// Values for the files of a mapping that a pattern names.
#[derive(Debug)]
struct FilePatch {
    /// The pattern, rendered.
    file: String,
    files: PatternSet,
    edits: Vec<(JsonPath, Value)>,
}

/// One wanted file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Desired {
    pub(crate) id: ContentId,
    pub(crate) size: Option<u64>,
    pub(crate) executable: bool,
    /// Which layer brings it; beyond the layers, which [`Generated`](crate::spec::Generated) file it is.
    pub(crate) layer: u32,
    /// Index into [`DesiredState::transforms`]; 0 is the identity.
    pub(crate) transform: u32,
}

/// Everything that the destination should hold.
#[derive(Debug, Default)]
pub(crate) struct DesiredState {
    pub(crate) files: PathMap<Desired>,
    pub(crate) transforms: Vec<Transform>,
    /// Destinations of mappings whose source is missing: nothing below them is deleted.
    pub(crate) untouched: Vec<RelPathBuf>,
    pub(crate) total_bytes: u64,
    /// Directories that are wanted as they were left: neither listed nor compared.
    pub(crate) covered: BTreeSet<RelPathBuf>,
    /// Owned files below them.
    pub(crate) covered_files: u64,
    /// Which tree each directory is made from; see [`Manifest::trees`].
    pub(crate) trees: PathMap<ContentId>,
}

impl DesiredState {
    /// Whether `path` lies in a directory that is wanted as it was left.
    pub(crate) fn covers(&self, path: RelPath<'_>) -> bool {
        !self.covered.is_empty()
            && (self.covered.contains("")
                || path.ancestors().any(|above| self.covered.contains(above.as_str())))
    }
}

/// What is known of the last sync, when it was made with the same spec.
pub(crate) struct Known<'a> {
    pub(crate) manifest: &'a Manifest,
    /// Whether everything owned below a directory looks as it was left.
    pub(crate) as_left: &'a dyn Fn(RelPath<'_>) -> Result<bool, PlanError>,
}

/// What a path must never be: the engine's own, protected, or excluded.
#[derive(Debug)]
pub(crate) struct Boundaries {
    protections: PatternSet,
    reasons: Vec<String>,
    pub(crate) excludes: PatternSet,
    mirror_keeps: PatternSet,
    pub(crate) needed_while_filled: PatternSet,
}

impl Boundaries {
    pub(crate) fn new(spec: &SyncSpec) -> Result<Self, PlanError> {
        let own = format!("/{STATE_DIRECTORY}");
        let patterns = spec.protections.iter().map(|p| p.pattern.as_str());
        let reasons = spec.protections.iter().map(|p| p.reason.clone());
        Ok(Self {
            protections: PatternSet::new(patterns.chain([own.as_str()]))?,
            reasons: reasons.chain(["Stoker's own state".to_owned()]).collect(),
            excludes: PatternSet::new(&spec.excludes)?,
            mirror_keeps: PatternSet::new(&spec.mirror_keeps)?,
            needed_while_filled: PatternSet::new(&spec.needed_while_filled)?,
        })
    }

    /// Whether a mirror of something above leaves `path` as it is, by a pattern that matches the path itself.
    pub(crate) fn mirror_keeps(&self, path: RelPath<'_>, is_directory: bool) -> bool {
        let rule = self.mirror_keeps.step(None, path, is_directory);
        self.mirror_keeps.verdict(rule).is_some()
    }

    /// Why `path` is protected.
    pub(crate) fn protected(&self, path: RelPath<'_>, is_directory: bool) -> Option<&str> {
        let (rule, _) = self.protections.excluding_rule(path, is_directory)?;
        self.reasons.get(rule.get()).map(String::as_str)
    }

    /// Whether a file at `path` may be written or deleted at all.
    pub(crate) fn allows(&self, path: RelPath<'_>) -> bool {
        self.forbids(path).is_none()
    }

    /// The rule by which a file at `path` may be neither written nor deleted.
    pub(crate) fn forbids(&self, path: RelPath<'_>) -> Option<String> {
        if is_own(path) {
            return Some("Stoker's own state".to_owned());
        }
        if let Some(reason) = self.protected(path, false) {
            return Some(format!("protected: {reason}"));
        }
        self.excludes.excluding_rule(path, false).map(|(_, pattern)| format!("excluded by {pattern}"))
    }
}

impl Layer {
    /// Resolves the templates of a mapping.
    pub(crate) fn resolve(mapping: &Mapping, variables: &Variables) -> Result<Self, PlanError> {
        let path = |field: &'static str, text: &str| -> Result<RelPathBuf, PlanError> {
            let rendered = render(&mapping.origin, field, text, variables)?;
            RelPathBuf::parse(&rendered).map_err(|error| PlanError::Path {
                origin: mapping.origin.clone(),
                field,
                value: rendered,
                error,
            })
        };
        let destination = path("destination", &mapping.destination)?;
        let file_pattern = mapping.file_pattern.as_deref().map(|pattern| {
            let pattern = render(&mapping.origin, "filePattern", pattern, variables)?;
            Ok::<_, PlanError>(PatternSet::new([pattern])?)
        });
        let file_pattern = file_pattern.transpose()?;
        let patches = mapping.patches.iter().map(|patch| {
            let file = patch.file.as_deref().unwrap_or("*.json");
            let file = render(&mapping.origin, "patch file", file, variables)?;
            let edits = edits(&mapping.origin, &patch.set, variables)?;
            Ok(FilePatch { files: PatternSet::new([&file])?, file, edits })
        });
        Ok(Self {
            origin: mapping.origin.clone(),
            source: path("source", &mapping.source)?,
            patches: patches.collect::<Result<_, PlanError>>()?,
            destination,
            kind: mapping.kind,
            required: mapping.required,
            file_pattern,
            max_file_bytes: mapping.max_file_bytes,
            template: mapping.template,
        })
    }

    /// The path in the source of a file that this layer brings.
    pub(crate) fn source_of(&self, path: RelPath<'_>) -> Result<RelPathBuf, PathError> {
        let below = path.strip_prefix(self.destination.as_path()).unwrap_or(RelPath::ROOT);
        self.source.as_path().join(below)
    }

    /// The largest file that is accepted, in bytes.
    pub(crate) fn max_file_bytes(&self, spec: &SyncSpec) -> u64 {
        self.max_file_bytes.unwrap_or(spec.limits.max_file_bytes)
    }

    fn matches(&self, set: &PatternSet, path: RelPath<'_>) -> bool {
        match path.strip_prefix(self.destination.as_path()).filter(|p| !p.is_root()) {
            Some(below) => set.excludes(below, false),
            // A file mapping has nothing below its destination: patterns match the file's own name.
            None => path
                .file_name()
                .and_then(|name| RelPath::ROOT.child(name).ok())
                .is_some_and(|name| set.excludes(name.as_path(), false)),
        }
    }

    /// Whether the mapping's file pattern lets `path` pass.
    pub(crate) fn selects(&self, path: RelPath<'_>) -> bool {
        self.file_pattern.as_ref().is_none_or(|set| self.matches(set, path))
    }

    /// The patches for a file, by their number.
    fn patches(&self, path: RelPath<'_>) -> impl Iterator<Item = (usize, &FilePatch)> {
        self.patches.iter().enumerate().filter(move |(_, patch)| self.matches(&patch.files, path))
    }

    fn transform(&self, path: RelPath<'_>) -> Transform {
        let edits = self.patches(path).flat_map(|(_, patch)| patch.edits.clone()).collect();
        Transform { template: self.template, edits }
    }
}

pub(crate) fn edits(
    origin: &str,
    set: &BTreeMap<String, Value>,
    variables: &Variables,
) -> Result<Vec<(JsonPath, Value)>, PlanError> {
    set.iter()
        .map(|(path, value)| {
            let path = render(origin, "patch path", path, variables)?;
            let path = JsonPath::parse(&path)
                .map_err(|error| PlanError::JsonPath { origin: origin.to_owned(), error })?;
            let value = match value {
                Value::String(text) => Value::String(render(origin, "patch value", text, variables)?),
                other => other.clone(),
            };
            Ok((path, value))
        })
        .collect()
}

pub(crate) fn render(
    origin: &str,
    field: &'static str,
    text: &str,
    variables: &Variables,
) -> Result<String, PlanError> {
    Template::parse(text).and_then(|template| template.render(variables, MAX_RENDERED_BYTES)).map_err(
        |error| PlanError::Template { origin: origin.to_owned(), field, value: text.to_owned(), error },
    )
}

/// Lists all layers, in order, into one desired state.
pub(crate) fn list(
    source: &dyn Source,
    layers: &[Layer],
    roots: &[Option<Entry>],
    boundaries: &Boundaries,
    spec: &SyncSpec,
    known: Option<&Known<'_>>,
    warnings: &mut Vec<Warning>,
) -> Result<DesiredState, PlanError> {
    let mut listing = Listing {
        source,
        boundaries,
        spec,
        warnings,
        state: DesiredState { transforms: vec![Transform::default()], ..DesiredState::default() },
        files: Vec::new(),
        trees: Vec::new(),
        transform_keys: HashMap::new(),
        overlaps: BTreeMap::new(),
        known,
        alone: false,
        patched: BTreeSet::new(),
        covered_bytes: 0,
    };
    for (number, (layer, root)) in layers.iter().zip(roots).enumerate() {
        let here = layer.destination.as_path();
        let others = layers.iter().enumerate().filter(|(other, _)| *other != number);
        listing.alone = others
            .map(|(_, other)| other.destination.as_path())
            .all(|there| !there.starts_with(here) && !here.starts_with(there));
        listing.patched.clear();
        listing.layer(number as u32, layer, root.as_ref())?;
        if root.is_some() {
            listing.idle_patches(layer);
        }
    }
    listing.settled_count()?;
    let Listing { mut state, files, mut trees, overlaps, warnings, covered_bytes, .. } = listing;
    state.files = PathMap::from_sorted(files);
    // Mostly in order already.
    trees.sort();
    state.trees = PathMap::from_sorted(trees);
    let origin = |number: u32| layers.get(number as usize).map_or_else(String::new, |l| l.origin.clone());
    warnings.extend(overlaps.into_iter().map(|((loses, wins), (path, files))| Warning::Overlap {
        path,
        files,
        loses: origin(loses),
        wins: origin(wins),
    }));
    generate(&mut state, layers.len(), boundaries, spec);
    files_and_directories(&state, |number| {
        let generated = || spec.generated.get(number as usize - layers.len()).map(|g| g.origin.clone());
        layers.get(number as usize).map(|l| l.origin.clone()).or_else(generated).unwrap_or_default()
    })?;
    state.total_bytes = covered_bytes + state.files.entries().iter().filter_map(|(_, f)| f.size).sum::<u64>();
    let mut paths: Vec<&RelPathBuf> = state.files.paths().chain(&state.covered).collect();
    if !state.covered.is_empty() {
        paths.sort_unstable();
    }
    twins(paths.into_iter())?;
    Ok(state)
}

/// Adds the generated files that are needed and that no layer brings.
fn generate(state: &mut DesiredState, layers: usize, boundaries: &Boundaries, spec: &SyncSpec) {
    let mut missing = Vec::new();
    for (number, generated) in spec.generated.iter().enumerate() {
        let (needed_by, path) = (generated.needed_by.as_path(), &generated.path);
        let needed = !state.files.below(needed_by).is_empty()
            || state.covered.iter().any(|directory| directory.as_path().starts_with(needed_by));
        let brought = state.files.contains(path.as_str()) || state.covers(path.as_path());
        if needed && !brought && boundaries.allows(path.as_path()) {
            let wanted = Desired {
                id: ContentId::of(generated.content.as_bytes()),
                size: Some(generated.content.len() as u64),
                executable: false,
                layer: (layers + number) as u32,
                transform: 0,
            };
            missing.push((path.clone(), Some(wanted)));
        }
    }
    state.files.change(missing);
}

struct Listing<'a> {
    source: &'a dyn Source,
    boundaries: &'a Boundaries,
    spec: &'a SyncSpec,
    warnings: &'a mut Vec<Warning>,
    state: DesiredState,
    /// As they come, then [settled](Listing::settle): in order, one for each path.
    files: Vec<(RelPathBuf, Desired)>,
    trees: Vec<(RelPathBuf, ContentId)>,
    transform_keys: HashMap<String, u32>,
    /// Which layers bring the same path: the first path and their number, by losing and winning layer.
    overlaps: BTreeMap<(u32, u32), (RelPathBuf, u64)>,
    known: Option<&'a Known<'a>>,
    /// Whether no other layer writes where the current one does.
    alone: bool,
    /// Patches of the current layer that have found a file.
    patched: BTreeSet<usize>,
    covered_bytes: u64,
}

impl Listing<'_> {
    fn layer(&mut self, number: u32, layer: &Layer, root: Option<&Entry>) -> Result<(), PlanError> {
        let origin = || layer.origin.clone();
        if let Some(reason) = self.boundaries.protected(layer.destination.as_path(), true) {
            let (destination, reason) = (layer.destination.clone(), reason.to_owned());
            return Err(PlanError::ProtectedDestination { origin: origin(), destination, reason });
        }
        let Some(root) = root else {
            if layer.required {
                return Err(PlanError::MissingSource { origin: origin(), source_path: layer.source.clone() });
            }
            self.warnings
                .push(Warning::MissingSource { origin: origin(), source_path: layer.source.clone() });
            self.state.untouched.push(layer.destination.clone());
            return Ok(());
        };
        let found = match root.kind {
            EntryKind::Directory => MappingKind::Dir,
            EntryKind::File | EntryKind::Executable => MappingKind::File,
            kind => {
                return Err(PlanError::UnsupportedEntry {
                    path: layer.source.clone(),
                    kind,
                    origin: origin(),
                });
            }
        };
        if let Some(wanted) = layer.kind.filter(|&kind| kind != found) {
            let source_path = layer.source.clone();
            return Err(PlanError::WrongKind { origin: origin(), source_path, wanted, found });
        }
        match found {
            MappingKind::File if layer.destination.as_path().is_root() => {
                Err(PlanError::FileOntoRoot { origin: origin(), source_path: layer.source.clone() })
            }
            MappingKind::File if !layer.selects(layer.destination.as_path()) => Ok(()),
            MappingKind::File => self.file(number, layer, layer.destination.clone(), root),
            MappingKind::Dir => {
                let destination = layer.destination.as_path();
                let mut last = self.boundaries.excludes.step(None, destination, true);
                for above in destination.ancestors() {
                    last = last.max(self.boundaries.excludes.step(None, above, true));
                }
                self.tree(number, layer, layer.source.as_path(), destination, last, root.id)
            }
        }
    }

    /// A directory whose tree the source may name: it is listed only when that is another one than last time.
    fn tree(
        &mut self,
        number: u32,
        layer: &Layer,
        from: RelPath<'_>,
        to: RelPath<'_>,
        excluded_by: Option<RuleIndex>,
        id: Option<ContentId>,
    ) -> Result<(), PlanError> {
        let Some(id) = id.filter(|_| self.alone) else {
            return self.directory(number, layer, from, to, excluded_by);
        };
        if let Some(known) = self.known
            && known.manifest.trees.get(to.as_str()) == Some(&id)
            && (known.as_left)(to)?
        {
            for (path, entry) in known.manifest.files.below(to) {
                self.state.covered_files += 1;
                self.covered_bytes += entry.stat.size;
                self.patched.extend(layer.patches(path.as_path()).map(|(patch, _)| patch));
            }
            let to = to.to_buf();
            self.trees.extend_from_slice(known.manifest.trees.below(to.as_path()));
            self.trees.push((to.clone(), id));
            self.state.covered.insert(to);
            return self.count();
        }
        let warnings = self.warnings.len();
        self.directory(number, layer, from, to, excluded_by)?;
        // What has to be said again next time has to be listed again.
        if self.warnings.len() == warnings {
            self.trees.push((to.to_buf(), id));
        }
        Ok(())
    }

    /// Stops where far too many files come. Those that several layers bring count once, so they are put in order first.
    fn count(&mut self) -> Result<(), PlanError> {
        let some = self.files.len() as u64 + self.state.covered_files;
        if some > self.spec.limits.max_files.saturating_mul(2) { self.settled_count() } else { Ok(()) }
    }

    /// Stops where there are too many files.
    fn settled_count(&mut self) -> Result<(), PlanError> {
        self.settle();
        let limit = self.spec.limits.max_files;
        if self.files.len() as u64 + self.state.covered_files > limit {
            return Err(PlanError::TooManyFiles { limit });
        }
        Ok(())
    }

    /// Puts the files in order; of several at one path, that of the last layer stays.
    fn settle(&mut self) {
        self.files.sort_unstable_by(|(a, one), (b, other)| a.cmp(b).then(one.layer.cmp(&other.layer)));
        let overlaps = &mut self.overlaps;
        // What is dropped is the second one, so the winner moves to the first.
        self.files.dedup_by(|(path, wins), (first, loses)| {
            let same = path == first;
            if same {
                let pair = (loses.layer, wins.layer);
                overlaps.entry(pair).or_insert_with(|| (path.clone(), 0)).1 += 1;
                *loses = wins.clone();
            }
            same
        });
    }

    fn directory(
        &mut self,
        number: u32,
        layer: &Layer,
        from: RelPath<'_>,
        to: RelPath<'_>,
        excluded_by: Option<RuleIndex>,
    ) -> Result<(), PlanError> {
        for named in self.source.list(from)? {
            let name = std::str::from_utf8(&named.name).map_err(|_| {
                let text = String::from_utf8_lossy(&named.name).into_owned();
                PlanError::Entry {
                    origin: layer.origin.clone(),
                    directory: from.to_buf(),
                    error: PathError::NotUtf8(text),
                }
            })?;
            let entry_error =
                |error| PlanError::Entry { origin: layer.origin.clone(), directory: from.to_buf(), error };
            let path = to.child(name).map_err(entry_error)?;
            let is_directory = named.entry.kind == EntryKind::Directory;
            let rule = self.boundaries.excludes.step(excluded_by, path.as_path(), is_directory);
            let excluded = self.boundaries.excludes.verdict(rule).is_some();
            match named.entry.kind {
                EntryKind::Directory => {
                    if self.boundaries.protected(path.as_path(), true).is_some() {
                        self.warnings.push(Warning::Protected { path, origin: layer.origin.clone() });
                        continue;
                    }
                    let below = from.child(name).map_err(entry_error)?;
                    self.tree(number, layer, below.as_path(), path.as_path(), rule, named.entry.id)?;
                }
                _ if excluded || !layer.selects(path.as_path()) => {}
                EntryKind::File | EntryKind::Executable => self.file(number, layer, path, &named.entry)?,
                kind => {
                    let path = from.child(name).map_err(entry_error)?;
                    return Err(PlanError::UnsupportedEntry { path, kind, origin: layer.origin.clone() });
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, number: u32, layer: &Layer, path: RelPathBuf, entry: &Entry) -> Result<(), PlanError> {
        if self.boundaries.protected(path.as_path(), false).is_some() {
            self.warnings.push(Warning::Protected { path, origin: layer.origin.clone() });
            return Ok(());
        }
        if self.boundaries.excludes.excludes(path.as_path(), false) {
            return Ok(());
        }
        let Some(id) = entry.id else {
            return Err(PlanError::UnsupportedEntry { path, kind: entry.kind, origin: layer.origin.clone() });
        };
        let limit = layer.max_file_bytes(self.spec);
        if let Some(size) = entry.size.filter(|&size| size > limit) {
            return Err(PlanError::FileTooLarge { origin: layer.origin.clone(), path, size, limit });
        }
        self.patched.extend(layer.patches(path.as_path()).map(|(patch, _)| patch));
        let transform = self.transform(layer, path.as_path())?;
        let executable = entry.kind == EntryKind::Executable;
        let wanted = Desired { id, size: entry.size, executable, layer: number, transform };
        self.files.push((path, wanted));
        self.count()
    }

    /// Says which patches of a layer have found no file.
    fn idle_patches(&mut self, layer: &Layer) {
        let idle = layer.patches.iter().enumerate().filter(|(number, _)| !self.patched.contains(number));
        self.warnings.extend(idle.map(|(patch, of)| Warning::IdlePatch {
            origin: layer.origin.clone(),
            patch,
            file: of.file.clone(),
        }));
    }

    fn transform(&mut self, layer: &Layer, path: RelPath<'_>) -> Result<u32, PlanError> {
        let mut transform = layer.transform(path);
        for edit in &self.spec.edits {
            let target = render(&edit.origin, "path", &edit.path, &self.spec.variables)?;
            if target == path.as_str() {
                transform.edits.extend(edits(&edit.origin, &edit.set, &self.spec.variables)?);
            }
        }
        if transform.is_identity() {
            return Ok(0);
        }
        let key = format!("{transform:?}");
        let next = self.state.transforms.len() as u32;
        let index = *self.transform_keys.entry(key).or_insert(next);
        if index == next {
            self.state.transforms.push(transform);
        }
        Ok(index)
    }
}
