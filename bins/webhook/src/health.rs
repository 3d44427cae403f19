//! Health and metrics over plain http.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Whether requests should be sent here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ready(Arc<AtomicBool>);

impl Ready {
    pub(crate) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Seconds; a decision should take less than one of a thousand.
const DURATIONS: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 0.5, 2.5];
/// Without it, histograms keep every single value.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the metrics recorder.
pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("stoker_injection_duration_seconds".to_owned()), &DURATIONS)?;
    let handle = builder.install_recorder().context("cannot install the metrics recorder")?;
    stoker_k8s::admission::describe_metrics();
    stoker_k8s::certs::describe_metrics();
    Ok(handle)
}

/// Serves `/healthz`, `/readyz` and `/metrics` for ever.
pub(crate) async fn serve(
    address: SocketAddr,
    ready: Ready,
    metrics: PrometheusHandle,
) -> anyhow::Result<()> {
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    let is_ready = move || async move {
        if ready.get() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(is_ready))
        .route("/metrics", get(move || async move { metrics.render() }));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "health and metrics");
    Ok(axum::serve(listener, router).await?)
}
