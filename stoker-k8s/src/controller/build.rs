//! Phase 3: the objects that should be there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use stoker_core::{Category, Fault, Retry};

use super::dereference::World;
use super::rollout;
use super::slim::MetadataMap;
use super::validate::{Gateway, Report, Validated};
use crate::annotations::{COMPONENT_ACCESS, COMPONENT_METADATA, COMPONENT_STATUS, DIGEST, owned_labels};
use crate::api::{GitSpec, Stoker, TokenScheme};
use crate::compile::CompiledProfile;
use crate::names;
use crate::protocol::{AppInstallation, AuthType, Metadata, ProxyAddress, Rollout, StartupPolicy, Trust};

/// The objects that should be there.
#[derive(Debug, Clone)]
pub struct Objects {
    /// What the agents are told; `None` when nothing can be said yet.
    pub metadata: Option<Metadata>,
    /// The same as an object.
    pub metadata_map: Option<MetadataMap>,
    /// What agents may do.
    pub role: Role,
    /// Which service accounts agents are.
    pub binding: RoleBinding,
    /// Status ConfigMaps to make.
    pub status_maps: Vec<MetadataMap>,
    /// Status ConfigMaps of earlier pods, to delete first: name and uid.
    pub outdated: Vec<(String, String)>,
}

/// Why the objects cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// More than an object may hold.
    #[error(
        "the profiles of this namespace, with the CA bundle and the known_hosts, need {bytes} bytes, an object holds {MAX_METADATA_BYTES}: use fewer or shorter mappings, or a smaller bundle"
    )]
    TooLarge {
        /// The size.
        bytes: usize,
    },
}

