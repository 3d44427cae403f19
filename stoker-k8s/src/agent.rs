//! The agent beside a gateway: follows the metadata of its `Stoker`, brings the files there, has the gateway load
//! them, and says what is true.
//!
//! ```text
//! ConfigMap stoker-metadata-<cr> ──▶ watch ─┐
//! pod's annotations and labels ───▶ podinfo ┼▶ target (pure) ─▶ fetch ─▶ gateway_sync ─▶ report ─▶ stoker-status-…
//! clock (drift, retries) ───────────────────┘                                  │
//!                                                     start (pure) ◀───────────┘──▶ /startupz
//! ```
//!
//! One task decides and acts, so nothing overlaps: whatever arrives meanwhile is seen at the next turn, and only the
//! newest of it counts. A target that changes while a fetch runs ends that fetch.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use stoker_core::Source;
use tokio::sync::watch;

use crate::annotations::{APPROVED_BY, APPROVED_COMMIT};
use crate::api::OnTimeout;
use crate::gateway_sync::{Confirmation, Failure, GatewaySync, Job, Outcome, SyncReport};
use crate::inject::podinfo;

mod backoff;
pub mod connect;
pub mod health;
pub mod measure;
pub mod report;
pub mod start;
mod status;
pub mod target;
pub mod watch_metadata;

use backoff::Backoff;
use measure::Counted;
use report::Saying;
use start::{Start, StartFacts, may_start};
use status::{Look, Story};
use target::{PodInfo, Run, Target, target};
use watch_metadata::Known;

/// How often the projected annotations are looked at. Reading two small files asks nothing of the API server.
const PODINFO_PERIOD: Duration = Duration::from_secs(5);
/// The first and longest pause between two attempts at a sync.
const SYNC_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The same while a gateway is starting or does not know the key yet.
const CONFIRM_BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How often open designers are asked for while they hold a sync.
const DESIGNER_PERIOD: Duration = Duration::from_secs(5);

/// A commit that can be read.
pub struct Tree {
    /// Its files.
    pub source: Box<dyn Source + Send>,
    /// Where it came from.
    pub how: Obtained,
}

/// Where a commit came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obtained {
    /// The git server; nothing of the repository was here, or it was of no use.
    Cloned,
    /// The git server, on top of what was here.
    Fetched,
    /// It was here already.
    Present,
}

/// A commit, or why there is none.
pub type Fetched = Result<Tree, Failure>;

/// Where commits come from.
pub trait Fetch: Send + Sync {
    /// Makes exactly this commit readable. Dropping the future ends the work.
    fn fetch<'a>(
        &'a self,
        known: &'a Known,
        commit: &'a str,
    ) -> Pin<Box<dyn Future<Output = Fetched> + Send + 'a>>;
}

/// Where the gateway is; it may move with the metadata.
pub trait Locate: Send + Sync {
    /// The data directory and the gateway that the metadata describes.
    ///
    /// # Errors
    /// When the connection cannot be set up.
    fn locate(&self, known: &Known) -> Result<GatewaySync, Failure>;
}

/// Who the agent is, and what is fixed when its pod is created.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the pod.
    pub pod: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the `Stoker`.
    pub cr: String,
    /// The file with the pod's annotations.
    pub annotations: PathBuf,
    /// The file with the pod's labels.
    pub labels: PathBuf,
    /// The longest wait for the first configuration.
    pub startup_timeout: Duration,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

/// Everything that the loop talks to.
pub struct Agent {
    /// Who it is.
    pub identity: Identity,
    /// Where commits come from.
    pub fetch: Box<dyn Fetch>,
    /// Where the gateway is.
    pub locate: Box<dyn Locate>,
    /// What it is told.
    pub known: watch::Receiver<Known>,
    /// What it says.
    pub said: watch::Sender<Saying>,
    /// Whether the gateway may start.
    pub start: watch::Sender<Start>,
    /// Its sign of life.
    pub pulse: health::Pulse,
    /// The pod as it was last seen; starts with its identity alone.
    pub pod: Mutex<PodInfo>,
}

/// What the loop remembers between two turns.
struct State {
    began: Instant,
    /// The target that the files are at, and the trigger that was answered.
    done: Option<(Run, String)>,
    /// The target of the last failure: another one is tried at once.
    failed: Option<Run>,
    /// Files are right since this agent started.
    applied: bool,
    /// The last thing that was tried went wrong.
    failing: bool,
    held: bool,
    sync: Backoff,
    confirm: Backoff,
    drift_due: Instant,
    /// Since when designers hold the sync.
    designers_since: Option<Instant>,
    counted: Counted,
}

