//! `stoker diff` and `stoker render`: what a sync would do, without doing it.

use std::io::Write as _;

use anyhow::{Context, Result};
use serde_json::json;
use stoker_core::{Action, ActionKind, RelPathBuf};
use stoker_k8s::gateway_sync::{Outcome, Preview, SyncReport};

use crate::cli::{self, Format};
use crate::output::{self, Misuse, adopted, counted, printable, short};
use crate::show::{Difference, LIMIT, Side, Tree, difference};
use crate::standalone::{CONFIRM_PATIENCE, Standalone};
use crate::sync::text::{Scene, failed, text};

pub(crate) async fn run(args: &cli::Diff) -> Result<u8> {
    let one = Standalone::read(&args.config, CONFIRM_PATIENCE)?;
    let preview = match one.preview(args.commit.as_deref()).await {
        Ok(preview) => preview,
        Err(report) => return refused(&one, &report, args.output.output),
    };
    match args.output.output {
        Format::Json => output::print_json(&as_json(&preview, args.name_only)?)?,
        Format::Table => output::print(&for_people(&preview, args.name_only)?)?,
    }
    Ok(preview.report.outcome.exit_code())
}

pub(crate) async fn render(args: &cli::Render) -> Result<u8> {
    let one = Standalone::read(&args.config, CONFIRM_PATIENCE)?;
    let path = RelPathBuf::parse(&args.path).map_err(|error| {
        Misuse(format!("{error}; write the path below {}", one.config.data_dir.display()))
    })?;
    let rendered = match one.render(args.commit.as_deref(), path).await {
        Ok(rendered) => rendered,
        Err(report) => return refused(&one, &report, Format::Table),
    };
    let Some(rendered) = rendered else {
        let path = printable(&args.path);
        anyhow::bail!(
            "no mapping brings {path}; `stoker diff --name-only` on an empty dataDir lists what is brought"
        );
    };
    let from = rendered.source.map_or_else(|| "made by stoker".to_owned(), |path| format!("from {path}"));
    eprintln!("{}", printable(&format!("{} ({from}; {})", args.path, rendered.mapping)));
    std::io::stdout().write_all(&rendered.content).context("cannot write to standard output")?;
    Ok(0)
}

/// A sync that cannot be done has nothing to show but why.
fn refused(one: &Standalone, report: &SyncReport, format: Format) -> Result<u8> {
    if format == Format::Json {
        output::print_json(report)?;
    } else if report.outcome == Outcome::Failed {
        eprintln!("{}", failed(report));
    } else {
        let scene = Scene { live: one.gateway.live_commit(), has_gateway: one.has_gateway };
        eprint!("{}", text(report, &scene));
    }
    Ok(report.outcome.exit_code())
}

/// What changes in the file of an action, where that is wanted and something does.
fn inside(preview: &Preview, action: &Action, name_only: bool) -> Result<Option<Difference>> {
    if name_only || !action.kind.writes() {
        return Ok(None);
    }
    let path = action.path.as_str();
    let before = preview.before(action, LIMIT).with_context(|| format!("cannot read {path}"))?;
    let before = Side::of(preview.has_before(action), before);
    let after = match action.kind {
        ActionKind::Delete => Side::Absent,
        _ => match preview.after(action)? {
            Some(content) => Side::of(true, Some(content)),
            None => before.clone(),
        },
    };
    Ok(Some(difference(path, &before, &after)))
}

fn shown(preview: &Preview) -> impl Iterator<Item = &Action> {
    preview.plan.actions.iter().filter(|a| a.kind != ActionKind::Forget)
}

fn why(preview: &Preview, action: &Action) -> String {
    let more = [preview.plan.mapping_of(action), action.rule.as_deref()];
    let more = more.into_iter().flatten().filter(|m| !m.is_empty()).map(|m| format!("; {m}"));
    std::iter::once(action.reason.to_owned()).chain(more).collect()
}

fn for_people(preview: &Preview, name_only: bool) -> Result<String> {
    let mut tree = Tree::default();
    for action in shown(preview) {
        let mark = match action.kind {
            ActionKind::Create => '+',
            ActionKind::Delete => '-',
            ActionKind::Restore | ActionKind::Overwrite => '!',
            ActionKind::Keep | ActionKind::Adopt => '=',
            _ => '~',
        };
        let difference = inside(preview, action, name_only)?;
        tree.add(action.path.as_str(), mark, &why(preview, action), difference.as_ref());
    }
    let mut out = tree.text();
    let report = &preview.report;
    for warning in &report.warnings {
        out.push_str(&format!("! {}\n", printable(warning)));
    }
    let files = report.files;
    let what = format!("{} ({})", report.r#ref, short(&report.commit));
    let adopted = adopted(files);
    let counts = format!(
        "{} added, {} modified, {} deleted, {} unchanged{adopted}",
        files.added, files.modified, files.deleted, files.unchanged
    );
    out.push_str(&match (&report.error, shown(preview).count()) {
        (Some(guard), _) => {
            format!("{what} would be held: {} ({})\n{counts}\n", printable(&guard.message), guard.category)
        }
        (None, 0) => format!("in step with {what}: {} unchanged\n", counted(files.unchanged, "file")),
        (None, _) => format!("{what} would bring: {counts}; nothing was written\n"),
    });
    Ok(out)
}

fn as_json(preview: &Preview, name_only: bool) -> Result<serde_json::Value> {
    let changes = shown(preview).map(|action| {
        let difference = inside(preview, action, name_only)?;
        Ok(json!({
            "path": action.path,
            "action": action.kind,
            "reason": action.reason,
            "mapping": preview.plan.mapping_of(action),
            "rule": action.rule,
            "difference": difference,
        }))
    });
    let report = &preview.report;
    Ok(json!({
        "commit": report.commit,
        "ref": report.r#ref,
        "outcome": if report.outcome == Outcome::Held { "held" } else { "dryRun" },
        "files": report.files,
        "changes": changes.collect::<Result<Vec<_>>>()?,
        "warnings": report.warnings,
        "error": report.error,
    }))
}
