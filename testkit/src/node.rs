//! Level 2: a whole Kubernetes node, in namespaces of its own. Needs root on Linux.
//!
//! ```text
//!  tests, helm, kubectl                     network, mount and process namespaces of the node
//!  host end of a veth  10.x.y.1 ───────── 10.x.y.2  API server :6443, kubelet, kube-proxy
//!  routes to pods and Services ─────────▶          └─ pods 10.x.(y+1).0/24, Services 10.x.(y+2).0/24
//! ```
//!
//! Nothing in there can reach beyond this machine: the only way out is the veth, and no route leads further.
//! Its first process ends with the leash, and with it every process, mount, address and route of the node: the
//! kernel does the cleaning up. Each node takes an address block that no other uses, so that several live side
//! by side.
//!
//! Pods are connected point to point (CNI `ptp`), not by a bridge: then every packet is routed, and Services work
//! between pods without the `br_netfilter` module, which a machine may lack.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::api_server::ApiServer;
use crate::control_plane::{Blueprint, ControlPlane};
use crate::leash::{Leash, Process};
use crate::namespace::Namespace;
use crate::place::Place;
use crate::tools::{self, Missing, Tool};
use crate::{images, wait};

mod network;
mod runtime;

pub use network::Block;

/// Names the description of a node that tests of this process shall share with others; or is [`NO_NODE`].
pub const SHARED_NODE: &str = "STOKER_TEST_NODE";

/// The value of [`SHARED_NODE`] by which tests that need a node are left out.
pub const NO_NODE: &str = "none";

/// The name of the node's `Node` object.
pub const NODE_NAME: &str = "node";

const DESCRIPTION: &str = "node.json";
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a [`Node`] runs, beside what an [`ApiServer`] does.
pub const LEVEL_2: &[Tool] = &[
    Tool::Kubectl,
    Tool::Kubelet,
    Tool::KubeScheduler,
    Tool::KubeProxy,
    Tool::Containerd,
    Tool::ContainerdShim,
    Tool::Ctr,
    Tool::CniPtp,
    Tool::CniHostLocal,
    Tool::CniLoopback,
    Tool::Pause,
];

/// A running node.
#[derive(Debug)]
pub struct Node {
    server: ApiServer,
    description: Description,
    // In this order: the processes end before the leash deletes their files.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    #[allow(dead_code, reason = "held, not used: it ends with its owner")]
    plane: ControlPlane,
    kubelet: Mutex<Process>,
    #[allow(dead_code, reason = "held, not used: each ends with its owner")]
    others: Vec<Process>,
    #[allow(dead_code, reason = "held, not used: the node lives as long")]
    leash: Leash,
}

/// What another process must know to use a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// A process in all its namespaces.
    pub pid: u32,
    /// Its addresses.
    pub block: Block,
    /// The administrator's kubeconfig; works inside and outside.
    pub kubeconfig: PathBuf,
    /// Folders of the tools, for `PATH`.
    pub path: Vec<PathBuf>,
}

static SHARED: OnceCell<Node> = OnceCell::const_new();

