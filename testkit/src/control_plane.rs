//! etcd, kube-apiserver and the controllers, as processes on a leash.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rcgen::KeyPair;

use crate::access::Access;
use crate::leash::{Leash, Process};
use crate::pki::Authority;
use crate::place::Place;
use crate::tools::{self, Tool};
use crate::wait;

/// The kubeconfig of the administrator, in the leash's folder.
pub(crate) const KUBECONFIG: &str = "kubeconfig";
/// One JSON object per request, in the leash's folder.
pub(crate) const AUDIT_LOG: &str = "audit.log";

const READY_LIMIT: Duration = Duration::from_secs(60);

/// What is decided before anything starts.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) place: Place,
    /// Where the API server listens and what it calls itself.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) etcd_ports: [u16; 2],
    pub(crate) service_cidr: String,
    /// Further names and addresses in the API server's certificate.
    pub(crate) names: Vec<String>,
    /// Whether the server makes itself known as Service `kubernetes`; it cannot at a loopback address.
    pub(crate) advertised: bool,
    pub(crate) scheduler: bool,
}

impl Blueprint {
    /// On loopback, at ports that are free now.
    pub(crate) fn on_loopback() -> Result<Self> {
        let [port, client, peer] = free_ports()?;
        Ok(Self {
            place: Place::Here,
            address: Ipv4Addr::LOCALHOST.into(),
            port,
            etcd_ports: [client, peer],
            service_cidr: "10.0.0.0/24".into(),
            names: vec!["localhost".into()],
            advertised: false,
            scheduler: false,
        })
    }
}

/// The running control plane.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    blueprint: Blueprint,
    folder: PathBuf,
    access: Access,
    etcd: Mutex<Process>,
    api_server: Mutex<Process>,
    #[allow(dead_code, reason = "held, not used: each ends with its owner")]
    controllers: Vec<Process>,
}

/// The components that have a token of their own, with their user and groups.
const COMPONENTS: &[(&str, &str, &str)] = &[
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:node", "system:nodes"),
];

const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:node:node"]
  - level: None
    userGroups: ["system:serviceaccounts:kube-system"]
  - level: Metadata
"#;

impl ControlPlane {
    pub(crate) async fn start(leash: &Leash, blueprint: Blueprint) -> Result<Self> {
        let folder = leash.folder().to_owned();
        let credentials = Credentials::write(&folder, &blueprint)?;
        let etcd = spawn_etcd(leash, &blueprint)?;
        let api_server = spawn_api_server(leash, &blueprint)?;
        let mut plane = Self {
            blueprint,
            folder,
            access: credentials.admin,
            etcd: Mutex::new(etcd),
            api_server: Mutex::new(api_server),
            controllers: Vec::new(),
        };
        plane.ready().await?;
        plane.controllers.push(spawn_controller_manager(leash, &plane.blueprint)?);
        if plane.blueprint.scheduler {
            plane.controllers.push(spawn_scheduler(leash, &plane.blueprint)?);
        }
        Ok(plane)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Waits until the API server says that it is ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let client = self.access.client()?;
        wait::until("the API server to be ready", READY_LIMIT, || {
            let client = client.clone();
            let alive = self.alive();
            async move {
                // A dead server is reported at once instead of after a minute of refused connections.
                if let Err(dead) = alive {
                    return Ok(Some(Err(dead)));
                }
                let request = http::Request::get("/readyz").body(Vec::new())?;
                let answer = client.request_text(request).await?;
                Ok((answer == "ok").then_some(Ok(())))
            }
        })
        .await?
    }

    fn alive(&self) -> Result<()> {
        locked(&self.etcd)?.check()?;
        locked(&self.api_server)?.check()
    }

    /// Ends the API server hard; what it stored stays.
    pub(crate) fn kill_api_server(&self) -> Result<()> {
        locked(&self.api_server)?.kill()?;
        Ok(())
    }

    /// Starts it again at the same address.
    pub(crate) async fn resume_api_server(&self, leash: &Leash) -> Result<()> {
        *locked(&self.api_server)? = spawn_api_server(leash, &self.blueprint)?;
        self.ready().await
    }

    /// Whether the last start failed because somebody else took a port first.
    pub(crate) fn lost_a_port(error: &anyhow::Error) -> bool {
        let text = format!("{error:#}");
        text.contains("address already in use") || text.contains("bind: ")
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn locked<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow!("another thread panicked while it held this process"))
}

struct Credentials {
    admin: Access,
}

impl Credentials {
    fn write(folder: &Path, blueprint: &Blueprint) -> Result<Self> {
        let pki = folder.join("pki");
        std::fs::create_dir_all(&pki)?;
        let authority = Authority::new("stoker-test")?;
        std::fs::write(pki.join("ca.crt"), authority.certificate())?;
        std::fs::write(pki.join("ca.key"), authority.key())?;
        let mut names = vec![blueprint.address.to_string()];
        names.extend(blueprint.names.iter().cloned());
        names.extend(
            [
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ]
            .map(str::to_owned),
        );
        authority.server(&names)?.write(&pki, "server")?;
        let accounts = KeyPair::generate()?;
        std::fs::write(pki.join("accounts.key"), accounts.serialize_pem())?;
        std::fs::write(pki.join("accounts.pub"), accounts.public_key_pem())?;
        std::fs::write(folder.join("audit-policy.yaml"), AUDIT_POLICY)?;

        let base = Access {
            server: format!("https://{}", SocketAddr::new(blueprint.address, blueprint.port)),
            authority: authority.certificate(),
            token: String::new(),
        };
        let mut tokens = String::new();
        for (component, user, groups) in COMPONENTS {
            let token = random_token()?;
            tokens.push_str(&format!("{token},{user},{component},\"{groups}\"\n"));
            std::fs::write(component_kubeconfig(folder, component), base.with_token(&token).kubeconfig())?;
        }
        std::fs::write(pki.join("tokens.csv"), tokens)?;
        Ok(Self { admin: Access::read(&component_kubeconfig(folder, "admin"))? })
    }
}

