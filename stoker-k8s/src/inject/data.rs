//! Where the gateway's data directory is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume, VolumeMount};

use super::contract::{DATA_DIR, GATEWAY_CONTAINER, GATEWAY_DATA_PATH};
use super::{Obstacle, Reason};

/// The data directory of a pod's gateway.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DataDirectory<'a> {
    /// The gateway's container.
    pub(super) container: &'a Container,
    /// What the agent mounts to see what that container sees, the data volume first.
    pub(super) mounts: Vec<VolumeMount>,
    /// Variables that `subPathExpr` in these mounts refers to.
    pub(super) env: Vec<EnvVar>,
}

/// Finds the volume that a container mounts at the official place, or where the annotation says.
///
/// Several containers may mount the same part of the same volume (a log shipper beside the gateway). When they differ,
/// the container `gateway` decides.
pub(super) fn find<'a>(spec: &'a PodSpec, data_path: Option<&str>) -> Result<DataDirectory<'a>, Obstacle> {
    let path = match data_path {
        None => GATEWAY_DATA_PATH.to_owned(),
        Some(text) => normal(text).ok_or_else(|| {
            Obstacle::new(
                Reason::InvalidDataPath,
                format!("annotation stoker.io/data-path: {text:?} is not an absolute path below the root"),
            )
        })?,
    };
    let candidates: Vec<(&Container, &VolumeMount)> =
        spec.containers.iter().filter_map(|c| Some((c, mount_at(c, &path)?))).collect();
    let place = |m: &VolumeMount| (m.name.clone(), part(m.sub_path.as_ref()), part(m.sub_path_expr.as_ref()));
    let places: BTreeSet<_> = candidates.iter().map(|(_, mount)| place(mount)).collect();
    let named = candidates.iter().find(|(c, _)| c.name == GATEWAY_CONTAINER);
    let (container, mount) = match (named, candidates.first(), places.len()) {
        (Some(found), ..) | (None, Some(found), 1) => *found,
        (_, None, _) => {
            return Err(Obstacle::new(
                Reason::NoDataVolume,
                format!(
                    "no container mounts a volume at {path}; mount one, or name its place with the annotation stoker.io/data-path"
                ),
            ));
        }
        _ => {
            let names: Vec<&str> = candidates.iter().map(|(c, _)| c.name.as_str()).collect();
            return Err(Obstacle::new(
                Reason::AmbiguousDataVolume,
                format!(
                    "containers {} mount different volumes at {path}; call the gateway's container {GATEWAY_CONTAINER:?}",
                    names.join(", ")
                ),
            ));
        }
    };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume.name == mount.name);
    if mount.read_only == Some(true) || volume.is_some_and(is_read_only) {
        return Err(Obstacle::new(
            Reason::UnusableDataVolume,
            format!(
                "volume {:?}, mounted at {path} in container {:?}, cannot be written",
                mount.name, container.name
            ),
        ));
    }

    // What the gateway has mounted below its data directory hides what the volume holds there. The agent must see the
    // same, or it would write where the gateway never looks.
    let below = container.volume_mounts.iter().flatten().filter_map(|inner| {
        let rest = normal(&inner.mount_path)?.strip_prefix(&path)?.strip_prefix('/')?.to_owned();
        let read_only = volumes.iter().find(|v| v.name == inner.name).is_some_and(is_read_only);
        Some((inner, format!("{DATA_DIR}/{rest}"), read_only))
    });
    let mounts: Vec<VolumeMount> = std::iter::once((mount, DATA_DIR.to_owned(), false))
        .chain(below)
        .map(|(theirs, mount_path, read_only)| VolumeMount {
            name: theirs.name.clone(),
            mount_path,
            read_only: if read_only { Some(true) } else { theirs.read_only },
            sub_path: theirs.sub_path.clone(),
            sub_path_expr: theirs.sub_path_expr.clone(),
            ..VolumeMount::default()
        })
        .collect();
    let env = variables(container, &mounts)?;
    Ok(DataDirectory { container, mounts, env })
}

/// An absolute path without empty, `.` and `..` segments and without a slash at its end; the root is none.
fn normal(path: &str) -> Option<String> {
    let rest = path.strip_prefix('/')?;
    let segments: Vec<&str> = rest.split('/').filter(|s| !s.is_empty() && *s != ".").collect();
    (!segments.is_empty() && !segments.contains(&"..")).then(|| format!("/{}", segments.join("/")))
}

fn mount_at<'a>(container: &'a Container, path: &str) -> Option<&'a VolumeMount> {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    mounts.iter().find(|mount| normal(&mount.mount_path).as_deref() == Some(path))
}

/// A `subPath`: absent and empty mean the same.
fn part(sub_path: Option<&String>) -> Option<String> {
    sub_path.filter(|text| !text.is_empty()).cloned()
}

/// Volumes whose content comes from the API server.
fn is_read_only(volume: &Volume) -> bool {
    volume.secret.is_some()
        || volume.config_map.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.image.is_some()
}

/// The variables that `subPathExpr` needs, copied from the gateway's container as far as they hold no secret.
fn variables(container: &Container, mounts: &[VolumeMount]) -> Result<Vec<EnvVar>, Obstacle> {
    let mut found: Vec<EnvVar> = Vec::new();
    for expression in mounts.iter().filter_map(|mount| mount.sub_path_expr.as_deref()) {
        for name in references(expression) {
            if found.iter().any(|env| env.name == name) {
                continue;
            }
            let env = container.env.iter().flatten().rfind(|env| env.name == name).filter(|env| {
                let literal = env.value.as_ref().is_some_and(|value| !value.contains("$("));
                literal || env.value_from.as_ref().is_some_and(|from| from.field_ref.is_some())
            });
            let env = env.ok_or_else(|| {
                Obstacle::new(
                    Reason::UnusableDataVolume,
                    format!(
                        "subPathExpr {expression:?} of container {:?} uses {name}, which is neither a plain value nor a field of the pod",
                        container.name
                    ),
                )
            })?;
            found.push(env.clone());
        }
    }
    Ok(found)
}

/// Names in `$(NAME)`; `$$(NAME)` is no reference.
fn references(expression: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find('$') {
        let tail = &rest[at + 1..];
        rest = if let Some(escaped) = tail.strip_prefix('$') {
            escaped
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            names.push(name);
            after
        } else {
            tail
        };
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_meaning() {
        assert_eq!(normal("/a//b/./c/").as_deref(), Some("/a/b/c"));
        for bad in ["", "/", "a/b", "/a/../b", "//"] {
            assert_eq!(normal(bad), None, "{bad}");
        }
    }

    #[test]
    fn references_are_found_as_the_kubelet_finds_them() {
        assert_eq!(references("$(A)/x/$(B_C)"), ["A", "B_C"]);
        assert_eq!(references("$$(A)/$x/$(B"), Vec::<&str>::new());
        assert_eq!(references("plain"), Vec::<&str>::new());
    }
}
