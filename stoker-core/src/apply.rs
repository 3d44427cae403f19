//! Carrying out a plan: stage, journal, perform, finish. See [`crate::journal`] for the steps.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fault::{Category, Fault, Retry};
use crate::history::Retention;
use crate::journal::{Journal, Step, Workshop, remembered, with_executable};
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{Action, ActionKind, Counts, Plan, Write};
use crate::root::{LiveFile, Root, StatId, live_file};
use crate::source::{Source, SourceError};
use crate::spec::SyncSpec;
use crate::state::{Head, Manifest, ManifestEntry, StateDir, own, own_like, seal};
use crate::transform::{ContentError, produce};

/// From this many files on, one sync of the whole file system is cheaper than one per file.
const SYNC_EACH_UP_TO: usize = 3;

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
    #[error("no space is left on the data volume while writing {path}; nothing has changed")]
    NoSpace {
        /// What was being written.
        path: RelPathBuf,
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
            _ => Retry::Backoff,
        }
    }
}

impl ApplyError {
    pub(crate) fn io(path: RelPath<'_>, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path: path.to_buf() },
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
#[derive(Debug)]
pub struct Changes<'a> {
    pub(crate) steps: &'a [Step],
}

impl Changes<'_> {
    /// The files that will be written, or whose mode changes.
    pub fn written(&self) -> impl Iterator<Item = RelPath<'_>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Put { path, .. } | Step::SetMode { path, .. } => Some(path.as_path()),
            _ => None,
        })
    }

    /// The files that will be deleted.
    pub fn deleted(&self) -> impl Iterator<Item = RelPath<'_>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Delete { path, .. } => Some(path.as_path()),
            _ => None,
        })
    }

    /// The files that will be written or deleted.
    pub fn paths(&self) -> impl Iterator<Item = RelPath<'_>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Put { path, .. } | Step::SetMode { path, .. } | Step::Delete { path, .. } => {
                Some(path.as_path())
            }
            _ => None,
        })
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
        mut plan: Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        observer: &mut dyn Observer,
    ) -> Result<Applied, ApplyError> {
        let found =
            self.state.head().map_err(|e| ApplyError::io(RelPath::ROOT, e))?.map_or(0, |h| h.transaction);
        if found != plan.head.transaction {
            return Err(ApplyError::Outdated { planned: plan.head.transaction, found });
        }
        plan.head.at = now_ms();
        let mut applied = Applied { counts: plan.counts, ..Applied::default() };
        if plan.unlisted {
            let moved = plan.previous.as_ref().is_none_or(|p| p.revision != plan.head.revision);
            if moved {
                self.save_head(&plan.head).map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
            }
            return Ok(applied);
        }
        let began = Instant::now();
        let transaction = found + 1;
        let steps = self.stage(&plan, source, spec, transaction, observer, &mut applied);
        applied.staging = began.elapsed();
        let steps = steps.and_then(|steps| {
            if steps.iter().any(Step::writes) {
                observer
                    .before_commit(&Changes { steps: &steps })
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
        applied.changed = Changes { steps: &steps }.paths().map(RelPath::to_buf).collect();
        let writes = steps.iter().any(Step::writes);
        if writes {
            plan.head.transaction = transaction;
            applied.transaction = Some(transaction);
        }
        let journal = Journal { transaction, previous: plan.previous.take(), head: plan.head, steps };
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
        self.finish(&journal, manifest, writes)
            .map_err(|source| ApplyError::Interrupted { path: RelPathBuf::default(), source })?;
        Ok(applied)
    }

    /// Writes all new contents aside and returns the steps that make them live.
    fn stage(
        &self,
        plan: &Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        transaction: u64,
        observer: &mut dyn Observer,
        applied: &mut Applied,
    ) -> Result<Vec<Step>, ApplyError> {
        let root_error = |e| ApplyError::io(RelPath::ROOT, e);
        self.state.make_directory(&format!("history/{transaction}")).map_err(root_error)?;
        let stage = self.state.directory("stage").map_err(root_error)?;
        let writes = |a: &&Action| a.write.is_some() && a.kind.writes() && a.kind != ActionKind::SetMode;
        let total = plan.actions.iter().filter(writes).count();
        let each = total <= SYNC_EACH_UP_TO;
        let (mut steps, mut slot, mut staged) = (Vec::new(), 0, 0);
        for action in &plan.actions {
            let path = action.path.clone();
            let before = action.base.clone();
            steps.push(match (action.kind, &action.write) {
                (ActionKind::Delete, _) => {
                    slot += 1;
                    Step::Delete { path, slot, before }
                }
                (ActionKind::Forget, _) => Step::Forget { path, before },
                (ActionKind::SetMode, Some(write)) => {
                    let Some(before) = before else { continue };
                    let entry = ManifestEntry {
                        executable: write.executable,
                        stat: StatId::default(),
                        ..before.clone()
                    };
                    Step::SetMode { path, entry, before }
                }
                (ActionKind::Adopt, Some(write)) => {
                    let entry = ManifestEntry {
                        id: write.id,
                        transform: write.key,
                        digest: write.digest.unwrap_or_default(),
                        executable: write.executable,
                        stat: action.live.map(|l| l.id).unwrap_or_default(),
                    };
                    Step::Record { path, entry, before }
                }
                (_, Some(write)) => {
                    if observer.cancelled() {
                        return Err(ApplyError::Stopped { source: Box::new(Cancelled) });
                    }
                    slot += 1;
                    let entry =
                        self.stage_one(plan, action, write, source, spec, stage.as_fd(), slot, each)?;
                    staged += 1;
                    observer.staged(staged, total);
                    // A new id with the old bytes: nothing to do but to remember the id.
                    let untouched = before.as_ref().zip(action.live).filter(|(b, l)| b.stat == l.id);
                    match untouched {
                        Some((b, live)) if b.digest == entry.digest && b.executable == entry.executable => {
                            remove_slot(stage.as_fd(), slot)
                                .map_err(|e| ApplyError::io(path.as_path(), e))?;
                            applied.counts.modified -= 1;
                            applied.counts.unchanged += 1;
                            Step::Record { path, entry: ManifestEntry { stat: live.id, ..entry }, before }
                        }
                        _ => Step::Put { path, slot, entry, before },
                    }
                }
                (_, None) => continue,
            });
        }
        if staged > 0 && !each {
            rustix::fs::syncfs(self.root.fd()).map_err(|e| root_error(e.into()))?;
        }
        Ok(arrange(steps, plan, self.root, &spec.last_in_directory))
    }

    #[allow(clippy::too_many_arguments)]
    fn stage_one(
        &self,
        plan: &Plan,
        action: &Action,
        write: &Write,
        source: &dyn Source,
        spec: &SyncSpec,
        stage: BorrowedFd<'_>,
        slot: u32,
        sync: bool,
    ) -> Result<ManifestEntry, ApplyError> {
        let path = action.path.as_path();
        let failed = |e: io::Error| ApplyError::io(path, e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fresh = Mode::from_raw_mode(if write.executable { 0o777 } else { 0o666 });
        let fd = rustix::fs::openat(stage, slot.to_string(), flags, fresh).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        let mut hasher = blake3::Hasher::new();
        let mut reader = write.from.open(&write.id, source, spec)?;
        let transform = &plan.transforms[write.transform as usize];
        let limit = spec.limits.max_file_bytes;
        produce(path, &mut reader, write.size, transform, &spec.variables, limit, &mut |bytes| {
            hasher.update(bytes);
            file.write_all(bytes)
        })?
        .map_err(failed)?;
        self.dress(&file, action.live, path, stage, slot, write.executable).map_err(failed)?;
        if sync {
            file.sync_data().map_err(failed)?;
        }
        let stat = rustix::fs::fstat(&file).map_err(|e| failed(e.into()))?;
        Ok(ManifestEntry {
            id: write.id,
            transform: write.key,
            digest: *hasher.finalize().as_bytes(),
            executable: write.executable,
            stat: live_file(&stat).id,
        })
    }

    /// Gives a staged file the mode and owner of what it replaces, or the owner of the directory it goes to.
    fn dress(
        &self,
        file: &File,
        live: Option<LiveFile>,
        path: RelPath<'_>,
        stage: BorrowedFd<'_>,
        slot: u32,
        executable: bool,
    ) -> io::Result<()> {
        if let Some(live) = live {
            rustix::fs::fchmod(file, Mode::from_raw_mode(with_executable(live.mode, executable)))?;
            if rustix::process::geteuid().is_root() {
                own(stage, &slot.to_string(), live.uid, live.gid)?;
            }
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let above = path.ancestors().find_map(|above| self.root.directory(above).ok());
        let like = above.as_ref().map_or(self.root.fd(), AsFd::as_fd);
        own_like(like, stage, &slot.to_string())
    }

    /// The commit point: from here on the transaction will be completed, or taken back as a whole.
    fn commit(&self, journal: &Journal) -> io::Result<()> {
        self.state.write_new("journal", &seal(journal)?)?.sync_data()?;
        self.state.publish("journal")?;
        Ok(rustix::fs::fsync(self.state.fd())?)
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
            for step in journal.steps[..=done].iter().rev() {
                workshop.undo(step).map_err(|_| interrupted(step.path(), io::Error::from(error.kind())))?;
            }
            self.state
                .remove("journal")
                .and_then(|()| Ok(rustix::fs::fsync(self.state.fd())?))
                .map_err(|e| interrupted(step.path(), e))?;
            self.abandon(journal.transaction);
            return Err(ApplyError::io(step.path().as_path(), error));
        }
        Ok(())
    }

    /// Completes a transaction that a crash has left behind. Says whether there was one.
    pub(crate) fn recover(&self) -> io::Result<Option<u64>> {
        let Some(bytes) = self.state.read("journal")? else {
            self.sweep()?;
            return Ok(None);
        };
        let Some(journal) = crate::state::unseal::<Journal>(&bytes) else {
            // It was made durable before it got its name, so the disk itself has lost it. What is live stays; the
            // next plan compares every file.
            rustix::fs::renameat(self.state.fd(), "journal", self.state.fd(), "journal.damaged")?;
            self.state.remove("manifest")?;
            self.sweep()?;
            return Ok(None);
        };
        self.state.make_directory(&format!("history/{}", journal.transaction))?;
        let mut workshop = self.workshop(journal.transaction)?;
        for step in &journal.steps {
            workshop.redo(step)?;
        }
        let manifest = self.state.manifest()?.unwrap_or_default();
        self.finish(&journal, manifest, true)?;
        self.sweep()?;
        Ok(Some(journal.transaction))
    }

    /// Writes down what is live now, and turns the journal into history.
    fn finish(&self, journal: &Journal, mut manifest: Manifest, writes: bool) -> io::Result<()> {
        let mut cursor = self.root.cursor();
        for step in &journal.steps {
            match step {
                Step::Put { path, entry, .. } => {
                    let stat = remembered(cursor.live(path.as_path())?, entry.stat);
                    manifest.files.insert(path.clone(), ManifestEntry { stat, ..entry.clone() });
                }
                Step::SetMode { path, entry, before } => {
                    let stat = remembered(cursor.live(path.as_path())?, before.stat);
                    manifest.files.insert(path.clone(), ManifestEntry { stat, ..entry.clone() });
                }
                Step::Record { path, entry, .. } => {
                    manifest.files.insert(path.clone(), entry.clone());
                }
                Step::Delete { path, .. } | Step::Forget { path, .. } => {
                    manifest.files.remove(path);
                }
                Step::MakeDirectory { path } => {
                    manifest.directories.insert(path.clone());
                }
                Step::RemoveDirectory { path } => {
                    manifest.directories.remove(path);
                }
            }
        }
        let mut head = journal.head.clone();
        head.files = manifest.files.len() as u64;
        let manifest = self.state.write_new("manifest", &seal(&manifest)?)?;
        let head = self.state.write_new("head", &serde_json::to_vec_pretty(&head)?)?;
        if !writes {
            manifest.sync_data()?;
            head.sync_data()?;
        }
        self.state.publish("manifest")?;
        self.state.publish("head")?;
        if writes {
            rustix::fs::syncfs(self.root.fd())?;
            let kept = format!("history/{}/journal", journal.transaction);
            match rustix::fs::renameat(self.state.fd(), "journal", self.state.fd(), &kept) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            crate::history::prune(self.state, self.retention)?;
        }
        Ok(())
    }

    /// Moves the head alone: another revision with the same content.
    fn save_head(&self, head: &Head) -> io::Result<()> {
        self.state.write_new("head", &serde_json::to_vec_pretty(head)?)?.sync_data()?;
        self.state.publish("head")
    }

    /// Throws away what a transaction staged. Failing to is no harm: recovery sweeps again.
    fn abandon(&self, transaction: u64) {
        let swept = self.sweep().and_then(|()| crate::history::discard(self.state, transaction));
        if let Err(error) = swept {
            tracing::warn!(%error, "cannot remove what an abandoned transaction staged");
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let stage = self.state.directory("stage")?;
        for name in crate::state::names(&stage)? {
            rustix::fs::unlinkat(&stage, name, rustix::fs::AtFlags::empty())?;
        }
        for name in ["journal.new", "manifest.new", "head.new"] {
            self.state.remove(name)?;
        }
        Ok(())
    }

    /// Carries out steps that were not planned from a source: a rollback.
    pub(crate) fn run(&self, journal: &Journal, manifest: Manifest) -> Result<(), ApplyError> {
        rustix::fs::syncfs(self.root.fd()).map_err(|e| ApplyError::io(RelPath::ROOT, e.into()))?;
        self.commit(journal).map_err(|e| ApplyError::io(RelPath::ROOT, e))?;
        self.perform(journal)?;
        self.finish(journal, manifest, true)
            .map_err(|source| ApplyError::Interrupted { path: RelPathBuf::default(), source })
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn remove_slot(stage: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(stage, slot.to_string(), rustix::fs::AtFlags::empty())?)
}

/// Puts steps into the order in which they are taken, with the directories they need and leave behind.
///
/// What stands in the way goes first; then directories; then files, listed last ones at the end of their directory;
/// then deletions, deepest first; then directories that are empty now.
fn arrange(steps: Vec<Step>, plan: &Plan, root: &Root, last: &[String]) -> Vec<Step> {
    let mut missing = BTreeSet::new();
    let mut known = BTreeSet::new();
    let mut blocked = BTreeSet::new();
    for step in &steps {
        let Step::Put { path, .. } = step else { continue };
        if matches!(root.cursor().live(path.as_path()), Ok(crate::root::Live::Directory)) {
            blocked.insert(path.as_str().to_owned());
        }
        for above in path.as_path().ancestors() {
            if !known.insert(above.to_buf()) {
                break;
            }
            if !matches!(root.cursor().live(above), Ok(crate::root::Live::Directory)) {
                missing.insert(above.to_buf());
            }
        }
    }
    let in_the_way = |path: RelPath<'_>| {
        missing.contains(path.as_str()) || path.ancestors().any(|above| blocked.contains(above.as_str()))
    };
    let (mut early, mut deletes, mut puts, mut rest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        match &step {
            Step::Delete { path, .. } if in_the_way(path.as_path()) => early.push(step),
            Step::Delete { .. } => deletes.push(step),
            Step::Put { .. } => puts.push(step),
            _ => rest.push(step),
        }
    }
    let is_last =
        |step: &Step| step.path().as_path().file_name().is_some_and(|n| last.iter().any(|l| l == n));
    puts.sort_by_cached_key(|step| {
        let parent = step.path().as_path().parent().map(RelPath::to_buf);
        (parent, is_last(step), step.path().clone())
    });
    // Path order is top down; the reverse visits what is deepest first.
    early.reverse();
    deletes.reverse();
    let mut kept: BTreeSet<RelPathBuf> = BTreeSet::new();
    let gone: BTreeSet<&RelPathBuf> = early.iter().chain(&deletes).map(Step::path).collect();
    let stays = plan.manifest.files.keys().filter(|p| !gone.contains(p)).chain(puts.iter().map(Step::path));
    for path in stays {
        for above in path.as_path().ancestors() {
            if !kept.insert(above.to_buf()) {
                break;
            }
        }
    }
    let ours = |path: &RelPathBuf| plan.manifest.directories.contains(path);
    let mut emptied: BTreeSet<RelPathBuf> = BTreeSet::new();
    let mut emptied_early: BTreeSet<RelPathBuf> = BTreeSet::new();
    for path in gone {
        let early = in_the_way(path.as_path());
        for above in path.as_path().ancestors().map(RelPath::to_buf) {
            let under_blocked = early
                && (blocked.contains(above.as_str())
                    || above.as_path().ancestors().any(|a| blocked.contains(a.as_str())));
            if under_blocked {
                emptied_early.insert(above);
            } else if ours(&above) && !kept.contains(&above) {
                emptied.insert(above);
            }
        }
    }
    let remove = |path: RelPathBuf| Step::RemoveDirectory { path };
    let mut ordered = early;
    ordered.extend(emptied_early.into_iter().rev().map(remove));
    ordered.extend(missing.into_iter().map(|path| Step::MakeDirectory { path }));
    ordered.extend(puts);
    ordered.extend(rest);
    ordered.extend(deletes);
    ordered.extend(emptied.into_iter().rev().map(remove));
    ordered
}
