//! The keys of a `Stoker`'s deliveries: read by name when needed, kept for seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use super::signature::Key;
use crate::api::SecretKeyRef;

/// How long a key counts after it was read: as long works one that was taken away.
const TRUSTED: Duration = Duration::from_secs(30);
/// After a signature that does not fit, the Secret is read again, but not more often than this: whoever sends forged
/// deliveries cannot make us ask the API server at their pace.
const AGAIN: Duration = Duration::from_secs(3);
/// Longest time for reading an object.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(5);
/// Most Secrets kept; beyond it, the oldest goes.
const KEPT: usize = 1024;
/// Suffix of the key that still counts while senders move to a new one.
const PREVIOUS: &str = ".previous";

/// Why keys are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// For the first time.
    Cached,
    /// Those that were got did not fit: perhaps they were rotated.
    AfterMismatch,
}

/// What was read, when, by namespace and reference.
type Kept = HashMap<(String, SecretKeyRef), (Instant, Arc<Vec<Key>>)>;

pub(super) struct Keys {
    client: Client,
    kept: Mutex<Kept>,
}

impl Keys {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// The keys at `at`; `None` when there are none, or no newer ones after a mismatch.
    pub(super) async fn get(
        &self,
        namespace: &str,
        at: &SecretKeyRef,
        freshness: Freshness,
    ) -> Option<Arc<Vec<Key>>> {
        let place = (namespace.to_owned(), at.clone());
        let known = self.lock().get(&place).cloned();
        if let Some((read, keys)) = known {
            match freshness {
                Freshness::Cached if read.elapsed() < TRUSTED => return Some(keys),
                Freshness::AfterMismatch if read.elapsed() < AGAIN => return None,
                _ => {}
            }
        }
        let keys = Arc::new(self.read(namespace, at).await);
        let mut kept = self.lock();
        if kept.len() >= KEPT && !kept.contains_key(&place) {
            let oldest = kept.iter().min_by_key(|(_, (read, _))| *read).map(|(place, _)| place.clone());
            oldest.map(|place| kept.remove(&place));
        }
        kept.insert(place, (Instant::now(), Arc::clone(&keys)));
        Some(keys)
    }

    /// What cannot be read is no key: its deliveries are refused, and the condition `WebhookReady` of the resource
    /// says why.
    async fn read(&self, namespace: &str, at: &SecretKeyRef) -> Vec<Key> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let data = match timeout(READ_LIMIT, api.get_opt(&at.name)).await {
            Ok(Ok(secret)) => secret.and_then(|secret| secret.data).unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(
                    namespace,
                    secret = at.name,
                    error = stoker_core::chain(&error),
                    "cannot read a secret"
                );
                return Vec::new();
            }
            Err(_) => {
                tracing::warn!(namespace, secret = at.name, "the API server takes too long to read a secret");
                return Vec::new();
            }
        };
        let names = [at.key.clone(), format!("{}{PREVIOUS}", at.key)];
        names
            .iter()
            .filter_map(|name| data.get(name))
            .map(|value| Key::new(&value.0))
            .filter(|k| !k.is_empty())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
