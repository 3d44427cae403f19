//! Making foreign text fit to be shown.

/// Foreign text (what a server said) on one line: control characters escaped, bounded in length.
///
/// A server can send anything, terminal escape sequences and megabytes included; what it says ends in logs,
/// conditions and terminals.
#[must_use]
pub(crate) fn printable(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    let mut chars = text.trim().chars();
    for c in chars.by_ref().take(max_chars) {
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// What an error may say of a server's own words, in characters.
pub(crate) const SERVER_TEXT_CHARS: usize = 300;

/// Replaces every occurrence of a secret. The last line of defence: nothing is meant to carry one this far.
#[must_use]
pub(crate) fn scrub(text: &str, secrets: &[&str]) -> String {
    let mut out = text.to_owned();
    for secret in secrets {
        // A multi-line secret (a private key) is usually quoted by lines.
        for part in secret.lines().map(str::trim).filter(|part| part.len() >= 4) {
            if out.contains(part) {
                out = out.replace(part, "***");
            }
        }
    }
    out
}

/// Characters that reorder or hide text (bidirectional marks, zero-width ones).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_harmless_and_short() {
        assert_eq!(printable(" a\x1b[31mb\nc\u{202e}d ", 100), "a\\u{1b}[31mb\\nc\\u{202e}d");
        assert_eq!(printable(&"x".repeat(1000), 5), "xxxxx…");
        assert_eq!(printable("Größe 5", 100), "Größe 5");
    }

    #[test]
    fn secrets_are_replaced_line_by_line() {
        let key = "-----BEGIN KEY-----\nc2VjcmV0\n-----END KEY-----\n";
        assert_eq!(scrub("got c2VjcmV0 and hunter2", &[key, "hunter2", "", "ab"]), "got *** and ***");
    }
}
