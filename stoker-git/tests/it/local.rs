//! `file://`, for mirrors behind an air gap.

use stoker_git::{GitError, ResolvedKind, Wanted};

use crate::support::*;

#[tokio::test]
async fn a_mirror_on_disk_is_read_at_depth_one() {
    let plant = Plant::new();
    let first = plant.id("main");
    plant.git(&["tag", "-a", "v1", "-m", "one"]);
    let second = plant.change("2");
    plant.push(&["v1"]);
    for path in [plant.bare(), plant.work()] {
        let (git, remote) = (client(), remote(&format!("file://{}", path.display())));
        let cache = plant.cache(path.file_name().unwrap().to_str().unwrap());
        let head = git.resolve(&remote, &"HEAD".parse().unwrap()).await.unwrap();
        assert_eq!((head.commit, head.reference.as_deref()), (second, Some("refs/heads/main")));
        let tag = git.resolve(&remote, &"v1".parse().unwrap()).await.unwrap();
        assert_eq!((tag.commit, tag.kind), (first, ResolvedKind::Tag));

        assert_eq!(read(&sync(&git, &remote, "main", &cache).await, "projects/line/view.json"), "2");
        assert_eq!(git_objects(&cache), 6, "one commit, three trees, two files");
        assert_eq!(read(&sync(&git, &remote, "v1", &cache).await, "README.md"), "plant\n");
        git_fsck(&cache);
    }
}

fn git_objects(cache: &stoker_git::Cache) -> usize {
    crate::support::git(&cache.dir().join("g1"), &["rev-list", "--objects", "--all"]).lines().count()
}

fn git_fsck(cache: &stoker_git::Cache) {
    crate::support::git(&cache.dir().join("g1"), &["fsck", "--full", "--strict"]);
}

#[tokio::test]
async fn what_is_missing_on_disk_is_named() {
    let plant = Plant::new();
    let git = client();
    let wanted = "main".parse().unwrap();
    let nowhere = format!("file://{}/nowhere.git", plant.root().display());
    let error = git.resolve(&remote(&nowhere), &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
    let no_repository = format!("file://{}", plant.root().display());
    let error = git.resolve(&remote(&no_repository), &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::RepositoryNotFound { .. }), "{error}");
    let url = format!("file://{}", plant.bare().display());
    let unknown = "0123456789012345678901234567890123456789".parse().unwrap();
    let error = git.fetch(&remote(&url), &plant.cache("a"), &Wanted::commit(unknown)).await.unwrap_err();
    assert!(matches!(error, GitError::CommitNotFound { .. }), "{error}");

    let modern = Plant::empty_with(&["--object-format=sha256"]);
    let url = format!("file://{}", modern.bare().display());
    let error = git.resolve(&remote(&url), &wanted).await.unwrap_err();
    assert!(matches!(error, GitError::ObjectFormatUnsupported { .. }), "{error}");
}
