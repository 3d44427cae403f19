//! What a directory needs as long as it holds anything else.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use crate::path::{RelPath, RelPathBuf};
use crate::pattern::PatternSet;
use crate::plan::PlanError;
use crate::root::{Live, Root, live_at};

/// Of the `deleted` files, those that are `needed` and whose directory keeps something, or gets something of `brought`.
pub(crate) fn that_stay(
    root: &Root,
    needed: &PatternSet,
    deleted: &BTreeSet<RelPathBuf>,
    brought: &dyn Fn(RelPath<'_>) -> bool,
) -> Result<BTreeSet<RelPathBuf>, PlanError> {
    let mut stay = BTreeSet::new();
    for path in deleted.iter().filter(|path| needed.excludes(path.as_path(), false)) {
        let directory = path.as_path().parent().unwrap_or(RelPath::ROOT);
        if brought(directory) || holds_more(root, directory, deleted)? {
            stay.insert(path.clone());
        }
    }
    Ok(stay)
}

/// Whether a directory holds a file that is not deleted.
fn holds_more(
    root: &Root,
    directory: RelPath<'_>,
    deleted: &BTreeSet<RelPathBuf>,
) -> Result<bool, PlanError> {
    let failed = |source| PlanError::Live { path: directory.to_buf(), source };
    let fd = root.directory(directory).map_err(failed)?;
    if crate::state::has_unnamed(&fd).map_err(failed)? {
        return Ok(true);
    }
    for name in crate::state::names(&fd).map_err(failed)? {
        let Ok(path) = directory.child(&name) else { return Ok(true) };
        let more = match live_at(fd.as_fd(), &name).map_err(failed)? {
            Live::Absent => false,
            Live::Directory => holds_more(root, path.as_path(), deleted)?,
            Live::File(_) | Live::Special => !deleted.contains(&path),
        };
        if more {
            return Ok(true);
        }
    }
    Ok(false)
}
