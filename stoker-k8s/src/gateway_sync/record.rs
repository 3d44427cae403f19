//! What the gateway still has to load, and what it said last. Survives a crash between the files and the scan, and a
//! restart of the agent: what nobody has confirmed does not become confirmed by being forgotten.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stoker_core::STATE_DIRECTORY;
use stoker_ignition::rules::Touched;

use super::role::Role;

const FILE: &str = "gateway.json";

/// What is known of the gateway, as far as the files of one data directory are concerned.
///
/// Another format (of another version) reads as damaged, never as empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Record {
    /// What went live and is not confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Touched>,
    /// The gateway was asked to load `pending` and cannot tell whether it did; why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unverified: Option<String>,
    /// When the gateway last confirmed something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) confirmed: Option<Timestamp>,
    /// Which role it last said that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<Role>,
}

impl Record {
    /// The record of a data directory; an empty one when there is none.
    pub(super) fn load(data_dir: &Path) -> io::Result<Self> {
        match std::fs::read(data_dir.join(STATE_DIRECTORY).join(FILE)) {
            // A damaged record still says that something was pending.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Self { pending: Some(everything()), ..Self::default() })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }

    /// Puts this in place of what was there.
    pub(super) fn save(&self, data_dir: &Path) -> io::Result<()> {
        let directory = data_dir.join(STATE_DIRECTORY);
        let new = directory.join(format!("{FILE}.new"));
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file: File = File::options().write(true).create_new(true).open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_data()?;
        std::fs::rename(new, directory.join(FILE))
    }

    /// Adds what is about to change; the gateway is asked about all of it.
    pub(super) fn add(&mut self, touched: Touched) {
        self.pending.get_or_insert_default().merge(touched);
        self.unverified = None;
    }

    /// Whether the gateway has never said anything about these files, and is not about to be asked.
    pub(super) const fn is_blank(&self) -> bool {
        self.confirmed.is_none() && self.pending.is_none()
    }
}

/// Both halves, nothing in particular.
fn everything() -> Touched {
    let paths = ["projects/all", "config/all"].map(stoker_core::RelPathBuf::parse);
    Touched::of_written(paths.iter().flatten().map(stoker_core::RelPathBuf::as_path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoker_core::RelPathBuf;

    fn touched(path: &str) -> Touched {
        Touched::of_written([RelPathBuf::parse(path).unwrap().as_path()])
    }

    #[test]
    fn what_is_pending_adds_up_and_a_new_change_is_asked_about() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(STATE_DIRECTORY)).unwrap();
        assert!(Record::load(data.path()).unwrap().is_blank());
        let (project, provider) =
            ("projects/line/project.json", "config/resources/core/ignition/tag-provider/p/config.json");
        let mut record = Record { unverified: Some("no right".into()), ..Record::default() };
        record.add(touched(project));
        record.save(data.path()).unwrap();
        let mut record = Record::load(data.path()).unwrap();
        record.add(touched(provider));
        record.save(data.path()).unwrap();
        let mut both = touched(project);
        both.merge(touched(provider));
        assert_eq!(Record::load(data.path()).unwrap(), Record { pending: Some(both), ..Record::default() });
    }

    #[test]
    fn a_record_that_cannot_be_read_says_that_everything_is_pending() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(STATE_DIRECTORY)).unwrap();
        let of_another_version = serde_json::to_string(&touched("projects/line/project.json")).unwrap();
        for text in ["{", &of_another_version, r#"{"pending": null, "from the future": 1}"#] {
            std::fs::write(data.path().join(STATE_DIRECTORY).join(FILE), text).unwrap();
            let need = Record::load(data.path()).unwrap().pending.expect(text).need();
            assert!(need.config && need.projects, "{text}");
        }
    }
}
