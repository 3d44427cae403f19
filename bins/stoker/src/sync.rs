//! `stoker sync`: the engine without Kubernetes, once or for ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stoker_git::{Cache, ChildCommand, CredentialFiles, Git, GitError, Remote, RemoteUrl, Wanted};
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
use stoker_k8s::api::AgentConfig;
use stoker_k8s::compile::{self, CompiledProfile, GatewayFacts};
use stoker_k8s::gateway_sync::{Confirmation, Failure, GatewaySync, Job, Outcome, SyncReport};

use crate::cli::{self, Format};
use crate::input;
use crate::output::{self, Misuse};
use text::{Scene, text};

mod text;

/// Between two questions to a gateway that has not confirmed yet.
const CONFIRM_PAUSE: Duration = Duration::from_millis(500);
/// The longest time that one request to the gateway may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A gateway that takes longer is spoken of.
const QUIET: Duration = Duration::from_secs(2);
/// How long the demo waits for a gateway's confirmation; `--confirm-timeout` says otherwise.
pub(crate) const CONFIRM_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(args: cli::Sync) -> Result<u8> {
    let one = Standalone::read(&args.config, Duration::from_secs(args.confirm_timeout))?;
    if !args.watch {
        let report = one.sync(args.dry_run, true).await;
        show(&one, &report, args.output.output)?;
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
            show(&one, &report, args.output.output)?;
            last = said;
        }
        tokio::select! {
            () = &mut stop => return Ok(0),
            () = tokio::time::sleep(interval.min(period)) => {}
        }
    }
}

/// One gateway, described by a configuration file.
pub(crate) struct Standalone {
    config: AgentConfig,
    profile: CompiledProfile,
    git: Git,
    remote: Remote,
    cache: Cache,
    gateway: GatewaySync,
    has_gateway: bool,
    confirm_patience: Duration,
    /// It was said that the gateway is waited for.
    told: AtomicBool,
    /// This process has asked the gateway already: what it cannot tell it is not asked again without a change.
    asked: AtomicBool,
}

impl Standalone {
    pub(crate) fn read(path: &Path, confirm_patience: Duration) -> Result<Self> {
        let name = path.display().to_string();
        let text = input::file(path).map_err(Misuse)?;
        Self::of(AgentConfig::parse(&name, &text)?, confirm_patience)
    }

    pub(crate) fn of(config: AgentConfig, confirm_patience: Duration) -> Result<Self> {
        let misuse = |what: &str, error: &dyn std::error::Error| {
            Misuse(format!("{what}: {}", stoker_core::chain(error)))
        };
        let profile = compile::config(&config).map_err(|e| misuse("profile", &e))?;
        let url = if config.git.allow_insecure {
            RemoteUrl::parse_allowing_insecure(&config.git.repo)
        } else {
            RemoteUrl::parse(&config.git.repo)
        };
        let url = url.map_err(|e| misuse("git.repo", &e))?;
        let auth = config.git.auth.clone().unwrap_or_default();
        let files = CredentialFiles {
            token: auth.token.as_ref().map(|t| t.file.clone()),
            username: auth.token.as_ref().map(|t| t.username.clone()),
            ssh_key: auth.ssh_key.as_ref().map(|k| k.file.clone()),
            passphrase: auth.ssh_key.as_ref().and_then(|k| k.passphrase_file.clone()),
            known_hosts: auth.ssh_key.as_ref().and_then(|k| k.known_hosts_file.clone()),
            ca: config.git.ca_file.clone(),
        };
        let client = match &config.gateway {
            None => None,
            Some(gateway) => {
                let url = gateway.url.parse().map_err(|e| misuse("gateway.url", &e))?;
                // What is asked before the files go live must not take longer than the confirmation may, either.
                let limit = confirm_patience.clamp(Duration::from_secs(1), REQUEST_LIMIT);
                let key = ApiKeySource::file(&gateway.api_key_file);
                let options = GatewayOptions::new(url).api_key(key).request_timeout(limit);
                Some(GatewayClient::new(options).context("cannot talk to the gateway")?)
            }
        };
        // Beside the engine's state, which no sync touches.
        let cache = config
            .cache_dir
            .clone()
            .unwrap_or_else(|| config.data_dir.join(stoker_core::STATE_DIRECTORY).join("git"));
        Ok(Self {
            git: Git::new(ChildCommand::current_exe()),
            remote: Remote { url, credentials: Arc::new(files) },
            cache: Cache::new(cache),
            has_gateway: client.is_some(),
            told: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            gateway: GatewaySync::new(config.data_dir.clone(), client),
            profile,
            config,
            confirm_patience,
        })
    }

