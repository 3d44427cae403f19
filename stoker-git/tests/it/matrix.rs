//! Every way to a repository × both versions of the protocol × every way to name a commit: what comes out is what git says.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use futures::StreamExt;
use stoker_core::{EntryKind, RelPath, Source};
use stoker_git::{Access, CommitId, CommitSource, Credentials, Remote, ResolvedKind, Wanted};
use stoker_testkit::gitea::Gitea;
use stoker_testkit::gitserver::{Daemon, Http, HttpOptions, Shelf, Ssh};
use stoker_testkit::{Repo, require};

use crate::relay::{Breaking, Habits, VERSION_0};
use crate::ssh::run;
use crate::support::*;

const NAME: &str = "plant/ignition.git";
/// Cells at the same time.
const AT_ONCE: usize = 4;

/// Mode and content of every file, by path.
type Files = BTreeMap<String, (String, Vec<u8>)>;

/// A way to the repository.
struct Door {
    name: &'static str,
    /// The version of the protocol that is spoken there.
    version: u8,
    url: String,
    access: Access,
    /// Whether version 0 gives out only what is at the tip of something.
    tips_only: bool,
    /// Whether it takes references other than branches and tags.
    any_ref: bool,
    /// What git's own client needs to come in.
    for_git: Vec<(&'static str, String)>,
}

/// What is served, and what git says of it.
struct World {
    repo: Repo,
    first: CommitId,
    /// At the tip of nothing.
    between: CommitId,
    second: CommitId,
    third: CommitId,
    files: HashMap<CommitId, Files>,
}

impl World {
    fn new() -> Self {
        let repo = Repo::new().unwrap();
        let commit = |message: &str| -> CommitId { repo.commit(message).unwrap().parse().unwrap() };
        repo.write("projects/line/view.json", "{\"v\": 1}\n").unwrap();
        repo.write("data/größe 1.txt", "ä").unwrap().write("data/empty", "").unwrap();
        repo.write("data/binary", (0..=255u8).cycle().take(70_000).collect::<Vec<u8>>()).unwrap();
        repo.write("run.sh", "#!/bin/sh\n").unwrap();
        let run = repo.path().join("run.sh");
        std::fs::set_permissions(run, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("../data/empty", repo.path().join("projects/link")).unwrap();
        let first = commit("first");
        repo.annotated_tag("v1", "one").unwrap();
        repo.git(["tag", "-a", "-m", "again", "v1-again", "v1"]).unwrap();
        repo.write("projects/line/view.json", "{\"v\": 1.5}\n").unwrap();
        let between = commit("between");
        repo.write("projects/line/view.json", "{\"v\": 2}\n").unwrap();
        let second = commit("second");
        repo.write("projects/line/view.json", "{\"v\": 3}\n").unwrap().remove("data/binary").unwrap();
        let third = commit("third");
        repo.tag("light").unwrap();
        repo.switch("feature/näme").unwrap();
        let files = [first, between, second, third].map(|commit| (commit, files(&repo, &commit))).into();
        Self { repo, first, between, second, third, files }
    }

    /// What is written as `git.ref`, the commit that git takes it for, and what kind of thing it is.
    fn refs(&self) -> Vec<(String, CommitId, ResolvedKind)> {
        let git = |revision: &str| -> CommitId {
            self.repo.git(["rev-parse", &format!("{revision}^{{commit}}")]).unwrap().parse().unwrap()
        };
        [
            ("main", "main", ResolvedKind::Branch),
            ("feature/näme", "feature/näme", ResolvedKind::Branch),
            ("HEAD", "main", ResolvedKind::Branch),
            ("v1", "v1", ResolvedKind::Tag),
            ("v1-again", "v1-again", ResolvedKind::Tag),
            ("light", "light", ResolvedKind::Tag),
            ("refs/heads/main", "refs/heads/main", ResolvedKind::Branch),
            ("refs/tags/v1", "refs/tags/v1", ResolvedKind::Tag),
            ("refs/pull/7/head", &self.second.to_string(), ResolvedKind::Other),
            ("pull/7/head", &self.second.to_string(), ResolvedKind::Other),
            (&self.third.to_string()[..9], "main", ResolvedKind::Commit),
            (&self.first.to_string()[..7], "v1", ResolvedKind::Commit),
            (&self.third.to_string(), "main", ResolvedKind::Commit),
            (&self.first.to_string(), "v1", ResolvedKind::Commit),
        ]
        .map(|(written, revision, kind)| (written.to_owned(), git(revision), kind))
        .into()
    }

    fn publish(&self, shelf: &Shelf) {
        shelf.publish(&self.repo, NAME).unwrap();
        let bare = shelf.path().join(NAME);
        let bare = bare.to_str().unwrap();
        self.repo.push(bare, &[&format!("{}:refs/pull/7/head", self.second)]).unwrap();
        self.repo.git(["-C", bare, "config", "uploadpack.allowAnySHA1InWant", "false"]).unwrap();
    }
}

fn files(repo: &Repo, commit: &CommitId) -> Files {
    let run = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(repo.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        output.stdout
    };
    let list = String::from_utf8(run(&["ls-tree", "-r", "-z", &commit.to_string()])).unwrap();
    list.split_terminator('\0')
        .map(|line| {
            let (what, path) = line.split_once('\t').unwrap();
            let mut words = what.split(' ');
            let (mode, object) = (words.next().unwrap(), words.nth(1).unwrap());
            (path.to_owned(), (mode.to_owned(), run(&["cat-file", "blob", object])))
        })
        .collect()
}

/// The same of what was fetched.
fn fetched_files(source: &CommitSource, dir: RelPath<'_>, found: &mut Files) {
    for named in source.list(dir).unwrap() {
        let path = dir.child(std::str::from_utf8(&named.name).unwrap()).unwrap();
        let mode = match named.entry.kind {
            EntryKind::Directory => {
                fetched_files(source, path.as_path(), found);
                continue;
            }
            EntryKind::Executable => "100755",
            EntryKind::Symlink => "120000",
            _ => "100644",
        };
        let mut content = Vec::new();
        source.open(path.as_path(), &named.entry.id.unwrap()).unwrap().read_to_end(&mut content).unwrap();
        found.insert(path.to_string(), (mode.to_owned(), content));
    }
}

/// Servers that live as long as the doors to them are used.
struct Servers {
    _http: [Http; 3],
    _daemon: Daemon,
    _ssh: Vec<Ssh>,
    _gitea: Option<Gitea>,
}

async fn open_all(world: &World) -> (Servers, Vec<Door>) {
    let tls = || HttpOptions::default().tls().login("x-access-token", "hunter2");
    let http = [
        Http::start(HttpOptions::default()).unwrap(),
        Http::start(tls()).unwrap(),
        Http::start(tls().version_0()).unwrap(),
    ];
    let daemon = Daemon::start().await.unwrap();
    let mut doors = Vec::new();
    let door = |name, version, url: String, access| Door {
        name,
        version,
        url,
        access,
        tips_only: true,
        any_ref: true,
        for_git: Vec::new(),
    };
    // A man in the middle asks for version 0 where nothing is encrypted.
    let behind = |url: &str| {
        let port = url_of(url).port().unwrap();
        let relay = Breaking::with(port, Habits { client: Some(VERSION_0), ..Habits::default() });
        url.replacen(&format!(":{port}"), &format!(":{}", relay.port), 1)
    };
    world.publish(http[0].shelf());
    let url = http[0].url(NAME);
    doors.push(door("http", 0, behind(&url), Access::default()));
    doors.push(door("http", 2, url, Access::default()));
    for (server, version) in [(&http[1], 2), (&http[2], 0)] {
        world.publish(server.shelf());
        let ca_pem = server.authority().map(str::to_owned);
        let access = Access { credentials: token("hunter2"), ca_pem, ..Access::default() };
        let for_git =
            vec![("GIT_SSL_NO_VERIFY", "1".to_owned()), ("STOKER_TEST_URL", server.url_with_login(NAME))];
        doors.push(Door { for_git, ..door("https with a token", version, server.url(NAME), access) });
    }
    world.publish(daemon.shelf());
    let url = daemon.url(NAME);
    doors.push(door("git daemon", 0, behind(&url), Access::default()));
    doors.push(door("git daemon", 2, url, Access::default()));
    let file = format!("file://{}", daemon.shelf().path().join(NAME).display());
    // There is no protocol; any commit that is there is given.
    doors.push(Door { tips_only: false, ..door("file", 0, file, Access::default()) });

    let mut ssh = Vec::new();
    if let Some(server) = require::ssh().await {
        ssh.extend([server, Ssh::start_version_0().await.unwrap()]);
    }
    for (server, version) in ssh.iter().zip([2, 0]) {
        world.publish(server.shelf());
        let access = with_key(&server.private_key().unwrap(), &server.known_hosts().unwrap());
        let for_git = git_over_ssh(&server.private_key_path());
        doors.push(Door { for_git, ..door("OpenSSH", version, server.url(NAME), access) });
    }

    let gitea = require::gitea().await;
    if let Some(forge) = &gitea {
        let made = forge.create_repo("ignition", true).await.unwrap();
        forge.push(&world.repo, &made, &["refs/heads/*", "refs/tags/*"]).unwrap();
        let secret = forge.token().into();
        let credentials = Credentials::Token { username: forge.user().to_owned(), secret };
        let access = Access { credentials, ..Access::default() };
        let (gitea, url) = (Door { any_ref: false, ..door("", 2, String::new(), access) }, &made.clone_url);
        let by_token = |name, version, url: String| Door {
            name,
            version,
            for_git: vec![(
                "STOKER_TEST_URL",
                url.replacen("://", &format!("://{}:{}@", forge.user(), forge.token()), 1),
            )],
            url,
            access: gitea.access.clone(),
            // It allows any commit to be asked for.
            tips_only: false,
            ..door("", 0, String::new(), Access::default())
        };
        doors.push(Door { any_ref: false, ..by_token("Gitea over http", 0, behind(url)) });
        doors.push(Door { any_ref: false, ..by_token("Gitea over http", 2, url.clone()) });
        let key = world.repo.path().join(".git/gitea-key");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()]);
        forge
            .add_deploy_key(&made, &std::fs::read_to_string(key.with_extension("pub")).unwrap(), false)
            .await
            .unwrap();
        let access = with_key(&std::fs::read_to_string(&key).unwrap(), &forge.known_hosts());
        let for_git = git_over_ssh(&key);
        doors.push(Door {
            any_ref: false,
            for_git,
            ..door("Gitea over ssh", 2, forge.ssh_url(&made), access)
        });
    }
    (Servers { _http: http, _daemon: daemon, _ssh: ssh, _gitea: gitea }, doors)
}

