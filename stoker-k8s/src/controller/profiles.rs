//! The status of each `SyncProfile`: is it in force, for how many gateways, and what would a dry run change.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use stoker_core::Fault;
use tokio::sync::{mpsc, watch as channel};

use super::apply::{ApplyError, MANAGER, within};
use super::slim::GatewayPod;
use super::{Context, dereference, watch};
use crate::annotations::SYNC_PROFILE;
use crate::api::{DryRunDiff, Stoker, SyncProfile, SyncProfileStatus};
use crate::compile::{self, Dependencies, Profiles};
use crate::conditions::{self, Wanted, reason, whole_second};
use crate::names;
use crate::protocol::{AgentStatus, Hold};

/// A profile with everything that its status is made of.
#[derive(Debug, Clone)]
pub(super) struct Findings<'a> {
    pub(super) profile: &'a SyncProfile,
    /// The `Stoker`s that judge it: those whose pods name it, else all of the namespace.
    pub(super) stokers: Vec<&'a Stoker>,
    /// What the agents of its pods say; `None` for one that has not spoken.
    pub(super) agents: Vec<Option<AgentStatus>>,
    /// Which profile of the namespace waits for which.
    pub(super) dependencies: &'a Dependencies,
    /// What the profiles of the namespace say.
    pub(super) specs: &'a Profiles<'a>,
}

/// Makes the status. Pure.
pub(super) fn status(findings: &Findings<'_>, now: Timestamp) -> SyncProfileStatus {
    let profile = findings.profile;
    let old = profile.status.clone().unwrap_or_default();
    let generation = profile.metadata.generation;
    let mut wanted = vec![accepted(findings)];
    wanted.extend(dependencies_met(findings));
    let mut dry_run_diff = None;
    if profile.spec.dry_run {
        let done: Vec<&AgentStatus> = findings.agents.iter().flatten().filter(|a| a.dry_run).collect();
        let (total, count) = (findings.agents.len(), done.len());
        wanted.push(if total > 0 && count == total {
            Wanted::yes(
                conditions::DRY_RUN_COMPLETED,
                reason::SUCCEEDED,
                format!("{count} of {total} gateways reported"),
            )
        } else {
            let message = format!("{count} of {total} gateways reported");
            Wanted::no(conditions::DRY_RUN_COMPLETED, reason::DRY_RUN_PENDING, message)
        });
        if !done.is_empty() {
            let sum = |part: fn(&crate::api::FilesChanged) -> u64| {
                done.iter().filter_map(|a| a.files_changed.as_ref()).map(part).sum()
            };
            dry_run_diff = Some(DryRunDiff {
                files_added: sum(|f| f.added),
                files_modified: sum(|f| f.modified),
                files_deleted: sum(|f| f.deleted),
                last_evaluated: done
                    .iter()
                    .filter_map(|a| a.evaluated_at.as_ref().map(|t| t.0))
                    .max()
                    .map(|t| Time(whole_second(t))),
            });
        }
    }
    SyncProfileStatus {
        observed_generation: generation,
        gateway_count: u32::try_from(findings.agents.len()).unwrap_or(u32::MAX),
        dry_run_diff,
        conditions: conditions::merge(&old.conditions, wanted, generation, now),
    }
}

fn accepted(findings: &Findings<'_>) -> Wanted {
    const TYPE: &str = conditions::ACCEPTED;
    let (name, spec) = (findings.profile.name_any(), &findings.profile.spec);
    let generation = findings.profile.metadata.generation.unwrap_or_default();
    let judged = if findings.stokers.is_empty() {
        compile::profile_alone(&name, spec).and_then(|()| compile::includes(&name, spec, findings.specs))
    } else {
        findings.stokers.iter().try_for_each(|stoker| {
            // What is wrong with the Stoker itself is said there.
            let base = compile::base(&stoker.spec, 0).unwrap_or_default();
            compile::profile(&base, &name, generation, spec, findings.specs).map(drop)
        })
    };
    match judged.and_then(|()| compile::no_circle(&name, findings.dependencies)) {
        Ok(()) => {
            let count = findings.agents.len();
            let message = match (findings.stokers.len(), count) {
                (0, _) => "valid; there is no Stoker in this namespace yet".to_owned(),
                (_, 1) => "in force for 1 gateway".to_owned(),
                _ => format!("in force for {count} gateways"),
            };
            Wanted::yes(TYPE, reason::SUCCEEDED, message)
        }
        Err(problems) => {
            let message = format!("{problems}; the last accepted version stays in force");
            Wanted::no(TYPE, problems.category().as_str(), message)
        }
    }
}

