//! What a sync would do, with the contents at hand.

use std::cell::RefCell;
use std::io;

use stoker_core::{
    Action, ContentError, Engine, Found, Plan, PlanError, PlanOptions, RelPathBuf, Rendered, Source,
    SyncError, SyncSpec, render,
};
use tokio::runtime::Handle;

use super::{GatewaySync, IgnitionRules, Job, Outcome, Role, SyncReport, ended, touched};

/// What a sync would do. Nothing has been written.
pub struct Preview {
    /// What `stoker sync --dry-run` reports; [`Outcome::Held`] when a guard would stop the sync.
    pub report: SyncReport,
    /// The plan, that of the guarded deletions included.
    pub plan: Plan,
    engine: Engine,
    spec: SyncSpec,
    source: Box<dyn Source + Send>,
}

impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Preview {
    /// Whether something is at an action's path now.
    #[must_use]
    pub fn has_before(&self, action: &Action) -> bool {
        action.found() != Found::Absent
    }

    /// What is at an action's path now; `None` when it is no regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn before(&self, action: &Action, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.engine.live_content(action.path.as_path(), limit)
    }

    /// What an action writes; `None` when it writes no content.
    ///
    /// # Errors
    /// When the content cannot be made.
    pub fn after(&self, action: &Action) -> Result<Option<Vec<u8>>, ContentError> {
        self.plan.written(action, self.source.as_ref(), &self.spec)
    }
}

impl GatewaySync {
    /// What a sync would do. A guard that would stop it is in the report, beside the whole plan.
    ///
    /// # Errors
    /// The report of a sync that cannot be done at all.
    pub async fn preview(&self, job: Job) -> Result<Preview, Box<SyncReport>> {
        self.looking(job, Self::preview_blocking).await
    }

    /// The file that a sync would write to `path`; `None` when no mapping brings one.
    ///
    /// # Errors
    /// The report of a sync that cannot be done at all.
    pub async fn render(&self, job: Job, path: RelPathBuf) -> Result<Option<Rendered>, Box<SyncReport>> {
        self.looking(job, move |this, job, _, _| {
            let (known, configured) = this.roles();
            let spec = this.spec(&job, known.or(configured).unwrap_or(Role::Owner));
            Ok(render(job.source.as_ref(), &spec, path.as_path())?)
        })
        .await
    }

    /// Runs something that only reads, on a thread that may wait.
    async fn looking<T: Send + 'static>(
        &self,
        job: Job,
        look: impl FnOnce(&Self, Job, &Handle, &mut SyncReport) -> Result<T, SyncError> + Send + 'static,
    ) -> Result<T, Box<SyncReport>> {
        let (job, none) = job.here();
        let mut report = SyncReport::new(&job.facts.commit, &job.facts.git_ref);
        report.warnings.extend(none);
        let (this, handle) = (self.clone(), Handle::current());
        let work = tokio::task::spawn_blocking(move || {
            look(&this, job, &handle, &mut report).map_err(|error| Box::new(ended(report, &error)))
        });
        match work.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn preview_blocking(
        &self,
        job: Job,
        handle: &Handle,
        report: &mut SyncReport,
    ) -> Result<Preview, SyncError> {
        let engine = Engine::open(&self.data_dir)?.with_rules(IgnitionRules);
        let commit = job.facts.commit.as_str();
        let guarded = RefCell::new(None);
        let made = self.plan(&job, handle, report, |spec, options| {
            let plan = |options| engine.preview(job.source.as_ref(), commit, spec, options);
            let made = plan(options);
            let Err(PlanError::MassDeletion { digest, .. }) = &made else { return made };
            let approved = PlanOptions { approved: Some(digest.clone()), ..options.clone() };
            guarded.replace(made.err());
            plan(&approved)
        })?;
        report.take(&made.plan);
        report.projects = touched(&made.plan).projects.into_iter().collect();
        report.outcome = Outcome::DryRun;
        let report = match guarded.into_inner() {
            Some(guard) => ended(report.clone(), &SyncError::Plan(guard)),
            None => report.clone(),
        };
        Ok(Preview { report, plan: made.plan, engine, spec: made.spec, source: job.source })
    }
}
