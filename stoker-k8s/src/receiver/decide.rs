//! Whether a delivery concerns a `Stoker`, and what it may ask for.

use globset::GlobBuilder;
use stoker_git::RefSpec;

use super::parse::{Delivery, Push};
use crate::roster::StokerView;

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An answer to a ping.
    Pong,
    /// Nothing, for this reason.
    Ignore(String),
    /// Not allowed, for this reason.
    Forbid(String),
    /// A sync is requested.
    Trigger {
        /// Of this ref; else of the one that is followed already.
        requested_ref: Option<String>,
    },
}

/// Decides about an authentic delivery for `stoker`.
///
/// The commits and the repository that a forge names are hints, and mirrors or renamed hosts make the latter differ
/// from `spec.git.repo`; so only the ref decides, and a push too much costs one look-up.
#[must_use]
pub fn decide(delivery: &Delivery, stoker: &StokerView) -> Verdict {
    match delivery {
        Delivery::Ping => Verdict::Pong,
        Delivery::Other { event } => {
            Verdict::Ignore(format!("event {event:?} is not acted on, only push is"))
        }
        Delivery::Push(push) => pushed(push, stoker),
        Delivery::Request { git_ref: None } => Verdict::Trigger { requested_ref: None },
        Delivery::Request { git_ref: Some(git_ref) } => requested(git_ref, stoker),
    }
}

fn pushed(push: &Push, stoker: &StokerView) -> Verdict {
    let followed = stoker.effective_ref();
    let what = described(&push.git_ref);
    if let Ok(RefSpec::Commit(_)) = followed.parse() {
        return Verdict::Ignore(format!("{what} was pushed, and the resource stays on one commit"));
    }
    let concerned = match followed {
        "HEAD" => {
            push.default_branch.as_deref().is_none_or(|name| push.git_ref == format!("refs/heads/{name}"))
        }
        followed => names(&push.git_ref).any(|name| name == followed),
    };
    if !concerned {
        return Verdict::Ignore(format!("{what} was pushed, and the resource follows {followed:?}"));
    }
    if push.deleted {
        return Verdict::Ignore(format!("{what} was deleted; gateways keep what they have"));
    }
    Verdict::Trigger { requested_ref: None }
}

fn requested(git_ref: &str, stoker: &StokerView) -> Verdict {
    if let Err(error) = git_ref.parse::<RefSpec>() {
        return Verdict::Forbid(error.to_string());
    }
    let allowed = &stoker.spec.webhook.allowed_refs;
    if allowed.iter().any(|pattern| matches(pattern, git_ref)) {
        return Verdict::Trigger { requested_ref: Some(git_ref.to_owned()) };
    }
    if names(git_ref).any(|name| name == stoker.effective_ref()) {
        return Verdict::Trigger { requested_ref: None };
    }
    Verdict::Forbid(format!("spec.webhook.allowedRefs does not allow ref {git_ref:?}"))
}

/// Whether an entry of `allowedRefs` allows the ref, by its full or its short name. `*` stays within one component.
fn matches(pattern: &str, git_ref: &str) -> bool {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
    glob.is_ok_and(|glob| {
        let matcher = glob.compile_matcher();
        names(git_ref).any(|name| matcher.is_match(name))
    })
}

/// The full and the short name of a ref.
fn names(git_ref: &str) -> impl Iterator<Item = &str> {
    let short = git_ref.strip_prefix("refs/heads/").or_else(|| git_ref.strip_prefix("refs/tags/"));
    std::iter::once(git_ref).chain(short)
}

