//! Putting the agent into a gateway's pod.
//!
//! [`decide`] is a pure function: a pod as the API server is about to create it, the `Stoker`s of its namespace and the
//! settings of the installation give a JSON patch, warnings and a reason. Nothing here talks to anybody.
//!
//! ```text
//! pod + annotations ─▶ choose ─▶ which Stoker          ┐
//!                   ─▶ data   ─▶ which volume, where   ├─▶ container + volumes ─▶ patch
//! Stoker, settings  ─▶ resources, security, credentials┘
//! ```
//!
//! # Guarantees
//!
//! - The patch only adds: one init container at the end of the list, volumes at the end of theirs, two annotations and
//!   one label. Every other byte of the pod stays as it is.
//! - No pod is held back by what Stoker lacks: Secrets are mounted as optional, and a pod that cannot be injected is
//!   admitted with a warning (unless [`OnUnresolved::Deny`] asks for a refusal, and only where no `Stoker` can be
//!   determined).
//! - A second call with the patched pod changes nothing.

mod choose;
mod container;
pub mod contract;
mod data;
mod patch;
pub mod podinfo;
mod resources;
mod security;
#[cfg(test)]
mod tests;
mod volumes;

use std::fmt;
use std::sync::Arc;

use json_patch::Patch;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::annotations::{self, PodAnnotations};
use crate::api::{AgentImage, AgentResources};
use crate::roster::StokerView;

/// What an installation says about injection.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The agent's image, where a `Stoker` names no other.
    pub image: AgentImage,
    /// The agent's requests and limits, where a `Stoker` names no others.
    pub resources: AgentResources,
    /// CPU that the agent reserves in a pod of class `Guaranteed`, which it must not take out of that class.
    pub guaranteed_cpu: String,
    /// What happens to a pod for which no `Stoker` can be determined.
    pub on_unresolved: OnUnresolved,
}

impl Default for Settings {
    /// 10m CPU and 32Mi requested, at most 128Mi, no limit of CPU; no image.
    fn default() -> Self {
        Self {
            image: AgentImage::default(),
            resources: resources::standard(),
            guaranteed_cpu: "200m".to_owned(),
            on_unresolved: OnUnresolved::Admit,
        }
    }
}

/// What happens to a pod for which no `Stoker` can be determined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUnresolved {
    /// It is admitted without sidecar, with a warning.
    #[default]
    Admit,
    /// It is refused.
    Deny,
}

/// The outcome for one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happens.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The same as a sentence for people, without the name of the pod.
    pub message: String,
    /// What `kubectl` prints; each at most [`MAX_WARNING`] characters.
    pub warnings: Vec<String>,
    /// What changes; empty unless `outcome` is [`Outcome::Injected`].
    pub patch: Patch,
    /// The `Stoker`, once it is known.
    pub stoker: Option<Chosen>,
}

/// The `Stoker` that a pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Longest warning, in characters: the API server cuts longer ones.
pub const MAX_WARNING: usize = 256;

/// What happens to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The patch adds the sidecar.
    Injected,
    /// Nothing to do.
    Unchanged,
    /// Admitted without sidecar.
    Skipped,
    /// Not admitted.
    Refused,
}

impl Outcome {
    /// As a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
        }
    }
}

/// Why a pod got what it got. The names are part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// The sidecar was added.
    Injected,
    /// The pod has one already.
    AlreadyInjected,
    /// The pod does not ask for one.
    NotRequested,
    /// The namespace has no `Stoker`.
    NoStoker,
    /// The named `Stoker` does not exist.
    StokerNotFound,
    /// The namespace has several, and the pod names none.
    SeveralStokers,
    /// The API server could not be asked.
    StokersUnknown,
    /// The webhook does not look after this namespace.
    NamespaceNotWatched,
    /// The annotation `stoker.io/data-path` is no absolute path.
    InvalidDataPath,
    /// No container mounts a volume as data directory.
    NoDataVolume,
    /// Several containers mount different volumes as data directory.
    AmbiguousDataVolume,
    /// What is mounted as data directory cannot be written.
    UnusableDataVolume,
    /// No container can be added to such a pod.
    UnsupportedPod,
}

