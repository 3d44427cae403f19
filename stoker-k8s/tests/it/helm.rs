//! The chart, rendered by the real Helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stoker_testkit::require;
use stoker_testkit::tools::Tool;

/// What the chart is rendered for.
pub(crate) const KUBERNETES: &str = "1.33.0";

/// Helm and the chart.
pub(crate) struct Helm {
    pub(crate) program: PathBuf,
    pub(crate) chart: PathBuf,
}

/// Helm, or `None` where there is none.
pub(crate) async fn get() -> Option<Helm> {
    let program = require::tool(Tool::Helm).await?;
    Some(Helm { program, chart: Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/stoker") })
}

impl Helm {
    /// Runs Helm; what it writes, or what it complains about.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.program).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The chart's documents for a release `stoker` in `stoker-system`.
    pub(crate) fn template(&self, settings: &[&str]) -> Result<String, String> {
        let chart = self.chart.to_string_lossy();
        let mut arguments =
            vec!["template", "stoker", &chart, "-n", "stoker-system", "--kube-version", KUBERNETES];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.run(&arguments)
    }

    /// The same as objects.
    pub(crate) fn objects(&self, settings: &[&str]) -> Vec<Value> {
        let text = self.template(settings).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        documents.into_iter().filter(|document| document.is_object()).collect()
    }
}

/// The object of a kind and a name that ends like this.
pub(crate) fn find<'a>(objects: &'a [Value], kind: &str, ending: &str) -> &'a Value {
    let named =
        |o: &&Value| o["kind"] == kind && o["metadata"]["name"].as_str().is_some_and(|n| n.ends_with(ending));
    objects.iter().find(named).unwrap_or_else(|| panic!("the chart has no {kind} {ending}"))
}
