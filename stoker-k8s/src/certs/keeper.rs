//! Keeping the webhook's own certificate: in a Secret, and trusted by the API server.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch as JsonPatch, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::plan::{Action, Lifetimes, assess, perform};
use super::{CertError, Material, Pair, Serving};

/// How often two replicas may be in each other's way before one gives up for now.
const ATTEMPTS: u32 = 5;
/// Longest time between two looks, whatever the plan says: clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_secs(6 * 3600);
/// Longest time for a look.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Time after a failed look.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps a Secret with an authority and a certificate, and the API server's trust in it.
#[derive(Clone)]
pub struct Keeper {
    secrets: Api<Secret>,
    secret: String,
    hooks: Api<MutatingWebhookConfiguration>,
    hook: Option<String>,
    names: Vec<String>,
    lifetimes: Lifetimes,
}

impl Keeper {
    /// Keeps the Secret `secret` of `namespace`, with a certificate for `names` (DNS names and addresses), and the
    /// `caBundle` of the webhook configuration `hook`, if one is named.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        secret: &str,
        hook: Option<&str>,
        names: Vec<String>,
        lifetimes: Lifetimes,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            secret: secret.to_owned(),
            hooks: Api::all(client),
            hook: hook.map(str::to_owned),
            names,
            lifetimes,
        }
    }

    /// Makes everything as it should be; returns what to serve and when to look again.
    ///
    /// When it returns, the API server has been told to trust what it returns.
    ///
    /// # Errors
    /// When the API server does not let it, or a certificate cannot be made.
    pub async fn ensure(&self) -> Result<(Pair, Timestamp), CertError> {
        for _ in 0..ATTEMPTS {
            let api = |doing: &str| {
                let doing = format!("{doing} secret {}", self.secret);
                move |source| CertError::Api { doing, source }
            };
            let found = self.secrets.get_opt(&self.secret).await.map_err(api("read"))?;
            let data = found.as_ref().and_then(|secret| secret.data.as_ref());
            let material = data.and_then(Material::from_data);
            let now = Timestamp::now();
            let action = assess(material.as_ref(), &self.names, now, &self.lifetimes);
            if let (Action::Keep(until), Some(material)) = (action, &material) {
                if let Some(hook) = &self.hook {
                    trust(&self.hooks, hook, material.bundle().as_bytes()).await?;
                }
                return Ok((material.leaf.clone(), until));
            }
            let renewed = perform(action, material.as_ref(), &self.names, now, &self.lifetimes)?;
            tracing::info!(?action, secret = self.secret, "renewing the certificate");
            let written = match found {
                Some(mut secret) => {
                    secret.data = Some(renewed.to_data());
                    secret.metadata.managed_fields = None;
                    self.secrets.replace(&self.secret, &PostParams::default(), &secret).await
                }
                None => {
                    let mut secret = Secret { data: Some(renewed.to_data()), ..Secret::default() };
                    secret.metadata.name = Some(self.secret.clone());
                    self.secrets.create(&PostParams::default(), &secret).await
                }
            };
            match written {
                // Either way the next round sees what counts: our own, or another replica's.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(source) => return Err(api("write")(source)),
            }
        }
        Err(CertError::Contended { secret: self.secret.clone(), attempts: ATTEMPTS })
    }

    /// Keeps `serving` up to date for ever: at renewals, and whenever the Secret or the webhook configuration changes.
    pub async fn run(self, serving: Serving) {
        let secret = watcher::watch_object(self.secrets.clone(), &self.secret).default_backoff().map(|_| ());
        let hook = match &self.hook {
            Some(name) => {
                watcher::watch_object(self.hooks.clone(), name).default_backoff().map(|_| ()).left_stream()
            }
            None => futures::stream::pending().right_stream(),
        };
        let mut changes = pin!(futures::stream::select(secret, hook));
        let mut current: Option<Pair> = None;
        loop {
            let looked = timeout(LOOK_LIMIT, self.ensure()).await;
            let wait = match looked
                .unwrap_or_else(|_| Err(CertError::Timeout { secret: self.secret.clone() }))
            {
                Ok((pair, until)) => {
                    if current.as_ref() != Some(&pair) {
                        match serving.replace(&pair) {
                            Ok(()) => current = Some(pair),
                            Err(error) => tracing::error!(error = stoker_core::chain(&error), "cannot serve"),
                        }
                    }
                    let wait = Timestamp::now().duration_until(until);
                    Duration::try_from(wait).unwrap_or_default().clamp(Duration::from_secs(1), LONGEST_SLEEP)
                }
                Err(error) => {
                    tracing::warn!(
                        error = stoker_core::chain(&error),
                        "cannot keep the certificate, will retry"
                    );
                    RETRY
                }
            };
            let wake = sleep_until(Instant::now() + wait);
            tokio::select! {
                () = wake => {}
                Some(()) = changes.next() => {}
            }
        }
    }
}

