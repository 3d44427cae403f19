//! The processes of a node and their configuration.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{LEVEL_2, NODE_NAME, network::Block, run};
use crate::control_plane::component_kubeconfig;
use crate::images::Image;
use crate::leash::{Leash, Process};
use crate::place::Place;
use crate::tools::{self, Tool};
use crate::wait;

/// In the node's own `/run`.
pub(super) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const PAUSE_IMAGE: &str = "stoker.test/pause:1";
const START_LIMIT: Duration = Duration::from_secs(30);

/// The node's state. Not in the leash's folder: a process that is about to end could make that anew while the
/// keeper deletes it.
const STATE: &str = "/run/stoker";

/// Sets up the mounts and goes on as the node's first process, which reaps what others leave.
///
/// `/run` and `/var/log` are memory that vanishes with the mount namespace. `$1` is a program that sleeps and reaps.
const INIT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 stoker /run
mount -t tmpfs -o mode=755 stoker /var/log
mkdir /run/var-lib /run/var-lib-work
# The kubelet makes this folder on whatever machine it runs; an overlay keeps it off ours, where overlays work.
[ -d /var/lib/kubelet ] ||
  mount -t overlay -o lowerdir=/var/lib,upperdir=/run/var-lib,workdir=/run/var-lib-work stoker /var/lib || :
mkdir -p /var/lib/kubelet
mount -t tmpfs -o mode=755 stoker /var/lib/kubelet
exec "$1"
"#;

/// A name for the control groups of the node's pods, unlike that of any other node on this machine.
pub(super) fn control_group_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("stoker-node-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn spawn_init(leash: &Leash) -> Result<Process> {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", INIT, "stoker-init"])
        .arg(tools::obtain(Tool::Pause)?);
    leash.spawn("init", &mut command)
}

/// Waits until the namespaces are set up and returns a process in them.
pub(super) async fn namespaces_of(unshare: &mut Process) -> Result<u32> {
    let parent = unshare.pid();
    let limit = Duration::from_secs(10);
    let found = wait::until("the node's namespaces", limit, || {
        let alive = unshare.check();
        async move {
            if let Err(dead) = alive {
                return Ok(Some(Err(dead)));
            }
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
            let Some(pid) = children.split_whitespace().next() else { return Ok(None) };
            // The setup is over when the shell has become the program that sleeps.
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
            Ok((name.trim() == Tool::Pause.name()).then(|| Ok(pid.parse()?)))
        }
    });
    found.await?
}

