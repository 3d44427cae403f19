//! A secret that must appear nowhere.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoker_git::serve::GitHttpServer;
use stoker_git::{Access, Credentials, Git, GitError, Limits, Remote, Wanted};

use crate::faults::recording_child;
use crate::support::*;

const CANARY: &str = "canary-7d1f0c55";

/// Every file below a directory whose content has the canary.
fn infected(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(infected(&path));
        } else if fs::read(&path).is_ok_and(|bytes| contains(&bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

/// Collects what is logged at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that this thread logs from now on.
fn listening() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn a_token_and_a_key_are_in_no_error_log_or_file() {
    let (log, _guard) = listening();

    let plant = Plant::new();
    let server = GitHttpServer::start(plant.root()).await.unwrap();
    server.backend().set_login(Some(("x-access-token", CANARY.into())));
    let url = server.url("plant.git");
    let mut shown = String::new();
    let mut show = |what: &dyn std::fmt::Debug, error: &GitError| {
        shown += &format!("{what:?}\n{error}\n{error:?}\n{}\n", stoker_core::chain(error));
    };

    // It works, and then fails in many ways.
    let good = remote_as(&url, token(CANARY));
    let cache = plant.cache("a");
    sync(&client(), &good, "main", &cache).await;
    server.backend().set_login(Some(("x-access-token", "another".into())));
    let wanted = "main".parse().unwrap();
    show(&good, &client().resolve(&good, &wanted).await.unwrap_err());
    let key = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----\n");
    let key = Credentials::SshKey { private_key: key.into(), passphrase: Some(CANARY.into()) };
    let mut limits = Limits::default();
    limits.resolve_deadline = Duration::from_secs(3);
    limits.stall_timeout = Duration::from_secs(1);
    let impatient = client().with_limits(limits);
    for (url, credentials) in [
        (url.clone(), key.clone()),
        (url.replace("http://", "https://"), token(CANARY)),
        (url.replace("http://", "ssh://"), key),
        (url.replace("http://", "ssh://"), token(CANARY)),
        (server.url("nope.git"), token(CANARY)),
    ] {
        let access = Access { credentials, ..Access::default() };
        let remote = Remote::new(url_of(&url), access.clone());
        show(&(&remote, &access), &impatient.resolve(&remote, &wanted).await.unwrap_err());
    }
    // A server that sends the token back.
    let echo = echoing().await;
    show(&(), &client().resolve(&remote_as(&echo, token(CANARY)), &wanted).await.unwrap_err());

    assert!(!contains(shown.as_bytes()), "{shown}");
    assert!(shown.contains("said: bad token ***"), "{shown}");
    let log = log.0.lock().unwrap();
    assert!(!log.is_empty());
    assert!(!contains(&log), "{}", String::from_utf8_lossy(&log));
    assert_eq!(infected(plant.dir.path()), Vec::<String>::new());
}

/// A git server that answers with an error that repeats the password.
async fn echoing() -> String {
    use axum::http::HeaderMap;
    use base64::Engine;
    let handler = axum::routing::any(|headers: HeaderMap| async move {
        let basic = headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
        let login = base64::engine::general_purpose::STANDARD.decode(basic).unwrap();
        let password = String::from_utf8(login).unwrap().split_once(':').unwrap().1.to_owned();
        let message = format!("ERR bad token {password}");
        let body = format!("{:04x}{message}", message.len() + 4);
        ([("content-type", "application/x-git-upload-pack-advertisement")], body)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    url
}

#[tokio::test]
async fn a_child_has_no_secret_in_its_arguments_or_environment_and_is_bounded() {
    let plant = Plant::new();
    // Accepts and says nothing, so that the child stays to be looked at.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = proxy_at(&silent.local_addr().unwrap().to_string());
    let access = Access { credentials: token(CANARY), proxy: Some(proxy), ..Access::default() };
    let remote = Remote::new(url_of("http://git.example.invalid/plant.git"), access);
    let (child, pid) = recording_child(&plant);
    let task = tokio::spawn(async move {
        let wanted = Wanted::commit("0123456789012345678901234567890123456789".parse().unwrap());
        let cache = stoker_git::Cache::new("/nonexistent");
        let git = Git::new(child);
        let resolved = git.resolve(&remote, &"main".parse().unwrap()).await;
        (wanted, cache, resolved.map(|_| ()))
    });
    let (connection, _) = silent.accept().await.unwrap();
    connection.readable().await.unwrap();
    let proc = Path::new("/proc").join(fs::read_to_string(pid).unwrap().trim());
    let arguments = fs::read(proc.join("cmdline")).unwrap();
    assert!(arguments.ends_with(b"\0__stoker-git-child\0"), "{arguments:?}");
    assert!(!contains(&arguments));
    let environment = fs::read(proc.join("environ")).unwrap_or_default();
    assert!(!contains(&environment));
    assert!(!environment.windows(5).any(|w| w == b"HOME="), "nothing is inherited but the way out");
    let limits = fs::read_to_string(proc.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max address space"), (1u64 << 30).to_string());
    assert_eq!(limit("Max core file size"), "0");
    task.abort();
}

/// Every part of a secret that could be told by itself: a key is quoted by lines.
fn parts(secret: &str) -> Vec<&str> {
    secret.lines().filter(|line| line.len() > 8 && !line.starts_with("-----")).collect()
}

fn found_in<'a>(bytes: &[u8], secrets: &[&'a str]) -> Vec<&'a str> {
    let all = secrets.iter().flat_map(|secret| parts(secret));
    all.filter(|part| bytes.windows(part.len()).any(|window| window == part.as_bytes())).collect()
}

/// A process and all that it has started, threads' children included.
fn family(pid: &str) -> Vec<String> {
    let mut all = vec![pid.to_owned()];
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().flat_map(family));
    }
    all
}

