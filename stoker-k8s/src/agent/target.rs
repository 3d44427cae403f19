//! What this pod should run now: a pure function of the metadata and of the pod's own annotations.

use std::collections::BTreeMap;

use stoker_core::{Fault, chain};

use crate::annotations::{PodAnnotations, gateway_name, pod_ordinal};
use crate::compile::{CompiledProfile, GatewayFacts, effective};
use crate::protocol::Metadata;

/// The pod, as it describes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The `Stoker` it belongs to.
    pub cr: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Nothing yet: the controller has not spoken, or has not resolved the ref.
    Wait(&'static str),
    /// Nothing is to be written.
    Held {
        /// `paused`, or why the controller holds this pod.
        reason: String,
        /// In words.
        message: String,
    },
    /// Others go first; then it is this pod's turn, without anybody's doing.
    Queued {
        /// What holds, in one word.
        reason: String,
        /// For whom it waits.
        message: String,
    },
    /// What the pod or its profile says cannot be used; what is live stays.
    Invalid {
        /// The stable class.
        category: String,
        /// In words.
        message: String,
    },
    /// Go there.
    Run(Box<Run>),
}

/// A commit and a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The commit.
    pub commit: String,
    /// What it is made into files with.
    pub profile: CompiledProfile,
    /// What templates can name.
    pub facts: GatewayFacts,
    /// Annotations that could not be used.
    pub warnings: Vec<String>,
    /// Who has approved that this very commit deletes more than the guard allows.
    pub approved_by: Option<String>,
}

/// Decides.
#[must_use]
pub fn target(metadata: Option<&Metadata>, pod: &PodInfo) -> Target {
    let Some(metadata) = metadata else {
        return Target::Wait("the controller has not written the metadata yet");
    };
    let held = |reason: &str, message: String| Target::Held { reason: reason.to_owned(), message };
    if metadata.paused {
        return held("paused", format!("Stoker {} is paused", pod.cr));
    }
    let (annotations, errors) = PodAnnotations::read(&pod.annotations);
    let profile = match effective(metadata, &annotations) {
        Ok(profile) => profile,
        Err(error) => {
            return Target::Invalid { category: error.category().to_string(), message: chain(&error) };
        }
    };
    if profile.paused {
        let name = annotations.sync_profile.as_deref().unwrap_or_default();
        return held("paused", format!("SyncProfile {name} is paused"));
    }
    if let Some(hold) = metadata.held(&pod.name) {
        return Target::Queued { reason: hold.reason.clone(), message: hold.message.clone() };
    }
    let Some(commit) = metadata.commit.clone() else { return Target::Wait("the ref is not resolved yet") };
    let facts = GatewayFacts {
        gateway_name: gateway_name(&pod.annotations, &pod.labels, &pod.name).to_owned(),
        pod_name: pod.name.clone(),
        pod_ordinal: pod_ordinal(&pod.labels, &pod.name),
        namespace: pod.namespace.clone(),
        cr_name: pod.cr.clone(),
        git_ref: metadata.git_ref.clone(),
        commit: commit.clone(),
        labels: pod.labels.clone(),
    };
    let warnings = errors.iter().map(ToString::to_string).collect();
    let approval = metadata.approval.as_ref().filter(|approval| approval.commit == commit);
    let approved_by = approval.map(|approval| approval.by.clone());
    Target::Run(Box::new(Run { commit, profile, facts, warnings, approved_by }))
}