/// The kubeconfig of one of the [`COMPONENTS`].
pub(crate) fn component_kubeconfig(folder: &Path, component: &str) -> PathBuf {
    match component {
        "admin" => folder.join(KUBECONFIG),
        other => folder.join(format!("{other}.kubeconfig")),
    }
}

/// A fresh key's serialised form is as random as anything at hand, and saves a dependency.
fn random_token() -> Result<String> {
    let key = KeyPair::generate()?;
    Ok(key.public_key_raw().iter().skip(1).take(24).map(|byte| format!("{byte:02x}")).collect())
}

fn spawn_etcd(leash: &Leash, blueprint: &Blueprint) -> Result<Process> {
    let [client, peer] = blueprint.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
    let mut command = blueprint.place.command(tools::obtain(Tool::Etcd)?);
    command
        .arg(format!("--data-dir={}", leash.folder().join("etcd").display()))
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=default={peer}"))
        // Nothing here outlives the machine, so nothing need reach the disk.
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    leash.spawn("etcd", &mut command)
}

fn spawn_api_server(leash: &Leash, blueprint: &Blueprint) -> Result<Process> {
    let folder = leash.folder();
    let pki = folder.join("pki");
    let mut command = blueprint.place.command(tools::obtain(Tool::KubeApiserver)?);
    command
        .arg(format!("--etcd-servers=http://127.0.0.1:{}", blueprint.etcd_ports[0]))
        .arg(format!(
            "--bind-address={}",
            if blueprint.advertised { "0.0.0.0".into() } else { blueprint.address.to_string() }
        ))
        .arg(format!("--advertise-address={}", blueprint.address))
        .arg(format!("--secure-port={}", blueprint.port))
        .arg(format!("--service-cluster-ip-range={}", blueprint.service_cidr))
        .arg(format!("--cert-dir={}", pki.display()))
        .arg(format!("--endpoint-reconciler-type={}", if blueprint.advertised { "lease" } else { "none" }))
        .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC"])
        .args(["--enable-aggregator-routing=true", "--allow-privileged=true", "--profiling=false"])
        .args(["--kubelet-preferred-address-types=InternalIP", "--audit-log-maxsize=2000"]);
    path_flags(
        &mut command,
        &[
            ("--tls-cert-file", pki.join("server.crt")),
            ("--tls-private-key-file", pki.join("server.key")),
            ("--client-ca-file", pki.join("ca.crt")),
            ("--token-auth-file", pki.join("tokens.csv")),
            ("--service-account-key-file", pki.join("accounts.pub")),
            ("--service-account-signing-key-file", pki.join("accounts.key")),
            ("--audit-policy-file", folder.join("audit-policy.yaml")),
            ("--audit-log-path", folder.join(AUDIT_LOG)),
        ],
    );
    leash.spawn("kube-apiserver", &mut command)
}

fn spawn_controller_manager(leash: &Leash, blueprint: &Blueprint) -> Result<Process> {
    let folder = leash.folder();
    let pki = folder.join("pki");
    let mut command = blueprint.place.command(tools::obtain(Tool::KubeControllerManager)?);
    command.args(["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=true"]).args(
        [
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--concurrent-serviceaccount-token-syncs=20",
            // A failed node or pod should not take the tests minutes to see.
            "--node-monitor-grace-period=20s",
        ],
    );
    path_flags(
        &mut command,
        &[
            ("--kubeconfig", component_kubeconfig(folder, "controller-manager")),
            ("--service-account-private-key-file", pki.join("accounts.key")),
            ("--root-ca-file", pki.join("ca.crt")),
            ("--cluster-signing-cert-file", pki.join("ca.crt")),
            ("--cluster-signing-key-file", pki.join("ca.key")),
        ],
    );
    leash.spawn("kube-controller-manager", &mut command)
}

fn spawn_scheduler(leash: &Leash, blueprint: &Blueprint) -> Result<Process> {
    let mut command = blueprint.place.command(tools::obtain(Tool::KubeScheduler)?);
    command.args(["--leader-elect=false", "--secure-port=0"]);
    path_flags(&mut command, &[("--kubeconfig", component_kubeconfig(leash.folder(), "scheduler"))]);
    leash.spawn("kube-scheduler", &mut command)
}

fn path_flags(command: &mut Command, flags: &[(&str, PathBuf)]) {
    for (flag, path) in flags {
        command.arg(format!("{flag}={}", path.display()));
    }
}

/// Ports that nobody listens on at this moment. A caller must be ready to lose one and try again.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("no free port on loopback")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
