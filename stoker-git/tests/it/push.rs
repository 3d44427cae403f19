//! The way back to git, on real servers.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use stoker_core::{Fault, RelPathBuf};
use stoker_git::serve::GitHttpServer;
use stoker_git::{
    Change, CommitId, Credentials, Edit, GitError, Lease, Limits, Person, Proposal, Pushed, RefName,
};
use stoker_testkit::require;

use crate::ssh::Sshd;
use crate::support::*;

fn write(path: &str, content: &str) -> Edit {
    let change = Change::Write { content: content.into(), executable: false };
    Edit { path: RelPathBuf::parse(path).unwrap(), change }
}

fn program(path: &str, content: &str) -> Edit {
    let change = Change::Write { content: content.into(), executable: true };
    Edit { path: RelPathBuf::parse(path).unwrap(), change }
}

fn delete(path: &str) -> Edit {
    Edit { path: RelPathBuf::parse(path).unwrap(), change: Change::Delete }
}

fn propose(base: CommitId, branch: &str, lease: Lease, edits: Vec<Edit>) -> Proposal {
    let person = |name: &str, seconds| Person {
        name: name.into(),
        email: format!("{}@plant.example", name.to_lowercase()),
        seconds,
        offset_minutes: 120,
    };
    Proposal {
        base,
        edits,
        author: person("Designer", 1_760_000_000),
        committer: person("Stoker", 1_760_000_100),
        message: "Changes on gateway line-1".into(),
        trailers: vec![
            ("Gateway".into(), "plant/line-1".into()),
            ("Co-authored-by".into(), "Ada <a@plant.example>".into()),
        ],
        branch: RefName::parse(branch).unwrap(),
        lease,
    }
}

fn edits() -> Vec<Edit> {
    vec![
        write("projects/line/view.json", "{\"v\": 2}\n"),
        write("projects/line/new/deep/file.json", "{}"),
        program("run.sh", "#!/bin/sh\n"),
        delete("old/gone.txt"),
        write("README.md/now-a-directory", "x"),
        delete("README.md"),
    ]
}

/// A repository with some files that must not change, symbolic links and submodules among them.
fn plant() -> Plant {
    let plant = Plant::new();
    let work = plant.work();
    std::os::unix::fs::symlink("../elsewhere", work.join("projects/link")).unwrap();
    let submodule = "0123456789012345678901234567890123456789";
    plant.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{submodule},module")]);
    plant.git(&["commit", "-q", "-m", "a submodule"]);
    plant.commit(&[("old/gone.txt", "old"), ("projects/other.json", "{}"), ("z.txt", "z")], "more files");
    plant.push(&["main"]);
    plant
}

/// That the pushed commit is what the proposal says and nothing else.
fn judge(plant: &Plant, pushed: &Pushed, base: CommitId, branch: &str) {
    let bare = plant.bare();
    let run = |arguments: &[&str]| git(&bare, arguments);
    assert_eq!(run(&["rev-parse", &format!("refs/heads/{branch}")]), pushed.commit.to_string());
    assert_eq!(run(&["rev-parse", &format!("{}^{{tree}}", pushed.commit)]), pushed.tree.to_string());
    assert_eq!(run(&["rev-list", "--parents", "-n1", branch]), format!("{} {base}", pushed.commit));
    run(&["fsck", "--full", "--strict"]);
    let log = run(&[
        "log",
        "-1",
        "--date=raw",
        "--format=%an <%ae> %ad|%cn <%ce> %cd|%s|%(trailers:unfold,separator=;)",
        branch,
    ]);
    assert_eq!(
        log,
        "Designer <designer@plant.example> 1760000000 +0200|Stoker <stoker@plant.example> 1760000100 +0200|Changes on \
         gateway line-1|Gateway: plant/line-1;Co-authored-by: Ada <a@plant.example>"
    );
    let changed: BTreeSet<String> =
        run(&["diff-tree", "-r", "--raw", "--no-renames", "--abbrev=7", &base.to_string(), branch])
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                format!("{} {} {}", words[4], words[1], words[5])
            })
            .collect();
    let expected = [
        "A 100644 README.md/now-a-directory",
        "A 100644 projects/line/new/deep/file.json",
        "A 100755 run.sh",
        "D 000000 README.md",
        "D 000000 old/gone.txt",
        "M 100644 projects/line/view.json",
    ];
    assert_eq!(changed, expected.map(str::to_owned).into());
    assert!(
        !run(&["ls-tree", "--name-only", branch]).lines().any(|name| name == "old"),
        "an empty directory"
    );
    assert_eq!(run(&["cat-file", "blob", &format!("{branch}:projects/line/view.json")]), "{\"v\": 2}");
}

