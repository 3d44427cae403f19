//! The conditions of a `Stoker`: what holds, and the one reason a person should act on.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use stoker_core::{Fault, Retry};

use super::Findings;
use crate::api::{GatewayEntry, SyncStatus};
use crate::conditions::{self, Verdict, Wanted, reason};
use crate::controller::dereference::{FOR_DELIVERIES, FOR_GATEWAY};
use crate::controller::lookup::Outcome;
use crate::controller::validate;
use crate::protocol::{AuthType, Metadata};

pub(super) fn conditions(
    findings: Findings<'_>,
    metadata: Option<&Metadata>,
    entries: &[GatewayEntry],
    old: &[Condition],
) -> Vec<Wanted> {
    let world = findings.world;
    let mut all = Vec::new();
    let resolved = ref_resolved(world.lookup.as_ref(), &world.decision.git_ref, old);
    let profiles = profiles_valid(findings, entries);
    let invalid = invalid_spec(findings);
    let mut synced = all_synced(metadata, entries);
    if synced.status != Verdict::True
        && let Some(problem) = api_key_problem(world.lookup.as_ref())
    {
        synced.message = format!("{}; gateways cannot confirm: {problem}", synced.message);
    }
    let sidecar = sidecar_injected(entries);
    let agents = agents_ready(entries);
    let paused = world.stoker.spec.paused.then(|| {
        Wanted::yes(conditions::PAUSED, reason::PAUSED, "nothing is written until spec.paused is false again")
    });

    let ready = ready(&[
        invalid.clone(),
        Some(resolved.clone()),
        paused.clone().map(|p| Wanted { status: Verdict::False, ..p }),
        profiles.clone(),
        sidecar.clone(),
        Some(synced.clone()),
    ]);
    all.push(Wanted {
        message: match (&ready.status, entries.len()) {
            (Verdict::True, 0) => synced.message.clone(),
            (Verdict::True, _) => synced.message.clone(),
            // How many are fine is what a person asks next.
            (_, 0) => ready.message.clone(),
            _ if ready.message.contains(" synced") => ready.message.clone(),
            _ => format!("{} ({})", ready.message, count(entries)),
        },
        ..ready.clone()
    });
    if ready.status != Verdict::True {
        let stalled = invalid
            .as_ref()
            .map(|i| (i.reason.clone(), i.message.clone()))
            .or_else(|| stuck(world.lookup.as_ref()));
        match stalled {
            Some((reason, message)) => all.push(Wanted::yes(conditions::STALLED, reason, message)),
            None if in_motion(world.lookup.as_ref(), entries) => {
                all.push(Wanted::yes(conditions::RECONCILING, ready.reason.clone(), ready.message.clone()));
            }
            None => {}
        }
    }
    all.push(resolved);
    all.extend(host_key(world.lookup.as_ref(), metadata, old));
    all.extend(profiles);
    all.push(synced);
    all.extend(sidecar);
    all.extend(agents);
    all.extend(webhook_ready(world));
    all.extend(paused);
    all
}

/// The first part that does not hold, in the order in which a person should act.
fn ready(parts: &[Option<Wanted>]) -> Wanted {
    let parts = || parts.iter().flatten();
    let worst =
        parts().find(|p| p.status == Verdict::False).or_else(|| parts().find(|p| p.status != Verdict::True));
    match worst {
        // An unknown part makes the whole not ready, not unknown: nobody may rely on it.
        Some(part) => Wanted::no(conditions::READY, part.reason.clone(), part.message.clone()),
        None => {
            let last = parts().last();
            let why = last.map_or(reason::SUCCEEDED, |p| p.reason.as_str());
            Wanted::yes(conditions::READY, why, last.map_or("", |p| p.message.as_str()))
        }
    }
}

fn ref_resolved(lookup: Option<&Outcome>, git_ref: &str, old: &[Condition]) -> Wanted {
    match lookup {
        None => match conditions::find(old, conditions::REF_RESOLVED) {
            // After a restart the old answer holds until there is a new one.
            Some(known) if known.status != "Unknown" => Wanted {
                type_: conditions::REF_RESOLVED,
                status: if known.status == "True" { Verdict::True } else { Verdict::False },
                reason: known.reason.clone(),
                message: known.message.clone(),
            },
            _ => Wanted::new(
                conditions::REF_RESOLVED,
                Verdict::Unknown,
                reason::RESOLVING,
                format!("looking up {git_ref}"),
            ),
        },
        Some(Outcome { result: Ok(found), .. }) => {
            let mut message = format!("{git_ref} is {}", found.commit);
            for warning in &found.warnings {
                message.push_str(&format!("; {warning}"));
            }
            let why =
                if found.warnings.is_empty() { reason::SUCCEEDED } else { reason::SUCCEEDED_WITH_WARNINGS };
            Wanted::yes(conditions::REF_RESOLVED, why, message)
        }
        Some(Outcome { result: Err(error), .. }) => {
            Wanted::no(conditions::REF_RESOLVED, error.category().as_str(), stoker_core::chain(error))
        }
    }
}