/// Whether its gateways are free to go; nothing where the profile waits for nobody.
fn dependencies_met(findings: &Findings<'_>) -> Option<Wanted> {
    const TYPE: &str = conditions::DEPENDENCIES_MET;
    if findings.profile.spec.depends_on.is_empty() {
        return None;
    }
    let waits = |status: &&AgentStatus| status.reason.as_deref() == Some(Hold::DEPENDENCY);
    let waiting: Vec<&AgentStatus> = findings.agents.iter().flatten().filter(waits).collect();
    Some(match waiting.first() {
        None => Wanted::yes(TYPE, reason::SUCCEEDED, "no gateway waits for another profile".to_owned()),
        Some(first) => {
            let (count, total) = (waiting.len(), findings.agents.len());
            let message = format!("{count} of {total} gateways are held: {}", first.message);
            Wanted::no(TYPE, reason::WAITING, message)
        }
    })
}

/// Keeps the statuses of the profiles in the namespaces that `touched` names, until `stop`.
pub(super) async fn keep_reported(
    context: &Context,
    mut touched: mpsc::UnboundedReceiver<String>,
    mut stop: channel::Receiver<bool>,
) {
    loop {
        let first = tokio::select! {
            first = touched.recv() => first,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(first) = first else { return };
        let mut namespaces = BTreeSet::from([first]);
        // What comes in together is done once.
        tokio::time::sleep(Duration::from_millis(100)).await;
        while let Ok(more) = touched.try_recv() {
            namespaces.insert(more);
        }
        if !*context.leading.borrow() {
            continue;
        }
        for namespace in namespaces {
            if let Err(error) = report(context, &namespace).await {
                tracing::warn!(namespace, error = %stoker_core::chain(&error), "profile status not written");
            }
        }
    }
}

async fn report(context: &Context, namespace: &str) -> Result<(), ApplyError> {
    let caches = &context.caches;
    let stokers = watch::within(&caches.stokers, namespace);
    let pods: Vec<_> = watch::within(&caches.pods, namespace)
        .into_iter()
        .chain(watch::within(&caches.bare_pods, namespace))
        .filter(|pod| pod.is_live())
        .collect();
    let profiles = watch::within(&caches.profiles, namespace);
    let dependencies = super::validate::dependencies(profiles.iter().map(AsRef::as_ref));
    let specs = super::validate::specs(profiles.iter().map(AsRef::as_ref));
    for profile in &profiles {
        let name = profile.name_any();
        let mine: Vec<&GatewayPod> = pods
            .iter()
            .map(AsRef::as_ref)
            .filter(|pod| pod.annotations().get(SYNC_PROFILE).is_some_and(|v| v.trim() == name))
            .collect();
        let alone = stokers.len() == 1;
        let owner_of = |pod: &GatewayPod| {
            stokers
                .iter()
                .map(AsRef::as_ref)
                .find(|s: &&Stoker| dereference::belongs(pod, &s.name_any(), alone))
        };
        let mut judges: Vec<&Stoker> = mine.iter().filter_map(|pod| owner_of(pod)).collect();
        judges.sort_by_key(|s| s.name_any());
        judges.dedup_by_key(|s| s.name_any());
        if judges.is_empty() {
            judges = stokers.iter().map(AsRef::as_ref).collect();
            judges.sort_by_key(|s| s.name_any());
        }
        let agents = mine
            .iter()
            .map(|pod| {
                let (cr, pod) = (owner_of(pod)?.name_any(), pod.name_any());
                let map = watch::get(&caches.reports, namespace, &names::status(&cr, &pod))?;
                let status: AgentStatus = serde_json::from_str(map.data.status.as_deref()?).ok()?;
                status.is_of(&cr, &pod).then_some(status)
            })
            .collect();
        let new = status(
            &Findings { profile, stokers: judges, agents, dependencies: &dependencies, specs: &specs },
            Timestamp::now(),
        );
        if profile.status.as_ref() == Some(&new) {
            continue;
        }
        let api: Api<SyncProfile> = Api::namespaced(context.client.clone(), namespace);
        let body = Patch::Apply(json!({
            "apiVersion": SyncProfile::api_version(&()),
            "kind": SyncProfile::kind(&()),
            "metadata": {"name": name, "uid": profile.metadata.uid},
            "status": new,
        }));
        let params = PatchParams::apply(MANAGER).force();
        let request = api.patch_status(&name, &params, &body);
        match within("write the status of", "SyncProfile", &name, request).await {
            // Deleted meanwhile, or made anew: there is nothing left to say about this one.
            Err(error) if ["NotFound", "Conflict"].contains(&error.category().as_str()) => {}
            other => drop(other?),
        }
    }
    Ok(())
}
