//! `cargo xtask cluster`: an API server or a whole node that stays until `down`.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use stoker_testkit::api_server::SHARED_API_SERVER;
use stoker_testkit::node::SHARED_NODE;
use stoker_testkit::require::IMAGES;
use stoker_testkit::tools::{self, Tool};
use stoker_testkit::{ApiServer, Node};

use crate::images;

/// A real cluster to work with
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Start a cluster that stays, and print how to reach it
    Up(Up),
    /// Run a command with KUBECONFIG set and kubectl, helm and ctr in PATH; in the node's namespaces, if it is a node
    Exec(Exec),
    /// Load images into the node: archives, or names such as `stoker-agent` that `cargo xtask images` assembled
    Load(Load),
    /// Say whether a cluster runs, and how to reach it
    Status,
    /// Print variables by which tests use this cluster: `eval "$(cargo xtask cluster env)"; cargo test`
    Env,
    /// End the cluster
    Down,
    /// Hold a cluster until SIGTERM
    #[command(hide = true)]
    Serve(Serve),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A whole node: containerd, kubelet, scheduler, Services (root on Linux). Without: API server and controllers
    #[arg(long)]
    node: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Use the cluster's network only, with this machine's files and processes
    #[arg(long)]
    network_only: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[arg(long)]
    node: bool,
    #[arg(long)]
    state: PathBuf,
}

/// What is known about the running cluster, in `target/cluster/state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The process that holds it.
    pid: i32,
    kubeconfig: PathBuf,
    /// The description of the node, if it is one.
    node: Option<PathBuf>,
}

impl Cluster {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Up(up) => up.run()?,
            Self::Exec(exec) => return exec.run(),
            Self::Load(load) => load.run()?,
            Self::Status => return status(),
            Self::Env => env()?,
            Self::Down => down()?,
            Self::Serve(serve) => serve.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Up {
    fn run(self) -> Result<()> {
        if let Some(state) = running()? {
            if self.node && state.node.is_none() {
                bail!("a cluster without a node runs: `cargo xtask cluster down` first");
            }
            println!("A cluster runs already.\n{}", state.directions()?);
            return Ok(());
        }
        // Here, where its progress can be seen; the process in the background finds everything ready.
        obtain_parts(self.node)?;
        let folder = state_folder()?;
        let (state, log) = (folder.join("state.json"), folder.join("log"));
        let _ = std::fs::remove_file(&state);
        let output = File::create(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["cluster", "serve", "--state"]).arg(&state);
        if self.node {
            command.arg("--node");
        }
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .current_dir("/")
            // Ctrl-C in this terminal is not for the cluster.
            .process_group(0)
            .spawn()?;
        while !state.exists() {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the cluster did not start ({status}):\n{}", log.trim_end());
            }
            if start.elapsed() > Duration::from_secs(180) {
                child.kill()?;
                bail!("the cluster was not ready within three minutes; its log is {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let state = State::read(&state)?;
        println!("Ready after {:.1} s.\n{}", start.elapsed().as_secs_f64(), state.directions()?);
        Ok(())
    }
}

impl Serve {
    fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let (server, node);
            let (kubeconfig, description) = if self.node {
                node = Node::start().await?;
                (node.kubeconfig(), Some(node.description_path()))
            } else {
                server = ApiServer::start().await?;
                (server.kubeconfig(), None)
            };
            let pid = i32::try_from(std::process::id())?;
            let state = State { pid, kubeconfig, node: description };
            let temporary = self.state.with_extension("new");
            std::fs::write(&temporary, serde_json::to_vec_pretty(&state)?)?;
            std::fs::rename(&temporary, &self.state)?;
            terminated.recv().await;
            let _ = std::fs::remove_file(&self.state);
            Ok(())
        })
    }
}

impl Exec {
    fn run(self) -> Result<ExitCode> {
        let Some(state) = running()? else { bail!("no cluster runs: `cargo xtask cluster up [--node]`") };
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = match &state.node {
            Some(description) => {
                let node = Node::attach(description)?;
                if self.network_only { node.network().command(program) } else { node.command(program) }
            }
            None => Command::new(program),
        };
        command
            .args(arguments)
            .env("KUBECONFIG", &state.kubeconfig)
            .env("PATH", search_path()?)
            // Tests started this way use this cluster.
            .envs(state.variables()?);
        let status = command.status().with_context(|| format!("running {program}"))?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}

impl Load {
    fn run(self) -> Result<()> {
        let Some(State { node: Some(description), .. }) = running()? else {
            bail!("no node runs: `cargo xtask cluster up --node`")
        };
        let node = Node::attach(&description)?;
        for image in &self.images {
            let archive = images::archive(image)?;
            node.load_image(&archive)?;
            println!("loaded {}", archive.display());
        }
        Ok(())
    }
}

impl State {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
    }

