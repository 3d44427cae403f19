//! The backup of a redundant pair: it takes over what its master has, and what others write there is lost.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::core::{Core, GatewayPhase, index, now_ms, pause};
use crate::rules::ScanKind;

/// How often a backup looks at its master.
const EVERY: Duration = Duration::from_millis(200);

impl Core {
    /// Follows the master, while there is one, for as long as the gateway lives.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            let running = |p: &GatewayPhase| *p == GatewayPhase::Running;
            let master = self.read(|s| s.behaviour.replicate_from.clone().filter(|_| running(&s.phase)));
            let Some(master) = master else {
                pause(&mut version, None).await;
                continue;
            };
            let own = self.data_dir.clone();
            let taken = tokio::task::spawn_blocking(move || take_over(&master, &own)).await;
            if matches!(taken, Ok(Ok(true))) {
                // It loads what it took over by itself.
                self.change(|s| {
                    s.last_sync_ms = now_ms();
                    ScanKind::ALL.into_iter().for_each(|kind| s.scans[index(kind)].requested = true);
                });
            }
            sleep(EVERY).await;
        }
    }
}

/// Makes `projects`, `core` and the modes equal to the master's; `external` and `local` are each node's own. Says
/// whether anything changed.
fn take_over(master: &Path, own: &Path) -> io::Result<bool> {
    let mut changed = mirror(&master.join("projects"), &own.join("projects"))?;
    let (theirs, ours) = (master.join("config/resources"), own.join("config/resources"));
    for name in names(&theirs)?.into_iter().filter(|n| n != "external" && n != "local") {
        changed |= mirror(&theirs.join(&name), &ours.join(&name))?;
    }
    Ok(changed)
}

fn names(path: &Path) -> io::Result<BTreeSet<OsString>> {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .map(|e| e.map(|e| e.file_name()))
            .filter(|n| !n.as_ref().is_ok_and(|n| n == ".resources"))
            .collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

fn mirror(from: &Path, to: &Path) -> io::Result<bool> {
    let mut changed = false;
    if from.is_dir() {
        if !to.is_dir() {
            fs::create_dir_all(to)?;
            changed = true;
        }
        let theirs = names(from)?;
        for gone in names(to)?.difference(&theirs) {
            let path = to.join(gone);
            if path.is_dir() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
            changed = true;
        }
        for name in theirs {
            changed |= mirror(&from.join(&name), &to.join(&name))?;
        }
    } else if let Ok(content) = fs::read(from) {
        // A file that vanished between listing and reading is taken over, or not, the next time.
        if fs::read(to).ok().as_ref() != Some(&content) {
            fs::write(to, content)?;
            changed = true;
        }
    }
    Ok(changed)
}
