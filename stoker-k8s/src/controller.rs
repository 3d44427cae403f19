//! The controller: from git refs, profiles and pods to what agents are told, and from what agents report to a status.
//!
//! ```text
//!  watches ──▶ caches ─┐
//!                      ▼
//!   dereference ▶ validate ▶ build ▶ apply ▶ report        one pass for one Stoker
//!        │          pure      pure     │        │
//!        ▼                             ▼        ▼
//!     Lookups ──▶ git server       ConfigMaps  status, events
//! ```
//!
//! Invariants: only the leader writes; a pass never waits for git; nothing is written that is there already; an invalid
//! edit leaves what is in force; agents never learn of a commit of one repository together with the URL of another.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, TryFutureExt, future, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use stoker_core::{Category, Fault, Retry};
use stoker_git::SharedRefs;
use tokio::sync::{mpsc, watch as channel};

use crate::api::{Stoker, StokerStatus};
use crate::conditions::{self, Wanted, reason};

mod apply;
mod build;
mod dereference;
mod finalize;
mod heartbeats;
mod leader;
mod lookup;
mod measure;
mod profiles;
mod report;
mod request;
mod rollout;
mod secrets;
mod slim;
mod validate;
mod watch;
#[cfg(test)]
mod worlds;

pub use apply::{ApplyError, MANAGER};
pub use build::{BuildError, MAX_METADATA_BYTES, Objects, build};
pub use dereference::{Heard, World};
pub use finalize::release_all;
pub use leader::{Election, LeaseSettings};
pub use lookup::{Counted, LookupError, Outcome};
pub use measure::describe_metrics;
pub use report::{Findings, Note, Patience, status, transitions};
pub use request::{Decision, Request, decide};
pub use secrets::{SecretError, read as read_secret};
pub use slim::{GatewayPod, MetadataMap, StatusMap};
pub use validate::{Gateway, Report, Validated, Verdict, validate};
pub use watch::{Caches, Scope};

/// How the controller runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespaces that are served.
    pub scope: Scope,
    /// How long an agent may be silent.
    pub patience: Patience,
    /// Passes at the same time.
    pub concurrency: u16,
    /// Changes within this time lead to one pass.
    pub debounce: Duration,
    /// Lines of known_hosts for every repository, beside the built-in ones and those of a `Stoker`.
    pub known_hosts: Option<String>,
    /// Name of this process, for events.
    pub instance: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scope: Scope::Cluster,
            patience: Patience::default(),
            concurrency: 8,
            debounce: Duration::from_millis(100),
            known_hosts: None,
            instance: "stoker-controller".to_owned(),
        }
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// Something could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The pass took too long.
    #[error("the pass did not end within {0:?}")]
    Overdue(Duration),
    /// A defect.
    #[error("a defect in stoker ended the pass: {0}")]
    Panic(String),
}

impl Fault for ReconcileError {
    fn category(&self) -> Category {
        match self {
            Self::Apply(error) => error.category(),
            Self::Overdue(_) => Category::new("Timeout"),
            Self::Panic(_) => Category::new(reason::INTERNAL_ERROR),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Apply(error) => error.retry(),
            _ => Retry::Backoff,
        }
    }
}

/// What every pass uses.
struct Context {
    client: Client,
    caches: Caches,
    lookups: Arc<lookup::Lookups>,
    heartbeats: heartbeats::Heartbeats,
    leading: channel::Receiver<bool>,
    recorder: Recorder,
    patience: Patience,
    clocks: measure::LiveClocks,
    touched: mpsc::UnboundedSender<String>,
    failures: Mutex<HashMap<ObjectRef<Stoker>, u32>>,
}

/// Longest time for one pass.
const OVERDUE: Duration = Duration::from_secs(120);
/// Longest time between two passes, whatever happens.
const LONGEST: Duration = Duration::from_secs(300);