#[tokio::test]
async fn a_commit_made_of_objects_goes_over_http_with_a_login() {
    let plant = plant();
    let base = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "hunter2".into())));
    let url = server.url("plant.git");
    let (git, remote, cache) = (client(), remote_as(&url, token("hunter2")), plant.cache("a"));
    let proposal = propose(base, "gateway-changes/line-1", Lease::Absent, edits());

    let pushed = git.push(&remote, &cache, &proposal).await.unwrap();
    judge(&plant, &pushed, base, "gateway-changes/line-1");
    assert!(!pushed.already_there);
    // The commit, six directories, five contents: nothing that the base has, and nothing of its history.
    assert!(pushed.sent_bytes < 1500, "{pushed:?}");
    crate::support::git(&cache.dir().join("g1"), &["fsck", "--full", "--strict"]);

    // Again, as after an answer that was lost: the same commit, and nothing is sent.
    let again = git.push(&remote, &cache, &proposal).await.unwrap();
    assert!(again.already_there && again.sent_bytes == 0, "{again:?}");
    assert_eq!(again.commit, pushed.commit);

    // Another one on top of it.
    let edit = vec![write("z.txt", "zz")];
    let next = propose(pushed.commit, "gateway-changes/line-1", Lease::At(pushed.commit), edit);
    let next = git.push(&remote, &cache, &next).await.unwrap();
    let list = crate::support::git(&plant.bare(), &["rev-list", "gateway-changes/line-1"]);
    assert_eq!(list.lines().next(), Some(&*next.commit.to_string()));
    assert_eq!(plant.id("main"), base);

    let wrong = git.push(&remote_as(&url, token("wrong")), &plant.cache("b"), &proposal).await.unwrap_err();
    assert!(matches!(wrong, GitError::AuthenticationFailed { .. }), "{wrong}");
}

#[tokio::test]
async fn a_commit_goes_over_ssh_a_daemon_and_to_a_disk() {
    let plant = plant();
    let base = plant.id("main");
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let (_daemon, daemon) = crate::daemon::start_with(&plant, &["--enable=receive-pack"]);
    for (name, remote) in [
        ("ssh", sshd.remote(&plant.bare(), Some((&key, None)), &sshd.known_hosts())),
        ("daemon", remote(&daemon)),
        ("disk", remote(&format!("file://{}", plant.bare().display()))),
    ] {
        let cache = plant.cache(name);
        let pushed =
            client().push(&remote, &cache, &propose(base, name, Lease::Absent, edits())).await.unwrap();
        judge(&plant, &pushed, base, name);
        let taken = propose(base, name, Lease::Absent, vec![write("z.txt", name)]);
        let error = client().push(&remote, &cache, &taken).await.unwrap_err();
        assert!(
            matches!(error, GitError::LeaseLost { found: Some(f), expected: None, .. } if f == pushed.commit),
            "{name}: {error}"
        );
        let forced = Proposal { lease: Lease::At(pushed.commit), ..taken };
        client().push(&remote, &cache, &forced).await.unwrap();
    }
}

