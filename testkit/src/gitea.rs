//! A real forge: Gitea, with its API, its webhooks, its pull requests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rcgen::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

use crate::control_plane::free_ports;
use crate::leash::{Leash, Process};
use crate::place::Place;
use crate::repo::Repo;
use crate::tools::{self, Missing, Tool};
use crate::{Node, wait};

const ADMIN: &str = "ada";
/// Gitea refuses to be root; in a user namespace of its own root is this user. Nobody has this id by chance.
const USER_ID: u32 = 64_999;

/// A running Gitea with an administrator.
#[derive(Debug)]
pub struct Gitea {
    address: SocketAddr,
    ssh_port: u16,
    host_key: String,
    password: String,
    token: String,
    client: reqwest::Client,
    // In this order: the process ends before the leash deletes its files.
    process: Mutex<Process>,
    _leash: Leash,
}

/// A repository of the forge.
#[derive(Debug, Clone)]
pub struct ForgeRepo {
    /// `owner/name`.
    pub full_name: String,
    /// For people and agents: without a login.
    pub clone_url: String,
    /// For the test's own pushes: with the administrator's login in it.
    pub push_url: String,
}

impl Gitea {
    /// Starts one on loopback and makes an administrator with a token; about four seconds.
    ///
    /// # Errors
    ///
    /// It cannot be built or does not start.
    pub async fn start() -> Result<Self> {
        Self::start_at(Place::Here, Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one in a node's network, where pods and tests reach it at the node's address.
    ///
    /// # Errors
    ///
    /// As [`Gitea::start`].
    pub async fn start_in(node: &Node) -> Result<Self> {
        Self::start_at(node.network(), node.address().into()).await
    }

    async fn start_at(place: Place, address: IpAddr) -> Result<Self> {
        crate::init();
        crate::tools_ready(&[Tool::Gitea]).await?;
        if let Some(missing) = lacking() {
            bail!("Gitea cannot run here: {missing}");
        }
        let leash = Leash::new("gitea")?;
        let [port, ssh_port] = free_ports()?;
        let address = SocketAddr::new(address, port);
        let host_key = host_key(leash.folder())?;
        let password = random_text()?;
        let data = tools::data_dir(Tool::Gitea)?;
        std::fs::write(
            leash.folder().join("app.ini"),
            configuration(leash.folder(), &data, address, ssh_port)?,
        )?;

        run(&mut command(Place::Here, leash.folder(), &["migrate"])?)?;
        let user = ["admin", "user", "create", "--admin", "--username", ADMIN, "--password", &password];
        let mail = ["--email", "ada@plant.example", "--must-change-password=false"];
        run(command(Place::Here, leash.folder(), &user)?.args(mail))?;
        let token = ["admin", "user", "generate-access-token", "--username", ADMIN, "--token-name", "test"];
        let said = run(command(Place::Here, leash.folder(), &token)?.args(["--scopes", "all", "--raw"]))?;
        // On a busy machine it may have more to say than the token.
        let is_token = |line: &&str| line.len() == 40 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let token = said.lines().map(str::trim).find(is_token);
        let token = token.with_context(|| format!("Gitea printed no token: {said}"))?.to_owned();

        let mut process = leash.spawn("gitea", &mut command(place, leash.folder(), &["web"])?)?;
        wait::until_accepting(&mut process, address, Duration::from_secs(60)).await?;
        let client = {
            // No idle connections: tests with runtimes of their own share this value.
            let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
            client.timeout(Duration::from_secs(20)).build()?
        };
        let forge = Self {
            address,
            ssh_port,
            host_key,
            password,
            token,
            client,
            process: Mutex::new(process),
            _leash: leash,
        };
        // Asked as the administrator: an answer to anybody would not show that the token is known.
        wait::until("Gitea's API to answer", Duration::from_secs(30), || async {
            Ok(Some(forge.api(Method::GET, "user", None).await?))
        })
        .await?;
        Ok(forge)
    }

    /// Ends it hard, as when its machine dies.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().map_err(|_| anyhow!("another thread panicked with it"))?;
        process.kill()?;
        Ok(())
    }

    /// Such as `http://127.0.0.1:3000`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a repository over ssh, for whose key was added.
    pub fn ssh_url(&self, repo: &ForgeRepo) -> String {
        format!("ssh://git@{}:{}/{}.git", self.address.ip(), self.ssh_port, repo.full_name)
    }

    /// The line of a `known_hosts` file for [`Gitea::ssh_url`].
    pub fn known_hosts(&self) -> String {
        format!("[{}]:{} {}", self.address.ip(), self.ssh_port, self.host_key)
    }

    /// The administrator's name.
    pub fn user(&self) -> &str {
        ADMIN
    }

    /// The administrator's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A token of the administrator that may do everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Makes an empty repository of the administrator, with branch `main`.
    ///
    /// # Errors
    ///
    /// The forge refuses.
    pub async fn create_repo(&self, name: &str, private: bool) -> Result<ForgeRepo> {
        let body = json!({"name": name, "private": private, "default_branch": "main"});
        let made = self.api(Method::POST, "user/repos", Some(&body)).await?;
        let full_name = made["full_name"].as_str().context("the forge names what it makes")?.to_owned();
        let clone_url = format!("{}/{full_name}.git", self.url());
        let push_url = clone_url.replacen("://", &format!("://{ADMIN}:{}@", self.token), 1);
        Ok(ForgeRepo { full_name, clone_url, push_url })
    }

    /// Has the forge send pushes (and what else is named, such as `release`) to a URL, signed with a secret.
    ///
    /// # Errors
    ///
    /// The forge refuses.
    pub async fn create_webhook(
        &self,
        repo: &ForgeRepo,
        url: &str,
        secret: &str,
        events: &[&str],
    ) -> Result<u64> {
        let body = json!({
            "type": "gitea",
            "active": true,
            "events": events,
            "config": {"url": url, "content_type": "json", "secret": secret},
        });
        let made = self.api(Method::POST, &format!("repos/{}/hooks", repo.full_name), Some(&body)).await?;
        made["id"].as_u64().context("the forge numbers its webhooks")
    }

    /// Pushes a branch of a repository to the forge.
    ///
    /// # Errors
    ///
    /// The forge refuses.
    pub fn push(&self, from: &Repo, to: &ForgeRepo, refspecs: &[&str]) -> Result<()> {
        from.push(&to.push_url, refspecs)
    }

    /// Adds a public key with which the repository may be read, or written too.
    ///
    /// # Errors
    ///
    /// The forge refuses.
    pub async fn add_deploy_key(&self, repo: &ForgeRepo, public_key: &str, write: bool) -> Result<()> {
        let body = json!({"title": "stoker", "key": public_key.trim(), "read_only": !write});
        self.api(Method::POST, &format!("repos/{}/keys", repo.full_name), Some(&body)).await?;
        Ok(())
    }

    /// Calls the API, `path` without `/api/v1/`, as the administrator.
    ///
    /// # Errors
    ///
    /// The answer's status is not one of success; the text is what the forge says.
    pub async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}/api/v1/{path}", self.url());
        let mut request =
            self.client.request(method, &url).header("Authorization", format!("token {}", self.token));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            return Err(anyhow!("{url} answered {status}: {text}"));
        }
        if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
    }
}