impl Node {
    /// The node that all tests share: the one that `STOKER_TEST_NODE` names, else this process's own.
    ///
    /// # Errors
    ///
    /// As [`Node::start`]; the description cannot be read.
    pub async fn shared() -> Result<&'static Self> {
        SHARED
            .get_or_try_init(|| async {
                match std::env::var_os(SHARED_NODE).filter(|path| !path.is_empty()) {
                    Some(path) => Self::attach(Path::new(&path)),
                    None => Self::start().await,
                }
            })
            .await
    }

    /// Starts a node and waits until it is ready, about ten seconds.
    ///
    /// # Errors
    ///
    /// Not root, a tool cannot be obtained, or a part does not start.
    pub async fn start() -> Result<Self> {
        crate::init();
        crate::tools_ready(crate::LEVEL_1).await?;
        crate::tools_ready(LEVEL_2).await?;
        if let Some(missing) = lacking() {
            bail!("a node cannot run here: {missing}");
        }
        let control_group = runtime::control_group_name();
        let leash = Leash::with_control_group("node", Some(&control_group))?;
        let mut init = runtime::spawn_init(&leash)?;
        let pid = runtime::namespaces_of(&mut init).await?;
        let block = network::connect(pid)?;

        let blueprint = Blueprint {
            place: Place::Network(pid),
            address: block.node().into(),
            port: 6443,
            etcd_ports: [2379, 2380],
            service_cidr: block.services(),
            names: vec!["127.0.0.1".into(), "localhost".into(), block.first_service().to_string()],
            advertised: true,
            scheduler: true,
        };
        let containerd = runtime::spawn_containerd(&leash, pid, &block)?;
        let plane = ControlPlane::start(&leash, blueprint).await?;
        let server = ApiServer::attach(&leash.folder().join(crate::control_plane::KUBECONFIG))?;
        let mut others = vec![init, containerd];
        let description =
            Description { pid, block, kubeconfig: server.kubeconfig(), path: runtime::tool_folders()? };
        runtime::containerd_answers(pid, &mut others).await?;
        runtime::load_pause(leash.folder(), pid)?;
        let kubelet = runtime::spawn_kubelet(&leash, pid, &block, &control_group)?;
        others.push(runtime::spawn_proxy(&leash, pid, &block)?);
        let text = serde_json::to_string_pretty(&description)?;
        std::fs::write(leash.folder().join(DESCRIPTION), text)?;
        let own = Own { plane, kubelet: Mutex::new(kubelet), others, leash };
        let node = Self { server, description, own: Some(own) };
        node.ready().await?;
        node.services_ready().await?;
        Ok(node)
    }

    /// Uses a node that another process runs, by the file that its [`Node::description_path`] names.
    ///
    /// # Errors
    ///
    /// The file is absent or of another shape, or the node is gone.
    pub fn attach(description: &Path) -> Result<Self> {
        let text =
            std::fs::read(description).with_context(|| format!("reading {}", description.display()))?;
        let description: Description = serde_json::from_slice(&text)?;
        if !Path::new("/proc").join(description.pid.to_string()).exists() {
            bail!("the node that {} describes is gone", description.kubeconfig.display());
        }
        Ok(Self { server: ApiServer::attach(&description.kubeconfig)?, description, own: None })
    }

    /// The file by which other processes attach.
    pub fn description_path(&self) -> PathBuf {
        self.server.kubeconfig().with_file_name(DESCRIPTION)
    }

    /// The API server, with what it offers: service accounts' clients, the audit log.
    pub fn api(&self) -> &ApiServer {
        &self.server
    }

    /// A client of the administrator, for the calling runtime.
    ///
    /// # Errors
    ///
    /// The client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.server.client()
    }

    /// The administrator's kubeconfig file; it works inside the node and outside.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// The addresses of the node, of the host as seen from it, of its pods and Services.
    pub fn block(&self) -> Block {
        self.description.block
    }

    /// The node's address: what runs in its network listens here, for pods and for tests.
    pub fn address(&self) -> Ipv4Addr {
        self.description.block.node()
    }

    /// The host's address as pods see it: a test may serve something to them.
    pub fn host_address(&self) -> Ipv4Addr {
        self.description.block.host()
    }

    /// The node's network namespace, for `nsenter --net=`.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.description.pid))
    }

    /// Where to start a process that shall run in the node's network.
    pub fn network(&self) -> Place {
        Place::Network(self.description.pid)
    }

    /// The folders in which `kubectl`, `ctr` and the others are.
    pub fn tool_folders(&self) -> &[PathBuf] {
        &self.description.path
    }

    /// A fresh namespace, named after the running test; it is deleted, pods and all, when the value goes.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn namespace(&self) -> Result<Namespace> {
        let namespace = Namespace::create(&self.client()?, BTreeMap::new()).await?;
        Ok(namespace.deleted_at_end(&tools::obtain(Tool::Kubectl)?, &self.kubeconfig()))
    }

    /// A command that will run inside the node (network, mounts, processes), with `KUBECONFIG` and `PATH` set.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Place::Inside(self.description.pid).command(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = self.description.path.iter().cloned().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap_or(path));
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("CONTAINERD_ADDRESS", runtime::CONTAINERD_SOCKET);
        command
    }

    /// Runs a command inside the node and returns its output.
    ///
    /// # Errors
    ///
    /// It cannot be run or ends with another code than 0.
    pub fn exec<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let Some((program, arguments)) = words.split_first() else { bail!("exec of nothing") };
        run(self.command(program).args(arguments))
    }

    /// Loads an archive of images, as [`images::Image::write`] makes it, so that pods can use them.
    ///
    /// # Errors
    ///
    /// The archive is absent or broken.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        runtime::load_image(self.description.pid, archive)
    }

    /// Loads every archive (`*.tar`) of a folder.
    ///
    /// # Errors
    ///
    /// As [`Node::load_image`].
    pub fn load_images(&self, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tar") {
                self.load_image(&path)?;
            }
        }
        Ok(())
    }

    /// Whether this process holds the node, so that it may be broken.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Assembles an image and loads it.
    ///
    /// # Errors
    ///
    /// A file of it cannot be read.
    pub fn load(&self, image: &images::Image) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("image.tar");
        image.write(&archive)?;
        self.load_image(&archive)
    }

    /// Ends the kubelet hard; pods go on, and the node is `NotReady` after a while.
    ///
    /// # Errors
    ///
    /// The node is shared, so that others would suffer.
    pub fn kill_kubelet(&self) -> Result<()> {
        let own =
            self.own.as_ref().context("this node is shared: start one with Node::start() to break it")?;
        let mut kubelet =
            own.kubelet.lock().map_err(|_| anyhow::anyhow!("the kubelet's lock is poisoned"))?;
        kubelet.kill()?;
        Ok(())
    }

    /// The folder with the logs of every part.
    pub fn logs(&self) -> PathBuf {
        self.kubeconfig().with_file_name("logs")
    }

    async fn ready(&self) -> Result<()> {
        let nodes: Api<NodeObject> = Api::all(self.client()?);
        wait::until("the node to be ready", START_LIMIT, || {
            let dead = self.dead_part();
            let nodes = nodes.clone();
            async move {
                if let Some(dead) = dead {
                    return Ok(Some(Err(dead)));
                }
                let Some(node) = nodes.get_opt(NODE_NAME).await? else { return Ok(None) };
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
                match ready {
                    Some(ready) if ready.status == "True" => Ok(Some(Ok(()))),
                    Some(ready) => bail!("{}", ready.message.clone().unwrap_or_default()),
                    None => Ok(None),
                }
            }
        })
        .await?
    }

    /// Waits until kube-proxy has written its rules: the API server answers at its Service's address.
    async fn services_ready(&self) -> Result<()> {
        let address = (self.description.block.first_service(), 443);
        wait::until("the Service `kubernetes` to answer", START_LIMIT, || async move {
            tokio::net::TcpStream::connect(address).await?;
            Ok(Some(()))
        })
        .await
    }

    fn dead_part(&self) -> Option<anyhow::Error> {
        let own = self.own.as_ref()?;
        own.kubelet.lock().ok()?.check().err()
    }
}

/// Why a node cannot run on this machine, if so.
pub fn lacking() -> Option<Missing> {
    if std::env::var_os(SHARED_NODE).is_some_and(|value| value == NO_NODE) {
        return Some(Missing("no node is wanted".into()));
    }
    if !cfg!(target_os = "linux") {
        return Some(Missing("a node needs Linux".into()));
    }
    if !rustix::process::geteuid().is_root() {
        return Some(Missing("a node needs root".into()));
    }
    for program in ["unshare", "nsenter", "mount", "ip", "iptables", "runc"] {
        if tools::program(program).is_none() {
            return Some(Missing(format!(
                "a node needs `{program}`; `cargo xtask tools --apt` lists the packages"
            )));
        }
    }
    let namespaces = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    match namespaces {
        Ok(output) if output.status.success() => {}
        _ => return Some(Missing("a node needs the right to make namespaces".into())),
    }
    crate::require::lacking_for_level_1().or_else(|| LEVEL_2.iter().find_map(|tool| tools::missing(*tool)))
}

fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("running {}", command.get_program().display()))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("`{}` ended with {status}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8(stdout)?)
}