#[tokio::test]
async fn the_same_proposal_is_the_same_commit_everywhere() {
    let (one, other) = (plant(), plant());
    let base = one.id("main");
    other.git(&["fetch", "-q", one.bare().to_str().unwrap(), "main"]);
    other.push(&["FETCH_HEAD:refs/heads/base"]);
    let mut ids = BTreeSet::new();
    for (plant, name) in [(&one, "a"), (&one, "b"), (&other, "a")] {
        let remote = remote(&format!("file://{}", plant.bare().display()));
        let proposal = propose(base, name, Lease::Absent, edits());
        ids.insert(client().push(&remote, &plant.cache(name), &proposal).await.unwrap().commit);
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
}

/// Installs a hook in the served repository.
fn hook(plant: &Plant, name: &str, script: &str) {
    let file = plant.bare().join("hooks").join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn every_refusal_of_a_push_has_its_own_name() {
    let plant = plant();
    let base = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "hunter2".into())));
    let (git, remote) = (client(), remote_as(&server.url("plant.git"), token("hunter2")));
    let cache = plant.cache("a");
    let push = async |branch: &str, lease: Lease| {
        let proposal = propose(base, branch, lease, vec![write("z.txt", branch)]);
        git.push(&remote, &cache, &proposal).await
    };
    let category = |result: Result<Pushed, GitError>| result.unwrap_err().category().to_string();

    // A branch that is elsewhere, or that is there already.
    let newer = plant.change("newer");
    let error = push("main", Lease::At(base)).await.unwrap_err();
    assert_eq!(error.category().as_str(), "LeaseLost");
    let (newer_short, base_short) = (newer.short(), base.short());
    assert!(
        error.to_string().contains(&format!("is at {newer_short} and was expected to be at {base_short}")),
        "{error}"
    );
    let error = push("nowhere", Lease::At(base)).await.unwrap_err();
    assert!(error.to_string().contains("is absent and was expected to be at"), "{error}");

    // A hook with an opinion of its own, and hooks that speak as forges do.
    hook(&plant, "pre-receive", "echo 'no ticket in the message' >&2; exit 1");
    let error = push("a", Lease::Absent).await.unwrap_err();
    assert_eq!(error.category().as_str(), "HookDeclined");
    assert!(error.to_string().contains("no ticket in the message"), "{error}");
    hook(
        &plant,
        "pre-receive",
        "echo 'GitLab: You are not allowed to push code to protected branches on this project.' >&2; exit 1",
    );
    assert_eq!(category(push("a", Lease::Absent).await), "BranchProtected");
    hook(
        &plant,
        "pre-receive",
        "echo 'GitLab: You are not allowed to push code to this project.' >&2; exit 1",
    );
    assert_eq!(category(push("a", Lease::Absent).await), "PushDenied");
    std::fs::remove_file(plant.bare().join("hooks/pre-receive")).unwrap();

    // Somebody pushes while we do: the server finds the branch elsewhere in the end.
    let move_it =
        format!("unset GIT_QUARANTINE_PATH; git update-ref refs/heads/race {newer} && exit 0 || exit 1");
    hook(&plant, "pre-receive", &move_it);
    let error = push("race", Lease::Absent).await.unwrap_err();
    assert_eq!(error.category().as_str(), "LeaseLost", "{error}");
    std::fs::remove_file(plant.bare().join("hooks/pre-receive")).unwrap();

    // A lock that an interrupted push left.
    std::fs::write(plant.bare().join("refs/heads/locked.lock"), "").unwrap();
    let error = push("locked", Lease::Absent).await.unwrap_err();
    assert_eq!(error.category().as_str(), "RefLocked", "{error}");

    // A server that takes no rewritten history.
    crate::support::git(&plant.bare(), &["config", "receive.denyNonFastForwards", "true"]);
    let error = push("main", Lease::At(newer)).await.unwrap_err();
    assert_eq!(error.category().as_str(), "NonFastForward", "{error}");

    // A name that no branch can have beside another.
    let error = push("main/below", Lease::Absent).await.unwrap_err();
    assert!(matches!(error, GitError::RefLocked { .. } | GitError::PushRejected { .. }), "{error}");

    // A server that takes no pushes at all.
    crate::support::git(&plant.bare(), &["config", "http.receivepack", "false"]);
    let error = push("a", Lease::Absent).await.unwrap_err();
    assert_eq!(error.category().as_str(), "PushDenied", "{error}");
    crate::support::git(&plant.bare(), &["fsck", "--full", "--strict"]);
}

