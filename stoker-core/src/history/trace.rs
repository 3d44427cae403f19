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
            let trace = traces.entry(step.path().clone()).or_default();
            match step.into_owned() {
                // There was nothing to delete.
                Step::Delete { slot, before, .. }
                    if kept_in(records, journal.transaction, slot).is_none() =>
                {
                    trace.base = before;
                }
                Step::Put { slot, before, .. } | Step::Delete { slot, before, .. } => {
                    let transaction = journal.transaction;
                    let moved = Moved { transaction, slot, before: before.clone() };
                    *trace = Trace { base: before, moved: Some(moved), executable: None };
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