fn described(git_ref: &str) -> String {
    if let Some(name) = git_ref.strip_prefix("refs/heads/") {
        format!("branch {name:?}")
    } else if let Some(name) = git_ref.strip_prefix("refs/tags/") {
        format!("tag {name:?}")
    } else {
        format!("{git_ref:?}")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::*;

    fn stoker(git_ref: &str, requested: Option<&str>, allowed: &[&str]) -> StokerView {
        let spec = json!({
            "git": { "ref": git_ref }, "gateway": { "apiKeySecretRef": { "name": "k" } },
            "webhook": { "allowedRefs": allowed },
        });
        let mut view = StokerView::new(&ObjectMeta::default(), serde_json::from_value(spec).unwrap(), None);
        view.requested_ref = requested.map(str::to_owned);
        view
    }

    fn push(git_ref: &str) -> Delivery {
        Delivery::Push(Push {
            git_ref: git_ref.to_owned(),
            deleted: false,
            default_branch: Some("main".to_owned()),
        })
    }

    const TRIGGER: Verdict = Verdict::Trigger { requested_ref: None };

    fn ignored(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Ignore(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_push_concerns_whoever_follows_it() {
        for (followed, pushed) in [
            ("main", "refs/heads/main"),
            ("refs/heads/main", "refs/heads/main"),
            ("v1", "refs/tags/v1"),
            ("refs/tags/v1", "refs/tags/v1"),
            ("feature/a/b", "refs/heads/feature/a/b"),
            ("HEAD", "refs/heads/main"),
        ] {
            assert_eq!(decide(&push(pushed), &stoker(followed, None, &[])), TRIGGER, "{followed} {pushed}");
        }
        // A requested ref is what is followed now.
        assert_eq!(decide(&push("refs/tags/v2"), &stoker("main", Some("v2"), &["v*"])), TRIGGER);
    }

    #[test]
    fn anything_else_is_ignored_with_the_reason() {
        let commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
        for (followed, pushed, says) in [
            ("main", "refs/heads/feature", "follows \"main\""),
            ("main", "refs/heads/main2", "follows"),
            ("main", "refs/heads/x/main", "follows"),
            ("refs/heads/v1", "refs/tags/v1", "tag \"v1\""),
            ("HEAD", "refs/heads/dev", "follows"),
            (commit, "refs/heads/main", "one commit"),
        ] {
            let verdict = decide(&push(pushed), &stoker(followed, None, &[]));
            assert!(ignored(&verdict).contains(says), "{followed} {pushed}: {verdict:?}");
        }
        let verdict = decide(&push("refs/heads/main"), &stoker("main", Some("v2"), &["v*"]));
        assert!(ignored(&verdict).contains("\"v2\""));
        let gone = Delivery::Push(Push {
            git_ref: "refs/heads/main".to_owned(),
            deleted: true,
            default_branch: None,
        });
        assert!(ignored(&decide(&gone, &stoker("main", None, &[]))).contains("deleted"));
        let other = Delivery::Other { event: "release".to_owned() };
        assert!(ignored(&decide(&other, &stoker("main", None, &[]))).contains("release"));
        assert_eq!(decide(&Delivery::Ping, &stoker("main", None, &[])), Verdict::Pong);
    }

    #[test]
    fn a_request_chooses_only_what_is_allowed() {
        let request = |name: Option<&str>| Delivery::Request { git_ref: name.map(str::to_owned) };
        let allowed =
            |name: &str, patterns: &[&str]| decide(&request(Some(name)), &stoker("main", None, patterns));
        let goes = |name: &str| Verdict::Trigger { requested_ref: Some(name.to_owned()) };
        assert_eq!(decide(&request(None), &stoker("main", None, &[])), TRIGGER);
        assert_eq!(allowed("v1.4.0", &["v*"]), goes("v1.4.0"));
        assert_eq!(allowed("refs/tags/v1", &["v*"]), goes("refs/tags/v1"));
        assert_eq!(allowed("release/2", &["release/*"]), goes("release/2"));
        // What is followed anyway needs no permission.
        assert_eq!(allowed("main", &[]), TRIGGER);
        assert_eq!(allowed("refs/heads/main", &[]), TRIGGER);
        for (name, patterns) in [
            ("v1", vec![]),
            ("x/v1", vec!["v*"]),
            ("v1/../../x", vec!["**"]),
            ("--upload-pack=id", vec!["**"]),
            ("v 1", vec!["*"]),
            ("v1", vec!["[broken"]),
        ] {
            assert!(matches!(allowed(name, &patterns), Verdict::Forbid(_)), "{name} {patterns:?}");
        }
    }
}
