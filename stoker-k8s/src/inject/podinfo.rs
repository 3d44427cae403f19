//! Reading what the downward API writes.

use std::collections::BTreeMap;

/// Why a downward API file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodinfoError {
    /// A line that is not `key="value"`.
    #[error("line {line} of the pod's annotations or labels is not key=\"value\"")]
    Line {
        /// Number of the line, from 1.
        line: usize,
    },
}

/// Reads the pod's annotations or labels as the kubelet writes them: one `key="value"` per line, the value quoted as
/// Go's `%q` does (`k8s.io/kubernetes/pkg/fieldpath.FormatMap`).
///
/// ```
/// let labels = stoker_k8s::inject::podinfo::parse("app=\"ignition\"\nnote=\"two\\nlines\"\n")?;
/// assert_eq!(labels["note"], "two\nlines");
/// # Ok::<(), stoker_k8s::inject::podinfo::PodinfoError>(())
/// ```
///
/// # Errors
/// When a line has another form.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, PodinfoError> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(at, line)| {
            let error = PodinfoError::Line { line: at + 1 };
            let (key, quoted) = line.split_once('=').ok_or(error.clone())?;
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let value = inner.and_then(unquote).ok_or(error)?;
            Ok((key.to_owned(), value))
        })
        .collect()
}

/// The text between the quotes, without its escapes; `None` when an escape is none of Go's.
fn unquote(inner: &str) -> Option<String> {
    // Bytes, because Go writes invalid UTF-8 as \x..; the API server admits no such value, so it is an error at the end.
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find(['\\', '"']) {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let mut chars = rest[at..].chars();
        if chars.next() != Some('\\') {
            return None;
        }
        let escape = chars.next()?;
        let mut tail = chars.as_str();
        let mut hex = |digits: usize| {
            let code = u32::from_str_radix(tail.get(..digits)?, 16).ok()?;
            tail = &tail[digits..];
            Some(code)
        };
        match escape {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' | '"' => bytes.push(u8::try_from(escape).ok()?),
            'x' => bytes.push(u8::try_from(hex(2)?).ok()?),
            'u' => push(&mut bytes, char::from_u32(hex(4)?)?),
            'U' => push(&mut bytes, char::from_u32(hex(8)?)?),
            _ => return None,
        }
        rest = tail;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_quotes_is_read_back() {
        let text = concat!(
            r#"a="plain""#,
            "\n",
            r#"b.c/d="say \"hi\" \\ back""#,
            "\n",
            r#"e="tab\tnew\nline\r""#,
            "\n",
            r#"f="Größe \u200b \U0001f525 \x7f""#,
            "\n",
            r#"g="""#,
        );
        let map = parse(text).unwrap();
        assert_eq!(map["a"], "plain");
        assert_eq!(map["b.c/d"], "say \"hi\" \\ back");
        assert_eq!(map["e"], "tab\tnew\nline\r");
        assert_eq!(map["f"], "Größe \u{200b} \u{1f525} \x7f");
        assert_eq!(map["g"], "");
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn other_forms_are_errors_that_name_the_line() {
        for bad in [
            "a",
            "a=b",
            "a=\"b",
            "a=\"\\q\"",
            "a=\"\\x4\"",
            "a=\"b\"c\"",
            "a=\"\\u12é\"",
            "a=\"\\xff\"",
            "a=\"\\",
        ] {
            assert_eq!(parse(&format!("k=\"v\"\n{bad}\n")), Err(PodinfoError::Line { line: 2 }), "{bad}");
        }
    }
}
