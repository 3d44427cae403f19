//! Exclude patterns, with the meaning people know from `.gitignore`.
//!
//! Patterns are matched against paths relative to the destination directory:
//!
//! - `*` and `?` stay within one component, `**` spans any number of them, `[a-z]` and `{a,b}` work as usual;
//! - `?` and `[...]` are one *byte*, as they are to git: a letter outside ASCII is two or more, `*` takes it whole;
//! - a pattern without a slash (other than a trailing one) matches at any depth, one with a slash is anchored;
//! - a trailing `/` matches a directory and everything below it;
//! - a leading `!` re-includes; the last pattern that matches a path *or any directory above it* decides.
//!
//! The last rule is where this differs from git on purpose: a path below an excluded directory can be re-included,
//! so that a profile can take back one resource of a directory that is excluded by default.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::fault::{Category, Fault, Retry};
use crate::path::RelPath;

/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?}: {rule}")]
pub struct PatternError {
    /// The pattern as it was given.
    pub pattern: String,
    /// What is wrong with it.
    pub rule: String,
}

impl Fault for PatternError {
    fn category(&self) -> Category {
        Category::new("InvalidPattern")
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

/// A compiled list of patterns, in order.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    set: GlobSet,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    text: String,
    include: bool,
    directory_only: bool,
}

/// The last pattern that matched, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleIndex(usize);

impl RuleIndex {
    /// The place of the pattern in the list it was compiled from, from 0.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

impl PatternSet {
    /// Compiles patterns; later ones win.
    ///
    /// ```
    /// use stoker_core::{PatternSet, RelPathBuf};
    /// let set = PatternSet::new(["**/.resources/", "logs/", "!logs/keep.txt"])?;
    /// assert!(set.excludes(RelPathBuf::parse("projects/.resources/x")?.as_path(), false));
    /// assert!(!set.excludes(RelPathBuf::parse("logs/keep.txt")?.as_path(), false));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When a pattern is empty, too long, or not a valid glob; the error names it.
    pub fn new<I, S>(patterns: I) -> Result<Self, PatternError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut builder = GlobSetBuilder::new();
        let mut rules = Vec::new();
        for pattern in patterns {
            let (glob, rule) = compile(pattern.as_ref())?;
            builder.add(glob);
            rules.push(rule);
        }
        let set = builder.build().map_err(|e| PatternError {
            pattern: e.glob().unwrap_or_default().to_owned(),
            rule: e.kind().to_string(),
        })?;
        Ok(Self { set, rules })
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `path` is excluded, by itself or because a directory above it is.
    #[must_use]
    pub fn excludes(&self, path: RelPath<'_>, is_directory: bool) -> bool {
        self.excluding_rule(path, is_directory).is_some()
    }

    /// The pattern that excludes `path`, as it was written.
    #[must_use]
    pub fn excluding_rule(&self, path: RelPath<'_>, is_directory: bool) -> Option<(RuleIndex, &str)> {
        let mut last = self.step(None, path, is_directory);
        for above in path.ancestors() {
            last = last.max(self.step(None, above, true));
        }
        self.verdict(last)
    }

    /// The last rule that matches `path` itself or, by `above`, one of the directories it lies in.
    ///
    /// A walk hands the answer for a directory to its children, so that each entry costs one match.
    #[must_use]
    pub fn step(&self, above: Option<RuleIndex>, path: RelPath<'_>, is_directory: bool) -> Option<RuleIndex> {
        if self.rules.is_empty() || path.is_root() {
            return above;
        }
        let own = self
            .set
            .matches(path.as_str())
            .into_iter()
            .filter(|&i| is_directory || !self.rules[i].directory_only)
            .max()
            .map(RuleIndex);
        own.max(above)
    }

