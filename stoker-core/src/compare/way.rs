//! What stands in the way of new files and directories.

use std::collections::BTreeSet;

use crate::compare::Comparison;
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{ActionKind, PlanError};
use crate::root::Live;

impl Comparison<'_, '_> {
    /// Finds what stands where files and directories are to be made, and refuses what is not ours to move.
    pub(super) fn clear_the_way(&mut self) -> Result<(), PlanError> {
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
        if crate::state::has_unnamed(&fd).map_err(live_error)? {
            return Err(in_the_way());
        }
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
