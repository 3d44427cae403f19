//! How a fake gateway behaves: switches, most of them for facts whose evidence is thin.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// What the gateway answers to a call over plain http with a key that requires a secure channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PlainHttpRefusal {
    /// 403, as two live observations say.
    Forbidden,
    /// 401, as another one says.
    Unauthorized,
}

/// What the API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Permission {
    /// Nothing: 403 to every call, as for a new key on a gateway that nobody has set up.
    None,
    /// Read only: 403 to every POST.
    Read,
    /// Everything.
    Write,
}

/// How the lock route refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LockBusy {
    /// 409 at once.
    Conflict,
    /// 408 after the acquire timeout.
    Timeout,
}

/// Everything about a fake gateway that can be switched, also while it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Behaviour {
    /// The system name.
    pub name: String,
    /// The version it claims.
    pub version: String,
    /// The active deployment mode; empty for `core`.
    pub deployment_mode: String,
    /// From start to RUNNING.
    pub boot_time: Duration,
    /// How long a scan takes at least.
    pub scan_time: Duration,
    /// How often projects are scanned without being asked.
    pub periodic_project_scan: Option<Duration>,
    /// Whether somebody has gone through the first set-up.
    pub commissioned: bool,
    /// Whether the key works over https only.
    pub secure_channel_required: bool,
    /// How a call over plain http is then refused.
    pub plain_http_refusal: PlainHttpRefusal,
    /// What the key may do.
    pub permission: Permission,
    /// Whether `GET scan/...` exists.
    pub scan_status: bool,
    /// Whether the scan lock exists.
    pub scan_lock: bool,
    /// How a lock that is held refuses the next one.
    pub lock_busy: LockBusy,
    /// Whether a project scan restamps changed resources.
    pub restamp: bool,
    /// Whether a config scan does so, too.
    pub restamp_config: bool,
    /// Whether loading everything at start counts as a scan in `lastScanTimestamp`.
    pub timestamp_at_boot: bool,
    /// Whether a config scan silently skips a resource with a wrong signature.
    pub enforce_config_signature: bool,
    /// Whether a `resource.json` without `attributes` faults a cold start.
    pub fault_on_missing_attributes: bool,
    /// Whether `projects/list` leaves out disabled projects and those that only others inherit from.
    pub list_runnable_only: bool,
    /// Whether the gateway makes its own files at start.
    pub own_files: bool,
    /// How often it touches files that it keeps open (value store, module-owned tags).
    pub churn: Option<Duration>,
    /// `Independent`, `Master` or `Backup`.
    pub role: String,
    /// The data directory of the master that this node, a backup, takes over from.
    pub replicate_from: Option<PathBuf>,
    /// Whether the other node of the pair is connected.
    pub peer_connected: bool,
    /// Fault at start unless this user owns the data directory's resources.
    pub owner: Option<u32>,
    /// Whether `GET designers` answers 500.
    pub designers_error: bool,
    /// Whether the `/fake/...` routes exist.
    pub control: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            name: "fake-gateway".to_owned(),
            version: "8.3.6".to_owned(),
            deployment_mode: String::new(),
            boot_time: Duration::ZERO,
            scan_time: Duration::from_millis(20),
            periodic_project_scan: None,
            commissioned: true,
            secure_channel_required: false,
            plain_http_refusal: PlainHttpRefusal::Forbidden,
            permission: Permission::Write,
            scan_status: true,
            scan_lock: true,
            lock_busy: LockBusy::Conflict,
            restamp: true,
            restamp_config: false,
            timestamp_at_boot: true,
            enforce_config_signature: false,
            fault_on_missing_attributes: false,
            list_runnable_only: false,
            own_files: true,
            churn: None,
            role: "Independent".to_owned(),
            replicate_from: None,
            peer_connected: true,
            owner: None,
            designers_error: false,
            control: true,
        }
    }
}

/// A switch: its name, the values it takes, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The part before `=`.
    pub name: &'static str,
    /// What may stand after it; the first one is the default.
    pub values: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn switch(name: &'static str, values: &'static str, meaning: &'static str) -> Switch {
    Switch { name, values, meaning }
}

