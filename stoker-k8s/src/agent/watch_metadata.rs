//! Follows the one object an agent is told by, with the two verbs its Role grants: get and watch.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use tokio::sync::watch;

use crate::protocol::Metadata;

/// How long one watch lasts before it is renewed, in seconds. The API server's own limit is a little above.
const WATCH_SECONDS: u32 = 290;
/// The longest pause after a failure.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What is known of the metadata.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// The last metadata that could be read.
    pub metadata: Option<Metadata>,
    /// Why it may be out of date or missing: the API server is away, the object is gone or unreadable.
    pub trouble: Option<String>,
}

/// Follows the ConfigMap `name` until the receiver is dropped. Deleted: the last metadata stays, with a word.
pub async fn follow(api: Api<ConfigMap>, name: String, known: watch::Sender<Known>) {
    let mut pause = Duration::from_millis(250);
    loop {
        let session = session(&api, &name, &known, &mut pause);
        let trouble = tokio::select! {
            () = known.closed() => return,
            ended = session => match ended {
                Ok(()) => continue,
                Err(error) => error,
            },
        };
        known.send_if_modified(|k| {
            let changed = k.trouble.as_ref() != Some(&trouble);
            k.trouble = Some(trouble.clone());
            changed
        });
        tracing::warn!(error = %trouble, "cannot follow the metadata");
        tokio::select! {
            () = known.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// One get, then watches from there on. Ends well when the server asks for a fresh start.
async fn session(
    api: &Api<ConfigMap>,
    name: &str,
    known: &watch::Sender<Known>,
    pause: &mut Duration,
) -> Result<(), String> {
    let words = |e: kube::Error| stoker_core::chain(&e);
    let got = tokio::time::timeout(Duration::from_secs(20), api.get_opt(name)).await;
    let object = got.map_err(|_| "the API server does not answer".to_owned())?.map_err(words)?;
    let Some(object) = object else { return Err(format!("configmap {name} does not exist")) };
    let mut version = object.metadata.resource_version.clone().unwrap_or_default();
    tell(known, &object);
    *pause = Duration::from_millis(250);
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
    loop {
        let mut events = api.watch(&params, &version).await.map_err(words)?.boxed();
        let limit = Duration::from_secs(u64::from(WATCH_SECONDS) + 30);
        loop {
            let event = tokio::time::timeout(limit, events.try_next()).await;
            match event.map_err(|_| "the watch is silent".to_owned())?.map_err(words)? {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    version = object.metadata.resource_version.clone().unwrap_or(version);
                    tell(known, &object);
                }
                Some(WatchEvent::Bookmark(mark)) => version = mark.metadata.resource_version,
                Some(WatchEvent::Deleted(_)) => return Err(format!("configmap {name} was deleted")),
                Some(WatchEvent::Error(status)) if status.code == 410 => return Ok(()),
                Some(WatchEvent::Error(status)) => return Err(status.message),
                None => break,
            }
        }
    }
}

fn tell(known: &watch::Sender<Known>, object: &ConfigMap) {
    let read = Metadata::from_data(object.data.as_ref().unwrap_or(&std::collections::BTreeMap::new()));
    known.send_if_modified(|k| {
        let before = k.clone();
        match read {
            Ok(metadata) => *k = Known { metadata: Some(metadata), trouble: None },
            Err(error) => k.trouble = Some(stoker_core::chain(&error)),
        }
        *k != before
    });
}