impl Agent {
    /// Runs until `shutdown` resolves. A transaction that has begun is finished or abandoned as a whole.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let now = Instant::now();
        let mut state = State {
            began: now,
            done: None,
            failed: None,
            applied: false,
            failing: false,
            held: false,
            sync: Backoff::new(SYNC_BACKOFF),
            confirm: Backoff::new(CONFIRM_BACKOFF),
            drift_due: now,
            designers_since: None,
            counted: Counted::default(),
        };
        let synced_before = self.locate.locate(&Known::default()).is_ok_and(|g| g.live_commit().is_some());
        let mut story = Story::new();
        loop {
            self.pulse.beat();
            let known = self.known.borrow_and_update().clone();
            let pod = self.pod();
            let target = target(known.metadata.as_ref(), &pod);
            // A stop request does not wait for a slow fetch; a transaction is quick and ends by itself.
            let next = tokio::select! {
                biased;
                next = self.turn(&known, target, &mut state, &mut story) => next,
                () = &mut shutdown => break,
            };
            state.failing |= known.trouble.is_some() && known.metadata.is_none();
            let decision = may_start(&StartFacts {
                applied: state.applied,
                synced_before,
                failing: state.failing,
                held: state.held,
                elapsed: state.began.elapsed(),
                timeout: self.identity.startup_timeout,
                on_timeout: self.identity.on_timeout,
            });
            self.start.send_if_modified(|now| {
                // Once started, a gateway is not stopped again.
                let changed = *now != decision && matches!(now, Start::Wait(_));
                if changed {
                    tracing::info!(?decision, "may the gateway start?");
                    *now = decision;
                }
                changed
            });
            let wait = next.saturating_duration_since(Instant::now()).min(PODINFO_PERIOD);
            tokio::select! {
                () = &mut shutdown => break,
                changed = self.known.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wait) => {}
            }
        }
        tracing::info!("stopping");
    }

    /// The pod as it describes itself now; a file that cannot be read leaves what was known.
    fn pod(&self) -> PodInfo {
        let mut pod = self.pod.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let identity = &self.identity;
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
            podinfo::parse(&text).map_err(|e| e.to_string())
        };
        match (read(&identity.annotations), read(&identity.labels)) {
            (Ok(annotations), Ok(labels)) => (pod.annotations, pod.labels) = (annotations, labels),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "cannot read the pod's annotations and labels")
            }
        }
        pod.clone()
    }

    /// One turn: does what is due and says when to look again.
    async fn turn(&self, known: &Known, target: Target, state: &mut State, story: &mut Story) -> Instant {
        let later = Instant::now() + Duration::from_secs(3600);
        state.held = matches!(target, Target::Held { .. } | Target::Invalid { .. });
        let run = match target {
            Target::Wait(why) => {
                let why = known.trouble.clone().unwrap_or_else(|| why.to_owned());
                self.say(story.waiting(&why));
                return later;
            }
            Target::Held { reason, message } => {
                self.say(story.held(&reason, &message, commit_of(known)));
                return later;
            }
            Target::Queued { reason, message } => {
                // A gateway that was synced before does not wait for others to start; one that never was does, as for a
                // fetch that takes long.
                state.failing = true;
                self.say(story.held(&reason, &message, commit_of(known)));
                return later;
            }
            Target::Invalid { category, message } => {
                self.say(story.failed(&Failure { category, message, path: None }, commit_of(known)));
                return later;
            }
            Target::Run(run) => *run,
        };
        let trigger = known.metadata.as_ref().map(|m| m.trigger.clone()).unwrap_or_default();
        let now = Instant::now();
        let (mut due, mut check_drift) = (true, true);
        if let Some((done, answered)) = &state.done {
            let asked = *answered != trigger;
            let drift = now >= state.drift_due;
            // A new commit alone is compared by tree ids; looking at every file is for the clock and for people.
            check_drift = asked || drift;
            due = *done != run || check_drift;
        }
        if state.failed.as_ref().is_some_and(|failed| *failed != run) {
            state.sync.reset();
        }
        if due && state.sync.is_due(Instant::now()) {
            self.files(known, &run, &trigger, check_drift, state, story).await;
        }
        let files_right = state.done.as_ref().is_some_and(|(done, _)| *done == run);
        if files_right && !run.profile.dry_run && state.confirm.is_due(Instant::now()) {
            self.confirm(known, &run, state, story).await;
        }
        let mut next = state.drift_due;
        if !files_right {
            next = state.sync.due();
        }
        if story.is_unconfirmed() {
            next = next.min(state.confirm.due());
        }
        next
    }

    async fn files(
        &self,
        known: &Known,
        run: &Run,
        trigger: &str,
        check_drift: bool,
        state: &mut State,
        story: &mut Story,
    ) {
        let began = Instant::now();
        let asked = state.done.as_ref().is_none_or(|(_, answered)| answered != trigger);
        if state.done.as_ref().is_none_or(|(done, _)| done.commit != run.commit) {
            self.say(story.syncing(run));
        }
        let gateway = match self.locate.locate(known) {
            Ok(gateway) => gateway,
            Err(failure) => return self.failed(failure, run, state, story),
        };
        let source = tokio::select! {
            source = self.fetch.fetch(known, &run.commit) => source,
            // Another target, or a pause: this commit is not wanted any more.
            () = self.superseded(run) => return,
        };
        let fetched = began.elapsed();
        let tree = match source {
            Ok(tree) => tree,
            Err(failure) => return self.failed(failure, run, state, story),
        };
        Counted::obtained(tree.how, fetched);
        let job = Job {
            source: tree.source,
            profile: run.profile.clone(),
            facts: run.facts.clone(),
            check_drift,
            ask_gateway: asked,
            dry_run: run.profile.dry_run,
            approved_by: run.approved_by.clone(),
        };
        let mut report = gateway.files(job).await;
        report.duration_ms.fetch = u64::try_from(fetched.as_millis()).unwrap_or(u64::MAX);
        report.warnings.extend(run.warnings.iter().cloned());
        Counted::designers(&report);
        match report.outcome {
            Outcome::Failed | Outcome::Held => self.stopped(report, run, state, story),
            _ => {
                (state.applied, state.failing) = (true, false);
                (state.failed, state.designers_since) = (None, None);
                state.sync.reset();
                state.confirm.reset();
                state.drift_due = Instant::now()
                    + Duration::from_secs(u64::from(run.profile.sync_period)).max(Duration::from_secs(5));
                state.done = Some((run.clone(), trigger.to_owned()));
                let standing = gateway.standing();
                let look = Look { report: &report, run, trigger, standing, asked, began };
                let moved = story.files_at() != Some(&run.commit);
                let saying = story.files(&look);
                if !run.profile.dry_run {
                    state.counted.files(&report, moved, story.is_unconfirmed());
                }
                self.say(saying);
            }
        }
    }

    fn stopped(&self, report: SyncReport, run: &Run, state: &mut State, story: &mut Story) {
        let mut failure = report.error.clone().unwrap_or(Failure {
            category: "InternalError".to_owned(),
            message: "the sync ended without a reason".to_owned(),
            path: None,
        });
        if failure.category == "DesignerOpen" {
            let since = *state.designers_since.get_or_insert_with(Instant::now);
            let limit = Duration::from_secs(run.profile.designer_wait_seconds);
            let patient = run.profile.designer_session_policy == crate::api::DesignerSessionPolicy::Wait
                && since.elapsed() < limit;
            state.failing = true;
            state.failed = Some(run.clone());
            state.sync.at(Instant::now() + DESIGNER_PERIOD);
            if patient {
                state.counted.held();
                return self.say(story.held("designer", &failure.message, Some(&run.commit)));
            }
            state.counted.failed();
            return self.say(story.failed(&failure, Some(&run.commit)));
        }
        story.remember(&report);
        if failure.category == "MassDeletionBlocked" {
            failure.message.push_str(&format!(
                "; if that is meant, approve this commit, kubectl annotate stoker {} --overwrite {APPROVED_COMMIT}={} \
                 {APPROVED_BY}=YOU, or raise spec.deployment.maxDeletes",
                self.identity.cr, run.commit
            ));
        }
        if report.outcome == Outcome::Held {
            state.counted.held();
            state.failing = true;
            state.failed = Some(run.clone());
            state.sync.again();
            return self.say(story.held(&failure.category, &failure.message, Some(&run.commit)));
        }
        self.failed(failure, run, state, story);
    }

    fn failed(&self, failure: Failure, run: &Run, state: &mut State, story: &mut Story) {
        tracing::warn!(category = failure.category, commit = run.commit, "{}", failure.message);
        state.counted.failed();
        state.failing = true;
        state.failed = Some(run.clone());
        state.sync.again();
        self.say(story.failed(&failure, Some(&run.commit)));
    }

    /// Resolves when the metadata asks for something else than `run`.
    async fn superseded(&self, run: &Run) {
        let mut known = self.known.clone();
        loop {
            let still = {
                let known = known.borrow_and_update();
                matches!(target(known.metadata.as_ref(), &self.pod()), Target::Run(now) if now.commit == run.commit)
            };
            if !still || known.changed().await.is_err() {
                return;
            }
        }
    }

    async fn confirm(&self, known: &Known, run: &Run, state: &mut State, story: &mut Story) {
        if !story.is_unconfirmed() {
            return;
        }
        let confirmation = match self.locate.locate(known) {
            Ok(gateway) => gateway.confirm().await,
            Err(failure) => Confirmation::Waiting(failure),
        };
        match &confirmation {
            Confirmation::Waiting(failure) => {
                tracing::debug!(category = failure.category, "not confirmed yet: {}", failure.message);
                state.confirm.again();
            }
            _ => state.confirm.reset(),
        }
        state.counted.confirmed(&confirmation, story.since_began());
        self.say(story.confirmed(&confirmation, run));
    }

    fn say(&self, saying: Saying) {
        self.said.send_if_modified(|said| {
            let changed = *said != saying;
            if changed {
                if said.status.sync_status != saying.status.sync_status {
                    let status = saying.status.sync_status;
                    tracing::info!(
                        status = status.as_str(),
                        commit = saying.status.target_commit,
                        "{}",
                        saying.status.message
                    );
                }
                *said = saying;
            }
            changed
        });
    }
}

fn commit_of(known: &Known) -> Option<&str> {
    known.metadata.as_ref()?.commit.as_deref()
}
