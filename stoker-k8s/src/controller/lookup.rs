//! From the ref of a `Stoker` to a commit: when to ask, whom, and how often.
//!
//! ```text
//! reconcile ──want()──▶ Lookups ──spawn──▶ Secrets ▶ Remotes ──single flight──▶ git server
//!     ▲                                                  │
//!     └───────────────── done ◀──────────────────────────┘
//! ```
//!
//! A reconcile never waits for git. One look-up at a time runs for a `Stoker`, one request at a time for a repository
//! and credential, and whoever asks for the same thing meanwhile gets the same answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use stoker_core::{Category, Fault, Retry};
use stoker_git::{
    Access, Advertisement, Credentials, Git, GitError, ObjectFormat, RefError, RefSpec, RemoteUrl,
    Resolution, UrlError,
};
use tokio::sync::{Semaphore, mpsc};

use super::secrets::{self, SecretError};
use crate::api::{GitSpec, SecretKeyRef, Stoker};
use crate::protocol::Trust;

/// Asks a git server for its refs.
pub trait Remote: Send + Sync + 'static {
    /// What the repository advertises. Bounded in time by the implementation.
    fn advertise<'a>(
        &'a self,
        url: &'a RemoteUrl,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Advertisement, GitError>>;
}

impl Remote for Git {
    fn advertise<'a>(
        &'a self,
        url: &'a RemoteUrl,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<Advertisement, GitError>> {
        // Read from the Secrets a moment ago: a second reading would find the same.
        let remote = stoker_git::Remote { url: url.clone(), credentials: Arc::new(access.clone()) };
        Box::pin(async move { self.advertisement(&remote).await })
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
    remotes: Arc<Remotes>,
    /// Lines of known_hosts for every repository.
    known_hosts: Option<String>,
    states: Mutex<HashMap<ObjectRef<Stoker>, State>>,
    done: mpsc::UnboundedSender<ObjectRef<Stoker>>,
    slots: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Wanted>,
    running: bool,
    outcome: Option<Outcome>,
    failures: u32,
    next: Option<Instant>,
}

/// Longest time for one look-up, Secrets and waiting for a slot included.
const OVERDUE: Duration = Duration::from_secs(90);
/// Look-ups at the same time, over all repositories.
const SLOTS: usize = 16;

