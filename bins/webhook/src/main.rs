//! The Stoker pod injection webhook.

mod args;
mod health;

use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use args::{Args, Certificate};
use clap::Parser;
use health::Ready;
use kube::{Client, Config};
use stoker_k8s::admission::{self, Admission};
use stoker_k8s::certs::{Files, Keeper, Lifetimes, Serving};
use stoker_k8s::roster::{self, Roster, Scope};
use tokio::signal::unix::{SignalKind, signal};

/// Requests in flight get this long to end.
const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at certificate files.
const FILES_PERIOD: Duration = Duration::from_secs(10);
/// Between two tries to get a first certificate.
const RETRY: Duration = Duration::from_secs(2);
/// No request to the API server is worth waiting longer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).context("--log")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if args.log_json {
        log.json().init()
    } else {
        log.init()
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("a TLS provider is installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (certificate, settings) = (args.certificate()?, args.settings()?);
    let scope = Scope::from_names(args.namespaces.clone());
    let mut config = Config::infer().await.context("no way to the API server")?;
    // A watch is silent for minutes; anything else that is silent is broken.
    let watching = Client::try_from(config.clone())?;
    config.read_timeout = Some(READ_TIMEOUT);
    let asking = Client::try_from(config)?;

    let mut terminated = pin!(terminated());
    let ready = Ready::default();
    let health = tokio::spawn(health::serve(args.health_address, ready.clone(), health::metrics()?));

    let roster = Roster::default();
    tokio::spawn(roster::watch(watching.clone(), scope.clone(), roster.clone()));
    let instance = std::env::var("HOSTNAME").ok();
    let (events, publishing) = admission::publish(asking.clone(), "stoker-webhook", instance);
    tokio::spawn(publishing);

    let serving = tokio::select! {
        serving = certificate_for(certificate, watching, asking.clone()) => serving,
        ended = &mut terminated => return ended,
    };
    let router = admission::router(Admission::new(asking, roster, scope, settings, events));
    let handle = axum_server::Handle::new();
    let server = axum_server::bind_rustls(args.address, serving.config())
        .handle(handle.clone())
        .serve(router.into_make_service());
    let server = tokio::spawn(server);
    if handle.listening().await.is_some() {
        tracing::info!(address = %args.address, "webhook");
        ready.set(true);
    }

    tokio::select! {
        ended = &mut terminated => ended?,
        ended = server => return ended?.with_context(|| format!("cannot serve on {}", args.address)),
        ended = health => return ended?,
    }
    // Kubernetes goes on sending requests until everybody knows that this pod ends.
    tracing::info!("ending");
    ready.set(false);
    tokio::time::sleep(args.shutdown_delay()).await;
    handle.graceful_shutdown(Some(GRACE));
    while handle.connection_count() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits for a first certificate, and has it kept up to date from then on.
async fn certificate_for(certificate: Certificate, watching: Client, asking: Client) -> Serving {
    match certificate {
        Certificate::Files(files) => {
            let serving = first(|| async { Serving::new(&Files::read(&files)?) }).await;
            tokio::spawn(files.run(serving.clone(), FILES_PERIOD));
            serving
        }
        Certificate::Own { namespace, secret, names, configuration } => {
            let keeper = |client| {
                let names = names.clone();
                Keeper::new(
                    client,
                    &namespace,
                    &secret,
                    configuration.as_deref(),
                    names,
                    Lifetimes::default(),
                )
            };
            let asks = keeper(asking);
            let serving = first(|| async { Serving::new(&asks.ensure().await?.0) }).await;
            tokio::spawn(keeper(watching).run(serving.clone()));
            serving
        }
    }
}

async fn first<F>(attempt: impl Fn() -> F) -> Serving
where
    F: Future<Output = Result<Serving, stoker_k8s::certs::CertError>>,
{
    loop {
        match attempt().await {
            Ok(serving) => return serving,
            Err(error) => {
                tracing::warn!(error = %anyhow::Error::new(error), "no certificate yet, will retry");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn terminated() -> anyhow::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
