//! Transactions kept, and going back.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;
use stoker_core::{ActionKind, Engine, Past};

use crate::cli;
use crate::cli::Format;
use crate::output::{self, Misuse};

pub(crate) fn list(args: &cli::History) -> Result<u8> {
    let past = Engine::open(&args.data_dir)?.history()?;
    if args.output.output == Format::Json {
        output::print_json(&json!({ "transactions": past.iter().map(as_json).collect::<Vec<_>>() }))?;
        return Ok(0);
    }
    if past.is_empty() {
        println!("No transaction is kept in {}.", args.data_dir.display());
        return Ok(0);
    }
    let mut table = output::table(&["TRANSACTION", "WHEN", "FROM", "TO", "ADDED", "MODIFIED", "DELETED"]);
    for past in past.iter().rev() {
        let count =
            |kinds: &[ActionKind]| past.changes.iter().filter(|(_, k)| kinds.contains(k)).count().to_string();
        table.add_row([
            past.transaction.to_string(),
            when(past.at),
            past.from.as_deref().map_or("-", short).to_owned(),
            short(&past.to).to_owned(),
            count(&[ActionKind::Create]),
            count(&[ActionKind::Update, ActionKind::SetMode]),
            count(&[ActionKind::Delete]),
        ]);
    }
    println!("{table}");
    Ok(0)
}

pub(crate) fn rollback(args: &cli::Rollback) -> Result<u8> {
    let engine = Engine::open(&args.data_dir)?;
    // A session would make it, in whatever directory was named by mistake.
    if !args.data_dir.join(stoker_core::STATE_DIRECTORY).is_dir() {
        let text = format!(
            "{} has no .stoker: no sync has written there; write the data directory of a gateway that Stoker keeps",
            args.data_dir.display()
        );
        return Err(Misuse(text).into());
    }
    let session = engine.begin(false)?;
    let past =
        session.rollback(args.to).with_context(|| format!("cannot roll back {}", args.data_dir.display()))?;
    if args.output.output == Format::Json {
        output::print_json(&as_json(&past))?;
    } else {
        let now = if past.to.is_empty() { "before the first sync" } else { short(&past.to) };
        let files = output::counted(past.changes.len(), "file");
        println!("Back to {now}, as transaction {}: {files} changed.", past.transaction);
        println!("The gateway loads them at its next scan.");
    }
    eprintln!(
        "warning: a running `stoker sync --watch`, or the next `stoker sync`, brings the wanted commit again: stop it, or \
         set git.ref first"
    );
    Ok(0)
}

fn short(revision: &str) -> &str {
    let hex = revision.len() >= 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { &revision[..7] } else { revision }
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
        "from": past.from,
        "to": past.to,
        "changes": past.changes.iter().map(|(path, kind)| json!({"path": path, "action": kind})).collect::<Vec<_>>(),
    })
}
