//! The end of a `Stoker`: what it made goes, the files on the gateways stay.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::apply::{ApplyError, delete, within};
use super::slim::MetadataMap;
use super::{Context, watch};
use crate::annotations::{CR_NAME, FINALIZER};
use crate::api::Stoker;
use crate::names;

/// After this time the object goes, whatever could not be deleted: owners collect the rest.
const PATIENCE: Duration = Duration::from_secs(60);

/// Puts the finalizer on a `Stoker` that has none.
pub(super) async fn ensure(context: &Context, stoker: &Stoker) -> Result<(), ApplyError> {
    if stoker.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    let mut finalizers = stoker.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    set(&context.client, stoker, &finalizers).await
}

/// Deletes what a `Stoker` made, then lets it go.
pub(super) async fn clean_up(context: &Context, stoker: &Stoker) -> Result<(), ApplyError> {
    let (namespace, name) = watch::key(stoker);
    context.lookups.forget(&ObjectRef::from_obj(stoker));
    context.clocks.forget(&namespace, &name);
    if !stoker.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    let deleted = delete_all(context, &namespace, &name).await;
    if let Err(error) = deleted {
        let since = stoker.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let waited = Timestamp::now().duration_since(since);
        if waited.unsigned_abs() < PATIENCE {
            return Err(error);
        }
        tracing::warn!(namespace, name, error = %stoker_core::chain(&error), "left behind at the end of a Stoker");
    }
    let finalizers: Vec<String> = stoker.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    set(&context.client, stoker, &finalizers).await
}

async fn delete_all(context: &Context, namespace: &str, name: &str) -> Result<(), ApplyError> {
    let client = &context.client;
    // First what agents watch: they learn from it that their Stoker is gone.
    delete::<MetadataMap>(client, namespace, &names::metadata(name), None).await?;
    for map in watch::within(&context.caches.reports, namespace) {
        if map.labels().get(CR_NAME) == Some(&names::label_value(name)) {
            delete::<MetadataMap>(client, namespace, &map.name_any(), None).await?;
        }
    }
    let role = names::agent_role(name);
    delete::<RoleBinding>(client, namespace, &role, None).await?;
    delete::<Role>(client, namespace, &role, None).await
}

async fn set(client: &Client, stoker: &Stoker, finalizers: &[String]) -> Result<(), ApplyError> {
    let name = stoker.name_any();
    let api: Api<Stoker> = Api::namespaced(client.clone(), &stoker.namespace().unwrap_or_default());
    // With the version: somebody else's finalizer is never lost.
    let patch = Patch::Merge(
        json!({"metadata": {"resourceVersion": stoker.metadata.resource_version, "finalizers": finalizers}}),
    );
    let params = PatchParams::default();
    let request = api.patch_metadata(&name, &params, &patch);
    match within("update the finalizers of", "Stoker", &name, request).await {
        Ok(_) => Ok(()),
        Err(ApplyError::Request { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Takes the finalizer off every `Stoker`: for the end of an installation, after which nobody would. Returns how many
/// there were.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn release_all(client: &Client, namespaces: Option<&[String]>) -> Result<usize, ApplyError> {
    let apis: Vec<Api<Stoker>> = match namespaces {
        None => vec![Api::all(client.clone())],
        Some(names) => names.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    };
    let mut released = 0;
    for api in apis {
        let list = within("list", "Stoker", "", api.list_metadata(&ListParams::default())).await?;
        for found in list.items.iter().filter(|s| s.finalizers().iter().any(|f| f == FINALIZER)) {
            let own: Api<Stoker> = Api::namespaced(client.clone(), &found.namespace().unwrap_or_default());
            let finalizers: Vec<&String> = found.finalizers().iter().filter(|f| *f != FINALIZER).collect();
            let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
            let (name, params) = (found.name_any(), PatchParams::default());
            let request = own.patch_metadata(&name, &params, &patch);
            within("update the finalizers of", "Stoker", &name, request).await?;
            released += 1;
        }
    }
    Ok(released)
}
