//! What past transactions replaced, and the way back to before any of them.

use std::collections::BTreeMap;
use std::io;

use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};

use crate::apply::ApplyError;
use crate::fault::{Category, Fault, Retry};
use crate::journal::{Journal, Step};
use crate::path::RelPathBuf;
use crate::plan::{ActionKind, PlanError};
use crate::root::{Live, live_at};
use crate::state::{LAST_TRANSACTION, StateDir};

mod contents;
mod kept;
mod rollback;
mod room;
mod trace;

pub use contents::{PastChange, PastContent};
pub(crate) use contents::{changes, read};
pub(crate) use kept::write_down;
pub(crate) use room::{Held, drop_oldest, free, held, held_of, prune, to_drop};

/// How much history is kept. The newest transaction always stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Transactions.
    pub count: usize,
    /// Bytes of replaced content.
    pub bytes: u64,
}

impl Default for Retention {
    /// 10 transactions, 512 MiB.
    fn default() -> Self {
        Self { count: 10, bytes: 512 << 20 }
    }
}

/// One past transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its number.
    pub transaction: u64,
    /// The revision that was live before.
    pub from: Option<String>,
    /// The revision that was live after.
    pub to: String,
    /// When it became live, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// What it was for.
    pub cause: Cause,
    /// What happened to which file.
    pub changes: Vec<(RelPathBuf, ActionKind)>,
}

/// What a transaction was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// A new revision or another spec.
    Sync,
    /// Neither changed; what somebody else had changed was put back.
    Drift,
    /// A way back.
    Rollback,
}

impl Cause {
    /// The word for people: `sync`, `drift` or `rollback`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Drift => "drift",
            Self::Rollback => "rollback",
        }
    }
}

/// What some transactions in a row did to each file, taken together.
///
/// A file that was made and deleted again does not appear.
///
/// ```
/// use stoker_core::{ActionKind, Cause, Past, RelPathBuf, net_changes};
/// let past = |transaction, kind| Past {
///     transaction,
///     from: None,
///     to: String::new(),
///     at: 0,
///     cause: Cause::Sync,
///     changes: vec![(RelPathBuf::parse("a").unwrap(), kind)],
/// };
/// let changes = net_changes(&[past(1, ActionKind::Create), past(2, ActionKind::Update)]);
/// assert_eq!(changes[0].1, ActionKind::Create);
/// assert!(net_changes(&[past(1, ActionKind::Create), past(2, ActionKind::Delete)]).is_empty());
/// ```
#[must_use]
pub fn net_changes(past: &[Past]) -> Vec<(RelPathBuf, ActionKind)> {
    use ActionKind::{Create, Delete, SetMode, Update};
    let mut net: BTreeMap<&RelPathBuf, ActionKind> = BTreeMap::new();
    for (path, then) in past.iter().flat_map(|p| &p.changes) {
        let change = match (net.get(path), then) {
            (Some(Create), Delete) => None,
            (Some(Create), _) => Some(Create),
            (Some(Delete), Create) => Some(Update),
            (Some(Update), SetMode) => Some(Update),
            (_, then) => Some(*then),
        };
        match change {
            Some(change) => net.insert(path, change),
            None => net.remove(path),
        };
    }
    net.into_iter().map(|(path, kind)| (path.clone(), kind)).collect()
}

