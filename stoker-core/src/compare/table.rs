//! The three-way table: what was written last, what is wanted, what is there, and the policy give the action.

use crate::plan::{ActionKind, Found};
use crate::spec::Policy;

/// What is wanted, seen from what was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing.
    Nothing,
    /// The same content.
    Same,
    /// Another content, or any content where nothing was written.
    Changed,
}

/// One path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Whether the engine wrote the path.
    pub(super) owned: bool,
    pub(super) wanted: Wanted,
    pub(super) found: Found,
    /// Whether the executable bit of what is there is not the wanted one.
    pub(super) mode_differs: bool,
    /// Whether the executable bit of what is there is not the one that was written.
    pub(super) mode_drifted: bool,
    pub(super) policy: Policy,
}

/// What happens to one path; no action when nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) action: Option<ActionKind>,
    pub(super) reason: &'static str,
    /// Whether somebody else changed an owned file.
    pub(super) drifted: bool,
    /// Whether the policy decided.
    pub(super) by_policy: bool,
}

const fn plain(action: ActionKind, reason: &'static str) -> Verdict {
    Verdict { action: Some(action), reason, drifted: false, by_policy: false }
}

const NOTHING: Verdict = Verdict { action: None, reason: "", drifted: false, by_policy: false };

/// Somebody else changed the path: the policy decides between `action` and leaving it.
fn drift(policy: Policy, action: ActionKind, reason: &'static str, kept: &'static str) -> Verdict {
    let (action, reason) = match policy {
        Policy::SourceWins => (action, reason),
        Policy::DestinationWins | Policy::Manual | Policy::Report => (ActionKind::Keep, kept),
    };
    Verdict { action: Some(action), reason, drifted: true, by_policy: action == ActionKind::Keep }
}

