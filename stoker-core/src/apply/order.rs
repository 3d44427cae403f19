//! The order of the steps: nothing is needed before it is there, nothing is removed while it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use crate::journal::Step;
use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::root::{Live, Root, live_at};
use crate::state::{Manifest, names};

/// What the steps find in the destination.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    /// Directories that files need and that are not there.
    missing: BTreeSet<RelPathBuf>,
    /// Directories that stand where a file goes, each with all directories below it.
    blocked: BTreeMap<RelPathBuf, BTreeSet<RelPathBuf>>,
}

impl Ground {
    /// Paths that `named` has, too, are shared with it.
    pub(crate) fn survey<V>(root: &Root, steps: &[Step], named: &PathMap<V>) -> io::Result<Self> {
        let mut ground = Self::default();
        let mut known = BTreeSet::new();
        let (mut cursor, mut above_cursor) = (root.cursor(), root.cursor());
        for step in steps {
            let Step::Put { path, .. } = step else { continue };
            if cursor.live(path.as_path())? == Live::Directory {
                let mut directories = BTreeSet::new();
                directories_below(root, path.as_path(), &mut directories)?;
                ground.blocked.insert(path.clone(), directories);
            }
            for above in path.as_path().ancestors() {
                if !known.insert(above) {
                    break;
                }
                if above_cursor.live(above)? != Live::Directory {
                    let path = named.path(above).cloned();
                    ground.missing.insert(path.unwrap_or_else(|| above.to_buf()));
                }
            }
        }
        Ok(ground)
    }

    /// The directory that goes for a file, at or above `path`.
    fn blocked_above(&self, path: RelPath<'_>) -> Option<&RelPathBuf> {
        if self.blocked.is_empty() {
            return None;
        }
        std::iter::once(path)
            .chain(path.ancestors())
            .find_map(|above| self.blocked.get_key_value(above.as_str()).map(|(path, _)| path))
    }
}

fn directories_below(root: &Root, at: RelPath<'_>, all: &mut BTreeSet<RelPathBuf>) -> io::Result<()> {
    all.insert(at.to_buf());
    let fd = root.directory(at)?;
    for name in names(&fd)? {
        if live_at(fd.as_fd(), &name)? == Live::Directory
            && let Ok(below) = at.child(&name)
        {
            directories_below(root, below.as_path(), all)?;
        }
    }
    Ok(())
}

/// Puts steps into the order in which they are taken, with the directories they need and leave behind.
///
/// Directories come first; then files and directories that change places; then files, the `last` ones at the end of their
/// directory; then deletions, innermost first; then directories that are empty now: those that the engine made, and
/// those of `emptied`.
pub(crate) fn order(
    steps: Vec<Step>,
    mut ground: Ground,
    manifest: &Manifest,
    emptied: &BTreeSet<RelPathBuf>,
    last: &[String],
) -> Vec<Step> {
    // In place, as far as it goes: a first sync has a step for every file.
    let mut puts = steps;
    let mut deletes: Vec<Step> = puts.extract_if(.., |step| matches!(step, Step::Delete { .. })).collect();
    let rest: Vec<Step> = puts.extract_if(.., |step| !matches!(step, Step::Put { .. })).collect();
    let is_last =
        |step: &Step| step.path().as_path().file_name().is_some_and(|n| last.iter().any(|l| l == n));
    // Keys are compared as they are: copies of them would double what a first sync holds.
    puts.sort_unstable_by(|a, b| {
        let key = |step| (Step::path(step).as_path().parent(), is_last(step));
        key(a).cmp(&key(b)).then_with(|| a.path().cmp(b.path()))
    });
    // Path order is top down; the reverse visits what is innermost first.
    deletes.sort_by(|a, b| b.path().cmp(a.path()));
    let empty = directories_left_empty(&puts, &deletes, &ground, manifest, emptied);

    let mut missing = std::mem::take(&mut ground.missing);
    let mut swaps = Vec::new();
    let (in_place, deletes): (Vec<_>, Vec<_>) =
        deletes.into_iter().partition(|step| missing.contains(step.path().as_str()));
    for step in in_place {
        let Step::Delete { path, slot, before } = step else { continue };
        let below = |candidate: &RelPathBuf| candidate.as_path().starts_with(path.as_path());
        let directories: Vec<RelPathBuf> = missing.iter().filter(|p| below(p)).cloned().collect();
        missing.retain(|directory| !below(directory));
        let made = directories.into_iter().map(|path| Step::MakeDirectory { path });
        let files: Vec<Step> = puts.extract_if(.., |step| below(step.path())).collect();
        let inside = made.chain(files).collect();
        swaps.push(Step::DirectoryForFile { path, slot, before, inside });
    }
    let mut inner: BTreeMap<&RelPathBuf, Vec<Step>> = BTreeMap::new();
    let mut outer = Vec::new();
    for step in deletes {
        match ground.blocked_above(step.path().as_path()) {
            Some(blocked) => inner.entry(blocked).or_default().push(step),
            None => outer.push(step),
        }
    }
    let replacing: Vec<Step> = if ground.blocked.is_empty() {
        Vec::new()
    } else {
        puts.extract_if(.., |step| ground.blocked.contains_key(step.path().as_str())).collect()
    };
    for step in replacing {
        let Step::Put { path, slot, entry, before } = step else { continue };
        let mut inside = inner.remove(&path).unwrap_or_default();
        let directories = ground.blocked.get(&path).into_iter().flatten().rev().cloned();
        inside.extend(directories.map(|path| Step::RemoveDirectory { path }));
        swaps.push(Step::FileForDirectory { path, slot, entry, before, inside: inside.into() });
    }
    let mut ordered = puts;
    ordered.reserve_exact(missing.len() + swaps.len() + rest.len() + outer.len() + empty.len());
    ordered.splice(..0, missing.into_iter().map(|path| Step::MakeDirectory { path }).chain(swaps));
    ordered.extend(rest);
    ordered.extend(outer);
    ordered.extend(empty.into_iter().rev().map(|path| Step::RemoveDirectory { path }));
    ordered
}

/// The directories that hold nothing any more once the steps are taken, and may go.
fn directories_left_empty(
    puts: &[Step],
    deletes: &[Step],
    ground: &Ground,
    manifest: &Manifest,
    emptied: &BTreeSet<RelPathBuf>,
) -> BTreeSet<RelPathBuf> {
    let gone: BTreeSet<&RelPathBuf> = deletes.iter().map(Step::path).collect();
    if gone.is_empty() && emptied.is_empty() {
        return BTreeSet::new();
    }
    let mut kept: BTreeSet<RelPath<'_>> = BTreeSet::new();
    let stays = manifest.files.paths().filter(|p| !gone.contains(p)).chain(puts.iter().map(Step::path));
    for path in stays {
        for above in path.as_path().ancestors() {
            if !kept.insert(above) {
                break;
            }
        }
    }
    let below_gone = gone.iter().flat_map(|path| path.as_path().ancestors());
    let ours = below_gone.filter(|above| manifest.directories.contains(above.as_str()));
    ours.chain(emptied.iter().map(RelPathBuf::as_path))
        .filter(|above| !kept.contains(above) && ground.blocked_above(*above).is_none())
        .map(RelPath::to_buf)
        .collect()
}
