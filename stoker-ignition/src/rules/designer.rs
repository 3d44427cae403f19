//! Open Designers: whether a sync may go ahead while people are editing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to do while Designers are open on projects that a sync touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesignerPolicy {
    /// Go ahead and warn.
    #[default]
    Proceed,
    /// Wait until they are closed, within a limit.
    Wait,
    /// Do not sync.
    Fail,
}

/// A Designer session as a gateway lists it.
///
/// The API description gives plain numbers without units: times are read as milliseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Designer {
    /// The public id of the session.
    pub id: String,
    /// Who is editing.
    pub user: String,
    /// The open project; empty while none is.
    pub project: String,
    /// From where.
    pub address: String,
    /// The last contact: milliseconds ago, or as epoch milliseconds.
    pub lastcomm: f64,
    /// The silence after which the session counts as gone, in milliseconds; 0 = unknown.
    pub timeout: f64,
    /// How long the session exists, in milliseconds.
    pub uptime: f64,
}

/// Larger than any age in milliseconds that a session can have (three years), smaller than any current epoch time.
const EPOCH_FROM_MS: f64 = 1e11;

impl Designer {
    /// The time since the last contact, seen at `gateway_now_ms` (epoch milliseconds of the gateway's clock).
    #[must_use]
    pub fn silence(&self, gateway_now_ms: i64) -> Duration {
        let ms = if self.lastcomm >= EPOCH_FROM_MS {
            gateway_now_ms as f64 - self.lastcomm
        } else {
            self.lastcomm
        };
        Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
    }

    /// Whether the session is listed but no longer answers.
    ///
    /// Its own timeout decides; where the gateway names none, `dormant_after` does.
    #[must_use]
    pub fn is_dormant(&self, gateway_now_ms: i64, dormant_after: Duration) -> bool {
        let limit = if self.timeout > 0.0 {
            Duration::try_from_secs_f64(self.timeout / 1000.0).unwrap_or(dormant_after)
        } else {
            dormant_after
        };
        self.silence(gateway_now_ms) > limit
    }
}

/// Which project inherits from which.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProjectTree {
    /// Each project's parents: more than one while a commit changes the parent.
    parents: BTreeMap<String, BTreeSet<String>>,
}

impl ProjectTree {
    /// Records that `project` inherits from `parent`; an empty parent means none.
    pub fn add(&mut self, project: &str, parent: &str) {
        if !parent.is_empty() && parent != project {
            self.parents.entry(project.to_owned()).or_default().insert(parent.to_owned());
        }
    }

    /// `project` and everything it inherits from. Ends in a cycle, too.
    fn lineage<'a>(&'a self, project: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![project];
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(self.parents.get(next).into_iter().flatten().map(String::as_str));
            }
        }
        seen
    }

    /// Whether a change of `touched` can show in `edited`, or the other way round.
    #[must_use]
    pub fn related(&self, touched: &str, edited: &str) -> bool {
        self.lineage(touched).contains(edited) || self.lineage(edited).contains(touched)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for ProjectTree {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut tree = Self::default();
        pairs.into_iter().for_each(|(project, parent)| tree.add(project, parent));
        tree
    }
}

/// Whether a sync may go ahead.
#[derive(Debug, Clone, PartialEq)]
pub enum Gate {
    /// No Designer is in the way.
    Proceed,
    /// Go ahead, and say who is editing.
    Warn(Blockers),
    /// Do not write now.
    Hold(Blockers),
}

/// Who or what is in the way.
#[derive(Debug, Clone, PartialEq)]
pub enum Blockers {
    /// These sessions edit a project that the sync touches, or one related to it.
    Sessions(Vec<Designer>),
    /// The gateway could not be asked.
    Unknown,
}

impl std::fmt::Display for Blockers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Sessions(sessions) = self else {
            return f.write_str("the gateway did not say which Designers are open");
        };
        f.write_str(if sessions.len() == 1 { "a Designer is open: " } else { "Designers are open: " })?;
        for (i, s) in sessions.iter().enumerate() {
            let project = if s.project.is_empty() { "a project not yet known" } else { &s.project };
            write!(f, "{}{} on {project}", if i == 0 { "" } else { ", " }, s.user)?;
        }
        Ok(())
    }
}

