//! The way back to before a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::apply::{ApplyError, Ground, Transaction, now_ms, order};
use crate::history::kept;
use crate::history::trace::{Moved, Records, Trace, kept_in, traces};
use crate::history::{Cause, Held, RollbackError, held_of, journal, transactions};
use crate::journal::{DirectoryOrder, Journal, Step, digest_at, with_executable};
use crate::needed;
use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::pattern::PatternSet;
use crate::plan::{Need, PlanError};
use crate::root::{Live, StatId, live_at, open_file};
use crate::state::{Digest, Head, Manifest, ManifestEntry};
use crate::way::Way;

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
        let order = wanted.first().map(|newest| newest.order.clone()).unwrap_or_default();
        let steps = self.inverse(wanted, &manifest, &order)?;
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
            // Which sources it came from is not said: a policy may have left some file as it was, and that file looks
            // as it was left now. The next plan has to list them.
            head: Head { transaction, at: now_ms(), sources: BTreeMap::new(), ..before },
            cause: Cause::Rollback,
            order,
            steps,
        };
        // They tell of the revision that is left.
        manifest.trees = PathMap::default();
        Ok((journal, manifest))
    }

    /// The steps that undo some transactions, with the old contents staged.
    ///
    /// `journals` begins with the newest.
    fn inverse(
        &self,
        journals: &[&Journal],
        current: &Manifest,
        rules: &DirectoryOrder,
    ) -> Result<Vec<Step>, RollbackError> {
        let mut records = Records::new();
        for journal in journals {
            let transaction = journal.transaction;
            let record = kept::read(self.state, transaction)
                .map_err(|source| RollbackError::Read { transaction, source })?;
            records.insert(transaction, record.ok_or(RollbackError::Gap { transaction })?);
        }
        let stage = self.state.directory("stage").map_err(io_error)?;
        let mut back = Back::default();
        let mut cursor = self.root.cursor();
        for (path, trace) in traces(journals, &records) {
            let now = current.files.get(path.as_str()).cloned();
            if now.is_none() && trace.is_let_go() {
                let live = cursor.live(path.as_path()).map_err(io_error)?;
                if matches!(live, Live::File(_) | Live::Special) {
                    continue;
                }
            }
            let Some(Moved { transaction, slot: kept, before }) = trace.moved else {
                let live = cursor.live(path.as_path()).map_err(io_error)?;
                back.note(path, trace, now, live);
                continue;
            };
            back.slot += 1;
            let slot = back.slot;
            let Some(record) = kept_in(&records, transaction, kept) else {
                // There was nothing before.
                if matches!(cursor.live(path.as_path()).map_err(io_error)?, Live::Absent | Live::Directory) {
                    back.word(path, trace.base, now);
                    continue;
                }
                if trace.base.is_some() {
                    back.words.push(says(path.clone(), trace.base, now.clone()));
                }
                back.moves.push(Step::Delete { path, slot, before: now });
                continue;
            };
            let wanted = record.digest(before.as_deref());
            let executable = trace.executable;
            let history = self.state.directory(&format!("history/{transaction}")).map_err(io_error)?;
            let name = kept.to_string();
            let failed = |e| ApplyError::io(path.as_path(), e);
            if let Some(live) = self.like_kept(path.as_path(), &history, &name, executable).map_err(failed)?
                && Some(live.0) == wanted
            {
                // It is there again already: a program beside us need not see it change.
                back.told(path, trace.base, now, live);
                continue;
            }
            let staged = restage(&history, &name, &stage, slot, executable).map_err(failed)?;
            // The copy is what will be live, so it is the copy that is checked.
            let staged = staged
                .filter(|(digest, _)| Some(*digest) == wanted)
                .ok_or_else(|| RollbackError::Damaged { transaction, path: path.clone(), slot: kept })?;
            back.put(path, slot, trace.base, now, staged);
        }
        self.keep_needed(&mut back, &rules.needed_while_filled)
            .map_err(|error| RollbackError::InTheWay(Box::new(error)))?;
        self.nothing_in_the_way(journals, &back.moves)?;
        let ground = Ground::survey(self.root, &back.moves, &current.directories).map_err(io_error)?;
        let mut steps = order(back.moves, ground, current, &BTreeSet::new(), &rules.last_in_directory);
        // The manifest's last word on a path is that of the last step.
        steps.extend(back.words);
        Ok(steps)
    }

    /// What is at `path`, if that is a file like the kept one in all but, perhaps, its content.
    fn like_kept(
        &self,
        path: RelPath<'_>,
        history: &OwnedFd,
        kept: &str,
        executable: Option<bool>,
    ) -> io::Result<Option<(Digest, StatId)>> {
        let mut cursor = self.root.cursor();
        let (Live::File(live), Live::File(kept)) = (cursor.live(path)?, live_at(history.as_fd(), kept)?)
        else {
            return Ok(None);
        };
        let mode = executable.map_or(kept.mode, |executable| with_executable(kept.mode, executable));
        if (live.id.size, live.mode, live.uid, live.gid) != (kept.id.size, mode, kept.uid, kept.gid) {
            return Ok(None);
        }
        let Some(parent) = cursor.parent(path)? else { return Ok(None) };
        let digest = digest_at(parent.as_fd(), path.file_name().unwrap_or_default())?;
        Ok(digest.map(|digest| (digest, live.id)))
    }

    /// Leaves files that did not exist before and that others' files need by now.
    fn keep_needed(&self, back: &mut Back, needed: &[String]) -> Result<(), PlanError> {
        let needed = PatternSet::new(needed)?;
        if needed.is_empty() {
            return Ok(());
        }
        let deletes = back.moves.iter().filter(|step| matches!(step, Step::Delete { .. }));
        let deleted = deletes.map(|step| step.path().clone()).collect();
        let brought = |directory: RelPath<'_>| {
            let mut puts = back.moves.iter().filter(|step| matches!(step, Step::Put { .. }));
            puts.any(|step| step.path().as_path().is_below(directory))
        };
        let stay = needed::that_stay(self.root, &needed, &deleted, &brought)?;
        for steps in [&mut back.moves, &mut back.words] {
            steps.retain(|step| !stay.contains(step.path()));
        }
        Ok(())
    }

    /// Checks that everything that comes back has a place.
    fn nothing_in_the_way(&self, journals: &[&Journal], moves: &[Step]) -> Result<(), RollbackError> {
        let of = |wanted: fn(&Step) -> bool| moves.iter().filter(move |step| wanted(step)).map(Step::path);
        let puts: BTreeSet<RelPath<'_>> =
            of(|step| matches!(step, Step::Put { .. })).map(RelPathBuf::as_path).collect();
        let deleted = of(|step| matches!(step, Step::Delete { .. })).map(RelPathBuf::as_str).collect();
        let mut way = Way::new(self.root, deleted);
        for below in &puts {
            if let Some(path) = below.ancestors().find(|above| puts.contains(above)) {
                let transaction = journals.last().map_or(0, |oldest| oldest.transaction);
                let (path, below) = (path.to_buf(), below.to_buf());
                return Err(RollbackError::Contradiction { transaction, path, below });
            }
            way.clear(*below).map_err(|error| RollbackError::InTheWay(Box::new(error)))?;
        }
        Ok(())
    }
}

