//! A mirror: what lies below a mapped destination and is not in the source goes, too.

use std::collections::BTreeSet;

use crate::compare::Comparison;
use crate::layer::DesiredState;
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{Action, ActionKind, Found, PlanError};
use crate::root::Live;
use crate::source::{Entry, EntryKind};
use crate::state::is_own;

impl Comparison<'_, '_> {
    /// Adds the deletion of everything below the mapped directories that nobody wants, protects or excludes.
    pub(super) fn mirror(
        &mut self,
        desired: &DesiredState,
        roots: &[Option<Entry>],
    ) -> Result<(), PlanError> {
        let mut walk = Walk { seen: BTreeSet::new(), foreign: Vec::new(), emptied: BTreeSet::new() };
        for (layer, root) in self.layers.iter().zip(roots) {
            if root.as_ref().is_some_and(|r| r.kind == EntryKind::Directory) {
                self.walk(layer.destination.as_path(), desired, &mut walk)?;
            }
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

    /// Visits a directory; says whether anything in it stays.
    fn walk(&self, at: RelPath<'_>, desired: &DesiredState, walk: &mut Walk) -> Result<bool, PlanError> {
        let failed = |path: RelPath<'_>| {
            let path = path.to_buf();
            move |source| PlanError::Live { path, source }
        };
        if !walk.seen.insert(at.to_buf()) {
            return Ok(true);
        }
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
                    let below = self.walk(path.as_path(), desired, walk)?;
                    if !below {
                        walk.emptied.insert(path);
                    }
                    stays |= below;
                }
                Live::File(_) | Live::Special => {
                    let owned = self.plan.manifest.files.contains(path.as_str());
                    let covered = owned && desired.covers(path.as_path());
                    let wanted = desired.files.contains(path.as_str()) || covered;
                    let untouched = desired.untouched.iter().any(|d| path.as_path().starts_with(d.as_path()));
                    if owned {
                        // Judged already, by the table.
                        stays |= wanted || untouched || !self.boundaries.allows(path.as_path());
                    } else if wanted || untouched || !self.boundaries.allows(path.as_path()) {
                        stays = true;
                    } else {
                        walk.foreign.push((path, live));
                    }
                }
            }
        }
        Ok(stays)
    }
}

struct Walk {
    seen: BTreeSet<RelPathBuf>,
    foreign: Vec<(RelPathBuf, Live)>,
    /// Directories in which nothing stays.
    emptied: BTreeSet<RelPathBuf>,
}
