//! What stands in the way of new files and directories.

use std::collections::BTreeSet;

use crate::path::{RelPath, RelPathBuf};
use crate::plan::PlanError;
use crate::root::{Cursor, Live, Root};

/// Looks at what stands where files and directories are to be made, and refuses what is not ours to move.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    root: &'a Root,
    /// Files that go before anything is made.
    deleted: BTreeSet<&'a str>,
    cursor: Cursor<'a>,
    known: BTreeSet<RelPathBuf>,
    missing: u64,
}

impl<'a> Way<'a> {
    pub(crate) fn new(root: &'a Root, deleted: BTreeSet<&'a str>) -> Self {
        Self { root, deleted, cursor: root.cursor(), known: BTreeSet::new(), missing: 0 }
    }

    /// Directories that have to be made for all files so far.
    pub(crate) const fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether a file can be made at `path`.
    pub(crate) fn clear(&mut self, path: RelPath<'_>) -> Result<(), PlanError> {
        let failed = |source| PlanError::Live { path: path.to_buf(), source };
        if self.cursor.live(path).map_err(failed)? == Live::Directory {
            self.emptied(path, path)?;
        }
        for above in path.ancestors() {
            if self.known.contains(above.as_str()) {
                break;
            }
            let in_the_way = |found| PlanError::InTheWay { path: above.to_buf(), wanted: "directory", found };
            match self.cursor.live(above).map_err(failed)? {
                Live::Directory => {
                    let fd = self.root.directory(above).map_err(failed)?;
                    let stat = rustix::fs::fstat(fd).map_err(|e| failed(e.into()))?;
                    if stat.st_dev != self.root.device() {
                        return Err(PlanError::OtherVolume { path: path.to_buf() });
                    }
                }
                Live::Absent => self.missing += 1,
                Live::File(_) | Live::Special if self.deleted.contains(above.as_str()) => self.missing += 1,
                Live::File(_) => return Err(in_the_way("a file")),
                Live::Special => return Err(in_the_way("a symbolic link or special file")),
            }
            self.known.insert(above.to_buf());
        }
        Ok(())
    }

    /// Checks that `directory`, in whose tree a file goes to `path`, holds nothing but files that are deleted.
    fn emptied(&self, directory: RelPath<'_>, path: RelPath<'_>) -> Result<(), PlanError> {
        let failed = |source| PlanError::Live { path: directory.to_buf(), source };
        let in_the_way =
            || PlanError::InTheWay { path: path.to_buf(), wanted: "file", found: "a directory with files" };
        let fd = self.root.directory(directory).map_err(failed)?;
        if crate::state::has_unnamed(&fd).map_err(failed)? {
            return Err(in_the_way());
        }
        for name in crate::state::names(&fd).map_err(failed)? {
            let below = directory.child(&name).map_err(|_| in_the_way())?;
            match self.root.cursor().live(below.as_path()).map_err(failed)? {
                Live::Directory => self.emptied(below.as_path(), path)?,
                _ if self.deleted.contains(below.as_str()) => {}
                _ => return Err(in_the_way()),
            }
        }
        Ok(())
    }
}
