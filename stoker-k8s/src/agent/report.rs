//! Says what the agent did: one ConfigMap, by server-side apply, only when there is something new to say.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use crate::annotations::CR_NAME;
use crate::names;
use crate::protocol::{AgentReport, AgentStatus, DiffReport};

/// The field manager of agents.
pub const FIELD_MANAGER: &str = "stoker-agent";
/// The longest pause between two signs of life.
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// The longest pause after a failed write.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// What is to be reported. Only the newest counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Saying {
    /// The status.
    pub status: AgentStatus,
    /// What the last sync changed.
    pub report: Option<DiffReport>,
}

/// Why nothing was reported.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// Another pair of `Stoker` and pod has the same name for its reports, and was here first.
    #[error("configmap {0} is not this agent's but another one's; give this pod or its Stoker another name")]
    Foreign(String),
}

/// Writes whatever was said last into the ConfigMap of the agent of `pod` as one of `cr`, until it is right, and a
/// heartbeat between. Never into one that is another agent's.
///
/// Ends when the sender is dropped and the last word is written, or cannot be.
pub async fn report(api: Api<ConfigMap>, cr: String, pod: String, mut said: watch::Receiver<Saying>) {
    let mut pause = Duration::from_millis(250);
    let mut place = Place { name: names::status(&cr, &pod), cr, pod, uid: None };
    loop {
        let saying = said.borrow_and_update().clone();
        // The kubelet's restarts of a whole cluster must not make all agents speak at once.
        let written = tokio::time::timeout(WRITE_TIMEOUT, place.write(&api, &saying)).await;
        let closed = match written {
            Ok(Ok(())) => {
                pause = Duration::from_millis(250);
                let next = tokio::time::timeout(HEARTBEAT, said.changed()).await;
                matches!(next, Ok(Err(_)))
            }
            failed => {
                // It may be another object by now.
                place.uid = None;
                let error = match failed {
                    Ok(Err(error)) => stoker_core::chain(&error),
                    _ => "the API server does not answer".to_owned(),
                };
                tracing::warn!(%error, "cannot report the status; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                said.has_changed().is_err()
            }
        };
        if closed {
            return;
        }
    }
}

/// Where an agent reports.
struct Place {
    name: String,
    cr: String,
    pod: String,
    /// The object that was seen to be this agent's.
    uid: Option<String>,
}

impl Place {
    async fn write(&mut self, api: &Api<ConfigMap>, saying: &Saying) -> Result<(), ReportError> {
        let uid = match &self.uid {
            Some(uid) => uid.clone(),
            None => self.uid.insert(self.own(api).await?).clone(),
        };
        let status = AgentStatus { cr: self.cr.clone(), pod: self.pod.clone(), ..saying.status.clone() };
        let report = AgentReport {
            status: Some(status),
            heartbeat: Some(Timestamp::now()),
            report: saying.report.clone(),
        };
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            // With its uid: an object that took its place is somebody else's until it was looked at.
            "metadata": { "name": self.name, "uid": uid },
            "data": report.to_data(),
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&self.name, &parameters, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// The uid of the ConfigMap, if the controller made it for this agent.
    async fn own(&self, api: &Api<ConfigMap>) -> Result<String, ReportError> {
        let map = api.get(&self.name).await?;
        let ours = map.labels().get(CR_NAME) == Some(&names::label_value(&self.cr))
            && map.owner_references().iter().any(|owner| owner.name == self.pod);
        map.metadata.uid.filter(|_| ours).ok_or_else(|| ReportError::Foreign(self.name.clone()))
    }
}
