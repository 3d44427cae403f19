//! Phase 4: the only writer of objects. Writes what differs, and nothing else.

use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{NamespaceResourceScope, Request};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoker_core::{Category, Fault, Retry};

use super::build::Objects;
use super::dereference::World;
use crate::annotations::DIGEST;

/// The field manager of everything that the controller writes.
pub const MANAGER: &str = "stoker-controller";

/// Longest time for one request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The API server refused, or could not be reached.
    #[error("cannot {verb} {kind} {name}")]
    Request {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer.
    #[error("the api server did not answer in time ({verb} {kind} {name})")]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// Another controller has taken over.
    #[error("this replica is not the leader any more")]
    NotLeader,
}

impl Fault for ApplyError {
    fn category(&self) -> Category {
        Category::new(match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 403 => "Forbidden",
                kube::Error::Api(status) if status.code == 409 => "Conflict",
                kube::Error::Api(status) if status.code == 404 => "NotFound",
                kube::Error::Api(_) => "ApiServerRefused",
                _ => "ApiServerUnreachable",
            },
            Self::Timeout { .. } => "ApiServerUnreachable",
            Self::NotLeader => "NotLeader",
        })
    }

    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

/// Writes the objects of one `Stoker`.
///
/// # Errors
/// At the first write that fails; what was written before stays, and the next pass goes on from there.
pub(super) async fn apply(client: &Client, world: &World, objects: &Objects) -> Result<(), ApplyError> {
    let namespace = world.stoker.namespace().unwrap_or_default();
    let role = (&objects.role, &world.role_digest);
    if role.0.annotations().get(DIGEST) != role.1.as_ref() {
        put(client, &namespace, &objects.role).await?;
    }
    if objects.binding.annotations().get(DIGEST) != world.binding_digest.as_ref() {
        put(client, &namespace, &objects.binding).await?;
    }
    for (name, uid) in &objects.outdated {
        delete::<super::slim::MetadataMap>(client, &namespace, name, Some(uid)).await?;
    }
    for map in &objects.status_maps {
        create(client, &namespace, map).await?;
    }
    if let Some(wanted) = &objects.metadata_map {
        let before = world.metadata.as_deref();
        let same = before.is_some_and(|now| {
            now.data == wanted.data
                && now.metadata.labels == wanted.metadata.labels
                && now.metadata.owner_references == wanted.metadata.owner_references
        });
        if !same {
            let mut wanted = wanted.clone();
            // Whoever has seen a newer version than this process must not be overwritten by it.
            wanted.metadata.resource_version = before.and_then(|now| now.metadata.resource_version.clone());
            put(client, &namespace, &wanted).await?;
        }
    }
    Ok(())
}

/// Writes one object by server-side apply.
pub(super) async fn put<K>(client: &Client, namespace: &str, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let name = object.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    let body = with_kind(object);
    within("apply", &K::kind(&()), &name, api.patch(&name, &params, &Patch::Apply(&body))).await
}

/// Makes one object. One that is there already stays as it is: it may be somebody else's.
async fn create<K>(client: &Client, namespace: &str, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
{
    let name = object.name_any();
    let body = with_kind(object);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let request = async {
        let request = Request::new(K::url_path(&(), Some(namespace)))
            .create(&params, body.to_string().into_bytes())
            .map_err(kube::Error::BuildRequest)?;
        client.request::<serde_json::Value>(request).await
    };
    match within("create", &K::kind(&()), &name, request).await {
        Ok(_) => Ok(()),
        Err(error) if error.category().as_str() == "Conflict" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Objects of ours serialize without their kind.
fn with_kind<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> serde_json::Value {
    let mut body = serde_json::to_value(object).unwrap_or_default();
    body["apiVersion"] = K::api_version(&()).into();
    body["kind"] = K::kind(&()).into();
    body
}

/// Deletes one object; one that is not there is deleted already. With a uid, only that very object.
pub(super) async fn delete<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams {
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::background()
    };
    match within("delete", &K::kind(&()), name, api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(ApplyError::Request { source, .. }) if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 404 || status.code == 409) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Bounds a request in time and says what it was about.
pub(super) async fn within<T>(
    verb: &'static str,
    kind: &str,
    name: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApplyError> {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    match tokio::time::timeout(TIMEOUT, request).await {
        Err(_) => Err(ApplyError::Timeout { verb, kind, name }),
        Ok(Err(source)) => Err(ApplyError::Request { verb, kind, name, source: Box::new(source) }),
        Ok(Ok(answer)) => Ok(answer),
    }
}
