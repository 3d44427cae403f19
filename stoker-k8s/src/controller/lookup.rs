//! From the ref of a `Stoker` to a commit: when to ask, whom, and how often.
//!
//! ```text
//! reconcile ──want()──▶ Lookups ──spawn──▶ Secrets ▶ SharedRefs ──single flight──▶ git server
//!     ▲                                                   │
//!     └───────────────── done ◀───────────────────────────┘
//! ```
//!
//! A reconcile never waits for git. One look-up at a time runs for a `Stoker`; [`SharedRefs`] makes one request of all
//! that concern the same repository and credential. When one of them finds that the repository has changed, the others
//! look too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use stoker_core::{Category, Fault, Retry};
use stoker_git::shared::{Asking, Freshness, Seen, Viewpoint};
use stoker_git::{Access, AskRefs, GitError, RefError, RefSpec, RemoteUrl, Resolution, SharedRefs, UrlError};
use tokio::sync::mpsc;

use super::secrets::{self, SecretError};
use crate::api::{GitSpec, SecretKeyRef, Stoker};
use crate::protocol::Trust;

/// Counts the requests that go through it, as `stoker_git_requests_total`.
#[derive(Debug)]
pub struct Counted<A>(pub A);

impl<A: AskRefs> AskRefs for Counted<A> {
    fn ask<'a>(&'a self, url: &'a RemoteUrl, access: &'a Access, wanted: &'a [RefSpec]) -> Asking<'a> {
        Box::pin(async move {
            let result = self.0.ask(url, access, wanted).await;
            let label = result.as_ref().map_or_else(|e| e.category().to_string(), |_| "ok".to_owned());
            metrics::counter!("stoker_git_requests_total", "operation" => "ls-remote", "result" => label)
                .increment(1);
            result
        })
    }
}

/// Why the ref of a `Stoker` could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// A Secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The ref cannot be used.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The git server, or the way to it.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Nothing came back at all.
    #[error("the look-up did not end within {0:?}")]
    Overdue(Duration),
}

impl Fault for LookupError {
    fn category(&self) -> Category {
        match self {
            Self::Secret(e) => e.category(),
            Self::Url(e) => e.category(),
            Self::Ref(e) => e.category(),
            Self::Git(e) => e.category(),
            Self::Overdue(_) => Category::new("Timeout"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Secret(e) => e.retry(),
            Self::Url(e) => e.retry(),
            Self::Ref(e) => e.retry(),
            Self::Git(e) => e.retry(),
            Self::Overdue(_) => Retry::Backoff,
        }
    }
}

/// What is to be looked up, and what goes with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// The repository.
    pub git: GitSpec,
    /// The ref: the spec's, or a requested one.
    pub git_ref: String,
    /// Secrets whose existence is checked on the way: what for, and where.
    pub also_needed: Vec<(&'static str, SecretKeyRef)>,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The commit, or why there is none.
    pub result: Result<Resolution, LookupError>,
    /// Whom the look-up took for the git server, for those who fetch.
    pub trust: Trust,
    /// The trigger that this look-up answers: it was there before the look-up began.
    pub trigger: Option<String>,
    /// When the look-up ended.
    pub at: Timestamp,
    /// Needed Secrets that cannot be used: what for, and why.
    pub problems: Vec<(&'static str, SecretError)>,
}

/// Decides when to look up, and remembers what was found.
pub(super) struct Lookups {
    client: Client,
    refs: Arc<SharedRefs>,
    /// Lines of known_hosts for every repository.
    known_hosts: Option<String>,
    states: Mutex<HashMap<ObjectRef<Stoker>, State>>,
    done: mpsc::UnboundedSender<ObjectRef<Stoker>>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Wanted>,
    running: bool,
    outcome: Option<Outcome>,
    failures: u32,
    next: Option<Instant>,
    interval: Option<Duration>,
    /// Who else sees the same repository with the same credential.
    viewpoint: Option<Viewpoint>,
}

/// Longest time for one look-up, Secrets and waiting for a slot included.
const OVERDUE: Duration = Duration::from_secs(90);
/// How old an answer may be that serves a first look-up: long enough for all those of a controller that has just started.
const FIRST_MAY_BE: Duration = Duration::from_secs(5);

impl Lookups {
    /// Looks up through `refs`; whenever something was found, the object is sent to `done`.
    pub(super) fn new(
        client: Client,
        refs: Arc<SharedRefs>,
        known_hosts: Option<String>,
        done: mpsc::UnboundedSender<ObjectRef<Stoker>>,
    ) -> Arc<Self> {
        Arc::new(Self { client, refs, known_hosts, states: Mutex::default(), done })
    }

    /// What is known about `wanted`, and when to ask again. Starts a look-up when one is due.
    ///
    /// `interval` is the time between two look-ups, `None` when only triggers lead to one.
    pub(super) fn want(
        self: &Arc<Self>,
        stoker: &ObjectRef<Stoker>,
        wanted: Wanted,
        trigger: Option<&str>,
        interval: Option<Duration>,
    ) -> (Option<Outcome>, Option<Duration>) {
        let now = Instant::now();
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry(stoker.clone()).or_default();
        if state.wanted.as_ref() != Some(&wanted) {
            // What was found for something else says nothing about this.
            *state = State { wanted: Some(wanted.clone()), running: state.running, ..State::default() };
        }
        if !state.running && state.due(trigger, now) {
            state.running = true;
            tracing::debug!(
                %stoker,
                first = state.outcome.is_none(),
                triggered = state.triggered(trigger),
                failures = state.failures,
                "looking up"
            );
            let job = Job {
                stoker: stoker.clone(),
                wanted,
                trigger: trigger.map(str::to_owned),
                interval,
                freshness: state.freshness(trigger, interval, now),
            };
            state.interval = interval;
            tokio::spawn(Self::run(Arc::clone(self), job));
        }
        let wait = state.next.filter(|_| !state.running).map(|next| next.saturating_duration_since(now));
        (state.outcome.clone(), wait)
    }

    /// Forgets a `Stoker` that is gone.
    pub(super) fn forget(&self, stoker: &ObjectRef<Stoker>) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).remove(stoker);
    }

