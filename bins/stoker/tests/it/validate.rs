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
    for (text, word) in [
        (stoker_with("{repo: 'http://git.example.com/x', ref: main}"), "allowInsecure"),
        (stoker_with("{repo: 'https://git.example.com/x', ref: '-u'}"), "ref"),
        (stoker_with("{repo: 'https://git.example.com/x'}"), "ref"),
        (stoker_with("{repo: 'https://git.example.com/x', ref: main, brnch: y}"), "brnch"),
        (profile_with("{mappings: [{source: a, destination: ../b}]}"), ".."),
        (profile_with("{mappings: [{source: a, destination: var/x}]}"), "var"),
        (profile_with("{mappings: []}"), "mappings"),
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
