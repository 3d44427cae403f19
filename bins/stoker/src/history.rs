//! Transactions kept, and going back.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;
use stoker_core::{ActionKind, Cause, Engine, Past, PastChange, PastContent};
use stoker_k8s::gateway_sync::GatewaySync;

use crate::cli;
use crate::cli::Format;
use crate::output::{self, Misuse, short};
use crate::show::{Difference, LIMIT, Side, Tree, difference};

pub(crate) fn run(args: &cli::History) -> Result<u8> {
    let engine = Engine::open(&args.data_dir)?;
    match args.transactions {
        None => list(args, &engine.history()?),
        Some((after, to)) => changes(args, &engine, after, to),
    }
}

fn list(args: &cli::History, past: &[Past]) -> Result<u8> {
    if args.output.output == Format::Json {
        output::print_json(&json!({ "transactions": past.iter().map(as_json).collect::<Vec<_>>() }))?;
        return Ok(0);
    }
    if past.is_empty() {
        let directory = output::visible(&args.data_dir.display().to_string());
        output::print(&format!("No transaction is kept in {directory}.\n"))?;
        return Ok(0);
    }
    let mut table =
        output::table(&["TRANSACTION", "WHEN", "KIND", "FROM", "TO", "ADDED", "MODIFIED", "DELETED"]);
    for past in past.iter().rev() {
        let count =
            |kinds: &[ActionKind]| past.changes.iter().filter(|(_, k)| kinds.contains(k)).count().to_string();
        table.add_row([
            past.transaction.to_string(),
            when(past.at),
            past.cause.as_str().to_owned(),
            past.from.as_deref().map_or("-", short).to_owned(),
            short(&past.to).to_owned(),
            count(&[ActionKind::Create]),
            count(&[ActionKind::Update, ActionKind::SetMode]),
            count(&[ActionKind::Delete]),
        ]);
    }
    output::print(&format!("{table}\n"))?;
    Ok(0)
}

/// What some transactions in a row changed.
fn changes(args: &cli::History, engine: &Engine, after: u64, to: u64) -> Result<u8> {
    let changes = engine.past_changes(after, to)?;
    let inside = |change: &PastChange| -> Option<Difference> {
        if args.name_only {
            return None;
        }
        // One that cannot be read must not hide the others.
        let side = |content: &Option<PastContent>| {
            let bytes =
                content.as_ref().and_then(|content| engine.past_content(content, LIMIT).ok().flatten());
            Side::of(content.is_some(), bytes)
        };
        Some(difference(change.path.as_str(), &side(&change.before), &side(&change.after)))
    };
    if args.output.output == Format::Json {
        let changes = changes.iter().map(|change| {
            let (path, kind) = (&change.path, change.kind);
            json!({"path": path, "action": kind, "difference": inside(change)})
        });
        let changes = changes.collect::<Vec<_>>();
        output::print_json(&json!({ "after": after, "to": to, "changes": changes }))?;
        return Ok(0);
    }
    let mut tree = Tree::default();
    for change in &changes {
        let (mark, note) = match change.kind {
            ActionKind::Create => ('+', ""),
            ActionKind::Delete => ('-', ""),
            ActionKind::SetMode => ('~', "executable bit"),
            _ => ('~', ""),
        };
        tree.add(change.path.as_str(), mark, note, inside(change).as_ref());
    }
    let which = if to - after == 1 {
        format!("transaction {to}")
    } else {
        format!("transactions {} to {to}", after + 1)
    };
    let files = output::counted(changes.len(), "file");
    output::print(&format!("{}{which}: {files} changed\n", tree.text()))?;
    Ok(0)
}

pub(crate) fn rollback(args: &cli::Rollback) -> Result<u8> {
    let engine = Engine::open(&args.data_dir)?;
    // A session would make its state, in whatever directory was named by mistake.
    let history = engine.history()?;
    if engine.head()?.is_none() && history.is_empty() {
        let text = format!(
            "{} has no history: no sync has written there; write the data directory of a gateway that Stoker keeps",
            args.data_dir.display()
        );
        return Err(Misuse(text).into());
    }
    let gateway = GatewaySync::new(args.data_dir.clone(), None);
    let past =
        gateway.rollback(args.to).with_context(|| format!("cannot roll back {}", args.data_dir.display()))?;
    if args.output.output == Format::Json {
        output::print_json(&as_json(&past))?;
    } else {
        let now = if past.to.is_empty() { "before the first sync" } else { short(&past.to) };
        let files = output::counted(past.changes.len(), "file");
        let target = args.to.or_else(|| history.last().map(|newest| newest.transaction));
        let undone = history.iter().find(|past| Some(past.transaction) == target);
        let what = match undone {
            // The commit was and is live; what differs from it is back.
            Some(undone) if undone.cause == Cause::Drift => format!(
                "Undid from transaction {} on, a repair of drift: files are again as somebody had changed them on {now}",
                undone.transaction
            ),
            _ => format!("Back to {now}"),
        };
        output::print(&format!(
            "{what}, as transaction {}: {files} changed.\nThe gateway loads them at its next scan; the next `stoker sync` asks for one.\n",
            past.transaction
        ))?;
    }
    eprintln!(
        "warning: a running `stoker sync --watch`, or the next `stoker sync`, brings the wanted commit again: stop it, or \
         set git.ref first"
    );
    Ok(0)
}

fn when(at: u64) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn as_json(past: &Past) -> serde_json::Value {
    json!({
        "transaction": past.transaction,
        "at": when(past.at),
        "kind": past.cause,
        "from": past.from,
        "to": past.to,
        "changes": past.changes.iter().map(|(path, kind)| json!({"path": path, "action": kind})).collect::<Vec<_>>(),
    })
}