    /// Forgets everything that was found: after a change of leader nothing old may be written.
    pub(super) fn forget_all(&self) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, state| {
            state.outcome = None;
            state.next = None;
            state.running
        });
    }

    async fn run(self: Arc<Self>, job: Job) {
        let started = Instant::now();
        let look_up = self.look_up(&job);
        let (found, problems) = match tokio::time::timeout(OVERDUE, look_up).await {
            Ok(found) => found,
            Err(_) => (Err(LookupError::Overdue(OVERDUE)), Vec::new()),
        };
        let (result, trust, viewpoint, is_news) = match found {
            Ok((seen, trust)) => {
                // Whom we trusted matters only where it led to something.
                let trust = if seen.result.is_ok() { trust } else { Trust::default() };
                (seen.result.map_err(LookupError::from), trust, Some(seen.viewpoint), seen.is_news)
            }
            Err(error) => (Err(error), Trust::default(), None, false),
        };
        let label = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.category().to_string(),
        };
        metrics::histogram!("stoker_ref_resolve_duration_seconds", "result" => label)
            .record(started.elapsed());
        let now = Instant::now();
        let mut curious = Vec::new();
        {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            if is_news {
                // They would see it in their own time; now that it is known they need not wait.
                for (stoker, state) in states.iter_mut() {
                    if *stoker != job.stoker && state.shares(viewpoint) {
                        state.next = Some(now);
                        curious.push(stoker.clone());
                    }
                }
            }
            if let Some(state) = states.get_mut(&job.stoker) {
                state.running = false;
                state.viewpoint = viewpoint;
                if state.wanted.as_ref() == Some(&job.wanted) {
                    state.failures = if result.is_ok() { 0 } else { state.failures.saturating_add(1) };
                    state.next =
                        next(&result, state.failures, job.interval, jitter(&job.stoker)).map(|d| now + d);
                    let trigger = job.trigger;
                    state.outcome = Some(Outcome { result, trust, trigger, at: Timestamp::now(), problems });
                }
            }
        }
        // The receiver is gone when the controller stops.
        for stoker in curious.into_iter().chain([job.stoker]) {
            let _ = self.done.send(stoker);
        }
    }

    async fn look_up(
        &self,
        job: &Job,
    ) -> (Result<(Seen, Trust), LookupError>, Vec<(&'static str, SecretError)>) {
        let namespace = job.stoker.namespace.clone().unwrap_or_default();
        let mut problems = Vec::new();
        for (what, at) in &job.wanted.also_needed {
            if let Err(error) = secrets::read(&self.client, &namespace, at).await {
                problems.push((*what, error));
            }
        }
        (self.resolve(&namespace, job).await, problems)
    }

    async fn resolve(&self, namespace: &str, job: &Job) -> Result<(Seen, Trust), LookupError> {
        let git = &job.wanted.git;
        let url = if git.allow_insecure {
            RemoteUrl::parse_allowing_insecure(&git.repo)?
        } else {
            RemoteUrl::parse(&git.repo)?
        };
        let wanted: RefSpec = job.wanted.git_ref.parse()?;
        let mut access = secrets::access(&self.client, namespace, git).await?;
        // The resource's own lines come first: they decide about the hosts that they name.
        let lines: Vec<&str> = access.known_hosts.iter().chain(&self.known_hosts).map(|t| t.trim()).collect();
        access.known_hosts = Some(lines.join("\n")).filter(|text| !text.is_empty());
        let trust = Trust { known_hosts: access.known_hosts.clone(), ca_pem: access.ca_pem.clone() };
        Ok((self.refs.resolve(&url, &access, &wanted, job.freshness).await, trust))
    }
}

