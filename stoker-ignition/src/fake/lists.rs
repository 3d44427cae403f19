//! The routes that describe and list.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::core::State;
use super::routes::{Reply, json_ok};
use axum::http::StatusCode;

/// The query parameters that every list knows.
const LIST_PARAMETERS: [&str; 5] = ["limit", "offset", "sortBy", "search", "filter"];
const LOG_PARAMETERS: [&str; 6] =
    ["startTime", "endTime", "minLevel", "logger", "properties", "allowedMarkers"];

type Parameters = [(String, String)];

pub(super) fn is_known(route: &[&str]) -> bool {
    matches!(
        route,
        ["gateway-info" | "designers" | "logs" | "redundancy"]
            | ["projects", "list" | "names"]
            | ["resources", "names", _, _]
            | ["restart-tasks", "pending"]
    )
}

/// The answer to a GET of a known route; `None` for a resource type that has no names.
pub(super) fn answer(s: &mut State, route: &[&str], query: &Parameters) -> Option<Reply> {
    Some(match route {
        ["gateway-info"] => json_ok(gateway_info(s)),
        ["redundancy"] => json_ok(redundancy(s)),
        ["restart-tasks", "pending"] => json_ok(json!({"pending": []})),
        ["designers"] if s.behaviour.designers_error => Reply::Html(StatusCode::INTERNAL_SERVER_ERROR),
        ["designers"] => {
            let items = s.designers.iter().map(|d| json!(d)).collect();
            list(items, query, &[])
        }
        ["projects", "list"] => list(projects(s), query, &[]),
        ["projects", "names"] => {
            list(s.projects.loaded.keys().map(|n| json!({"name": n})).collect(), query, &[])
        }
        ["logs"] => list(logs(s, query), query, &LOG_PARAMETERS),
        ["resources", "names", module, resource_type] => {
            list(resource_names(s, module, resource_type)?, query, &[])
        }
        _ => return None,
    })
}

/// A parameter that is not declared leaves nothing over, with status 200 and the total unchanged.
fn list(mut items: Vec<Value>, query: &Parameters, more: &[&str]) -> Reply {
    let total = items.len();
    if query
        .iter()
        .any(|(name, _)| !LIST_PARAMETERS.contains(&name.as_str()) && !more.contains(&name.as_str()))
    {
        items.clear();
    }
    let matching = items.len();
    let number =
        |wanted: &str| query.iter().find(|(n, _)| n == wanted).and_then(|(_, v)| v.parse::<i64>().ok());
    let offset = number("offset").and_then(|o| usize::try_from(o).ok()).unwrap_or(0);
    let limit = number("limit").unwrap_or(-1);
    let page: Vec<Value> =
        items.into_iter().skip(offset).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    json_ok(json!({
        "items": page,
        "metadata": {"total": total, "matching": matching, "limit": limit, "offset": offset},
    }))
}

fn gateway_info(s: &State) -> Value {
    let b = &s.behaviour;
    json!({
        "name": b.name,
        "redundancyRole": b.role,
        "edition": "standard",
        "hostname": b.name,
        "port": "8088",
        "ignitionVersion": format!("{} (b2026042713)", b.version),
        "deploymentMode": b.deployment_mode,
        "timeZone": "Coordinated Universal Time",
        "timeZoneId": "UTC",
        "jvmVersion": "17.0.18",
        "allowUnsignedModules": false,
        "license": {"mode": "trial", "licenseRestrictions": []},
    })
}

fn redundancy(s: &State) -> Value {
    let backup = s.behaviour.role == "Backup";
    json!({
        "role": s.behaviour.role,
        "projectState": "Good",
        "activityLevel": if backup { "Warm" } else { "Active" },
        "localId": s.behaviour.name,
        "peerConnected": s.behaviour.role != "Independent" && s.behaviour.peer_connected,
        "peerId": null,
        "hasConfigAccess": !backup,
        "syncPending": false,
        "failoverPending": false,
        "uptime": -1,
        "lastSyncTimestamp": s.last_sync_ms,
    })
}

fn projects(s: &State) -> Vec<Value> {
    s.projects
        .loaded
        .iter()
        .filter(|(_, p)| !s.behaviour.list_runnable_only || (p.enabled && !p.inheritable))
        .map(|(name, p)| {
            json!({
                "name": name,
                "title": p.title,
                "description": p.description,
                "enabled": p.enabled,
                "inheritable": p.inheritable,
                "parent": p.parent,
                "invalidParent": p.invalid_parent,
                "mutable": true,
            })
        })
        .collect()
}

fn logs(s: &State, query: &Parameters) -> Vec<Value> {
    const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    let value = |wanted: &str| query.iter().find(|(n, _)| n == wanted).map(|(_, v)| v.as_str());
    let rank = |level: &str| LEVELS.iter().position(|l| *l == level).unwrap_or(0);
    let start = value("startTime").and_then(|v| v.parse::<i64>().ok()).unwrap_or(i64::MIN);
    let end = value("endTime").and_then(|v| v.parse::<i64>().ok()).unwrap_or(i64::MAX);
    let least = rank(value("minLevel").unwrap_or("TRACE"));
    s.logs
        .iter()
        .rev()
        .filter(|l| l.timestamp >= start && l.timestamp <= end && rank(l.level) >= least)
        .map(|l| {
            json!({
                "timestamp": l.timestamp,
                "loggerName": l.logger,
                "level": l.level,
                "message": l.message,
                "stack": [],
                "mdc": {},
            })
        })
        .collect()
}

/// The resources of one type over all collections; `None` for a singleton, which has no names.
fn resource_names(s: &State, module: &str, resource_type: &str) -> Option<Vec<Value>> {
    let singleton = format!("{module}/{resource_type}");
    let prefix = format!("{singleton}/");
    let mut found: BTreeMap<&str, (bool, Vec<&str>)> = BTreeMap::new();
    for (collection, loaded) in &s.config.loaded {
        if loaded.resources.contains_key(&singleton) {
            return None;
        }
        for (path, resource) in &loaded.resources {
            let Some(name) = path.strip_prefix(&prefix) else { continue };
            let entry = found.entry(name).or_insert((true, Vec::new()));
            entry.0 = resource.enabled;
            entry.1.push(collection);
        }
    }
    Some(
        found
            .into_iter()
            .map(|(name, (enabled, modes))| json!({"name": name, "enabled": enabled, "modes": modes}))
            .collect(),
    )
}
