//! What a gateway says about itself, as data.
//!
//! Unknown members are ignored and missing ones get a default: gateways of several versions must be understood.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::rules::Designer;

/// A member that may be missing or `null`.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The answer of `GET /StatusPing`, which needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatusPing {
    /// `STARTING`, `RUNNING`, ...
    pub state: String,
    /// For example `COMMISSIONING`.
    #[serde(default, deserialize_with = "nullable")]
    pub details: String,
}

/// How far a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not yet, or not any more, running.
    Starting,
    /// Running its first set-up; nothing but that can be done.
    Commissioning,
    /// Up.
    Running,
}

impl StatusPing {
    /// How far the gateway is. `RUNNING` alone does not mean commissioned.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (self.state.as_str(), self.details.to_ascii_uppercase().contains("COMMISSIONING")) {
            ("RUNNING", false) => Phase::Running,
            ("RUNNING", true) => Phase::Commissioning,
            _ => Phase::Starting,
        }
    }
}

/// The answer of `GET /system/gwinfo`, which needs no key: one line of `key=value` pairs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GwInfo {
    fields: BTreeMap<String, String>,
}

impl GwInfo {
    /// Reads the line; `None` when it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fields: BTreeMap<_, _> = text
            .trim()
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
            .collect();
        fields.contains_key("ContextStatus").then_some(Self { fields })
    }

    /// One field, such as `Version`, `RedundancyStatus` or `RedundantState`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// `RUNNING`, `NEEDS_COMMISSIONING`, ...
    #[must_use]
    pub fn context_status(&self) -> &str {
        self.field("ContextStatus").unwrap_or_default()
    }

    /// The version, such as `8.3.7`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.field("Version")
    }
}

/// The answer of `GET /data/api/v1/gateway-info`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayInfo {
    /// The system name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Such as `8.3.6 (b2026042713)`.
    pub ignition_version: String,
    /// The edition; empty for the standard one.
    #[serde(deserialize_with = "nullable")]
    pub edition: String,
    /// `Independent`, `Master`, `Backup`.
    #[serde(deserialize_with = "nullable")]
    pub redundancy_role: String,
    /// The active deployment mode; empty for `core`.
    #[serde(deserialize_with = "nullable")]
    pub deployment_mode: String,
}

/// Where a scan stands: the answer of `GET` (and, as a receipt, of `POST`) `/data/api/v1/scan/{config,projects}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanStatus {
    /// Whether a scan runs now.
    pub scan_active: bool,
    /// When the last scan was, in epoch milliseconds of the gateway's own clock. Compare it only with itself.
    pub last_scan_timestamp: i64,
    /// How long it took, in milliseconds.
    #[serde(default, deserialize_with = "nullable")]
    pub last_scan_duration: i64,
}

impl ScanStatus {
    /// Whether a scan has ended since `before` was read: none runs, and the timestamp moved.
    #[must_use]
    pub const fn finished_since(&self, before: &Self) -> bool {
        !self.scan_active
            && self.last_scan_timestamp > 0
            && self.last_scan_timestamp != before.last_scan_timestamp
    }
}

/// A scan lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanLock {
    /// Who holds it, such as `api-token:ci:127.0.0.1`.
    pub actor: String,
    /// How long it will still be held.
    pub remaining: Duration,
}

#[derive(Deserialize)]
pub(super) struct ScanLockBody {
    #[serde(default, deserialize_with = "nullable")]
    actor: String,
    #[serde(default, deserialize_with = "nullable")]
    remaining: f64,
}

impl From<ScanLockBody> for ScanLock {
    fn from(body: ScanLockBody) -> Self {
        Self { actor: body.actor, remaining: Duration::try_from_secs_f64(body.remaining).unwrap_or_default() }
    }
}

/// The answer to asking for a scan lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockAnswer {
    /// It is ours until a scan is started or the time is over.
    Held(ScanLock),
    /// 409 or 408: somebody else holds it.
    Busy,
    /// 404: this gateway has no scan lock.
    NoRoute,
}

/// One project of `GET /data/api/v1/projects/list`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectInfo {
    /// The project's name, which is the name of its folder.
    pub name: String,
    /// Whether it runs.
    #[serde(deserialize_with = "nullable")]
    pub enabled: bool,
    /// Whether others may inherit from it.
    #[serde(deserialize_with = "nullable")]
    pub inheritable: bool,
    /// The project it inherits from; empty for none.
    #[serde(deserialize_with = "nullable")]
    pub parent: String,
    /// Whether that parent is missing or not inheritable.
    #[serde(deserialize_with = "nullable")]
    pub invalid_parent: bool,
}

/// One resource of `GET /data/api/v1/resources/names/{module}/{type}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ResourceName {
    /// Its name.
    pub name: String,
    /// Whether it is enabled; gateways may leave this out.
    pub enabled: Option<bool>,
    /// The collections that define it.
    #[serde(deserialize_with = "nullable")]
    pub modes: Vec<String>,
}

