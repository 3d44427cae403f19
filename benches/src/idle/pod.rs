//! One gateway pod without a kubelet: an agent and a fake gateway that share a loopback of their own.
//!
//! An agent finds its gateway on loopback, at one port for all gateways of a `Stoker`, and its credentials under
//! `/etc/stoker`. So each gets what a pod would give it, a network and a mount namespace, held by a process that
//! sleeps. Nothing leads out of that network; the two servers that an agent must reach are brought in:
//!
//! ```text
//!  namespaces of gw-3                                     this process
//! ┌──────────────────────────────────────┐
//! │ agent ──▶ 127.0.0.1:8043  ───────────┼──socket made there──▶ fake gateway
//! │       ──▶ 127.0.0.1:<port> ──────────┼──socket made there──▶ forwarder ──▶ API server, git server
//! └──────────────────────────────────────┘
//! ```

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoker_ignition::fake::FakeGateway;
use stoker_k8s::inject::contract;
use stoker_testkit::leash::{Leash, Process};
use stoker_testkit::wait;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The gateway's port for https, as a `Stoker` has it by default.
const GATEWAY_PORT: u16 = 8043;
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the pod's view of the file system, then sleeps. `$1` is the pod's folder.
///
/// `/etc` and `/run` are covered inside this mount namespace only: the machine's own stay as they are. Certificates and
/// the linker's cache are kept, because an image has them too and they cost memory.
const PAUSE: &str = r#"
set -e
ip link set lo up
mkdir "$1/etc"
mount --bind /etc "$1/etc"
mount -t tmpfs -o mode=755 tmpfs /etc
for kept in ssl ca-certificates ld.so.cache nsswitch.conf passwd group; do
  if [ -e "$1/etc/$kept" ]; then cp -a "$1/etc/$kept" /etc/; fi
done
mkdir /etc/stoker
mount --bind "$1/stoker" /etc/stoker
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
mount --bind "$1/serviceaccount" /run/secrets/kubernetes.io/serviceaccount
touch "$1/ready"
exec sleep 2147483647
"#;

/// Who the pod is, and what it may know.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) cr: String,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    /// The token of its service account.
    pub(super) token: String,
    /// The API server's certificate authority, in PEM.
    pub(super) authority: String,
    pub(super) git_token: String,
    pub(super) api_key: String,
    /// Annotations and labels as the downward API writes them.
    pub(super) annotations: String,
    pub(super) labels: String,
}

/// A running pod.
pub(super) struct Pod {
    pub(super) agent: Process,
    data: PathBuf,
    // Held, not used: each ends with the pod.
    _gateway: FakeGateway,
    _forwarders: JoinSet<()>,
    _pause: Process,
}

impl Pod {
    /// Starts one; `reachable` are the servers of this machine that it may connect to, at the same addresses.
    pub(super) async fn start(
        leash: &Leash,
        agent: &Path,
        identity: &Identity,
        api_server: SocketAddr,
        git_server: SocketAddr,
    ) -> Result<Self> {
        let folder = leash.folder().join("pods").join(&identity.pod);
        let (data, cache) = (folder.join("data"), folder.join("cache"));
        for made in [&data, &cache] {
            std::fs::create_dir_all(made)?;
        }
        write_mounts(&folder, identity)?;

        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", PAUSE, "pause"])
            .arg(&folder);
        let mut pause = leash.spawn(&format!("{}-pause", identity.pod), &mut command)?;
        let ready = folder.join("ready");
        wait::until("the pod's namespaces", LIMIT, || {
            // A dead one is reported at once.
            let alive = pause.check();
            let made = ready.exists();
            async move {
                if let Err(dead) = alive {
                    return Ok(Some(Err(dead)));
                }
                Ok(made.then_some(Ok(())))
            }
        })
        .await??;

        let network = Network::of(&pause)?;
        let mut forwarders = JoinSet::new();
        for address in [api_server, git_server] {
            let listener = network.enter(move || Ok(TcpListener::bind(address)?))?;
            listener.set_nonblocking(true)?;
            forwarders.spawn(forward(tokio::net::TcpListener::from_std(listener)?, address));
        }
        let builder = FakeGateway::builder(&data)
            .api_key(&identity.api_key)
            .http(None)
            .https(Some((Ipv4Addr::LOCALHOST, GATEWAY_PORT).into()));
        let runtime = tokio::runtime::Handle::current();
        // Listens in the thread that is in the pod's network; its tasks run here.
        let gateway = network.enter(move || Ok(runtime.block_on(builder.start())?))?;

        let mut command = Command::new("nsenter");
        command
            .args([format!("--target={}", pause.pid()), "--net".into(), "--mount".into()])
            .arg("--")
            .arg(agent)
            .args(arguments(identity))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--cache-dir={}", cache.display()))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KUBERNETES_SERVICE_HOST", api_server.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", api_server.port().to_string())
            .env("NO_COLOR", "1");
        let agent = leash.spawn(&identity.pod, &mut command)?;
        Ok(Self { agent, data, _gateway: gateway, _forwarders: forwarders, _pause: pause })
    }