#[tokio::test]
async fn a_key_that_may_only_read_is_named_over_ssh() {
    let plant = plant();
    let base = plant.id("main");
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let remote = sshd.remote(&plant.bare(), Some((&key, None)), &sshd.known_hosts());
    client().fetch(&remote, &plant.cache("a"), &stoker_git::Wanted::commit(base)).await.unwrap();
    // As a forge does it: by what the key's command lets through.
    let list = plant.dir.path().join("ssh/authorized_keys");
    let public = std::fs::read_to_string(&list).unwrap();
    let refuse =
        "echo 'ERROR: The key you are authenticating with has been marked as read only.' >&2; exit 1";
    std::fs::write(&list, format!("command=\"{refuse}\" {public}")).unwrap();
    let proposal = propose(base, "a", Lease::Absent, edits());
    let error = client().push(&remote, &plant.cache("a"), &proposal).await.unwrap_err();
    assert_eq!(error.category().as_str(), "PushDenied", "{error}");
    assert!(error.to_string().contains("marked as read only"), "{error}");
}

#[tokio::test]
async fn a_server_that_stalls_or_a_proposal_that_does_not_fit_ends_soon() {
    let plant = plant();
    let base = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "hunter2".into())));
    let remote = remote_as(&server.url("plant.git"), token("hunter2"));
    let cache = plant.cache("a");
    for (edits, says) in [
        (vec![delete("nope")], "\"nope\" is to be deleted and is not in the base"),
        (vec![write("projects", "x")], "\"projects\" is a directory in the base"),
        (vec![write("z.txt/below", "x")], "\"z.txt\" is no directory in the base"),
        (vec![write("projects/link", "x")], "symbolic link or submodule"),
        (vec![write("projects/link/x", "x")], "is no directory in the base"),
        (vec![write("a", "x"), write("a/b", "x")], "both a file and a directory"),
        (vec![write("a", "x"), write("a", "y")], "twice"),
        (vec![write("z.txt", "z")], "leave"),
    ] {
        let error =
            client().push(&remote, &cache, &propose(base, "a", Lease::Absent, edits)).await.unwrap_err();
        assert_eq!(error.category().as_str(), "ProposalInvalid", "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut limits = Limits::default();
    limits.max_push_bytes = 10;
    let proposal = propose(base, "a", Lease::Absent, vec![write("big", "12345678901")]);
    let error = client().with_limits(limits).push(&remote, &cache, &proposal).await.unwrap_err();
    assert!(error.to_string().contains("11 bytes, and no more than 10"), "{error}");

    hook(&plant, "pre-receive", "sleep 30");
    let mut limits = impatient();
    limits.push_deadline = std::time::Duration::from_millis(1500);
    let proposal = propose(base, "a", Lease::Absent, edits());
    let error = client().with_limits(limits).push(&remote, &cache, &proposal).await.unwrap_err();
    assert_eq!(error.category().as_str(), "Timeout", "{error}");
}

#[tokio::test]
async fn large_contents_go_through_the_pipe_and_come_out_whole() {
    let plant = plant();
    let base = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", "hunter2".into())));
    let remote = remote_as(&server.url("plant.git"), token("hunter2"));
    let big = noise(12 << 20);
    let edits = vec![write("big.bin", &big), write("empty", ""), write("after", "x\n")];
    let proposal = propose(base, "big", Lease::Absent, edits);
    client().push(&remote, &plant.cache("a"), &proposal).await.unwrap();
    let out = plant.dir.path().join("big");
    let status = Command::new("git")
        .args(["cat-file", "blob", "refs/heads/big:big.bin"])
        .current_dir(plant.bare())
        .stdout(Stdio::from(std::fs::File::create(&out).unwrap()))
        .status()
        .unwrap();
    assert!(status.success() && std::fs::read(&out).unwrap() == big.as_bytes());
    crate::support::git(&plant.bare(), &["fsck", "--full", "--strict"]);
}

/// Servers speak while they are spoken to: of their progress, or to say that it is enough.
#[tokio::test]
async fn a_large_push_over_ssh_is_heard_out_and_so_is_a_refusal_in_the_middle() {
    let plant = plant();
    let base = plant.id("main");
    let sshd = Sshd::start(&plant, &["ed25519"], &[]);
    let key = sshd.client_key("client", "ed25519", "", &[]);
    let remote = sshd.remote(&plant.bare(), Some((&key, None)), &sshd.known_hosts());
    // Unpacked while it comes (fewer than a hundred objects), with progress.
    let edits = || (0..20).map(|n| write(&format!("big/{n}"), &noise(2 << 20))).collect::<Vec<_>>();
    let pushed = client()
        .push(&remote, &plant.cache("a"), &propose(base, "big", Lease::Absent, edits()))
        .await
        .unwrap();
    assert_eq!(git(&plant.bare(), &["rev-parse", "refs/heads/big"]), pushed.commit.to_string());

    git(&plant.bare(), &["config", "receive.maxInputSize", "1m"]);
    let began = std::time::Instant::now();
    let proposal = propose(base, "too-big", Lease::Absent, edits());
    let error = client().push(&remote, &plant.cache("a"), &proposal).await.unwrap_err();
    assert!(error.to_string().contains("maximum allowed size"), "{error}");
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_token_is_in_no_file_and_no_error_of_a_push() {
    const CANARY: &str = "canary-push-51aa";
    let plant = plant();
    let base = plant.id("main");
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", CANARY.into())));
    let remote = remote_as(&server.url("plant.git"), token(CANARY));
    hook(&plant, "pre-receive", &format!("echo 'your token {CANARY} is bad' >&2; exit 1"));
    let proposal = propose(base, "a", Lease::Absent, edits());
    let error = client().push(&remote, &plant.cache("a"), &proposal).await.unwrap_err();
    assert!(error.to_string().contains("your token *** is bad"), "{error}");
    assert!(!format!("{error:?}{proposal:?}{remote:?}").contains(CANARY));
    let infected = Command::new("grep").args(["-rl", CANARY]).arg(plant.cache("a").dir()).output().unwrap();
    assert_eq!(String::from_utf8(infected.stdout).unwrap(), "");
}

#[tokio::test]
async fn a_forge_says_what_may_be_pushed_where() {
    let Some(forge) = require::gitea().await else { return };
    let repo = forge.create_repo("plant", false).await.unwrap();
    let plant = plant();
    plant.git(&["push", "-q", &repo.push_url, "main"]);
    let base = plant.id("main");
    let rule = serde_json::json!({"rule_name": "main", "enable_push": false});
    let path = format!("repos/{}/branch_protections", repo.full_name);
    forge.api(reqwest::Method::POST, &path, Some(&rule)).await.unwrap();
    let (git, cache) = (client(), plant.cache("a"));
    let as_ada = remote_as(&repo.clone_url, token(forge.token()));

    let pushed = git.push(&as_ada, &cache, &propose(base, "changes", Lease::Absent, edits())).await.unwrap();
    let answer = forge
        .api(reqwest::Method::GET, &format!("repos/{}/git/commits/{}", repo.full_name, pushed.commit), None)
        .await
        .unwrap();
    assert_eq!(answer["commit"]["author"]["name"], "Designer", "{answer}");

    let error =
        git.push(&as_ada, &cache, &propose(base, "main", Lease::At(base), edits())).await.unwrap_err();
    assert_eq!(error.category().as_str(), "BranchProtected", "{error}");

    // A user who may read, and a token that may not write.
    let user = serde_json::json!({
        "username": "eve", "password": "correct horse", "email": "eve@plant.example", "must_change_password": false,
    });
    forge.api(reqwest::Method::POST, "admin/users", Some(&user)).await.unwrap();
    let eve = Credentials::Token { username: "eve".into(), secret: "correct horse".into() };
    let as_eve = remote_as(&repo.clone_url, eve);
    let error = git.push(&as_eve, &cache, &propose(base, "eve", Lease::Absent, edits())).await.unwrap_err();
    assert_eq!(error.category().as_str(), "PushDenied", "{error}");
    let wrong = remote_as(&repo.clone_url, token("0000000000000000000000000000000000000000"));
    let error = git.push(&wrong, &cache, &propose(base, "eve", Lease::Absent, edits())).await.unwrap_err();
    assert_eq!(error.category().as_str(), "AuthenticationFailed", "{error}");
}

#[tokio::test]
async fn a_branch_that_is_checked_out_is_left_alone() {
    let plant = plant();
    let base = plant.id("main");
    let remote = remote(&format!("file://{}", plant.work().display()));
    let cache = plant.cache("a");
    let error =
        client().push(&remote, &cache, &propose(base, "main", Lease::At(base), edits())).await.unwrap_err();
    assert!(error.to_string().contains("checked out there"), "{error}");
    client().push(&remote, &cache, &propose(base, "other", Lease::Absent, edits())).await.unwrap();
    assert_eq!(plant.git(&["status", "--porcelain"]), "");
}
