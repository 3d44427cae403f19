//! A repository to serve, and the client under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stoker_core::{RelPathBuf, Source};
use stoker_git::{
    Access, Cache, ChildCommand, CommitId, CommitSource, Credentials, Git, Limits, RefSpec, Remote,
    RemoteUrl, Wanted,
};

/// A bare repository `plant.git` below a directory that a server can serve, and a work tree to push from.
pub(crate) struct Plant {
    pub(crate) dir: tempfile::TempDir,
}

impl Plant {
    /// With one commit on `main`.
    pub(crate) fn new() -> Self {
        let plant = Self::empty();
        plant
            .commit(&[("projects/line/view.json", "{\"v\": 1}\n"), ("README.md", "plant\n")], "first commit");
        plant.push(&["main"]);
        plant
    }

    pub(crate) fn empty() -> Self {
        Self::empty_with(&[])
    }

    pub(crate) fn empty_with(init: &[&str]) -> Self {
        let plant = Self { dir: tempfile::tempdir().unwrap() };
        for (name, kind) in [("work", &[][..]), ("root/plant.git", &["--bare"][..])] {
            let path = plant.dir.path().join(name);
            let mut arguments = vec!["init", "-q", "-b", "main"];
            arguments.extend(init);
            arguments.extend(kind);
            arguments.push(path.to_str().unwrap());
            git(plant.dir.path(), &arguments);
        }
        plant
    }

    /// What a server serves.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn bare(&self) -> PathBuf {
        self.root().join("plant.git")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.work(), arguments)
    }

    /// Runs a script of `git fast-import` in the bare repository.
    pub(crate) fn import(&self, script: String) {
        let file = self.dir.path().join("import");
        std::fs::write(&file, script).unwrap();
        let import = Command::new("git")
            .args(["fast-import", "--quiet", "--force"])
            .current_dir(self.bare())
            .stdin(std::fs::File::open(file).unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(import.unwrap().success());
    }

    /// Writes the files and commits everything.
    pub(crate) fn commit(&self, files: &[(&str, &str)], message: &str) -> CommitId {
        for (path, content) in files {
            let path = self.work().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.id("HEAD")
    }

    pub(crate) fn id(&self, revision: &str) -> CommitId {
        self.git(&["rev-parse", &format!("{revision}^{{commit}}")]).parse().unwrap()
    }

    pub(crate) fn push(&self, what: &[&str]) {
        let bare = self.bare();
        let mut arguments = vec!["push", "-q", "--force", bare.to_str().unwrap()];
        arguments.extend(what);
        self.git(&arguments);
    }

    /// A commit that changes one file, pushed to `main`.
    pub(crate) fn change(&self, content: &str) -> CommitId {
        let id = self.commit(&[("projects/line/view.json", content)], content);
        self.push(&["main"]);
        id
    }

    pub(crate) fn cache(&self, name: &str) -> Cache {
        Cache::new(self.dir.path().join("caches").join(name))
    }
}

/// Runs git, with nobody's configuration, and returns what it printed.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "uploadpack.allowFilter=true", "-c", "gc.auto=0"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Bot"), ("GIT_COMMITTER_EMAIL", "bot@example.com")])
        .env("GIT_AUTHOR_DATE", "2024-05-06T07:08:09+02:00")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The client under test, with a real child process.
pub(crate) fn client() -> Git {
    Git::new(child())
}

pub(crate) fn child() -> ChildCommand {
    ChildCommand::executable(env!("CARGO_BIN_EXE_stoker-git-child"))
}

/// Limits for servers that are expected to break.
pub(crate) fn impatient() -> Limits {
    let mut limits = Limits::default();
    limits.resolve_deadline = Duration::from_millis(2500);
    limits.fetch_deadline = Duration::from_millis(2500);
    limits.connect_timeout = Duration::from_millis(500);
    limits.stall_timeout = Duration::from_millis(700);
    limits
}

pub(crate) fn remote(url: &str) -> Remote {
    Remote::new(url_of(url), Access::default())
}

pub(crate) fn remote_as(url: &str, credentials: Credentials) -> Remote {
    Remote::new(url_of(url), Access { credentials, ..Access::default() })
}

pub(crate) fn url_of(url: &str) -> RemoteUrl {
    RemoteUrl::parse_allowing_insecure(url).unwrap()
}

pub(crate) fn token(secret: &str) -> Credentials {
    Credentials::Token { username: "x-access-token".into(), secret: secret.into() }
}

/// Resolves and fetches.
pub(crate) async fn sync(git: &Git, remote: &Remote, reference: &str, cache: &Cache) -> CommitSource {
    let wanted: RefSpec = reference.parse().unwrap();
    let resolved = git.resolve(remote, &wanted).await.unwrap();
    git.fetch(remote, cache, &Wanted::from(&resolved)).await.unwrap().source
}

pub(crate) fn read(source: &CommitSource, path: &str) -> String {
    let path = RelPathBuf::parse(path).unwrap();
    let entry = source.entry(path.as_path()).unwrap().unwrap();
    let mut text = String::new();
    source.open(path.as_path(), &entry.id.unwrap()).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port that was free a moment ago, for servers that cannot choose one themselves.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server process that ends with the test.
pub(crate) struct Server {
    child: std::process::Child,
}

impl Server {
    /// Starts it and waits until its port answers.
    pub(crate) fn start(command: &mut Command, port: u16) -> Self {
        let mut child = command.spawn().unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended: {status}");
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Text that does not compress well.
pub(crate) fn noise(length: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + (state % 90) as u8)
    };
    std::iter::repeat_with(next).take(length).collect()
}
