//! A repository on a git server, a data directory, a configuration file; a fake gateway where it matters.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use stoker_ignition::fake::FakeGateway;
use stoker_testkit::gitserver::{Http, HttpOptions};
use stoker_testkit::ignition;
use stoker_testkit::repo::Repo;

pub(crate) const KEY: &str = "cli:5uper-secret-key";
pub(crate) const SERVICE: &str = "services/gateway";
pub(crate) const VIEW: &str =
    "projects/line/com.inductiveautomation.perspective/views/overview/main/view.json";

pub(crate) struct Bench {
    pub(crate) git: Http,
    pub(crate) repo: Repo,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Value,
}

/// What the program said and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    /// Files only: no gateway.
    pub(crate) fn new() -> Self {
        Self::with(HttpOptions::default())
    }

    pub(crate) fn with(options: HttpOptions) -> Self {
        let git = Http::start(options).unwrap();
        let repo = Repo::new().unwrap();
        repo.write_tree(&ignition::small_site()).unwrap();
        repo.commit("the plant").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let config = json!({
            "apiVersion": "stoker.io/v1alpha1",
            "kind": "AgentConfig",
            "gatewayName": "line-1",
            "git": {"repo": git.url("plant.git"), "ref": "main", "allowInsecure": true},
            "profile": {"mappings": [
                {"source": "services/gateway/projects", "destination": "projects", "required": true},
                {"source": "services/gateway/config/resources/core", "destination": "config/resources/core"},
            ]},
            "dataDir": folder.path().join("data"),
            "cacheDir": folder.path().join("cache"),
        });
        let bench = Self { git, repo, folder, config };
        bench.publish();
        bench
    }

    /// With a gateway that runs on the data directory.
    pub(crate) async fn with_gateway() -> (Self, FakeGateway) {
        let mut bench = Self::new();
        let gateway = FakeGateway::builder(bench.data()).api_key(KEY).start().await.unwrap();
        gateway.until_running(Duration::from_secs(30)).await.unwrap();
        let key = bench.folder.path().join("api-key");
        std::fs::write(&key, KEY).unwrap();
        bench.config["gateway"] = json!({"url": gateway.url(), "apiKeyFile": key});
        (bench, gateway)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn publish(&self) {
        self.git.shelf().publish(&self.repo, "plant.git").unwrap();
    }

    /// Commits a file of the service and publishes it.
    pub(crate) fn push(&self, path: &str, content: &str) -> String {
        let commit = self.repo.commit_files("a change", &[(&format!("{SERVICE}/{path}"), content)]).unwrap();
        self.publish();
        commit
    }

    /// Writes the configuration as it stands.
    pub(crate) fn file(&self) -> PathBuf {
        let path = self.folder.path().join("gateway.yaml");
        std::fs::write(&path, self.config.to_string()).unwrap();
        path
    }

    /// `stoker sync`, with more arguments.
    pub(crate) fn sync(&self, more: &[&str]) -> Said {
        let file = self.file();
        let mut words = vec!["sync", "--config", file.to_str().unwrap()];
        words.extend(more);
        stoker(&words)
    }

    /// `stoker sync -o json`: the exit code and the report.
    pub(crate) fn report(&self, more: &[&str]) -> (i32, Value) {
        let said = self.sync(&[&["-o", "json"], more].concat());
        let report = serde_json::from_str(&said.out)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", said.out, said.err));
        (said.code, report)
    }

    pub(crate) fn live(&self, path: &str) -> String {
        std::fs::read_to_string(self.data().join(path)).unwrap()
    }
}

pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoker"));
    command.args(words).env("NO_COLOR", "1").env_remove("STOKER_LOG");
    command
}

/// Runs the program to its end.
pub(crate) fn stoker(words: &[&str]) -> Said {
    let Output { status, stdout, stderr } = command(words).output().unwrap();
    Said {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}
