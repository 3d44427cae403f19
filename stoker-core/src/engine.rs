//! The engine: a destination directory, opened, locked, planned and applied.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apply::{Applied, ApplyError, NoObserver, Observer, Transaction};
use crate::compare::{self, ExactBytes, Inputs, LiveRules, PlanOptions};
use crate::fault::{Category, Fault, Retry};
use crate::history::{self, HistoryError, Past, PastChange, PastContent, Retention, RollbackError};
use crate::journal::Abilities;
use crate::lock::StateLock;
use crate::path::{RelPath, RelPathBuf};
use crate::plan::{Plan, PlanError, Warning};
use crate::root::Root;
use crate::source::Source;
use crate::spec::SyncSpec;
use crate::state::{Head, StateDir};

/// Why a destination cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory cannot be opened.
    #[error("cannot open the data directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The engine's own directory inside cannot be used.
    #[error("cannot use {path}/.stoker")]
    State {
        /// The destination.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process works on the same directory, and waiting was not wanted.
    #[error("{path} is being synced by {holder}")]
    Locked {
        /// The destination.
        path: PathBuf,
        /// Who holds the lock, as far as can be told.
        holder: String,
    },
    /// Another process has worked on the same directory for longer than we wait.
    #[error(
        "{path} has been in use by {holder} for {} seconds; let it finish or end it ({path}/.stoker/lock is what it holds)",
        .waited.as_secs()
    )]
    Busy {
        /// The destination.
        path: PathBuf,
        /// Who holds the lock, as far as can be told.
        holder: String,
        /// How long we have waited.
        waited: Duration,
    },
    /// A transaction that a crash has left behind cannot be completed now.
    #[error("the interrupted transaction in {path} cannot be completed yet")]
    Recovery {
        /// The destination.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Fault for OpenError {
    fn category(&self) -> Category {
        match self {
            Self::Directory { .. } => Category::new("DataDirectoryUnavailable"),
            Self::State { source, .. } | Self::Recovery { source, .. }
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                Category::new("VolumeReadOnly")
            }
            Self::State { source, .. } | Self::Recovery { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Category::new("InsufficientSpace")
            }
            Self::State { .. } => Category::new("StateUnavailable"),
            Self::Locked { .. } => Category::new("Locked"),
            Self::Busy { .. } => Category::new("DataDirectoryBusy"),
            Self::Recovery { .. } => Category::new("RecoveryFailed"),
        }
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// Why a sync was not done; see [`Engine::sync`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The destination cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no valid plan, or a guard stops it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan was not carried out.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Fault for SyncError {
    fn category(&self) -> Category {
        match self {
            Self::Open(error) => error.category(),
            Self::Plan(error) => error.category(),
            Self::Apply(error) => error.category(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Open(error) => error.retry(),
            Self::Plan(error) => error.retry(),
            Self::Apply(error) => error.retry(),
        }
    }
}

/// A destination directory.
///
/// Opening writes nothing. [`Engine::preview`] only reads; [`Engine::begin`] takes the lock, completes what a crash
/// may have left behind, and allows changes.
pub struct Engine {
    root: Root,
    rules: Box<dyn LiveRules + Send + Sync>,
    retention: Retention,
    patience: Duration,
}

/// How long [`Engine::begin`] waits for whoever else works on the directory, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("root", &self.root.path()).field("retention", &self.retention).finish()
    }
}

