//! The watches and the caches that they fill.
//!
//! Each watch backs off for itself; an error of one never slows the others. An object that cannot be decoded is left
//! out and logged, the last good version of it stays in the cache.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::slim::{GatewayPod, MetadataMap, StatusMap, slim_meta};
use crate::annotations::{
    AGENT_LABEL, COMPONENT, COMPONENT_ACCESS, COMPONENT_METADATA, COMPONENT_STATUS, MANAGED_BY,
    MANAGED_BY_STOKER,
};
use crate::api::{Stoker, SyncProfile};

/// Which namespaces are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Cluster,
    /// One.
    Namespace(String),
}

impl Scope {
    /// One scope for the whole cluster, or one for each namespace.
    #[must_use]
    pub fn each(whole: &crate::roster::Scope) -> Vec<Self> {
        match whole {
            crate::roster::Scope::All => vec![Self::Cluster],
            crate::roster::Scope::Namespaces(names) => names.iter().cloned().map(Self::Namespace).collect(),
        }
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
        }
    }
}

/// Everything that the controller knows of the cluster.
#[derive(Clone)]
pub struct Caches {
    /// The `Stoker`s.
    pub stokers: Store<Stoker>,
    /// The profiles.
    pub profiles: Store<SyncProfile>,
    /// Pods with a sidecar.
    pub pods: Store<GatewayPod>,
    /// Pods that ask for a sidecar and have none.
    pub bare_pods: Store<GatewayPod>,
    /// What agents are told.
    pub metadata: Store<MetadataMap>,
    /// What agents report.
    pub reports: Store<StatusMap>,
    /// Roles of ours.
    pub roles: Store<PartialObjectMeta<Role>>,
    /// RoleBindings of ours.
    pub bindings: Store<PartialObjectMeta<RoleBinding>>,
}

/// The streams that fill [`Caches`]; each must be polled. Items are objects that changed in a way that matters.
pub(super) struct Streams {
    pub(super) stokers: BoxStream<Stoker>,
    pub(super) profiles: BoxStream<SyncProfile>,
    pub(super) pods: BoxStream<GatewayPod>,
    pub(super) bare_pods: BoxStream<GatewayPod>,
    pub(super) metadata: BoxStream<MetadataMap>,
    pub(super) reports: BoxStream<StatusMap>,
    pub(super) roles: BoxStream<PartialObjectMeta<Role>>,
    pub(super) bindings: BoxStream<PartialObjectMeta<RoleBinding>>,
}

pub(super) type BoxStream<K> = stream::BoxStream<'static, Result<K, watcher::Error>>;

impl Caches {
    /// Opens the watches of `scope`.
    pub(super) fn open(client: &Client, scope: &Scope) -> (Self, Streams) {
        let ours = |component: &str| format!("{MANAGED_BY}={MANAGED_BY_STOKER},{COMPONENT}={component}");
        let (stokers, stoker_stream) = guarded::<Stoker>(scope.api(client), |s| {
            if let Some(fields) = &mut s.metadata.managed_fields {
                // Only who wrote `spec.git.ref`, and when, is ever asked for.
                fields.retain(super::request::writes_ref);
            }
            if let Some(annotations) = &mut s.metadata.annotations {
                annotations.retain(|key, _| key.starts_with("stoker.io/"));
            }
        });
        let (profiles, profile_stream) =
            guarded::<SyncProfile>(scope.api(client), |p| slim_meta(&mut p.metadata));
        let (pods, pod_stream) = cached::<GatewayPod>(
            watcher(scope.api(client), config(Some(&format!("{AGENT_LABEL}=true")))),
            GatewayPod::slim,
            |pod| {
                fingerprint(&(
                    pod.annotations(),
                    pod.labels(),
                    &pod.status.phase,
                    pod.metadata.deletion_timestamp.is_some(),
                    &pod.metadata.uid,
                ))
            },
        );
        let (bare_pods, bare_pod_stream) = cached::<GatewayPod>(
            watcher(
                scope.api::<PartialObjectMeta<GatewayPod>>(client),
                config(Some(&format!("{AGENT_LABEL}!=true"))),
            )
            .filter_map(|event| future::ready(event.map(asks_for_sidecar).transpose())),
            GatewayPod::slim,
            |pod| {
                fingerprint(&(
                    pod.annotations(),
                    pod.metadata.deletion_timestamp.is_some(),
                    &pod.metadata.uid,
                ))
            },
        );
        let (metadata, metadata_stream) = cached::<MetadataMap>(
            watcher(scope.api(client), config(Some(&ours(COMPONENT_METADATA)))),
            |m| slim_meta(&mut m.metadata),
            |m| fingerprint(&m.data),
        );
        let (reports, report_stream) = cached::<StatusMap>(
            watcher(scope.api(client), config(Some(&ours(COMPONENT_STATUS)))),
            |m| slim_meta(&mut m.metadata),
            // A heartbeat alone changes nothing that anybody waits for.
            |m| fingerprint(&(&m.data.status, &m.metadata.uid)),
        );
        let (roles, role_stream) = cached::<PartialObjectMeta<Role>>(
            watcher(scope.api(client), config(Some(&ours(COMPONENT_ACCESS)))),
            |m| slim_meta(&mut m.metadata),
            |m| fingerprint(&m.metadata.resource_version),
        );
        let (bindings, binding_stream) = cached::<PartialObjectMeta<RoleBinding>>(
            watcher(scope.api(client), config(Some(&ours(COMPONENT_ACCESS)))),
            |m| slim_meta(&mut m.metadata),
            |m| fingerprint(&m.metadata.resource_version),
        );
        let caches = Self { stokers, profiles, pods, bare_pods, metadata, reports, roles, bindings };
        let streams = Streams {
            stokers: stoker_stream,
            profiles: profile_stream,
            pods: pod_stream,
            bare_pods: bare_pod_stream,
            metadata: metadata_stream,
            reports: report_stream,
            roles: role_stream,
            bindings: binding_stream,
        };
        (caches, streams)
    }

