//! `stoker validate`: what the API server would say, without one.

use std::path::Path;

use crate::bench::stoker;

#[test]
fn every_example_of_the_documentation_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    let mut words = vec!["validate"];
    words.extend(files.iter().map(String::as_str));
    let said = stoker(&words);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
}

#[test]
fn both_files_of_the_page_on_running_without_kubernetes_are_valid() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/standalone.md");
    let page = std::fs::read_to_string(page).unwrap();
    let files: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(files.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let uncommented = files[1]
        .lines()
        .filter(|line| !line.contains("sshKey:") && !line.contains("githubApp:"))
        .map(|line| line.replacen("# ", "", usize::from(line.trim_start().starts_with('#'))) + "\n")
        .collect();
    for text in [files[0].to_owned(), files[1].to_owned(), uncommented] {
        std::fs::write(&file, &text).unwrap();
        let said = stoker(&["validate", file.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{text}{}{}", said.out, said.err);
    }
}

#[test]
fn what_is_wrong_is_named_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    let stoker_with = |git: &str| {
        format!(
            "apiVersion: stoker.io/v1alpha1\nkind: Stoker\nmetadata: {{name: x}}\nspec:\n  git: {git}\n  gateway: {{apiKeySecretRef: {{name: k}}}}\n"
        )
    };
    let profile_with = |spec: &str| {
        format!("apiVersion: stoker.io/v1alpha1\nkind: SyncProfile\nmetadata: {{name: x}}\nspec: {spec}\n")
    };
    let good = "{repo: 'https://git.example.com/x', ref: main}";
    std::fs::write(&file, stoker_with(good)).unwrap();
    assert_eq!(stoker(&["validate", file.to_str().unwrap()]).code, 0);
    // What others may define is not judged.
    let open = "{mappings: [{source: 'a/{{.Vars.x}}', destination: b}], includeMappingsFrom: [{name: lib}], prune: Mirror}";
    std::fs::write(&file, profile_with(open)).unwrap();
    assert_eq!(stoker(&["validate", file.to_str().unwrap()]).code, 0);
    for (text, word) in [
        (stoker_with("{repo: 'http://git.example.com/x', ref: main}"), "allowInsecure"),
        (stoker_with("{repo: 'https://git.example.com/x', ref: '-u'}"), "ref"),
        (stoker_with("{repo: 'https://git.example.com/x'}"), "ref"),
        (stoker_with("{repo: 'https://git.example.com/x', ref: main, brnch: y}"), "brnch"),
        (profile_with("{mappings: [{source: a, destination: ../b}]}"), ".."),
        (profile_with("{mappings: [{source: a, destination: var/x}]}"), "var"),
        (
            profile_with("{mappings: [{source: a, destination: b, when: {podLabels: {'a b': c}}}]}"),
            "mappings[0].when.podLabels[\"a b\"]: no label has such a name",
        ),
        (profile_with("{mappings: [{source: a, destination: b}], prune: All}"), "Mirror"),
        (
            profile_with("{mappings: [{source: a, destination: b}], includeMappingsFrom: [{name: x}]}"),
            "SyncProfile x includes itself",
        ),
        (
            format!(
                "{}---\n{}",
                profile_with("{mappings: [{source: a, destination: b}], includeMappingsFrom: [{name: lib}]}")
                    .replace("{name: x}", "{name: w}"),
                profile_with(
                    "{mappings: [{source: a, destination: b}], includeMappingsFrom: [{name: more}]}"
                )
                .replace("{name: x}", "{name: lib}"),
            ),
            "SyncProfile lib includes others itself (more)",
        ),
        (
            "apiVersion: stoker.io/v1alpha1\nkind: AgentConfig\ngatewayName: g\ndataDir: /d\n\
             git: {repo: 'https://git.example.com/x', ref: main}\n\
             profile: {mappings: [{source: a, destination: b}], includeMappingsFrom: [{name: lib}]}"
                .to_owned(),
            "profile.includeMappingsFrom: a gateway without Kubernetes knows no other profiles",
        ),
        (profile_with("{mappings: []}"), "mappings"),
        (
            profile_with("{mappings: [{source: a, destination: b, filePattern: '!x'}]}"),
            "write which files to take",
        ),
        (
            profile_with("{mappings: [{source: a, destination: b, filePattern: 'x['}]}"),
            "mappings[0].filePattern",
        ),
        (profile_with("{mappings: [{source: a, destination: b, maxSize: 1Gi}]}"), "1 to 256Mi"),
        (profile_with("{mappings: [{source: a, destination: b, maxSize: 300Mi}]}"), "1 to 256Mi"),
        ("kind: Pod".to_owned(), "Pod"),
        ("a: [".to_owned(), "x.yaml"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let said = stoker(&["validate", file.to_str().unwrap()]);
        let all = format!("{}{}", said.out, said.err);
        assert!(said.code == 2 || said.code == 1, "{text}: {} {all}", said.code);
        assert!(all.contains(word), "{text}: no {word:?} in {all}");
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_other_files_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("empty.yaml"), "").unwrap();
    std::fs::write(at("comments.yaml"), "# nothing\n---\n# more\n").unwrap();
    std::fs::write(at("latin.yaml"), b"kind: \xe9").unwrap();
    std::fs::write(at("large.yaml"), vec![b'#'; (8 << 20) + 1]).unwrap();
    std::fs::write(at("other.yaml"), "kind: Pod").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let nothing = "no document in it; write a Stoker, SyncProfile or AgentConfig";
    for (file, words) in [
        (at("empty.yaml"), nothing),
        (at("comments.yaml"), nothing),
        (at("missing.yaml"), "No such file"),
        (at("latin.yaml"), "not UTF-8 text (byte 6)"),
        (at("large.yaml"), "larger than 8 MiB"),
        (at("pipe"), "not a regular file"),
        ("/dev/zero".to_owned(), "not a regular file"),
        (folder.path().to_str().unwrap().to_owned(), "is a directory"),
    ] {
        let said = stoker(&["validate", &file, &at("other.yaml")]);
        assert_eq!(said.code, 2, "{file}: {}{}", said.out, said.err);
        assert!(said.out.contains(&file) && said.out.contains(words), "{file}: no {words:?} in {}", said.out);
        assert!(said.out.contains("Pod"), "the second file is looked at: {}", said.out);
    }
}

#[test]
fn a_file_cannot_drive_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    for text in [
        "kind: \"\\e[2J\\e]0;pwned\\a\"",
        "apiVersion: stoker.io/v1alpha1\nkind: Stoker\nmetadata: {name: \"a\\e[2J\"}\nspec: {\"\\e[2J\": 1}",
        "apiVersion: stoker.io/v1alpha1\nkind: AgentConfig\n\"\\e[2J\": 1",
    ] {
        std::fs::write(&file, text).unwrap();
        let said = stoker(&["validate", file.to_str().unwrap()]);
        assert_eq!(said.code, 2, "{}", said.out);
        assert!(!said.out.chars().any(|c| c.is_control() && c != '\n'), "{:?}", said.out);
    }
}
