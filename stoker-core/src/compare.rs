//! The three-way comparison: what was written last, what is wanted, what is there.

use std::collections::BTreeSet;
use std::io::Read;

use crate::layer::{self, Boundaries, Desired, DesiredState, Layer};
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{Action, ActionKind, Counts, From, Need, Plan, PlanError, Warning, Write};
use crate::root::{Cursor, Live, Root, open_file};
use crate::source::{Entry, Source};
use crate::spec::{Prune, SyncSpec};
use crate::state::{Digest, Head, Manifest, ManifestEntry, StateDir};
use crate::transform::{Transform, produce};

/// Judgements about live files that only somebody who knows the program beside us can make.
pub trait LiveRules {
    /// Whether `live` is `ours` in all that matters, although the bytes differ. Asked only for small files.
    fn equivalent(&self, path: RelPath<'_>, ours: &[u8], live: &[u8]) -> bool;
}

/// Bytes are bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExactBytes;

impl LiveRules for ExactBytes {
    fn equivalent(&self, _: RelPath<'_>, _: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// The largest file that [`LiveRules`] are asked about, in bytes.
const MAX_JUDGED_BYTES: u64 = 1 << 20;

/// How to plan.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Look for files that somebody else changed, even when neither the source nor the spec did.
    pub check_drift: bool,
    /// The digest of a plan whose deletions somebody has approved.
    pub approved: Option<String>,
}

pub(crate) struct Inputs<'a> {
    pub(crate) root: &'a Root,
    pub(crate) state: Option<&'a StateDir>,
    pub(crate) source: &'a dyn Source,
    pub(crate) revision: &'a str,
    pub(crate) spec: &'a SyncSpec,
    pub(crate) rules: &'a dyn LiveRules,
    pub(crate) options: &'a PlanOptions,
}

/// Makes the plan. Nothing is written.
pub(crate) fn plan(inputs: &Inputs<'_>) -> Result<Plan, PlanError> {
    let spec = inputs.spec;
    let boundaries = Boundaries::new(spec)?;
    let layers: Vec<Layer> =
        spec.mappings.iter().map(|m| Layer::resolve(m, &spec.variables)).collect::<Result<_, _>>()?;
    let roots: Vec<Option<Entry>> =
        layers.iter().map(|l| inputs.source.entry(l.source.as_path())).collect::<Result<_, _>>()?;
    let state_error = |source| PlanError::Live { path: RelPathBuf::default(), source };
    let previous = inputs.state.map_or(Ok(None), StateDir::head).map_err(state_error)?;
    let head = Head {
        revision: inputs.revision.to_owned(),
        spec: spec_digest(spec, &layers),
        sources: layers
            .iter()
            .zip(&roots)
            .map(|(l, r)| (l.source.clone(), r.as_ref().and_then(|r| r.id)))
            .collect(),
        transaction: previous.as_ref().map_or(0, |h| h.transaction),
        files: previous.as_ref().map_or(0, |h| h.files),
        at: 0,
    };
    let mut plan = Plan {
        actions: Vec::new(),
        warnings: Vec::new(),
        counts: Counts::default(),
        from: previous.as_ref().map(|h| h.revision.clone()),
        to: inputs.revision.to_owned(),
        mappings: layers
            .iter()
            .map(|l| &l.origin)
            .chain(spec.generated.iter().map(|g| &g.origin))
            .cloned()
            .collect(),
        manifest: Manifest::default(),
        head,
        previous,
        transforms: vec![Transform::default()],
        digest: String::new(),
        deletes_allowed: false,
        need: Need::default(),
        unlisted: false,
    };
    let identified = layers.iter().zip(&roots).all(|(_, root)| root.as_ref().is_none_or(|r| r.id.is_some()));
    let same_inputs = identified
        && plan.previous.as_ref().is_some_and(|h| h.spec == plan.head.spec && h.sources == plan.head.sources);
    if same_inputs && !inputs.options.check_drift {
        plan.unlisted = true;
        plan.counts.unchanged = plan.head.files;
        plan.digest = digest(&plan);
        return Ok(plan);
    }
    plan.manifest = match inputs.state.map_or(Ok(None), StateDir::manifest).map_err(state_error)? {
        Some(manifest) => manifest,
        None => {
            if plan.previous.is_some() {
                plan.warnings.push(Warning::ManifestRebuilt);
            }
            Manifest::default()
        }
    };
    if same_inputs && plan.manifest.files.len() as u64 == plan.head.files && !drifted(inputs, &plan.manifest)?
    {
        plan.unlisted = true;
        plan.counts.unchanged = plan.head.files;
        plan.digest = digest(&plan);
        return Ok(plan);
    }
    let mut desired = layer::list(inputs.source, &layers, &roots, &boundaries, spec, &mut plan.warnings)?;
    if desired.total_bytes > spec.limits.max_total_bytes {
        return Err(PlanError::TooManyBytes {
            total: desired.total_bytes,
            limit: spec.limits.max_total_bytes,
        });
    }
    plan.transforms = std::mem::take(&mut desired.transforms);
    let mut comparison = Comparison { inputs, boundaries: &boundaries, layers: &layers, plan: &mut plan };
    comparison.run(&desired)?;
    comparison.clear_the_way()?;
    guard(&mut plan, inputs)?;
    Ok(plan)
}

fn spec_digest(spec: &SyncSpec, layers: &[Layer]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut rest = spec.clone();
    rest.mappings.clear();
    // Variables matter by what they rendered to; contents may name any of them.
    if !spec.mappings.iter().any(|m| m.template) && spec.edits.is_empty() {
        rest.variables = crate::template::Variables::new();
    }
    hasher.update(format!("{layers:?}").as_bytes());
    hasher.update(&serde_json::to_vec(&rest).unwrap_or_default());
    hasher.finalize().to_hex().to_string()
}

/// Whether any owned file does not look as it was left.
fn drifted(inputs: &Inputs<'_>, manifest: &Manifest) -> Result<bool, PlanError> {
    let mut cursor = inputs.root.cursor();
    for (path, entry) in &manifest.files {
        let live =
            cursor.live(path.as_path()).map_err(|source| PlanError::Live { path: path.clone(), source })?;
        if !matches!(live, Live::File(file) if file.id == entry.stat) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Comparison<'a, 'p> {
    inputs: &'a Inputs<'a>,
    boundaries: &'a Boundaries,
    layers: &'a [Layer],
    plan: &'p mut Plan,
}

/// What the comparison of one wanted path found.
struct Verdict {
    kind: ActionKind,
    reason: &'static str,
    digest: Option<Digest>,
}

const fn verdict(kind: ActionKind, reason: &'static str) -> Verdict {
    Verdict { kind, reason, digest: None }
}

impl Comparison<'_, '_> {
    fn run(&mut self, desired: &DesiredState) -> Result<(), PlanError> {
        let root = self.inputs.root;
        let mut cursor = root.cursor();
        let mut base = std::mem::take(&mut self.plan.manifest.files);
        let mut paths: Vec<&RelPathBuf> = desired.files.keys().collect();
        let vanished: Vec<RelPathBuf> =
            base.keys().filter(|p| !desired.files.contains_key(*p)).cloned().collect();
        paths.extend(&vanished);
        paths.sort_unstable();
        for path in paths {
            let live = cursor
                .live(path.as_path())
                .map_err(|source| PlanError::Live { path: path.clone(), source })?;
            match desired.files.get(path) {
                Some(wanted) => self.wanted(path, wanted, base.get_mut(path), live, &mut cursor)?,
                None => {
                    if let Some(entry) = base.get(path) {
                        self.vanished(path, entry, live, desired, &mut cursor)?;
                    }
                }
            }
        }
        self.plan.manifest.files = base;
        Ok(())
    }

    fn wanted(
        &mut self,
        path: &RelPathBuf,
        wanted: &Desired,
        mut base: Option<&mut ManifestEntry>,
        live: Live,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), PlanError> {
        if base.is_none() && live != Live::Absent && matches!(self.from(path, wanted)?, From::Generated(_)) {
            return Ok(());
        }
        let transform = &self.plan.transforms[wanted.transform as usize];
        let key = transform.key(&self.inputs.spec.variables);
        let same = base.as_deref().is_some_and(|b| b.id == wanted.id && b.transform == key);
        let file = match live {
            Live::File(file) => Some(file),
            _ => None,
        };
        if let Some(file) = file
            && file.device != self.inputs.root.device()
        {
            return Err(PlanError::OtherVolume { path: path.clone() });
        }
        let verdict = match (base.as_deref_mut(), live, file) {
            (Some(base), _, Some(file)) if file.id == base.stat => {
                if same && base.executable == wanted.executable {
                    self.plan.counts.unchanged += 1;
                    return Ok(());
                }
                if same {
                    verdict(ActionKind::SetMode, "only the mode changed")
                } else {
                    verdict(ActionKind::Update, "changed in the source")
                }
            }
            (Some(base), _, Some(file)) => {
                let digest = self.live_digest(path, cursor)?;
                let untouched = digest == base.digest;
                let executable = file.mode & 0o100 != 0;
                if untouched || (same && self.equivalent(path, wanted, cursor)?) {
                    if same && executable == wanted.executable {
                        // Touched, or rewritten in a way that does not matter: remember how it looks now.
                        base.stat = file.id;
                        base.digest = digest;
                        self.plan.counts.unchanged += 1;
                        return Ok(());
                    }
                    if same {
                        verdict(ActionKind::SetMode, "the mode changed")
                    } else {
                        verdict(ActionKind::Update, "changed in the source")
                    }
                } else if same {
                    verdict(ActionKind::Restore, "changed here; the source did not change it")
                } else if self.desired_digest(path, wanted, file.id.size)? == Some(digest) {
                    Verdict {
                        kind: ActionKind::Adopt,
                        reason: "changed here to what the source has now",
                        digest: Some(digest),
                    }
                } else {
                    verdict(
                        ActionKind::Overwrite,
                        "changed here and in the source; the content here is kept in history",
                    )
                }
            }
            (Some(_), Live::Absent, _) if same => {
                verdict(ActionKind::Restore, "deleted here; the source still has it")
            }
            (Some(_), Live::Absent, _) => {
                verdict(ActionKind::Restore, "deleted here and changed in the source")
            }
            (None, _, Some(file)) => {
                let digest = self.live_digest(path, cursor)?;
                if self.desired_digest(path, wanted, file.id.size)? == Some(digest)
                    || self.equivalent(path, wanted, cursor)?
                {
                    Verdict {
                        kind: ActionKind::Adopt,
                        reason: "already there as wanted",
                        digest: Some(digest),
                    }
                } else {
                    verdict(ActionKind::Overwrite, "was there with other content, which is kept in history")
                }
            }
            (None, Live::Absent, _) => verdict(ActionKind::Create, "new in the source"),
            (_, Live::Special, _) => {
                verdict(ActionKind::Overwrite, "a special file or link was there; it is kept in history")
            }
            (_, Live::Directory, _) | (_, Live::File(_), None) => {
                verdict(ActionKind::Create, "a file takes the place of a directory")
            }
        };
        let drifted = base.is_some() && matches!(verdict.kind, ActionKind::Restore | ActionKind::Overwrite);
        self.plan.counts.drifted += u64::from(drifted);
        self.plan.actions.push(Action {
            path: path.clone(),
            kind: verdict.kind,
            reason: verdict.reason,
            mapping: Some(wanted.layer),
            write: Some(Write {
                id: wanted.id,
                from: self.from(path, wanted)?,
                size: wanted.size,
                executable: wanted.executable,
                transform: wanted.transform,
                key,
                digest: verdict.digest,
            }),
            base: base.cloned(),
            live: file,
        });
        Ok(())
    }

    fn vanished(
        &mut self,
        path: &RelPathBuf,
        base: &ManifestEntry,
        live: Live,
        desired: &DesiredState,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), PlanError> {
        let missing_source = desired.untouched.iter().any(|d| path.as_path().starts_with(d.as_path()));
        let never_pruned = self.inputs.spec.prune == Prune::Never && live != Live::Absent;
        let (kind, reason, file) = if !self.boundaries.allows(path.as_path()) {
            (ActionKind::Forget, "excluded or protected now; it stays as it is", None)
        } else if missing_source || never_pruned {
            self.plan.counts.unchanged += 1;
            return Ok(());
        } else {
            match live {
                Live::Absent => (ActionKind::Forget, "gone here and in the source", None),
                Live::Directory | Live::Special => {
                    (ActionKind::Forget, "gone from the source; something else is there now", None)
                }
                Live::File(file) if file.device != self.inputs.root.device() => {
                    return Err(PlanError::OtherVolume { path: path.clone() });
                }
                Live::File(file)
                    if file.id == base.stat || self.live_digest(path, cursor)? == base.digest =>
                {
                    (ActionKind::Delete, "gone from the source", Some(file))
                }
                Live::File(file) => {
                    self.plan.counts.drifted += 1;
                    (
                        ActionKind::Delete,
                        "gone from the source; changed here, so the content is kept in history",
                        Some(file),
                    )
                }
            }
        };
        self.plan.actions.push(Action {
            path: path.clone(),
            kind,
            reason,
            mapping: None,
            write: None,
            base: Some(base.clone()),
            live: file,
        });
        Ok(())
    }

    fn live_digest(&self, path: &RelPathBuf, cursor: &mut Cursor<'_>) -> Result<Digest, PlanError> {
        let failed = |source| PlanError::Live { path: path.clone(), source };
        let mut file = open_live(path.as_path(), cursor).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file).map_err(failed)?;
        Ok(*hasher.finalize().as_bytes())
    }

    fn equivalent(
        &self,
        path: &RelPathBuf,
        wanted: &Desired,
        cursor: &mut Cursor<'_>,
    ) -> Result<bool, PlanError> {
        if wanted.size.is_some_and(|size| size > MAX_JUDGED_BYTES) {
            return Ok(false);
        }
        let failed = |source| PlanError::Live { path: path.clone(), source };
        let mut live = Vec::new();
        let file = open_live(path.as_path(), cursor).map_err(failed)?;
        file.take(MAX_JUDGED_BYTES + 1).read_to_end(&mut live).map_err(failed)?;
        if live.len() as u64 > MAX_JUDGED_BYTES {
            return Ok(false);
        }
        let mut ours = Vec::new();
        self.desired(path, wanted, &mut |bytes| {
            ours.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(self.inputs.rules.equivalent(path.as_path(), &ours, &live))
    }

    /// The digest of the wanted content; `None` when its size alone tells that it is not what is there.
    fn desired_digest(
        &self,
        path: &RelPathBuf,
        wanted: &Desired,
        live_size: u64,
    ) -> Result<Option<Digest>, PlanError> {
        if wanted.transform == 0 && wanted.size.is_some_and(|size| size != live_size) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        self.desired(path, wanted, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(Some(*hasher.finalize().as_bytes()))
    }

    fn from(&self, path: &RelPathBuf, wanted: &Desired) -> Result<From, PlanError> {
        let number = wanted.layer as usize;
        let Some(layer) = self.layers.get(number) else {
            return Ok(From::Generated(number - self.layers.len()));
        };
        let source = layer.source_of(path.as_path()).map_err(|error| PlanError::Entry {
            origin: layer.origin.clone(),
            directory: layer.source.clone(),
            error,
        })?;
        Ok(From::Source(source))
    }

    fn desired(
        &self,
        path: &RelPathBuf,
        wanted: &Desired,
        write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), PlanError> {
        let spec = self.inputs.spec;
        let mut reader = self.from(path, wanted)?.open(&wanted.id, self.inputs.source, spec)?;
        let transform = &self.plan.transforms[wanted.transform as usize];
        let limit = spec.limits.max_file_bytes;
        produce(path.as_path(), &mut reader, wanted.size, transform, &spec.variables, limit, write)?
            .map_err(|source| PlanError::Live { path: path.clone(), source })
    }

    /// Finds what stands where files and directories are to be made, and refuses what is not ours to move.
    fn clear_the_way(&mut self) -> Result<(), PlanError> {
        let deleted: BTreeSet<&str> = self
            .plan
            .actions
            .iter()
            .filter(|a| a.kind == ActionKind::Delete)
            .map(|a| a.path.as_str())
            .collect();
        let mut known: BTreeSet<RelPathBuf> = BTreeSet::new();
        let mut missing = 0;
        let mut cursor = self.inputs.root.cursor();
        for action in &self.plan.actions {
            if action.live.is_some() || action.write.is_none() || !action.kind.writes() {
                continue;
            }
            let path = action.path.as_path();
            let live_error = |source| PlanError::Live { path: action.path.clone(), source };
            if action.kind == ActionKind::Create && cursor.live(path).map_err(live_error)? == Live::Directory
            {
                self.emptied(path, &deleted)?;
            }
            for above in path.ancestors() {
                if known.contains(above.as_str()) {
                    break;
                }
                match cursor.live(above).map_err(live_error)? {
                    Live::Directory => {
                        let fd = self.inputs.root.directory(above).map_err(live_error)?;
                        let stat = rustix::fs::fstat(fd).map_err(|e| live_error(e.into()))?;
                        if stat.st_dev != self.inputs.root.device() {
                            return Err(PlanError::OtherVolume { path: action.path.clone() });
                        }
                    }
                    Live::Absent => missing += 1,
                    Live::File(_) if deleted.contains(above.as_str()) => missing += 1,
                    Live::File(_) => {
                        return Err(PlanError::InTheWay {
                            path: above.to_buf(),
                            wanted: "directory",
                            found: "a file",
                        });
                    }
                    Live::Special => {
                        let found = "a symbolic link or special file";
                        return Err(PlanError::InTheWay { path: above.to_buf(), wanted: "directory", found });
                    }
                }
                known.insert(above.to_buf());
            }
        }
        self.plan.need.inodes += missing;
        Ok(())
    }

    /// Checks that the directory at `path` holds nothing but files that this plan deletes.
    fn emptied(&self, path: RelPath<'_>, deleted: &BTreeSet<&str>) -> Result<(), PlanError> {
        let live_error = |source| PlanError::Live { path: path.to_buf(), source };
        let in_the_way =
            || PlanError::InTheWay { path: path.to_buf(), wanted: "file", found: "a directory with files" };
        let fd = self.inputs.root.directory(path).map_err(live_error)?;
        for name in crate::state::names(&fd).map_err(live_error)? {
            let below = path.child(&name).map_err(|_| in_the_way())?;
            let live = self.inputs.root.cursor().live(below.as_path()).map_err(live_error)?;
            match live {
                Live::Directory => self.emptied(below.as_path(), deleted)?,
                _ if deleted.contains(below.as_str()) => {}
                _ => return Err(in_the_way()),
            }
        }
        Ok(())
    }
}

fn open_live(path: RelPath<'_>, cursor: &mut Cursor<'_>) -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    let parent = cursor.parent(path)?.ok_or(std::io::ErrorKind::NotFound)?;
    open_file(parent.as_fd(), path.file_name().unwrap_or_default())
}

fn guard(plan: &mut Plan, inputs: &Inputs<'_>) -> Result<(), PlanError> {
    let mut deletes = 0;
    for action in &plan.actions {
        match action.kind {
            ActionKind::Create => plan.counts.added += 1,
            ActionKind::Update | ActionKind::Restore | ActionKind::Overwrite | ActionKind::SetMode => {
                plan.counts.modified += 1;
            }
            ActionKind::Adopt => plan.counts.adopted += 1,
            ActionKind::Delete => {
                plan.counts.deleted += 1;
                deletes += 1;
            }
            ActionKind::Forget => {}
        }
        if let Some(write) =
            action.write.as_ref().filter(|_| action.kind.writes() && action.kind != ActionKind::SetMode)
        {
            // Whole blocks, as file systems count them.
            plan.need.bytes += write.size.unwrap_or(0).div_ceil(4096) * 4096;
            plan.need.inodes += 1;
        }
    }
    plan.digest = digest(plan);
    let owned = plan.manifest.files.len() as u64;
    let limit = inputs.spec.max_deletes;
    plan.deletes_allowed = inputs.options.approved.as_deref() == Some(plan.digest.as_str());
    let too_many = deletes > limit.count || deletes * 100 > owned * u64::from(limit.percent);
    if deletes > 0 && too_many && !plan.deletes_allowed {
        let digest = plan.digest.clone();
        return Err(PlanError::MassDeletion { deletes, owned, guard: limit, digest });
    }
    space(plan, inputs.root)
}

fn space(plan: &Plan, root: &Root) -> Result<(), PlanError> {
    if plan.need.inodes == 0 {
        return Ok(());
    }
    let stat = rustix::fs::fstatvfs(root.fd())
        .map_err(|e| PlanError::Live { path: RelPathBuf::default(), source: e.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A margin for the journal, the manifest and directories.
    let needed = plan.need.bytes + plan.need.bytes / 20 + plan.need.inodes * 256 + (32 << 10);
    // Some file systems do not count inodes and say 0 of 0.
    let (inodes, free_inodes) = (plan.need.inodes + 4, stat.f_favail);
    if needed > free || (stat.f_files > 0 && inodes > free_inodes) {
        return Err(PlanError::InsufficientSpace { needed, free, inodes, free_inodes });
    }
    Ok(())
}

fn digest(plan: &Plan) -> String {
    let mut hasher = blake3::Hasher::new();
    for action in &plan.actions {
        hasher
            .update(action.path.as_str().as_bytes())
            .update(&[0])
            .update(action.kind.as_str().as_bytes())
            .update(&[0]);
        if let Some(write) = &action.write {
            hasher.update(write.id.as_bytes()).update(&write.key).update(&[u8::from(write.executable)]);
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