/// Why Gitea cannot run on this machine, if so.
pub fn lacking() -> Option<Missing> {
    if rustix::process::geteuid().is_root() {
        let mapped = format!("--map-user={USER_ID}");
        let works = Command::new("unshare").args(["--user", &mapped, "true"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            return Some(Missing("Gitea refuses to be root and there are no user namespaces here".into()));
        }
    }
    if tools::program("ssh-keygen").is_none() {
        return Some(Missing("there is no `ssh-keygen` on this machine".into()));
    }
    tools::missing(Tool::Gitea)
}

fn command(place: Place, folder: &Path, arguments: &[&str]) -> Result<Command> {
    let gitea = tools::obtain(Tool::Gitea)?;
    let mut command;
    if rustix::process::geteuid().is_root() {
        command = place.command("unshare");
        command.arg("--user").args([format!("--map-user={USER_ID}"), format!("--map-group={USER_ID}")]);
        command.arg("--").arg(gitea).env("USER", "gitea");
    } else {
        command = place.command(gitea);
    }
    command
        .args(arguments)
        .args(["--config"])
        .arg(folder.join("app.ini"))
        .env("GITEA_WORK_DIR", folder)
        .env("HOME", folder)
        .env_remove("GIT_CONFIG_GLOBAL");
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env_remove(proxy);
    }
    Ok(command)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("running gitea")?;
    if !output.status.success() {
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        bail!("gitea ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Makes the ssh server's key, which Gitea would take seconds for, and returns the public half.
fn host_key(folder: &Path) -> Result<String> {
    let path = folder.join("host_key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&path);
    let output = command.output().context("running ssh-keygen")?;
    if !output.status.success() {
        bail!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(std::fs::read_to_string(path.with_extension("pub"))?.trim().to_owned())
}

fn configuration(folder: &Path, data: &Path, address: SocketAddr, ssh_port: u16) -> Result<String> {
    let user = match rustix::process::geteuid().is_root() {
        true => "gitea".to_owned(),
        false => String::from_utf8(Command::new("id").arg("-un").output()?.stdout)?.trim().to_owned(),
    };
    Ok(format!(
        "APP_NAME = forge
RUN_MODE = prod
RUN_USER = {user}
WORK_PATH = {folder}
[server]
PROTOCOL = http
HTTP_ADDR = {ip}
HTTP_PORT = {port}
ROOT_URL = http://{address}/
STATIC_ROOT_PATH = {data}
APP_DATA_PATH = {folder}/data
OFFLINE_MODE = true
START_SSH_SERVER = true
SSH_LISTEN_HOST = {ip}
SSH_LISTEN_PORT = {ssh_port}
SSH_PORT = {ssh_port}
BUILTIN_SSH_SERVER_USER = git
SSH_SERVER_HOST_KEYS = {folder}/host_key
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = {folder}/gitea.db
SQLITE_JOURNAL_MODE = WAL
SQLITE_TIMEOUT = 20000
[repository]
ROOT = {folder}/repositories
DEFAULT_BRANCH = main
[security]
INSTALL_LOCK = true
SECRET_KEY = {secret}
INTERNAL_TOKEN = {internal}
PASSWORD_HASH_ALGO = pbkdf2$1000$50
PASSWORD_COMPLEXITY = off
[oauth2]
JWT_SECRET = {jwt}
[service]
DISABLE_REGISTRATION = true
[queue]
; The persistent kind looks for work every two seconds at worst, once for the push and once for its delivery.
TYPE = channel
[webhook]
; Tests live on loopback and on a node's private addresses.
ALLOWED_HOST_LIST = loopback,private
SKIP_TLS_VERIFY = true
[log]
MODE = console
LEVEL = Warn
ROOT_PATH = {folder}/log
[indexer]
ISSUE_INDEXER_TYPE = db
[session]
PROVIDER = memory
[cron]
ENABLED = false
[cron.update_checker]
ENABLED = false
[actions]
ENABLED = false
[packages]
ENABLED = false
[picture]
DISABLE_GRAVATAR = true
",
        folder = folder.display(),
        data = data.display(),
        ip = address.ip(),
        port = address.port(),
        secret = random_text()?,
        internal = random_text()?,
        jwt = random_secret()?,
    ))
}

fn random_bytes() -> Result<Vec<u8>> {
    // The coordinates of a fresh public key: 32 bytes after the one that names the form.
    Ok(KeyPair::generate()?.public_key_raw().iter().skip(1).take(32).copied().collect())
}

fn random_text() -> Result<String> {
    Ok(random_bytes()?.iter().take(20).map(|byte| format!("{byte:02x}")).collect())
}

/// 32 bytes in the alphabet for URLs, the form in which Gitea keeps its keys.
fn random_secret() -> Result<String> {
    use base64::Engine;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes()?))
}
