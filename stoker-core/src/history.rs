//! What past transactions replaced, and the way back to before any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::apply::{ApplyError, Ground, Transaction, now_ms, order};
use crate::fault::{Category, Fault, Retry};
use crate::journal::{Journal, Step, digest_at};
use crate::path::{RelPath, RelPathBuf};
use crate::plan::ActionKind;
use crate::root::{Live, StatId, live_at, open_file};
use crate::source::ContentId;
use crate::state::{Head, Manifest, ManifestEntry, StateDir, remove_tree, unseal};

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
    /// What happened to which file.
    pub changes: Vec<(RelPathBuf, ActionKind)>,
}

/// What some transactions in a row did to each file, taken together.
///
/// A file that was made and deleted again does not appear.
///
/// ```
/// use stoker_core::{ActionKind, Past, RelPathBuf, net_changes};
/// let past = |transaction, kind| Past {
///     transaction,
///     from: None,
///     to: String::new(),
///     at: 0,
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
            Self::Read { .. } => Category::new("HistoryUnreadable"),
            Self::Apply(error) => error.category(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Nothing | Self::NotKept { .. } => Retry::Never,
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
        let changes = journal.plain_steps().filter_map(|step| match step.as_ref() {
            Step::Put { path, before: Some(_), .. } => Some((path.clone(), ActionKind::Update)),
            Step::Put { path, before: None, .. } => Some((path.clone(), ActionKind::Create)),
            Step::SetMode { path, .. } => Some((path.clone(), ActionKind::SetMode)),
            Step::Delete { path, .. } => Some((path.clone(), ActionKind::Delete)),
            _ => None,
        });
        past.push(Past {
            transaction,
            from: journal.previous.as_ref().map(|h| h.revision.clone()),
            to: journal.head.revision.clone(),
            at: journal.head.at,
            changes: changes.collect(),
        });
    }
    Ok(past)
}

pub(crate) fn transactions(state: &StateDir) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = state.names("history")?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn journal(state: &StateDir, transaction: u64) -> io::Result<Option<Journal>> {
    Ok(state.read(&format!("history/{transaction}/journal"))?.and_then(|bytes| unseal(&bytes)))
}

/// Removes the oldest transactions until the rest fits.
pub(crate) fn prune(state: &StateDir, retention: Retention) -> io::Result<()> {
    let (mut count, mut bytes) = (0, 0u64);
    for transaction in transactions(state)?.into_iter().rev() {
        let directory = state.directory(&format!("history/{transaction}"))?;
        for name in crate::state::names(&directory)? {
            if let Live::File(file) = crate::root::live_at(directory.as_fd(), &name)? {
                bytes += file.id.size;
            }
        }
        count += 1;
        if count > 1 && (count > retention.count || bytes > retention.bytes) {
            remove_tree(state.fd(), &format!("history/{transaction}"))?;
        }
    }
    Ok(())
}