/// The folders of the tools, for `PATH`.
pub(super) fn tool_folders() -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for &tool in LEVEL_2.iter().chain([&Tool::Helm]) {
        let Some(ready) = tools::find(tool)? else { continue };
        let folder = ready.path.parent().context("a tool lies in a folder")?.to_owned();
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

pub(super) fn spawn_containerd(leash: &Leash, pid: u32, block: &Block) -> Result<Process> {
    let folder = leash.folder();
    let state = Path::new(STATE);
    let runc = tools::program("runc").context("no runc")?;
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": state.join("cni"),
                "ranges": [[{"subnet": block.pods()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    let cni = folder.join("cni");
    std::fs::create_dir_all(cni.join("conf"))?;
    std::fs::create_dir_all(cni.join("bin"))?;
    std::fs::write(cni.join("conf/10-pods.conflist"), network.to_string())?;
    for tool in [Tool::CniPtp, Tool::CniHostLocal, Tool::CniLoopback] {
        std::os::unix::fs::symlink(tools::obtain(tool)?, cni.join("bin").join(tool.name()))?;
    }
    // A JSON string is a TOML string.
    let config = format!(
        r#"
version = 3
root = {root}
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.blockfile"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{bin}]
conf_dir = {conf}
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc}
SystemdCgroup = false
"#,
        root = json!(state.join("containerd")),
        bin = json!(cni.join("bin")),
        conf = json!(cni.join("conf")),
        runc = json!(runc),
    );
    let path = folder.join("containerd.toml");
    std::fs::write(&path, config)?;
    let shims = tools::obtain(Tool::ContainerdShim)?;
    let mut command = Place::Inside(pid).command(tools::obtain(Tool::Containerd)?);
    command.arg("--config").arg(path).env("PATH", search_path(&shims)?);
    leash.spawn("containerd", &mut command)
}

/// `PATH` with the tool's folder and the folders for administrators.
fn search_path(tool: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = tool.parent().context("a tool lies in a folder")?.to_owned();
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let all = std::iter::once(folder).chain(std::env::split_paths(&path)).chain(administrators);
    Ok(std::env::join_paths(all)?)
}

pub(super) async fn containerd_answers(pid: u32, processes: &mut [Process]) -> Result<()> {
    let ctr = tools::obtain(Tool::Ctr)?;
    wait::until("containerd to answer", START_LIMIT, || {
        let dead = processes.iter_mut().find_map(|process| process.check().err());
        let mut version = Place::Inside(pid).command(&ctr);
        version.args(["--address", CONTAINERD_SOCKET, "version"]);
        async move {
            if let Some(dead) = dead {
                return Ok(Some(Err(dead)));
            }
            let status = version.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(status.success().then_some(Ok(())))
        }
    })
    .await?
}

pub(super) fn load_pause(folder: &Path, pid: u32) -> Result<()> {
    let archive = folder.join("pause.tar");
    Image::new(PAUSE_IMAGE)
        .entrypoint(["/pause"])
        .user(65535)
        .copy("/pause", 0o755, tools::obtain(Tool::Pause)?)
        .write(&archive)?;
    load_image(pid, &archive)
}

pub(super) fn load_image(pid: u32, archive: &Path) -> Result<()> {
    let archive = archive.canonicalize().with_context(|| format!("the archive {}", archive.display()))?;
    let ctr = tools::obtain(Tool::Ctr)?;
    let mut import = Place::Inside(pid).command(ctr);
    import
        .args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", "--local"])
        .arg(&archive);
    run(&mut import).with_context(|| format!("loading {}", archive.display()))?;
    Ok(())
}

pub(super) fn spawn_kubelet(leash: &Leash, pid: u32, block: &Block, control_group: &str) -> Result<Process> {
    let folder = leash.folder();
    let state = Path::new(STATE);
    let resolv = folder.join("resolv.conf");
    std::fs::write(&resolv, "")?;
    make_control_groups(control_group)?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "cgroupRoot": format!("/{control_group}"),
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "maxPods": 200,
        "podLogsDir": state.join("pod-logs"),
        "volumePluginDir": state.join("volume-plugins"),
        "resolvConf": resolv,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "nodeStatusReportFrequency": "1m",
        "logging": {"verbosity": 1},
    });
    let path = folder.join("kubelet.json");
    std::fs::write(&path, config.to_string())?;
    let kubelet = tools::obtain(Tool::Kubelet)?;
    let mut command = Place::Inside(pid).command(&kubelet);
    command
        .arg(format!("--config={}", path.display()))
        .arg(format!("--kubeconfig={}", component_kubeconfig(folder, "kubelet").display()))
        .arg(format!("--root-dir={}", state.join("kubelet").display()))
        .arg(format!("--cert-dir={}", state.join("kubelet-pki").display()))
        .arg(format!("--node-ip={}", block.node()))
        .arg(format!("--hostname-override={NODE_NAME}"))
        .env("PATH", search_path(&kubelet)?);
    leash.spawn("kubelet", &mut command)
}

/// The parent of the pods' control groups, in each hierarchy there is.
fn make_control_groups(name: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        std::fs::create_dir_all(root.join(name))?;
        return Ok(());
    }
    let mut made = 0;
    for hierarchy in std::fs::read_dir(root).context("no control groups")? {
        let hierarchy = hierarchy?;
        if hierarchy.file_type()?.is_dir() && hierarchy.path().join("cgroup.procs").exists() {
            std::fs::create_dir_all(hierarchy.path().join(name))?;
            made += 1;
        }
    }
    if made == 0 {
        bail!("{} has no hierarchy of control groups", root.display());
    }
    Ok(())
}

pub(super) fn spawn_proxy(leash: &Leash, pid: u32, block: &Block) -> Result<Process> {
    let folder = leash.folder();
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": component_kubeconfig(folder, "proxy")},
        "hostnameOverride": NODE_NAME,
        "mode": "iptables",
        "clusterCIDR": block.pods(),
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        // The limits of connection tracking are the machine's, not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    });
    let path = folder.join("proxy.json");
    std::fs::write(&path, config.to_string())?;
    let proxy = tools::obtain(Tool::KubeProxy)?;
    let mut command = Place::Inside(pid).command(&proxy);
    command.arg(format!("--config={}", path.display())).env("PATH", search_path(&proxy)?);
    leash.spawn("kube-proxy", &mut command)
}
