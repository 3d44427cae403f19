//! The `Stoker`s of a cluster, in the few words that admission and deliveries need, kept by watches.
//!
//! ```text
//! API server ──watch──▶ Roster (one slim view per Stoker) ◀── admission: which one is this pod's?
//!                                                         ◀── receiver: whom does this delivery concern?
//! ```
//!
//! A [`StokerView`] is a few hundred bytes, whatever the size of the object's status. Readers never wait for the API
//! server: a roster answers from memory, and says with [`Roster::is_complete`] whether the first list is in.

mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use stoker_core::{Category, Fault, Retry};
pub use watch::{Scope, get, list, watch};

use crate::annotations;
use crate::api::{
    AgentSpec, ApiKeyRef, GitAuth, GitProxy, GitVerify, RequestedRef, SecretKeyRef, WebhookSpec,
};

/// Why the `Stoker`s of a namespace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RosterError {
    /// The API server takes too long.
    #[error("the API server did not return the stokers of namespace {namespace} within {} ms", limit.as_millis())]
    Timeout {
        /// The namespace.
        namespace: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The API server answers with an error.
    #[error("cannot read stokers")]
    Api(#[from] kube::Error),
}

impl Fault for RosterError {
    fn category(&self) -> Category {
        Category::new("StokersUnknown")
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// What admission and deliveries need to know of a `Stoker`.
#[derive(Debug, Clone, PartialEq)]
pub struct StokerView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
    /// Its annotation `stoker.io/requested-by`.
    pub requested_by: Option<String>,
    /// Its annotation `stoker.io/requested-ref`.
    pub requested_ref: Option<String>,
    /// What its spec says.
    pub spec: SpecView,
    /// What the controller made of the last requested ref.
    pub seen_request: Option<RequestedRef>,
}

/// The part of a spec that admission and deliveries need; the defaults are those of [`crate::api`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecView {
    /// `spec.git`.
    pub git: GitView,
    /// `spec.gateway`.
    pub gateway: GatewayView,
    /// `spec.webhook`.
    #[serde(default)]
    pub webhook: WebhookSpec,
    /// `spec.agent`.
    #[serde(default)]
    pub agent: AgentSpec,
    /// `spec.paused`.
    #[serde(default)]
    pub paused: bool,
}

/// The part of `spec.git`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitView {
    /// The ref that the gateways follow.
    pub r#ref: String,
    /// How to get into the repository.
    #[serde(default)]
    pub auth: Option<GitAuth>,
    /// Whose signatures the agent asks for.
    #[serde(default)]
    pub verify: Option<GitVerify>,
    /// Extra certificate authorities.
    #[serde(default)]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// The proxy on the way to the repository.
    #[serde(default)]
    pub proxy: Option<GitProxy>,
}

/// The part of `spec.gateway`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayView {
    /// The gateway's API key.
    pub api_key_secret_ref: ApiKeyRef,
}

/// The part of a status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusView {
    /// `status.requestedRef`.
    pub requested_ref: Option<RequestedRef>,
}

impl StokerView {
    /// Takes what is needed out of an object.
    #[must_use]
    pub fn new(metadata: &ObjectMeta, spec: SpecView, status: Option<StatusView>) -> Self {
        let annotation = |key: &str| {
            metadata.annotations.as_ref().and_then(|all| all.get(key)).filter(|v| !v.is_empty()).cloned()
        };
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            requested_by: annotation(annotations::REQUESTED_BY),
            requested_ref: annotation(annotations::REQUESTED_REF),
            spec,
            seen_request: status.unwrap_or_default().requested_ref,
        }
    }

    /// The ref that the gateways are told to run: the one requested last, unless a newer edit of the spec ended that.
    #[must_use]
    pub fn effective_ref(&self) -> &str {
        match &self.requested_ref {
            Some(requested) if self.follows_request() => requested,
            _ => &self.spec.git.r#ref,
        }
    }

    /// Whether a requested ref is in force, as far as the controller has said.
    #[must_use]
    pub fn follows_request(&self) -> bool {
        let Some(requested) = &self.requested_ref else { return false };
        match &self.seen_request {
            Some(seen) if seen.r#ref == *requested => {
                !seen.superseded && seen.spec_ref == self.spec.git.r#ref
            }
            // The controller has not seen it yet.
            _ => true,
        }
    }
}

/// The `Stoker`s known from the watches. Clones share one content.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<RwLock<Content>>);

type Names = BTreeMap<String, Arc<StokerView>>;

