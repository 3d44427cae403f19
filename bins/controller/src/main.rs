//! The Stoker controller: reconciles on the leader, receives deliveries on every replica.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use kube::{Client, Config};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;
use stoker_git::{ChildCommand, Git, HostPolicy, SharedRefs};
use stoker_k8s::controller::{self, Election, LeaseSettings, Patience, Settings};
use stoker_k8s::receiver::{self, ReceiverState};
use stoker_k8s::roster::{self, Roster, Scope};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

mod serve;

#[derive(Parser)]
#[command(name = "stoker-controller", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Write the custom resource definitions to a folder, or print them.
    #[command(hide = true)]
    Crds {
        /// The folder.
        folder: Option<PathBuf>,
    },
    /// Take the finalizer off every Stoker: before the end of an installation, after which nobody would.
    Release,
}

#[derive(Args)]
struct Run {
    /// Namespaces to serve, separated by commas; all of them when absent
    #[arg(long, env = "STOKER_NAMESPACES", value_delimiter = ',', global = true)]
    namespaces: Vec<String>,
    /// Address of health and metrics
    #[arg(long, default_value = "0.0.0.0:8081")]
    health_address: String,
    /// Address of the receiver of deliveries; nothing is received when absent
    #[arg(long)]
    receiver_address: Option<String>,
    /// Namespace of the Lease by which the leader is chosen
    #[arg(long, env = "POD_NAMESPACE", default_value = "stoker-system")]
    lease_namespace: String,
    /// Name of the Lease
    #[arg(long, default_value = "stoker-controller")]
    lease_name: String,
    /// Name of this replica
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Seconds of silence after which an agent counts as stale
    #[arg(long, default_value_t = 180)]
    stale_after_seconds: u64,
    /// Stokers that are looked at in parallel
    #[arg(long, default_value_t = 8)]
    concurrency: u16,
    /// Git hosts that may have addresses otherwise forbidden (loopback, link-local), separated by commas
    #[arg(long, value_delimiter = ',')]
    git_exempt_hosts: Vec<String>,
    /// A known_hosts file for every repository over ssh, beside the built-in host keys and those of a Stoker
    #[arg(long, value_name = "FILE")]
    git_known_hosts: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    log_json: bool,
}

fn main() -> Result<()> {
    // Git servers are talked to in a child process of this very binary.
    stoker_git::child::run_if_child();
    let arguments = Arguments::parse();
    if let Some(Command::Crds { folder }) = arguments.command {
        return crds(folder);
    }
    // Two providers in one binary would panic at the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let filter = tracing_subscriber::EnvFilter::try_from_env("STOKER_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if arguments.run.log_json {
        log.json().init()
    } else {
        log.init()
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Some(Command::Release) => release(&arguments.run.namespaces).await,
            _ => run(arguments.run).await,
        }
    })
}

