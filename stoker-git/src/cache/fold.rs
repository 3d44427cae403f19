//! Many packs into two, without asking the server for what is here.

use std::io;
use std::path::Path;

use git2::OdbLookupFlags;

use super::generation::{COMMITS, Generation, TAGS};
use super::io_error;
use super::objects::{Objects, corrupt};
use crate::error::GitError;

/// More than this, uncompressed, is not packed again: libgit2 looks for deltas anew, in several times the memory.
const MAX_BYTES: usize = 8 << 20;
/// There when a process has begun to fold, and still there when it did not live to the end: not again, then.
const BEGUN: &str = "fold-begun";

/// Gives `new`, which is empty, all that `old` has: the largest pack as it is, the objects of all others in one.
pub(super) fn fold(old: &Generation, new: &Generation) -> Result<(), GitError> {
    let failed = |e: io::Error| io_error(new.path(), &e);
    std::fs::File::create_new(old.path().join(BEGUN)).map_err(failed)?;
    let mut packs: Vec<_> =
        old.packs().into_iter().filter_map(|path| Some((path.metadata().ok()?.len(), path))).collect();
    packs.sort_unstable();
    let Some((_, largest)) = packs.pop() else { return Ok(()) };
    for file in [largest.with_extension("idx"), largest] {
        link_into(&file, &new.pack_dir()).map_err(failed)?;
    }
    pack_the_rest(&Objects::open(&old.objects_dir())?, &Objects::open(&new.objects_dir())?, &new.pack_dir())
        .map_err(|e| corrupt(&old.path().display().to_string(), &e))?;
    // What is noted of commits comes last and keeps its order, which is that of the times of the files.
    for notes in [COMMITS, TAGS] {
        let Ok(entries) = std::fs::read_dir(old.path().join(notes)) else { continue };
        std::fs::create_dir_all(new.path().join(notes)).map_err(failed)?;
        for entry in entries {
            link_into(&entry.map_err(failed)?.path(), &new.path().join(notes)).map_err(failed)?;
        }
    }
    match link_into(&old.path().join("shallow"), new.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Packs what is in `old` and not in `new`.
fn pack_the_rest(old: &Objects, new: &Objects, pack_dir: &Path) -> Result<(), git2::Error> {
    let (all, here) = (old.repository().odb()?, new.repository().odb()?);
    let mut missing = Vec::new();
    all.foreach(|id| {
        if !here.exists_ext(*id, OdbLookupFlags::NO_REFRESH) {
            missing.push(*id);
        }
        true
    })?;
    let mut bytes = 0;
    for id in &missing {
        bytes += all.read_header(*id)?.0;
        if bytes > MAX_BYTES {
            return Err(git2::Error::from_str("too much to pack again"));
        }
    }
    let mut builder = old.repository().packbuilder()?;
    builder.set_threads(1);
    for id in missing {
        builder.insert_object(id, None)?;
    }
    if builder.object_count() > 0 {
        builder.write(pack_dir, 0)?;
    }
    Ok(())
}

fn link_into(file: &Path, dir: &Path) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::hard_link(file, dir.join(name))
}