/// The steps back.
#[derive(Debug, Default)]
struct Back {
    moves: Vec<Step>,
    /// What the manifest has to say in the end, where the moves do not tell.
    words: Vec<Step>,
    slot: u32,
}

impl Back {
    /// A content, staged in `slot`, goes to `path`; the manifest says `base` of it.
    fn put(
        &mut self,
        path: RelPathBuf,
        slot: u32,
        base: Option<Box<ManifestEntry>>,
        now: Option<Box<ManifestEntry>>,
        (digest, stat): (Digest, StatId),
    ) {
        let entry = match base {
            Some(base) if base.is_of(digest) => ManifestEntry { digest, stat, ..*base },
            // It was not what had been written: the manifest must not take it for that.
            base => {
                let entry = base.map(|base| Box::new(ManifestEntry { stat: StatId::default(), ..*base }));
                self.words.push(says(path.clone(), entry, None));
                ManifestEntry::of_others(digest, stat)
            }
        };
        self.moves.push(Step::Put { path, slot, entry: Box::new(entry), before: now });
    }

    /// The content is there already, and looks like `stat`; the manifest says `base` of it.
    fn told(
        &mut self,
        path: RelPathBuf,
        base: Option<Box<ManifestEntry>>,
        now: Option<Box<ManifestEntry>>,
        (digest, stat): (Digest, StatId),
    ) {
        let entry = base.map(|base| {
            let stat = if base.is_of(digest) { stat } else { StatId::default() };
            Box::new(ManifestEntry { stat, ..*base })
        });
        self.word(path, entry, now);
    }