/// While it works, when it succeeds and when it fails in each of its ways, an ssh key and its passphrase are nowhere but
/// in the memory of the two processes.
#[tokio::test]
async fn an_ssh_key_and_its_passphrase_are_nowhere() {
    let (log, _guard) = listening();

    let plant = Plant::new();
    let sshd = crate::ssh::Sshd::start(&plant, &["ed25519"], &[]);
    let (known, passphrase) = (sshd.known_hosts(), format!("{CANARY} open sesame"));
    let key = sshd.client_key("client-canary", "ed25519", &passphrase, &[]);
    let secrets = [key.expose(), &passphrase];
    let unknown = sshd.client_key("client-removed", "ed25519", &passphrase, &[]);
    fs::write(
        sshd.dir.join("authorized_keys"),
        fs::read_to_string(sshd.dir.join("client-canary.pub")).unwrap(),
    )
    .unwrap();
    let remote = |key, passphrase, known: &str| sshd.remote(&plant.bare(), Some((key, passphrase)), known);

    // In the middle of its work.
    let relay = crate::relay::Breaking::before(sshd.port, crate::relay::Fate::Stall(4000));
    let lines = known.replace(&format!(":{}", sshd.port), &format!(":{}", relay.port));
    let through = remote(&key, Some(&passphrase), &lines);
    let through = Remote {
        url: url_of(
            &through.url.to_string().replace(&format!(":{}", sshd.port), &format!(":{}", relay.port)),
        ),
        ..through
    };
    let (child, pid) = recording_child(&plant);
    let task = tokio::spawn(async move { Git::new(child).resolve(&through, &"main".parse().unwrap()).await });
    eventually("it is in the middle", || relay.passed.load(std::sync::atomic::Ordering::SeqCst) > 1500).await;
    let pid = fs::read_to_string(pid).unwrap();
    for process in family(pid.trim()) {
        for file in ["cmdline", "environ"] {
            // The environment of a process that hides its memory is for root to read.
            let bytes = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            assert!(file != "cmdline" || !bytes.is_empty(), "it runs");
            assert_eq!(found_in(&bytes, &secrets), Vec::<&str>::new(), "{file} of {process}");
        }
    }
    task.abort();

    let cache = plant.cache("a");
    let good = remote(&key, Some(&passphrase), &known);
    sync(&client(), &good, "main", &cache).await;
    let mut shown = format!("{good:?}");
    for bad in [
        remote(&key, None, &known),
        remote(&key, Some("canary-wrong-passphrase"), &known),
        remote(&unknown, Some(&passphrase), &known),
        remote(&key, Some(&passphrase), ""),
    ] {
        let error = client().resolve(&bad, &"main".parse().unwrap()).await.unwrap_err();
        shown += &format!("{bad:?}\n{error}\n{error:?}\n{}\n", stoker_core::chain(&error));
    }
    let all = [key.expose(), unknown.expose(), &passphrase, "canary-wrong-passphrase"];
    assert_eq!(found_in(shown.as_bytes(), &all), Vec::<&str>::new(), "{shown}");
    assert_eq!(found_in(&log.0.lock().unwrap(), &all), Vec::<&str>::new());
    let mut files = vec![cache.dir().to_owned()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            seen += 1;
            assert_eq!(found_in(&fs::read(&path).unwrap(), &all), Vec::<&str>::new(), "{}", path.display());
        }
    }
    assert!(seen > 5, "{seen} files");
}

