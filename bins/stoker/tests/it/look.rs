//! `stoker diff`, `render` and `history N`: what would change, what a file becomes, what changed.

use serde_json::{Value, json};

use crate::bench::{Bench, SERVICE, Said, VIEW, stoker};

fn diff(bench: &Bench, more: &[&str]) -> Said {
    let file = bench.file();
    stoker(&[&["diff", "--config", file.to_str().unwrap()], more].concat())
}

fn parsed(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", said.out, said.err))
}

fn paths(report: &Value) -> Vec<(Value, Value)> {
    let changes = report["changes"].as_array().unwrap();
    changes.iter().map(|change| (change["path"].clone(), change["action"].clone())).collect()
}

#[test]
fn a_diff_shows_what_the_next_sync_does_and_writes_nothing() {
    let bench = Bench::new();
    let first = parsed(&diff(&bench, &["-o", "json", "--name-only"]));
    assert_eq!(std::fs::read_dir(bench.data()).unwrap().count(), 0);
    let (_, report) = bench.report(&[]);
    assert_eq!(paths(&first), paths(&report));

    bench.push(VIEW, "{\"custom\": {\"rate\": 5}, \"root\": {}}");
    assert_eq!(bench.sync(&[]).code, 0);
    let commit = bench.push(VIEW, "{\"root\": {}, \"custom\": {\"rate\": 6}}");
    let said = diff(&bench, &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("view.json   (changed in the source; profile line-1, mappings[0])"),
        "{}",
        said.out
    );
    assert!(said.out.contains("\n      custom.rate: 5 → 6\n"), "{}", said.out);
    assert!(
        said.out.contains(&format!("main ({}) would bring: 0 added, 1 modified, 0 deleted", &commit[..7]))
    );
    let shown = parsed(&diff(&bench, &["-o", "json"]));
    let (_, report) = bench.report(&[]);
    assert_eq!((paths(&shown), &shown["files"]), (paths(&report), &report["files"]));
    assert_eq!(
        shown["changes"][0]["difference"],
        json!({"values": [{"path": "custom.rate", "before": 5, "after": 6}]})
    );
    let none = diff(&bench, &[]);
    assert!(none.out.starts_with(&format!("in step with main ({})", &commit[..7])), "{}", none.out);

    // Another commit than the one that is wanted.
    let before = bench.repo.git(["rev-parse", "HEAD~1"]).unwrap();
    let back = diff(&bench, &["--commit", before.trim()]);
    assert!(back.out.contains("custom.rate: 6 → 5"), "{}\n{}", back.out, back.err);
}

#[test]
fn a_diff_knows_which_mappings_are_for_this_gateway() {
    let mut bench = Bench::new();
    bench.config["profile"]["mappings"][0]["when"] = json!({"podLabels": {"site": "north"}});
    let brings = |bench: &Bench| diff(bench, &["--name-only"]).out.contains("view.json");
    assert!(!brings(&bench));
    bench.config["labels"] = json!({"site": "north"});
    assert!(brings(&bench));
}

