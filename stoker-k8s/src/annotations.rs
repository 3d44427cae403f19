//! Annotations and labels: every name once, and what a gateway pod says about itself.
//!
//! Precedence everywhere: annotation, then profile, then `Stoker`, then the default.

use std::collections::BTreeMap;

/// Pod: `"true"` asks for the sidecar.
pub const INJECT: &str = "stoker.io/inject";
/// Pod (annotation) and every object that Stoker writes (label): the `Stoker` it belongs to.
pub const CR_NAME: &str = "stoker.io/cr-name";
/// Pod: the `SyncProfile` (three-tier mode).
pub const SYNC_PROFILE: &str = "stoker.io/sync-profile";
/// Pod: directory of the service in the repository (two-tier mode).
pub const SERVICE_PATH: &str = "stoker.io/service-path";
/// Pod: name of the gateway.
pub const GATEWAY_NAME: &str = "stoker.io/gateway-name";
/// Pod: deployment mode whose resources are laid over `core` (two-tier mode).
pub const DEPLOYMENT_MODE: &str = "stoker.io/deployment-mode";
/// Pod: tag provider that gets the service's UDTs (two-tier mode).
pub const TAG_PROVIDER: &str = "stoker.io/tag-provider";
/// Pod: seconds between two drift checks.
pub const SYNC_PERIOD: &str = "stoker.io/sync-period";
/// Pod: more exclude patterns, separated by commas.
pub const EXCLUDE_PATTERNS: &str = "stoker.io/exclude-patterns";
/// Pod: `systemName` of the gateway.
pub const SYSTEM_NAME: &str = "stoker.io/system-name";
/// Pod: template of `systemName`.
pub const SYSTEM_NAME_TEMPLATE: &str = "stoker.io/system-name-template";
/// Pod: this pod alone runs another ref.
pub const REF_OVERRIDE: &str = "stoker.io/ref-override";
/// Pod: where the data volume is mounted, when not at the official place.
pub const DATA_PATH: &str = "stoker.io/data-path";
/// Pod: set by the webhook once the sidecar is in.
pub const INJECTED: &str = "stoker.io/injected";
/// Pod (label): has the sidecar.
pub const AGENT_LABEL: &str = "stoker.io/agent";

/// `Stoker`: when a sync was last asked for; any new value is a request.
pub const REQUESTED_AT: &str = "stoker.io/requested-at";
/// `Stoker`: the ref that was asked for, if any.
pub const REQUESTED_REF: &str = "stoker.io/requested-ref";
/// `Stoker`: who asked, like `github/72d3162e-cc78-11e3-81ab-4c9367dc0958` (source, then delivery id).
pub const REQUESTED_BY: &str = "stoker.io/requested-by";

/// `Stoker`: the commit, in full, whose deletions a person has approved although they are more than the guard allows.
pub const APPROVED_COMMIT: &str = "stoker.io/approved-commit";
/// `Stoker`: who that person is.
pub const APPROVED_BY: &str = "stoker.io/approved-by";

/// Label of every object that Stoker writes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY_STOKER: &str = "stoker";
/// Label of every object that Stoker writes: what it is for (`metadata`, `status`, `access`).
pub const COMPONENT: &str = "stoker.io/component";
/// [`COMPONENT`] of the ConfigMap that agents watch.
pub const COMPONENT_METADATA: &str = "metadata";
/// [`COMPONENT`] of the ConfigMaps in which agents report.
pub const COMPONENT_STATUS: &str = "status";
/// [`COMPONENT`] of Roles and RoleBindings.
pub const COMPONENT_ACCESS: &str = "access";
/// Annotation of Roles and RoleBindings: digest of what was written.
pub const DIGEST: &str = "stoker.io/digest";
/// Finalizer of a `Stoker`.
pub const FINALIZER: &str = "stoker.io/cleanup";
/// Label on gateway pods that names the gateway unless the annotation does.
pub const APP_NAME_LABEL: &str = "app.kubernetes.io/name";
/// Label with the ordinal of a StatefulSet's pod.
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The names in an object's annotations that begin like Stoker's and are none of those that pods may have.
pub fn unknown(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    const OF_PODS: [&str; 14] = [
        INJECT,
        CR_NAME,
        SYNC_PROFILE,
        SERVICE_PATH,
        GATEWAY_NAME,
        DEPLOYMENT_MODE,
        TAG_PROVIDER,
        SYNC_PERIOD,
        EXCLUDE_PATTERNS,
        SYSTEM_NAME,
        SYSTEM_NAME_TEMPLATE,
        REF_OVERRIDE,
        DATA_PATH,
        INJECTED,
    ];
    let names = annotations.keys().map(String::as_str);
    names.filter(|name| name.starts_with("stoker.io/") && !OF_PODS.contains(name))
}

