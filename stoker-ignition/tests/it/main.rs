//! Client, confirmed scans and rules against the fake gateway; the fake gateway against the facts.

// Helpers of tests are not tests to the lint.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bed;
mod client;
mod confirm;
mod fake;
mod lock;
mod serve;
mod tls;

/// A module that is not named above would never run.
#[test]
fn no_file_is_forgotten() {
    let here = include_str!("main.rs");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(
            module == "main" || here.contains(&format!("mod {module};")),
            "{name} is not part of the tests"
        );
    }
}
