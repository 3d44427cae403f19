//! Condition types and reasons, and the one way in which conditions change.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The ref was resolved to a commit.
pub const REF_RESOLVED: &str = "RefResolved";
/// Every profile that a gateway names exists and is valid.
pub const PROFILES_VALID: &str = "ProfilesValid";
/// Every gateway runs the wanted commit and confirmed it.
pub const ALL_GATEWAYS_SYNCED: &str = "AllGatewaysSynced";
/// Every pod that asks for the sidecar has it.
pub const SIDECAR_INJECTED: &str = "SidecarInjected";
/// Every agent reports.
pub const AGENTS_READY: &str = "AgentsReady";
/// Some pod runs another ref than the others (abnormal when True).
pub const REF_SKEW: &str = "RefSkew";
/// The ssh host was recognised.
pub const SSH_HOST_KEY: &str = "SSHHostKeyVerification";
/// Deliveries can be checked.
pub const WEBHOOK_READY: &str = "WebhookReady";
/// Nothing is written for the time being.
pub const PAUSED: &str = "Paused";
/// All is well: ref resolved, profiles valid, every gateway confirmed.
pub const READY: &str = "Ready";
/// Work is under way (kstatus).
pub const RECONCILING: &str = "Reconciling";
/// No progress without a change (kstatus).
pub const STALLED: &str = "Stalled";
/// Profile: the spec is in force.
pub const ACCEPTED: &str = "Accepted";
/// Profile: every gateway has reported its dry run.
pub const DRY_RUN_COMPLETED: &str = "DryRunCompleted";
/// Of a `SyncProfile`: none of its gateways waits for those of another one.
pub const DEPENDENCIES_MET: &str = "DependenciesMet";

/// Reasons: one CamelCase word each, stable.
pub mod reason {
    /// It worked.
    pub const SUCCEEDED: &str = "Succeeded";
    /// It worked, with something that a person should know.
    pub const SUCCEEDED_WITH_WARNINGS: &str = "SucceededWithWarnings";
    /// All gateways are synced.
    pub const ALL_SYNCED: &str = "AllSynced";
    /// No gateway pod was found.
    pub const NO_GATEWAYS: &str = "NoGateways";
    /// Some gateways are on their way.
    pub const SYNCING: &str = "Syncing";
    /// Some gateways failed.
    pub const SYNC_FAILED: &str = "SyncFailed";
    /// Some gateways are held back on purpose.
    pub const HELD: &str = "Held";
    /// Some pods have no sidecar.
    pub const MISSING_SIDECAR: &str = "MissingSidecar";
    /// Some agents have fallen silent.
    pub const AGENT_SILENT: &str = "AgentSilent";
    /// Some agents have never reported.
    pub const AGENT_PENDING: &str = "AgentPending";
    /// Some agents run another version than the controller.
    pub const VERSION_SKEW: &str = "VersionSkew";
    /// The resource is paused.
    pub const PAUSED: &str = "Paused";
    /// A profile is not there.
    pub const PROFILE_MISSING: &str = "ProfileMissing";
    /// A profile is invalid.
    pub const PROFILE_INVALID: &str = "ProfileInvalid";
    /// The spec of the `Stoker` is invalid.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A Secret or a key in it is not there.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// The ref has not been looked up yet.
    pub const RESOLVING: &str = "Resolving";
    /// A defect in Stoker itself.
    pub const INTERNAL_ERROR: &str = "InternalError";
    /// A dry run is under way.
    pub const DRY_RUN_PENDING: &str = "DryRunPending";
    /// Others go first.
    pub const WAITING: &str = "Waiting";
}

/// What a condition should say; the rest (times, generation) follows from the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Type of the condition.
    pub type_: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: Verdict,
    /// One CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

impl Verdict {
    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Wanted {
    /// A condition to be.
    #[must_use]
    pub fn new(
        type_: &'static str,
        status: Verdict,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, status, reason: reason.into(), message: message.into() }
    }

    /// A condition that holds.
    #[must_use]
    pub fn yes(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(type_, Verdict::True, reason, message)
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(type_, Verdict::False, reason, message)
    }
}

/// Longest message of a condition that Stoker writes, in bytes.
pub const MAX_MESSAGE: usize = 2048;

/// The conditions after a pass: exactly those of `wanted`, in that order. The transition time of one moves only with
/// its status, so that equal input gives equal output.
#[must_use]
pub fn merge(
    old: &[Condition],
    wanted: Vec<Wanted>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|want| {
            let before = old.iter().find(|c| c.type_ == want.type_ && c.status == want.status.as_str());
            Condition {
                last_transition_time: before
                    .map_or(Time(whole_second(now)), |c| c.last_transition_time.clone()),
                message: cap(want.message, MAX_MESSAGE),
                observed_generation: generation,
                reason: want.reason,
                status: want.status.as_str().to_owned(),
                type_: want.type_.to_owned(),
            }
        })
        .collect()
}

/// The condition of this type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is there and True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

/// What the API server keeps of a time: a fraction would differ after the round trip.
pub(crate) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// `text`, cut to `limit` bytes with an ellipsis when it is longer.
pub(crate) fn cap(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let mut cut = limit - '…'.len_utf8();
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = merge(&[], vec![Wanted::no(READY, reason::SYNCING, "1/2 synced")], Some(1), at(100));
        let second = merge(&first, vec![Wanted::no(READY, reason::SYNCING, "0/2 synced")], Some(2), at(200));
        assert_eq!(second[0].last_transition_time.0, at(100));
        assert_eq!((second[0].message.as_str(), second[0].observed_generation), ("0/2 synced", Some(2)));
        let third =
            merge(&second, vec![Wanted::yes(READY, reason::ALL_SYNCED, "2/2 synced")], Some(2), at(300));
        assert_eq!(third[0].last_transition_time.0, at(300));
        assert!(is_true(&third, READY) && !is_true(&second, READY) && !is_true(&[], READY));
        assert!(merge(&third, vec![], Some(2), at(400)).is_empty());
    }

    #[test]
    fn messages_are_capped_at_a_character() {
        let text = cap("ä".repeat(2000), MAX_MESSAGE);
        assert!(text.len() <= MAX_MESSAGE && text.ends_with('…'));
        assert_eq!(cap("short".to_owned(), MAX_MESSAGE), "short");
    }
}
