//! What past transactions did to single paths, seen from before the oldest of them.

use std::collections::BTreeMap;

use crate::history::kept::{self, Kept};
use crate::journal::{Journal, Step};
use crate::path::RelPathBuf;
use crate::state::ManifestEntry;

/// What some transactions did to one path, seen from before the oldest of them.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// What the manifest said.
    pub(super) base: Option<Box<ManifestEntry>>,
    /// The first move of a content.
    pub(super) moved: Option<Moved>,
    /// Whether the file was executable, if the first change of its mode was before that.
    pub(super) executable: Option<bool>,
    /// The newest transaction that says something of the path.
    newest: u64,
    /// Whether that one moved a content.
    moved_by_newest: bool,
    /// Whether the file was the engine's after that one.
    owned: bool,
}

impl Trace {
    /// Whether a file that is there now, and is not the engine's, is not what the newest transaction left either: the
    /// engine was told to let go of it since, or somebody has made it since.
    pub(super) const fn is_let_go(&self) -> bool {
        self.owned || !self.moved_by_newest
    }
}

/// A content that was moved into the history, if there was one.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) transaction: u64,
    pub(super) slot: u32,
    /// What the manifest said just then.
    pub(super) before: Option<Box<ManifestEntry>>,
}

/// What each transaction kept.
pub(super) type Records = BTreeMap<u64, kept::Record>;

pub(super) fn kept_in(records: &Records, transaction: u64, slot: u32) -> Option<Kept> {
    records.get(&transaction)?.get(&slot).copied()
}

/// `journals` begins with the newest.
pub(super) fn traces(journals: &[&Journal], records: &Records) -> BTreeMap<RelPathBuf, Trace> {
    let mut traces: BTreeMap<RelPathBuf, Trace> = BTreeMap::new();
    for journal in journals {
        for step in journal.plain_steps().rev() {
            if matches!(step.as_ref(), Step::MakeDirectory { .. } | Step::RemoveDirectory { .. }) {
                continue;
            }
            let transaction = journal.transaction;
            let trace = traces.entry(step.path().clone()).or_insert_with(|| Trace {
                newest: transaction,
                owned: !matches!(step.as_ref(), Step::Delete { .. } | Step::Forget { .. }),
                ..Trace::default()
            });
            match step.into_owned() {
                // There was nothing to delete.
                Step::Delete { slot, before, .. } if kept_in(records, transaction, slot).is_none() => {
                    trace.base = before;
                }
                Step::Put { slot, before, .. } | Step::Delete { slot, before, .. } => {
                    trace.moved = Some(Moved { transaction, slot, before: before.clone() });
                    (trace.base, trace.executable) = (before, None);
                    trace.moved_by_newest |= trace.newest == transaction;
                }
                Step::SetMode { before, entry, .. } => {
                    trace.base = before;
                    trace.executable = Some(!entry.executable);
                }
                Step::Record { before, .. } | Step::Forget { before, .. } => trace.base = before,
                _ => {}
            }
        }
    }
    traces
}