    /// Fails unless the gateway's data directory holds a file of the repository.
    pub(super) fn check(&mut self, file: &str) -> Result<()> {
        self.agent.check()?;
        ensure!(self.data.join(file).is_file(), "{} is not in {}", file, self.data.display());
        Ok(())
    }
}

/// As injection writes them; the data and cache directories are added by the caller.
fn arguments(identity: &Identity) -> Vec<String> {
    vec![
        format!("{}={}", contract::FLAG_CR, identity.cr),
        format!("{}={}", contract::FLAG_NAMESPACE, identity.namespace),
        format!("{}={}", contract::FLAG_POD, identity.pod),
        format!("{}={}", contract::FLAG_POD_UID, identity.uid),
        format!("{}={}", contract::FLAG_HEALTH_PORT, contract::HEALTH_PORT),
        format!("{}=300", contract::FLAG_STARTUP_TIMEOUT_SECONDS),
        format!("{}=UseLastGood", contract::FLAG_ON_STARTUP_TIMEOUT),
        format!("{}={}", contract::FLAG_CACHE_LIMIT_BYTES, 2u64 << 30),
    ]
}

/// What the kubelet would mount.
fn write_mounts(folder: &Path, identity: &Identity) -> Result<()> {
    let below = |path: &str, prefix: &str| -> Result<PathBuf> {
        Ok(Path::new(path).strip_prefix(prefix).with_context(|| format!("{path} is not in {prefix}"))?.into())
    };
    let stoker = folder.join("stoker");
    for (path, content) in [
        (contract::GATEWAY_API_KEY, &identity.api_key),
        (contract::GIT_TOKEN, &identity.git_token),
        (contract::PODINFO_ANNOTATIONS, &identity.annotations),
        (contract::PODINFO_LABELS, &identity.labels),
    ] {
        let target = stoker.join(below(path, "/etc/stoker")?);
        std::fs::create_dir_all(target.parent().context("a mounted file lies in a folder")?)?;
        std::fs::write(target, content)?;
    }
    let account = folder.join("serviceaccount");
    std::fs::create_dir_all(&account)?;
    for (name, content) in
        [("token", &identity.token), ("ca.crt", &identity.authority), ("namespace", &identity.namespace)]
    {
        std::fs::write(account.join(name), content)?;
    }
    Ok(())
}

/// The network namespace of a process.
struct Network(File);

impl Network {
    fn of(process: &Process) -> Result<Self> {
        let path = format!("/proc/{}/ns/net", process.pid());
        Ok(Self(File::open(&path).with_context(|| format!("opening {path}"))?))
    }

    /// Runs something in that network, in a thread of its own that ends with it.
    fn enter<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("entering a network namespace")?;
                what()
            });
            inside.join().map_err(|_| anyhow!("the thread in the pod's network panicked"))?
        })
    }
}

/// Hands every connection on to the same address in this process's own network.
async fn forward(listener: tokio::net::TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let Ok(mut outside) = TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
        });
    }
}
