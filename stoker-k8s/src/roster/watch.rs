//! Keeping a roster true.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, ListParams, Object};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Client, ResourceExt};

use super::{Roster, RosterError, SpecView, StatusView, StokerView};
use crate::api::Stoker;

/// What an installation looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole cluster.
    All,
    /// These namespaces and no other.
    Namespaces(Vec<String>),
}

impl Scope {
    /// The scope that a list of names means: the whole cluster when it is empty.
    #[must_use]
    pub fn from_names(names: Vec<String>) -> Self {
        if names.is_empty() { Self::All } else { Self::Namespaces(names) }
    }

    /// Whether `namespace` belongs to it.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.iter().any(|name| name == namespace),
        }
    }
}

type Slim = Object<SpecView, StatusView>;
type Guarded = DeserializeGuard<Slim>;

/// Keeps `roster` true for ever; failures are logged and retried with back-off.
///
/// One watch for the whole cluster, or one per namespace. An object that cannot be read is logged and left out; it
/// hides no other.
pub async fn watch(client: Client, scope: Scope, roster: Roster) {
    match scope {
        Scope::All => one(client, None, &roster, || roster.complete()).await,
        Scope::Namespaces(names) => {
            let left = std::sync::atomic::AtomicUsize::new(names.len());
            let listed = || {
                if left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1 {
                    roster.complete();
                }
            };
            futures::future::join_all(
                names.iter().map(|name| one(client.clone(), Some(name.as_str()), &roster, listed)),
            )
            .await;
        }
    }
}

async fn one(client: Client, namespace: Option<&str>, roster: &Roster, listed: impl FnOnce()) {
    // Below the five minutes after which many a load balancer drops a silent connection.
    let config = watcher::Config::default().timeout(200).page_size(50);
    let events = watch_objects(api(client, namespace), config).default_backoff();
    let mut events = pin!(events);
    let (mut fresh, mut listed) = (Vec::new(), Some(listed));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => fresh.clear(),
            Ok(Event::InitApply(object)) => fresh.extend(view(object)),
            Ok(Event::InitDone) => {
                roster.replace(namespace, std::mem::take(&mut fresh));
                if let Some(listed) = listed.take() {
                    listed();
                }
            }
            Ok(Event::Apply(object)) => {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                match view(object) {
                    Some(view) => roster.put(view),
                    None => roster.remove(&namespace, &name),
                }
            }
            Ok(Event::Delete(object)) => {
                roster.remove(&object.namespace().unwrap_or_default(), &object.name_any());
            }
            Err(error) => {
                tracing::warn!(error = stoker_core::chain(&error), "cannot watch stokers, will retry")
            }
        }
    }
}

/// Reads the `Stoker`s of one namespace from the API server, within `limit`: for when the watch may lag behind.
///
/// # Errors
/// When the API server does not answer in time, or with an error.
pub async fn list(
    client: Client,
    namespace: &str,
    limit: Duration,
) -> Result<Vec<Arc<StokerView>>, RosterError> {
    let api = api(client, Some(namespace));
    // More than a handful in one namespace is a mistake that the first page already shows.
    let params = ListParams::default().limit(50);
    let answer = tokio::time::timeout(limit, api.list(&params)).await;
    let objects = answer.map_err(|_| RosterError::Timeout { namespace: namespace.to_owned(), limit })??;
    Ok(objects.items.into_iter().filter_map(view).map(Arc::new).collect())
}

/// Reads one `Stoker` from the API server, within `limit`: for when the watch may lag behind.
///
/// # Errors
/// When the API server does not answer in time, or with an error; one that does not exist is none.
pub async fn get(
    client: Client,
    namespace: &str,
    name: &str,
    limit: Duration,
) -> Result<Option<Arc<StokerView>>, RosterError> {
    let api = api(client, Some(namespace));
    let answer = tokio::time::timeout(limit, api.get_opt(name)).await;
    let object = answer.map_err(|_| RosterError::Timeout { namespace: namespace.to_owned(), limit })??;
    Ok(object.and_then(view).map(Arc::new))
}

fn api(client: Client, namespace: Option<&str>) -> Api<Guarded> {
    let resource = ApiResource::erase::<Stoker>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

fn view(object: Guarded) -> Option<StokerView> {
    match object.0 {
        Ok(object) => Some(StokerView::new(&object.metadata, object.spec, object.status)),
        Err(invalid) => {
            let (namespace, name) = (invalid.metadata.namespace, invalid.metadata.name);
            tracing::warn!(?namespace, ?name, error = invalid.error, "cannot read this stoker");
            None
        }
    }
}