/// Runs the controller until `stop` is true.
///
/// `watching` is the client for watches, `requests` the one for everything else (with a read timeout). Caches are kept
/// whether this process leads or not; `ready` becomes true when they are filled.
pub async fn run(
    watching: Client,
    requests: Client,
    refs: Arc<SharedRefs>,
    settings: Settings,
    leading: channel::Receiver<bool>,
    ready: channel::Sender<bool>,
    stop: channel::Receiver<bool>,
) {
    let (caches, streams) = Caches::open(&watching, &settings.scope);
    let (done, found) = mpsc::unbounded_channel();
    let (touched, namespaces) = mpsc::unbounded_channel();
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(settings.instance.clone()) };
    let context = Arc::new(Context {
        client: requests.clone(),
        caches: caches.clone(),
        lookups: lookup::Lookups::new(requests.clone(), refs, settings.known_hosts, done),
        heartbeats: heartbeats::Heartbeats::default(),
        leading: leading.clone(),
        recorder: Recorder::new(requests.clone(), reporter),
        patience: settings.patience,
        clocks: measure::LiveClocks::default(),
        touched: touched.clone(),
        failures: Mutex::default(),
    });

    let all = caches.clone();
    let of_profile = move |profile: crate::api::SyncProfile| {
        let namespace = profile.namespace().unwrap_or_default();
        // Nobody listens any more when the controller stops.
        let _ = touched.send(namespace.clone());
        watch::within(&all.stokers, &namespace)
            .iter()
            .map(|s| ObjectRef::from_obj(s.as_ref()))
            .collect::<Vec<_>>()
    };
    let (pods, bare, reports) = (caches.clone(), caches.clone(), caches.clone());
    let beats = Arc::clone(&context);
    let controller = Controller::for_stream(streams.stokers, caches.stokers.clone())
        .with_config(Config::default().debounce(settings.debounce).concurrency(settings.concurrency))
        .watches_stream(streams.profiles, of_profile)
        .watches_stream(streams.pods, move |pod| stokers_of_pod(&pods, &pod))
        .watches_stream(streams.bare_pods, move |pod| stokers_of_pod(&bare, &pod))
        .watches_stream(streams.reports, move |map| {
            let (namespace, name) = watch::key(&map);
            if watch::get(&reports.reports, &namespace, &name).is_none() {
                beats.heartbeats.forget(&namespace, &name);
            }
            stokers_of_label(&reports, &map)
        })
        .owns_stream(streams.metadata)
        .owns_stream(streams.roles)
        .owns_stream(streams.bindings)
        .reconcile_on(stream::unfold(found, |mut found| async { Some((found.recv().await?, found)) }))
        .reconcile_all_on(takeovers(Arc::clone(&context), leading))
        .graceful_shutdown_on(stopped(stop.clone()))
        .run(reconcile, after_error, Arc::clone(&context))
        .for_each(|result| {
            if let Err(error) = result {
                tracing::debug!(error = %stoker_core::chain(&error), "pass not done");
            }
            future::ready(())
        });
    let filled = async {
        caches.ready().await;
        let _ = ready.send(true);
        profiles::keep_reported(&context, namespaces, stop).await;
    };
    future::join(controller, filled).await;
}

/// One item whenever this process becomes the leader: everything is looked at afresh.
fn takeovers(
    context: Arc<Context>,
    leading: channel::Receiver<bool>,
) -> impl futures::Stream<Item = ()> + Send + 'static {
    stream::unfold((context, leading, true), |(context, mut leading, first)| async move {
        loop {
            if !first || !*leading.borrow_and_update() {
                leading.changed().await.ok()?;
            }
            if *leading.borrow_and_update() {
                context.lookups.forget_all();
                return Some(((), (context, leading, false)));
            }
        }
    })
}

async fn stopped(mut stop: channel::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn stokers_of_pod(caches: &Caches, pod: &GatewayPod) -> Vec<ObjectRef<Stoker>> {
    let namespace = pod.namespace().unwrap_or_default();
    let there = watch::within(&caches.stokers, &namespace);
    let belongs = |name: &str| dereference::belongs(pod, name, there.len() == 1);
    let names: Vec<String> = there.iter().map(|stoker| stoker.name_any()).collect();
    // Whose status ConfigMap has the same name is concerned, too: it is free when this pod is gone.
    let maps: Vec<String> = names
        .iter()
        .filter(|name| belongs(name))
        .map(|name| crate::names::status(name, &pod.name_any()))
        .collect();
    let shares = |name: &str| maps.iter().any(|map| crate::names::may_be_status(map, name));
    there
        .iter()
        .zip(&names)
        .filter(|(_, name)| belongs(name) || shares(name))
        .map(|(stoker, _)| ObjectRef::from_obj(stoker.as_ref()))
        .collect()
}

fn stokers_of_label(caches: &Caches, map: &StatusMap) -> Vec<ObjectRef<Stoker>> {
    let Some(label) = map.labels().get(crate::annotations::CR_NAME) else { return Vec::new() };
    watch::within(&caches.stokers, &map.namespace().unwrap_or_default())
        .iter()
        .filter(|stoker| {
            let name = stoker.name_any();
            // Whoever waits for the same name wants to know when it is free.
            crate::names::label_value(&name) == *label || crate::names::may_be_status(&map.name_any(), &name)
        })
        .map(|stoker| ObjectRef::from_obj(stoker.as_ref()))
        .collect()
}

async fn reconcile(stoker: Arc<Stoker>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if !*context.leading.borrow() {
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let pass = AssertUnwindSafe(pass(Arc::clone(&stoker), Arc::clone(&context))).catch_unwind();
    let result = match tokio::time::timeout(OVERDUE, pass).await {
        Err(_) => Err(ReconcileError::Overdue(OVERDUE)),
        Ok(Err(panic)) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "unknown".to_owned());
            degrade(&context, &stoker, &text).await;
            Err(ReconcileError::Panic(text))
        }
        Ok(Ok(result)) => result,
    };
    let label = result.as_ref().map_or_else(|e| e.category().to_string(), |_| "ok".to_owned());
    metrics::counter!("stoker_reconcile_total", "result" => label).increment(1);
    metrics::histogram!("stoker_reconcile_duration_seconds").record(started.elapsed());
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    if result.is_ok() {
        failures.remove(&ObjectRef::from_obj(stoker.as_ref()));
    }
    result
}

