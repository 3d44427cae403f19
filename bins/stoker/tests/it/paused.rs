//! `profile.paused` in a configuration file.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A configuration whose repository does not exist: what looks at it fails, and so does what would sync.
fn configuration(folder: &tempfile::TempDir, paused: bool) -> PathBuf {
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let text = format!(
        "apiVersion: stoker.io/v1alpha1\nkind: AgentConfig\ngatewayName: line-1\n\
         git: {{repo: \"file://{0}/nothing\", ref: main}}\n\
         profile: {{paused: {paused}, mappings: [{{source: projects, destination: projects}}]}}\n\
         dataDir: {0}/data\n",
        folder.path().display()
    );
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

fn sync(config: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoker"));
    command.arg("sync").arg("--config").arg(config).args(arguments);
    command
}

#[test]
fn a_paused_profile_holds() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(&folder, true);
    let output = sync(&config, &["--once", "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report["outcome"].as_str(), report["error"]["category"].as_str()),
        (Some("held"), Some("Paused"))
    );
    let left = std::fs::read_dir(folder.path().join("data")).unwrap().count();
    assert_eq!(left, 0, "nothing is written, not even a cache");

    // Without the pause the same configuration is acted on: it fails for want of a repository.
    let config = configuration(&folder, false);
    assert_eq!(sync(&config, &["--once"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn a_paused_profile_holds_for_as_long_as_it_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let config = configuration(&folder, true);
    let mut watch = sync(&config, &["--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("held: profile.paused is true"), "{line}");
    Command::new("kill").arg(watch.id().to_string()).status().unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path().join("data")).unwrap().count(), 0);
}
