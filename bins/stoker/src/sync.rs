//! `stoker sync`: the engine without Kubernetes, once or for ever.

use std::time::{Duration, Instant};

use anyhow::Result;
use stoker_k8s::gateway_sync::{Outcome, SyncReport};

use crate::cli::{self, Format};
use crate::output;
use crate::standalone::Standalone;
use text::{Scene, text};

pub(crate) mod text;

pub(crate) async fn run(args: cli::Sync) -> Result<u8> {
    let one = Standalone::read(&args.config, Duration::from_secs(args.confirm_timeout))?;
    if !args.watch {
        let report = one.sync(args.dry_run, true).await;
        // What happened to the files is more than whether it could be said.
        if let Err(error) = show(&one, &report, args.output.output) {
            eprintln!("stoker: {error:#}");
        }
        return Ok(report.outcome.exit_code());
    }
    let interval = one.config.git.interval.map_or(Duration::from_secs(60), |p| p.0);
    let period = Duration::from_secs(u64::from(one.profile.sync_period));
    let mut stop = std::pin::pin!(stop_requested()?);
    let (mut last, mut drift_due) = (String::new(), Instant::now());
    loop {
        let drift = Instant::now() >= drift_due;
        let report = one.sync(args.dry_run, drift).await;
        if drift {
            drift_due = Instant::now() + period;
        }
        let said = format!("{} {:?} {:?}", report.commit, report.outcome, report.error);
        // The counts of a sync that failed or was held are those of its plan.
        let wrote = matches!(report.outcome, Outcome::Applied | Outcome::Unconfirmed)
            && report.files.added + report.files.modified + report.files.deleted > 0;
        if said != last || wrote {
            if let Err(error) = show(&one, &report, args.output.output) {
                eprintln!("stoker: {error:#}");
            }
            last = said;
        }
        tokio::select! {
            () = &mut stop => return Ok(0),
            () = tokio::time::sleep(interval.min(period)) => {}
        }
    }
}

fn show(one: &Standalone, report: &SyncReport, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(report);
    }
    let scene = Scene { live: one.gateway.live_commit(), has_gateway: one.has_gateway };
    output::print(&text(report, &scene))
}

/// Listens from now on, not only when somebody waits.
fn stop_requested() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
