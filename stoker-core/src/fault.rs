//! What an error means to whoever has to act on it.

use std::fmt;

/// A stable, machine-readable class of failure: it becomes a condition reason, a metric label and an event reason.
///
/// Categories are part of the public contract. New ones may be added; existing ones keep their spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Category(&'static str);

impl Category {
    /// Makes a category from its CamelCase name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The CamelCase name, fit for a Kubernetes condition reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// When it makes sense to try the same thing again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The cause may pass by itself (a full disk, an unreachable host): try again, with back-off.
    Backoff,
    /// Only a change of the input (a commit, a profile, a Secret) can help.
    AfterChange,
    /// Never: a defect or a broken installation.
    Never,
}

/// Implemented by every error of the Stoker crates.
pub trait Fault: std::error::Error {
    /// The stable class of this failure.
    fn category(&self) -> Category;

    /// When to try again.
    fn retry(&self) -> Retry;
}

/// An error with its sources, on one line: `a: b: c`.
///
/// ```
/// let e = std::io::Error::other("disk on fire");
/// assert_eq!(stoker_core::chain(&e), "disk on fire");
/// ```
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = inner.source();
    }
    text
}
