//! The three-way comparison: what was written last, what is wanted, what is there.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;

use crate::giving_back::GivingBack;
use crate::layer::{self, Boundaries, Desired, DesiredState, Known, Layer};
use crate::needed;
use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::pattern::PatternSet;
use crate::plan::{Action, ActionKind, Counts, Found, From, Need, Plan, PlanError, Warning, Write, largest};
use crate::root::{Cursor, Live, LiveFile, Root, open_file};
use crate::source::{Entry, Source};
use crate::spec::{Policy, Prune, SyncSpec};
use crate::state::{Digest, Head, Manifest, ManifestEntry, StateDir};
use crate::transform::{Transform, produce};
use crate::way::Way;

mod guard;
mod mirror;
mod table;

use guard::{digest, guard};
use table::{Facts, Wanted, decide};

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
    /// Look for files that somebody else changed, also where neither the source nor the spec did.
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
        transaction: inputs
            .state
            .map_or(Ok(0), |state| state.last_transaction(previous.as_ref()))
            .map_err(state_error)?,
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
        layers: Vec::new(),
        transforms: vec![Transform::default()],
        keys: vec![[0; 16]],
        digest: String::new(),
        emptied: BTreeSet::new(),
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
    // A mirror also has to look for what somebody else has added.
    let look_further = spec.prune == Prune::Mirror;
    if same_inputs
        && !look_further
        && plan.manifest.files.len() as u64 == plan.head.files
        && !drifted(inputs, plan.manifest.files.entries())?
    {
        plan.unlisted = true;
        plan.counts.unchanged = plan.head.files;
        plan.digest = digest(&plan);
        return Ok(plan);
    }
    let as_left =
        |at: RelPath<'_>| Ok(!inputs.options.check_drift || !drifted(inputs, plan.manifest.files.below(at))?);
    let known = Known { manifest: &plan.manifest, as_left: &as_left };
    let comparable = plan.previous.as_ref().is_some_and(|h| h.spec == plan.head.spec)
        && plan.manifest.files.len() as u64 == plan.head.files;
    let mut desired = layer::list(
        inputs.source,
        &layers,
        &roots,
        &boundaries,
        spec,
        comparable.then_some(&known),
        &mut plan.warnings,
    )?;
    plan.manifest.trees = std::mem::take(&mut desired.trees);
    plan.counts.unchanged = desired.covered_files;
    if desired.total_bytes > spec.limits.max_total_bytes {
        return Err(PlanError::TooManyBytes {
            total: desired.total_bytes,
            limit: spec.limits.max_total_bytes,
        });
    }
    plan.transforms = std::mem::take(&mut desired.transforms);
    plan.keys = plan.transforms.iter().map(|transform| transform.key(&spec.variables)).collect();
    let policies = Policies::new(spec)?;
    let mut comparison =
        Comparison { inputs, boundaries: &boundaries, policies: &policies, layers: &layers, plan: &mut plan };
    let files = std::mem::take(&mut desired.files);
    let wanted =
        if look_further { files.paths().map(|path| (path.clone(), ())).collect() } else { Vec::new() };
    comparison.run(files, &desired)?;
    if look_further {
        comparison.mirror(&PathMap::from_sorted(wanted), &desired, &roots)?;
    }
    comparison.keep_needed()?;
    comparison.clear_the_way()?;
    drop(desired);
    plan.layers = layers;
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

