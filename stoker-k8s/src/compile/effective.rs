//! What one pod gets: its profile or its service path, with its annotations on top.

use stoker_core::{Category, Fault, Retry};

use super::check::{Checks, Vars};
use super::{CompiledProfile, Problems};
use crate::annotations::PodAnnotations;
use crate::api::{DeploymentMode, Mapping, MappingType, ModeStrategy};
use crate::protocol::Metadata;

/// Why a pod has nothing to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EffectiveError {
    /// Its profile is not there (never was, or was deleted).
    #[error(
        "there is no valid SyncProfile {0} in this namespace; create it, or correct the annotation stoker.io/sync-profile"
    )]
    ProfileMissing(String),
    /// It names both a profile and a service path.
    #[error(
        "the pod has both stoker.io/sync-profile {profile} and stoker.io/service-path {service_path}; remove one"
    )]
    Ambiguous {
        /// The profile.
        profile: String,
        /// The service path.
        service_path: String,
    },
    /// It names neither, and the `Stoker` shares no mappings.
    #[error(
        "the pod says neither stoker.io/service-path nor stoker.io/sync-profile, and the Stoker shares no mappings; add one of the annotations"
    )]
    NothingToSync,
    /// Its annotations cannot be used.
    #[error("the pod's annotations cannot be used")]
    Annotations(#[source] Problems),
}

impl Fault for EffectiveError {
    fn category(&self) -> Category {
        match self {
            Self::ProfileMissing(_) => Category::new("ProfileMissing"),
            Self::Ambiguous { .. } | Self::NothingToSync => Category::new("ProfileUnclear"),
            Self::Annotations(problems) => problems.category(),
        }
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// What a pod with these annotations gets.
///
/// # Errors
/// When it has nothing to run, or its annotations cannot be used.
pub fn effective(metadata: &Metadata, pod: &PodAnnotations) -> Result<CompiledProfile, EffectiveError> {
    let mut profile = match (&pod.sync_profile, &pod.service_path) {
        (Some(profile), Some(service_path)) => {
            let (profile, service_path) = (profile.clone(), service_path.clone());
            return Err(EffectiveError::Ambiguous { profile, service_path });
        }
        (Some(name), None) => metadata
            .profiles
            .get(name)
            .cloned()
            .ok_or_else(|| EffectiveError::ProfileMissing(name.clone()))?,
        (None, Some(_)) => two_tier(&metadata.base, pod).map_err(EffectiveError::Annotations)?,
        (None, None) if metadata.base.mappings.is_empty() => return Err(EffectiveError::NothingToSync),
        (None, None) => metadata.base.clone(),
    };
    apply(&mut profile, pod).map_err(EffectiveError::Annotations)?;
    Ok(profile)
}

/// The profile of a pod that names a service path: projects, resources, UDTs and a deployment mode, each where it is
/// there.
///
/// | in the repository | on the gateway |
/// |---|---|
/// | `<path>/projects` | `projects` |
/// | `<path>/config/resources/core` | `config/resources/core` |
/// | `<path>/config/resources/external` | `config/resources/external` |
/// | `<path>/udts` | `config/resources/core/ignition/tag-type-definition/<tag provider>` |
/// | `<path>/config/resources/<mode>` | `config/resources/core` (laid over it) |
///
/// # Errors
/// All that is wrong with the annotations.
pub fn two_tier(base: &CompiledProfile, pod: &PodAnnotations) -> Result<CompiledProfile, Problems> {
    let mut profile = base.clone();
    let path = pod.service_path.as_deref().unwrap_or(".").trim_end_matches('/');
    let below = |tail: &str| if path == "." { tail.to_owned() } else { format!("{path}/{tail}") };
    let dir = |source: String, destination: String| Mapping {
        kind: Some(MappingType::Dir),
        ..Mapping::new(source, destination)
    };
    let shared = profile.mappings.len();
    for part in ["projects", "config/resources/core", "config/resources/external"] {
        profile.push(format!("service {path}"), dir(below(part), part.to_owned()));
    }
    let provider = pod.tag_provider.as_deref().unwrap_or("default");
    let udts = format!("config/resources/core/ignition/tag-type-definition/{provider}");
    profile.push(format!("service {path}, tag provider {provider}"), dir(below("udts"), udts));
    if let Some(name) = &pod.deployment_mode {
        let source = below(&format!("config/resources/{name}"));
        profile.push_mode(&DeploymentMode { name: name.clone(), source, strategy: ModeStrategy::Overlay });
    }

    let mut checks = Checks::new(&profile);
    for mapping in &profile.mappings[shared..] {
        checks.mapping("annotations", mapping, Vars::Known);
    }
    for mapping in &profile.mappings[..shared] {
        checks.mapping(&mapping.origin, mapping, Vars::Known);
    }
    for (name, value) in [
        ("stoker.io/tag-provider", Some(provider)),
        ("stoker.io/deployment-mode", pod.deployment_mode.as_deref()),
    ] {
        if let Some(value) = value.filter(|v| v.contains('/') || *v == "." || *v == "..") {
            checks.refuse(name, format!("{value:?} is not a name; write it without slashes"));
        }
    }
    checks.finish().map(|()| profile)
}

/// Annotations win over profile and `Stoker`.
fn apply(profile: &mut CompiledProfile, pod: &PodAnnotations) -> Result<(), Problems> {
    if let Some(seconds) = pod.sync_period {
        profile.sync_period = seconds;
    }
    profile.exclude_patterns.extend(pod.exclude_patterns.iter().cloned());
    // A plain name beats a template; without braces a template is a plain name.
    if let Some(name) = pod.system_name.as_ref().or(pod.system_name_template.as_ref()) {
        profile.system_name_template = Some(name.clone());
    }
    let mut checks = Checks::new(profile);
    checks.patterns("stoker.io/exclude-patterns", &pod.exclude_patterns);
    if let Some(name) = &pod.system_name
        && name.contains("{{")
    {
        checks.refuse(
            "stoker.io/system-name",
            format!("{name:?} is a template; write it into stoker.io/system-name-template"),
        );
    } else if let Some(template) = &profile.system_name_template {
        checks.template("stoker.io/system-name-template", template, Vars::Known);
    }
    checks.finish()
}
