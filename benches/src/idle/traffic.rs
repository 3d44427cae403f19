//! Requests, counted by what they ask for.

use std::collections::BTreeMap;
use std::fmt::Write;

use stoker_testkit::api_server::AuditedRequest;

/// How often each thing was asked for, by verb and resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traffic(pub(super) BTreeMap<String, u64>);

/// A Lease is renewed by `get` and `update`: what there is of it is no load that grows with anything.
pub(super) const LEASE: &str = " leases";

impl Traffic {
    /// Counts; a watch counts when it begins, however long it lasts.
    pub(super) fn of(requests: &[AuditedRequest]) -> Self {
        let mut counts = BTreeMap::new();
        for request in requests {
            let begins = request.stage == "ResponseStarted";
            if (request.verb == "watch") == begins {
                *counts.entry(name(request)).or_default() += 1;
            }
        }
        Self(counts)
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// What there is more than in an earlier count.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let more = |(name, count): (&String, &u64)| (name.clone(), count - earlier.count(name).min(*count));
        Self(self.0.iter().map(more).filter(|(_, count)| *count > 0).collect())
    }

    /// How many there are of one kind.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All kinds but those.
    pub(super) fn without(&self, kinds: &[&str]) -> Self {
        let others = self.0.iter().filter(|(name, _)| !kinds.contains(&name.as_str()));
        Self(others.map(|(name, count)| (name.clone(), *count)).collect())
    }

    /// How many there are in all.
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// In words: `2 patch configmaps, 1 watch configmaps`.
    pub(super) fn words(&self) -> String {
        let mut text = String::new();
        for (name, count) in &self.0 {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{count} {name}");
        }
        if text.is_empty() { "none".to_owned() } else { text }
    }
}

fn name(request: &AuditedRequest) -> String {
    match &request.object_ref {
        Some(object) if object.subresource.is_empty() => format!("{} {}", request.verb, object.resource),
        Some(object) => format!("{} {}/{}", request.verb, object.resource, object.subresource),
        None => format!("{} {}", request.verb, request.request_uri),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_counts_once_and_when_it_begins() {
        let request = |stage: &str, verb: &str, resource: &str, subresource: &str| -> AuditedRequest {
            let object = serde_json::json!({"resource": resource, "subresource": subresource});
            serde_json::from_value(serde_json::json!({
                "stage": stage, "verb": verb, "requestURI": "/x", "user": {}, "objectRef": object,
            }))
            .unwrap()
        };
        let traffic = Traffic::of(&[
            request("ResponseStarted", "watch", "configmaps", ""),
            request("ResponseComplete", "watch", "configmaps", ""),
            request("ResponseComplete", "patch", "configmaps", ""),
            request("ResponseComplete", "patch", "stokers", "status"),
        ]);
        assert_eq!(traffic.words(), "1 patch configmaps, 1 patch stokers/status, 1 watch configmaps");
        assert_eq!(traffic.without(&["watch configmaps"]).total(), 2);
        assert_eq!(traffic.count("patch configmaps"), 1);
    }
}
