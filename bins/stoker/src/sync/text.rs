//! The report of a sync, for people.

use std::fmt::Write;

use stoker_k8s::gateway_sync::{Change, Failure, Outcome, SyncReport};

use crate::output::{adopted, counted, short};

/// What the report itself does not say.
pub(crate) struct Scene {
    /// The commit that is live in the data directory, if that is known.
    pub(crate) live: Option<String>,
    /// Whether there is a gateway to confirm anything.
    pub(crate) has_gateway: bool,
}

pub(crate) fn text(report: &SyncReport, scene: &Scene) -> String {
    let mut out = String::new();
    // What a failed sync would have changed, it has not.
    if report.outcome != Outcome::Failed {
        let dry = report.outcome == Outcome::DryRun;
        report.changes.iter().filter_map(|c| line(c, dry)).for_each(|line| out.push_str(&line));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  ! {warning}");
    }
    for scan in &report.scans {
        let _ = writeln!(out, "  gateway scanned {}: {} in {} ms", scan.kind, scan.outcome, scan.duration_ms);
    }
    let files = report.files;
    let counts = format!("{} added, {} modified, {} deleted", files.added, files.modified, files.deleted);
    let took = report.duration_ms.total;
    let what = format!("{} ({})", report.r#ref, short(&report.commit));
    let error = words(report.error.as_ref());
    let _ = match report.outcome {
        Outcome::InSync => {
            let adopted = adopted(files);
            writeln!(
                out,
                "in step with {what}: {} unchanged{adopted}, {took} ms",
                counted(files.unchanged, "file")
            )
        }
        Outcome::Applied if scene.has_gateway => writeln!(out, "{what} is live: {counts}, {took} ms"),
        Outcome::Applied => writeln!(
            out,
            "files of {what} are in place: {counts}, {took} ms; no gateway is configured, so nothing confirmed them"
        ),
        Outcome::DryRun => writeln!(out, "dry run of {what}: {counts}; nothing was written"),
        Outcome::Held => writeln!(out, "held: {error}"),
        Outcome::Failed => {
            let stays = scene.live.as_deref().map(|live| format!("\n{} stays live", short(live)));
            writeln!(out, "{}{}", failed(report), stays.unwrap_or_default())
        }
        Outcome::Unconfirmed => {
            writeln!(out, "files of {what} are in place: {counts}; not confirmed: {error}")
        }
    };
    out
}

/// What could not be done, and why.
pub(crate) fn failed(report: &SyncReport) -> String {
    let commit =
        if report.commit.is_empty() { String::new() } else { format!(" ({})", short(&report.commit)) };
    format!("{}{commit} cannot be applied: {}", report.r#ref, words(report.error.as_ref()))
}

/// One changed file; `None` when nothing is done to it.
fn line(change: &Change, dry: bool) -> Option<String> {
    let Change { path, action, reason, .. } = change;
    let mark = match *action {
        "adopt" | "forget" => return None,
        // Somebody has worked on the gateway itself: they look for what became of it.
        "restore" => {
            let put = if dry { "would be put back" } else { "is put back" };
            let line = if reason.starts_with("deleted") {
                format!("  ! {path} was deleted on the gateway and {put}\n")
            } else {
                let kept = if dry { "would be kept" } else { "is kept" };
                format!(
                    "  ! {path} was changed on the gateway and {put}; the changed content {kept} in .stoker/history\n"
                )
            };
            return Some(line);
        }
        "create" => '+',
        "delete" => '-',
        _ => '~',
    };
    Some(format!("  {mark} {path}   ({reason})\n"))
}

fn words(failure: Option<&Failure>) -> String {
    failure.map_or_else(String::new, |f| format!("{} ({})", f.message, f.category))
}
