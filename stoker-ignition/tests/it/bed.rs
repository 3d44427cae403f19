//! A data directory and a gateway on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
use stoker_ignition::fake::FakeGateway;

/// Long enough for a busy machine; nothing waits that long when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const KEY: &str = "ci:s3cret";

pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) gateway: FakeGateway,
    pub(crate) client: GatewayClient,
}

impl Bed {
    /// A running gateway with these switches on a small data directory.
    pub(crate) async fn new(switches: &[&str]) -> Self {
        let bed = Self::starting(switches).await;
        bed.gateway.until_running(LIMIT).await.unwrap();
        bed
    }

    /// The same, without waiting until it runs.
    pub(crate) async fn starting(switches: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let mut builder = FakeGateway::builder(data(&dir)).api_key(KEY);
        for switch in switches {
            builder = builder.switch(switch).unwrap();
        }
        let gateway = builder.start().await.unwrap();
        let key = dir.path().join("key");
        fs::write(&key, format!("{KEY}\n")).unwrap();
        let client = client(&gateway.url(), ApiKeySource::file(key));
        Self { dir, gateway, client }
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        write(&data(&self.dir), path, content);
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(data(&self.dir).join(path)).unwrap()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        data(&self.dir).join(path).exists()
    }

    pub(crate) fn set_key_file(&self, content: &str) {
        fs::write(self.dir.path().join("key"), content).unwrap();
    }
}

pub(crate) fn client(url: &str, key: ApiKeySource) -> GatewayClient {
    let options = GatewayOptions::new(url.parse().unwrap()).api_key(key).request_timeout(LIMIT);
    GatewayClient::new(options).unwrap()
}

pub(crate) fn data(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("data")
}

pub(crate) fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(crate) const VIEW: &str = "com.inductiveautomation.perspective/views/Main";

/// Two projects, one of them the parent of the other, and a core collection.
fn fill(dir: &Path) {
    let dir = dir.join("data");
    write(
        &dir,
        "projects/base/project.json",
        r#"{"title":"Base","enabled":true,"inheritable":true,"parent":""}"#,
    );
    write(
        &dir,
        "projects/line/project.json",
        r#"{"title":"Line","enabled":true,"inheritable":false,"parent":"base"}"#,
    );
    write(&dir, &format!("projects/line/{VIEW}/view.json"), "{}");
    write(
        &dir,
        &format!("projects/line/{VIEW}/resource.json"),
        "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"files\": [\n    \"view.json\"\n  ],\n  \"attributes\": {}\n}",
    );
    write(
        &dir,
        "config/resources/core/config-mode.json",
        r#"{"enabled":true,"inheritable":true,"parent":"external"}"#,
    );
    let provider = "config/resources/core/ignition/tag-provider/default";
    write(&dir, &format!("{provider}/config.json"), r#"{"profile":{"type":"STANDARD"}}"#);
    write(
        &dir,
        &format!("{provider}/resource.json"),
        r#"{"scope":"G","files":["config.json"],"attributes":{}}"#,
    );
    let properties = "config/resources/core/ignition/system-properties";
    write(&dir, &format!("{properties}/config.json"), r#"{"systemName":"line-1"}"#);
    write(
        &dir,
        &format!("{properties}/resource.json"),
        r#"{"scope":"G","files":["config.json"],"attributes":{}}"#,
    );
}
