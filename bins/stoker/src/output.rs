//! What people and programs read: the answer on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use stoker_core::Counts;
use tracing_subscriber::EnvFilter;

/// Wrong usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// The exit code of an error.
pub(crate) fn exit_code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Misuse>() || error.is::<stoker_k8s::api::ConfigError>() { 2 } else { 1 }
}

pub(crate) fn log_to_stderr(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_env("STOKER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Text with words of a file in it, for a terminal: control characters are escaped, and what follows a line break is
/// indented, so that no file can speak in this program's name.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for character in text.trim_end().chars() {
        match character {
            '\n' => out.push_str("\n    "),
            c => push_visible(&mut out, c),
        }
    }
    out
}

/// One line of foreign text, to the last space of it: nothing in it breaks the line or drives the terminal.
pub(crate) fn visible(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    line.chars().for_each(|character| push_visible(&mut out, character));
    out
}

fn push_visible(out: &mut String, character: char) {
    // Beside control characters those that no one sees and that turn the direction of writing.
    let hidden = matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    );
    if hidden {
        out.extend(character.escape_unicode());
    } else if character.is_control() {
        out.extend(character.escape_debug());
    } else {
        out.push(character);
    }
}

/// Prints an answer. A reader that has gone away has read enough.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// `1 file`, `2 files`.
pub(crate) fn counted(number: impl TryInto<u64>, thing: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `, 2 adopted`, where there are any.
pub(crate) fn adopted(files: Counts) -> String {
    if files.adopted > 0 { format!(", {} adopted", files.adopted) } else { String::new() }
}

/// A commit by its first digits; any other revision whole.
pub(crate) fn short(revision: &str) -> &str {
    let hex = revision.len() >= 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { &revision[..7] } else { revision }
}

/// A table without rules, like kubectl's.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_neither_drive_the_terminal_nor_speak_for_the_program() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\nx.yaml: valid\n"), "a\\u{1b}[2Jb\\rc\n    x.yaml: valid");
        assert_eq!(visible("\u{202e}a\nb \r"), "\\u{202e}a\\nb \\r");
        assert_eq!((counted(1_u64, "file"), counted(2_u64, "file")), ("1 file".into(), "2 files".into()));
    }
}
