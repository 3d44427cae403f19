//! The shape of the sidecar.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::contract;
use super::data::DataDirectory;
use super::{Settings, resources, security, volumes};
use crate::api::{AgentImage, OnTimeout};
use crate::roster::StokerView;

/// What is added to a pod.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Agent {
    /// The init container.
    pub(super) container: Value,
    /// The volumes.
    pub(super) volumes: Vec<Value>,
}

/// Beyond the timeout, at which the agent itself lets the gateway start: time to get there.
const MARGIN_SECONDS: u64 = 60;
/// How long an agent that must block is left alone. Killing it earlier would only make its work start again.
const BLOCK_SECONDS: u64 = 24 * 60 * 60;

/// Designs the agent for a pod, and says what its user should know.
pub(super) fn plan(
    spec: &PodSpec,
    stoker: &StokerView,
    data: &DataDirectory<'_>,
    settings: &Settings,
) -> (Agent, Vec<String>) {
    let (security_context, mut cautions) = security::plan(spec, data.container);
    if stoker.spec.paused {
        cautions.push(format!("Stoker {:?} is paused: the gateway starts on what it has", stoker.name));
    }
    let mounted = volumes::plan(stoker, security::secret_mode(spec, data.container));
    let names = volumes::names(spec, &mounted);
    let port = health_port(spec);
    let startup = stoker.spec.agent.startup;
    let image = &stoker.spec.agent.image;

    let mut mounts: Vec<Value> = data.mounts.iter().map(|mount| json!(mount)).collect();
    mounts.extend(mounted.iter().zip(&names).map(|(volume, name)| {
        let mut mount = json!({ "name": name, "mountPath": volume.mount_path });
        if !volume.writable {
            mount["readOnly"] = true.into();
        }
        mount
    }));
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env =
        vec![field(contract::ENV_POD_NAME, "metadata.name"), field(contract::ENV_POD_UID, "metadata.uid")];
    env.extend(data.env.iter().map(|variable| json!(variable)));

    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": contract::HEALTH_PORT_NAME } });
    let mut startup_probe = probe(contract::PATH_STARTUP);
    startup_probe["periodSeconds"] = 1.into();
    startup_probe["timeoutSeconds"] = 2.into();
    startup_probe["failureThreshold"] =
        startup_threshold(startup.timeout.0.as_secs(), startup.on_timeout).into();
    let mut liveness_probe = probe(contract::PATH_LIVE);
    liveness_probe["periodSeconds"] = 10.into();
    liveness_probe["timeoutSeconds"] = 5.into();
    liveness_probe["failureThreshold"] = 6.into();

    let mut container = json!({
        "name": container_name(spec),
        "image": image_name(&settings.image, image.as_ref()),
        "restartPolicy": "Always",
        "args": arguments(stoker, port),
        "env": env,
        "ports": [{ "name": contract::HEALTH_PORT_NAME, "containerPort": port, "protocol": "TCP" }],
        "startupProbe": startup_probe,
        "livenessProbe": liveness_probe,
        "securityContext": security_context,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    let policy = image.as_ref().and_then(|image| image.pull_policy).or(settings.image.pull_policy);
    if let Some(policy) = policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if let Some(resources) = resources::plan(spec, stoker.spec.agent.resources.as_ref(), settings) {
        container["resources"] = json!(resources);
    }
    let volumes = mounted.into_iter().zip(names).map(|(volume, name)| {
        let mut source = volume.source;
        source["name"] = name.into();
        source
    });
    (Agent { container, volumes: volumes.collect() }, cautions)
}

fn arguments(stoker: &StokerView, port: u16) -> Vec<String> {
    let agent = &stoker.spec.agent;
    let policy = match agent.startup.on_timeout {
        OnTimeout::UseLastGood => "UseLastGood",
        OnTimeout::Block => "Block",
    };
    // A period below a second is no time to wait; the API server refuses it anyway.
    let seconds = agent.startup.timeout.0.as_secs().max(1);
    vec![
        format!("{}={}", contract::FLAG_CR, stoker.name),
        format!("{}={}", contract::FLAG_NAMESPACE, stoker.namespace),
        format!("{}=$({})", contract::FLAG_POD, contract::ENV_POD_NAME),
        format!("{}=$({})", contract::FLAG_POD_UID, contract::ENV_POD_UID),
        format!("{}={port}", contract::FLAG_HEALTH_PORT),
        format!("{}={seconds}", contract::FLAG_STARTUP_TIMEOUT_SECONDS),
        format!("{}={policy}", contract::FLAG_ON_STARTUP_TIMEOUT),
        format!("{}={}", contract::FLAG_CACHE_LIMIT_BYTES, agent.repo_size_limit.0),
    ]
}

/// Probes, one a second, until the kubelet gives up.
fn startup_threshold(timeout_seconds: u64, policy: OnTimeout) -> u64 {
    match policy {
        OnTimeout::UseLastGood => timeout_seconds.max(1) + MARGIN_SECONDS + timeout_seconds / 5,
        OnTimeout::Block => BLOCK_SECONDS,
    }
}

fn container_name(spec: &PodSpec) -> String {
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    let taken: Vec<&str> =
        spec.containers.iter().chain(init).map(|c| c.name.as_str()).chain(ephemeral).collect();
    volumes::free(contract::CONTAINER, &taken)
}

/// A port that no container of the pod declares.
fn health_port(spec: &PodSpec) -> u16 {
    let init = spec.init_containers.iter().flatten();
    let taken: Vec<i32> = spec
        .containers
        .iter()
        .chain(init)
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| p.container_port)
        .collect();
    (contract::HEALTH_PORT..u16::MAX)
        .find(|port| !taken.contains(&i32::from(*port)))
        .unwrap_or(contract::HEALTH_PORT)
}

/// The reference of an image: what the `Stoker` names, else what the installation names. A tag that the `Stoker` names
/// is not overruled by the installation's digest.
fn image_name(installed: &AgentImage, wanted: Option<&AgentImage>) -> String {
    let none = AgentImage::default();
    let wanted = wanted.unwrap_or(&none);
    let repository = wanted.repository.as_ref().or(installed.repository.as_ref());
    let (tag, digest) = if wanted.tag.is_some() || wanted.digest.is_some() {
        (wanted.tag.as_ref(), wanted.digest.as_ref())
    } else {
        (installed.tag.as_ref(), installed.digest.as_ref())
    };
    let repository = repository.map(String::as_str).unwrap_or_default();
    match (tag, digest) {
        (Some(tag), None) => format!("{repository}:{tag}"),
        (Some(tag), Some(digest)) => format!("{repository}:{tag}@{digest}"),
        (None, Some(digest)) => format!("{repository}@{digest}"),
        (None, None) => repository.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(repository: &str, tag: &str, digest: &str) -> AgentImage {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        AgentImage { repository: some(repository), tag: some(tag), digest: some(digest), pull_policy: None }
    }

    #[test]
    fn the_image_is_the_stokers_as_far_as_it_says() {
        let installed = image("registry.example.com/agent", "1.0", "sha256:aa");
        for (wanted, expected) in [
            (image("", "", ""), "registry.example.com/agent:1.0@sha256:aa"),
            (image("", "1.1", ""), "registry.example.com/agent:1.1"),
            (image("", "", "sha256:bb"), "registry.example.com/agent@sha256:bb"),
            (image("mirror/agent", "", ""), "mirror/agent:1.0@sha256:aa"),
            (image("mirror/agent", "2", "sha256:cc"), "mirror/agent:2@sha256:cc"),
        ] {
            assert_eq!(image_name(&installed, Some(&wanted)), expected);
        }
        assert_eq!(image_name(&installed, None), "registry.example.com/agent:1.0@sha256:aa");
    }

    #[test]
    fn the_kubelet_waits_longer_than_the_agent() {
        for seconds in [1, 300, 3600] {
            assert!(startup_threshold(seconds, OnTimeout::UseLastGood) >= seconds + MARGIN_SECONDS);
        }
        assert_eq!(startup_threshold(1, OnTimeout::Block), BLOCK_SECONDS);
    }
}