/// The least level of log lines to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// `WARN` and above.
    Warn,
    /// `ERROR` and above.
    Error,
}

impl LogLevel {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// One line of the gateway's log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogLine {
    /// Epoch milliseconds of the gateway's clock.
    #[serde(deserialize_with = "nullable")]
    pub timestamp: i64,
    /// `WARN`, `ERROR`, ...
    #[serde(deserialize_with = "nullable")]
    pub level: String,
    /// Who says it.
    #[serde(deserialize_with = "nullable")]
    pub logger_name: String,
    /// What it says.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

/// The open Designers, and what the gateway's clock showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Designers {
    /// All sessions, dormant ones included.
    pub sessions: Vec<Designer>,
    /// The gateway's clock in epoch milliseconds, from the answer's `Date`; ours where it sends none.
    pub gateway_now_ms: i64,
}

impl Designers {
    /// The sessions that are not dormant.
    #[must_use]
    pub fn live(&self, dormant_after: Duration) -> Vec<Designer> {
        self.sessions.iter().filter(|s| !s.is_dormant(self.gateway_now_ms, dormant_after)).cloned().collect()
    }
}

/// The answer of `GET /data/api/v1/redundancy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redundancy {
    /// `Independent`, `Master` or `Backup`.
    pub role: String,
    /// `Active`, `Cold` or `Warm`.
    #[serde(deserialize_with = "nullable")]
    pub activity_level: String,
    /// Whether the other node is connected.
    #[serde(deserialize_with = "nullable")]
    pub peer_connected: bool,
    /// Whether this node still has to take over what the other one has.
    #[serde(deserialize_with = "nullable")]
    pub sync_pending: bool,
    /// The last take-over in epoch milliseconds of this node's clock; -1 = never.
    #[serde(deserialize_with = "nullable")]
    pub last_sync_timestamp: i64,
}

#[derive(Deserialize)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    #[serde(default = "Option::default")]
    pub(super) metadata: Option<ListMetadata>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ListMetadata {
    total: Option<i64>,
    matching: Option<i64>,
}

impl<T> List<T> {
    /// A gateway answers a query parameter that it does not know with an empty list, not with an error: then nothing
    /// matches, yet the total stays.
    pub(super) fn query_was_not_understood(&self) -> bool {
        let Some(metadata) = &self.metadata else { return false };
        self.items.is_empty() && metadata.matching == Some(0) && metadata.total.is_some_and(|t| t > 0)
    }
}

/// An item of `projects/names`: a bare name, or an object with one.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum NameItem {
    Bare(String),
    Object { name: String },
}

impl NameItem {
    pub(super) fn into_name(self) -> String {
        match self {
            Self::Bare(name) | Self::Object { name } => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_does_not_mean_commissioned() {
        for (json, phase) in [
            (r#"{"state":"RUNNING"}"#, Phase::Running),
            (r#"{"state":"RUNNING","details":null}"#, Phase::Running),
            (r#"{"state":"RUNNING","details":"COMMISSIONING"}"#, Phase::Commissioning),
            (r#"{"state":"STARTING"}"#, Phase::Starting),
            (r#"{"state":"SOMETHING_NEW"}"#, Phase::Starting),
        ] {
            assert_eq!(serde_json::from_str::<StatusPing>(json).unwrap().phase(), phase, "{json}");
        }
    }

    #[test]
    fn gwinfo_is_one_line_of_pairs() {
        let info = GwInfo::parse("ContextStatus=RUNNING;Version=8.3.7;RedundantState=Good;\n").unwrap();
        assert_eq!((info.context_status(), info.version()), ("RUNNING", Some("8.3.7")));
        assert_eq!(info.field("RedundantState"), Some("Good"));
        assert_eq!(GwInfo::parse("<html>"), None);
    }

    #[test]
    fn a_scan_has_ended_only_when_the_timestamp_moved_and_nothing_runs() {
        let at = |scan_active, last_scan_timestamp| ScanStatus {
            scan_active,
            last_scan_timestamp,
            last_scan_duration: 1,
        };
        let before = at(false, 1_000);
        assert!(at(false, 1_001).finished_since(&before));
        assert!(at(false, 900).finished_since(&before), "a clock that was set back still moved");
        assert!(!at(true, 1_001).finished_since(&before));
        assert!(!at(false, 1_000).finished_since(&before));
        assert!(!at(false, 0).finished_since(&before), "a restarted gateway that has not scanned");
        assert!(!at(false, -1).finished_since(&before));
    }

    #[test]
    fn null_and_missing_members_are_understood() {
        let project: ProjectInfo =
            serde_json::from_str(r#"{"name":"p","parent":null,"invalidParent":null,"new":[1]}"#).unwrap();
        assert_eq!(project, ProjectInfo { name: "p".into(), ..ProjectInfo::default() });
    }
}
