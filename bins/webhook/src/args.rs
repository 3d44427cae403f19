//! What the command line says, and what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use stoker_k8s::api::{AgentImage, AgentResources, PullPolicy};
use stoker_k8s::certs::Files;
use stoker_k8s::inject::{OnUnresolved, Settings};

/// Adds the Stoker agent to the pods of Ignition gateways.
#[derive(Debug, Parser)]
#[command(name = "stoker-webhook", version, about)]
pub(crate) struct Args {
    /// Address of the webhook (https).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub(crate) address: SocketAddr,
    /// Address of /healthz, /readyz and /metrics (http).
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub(crate) health_address: SocketAddr,
    /// Namespaces to look after, separated by commas; the whole cluster when absent.
    #[arg(long, env = "STOKER_NAMESPACES", value_delimiter = ',')]
    pub(crate) namespaces: Vec<String>,
    /// Image of the agent, like registry.example.com/stoker-agent:1.0@sha256:...
    #[arg(long)]
    agent_image: String,
    /// When the agent's image is pulled.
    #[arg(long)]
    agent_image_pull_policy: Option<Pull>,
    /// Requests and limits of the agent, as JSON like {"requests":{"cpu":"10m"},"limits":{"memory":"128Mi"}}.
    #[arg(long)]
    agent_resources: Option<String>,
    /// What happens to a pod for which no Stoker can be determined.
    #[arg(long, default_value = "admit")]
    on_unresolved: Unresolved,
    /// Namespace of the certificate's Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = "stoker-system")]
    namespace: String,
    /// Secret in which the webhook keeps its own certificate.
    #[arg(long, conflicts_with = "tls_cert_file")]
    cert_secret: Option<String>,
    /// Names and addresses that the own certificate is good for.
    #[arg(long, value_delimiter = ',')]
    dns_names: Vec<String>,
    /// MutatingWebhookConfiguration that shall trust the own certificate.
    #[arg(long)]
    webhook_configuration: Option<String>,
    /// Certificate to serve, PEM; watched for changes.
    #[arg(long, requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// Seconds between the signal to end and the end of taking requests: so long others may still send them here.
    #[arg(long, default_value_t = 5)]
    shutdown_delay_seconds: u64,
    /// What is logged: error, warn, info, debug, or a filter like info,stoker_k8s=debug.
    #[arg(long, env = "STOKER_LOG", default_value = "info")]
    pub(crate) log: String,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) log_json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unresolved {
    Admit,
    Deny,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Pull {
    Always,
    IfNotPresent,
    Never,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// The webhook makes it.
    Own { namespace: String, secret: String, names: Vec<String>, configuration: Option<String> },
    /// Somebody else does.
    Files(Files),
}

impl Args {
    pub(crate) fn certificate(&self) -> anyhow::Result<Certificate> {
        match (&self.cert_secret, &self.tls_cert_file, &self.tls_key_file) {
            (Some(secret), None, None) => {
                if self.dns_names.is_empty() {
                    bail!("--cert-secret needs --dns-names: the names under which the API server calls");
                }
                Ok(Certificate::Own {
                    namespace: self.namespace.clone(),
                    secret: secret.clone(),
                    names: self.dns_names.clone(),
                    configuration: self.webhook_configuration.clone(),
                })
            }
            (None, Some(cert), Some(key)) => {
                Ok(Certificate::Files(Files { cert: cert.clone(), key: key.clone() }))
            }
            _ => bail!("name a certificate: --cert-secret, or --tls-cert-file and --tls-key-file"),
        }
    }

    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let pull_policy = self.agent_image_pull_policy.map(|policy| match policy {
            Pull::Always => PullPolicy::Always,
            Pull::IfNotPresent => PullPolicy::IfNotPresent,
            Pull::Never => PullPolicy::Never,
        });
        let mut settings = Settings {
            image: AgentImage { pull_policy, ..image(&self.agent_image)? },
            on_unresolved: match self.on_unresolved {
                Unresolved::Admit => OnUnresolved::Admit,
                Unresolved::Deny => OnUnresolved::Deny,
            },
            ..Settings::default()
        };
        if let Some(json) = &self.agent_resources {
            settings.resources = serde_json::from_str::<AgentResources>(json).context("--agent-resources")?;
        }
        Ok(settings)
    }

    pub(crate) fn shutdown_delay(&self) -> Duration {
        Duration::from_secs(self.shutdown_delay_seconds)
    }
}

/// Takes the reference of an image apart: the tag comes after the last colon, unless that belongs to a port.
fn image(reference: &str) -> anyhow::Result<AgentImage> {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (reference, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if repository.is_empty() || tag.as_deref() == Some("") || digest.as_deref() == Some("") {
        bail!(
            "--agent-image: {reference:?} is not the reference of an image; write it like registry/name:tag"
        );
    }
    Ok(AgentImage { repository: Some(repository.to_owned()), tag, digest, pull_policy: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> Args {
        Args::parse_from(["stoker-webhook", "--agent-image", "r/a:1"].iter().chain(more))
    }

    #[test]
    fn references_of_images_are_taken_apart() {
        let parts = |text: &str| {
            let image = image(text).unwrap();
            (image.repository.unwrap(), image.tag.unwrap_or_default(), image.digest.unwrap_or_default())
        };
        let expect = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(parts("r/a"), expect("r/a", "", ""));
        assert_eq!(parts("localhost:5000/a"), expect("localhost:5000/a", "", ""));
        assert_eq!(parts("localhost:5000/a:1"), expect("localhost:5000/a", "1", ""));
        assert_eq!(parts("r/a:1@sha256:ff"), expect("r/a", "1", "sha256:ff"));
        assert_eq!(parts("r/a@sha256:ff"), expect("r/a", "", "sha256:ff"));
        for bad in ["", ":1", "a:", "a@"] {
            assert!(image(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exactly_one_certificate_is_named() {
        let own = args(&["--cert-secret", "s", "--dns-names", "a.svc,127.0.0.1"]).certificate().unwrap();
        assert!(matches!(own, Certificate::Own { names, .. } if names.len() == 2));
        let files = args(&["--tls-cert-file", "/c", "--tls-key-file", "/k"]).certificate().unwrap();
        assert!(matches!(files, Certificate::Files(_)));
        assert!(args(&[]).certificate().is_err());
        assert!(args(&["--cert-secret", "s"]).certificate().is_err());
    }

    #[test]
    fn the_agents_shape_comes_from_the_command_line() {
        let json = r#"{"requests":{"memory":"64Mi"}}"#;
        let settings = args(&[
            "--agent-resources",
            json,
            "--agent-image-pull-policy",
            "Never",
            "--on-unresolved",
            "deny",
        ])
        .settings()
        .unwrap();
        assert_eq!(settings.image.pull_policy, Some(PullPolicy::Never));
        assert_eq!(settings.resources.requests["memory"].0, "64Mi");
        assert_eq!(settings.on_unresolved, OnUnresolved::Deny);
        assert!(args(&["--agent-resources", "{"]).settings().is_err());
    }
}
