//! The resources of `stoker.io/v1alpha1`.
//!
//! The types are the schema: [`crds_yaml`] is what the chart ships. Defaults are written down by the API server, so
//! `kubectl get -o yaml` shows what is in force.
//!
//! ```
//! use stoker_k8s::api::{StokerSpec, Period};
//! let spec: StokerSpec = serde_json::from_value(serde_json::json!({
//!     "git": { "repo": "https://git.example.com/plant.git", "ref": "main" },
//!     "gateway": { "apiKeySecretRef": { "name": "ignition-api-key" } },
//! }))?;
//! assert_eq!(spec.polling.interval, Period::seconds(60));
//! # Ok::<(), serde_json::Error>(())
//! ```

// kube repeats `type_` in every column of a table.
#![allow(clippy::duplicated_attributes)]

mod config;
mod git;
mod profile;
mod scalar;
mod schema;
mod status;
mod stoker;
mod strict;

pub use config::{AgentConfig, ConfigAuth, ConfigError, ConfigGateway, ConfigGit, ConfigSshKey, ConfigToken};
pub use git::{
    GitAuth, GitProxy, GitSpec, GitVerify, GithubAppAuth, KnownHosts, ProxyLoginRef, SecretKeyRef,
    SshKeyAuth, TokenAuth, TokenScheme, VerifyKeysRef, VerifyMode,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
pub use profile::{
    DeploymentMode, DesignerSessionPolicy, DryRunDiff, Include, Limits, Mapping, MappingType, ModeStrategy,
    Patch, Prune, SyncProfile, SyncProfileSpec, SyncProfileStatus, When,
};
pub use scalar::{ByteSize, Period, ScalarError};
pub use status::{
    FilesChanged, GatewayEntry, HistoryEntry, LastDelivery, MAX_HISTORY, MAX_LISTED_GATEWAYS, RefResolution,
    RequestedRef, StokerStatus, SyncStatus,
};
pub use stoker::{
    AgentImage, AgentResources, AgentSpec, ApiKeyRef, DeploymentSpec, GatewaySpec, IgnitionSpec, MaxDeletes,
    OnTimeout, Polling, PullPolicy, Shared, Startup, Stoker, StokerSpec, WebhookSpec, default_excludes,
};
pub use strict::{UnknownField, unknown_fields};

/// The API group.
pub const GROUP: &str = "stoker.io";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every resource of this module.
pub const API_VERSION: &str = "stoker.io/v1alpha1";

/// The custom resource definitions, in the order in which they are applied.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    [Stoker::crd(), SyncProfile::crd()].map(known_formats).into()
}

/// Leaves out what the API server calls an unknown format, in a warning at each installation: the bounds say the same.
fn known_formats(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut schemas: Vec<&mut JSONSchemaProps> = crd
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
        .collect();
    while let Some(schema) = schemas.pop() {
        schema.format.take_if(|format| format.starts_with("uint"));
        schemas.extend(schema.properties.iter_mut().flat_map(|properties| properties.values_mut()));
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
            schemas.push(items);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
            schemas.push(values);
        }
    }
    crd
}

/// The definitions as YAML: file name and content, as the chart ships them.
#[must_use]
pub fn crds_yaml() -> Vec<(String, String)> {
    crds()
        .into_iter()
        .map(|crd| {
            let file = format!("{}_{}.yaml", GROUP, crd.spec.names.plural);
            let yaml = serde_saphyr::to_string(&crd).unwrap_or_default();
            (
                file,
                format!(
                    "# Generated from the types in stoker-k8s: cargo run -p stoker-controller -- crds\n{yaml}"
                ),
            )
        })
        .collect()
}
