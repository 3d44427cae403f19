//! Deliveries from forges and pipelines: a push becomes a request on the `Stoker` that it concerns.
//!
//! ```text
//! POST /v1/namespaces/{namespace}/stokers/{name}/webhook
//!   body (bounded) ─▶ verify: HMAC over the raw bytes ─▶ parse ─▶ decide ─▶ annotate the Stoker ─▶ 202
//! ```
//!
//! Who may send: GitHub, Gitea, Forgejo, Gogs (`push`, and `ping`), and anybody who signs JSON like
//! `{"ref": "v1.4.0"}` with `X-Signature` or by [Standard Webhooks](https://www.standardwebhooks.com).
//!
//! | answer | outcome | when |
//! |---|---|---|
//! | 200 | `pong` | the forge tries out its settings |
//! | 202 | `accepted` | the request stands on the `Stoker`; the API server has stored it |
//! | 202 | `ignored` | nothing that concerns this `Stoker`; `reason` says why |
//! | 202 | `duplicate` | this delivery was handled already |
//! | 400 | `invalid` | signed, but not what it should be |
//! | 401 | `unauthorized` | no valid signature, or no such `Stoker`, or it takes no deliveries: always the same answer, after the same time |
//! | 403 | `forbidden` | asks for a ref that `spec.webhook.allowedRefs` does not allow |
//! | 408, 413, 415 | `invalid` | too slow, too large, compressed or of another media type |
//! | 503 | `unavailable` | not now: try again |
//!
//! The body is always one JSON object, [`Answer`].
//!
//! # Guarantees
//!
//! - Nothing is parsed, and no API request made, for a delivery without a signature of a known kind.
//! - A `Stoker` that the watch has not shown yet is looked up by its name. All unknown names together have ten look-ups
//!   at once and two a second after that; beyond it, what is not known counts as not there.
//! - A signature that is there must be right: a weaker one beside it does not rescue it.
//! - Memory is bounded: a delivery by [`Settings::max_body_bytes`], all of them by [`Settings::max_buffered_bytes`].
//! - A thousand deliveries at once for one `Stoker` become a few writes, the newest last.

mod allowance;
mod answer;
mod body;
mod decide;
mod keys;
mod parse;
mod seen;
mod signature;
mod source;
mod trigger;

use std::sync::Arc;
use std::time::Duration;

pub use answer::Answer;
use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
pub use decide::{Verdict, decide};
use jiff::Timestamp;
use kube::Client;
pub use parse::{Delivery, Format, ParseError, Push, parse};
pub use signature::{Key, Signatures, TIMESTAMP_WINDOW, VerifyError};
pub use source::{Origin, Source};
use tokio::time::{Instant, sleep_until};

use crate::names;
use crate::roster::{self, Roster, Scope, StokerView};

/// Where deliveries go.
pub const PATH: &str = "/v1/namespaces/{namespace}/stokers/{name}/webhook";

/// Bounds of the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Largest delivery in bytes. GitHub sends up to 25 MiB.
    pub max_body_bytes: usize,
    /// Most bytes of all deliveries that are held at a time.
    pub max_buffered_bytes: usize,
    /// Longest time for a delivery to arrive.
    pub read_timeout: Duration,
    /// A delivery without a valid signature is answered after this time, whatever the reason.
    pub refusal_delay: Duration,
}

impl Default for Settings {
    /// 25 MiB, 48 MiB, 30 s, 250 ms.
    fn default() -> Self {
        Self {
            max_body_bytes: 25 << 20,
            max_buffered_bytes: 48 << 20,
            read_timeout: Duration::from_secs(30),
            refusal_delay: Duration::from_millis(250),
        }
    }
}

/// What the handler works with.
#[derive(Clone)]
pub struct ReceiverState(Arc<Inner>);

struct Inner {
    client: Client,
    roster: Roster,
    scope: Scope,
    look_ups: allowance::Allowance,
    keys: keys::Keys,
    buffer: body::Buffer,
    seen: seen::Seen,
    triggers: trigger::Triggers,
    refusal_delay: Duration,
    /// Stand in where there is no secret, so that the work is the same.
    dummy: Arc<Vec<Key>>,
}

impl ReceiverState {
    /// Deliveries for the `Stoker`s of `roster`, and for those of `scope` that it lacks yet.
    ///
    /// `client` reads `Stoker`s and their secrets by name, and writes annotations.
    #[must_use]
    pub fn new(client: Client, roster: Roster, scope: Scope, settings: &Settings) -> Self {
        Self(Arc::new(Inner {
            client: client.clone(),
            roster,
            scope,
            look_ups: allowance::Allowance::default(),
            keys: keys::Keys::new(client.clone()),
            buffer: body::Buffer::new(settings),
            seen: seen::Seen::default(),
            triggers: trigger::Triggers::new(client),
            refusal_delay: settings.refusal_delay,
            dummy: Arc::new(vec![Key::new(b"no delivery is signed with this")]),
        }))
    }
}

/// The routes of the receiver, to be mounted at the root.
pub fn router(state: ReceiverState) -> Router {
    Router::new().route(PATH, post(receive)).with_state(state)
}

/// Describes the metrics of this module to the installed recorder.
pub fn describe_metrics() {
    metrics::describe_counter!(
        "stoker_webhook_received_total",
        "Deliveries, by source (github, gitea, forgejo, gogs, generic) and outcome"
    );
}