/// One pass: the five phases.
async fn pass(stoker: Arc<Stoker>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if stoker.metadata.deletion_timestamp.is_some() {
        finalize::clean_up(&context, &stoker).await?;
        return Ok(Action::requeue(Duration::from_secs(10)));
    }
    finalize::ensure(&context, &stoker).await?;

    let world = dereference::dereference(&context, &context.caches, Arc::clone(&stoker)).await;
    let validated = validate(&world);
    let objects = build(&world, &validated);
    if !*context.leading.borrow() {
        return Err(ApplyError::NotLeader.into());
    }
    let applied = match &objects {
        Ok(objects) => apply::apply(&context.client, &world, objects).await,
        Err(_) => Ok(()),
    };
    // Even when a write failed people see what is known.
    let findings = Findings {
        world: &world,
        validated: &validated,
        objects: objects.as_ref(),
        patience: context.patience,
    };
    let old = stoker.status.clone().unwrap_or_default();
    let new = status(findings, Timestamp::now());
    context.clocks.measure(findings, &old, &new);
    measure::gauges(&stoker, &new);
    if report::write(&context.client, &stoker, &new).await? {
        tell(&context, &stoker, transitions(&old, &new)).await;
    }
    // Nobody listens any more when the controller stops.
    let _ = context.touched.send(stoker.namespace().unwrap_or_default());
    applied?;
    Ok(Action::requeue(next_pass(&world, &validated, context.patience)))
}

/// When to look again without being called: the next look-up, or the moment at which an agent counts as silent.
fn next_pass(world: &World, validated: &Validated, patience: Patience) -> Duration {
    let silences = validated.gateways.iter().filter_map(|gateway| match &gateway.report {
        Report::Heard { silent_for, .. } => patience.0.checked_sub(*silent_for),
        _ => None,
    });
    let soonest = silences.chain(world.next_lookup).min().unwrap_or(LONGEST);
    // A little later than due: an early pass would be in vain.
    soonest.min(LONGEST) + Duration::from_millis(50)
}

/// Says in the object's own status that it met a defect; the others are not touched.
async fn degrade(context: &Context, stoker: &Stoker, text: &str) {
    metrics::counter!("stoker_panics_total").increment(1);
    tracing::error!(namespace = stoker.namespace(), name = stoker.name_any(), text, "a defect ended a pass");
    let old = stoker.status.clone().unwrap_or_default();
    let message = format!("a defect in stoker ended the pass; please report it: {text}");
    let wanted = vec![
        Wanted::no(conditions::READY, reason::INTERNAL_ERROR, &message),
        Wanted::yes(conditions::STALLED, reason::INTERNAL_ERROR, &message),
    ];
    let mut merged = conditions::merge(&old.conditions, wanted, stoker.metadata.generation, Timestamp::now());
    merged.extend(
        old.conditions
            .iter()
            .filter(|c| {
                ![conditions::READY, conditions::STALLED, conditions::RECONCILING].contains(&c.type_.as_str())
            })
            .cloned(),
    );
    let status = StokerStatus { conditions: merged, ..old };
    if let Err(error) = report::write(&context.client, stoker, &status).await {
        tracing::warn!(error = %stoker_core::chain(&error), "status not written");
    }
}

async fn tell(context: &Context, stoker: &Stoker, notes: Vec<Note>) {
    let regarding = stoker.object_ref(&());
    // A restart of fifty gateways is one line, not fifty.
    for note in notes.into_iter().take(20) {
        let secondary = note.pod.as_ref().map(|pod| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.clone()),
            namespace: stoker.namespace(),
            ..ObjectReference::default()
        });
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(conditions::cap(note.message, 1000)),
            action: "Reconcile".to_owned(),
            secondary,
        };
        let published = apply::within(
            "publish",
            "Event",
            note.reason,
            context.recorder.publish(&event, &regarding).map_err(kube::Error::from),
        );
        if let Err(error) = published.await {
            tracing::warn!(error = %stoker_core::chain(&error), "event not published");
        }
    }
}

fn after_error(stoker: Arc<Stoker>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let key = ObjectRef::from_obj(stoker.as_ref());
    let count = {
        let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    };
    let wait = match error {
        // Somebody was quicker: the cache will have caught up in a moment.
        ReconcileError::Apply(e) if e.category().as_str() == "Conflict" => Duration::from_millis(500),
        _ => Duration::from_secs(2).saturating_mul(1 << count.min(7)).min(LONGEST),
    };
    if !matches!(error, ReconcileError::Apply(ApplyError::NotLeader)) {
        let (namespace, name) = watch::key(stoker.as_ref());
        tracing::warn!(namespace, name, error = %stoker_core::chain(error), ?wait, "pass failed");
    }
    Action::requeue(wait.mul_f64(0.75 + 0.5 * lookup::jitter(&key)))
}
