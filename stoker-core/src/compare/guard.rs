//! What stops a plan although it is valid: too many deletions, too little space.

use crate::compare::Inputs;
use crate::path::RelPathBuf;
use crate::plan::{ActionKind, Plan, PlanError};
use crate::root::Root;

/// Counts what the plan does, names it by its digest, and stops it where a guard says so.
pub(super) fn guard(plan: &mut Plan, inputs: &Inputs<'_>) -> Result<(), PlanError> {
    let (mut deletes, mut foreign) = (0, 0);
    for action in &plan.actions {
        match action.kind {
            ActionKind::Create => plan.counts.added += 1,
            ActionKind::Update | ActionKind::Restore | ActionKind::Overwrite | ActionKind::SetMode => {
                plan.counts.modified += 1;
            }
            ActionKind::Adopt => plan.counts.adopted += 1,
            ActionKind::Delete => {
                plan.counts.deleted += 1;
                deletes += 1;
                foreign += u64::from(action.base.is_none());
            }
            ActionKind::Keep => plan.counts.kept += 1,
            ActionKind::Forget => {}
        }
        if let Some(write) =
            action.write.as_ref().filter(|_| action.kind.writes() && action.kind != ActionKind::SetMode)
        {
            // Whole blocks, as file systems count them.
            plan.need.bytes += write.size.unwrap_or(0).div_ceil(4096) * 4096;
            plan.need.inodes += 1;
        }
    }
    plan.digest = digest(plan);
    let owned = plan.manifest.files.len() as u64 + foreign;
    let limit = inputs.spec.max_deletes;
    let approved = inputs.options.approved.as_deref() == Some(plan.digest.as_str());
    let too_many = deletes > limit.count || deletes * 100 > owned * u64::from(limit.percent);
    if deletes > 0 && too_many && !approved {
        let digest = plan.digest.clone();
        return Err(PlanError::MassDeletion { deletes, owned, guard: limit, digest });
    }
    space(plan, inputs.root)
}

fn space(plan: &Plan, root: &Root) -> Result<(), PlanError> {
    if plan.need.inodes == 0 {
        return Ok(());
    }
    let stat = rustix::fs::fstatvfs(root.fd())
        .map_err(|e| PlanError::Live { path: RelPathBuf::default(), source: e.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // A margin for the journal, the manifest and directories.
    let needed = plan.need.bytes + plan.need.bytes / 20 + plan.need.inodes * 256 + (32 << 10);
    // Some file systems do not count inodes and say 0 of 0.
    let (inodes, free_inodes) = (plan.need.inodes + 4, stat.f_favail);
    if needed > free || (stat.f_files > 0 && inodes > free_inodes) {
        return Err(PlanError::InsufficientSpace { needed, free, inodes, free_inodes });
    }
    Ok(())
}

/// Names a set of changes.
pub(super) fn digest(plan: &Plan) -> String {
    let mut hasher = blake3::Hasher::new();
    for action in &plan.actions {
        hasher
            .update(action.path.as_str().as_bytes())
            .update(&[0])
            .update(action.kind.as_str().as_bytes())
            .update(&[0]);
        if let Some(write) = &action.write {
            hasher.update(write.id.as_bytes()).update(&write.key).update(&[u8::from(write.executable)]);
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
