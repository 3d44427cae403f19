//! stoker-git against real git servers: smart HTTP (with and without TLS), `git daemon`, `sshd`, and servers that break.

// Helpers of tests are not tests to the lint.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cache;
mod canary;
mod daemon;
mod faults;
mod http;
mod local;
mod ssh;
mod support;
mod tls;
mod tree;

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