impl Engine {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it does not exist or may not be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let root =
            Root::open(path).map_err(|source| OpenError::Directory { path: path.to_owned(), source })?;
        Ok(Self { root, rules: Box::new(ExactBytes), retention: Retention::default(), patience: PATIENCE })
    }

    /// Judges live files by `rules` instead of byte for byte.
    #[must_use]
    pub fn with_rules(mut self, rules: impl LiveRules + Send + Sync + 'static) -> Self {
        self.rules = Box::new(rules);
        self
    }

    /// Keeps this much history.
    #[must_use]
    pub const fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Waits this long for whoever else works on the directory, where [`Engine::begin`] is to wait. Without it: 60
    /// seconds.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// What is live, as far as this engine wrote it; `None` before the first sync.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn head(&self) -> Result<Option<Head>, OpenError> {
        let head = self.state()?.map_or(Ok(None), |state| state.head());
        head.map_err(|source| OpenError::State { path: self.root.path().to_owned(), source })
    }

    /// The files that this engine wrote and has not deleted.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn owned(&self) -> Result<Vec<RelPathBuf>, OpenError> {
        let manifest = self.state()?.map_or(Ok(None), |state| state.manifest());
        let manifest =
            manifest.map_err(|source| OpenError::State { path: self.root.path().to_owned(), source })?;
        Ok(manifest.unwrap_or_default().files.into_entries().into_iter().map(|(path, _)| path).collect())
    }

    /// The transactions that are kept, oldest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn history(&self) -> Result<Vec<Past>, OpenError> {
        let past = self.state()?.map_or(Ok(Vec::new()), |state| history::past(&state));
        past.map_err(|source| OpenError::State { path: self.root.path().to_owned(), source })
    }

    /// What the transactions after `after`, up to and including `to`, did to each file.
    ///
    /// # Errors
    /// When one of them is not kept any more, or cannot be read.
    pub fn past_changes(&self, after: u64, to: u64) -> Result<Vec<PastChange>, HistoryError> {
        let state =
            StateDir::open(&self.root).map_err(|source| HistoryError::Read { transaction: to, source })?;
        let state = state.ok_or_else(|| HistoryError::NotKept { wanted: to, kept: Vec::new() })?;
        history::changes(&state, after, to)
    }

    /// The bytes of a past content; `None` when they are gone, more than `limit`, or not those of a regular file.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn past_content(&self, content: &PastContent, limit: u64) -> io::Result<Option<Vec<u8>>> {
        StateDir::open(&self.root)?
            .map_or(Ok(None), |state| history::read(&self.root, &state, content, limit))
    }

    /// The bytes that are live at `path`; `None` when there is no regular file of at most `limit` bytes.
    ///
    /// Follows no symbolic link.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn live_content(&self, path: RelPath<'_>, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.root.bytes(path, limit)
    }

    /// Makes a plan without taking the lock. Nothing is written.
    ///
    /// The contents of everything that would be written are read and checked too, so that a preview without error is
    /// a sync without content errors.
    ///
    /// # Errors
    /// When the inputs do not make a valid plan.
    pub fn preview(
        &self,
        source: &dyn Source,
        revision: &str,
        spec: &SyncSpec,
        options: &PlanOptions,
    ) -> Result<Plan, PlanError> {
        let state = StateDir::open(&self.root)
            .map_err(|source| PlanError::Live { path: RelPathBuf::default(), source })?;
        let unreadable = |source| PlanError::Live { path: RelPathBuf::default(), source };
        let mut plan = self.plan(state.as_ref(), source, revision, spec, options)?;
        if state.map_or(Ok(false), |state| state.is_under_way()).map_err(unreadable)? {
            plan.warnings.push(Warning::UnderWay);
        }
        plan.check_contents(source, spec)?;
        Ok(plan)
    }

    /// Brings the directory to `revision` of `source`: [`Engine::begin`], [`Session::plan`] and [`Session::apply`] in
    /// one, with a look for what somebody else has changed.
    ///
    /// # Errors
    /// When a step fails. The directory then holds what it held before, unless [`ApplyError`] says otherwise.
    pub fn sync(&self, source: &dyn Source, revision: &str, spec: &SyncSpec) -> Result<Applied, SyncError> {
        let session = self.begin(true)?;
        let options = PlanOptions { check_drift: true, approved: None };
        let plan = session.plan(source, revision, spec, &options)?;
        Ok(session.apply(plan, source, spec, &mut NoObserver)?)
    }

    /// Takes the lock and completes an interrupted transaction.
    ///
    /// With `wait`, waits while another process holds the lock, for as long as [`Engine::with_patience`] says.
    ///
    /// # Errors
    /// When the lock is held, or the engine's own directory cannot be used.
    pub fn begin(&self, wait: bool) -> Result<Session<'_>, OpenError> {
        let path = || self.root.path().to_owned();
        let state_error = |source| OpenError::State { path: path(), source };
        let state = StateDir::open_or_make(&self.root).map_err(state_error)?;
        let patience = if wait { self.patience } else { Duration::ZERO };
        let lock = StateLock::take(&state, patience).map_err(state_error)?.map_err(|holder| {
            let path = path();
            if wait {
                OpenError::Busy { path, holder, waited: patience }
            } else {
                OpenError::Locked { path, holder }
            }
        })?;
        let transaction = Transaction { root: &self.root, state: &state, retention: self.retention };
        let recovered =
            transaction.recover().map_err(|source| OpenError::Recovery { path: path(), source })?;
        Ok(Session { engine: self, state, _lock: lock, recovered })
    }

    fn state(&self) -> Result<Option<StateDir>, OpenError> {
        StateDir::open(&self.root)
            .map_err(|source| OpenError::State { path: self.root.path().to_owned(), source })
    }

    fn plan(
        &self,
        state: Option<&StateDir>,
        source: &dyn Source,
        revision: &str,
        spec: &SyncSpec,
        options: &PlanOptions,
    ) -> Result<Plan, PlanError> {
        compare::plan(&Inputs {
            root: &self.root,
            state,
            source,
            revision,
            spec,
            rules: self.rules.as_ref(),
            options,
        })
    }
}

