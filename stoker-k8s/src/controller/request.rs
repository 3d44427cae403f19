//! Which ref is wanted: the one in the spec, or one that a delivery requested. The newer wins.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

use crate::annotations::{APPROVED_BY, APPROVED_COMMIT, REQUESTED_AT, REQUESTED_BY, REQUESTED_REF};
use crate::api::RequestedRef;
use crate::conditions::cap;
use crate::protocol::Approval;

/// What is asked for by annotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// When: any new value is a new request.
    pub at: Option<String>,
    /// The ref, if one is asked for.
    pub git_ref: Option<String>,
    /// By whom.
    pub by: Option<String>,
    /// The commit whose deletions were approved.
    pub approval: Option<Approval>,
}

impl Request {
    /// Reads the annotations of a `Stoker`.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let text =
            |name: &str| annotations.get(name).map(|v| v.trim()).filter(|v| !v.is_empty()).map(str::to_owned);
        let approval = text(APPROVED_COMMIT).map(|commit| Approval {
            commit: cap(commit, 64),
            by: cap(text(APPROVED_BY).unwrap_or_default(), 128),
        });
        Self { at: text(REQUESTED_AT), git_ref: text(REQUESTED_REF), by: text(REQUESTED_BY), approval }
    }
}

/// What is wanted, and what is to be remembered about the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The ref to follow.
    pub git_ref: String,
    /// The record for the status.
    pub record: Option<RequestedRef>,
}

/// Decides between `spec_ref` and a requested ref.
///
/// `record` is what the last pass remembered; `spec_edited` is when `spec.git.ref` was last written, as far as the API
/// server knows, and decides only when request and edit are both new to us.
#[must_use]
pub fn decide(
    spec_ref: &str,
    request: &Request,
    record: Option<&RequestedRef>,
    spec_edited: Option<Timestamp>,
) -> Decision {
    let by_spec = |record| Decision { git_ref: spec_ref.to_owned(), record };
    let (Some(at), Some(requested)) = (&request.at, &request.git_ref) else {
        return by_spec(None);
    };
    let same = record.filter(|r| r.at == *at && r.r#ref == *requested);
    let superseded = match same {
        // An edit ends the request, and writing the old value back does not revive it.
        Some(known) => known.superseded || known.spec_ref != spec_ref,
        None => match (spec_edited, at.parse::<Timestamp>()) {
            (Some(edited), Ok(asked)) => edited > asked,
            _ => false,
        },
    };
    let record = RequestedRef {
        at: at.clone(),
        r#ref: requested.clone(),
        spec_ref: same.map_or(spec_ref, |known| known.spec_ref.as_str()).to_owned(),
        superseded,
    };
    if superseded {
        by_spec(Some(record))
    } else {
        Decision { git_ref: requested.clone(), record: Some(record) }
    }
}

/// Whether this entry of `managedFields` owns `spec.git.ref`.
pub(super) fn writes_ref(entry: &ManagedFieldsEntry) -> bool {
    entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:git/f:ref").is_some())
}

/// When `spec.git.ref` was last written, as far as the API server knows.
#[must_use]
pub(super) fn spec_edited(managed_fields: Option<&[ManagedFieldsEntry]>) -> Option<Timestamp> {
    managed_fields?
        .iter()
        .filter(|entry| writes_ref(entry))
        .filter_map(|entry| entry.time.as_ref().map(|t| t.0))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at: &str, git_ref: &str) -> Request {
        Request { at: Some(at.into()), git_ref: Some(git_ref.into()), ..Request::default() }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_newer_of_request_and_edit_wins() {
        let asked = request("2026-03-01T10:00:00Z", "v2");
        let plain = Request { at: asked.at.clone(), ..Request::default() };
        assert_eq!(decide("main", &plain, None, None), Decision { git_ref: "main".into(), record: None });

        // Requested, then the spec is edited, then the edit is taken back.
        let first = decide("main", &asked, None, Some(time("2026-03-01T09:00:00Z")));
        assert_eq!(first.git_ref, "v2");
        let again = decide("main", &asked, first.record.as_ref(), Some(time("2026-03-01T09:00:00Z")));
        assert_eq!(again, first);
        let edited = decide("v3", &asked, first.record.as_ref(), Some(time("2026-03-01T11:00:00Z")));
        assert_eq!((edited.git_ref.as_str(), edited.record.as_ref().unwrap().superseded), ("v3", true));
        let back = decide("main", &asked, edited.record.as_ref(), Some(time("2026-03-01T12:00:00Z")));
        assert_eq!(back.git_ref, "main");

        // A new request wins again.
        let newer = request("2026-03-01T13:00:00Z", "v4");
        assert_eq!(
            decide("main", &newer, back.record.as_ref(), Some(time("2026-03-01T12:00:00Z"))).git_ref,
            "v4"
        );
    }

    #[test]
    fn both_new_to_us_are_compared_by_time() {
        let asked = request("2026-03-01T10:00:00Z", "v2");
        assert_eq!(decide("main", &asked, None, Some(time("2026-03-01T10:00:01Z"))).git_ref, "main");
        assert_eq!(decide("main", &asked, None, Some(time("2026-03-01T09:59:59Z"))).git_ref, "v2");
        assert_eq!(decide("main", &asked, None, None).git_ref, "v2");
        assert_eq!(
            decide("main", &request("whenever", "v2"), None, Some(time("2026-03-01T10:00:01Z"))).git_ref,
            "v2"
        );
    }

    #[test]
    fn the_time_of_an_edit_comes_from_the_managed_fields() {
        let entries: Vec<ManagedFieldsEntry> = serde_json::from_value(serde_json::json!([
            {"manager": "a", "time": "2026-03-01T10:00:00Z", "fieldsV1": {"f:spec": {"f:git": {"f:ref": {}}}}},
            {"manager": "b", "time": "2026-03-02T10:00:00Z", "fieldsV1": {"f:metadata": {"f:annotations": {}}}},
        ]))
        .unwrap();
        assert_eq!(spec_edited(Some(&entries)), Some(time("2026-03-01T10:00:00Z")));
        assert_eq!(spec_edited(None), None);
    }
}
