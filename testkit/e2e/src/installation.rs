//! The chart, installed by Helm as a platform engineer does.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use stoker_testkit::node::Node;

/// The release.
const RELEASE: &str = "stoker";

/// The chart, installed on a node.
#[derive(Debug)]
pub struct Installation<'n> {
    node: &'n Node,
    chart: String,
}

impl<'n> Installation<'n> {
    /// The namespace of the release.
    pub const NAMESPACE: &'static str = "stoker-system";

    /// Installs the chart of this checkout, with images that are in the node already.
    ///
    /// # Errors
    ///
    /// Helm fails, or a pod does not become ready.
    pub fn install(node: &'n Node) -> Result<Self> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/stoker").canonicalize()?;
        let installation = Self { node, chart: chart.display().to_string() };
        installation.upgrade(&[])?;
        Ok(installation)
    }

    /// Upgrades the release, with these values beside those of the installation.
    ///
    /// # Errors
    ///
    /// As [`Installation::install`].
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        let mut words = vec!["helm", "upgrade", "--install", RELEASE, &self.chart];
        words.extend(["--namespace", Self::NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
        for value in ["image.pullPolicy=Never", "agent.image.pullPolicy=Never"].iter().chain(values) {
            words.extend(["--set", value]);
        }
        self.node.exec(&words)?;
        Ok(())
    }

    /// Takes the release away again; the definitions stay, as the chart's default is.
    ///
    /// # Errors
    ///
    /// Helm fails.
    pub fn uninstall(self) -> Result<()> {
        self.node.exec(&["helm", "uninstall", RELEASE, "--namespace", Self::NAMESPACE, "--wait"])?;
        Ok(())
    }

    /// Runs kubectl in the release's namespace.
    ///
    /// # Errors
    ///
    /// What kubectl says.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["kubectl", "--namespace", Self::NAMESPACE];
        all.extend(words);
        self.node.exec(&all)
    }

    /// The last lines of the controller's logs, for the message of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let selector = "app.kubernetes.io/component=controller";
        let logs = self.kubectl(&["logs", "--selector", selector, "--prefix", "--tail=2000"]);
        logs.unwrap_or_else(|error| format!("no logs: {error:#}"))
    }

    /// The node that it is installed on.
    #[must_use]
    pub const fn node(&self) -> &'n Node {
        self.node
    }

    /// The receiver's address inside the cluster; this machine reaches it too.
    ///
    /// # Errors
    ///
    /// There is no such Service.
    pub async fn receiver(&self) -> Result<String> {
        let services: Api<Service> = Api::namespaced(self.node.client()?, Self::NAMESPACE);
        let spec = services.get("stoker-receiver").await?.spec.unwrap_or_default();
        let port = spec.ports.unwrap_or_default().first().map_or(80, |p| p.port);
        Ok(format!("http://{}:{port}", spec.cluster_ip.context("the receiver has no address")?))
    }
}