/// Judges a path.
pub(super) fn decide(facts: Facts) -> Verdict {
    use ActionKind::{Adopt, Create, Delete, Forget, Overwrite, Restore, SetMode, Update};
    let Facts { owned, wanted, found, mode_differs, mode_drifted, policy } = facts;
    match (owned, wanted, found) {
        (true, Wanted::Same, Found::AsWritten | Found::AsWanted) if !mode_differs => NOTHING,
        (true, Wanted::Same, Found::AsWritten | Found::AsWanted) if mode_drifted => {
            drift(policy, SetMode, "the mode was changed here", "the mode was changed here, and stays")
        }
        (true, Wanted::Same, Found::AsWritten | Found::AsWanted) => plain(SetMode, "only the mode changed"),
        (true, Wanted::Changed, Found::AsWritten) => plain(Update, "changed in the source"),
        (true, Wanted::Changed, Found::AsWanted) if mode_differs => {
            plain(SetMode, "changed here to what the source has now, but for the mode")
        }
        (true, Wanted::Changed, Found::AsWanted) => plain(Adopt, "changed here to what the source has now"),
        (true, Wanted::Same, Found::Other) => drift(
            policy,
            Restore,
            "changed here; the source did not change it",
            "changed here; the source did not change it, and the change stays",
        ),
        (true, Wanted::Changed, Found::Other) => drift(
            policy,
            Overwrite,
            "changed here and in the source; the content here is kept in history",
            "changed here and in the source; the content here stays",
        ),
        (true, Wanted::Same, Found::Absent) => drift(
            policy,
            Restore,
            "deleted here; the source still has it",
            "deleted here; the source still has it, and it stays deleted",
        ),
        (true, Wanted::Changed, Found::Absent) => drift(
            policy,
            Restore,
            "deleted here and changed in the source",
            "deleted here and changed in the source; it stays deleted",
        ),
        (true, Wanted::Same | Wanted::Changed, Found::Special) => drift(
            policy,
            Overwrite,
            "a special file or link took its place; that is kept in history",
            "a special file or link took its place, and stays",
        ),
        (true, Wanted::Nothing, Found::AsWritten) => plain(Delete, "gone from the source"),
        (true, Wanted::Nothing, Found::Other | Found::AsWanted) => drift(
            policy,
            Delete,
            "gone from the source; changed here, so the content is kept in history",
            "gone from the source, but changed here; it stays",
        ),
        (true, Wanted::Nothing, Found::Absent) => plain(Forget, "gone here and in the source"),
        (true, Wanted::Nothing, Found::Directory | Found::Special) => {
            plain(Forget, "gone from the source; something else is there now")
        }
        (false, Wanted::Same | Wanted::Changed, Found::Absent) => plain(Create, "new in the source"),
        (false, Wanted::Same | Wanted::Changed, Found::AsWanted | Found::AsWritten) if mode_differs => {
            plain(SetMode, "already there as wanted, but for the mode")
        }
        (false, Wanted::Same | Wanted::Changed, Found::AsWanted | Found::AsWritten) => {
            plain(Adopt, "already there as wanted")
        }
        (false, Wanted::Same | Wanted::Changed, Found::Other) => {
            plain(Overwrite, "was there with other content, which is kept in history")
        }
        (false, Wanted::Same | Wanted::Changed, Found::Special) => {
            plain(Overwrite, "a special file or link was there; it is kept in history")
        }
        (_, Wanted::Same | Wanted::Changed, Found::Directory) => {
            plain(Create, "a file takes the place of a directory")
        }
        (false, Wanted::Nothing, _) => NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: [Found; 6] =
        [Found::Absent, Found::AsWritten, Found::AsWanted, Found::Other, Found::Directory, Found::Special];
    const POLICIES: [Policy; 4] =
        [Policy::SourceWins, Policy::DestinationWins, Policy::Manual, Policy::Report];

    fn every() -> impl Iterator<Item = Facts> {
        let wanted = [Wanted::Nothing, Wanted::Same, Wanted::Changed];
        let flags = [false, true];
        flags.into_iter().flat_map(move |owned| {
            wanted.into_iter().flat_map(move |wanted| {
                FOUND.into_iter().flat_map(move |found| {
                    POLICIES.into_iter().flat_map(move |policy| {
                        flags.into_iter().flat_map(move |mode_differs| {
                            flags.into_iter().map(move |mode_drifted| Facts {
                                owned,
                                wanted,
                                found,
                                mode_differs,
                                mode_drifted,
                                policy,
                            })
                        })
                    })
                })
            })
        })
    }

    #[test]
    fn what_is_not_ours_and_not_wanted_is_never_touched() {
        for facts in every().filter(|f| !f.owned && f.wanted == Wanted::Nothing) {
            assert_eq!(decide(facts).action, None, "{facts:?}");
        }
    }

    #[test]
    fn a_policy_other_than_the_sources_never_lets_a_change_of_somebody_else_be_written_over() {
        let changed = |f: &Facts| f.owned && matches!(f.found, Found::Other | Found::Absent | Found::Special);
        for facts in every().filter(|f| f.policy != Policy::SourceWins).filter(changed) {
            let verdict = decide(facts);
            assert!(verdict.action.is_none_or(|a| !a.writes()), "{facts:?} gives {verdict:?}");
        }
    }

    #[test]
    fn what_is_as_wanted_is_never_rewritten() {
        for facts in every().filter(|f| f.found == Found::AsWanted && f.wanted != Wanted::Nothing) {
            let action = decide(facts).action;
            assert!(
                matches!(action, None | Some(ActionKind::Adopt | ActionKind::SetMode | ActionKind::Keep)),
                "{facts:?} gives {action:?}"
            );
        }
    }

    #[test]
    fn every_verdict_says_why_and_a_policy_matters_only_where_somebody_else_changed_something() {
        for facts in every() {
            let verdict = decide(facts);
            assert_eq!(verdict.action.is_some(), !verdict.reason.is_empty(), "{facts:?}");
            assert!(verdict.drifted || !verdict.by_policy, "{facts:?}");
            if !verdict.drifted {
                let others = POLICIES.map(|policy| decide(Facts { policy, ..facts }));
                assert!(others.iter().all(|v| *v == verdict), "{facts:?}");
            }
        }
    }
}
