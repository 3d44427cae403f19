//! Phase 5: what people see. The status is a pure function of what was found; it is written only when it differs.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde_json::json;

use super::apply::{ApplyError, MANAGER, within};
use super::build::{BuildError, Objects};
use super::dereference::World;
use super::request::Request;
use super::validate::Validated;
use crate::api::{
    GatewayEntry, LastDelivery, MAX_LISTED_GATEWAYS, RefResolution, Stoker, StokerStatus, SyncStatus,
};
use crate::conditions::{self, whole_second};
use crate::receiver::Origin;

mod conditions_of;
mod gateways;
mod transitions;

pub use gateways::Patience;
pub use transitions::{Note, transitions};

/// Everything that the status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Findings<'a> {
    /// What was fetched.
    pub world: &'a World,
    /// What it was judged to be.
    pub validated: &'a Validated,
    /// What is in force now, or why nothing new could be built.
    pub objects: Result<&'a Objects, &'a BuildError>,
    /// How long an agent may be silent.
    pub patience: Patience,
}

/// Makes the status. Equal findings give equal statuses, whatever the time.
#[must_use]
pub fn status(findings: Findings<'_>, now: Timestamp) -> StokerStatus {
    let Findings { world, validated, objects, .. } = findings;
    let old = world.stoker.status.clone().unwrap_or_default();
    let metadata = objects.ok().and_then(|objects| objects.metadata.as_ref()).or(validated.previous.as_ref());
    let commit = metadata.and_then(|m| m.commit.clone());
    let entries = gateways::entries(findings, metadata, &old);
    let synced = entries.iter().filter(|e| e.sync_status == SyncStatus::Synced).count();
    let summary = format!("{synced}/{} synced", entries.len());
    let last_sync_time = entries
        .iter()
        .filter_map(|entry| entry.last_sync_time.as_ref().map(|t| t.0))
        .chain(old.last_sync_time.as_ref().map(|t| t.0))
        .max()
        .map(|t| Time(whole_second(t)));
    let wanted = conditions_of::conditions(findings, metadata, &entries, &old.conditions);
    let generation = world.stoker.metadata.generation;
    let mut status = StokerStatus {
        observed_generation: generation,
        ref_resolution_status: Some(resolution(world, &old)),
        last_sync_ref: metadata.filter(|_| commit.is_some()).map(|m| m.git_ref.clone()),
        short_commit: commit.as_deref().map(|c| c.chars().take(7).collect()),
        last_sync_commit: commit,
        last_sync_time,
        last_handled_trigger: handled(world).or(old.last_handled_trigger),
        requested_ref: world.decision.record.clone(),
        last_delivery: delivery(&world.request, old.last_delivery),
        gateway_summary: Some(summary),
        discovered_gateways: entries,
        gateways_not_listed: 0,
        conditions: conditions::merge(&old.conditions, wanted, generation, now),
    };
    fit(&mut status);
    status
}

/// The trigger that was answered: looked up, successfully or not.
fn handled(world: &World) -> Option<String> {
    world.lookup.as_ref().and_then(|outcome| outcome.trigger.clone())
}

/// The delivery that the annotations speak of. A person's request is none, and leaves the last one as it is.
fn delivery(request: &Request, old: Option<LastDelivery>) -> Option<LastDelivery> {
    let Some((source, id)) = request.by.as_deref().and_then(Origin::read_label) else { return old };
    let (source, id) = (source.as_str(), id.map(|id| conditions::cap(id.to_owned(), 128)));
    let known = old.filter(|old| id.is_some() && old.source == source && old.id == id);
    // One that is known keeps its time: a person who asks for a sync writes `requested-at` alone.
    known.or_else(|| {
        let at = request
            .at
            .as_deref()
            .and_then(|at| at.parse::<Timestamp>().ok())
            .map(|at| Time(whole_second(at)));
        Some(LastDelivery { id, source: source.to_owned(), outcome: "Accepted".to_owned(), at })
    })
}

fn resolution(world: &World, old: &StokerStatus) -> RefResolution {
    match &world.lookup {
        Some(outcome) if outcome.result.is_ok() => RefResolution::Resolved,
        Some(_) => RefResolution::Error,
        None => match old.ref_resolution_status {
            // After a restart the old answer holds until there is a new one.
            Some(known @ (RefResolution::Resolved | RefResolution::Error))
                if old.observed_generation == world.stoker.metadata.generation =>
            {
                known
            }
            _ => RefResolution::Resolving,
        },
    }
}

/// An object holds 1 MiB; conditions and managed fields need their part of it.
const MAX_STATUS_BYTES: usize = 700 * 1024;

/// Keeps the status within its bounds: first without history, then without the gateways that are fine.
fn fit(status: &mut StokerStatus) {
    let size = |status: &StokerStatus| serde_json::to_string(status).map_or(0, |text| text.len());
    if size(status) > MAX_STATUS_BYTES {
        for entry in &mut status.discovered_gateways {
            entry.history.clear();
        }
    }
    if size(status) > MAX_STATUS_BYTES {
        for entry in &mut status.discovered_gateways {
            entry.projects_synced.clear();
        }
    }
    let total = status.discovered_gateways.len();
    let mut keep = total.min(MAX_LISTED_GATEWAYS);
    if keep < total || size(status) > MAX_STATUS_BYTES {
        // Those that need a person come first, in a stable order.
        status.discovered_gateways.sort_by_key(|e| (e.sync_status == SyncStatus::Synced, e.pod_name.clone()));
        loop {
            status.discovered_gateways.truncate(keep);
            if keep == 0 || size(status) <= MAX_STATUS_BYTES {
                break;
            }
            keep -= keep.div_ceil(10);
        }
        status.gateways_not_listed = u32::try_from(total - keep).unwrap_or(u32::MAX);
        status.discovered_gateways.sort_by_key(|e: &GatewayEntry| e.pod_name.clone());
    }
}

/// Writes the status when it differs from what the cache has.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(super) async fn write(
    client: &Client,
    stoker: &Stoker,
    status: &StokerStatus,
) -> Result<bool, ApplyError> {
    if stoker.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let name = stoker.name_any();
    let api: Api<Stoker> = Api::namespaced(client.clone(), &stoker.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": Stoker::api_version(&()),
        "kind": Stoker::kind(&()),
        // The uid: a status of this object is never written to one that took its name.
        "metadata": {"name": name, "uid": stoker.metadata.uid},
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    within("write the status of", "Stoker", &name, api.patch_status(&name, &params, &Patch::Apply(&body)))
        .await?;
    Ok(true)
}

#[cfg(test)]
mod tests;