    /// What makes tests use this cluster.
    fn variables(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let mut variables = vec![(SHARED_API_SERVER, self.kubeconfig.clone())];
        if let Some(description) = &self.node {
            variables.extend([(SHARED_NODE, description.clone()), (IMAGES, images::images_folder()?)]);
        }
        Ok(variables)
    }

    fn directions(&self) -> Result<String> {
        let mut lines = vec![format!("  kubeconfig   {}", self.kubeconfig.display())];
        if let Some(description) = &self.node {
            let node = Node::attach(description)?;
            let block = node.block();
            lines.push(format!("  node         {} (this machine is {} to it)", block.node(), block.host()));
            lines.push(format!("  ranges       pods {}, Services {}", block.pods(), block.services()));
            lines.push(format!("  network      nsenter --net={}", node.netns().display()));
        }
        if let Some(folder) = self.kubeconfig.parent() {
            lines.push(format!("  logs         {}", folder.join("logs").display()));
        }
        lines.push("  a command    cargo xtask cluster exec -- kubectl get pods -A".into());
        lines.push("  to end it    cargo xtask cluster down".into());
        Ok(lines.join("\n"))
    }
}

fn status() -> Result<ExitCode> {
    let Some(state) = running()? else {
        println!("No cluster runs.");
        return Ok(ExitCode::FAILURE);
    };
    println!("A cluster runs (pid {}).\n{}", state.pid, state.directions()?);
    Ok(ExitCode::SUCCESS)
}

fn env() -> Result<()> {
    let Some(state) = running()? else { bail!("no cluster runs: `cargo xtask cluster up [--node]`") };
    for (name, value) in state.variables()? {
        println!("export {name}='{}'", value.display());
    }
    println!("export KUBECONFIG='{}'", state.kubeconfig.display());
    Ok(())
}

fn down() -> Result<()> {
    let Some(state) = running()? else {
        println!("No cluster runs.");
        return Ok(());
    };
    let pid = Pid::from_raw(state.pid).context("a process id is positive")?;
    rustix::process::kill_process(pid, Signal::TERM)?;
    let start = Instant::now();
    while is_holder(state.pid) {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("the cluster (pid {}) did not end within 30 s", state.pid);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("The cluster has ended.");
    Ok(())
}

/// The cluster of this checkout, if its process lives.
fn running() -> Result<Option<State>> {
    let path = state_folder()?.join("state.json");
    if !path.exists() {
        return Ok(None);
    }
    let state = State::read(&path)?;
    Ok(is_holder(state.pid).then_some(state))
}

/// Whether this process is one that holds a cluster: a process id alone may have gone to another.
fn is_holder(pid: i32) -> bool {
    let Ok(output) = Command::new("ps").args(["-o", "stat=,args=", "-p", &pid.to_string()]).output() else {
        return false;
    };
    let line = String::from_utf8_lossy(&output.stdout);
    line.contains("cluster serve") && !line.trim_start().starts_with('Z')
}

fn state_folder() -> Result<PathBuf> {
    let folder = target_folder().join("cluster");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The target folder of this checkout: clusters and images of another are never touched.
pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => folder.into(),
        None => workspace().join("target"),
    }
}

/// The root of this checkout.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

pub(crate) fn obtain_parts(node: bool) -> Result<()> {
    tools::obtain_all(stoker_testkit::LEVEL_1)?;
    if node {
        tools::obtain_all(stoker_testkit::node::LEVEL_2)?;
    } else {
        tools::obtain(Tool::Kubectl)?;
    }
    Ok(())
}

/// `PATH` with every tool that is ready.
fn search_path() -> Result<std::ffi::OsString> {
    let mut folders = Vec::new();
    for &tool in Tool::DEFAULT {
        let Some(ready) = tools::find(tool)? else { continue };
        let folder = ready.path.parent().context("a tool lies in a folder")?.to_owned();
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path)))?)
}