#[test]
fn a_diff_of_what_a_guard_stops_shows_the_deletions_and_says_so() {
    let mut bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    bench.repo.remove("services/gateway/projects").unwrap();
    bench.push("projects/line/project.json", "{\"title\": \"almost empty\"}");
    bench.config["maxDeletes"] = json!({"count": 3, "percent": 100});
    let said = diff(&bench, &["--name-only"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.out.contains("- view.json   (gone from the source"), "{}", said.out);
    assert!(said.out.contains("would be held") && said.out.contains("at most 3 files"), "{}", said.out);
    assert!(bench.data().join(VIEW).exists());
}

#[test]
fn a_file_is_rendered_as_a_sync_writes_it_and_nothing_else_is_on_stdout() {
    let mut bench = Bench::new();
    bench.config["vars"] = json!({"region": "emea"});
    let view = json!({"source": format!("{SERVICE}/{VIEW}"), "destination": VIEW, "template": true});
    bench.config["profile"]["mappings"].as_array_mut().unwrap().push(view);
    bench.push(VIEW, "{\"custom\": {\"at\": \"{{.Vars.region}}\"}}");
    let file = bench.file();
    let render = |path: &str| stoker(&["render", "--config", file.to_str().unwrap(), path]);
    let said = render(VIEW);
    assert_eq!((said.code, said.out.as_str()), (0, "{\"custom\": {\"at\": \"emea\"}}"), "{}", said.err);
    assert!(said.err.contains("profile line-1, mappings[2]"), "{}", said.err);
    assert_eq!(bench.sync(&[]).code, 0);
    assert_eq!(bench.live(VIEW), said.out);

    let unknown = render("projects/nowhere.json");
    assert_eq!((unknown.code, unknown.out.as_str()), (1, ""));
    assert!(unknown.err.contains("no mapping brings projects/nowhere.json"), "{}", unknown.err);
    let outside = render("../etc/passwd");
    assert_eq!(outside.code, 2, "{}", outside.err);
    bench.push(VIEW, "{\"broken\": ");
    let broken = render(VIEW);
    assert_eq!((broken.code, broken.out.as_str()), (1, ""));
    assert!(broken.err.contains("not valid JSON"), "{}", broken.err);
}

#[test]
fn the_history_shows_what_transactions_changed_inside_of_files() {
    let bench = Bench::new();
    for rate in 1..4 {
        bench.push(VIEW, &format!("{{\"rate\": {rate}}}"));
        assert_eq!(bench.sync(&[]).code, 0);
    }
    let data = bench.data();
    let history =
        |more: &[&str]| stoker(&[&["history", "--data-dir", data.to_str().unwrap()], more].concat());
    assert!(history(&["2"]).out.contains("\n      rate: 1 → 2\n"), "{}", history(&["2"]).out);
    let both = history(&["1..3"]);
    assert!(both.out.contains("\n      rate: 1 → 3\n"), "{}", both.out);
    assert!(both.out.ends_with("transactions 2 to 3: 1 file changed\n"), "{}", both.out);
    let first = parsed(&history(&["1", "--name-only", "-o", "json"]));
    assert!(first["changes"].as_array().unwrap().iter().all(|c| c["action"] == "create"), "{first}");
    for (asked, code, says) in
        [("9", 1, "there are 1, 2, 3"), ("3..1", 2, "write the older one first"), ("x", 2, "not the number")]
    {
        let said = history(&[asked]);
        assert!(said.code == code && said.err.contains(says), "{}: {}", said.code, said.err);
    }
}

#[test]
fn without_a_cache_directory_of_its_own_a_diff_works_and_makes_no_data_directory() {
    let mut bench = Bench::new();
    bench.config.as_object_mut().unwrap().remove("cacheDir");
    assert!(diff(&bench, &["--name-only"]).out.contains("view.json"));
    assert_eq!(bench.sync(&["--dry-run"]).code, 0);
    let data = bench.data();
    let rollback = stoker(&["rollback", "--data-dir", data.to_str().unwrap()]);
    assert!(rollback.code == 2 && rollback.err.contains("no sync has written there"), "{}", rollback.err);
    std::fs::remove_dir_all(&data).unwrap();
    let missing = diff(&bench, &["-o", "json"]);
    assert_eq!((missing.code, &parsed(&missing)["error"]["path"]), (1, &json!("dataDir")), "{}", missing.out);
    assert!(!data.exists());
}

#[test]
fn a_file_that_comes_out_as_it_was_is_not_called_changed() {
    let mut bench = Bench::new();
    let (plain, other) = ("projects/line/plain.txt", "projects/line/other.txt");
    let mapping =
        |path: &str| json!({"source": format!("{SERVICE}/{path}"), "destination": path, "template": true});
    bench.config["profile"]["mappings"].as_array_mut().unwrap().extend([mapping(plain), mapping(other)]);
    bench.push(plain, "plain");
    bench.push(other, "{{.Commit}}");
    assert_eq!(bench.sync(&[]).code, 0);
    bench.push("projects/line/new.txt", "new");
    let shown = parsed(&diff(&bench, &["-o", "json"]));
    let (_, report) = bench.report(&[]);
    assert_eq!((paths(&shown), &shown["files"]), (paths(&report), &report["files"]));
    let changed = paths(&report);
    assert!(!changed.iter().any(|(path, _)| path == plain), "{changed:?}");
    assert!(changed.iter().any(|(path, _)| path == other), "{changed:?}");
}

#[test]
fn what_an_interrupted_sync_left_half_way_is_said() {
    let bench = Bench::new();
    assert_eq!(bench.sync(&[]).code, 0);
    std::fs::write(bench.data().join(".stoker/journal"), "half").unwrap();
    assert!(diff(&bench, &[]).out.contains("! a sync is under way here or was interrupted"));
}

#[test]
fn a_reader_that_goes_away_or_a_full_disk_under_the_output_is_no_crash() {
    let bench = Bench::new();
    let file = bench.file();
    let run = |command: &str, to: &str| {
        let line = format!("{} {command} {to}", env!("CARGO_BIN_EXE_stoker"));
        let output =
            std::process::Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let config = file.to_str().unwrap();
    assert_eq!(run(&format!("diff --config {config}"), "| true"), (0, String::new()));
    let (code, said) = run(&format!("diff --config {config}"), "> /dev/full");
    assert!(code == 1 && said.contains("cannot write to standard output"), "{code} {said}");
    let (code, said) = run(&format!("sync --config {config} -o json"), "> /dev/full");
    assert!(code == 0 && said.contains("cannot write to standard output"), "{code} {said}");
    assert!(bench.data().join(VIEW).exists());
}
