//! The program as people run it: exit codes, standard output, standard error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the failure of its test")]

mod bench;
mod look;
mod misuse;
mod paused;
mod servers;
mod sync;
mod texts;
mod validate;

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