struct Job {
    stoker: ObjectRef<Stoker>,
    wanted: Wanted,
    trigger: Option<String>,
    interval: Option<Duration>,
    freshness: Freshness,
}

impl State {
    /// How old an answer may be that serves the look-up that is due.
    fn freshness(&self, trigger: Option<&str>, interval: Option<Duration>, now: Instant) -> Freshness {
        let ago = |time| Freshness::since(now.checked_sub(time).unwrap_or(now));
        match &self.outcome {
            // Whoever was triggered wants what is true from now on.
            _ if self.triggered(trigger) => Freshness::since(now),
            // Whoever names a branch may have pushed it a moment before.
            None => Freshness { denied_since: now, ..ago(FIRST_MAY_BE) },
            // A little less than the shortest time between two looks of one alone, whose every look is thus a request.
            Some(Outcome { result: Ok(_), .. }) => ago(interval.unwrap_or_default().mul_f64(0.9)),
            // Those that failed together try again together, more or less.
            Some(_) => ago(back_off(self.failures) / 2),
        }
    }

    /// Whether it follows what others see from there.
    fn shares(&self, viewpoint: Option<Viewpoint>) -> bool {
        !self.running && self.interval.is_some() && self.next.is_some() && self.viewpoint == viewpoint
    }

    fn triggered(&self, trigger: Option<&str>) -> bool {
        trigger.is_some() && self.outcome.as_ref().is_some_and(|o| o.trigger.as_deref() != trigger)
    }

    fn due(&self, trigger: Option<&str>, now: Instant) -> bool {
        match &self.outcome {
            None => true,
            // A server that asked for patience gets it, whoever is in a hurry.
            Some(Outcome { result: Err(LookupError::Git(error)), .. }) if error.retry_after().is_some() => {
                self.next.is_some_and(|next| now >= next)
            }
            Some(_) => self.triggered(trigger) || self.next.is_some_and(|next| now >= next),
        }
    }
}

const LONGEST: Duration = Duration::from_secs(600);

/// The time after so many failures, doubled with each.
fn back_off(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST)
}

/// When to look up again.
fn next<T>(
    result: &Result<T, LookupError>,
    failures: u32,
    interval: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    match result {
        Ok(_) => interval.map(|interval| interval.mul_f64(0.9 + 0.2 * jitter)),
        Err(error) => {
            // A short interval is not made longer by failures than it would be by success, and then some.
            let wait = back_off(failures)
                .max(interval.unwrap_or_default().min(LONGEST) / 2)
                .mul_f64(0.75 + 0.5 * jitter);
            let asked = match error {
                LookupError::Git(error) => error.retry_after().unwrap_or_default(),
                _ => Duration::ZERO,
            };
            Some(wait.max(asked.min(Duration::from_secs(3600))))
        }
    }
}

/// A number from 0 to 1 that differs between objects and calls.
pub(super) fn jitter(stoker: &ObjectRef<Stoker>) -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one(&stoker.name);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
