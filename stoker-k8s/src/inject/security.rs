//! Who the agent runs as.

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SecurityContext};
use serde_json::{Value, json};

use super::contract::IMAGE_UID;

/// The agent's security context, and what its user should know.
///
/// User, group and SELinux label are the gateway's, whether the pod or the gateway's container names them: files then
/// belong to the gateway. Everything else is as tight as the `restricted` Pod Security Standard wants it.
pub(super) fn plan(spec: &PodSpec, gateway: &Container) -> (Value, Vec<String>) {
    let (none_of_pod, none) = (PodSecurityContext::default(), SecurityContext::default());
    let pod = spec.security_context.as_ref().unwrap_or(&none_of_pod);
    let own = gateway.security_context.as_ref().unwrap_or(&none);

    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    // Only what the container says itself: what the pod says holds for the agent anyway.
    let mut copy = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            context[key] = value;
        }
    };
    copy("runAsUser", own.run_as_user.map(Value::from));
    copy("runAsGroup", own.run_as_group.map(Value::from));
    copy("runAsNonRoot", own.run_as_non_root.map(Value::from));
    copy("seLinuxOptions", own.se_linux_options.as_ref().map(|options| json!(options)));

    let mut cautions = Vec::new();
    match own.run_as_user.or(pod.run_as_user) {
        Some(0) => cautions.push(
            "the pod runs as root: the agent, which has no capabilities, cannot change files of other users; set \
             runAsUser to the gateway's user"
                .to_owned(),
        ),
        None => cautions.push(format!(
            "the pod names no runAsUser: the agent runs as user {IMAGE_UID} and its files belong to that user; set \
             runAsUser to the gateway's user"
        )),
        Some(_) => {}
    }
    (context, cautions)
}

/// Mode of the files that hold credentials.
///
/// They belong to root, and to the pod's `fsGroup` if there is one: then the kubelet adds the group's right to read to
/// 0400. Without it, only root could read them; so where the agent is somebody else, they are readable by all, who are
/// the agent alone, because nobody else mounts them.
pub(super) fn secret_mode(spec: &PodSpec, gateway: &Container) -> i32 {
    let pod = spec.security_context.as_ref();
    let user =
        gateway.security_context.as_ref().and_then(|own| own.run_as_user).or(pod.and_then(|p| p.run_as_user));
    let group = pod.and_then(|context| context.fs_group);
    if group.is_some() || user == Some(0) { 0o400 } else { 0o444 }
}
