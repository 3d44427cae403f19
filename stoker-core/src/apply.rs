//! Carrying out a plan: stage, journal, perform, finish. See [`crate::journal`] for the steps.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;

use crate::fault::{Category, Fault, Retry};
use crate::history::{self, Cause, Held, Retention};
use crate::journal::{DirectoryOrder, Journal, Step, Workshop};
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{Counts, Plan};
use crate::root::Root;
use crate::source::{Source, SourceError};
use crate::spec::SyncSpec;
use crate::state::{Head, Manifest, StateDir};
use crate::transform::ContentError;

mod order;
mod recover;
mod stage;

pub(crate) use order::{Ground, order};

/// Why a plan was not carried out.
///
/// Unless the variant says otherwise, the destination holds exactly what it held before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A content cannot go live.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file system is full.
    #[error(
        "no space is left on the data volume while writing {path}; nothing has changed; the history holds {history} bytes"
    )]
    NoSpace {
        /// What was being written.
        path: RelPathBuf,
        /// Bytes that the history holds.
        history: u64,
    },
    /// What is to be written has grown beyond the limit on its way, by templates or patches.
    #[error("more than {limit} bytes are to be written, the limit of this profile; nothing has changed")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
    /// The file system is read-only.
    #[error("the data volume is read-only; nothing has changed")]
    ReadOnly,
    /// A write failed.
    #[error("cannot write {path}; nothing has changed")]
    Write {
        /// What was being written.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A write failed after the commit point, and so did the way back. The next start completes the transaction.
    #[error(
        "cannot write {path}, and taking the transaction back failed too; it will be completed at the next start"
    )]
    Interrupted {
        /// What was being written.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The observer did not let the transaction pass.
    #[error("the sync was stopped before anything changed")]
    Stopped {
        /// The observer's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody applied another plan in between.
    #[error("the plan was made from transaction {planned}, but transaction {found} is live; plan again")]
    Outdated {
        /// The transaction the plan was made from.
        planned: u64,
        /// The transaction that is live.
        found: u64,
    },
}

impl Fault for ApplyError {
    fn category(&self) -> Category {
        match self {
            Self::Content(error) => error.category(),
            Self::Source(error) => error.category(),
            Self::NoSpace { .. } => Category::new("InsufficientSpace"),
            Self::TooManyBytes { .. } => Category::new("LimitExceeded"),
            Self::ReadOnly => Category::new("VolumeReadOnly"),
            Self::Write { .. } => Category::new("WriteFailed"),
            Self::Interrupted { .. } => Category::new("TransactionInterrupted"),
            Self::Stopped { .. } => Category::new("Stopped"),
            Self::Outdated { .. } => Category::new("PlanOutdated"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Content(error) => error.retry(),
            Self::Source(error) => error.retry(),
            Self::TooManyBytes { .. } => Retry::AfterChange,
            _ => Retry::Backoff,
        }
    }
}

impl ApplyError {
    pub(crate) fn io(path: RelPath<'_>, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path: path.to_buf(), history: 0 },
            Some(Errno::ROFS) => Self::ReadOnly,
            _ => Self::Write { path: path.to_buf(), source },
        }
    }
}

/// Watches a transaction, and can stop it before its commit point.
pub trait Observer {
    /// A file was staged; `done` of `total`.
    fn staged(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }

    /// Everything is staged and durable; the next step makes it live. Take whatever lock the program beside us
    /// offers now.
    ///
    /// # Errors
    /// An error abandons the transaction: nothing has changed.
    fn before_commit(
        &mut self,
        changes: &Changes<'_>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let _ = changes;
        Ok(())
    }

    /// Whether the caller wants to stop. Asked until the commit point.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// What a transaction is about to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    steps: &'a [Step],
}

impl<'a> Changes<'a> {
    pub(crate) const fn of(steps: &'a [Step]) -> Self {
        Self { steps }
    }

    /// Each path, and whether it is written; else it is deleted.
    fn all(self) -> impl Iterator<Item = (&'a RelPathBuf, bool)> {
        self.steps.iter().flat_map(|step| {
            let (first, inside, last) = match step {
                Step::DirectoryForFile { path, inside, .. } => (Some((path, false)), &inside[..], None),
                Step::FileForDirectory { path, inside, .. } => (None, &inside[..], Some((path, true))),
                step => (change(step), &[][..], None),
            };
            first.into_iter().chain(inside.iter().filter_map(change)).chain(last)
        })
    }

    /// The files that will be written, or whose mode changes.
    pub fn written(&self) -> impl Iterator<Item = RelPath<'a>> {
        self.all().filter(|(_, written)| *written).map(|(path, _)| path.as_path())
    }

    /// The files that will be deleted.
    pub fn deleted(&self) -> impl Iterator<Item = RelPath<'a>> {
        self.all().filter(|(_, written)| !*written).map(|(path, _)| path.as_path())
    }

    /// The files that will be written or deleted.
    pub fn paths(&self) -> impl Iterator<Item = RelPath<'a>> {
        self.all().map(|(path, _)| path.as_path())
    }
}