async fn run(run: Run) -> Result<()> {
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0])?
        .set_buckets_for_metric(
            Matcher::Full("stoker_reconcile_duration_seconds".to_owned()),
            &[0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0],
        )?
        // Every pass writes the gauges of its Stoker anew: what is not written belongs to one that is gone.
        .idle_timeout(MetricKindMask::GAUGE, Some(Duration::from_secs(900)))
        .install_recorder()?;
    controller::describe_metrics();
    receiver::describe_metrics();

    let identity = run.identity.clone().map_or_else(own_name, Ok)?;
    let (watching, requests) = clients().await?;
    let (stop, stopping) = watch::channel(false);
    let scope = Scope::from_names(run.namespaces.clone());

    let (lead, leading) = watch::channel(false);
    let (resign, resigning) = watch::channel(false);
    let lease = LeaseSettings::new(&run.lease_namespace, &run.lease_name, &identity);
    let election = tokio::spawn(Election::new(requests.clone(), lease).run(lead, resigning));

    let policy = HostPolicy::for_cluster().exempt(run.git_exempt_hosts.iter().cloned()).deny(api_server());
    let git = Git::new(ChildCommand::current_exe()).with_policy(policy);
    let refs = SharedRefs::new(controller::Counted(git));
    let known_hosts = match &run.git_known_hosts {
        Some(file) => Some(
            std::fs::read_to_string(file).with_context(|| format!("--git-known-hosts {}", file.display()))?,
        ),
        None => None,
    };
    let settings = Settings {
        known_hosts,
        patience: Patience(Duration::from_secs(run.stale_after_seconds)),
        concurrency: run.concurrency,
        instance: identity.clone(),
        ..Settings::default()
    };
    let mut filled = Vec::new();
    let mut controllers = Vec::new();
    for scope in controller::Scope::each(&scope) {
        let (ready, is_ready) = watch::channel(false);
        filled.push(is_ready);
        let settings = Settings { scope, ..settings.clone() };
        let refs = Arc::clone(&refs);
        let (watching, requests) = (watching.clone(), requests.clone());
        let (leading, stopping) = (leading.clone(), stopping.clone());
        controllers.push(tokio::spawn(controller::run(
            watching, requests, refs, settings, leading, ready, stopping,
        )));
    }

    let health = TcpListener::bind(&run.health_address)
        .await
        .with_context(|| format!("--health-address {}", run.health_address))?;
    tracing::info!(address = %health.local_addr()?, "listening for health and metrics");
    let health_routes = serve::health(filled, metrics);
    let mut servers = vec![tokio::spawn(serve::until_stopped(health, health_routes, stopping.clone()))];
    if let Some(address) = &run.receiver_address {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("--receiver-address {address}"))?;
        tracing::info!(address = %listener.local_addr()?, "listening for deliveries");
        let roster = Roster::default();
        tokio::spawn(roster::watch(watching, scope.clone(), roster.clone()));
        let state = ReceiverState::new(requests, roster, scope, &receiver::Settings::default());
        servers.push(tokio::spawn(serve::until_stopped(listener, receiver::router(state), stopping.clone())));
    }
    tracing::info!(identity, version = env!("CARGO_PKG_VERSION"), "controller");

    stop_requested().await?;
    tracing::info!("stopping");
    stop.send_replace(true);
    let everything = async {
        // Passes end first; the Lease is given back when nothing is written any more.
        for controller in controllers {
            let _ = controller.await;
        }
        resign.send_replace(true);
        let _ = election.await;
        for server in servers {
            let _ = server.await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), everything).await.is_err() {
        tracing::warn!("stopped before everything had come to its end");
    }
    Ok(())
}

/// One client for watches, which are one long answer, and one for everything else.
async fn clients() -> Result<(Client, Client)> {
    let mut config = Config::infer().await.context("no access to the API server is configured")?;
    config.read_timeout = None;
    let watching = Client::try_from(config.clone())?;
    config.read_timeout = Some(Duration::from_secs(30));
    Ok((watching, Client::try_from(config)?))
}

/// The address of the API server, where no repository is.
fn api_server() -> Option<std::net::IpAddr> {
    std::env::var("KUBERNETES_SERVICE_HOST").ok()?.parse().ok()
}

fn own_name() -> Result<String> {
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("no --identity, and no host name")?;
    Ok(format!("{}-{}", host.trim(), std::process::id()))
}

async fn stop_requested() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn release(namespaces: &[String]) -> Result<()> {
    let (_, requests) = clients().await?;
    let namespaces = (!namespaces.is_empty()).then_some(namespaces);
    let count = controller::release_all(&requests, namespaces).await?;
    println!("{count} released");
    Ok(())
}

fn crds(folder: Option<PathBuf>) -> Result<()> {
    for (file, yaml) in stoker_k8s::api::crds_yaml() {
        match &folder {
            Some(folder) => {
                let path = folder.join(file);
                std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => print!("---\n{yaml}"),
        }
    }
    Ok(())
}
