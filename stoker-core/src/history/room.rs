//! How much room the history takes, and what goes first.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::AtFlags;

use crate::history::{Retention, transactions};
use crate::state::{StateDir, names, remove_tree};

/// What kept transactions take on the volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// What the kept transactions take, oldest first.
pub(crate) fn held(state: &StateDir) -> io::Result<Vec<Held>> {
    transactions(state)?.into_iter().map(|transaction| of(state, transaction)).collect()
}

fn of(state: &StateDir, transaction: u64) -> io::Result<Held> {
    let directory = state.directory(&format!("history/{transaction}"))?;
    let mut held = Held { bytes: 0, inodes: 1 };
    for name in names(&directory)? {
        let stat = rustix::fs::statat(directory.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW)?;
        held.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        held.inodes += 1;
    }
    Ok(held)
}

/// Removes the oldest transactions until the rest fits. The newest always stays.
pub(crate) fn prune(state: &StateDir, retention: Retention) -> io::Result<()> {
    let (mut count, mut bytes) = (0, 0u64);
    for transaction in transactions(state)?.into_iter().rev() {
        bytes += of(state, transaction)?.bytes;
        count += 1;
        if count > 1 && (count > retention.count || bytes > retention.bytes) {
            forget(state, transaction)?;
        }
    }
    Ok(())
}

/// Removes the oldest transaction, unless it is the newest, too. Says whether one went.
pub(crate) fn drop_oldest(state: &StateDir) -> io::Result<bool> {
    let [oldest, _, ..] = transactions(state)?[..] else { return Ok(false) };
    forget(state, oldest)?;
    tracing::warn!(transaction = oldest, "dropped from the history: the data volume is full");
    Ok(true)
}

/// Removes a transaction as a whole: half of one must never look like one. What a crash leaves in the stage is swept.
fn forget(state: &StateDir, transaction: u64) -> io::Result<()> {
    let aside = format!("stage/dropped.{transaction}");
    rustix::fs::renameat(state.fd(), format!("history/{transaction}"), state.fd(), &aside)?;
    remove_tree(state.fd(), &aside)
}
