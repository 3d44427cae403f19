//! Integration tests of stoker-k8s: one binary, a module each.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the failure of its test")]

mod agent;
mod api_server;
mod approval;
mod bed;
mod chart;
mod cluster;
mod controller;
mod crds;
mod deliveries;
mod dependencies;
mod designers;
mod helm;
mod includes;
mod injection;
mod line;
mod look_ups;
mod pair;
mod replicas;
mod reports;
mod tags;
mod verify;

/// No test file is forgotten.
#[test]
fn every_file_here_is_a_module() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for file in std::fs::read_dir(&here).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".rs") else { continue };
        assert!(stem == "main" || main.contains(&format!("mod {stem};")), "{name} is not in main.rs");
    }
}