/// All switches, for help texts.
pub const SWITCHES: &[Switch] = &[
    switch("name", "fake-gateway|TEXT", "system name"),
    switch("version", "8.3.6|TEXT", "version it claims"),
    switch("deployment-mode", "|NAME", "active deployment mode"),
    switch("boot-time", "0s|DURATION", "from start to RUNNING; 503 meanwhile"),
    switch("scan-time", "20ms|DURATION", "how long a scan takes"),
    switch("periodic-project-scan", "off|DURATION", "scan projects without being asked"),
    switch("commissioned", "on|off", "off: every call leads to /welcome"),
    switch("secure-channel-required", "off|on", "the key works over https only"),
    switch("plain-http-refusal", "403|401", "how a key that needs https is refused over http"),
    switch("permission", "write|read|none", "what the key may do"),
    switch("scan-status", "on|off", "whether GET scan/... exists"),
    switch("scan-lock", "on|off", "whether the scan lock exists"),
    switch("lock-busy", "409|408", "how a held lock refuses the next one"),
    switch("restamp", "on|off", "project scans rewrite resource.json of changed resources"),
    switch("restamp-config", "off|on", "config scans do so, too"),
    switch("timestamp-at-boot", "on|off", "loading at start counts as a scan"),
    switch("config-signature", "ignored|enforced", "config scans silently skip a wrong signature"),
    switch("missing-attributes", "ignored|fault", "resource.json without attributes faults a cold start"),
    switch("projects-list", "all|runnable", "whether projects/list has disabled and base projects"),
    switch("own-files", "on|off", "the gateway makes its own files at start"),
    switch("churn", "off|DURATION", "touch value store and module-owned tags while running"),
    switch("role", "Independent|Master|Backup", "redundancy role"),
    switch(
        "replicate-from",
        "off|DIR",
        "a backup: take over projects, core and modes from the master's directory",
    ),
    switch("peer", "connected|gone", "whether the other node of a pair is connected"),
    switch("owner", "off|UID", "fault at start unless this user owns the resources"),
    switch("designers", "on|error", "error: GET designers answers 500"),
    switch("control", "on|off", "the /fake/... routes"),
];

/// A switch that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// No `=`, or an unknown name.
    #[error("there is no switch {0:?}; write NAME=VALUE with one of: {names}", names = names())]
    Unknown(String),
    /// A value that this switch does not take.
    #[error("switch {name:?} cannot be {value:?}; it takes {values}")]
    Value {
        /// The switch.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// What it takes.
        values: &'static str,
    },
}

fn names() -> String {
    SWITCHES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
}

impl Behaviour {
    /// Sets one switch from `NAME=VALUE`, as [`SWITCHES`] lists them.
    ///
    /// ```
    /// use stoker_ignition::fake::Behaviour;
    /// let mut behaviour = Behaviour::default();
    /// behaviour.set("boot-time=2s")?;
    /// behaviour.set("restamp=off")?;
    /// assert!(behaviour.set("restamp=maybe").is_err());
    /// # Ok::<(), stoker_ignition::fake::SwitchError>(())
    /// ```
    ///
    /// # Errors
    /// Names the switch, or what it takes.
    pub fn set(&mut self, text: &str) -> Result<(), SwitchError> {
        let unknown = || SwitchError::Unknown(text.to_owned());
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        let switch = SWITCHES.iter().find(|s| s.name == name).ok_or_else(unknown)?;
        self.apply(switch.name, value).ok_or_else(|| SwitchError::Value {
            name: switch.name,
            value: value.to_owned(),
            values: switch.values,
        })
    }

