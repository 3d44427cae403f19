//! What the gateway still has to load. The record survives a crash between the files and the scan.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use stoker_core::STATE_DIRECTORY;
use stoker_ignition::rules::Touched;

const FILE: &str = "gateway.json";

/// What is pending in a data directory; `None` when everything is confirmed.
pub(super) fn load(data_dir: &Path) -> io::Result<Option<Touched>> {
    match std::fs::read(data_dir.join(STATE_DIRECTORY).join(FILE)) {
        // A damaged record still says that something was pending.
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| everything()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Both halves, nothing in particular.
fn everything() -> Touched {
    let paths = ["projects/all", "config/all"].map(stoker_core::RelPathBuf::parse);
    Touched::of_written(paths.iter().flatten().map(stoker_core::RelPathBuf::as_path))
}

/// Adds what is about to change.
pub(super) fn add(data_dir: &Path, touched: Touched) -> io::Result<()> {
    let mut all = load(data_dir)?.unwrap_or_default();
    all.merge(touched);
    let directory = data_dir.join(STATE_DIRECTORY);
    let new = directory.join(format!("{FILE}.new"));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file: File = File::options().write(true).create_new(true).open(&new)?;
    file.write_all(&serde_json::to_vec(&all)?)?;
    file.sync_data()?;
    std::fs::rename(new, directory.join(FILE))
}

/// Forgets: everything is confirmed.
pub(super) fn clear(data_dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(data_dir.join(STATE_DIRECTORY).join(FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoker_core::RelPathBuf;

    #[test]
    fn what_is_pending_adds_up_until_it_is_confirmed() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(STATE_DIRECTORY)).unwrap();
        assert_eq!(load(data.path()).unwrap(), None);
        let touched = |path: &str| Touched::of_written([RelPathBuf::parse(path).unwrap().as_path()]);
        let (project, provider) =
            ("projects/line/project.json", "config/resources/core/ignition/tag-provider/p/config.json");
        add(data.path(), touched(project)).unwrap();
        add(data.path(), touched(provider)).unwrap();
        let mut both = touched(project);
        both.merge(touched(provider));
        assert_eq!(load(data.path()).unwrap(), Some(both));
        std::fs::write(data.path().join(".stoker/gateway.json"), "{").unwrap();
        let need = load(data.path()).unwrap().unwrap().need();
        assert!(need.config && need.projects);
        clear(data.path()).unwrap();
        clear(data.path()).unwrap();
        assert_eq!(load(data.path()).unwrap(), None);
    }
}