/// The destination, locked. Nobody else plans or applies until it is dropped.
#[derive(Debug)]
pub struct Session<'e> {
    engine: &'e Engine,
    state: StateDir,
    _lock: StateLock,
    recovered: Option<u64>,
}

impl Session<'_> {
    /// The interrupted transaction that was completed when the session began.
    #[must_use]
    pub const fn recovered(&self) -> Option<u64> {
        self.recovered
    }

    /// What the destination's file system can do, found out by trying.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn abilities(&self) -> Result<Abilities, OpenError> {
        let probe = || Abilities::probe(self.state.directory("stage")?.as_fd());
        probe().map_err(|source| OpenError::State { path: self.engine.root.path().to_owned(), source })
    }

    /// Makes a plan. Nothing is written.
    ///
    /// # Errors
    /// When the inputs do not make a valid plan, or a guard stops it.
    pub fn plan(
        &self,
        source: &dyn Source,
        revision: &str,
        spec: &SyncSpec,
        options: &PlanOptions,
    ) -> Result<Plan, PlanError> {
        self.engine.plan(Some(&self.state), source, revision, spec, options)
    }

    /// Carries out a plan, wholly or not at all.
    ///
    /// # Errors
    /// When a content cannot go live or a write fails; see [`ApplyError`] for what holds then.
    pub fn apply(
        &self,
        plan: Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        observer: &mut dyn Observer,
    ) -> Result<Applied, ApplyError> {
        self.transaction().apply(plan, source, spec, observer)
    }

    /// Goes back to before `transaction`, or before the newest one, as a transaction of its own. Returns its record.
    ///
    /// Every path that one of the undone transactions touched becomes what it was before the oldest of those: its
    /// content, its mode, and what the engine knows of it. What somebody else has written there since is kept in the
    /// history; all other paths stay as they are.
    ///
    /// # Errors
    /// When a transaction on the way is not kept any more, something of somebody else is in the way, or a write fails.
    /// Nothing has changed then.
    pub fn rollback(&self, transaction: Option<u64>) -> Result<Past, RollbackError> {
        let transaction = self.transaction().rollback(transaction)?;
        let past =
            history::past(&self.state).map_err(|source| RollbackError::Read { transaction, source })?;
        past.into_iter().find(|p| p.transaction == transaction).ok_or(RollbackError::Nothing)
    }

    #[cfg(feature = "archive")]
    pub(crate) const fn engine(&self) -> &Engine {
        self.engine
    }

    #[cfg(feature = "archive")]
    pub(crate) const fn root(&self) -> &Root {
        &self.engine.root
    }

    fn transaction(&self) -> Transaction<'_> {
        Transaction { root: &self.engine.root, state: &self.state, retention: self.engine.retention }
    }
}