    /// Brings the gateway to what the ref means now.
    pub(crate) async fn sync(&self, dry_run: bool, check_drift: bool) -> SyncReport {
        let began = Instant::now();
        let git_ref = &self.config.git.r#ref;
        let dry_run = dry_run || self.profile.dry_run;
        // A pause forbids writing, not looking.
        if self.profile.paused && !dry_run {
            let message = "profile.paused is true in the configuration: nothing is written until it is false"
                .to_owned();
            let failure =
                Failure { category: "Paused".to_owned(), message, path: Some("profile.paused".to_owned()) };
            return SyncReport::new("", git_ref).ended(Outcome::Held, failure);
        }
        let failed = |commit: &str, error: &GitError| {
            SyncReport::new(commit, git_ref).ended(Outcome::Failed, Failure::of(error))
        };
        let wanted = match git_ref.parse() {
            Ok(wanted) => wanted,
            Err(error) => {
                let error: stoker_git::RefError = error;
                let message = error.to_string();
                let failure =
                    Failure { category: "RefInvalid".to_owned(), message, path: Some("git.ref".to_owned()) };
                return SyncReport::new("", git_ref).ended(Outcome::Failed, failure);
            }
        };
        let resolution = match self.git.resolve(&self.remote, &wanted).await {
            Ok(resolution) => resolution,
            Err(error) => return failed("", &error),
        };
        let resolved = began.elapsed();
        let commit = resolution.commit.to_string();
        let fetched = match self.git.fetch(&self.remote, &self.cache, &Wanted::from(&resolution)).await {
            Ok(fetched) => fetched,
            Err(error) => return failed(&commit, &error),
        };
        let got = began.elapsed();
        let job = Job {
            source: Box::new(fetched.source),
            profile: self.profile.clone(),
            facts: self.facts(&commit),
            check_drift,
            ask_gateway: !self.asked.load(Ordering::Relaxed),
            dry_run,
            approved_by: None,
        };
        let mut report = self.gateway.files(job).await;
        if let Some(error) = report.error.as_mut().filter(|e| e.category == "MassDeletionBlocked") {
            error
                .message
                .push_str("; if that is meant, raise maxDeletes in the configuration file for this commit");
        }
        report.warnings.extend(resolution.warnings.iter().map(ToString::to_string));
        report.duration_ms.resolve = millis(resolved);
        report.duration_ms.fetch = millis(got - resolved);
        if matches!(report.outcome, Outcome::Applied | Outcome::InSync) && self.has_gateway {
            self.confirm(&mut report).await;
        }
        report.duration_ms.total = millis(began.elapsed());
        report
    }

    fn facts(&self, commit: &str) -> GatewayFacts {
        GatewayFacts {
            gateway_name: self.config.gateway_name.clone(),
            pod_name: self.config.gateway_name.clone(),
            git_ref: self.config.git.r#ref.clone(),
            commit: commit.to_owned(),
            labels: self.config.labels.clone(),
            ..GatewayFacts::default()
        }
    }

    async fn confirm(&self, report: &mut SyncReport) {
        let standing = self.gateway.standing();
        let asked = self.asked.swap(true, Ordering::Relaxed);
        match standing.unverified {
            _ if !standing.pending => return,
            Some(note) if asked && report.outcome == Outcome::InSync => {
                return unverified(report, note);
            }
            _ => {}
        }
        let began = Instant::now();
        let confirmation = self.ask().await;
        report.duration_ms.scan = millis(began.elapsed());
        match confirmation {
            Confirmation::Confirmed { scans, note, .. } => {
                report.outcome = Outcome::Applied;
                report.scans = scans;
                report.warnings.extend(Some(note).filter(|n| !n.is_empty()));
            }
            Confirmation::Unverified { scans, note } => {
                report.scans = scans;
                unverified(report, note);
            }
            Confirmation::Rejected { scans, failure } => {
                report.outcome = Outcome::Unconfirmed;
                report.scans = scans;
                report.error = Some(failure);
            }
            Confirmation::Waiting(failure) => {
                report.outcome = Outcome::Unconfirmed;
                report.error = Some(failure);
            }
        }
    }
}

/// Nothing speaks against it, but the gateway did not say that it is so either.
fn unverified(report: &mut SyncReport, note: String) {
    report.outcome = Outcome::Unconfirmed;
    report.error = Some(Failure { category: "Unverified".to_owned(), message: note, path: None });
}

impl Standalone {
    /// Asks until the gateway has answered for good, within the time that there is for all of it.
    async fn ask(&self) -> Confirmation {
        let began = Instant::now();
        // Zero means to ask once, which takes a moment as well.
        let limit = self.confirm_patience.max(Duration::from_secs(1));
        let mut last = None;
        let answer = {
            let mut asking = std::pin::pin!(async {
                loop {
                    match self.gateway.confirm().await {
                        Confirmation::Waiting(failure) if began.elapsed() < self.confirm_patience => {
                            last = Some(failure);
                            tokio::time::sleep(CONFIRM_PAUSE).await;
                        }
                        confirmation => break confirmation,
                    }
                }
            });
            match tokio::time::timeout(QUIET.min(limit), asking.as_mut()).await {
                Ok(answer) => Some(answer),
                Err(_) if limit <= QUIET => None,
                Err(_) => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        let (address, limit) = (self.address(), limit.as_secs());
                        eprintln!("waiting for the gateway at {address} to confirm, for up to {limit} s");
                    }
                    tokio::time::timeout(limit.saturating_sub(began.elapsed()), asking.as_mut()).await.ok()
                }
            }
        };
        answer.unwrap_or_else(|| {
            let (address, limit) = (self.address(), limit.as_secs());
            let Failure { category, message, .. } = last.unwrap_or_else(|| Failure {
                category: "GatewayTimeout".to_owned(),
                message: "it has taken the connection or the request, and not answered".to_owned(),
                path: None,
            });
            let message = format!("the gateway at {address} has not confirmed within {limit} s: {message}");
            Confirmation::Waiting(Failure { category, message, path: None })
        })
    }

    fn address(&self) -> &str {
        self.config.gateway.as_ref().map_or("", |gateway| &gateway.url)
    }
}

fn show(one: &Standalone, report: &SyncReport, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print_json(report);
    }
    let scene = Scene { live: one.gateway.live_commit(), has_gateway: one.has_gateway };
    print!("{}", text(report, &scene));
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
