//! Writing requests onto `Stoker`s, as few as possible.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use stoker_core::{Category, Fault, Retry};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::annotations::{REQUESTED_AT, REQUESTED_BY, REQUESTED_REF};
use crate::api::Stoker;
use crate::roster::StokerView;

/// Longest time for a write; forges give up after ten seconds.
const WRITE_LIMIT: Duration = Duration::from_secs(8);
/// Field manager of the receiver.
const MANAGER: &str = "stoker-receiver";

/// Why a request is not on its `Stoker`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum TriggerError {
    /// The API server refused.
    #[error("cannot annotate stoker {namespace}/{name}")]
    Api {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The cause.
        #[source]
        source: Error,
    },
    /// The API server takes too long, or the process ends.
    #[error("the API server did not store the request in time")]
    Timeout,
}

impl Fault for TriggerError {
    fn category(&self) -> Category {
        Category::new("RequestNotStored")
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// What the API server has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// The value of `stoker.io/requested-at`.
    pub(super) at: String,
    /// The ref, if this delivery asked for one.
    pub(super) requested_ref: Option<String>,
}

type Outcome = Result<String, Arc<TriggerError>>;

/// Requests, one write at a time for each `Stoker`. What arrives during a write shares the next one.
pub(super) struct Triggers {
    client: Client,
    waiting: Arc<Mutex<HashMap<Place, Waiting>>>,
}

type Place = (String, String);

/// What the next write of a `Stoker` says. The entry exists as long as its writer does.
#[derive(Default)]
struct Waiting {
    by: String,
    requested_ref: RefChange,
    answers: Vec<oneshot::Sender<Outcome>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum RefChange {
    /// As it is.
    #[default]
    Keep,
    /// A newer edit of the spec has ended the request that still stands there; a new time must not revive it.
    Clear,
    /// This one.
    Set(String),
}

impl Triggers {
    pub(super) fn new(client: Client) -> Self {
        Self { client, waiting: Arc::default() }
    }

    /// Requests a sync, and returns once the API server has stored the request.
    pub(super) async fn request(
        &self,
        stoker: &StokerView,
        by: String,
        requested_ref: Option<String>,
    ) -> Result<Stored, Arc<TriggerError>> {
        let (answer, outcome) = oneshot::channel();
        let change = match &requested_ref {
            Some(git_ref) => RefChange::Set(git_ref.clone()),
            None if stoker.requested_ref.is_some() && !stoker.follows_request() => RefChange::Clear,
            None => RefChange::Keep,
        };
        let place = (stoker.namespace.clone(), stoker.name.clone());
        if enqueue(&self.waiting, place.clone(), by, change, answer) {
            // On its own, so that a sender that hangs up takes nobody's request with it.
            tokio::spawn(write_all(self.client.clone(), Arc::clone(&self.waiting), place));
        }
        let at = outcome.await.unwrap_or_else(|_| Err(Arc::new(TriggerError::Timeout)))?;
        Ok(Stored { at, requested_ref })
    }
}

/// Adds a request to the next write; true when somebody has to do it.
fn enqueue(
    waiting: &Mutex<HashMap<Place, Waiting>>,
    place: Place,
    by: String,
    change: RefChange,
    answer: oneshot::Sender<Outcome>,
) -> bool {
    let mut all = lock(waiting);
    let first = !all.contains_key(&place);
    let entry = all.entry(place).or_default();
    entry.by = by;
    if change != RefChange::Keep {
        entry.requested_ref = change;
    }
    entry.answers.push(answer);
    first
}

/// Writes until nobody waits any more.
async fn write_all(client: Client, waiting: Arc<Mutex<HashMap<Place, Waiting>>>, place: Place) {
    loop {
        let batch = {
            let mut all = lock(&waiting);
            let Some(entry) = all.get_mut(&place) else { return };
            if entry.answers.is_empty() {
                all.remove(&place);
                return;
            }
            std::mem::take(entry)
        };
        let outcome = write(&client, &place, &batch).await.map_err(Arc::new);
        for answer in batch.answers {
            // Whoever hung up does not want to know.
            let _ = answer.send(outcome.clone());
        }
    }
}

async fn write(client: &Client, (namespace, name): &Place, batch: &Waiting) -> Result<String, TriggerError> {
    let at = Timestamp::now().to_string();
    let api: Api<Stoker> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(patch(&at, &batch.by, &batch.requested_ref));
    match timeout(WRITE_LIMIT, api.patch_metadata(name, &params, &patch)).await {
        Err(_) => Err(TriggerError::Timeout),
        Ok(Err(source)) => {
            Err(TriggerError::Api { namespace: namespace.clone(), name: name.clone(), source })
        }
        Ok(Ok(_)) => Ok(at),
    }
}

fn patch(at: &str, by: &str, change: &RefChange) -> Value {
    let mut annotations = json!({ REQUESTED_AT: at, REQUESTED_BY: by });
    match change {
        RefChange::Keep => {}
        RefChange::Clear => annotations[REQUESTED_REF] = Value::Null,
        RefChange::Set(git_ref) => annotations[REQUESTED_REF] = git_ref.as_str().into(),
    }
    json!({ "metadata": { "annotations": annotations } })
}

fn lock(waiting: &Mutex<HashMap<Place, Waiting>>) -> MutexGuard<'_, HashMap<Place, Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_wait_become_one_and_the_newest_wins() {
        let (waiting, place) = (Mutex::default(), ("ns".to_owned(), "a".to_owned()));
        let add =
            |by: &str, change| enqueue(&waiting, place.clone(), by.to_owned(), change, oneshot::channel().0);
        assert!(add("github/1", RefChange::Set("v1".to_owned())), "somebody has to write");
        assert!(!add("github/2", RefChange::Set("v2".to_owned())));
        assert!(!add("github/3", RefChange::Keep), "a plain push takes no request back");
        let all = lock(&waiting);
        let entry = &all[&place];
        assert_eq!((entry.by.as_str(), &entry.requested_ref), ("github/3", &RefChange::Set("v2".to_owned())));
        assert_eq!(entry.answers.len(), 3);
    }

    #[test]
    fn a_plain_push_leaves_a_requested_ref_alone() {
        assert!(!patch("t", "b", &RefChange::Keep).to_string().contains("requested-ref"));
        let cleared = patch("t", "b", &RefChange::Clear);
        assert_eq!(cleared["metadata"]["annotations"]["stoker.io/requested-ref"], Value::Null);
        assert!(cleared.to_string().contains("requested-ref"));
    }
}
