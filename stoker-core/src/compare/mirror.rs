//! A mirror: what lies below a mapped destination and is not in the source goes, too.

use std::collections::BTreeSet;

use crate::compare::Comparison;
use crate::layer::{DesiredState, Layer};
use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::plan::{Action, ActionKind, Found, PlanError};
use crate::root::Live;
use crate::source::{Entry, EntryKind};
use crate::state::is_own;

impl Comparison<'_, '_> {
    /// Adds the deletion of everything below the mapped directories that nobody wants, protects, excludes or keeps.
    pub(super) fn mirror(
        &mut self,
        wanted: &PathMap<()>,
        desired: &DesiredState,
        roots: &[Option<Entry>],
    ) -> Result<(), PlanError> {
        let is_directory =
            |root: &Option<Entry>| root.as_ref().is_some_and(|r| r.kind == EntryKind::Directory);
        let layers = self.layers.iter().zip(roots).filter(|(_, root)| is_directory(root));
        let mut layers: Vec<&Layer> = layers.map(|(layer, _)| layer).collect();
        layers.sort_by(|a, b| a.destination.cmp(&b.destination));
        let mut walk = Walk { wanted, desired, layers, foreign: Vec::new(), emptied: BTreeSet::new() };
        let mut last: Option<RelPath<'_>> = None;
        for layer in walk.layers.clone() {
            let at = layer.destination.as_path();
            // One visit to a directory judges it for all the mappings that bring it.
            if !walk
                .layers
                .iter()
                .any(|l| at != l.destination.as_path() && at.starts_with(l.destination.as_path()))
                && last != Some(at)
            {
                self.walk(at, &walk.of(at), &mut walk)?;
            }
            last = Some(at);
        }
        walk.foreign.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (path, live) in walk.foreign {
            let (file, found) = match live {
                Live::File(file) => (Some(file), Found::Other),
                _ => (None, Found::Special),
            };
            self.plan.actions.push(Action {
                path,
                kind: ActionKind::Delete,
                reason: "not in the source, which is mirrored here; the content is kept in history",
                rule: Some("prune: Mirror".into()),
                mapping: None,
                write: None,
                base: None,
                live: file.map(Box::new),
                found,
            });
        }
        self.plan.actions.sort_by(|a, b| a.path.cmp(&b.path));
        self.plan.emptied = walk.emptied;
        Ok(())
    }

    /// Visits a directory that these layers mirror; says whether anything in it stays.
    fn walk<'l>(&self, at: RelPath<'_>, by: &[&'l Layer], walk: &mut Walk<'l>) -> Result<bool, PlanError> {
        let failed = |path: RelPath<'_>| {
            let path = path.to_buf();
            move |source| PlanError::Live { path, source }
        };
        let root = self.inputs.root;
        if root.cursor().live(at).map_err(failed(at))? != Live::Directory {
            return Ok(true);
        }
        let fd = root.directory(at).map_err(failed(at))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed(at)(e.into()))?;
        if stat.st_dev != root.device() {
            // Another volume, mounted here by somebody who has a reason.
            return Ok(true);
        }
        let mut stays = false;
        for name in crate::state::names(&fd).map_err(failed(at))? {
            // A name that no source can bring cannot be named in a journal either: it stays.
            let Ok(path) = at.child(&name) else {
                stays = true;
                continue;
            };
            if is_own(path.as_path()) || self.boundaries.protected(path.as_path(), true).is_some() {
                stays = true;
                continue;
            }
            use std::os::fd::AsFd;
            let live = crate::root::live_at(fd.as_fd(), &name).map_err(failed(path.as_path()))?;
            match live {
                Live::Absent => {}
                Live::Directory => {
                    let below = self.directory(path.as_path(), by, walk)?;
                    if !below {
                        walk.emptied.insert(path);
                    }
                    stays |= below;
                }
                Live::File(_) | Live::Special => {
                    let desired = walk.desired;
                    let owned = self.plan.manifest.files.contains(path.as_str());
                    let covered = owned && desired.covers(path.as_path());
                    let wanted = walk.wanted.contains(path.as_str()) || covered;
                    let untouched = desired.untouched.iter().any(|d| path.as_path().starts_with(d.as_path()));
                    let stays_here = wanted || untouched || !self.boundaries.allows(path.as_path());
                    // What is owned the table has judged already.
                    let kept = stays_here || (!owned && !self.mirrors(path.as_path(), by));
                    stays |= kept;
                    if !kept && !owned {
                        walk.foreign.push((path, live));
                    }
                }
            }
        }
        Ok(stays)
    }

    /// Visits a directory within one that `by` mirror, where there is anything to mirror.
    fn directory<'l>(
        &self,
        path: RelPath<'_>,
        by: &[&'l Layer],
        walk: &mut Walk<'l>,
    ) -> Result<bool, PlanError> {
        let mut here = walk.of(path);
        if !self.boundaries.mirror_keeps(path, true) {
            here.extend(by);
        }
        if here.is_empty() && !walk.layers.iter().any(|l| l.destination.as_path().starts_with(path)) {
            return Ok(true);
        }
        self.walk(path, &here, walk)
    }

    /// Whether one of these layers mirrors a file that nobody wants.
    fn mirrors(&self, path: RelPath<'_>, by: &[&Layer]) -> bool {
        !self.boundaries.mirror_keeps(path, false) && by.iter().any(|layer| layer.selects(path))
    }
}

struct Walk<'l> {
    wanted: &'l PathMap<()>,
    desired: &'l DesiredState,
    /// The layers that mirror a directory, by destination.
    layers: Vec<&'l Layer>,
    foreign: Vec<(RelPathBuf, Live)>,
    /// Directories in which nothing stays.
    emptied: BTreeSet<RelPathBuf>,
}

impl<'l> Walk<'l> {
    /// The layers whose destination this is.
    fn of(&self, path: RelPath<'_>) -> Vec<&'l Layer> {
        self.layers.iter().filter(|layer| layer.destination.as_path() == path).copied().collect()
    }
}
