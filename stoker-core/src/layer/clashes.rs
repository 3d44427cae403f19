//! Paths that cannot be there at once.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use crate::layer::DesiredState;
use crate::path::{RelPath, RelPathBuf};
use crate::plan::PlanError;

/// Refuses a path that one layer makes a file and another one a directory.
pub(super) fn files_and_directories(
    state: &DesiredState,
    origin: impl Fn(u32) -> String,
) -> Result<(), PlanError> {
    let mut last_parent = RelPath::ROOT;
    for (below, desired) in state.files.entries() {
        let parent = below.as_path().parent().unwrap_or(RelPath::ROOT);
        if parent == last_parent {
            continue;
        }
        last_parent = parent;
        let file = |above: RelPath<'_>| Some((above.to_buf(), state.files.get(above.as_str())?.layer));
        if let Some((path, file)) = below.as_path().ancestors().find_map(file) {
            let (file, directory) = (origin(file), origin(desired.layer));
            return Err(PlanError::FileAndDirectory { path, file, below: below.clone(), directory });
        }
    }
    Ok(())
}

/// Refuses two paths that some file system takes for one: equal but for letter case or Unicode normalisation.
///
/// Such paths differ first in two names of one directory. The paths come in order, so those of a directory come together,
/// and only the names of the directories above the current path are held.
pub(super) fn twins<'p>(paths: impl Iterator<Item = &'p RelPathBuf>) -> Result<(), PlanError> {
    let mut open: Vec<(RelPath<'p>, HashMap<u128, RelPath<'p>>)> = vec![(RelPath::ROOT, HashMap::new())];
    let mut new = Vec::new();
    for path in paths {
        let path = path.as_path();
        open.truncate(open.iter().take_while(|(directory, _)| path.starts_with(*directory)).count());
        let Some(&(innermost, _)) = open.last() else { return Ok(()) };
        new.extend(std::iter::once(path).chain(path.ancestors()).take_while(|at| *at != innermost));
        while let Some(at) = new.pop() {
            if let Some((_, names)) = open.last_mut() {
                let first = *names.entry(fold(at.file_name().unwrap_or_default())).or_insert(at);
                if first != at {
                    return Err(PlanError::Twins { first: first.to_buf(), second: at.to_buf() });
                }
            }
            if at != path {
                open.push((at, HashMap::new()));
            }
        }
    }
    Ok(())
}

fn fold(text: &str) -> u128 {
    let folded: String = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        text.nfc().flat_map(char::to_lowercase).nfc().collect()
    };
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(folded.as_bytes()).as_bytes()[..16]);
    u128::from_le_bytes(short)
}
