//! Writing new contents aside, checked and durable, before anything live changes.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use crate::apply::order::{Ground, order};
use crate::apply::{Applied, ApplyError, Cancelled, Observer, Transaction};
use crate::giving_back::GivingBack;
use crate::journal::{Step, with_executable};
use crate::path::RelPath;
use crate::plan::{Action, ActionKind, Plan, Write};
use crate::root::{Cursor, live_file};
use crate::source::Source;
use crate::spec::SyncSpec;
use crate::state::{ManifestEntry, own, own_like};

/// From this many files on, one sync of the whole file system is cheaper than one per file.
const SYNC_EACH_UP_TO: usize = 3;

impl Transaction<'_> {
    /// Writes all new contents aside and returns the steps that make them live.
    pub(super) fn stage(
        &self,
        plan: &mut Plan,
        source: &dyn Source,
        spec: &SyncSpec,
        transaction: u64,
        observer: &mut dyn Observer,
        applied: &mut Applied,
    ) -> Result<Vec<Step>, ApplyError> {
        let root_error = |e| ApplyError::io(RelPath::ROOT, e);
        self.state.make_directory(&format!("history/{transaction}")).map_err(root_error)?;
        let stage = self.state.directory("stage").map_err(root_error)?;
        let writes = |a: &&Action| a.write.is_some() && a.kind.writes() && a.kind != ActionKind::SetMode;
        let total = plan.actions.iter().filter(writes).count();
        let each = total <= SYNC_EACH_UP_TO;
        // With room for the directories that `order` adds: a list that grows among what is made for its items leaves holes.
        let mut steps = Vec::with_capacity(plan.actions.len() + plan.manifest.trees.len());
        let (mut slot, mut staged) = (0, 0);
        let mut budget = spec.limits.max_total_bytes;
        let mut cursor = self.root.cursor();
        for action in GivingBack::new(std::mem::take(&mut plan.actions)) {
            let path = action.path.clone();
            let before = action.base.clone();
            let live = action.live.as_deref().copied();
            let digest = action.write.as_ref().and_then(|write| write.digest.as_deref().copied());
            steps.push(match (action.kind, &action.write) {
                (ActionKind::Delete, _) => {
                    slot += 1;
                    Step::Delete { path, slot, before }
                }
                (ActionKind::Forget, _) => Step::Forget { path, before },
                (ActionKind::Keep, _) => continue,
                (ActionKind::SetMode, Some(write)) => {
                    let entry = ManifestEntry {
                        id: write.id,
                        transform: plan.key(write),
                        digest: digest.or(before.as_ref().map(|b| b.digest)).unwrap_or_default(),
                        executable: write.executable,
                        stat: live.map(|l| l.id).unwrap_or_default(),
                    };
                    Step::SetMode { path, entry: Box::new(entry), before }
                }
                (ActionKind::Adopt, Some(write)) => {
                    let entry = Box::new(ManifestEntry {
                        id: write.id,
                        transform: plan.key(write),
                        digest: digest.unwrap_or_default(),
                        executable: write.executable,
                        stat: live.map(|l| l.id).unwrap_or_default(),
                    });
                    Step::Record { path, entry, before }
                }
                (_, Some(write)) => {
                    if observer.cancelled() {
                        return Err(ApplyError::Stopped { source: Box::new(Cancelled) });
                    }
                    slot += 1;
                    let one = One { plan, action: &action, write, source, spec, stage: stage.as_fd(), slot };
                    let mut entry = Box::new(self.stage_one(&one, each, &mut cursor)?);
                    budget = budget
                        .checked_sub(entry.stat.size)
                        .ok_or(ApplyError::TooManyBytes { limit: spec.limits.max_total_bytes })?;
                    staged += 1;
                    observer.staged(staged, total);
                    // A new id with the old bytes: nothing to do but to remember the id.
                    let untouched = before.as_ref().zip(live).filter(|(b, l)| b.stat == l.id);
                    match untouched {
                        Some((b, live)) if b.digest == entry.digest && b.executable == entry.executable => {
                            remove_slot(stage.as_fd(), slot)
                                .map_err(|e| ApplyError::io(path.as_path(), e))?;
                            applied.counts.modified -= 1;
                            applied.counts.unchanged += 1;
                            entry.stat = live.id;
                            Step::Record { path, entry, before }
                        }
                        _ => Step::Put { path, slot, entry, before },
                    }
                }
                (_, None) => continue,
            });
        }
        if staged > 0 && each {
            // The names; the contents are durable one by one.
            rustix::fs::fsync(&stage).map_err(|e| root_error(e.into()))?;
        } else if staged > 0 {
            rustix::fs::syncfs(self.root.fd()).map_err(|e| root_error(e.into()))?;
        }
        let ground = Ground::survey(self.root, &steps, &plan.manifest.trees).map_err(root_error)?;
        Ok(order(steps, ground, &plan.manifest, &plan.emptied, &spec.last_in_directory))
    }

    fn stage_one(
        &self,
        one: &One<'_>,
        sync: bool,
        cursor: &mut Cursor<'_>,
    ) -> Result<ManifestEntry, ApplyError> {
        let One { plan, action, write, source, spec, stage, slot } = *one;
        let path = action.path.as_path();
        let failed = |e: io::Error| ApplyError::io(path, e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fresh = Mode::from_raw_mode(if write.executable { 0o777 } else { 0o666 });
        let fd = rustix::fs::openat(stage, slot.to_string(), flags, fresh).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        let mut hasher = blake3::Hasher::new();
        plan.content(action, write, source, spec, &mut |bytes| {
            hasher.update(bytes);
            file.write_all(bytes)
        })?
        .map_err(failed)?;
        dress(&file, one, cursor).map_err(failed)?;
        if sync {
            file.sync_data().map_err(failed)?;
        }
        let stat = rustix::fs::fstat(&file).map_err(|e| failed(e.into()))?;
        Ok(ManifestEntry {
            id: write.id,
            transform: plan.key(write),
            digest: *hasher.finalize().as_bytes(),
            executable: write.executable,
            stat: live_file(&stat).id,
        })
    }
}

/// Gives a staged file the mode and owner of what it replaces, or the owner of the directory it goes to.
fn dress(file: &File, one: &One<'_>, cursor: &mut Cursor<'_>) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let slot = one.slot.to_string();
    if let Some(live) = &one.action.live {
        rustix::fs::fchmod(file, Mode::from_raw_mode(with_executable(live.mode, one.write.executable)))?;
        if is_root {
            own(one.stage, &slot, live.uid, live.gid)?;
        }
    } else if is_root {
        own_like(cursor.innermost(one.action.path.as_path())?.as_fd(), one.stage, &slot)?;
    }
    Ok(())
}

/// One file to be staged.
#[derive(Clone, Copy)]
struct One<'a> {
    plan: &'a Plan,
    action: &'a Action,
    write: &'a Write,
    source: &'a dyn Source,
    spec: &'a SyncSpec,
    stage: BorrowedFd<'a>,
    slot: u32,
}

fn remove_slot(stage: BorrowedFd<'_>, slot: u32) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(stage, slot.to_string(), rustix::fs::AtFlags::empty())?)
}
