//! stoker-git against real git servers: smart HTTP (with and without TLS), `git daemon`, `sshd`, and servers that break.

// Helpers of tests are not tests to the lint.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cache;
mod canary;
mod daemon;
mod fault_matrix;
mod faults;
mod github_app;
mod http;
mod local;
mod matrix;
mod proxy;
mod push;
mod references;
mod relay;
mod shared;
mod signatures;
mod ssh;
mod storm;
mod support;
mod tls;
mod tree;

/// The one audited module.
#[test]
fn unsafe_code_is_in_one_place() {
    fn search(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path, found);
            } else if std::fs::read_to_string(&path).unwrap().contains("allow(unsafe_code)") {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    search(concat!(env!("CARGO_MANIFEST_DIR"), "/src").as_ref(), &mut found);
    assert_eq!(found, ["libgit2.rs"]);
}

/// A file in this directory that is not a module here would silently not be tested.
#[test]
fn every_file_is_a_module() {
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") {
            assert!(main.contains(&format!("\nmod {module};")), "{name} is not a module of main.rs");
        }
    }
}