fn host_key(lookup: Option<&Outcome>, metadata: Option<&Metadata>, old: &[Condition]) -> Option<Wanted> {
    const TYPE: &str = conditions::SSH_HOST_KEY;
    let ssh = metadata.is_some_and(|m| m.auth_type == AuthType::Ssh);
    match lookup {
        Some(Outcome { result: Ok(_), .. }) if ssh => {
            Some(Wanted::yes(TYPE, reason::SUCCEEDED, "the host presented a known key"))
        }
        Some(Outcome { result: Err(error), .. }) if error.category().as_str().starts_with("HostKey") => {
            Some(Wanted::no(TYPE, error.category().as_str(), stoker_core::chain(error)))
        }
        _ if ssh => conditions::find(old, TYPE).map(|known| Wanted {
            type_: TYPE,
            status: if known.status == "True" { Verdict::True } else { Verdict::False },
            reason: known.reason.clone(),
            message: known.message.clone(),
        }),
        _ => None,
    }
}

/// The spec itself cannot be used.
fn invalid_spec(findings: Findings<'_>) -> Option<Wanted> {
    match (&findings.validated.base, findings.objects) {
        (Err(problems), _) => {
            Some(Wanted::no(conditions::STALLED, reason::INVALID_SPEC, problems.to_string()))
        }
        (_, Err(error)) => {
            Some(Wanted::no(conditions::STALLED, error.category().as_str(), error.to_string()))
        }
        _ => None,
    }
}

/// Only profiles that a pod names count; the others have conditions of their own.
fn profiles_valid(findings: Findings<'_>, entries: &[GatewayEntry]) -> Option<Wanted> {
    const TYPE: &str = conditions::PROFILES_VALID;
    if findings.validated.base.is_err() {
        return None;
    }
    let mut named: Vec<&str> = entries.iter().filter_map(|entry| entry.profile.as_deref()).collect();
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        return None;
    }
    let (mut missing, mut invalid) = (Vec::new(), Vec::new());
    for name in named {
        match findings.validated.profiles.get(name) {
            None => missing.push(name),
            Some(validate::Verdict::Rejected { problems, .. }) => {
                invalid.push(format!("profile {name}: {problems}"))
            }
            Some(validate::Verdict::Accepted(_)) => {}
        }
    }
    Some(if !invalid.is_empty() {
        Wanted::no(TYPE, reason::PROFILE_INVALID, invalid.join("; "))
    } else if !missing.is_empty() {
        let message = format!(
            "there is no SyncProfile {} in this namespace; create it, or correct the annotation stoker.io/sync-profile",
            missing.join(", ")
        );
        Wanted::no(TYPE, reason::PROFILE_MISSING, message)
    } else {
        Wanted::yes(TYPE, reason::SUCCEEDED, "every profile that a pod names is valid")
    })
}

fn count(entries: &[GatewayEntry]) -> String {
    let synced = entries.iter().filter(|e| e.sync_status == SyncStatus::Synced).count();
    format!("{synced}/{} synced", entries.len())
}

