//! Reads the files that a person names: whole, as text, and never more than they can have meant.

use std::io::Read;
use std::path::Path;

/// More than any configuration has: a wrong path must not read a disk into memory.
const MAX_BYTES: u64 = 8 << 20;

/// The text of a file. What goes wrong names the file and says what to write instead.
pub(crate) fn file(path: &Path) -> Result<String, String> {
    let cannot = |reason: &dyn std::fmt::Display| format!("cannot read {}: {reason}", path.display());
    // Looked at before it is opened: opening a pipe waits for a writer, and a device has no end.
    let kind = std::fs::metadata(path).map_err(|e| cannot(&e))?;
    if kind.is_dir() {
        return Err(cannot(&"it is a directory; write the files in it"));
    }
    if !kind.is_file() {
        return Err(cannot(&"it is not a regular file; write the path of one"));
    }
    std::fs::File::open(path).map_err(|e| e.to_string()).and_then(bounded).map_err(|e| cannot(&e))
}

/// The text of standard input.
pub(crate) fn standard() -> Result<String, String> {
    bounded(std::io::stdin().lock()).map_err(|reason| format!("cannot read standard input: {reason}"))
}

fn bounded(from: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("it is larger than 8 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|e| {
        format!("it is not UTF-8 text (byte {}); save it as UTF-8", e.utf8_error().valid_up_to())
    })
}
