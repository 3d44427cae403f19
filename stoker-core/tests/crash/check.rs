//! The promises, asked of a directory after an interruption.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stoker_core::Engine;

use crate::scenario::Scenario;

type Files = BTreeMap<String, String>;

/// How a scenario begins and ends when nothing interrupts it.
pub(crate) struct Ends {
    pub(crate) old: Files,
    /// After the transaction.
    pub(crate) new: Files,
    /// After the next sync, with all directories.
    converged: (Files, BTreeSet<String>),
    theirs: BTreeSet<String>,
}

impl Ends {
    pub(crate) fn of(scenario: &Scenario, seed: &Path, scratch: &Path) -> Self {
        let old = scenario.seen(seed);
        copy(seed, scratch);
        scenario.act(scratch);
        let acted = scenario.seen(scratch);
        scenario.converge(scratch);
        let converged = (scenario.seen(scratch), directories(scratch));
        // A transaction that is taken back was on its way to what the next one reaches.
        let new = if acted == old { converged.0.clone() } else { acted };
        std::fs::remove_dir_all(scratch).unwrap();
        Self { old, new, converged, theirs: scenario.theirs() }
    }
}

/// All that is wrong with a directory whose process was killed. The directory is used up.
pub(crate) fn violations(scenario: &Scenario, ends: &Ends, root: &Path, interrupted: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = scenario.seen(root);
    if interrupted {
        // P2: every path is old or new; one that both have is there.
        for (path, content) in &seen {
            let known = [&ends.old, &ends.new].iter().any(|end| end.get(path) == Some(content));
            if !known {
                wrong.push(format!("P2: {path} holds {content:?}"));
            }
        }
        for path in ends.old.keys().filter(|p| ends.new.contains_key(*p)) {
            if !seen.contains_key(path) {
                wrong.push(format!("P2: {path} is absent"));
            }
        }
    }
    match Engine::open(root).unwrap().begin(false) {
        Ok(session) => drop(session),
        Err(error) => {
            wrong.push(format!("recovery: {}", stoker_core::chain(&error)));
            return wrong;
        }
    }
    // P1, and P3: foreign files are part of both.
    let seen = scenario.seen(root);
    if seen != ends.old && seen != ends.new {
        wrong.push(format!("P1: neither old nor new: {seen:?}"));
    }
    if root.join(".stoker/journal").exists() {
        wrong.push("a journal is left".to_owned());
    }
    // P4
    for content in &ends.theirs {
        if !seen.values().any(|c| c == content) && !in_history(root, content) {
            wrong.push(format!("P4: {content:?} is lost"));
        }
    }
    scenario.converge(root);
    if (scenario.seen(root), directories(root)) != ends.converged {
        wrong.push(format!("does not converge: {:?} {:?}", scenario.seen(root), directories(root)));
    }
    let stage = std::fs::read_dir(root.join(".stoker/stage")).unwrap().count();
    let names: BTreeSet<String> = std::fs::read_dir(root.join(".stoker"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != "seen")
        .collect();
    if stage != 0 || names != ["head", "history", "lock", "manifest", "stage"].map(str::to_owned).into() {
        wrong.push(format!("left behind: {names:?}, {stage} in the stage"));
    }
    wrong
}

fn in_history(root: &Path, content: &str) -> bool {
    fn search(at: &Path, content: &[u8]) -> bool {
        std::fs::read_dir(at).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path, content)
            } else {
                std::fs::read(path).is_ok_and(|c| c == content)
            }
        })
    }
    search(&root.join(".stoker/history"), content.as_bytes())
}

pub(crate) fn directories(root: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, at: &str, all: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(root.join(at)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{at}/{}", entry.file_name().into_string().unwrap());
            let path = path.trim_start_matches('/').to_owned();
            if entry.file_type().unwrap().is_dir() && path != ".stoker" {
                walk(root, &path, all);
                all.insert(path);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(root, "", &mut all);
    all
}

/// Copies a tree with its modes.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            std::fs::write(&target, std::fs::read(entry.path()).unwrap()).unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            if mode & 0o777 != 0o644 {
                std::fs::set_permissions(target, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
    let mode = std::fs::metadata(from).unwrap().permissions();
    std::fs::set_permissions(to, mode).unwrap();
}