fn with_key(private_key: &str, known_hosts: &str) -> Access {
    let credentials = Credentials::SshKey { private_key: private_key.into(), passphrase: None };
    Access { credentials, known_hosts: Some(known_hosts.to_owned()), ..Access::default() }
}

fn git_over_ssh(key: &std::path::Path) -> Vec<(&'static str, String)> {
    let options =
        "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes -o LogLevel=ERROR";
    vec![("GIT_SSH_COMMAND", format!("ssh -F none {options} -i {}", key.display()))]
}

/// What git's own client is told of all references, through the same door.
fn ls_remote(door: &Door) -> BTreeMap<String, CommitId> {
    let url =
        door.for_git.iter().find(|(name, _)| *name == "STOKER_TEST_URL").map_or(&door.url, |(_, url)| url);
    let output = Command::new("git")
        .args(["ls-remote", url])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(door.for_git.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", door.name, String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(id, name)| (name.to_owned(), id.parse().unwrap()))
        .collect()
}

async fn compare_references(door: &Door) -> Result<(), String> {
    let told = client().advertisement(&Remote::new(url_of(&door.url), door.access.clone())).await;
    let told = told.map_err(|e| format!("all references: {e}"))?;
    let mut found: BTreeMap<String, CommitId> = BTreeMap::new();
    for reference in &told.refs {
        found.insert(reference.name.clone(), reference.id);
        if let Some(peeled) = reference.peeled {
            found.insert(format!("{}^{{}}", reference.name), peeled);
        }
    }
    found.extend(told.head.as_ref().map(|head| ("HEAD".to_owned(), head.id)));
    let git = ls_remote(door);
    if found == git { Ok(()) } else { Err(format!("git ls-remote says {git:?}, we found {found:?}")) }
}

async fn check(
    world: &World,
    door: &Door,
    written: &str,
    commit: CommitId,
    kind: ResolvedKind,
    dir: &std::path::Path,
) -> Result<(), String> {
    let (git, remote) = (client(), Remote::new(url_of(&door.url), door.access.clone()));
    let resolved =
        git.resolve(&remote, &written.parse().unwrap()).await.map_err(|e| format!("resolve: {e}"))?;
    if (resolved.commit, resolved.kind) != (commit, kind) {
        return Err(format!("resolved to {resolved:?}, git says {commit}"));
    }
    let cache = stoker_git::Cache::new(dir);
    let fetched =
        git.fetch(&remote, &cache, &Wanted::from(&resolved)).await.map_err(|e| format!("fetch: {e}"))?;
    let mut found = Files::new();
    fetched_files(&fetched.source, RelPath::ROOT, &mut found);
    if found != world.files[&commit] {
        return Err(format!("other files than git's: {:?}", found.keys()));
    }
    if fetched.report.whole_history {
        return Err("the whole history was fetched of a commit that is advertised".to_owned());
    }
    if written != "main" && written != "HEAD" {
        return Ok(());
    }
    // The commit between two tips, into the same cache: version 0 gives it only with the history of a branch.
    let fetched = git
        .fetch(&remote, &cache, &Wanted::commit(world.between))
        .await
        .map_err(|e| format!("older: {e}"))?;
    let whole = door.version == 0 && door.tips_only;
    if fetched.report.whole_history != whole {
        return Err(format!("whole history: {}, expected {whole}", fetched.report.whole_history));
    }
    let mut found = Files::new();
    fetched_files(&fetched.source, RelPath::ROOT, &mut found);
    if found == world.files[&world.between] {
        Ok(())
    } else {
        Err("other files than git's in the older commit".to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_every_version_and_every_name_give_what_git_says() {
    let world = World::new();
    let (_servers, doors) = open_all(&world).await;
    let caches = tempfile::tempdir().unwrap();
    let refs = world.refs();
    let mut cells = Vec::new();
    for (at, door) in doors.iter().enumerate() {
        for (number, (written, commit, kind)) in refs.iter().enumerate() {
            if door.any_ref || !written.contains("pull/") {
                cells.push((door, written, *commit, *kind, caches.path().join(format!("{at}-{number}"))));
            }
        }
    }
    let count = cells.len();
    let (world, start) = (&world, std::time::Instant::now());
    let results: Vec<Option<String>> = futures::stream::iter(cells)
        .map(|(door, written, commit, kind, dir)| async move {
            let result = check(world, door, written, commit, kind, &dir).await;
            result.err().map(|e| format!("{} in version {}, {written}: {e}", door.name, door.version))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut failures: Vec<String> = results.into_iter().flatten().collect();
    for door in &doors {
        if let Err(e) = compare_references(door).await {
            failures.push(format!("{} in version {}: {e}", door.name, door.version));
        }
    }
    println!("{count} cells at {} doors in {:.1?}", doors.len(), start.elapsed());
    assert!(failures.is_empty(), "{} of {count} cells:\n{}", failures.len(), failures.join("\n"));
}
