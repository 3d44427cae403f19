//! Wrong usage and wrong configuration: exit code 2, and a word on standard error that says what to write instead.

use serde_json::{Value, json};

use crate::bench::{Bench, stoker};

/// Puts `value` at a JSON pointer of a good configuration, and returns what the program says to it.
fn with(pointer: &str, value: Value) -> String {
    let mut bench = Bench::new();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    bench.config.pointer_mut(parent).unwrap()[key] = value;
    let said = bench.sync(&[]);
    assert_eq!(said.code, 2, "{pointer}: {} {}", said.out, said.err);
    assert_eq!(said.out, "", "nothing on standard output but the answer");
    assert_eq!(std::fs::read_dir(bench.data()).unwrap().count(), 0, "nothing half done");
    said.err
}

#[test]
fn a_wrong_configuration_is_refused_by_name_value_and_rule() {
    let mapping = |source: &str, destination: &str| json!([{"source": source, "destination": destination}]);
    let cases = [
        // Unknown fields, with the nearest known name.
        ("/profile/mapings", json!([]), vec!["mapings", "mappings"]),
        ("/git/reff", json!("x"), vec!["reff", "ref"]),
        ("/kind", json!("Agent"), vec!["AgentConfig"]),
        ("/apiVersion", json!("v1"), vec!["stoker.io/v1alpha1"]),
        // Where files may go.
        ("/profile/mappings", mapping("a", "../outside"), vec!["../outside", ".."]),
        ("/profile/mappings", mapping("a", "/etc"), vec!["/etc"]),
        ("/profile/mappings", mapping("a", "config/local/x"), vec!["config/local"]),
        ("/profile/mappings", mapping("a", "config/resources/local/x"), vec!["config/resources/local"]),
        ("/profile/mappings", mapping("a/../b", "projects"), vec!["a/../b"]),
        ("/profile/mappings", mapping("a/{{.Nope}}", "projects"), vec!["Nope"]),
        ("/profile/mappings", json!([]), vec!["mappings"]),
        ("/excludePatterns", json!(["[a"]), vec!["[a"]),
        // Where files come from.
        ("/git/repo", json!("ftp://example.com/x"), vec!["ftp"]),
        ("/git/repo", json!("git://example.com/x"), vec!["git://", "neither secret nor authentic"]),
        ("/git/repo", json!("https://user:pass@example.com/x"), vec!["git.repo"]),
        ("/git/allowInsecure", json!(false), vec!["http"]),
        ("/gateway", json!({"url": "not a url", "apiKeyFile": "/k"}), vec!["gateway.url"]),
        ("/git/ref", json!("main~1"), vec!["git.ref", "main~1", "'~'"]),
        // A loop without a pause.
        ("/git/interval", json!("0s"), vec!["git.interval", "between 5s and 24h"]),
        ("/profile/syncPeriod", json!(1), vec!["profile.syncPeriod", "between 5 and 3600"]),
    ];
    for (pointer, value, words) in cases {
        let said = with(pointer, value.clone());
        for word in words {
            assert!(said.contains(word), "{pointer} = {value}: no {word:?} in {said}");
        }
    }
    assert!(!with("/git/repo", json!("https://user:pa55@example.com/x")).contains("pa55"));
}

#[test]
fn a_file_that_cannot_be_read_or_is_not_yaml_is_named_with_its_place() {
    let said = stoker(&["sync", "--config", "/nowhere/gateway.yaml"]);
    assert!(said.code == 2 && said.err.contains("/nowhere/gateway.yaml"), "{}", said.err);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, "apiVersion: stoker.io/v1alpha1\nkind: AgentConfig\ngit: [unclosed\n").unwrap();
    let said = stoker(&["sync", "--config", file.to_str().unwrap()]);
    assert!(said.code == 2 && said.err.contains("gateway.yaml") && said.err.contains("line"), "{}", said.err);
}

#[test]
fn an_unknown_command_or_flag_ends_with_two() {
    for words in [
        vec!["synk"],
        vec!["sync"],
        vec!["sync", "--config", "x", "--once", "--watch"],
        vec!["demo", "--gateways", "0"],
    ] {
        let said = stoker(&words);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{words:?}: {}", said.err);
    }
}

#[test]
fn a_pipe_or_a_device_is_no_configuration() {
    for file in ["/dev/zero", "/"] {
        let said = stoker(&["sync", "--config", file]);
        assert!(said.code == 2 && said.err.contains(&format!("cannot read {file}: it is")), "{}", said.err);
    }
}

#[test]
fn sync_and_validate_refuse_the_same() {
    let mut bench = Bench::new();
    bench.config["git"]["ref"] = json!("ma in");
    let file = bench.file();
    let said = stoker(&["validate", file.to_str().unwrap()]);
    assert_eq!(said.code, 2, "{}", said.out);
    let sync = bench.sync(&[]);
    let problem = "git.ref: ref \"ma in\" contains ' '";
    assert!(
        sync.code == 2 && sync.err.contains(problem) && said.out.contains(problem),
        "{} {}",
        sync.err,
        said.out
    );
}

#[test]
fn a_cache_of_somebody_else_is_not_touched() {
    let mut bench = Bench::new();
    let folder = bench.folder.path().join("documents");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("plan.new"), "mine").unwrap();
    bench.config["cacheDir"] = json!(folder);
    let (code, report) = bench.report(&[]);
    assert_eq!((code, report["error"]["category"].as_str()), (1, Some("CacheUnusable")), "{report}");
    assert!(report["error"]["message"].as_str().unwrap().contains("plan.new"), "{report}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