/// Removes the directory of a transaction that kept nothing.
pub(crate) fn discard(state: &StateDir, transaction: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::unlinkat(state.fd(), format!("history/{transaction}"), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Transaction<'_> {
    /// Goes back to before transaction `target`, as a transaction of its own.
    pub(crate) fn rollback(&self, target: Option<u64>) -> Result<Journal, RollbackError> {
        let read = |transaction| move |source| RollbackError::Read { transaction, source };
        let mut kept = Vec::new();
        for transaction in transactions(self.state).map_err(read(0))? {
            if let Some(journal) = journal(self.state, transaction).map_err(read(transaction))? {
                kept.push(journal);
            }
        }
        let newest = kept.last().ok_or(RollbackError::Nothing)?.transaction;
        let target = target.unwrap_or(newest);
        let wanted: Vec<&Journal> = kept.iter().filter(|j| j.transaction >= target).collect();
        if wanted.first().is_none_or(|j| j.transaction != target) {
            let kept = kept.iter().map(|j| j.transaction).collect();
            return Err(RollbackError::NotKept { wanted: target, kept });
        }
        let transaction = self.next(newest).map_err(read(newest))?;
        let io_error = |e| RollbackError::Apply(ApplyError::io(RelPath::ROOT, e));
        self.state.make_directory(&format!("history/{transaction}")).map_err(io_error)?;
        let steps = self.inverse(&wanted).map_err(io_error)?;
        let previous = self.state.head().map_err(io_error)?;
        let before = wanted[0].previous.clone().unwrap_or_else(|| Head {
            revision: String::new(),
            spec: String::new(),
            sources: BTreeMap::new(),
            transaction,
            files: 0,
            at: 0,
        });
        let journal =
            Journal { transaction, previous, head: Head { transaction, at: now_ms(), ..before }, steps };
        let mut manifest: Manifest = self.state.manifest().map_err(io_error)?.unwrap_or_default();
        // They tell of the revision that is left.
        manifest.trees.clear();
        self.run(&journal, manifest)?;
        Ok(journal)
    }

    /// The steps that undo some transactions, with the old contents staged.
    fn inverse(&self, journals: &[&Journal]) -> io::Result<Vec<Step>> {
        // The oldest transaction that touched a path knows what was there before all of them.
        let mut oldest: BTreeMap<RelPathBuf, (u64, Step)> = BTreeMap::new();
        for journal in journals.iter().rev() {
            for step in journal.plain_steps().rev() {
                if !matches!(step.as_ref(), Step::MakeDirectory { .. } | Step::RemoveDirectory { .. }) {
                    oldest.insert(step.path().clone(), (journal.transaction, step.into_owned()));
                }
            }
        }
        let stage = self.state.directory("stage")?;
        let current = self.state.manifest()?.unwrap_or_default();
        let mut steps = Vec::new();
        let mut slot = 0;
        for (path, (transaction, step)) in oldest {
            let now = current.files.get(&path).cloned().map(Box::new);
            match step {
                Step::Put { slot: kept, before, .. } | Step::Delete { slot: kept, before, .. } => {
                    slot += 1;
                    let history = self.state.directory(&format!("history/{transaction}"))?;
                    let Some(entry) =
                        self.restage(&history, &kept.to_string(), &stage, slot, before.as_deref())?
                    else {
                        // There was nothing before.
                        steps.push(Step::Delete { path, slot, before: now });
                        continue;
                    };
                    steps.push(Step::Put { path: path.clone(), slot, entry, before: now });
                    if before.is_none() {
                        steps.push(Step::Forget { path, before: None });
                    }
                }
                Step::SetMode { before, entry, .. } => {
                    steps.push(Step::SetMode { path, entry: before, before: entry });
                }
                Step::Record { before: Some(entry), .. } | Step::Forget { before: Some(entry), .. } => {
                    steps.push(Step::Record { path, entry: *entry, before: now });
                }
                Step::Record { .. } => steps.push(Step::Forget { path, before: now }),
                _ => {}
            }
        }
        let ground = Ground::survey(self.root, &steps)?;
        Ok(order(steps, &ground, &current, &BTreeSet::new(), &[]))
    }

    /// Copies a kept content into the stage; history stays complete. `None` when nothing was kept.
    fn restage(
        &self,
        history: &OwnedFd,
        kept: &str,
        stage: &OwnedFd,
        slot: u32,
        before: Option<&ManifestEntry>,
    ) -> io::Result<Option<ManifestEntry>> {
        let slot = slot.to_string();
        match live_at(history.as_fd(), kept)? {
            Live::File(file) => {
                let mut source = open_file(history.as_fd(), kept)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(stage, &slot, flags, Mode::from_raw_mode(0o600))?;
                let mut copy = File::from(fd);
                io::copy(&mut source, &mut copy)?;
                rustix::fs::fchmod(&copy, Mode::from_raw_mode(file.mode))?;
                if rustix::process::geteuid().is_root() {
                    crate::state::own(stage.as_fd(), &slot, file.uid, file.gid)?;
                }
            }
            Live::Special => {
                let stat = rustix::fs::statat(history, kept, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                    // A socket, device or FIFO: what it was cannot be made again.
                    return Ok(None);
                }
                let target = rustix::fs::readlinkat(history, kept, Vec::new())?;
                rustix::fs::symlinkat(target, stage, &slot)?;
            }
            Live::Absent | Live::Directory => return Ok(None),
        }
        let digest = digest_at(stage.as_fd(), &slot)?.unwrap_or_default();
        let stat = match live_at(stage.as_fd(), &slot)? {
            Live::File(file) => file.id,
            _ => StatId::default(),
        };
        Ok(Some(match before {
            Some(before) => ManifestEntry { digest, stat, ..before.clone() },
            None => ManifestEntry {
                id: ContentId::of(&digest),
                transform: [0; 16],
                digest,
                executable: false,
                stat,
            },
        }))
    }
}