/// What a gateway pod says about itself by annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodAnnotations {
    /// The sidecar is wanted.
    pub inject: bool,
    /// The `Stoker`.
    pub cr_name: Option<String>,
    /// The profile.
    pub sync_profile: Option<String>,
    /// The service path.
    pub service_path: Option<String>,
    /// The gateway's name.
    pub gateway_name: Option<String>,
    /// The deployment mode.
    pub deployment_mode: Option<String>,
    /// The tag provider.
    pub tag_provider: Option<String>,
    /// Seconds between two drift checks.
    pub sync_period: Option<u32>,
    /// More exclude patterns.
    pub exclude_patterns: Vec<String>,
    /// The gateway's `systemName`.
    pub system_name: Option<String>,
    /// Template of the gateway's `systemName`.
    pub system_name_template: Option<String>,
    /// Another ref for this pod alone.
    pub ref_override: Option<String>,
    /// Where the data volume is mounted.
    pub data_path: Option<String>,
}

/// An annotation whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {name}: {value:?} {rule}")]
pub struct AnnotationError {
    /// Name of the annotation.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What to write instead.
    pub rule: &'static str,
}

impl PodAnnotations {
    /// Reads a pod's annotations. What cannot be used is left out and returned beside the rest.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>) -> (Self, Vec<AnnotationError>) {
        let text =
            |name: &str| annotations.get(name).map(|v| v.trim()).filter(|v| !v.is_empty()).map(str::to_owned);
        let mut errors = Vec::new();
        let sync_period = text(SYNC_PERIOD).and_then(|value| match value.parse::<u32>() {
            Ok(seconds) if (5..=3600).contains(&seconds) => Some(seconds),
            _ => {
                let rule = "is not a number of seconds between 5 and 3600";
                errors.push(AnnotationError { name: SYNC_PERIOD, value, rule });
                None
            }
        });
        let inject = match text(INJECT).as_deref() {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                let rule = "is neither \"true\" nor \"false\"";
                errors.push(AnnotationError { name: INJECT, value: other.to_owned(), rule });
                false
            }
        };
        let exclude_patterns = text(EXCLUDE_PATTERNS)
            .map(|list| list.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect())
            .unwrap_or_default();
        let read = Self {
            inject,
            cr_name: text(CR_NAME),
            sync_profile: text(SYNC_PROFILE),
            service_path: text(SERVICE_PATH),
            gateway_name: text(GATEWAY_NAME),
            deployment_mode: text(DEPLOYMENT_MODE),
            tag_provider: text(TAG_PROVIDER),
            sync_period,
            exclude_patterns,
            system_name: text(SYSTEM_NAME),
            system_name_template: text(SYSTEM_NAME_TEMPLATE),
            ref_override: text(REF_OVERRIDE),
            data_path: text(DATA_PATH),
        };
        (read, errors)
    }
}

/// The name of a gateway: annotation, then the label `app.kubernetes.io/name`, then the pod's name.
#[must_use]
pub fn gateway_name(
    annotations: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
    pod_name: &str,
) -> String {
    [annotations.get(GATEWAY_NAME), labels.get(APP_NAME_LABEL)]
        .into_iter()
        .flatten()
        .map(|name| name.trim())
        .find(|name| !name.is_empty())
        .unwrap_or(pod_name)
        .to_owned()
}

/// The ordinal of a pod: label `apps.kubernetes.io/pod-index`, else the number at the end of its name, else 0.
#[must_use]
pub fn pod_ordinal(labels: &BTreeMap<String, String>, pod_name: &str) -> u32 {
    let suffix = pod_name.rsplit_once('-').map(|(_, tail)| tail);
    [labels.get(POD_INDEX_LABEL).map(String::as_str), suffix]
        .into_iter()
        .flatten()
        .find_map(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The labels of an object that belongs to the `Stoker` `cr`.
#[must_use]
pub fn owned_labels(cr: &str, component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGED_BY_STOKER.to_owned()),
        (CR_NAME.to_owned(), crate::names::label_value(cr)),
        (COMPONENT.to_owned(), component.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_pods_wishes_are_read_and_bad_ones_are_named() {
        let (read, errors) = PodAnnotations::read(&map(&[
            (INJECT, "true"),
            (SERVICE_PATH, " services/area "),
            (EXCLUDE_PATTERNS, "**/tmp/, ,*.bak"),
            (SYNC_PERIOD, "2"),
            (CR_NAME, ""),
        ]));
        assert!(read.inject);
        assert_eq!(read.service_path.as_deref(), Some("services/area"));
        assert_eq!(read.exclude_patterns, ["**/tmp/", "*.bak"]);
        assert_eq!((read.sync_period, read.cr_name), (None, None));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains("between 5 and 3600"), "{}", errors[0]);
    }

    #[test]
    fn a_gateways_identity_has_three_sources() {
        let (annotated, labelled) = (map(&[(GATEWAY_NAME, "line-1")]), map(&[(APP_NAME_LABEL, "frontend")]));
        assert_eq!(gateway_name(&annotated, &labelled, "pod-0"), "line-1");
        assert_eq!(gateway_name(&map(&[]), &labelled, "pod-0"), "frontend");
        assert_eq!(gateway_name(&map(&[]), &map(&[]), "pod-0"), "pod-0");
        assert_eq!(pod_ordinal(&map(&[(POD_INDEX_LABEL, "7")]), "pod-3"), 7);
        assert_eq!(pod_ordinal(&map(&[]), "pod-3"), 3);
        assert_eq!(pod_ordinal(&map(&[]), "pod-abc"), 0);
        assert_eq!(pod_ordinal(&map(&[]), "pod"), 0);
    }
}