    /// The manifest has to say `entry` where it says `now`.
    fn word(&mut self, path: RelPathBuf, entry: Option<Box<ManifestEntry>>, now: Option<Box<ManifestEntry>>) {
        let said = match (&entry, &now) {
            (Some(entry), Some(now)) => now.is_as(entry),
            (entry, now) => entry.is_none() && now.is_none(),
        };
        if !said {
            self.words.push(says(path, entry, now));
        }
    }

    /// No content moves: the mode, perhaps, and what the manifest says.
    fn note(&mut self, path: RelPathBuf, trace: Trace, now: Option<Box<ManifestEntry>>, live: Live) {
        let Trace { base, executable, .. } = trace;
        let differs =
            |executable: &bool| matches!(live, Live::File(file) if (file.mode & 0o100 != 0) != *executable);
        let Some(executable) = executable.filter(differs) else { return self.word(path, base, now) };
        let known = base.clone().or_else(|| now.clone());
        let unknown = || Box::new(ManifestEntry::of_others(Digest::default(), StatId::default()));
        let mut entry = known.unwrap_or_else(unknown);
        entry.executable = executable;
        entry.stat = now.as_ref().map(|now| now.stat).unwrap_or_default();
        if !base.as_ref().is_some_and(|base| base.is_as(&entry)) {
            self.words.push(says(path.clone(), base, now.clone()));
        }
        self.moves.push(Step::SetMode { path, entry, before: now });
    }
}

/// The step after which the manifest says `entry` of a path, and before which it says `before`.
fn says(path: RelPathBuf, entry: Option<Box<ManifestEntry>>, before: Option<Box<ManifestEntry>>) -> Step {
    match entry {
        Some(entry) => Step::Record { path, entry, before },
        None => Step::Forget { path, before },
    }
}

/// Copies a kept content into the stage, `executable` if that is given and else as it was; history stays complete. Returns
/// what the copy is; `None` when nothing was kept.
fn restage(
    history: &OwnedFd,
    kept: &str,
    stage: &OwnedFd,
    slot: u32,
    executable: Option<bool>,
) -> io::Result<Option<(Digest, StatId)>> {
    let slot = slot.to_string();
    match live_at(history.as_fd(), kept)? {
        Live::File(file) => {
            let mut source = open_file(history.as_fd(), kept)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(stage, &slot, flags, Mode::from_raw_mode(0o600))?;
            let mut copy = File::from(fd);
            io::copy(&mut source, &mut copy)?;
            let mode = executable.map_or(file.mode, |executable| with_executable(file.mode, executable));
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(mode))?;
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
    Ok(Some((digest, stat)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Root;
    use crate::state::StateDir;
    use crate::{DirectorySource, Engine, Mapping, SyncSpec};

    #[test]
    fn what_is_last_in_its_directory_is_last_on_the_way_back_too() {
        let (source, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut spec = SyncSpec::default();
        spec.mappings.push(Mapping { source: "s".into(), destination: "d".into(), ..Mapping::default() });
        spec.last_in_directory = vec!["manifest".into()];
        let engine = Engine::open(live.path()).unwrap();
        for round in ["1", "2"] {
            for file in ["a/manifest", "a/z", "b"] {
                let path = source.path().join("s").join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, round).unwrap();
            }
            engine.sync(&DirectorySource::open(source.path()).unwrap(), round, &spec).unwrap();
        }
        let back = engine.begin(false).unwrap().rollback(None).unwrap();
        // And the way forward again, which knows it from the way back.
        let forward = engine.begin(false).unwrap().rollback(None).unwrap();
        let state = StateDir::open(&Root::open(live.path()).unwrap()).unwrap().unwrap();
        for transaction in [back.transaction, forward.transaction] {
            let journal = journal(&state, transaction).unwrap().unwrap();
            let paths: Vec<&str> = journal.steps.iter().map(|step| step.path().as_str()).collect();
            assert_eq!(paths, ["d/b", "d/a/z", "d/a/manifest"]);
        }
    }
}