    /// What a rule found by [`PatternSet::step`] means: the excluding pattern, or `None` when it re-includes.
    #[must_use]
    pub fn verdict(&self, last: Option<RuleIndex>) -> Option<(RuleIndex, &str)> {
        let index = last?;
        let rule = &self.rules[index.0];
        (!rule.include).then_some((index, rule.text.as_str()))
    }
}

fn compile(pattern: &str) -> Result<(Glob, Rule), PatternError> {
    let fail = |rule: &str| PatternError { pattern: pattern.to_owned(), rule: rule.to_owned() };
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(fail("longer than 1024 bytes"));
    }
    let (include, body) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let (directory_only, body) = match body.strip_suffix('/') {
        Some(rest) => (true, rest),
        None => (false, body),
    };
    let body = body.strip_prefix("./").unwrap_or(body);
    let (anchored, body) = match body.strip_prefix('/') {
        Some(rest) => (true, rest),
        None => (body.contains('/'), body),
    };
    if body.is_empty() {
        return Err(fail("empty; name a file or directory, or write \"**\" for everything"));
    }
    if body.split('/').any(|c| c.is_empty() || c == "." || c == "..") {
        return Err(fail(
            "has an empty, \".\" or \"..\" component; write it relative to the destination directory",
        ));
    }
    if body.chars().any(char::is_control) {
        return Err(fail("contains a control character"));
    }
    let glob = if anchored { body.to_owned() } else { format!("**/{body}") };
    let glob = GlobBuilder::new(&glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|e| fail(&e.kind().to_string()))?;
    Ok((glob, Rule { text: pattern.to_owned(), include, directory_only }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPathBuf;
    use proptest::prelude::*;

    fn excluded(patterns: &[&str], path: &str, is_directory: bool) -> bool {
        PatternSet::new(patterns).unwrap().excludes(RelPathBuf::parse(path).unwrap().as_path(), is_directory)
    }

    #[test]
    fn gitignore_meaning() {
        for (pattern, path, is_directory, expected) in [
            ("**/.svn/", ".svn", true, true),
            ("**/.svn/", ".svn", false, false),
            ("**/.gitkeep", "a/b/.gitkeep", false, true),
            ("**/.gitkeep", ".gitkeep", false, true),
            (".gitkeep", "a/b/.gitkeep", false, true),
            ("**/.resources/**", "projects/.resources/a/b", false, true),
            ("logs/", "logs/a.txt", false, true),
            ("logs/", "x/logs/a.txt", false, true),
            ("/logs/", "x/logs/a.txt", false, false),
            ("config/local/**", "config/local/ignition/x", false, true),
            ("config/local/**", "config/local", true, false),
            ("config/*/x", "config/a/x", false, true),
            ("config/*/x", "config/a/b/x", false, false),
            ("a/**/z", "a/z", false, true),
            ("a/**/z", "a/b/c/z", false, true),
            ("*.idb*", "db/config.idb-wal", false, true),
            ("{a,b}.txt", "b.txt", false, true),
            ("?.txt", "é.txt", false, false),
            ("??.txt", "é.txt", false, true),
            ("é*.txt", "été.txt", false, true),
            ("MQTT Engine/", "tags/MQTT Engine/x.json", false, true),
        ] {
            assert_eq!(excluded(&[pattern], path, is_directory), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_match_decides_also_below_an_excluded_directory() {
        let set = ["core/ignition/api-token/", "!core/ignition/api-token/ci/", "**/secret.json"];
        assert!(excluded(&set, "core/ignition/api-token/other/config.json", false));
        assert!(!excluded(&set, "core/ignition/api-token/ci/config.json", false));
        assert!(excluded(&set, "core/ignition/api-token/ci/secret.json", false));
    }

    #[test]
    fn unusable_patterns_are_named() {
        for bad in ["", "!", "/", "a//b", "../x", "a/[b", "a{b", "./", "\u{7}"] {
            let error = PatternSet::new([bad]).expect_err(bad);
            assert_eq!(error.pattern, bad, "{error}");
        }
        assert!(PatternSet::new(["x".repeat(1025)]).is_err());
    }

    /// The obvious, slow matcher: components against components.
    fn reference(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.first(), path.first()) {
            (None, None) => true,
            (Some(&"**"), _) if pattern.len() == 1 => !path.is_empty(),
            (Some(&"**"), _) => (0..=path.len()).any(|n| reference(&pattern[1..], &path[n..])),
            (Some(p), Some(c)) => {
                component(p.as_bytes(), c.as_bytes()) && reference(&pattern[1..], &path[1..])
            }
            _ => false,
        }
    }

    fn component(p: &[u8], c: &[u8]) -> bool {
        match p.first() {
            None => c.is_empty(),
            Some(b'*') => (0..=c.len()).any(|n| component(&p[1..], &c[n..])),
            Some(b'?') => !c.is_empty() && component(&p[1..], &c[1..]),
            Some(x) => c.first() == Some(x) && component(&p[1..], &c[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            pattern in "(\\*\\*|[ab]|a\\*|\\*|\\?)(/(\\*\\*|[ab]|\\*b|\\?)){1,3}/?",
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
            is_directory: bool,
        ) {
            let parts: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
            let full: Vec<&str> = path.split('/').collect();
            let directory_only = pattern.ends_with('/');
            let expected = (1..=full.len()).any(|n| {
                let directory = n < full.len() || is_directory;
                (directory || !directory_only) && reference(&parts, &full[..n])
            });
            prop_assert_eq!(excluded(&[&pattern], &path, is_directory), expected);
        }
    }
}
