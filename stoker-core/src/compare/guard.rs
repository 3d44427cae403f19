//! What stops a plan although it is valid: too many deletions, too little space.

use crate::compare::Inputs;
use crate::history::{self, Held};
use crate::path::RelPathBuf;
use crate::plan::{ActionKind, Plan, PlanError};

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
        return Err(PlanError::MassDeletion { deletes, foreign, owned, guard: limit, digest });
    }
    space(plan, inputs)
}

/// Stops a plan that finds no space even when the history makes room for it.
fn space(plan: &Plan, inputs: &Inputs<'_>) -> Result<(), PlanError> {
    let failed = |source| PlanError::Live { path: RelPathBuf::default(), source };
    let needed = plan.need.with_margin();
    let free = history::free(inputs.root.fd()).map_err(failed)?;
    let missing = free.missing(needed);
    if missing == Held::default() {
        return Ok(());
    }
    let held = inputs.state.map_or(Ok(Vec::new()), history::held).map_err(failed)?;
    if history::to_drop(&held, missing).is_some() {
        return Ok(());
    }
    Err(PlanError::InsufficientSpace {
        needed: needed.bytes,
        free: free.bytes,
        inodes: needed.inodes,
        free_inodes: free.inodes,
        history: Held::sum(&held).bytes,
    })
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
            hasher.update(write.id.as_bytes()).update(&plan.key(write)).update(&[u8::from(write.executable)]);
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
