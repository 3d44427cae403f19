//! The test bed proves what tests rely on.

#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but does not see what tests call")]

mod api_server;
mod gitea;
mod gitserver;
mod leash;
mod node;

/// A file that nobody declares as a module is a test that nobody runs.
#[test]
fn every_file_here_is_a_module() {
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            name == "main" || main.contains(&format!("mod {name};")),
            "{name} is not declared in main.rs"
        );
    }
}
