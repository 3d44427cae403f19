//! When a pushed commit got how far.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use stoker_k8s::annotations::REQUESTED_AT;
use stoker_k8s::api::{Stoker, SyncStatus};
use stoker_k8s::conditions;
use stoker_k8s::protocol::{AgentReport, Metadata};

/// When a pushed commit got how far, since the push began.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// The forge's delivery is on the `Stoker`.
    pub delivered: Option<Duration>,
    /// The commit is in the metadata that agents watch.
    pub resolved: Option<Duration>,
    /// Per gateway: the files are in place.
    pub applied: BTreeMap<String, Duration>,
    /// Per gateway: it has confirmed the scan.
    pub confirmed: BTreeMap<String, Duration>,
    /// Per gateway: what its agent says each phase took, in milliseconds.
    pub phases: BTreeMap<String, BTreeMap<String, u64>>,
    /// The `Stoker` is Ready at this commit.
    pub ready: Option<Duration>,
}

/// What is followed.
pub(crate) struct Followed<'a> {
    pub(crate) commit: &'a str,
    /// The `Stoker`.
    pub(crate) cr: &'a str,
    /// `stoker.io/requested-at` before the push.
    pub(crate) requested_before: Option<&'a str>,
    /// How many gateways there are.
    pub(crate) gateways: usize,
}

impl Timeline {
    /// Takes note of a `Stoker` as it was seen.
    pub(crate) fn stoker(&mut self, stoker: &Stoker, followed: &Followed<'_>, at: Duration) {
        let requested = stoker.metadata.annotations.as_ref().and_then(|a| a.get(REQUESTED_AT));
        if requested.is_some() && requested.map(String::as_str) != followed.requested_before {
            self.delivered.get_or_insert(at);
        }
        let status = stoker.status.clone().unwrap_or_default();
        let gateways = &status.discovered_gateways;
        let synced = gateways
            .iter()
            .filter(|g| {
                g.sync_status == SyncStatus::Synced && g.synced_commit.as_deref() == Some(followed.commit)
            })
            .count();
        let all = synced == followed.gateways && gateways.len() == followed.gateways;
        let ready = conditions::is_true(&status.conditions, conditions::READY);
        if ready && all && status.last_sync_commit.as_deref() == Some(followed.commit) {
            self.ready.get_or_insert(at);
        }
    }

    /// Takes note of a ConfigMap as it was seen.
    pub(crate) fn map(&mut self, map: &ConfigMap, followed: &Followed<'_>, at: Duration) {
        let data = map.data.clone().unwrap_or_default();
        if let Ok(metadata) = Metadata::from_data(&data)
            && metadata.commit.as_deref() == Some(followed.commit)
        {
            self.resolved.get_or_insert(at);
        }
        let name = map.metadata.name.clone().unwrap_or_default();
        let Some(pod) = name.strip_prefix(&format!("stoker-status-{}-", followed.cr)) else { return };
        let Ok(AgentReport { status: Some(status), .. }) = AgentReport::from_data(&data) else { return };
        if status.target_commit.as_deref() != Some(followed.commit) {
            return;
        }
        if status.reason.as_deref() == Some("Confirming") || status.sync_status == SyncStatus::Synced {
            self.applied.entry(pod.to_owned()).or_insert(at);
        }
        if status.sync_status == SyncStatus::Synced {
            self.confirmed.entry(pod.to_owned()).or_insert(at);
            self.phases.insert(pod.to_owned(), status.phase_millis);
        }
    }

    /// The timeline as lines for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let ms = |at: Option<Duration>| at.map_or("not seen".to_owned(), |d| format!("{} ms", d.as_millis()));
        let mut lines = vec![format!("delivery stored on the Stoker   {}", ms(self.delivered))];
        lines.push(format!("ref resolved, agents told       {}", ms(self.resolved)));
        for (pod, at) in &self.confirmed {
            let phase =
                |name: &str| self.phases.get(pod).and_then(|p| p.get(name)).copied().unwrap_or_default();
            lines.push(format!(
                "{pod}: files in place           {} (fetch {} ms, plan {} ms, apply {} ms)",
                ms(self.applied.get(pod).copied()),
                phase("fetch"),
                phase("plan"),
                phase("apply")
            ));
            lines.push(format!(
                "{pod}: scan confirmed           {} (scan {} ms)",
                ms(Some(*at)),
                phase("scan")
            ));
        }
        lines.push(format!("Ready=True                      {}", ms(self.ready)));
        lines
    }
}