/// The file that a single step changes, and whether it writes it.
fn change(step: &Step) -> Option<(&RelPathBuf, bool)> {
    match step {
        Step::Put { path, .. } | Step::SetMode { path, .. } => Some((path, true)),
        Step::Delete { path, .. } => Some((path, false)),
        _ => None,
    }
}

/// What a transaction did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Its number; none when no file had to change.
    pub transaction: Option<u64>,
    /// How many paths of each kind.
    pub counts: Counts,
    /// The files that were written or deleted.
    pub changed: Vec<RelPathBuf>,
    /// How long staging took.
    pub staging: Duration,
    /// How long the destination was changing, from the commit point to the last rename.
    pub renaming: Duration,
}

pub(crate) struct Transaction<'a> {
    pub(crate) root: &'a Root,
    pub(crate) state: &'a StateDir,
    pub(crate) retention: Retention,
}

#[derive(Debug)]
struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cancelled by the caller")
    }
}

impl std::error::Error for Cancelled {}

impl Transaction<'_> {
    /// Carries out a plan.
    pub(crate) fn apply(
        &self,
        plan: Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        observer: &mut dyn Observer,
    ) -> Result<Applied, ApplyError> {
        self.attempt(plan, source, spec, observer).map_err(|error| {
            let error = self.with_history(error);
            // What is needed was underestimated, or somebody else has taken it: the next try has more.
            if matches!(error, ApplyError::NoSpace { .. })
                && let Err(error) = history::drop_oldest(self.state)
            {
                tracing::warn!(%error, "cannot drop the oldest transaction from the history");
            }
            error
        })
    }

    /// Says how much the history holds where no space is left.
    pub(crate) fn with_history(&self, error: ApplyError) -> ApplyError {
        match error {
            ApplyError::NoSpace { path, .. } => {
                let held = history::held(self.state).unwrap_or_default();
                ApplyError::NoSpace { path, history: Held::sum(&held).bytes }
            }
            error => error,
        }
    }

    /// Drops as much of the history as there is room needed for, but nothing from transaction `stays` on.
    pub(crate) fn make_room(&self, needed: Held, stays: u64) -> io::Result<()> {
        let missing = history::free(self.root.fd())?.missing(needed);
        if missing == Held::default() {
            return Ok(());
        }
        for _ in 0..history::to_drop(&history::held_of(self.state, ..=stays)?, missing).unwrap_or(0) {
            history::drop_oldest(self.state)?;
        }
        Ok(())
    }

    fn attempt(
        &self,
        mut plan: Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        observer: &mut dyn Observer,
    ) -> Result<Applied, ApplyError> {
        let head = self.state.head();
        let found = head
            .and_then(|head| self.state.last_transaction(head.as_ref()))
            .map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
        if found != plan.head.transaction {
            return Err(ApplyError::Outdated { planned: plan.head.transaction, found });
        }
        plan.head.at = now_ms();
        let mut applied = Applied { counts: plan.counts, ..Applied::default() };
        if plan.unlisted {
            let moved = plan.previous.as_ref().is_none_or(|p| p.revision != plan.head.revision);
            if moved {
                self.move_head(&plan.head).map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
            }
            return Ok(applied);
        }
        let began = Instant::now();
        self.make_room(plan.need.with_margin(), u64::MAX).map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
        let transaction = self.next(found).map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
        let steps = self.stage(&mut plan, source, spec, transaction, observer, &mut applied);
        applied.staging = began.elapsed();
        let steps = steps.and_then(|steps| {
            if steps.iter().any(Step::writes) {
                observer
                    .before_commit(&Changes::of(&steps))
                    .map_err(|source| ApplyError::Stopped { source })?;
            }
            Ok(steps)
        });
        let steps = match steps {
            Ok(steps) => steps,
            Err(error) => {
                self.abandon(transaction);
                return Err(error);
            }
        };
        let began = Instant::now();
        applied.changed = Changes::of(&steps).all().map(|(path, _)| path.clone()).collect();
        let writes = steps.iter().any(Step::writes);
        if writes {
            plan.head.transaction = transaction;
            applied.transaction = Some(transaction);
        }
        let previous = plan.previous.take();
        let stands =
            |before: &Head| (&before.revision, &before.spec) == (&plan.head.revision, &plan.head.spec);
        let cause = if previous.as_ref().is_some_and(stands) { Cause::Drift } else { Cause::Sync };
        let order = DirectoryOrder::of(spec);
        let journal = Journal { transaction, previous, head: plan.head, cause, order, steps };
        let manifest = std::mem::take(&mut plan.manifest);
        if writes {
            self.commit(&journal).map_err(|e| {
                self.abandon(transaction);
                ApplyError::io(RelPath::ROOT, e)
            })?;
            self.perform(&journal)?;
            applied.renaming = began.elapsed();
        } else {
            self.abandon(transaction);
        }
        self.finish(journal, manifest, writes)
            .map_err(|source| ApplyError::Interrupted { path: RelPathBuf::default(), source })?;
        Ok(applied)
    }

    /// The commit point: from here on the transaction will be completed, or taken back as a whole.
    fn commit(&self, journal: &Journal) -> io::Result<()> {
        self.state.write_sealed("journal", journal)?.sync_data()?;
        self.state.publish("journal")?;
        Ok(rustix::fs::fsync(self.state.fd())?)
    }

    /// The number of the next transaction: above all that were ever kept, should the head be lost.
    pub(crate) fn next(&self, newest: u64) -> io::Result<u64> {
        Ok(newest.max(history::highest(self.state)?) + 1)
    }

    /// Throws away what a transaction staged. Failing to is no harm: recovery sweeps again.
    pub(crate) fn abandon(&self, transaction: u64) {
        let swept = self.sweep().and_then(|()| history::discard(self.state, transaction));
        if let Err(error) = swept {
            tracing::warn!(%error, "cannot remove what an abandoned transaction staged");
        }
    }

    fn workshop(&self, transaction: u64) -> io::Result<Workshop<'_>> {
        Ok(Workshop {
            stage: self.state.directory("stage")?,
            history: self.state.directory(&format!("history/{transaction}"))?,
            cursor: self.root.cursor(),
        })
    }

    fn perform(&self, journal: &Journal) -> Result<(), ApplyError> {
        let interrupted = |path: &RelPathBuf, source| ApplyError::Interrupted { path: path.clone(), source };
        let root = RelPathBuf::default();
        let mut workshop = self.workshop(journal.transaction).map_err(|e| interrupted(&root, e))?;
        for (done, step) in journal.steps.iter().enumerate() {
            let Err(error) = workshop.perform(step) else { continue };
            self.take_back(journal, &mut workshop, done)
                .map_err(|_| interrupted(step.path(), io::Error::from(error.kind())))?;
            self.abandon(journal.transaction);
            return Err(ApplyError::io(step.path().as_path(), error));
        }
        Ok(())
    }

    /// Carries out steps that were not planned from a source: a rollback.
    pub(crate) fn run(&self, journal: Journal, manifest: Manifest) -> Result<(), ApplyError> {
        rustix::fs::syncfs(self.root.fd()).map_err(|e| ApplyError::io(RelPath::ROOT, e.into()))?;
        self.commit(&journal).map_err(|e| {
            self.abandon(journal.transaction);
            ApplyError::io(RelPath::ROOT, e)
        })?;
        self.perform(&journal)?;
        self.finish(journal, manifest, true)
            .map_err(|source| ApplyError::Interrupted { path: RelPathBuf::default(), source })
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