impl Reason {
    /// As a metric label and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "Injected",
            Self::AlreadyInjected => "AlreadyInjected",
            Self::NotRequested => "NotRequested",
            Self::NoStoker => "NoStoker",
            Self::StokerNotFound => "StokerNotFound",
            Self::SeveralStokers => "SeveralStokers",
            Self::StokersUnknown => "StokersUnknown",
            Self::NamespaceNotWatched => "NamespaceNotWatched",
            Self::InvalidDataPath => "InvalidDataPath",
            Self::NoDataVolume => "NoDataVolume",
            Self::AmbiguousDataVolume => "AmbiguousDataVolume",
            Self::UnusableDataVolume => "UnusableDataVolume",
            Self::UnsupportedPod => "UnsupportedPod",
        }
    }

    /// Whether it says that no `Stoker` could be determined: a fresh look may help, and [`OnUnresolved`] applies.
    #[must_use]
    pub const fn is_unresolved(self) -> bool {
        matches!(self, Self::NoStoker | Self::StokerNotFound | Self::SeveralStokers | Self::StokersUnknown)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    reason: Reason,
    message: String,
}

impl Obstacle {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What is known of a namespace's `Stoker`s.
#[derive(Debug, Clone, Copy)]
pub enum Stokers<'a> {
    /// These.
    Known(&'a [Arc<StokerView>]),
    /// Nothing: the API server could not be asked.
    Unknown,
    /// Nothing, and nobody asks: the installation is limited to other namespaces.
    OutOfScope,
}

/// Decides what happens to `pod`, which is about to be created in `namespace`.
#[must_use]
pub fn decide(pod: &Pod, namespace: &str, stokers: Stokers<'_>, settings: &Settings) -> Decision {
    let none = std::collections::BTreeMap::new();
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&none);
    let (wishes, mistakes) = PodAnnotations::read(annotations);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);

    let unchanged = |reason, message: &str, warnings| Decision {
        outcome: Outcome::Unchanged,
        reason,
        message: message.to_owned(),
        warnings,
        patch: Patch::default(),
        stoker: None,
    };
    if !wishes.inject {
        return unchanged(Reason::NotRequested, "the pod does not ask for the sidecar", vec![]);
    }
    if let Some(late) = patch::injected(annotations, spec) {
        let warnings = late.iter().map(|name| {
            warning(&format!(
                "init container {name:?} comes after the agent and mounts the data volume: what it writes may replace what was synced"
            ))
        });
        return unchanged(Reason::AlreadyInjected, "the pod has the sidecar already", warnings.collect());
    }

    let mut stoker = None;
    let planned = supported(annotations, spec).and_then(|()| {
        let chosen = choose::stoker(wishes.cr_name.as_deref(), namespace, stokers)?;
        stoker = Some(Chosen { name: chosen.name.clone(), uid: chosen.uid.clone() });
        let data = data::find(spec, wishes.data_path.as_deref())?;
        Ok((chosen, data))
    });
    match planned {
        Ok((chosen, data)) => {
            let (agent, cautions) = container::plan(spec, chosen, &data, settings);
            let mut warnings: Vec<String> = mistakes.iter().map(|e| warning(&e.to_string())).collect();
            warnings.extend(annotations::unknown(annotations).map(|name| {
                warning(&format!("annotation {name:?} is none that Stoker knows: look for a typing error"))
            }));
            warnings.extend(cautions.iter().map(|text| warning(text)));
            Decision {
                outcome: Outcome::Injected,
                reason: Reason::Injected,
                message: format!("the agent of Stoker {:?} was added", chosen.name),
                warnings,
                patch: patch::build(pod, &chosen.name, agent),
                stoker,
            }
        }
        Err(Obstacle { reason, message }) => {
            let refused = reason.is_unresolved() && settings.on_unresolved == OnUnresolved::Deny;
            let said = warning(&format!("no sidecar: {message}"));
            Decision {
                outcome: if refused { Outcome::Refused } else { Outcome::Skipped },
                reason,
                message,
                warnings: if refused { vec![] } else { vec![said] },
                patch: Patch::default(),
                stoker,
            }
        }
    }
}

/// Whether a container can be added at all.
fn supported(
    annotations: &std::collections::BTreeMap<String, String>,
    spec: &PodSpec,
) -> Result<(), Obstacle> {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Obstacle::new(
            Reason::UnsupportedPod,
            "the agent runs on Linux, and the pod asks for Windows",
        ));
    }
    // The kubelet's image of a static pod: it may refer to no Secret, and changing it changes nothing.
    if annotations.contains_key("kubernetes.io/config.mirror") {
        return Err(Obstacle::new(Reason::UnsupportedPod, "a static pod cannot be changed"));
    }
    Ok(())
}

/// `text` as the API server passes it on.
fn warning(text: &str) -> String {
    let text = format!("stoker: {text}");
    match text.char_indices().nth(MAX_WARNING) {
        None => text,
        Some(_) => text.chars().take(MAX_WARNING - 1).chain(['…']).collect(),
    }
}
