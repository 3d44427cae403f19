//! Why a server did not take a push, from its words.
//!
//! The protocol has one line of free text for it, and hooks have more on the side; what they mean to a person is one of
//! a few things. The words are those of git itself, GitHub, GitLab, Gitea and Forgejo, Bitbucket and Azure DevOps.

use super::push::Move;
use crate::error::GitError;
use crate::text::{SERVER_TEXT_CHARS, printable};

/// Words for a credential that may not write.
const DENIED: &[&str] = &[
    // GitHub: "Permission to a/b.git denied to c.", "The key you are authenticating with has been marked as read only."
    "permission to ",
    "marked as read only",
    "write access to repository not granted",
    // GitLab: "You are not allowed to push code to this project.", "This deploy key does not have write access".
    "not allowed to push code to this project",
    "not allowed to upload code",
    "does not have write access",
    // Gitea: "... is not authorized to write to ...", "User permission denied for writing."
    "not authorized to write",
    "denied for writing",
    // Azure DevOps: "TF401027: You need the Git 'GenericContribute' permission".
    "tf401027",
    "genericcontribute",
    // Git's own servers.
    "access denied",
    "permission denied",
    "service not enabled",
    "read-only",
    "read only",
];

/// Words for a branch that may not be pushed to.
const PROTECTED: &[&str] = &[
    // GitHub: reasons "protected branch hook declined" and "push declined due to repository rule violations".
    "protected branch",
    "gh006",
    "gh013",
    "repository rule violations",
    // GitLab: "You are not allowed to push code to protected branches on this project."
    "protected branches",
    // Gitea: "branch main is protected from force push", "Not allowed to push to protected branch main".
    "is protected from",
    // Bitbucket: "Branch refs/heads/main can only be modified through pull requests."
    "can only be modified through pull requests",
    // Azure DevOps: "TF402455: Pushes to this branch are not permitted; you must use a pull request to update this branch."
    "tf402455",
    "pushes to this branch are not permitted",
];

/// Words of git for a branch that was moved while the push was under way.
const MOVED: &[&str] = &[
    "but expected",
    "reference already exists",
    "incorrect old value",
    "stale info",
    "unable to resolve reference",
];

/// The error for what a server said instead of taking part in a push at all.
pub(crate) fn refused_push(url: &str, words: &str) -> Option<GitError> {
    let lower = words.to_lowercase();
    let detail = printable(words, SERVER_TEXT_CHARS);
    DENIED
        .iter()
        .any(|word| lower.contains(word))
        .then(|| GitError::PushDenied { url: url.to_owned(), detail })
}

/// The error for an update that was refused for `reason`, while hooks said `chatter`.
pub(crate) fn refused_update(url: &str, wanted: &Move, reason: &str, chatter: &str) -> GitError {
    let lower = format!("{reason}\n{chatter}").to_lowercase();
    let reason_lower = reason.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let (url, branch) = (url.to_owned(), wanted.branch().to_owned());
    let message = words(reason, chatter);
    let by_hook = reason_lower.contains("hook") || reason_lower.contains("declined");
    if says(PROTECTED) {
        GitError::BranchProtected { url, branch, message }
    } else if by_hook && says(DENIED) {
        GitError::PushDenied { url, detail: message }
    } else if by_hook {
        GitError::HookDeclined { url, branch, message }
    } else if reason_lower.contains("non-fast-forward") || reason_lower.contains("fetch first") {
        GitError::NonFastForward { url, branch, message }
    } else if says(MOVED) {
        // Where it was moved to is not said; whoever looks again will see.
        GitError::LeaseLost { url, branch, expected: wanted.expected, found: None }
    } else if says(&["failed to update ref", "lock", "try again"]) {
        GitError::RefLocked { url, branch, message }
    } else if says(DENIED) {
        GitError::PushDenied { url, detail: message }
    } else {
        GitError::PushRejected { url, branch, message }
    }
}

