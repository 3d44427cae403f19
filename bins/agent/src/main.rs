//! The agent beside a gateway. All of it is in `stoker_k8s::agent`; this wires it up.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use kube::Api;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use stoker_git::{Cache, ChildCommand, Git, Limits};
use stoker_k8s::agent::connect::{MountedGit, PodGateway};
use stoker_k8s::agent::health::{self, Pulse};
use stoker_k8s::agent::measure;
use stoker_k8s::agent::report::{self, Saying};
use stoker_k8s::agent::start::Start;
use stoker_k8s::agent::target::PodInfo;
use stoker_k8s::agent::watch_metadata::{self, Known};
use stoker_k8s::agent::{Agent, Identity};
use stoker_k8s::api::OnTimeout;
use stoker_k8s::inject::contract::{
    CACHE_DIR, DATA_DIR, HEALTH_PORT, PODINFO_ANNOTATIONS, PODINFO_LABELS, SIGNING_KEYS_DIR,
};
use stoker_k8s::names;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

mod memory;

/// How long the last words may take after a stop signal.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Keeps the gateway in the same pod in step with git.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Name of the Stoker
    #[arg(long)]
    cr: String,
    /// Namespace of the pod
    #[arg(long)]
    namespace: String,
    /// Name of the pod
    #[arg(long)]
    pod: String,
    /// UID of the pod
    #[arg(long)]
    pod_uid: Option<String>,
    /// Port of the health endpoints
    #[arg(long, default_value_t = HEALTH_PORT)]
    health_port: u16,
    /// Longest wait for the first configuration, in seconds
    #[arg(long, default_value_t = 300)]
    startup_timeout_seconds: u64,
    /// What happens then: UseLastGood or Block
    #[arg(long, default_value = "UseLastGood")]
    on_startup_timeout: String,
    /// Size limit of the cache volume, in bytes
    #[arg(long, default_value_t = 2 << 30)]
    cache_limit_bytes: u64,
    /// The gateway's data directory
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Where git objects are kept
    #[arg(long, default_value = CACHE_DIR)]
    cache_dir: PathBuf,
    /// File with the pod's annotations
    #[arg(long, default_value = PODINFO_ANNOTATIONS)]
    annotations: PathBuf,
    /// File with the pod's labels
    #[arg(long, default_value = PODINFO_LABELS)]
    labels: PathBuf,
}

fn main() -> Result<()> {
    // Fetches run in a child process of this very binary.
    stoker_git::child::run_if_child();
    memory::set_up();
    // Two providers in one binary would panic at the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("STOKER_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_target(false)
        .init();
    let arguments = Arguments::parse();
    // One thread: the agent waits most of its life, and every thread costs memory beside a gateway.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<()> {
    tracing::info!(
        cr = arguments.cr,
        pod = arguments.pod,
        uid = arguments.pod_uid,
        version = env!("CARGO_PKG_VERSION"),
        "agent"
    );
    let on_timeout: OnTimeout = serde_json::from_value(arguments.on_startup_timeout.clone().into())
        .with_context(|| {
            format!("--on-startup-timeout {}: write UseLastGood or Block", arguments.on_startup_timeout)
        })?;
    let metrics = PrometheusBuilder::new().set_buckets(&measure::BUCKETS)?.install_recorder()?;
    measure::describe_metrics();
    let (start, starting) = watch::channel(Start::Wait("the agent has just started"));
    let pulse = Pulse::default();
    serve_health(arguments.health_port, starting, pulse.clone(), metrics).await?;

    let mut config = kube::Config::infer().await.context("no access to the API server is configured")?;
    // The watch is one long answer; everything else has its own limit.
    config.read_timeout = None;
    let client = kube::Client::try_from(config)?;
    let api = Api::namespaced(client, &arguments.namespace);
    let (known_sender, known) = watch::channel(Known::default());
    let following =
        tokio::spawn(watch_metadata::follow(api.clone(), names::metadata(&arguments.cr), known_sender));
    let (said, saying) = watch::channel(Saying::default());
    tokio::spawn(memory::give_back_after(saying.clone()));
    let reporting = tokio::spawn(report::report(api, arguments.cr.clone(), arguments.pod.clone(), saying));

    // Half of the volume: the kubelet evicts the whole pod when its limit is passed.
    let mut limits = Limits::default();
    limits.max_transfer_bytes = arguments.cache_limit_bytes / 2;
    let agent = Agent {
        identity: Identity {
            pod: arguments.pod.clone(),
            namespace: arguments.namespace.clone(),
            cr: arguments.cr.clone(),
            annotations: arguments.annotations,
            labels: arguments.labels,
            startup_timeout: Duration::from_secs(arguments.startup_timeout_seconds),
            on_timeout,
        },
        fetch: Box::new(MountedGit {
            git: Git::new(ChildCommand::current_exe()).with_limits(limits),
            cache: Cache::new(arguments.cache_dir),
            signing_keys: SIGNING_KEYS_DIR.into(),
        }),
        locate: Box::new(PodGateway::new(arguments.data_dir)),
        known,
        said,
        start,
        pulse,
        pod: Mutex::new(PodInfo {
            name: arguments.pod,
            namespace: arguments.namespace,
            cr: arguments.cr,
            ..PodInfo::default()
        }),
    };
    agent.run(stop_requested()?).await;
    following.abort();
    // The sender is gone with the agent: the reporter writes what is left and ends.
    if tokio::time::timeout(LAST_WORDS, reporting).await.is_err() {
        tracing::warn!("the last status could not be reported in time");
    }
    Ok(())
}

async fn serve_health(
    port: u16,
    start: watch::Receiver<Start>,
    pulse: Pulse,
    metrics: PrometheusHandle,
) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("cannot listen on port {port} for health checks"))?;
    let upkeep = metrics.clone();
    let router = health::router(start, pulse, move || metrics.render());
    tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(())
}

fn stop_requested() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