/// Decides from the open Designers whether a sync of `touched` projects may go ahead.
///
/// `live` are the sessions that are not dormant, `None` when the gateway could not be asked. A session whose project
/// is not known yet counts as being in the way. Holding when the answer is missing is deliberate: it fails closed.
///
/// ```
/// use std::collections::BTreeSet;
/// use stoker_ignition::rules::{Designer, DesignerPolicy, Gate, ProjectTree, gate};
///
/// let tree = ProjectTree::from_iter([("line", "base")]);
/// let touched = BTreeSet::from(["base".to_owned()]);
/// let open = [Designer { user: "ada".into(), project: "line".into(), ..Designer::default() }];
/// assert!(matches!(gate(DesignerPolicy::Wait, &touched, &tree, Some(&open)), Gate::Hold(_)));
/// assert!(matches!(gate(DesignerPolicy::Proceed, &touched, &tree, Some(&open)), Gate::Warn(_)));
/// ```
#[must_use]
pub fn gate(
    policy: DesignerPolicy,
    touched: &BTreeSet<String>,
    tree: &ProjectTree,
    live: Option<&[Designer]>,
) -> Gate {
    if touched.is_empty() {
        return Gate::Proceed;
    }
    let blockers = match live {
        None => Blockers::Unknown,
        Some(sessions) => {
            let in_the_way: Vec<Designer> = sessions
                .iter()
                .filter(|s| s.project.is_empty() || touched.iter().any(|t| tree.related(t, &s.project)))
                .cloned()
                .collect();
            if in_the_way.is_empty() {
                return Gate::Proceed;
            }
            Blockers::Sessions(in_the_way)
        }
    };
    match policy {
        DesignerPolicy::Proceed => Gate::Warn(blockers),
        DesignerPolicy::Wait | DesignerPolicy::Fail => Gate::Hold(blockers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on(project: &str) -> Designer {
        Designer { user: "ada".into(), project: project.into(), ..Designer::default() }
    }

    fn touched(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn every_policy_and_relation() {
        // base ← line ← line-2, other alone.
        let tree = ProjectTree::from_iter([("line", "base"), ("line-2", "line"), ("other", "")]);
        for (edited, changed, blocked) in [
            ("line", &["line"][..], true),
            ("line-2", &["base"], true),
            ("base", &["line-2"], true),
            ("other", &["base", "line"], false),
            ("other", &[], false),
            ("", &["line"], true),
            ("", &[], false),
            ("unknown", &["line"], false),
        ] {
            for policy in [DesignerPolicy::Proceed, DesignerPolicy::Wait, DesignerPolicy::Fail] {
                let verdict = gate(policy, &touched(changed), &tree, Some(&[on(edited)]));
                let expected = match (blocked, policy) {
                    (false, _) => Gate::Proceed,
                    (true, DesignerPolicy::Proceed) => Gate::Warn(Blockers::Sessions(vec![on(edited)])),
                    (true, _) => Gate::Hold(Blockers::Sessions(vec![on(edited)])),
                };
                assert_eq!(verdict, expected, "{edited:?} {changed:?} {policy:?}");
            }
        }
    }

    #[test]
    fn a_gateway_that_does_not_answer_holds_unless_the_policy_is_proceed() {
        let tree = ProjectTree::default();
        for (policy, expected) in [
            (DesignerPolicy::Proceed, Gate::Warn(Blockers::Unknown)),
            (DesignerPolicy::Wait, Gate::Hold(Blockers::Unknown)),
            (DesignerPolicy::Fail, Gate::Hold(Blockers::Unknown)),
        ] {
            assert_eq!(gate(policy, &touched(&["p"]), &tree, None), expected);
            assert_eq!(gate(policy, &touched(&[]), &tree, None), Gate::Proceed);
        }
    }

    #[test]
    fn dormant_is_judged_under_both_readings_of_the_last_contact() {
        let now = 1_784_000_000_000_i64;
        let limit = Duration::from_secs(120);
        let age = |lastcomm: f64, timeout: f64| Designer { lastcomm, timeout, ..Designer::default() };
        assert!(!age(5_000.0, 60_000.0).is_dormant(now, limit));
        assert!(age(61_000.0, 60_000.0).is_dormant(now, limit));
        assert!(!age(now as f64 - 5_000.0, 60_000.0).is_dormant(now, limit));
        assert!(age(now as f64 - 61_000.0, 60_000.0).is_dormant(now, limit));
        assert!(age(121_000.0, 0.0).is_dormant(now, limit));
        assert!(!age(119_000.0, 0.0).is_dormant(now, limit));
        // A clock that runs ahead of ours is no reason to ignore somebody.
        assert!(!age(now as f64 + 9e6, 60_000.0).is_dormant(now, limit));
        assert!(!age(f64::NAN, f64::NAN).is_dormant(now, limit));
    }

    proptest! {
        /// Being related is symmetric, and a cycle of parents does not hang.
        #[test]
        fn related_both_ways(edges in prop::collection::vec(("[a-e]", "[a-e]"), 0..10), a in "[a-e]", b in "[a-e]") {
            let tree = ProjectTree::from_iter(edges.iter().map(|(x, y)| (x.as_str(), y.as_str())));
            prop_assert_eq!(tree.related(&a, &b), tree.related(&b, &a));
            prop_assert!(tree.related(&a, &a));
        }
    }
}