async fn receive(
    State(state): State<ReceiverState>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let arrived = Instant::now();
    let origin = Origin::of(&headers);
    let mut body = body.into_data_stream();
    let answer = state.0.handle(&namespace, &name, &headers, &origin, &mut body).await;
    state.0.buffer.discard(&headers, &mut body, arrived).await;
    if answer.status() == StatusCode::UNAUTHORIZED {
        sleep_until(arrived + state.0.refusal_delay).await;
    }
    let (source, outcome) = (origin.source.as_str(), answer.outcome());
    metrics::counter!("stoker_webhook_received_total", "source" => source, "outcome" => outcome).increment(1);
    let (delivery, reason) = (origin.delivery.as_deref().unwrap_or_default(), answer.reason());
    tracing::info!(namespace, name, source, delivery, outcome, reason, "delivery");
    answer.into_response()
}

impl Inner {
    async fn handle(
        &self,
        namespace: &str,
        name: &str,
        headers: &HeaderMap,
        origin: &Origin,
        body: &mut BodyDataStream,
    ) -> Answer {
        if !self.roster.is_complete() {
            return Answer::unavailable("starting, the resources are not known yet");
        }
        let format = match body::format(headers) {
            Ok(format) => format,
            Err(answer) => return answer,
        };
        // Without a signature, nothing is worth reading.
        let Ok(signatures) = Signatures::read(headers, Timestamp::now()) else {
            return Answer::unauthorized();
        };
        let signatures = Arc::new(signatures);
        let received = match self.buffer.read(headers, body).await {
            Ok(received) => Arc::new(received),
            Err(answer) => return answer,
        };
        let complete = Instant::now();
        let Some(stoker) = self.authenticate(namespace, name, &signatures, &received).await else {
            drop(received);
            // From the last byte on: a sender that holds it back would see how long the judging itself takes.
            sleep_until(complete + self.refusal_delay).await;
            return Answer::unauthorized();
        };
        let delivery = match parse(origin, format, received.bytes()) {
            Ok(delivery) => delivery,
            Err(error) => return Answer::invalid(StatusCode::BAD_REQUEST, error.to_string()),
        };
        drop(received);
        match decide(&delivery, &stoker) {
            Verdict::Pong => Answer::pong(),
            Verdict::Ignore(reason) => Answer::ignored(reason),
            Verdict::Forbid(reason) => Answer::forbidden(reason),
            Verdict::Trigger { requested_ref } => self.trigger(&stoker, origin, requested_ref).await,
        }
    }

    /// The `Stoker` as the watch shows it; else as the API server has it, as a watch may lag behind.
    async fn find(&self, namespace: &str, name: &str) -> Option<Arc<StokerView>> {
        if let Some(known) = self.roster.get(namespace, name) {
            return Some(known);
        }
        // The names come from strangers: nothing else may get into the path of a request.
        let possible = names::is_name(namespace) && names::is_name(name) && self.scope.contains(namespace);
        if !possible || !self.look_ups.take(Instant::now()) {
            return None;
        }
        let found = roster::get(self.client.clone(), namespace, name, keys::READ_LIMIT).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(namespace, name, error = stoker_core::chain(&error), "cannot look up a stoker");
            None
        })
    }

    /// The `Stoker`, if it takes deliveries and one of its keys made every signature.
    async fn authenticate(
        &self,
        namespace: &str,
        name: &str,
        signatures: &Arc<Signatures>,
        received: &Arc<body::Received>,
    ) -> Option<Arc<StokerView>> {
        let stoker = self.find(namespace, name).await.filter(|stoker| !stoker.deleting);
        let secret = stoker
            .as_ref()
            .filter(|s| s.spec.webhook.enabled)
            .and_then(|s| s.spec.webhook.secret_ref.as_ref());
        let Some(at) = secret else {
            // As much work as for a known one.
            let _ = verify(signatures, received, Arc::clone(&self.dummy)).await;
            return None;
        };
        for attempt in [keys::Freshness::Cached, keys::Freshness::AfterMismatch] {
            let Some(keys) = self.keys.get(namespace, at, attempt).await else { break };
            if verify(signatures, received, keys).await {
                return stoker;
            }
        }
        None
    }

    async fn trigger(&self, stoker: &StokerView, origin: &Origin, requested_ref: Option<String>) -> Answer {
        let by = origin.label();
        let key = seen::key(stoker, origin);
        // The resource itself remembers the last one, whichever replica took it.
        let known_elsewhere =
            origin.delivery.is_some() && stoker.requested_by.as_deref() == Some(by.as_str());
        if known_elsewhere || key.as_ref().is_some_and(|key| !self.seen.begin(key)) {
            return Answer::duplicate();
        }
        match self.triggers.request(stoker, by, requested_ref).await {
            Ok(stored) => Answer::accepted(stored),
            Err(error) => {
                if let Some(key) = &key {
                    self.seen.forget(key);
                }
                tracing::warn!(
                    name = stoker.name,
                    error = stoker_core::chain(error.as_ref()),
                    "cannot request a sync"
                );
                Answer::unavailable("the request could not be stored")
            }
        }
    }
}

/// Bodies from this size are hashed on another thread: 25 MiB would hold up everybody else on this one.
const LARGE_BYTES: usize = 256 << 10;

async fn verify(signatures: &Arc<Signatures>, received: &Arc<body::Received>, keys: Arc<Vec<Key>>) -> bool {
    let (signatures, received) = (Arc::clone(signatures), Arc::clone(received));
    let large = received.bytes().len() >= LARGE_BYTES;
    let work = move || signatures.verify(received.bytes(), &keys).is_ok();
    if large { tokio::task::spawn_blocking(work).await.unwrap_or(false) } else { work() }
}
