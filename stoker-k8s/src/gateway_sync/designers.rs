//! Whether open Designers hold a sync.

use std::time::Duration;

use stoker_core::{Plan, RelPathBuf, Source, Variables};
use stoker_ignition::client::{GatewayClient, GatewayError};
use stoker_ignition::rules::{Designer, DesignerPolicy, Gate, ProjectTree, Touched, gate};

use super::mapped::Placed;
use crate::api::DesignerSessionPolicy;

/// A designer that was silent for this long does not count.
const DORMANT_AFTER: Duration = Duration::from_secs(120);

/// What the gateway says about Designers and projects.
pub(super) struct Editing {
    /// The sessions that are not dormant; `None` when it could not be asked.
    pub(super) live: Option<Vec<Designer>>,
    /// Which project inherits from which, now.
    pub(super) tree: ProjectTree,
}

/// Asks the gateway.
pub(super) async fn editing(client: &GatewayClient) -> Editing {
    let live = match client.designers().await {
        Ok(designers) => Some(designers.live(DORMANT_AFTER)),
        // A gateway that does not run has no designers.
        Err(error) if is_down(&error) => Some(Vec::new()),
        Err(_) => None,
    };
    let projects = client.projects_list().await.unwrap_or_default();
    let tree = projects.iter().map(|p| (p.name.as_str(), p.parent.as_str())).collect();
    Editing { live, tree }
}

/// Decides. `parents` are those that the commit brings: a project and what it will inherit from, each.
pub(super) fn judge(
    policy: DesignerSessionPolicy,
    touched: &Touched,
    mut editing: Editing,
    parents: &[(String, String)],
) -> Gate {
    let policy = match policy {
        DesignerSessionPolicy::Proceed => DesignerPolicy::Proceed,
        DesignerSessionPolicy::Wait => DesignerPolicy::Wait,
        DesignerSessionPolicy::Fail => DesignerPolicy::Fail,
    };
    // Beside the parents of now: while a commit changes the parent, both of them show in the project.
    parents.iter().for_each(|(project, parent)| editing.tree.add(project, parent));
    gate(policy, &touched.projects, &editing.tree, editing.live.as_deref())
}

/// The parents that the written `project.json` files of a plan name.
pub(super) fn parents(
    plan: &Plan,
    source: &dyn Source,
    placed: &[Placed<'_>],
    variables: &Variables,
) -> Vec<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Project {
        #[serde(default)]
        parent: Option<String>,
    }
    let written = plan.actions.iter().filter(|a| a.kind.writes()).map(|a| &a.path);
    let projects = written.filter_map(|path| Some((path, project_of(path)?)));
    let mut all = Vec::new();
    for (path, name) in projects {
        for mapping in placed {
            let content = mapping.content(path.as_path(), source, variables);
            let parent = content.and_then(|c| serde_json::from_slice::<Project>(&c).ok()?.parent);
            let patched =
                mapping.mapping.patches.iter().filter_map(|patch| patch.set.get("parent")?.as_str());
            let brings = path.as_path().starts_with(mapping.destination.as_path());
            let patched = patched.filter(|_| brings).map(str::to_owned);
            // Too many parents hold a sync once too often, too few let it pass while somebody edits.
            all.extend(parent.into_iter().chain(patched).map(|parent| (name.to_owned(), parent)));
        }
    }
    all
}

/// The project that this is the `project.json` of.
pub(super) fn project_of(path: &RelPathBuf) -> Option<&str> {
    let mut parts = path.as_path().components();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("projects"), Some(name), Some("project.json"), None) => Some(name),
        _ => None,
    }
}

/// Whether there is certainly no running gateway behind an error.
const fn is_down(error: &GatewayError) -> bool {
    matches!(
        error,
        GatewayError::Unreachable { .. }
            | GatewayError::Starting { .. }
            | GatewayError::NotCommissioned { .. }
    )
}