    /// Waits until every cache holds what the API server has.
    ///
    /// Never returns when the watches are not polled.
    pub async fn ready(&self) {
        let _ = futures::join!(
            self.stokers.wait_until_ready(),
            self.profiles.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.bare_pods.wait_until_ready(),
            self.metadata.wait_until_ready(),
            self.reports.wait_until_ready(),
            self.roles.wait_until_ready(),
            self.bindings.wait_until_ready(),
        );
    }
}

/// The object of this name.
pub(super) fn get<K>(cache: &Store<K>, namespace: &str, name: &str) -> Option<std::sync::Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    cache.get(&ObjectRef::new(name).within(namespace))
}

/// All objects of a namespace.
pub(super) fn within<K>(cache: &Store<K>, namespace: &str) -> Vec<std::sync::Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    cache.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
}

fn config(labels: Option<&str>) -> watcher::Config {
    let config = watcher::Config::default().timeout(200).page_size(50);
    match labels {
        Some(labels) => config.labels(labels),
        None => config,
    }
}

fn guarded<K>(
    api: Api<DeserializeGuard<K>>,
    slim: impl FnMut(&mut K) + Send + 'static,
) -> (Store<K>, BoxStream<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let events = watcher(api, config(None)).filter_map(|event| future::ready(event.map(decoded).transpose()));
    cached(events, slim, |object| fingerprint(&object.meta().resource_version))
}

/// Fills a cache and passes on what changed in a way that `matters` can tell, and what was deleted.
fn cached<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
    slim: impl FnMut(&mut K) + Send + 'static,
    matters: impl Fn(&K) -> u64 + Send + 'static,
) -> (Store<K>, BoxStream<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store::<K>();
    let mut seen: HashMap<ObjectRef<K>, u64> = HashMap::new();
    let mut listed: HashSet<ObjectRef<K>> = HashSet::new();
    let stream = events
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .filter_map(move |event| {
            let mut changed = |key: ObjectRef<K>, object: K| {
                let print = matters(&object);
                (seen.insert(key, print) != Some(print)).then_some(Ok(object))
            };
            let passed = match event {
                Ok(watcher::Event::Apply(object)) => changed(ObjectRef::from_obj(&object), object),
                Ok(watcher::Event::InitApply(object)) => {
                    let key = ObjectRef::from_obj(&object);
                    listed.insert(key.clone());
                    changed(key, object)
                }
                Ok(watcher::Event::Delete(object)) => {
                    seen.remove(&ObjectRef::from_obj(&object));
                    Some(Ok(object))
                }
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    None
                }
                Ok(watcher::Event::InitDone) => {
                    // What went while nobody watched. Whoever is concerned sees it at the next pass.
                    seen.retain(|key, _| listed.contains(key));
                    listed = HashSet::new();
                    None
                }
                Err(error) => {
                    // Passed on, it would slow down every other watch.
                    let kind = K::kind(&());
                    metrics::counter!("stoker_watch_errors_total", "kind" => kind.to_string()).increment(1);
                    tracing::warn!(%kind, error = %stoker_core::chain(&error), "watch interrupted");
                    None
                }
            };
            future::ready(passed)
        })
        .boxed();
    (reader, stream)
}

fn decoded<K: Resource<DynamicType = ()>>(
    event: watcher::Event<DeserializeGuard<K>>,
) -> Option<watcher::Event<K>> {
    let open = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let kind = K::kind(&());
            metrics::counter!("stoker_undecodable_objects_total", "kind" => kind.to_string()).increment(1);
            let (namespace, name) =
                (invalid.metadata.namespace.unwrap_or_default(), invalid.metadata.name.unwrap_or_default());
            tracing::error!(%kind, namespace, name, error = invalid.error, "object cannot be decoded and is left out");
            None
        }
    };
    Some(match event {
        watcher::Event::Apply(guard) => watcher::Event::Apply(open(guard)?),
        watcher::Event::InitApply(guard) => watcher::Event::InitApply(open(guard)?),
        watcher::Event::Delete(guard) => watcher::Event::Delete(open(guard)?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

/// Pods without a sidecar that ask for one; all others are forgotten at once.
fn asks_for_sidecar(
    event: watcher::Event<PartialObjectMeta<GatewayPod>>,
) -> Option<watcher::Event<GatewayPod>> {
    let keep = |partial: PartialObjectMeta<GatewayPod>| {
        let pod = GatewayPod { metadata: partial.metadata, ..GatewayPod::default() };
        pod.concerns_us().then_some(pod)
    };
    Some(match event {
        watcher::Event::Apply(pod) => watcher::Event::Apply(keep(pod)?),
        watcher::Event::InitApply(pod) => watcher::Event::InitApply(keep(pod)?),
        watcher::Event::Delete(pod) => watcher::Event::Delete(keep(pod)?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The namespace and name of an object, for logs and maps.
pub(super) fn key<K: ResourceExt>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}
