//! The admission webhook: what the API server asks before it creates a pod that wants the sidecar.
//!
//! ```text
//! POST /mutate  AdmissionReview (admission.k8s.io/v1) ─▶ roster ─▶ inject::decide ─▶ AdmissionReview with a JSON patch
//!                                                          │ nothing fits?
//!                                                          └▶ one bounded read of the API server, then decide again
//! ```
//!
//! # Guarantees
//!
//! - An answer comes within [`READ_LIMIT`] and the time of the decision, whatever the API server does.
//! - A dry run has no side effect, hence `sideEffects: NoneOnDryRun`: for a real request, an event is written.

mod events;
mod stokers;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
pub use events::{Events, publish};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use stokers::Source;

use crate::inject::{self, Decision, Outcome, Settings};
use crate::roster::{Roster, Scope};

/// Where the API server sends its reviews.
pub const PATH: &str = "/mutate";
/// Longest time for which the API server is asked about a namespace's `Stoker`s.
pub const READ_LIMIT: Duration = Duration::from_millis(1500);
/// Largest review in bytes. The API server takes objects of up to 3 MiB, and a review holds a little more.
pub const MAX_REVIEW_BYTES: usize = 8 << 20;

/// What the handler works with.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    source: Source,
    settings: Settings,
    events: Events,
}

impl Admission {
    /// Decides with `settings` by what `roster` knows; `client` is asked when that is nothing that fits.
    #[must_use]
    pub fn new(client: Client, roster: Roster, scope: Scope, settings: Settings, events: Events) -> Self {
        Self(Arc::new(Inner { source: Source::new(client, roster, scope), settings, events }))
    }

    /// Decides what happens to the pod of `request`.
    pub async fn decide(&self, request: &AdmissionRequest<Pod>) -> Decision {
        let empty = Pod::default();
        // Somebody's mistake in the webhook configuration must not change what it was not meant for.
        let asked = request.operation == Operation::Create
            && request.sub_resource.as_deref().unwrap_or("").is_empty();
        let pod = request.object.as_ref().filter(|_| asked).unwrap_or(&empty);
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let decide = |stokers: inject::Stokers<'_>| inject::decide(pod, namespace, stokers, &self.0.settings);
        self.0.source.decide(namespace, decide).await
    }
}

/// The routes of the webhook: `POST /mutate`.
pub fn router(admission: Admission) -> Router {
    Router::new()
        .route(PATH, post(mutate))
        .layer(DefaultBodyLimit::max(MAX_REVIEW_BYTES))
        .with_state(admission)
}

/// Describes the metrics of this module to the installed recorder.
pub fn describe_metrics() {
    metrics::describe_counter!(
        "stoker_injections_total",
        "Pods that asked for the sidecar, by result (injected, unchanged, skipped, refused) and reason"
    );
    metrics::describe_histogram!(
        "stoker_injection_duration_seconds",
        metrics::Unit::Seconds,
        "Time from a whole review to the answer"
    );
}

async fn mutate(State(admission): State<Admission>, body: Bytes) -> Response {
    // One pod that trips over a defect must not take other pods' reviews, which share its connection, with it.
    match AssertUnwindSafe(review(&admission, &body)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "a defect in stoker, see the webhook's log").into_response()
        }
    }
}

async fn review(admission: &Admission, body: &[u8]) -> Response {
    let start = Instant::now();
    let review: Result<AdmissionReview<Pod>, _> = serde_json::from_slice(body);
    let request: AdmissionRequest<Pod> = match review.map(TryInto::try_into) {
        Ok(Ok(request)) => request,
        Ok(Err(_)) => return (StatusCode::BAD_REQUEST, "the review holds no request").into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot read a review");
            return (StatusCode::BAD_REQUEST, format!("not an AdmissionReview of a pod: {error}"))
                .into_response();
        }
    };
    let decision = admission.decide(&request).await;
    let elapsed = start.elapsed();
    let (result, reason) = (decision.outcome.as_str(), decision.reason.as_str());
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let pod = events::pod_name(&request);
    if request.dry_run {
        tracing::debug!(namespace, pod, result, reason, "dry run");
    } else {
        metrics::counter!("stoker_injections_total", "result" => result, "reason" => reason).increment(1);
        metrics::histogram!("stoker_injection_duration_seconds").record(elapsed.as_secs_f64());
        tracing::info!(namespace, pod, result, reason, micros = elapsed.as_micros(), "{}", decision.message);
        admission.0.events.tell(&request, &decision);
    }
    answer(&request, decision)
}

fn answer(request: &AdmissionRequest<Pod>, decision: Decision) -> Response {
    let mut response = AdmissionResponse::from(request);
    response.audit_annotations.insert("reason".to_owned(), decision.reason.as_str().to_owned());
    if !decision.warnings.is_empty() {
        response.warnings = Some(decision.warnings);
    }
    match decision.outcome {
        Outcome::Refused => response = response.deny(format!("no sidecar: {}", decision.message)),
        Outcome::Injected => {
            response = match response.with_patch(decision.patch) {
                Ok(response) => response,
                Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
            };
        }
        Outcome::Unchanged | Outcome::Skipped => {}
    }
    axum::Json(response.into_review()).into_response()
}
