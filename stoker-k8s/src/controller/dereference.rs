//! Phase 1: fetch everything that a `Stoker` refers to. From caches, but for what must not be cached.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};

use super::Context;
use super::lookup::{Outcome, Wanted};
use super::request::{self, Decision, Request};
use super::slim::{GatewayPod, MetadataMap, StatusMap};
use super::watch::{Caches, get, within};
use crate::annotations::{CR_NAME, DIGEST};
use crate::api::{SecretKeyRef, Stoker, SyncProfile};
use crate::names;

/// A `Stoker` and all that it refers to.
#[derive(Debug, Clone)]
pub struct World {
    /// The object.
    pub stoker: Arc<Stoker>,
    /// The profiles of its namespace.
    pub profiles: Vec<Arc<SyncProfile>>,
    /// Its live pods, by name.
    pub pods: Vec<Arc<GatewayPod>>,
    /// What its agents report, by the name of the ConfigMap.
    pub reports: BTreeMap<String, Heard>,
    /// What its agents are told now.
    pub metadata: Option<Arc<MetadataMap>>,
    /// Digest of the Role in the cluster.
    pub role_digest: Option<String>,
    /// Digest of the RoleBinding in the cluster.
    pub binding_digest: Option<String>,
    /// What is asked for by annotation.
    pub request: Request,
    /// Which ref is wanted.
    pub decision: Decision,
    /// What the last look-up of that ref found.
    pub lookup: Option<Outcome>,
    /// When the next look-up is due.
    pub next_lookup: Option<Duration>,
}

/// What an agent reports, and for how long it has been silent.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The ConfigMap.
    pub map: Arc<StatusMap>,
    /// Time since the heartbeat was seen to change, by our own clock.
    pub silent_for: Duration,
    /// The pod that owns it is there.
    pub owner_is_there: bool,
}

/// What a Secret is needed for, besides git.
pub(super) const FOR_DELIVERIES: &str = "deliveries";
/// See [`FOR_DELIVERIES`].
pub(super) const FOR_GATEWAY: &str = "gateway";

/// Fetches the world of `stoker`.
pub(super) async fn dereference(context: &Context, caches: &Caches, stoker: Arc<Stoker>) -> World {
    let (namespace, name) = super::watch::key(stoker.as_ref());
    let request = Request::read(stoker.annotations());
    let record = stoker.status.as_ref().and_then(|s| s.requested_ref.as_ref());
    let edited = request::spec_edited(stoker.metadata.managed_fields.as_deref());
    let decision = request::decide(&stoker.spec.git.r#ref, &request, record, edited);

    let wanted = Wanted {
        git: stoker.spec.git.clone(),
        git_ref: decision.git_ref.clone(),
        also_needed: also_needed(&stoker),
    };
    let polling = &stoker.spec.polling;
    let interval = polling.enabled.then_some(polling.interval.0);
    let (lookup, next_lookup) =
        context.lookups.want(&ObjectRef::from_obj(stoker.as_ref()), wanted, request.at.as_deref(), interval);

    let alone = within(&caches.stokers, &namespace).len() == 1;
    let mut pods = Vec::new();
    for pod in within(&caches.pods, &namespace).into_iter().chain(within(&caches.bare_pods, &namespace)) {
        if belongs(&pod, &name, alone)
            && pod.is_live()
            && (pod.has_agent() || is_running(&context.client, &pod).await)
        {
            pods.push(pod);
        }
    }
    pods.sort_by_key(|pod| pod.name_any());

    // By name, whosever they are: another Stoker's pod may have to report in the very same object.
    let uids: HashSet<String> =
        within(&caches.pods, &namespace).iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    let reports = pods
        .iter()
        .filter_map(|pod| get(&caches.reports, &namespace, &names::status(&name, &pod.name_any())))
        .map(|map| {
            let silent_for =
                context.heartbeats.silent_for(&namespace, &map.name_any(), map.data.heartbeat.as_deref());
            let owner_is_there = map.owner_references().iter().any(|owner| uids.contains(&owner.uid));
            (map.name_any(), Heard { map, silent_for, owner_is_there })
        })
        .collect();
    let role = names::agent_role(&name);
    World {
        profiles: within(&caches.profiles, &namespace),
        pods,
        reports,
        metadata: get(&caches.metadata, &namespace, &names::metadata(&name)),
        role_digest: get(&caches.roles, &namespace, &role).and_then(|r| r.annotations().get(DIGEST).cloned()),
        binding_digest: get(&caches.bindings, &namespace, &role)
            .and_then(|r| r.annotations().get(DIGEST).cloned()),
        request,
        decision,
        lookup,
        next_lookup,
        stoker,
    }
}

/// Whether a pod belongs to the `Stoker` `name`: it says so, or there is no other.
pub(super) fn belongs(pod: &GatewayPod, name: &str, alone: bool) -> bool {
    match pod.annotations().get(CR_NAME).map(|v| v.trim()).filter(|v| !v.is_empty()) {
        Some(named) => named == name,
        None => alone,
    }
}

fn also_needed(stoker: &Stoker) -> Vec<(&'static str, SecretKeyRef)> {
    let key = &stoker.spec.gateway.api_key_secret_ref;
    let mut needed = vec![(FOR_GATEWAY, SecretKeyRef { name: key.name.clone(), key: key.key.clone() })];
    if stoker.spec.webhook.enabled {
        needed.extend(stoker.spec.webhook.secret_ref.clone().map(|at| (FOR_DELIVERIES, at)));
    }
    needed
}

/// Pods without a sidecar are cached without their status; there are few of them, so that asking is cheap.
async fn is_running(client: &Client, pod: &GatewayPod) -> bool {
    let api: Api<GatewayPod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    match tokio::time::timeout(Duration::from_secs(5), api.get_opt(&pod.name_any())).await {
        Ok(Ok(Some(found))) => found.is_live() && !found.has_agent(),
        Ok(Ok(None)) => false,
        // In doubt it counts: a missing sidecar is not hidden by a slow API server.
        Ok(Err(_)) | Err(_) => true,
    }
}