/// Whether any of some owned files does not look as it was left.
fn drifted(inputs: &Inputs<'_>, files: &[(RelPathBuf, Box<ManifestEntry>)]) -> Result<bool, PlanError> {
    let mut cursor = inputs.root.cursor();
    for (path, entry) in files {
        if !matches!(look(path, &mut cursor)?, Live::File(file) if file.id == entry.stat) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Comparison<'a, 'p> {
    inputs: &'a Inputs<'a>,
    boundaries: &'a Boundaries,
    policies: &'a Policies,
    layers: &'a [Layer],
    plan: &'p mut Plan,
}

/// Which policy holds where.
struct Policies {
    patterns: PatternSet,
    by_rule: Vec<Policy>,
    otherwise: Policy,
}

impl Policies {
    fn new(spec: &SyncSpec) -> Result<Self, PlanError> {
        Ok(Self {
            patterns: PatternSet::new(spec.path_policies.iter().map(|p| &p.pattern))?,
            by_rule: spec.path_policies.iter().map(|p| p.policy).collect(),
            otherwise: spec.policy,
        })
    }

    /// The policy of a path, and the pattern that says so.
    fn of(&self, path: RelPath<'_>) -> (Policy, Option<&str>) {
        let rule = self.patterns.excluding_rule(path, false);
        let policy = rule.and_then(|(rule, text)| Some((*self.by_rule.get(rule.get())?, Some(text))));
        policy.unwrap_or((self.otherwise, None))
    }
}

impl Comparison<'_, '_> {
    /// `files` are those of `desired`, which are used up.
    fn run(&mut self, files: PathMap<Desired>, desired: &DesiredState) -> Result<(), PlanError> {
        let mut cursor = self.inputs.root.cursor();
        let mut base = std::mem::take(&mut self.plan.manifest.files);
        if base.entries().is_empty() {
            self.plan.actions.reserve_exact(files.len());
        }
        let mut wanted = GivingBack::new(files.into_entries()).peekable();
        for owned in uncovered(&base, &desired.covered) {
            for at in owned {
                let (path, _) = &base.entries()[at];
                while let Some((path, wanted)) = wanted.next_if(|(wanted, _)| wanted < path) {
                    self.wanted(&path, &wanted, None, &mut cursor)?;
                }
                let (path, entry) = base.entry_mut(at);
                match wanted.next_if(|(wanted, _)| wanted == path) {
                    Some((_, wanted)) => self.wanted(path, &wanted, Some(entry), &mut cursor)?,
                    None => self.vanished(path, entry, desired, &mut cursor)?,
                }
            }
        }
        for (path, wanted) in wanted {
            self.wanted(&path, &wanted, None, &mut cursor)?;
        }
        self.plan.manifest.files = base;
        let kept = |a: &&Action| {
            a.kind == ActionKind::Keep && self.policies.of(a.path.as_path()).0 == Policy::Manual
        };
        let mut conflicts = self.plan.actions.iter().filter(kept);
        if let Some(first) = conflicts.next() {
            let (path, files) = (first.path.clone(), 1 + conflicts.count() as u64);
            self.plan.warnings.push(Warning::Conflicts { path, files });
        }
        Ok(())
    }

    /// Takes back the deletion of needed files whose directory keeps something.
    fn keep_needed(&mut self) -> Result<(), PlanError> {
        let needed = &self.boundaries.needed_while_filled;
        if needed.is_empty() {
            return Ok(());
        }
        let actions = &mut self.plan.actions;
        let deletes = actions.iter().filter(|a| a.kind == ActionKind::Delete);
        let deleted = deletes.map(|a| a.path.clone()).collect();
        let brought = |directory: RelPath<'_>| {
            let mut made = actions.iter().filter(|a| a.write.is_some() && a.kind.writes());
            made.any(|a| a.path.as_path().is_below(directory))
        };
        let stay = needed::that_stay(self.inputs.root, needed, &deleted, &brought)?;
        actions.retain(|a| !stay.contains(&a.path));
        self.plan.counts.unchanged += stay.len() as u64;
        Ok(())
    }

    /// Finds what stands where files and directories are to be made, and refuses what is not ours to move.
    fn clear_the_way(&mut self) -> Result<(), PlanError> {
        let deletes = self.plan.actions.iter().filter(|a| a.kind == ActionKind::Delete);
        let mut way = Way::new(self.inputs.root, deletes.map(|a| a.path.as_str()).collect());
        let made = |a: &&Action| a.live.is_none() && a.write.is_some() && a.kind.writes();
        for action in self.plan.actions.iter().filter(made) {
            way.clear(action.path.as_path())?;
        }
        self.plan.need.inodes += way.missing();
        Ok(())
    }

    fn wanted(
        &mut self,
        path: &RelPathBuf,
        wanted: &Desired,
        mut base: Option<&mut ManifestEntry>,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), PlanError> {
        let live = look(path, cursor)?;
        if matches!(self.from(path, wanted)?, From::Generated(_)) && base.is_none() && live != Live::Absent {
            return Ok(());
        }
        let key = self.plan.keys[wanted.transform as usize];
        let same = base.as_deref().is_some_and(|b| b.id == wanted.id && b.transform == key);
        let file = self.file_at(path, live)?;
        let mut digest = None;
        let found = match (base.as_deref_mut(), file) {
            (Some(base), Some(file)) if file.id == base.stat => Found::AsWritten,
            (base, Some(file)) => {
                let there = self.live_digest(path, cursor)?;
                digest = Some(there);
                match base {
                    Some(base)
                        if there == base.digest || (same && self.equivalent(path, wanted, cursor)?) =>
                    {
                        // Touched, or rewritten in a way that does not matter: remember how it looks now.
                        if same {
                            base.stat = file.id;
                            base.digest = there;
                        }
                        Found::AsWritten
                    }
                    Some(_) if same => Found::Other,
                    base => {
                        let equal = self.desired_digest(path, wanted, file.id.size)? == Some(there)
                            || (base.is_none() && self.equivalent(path, wanted, cursor)?);
                        if equal { Found::AsWanted } else { Found::Other }
                    }
                }
            }
            _ => found(live),
        };
        let executable = file.map(|f| f.mode & 0o100 != 0);
        let (policy, rule) = self.policies.of(path.as_path());
        let verdict = decide(Facts {
            owned: base.is_some(),
            wanted: if same { Wanted::Same } else { Wanted::Changed },
            found,
            mode_differs: executable.is_some_and(|bit| bit != wanted.executable),
            mode_drifted: base.as_deref().is_some_and(|b| executable.is_some_and(|bit| bit != b.executable)),
            policy,
        });
        self.plan.counts.drifted += u64::from(verdict.drifted);
        let Some(kind) = verdict.action else {
            self.plan.counts.unchanged += 1;
            return Ok(());
        };
        self.plan.actions.push(Action {
            path: path.clone(),
            kind,
            reason: match (kind, &base) {
                (ActionKind::Update, Some(base)) if base.id == wanted.id => {
                    "the same in the source; its template, patches or variables changed"
                }
                _ => verdict.reason,
            },
            rule: verdict.by_policy.then(|| policy_rule(policy, rule)),
            mapping: Some(wanted.layer),
            write: Some(Write {
                id: wanted.id,
                size: wanted.size,
                executable: wanted.executable,
                transform: wanted.transform,
                digest: digest
                    .filter(|_| matches!(kind, ActionKind::Adopt | ActionKind::SetMode))
                    .map(Box::new),
            }),
            base: base.cloned().map(Box::new),
            live: file.map(Box::new),
            found,
        });
        Ok(())
    }

    fn vanished(
        &mut self,
        path: &RelPathBuf,
        base: &ManifestEntry,
        desired: &DesiredState,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), PlanError> {
        let live = look(path, cursor)?;
        let missing_source = desired.untouched.iter().any(|d| path.as_path().starts_with(d.as_path()));
        let never_pruned = self.inputs.spec.prune == Prune::Never && live != Live::Absent;
        let forbidden = self.boundaries.forbids(path.as_path());
        if forbidden.is_none() && (missing_source || never_pruned) {
            self.plan.counts.unchanged += 1;
            return Ok(());
        }
        let action = |kind, reason, rule, file: Option<LiveFile>, found| Action {
            path: path.clone(),
            kind,
            reason,
            rule,
            mapping: None,
            write: None,
            base: Some(Box::new(base.clone())),
            live: file.map(Box::new),
            found,
        };
        if forbidden.is_some() {
            let (reason, rule) = ("excluded or protected now; it stays as it is", forbidden.map(Into::into));
            self.plan.actions.push(action(ActionKind::Forget, reason, rule, None, found(live)));
            return Ok(());
        }
        let file = self.file_at(path, live)?;
        let found = match file {
            Some(file) if file.id == base.stat || self.live_digest(path, cursor)? == base.digest => {
                Found::AsWritten
            }
            _ => found(live),
        };
        let (policy, rule) = self.policies.of(path.as_path());
        let verdict = decide(Facts {
            owned: true,
            wanted: Wanted::Nothing,
            found,
            mode_differs: false,
            mode_drifted: false,
            policy,
        });
        self.plan.counts.drifted += u64::from(verdict.drifted);
        if let Some(kind) = verdict.action {
            let rule = verdict.by_policy.then(|| policy_rule(policy, rule));
            let file = file.filter(|_| kind == ActionKind::Delete);
            // The source may still have it, and another spec leave it out.
            let same_spec = self.plan.previous.as_ref().is_some_and(|head| head.spec == self.plan.head.spec);
            let reason = match kind {
                ActionKind::Delete if !same_spec && !verdict.drifted => {
                    "gone from the source, or no mapping brings it any more"
                }
                _ => verdict.reason,
            };
            self.plan.actions.push(action(kind, reason, rule, file, found));
        }
        Ok(())
    }

    /// The file at a path; refuses one on another volume.
    fn file_at(&self, path: &RelPathBuf, live: Live) -> Result<Option<LiveFile>, PlanError> {
        match live {
            Live::File(file) if file.device != self.inputs.root.device() => {
                Err(PlanError::OtherVolume { path: path.clone() })
            }
            Live::File(file) => Ok(Some(file)),
            _ => Ok(None),
        }
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
        From::of(path.as_path(), wanted.layer, self.layers).map_err(|error| {
            let layer = &self.layers[wanted.layer as usize];
            PlanError::Entry { origin: layer.origin.clone(), directory: layer.source.clone(), error }
        })
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
        let limit = largest(Some(wanted.layer), self.layers, spec);
        produce(path.as_path(), &mut reader, wanted.size, transform, &spec.variables, limit, write)?
            .map_err(|source| PlanError::Live { path: path.clone(), source })
    }
}

/// What is there, for a file that nobody has compared yet.
const fn found(live: Live) -> Found {
    match live {
        Live::Absent => Found::Absent,
        Live::File(_) => Found::Other,
        Live::Directory => Found::Directory,
        Live::Special => Found::Special,
    }
}

fn look(path: &RelPathBuf, cursor: &mut Cursor<'_>) -> Result<Live, PlanError> {
    cursor.live(path.as_path()).map_err(|source| PlanError::Live { path: path.clone(), source })
}

/// Where in `files` those are that lie in no directory of `covered`, of which none lies in another.
fn uncovered<V>(files: &PathMap<V>, covered: &BTreeSet<RelPathBuf>) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = covered.iter().map(|directory| files.range_below(directory.as_path())).collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.push(files.len()..files.len());
    let mut from = 0;
    ranges.into_iter().map(|range| std::mem::replace(&mut from, range.end)..range.start).collect()
}

fn policy_rule(policy: Policy, pattern: Option<&str>) -> Box<str> {
    match pattern {
        Some(pattern) => format!("policy {} of {pattern}", policy.as_str()),
        None => format!("policy {}", policy.as_str()),
    }
    .into()
}

fn open_live(path: RelPath<'_>, cursor: &mut Cursor<'_>) -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    let parent = cursor.parent(path)?.ok_or(std::io::ErrorKind::NotFound)?;
    open_file(parent.as_fd(), path.file_name().unwrap_or_default())
}