fn all_synced(metadata: Option<&Metadata>, entries: &[GatewayEntry]) -> Wanted {
    const TYPE: &str = conditions::ALL_GATEWAYS_SYNCED;
    let commit = metadata.and_then(|m| m.commit.as_deref()).map(|c| &c[..c.len().min(7)]);
    let count = count(entries);
    // In the order in which a person should look.
    for (status, why) in [
        (SyncStatus::Error, reason::SYNC_FAILED),
        (SyncStatus::Stale, reason::AGENT_SILENT),
        (SyncStatus::MissingSidecar, reason::MISSING_SIDECAR),
        (SyncStatus::Held, reason::HELD),
        (SyncStatus::Pending, reason::AGENT_PENDING),
        (SyncStatus::Syncing, reason::SYNCING),
    ] {
        let mut those = entries.iter().filter(|e| e.sync_status == status);
        let Some(first) = those.next() else { continue };
        let more = those.count();
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        let detail = match (&first.reason, first.message.as_str()) {
            (Some(reason), "") => format!(": {reason}"),
            (Some(reason), message) => format!(": {reason}: {message}"),
            (None, "") => String::new(),
            (None, message) => format!(": {message}"),
        };
        let message = format!("{count}; {}{and} {}{detail}", first.pod_name, status.as_str());
        return Wanted::no(TYPE, why, message);
    }
    match (commit, entries.len()) {
        (None, 0) => Wanted::yes(TYPE, reason::NO_GATEWAYS, "no gateway pods yet"),
        (Some(commit), 0) => {
            let message =
                format!("{commit} resolved; no pod in this namespace has the annotation stoker.io/inject");
            Wanted::yes(TYPE, reason::NO_GATEWAYS, message)
        }
        (commit, _) => Wanted::yes(TYPE, reason::ALL_SYNCED, format!("{count} at {}", commit.unwrap_or("?"))),
    }
}

fn sidecar_injected(entries: &[GatewayEntry]) -> Option<Wanted> {
    const TYPE: &str = conditions::SIDECAR_INJECTED;
    if entries.is_empty() {
        return None;
    }
    let bare: Vec<&str> = entries
        .iter()
        .filter(|e| e.sync_status == SyncStatus::MissingSidecar)
        .map(|e| e.pod_name.as_str())
        .collect();
    Some(match bare.as_slice() {
        [] => Wanted::yes(TYPE, reason::SUCCEEDED, "every pod that asks for the sidecar has it"),
        some => {
            let names = some.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let message = format!(
                "{} of {} pods have no sidecar ({names}); delete them, so that they are made again with one",
                some.len(),
                entries.len()
            );
            Wanted::no(TYPE, reason::MISSING_SIDECAR, message)
        }
    })
}

fn agents_ready(entries: &[GatewayEntry]) -> Option<Wanted> {
    const TYPE: &str = conditions::AGENTS_READY;
    let agents = || entries.iter().filter(|e| e.sync_status != SyncStatus::MissingSidecar);
    let total = agents().count();
    if total == 0 {
        return None;
    }
    let named = |status| agents().filter(move |e| e.sync_status == status).map(|e| e.pod_name.as_str());
    let silent: Vec<&str> = named(SyncStatus::Stale).take(5).collect();
    let pending: Vec<&str> = named(SyncStatus::Pending)
        .filter(|name| agents().any(|e| e.pod_name == *name && e.agent_version.is_none()))
        .take(5)
        .collect();
    Some(if !silent.is_empty() {
        Wanted::no(TYPE, reason::AGENT_SILENT, format!("silent: {}", silent.join(", ")))
    } else if !pending.is_empty() {
        Wanted::no(TYPE, reason::AGENT_PENDING, format!("never heard of: {}", pending.join(", ")))
    } else {
        Wanted::yes(TYPE, reason::SUCCEEDED, format!("{total} of {total} agents report"))
    })
}

fn webhook_ready(world: &crate::controller::dereference::World) -> Option<Wanted> {
    const TYPE: &str = conditions::WEBHOOK_READY;
    let webhook = &world.stoker.spec.webhook;
    let outcome = world.lookup.as_ref()?;
    if !webhook.enabled || webhook.secret_ref.is_none() {
        return None;
    }
    Some(match outcome.problems.iter().find(|(what, _)| *what == FOR_DELIVERIES) {
        Some((_, error)) => {
            Wanted::no(TYPE, error.category().as_str(), format!("every delivery is refused: {error}"))
        }
        None => Wanted::yes(TYPE, reason::SUCCEEDED, "deliveries are checked against the Secret"),
    })
}

/// What cannot get better by waiting.
fn stuck(lookup: Option<&Outcome>) -> Option<(String, String)> {
    let error = lookup?.result.as_ref().err()?;
    (error.retry() != Retry::Backoff).then(|| (error.category().to_string(), stoker_core::chain(error)))
}

fn in_motion(lookup: Option<&Outcome>, entries: &[GatewayEntry]) -> bool {
    lookup.is_none()
        || entries.iter().any(|e| matches!(e.sync_status, SyncStatus::Pending | SyncStatus::Syncing))
}

/// The API key's Secret explains why agents cannot confirm; it is said where somebody is not synced.
fn api_key_problem(lookup: Option<&Outcome>) -> Option<String> {
    let (_, error) = lookup?.problems.iter().find(|(what, _)| *what == FOR_GATEWAY)?;
    Some(error.to_string())
}