/// Why the history cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The transaction is not kept any more, or never was.
    #[error("transaction {wanted} is not kept; there are {}", list(.kept))]
    NotKept {
        /// The transaction that was asked for.
        wanted: u64,
        /// The transactions that are kept.
        kept: Vec<u64>,
    },
    /// The history could not be read.
    #[error("cannot read the history of transaction {transaction}")]
    Read {
        /// The transaction.
        transaction: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Fault for HistoryError {
    fn category(&self) -> Category {
        match self {
            Self::NotKept { .. } => Category::new("HistoryNotKept"),
            Self::Read { .. } => Category::new("HistoryUnreadable"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NotKept { .. } => Retry::Never,
            Self::Read { .. } => Retry::Backoff,
        }
    }
}

/// Why there is no way back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// There is no history at all.
    #[error("there is no transaction to go back from")]
    Nothing,
    /// The transaction is not kept any more, or never was.
    #[error("transaction {wanted} is not kept; there are {}", list(.kept))]
    NotKept {
        /// The transaction that was asked for.
        wanted: u64,
        /// The transactions that are kept.
        kept: Vec<u64>,
    },
    /// A transaction in between is gone, so the way back would lead to a tree that never was.
    #[error(
        "transaction {transaction} is not kept or is damaged, and the way back leads through it; nothing has changed; \
         only later transactions can be rolled back"
    )]
    Gap {
        /// The transaction.
        transaction: u64,
    },
    /// A content that is needed is gone or is not what was kept.
    #[error(
        "what transaction {transaction} kept of {path} is missing or damaged (.stoker/history/{transaction}/{slot}); \
         nothing has changed; put it back from a backup, or go back less far"
    )]
    Damaged {
        /// The transaction.
        transaction: u64,
        /// The path in the destination.
        path: RelPathBuf,
        /// The name of the kept content.
        slot: u32,
    },
    /// Something of somebody else is in the way of what was there before.
    #[error(transparent)]
    InTheWay(Box<PlanError>),
    /// Somebody else made a directory of what was a file, or a file of what was a directory, between the transactions:
    /// what each of them replaced cannot be there at once.
    #[error(
        "before the transactions from {transaction} on, {path} was a file at one time and a directory with {below} at \
         another; nothing has changed; go back less far"
    )]
    Contradiction {
        /// The oldest transaction to go back over.
        transaction: u64,
        /// The path of the file.
        path: RelPathBuf,
        /// The path of a file below it.
        below: RelPathBuf,
    },
    /// The history could not be read.
    #[error("cannot read the history of transaction {transaction}")]
    Read {
        /// The transaction.
        transaction: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The way back failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

fn list(kept: &[u64]) -> String {
    if kept.is_empty() {
        "none".to_owned()
    } else {
        kept.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl Fault for RollbackError {
    fn category(&self) -> Category {
        match self {
            Self::Nothing | Self::NotKept { .. } => Category::new("HistoryNotKept"),
            Self::Gap { .. } | Self::Damaged { .. } => Category::new("HistoryDamaged"),
            Self::InTheWay(error) => error.category(),
            Self::Contradiction { .. } => Category::new("PathInTheWay"),
            Self::Read { .. } => Category::new("HistoryUnreadable"),
            Self::Apply(error) => error.category(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Nothing
            | Self::NotKept { .. }
            | Self::Gap { .. }
            | Self::Damaged { .. }
            | Self::Contradiction { .. } => Retry::Never,
            Self::InTheWay(error) => error.retry(),
            Self::Read { .. } => Retry::Backoff,
            Self::Apply(error) => error.retry(),
        }
    }
}

/// The transactions with a complete record, oldest first.
pub(crate) fn past(state: &StateDir) -> io::Result<Vec<Past>> {
    let mut past = Vec::new();
    for transaction in transactions(state)? {
        let Some(journal) = journal(state, transaction)? else { continue };
        past.push(past_of(&journal, kept::read(state, transaction)?.as_ref()));
    }
    Ok(past)
}

/// What a transaction did, by what it kept: it may have replaced what nobody knew of.
fn past_of(journal: &Journal, record: Option<&kept::Record>) -> Past {
    let had = |slot: &u32, before: bool| record.map_or(before, |record| record.contains_key(slot));
    let changes = journal.plain_steps().filter_map(|step| match step.as_ref() {
        Step::Put { path, slot, before, .. } => {
            let replaced = had(slot, before.is_some());
            Some((path.clone(), if replaced { ActionKind::Update } else { ActionKind::Create }))
        }
        Step::SetMode { path, .. } => Some((path.clone(), ActionKind::SetMode)),
        Step::Delete { path, .. } => Some((path.clone(), ActionKind::Delete)),
        _ => None,
    });
    Past {
        transaction: journal.transaction,
        from: journal.previous.as_ref().map(|h| h.revision.clone()),
        to: journal.head.revision.clone(),
        at: journal.head.at,
        cause: journal.cause,
        changes: changes.collect(),
    }
}

/// The transactions that keep something, oldest first.
pub(crate) fn transactions(state: &StateDir) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for name in state.names("history")? {
        if let Some(number) = number(&name)
            && live_at(state.fd(), &format!("history/{name}"))? == Live::Directory
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The highest number that has been used, or that something else in the history stands in the way of.
pub(crate) fn highest(state: &StateDir) -> io::Result<u64> {
    Ok(state.names("history")?.iter().filter_map(|name| number(name)).max().unwrap_or(0))
}

/// The number a name stands for, if it is one that the engine gives.
fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|n: &u64| *n <= LAST_TRANSACTION && n.to_string() == name)
}

fn journal(state: &StateDir, transaction: u64) -> io::Result<Option<Journal>> {
    Ok(state.read_sealed(&format!("history/{transaction}/journal"))?.flatten())
}

/// Removes the directory of a transaction that kept nothing.
pub(crate) fn discard(state: &StateDir, transaction: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::unlinkat(state.fd(), format!("history/{transaction}"), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
