//! The way back to before a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::apply::{ApplyError, Ground, Transaction, now_ms, order};
use crate::history::{Cause, Held, RollbackError, held_of, journal, kept, transactions};
use crate::journal::{Journal, Step, digest_at};
use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::plan::Need;
use crate::root::{Live, StatId, live_at, open_file};
use crate::source::ContentId;
use crate::state::{Head, Manifest, ManifestEntry};

fn io_error(error: io::Error) -> RollbackError {
    RollbackError::Apply(ApplyError::io(RelPath::ROOT, error))
}

/// The transactions to undo, newest first: an unbroken chain from what is live down to `target`.
///
/// `head` is the transaction that is live; without it, or when what is kept is newer, the newest that is kept counts.
fn way_back(
    kept: &BTreeMap<u64, Journal>,
    head: Option<u64>,
    highest: u64,
    target: Option<u64>,
) -> Result<Vec<&Journal>, RollbackError> {
    if highest == 0 {
        return Err(RollbackError::Nothing);
    }
    let newest_kept = kept.keys().next_back().copied().unwrap_or(highest);
    let live = head.filter(|head| *head >= newest_kept).unwrap_or(highest);
    let target = target.unwrap_or(live);
    let not_kept = || RollbackError::NotKept { wanted: target, kept: kept.keys().copied().collect() };
    if !(kept.keys().next().copied().unwrap_or(highest)..=live).contains(&target) {
        return Err(not_kept());
    }
    let mut way = Vec::new();
    let mut at = live;
    loop {
        let journal = kept.get(&at).ok_or(RollbackError::Gap { transaction: at })?;
        way.push(journal);
        if at == target {
            return Ok(way);
        }
        // A number is stepped over when something stands in its way. When the head was lost, nothing tells of that.
        at = journal.previous.as_ref().map_or(at - 1, |head| head.transaction);
        if at < target {
            return Err(not_kept());
        }
    }
}

impl Transaction<'_> {
    /// Goes back to before transaction `target`, as a transaction of its own, whose number it returns.
    pub(crate) fn rollback(&self, target: Option<u64>) -> Result<u64, RollbackError> {
        let read = |transaction| move |source| RollbackError::Read { transaction, source };
        let head = self.state.head().map_err(io_error)?;
        let mut kept = BTreeMap::new();
        let mut highest = 0;
        for transaction in transactions(self.state).map_err(read(0))? {
            highest = transaction;
            if let Some(journal) = journal(self.state, transaction).map_err(read(transaction))? {
                kept.insert(transaction, journal);
            }
        }
        let wanted = way_back(&kept, head.as_ref().map(|h| h.transaction), highest, target)?;
        let transaction = self.next(highest).map_err(read(highest))?;
        self.make_room_back(&wanted).map_err(io_error)?;
        self.state.make_directory(&format!("history/{transaction}")).map_err(io_error)?;
        let prepared = self.prepare(&wanted, transaction, head).inspect_err(|_| self.abandon(transaction));
        let done = prepared.and_then(|(journal, manifest)| {
            self.run(journal, manifest)?;
            Ok(transaction)
        });
        done.map_err(|error| match error {
            RollbackError::Apply(error) => RollbackError::Apply(self.with_history(error)),
            error => error,
        })
    }

    /// Makes room for copies of what is kept: history has to stay complete, but for what is older than all that is needed.
    fn make_room_back(&self, wanted: &[&Journal]) -> io::Result<()> {
        let oldest = wanted.last().map_or(0, |journal| journal.transaction);
        let Held { bytes, inodes } = Held::sum(&held_of(self.state, oldest..)?);
        self.make_room(Need { bytes, inodes }.with_margin(), oldest)
    }

    /// Everything up to the commit point: the checked contents in the stage, and the journal.
    fn prepare(
        &self,
        wanted: &[&Journal],
        transaction: u64,
        previous: Option<Head>,
    ) -> Result<(Journal, Manifest), RollbackError> {
        let mut manifest: Manifest = self.state.manifest().map_err(io_error)?.unwrap_or_default();
        let steps = self.inverse(wanted, &manifest)?;
        let oldest = wanted.last().ok_or(RollbackError::Nothing)?;
        let before = oldest.previous.clone().unwrap_or_else(|| Head {
            revision: String::new(),
            spec: String::new(),
            sources: BTreeMap::new(),
            transaction,
            files: 0,
            at: 0,
        });
        let journal = Journal {
            transaction,
            previous,
            head: Head { transaction, at: now_ms(), ..before },
            cause: Cause::Rollback,
            steps,
        };
        // They tell of the revision that is left.
        manifest.trees = PathMap::default();
        Ok((journal, manifest))
    }

    /// The steps that undo some transactions, with the old contents staged.
    ///
    /// `journals` begins with the newest.
    fn inverse(&self, journals: &[&Journal], current: &Manifest) -> Result<Vec<Step>, RollbackError> {
        // The oldest transaction that touched a path knows what was there before all of them.
        let mut oldest: BTreeMap<RelPathBuf, (u64, Step)> = BTreeMap::new();
        let mut records = BTreeMap::new();
        for journal in journals {
            let transaction = journal.transaction;
            let record = kept::read(self.state, transaction)
                .map_err(|source| RollbackError::Read { transaction, source })?;
            records.insert(transaction, record.ok_or(RollbackError::Gap { transaction })?);
            for step in journal.plain_steps().rev() {
                if !matches!(step.as_ref(), Step::MakeDirectory { .. } | Step::RemoveDirectory { .. }) {
                    oldest.insert(step.path().clone(), (transaction, step.into_owned()));
                }
            }
        }
        let stage = self.state.directory("stage").map_err(io_error)?;
        let mut steps = Vec::new();
        let mut slot = 0;
        for (path, (transaction, step)) in oldest {
            let now = current.files.get(path.as_str()).cloned();
            match step {
                Step::Put { slot: kept, before, .. } | Step::Delete { slot: kept, before, .. } => {
                    slot += 1;
                    let Some(record) = records.get(&transaction).and_then(|r| r.get(&kept)) else {
                        // There was nothing before.
                        steps.push(Step::Delete { path, slot, before: now });
                        continue;
                    };
                    let damaged = || RollbackError::Damaged { transaction, path: path.clone(), slot: kept };
                    let history =
                        self.state.directory(&format!("history/{transaction}")).map_err(io_error)?;
                    let staged = restage(&history, &kept.to_string(), &stage, slot, before.as_deref())
                        .map_err(|e| ApplyError::io(path.as_path(), e))?;
                    // The copy is what will be live, so it is the copy that is checked.
                    let entry = staged
                        .filter(|entry| Some(entry.digest) == record.digest(before.as_deref()))
                        .ok_or_else(damaged)?;
                    steps.push(Step::Put { path: path.clone(), slot, entry: Box::new(entry), before: now });
                    if before.is_none() {
                        steps.push(Step::Forget { path, before: None });
                    }
                }
                Step::SetMode { before, entry, .. } => {
                    steps.push(Step::SetMode { path, entry: before, before: entry });
                }
                Step::Record { before: Some(entry), .. } | Step::Forget { before: Some(entry), .. } => {
                    steps.push(Step::Record { path, entry, before: now });
                }
                Step::Record { .. } => steps.push(Step::Forget { path, before: now }),
                _ => {}
            }
        }
        let ground = Ground::survey(self.root, &steps, &current.directories).map_err(io_error)?;
        Ok(order(steps, &ground, current, &BTreeSet::new(), &[]))
    }
}

