//! Health, metrics, and what else is served over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// `/healthz`, `/readyz` and `/metrics`.
///
/// Alive means that this process answers; it says nothing about git or the API server, which a restart would not
/// mend. Ready means that the caches are filled.
pub(crate) fn health(filled: Vec<watch::Receiver<bool>>, metrics: PrometheusHandle) -> Router {
    let keeper = metrics.clone();
    tokio::spawn(async move {
        // Without it, histograms grow without end.
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            keeper.run_upkeep();
        }
    });
    let ready = |State(filled): State<Arc<Vec<watch::Receiver<bool>>>>| async move {
        if filled.iter().all(|filled| *filled.borrow()) {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the caches are not filled yet")
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "alive" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(filled))
        .route("/metrics", get(move || async move { metrics.render() }))
}

/// Serves `routes` until `stop` is true; requests under way are answered.
pub(crate) async fn until_stopped(listener: TcpListener, routes: Router, mut stop: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "server ended");
    }
}
