//! How much room the history takes, and what goes first.

use std::io;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;

use crate::history::{Retention, transactions};
use crate::state::{StateDir, names, remove_tree};

/// What kept transactions take on the volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Held {
    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    /// What several take together.
    pub(crate) fn sum(held: &[Self]) -> Self {
        held.iter().copied().fold(Self::default(), Self::plus)
    }

    /// What is missing of `needed` when this much is free.
    pub(crate) const fn missing(self, needed: Self) -> Self {
        Self {
            bytes: needed.bytes.saturating_sub(self.bytes),
            inodes: needed.inodes.saturating_sub(self.inodes),
        }
    }
}

/// How many of the oldest transactions have to go for `missing`; `None` when all but the newest are not enough.
pub(crate) fn to_drop(held: &[Held], missing: Held) -> Option<usize> {
    let droppable = held.split_last().map_or(&[][..], |(_, older)| older);
    (0..=droppable.len()).find(|count| Held::sum(&droppable[..*count]).missing(missing) == Held::default())
}

/// What is free on the volume. Some file systems do not count inodes and say 0 of 0.
pub(crate) fn free(volume: BorrowedFd<'_>) -> io::Result<Held> {
    let stat = rustix::fs::fstatvfs(volume)?;
    Ok(Held {
        bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
    })
}

/// What the kept transactions take, oldest first.
pub(crate) fn held(state: &StateDir) -> io::Result<Vec<Held>> {
    held_of(state, ..)
}

/// What some of the kept transactions take, oldest first.
pub(crate) fn held_of(state: &StateDir, range: impl RangeBounds<u64>) -> io::Result<Vec<Held>> {
    let wanted = transactions(state)?.into_iter().filter(|transaction| range.contains(transaction));
    wanted.map(|transaction| of(state, transaction)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_many_go_as_are_needed_and_never_the_newest() {
        let held = |bytes, inodes| Held { bytes, inodes };
        let kept = [held(10, 2), held(20, 2), held(40, 9)];
        for (bytes, inodes, count) in [
            (0, 0, Some(0)),
            (1, 0, Some(1)),
            (10, 2, Some(1)),
            (10, 3, Some(2)),
            (11, 0, Some(2)),
            (30, 4, Some(2)),
            (31, 0, None),
            (0, 5, None),
        ] {
            assert_eq!(to_drop(&kept, held(bytes, inodes)), count, "{bytes} bytes, {inodes} inodes");
        }
        assert_eq!(to_drop(&[], held(0, 0)), Some(0));
        assert_eq!(to_drop(&kept[..1], held(1, 0)), None);
    }
}