    fn apply(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "name" => self.name = text(value)?,
            "version" => self.version = text(value)?,
            "deployment-mode" => self.deployment_mode = value.to_owned(),
            "boot-time" => self.boot_time = duration(value)?,
            "scan-time" => self.scan_time = duration(value)?,
            "periodic-project-scan" => self.periodic_project_scan = optional_duration(value)?,
            "commissioned" => self.commissioned = on_off(value)?,
            "secure-channel-required" => self.secure_channel_required = on_off(value)?,
            "plain-http-refusal" => {
                self.plain_http_refusal =
                    either(value, "403", PlainHttpRefusal::Forbidden, "401", PlainHttpRefusal::Unauthorized)?;
            }
            "permission" => {
                self.permission = match value {
                    "write" => Permission::Write,
                    "read" => Permission::Read,
                    "none" => Permission::None,
                    _ => return None,
                }
            }
            "scan-status" => self.scan_status = on_off(value)?,
            "scan-lock" => self.scan_lock = on_off(value)?,
            "lock-busy" => {
                self.lock_busy = either(value, "409", LockBusy::Conflict, "408", LockBusy::Timeout)?
            }
            "restamp" => self.restamp = on_off(value)?,
            "restamp-config" => self.restamp_config = on_off(value)?,
            "timestamp-at-boot" => self.timestamp_at_boot = on_off(value)?,
            "config-signature" => {
                self.enforce_config_signature = either(value, "ignored", false, "enforced", true)?;
            }
            "missing-attributes" => {
                self.fault_on_missing_attributes = either(value, "ignored", false, "fault", true)?;
            }
            "projects-list" => self.list_runnable_only = either(value, "all", false, "runnable", true)?,
            "own-files" => self.own_files = on_off(value)?,
            "churn" => self.churn = optional_duration(value)?,
            "role" => {
                self.role = ["Independent", "Master", "Backup"].contains(&value).then(|| value.to_owned())?;
            }
            "replicate-from" => {
                self.replicate_from = if value == "off" { None } else { Some(text(value)?.into()) };
            }
            "peer" => self.peer_connected = either(value, "connected", true, "gone", false)?,
            "owner" => self.owner = if value == "off" { None } else { Some(value.parse().ok()?) },
            "designers" => self.designers_error = either(value, "on", false, "error", true)?,
            "control" => self.control = on_off(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn either<T>(value: &str, a: &str, if_a: T, b: &str, if_b: T) -> Option<T> {
    if value == a {
        return Some(if_a);
    }
    (value == b).then_some(if_b)
}

fn on_off(value: &str) -> Option<bool> {
    either(value, "on", true, "off", false)
}

fn optional_duration(value: &str) -> Option<Option<Duration>> {
    if value == "off" {
        return Some(None);
    }
    duration(value).filter(|d| !d.is_zero()).map(Some)
}

/// `250ms`, `2s`, `1m`, at most a day.
fn duration(value: &str) -> Option<Duration> {
    let digits = value.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let length = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        _ => return None,
    };
    (length <= Duration::from_secs(86_400)).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_switch_takes_every_value_it_lists() {
        for switch in SWITCHES {
            for value in switch.values.split('|') {
                let concrete = match value {
                    "DURATION" => "250ms",
                    "UID" => "2003",
                    "NAME" | "TEXT" | "DIR" => "x",
                    other => other,
                };
                let mut behaviour = Behaviour::default();
                behaviour.set(&format!("{}={concrete}", switch.name)).unwrap();
            }
            // The first value is the default.
            let mut behaviour = Behaviour::default();
            let default = switch.values.split('|').next().unwrap();
            behaviour.set(&format!("{}={default}", switch.name)).unwrap();
            assert_eq!(behaviour, Behaviour::default(), "{}", switch.name);
        }
    }

    #[test]
    fn unusable_switches_say_what_can_be_written() {
        let mut behaviour = Behaviour::default();
        for bad in [
            "",
            "restamp",
            "restart=on",
            "restamp=yes",
            "scan-time=fast",
            "scan-time=5",
            "churn=0s",
            "owner=root",
        ] {
            let error = behaviour.set(bad).expect_err(bad).to_string();
            assert!(error.contains("takes") || error.contains("scan-time"), "{error}");
        }
        assert_eq!(behaviour, Behaviour::default());
    }
}
