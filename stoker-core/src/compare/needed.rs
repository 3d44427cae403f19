//! What a directory needs as long as it holds anything else.

use std::collections::BTreeSet;

use crate::compare::Comparison;
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{ActionKind, PlanError};
use crate::root::Live;

impl Comparison<'_, '_> {
    /// Takes back the deletion of needed files whose directory keeps something.
    pub(super) fn keep_needed(&mut self) -> Result<(), PlanError> {
        let deletes = self.plan.actions.iter().filter(|a| a.kind == ActionKind::Delete);
        let deleted: BTreeSet<RelPathBuf> = deletes.map(|a| a.path.clone()).collect();
        let needed = |path: RelPath<'_>| self.boundaries.needed_while_filled.excludes(path, false);
        let mut kept = BTreeSet::new();
        for path in deleted.iter().filter(|path| needed(path.as_path())) {
            let directory = path.as_path().parent().unwrap_or(RelPath::ROOT);
            let brought = self
                .plan
                .actions
                .iter()
                .any(|a| a.write.is_some() && a.kind.writes() && a.path.as_path().starts_with(directory));
            if brought || self.holds_more(directory, &deleted)? {
                kept.insert(path);
            }
        }
        self.plan.actions.retain(|a| !kept.contains(&a.path));
        self.plan.counts.unchanged += kept.len() as u64;
        Ok(())
    }

    /// Whether a directory holds a file that is not deleted.
    fn holds_more(&self, directory: RelPath<'_>, deleted: &BTreeSet<RelPathBuf>) -> Result<bool, PlanError> {
        let failed = |source| PlanError::Live { path: directory.to_buf(), source };
        let fd = self.inputs.root.directory(directory).map_err(failed)?;
        if crate::state::has_unnamed(&fd).map_err(failed)? {
            return Ok(true);
        }
        for name in crate::state::names(&fd).map_err(failed)? {
            let Ok(path) = directory.child(&name) else { return Ok(true) };
            use std::os::fd::AsFd;
            let more = match crate::root::live_at(fd.as_fd(), &name).map_err(failed)? {
                Live::Absent => false,
                Live::Directory => self.holds_more(path.as_path(), deleted)?,
                Live::File(_) | Live::Special => !deleted.contains(&path),
            };
            if more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
