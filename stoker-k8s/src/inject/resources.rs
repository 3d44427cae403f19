//! Requests and limits of the agent.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Settings;
use crate::api::AgentResources;

type Quantities = BTreeMap<String, Quantity>;

/// What the agent gets where nobody says otherwise.
pub(super) fn standard() -> AgentResources {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    };
    AgentResources {
        requests: map(&[("cpu", "10m"), ("memory", "32Mi")]),
        limits: map(&[("memory", "128Mi")]),
    }
}

/// The resources of the agent in a pod; `None` where it must have none of its own.
pub(super) fn plan(
    spec: &PodSpec,
    wanted: Option<&AgentResources>,
    settings: &Settings,
) -> Option<AgentResources> {
    // With resources for the whole pod, the sum over its containers must fit into them: a pod that uses them up would
    // be refused because of us.
    if spec.resources.is_some() {
        return None;
    }
    if wanted.is_none() && is_guaranteed(spec) {
        return Some(guaranteed(settings));
    }
    let theirs = wanted.cloned().unwrap_or_default();
    let mut limits = settings.resources.limits.clone();
    limits.extend(theirs.limits.clone());
    let mut requests = settings.resources.requests.clone();
    requests.extend(theirs.requests.clone());
    // A request above its limit makes a pod that the API server refuses. Whoever said less gives way.
    for (name, limit) in &mut limits {
        let Some(request) = requests.get_mut(name) else { continue };
        if amount(request) > amount(limit) {
            if theirs.limits.contains_key(name) {
                *request = limit.clone();
            } else {
                *limit = request.clone();
            }
        }
    }
    Some(AgentResources { requests, limits })
}

/// Whether the pod is of class `Guaranteed`: a sidecar that is not would cost the gateway its place in the order of
/// eviction, and its exclusive CPUs.
fn is_guaranteed(spec: &PodSpec) -> bool {
    let init = spec.init_containers.iter().flatten();
    !spec.containers.is_empty() && spec.containers.iter().chain(init).all(is_guaranteed_container)
}

fn is_guaranteed_container(container: &Container) -> bool {
    let Some(resources) = &container.resources else { return false };
    ["cpu", "memory"].iter().all(|name| {
        let limit = resources.limits.as_ref().and_then(|map| map.get(*name));
        let request = resources.requests.as_ref().and_then(|map| map.get(*name));
        // An absent request is the limit.
        limit.is_some_and(|limit| request.is_none_or(|request| amount(request) == amount(limit)))
    })
}

fn guaranteed(settings: &Settings) -> AgentResources {
    let standard = &settings.resources;
    let pick = |name: &str, default: &str| {
        let own = standard.limits.get(name);
        own.cloned().unwrap_or_else(|| Quantity(default.to_owned()))
    };
    let all: Quantities = BTreeMap::from([
        ("cpu".to_owned(), pick("cpu", &settings.guaranteed_cpu)),
        ("memory".to_owned(), pick("memory", "128Mi")),
    ]);
    AgentResources { requests: all.clone(), limits: all }
}

/// A quantity as a number, for comparing; `None` when it is none.
fn amount(quantity: &Quantity) -> Option<f64> {
    const UNITS: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let text = quantity.0.trim();
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn agent(value: serde_json::Value) -> AgentResources {
        serde_json::from_value(value).unwrap()
    }

    fn json(resources: &AgentResources) -> serde_json::Value {
        serde_json::to_value(resources).unwrap()
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let amount = |text: &str| amount(&Quantity(text.to_owned()));
        assert_eq!(amount("1"), amount("1000m"));
        assert_eq!(amount("1Gi"), amount("1024Mi"));
        assert_eq!(amount("1e3"), amount("1k"));
        assert!(amount("129Mi") > amount("128Mi"));
        assert_eq!(amount("much"), None);
    }

    #[test]
    fn a_stokers_wishes_win_key_by_key_and_never_make_an_invalid_pod() {
        let pod = spec(serde_json::json!({"containers": [{"name": "gateway"}]}));
        let settings = Settings::default();
        let plan = |wanted| json(&plan(&pod, Some(&agent(wanted)), &settings).unwrap());
        assert_eq!(
            plan(serde_json::json!({"limits": {"cpu": "1"}})),
            serde_json::json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}})
        );
        // More than the installation's limit, which follows.
        assert_eq!(plan(serde_json::json!({"requests": {"memory": "1Gi"}}))["limits"]["memory"], "1Gi");
        // Less than the installation's request, which follows.
        assert_eq!(plan(serde_json::json!({"limits": {"memory": "16Mi"}}))["requests"]["memory"], "16Mi");
        // Against itself.
        assert_eq!(
            plan(serde_json::json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}))["requests"]
                ["memory"],
            "1Gi"
        );
    }

    #[test]
    fn a_guaranteed_pod_stays_one() {
        let mut pod = serde_json::json!({
            "containers": [{"name": "gateway", "resources": {
                "requests": {"cpu": "1", "memory": "1536Mi"}, "limits": {"cpu": "1000m", "memory": "1.5Gi"}}}],
            "initContainers": [{"name": "preconfigure", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}],
        });
        let settings = Settings::default();
        let given = plan(&spec(pod.clone()), None, &settings).unwrap();
        assert_eq!(given.requests, given.limits);
        assert_eq!(json(&given)["limits"], serde_json::json!({"cpu": "200m", "memory": "128Mi"}));

        // One container without a CPU limit, and the pod was none before.
        pod["initContainers"][0]["resources"] = serde_json::json!({});
        assert_eq!(plan(&spec(pod.clone()), None, &settings).unwrap(), standard());
        // Who asks for something else gets it.
        pod["initContainers"] = serde_json::json!([]);
        let wanted = agent(serde_json::json!({"limits": {"memory": "64Mi"}}));
        assert!(!plan(&spec(pod), Some(&wanted), &settings).unwrap().limits.contains_key("cpu"));
    }

    #[test]
    fn resources_of_the_whole_pod_are_enough() {
        let pod = spec(serde_json::json!({"containers": [], "resources": {"limits": {"cpu": "1"}}}));
        assert_eq!(plan(&pod, None, &Settings::default()), None);
    }
}