/// The reason, and what hooks said beside it, without the lines that are there for their looks.
fn words(reason: &str, chatter: &str) -> String {
    let mut said: Vec<&str> = chatter
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| line.chars().any(char::is_alphanumeric))
        .collect();
    said.dedup();
    let text = if said.is_empty() { reason.to_owned() } else { format!("{reason}: {}", said.join(" ")) };
    printable(&text, SERVER_TEXT_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(reason: &str, chatter: &str) -> String {
        use stoker_core::Fault;
        let wanted = Move {
            reference: "refs/heads/main".into(),
            expected: None,
            commit: "4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse().unwrap(),
        };
        refused_update("u", &wanted, reason, chatter).category().to_string()
    }

    #[test]
    fn the_words_of_the_forges_are_told_apart() {
        for (reason, chatter, expected) in [
            (
                "protected branch hook declined",
                "error: GH006: Protected branch update failed for refs/heads/main.\nerror: Changes must be made through a pull request.",
                "BranchProtected",
            ),
            (
                "push declined due to repository rule violations",
                "error: GH013: Repository rule violations found for refs/heads/main.",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "GitLab: You are not allowed to push code to protected branches on this project.",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "GitLab: You are not allowed to force push code to a protected branch on this project.",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "Gitea: Not allowed to push to protected branch main",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "Gitea: branch main is protected from force push",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "Branch refs/heads/main can only be modified through pull requests.",
                "BranchProtected",
            ),
            (
                "TF402455: Pushes to this branch are not permitted; you must use a pull request to update this branch.",
                "",
                "BranchProtected",
            ),
            (
                "pre-receive hook declined",
                "GitLab: You are not allowed to push code to this project.",
                "PushDenied",
            ),
            ("pre-receive hook declined", "Gitea: User permission denied for writing.", "PushDenied"),
            (
                "TF401027: You need the Git 'GenericContribute' permission to perform this action.",
                "",
                "PushDenied",
            ),
            ("pre-receive hook declined", "commit message lacks a ticket", "HookDeclined"),
            ("hook declined", "", "HookDeclined"),
            (
                "push declined due to email privacy restrictions",
                "error: GH007: Your push would publish a private email address.",
                "HookDeclined",
            ),
            ("non-fast-forward", "", "NonFastForward"),
            ("cannot lock ref 'refs/heads/main': is at aaaa but expected bbbb", "", "LeaseLost"),
            ("cannot lock ref 'refs/heads/main': reference already exists", "", "LeaseLost"),
            (
                "cannot lock ref 'refs/heads/main': Unable to create 'main.lock': File exists.",
                "",
                "RefLocked",
            ),
            ("failed to update ref", "", "RefLocked"),
            (
                "failed to update ref",
                "error: cannot lock ref 'refs/heads/main': is at aaaa but expected bbbb",
                "LeaseLost",
            ),
            ("deny updating a hidden ref", "", "PushRejected"),
            ("missing necessary objects", "", "PushRejected"),
            ("branch is currently checked out", "", "PushRejected"),
        ] {
            assert_eq!(category(reason, chatter), expected, "{reason} / {chatter}");
        }
    }

    #[test]
    fn what_is_said_is_shown_without_its_looks() {
        let text =
            words("hook declined", "\n=====\n Ticket \x1b[31mmissing \n=====\n Ticket \x1b[31mmissing\n");
        assert_eq!(text, "hook declined: Ticket \\u{1b}[31mmissing");
    }

    #[test]
    fn a_key_that_may_only_read_is_recognised() {
        for words in [
            "ERROR: The key you are authenticating with has been marked as read only.",
            "ERROR: Permission to plant/ignition.git denied to ada.",
            "GitLab: This deploy key does not have write access to this project.",
            "Gitea: Key: 1:stoker is not authorized to write to ada/plant.",
            "access denied or repository not exported: /plant.git",
        ] {
            assert!(matches!(refused_push("u", words), Some(GitError::PushDenied { .. })), "{words}");
        }
        assert_eq!(refused_push("u", "Repository not found."), None);
    }
}