/// Copies a kept content into the stage; history stays complete. `None` when nothing was kept.
fn restage(
    history: &OwnedFd,
    kept: &str,
    stage: &OwnedFd,
    slot: u32,
    before: Option<&ManifestEntry>,
) -> io::Result<Option<ManifestEntry>> {
    let slot = slot.to_string();
    match live_at(history.as_fd(), kept)? {
        Live::File(file) => {
            let mut source = open_file(history.as_fd(), kept)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(stage, &slot, flags, Mode::from_raw_mode(0o600))?;
            let mut copy = File::from(fd);
            io::copy(&mut source, &mut copy)?;
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(file.mode))?;
            if rustix::process::geteuid().is_root() {
                crate::state::own(stage.as_fd(), &slot, file.uid, file.gid)?;
            }
        }
        Live::Special => {
            let stat = rustix::fs::statat(history, kept, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Symlink {
                let target = rustix::fs::readlinkat(history, kept, Vec::new())?;
                rustix::fs::symlinkat(target, stage, &slot)?;
            } else {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(stage, &slot, kind, mode, stat.st_rdev)?;
                // Making it is subject to the umask.
                rustix::fs::chmodat(stage, &slot, mode, AtFlags::empty())?;
            }
            if rustix::process::geteuid().is_root() {
                crate::state::own(stage.as_fd(), &slot, stat.st_uid, stat.st_gid)?;
            }
        }
        Live::Absent | Live::Directory => return Ok(None),
    }
    let digest = digest_at(stage.as_fd(), &slot)?.unwrap_or_default();
    let stat = match live_at(stage.as_fd(), &slot)? {
        Live::File(file) => file.id,
        _ => StatId::default(),
    };
    Ok(Some(match before {
        Some(before) => ManifestEntry { digest, stat, ..before.clone() },
        None => {
            ManifestEntry { id: ContentId::of(&digest), transform: [0; 16], digest, executable: false, stat }
        }
    }))
}
