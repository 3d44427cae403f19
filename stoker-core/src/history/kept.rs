//! What a transaction has really kept: the journal, written before, can only tell what was expected.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use crate::journal::{Journal, Step, digest_at};
use crate::root::{Live, live_at};
use crate::state::{Digest, ManifestEntry, StateDir};

/// A kept content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kept {
    /// What the engine had written there; the journal knows its digest.
    AsWritten,
    /// Anything else.
    Other(Digest),
}

impl Kept {
    /// The digest the content must have; `None` when the journal does not know it.
    pub(super) fn digest(self, before: Option<&ManifestEntry>) -> Option<Digest> {
        match self {
            Self::AsWritten => before.map(|b| b.digest),
            Self::Other(digest) => Some(digest),
        }
    }
}

/// What was kept, by slot. A slot that is not named kept nothing.
pub(super) type Record = BTreeMap<u32, Kept>;

/// Writes the record of a transaction whose steps are done. The caller makes it durable.
pub(crate) fn write_down(state: &StateDir, journal: &Journal) -> io::Result<()> {
    let history = state.directory(&format!("history/{}", journal.transaction))?;
    let mut record = Record::new();
    for step in journal.plain_steps() {
        let (Step::Put { slot, before, .. } | Step::Delete { slot, before, .. }) = step.as_ref() else {
            continue;
        };
        let name = slot.to_string();
        let live = live_at(history.as_fd(), &name)?;
        // Contents that nobody touched need not be read again.
        let kept = match (live, before) {
            (Live::Absent | Live::Directory, _) => continue,
            (Live::File(file), Some(before)) if is_untouched(before, file.id) => Some(Kept::AsWritten),
            _ => digest_at(history.as_fd(), &name)?.map(Kept::Other),
        };
        if let Some(kept) = kept {
            record.insert(*slot, kept);
        }
    }
    let name = format!("history/{}/kept", journal.transaction);
    state.write_sealed(&name, &record)?;
    state.publish(&name)
}

/// Whether the file is the very one that was written. A rename changes nothing but the time of the change.
fn is_untouched(before: &ManifestEntry, now: crate::root::StatId) -> bool {
    let then = before.stat;
    let same = (then.inode, then.size, then.mtime_ns) == (now.inode, now.size, now.mtime_ns);
    same && before.digest != Digest::default()
}

/// The record of a transaction; `None` when it is missing or damaged.
pub(super) fn read(state: &StateDir, transaction: u64) -> io::Result<Option<Record>> {
    Ok(state.read_sealed(&format!("history/{transaction}/kept"))?.flatten())
}