/// With a login that has the canary for its password.
fn proxy_at(address: &str) -> stoker_git::Proxy {
    let proxy: stoker_git::Proxy = format!("http://{address}").parse().unwrap();
    proxy.with_login("somebody".into(), CANARY.into()).unwrap()
}

/// A password for a proxy, in the environment's URL of it or in the resource, is not repeated, whatever the proxy answers.
#[tokio::test]
async fn the_password_of_a_proxy_is_in_no_error() {
    let (log, _guard) = listening();
    let plant = Plant::new();
    let wanted = "main".parse().unwrap();
    for answer in
        ["HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "220 smtp\r\n", ""]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let proxy = format!("http://somebody:{CANARY}@{address}");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                use std::io::{Read, Write};
                let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
                let length = stream.read(&mut request).unwrap_or_default();
                log.lock().unwrap().extend_from_slice(&request[..length]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let script = plant.dir.path().join("proxied.sh");
        let real = env!("CARGO_BIN_EXE_stoker-git-child");
        let text = format!(
            "#!/bin/sh\nexport HTTP_PROXY={proxy} http_proxy={proxy} https_proxy={proxy}\nexec {real} \"$@\"\n"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let git = Git::new(stoker_git::ChildCommand::executable(&script)).with_limits(impatient());
        let own = Access { proxy: Some(proxy_at(&address)), ..Access::default() };
        for (scheme, access) in
            [("http", Access::default()), ("https", Access::default()), ("http", own.clone()), ("https", own)]
        {
            let client = if access.proxy.is_some() { client().with_limits(impatient()) } else { git.clone() };
            let remote = Remote::new(url_of(&format!("{scheme}://git.example.invalid/plant.git")), access);
            let error = client.resolve(&remote, &wanted).await.unwrap_err();
            let shown = format!("{error}\n{error:?}\n{}\n{remote:?}", stoker_core::chain(&error));
            assert!(!contains(shown.as_bytes()) && !shown.contains("Y2FuYXJ5"), "{answer:?}: {shown}");
        }
        let asked = String::from_utf8(asked.lock().unwrap().clone()).unwrap().to_lowercase();
        assert_eq!(asked.matches("proxy-authorization").count(), 4, "the proxy was used: {asked}");
    }
    assert!(!contains(&log.0.lock().unwrap()));
}

/// A crash leaves no image of the memory, even where the parent's limits would allow one.
#[tokio::test]
async fn a_child_that_aborts_leaves_no_core() {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    let plant = Plant::new();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/plant.git", silent.local_addr().unwrap());
    // Learn what a parent says to its child.
    let (script, request) = (plant.dir.path().join("spy.sh"), plant.dir.path().join("request"));
    fs::write(
        &script,
        format!("#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\" > {}\n", request.display()),
    )
    .unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spy = Git::new(stoker_git::ChildCommand::executable(script));
    spy.resolve(&remote_as(&url, token(CANARY)), &"main".parse().unwrap()).await.unwrap_err();
    assert!(contains(&fs::read(&request).unwrap()), "the secret comes through the pipe");

    let generous = |what: &str| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -c unlimited; exec {what}")]).current_dir(folder.path());
        (folder, command)
    };
    // Whether a process like it would leave one here.
    let (_folder, mut control) = generous("sh -c 'kill -ABRT $$'");
    let control = control.stderr(Stdio::null()).status().unwrap();
    assert_eq!(control.signal(), Some(6));

    let (folder, mut command) =
        generous(&format!("{} __stoker-git-child", env!("CARGO_BIN_EXE_stoker-git-child")));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&fs::read(&request).unwrap()).unwrap();
    let (_connection, _) = silent.accept().await.unwrap();
    assert!(Command::new("kill").args(["-ABRT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    println!("without its precautions a process would have left a core here: {}", control.core_dumped());
}
