//! One gateway, one commit: files into the data directory, then the gateway's own word that it loaded them.
//!
//! Knows nothing of Kubernetes: the agent in a pod and `stoker sync` on a bare machine run the same code.
//!
//! ```text
//! commit's tree ─▶ plan ─▶ designers? ─▶ stage ─▶ scan lock ─▶ rename ─▶ scan ─▶ verify
//!                  │          │                      │                    │
//!                  │          └ Held                 └ pending record     └ Confirmed: record removed
//!                  └ InSync, Held by a guard, Failed
//! ```
//!
//! Files and confirmation are two steps on purpose. A gateway that is down, starting or not commissioned gets its
//! files all the same; what it has to load is written down beside them, and confirmed whenever it answers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stoker_core::{
    ActionKind, Applied, ApplyError, Changes, Engine, Observer, OpenError, Past, Plan, PlanError,
    PlanOptions, RelPathBuf, RollbackError, Source, SyncError, SyncSpec,
};
use stoker_ignition::client::GatewayClient;
use stoker_ignition::confirm::{BlockingLock, LockOptions, LockOutcome};
use stoker_ignition::rules::{Gate, Touched, tag_tree_patterns};
use tokio::runtime::Handle;

use crate::compile::{CompiledProfile, GatewayFacts, variables};
use record::Record;

mod confirm;
mod designers;
mod mapped;
mod preview;
mod providers;
mod record;
mod report;
mod role;
mod spec;

pub use confirm::{Confirmation, Standing};
pub use preview::Preview;
pub use report::{Change, Durations, Failure, Outcome, Scan, SyncReport};
pub use role::Role;
pub use spec::{IgnitionRules, Surroundings, engine_spec};

/// The data directory of a gateway, and the gateway.
#[derive(Debug, Clone)]
pub struct GatewaySync {
    data_dir: PathBuf,
    client: Option<GatewayClient>,
}

/// What is to go live.
pub struct Job {
    /// The tree of the commit.
    pub source: Box<dyn Source + Send>,
    /// What it is made into files with.
    pub profile: CompiledProfile,
    /// What templates can name; ref and commit among them.
    pub facts: GatewayFacts,
    /// Look for drift even when neither the tree nor the profile changed.
    pub check_drift: bool,
    /// Ask the gateway for its role even when nothing is to do.
    pub ask_gateway: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Who has approved that this commit deletes more than the guard allows; empty when that is not known.
    pub approved_by: Option<String>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("facts", &self.facts)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// Why a data directory did not go back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoBackError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no way back, or it failed.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
}

impl Job {
    /// With the mappings that are for this gateway, and a warning when none is.
    fn here(mut self) -> (Self, Option<String>) {
        let all = self.profile.mappings.len();
        self.profile = self.profile.on(&self.facts.labels);
        let none = (all > 0 && self.profile.mappings.is_empty()).then(|| {
            format!("none of the {all} mappings is for a gateway with these labels (when.podLabels): nothing is wanted here")
        });
        (self, none)
    }
}

/// The error for people. How to let the guard pass depends on where this runs: the caller says it.
fn words(error: &SyncError) -> String {
    match error {
        SyncError::Plan(PlanError::MassDeletion { deletes, foreign: 0, owned, guard, .. }) => format!(
            "this sync deletes {deletes} of the {owned} files that Stoker wrote here, and at most {} files or {} \
             percent are deleted at once",
            guard.count, guard.percent
        ),
        SyncError::Plan(PlanError::MassDeletion { deletes, foreign, owned, guard, .. }) => format!(
            "this sync deletes {} of the {} files that Stoker wrote here and, by prune: Mirror, {foreign} files that \
             Stoker did not write, and at most {} files or {} percent are deleted at once",
            deletes - foreign,
            owned - foreign,
            guard.count,
            guard.percent
        ),
        other => stoker_core::chain(other),
    }
}

/// The report of a sync that ends with an error.
fn ended(report: SyncReport, error: &SyncError) -> SyncReport {
    let path = match error {
        SyncError::Plan(error) => error.path(),
        SyncError::Apply(ApplyError::Content(error)) => error.path(),
        _ => None,
    };
    let held = matches!(error, SyncError::Plan(e) if e.is_held());
    let outcome = if held { Outcome::Held } else { Outcome::Failed };
    report.ended(outcome, Failure { message: words(error), ..Failure::of(error) }.at(path))
}