/// Makes the webhook configuration `name` trust `bundle`. One that does not exist yet is nobody's to trust: its making
/// is seen by the watch.
///
/// # Errors
/// When the API server does not let it.
pub(super) async fn trust(
    hooks: &Api<MutatingWebhookConfiguration>,
    name: &str,
    bundle: &[u8],
) -> Result<(), CertError> {
    let api = |doing: &str| {
        let doing = format!("{doing} mutatingwebhookconfiguration {name}");
        move |source| CertError::Api { doing, source }
    };
    let Some(found) = hooks.get_opt(name).await.map_err(api("read"))? else {
        tracing::warn!(name, "there is no such mutatingwebhookconfiguration yet");
        return Ok(());
    };
    let Some(patch) = trust_patch(&found, bundle) else { return Ok(()) };
    tracing::info!(name, "telling the API server which certificate authority to trust");
    let patch = Patch::Json::<()>(patch);
    hooks.patch(&found.name_any(), &PatchParams::default(), &patch).await.map_err(api("patch")).map(|_| ())
}

/// Sets the `caBundle` of every webhook that has another one, as long as they still stand where they stood.
fn trust_patch(configuration: &MutatingWebhookConfiguration, bundle: &[u8]) -> Option<JsonPatch> {
    let path = |index: usize, rest: &[&str]| {
        let index = index.to_string();
        let tokens = ["webhooks", index.as_str()].into_iter().chain(rest.iter().copied());
        PointerBuf::from_tokens(tokens)
    };
    let bundle = ByteString(bundle.to_vec());
    let hooks = configuration.webhooks.iter().flatten().enumerate();
    let operations: Vec<PatchOperation> = hooks
        .filter(|(_, hook)| hook.client_config.ca_bundle.as_ref() != Some(&bundle))
        .flat_map(|(index, hook)| {
            let same = TestOperation { path: path(index, &["name"]), value: hook.name.clone().into() };
            let value = serde_json::to_value(&bundle).unwrap_or_default();
            let set = AddOperation { path: path(index, &["clientConfig", "caBundle"]), value };
            [PatchOperation::Test(same), PatchOperation::Add(set)]
        })
        .collect();
    (!operations.is_empty()).then_some(JsonPatch(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_patched_and_only_where_it_was_seen() {
        let mut configuration: MutatingWebhookConfiguration = serde_json::from_value(serde_json::json!({
            "webhooks": [
                { "name": "a", "clientConfig": { "caBundle": "YWJj" }, "admissionReviewVersions": ["v1"], "sideEffects": "None" },
                { "name": "b", "clientConfig": {}, "admissionReviewVersions": ["v1"], "sideEffects": "None" },
            ],
        }))
        .unwrap();
        let patch = trust_patch(&configuration, b"abc").unwrap();
        assert_eq!(
            serde_json::to_value(&patch).unwrap(),
            serde_json::json!([
                { "op": "test", "path": "/webhooks/1/name", "value": "b" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": "YWJj" },
            ])
        );
        let mut value = serde_json::to_value(&configuration).unwrap();
        json_patch::patch(&mut value, &patch).unwrap();
        configuration = serde_json::from_value(value).unwrap();
        assert_eq!(trust_patch(&configuration, b"abc"), None);
    }
}
