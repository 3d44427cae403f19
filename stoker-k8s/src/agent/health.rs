//! What the kubelet asks: whether the gateway may start, and whether the process makes progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use super::start::Start;
use crate::inject::contract::{PATH_LIVE, PATH_METRICS, PATH_STARTUP};

/// Without a sign of life for this long the process is stuck. Every loop turn is one, and each is bounded.
const STUCK_SECONDS: u64 = 900;

/// The agent's pulse, for its liveness probe.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), last: Arc::new(AtomicU64::new(0)) }
    }
}

impl Pulse {
    /// A sign of life.
    pub fn beat(&self) {
        self.last.store(self.began.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        self.began.elapsed().as_secs().saturating_sub(self.last.load(Ordering::Relaxed)) < STUCK_SECONDS
    }
}

#[derive(Clone)]
struct Health {
    start: watch::Receiver<Start>,
    pulse: Pulse,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The agent's HTTP endpoints.
pub fn router(
    start: watch::Receiver<Start>,
    pulse: Pulse,
    metrics: impl Fn() -> String + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route(PATH_STARTUP, get(startup))
        .route(PATH_LIVE, get(live))
        .route(PATH_METRICS, get(|State(health): State<Health>| async move { (health.metrics)() }))
        .with_state(Health { start, pulse, metrics: Arc::new(metrics) })
}

async fn startup(State(health): State<Health>) -> (StatusCode, String) {
    match *health.start.borrow() {
        Start::Go(why) => (StatusCode::OK, format!("{why}\n")),
        Start::Wait(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn live(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.pulse.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stuck\n")
    }
}
