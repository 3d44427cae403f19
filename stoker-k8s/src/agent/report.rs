//! Says what the agent did: one ConfigMap, by server-side apply, only when there is something new to say.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;

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

/// Writes whatever was said last into the ConfigMap `name`, until it is right, and a heartbeat between.
///
/// Ends when the sender is dropped and the last word is written, or cannot be.
pub async fn report(api: Api<ConfigMap>, name: String, mut said: watch::Receiver<Saying>) {
    let mut pause = Duration::from_millis(250);
    loop {
        let saying = said.borrow_and_update().clone();
        // The kubelet's restarts of a whole cluster must not make all agents speak at once.
        let write = write(&api, &name, &saying);
        let written = tokio::time::timeout(WRITE_TIMEOUT, write).await;
        let closed = match written {
            Ok(Ok(())) => {
                pause = Duration::from_millis(250);
                let next = tokio::time::timeout(HEARTBEAT, said.changed()).await;
                matches!(next, Ok(Err(_)))
            }
            failed => {
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

async fn write(api: &Api<ConfigMap>, name: &str, saying: &Saying) -> Result<(), kube::Error> {
    let report = AgentReport {
        status: Some(saying.status.clone()),
        heartbeat: Some(Timestamp::now()),
        report: saying.report.clone(),
    };
    let object = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name },
        "data": report.to_data(),
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object)).await.map(drop)
}
