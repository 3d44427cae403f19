use super::*;
use crate::advertisement::Head;
use crate::object_id::{ObjectFormat, ObjectId};

fn id(digit: char) -> ObjectId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn reference(name: &str, digit: char) -> AdvertisedRef {
    AdvertisedRef { name: name.to_owned(), id: id(digit), peeled: None }
}

fn advertised(refs: Vec<AdvertisedRef>) -> Advertisement {
    let head = Some(Head { id: id('a'), branch: Some("refs/heads/main".to_owned()) });
    Advertisement::complete(refs, head, ObjectFormat::Sha1)
}

fn plant() -> Advertisement {
    let mut annotated = reference("refs/tags/v1", '7');
    annotated.peeled = Some(id('b'));
    advertised(vec![
        reference("refs/heads/main", 'a'),
        reference("refs/heads/release/2", 'c'),
        reference("refs/heads/both", 'd'),
        reference("refs/tags/both", 'e'),
        annotated,
        reference("refs/pull/1/head", 'f'),
    ])
}

fn run(wanted: &str) -> Result<Resolution, GitError> {
    resolve(&plant(), &wanted.parse().unwrap(), "https://h/a")
}

#[test]
fn each_form_finds_its_commit() {
    for (wanted, digit, kind, reference) in [
        ("main", 'a', ResolvedKind::Branch, Some("refs/heads/main")),
        ("heads/main", 'a', ResolvedKind::Branch, Some("refs/heads/main")),
        ("release/2", 'c', ResolvedKind::Branch, Some("refs/heads/release/2")),
        ("refs/heads/main", 'a', ResolvedKind::Branch, Some("refs/heads/main")),
        ("refs/pull/1/head", 'f', ResolvedKind::Other, Some("refs/pull/1/head")),
        ("HEAD", 'a', ResolvedKind::Branch, Some("refs/heads/main")),
        ("v1", 'b', ResolvedKind::Tag, Some("refs/tags/v1")),
        ("refs/tags/v1", 'b', ResolvedKind::Tag, Some("refs/tags/v1")),
        ("refs/heads/both", 'd', ResolvedKind::Branch, Some("refs/heads/both")),
    ] {
        let found = run(wanted).unwrap();
        assert_eq!((found.commit, found.kind), (id(digit), kind), "{wanted}");
        assert_eq!(found.reference.as_deref(), reference, "{wanted}");
        assert_eq!(found.warnings, [], "{wanted}");
    }
}

#[test]
fn a_name_that_is_both_means_the_tag_and_warns() {
    let found = run("both").unwrap();
    assert_eq!((found.commit, found.kind), (id('e'), ResolvedKind::Tag));
    assert_eq!(found.warnings, [ResolveWarning::TagAndBranch { name: "both".into() }]);
    assert!(found.warnings[0].to_string().contains("refs/heads/both"));
}

#[test]
fn a_full_commit_id_is_taken_as_it_is_and_a_short_one_must_be_advertised() {
    let unknown = "0123456789012345678901234567890123456789";
    assert_eq!(run(unknown).unwrap().commit.to_string(), unknown);
    let found = run("bbbb").unwrap();
    assert_eq!((found.commit, found.kind), (id('b'), ResolvedKind::Commit));
    assert!(matches!(found.warnings[..], [ResolveWarning::AbbreviatedCommit { .. }]));
    assert!(matches!(run("7777777"), Err(GitError::RefNotFound { .. })), "a tag object is not a commit");
    assert!(matches!(run("bbb"), Err(GitError::RefNotFound { .. })), "too short to mean a commit");

    let mut twins = plant();
    twins.refs.push(AdvertisedRef {
        name: "refs/heads/twin".into(),
        id: format!("bbbb{}", "0".repeat(36)).parse().unwrap(),
        peeled: None,
    });
    let error = resolve(&twins, &"bbbb".parse().unwrap(), "u").unwrap_err();
    assert!(
        matches!(error, GitError::CommitAmbiguous { ref candidates, .. } if candidates.len() == 2),
        "{error}"
    );
}

#[test]
fn a_missing_name_suggests_the_ones_that_look_alike() {
    for (wanted, near) in [
        ("mian", vec!["main"]),
        ("Main", vec!["main"]),
        ("relaese/2", vec!["release/2"]),
        ("2", vec!["release/2", "v1"]),
        ("refs/heads/mian", vec!["refs/heads/main"]),
        ("something-else", vec![]),
    ] {
        match run(wanted) {
            Err(GitError::RefNotFound { near: found, .. }) => {
                assert_eq!(found[..near.len().min(1)], near[..near.len().min(1)], "{wanted}")
            }
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn an_empty_repository_says_so() {
    let empty = Advertisement::complete(Vec::new(), None, ObjectFormat::Sha1);
    for wanted in ["main", "HEAD", "refs/heads/main"] {
        let error = resolve(&empty, &wanted.parse().unwrap(), "https://h/a").unwrap_err();
        assert!(matches!(error, GitError::RepositoryEmpty { .. }), "{wanted}");
    }
}

#[test]
fn what_was_not_asked_for_may_exist_all_the_same() {
    let asked = |names: &[&str]| {
        let names: Vec<RefSpec> = names.iter().map(|name| name.parse().unwrap()).collect();
        let prefixes: Vec<String> = names.iter().flat_map(RefSpec::candidates).collect();
        let whole = plant();
        let refs =
            whole.refs.into_iter().filter(|r| prefixes.iter().any(|p| r.name.starts_with(p))).collect();
        Advertisement { refs, head: None, object_format: ObjectFormat::Sha1, prefixes }
    };
    let some = asked(&["main"]);
    let main: RefSpec = "main".parse().unwrap();
    assert!(some.covers(&main) && !some.covers(&RefSpec::Head) && !some.covers(&"mian".parse().unwrap()));
    let found = resolve(&some, &main, "u");
    assert_eq!(found.clone().unwrap().reference.as_deref(), Some("refs/heads/main"));
    assert!(is_final(&some, &found));
    let none = asked(&["nothing-like-it"]);
    assert!(!none.is_empty(), "nobody knows whether there is anything else");
    let missing = resolve(&none, &"nothing-like-it".parse().unwrap(), "u");
    assert!(matches!(missing, Err(GitError::RefNotFound { .. })) && !is_final(&none, &missing));
    assert!(is_final(&plant(), &missing));
}

#[test]
fn sha256_is_refused_by_name() {
    let modern = Advertisement { object_format: ObjectFormat::Sha256, ..plant() };
    for (advertisement, wanted) in [(&modern, "main".to_owned()), (&plant(), "a".repeat(64))] {
        let error = resolve(advertisement, &wanted.parse().unwrap(), "u").unwrap_err();
        assert!(matches!(error, GitError::ObjectFormatUnsupported { .. }), "{error}");
    }
}