impl GatewaySync {
    /// Takes a data directory, and the gateway that runs on it if there is one to talk to.
    #[must_use]
    pub const fn new(data_dir: PathBuf, client: Option<GatewayClient>) -> Self {
        Self { data_dir, client }
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The commit that is live in the data directory; `None` before the first sync or when it cannot be read.
    #[must_use]
    pub fn live_commit(&self) -> Option<String> {
        Engine::open(&self.data_dir).ok()?.head().ok()?.map(|head| head.revision)
    }

    /// Brings the files to the job's commit. The report says how; the gateway is not asked to load anything yet.
    pub async fn files(&self, job: Job) -> SyncReport {
        let this = self.clone();
        let (job, none) = job.here();
        let (commit, git_ref) = (job.facts.commit.clone(), job.facts.git_ref.clone());
        let handle = Handle::current();
        let work = tokio::task::spawn_blocking(move || this.files_blocking(&job, &handle));
        let mut report = work.await.unwrap_or_else(|panic| {
            let message = format!("the sync ended unexpectedly: {panic}");
            let failure = Failure { category: "InternalError".to_owned(), message, path: None };
            SyncReport::new(&commit, &git_ref).ended(Outcome::Failed, failure)
        });
        report.warnings.extend(none);
        report
    }

    fn files_blocking(&self, job: &Job, handle: &Handle) -> SyncReport {
        let began = Instant::now();
        let mut report = SyncReport::new(&job.facts.commit, &job.facts.git_ref);
        let result = self.run(job, handle, &mut report);
        report.duration_ms.total = millis(began.elapsed());
        match result {
            Ok(()) => report,
            Err(error) => ended(report, &error),
        }
    }

    fn run(&self, job: &Job, handle: &Handle, report: &mut SyncReport) -> Result<(), SyncError> {
        let engine = Engine::open(&self.data_dir)?.with_rules(IgnitionRules);
        let (source, commit) = (job.source.as_ref(), job.facts.commit.as_str());
        let began = Instant::now();
        if job.dry_run {
            let made =
                self.plan(job, handle, report, |spec, options| engine.preview(source, commit, spec, options));
            report.duration_ms.plan = millis(began.elapsed());
            let made = made?;
            report.take(&made.plan);
            report.projects = touched(&made.plan).projects.into_iter().collect();
            report.outcome = Outcome::DryRun;
            return Ok(());
        }
        let session = engine.begin(true)?;
        if let Some(transaction) = session.recovered() {
            report.warnings.push(format!("completed transaction {transaction}, which was interrupted"));
        }
        let made =
            self.plan(job, handle, report, |spec, options| session.plan(source, commit, spec, options));
        report.duration_ms.plan = millis(began.elapsed());
        let made = made?;
        report.take(&made.plan);
        report.projects = touched(&made.plan).projects.into_iter().collect();
        if made.role == Role::Backup {
            report.warnings.push(role::BACKUP_NOTE.to_owned());
        }
        if !made.plan.is_empty()
            && let Some(hold) = self.designers(job, &made, handle, report)
        {
            report.outcome = Outcome::Held;
            report.error = Some(hold);
            return Ok(());
        }
        let began = Instant::now();
        let mut observer = Transition { sync: self, handle };
        let (moved, role) = (made.has_moved(), (made.role, made.said));
        let applied = session.apply(made.plan, source, &made.spec, &mut observer);
        report.duration_ms.apply = millis(began.elapsed());
        let Applied { transaction, counts, changed, .. } = applied?;
        report.files = counts;
        // What came out as it was is not written.
        let changed: BTreeSet<&str> = changed.iter().map(RelPathBuf::as_str).collect();
        report.changes.retain(|change| !change.writes || changed.contains(change.path.as_str()));
        report.outcome = if transaction.is_some() { Outcome::Applied } else { Outcome::InSync };
        self.note(&engine, role, moved)
    }

    /// Goes back to before `transaction`, or before the newest one; see [`stoker_core::Session::rollback`]. What the
    /// gateway has to load then is written down: the next sync asks for it.
    ///
    /// # Errors
    /// When the transaction is not kept any more, or a write fails.
    pub fn rollback(&self, transaction: Option<u64>) -> Result<Past, GoBackError> {
        let engine = Engine::open(&self.data_dir)?;
        let session = engine.begin(false)?;
        let past = engine.history()?;
        let target = transaction.or_else(|| past.last().map(|newest| newest.transaction));
        let mut touched = Touched::default();
        for past in past.iter().filter(|past| target.is_some_and(|target| past.transaction >= target)) {
            // Whether it comes back or goes is known afterwards: until then nobody expects it to be there.
            past.changes.iter().for_each(|(path, _)| touched.deleted(path.as_path()));
        }
        let keep = |touched| {
            let keep = || -> std::io::Result<()> {
                let mut record = Record::load(&self.data_dir)?;
                record.add(touched);
                record.save(&self.data_dir)
            };
            keep().map_err(|source| OpenError::State { path: self.data_dir.clone(), source })
        };
        // Written down first: a record without a rollback costs one needless scan, the reverse would lose one.
        keep(touched)?;
        let done = session.rollback(transaction)?;
        keep(of_changes(done.changes.iter().map(|(path, kind)| (path, *kind))))?;
        Ok(done)
    }

    /// Writes down what is known of the gateway now, and what it is still to be asked.
    fn note(&self, engine: &Engine, (role, said): (Role, bool), moved: bool) -> Result<(), SyncError> {
        if self.client.is_none() {
            return Ok(());
        }
        let failed = |source| OpenError::State { path: self.data_dir.clone(), source };
        let before = Record::load(&self.data_dir).map_err(failed)?;
        let mut record = before.clone();
        if said {
            record.role = Some(role);
        }
        if record.is_blank() {
            // Files that were all there already as wanted are as unconfirmed as any that were written.
            record.add(Touched::of_written(engine.owned()?.iter().map(RelPathBuf::as_path)));
        }
        if role == Role::Backup && moved {
            // Whether it has taken over what its master has is to be asked, whatever changed in `external`.
            record.add(Touched::default());
        }
        if record != before {
            record.save(&self.data_dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Why open designers hold the sync, if they do.
    fn designers(&self, job: &Job, made: &Made, handle: &Handle, report: &mut SyncReport) -> Option<Failure> {
        let client = self.client.as_ref()?;
        let touched = touched(&made.plan);
        if touched.projects.is_empty() {
            return None;
        }
        let variables = variables(&job.profile, &job.facts);
        let placed = mapped::placed(&job.profile.mappings, &variables);
        let parents = designers::parents(&made.plan, job.source.as_ref(), &placed, &variables);
        let editing = handle.block_on(designers::editing(client));
        report.designers = editing.live.as_ref().map(Vec::len);
        match designers::judge(job.profile.designer_session_policy, &touched, editing, &parents) {
            Gate::Proceed => None,
            Gate::Warn(blockers) => {
                report.warnings.push(blockers.to_string());
                None
            }
            Gate::Hold(blockers) => Some(Failure {
                category: "DesignerOpen".to_owned(),
                message: blockers.to_string(),
                path: None,
            }),
        }
    }

    /// Makes the plan for what this gateway is: alone, a master or a backup.
    ///
    /// That is asked only when there is something to do; what is idle asks nothing.
    fn plan(
        &self,
        job: &Job,
        handle: &Handle,
        report: &mut SyncReport,
        plan: impl Fn(&SyncSpec, &PlanOptions) -> Result<Plan, PlanError>,
    ) -> Result<Made, SyncError> {
        let (known, configured) = self.roles();
        let assumed = known.or(configured).unwrap_or(Role::Owner);
        let mut made = |role| {
            let spec = self.spec(job, role);
            let plan = planned(job, report, |options| plan(&spec, options));
            plan.map(|plan| Made { plan, spec, role, said: false })
        };
        let first = made(assumed);
        let idle = first.as_ref().is_ok_and(|made| made.plan.is_empty() && !made.has_moved());
        if idle && !job.ask_gateway {
            return Ok(first?);
        }
        let said = self.client.as_ref().and_then(|client| handle.block_on(role::ask(client)));
        // While it is down its settings are newer than its last word: they may have been written for this start.
        let role = said.or(configured).or(known).unwrap_or(Role::Owner);
        let made = if role == assumed { first? } else { made(role)? };
        Ok(Made { said: said.is_some(), ..made })
    }

    /// The role that the gateway last said it has, and the one that it is configured for.
    fn roles(&self) -> (Option<Role>, Option<Role>) {
        let known = Record::load(&self.data_dir).ok().and_then(|record| record.role);
        (known, Role::configured(&self.data_dir))
    }

    fn spec(&self, job: &Job, role: Role) -> SyncSpec {
        let surroundings = Surroundings { tag_trees: self.tag_trees(job), backup: role == Role::Backup };
        engine_spec(&job.profile, &job.facts, surroundings)
    }

    /// Patterns for the tags that this gateway makes at run time.
    fn tag_trees(&self, job: &Job) -> Vec<String> {
        let variables = variables(&job.profile, &job.facts);
        let placed = mapped::placed(&job.profile.mappings, &variables);
        let found = providers::providers(&self.data_dir, job.source.as_ref(), &placed);
        tag_tree_patterns(found.iter().map(|(name, config)| (name.as_str(), Some(config.as_slice()))))
    }
}

/// A plan, and what it was made from.
struct Made {
    plan: Plan,
    spec: SyncSpec,
    role: Role,
    /// The gateway itself has said which role it has.
    said: bool,
}

impl Made {
    /// Whether another commit is live.
    fn has_moved(&self) -> bool {
        self.plan.from.as_deref() != Some(self.plan.to.as_str())
    }
}

/// Makes a plan; one with more deletions than the guard allows only if a person has approved them.
fn planned(
    job: &Job,
    report: &mut SyncReport,
    plan: impl Fn(&PlanOptions) -> Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let options = PlanOptions { check_drift: job.check_drift, approved: None };
    match (plan(&options), &job.approved_by) {
        (Err(PlanError::MassDeletion { deletes, digest, .. }), Some(by)) => {
            let by = if by.is_empty() { "somebody" } else { by.as_str() };
            let warning = format!("{by} has approved that this commit deletes {deletes} files");
            report.warnings.retain(|known| *known != warning);
            report.warnings.push(warning);
            plan(&PlanOptions { approved: Some(digest), ..options })
        }
        (plan, _) => plan,
    }
}

/// What a plan would touch.
fn touched(plan: &Plan) -> Touched {
    of_changes(plan.actions.iter().filter(|a| a.kind.writes()).map(|a| (&a.path, a.kind)))
}

fn of_changes<'a>(changes: impl Iterator<Item = (&'a RelPathBuf, ActionKind)>) -> Touched {
    let mut touched = Touched::default();
    for (path, kind) in changes {
        match kind {
            ActionKind::Delete => touched.deleted(path.as_path()),
            _ => touched.written(path.as_path()),
        }
    }
    touched
}

/// The moment at which files go live: the gateway's scan lock is taken, and what it has to load is written down.
struct Transition<'a> {
    sync: &'a GatewaySync,
    handle: &'a Handle,
}

/// Somebody else changes the gateway's files right now.
#[derive(Debug, thiserror::Error)]
#[error("somebody else holds the gateway's scan lock")]
struct LockBusy;

impl Observer for Transition<'_> {
    fn before_commit(
        &mut self,
        changes: &Changes<'_>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut touched = Touched::default();
        changes.written().for_each(|path| touched.written(path));
        changes.deleted().for_each(|path| touched.deleted(path));
        let need = touched.need();
        // Written down first: a record without a transaction costs one needless scan, the reverse would lose one.
        let mut record = Record::load(&self.sync.data_dir)?;
        record.add(touched);
        record.save(&self.sync.data_dir)?;
        if let Some(client) = &self.sync.client {
            let lock = BlockingLock::new(client.clone(), self.handle.clone(), LockOptions::default());
            match lock.lock(need) {
                LockOutcome::Busy(_) => return Err(Box::new(LockBusy)),
                // The scan that follows releases it; should there be none, it ends by itself.
                LockOutcome::Held(_) => {}
                LockOutcome::Without(why) => tracing::debug!(?why, "no scan lock"),
            }
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
