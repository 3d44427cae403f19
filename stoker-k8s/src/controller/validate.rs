//! Phase 2: from raw and fetched to one validated value. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::ResourceExt;

use super::dereference::{Heard, World};
use super::slim::GatewayPod;
use crate::annotations::{AnnotationError, CR_NAME, PodAnnotations, gateway_name};
use crate::api::SyncProfile;
use crate::compile::{self, CompiledProfile, Dependencies, Problems, Profiles};
use crate::names;
use crate::protocol::{AgentReport, Metadata};

/// A `Stoker` whose parts have been judged.
#[derive(Debug, Clone)]
pub struct Validated {
    /// What holds for all its gateways, or what is wrong with it.
    pub base: Result<CompiledProfile, Problems>,
    /// The profiles of the namespace.
    pub profiles: BTreeMap<String, Verdict>,
    /// The gateways, by the name of the pod.
    pub gateways: Vec<Gateway>,
    /// What the agents are told now.
    pub previous: Option<Metadata>,
}

/// What became of a profile.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// In force.
    Accepted(CompiledProfile),
    /// Not in force; the last accepted version is, if there was one.
    Rejected {
        /// What is wrong.
        problems: Problems,
        /// What stays in force.
        last_good: Option<CompiledProfile>,
    },
}

impl Verdict {
    /// What is in force.
    #[must_use]
    pub fn in_force(&self) -> Option<&CompiledProfile> {
        match self {
            Self::Accepted(profile) => Some(profile),
            Self::Rejected { last_good, .. } => last_good.as_ref(),
        }
    }
}

/// A gateway pod.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Name of the pod.
    pub pod_name: String,
    /// Its uid.
    pub uid: String,
    /// Name of the gateway.
    pub name: String,
    /// It has a sidecar.
    pub has_agent: bool,
    /// The service account it runs as.
    pub service_account: String,
    /// What it says about itself.
    pub annotations: PodAnnotations,
    /// Annotations that cannot be used.
    pub annotation_errors: Vec<AnnotationError>,
    /// Name of its status ConfigMap.
    pub status_map: String,
    /// That ConfigMap, as far as it is there.
    pub report: Report,
}

/// What is known of an agent.
#[derive(Debug, Clone)]
pub enum Report {
    /// There is no ConfigMap yet.
    Absent,
    /// There is one of an earlier pod of this name.
    OfAnotherPod {
        /// The uid of the ConfigMap.
        uid: String,
    },
    /// The only ConfigMap that it could report in is another agent's: nothing is known of it. Whose, in words.
    Foreign(String),
    /// Another agent has written into its ConfigMap: nothing is known of it until it speaks again. Whose, in words.
    Overwritten(String),
    /// What it says, and for how long it has been silent since.
    Heard {
        /// What it says.
        report: Box<AgentReport>,
        /// Silence by our clock.
        silent_for: Duration,
    },
    /// It says something that cannot be read.
    Unreadable(String),
}

/// Judges everything.
#[must_use]
pub fn validate(world: &World) -> Validated {
    // A defect in what we wrote ourselves must not stop anything: it is written anew.
    let previous = world.metadata.as_ref().and_then(|map| Metadata::from_data(&map.data).ok());
    let base = compile::base(&world.stoker.spec, 0);
    let specs = specs(world.profiles.iter().map(AsRef::as_ref));
    let profiles = match &base {
        Ok(base) => world
            .profiles
            .iter()
            .filter(|profile| profile.metadata.deletion_timestamp.is_none())
            .map(|profile| {
                let name = profile.name_any();
                let generation = profile.metadata.generation.unwrap_or_default();
                let verdict = match compile::profile(base, &name, generation, &profile.spec, &specs) {
                    Ok(compiled) => Verdict::Accepted(compiled),
                    Err(problems) => {
                        let last_good = previous.as_ref().and_then(|p| p.profiles.get(&name).cloned());
                        Verdict::Rejected { problems, last_good }
                    }
                };
                (name, verdict)
            })
            .collect(),
        Err(_) => BTreeMap::new(),
    };
    let profiles = without_circles(profiles, world, previous.as_ref());
    let gateways = world.pods.iter().map(|pod| gateway(world, pod)).collect();
    Validated { base, profiles, gateways, previous }
}

/// Refuses profiles that wait for themselves; their last accepted versions stay in force.
fn without_circles(
    mut profiles: BTreeMap<String, Verdict>,
    world: &World,
    previous: Option<&Metadata>,
) -> BTreeMap<String, Verdict> {
    let all = dependencies(world.profiles.iter().map(AsRef::as_ref));
    for (name, verdict) in &mut profiles {
        if let Verdict::Accepted(_) = verdict
            && let Err(problems) = compile::no_circle(name, &all)
        {
            let last_good = previous.and_then(|p| p.profiles.get(name).cloned());
            *verdict = Verdict::Rejected { problems, last_good };
        }
    }
    profiles
}

/// Which profile waits for which.
pub(super) fn dependencies<'a>(profiles: impl Iterator<Item = &'a SyncProfile>) -> Dependencies {
    let names =
        |profile: &SyncProfile| profile.spec.depends_on.iter().map(|d| d.profile_name.clone()).collect();
    profiles.map(|profile| (profile.name_any(), names(profile))).collect()
}

/// What each profile says, as long as it is not about to go.
pub(super) fn specs<'a>(profiles: impl Iterator<Item = &'a SyncProfile>) -> Profiles<'a> {
    let there = profiles.filter(|profile| profile.metadata.deletion_timestamp.is_none());
    there.map(|profile| (profile.name_any(), &profile.spec)).collect()
}

/// What a ConfigMap says of the agent in the pod of this name and uid.
fn heard_of(heard: &Heard, cr: &str, pod_name: &str, uid: &str) -> Report {
    let map = heard.map.as_ref();
    let owner = map.owner_references().first();
    let label = map.labels().get(CR_NAME).cloned().unwrap_or_default();
    let ours = label == names::label_value(cr) && owner.is_some_and(|owner| owner.name == pod_name);
    if !ours && heard.owner_is_there {
        let owner = owner.map_or("?", |owner| owner.name.as_str());
        return Report::Foreign(format!("pod {owner} of Stoker {label}"));
    }
    if !ours || owner.is_none_or(|owner| owner.uid != uid) {
        return Report::OfAnotherPod { uid: map.metadata.uid.clone().unwrap_or_default() };
    }
    let data = [("status", &map.data.status), ("heartbeat", &map.data.heartbeat)];
    let data = data.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?))).collect();
    match AgentReport::from_data(&data) {
        Ok(AgentReport { status: Some(status), .. }) if !status.is_of(cr, pod_name) => {
            Report::Overwritten(format!("pod {:?} of Stoker {:?}", status.pod, status.cr))
        }
        Ok(report) => Report::Heard { report: Box::new(report), silent_for: heard.silent_for },
        Err(error) => Report::Unreadable(stoker_core::chain(&error)),
    }
}

fn gateway(world: &World, pod: &GatewayPod) -> Gateway {
    let pod_name = pod.name_any();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (annotations, annotation_errors) = PodAnnotations::read(pod.annotations());
    let status_map = names::status(&world.stoker.name_any(), &pod_name);
    let report = match world.reports.get(&status_map) {
        None => Report::Absent,
        Some(heard) => heard_of(heard, &world.stoker.name_any(), &pod_name, &uid),
    };
    Gateway {
        name: gateway_name(pod.annotations(), pod.labels(), &pod_name),
        has_agent: pod.has_agent(),
        service_account: pod.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
        pod_name,
        uid,
        annotations,
        annotation_errors,
        status_map,
        report,
    }
}
