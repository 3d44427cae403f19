//! Events about injections, written beside the decision and never in its way.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;
use kube::core::admission::AdmissionRequest;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::api::API_VERSION;
use crate::inject::{Decision, Outcome};

/// Events that wait to be written. When the API server is slower than that, later ones are dropped: the log has them.
const QUEUE: usize = 256;

/// Where decisions are told.
#[derive(Clone)]
pub struct Events(mpsc::Sender<(Event, ObjectReference)>);

/// Events that the webhook queues, and the work that writes them as `controller` until all senders are gone.
pub fn publish(
    client: Client,
    controller: &str,
    instance: Option<String>,
) -> (Events, impl Future<Output = ()>) {
    let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
    let recorder = Recorder::new(client, Reporter { controller: controller.to_owned(), instance });
    let work = async move {
        while let Some((event, about)) = queue.recv().await {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(
                    error = stoker_core::chain(&error),
                    reason = event.reason,
                    "cannot write an event"
                );
            }
        }
    };
    (Events(sender), work)
}

impl Events {
    pub(super) fn tell(&self, request: &AdmissionRequest<Pod>, decision: &Decision) {
        let Some((event, about)) = compose(request, decision) else { return };
        if self.0.try_send((event, about)).is_err() {
            tracing::debug!(reason = decision.reason.as_str(), "too many events wait, this one is dropped");
        }
    }
}

/// The event and the object that it is about. The pod does not exist yet: where somebody owns it (a StatefulSet), that
/// object tells its user more.
fn compose(request: &AdmissionRequest<Pod>, decision: &Decision) -> Option<(Event, ObjectReference)> {
    let (type_, reason) = match decision.outcome {
        Outcome::Injected => (EventType::Normal, "Injected"),
        Outcome::Skipped | Outcome::Refused => (EventType::Warning, "InjectionSkipped"),
        Outcome::Unchanged => return None,
    };
    let namespace = request.namespace.clone()?;
    let pod = pod_name(request);
    let note = match decision.outcome {
        Outcome::Injected => format!("pod {pod}: {}", decision.message),
        Outcome::Refused => format!("pod {pod} refused: {}", decision.message),
        _ => format!("pod {pod} starts without the sidecar: {}", decision.message),
    };
    let owner = owner(request, &namespace);
    let about = match (&decision.stoker, decision.outcome) {
        (Some(stoker), Outcome::Injected) => ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some("Stoker".to_owned()),
            name: Some(stoker.name.clone()),
            uid: Some(stoker.uid.clone()),
            namespace: Some(namespace),
            ..ObjectReference::default()
        },
        _ => owner.unwrap_or_else(|| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            namespace: Some(namespace),
            ..ObjectReference::default()
        }),
    };
    let action = "Inject".to_owned();
    Some((Event { type_, reason: reason.to_owned(), note: Some(note), action, secondary: None }, about))
}

fn owner(request: &AdmissionRequest<Pod>, namespace: &str) -> Option<ObjectReference> {
    let owners = request.object.as_ref()?.metadata.owner_references.as_ref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some(ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        uid: Some(owner.uid.clone()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

/// What the pod will be called, as far as that is known yet.
pub(super) fn pod_name(request: &AdmissionRequest<Pod>) -> &str {
    let generated = request.object.as_ref().and_then(|pod| pod.metadata.generate_name.as_deref());
    match (request.name.as_str(), generated) {
        ("", Some(prefix)) => prefix.trim_end_matches('-'),
        (name, _) => name,
    }
}
