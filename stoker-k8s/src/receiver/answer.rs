//! What senders get back.

use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::trigger::Stored;

/// The answer to a delivery: a status and one JSON object.
///
/// ```json
/// {"outcome": "accepted", "requestedAt": "2026-03-01T10:00:00.123456Z", "requestedRef": "v1.4.0"}
/// {"outcome": "ignored", "reason": "branch \"feature\" was pushed, and the resource follows \"main\""}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    #[serde(skip)]
    status: StatusCode,
    /// One word for programs.
    outcome: &'static str,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The request as it stands on the resource: `status.lastHandledTrigger` shows it once it was acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_at: Option<String>,
    /// The ref that this delivery asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_ref: Option<String>,
}

impl Answer {
    fn new(status: StatusCode, outcome: &'static str, reason: Option<String>) -> Self {
        Self { status, outcome, reason, requested_at: None, requested_ref: None }
    }

    pub(super) fn pong() -> Self {
        Self::new(StatusCode::OK, "pong", None)
    }

    pub(super) fn accepted(stored: Stored) -> Self {
        let Stored { at, requested_ref } = stored;
        Self { requested_at: Some(at), requested_ref, ..Self::new(StatusCode::ACCEPTED, "accepted", None) }
    }

    pub(super) fn ignored(reason: String) -> Self {
        Self::new(StatusCode::ACCEPTED, "ignored", Some(reason))
    }

    pub(super) fn duplicate() -> Self {
        Self::new(StatusCode::ACCEPTED, "duplicate", Some("this delivery was handled already".to_owned()))
    }

    pub(super) fn invalid(status: StatusCode, reason: String) -> Self {
        Self::new(status, "invalid", Some(reason))
    }

    /// The one answer that tells a stranger nothing.
    pub(super) fn unauthorized() -> Self {
        let reason = "there is no such resource, it takes no deliveries, or the signature is not valid";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", Some(reason.to_owned()))
    }

    pub(super) fn forbidden(reason: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", Some(reason))
    }

    pub(super) fn unavailable(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", Some(reason.to_owned()))
    }

    /// Status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// One word, as in the metric.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        self.outcome
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let retry = (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some([(RETRY_AFTER, "5")]);
        (self.status, retry, axum::Json(self)).into_response()
    }
}