#[derive(Debug, Default)]
struct Content {
    namespaces: HashMap<String, Names>,
    complete: bool,
}

impl Roster {
    /// Whether everything that is watched has been listed once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.read(|content| content.complete)
    }

    /// One `Stoker`.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<StokerView>> {
        self.read(|content| content.namespaces.get(namespace)?.get(name).cloned())
    }

    /// All of one namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<StokerView>> {
        self.read(|content| {
            content
                .namespaces
                .get(namespace)
                .map(|names| names.values().cloned().collect())
                .unwrap_or_default()
        })
    }

    /// Adds one, or takes its newer version.
    pub fn put(&self, view: StokerView) {
        self.write(|content| {
            let names = content.namespaces.entry(view.namespace.clone()).or_default();
            names.insert(view.name.clone(), Arc::new(view));
        });
    }

    /// Forgets one.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.write(|content| {
            if let Some(names) = content.namespaces.get_mut(namespace) {
                names.remove(name);
                if names.is_empty() {
                    content.namespaces.remove(namespace);
                }
            }
        });
    }

    /// Puts a fresh list in place of all that was known of `within` (one namespace, or all of them).
    pub fn replace(&self, within: Option<&str>, views: Vec<StokerView>) {
        self.write(|content| {
            match within {
                Some(namespace) => {
                    content.namespaces.remove(namespace);
                }
                None => content.namespaces.clear(),
            }
            for view in views {
                let names = content.namespaces.entry(view.namespace.clone()).or_default();
                names.insert(view.name.clone(), Arc::new(view));
            }
        });
    }

    /// Says that everything that is watched has been listed once.
    pub fn complete(&self) {
        self.write(|content| content.complete = true);
    }

    // A panic while the lock is held cannot leave the maps half changed, so a poisoned lock is as good as any.
    fn read<T>(&self, f: impl FnOnce(&Content) -> T) -> T {
        f(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write(&self, f: impl FnOnce(&mut Content)) {
        f(&mut self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(namespace: &str, name: &str) -> StokerView {
        let metadata = serde_json::json!({"namespace": namespace, "name": name, "annotations": {
            "stoker.io/requested-ref": "v1", "stoker.io/requested-by": ""}});
        let spec = serde_json::json!({
            "git": {"repo": "https://git.example.com/a.git", "ref": "main"},
            "gateway": {"apiKeySecretRef": {"name": "key"}},
            "vars": {"unknown": "here"},
        });
        StokerView::new(
            &serde_json::from_value(metadata).unwrap(),
            serde_json::from_value(spec).unwrap(),
            Some(StatusView::default()),
        )
    }

    #[test]
    fn a_view_has_the_defaults_of_the_api() {
        let view = view("a", "one");
        assert_eq!(view.spec.agent, AgentSpec::default());
        assert!(view.spec.webhook.enabled);
        assert_eq!(view.spec.gateway.api_key_secret_ref.key, "apiKey");
        assert_eq!(view.requested_by, None);
    }

    #[test]
    fn a_requested_ref_holds_until_a_newer_edit_ends_it() {
        let mut view = view("a", "one");
        assert_eq!(view.effective_ref(), "v1");
        let seen = |name: &str, superseded| {
            let (r#ref, spec_ref) = (name.to_owned(), "main".to_owned());
            Some(RequestedRef { at: "2026-01-01T00:00:00Z".to_owned(), r#ref, spec_ref, superseded })
        };
        view.seen_request = seen("v1", false);
        assert_eq!(view.effective_ref(), "v1");
        view.seen_request = seen("v1", true);
        assert_eq!(view.effective_ref(), "main");
        // The controller has not yet seen the newest request.
        view.seen_request = seen("v0", true);
        assert_eq!(view.effective_ref(), "v1");
        view.requested_ref = None;
        assert_eq!(view.effective_ref(), "main");
    }

    #[test]
    fn a_relist_forgets_what_is_gone_and_only_there() {
        let roster = Roster::default();
        assert!(!roster.is_complete());
        for (namespace, name) in [("a", "one"), ("a", "two"), ("b", "one")] {
            roster.put(view(namespace, name));
        }
        roster.replace(Some("a"), vec![view("a", "two")]);
        assert_eq!(roster.in_namespace("a").len(), 1);
        assert!(roster.get("a", "one").is_none() && roster.get("b", "one").is_some());
        roster.remove("a", "two");
        assert!(roster.in_namespace("a").is_empty());
        roster.replace(None, vec![]);
        assert!(roster.get("b", "one").is_none());
        roster.complete();
        assert!(roster.is_complete());
    }
}
