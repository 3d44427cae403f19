//! Patterns mean what the obvious, slow matcher says, by themselves and in a list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_core::{PatternSet, RelPath, RelPathBuf};

// Patterns, one a line, then the path; with a slash at its end it is a directory's.
fuzz_target!(|input: &str| {
    let Some((patterns, path)) = input.split_once("=====\n") else { return };
    let patterns: Vec<&str> = patterns.lines().collect();
    let is_directory = path.ends_with('/');
    // The reference is exponential.
    if patterns.len() > 4 || patterns.iter().any(|p| p.len() > 16) || path.len() > 20 {
        return;
    }
    let (Ok(set), Ok(path)) = (PatternSet::new(&patterns), RelPathBuf::parse(path)) else { return };
    let path = path.as_path();
    let verdict = set.excludes(path, is_directory);

    // A walk hands the answer for a directory to its children; it must agree with the question asked at once.
    let mut last = None;
    let mut above: Vec<RelPath<'_>> = path.ancestors().collect();
    above.reverse();
    for directory in above {
        last = set.step(last, directory, true);
    }
    last = set.step(last, path, is_directory);
    assert_eq!(set.verdict(last).is_some(), verdict);
    assert_eq!(set.is_empty(), patterns.is_empty());

    // Classes, alternatives and escapes are the glob library's; the reference knows only stars and question marks.
    if patterns.iter().any(|pattern| pattern.contains(['[', ']', '{', '}', '\\'])) {
        return;
    }
    let components: Vec<&str> = path.components().collect();
    let mut expected = false;
    for pattern in &patterns {
        if matches(pattern, &components, is_directory) {
            expected = !pattern.starts_with('!');
        }
    }
    assert_eq!(verdict, expected);
});

/// Whether a pattern matches the path or a directory above it.
fn matches(pattern: &str, path: &[&str], is_directory: bool) -> bool {
    let body = pattern.strip_prefix('!').unwrap_or(pattern);
    let directory_only = body.ends_with('/');
    let body = body.strip_suffix('/').unwrap_or(body);
    let body = body.strip_prefix("./").unwrap_or(body);
    let anchored = body.contains('/');
    let body = body.strip_prefix('/').unwrap_or(body);
    let mut parts: Vec<&str> = body.split('/').collect();
    if !anchored {
        parts.insert(0, "**");
    }
    (1..=path.len()).any(|length| {
        let directory = length < path.len() || is_directory;
        (directory || !directory_only) && whole(&parts, &path[..length])
    })
}

/// Components against components.
fn whole(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.first(), path.first()) {
        (None, None) => true,
        (Some(&"**"), _) if pattern.len() == 1 => !path.is_empty(),
        (Some(&"**"), _) => (0..=path.len()).any(|n| whole(&pattern[1..], &path[n..])),
        (Some(p), Some(c)) => {
            component(p.as_bytes(), c.as_bytes()) && whole(&pattern[1..], &path[1..])
        }
        _ => false,
    }
}

/// Two stars that are not a component of their own are one; a question mark is one byte, as it is to git.
fn component(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.first() {
        None => text.is_empty(),
        Some(b'*') => (0..=text.len()).any(|n| component(&pattern[1..], &text[n..])),
        Some(b'?') => !text.is_empty() && component(&pattern[1..], &text[1..]),
        Some(c) => text.first() == Some(c) && component(&pattern[1..], &text[1..]),
    }
}