impl Fault for BuildError {
    fn category(&self) -> Category {
        Category::new("MetadataTooLarge")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// An object holds 1 MiB; labels, owner and managed fields need their part of it.
pub const MAX_METADATA_BYTES: usize = 900 * 1024;

/// Builds the objects of one `Stoker`.
///
/// # Errors
/// When they would not fit into an object.
pub fn build(world: &World, validated: &Validated) -> Result<Objects, BuildError> {
    let stoker = world.stoker.as_ref();
    let metadata = metadata(world, validated)?;
    let metadata_map = metadata.as_ref().map(|metadata| MetadataMap {
        metadata: owned_by_stoker(stoker, names::metadata(&stoker.name_any()), COMPONENT_METADATA),
        data: metadata.to_data(),
    });
    let agents: Vec<&Gateway> = validated.gateways.iter().filter(|gateway| gateway.has_agent).collect();
    let outdated = agents
        .iter()
        .filter_map(|gateway| match &gateway.report {
            Report::OfAnotherPod { uid } => Some((gateway.status_map.clone(), uid.clone())),
            _ => None,
        })
        .collect();
    let status_maps = agents
        .iter()
        .filter(|gateway| matches!(gateway.report, Report::Absent | Report::OfAnotherPod { .. }))
        .map(|gateway| status_map(stoker, gateway))
        .collect();
    Ok(Objects {
        metadata,
        metadata_map,
        role: role(stoker, &agents),
        binding: binding(stoker, &agents),
        status_maps,
        outdated,
    })
}

/// What the agents are told.
fn metadata(world: &World, validated: &Validated) -> Result<Option<Metadata>, BuildError> {
    let spec = &world.stoker.spec;
    let Ok(base) = &validated.base else {
        // The spec cannot be used: all stays as it is, but the emergency stop works.
        return Ok(validated.previous.clone().map(|previous| Metadata { paused: spec.paused, ..previous }));
    };
    let origin = origin(world, validated.previous.as_ref());
    let mut metadata = Metadata {
        git_ref: origin.git_ref,
        commit: origin.commit,
        trigger: origin.trigger,
        paused: spec.paused,
        git_url: origin.git_url,
        auth_type: origin.auth_type,
        git_username: origin.git_username,
        token_scheme: origin.token_scheme,
        github_app: origin.github_app,
        proxy: origin.proxy,
        allow_insecure: origin.allow_insecure,
        // Of the spec as it is now, whatever commit it is for: what is asked for at once holds at once.
        verify: spec.git.verify.as_ref().map(|verify| verify.mode),
        trust: origin.trust,
        gateway_port: spec.gateway.port,
        gateway_tls: spec.gateway.tls,
        startup: StartupPolicy {
            timeout_seconds: spec.agent.startup.timeout.0.as_secs(),
            on_timeout: spec.agent.startup.on_timeout,
        },
        base: base.clone().with_revision(),
        profiles: validated
            .profiles
            .iter()
            .filter_map(|(name, verdict)| Some((name.clone(), verdict.in_force()?.clone().with_revision())))
            .collect(),
        rollout: Rollout::default(),
        approval: world.request.approval.clone(),
    };
    if size(&metadata) > MAX_METADATA_BYTES {
        // Profiles that no pod names can wait until one does.
        let named: BTreeSet<&str> =
            validated.gateways.iter().filter_map(|g| g.annotations.sync_profile.as_deref()).collect();
        metadata.profiles.retain(|name, _| named.contains(name.as_str()));
    }
    metadata.rollout = rollout::rollout(validated, &metadata);
    match size(&metadata) {
        bytes if bytes > MAX_METADATA_BYTES => Err(BuildError::TooLarge { bytes }),
        _ => Ok(Some(metadata)),
    }
}

fn size(metadata: &Metadata) -> usize {
    metadata.to_data().iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// A commit and the repository that it is in: the two change together or not at all.
struct Origin {
    git_url: String,
    auth_type: AuthType,
    git_username: Option<String>,
    token_scheme: TokenScheme,
    github_app: Option<AppInstallation>,
    proxy: Option<ProxyAddress>,
    allow_insecure: bool,
    trust: Trust,
    git_ref: String,
    commit: Option<String>,
    trigger: String,
}

fn origin(world: &World, previous: Option<&Metadata>) -> Origin {
    let git = &world.stoker.spec.git;
    let found = world.lookup.as_ref().and_then(|outcome| Some((outcome, outcome.result.as_ref().ok()?)));
    let trigger = |answered: Option<&String>| {
        let created = world.stoker.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string());
        answered.cloned().or_else(|| previous.map(|p| p.trigger.clone())).or(created).unwrap_or_default()
    };
    match (found, previous) {
        (Some((outcome, resolution)), _) => Origin {
            commit: Some(resolution.commit.to_string()),
            trigger: trigger(outcome.trigger.as_ref()),
            trust: outcome.trust.clone(),
            ..of_spec(git, &world.decision.git_ref)
        },
        (None, Some(previous)) if previous.commit.is_some() => Origin {
            git_url: previous.git_url.clone(),
            auth_type: previous.auth_type,
            git_username: previous.git_username.clone(),
            token_scheme: previous.token_scheme,
            github_app: previous.github_app.clone(),
            proxy: previous.proxy.clone(),
            allow_insecure: previous.allow_insecure,
            trust: previous.trust.clone(),
            git_ref: previous.git_ref.clone(),
            commit: previous.commit.clone(),
            trigger: previous.trigger.clone(),
        },
        (None, _) => Origin { trigger: trigger(None), ..of_spec(git, &world.decision.git_ref) },
    }
}

fn of_spec(git: &GitSpec, git_ref: &str) -> Origin {
    let token = git.auth.as_ref().and_then(|auth| auth.token.as_ref());
    let auth_type = match &git.auth {
        Some(auth) if auth.ssh_key.is_some() => AuthType::Ssh,
        Some(auth) if auth.token.is_some() => AuthType::Token,
        Some(auth) if auth.github_app.is_some() => AuthType::GithubApp,
        _ => AuthType::None,
    };
    Origin {
        git_url: git.repo.clone(),
        auth_type,
        git_username: token.map(|token| token.username.clone()),
        token_scheme: token.map(|token| token.scheme).unwrap_or_default(),
        github_app: git.auth.as_ref().and_then(|auth| auth.github_app.as_ref()).map(|app| AppInstallation {
            app_id: app.app_id,
            installation_id: app.installation_id,
            api_base_url: app.api_base_url.clone(),
        }),
        proxy: git
            .proxy
            .as_ref()
            .map(|proxy| ProxyAddress { url: proxy.url.clone(), login: proxy.secret_ref.is_some() }),
        allow_insecure: git.allow_insecure,
        trust: Trust::default(),
        git_ref: git_ref.to_owned(),
        commit: None,
        trigger: String::new(),
    }
}

fn owned_by_stoker(stoker: &Stoker, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: stoker.namespace(),
        labels: Some(owned_labels(&stoker.name_any(), component)),
        owner_references: stoker.controller_owner_ref(&()).map(|mut owner| {
            // It would need the right to update the finalizers of the owner, and buys nothing here.
            owner.block_owner_deletion = None;
            vec![owner]
        }),
        ..ObjectMeta::default()
    }
}

/// Empty: only the agent writes into it. It goes when the pod goes.
fn status_map(stoker: &Stoker, gateway: &Gateway) -> MetadataMap {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: gateway.pod_name.clone(),
        uid: gateway.uid.clone(),
        ..OwnerReference::default()
    };
    MetadataMap {
        metadata: ObjectMeta {
            name: Some(gateway.status_map.clone()),
            namespace: stoker.namespace(),
            labels: Some(owned_labels(&stoker.name_any(), COMPONENT_STATUS)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: BTreeMap::new(),
    }
}

/// What agents may do: read what they are told, and write what they report. Nothing else.
fn role(stoker: &Stoker, agents: &[&Gateway]) -> Role {
    let configmaps = |verbs: &[&str], names: Vec<String>| PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["configmaps".to_owned()]),
        resource_names: Some(names),
        verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let mut rules = vec![configmaps(&["get", "watch"], vec![names::metadata(&stoker.name_any())])];
    // Not what belongs to an agent of another Stoker.
    let own = agents.iter().filter(|g| !matches!(g.report, Report::Foreign(_)));
    let own: Vec<String> = own.map(|g| g.status_map.clone()).collect();
    if !own.is_empty() {
        // An empty list of names would mean every ConfigMap.
        rules.push(configmaps(&["get", "patch"], own));
    }
    let metadata = owned_by_stoker(stoker, names::agent_role(&stoker.name_any()), COMPONENT_ACCESS);
    with_digest(Role { metadata, rules: Some(rules) }, |role| &mut role.metadata)
}

fn binding(stoker: &Stoker, agents: &[&Gateway]) -> RoleBinding {
    let name = names::agent_role(&stoker.name_any());
    let accounts: BTreeSet<&str> = agents.iter().map(|gateway| gateway.service_account.as_str()).collect();
    let subjects = accounts
        .into_iter()
        .map(|account| Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: stoker.namespace(),
            ..Subject::default()
        })
        .collect();
    let binding = RoleBinding {
        metadata: owned_by_stoker(stoker, name.clone(), COMPONENT_ACCESS),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name,
        },
        subjects: Some(subjects),
    };
    with_digest(binding, |binding| &mut binding.metadata)
}

/// Notes a digest of the whole object in an annotation, by which a later pass sees that nothing is to do.
fn with_digest<K: Serialize>(mut object: K, metadata: impl Fn(&mut K) -> &mut ObjectMeta) -> K {
    let digest = blake3::hash(serde_json::to_string(&object).unwrap_or_default().as_bytes()).to_hex();
    let annotations = metadata(&mut object).annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(DIGEST.to_owned(), digest[..16].to_owned());
    object
}

impl CompiledProfile {
    /// This profile with the digest of its content noted in it.
    fn with_revision(self) -> Self {
        let bare = Self { revision: String::new(), generation: 0, ..self };
        let digest = blake3::hash(serde_json::to_string(&bare).unwrap_or_default().as_bytes()).to_hex();
        Self { revision: digest[..12].to_owned(), generation: self.generation, ..bare }
    }
}

#[cfg(test)]
mod tests;
