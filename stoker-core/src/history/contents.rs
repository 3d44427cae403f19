//! What single files were before and after past transactions.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use super::{HistoryError, journal, kept, net_changes, past_of, transactions};
use crate::journal::{Journal, Step};
use crate::path::RelPathBuf;
use crate::plan::ActionKind;
use crate::root::{Root, bytes_at};
use crate::state::{Digest, StateDir};

/// What some transactions in a row did to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastChange {
    /// The path in the destination.
    pub path: RelPathBuf,
    /// What happened to it, all in all.
    pub kind: ActionKind,
    /// What was there before; `None` when nothing was, or when its content did not change.
    pub before: Option<PastContent>,
    /// What was there after; `None` when nothing was, or when its content did not change.
    pub after: Option<PastContent>,
}

/// A content that once was live, to be read with [`Engine::past_content`](crate::Engine::past_content).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastContent {
    path: RelPathBuf,
    place: Place,
    /// Unknown when the transaction did not write down what it kept.
    digest: Option<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Kept { transaction: u64, slot: u32 },
    Live,
}

/// What the transactions after `after`, up to and including `to`, did.
pub(crate) fn changes(state: &StateDir, after: u64, to: u64) -> Result<Vec<PastChange>, HistoryError> {
    let read = |transaction| move |source| HistoryError::Read { transaction, source };
    let mut journals = BTreeMap::new();
    for transaction in transactions(state).map_err(read(0))? {
        if let Some(journal) = journal(state, transaction).map_err(read(transaction))? {
            journals.insert(transaction, journal);
        }
    }
    let mut chain: Vec<&Journal> = Vec::new();
    let mut at = to;
    while at > after {
        let journal = journals
            .get(&at)
            .ok_or_else(|| HistoryError::NotKept { wanted: at, kept: journals.keys().copied().collect() })?;
        chain.push(journal);
        at = journal.previous.as_ref().map_or(at - 1, |head| head.transaction.min(at - 1));
    }
    chain.reverse();

    let (mut before, mut written, mut past) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for journal in &chain {
        let transaction = journal.transaction;
        let record = kept::read(state, transaction).map_err(read(transaction))?;
        past.push(past_of(journal, record.as_ref()));
        for step in journal.plain_steps() {
            let (path, slot, was, becomes) = match step.as_ref() {
                Step::Put { path, slot, before, entry } => (path, *slot, before, Some(entry.digest)),
                Step::Delete { path, slot, before } => (path, *slot, before, None),
                _ => continue,
            };
            before.entry(path.clone()).or_insert_with(|| {
                let (path, place) = (path.clone(), Place::Kept { transaction, slot });
                // Without the record, only the manifest's word tells whether there was anything.
                let Some(record) = &record else {
                    return was.as_ref().map(|was| PastContent { path, place, digest: Some(was.digest) });
                };
                record.get(&slot).map(|kept| PastContent { path, place, digest: kept.digest(was.as_deref()) })
            });
            written.insert(path.clone(), becomes);
        }
    }
    // Whatever replaced it later kept it; what nothing has replaced is live.
    let mut later: BTreeMap<RelPathBuf, Place> = BTreeMap::new();
    for (&transaction, journal) in journals.range(to + 1..) {
        for step in journal.plain_steps() {
            if let Step::Put { path, slot, .. } | Step::Delete { path, slot, .. } = step.as_ref()
                && written.contains_key(path)
            {
                later.entry(path.clone()).or_insert(Place::Kept { transaction, slot: *slot });
            }
        }
    }
    let changes = net_changes(&past).into_iter().map(|(path, kind)| {
        let after = written.get(&path).copied().flatten().map(|digest| PastContent {
            path: path.clone(),
            place: later.remove(&path).unwrap_or(Place::Live),
            digest: Some(digest),
        });
        PastChange { kind, before: before.remove(&path).flatten(), after, path }
    });
    Ok(changes.collect())
}

/// The bytes of a past content; `None` when they are gone, more than `limit`, or not those of a file.
pub(crate) fn read(
    root: &Root,
    state: &StateDir,
    content: &PastContent,
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let fits =
        |bytes: &Vec<u8>| content.digest.is_none_or(|digest| digest == *blake3::hash(bytes).as_bytes());
    if let Place::Kept { transaction, slot } = content.place {
        let history = state.directory(&format!("history/{transaction}"))?;
        let kept = bytes_at(history.as_fd(), &slot.to_string(), limit)?.filter(fits);
        // Somebody else may have overwritten it, so that it was never kept; and then it was put back.
        if kept.is_some() || content.digest.is_none() {
            return Ok(kept);
        }
    }
    Ok(root.bytes(content.path.as_path(), limit)?.filter(fits))
}