impl Lookups {
    /// Looks up through `remotes`; whenever something was found, the object is sent to `done`.
    pub(super) fn new(
        client: Client,
        remotes: Arc<Remotes>,
        known_hosts: Option<String>,
        done: mpsc::UnboundedSender<ObjectRef<Stoker>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            remotes,
            known_hosts,
            states: Mutex::default(),
            done,
            slots: Arc::new(Semaphore::new(SLOTS)),
        })
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
                // Whoever was triggered wants what is true from now on; a poll may share what another one just saw.
                not_before: if state.outcome.is_none() || state.triggered(trigger) {
                    now
                } else {
                    now.checked_sub(interval.unwrap_or_default() / 2).unwrap_or(now)
                },
            };
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
        let (result, trust) = match found {
            Ok((resolution, trust)) => (Ok(resolution), trust),
            Err(error) => (Err(error), Trust::default()),
        };
        let label = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.category().to_string(),
        };
        metrics::histogram!("stoker_ref_resolve_duration_seconds", "result" => label)
            .record(started.elapsed());
        let now = Instant::now();
        {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(state) = states.get_mut(&job.stoker) {
                state.running = false;
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
        let _ = self.done.send(job.stoker);
    }

    async fn look_up(
        &self,
        job: &Job,
    ) -> (Result<(Resolution, Trust), LookupError>, Vec<(&'static str, SecretError)>) {
        let namespace = job.stoker.namespace.clone().unwrap_or_default();
        let mut problems = Vec::new();
        for (what, at) in &job.wanted.also_needed {
            if let Err(error) = secrets::read(&self.client, &namespace, at).await {
                problems.push((*what, error));
            }
        }
        (self.resolve(&namespace, job).await, problems)
    }

    async fn resolve(&self, namespace: &str, job: &Job) -> Result<(Resolution, Trust), LookupError> {
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
        if let RefSpec::Commit(_) = wanted {
            // It says all that there is to know; whether it exists is seen by those who fetch it.
            let nothing = Advertisement::complete(Vec::new(), None, ObjectFormat::Sha1);
            return Ok((stoker_git::resolve::resolve(&nothing, &wanted, &url.to_string())?, trust));
        }
        let advertisement = {
            // Closed only at the end of the process.
            let _slot = self.slots.acquire().await;
            self.remotes.advertise(&url, &access, job.not_before).await?
        };
        Ok((stoker_git::resolve::resolve(&advertisement, &wanted, &url.to_string())?, trust))
    }
}

struct Job {
    stoker: ObjectRef<Stoker>,
    wanted: Wanted,
    trigger: Option<String>,
    interval: Option<Duration>,
    not_before: Instant,
}

impl State {
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

/// When to look up again.
fn next<T>(
    result: &Result<T, LookupError>,
    failures: u32,
    interval: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(600);
    match result {
        Ok(_) => interval.map(|interval| interval.mul_f64(0.9 + 0.2 * jitter)),
        Err(error) => {
            let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST);
            // A short interval is not made longer by failures than it would be by success, and then some.
            let wait =
                doubled.max(interval.unwrap_or_default().min(LONGEST) / 2).mul_f64(0.75 + 0.5 * jitter);
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

/// One request at a time for a repository and credential. Shared by everything that asks in this process.
pub struct Remotes {
    remote: Arc<dyn Remote>,
    entries: Mutex<HashMap<[u8; 32], Entry>>,
}

/// Held while a request is under way.
type Entry = Arc<tokio::sync::Mutex<Option<Answer>>>;

impl std::fmt::Debug for Remotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remotes").finish_non_exhaustive()
    }
}

struct Answer {
    started: Instant,
    result: Result<Arc<Advertisement>, GitError>,
    not_again_before: Option<Instant>,
}

impl Remotes {
    /// Asks through `remote`.
    pub fn new(remote: Arc<dyn Remote>) -> Arc<Self> {
        Arc::new(Self { remote, entries: Mutex::default() })
    }

    /// What the repository advertised at `not_before` or later.
    async fn advertise(
        &self,
        url: &RemoteUrl,
        access: &Access,
        not_before: Instant,
    ) -> Result<Arc<Advertisement>, GitError> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds these any more: a repository or a credential that is not used now.
            if entries.len() > 1000 {
                entries.retain(|_, entry| Arc::strong_count(entry) > 1);
            }
            Arc::clone(entries.entry(identity(url, access)).or_default())
        };
        let mut answer = entry.lock().await;
        if let Some(known) = answer.as_ref() {
            let now = Instant::now();
            if known.started >= not_before || known.not_again_before.is_some_and(|until| now < until) {
                return known.result.clone();
            }
        }
        let started = Instant::now();
        let result = self.remote.advertise(url, access).await.map(Arc::new);
        let label = result.as_ref().map_or_else(|e| e.category().to_string(), |_| "ok".to_owned());
        metrics::counter!("stoker_git_requests_total", "operation" => "ls-remote", "result" => label)
            .increment(1);
        let patience = result.as_ref().err().and_then(GitError::retry_after);
        let not_again_before =
            patience.map(|patience| Instant::now() + patience.min(Duration::from_secs(3600)));
        *answer = Some(Answer { started, result: result.clone(), not_again_before });
        result
    }
}

/// Who asks whom: different credentials never share an answer.
fn identity(url: &RemoteUrl, access: &Access) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(&url.to_string());
    match &access.credentials {
        Credentials::Token { username, secret } => {
            add("token");
            add(username);
            add(secret.expose());
        }
        Credentials::SshKey { private_key, passphrase } => {
            add("ssh");
            add(private_key.expose());
            add(passphrase.as_ref().map_or("", |p| p.expose()));
        }
        _ => add("none"),
    }
    add(access.known_hosts.as_deref().unwrap_or_default());
    add(access.ca_pem.as_deref().unwrap_or_default());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
